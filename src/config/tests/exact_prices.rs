//! What written prices come to, to the nano-dollar.

use super::*;
use filters::money::NanoUsd;
use filters::price::{Picture, Possible, Price, Rates};
use filters::time::EpochMs;
use filters::usage::{Kind, Usage};

fn price(text: &str) -> Price {
    let config = parse(PROVIDER, &model(&format!("from = '2026-08-01'\n{text}"))).expect("sound");
    config.catalogue.find("n").expect("the model").candidates[0].prices[0].price.clone()
}

fn rate(rates: &Rates, kind: Kind) -> i64 {
    rates[kind as usize]
}

#[test]
fn kinds_that_are_not_listed_cost_what_they_are_part_of() {
    let rates = price("input = '2'\noutput = '8'").standard;
    for kind in [Kind::CacheRead, Kind::CacheWrite5m, Kind::CacheWrite1h, Kind::AudioInput, Kind::ImageInput] {
        assert_eq!(rate(&rates, kind), 2_000_000_000, "{kind:?}");
    }
    for kind in [Kind::Reasoning, Kind::AudioOutput, Kind::ImageOutput] {
        assert_eq!(rate(&rates, kind), 8_000_000_000, "{kind:?}");
    }
    assert_eq!(rate(&rates, Kind::WebSearch), 0);
    let rates = price("input = '2'\noutput = '8'\ncache_write = '2.5'").standard;
    assert_eq!(rate(&rates, Kind::CacheWrite1h), 2_500_000_000);
}

#[test]
fn listed_prices_are_exact() {
    let listed =
        price("input = '0.15'\noutput = '0.6'\ncache_read = '0.075'\naudio_output = '20'\nweb_search = '0.01'");
    assert_eq!(rate(&listed.standard, Kind::CacheRead), 75_000_000);
    assert_eq!(rate(&listed.standard, Kind::AudioOutput), 20_000_000_000);
    let searches = Usage::default().with(Kind::WebSearch, 3);
    assert_eq!(listed.cost(&searches, Tier::Standard), NanoUsd(30_000_000));
}

#[test]
fn what_is_not_a_token_has_a_price_of_its_own() {
    let listed = price(
        "input = '0'\noutput = '0'\nimage = '0.04'\naudio_second = '0.0001'\ncharacter = '0.000015'\nsearch_unit = '0.002'",
    );
    let cost = |kind: Kind, count: u64| listed.cost(&Usage::default().with(kind, count), Tier::Standard);
    assert_eq!(cost(Kind::Images, 3), NanoUsd(120_000_000));
    assert_eq!(cost(Kind::AudioMilliseconds, 1_500), NanoUsd(150_000));
    assert_eq!(cost(Kind::Characters, 7), NanoUsd(105_000));
    assert_eq!(cost(Kind::SearchUnits, 1), NanoUsd(2_000_000));
}

#[test]
fn a_picture_costs_what_its_size_and_quality_cost() {
    let text = "input = '0'\noutput = '0'\ninput_batch = '0'\noutput_batch = '0'
image = { '1024x1024' = '0.04', '1024x1024/hd' = '0.08', '1792x1024' = '0.08', '1792x1024/hd' = '0.12', auto = '0.04' }";
    let config = parse(PROVIDER, &model(&format!("from = '2026-08-01'\n{text}"))).expect("sound");
    let candidate = &config.catalogue.find("n").expect("the model").candidates[0];
    let version = candidate.price_at(EpochMs(20_666 * 86_400_000)).expect("in force");
    let three = Usage::default().with(Kind::Images, 3);
    let cost = |size: Option<&str>, quality: Option<&str>| {
        let [size, quality] = [size, quality].map(|asked| asked.map(Box::from));
        let version = version.for_picture(&Picture { size, quality });
        // Whoever has the version and the count can compute it again.
        let kept: Price = serde_json::from_slice(&serde_json::to_vec(&version.price).expect("JSON")).expect("a price");
        assert_eq!((kept.id(), kept.cost(&three, Tier::Batch)), (version.id, kept.cost(&three, Tier::Standard)));
        kept.cost(&three, Tier::Standard)
    };
    for (size, quality, each) in [
        (Some("1024x1024"), Some("hd"), 80_000_000),
        (Some("1024x1024"), Some("standard"), 40_000_000),
        (Some("1024x1024"), None, 40_000_000),
        (Some("1792x1024"), Some("hd"), 120_000_000),
        (None, None, 40_000_000),
        (Some("9999x9999"), None, 120_000_000),
        (Some("1792x1024/hd"), Some(""), 120_000_000),
    ] {
        assert_eq!(cost(size, quality), NanoUsd(3 * each), "{size:?} {quality:?}");
    }
    let dearest = version.price.dearest(0, &Possible::default());
    assert_eq!(dearest.cost(0, 0, &three), NanoUsd(360_000_000), "no picture costs more than the bound");
    let mut ids: Vec<_> = candidate.price_versions().map(|version| version.id).collect();
    ids.dedup();
    // Each again for calls with organisations' own credentials.
    assert_eq!(ids.len(), 2 * 6);
}

#[test]
fn a_tier_scales_what_it_does_not_list() {
    let tiers = price(
        "input = '1.25'\noutput = '10'\ncache_read = '0.125'\nreasoning = '12'\nweb_search = '0.01'
input_batch = '0.3'\noutput_batch = '4'\ninput_flex = '0.625'\noutput_flex = '5'\ninput_priority = '2.5'\noutput_priority = '20'",
    );
    let flex = tiers.flex.expect("flex");
    assert_eq!((rate(&flex, Kind::Input), rate(&flex, Kind::Output)), (625_000_000, 5_000_000_000));
    assert_eq!((rate(&flex, Kind::CacheRead), rate(&flex, Kind::Reasoning)), (62_500_000, 6_000_000_000));
    assert_eq!(rate(&flex, Kind::WebSearch), 10_000_000_000_000);
    let batch = tiers.batch.expect("batch");
    assert_eq!((rate(&batch, Kind::CacheRead), rate(&batch, Kind::Reasoning)), (30_000_000, 4_800_000_000));
    assert_eq!(rate(&tiers.priority.expect("priority"), Kind::CacheRead), 250_000_000);
    // A third of ten nano-dollars is rounded up.
    let odd = price(
        "input = '0.00000003'\noutput = '1'\ncache_read = '0.00000001'\ninput_flex = '0.00000001'\noutput_flex = '1'",
    );
    assert_eq!(rate(&odd.flex.expect("flex"), Kind::CacheRead), 4);
}

#[test]
fn a_long_call_has_its_own_prices() {
    let long = price(
        "input = '0.1'\noutput = '0.5'\ncache_read = '0.01'\ncache_write = '0.125'\ncache_write_1h = '0.2'
long_context_above_tokens = 100\nlong_input = '0.5'\nlong_output = '1'\nlong_cache_write = '0.625'",
    );
    let long = long.long_context.expect("long");
    assert_eq!(long.above_tokens, 100);
    // The cache's discount is not assumed; the hour keeps its proportion to input.
    assert_eq!(rate(&long.rates, Kind::CacheRead), 500_000_000);
    assert_eq!(rate(&long.rates, Kind::CacheWrite5m), 625_000_000);
    assert_eq!(rate(&long.rates, Kind::CacheWrite1h), 1_000_000_000);
    let dear = price(
        "input = '1'\noutput = '1'\nlong_context_above_tokens = 100\nlong_input = '2'\nlong_output = '3'
long_cache_write = '9'",
    );
    let dear = dear.long_context.expect("long").rates;
    assert_eq!((rate(&dear, Kind::CacheWrite1h), rate(&dear, Kind::Reasoning)), (9_000_000_000, 3_000_000_000));
}

#[test]
fn a_candidate_may_have_prices_of_its_own() {
    let text = model("from = '2026-08-01'\ninput = '1'\noutput = '2'").replace(
        "candidates = [",
        "candidates = [{ provider = 'a', model = 'dear', prices = [{ from = '2026-08-01', input = '3', output = '4' }] }, ",
    );
    let config = parse(PROVIDER, &text).expect("sound");
    let candidates = &config.catalogue.find("m").expect("the model").candidates;
    let inputs: Vec<_> =
        candidates.iter().map(|candidate| rate(&candidate.prices[0].price.standard, Kind::Input)).collect();
    assert_eq!(inputs, [3_000_000_000, 1_000_000_000]);
}

#[test]
fn versions_are_in_force_from_their_days() {
    let version = |day: &str, input: &str| format!("from = '{day}'\ninput = '{input}'\noutput = '1'\n");
    let both = format!("{}[[models.prices]]\n{}", version("2026-08-02", "2"), version("2026-08-01", "1"));
    let config = parse(PROVIDER, &model(&both)).expect("sound");
    let candidate = &config.catalogue.find("m").expect("the model").candidates[0];
    let input_on = |day: i64| {
        let version = candidate.price_at(EpochMs(day * 86_400_000));
        version.map(|version| rate(&version.price.standard, Kind::Input))
    };
    assert_eq!(input_on(20_665), None);
    assert_eq!(input_on(20_666), Some(1_000_000_000));
    assert_eq!(input_on(20_667), Some(2_000_000_000));
}
