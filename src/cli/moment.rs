//! Moments as people type them: a date, a point in time in UTC, or how long from now.

use filters::time::{EpochMs, date_of_day};
use std::str::FromStr;

const DAY_MS: i64 = 86_400_000;

/// What was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// A point in time.
    At(EpochMs),
    /// A length of time, in milliseconds.
    Within(i64),
}

impl Moment {
    /// The moment, if lengths of time count from now on.
    pub(super) fn after(self, now: EpochMs) -> EpochMs {
        match self {
            Self::At(moment) => moment,
            Self::Within(length_ms) => now.plus(length_ms),
        }
    }

    /// The moment, if lengths of time count back from now.
    pub(super) fn before(self, now: EpochMs) -> EpochMs {
        match self {
            Self::At(moment) => moment,
            Self::Within(length_ms) => now.plus(-length_ms),
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        read_length(text).map(Self::Within).or_else(|| read_point(text).map(Self::At)).ok_or_else(|| {
            "write a length of time such as 90d, 12h or 30m, a date such as 2030-12-31 (its first moment in UTC), \
                 or 2030-12-31T18:00:00Z"
                .to_owned()
        })
    }
}

fn read_length(text: &str) -> Option<i64> {
    let unit_ms = match text.chars().last()? {
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => DAY_MS,
        'w' => 7 * DAY_MS,
        _ => return None,
    };
    let count = &text[..text.len() - 1];
    let is_plain = !count.is_empty() && count.bytes().all(|digit| digit.is_ascii_digit());
    is_plain.then(|| count.parse::<i64>().ok()?.checked_mul(unit_ms))?
}

fn read_point(text: &str) -> Option<EpochMs> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let day_number = days_from_date(year, month, day);
    let is_real = (1..=12).contains(&month) && date_of_day(day_number) == (year, month, day);
    let is_time = hour < 24 && minute < 60 && second < 60;
    let seconds = hour * 3_600 + minute * 60 + second;
    (is_real && is_time).then(|| EpochMs(day_number * DAY_MS + seconds * 1_000))
}

fn numbers(text: &str, separator: char, lengths: [usize; 3]) -> Option<[i64; 3]> {
    let parts: Vec<&str> = text.split(separator).collect();
    let mut numbers = [0; 3];
    if parts.len() != 3 {
        return None;
    }
    for ((number, part), length) in numbers.iter_mut().zip(parts).zip(lengths) {
        if part.len() != length || !part.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    Some(numbers)
}

/// A day as people write it.
pub(super) fn date(day_number: i64) -> String {
    let (year, month, day) = date_of_day(day_number);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Days since 1970-01-01 of a date of the Gregorian calendar: years begin in March, so that the leap day is the last.
fn days_from_date(year: i64, month: i64, day: i64) -> i64 {
    let march_year = if month <= 2 { year - 1 } else { year };
    let era = march_year.div_euclid(400);
    let year_of_era = march_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_day_numbers_agree() {
        for (text, day_number) in
            [("1970-01-01", 0), ("2000-02-29", 11_016), ("2024-02-29", 19_782), ("2026-11-21", 20_778)]
        {
            assert_eq!(date(day_number), text);
            assert_eq!(text.parse(), Ok(Moment::At(EpochMs(day_number * DAY_MS))));
        }
        for day_number in -1_000..200_000 {
            let (year, month, day) = date_of_day(day_number);
            assert_eq!(days_from_date(year, month, day), day_number);
        }
    }

    #[test]
    fn lengths_and_points_in_time_are_read() {
        assert_eq!("90d".parse(), Ok(Moment::Within(90 * DAY_MS)));
        assert_eq!("12h".parse(), Ok(Moment::Within(43_200_000)));
        let noon = Moment::At(EpochMs(DAY_MS + 43_200_000));
        assert_eq!("1970-01-02T12:00:00Z".parse(), Ok(noon));
        for wrong in [
            "",
            "d",
            "-1d",
            "1y",
            "1.5h",
            "é",
            "2023-02-29",
            "2023-13-01",
            "2023-1-01",
            "2023-01-01T24:00:00Z",
            "2023-01-01T10:00:00",
            "99999999999999d",
            "tomorrow",
        ] {
            assert!(wrong.parse::<Moment>().is_err(), "{wrong}");
        }
    }
}
