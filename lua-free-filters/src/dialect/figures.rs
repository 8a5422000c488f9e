//! The counts in an object that a provider wrote.

use serde_json::{Map, Value};

/// A figure that is no whole number, is negative, or is too large to be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotACount;

/// An object of figures. Of duplicate members the last wins; missing and null are none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures<'a> {
    object: Option<&'a Map<String, Value>>,
}

impl<'a> Figures<'a> {
    pub(super) fn of(value: &'a Value) -> Self {
        Self { object: value.as_object() }
    }

    fn first(&self, names: &[&str]) -> Option<&'a Value> {
        let object = self.object?;
        names.iter().find_map(|name| object.get(*name).filter(|value| !value.is_null()))
    }

    /// The first count that stands under one of these names.
    pub(super) fn count(&self, names: &[&str]) -> Result<Option<u64>, NotACount> {
        self.first(names).map(count).transpose()
    }

    /// The same; none is zero.
    pub(super) fn count_or_zero(&self, names: &[&str]) -> Result<u64, NotACount> {
        Ok(self.count(names)?.unwrap_or(0))
    }

    /// The first object that stands under one of these names; without one, an empty one.
    pub(super) fn within(&self, names: &[&str]) -> Self {
        Self { object: self.first(names).and_then(Value::as_object) }
    }

    /// The first list that stands under one of these names, as objects.
    pub(super) fn list(&self, names: &[&str]) -> impl Iterator<Item = Self> + use<'a> {
        self.first(names).and_then(Value::as_array).into_iter().flatten().map(Self::of)
    }

    /// The text that stands under this name.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.first(&[name])?.as_str()
    }

    /// Seconds as milliseconds, rounded up: a provider may write them with decimals.
    pub(super) fn milliseconds(&self, name: &str) -> Result<Option<u64>, NotACount> {
        self.first(&[name]).map(|value| milliseconds(&value.to_string()).ok_or(NotACount)).transpose()
    }

    /// A count that may be written `6.0`, as Amazon and Cohere do; what is no count is none.
    pub(super) fn whole(&self, name: &str) -> Option<u64> {
        whole(self.first(&[name])?.to_string().as_bytes())
    }
}

/// Reads a count. Sums of a dozen such counts and products with any rate stay exact.
pub(super) fn count(value: &Value) -> Result<u64, NotACount> {
    value.as_u64().filter(|count| *count < 1 << 53).ok_or(NotACount)
}

/// The same of JSON text; zeros behind a point don't matter.
pub(super) fn whole(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text
        .split_once('.')
        .map_or(Some(text), |(digits, zeros)| zeros.bytes().all(|zero| zero == b'0').then_some(digits))?;
    count(&serde_json::from_str(digits).ok()?).ok()
}

fn milliseconds(seconds: &str) -> Option<u64> {
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let thousandths: String = fraction.chars().chain("000".chars()).take(3).collect();
    let rest = fraction.get(3..).is_some_and(|rest| rest.bytes().any(|digit| digit != b'0'));
    let milliseconds =
        whole.parse::<u64>().ok()?.checked_mul(1_000)? + thousandths.parse::<u64>().ok()? + u64::from(rest);
    Some(milliseconds).filter(|milliseconds| *milliseconds < 1 << 53)
}

/// A part of a total, or what is left of the total if that is less.
pub(super) fn take(rest: &mut u64, part: u64) -> u64 {
    let part = part.min(*rest);
    *rest -= part;
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_whole_numbers_or_nothing() {
        for (text, expected) in [
            ("0", Ok(Some(0))),
            ("7", Ok(Some(7))),
            ("null", Ok(None)),
            ("-1", Err(NotACount)),
            ("1.0", Err(NotACount)),
            ("1e3", Err(NotACount)),
            ("18446744073709551616", Err(NotACount)),
            ("9007199254740992", Err(NotACount)),
            ("\"7\"", Err(NotACount)),
        ] {
            let value = serde_json::from_str(&format!(r#"{{"n":1,"n":{text}}}"#)).expect("JSON");
            assert_eq!(Figures::of(&value).count(&["m", "n"]), expected, "{text}");
        }
    }

    #[test]
    fn whole_figures_may_be_written_with_zeros() {
        for (text, expected) in
            [("6.0", Some(6)), ("6", Some(6)), ("6.5", None), ("-6.0", None), ("6e1", None), ("x", None)]
        {
            assert_eq!(whole(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn seconds_become_milliseconds_rounded_up() {
        for (text, expected) in [
            ("7", Some(7_000)),
            ("3.7", Some(3_700)),
            ("0.0001", Some(1)),
            ("1.0001", Some(1_001)),
            ("1.0000", Some(1_000)),
            ("-1", None),
            ("1e3", None),
            ("99999999999999999", None),
        ] {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
    }
}
