//! Credentials that organisations have at providers themselves: the master keys that their secrets are sealed under, and what calls
//! with them are charged.

use super::place::{Section, Value};
use super::sources::Sources;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use filters::money::NanoUsd;
use filters::price::FeePpm;
use std::fmt;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Bytes of a master key.
pub const MASTER_KEY_BYTES: usize = 32;
/// A longer list is a slip: each key is needed only until all rows are sealed under the newest.
const MASTER_KEYS_MAX: usize = 16;

/// A key under which secrets are sealed.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey(Zeroizing<[u8; MASTER_KEY_BYTES]>);

impl MasterKey {
    /// Takes a key in.
    #[must_use]
    pub fn new(key: [u8; MASTER_KEY_BYTES]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// The key itself, for the cipher.
    #[must_use]
    pub fn reveal(&self) -> &[u8; MASTER_KEY_BYTES] {
        &self.0
    }

    /// Reads 64 hexadecimal digits, or the 32 bytes in base64.
    fn parse(text: &str) -> Option<Self> {
        let mut key = Zeroizing::new([0; MASTER_KEY_BYTES]);
        if text.len() == 2 * MASTER_KEY_BYTES {
            for (place, byte) in key.iter_mut().enumerate() {
                *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
            }
            return Some(Self(key));
        }
        let unpadded = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(unpadded).ok()?);
        key.copy_from_slice(bytes.get(..).filter(|bytes| bytes.len() == MASTER_KEY_BYTES)?);
        Some(Self(key))
    }

    /// The key as a file has it.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(&self.0[..]))
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("MasterKey(…)")
    }
}

/// Where the master keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MasterKeys {
    /// These, newest first; never empty.
    Given(Vec<MasterKey>),
    /// In this file, which is made with the first store.
    Kept(PathBuf),
}

impl MasterKeys {
    /// Reads a list, newest first, between white space or commas; the error never quotes it.
    pub fn parse(text: &str) -> Result<Vec<MasterKey>, String> {
        let words = text.split(|letter: char| letter.is_whitespace() || letter == ',').filter(|word| !word.is_empty());
        let keys: Option<Vec<MasterKey>> = words.map(MasterKey::parse).collect();
        match keys {
            Some(keys) if keys.is_empty() => {
                Err("holds no master key: make one with `openssl rand -hex 32`".to_owned())
            }
            Some(keys) if keys.len() > MASTER_KEYS_MAX => Err(format!("holds more than {MASTER_KEYS_MAX} master keys")),
            Some(keys) => Ok(keys),
            None => {
                Err("holds something that is no master key: each is 32 bytes, as 64 hexadecimal digits or in base64"
                    .to_owned())
            }
        }
    }
}

/// Reads `control.master_keys`; none if it is not there or there is a mistake in it.
pub(super) fn read_master_keys(section: &Section<'_>, sources: &Sources<'_>) -> Option<MasterKeys> {
    let value = section.get("master_keys")?;
    let text = value.section(|section| read_text(section, sources)).flatten()?;
    let keys = text.and_then(|text| MasterKeys::parse(&text));
    keys.map(MasterKeys::Given).map_err(|problem| value.report(problem)).ok()
}

/// The text that a table such as `{ file = "NAME" }` names; none if there is a mistake in the table.
fn read_text(section: &Section<'_>, sources: &Sources<'_>) -> Option<Result<Zeroizing<String>, String>> {
    let [env, file] = ["env", "file"].map(|key| section.get(key));
    let text = |value: Value<'_>| value.text().map(str::to_owned);
    Some(match (env, file) {
        (Some(name), None) => {
            let name = text(name)?;
            let missing = || format!("the environment variable {name} is not set");
            sources.variable(&name).map(Zeroizing::new).ok_or_else(missing)
        }
        (None, Some(path)) => {
            let path = sources.path(&text(path)?);
            let read = sources.read(&path).map(Zeroizing::new);
            read.and_then(
                |text| if text.trim().is_empty() { Err(format!("{} is empty", path.display())) } else { Ok(text) },
            )
        }
        _ => Err("must have exactly one of env, file".to_owned()),
    })
}

/// Reads a percentage as millionths.
pub(super) fn fee(text: &str) -> Result<FeePpm, String> {
    /// Of a percent written as if it were dollars.
    const NANOS_PER_PPM: i64 = 100_000;
    let percent: Option<NanoUsd> = text.parse().ok();
    let exact = percent.filter(|percent| percent.0 % NANOS_PER_PPM == 0).map(|percent| percent.0 / NANOS_PER_PPM);
    let ppm = exact.and_then(|ppm| FeePpm::try_from(ppm).ok()).filter(|ppm| *ppm <= 1_000_000);
    ppm.ok_or_else(|| {
        "must be a percentage from 0 to 100 such as 5 or 2.5, with at most 4 digits after the point".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn master_keys_are_read_in_either_form_and_not_shown() {
        let hex = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";
        let one = MasterKeys::parse(hex).expect("a key").remove(0);
        assert_eq!(one.reveal()[..3], [0x00, 0x11, 0x22]);
        let list = format!("{}\n{hex}, {}\n", *one.to_text(), one.to_text().trim_end_matches('='));
        assert_eq!(MasterKeys::parse(&list), Ok(vec![one.clone(), one.clone(), one.clone()]));
        assert_eq!(format!("{one:?}"), "MasterKey(…)");
    }

    #[test]
    fn what_is_no_list_of_master_keys_is_refused_unquoted() {
        let hex = "ab".repeat(32);
        for wrong in [
            "",
            " \n",
            "abcd",
            &hex[1..],
            &format!("{hex}0"),
            &format!("{hex} short"),
            &"é".repeat(32),
            &format!("{hex} ").repeat(17),
        ] {
            let problem = MasterKeys::parse(wrong).expect_err(wrong);
            assert!(wrong.trim().is_empty() || !problem.contains(wrong.trim()), "{problem}");
        }
    }

    #[test]
    fn fees_are_percentages() {
        for (text, ppm) in [("0", 0), ("5", 50_000), ("2.5", 25_000), ("0.0001", 1), ("100", 1_000_000)] {
            assert_eq!(fee(text), Ok(ppm), "{text}");
        }
        for wrong in ["", "-1", "100.1", "0.00001", "5%", "1e1"] {
            assert!(fee(wrong).is_err(), "{wrong}");
        }
    }
}
