//! Texts as they are typed for keys: names, patterns, scopes, hashes.

use super::super::moment::Moment;
use crate::store::keys::GRACE_MAX_MS;
use filters::key::{Glob, TokenHash};
use filters::scope::{Scope, Scopes};

/// Longest name, and longest pattern, in bytes.
const TEXT_BYTES_MAX: usize = 128;
/// Longest description.
const DESCRIPTION_BYTES_MAX: usize = 1_024;

pub(in crate::cli) fn read_name(text: &str) -> Result<String, String> {
    let is_plain = !text.trim().is_empty() && !text.chars().any(char::is_control);
    if is_plain && text.len() <= TEXT_BYTES_MAX {
        Ok(text.to_owned())
    } else {
        Err("a name has 1 to 128 bytes and no control characters".to_owned())
    }
}

pub(super) fn read_description(text: &str) -> Result<String, String> {
    let is_plain = !text.chars().any(char::is_control);
    let problem = "a description has at most 1024 bytes and no control characters";
    if is_plain && text.len() <= DESCRIPTION_BYTES_MAX { Ok(text.to_owned()) } else { Err(problem.to_owned()) }
}

/// Milliseconds.
pub(super) fn read_grace(text: &str) -> Result<i64, String> {
    match text.parse() {
        _ if text == "0" => Ok(0),
        Ok(Moment::Within(length_ms)) if length_ms <= GRACE_MAX_MS => Ok(length_ms),
        _ => Err("write a length of time such as 24h, at most 90d, or 0".to_owned()),
    }
}

pub(super) fn read_hash(text: &str) -> Result<TokenHash, &'static str> {
    TokenHash::of_digits(text).ok_or("the SHA-256 of a token is 64 hexadecimal digits")
}

pub(super) fn read_prefix(text: &str) -> Result<String, String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if (1..=32).contains(&text.len()) && text.bytes().all(is_token) {
        Ok(text.to_owned())
    } else {
        Err("a prefix has 1 to 32 letters, digits, `-` or `_`".to_owned())
    }
}

pub(in crate::cli) fn read_pattern(text: &str) -> Result<Glob, String> {
    let is_plain = (1..=TEXT_BYTES_MAX).contains(&text.len());
    if is_plain && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(Glob(text.into()))
    } else {
        Err("a pattern has 1 to 128 printable ASCII characters and no spaces".to_owned())
    }
}

pub(super) fn read_scopes(text: &str) -> Result<Scopes, String> {
    let known = || Scope::ALL.map(Scope::name).join(", ");
    let scopes =
        Scopes::parse(text).map_err(|unknown| format!("there is no scope `{unknown}`; there are {}", known()))?;
    if scopes == Scopes::default() {
        return Err(format!("name a scope: {}", known()));
    }
    Ok(scopes)
}
