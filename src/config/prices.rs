//! Prices as they are written, decimal dollars by kind, become exact rates: every kind has one, none is ever free by
//! omission. What a provider does not list is derived here and nowhere else.

use super::place::{Section, Value};
use filters::catalogue::{Mode, PriceVersion};
use filters::money::NanoUsd;
use filters::price::{LongContext, Price, Rates};
use filters::usage::Kind;
use std::sync::Arc;

/// Dearer than anything, and low enough that no sum of costs overflows.
const USD_PER_MILLION_TOKENS_MAX: i64 = 1_000_000;
const USD_PER_UNIT_MAX: i64 = 1_000;
/// The price of a picture: a text, or a table of such by size and quality.
const IMAGES: &str = "image";
const NANOS_PER_USD: i64 = 1_000_000_000;
const MILLION: i64 = 1_000_000;

/// The versions of a model's prices, oldest first.
pub(super) fn read_prices(value: &Value<'_>, mode: Mode) -> Vec<Arc<PriceVersion>> {
    let Some(items) = value.items() else { return Vec::new() };
    if items.is_empty() {
        value.report("must hold a version of the prices");
    }
    let mut prices: Vec<PriceVersion> = Vec::with_capacity(items.len());
    for item in items {
        let Some(price) = item.section(|section| read_price(section, mode)).flatten() else { continue };
        if prices.iter().any(|other| other.price.from_day == price.price.from_day) {
            item.report("has the same date in from as another version");
        }
        prices.push(price);
    }
    prices.sort_by_key(|version| version.price.from_day);
    prices.into_iter().map(Arc::new).collect()
}

/// The version; none if there is a mistake in it.
fn read_price(section: &Section<'_>, mode: Mode) -> Option<PriceVersion> {
    let from_day = section.require("from").and_then(|value| value.parsed(day));
    let standard = read_standard(section, mode);
    let pictures = section.get(IMAGES).filter(Value::is_table).map(|value| read_pictures(&value));
    let [flex, priority, batch] =
        [["input_flex", "output_flex"], ["input_priority", "output_priority"], ["input_batch", "output_batch"]]
            .map(|keys| Some(scaled(standard.as_ref()?, both(section, keys, mode)?)));
    let long_context = read_long_context(section, standard.as_ref(), mode);
    let price = Price {
        from_day: from_day?,
        standard: standard?,
        flex,
        priority,
        batch,
        long_context,
        picture: None,
        fee: None,
    };
    Some(match pictures {
        None => PriceVersion::new(price),
        Some(rates) => PriceVersion::of_pictures(&price, &rates?),
    })
}

/// What pictures cost by size and quality.
fn read_pictures<'d>(value: &Value<'d>) -> Option<Vec<(&'d str, i64)>> {
    let entries = value.entries();
    if entries.is_empty() {
        value.report("must list a picture such as \"1024x1024\"");
    }
    let rates = entries.into_iter().map(|(name, value)| Some((name, unit_rate(&value, 1)?)));
    // Each is read before the first that is wrong ends it.
    rates.collect::<Vec<_>>().into_iter().collect()
}

/// Whether models of a mode answer with something that is not counted as output: then the price of output may be left out.
fn is_mute(mode: Mode) -> bool {
    match mode {
        Mode::Embedding | Mode::Moderation | Mode::Rerank => true,
        Mode::Chat | Mode::Completion | Mode::Image | Mode::Speech | Mode::Transcription | Mode::Realtime => false,
    }
}

/// What a mode may be billed by in place of tokens, and the kinds of token by which it is billed otherwise.
fn billed_by(mode: Mode) -> (&'static [Kind], &'static [Kind]) {
    match mode {
        Mode::Chat | Mode::Completion | Mode::Embedding | Mode::Moderation => (&[], &[]),
        Mode::Image => (&[Kind::Images], &[Kind::Output, Kind::ImageOutput]),
        Mode::Speech => (&[Kind::Characters, Kind::AudioMilliseconds], &[Kind::Output, Kind::AudioOutput]),
        Mode::Transcription | Mode::Realtime => (&[Kind::AudioMilliseconds], &[Kind::Input, Kind::AudioInput]),
        Mode::Rerank => (&[Kind::SearchUnits], &[Kind::Input]),
    }
}

/// The key of a price that is not for tokens, and for how many of its kind it is.
fn unit_key(kind: Kind) -> Option<(&'static str, i64)> {
    match kind {
        Kind::WebSearch => Some(("web_search", 1)),
        Kind::Images => Some((IMAGES, 1)),
        Kind::AudioMilliseconds => Some(("audio_second", 1_000)),
        Kind::Characters => Some(("character", 1)),
        Kind::SearchUnits => Some(("search_unit", 1)),
        Kind::Input
        | Kind::CacheRead
        | Kind::CacheWrite5m
        | Kind::CacheWrite1h
        | Kind::AudioInput
        | Kind::ImageInput
        | Kind::Output
        | Kind::Reasoning
        | Kind::AudioOutput
        | Kind::ImageOutput => None,
    }
}

fn read_standard(section: &Section<'_>, mode: Mode) -> Option<Rates> {
    let input = section.require("input").and_then(|value| rate(&value));
    let output = match section.get("output") {
        Some(value) => rate(&value),
        None if is_mute(mode) => input,
        None => section.require("output").and(None),
    };
    let or = |key: &'static str, default: Option<i64>| match section.get(key) {
        Some(value) => rate(&value),
        None => default,
    };
    let cache_write = or("cache_write", input);
    let cache_write_1h = or("cache_write_1h", cache_write);
    if cache_write_1h < cache_write {
        section.report("cache_write_1h", "must not be below cache_write (where that is absent: input)");
    }
    let by_kind = |kind| match kind {
        Kind::Input => input,
        Kind::CacheRead => or("cache_read", input),
        Kind::CacheWrite5m => cache_write,
        Kind::CacheWrite1h => cache_write_1h,
        Kind::AudioInput => or("audio_input", input),
        Kind::ImageInput => or("image_input", input),
        Kind::Output => output,
        Kind::Reasoning => or("reasoning", output),
        Kind::AudioOutput => or("audio_output", output),
        Kind::ImageOutput => or("image_output", output),
        Kind::WebSearch | Kind::Images | Kind::AudioMilliseconds | Kind::Characters | Kind::SearchUnits => {
            read_unit(section, kind)
        }
    };
    // All are asked for before the first that is missing ends it, so that every mistake is reported.
    let rates = Kind::ALL.map(by_kind);
    let mut complete = [0; Kind::ALL.len()];
    for (rate, found) in complete.iter_mut().zip(rates) {
        *rate = found?;
    }
    refuse_free(section, mode, &complete);
    Some(complete)
}

/// The rate of a kind that is not a token; what is not listed is not billed.
fn read_unit(section: &Section<'_>, kind: Kind) -> Option<i64> {
    let (key, count) = unit_key(kind)?;
    match section.get(key) {
        // By size and quality: read apart.
        Some(value) if kind == Kind::Images && value.is_table() => Some(0),
        Some(value) => unit_rate(&value, count),
        None => Some(0),
    }
}

/// Whoever is not billed by tokens is billed by something else, or the file says in so many words that he is not.
fn refuse_free(section: &Section<'_>, mode: Mode, rates: &Rates) {
    let (units, tokens) = billed_by(mode);
    let keys = || units.iter().filter_map(|kind| Some(unit_key(*kind)?.0));
    let is_billed = tokens.iter().any(|kind| rates[*kind as usize] > 0);
    if let Some(first) = keys().next()
        && !is_billed
        && keys().all(|key| section.get(key).is_none())
    {
        let all = keys().collect::<Vec<_>>().join(" or ");
        section.report(
            first,
            format_args!("missing: a model of mode {} that is not billed by tokens needs {all}", mode.name()),
        );
    }
}

fn read_long_context(section: &Section<'_>, standard: Option<&Rates>, mode: Mode) -> Option<LongContext> {
    const THRESHOLD: &str = "long_context_above_tokens";
    let above_tokens = section.get(THRESHOLD).map(|value| value.number(1..=1_000_000_000_000));
    let pair = both(section, ["long_input", "long_output"], mode);
    let [cache_read, cache_write] = ["long_cache_read", "long_cache_write"].map(|key| section.get(key));
    let has_prices = [&cache_read, &cache_write].iter().any(|value| value.is_some()) || pair.is_some();
    match (above_tokens.is_some(), has_prices) {
        (true, false) => section.report(THRESHOLD, "needs long_input and long_output"),
        (false, true) => section.report(THRESHOLD, "missing, but there are long_ prices"),
        (true, true) | (false, false) => {}
    }
    let pair = pair?;
    let mut rates = scaled(standard?, pair);
    let or_input = |value: Option<Value<'_>>| value.map_or(Some(pair[0]), |value| rate(&value));
    rates[Kind::CacheRead as usize] = or_input(cache_read)?;
    rates[Kind::CacheWrite5m as usize] = or_input(cache_write)?;
    // No list has a long price of its own for an hour: it is the standard one in proportion.
    rates[Kind::CacheWrite1h as usize] = rates[Kind::CacheWrite1h as usize].max(rates[Kind::CacheWrite5m as usize]);
    Some(LongContext { above_tokens: above_tokens??, rates })
}

/// An input and an output price of which both or none must be there; where output is not counted, that of input is enough.
fn both(section: &Section<'_>, keys: [&'static str; 2], mode: Mode) -> Option<[i64; 2]> {
    let values = keys.map(|key| section.get(key));
    for (key, other) in [(0, 1), (1, 0)] {
        if values[key].is_none() && values[other].is_some() && !(key == 1 && is_mute(mode)) {
            section.report(keys[key], format_args!("missing, but there is {}", keys[other]));
        }
    }
    let [input, output] = values.map(|value| value.and_then(|value| rate(&value)));
    Some([input?, if is_mute(mode) { output.or(input)? } else { output? }])
}

/// The standard rates, input kinds in the proportion of the new input rate, output kinds in that of output. What is not a
/// token costs the same everywhere.
fn scaled(standard: &Rates, [input, output]: [i64; 2]) -> Rates {
    let base = |kind: Kind| standard[kind as usize];
    Kind::ALL.map(|kind| match kind {
        Kind::Input
        | Kind::CacheRead
        | Kind::CacheWrite5m
        | Kind::CacheWrite1h
        | Kind::AudioInput
        | Kind::ImageInput => in_proportion(base(kind), input, base(Kind::Input)),
        Kind::Output | Kind::Reasoning | Kind::AudioOutput | Kind::ImageOutput => {
            in_proportion(base(kind), output, base(Kind::Output))
        }
        Kind::WebSearch | Kind::Images | Kind::AudioMilliseconds | Kind::Characters | Kind::SearchUnits => base(kind),
    })
}

/// `rate` × `part` ÷ `whole`, rounded up. Of nothing there is no proportion: then it is `part`, or `rate` if dearer.
fn in_proportion(rate: i64, part: i64, whole: i64) -> i64 {
    if whole == 0 {
        return rate.max(part);
    }
    let product = i128::from(rate) * i128::from(part);
    i64::try_from((product + i128::from(whole) - 1) / i128::from(whole)).unwrap_or(i64::MAX)
}

fn rate(value: &Value<'_>) -> Option<i64> {
    value.parsed(|text| dollars(text, USD_PER_MILLION_TOKENS_MAX))
}

/// What is not a token has a price for `count` of its kind; rates are for a million.
fn unit_rate(value: &Value<'_>, count: i64) -> Option<i64> {
    value.parsed(|text| dollars(text, USD_PER_UNIT_MAX)).map(|nanos| nanos * (MILLION / count))
}

fn dollars(text: &str, usd_max: i64) -> Result<i64, String> {
    let NanoUsd(nanos) = text.parse().map_err(|error: filters::money::MoneyError| error.to_string())?;
    if (0..=usd_max * NANOS_PER_USD).contains(&nanos) {
        Ok(nanos)
    } else {
        Err(format!("must be from 0 to {usd_max} dollars"))
    }
}

/// Days since 1970-01-01 of a date written as 2026-08-01.
fn day(text: &str) -> Result<i64, String> {
    let wrong = || "not a date such as 2026-08-01".to_owned();
    let number = |range: std::ops::Range<usize>| {
        let digits = text.get(range).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        digits.and_then(|digits| digits.parse::<i64>().ok()).ok_or_else(wrong)
    };
    if text.len() != 10 || text.as_bytes()[4] != b'-' || text.as_bytes()[7] != b'-' {
        return Err(wrong());
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let is_leap_year = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap_year => 29,
        2 => 28,
        _ => return Err(wrong()),
    };
    if !(1..=days_of_month).contains(&day) {
        return Err(wrong());
    }
    // A year that begins in March ends in its leap day, so days before a month follow one formula: 153 in five months.
    let march_year = if month > 2 { year } else { year - 1 };
    let months_since_march = (month + 9) % 12;
    let day_of_year = (153 * months_since_march + 2) / 5 + day - 1;
    let days_before_year = march_year * 365 + march_year / 4 - march_year / 100 + march_year / 400;
    Ok(days_before_year + day_of_year - DAYS_BEFORE_1970)
}

/// From 0000-03-01 to 1970-01-01.
const DAYS_BEFORE_1970: i64 = 719_468;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_days_since_1970() {
        for (text, days) in [
            ("1970-01-01", 0),
            ("1970-12-31", 364),
            ("2000-02-29", 11_016),
            ("2000-03-01", 11_017),
            ("2026-08-01", 20_666),
            ("9999-12-31", 2_932_896),
        ] {
            assert_eq!(day(text), Ok(days), "{text}");
        }
        for text in [
            "",
            "2026-8-1",
            "2026-02-29",
            "2100-02-29",
            "2026-13-01",
            "2026-00-01",
            "2026-04-31",
            "2026-01-00",
            "2026/01/01",
            "٢٠٢٦-01",
        ] {
            assert!(day(text).is_err(), "{text}");
        }
    }

    #[test]
    fn proportions_are_exact_and_rounded_up() {
        assert_eq!(in_proportion(125_000_000, 625_000_000, 1_250_000_000), 62_500_000);
        assert_eq!(in_proportion(10, 1, 3), 4);
        assert_eq!(in_proportion(i64::MAX, 1_000_000, 1_000_000), i64::MAX);
        assert_eq!(in_proportion(7, 5, 0), 7);
    }

    #[test]
    fn money_is_within_its_limits() {
        assert_eq!(dollars("0.15", 1), Ok(150_000_000));
        assert!(dollars("-1", 1).is_err());
        assert!(dollars("1.000000001", 1).is_err());
        assert!(dollars("1e3", 1).is_err());
    }
}
