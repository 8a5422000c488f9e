//! The counts in an object that a provider wrote.

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use std::borrow::Cow;
use std::fmt;

/// Members that an object of figures usually has no more of.
const MEMBERS_USUAL: usize = 8;

/// What a provider wrote, borrowed from its text. Members are few, so they stand in a list.
#[derive(Debug)]
pub(super) enum Written<'a> {
    Null,
    Truth,
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Self>),
    Object(Vec<(Cow<'a, str>, Self)>),
}

impl<'a> Written<'a> {
    /// Reads JSON text.
    pub(super) fn read(text: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

/// A figure that is no whole number, is negative, or is too large to be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotACount;

/// An object of figures. Of duplicate members the last wins; missing and null are none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures<'a> {
    members: &'a [(Cow<'a, str>, Written<'a>)],
}

impl<'a> Figures<'a> {
    pub(super) fn of(written: &'a Written<'a>) -> Self {
        match written {
            Written::Object(members) => Self { members },
            _ => Self { members: &[] },
        }
    }

    fn first(&self, names: &[&str]) -> Option<&'a Written<'a>> {
        let last = |name: &str| self.members.iter().rev().find(|(member, _)| member == name);
        names.iter().find_map(|name| last(name).map(|(_, value)| value).filter(|value| !matches!(value, Written::Null)))
    }

    /// The text of the number that stands under this name.
    fn number(&self, name: &str) -> Option<Result<String, NotACount>> {
        match self.first(&[name])? {
            Written::Number(number) => Some(Ok(number.to_string())),
            _ => Some(Err(NotACount)),
        }
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
        self.first(names).map_or(Self { members: &[] }, Self::of)
    }

    /// The first list that stands under one of these names, as objects.
    pub(super) fn list(&self, names: &[&str]) -> impl Iterator<Item = Self> + use<'a> {
        let list: &[Written<'a>] = match self.first(names) {
            Some(Written::List(list)) => list,
            _ => &[],
        };
        list.iter().map(Self::of)
    }

    /// The text that stands under this name.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        match self.first(&[name])? {
            Written::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Seconds as milliseconds, rounded up: a provider may write them with decimals.
    pub(super) fn milliseconds(&self, name: &str) -> Result<Option<u64>, NotACount> {
        self.number(name).map(|text| milliseconds(&text?).ok_or(NotACount)).transpose()
    }

    /// A count that may be written `6.0`, as Amazon and Cohere do; what is no count is none.
    pub(super) fn whole(&self, name: &str) -> Option<u64> {
        whole(self.number(name)?.ok()?.as_bytes())
    }
}

/// Reads a count. Sums of a dozen such counts and products with any rate stay exact.
fn count(written: &Written<'_>) -> Result<u64, NotACount> {
    let Written::Number(number) = written else { return Err(NotACount) };
    number.as_u64().filter(|count| *count < 1 << 53).ok_or(NotACount)
}

/// The same of JSON text; zeros behind a point don't matter.
pub(super) fn whole(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text
        .split_once('.')
        .map_or(Some(text), |(digits, zeros)| zeros.bytes().all(|zero| zero == b'0').then_some(digits))?;
    count(&Written::read(digits.as_bytes())?).ok()
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

impl<'a> de::Deserialize<'a> for Written<'a> {
    fn deserialize<D: Deserializer<'a>>(reader: D) -> Result<Self, D::Error> {
        reader.deserialize_any(WrittenVisitor)
    }
}

struct WrittenVisitor;

impl<'a> Visitor<'a> for WrittenVisitor {
    type Value = Written<'a>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Written<'a>, E> {
        Ok(Written::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Written<'a>, E> {
        Ok(Written::Truth)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Written<'a>, E> {
        Ok(Written::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Written<'a>, E> {
        Ok(Written::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Written<'a>, E> {
        Ok(Number::from_f64(number).map_or(Written::Null, Written::Number))
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Written<'a>, E> {
        Ok(Written::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Written<'a>, E> {
        Ok(Written::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<S: SeqAccess<'a>>(self, mut elements: S) -> Result<Written<'a>, S::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            list.push(element);
        }
        Ok(Written::List(list))
    }

    fn visit_map<M: MapAccess<'a>>(self, mut members: M) -> Result<Written<'a>, M::Error> {
        let mut object = Vec::with_capacity(MEMBERS_USUAL);
        while let Some((name, value)) = members.next_entry()? {
            // A name is always text.
            if let Written::Text(name) = name {
                object.push((name, value));
            }
        }
        Ok(Written::Object(object))
    }
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
            let text = format!(r#"{{"n":1,"n":{text}}}"#);
            let written = Written::read(text.as_bytes()).expect("JSON");
            assert_eq!(Figures::of(&written).count(&["m", "n"]), expected, "{text}");
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
