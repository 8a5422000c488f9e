//! Keys: what a token looks like, how it is looked up, and what the record behind it grants.

use crate::id::{KeyId, OrgId, ProjectId};
use crate::network::Network;
use crate::own::OwnCredentials;
use crate::quota::Chain;
use crate::scope::Scopes;
use crate::time::EpochMs;
use core::net::IpAddr;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Characters of a token that carry its 256 random bits.
const SECRET_CHARACTERS: usize = 43;
/// Characters of a token that carry the checksum of all before them.
const CHECKSUM_CHARACTERS: usize = 6;

/// A token as it is issued: prefix, `_` or `-`, 43 random characters, 6 of checksum. Shown once, stored nowhere.
pub struct Token(String);

impl Token {
    /// Makes a token from 256 random bits. `prefix` is for example `tg_live` (joined by `_`) or `sk-sr-` (ends in its own joint).
    #[must_use]
    pub fn issue(prefix: &str, random: [u8; 32]) -> Self {
        let joint = if prefix.ends_with(['-', '_']) { "" } else { "_" };
        let mut text = format!("{prefix}{joint}");
        text.extend(base62(random));
        let checksum = checksum(&text);
        text.extend(checksum.iter().map(|byte| *byte as char));
        Self(text)
    }

    /// The text, to be shown once.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What may be shown afterwards: the beginning and the end.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let secret_at = self.0.len() - SECRET_CHARACTERS - CHECKSUM_CHARACTERS;
        format!("{}…{}", &self.0[..secret_at + 4], &self.0[self.0.len() - 2..])
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

/// Whether a token with one of our prefixes has the checksum of its other characters. Others pass: they may be imported.
#[must_use]
pub fn is_plausible(token: &str, prefix: &str) -> bool {
    if !token.starts_with(prefix) {
        return !token.is_empty() && token.len() <= 512;
    }
    let joint = usize::from(!prefix.ends_with(['-', '_']));
    if token.len() != prefix.len() + joint + SECRET_CHARACTERS + CHECKSUM_CHARACTERS || !token.is_ascii() {
        return false;
    }
    let (body, sum) = token.split_at(token.len() - CHECKSUM_CHARACTERS);
    sum.as_bytes() == checksum(body)
}

fn base62(bytes: [u8; 32]) -> impl Iterator<Item = char> {
    let mut digits = [0u8; SECRET_CHARACTERS];
    for byte in bytes {
        let mut carry = u32::from(byte);
        for digit in digits.iter_mut().rev() {
            carry += u32::from(*digit) << 8;
            *digit = (carry % 62) as u8;
            carry /= 62;
        }
    }
    digits.into_iter().map(|digit| BASE62[digit as usize] as char)
}

fn checksum(text: &str) -> [u8; CHECKSUM_CHARACTERS] {
    let mut rest = crc32(text.as_bytes());
    let mut digits = [b'0'; CHECKSUM_CHARACTERS];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// CRC-32 (IEEE), a nibble at a time: 50 characters a request do not pay for a dependency.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0u32; 16];
        let mut index = 0;
        while index < 16 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 4 {
                value = if value & 1 == 1 { (value >> 1) ^ 0xedb8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        let sum = sum ^ u32::from(*byte);
        let sum = (sum >> 4) ^ TABLE[(sum & 15) as usize];
        (sum >> 4) ^ TABLE[(sum & 15) as usize]
    })
}

/// What a token is stored and looked up as: HMAC-SHA-256 under the server's pepper of the token's SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lookup(pub [u8; 32]);

impl fmt::Debug for Lookup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Lookup(…)")
    }
}

/// A token's SHA-256: as much as is known of one that was issued elsewhere and imported.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// The hash of a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn of_digits(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Self(hash))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TokenHash(…)")
    }
}

/// A token as a request brought it: what it is looked up as, and what it was looked up as under older peppers is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presented {
    /// Under the newest pepper.
    pub lookup: Lookup,
    /// Its hash.
    pub hash: TokenHash,
}

/// The server's secrets, newest first, without which the stored hashes are of no use to a thief.
#[derive(Clone)]
pub struct Pepper {
    newest: Hmac<Sha256>,
    /// Those that keys may still be stored under.
    older: Arc<[Hmac<Sha256>]>,
}

impl Pepper {
    /// Takes at least 16 bytes; the error says so.
    pub fn new(secret: &[u8]) -> Result<Self, &'static str> {
        if secret.len() < 16 {
            return Err("the pepper needs at least 16 bytes");
        }
        let newest = Hmac::new_from_slice(secret).map_err(|_| "the pepper can't be used")?;
        Ok(Self { newest, older: Arc::default() })
    }

    /// The same with others before it, newest first, that keys may still be stored under.
    #[must_use]
    pub fn with_older(self, older: &[Self]) -> Self {
        Self { older: older.iter().map(|pepper| pepper.newest.clone()).collect(), ..self }
    }

    /// Each alone, newest first.
    pub fn each(&self) -> impl Iterator<Item = Self> {
        std::iter::once(&self.newest).chain(&*self.older).map(|mac| Self { newest: mac.clone(), older: Arc::default() })
    }

    /// Whether there are others before the newest.
    #[must_use]
    pub fn has_older(&self) -> bool {
        !self.older.is_empty()
    }

    /// The lookup id of a token.
    #[must_use]
    pub fn lookup(&self, token: &str) -> Lookup {
        self.lookup_of(&TokenHash::of(token))
    }

    /// The lookup id of a token of which only the hash is known.
    #[must_use]
    pub fn lookup_of(&self, hash: &TokenHash) -> Lookup {
        lookup(&self.newest, hash)
    }

    /// A token as it is to be looked for.
    #[must_use]
    pub fn present(&self, token: &str) -> Presented {
        let hash = TokenHash::of(token);
        Presented { lookup: self.lookup_of(&hash), hash }
    }

    /// What a token was looked up as under the older ones, newest first.
    pub fn older_lookups(&self, hash: TokenHash) -> impl Iterator<Item = Lookup> {
        self.older.iter().map(move |mac| lookup(mac, &hash))
    }

    /// What a token may be stored as, under the newest first.
    #[must_use]
    pub fn lookups(&self, token: &str) -> Vec<Lookup> {
        let hash = TokenHash::of(token);
        std::iter::once(self.lookup_of(&hash)).chain(self.older_lookups(hash)).collect()
    }

    /// What contents of one purpose are marked with. No lookup id is ever such a mark: that is of one digest alone.
    #[must_use]
    pub fn seal(&self, purpose: &str) -> Seal {
        let mut mac = self.newest.clone();
        mac.update(&Sha256::digest(purpose.as_bytes()));
        Seal(mac)
    }
}

fn lookup(mac: &Hmac<Sha256>, hash: &TokenHash) -> Lookup {
    let mut mac = mac.clone();
    mac.update(&hash.0);
    Lookup(mac.finalize().into_bytes().into())
}

/// Marks what this gateway has written where others can write too.
#[derive(Clone)]
pub struct Seal(Hmac<Sha256>);

impl Seal {
    /// The mark of a content at a place: HMAC-SHA-256.
    #[must_use]
    pub fn mark(&self, place: &[u8; 32], content: &[u8]) -> [u8; 32] {
        self.over(place, content).finalize().into_bytes().into()
    }

    /// Whether a mark is that of the content at the place. It takes as long for each that is not.
    #[must_use]
    pub fn is_mark(&self, mark: &[u8], place: &[u8; 32], content: &[u8]) -> bool {
        self.over(place, content).verify_slice(mark).is_ok()
    }

    fn over(&self, place: &[u8; 32], content: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(place);
        mac.update(content);
        mac
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Seal(…)")
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pepper(…)")
    }
}

/// Whether a key may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// It may.
    Live = 1,
    /// Switched off; can be switched on again.
    Disabled = 2,
    /// Put away for good.
    Archived = 3,
    /// Gone: nobody is to know of it any more, but calls that arrive late have their owner.
    Deleted = 4,
}

impl Status {
    /// The name in tables and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Disabled => "disabled",
            Self::Archived => "archived",
            Self::Deleted => "deleted",
        }
    }

    /// The status of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Live, Self::Disabled, Self::Archived, Self::Deleted];
        all.into_iter().find(|status| status.name() == name)
    }
}

/// A key's record, as the gateway holds it in memory.
#[derive(Debug)]
pub struct Key {
    /// Names the key without its secret.
    pub id: KeyId,
    /// What people call it.
    pub name: Arc<str>,
    /// Whose it is.
    pub org: OrgId,
    /// The project that it belongs to, if any.
    pub project: Option<ProjectId>,
    /// Whether the organisation is suspended.
    pub org_suspended: bool,
    /// Whether it may be used.
    pub status: Status,
    /// When it ends, if ever.
    pub expires: Option<EpochMs>,
    /// What it may do.
    pub scopes: Scopes,
    /// Patterns of models that it may use; none: all.
    pub models: Vec<Glob>,
    /// Patterns of providers that it may use; none: all.
    pub providers: Vec<Glob>,
    /// Where it may be used from; none: from anywhere.
    pub addresses: Vec<Network>,
    /// When the secret that it was found by ends, where it was replaced by another.
    pub secret_ends: Option<EpochMs>,
    /// Everything that can refuse it for quantity.
    pub chain: Arc<Chain>,
    /// The credentials that its organisation has at providers itself, if it has any.
    pub own: Option<OwnCredentials>,
}

impl Key {
    /// Whether it may be used from an address.
    #[must_use]
    pub fn may_come_from(&self, client: IpAddr) -> bool {
        self.addresses.is_empty() || self.addresses.iter().any(|network| network.contains(client))
    }
}

/// A pattern in which `*` stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(pub Box<str>);

impl Glob {
    /// Whether the whole text fits the pattern.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else {
            return false;
        };
        let mut parts = parts.peekable();
        if parts.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            let Some(at) = rest.find(part) else {
                return false;
            };
            rest = &rest[at + part.len()..];
        }
        true
    }
}

/// Whether a list of patterns lets a name through; an empty list does.
#[must_use]
pub fn allows(patterns: &[Glob], name: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn crc32_is_the_ieee_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn issued_tokens_have_the_published_form() {
        for (prefix, start) in [("tg_live", "tg_live_"), ("sk-sr-", "sk-sr-")] {
            let token = Token::issue(prefix, [7; 32]);
            assert!(token.reveal().starts_with(start));
            assert_eq!(token.reveal().len(), start.len() + 49);
            assert!(is_plausible(token.reveal(), prefix));
            assert!(!format!("{token:?}").contains(&token.reveal()[10..]));
        }
    }

    #[test]
    fn a_typo_is_seen_without_a_lookup() {
        let token = Token::issue("tg_live", [42; 32]);
        let text = token.reveal();
        for at in 8..text.len() {
            let mut typo = text.to_owned().into_bytes();
            typo[at] = if typo[at] == b'a' { b'b' } else { b'a' };
            let typo = String::from_utf8(typo).expect("ASCII");
            assert!(!is_plausible(&typo, "tg_live"), "{at}");
        }
        assert!(!is_plausible(&text[..text.len() - 1], "tg_live"));
        assert!(is_plausible("imported-from-elsewhere", "tg_live"));
        assert!(!is_plausible("", "tg_live"));
    }

    #[test]
    fn lookups_depend_on_the_pepper_and_the_token() {
        let one = Pepper::new(&[1; 32]).expect("long enough");
        let two = Pepper::new(&[2; 32]).expect("long enough");
        assert_eq!(one.lookup("a"), one.lookup("a"));
        assert_ne!(one.lookup("a"), one.lookup("b"));
        assert_ne!(one.lookup("a"), two.lookup("a"));
        assert!(Pepper::new(b"short").is_err());
    }

    #[test]
    fn older_peppers_find_what_was_stored_under_them() {
        let [new, old, oldest] = [1, 2, 3].map(|byte| Pepper::new(&[byte; 32]).expect("long enough"));
        let list = new.clone().with_older(&[old.clone(), oldest.clone()]);
        let presented = list.present("a");
        assert_eq!((presented.lookup, list.lookup("a")), (new.lookup("a"), new.lookup("a")));
        let older: Vec<Lookup> = list.older_lookups(presented.hash).collect();
        assert_eq!(older, [old.lookup("a"), oldest.lookup("a")]);
        let each: Vec<Lookup> = list.each().map(|pepper| pepper.lookup("a")).collect();
        assert_eq!(each, [new.lookup("a"), old.lookup("a"), oldest.lookup("a")]);
        assert!(list.has_older() && !new.has_older());
        assert_eq!(list.lookup_of(&TokenHash::of("a")), new.lookup("a"));
        assert_eq!(TokenHash::of_digits(&"0a".repeat(32)), Some(TokenHash([10; 32])));
        assert!(
            ["", &"0".repeat(63), &"é".repeat(32), &"+1".repeat(32)]
                .iter()
                .all(|odd| TokenHash::of_digits(odd).is_none())
        );
        assert!(!format!("{presented:?}").contains(char::is_numeric));
    }

    #[test]
    fn a_seal_depends_on_its_secret_its_purpose_the_place_and_the_content() {
        let [one, two] = [1, 2].map(|byte| Pepper::new(&[byte; 32]).expect("long enough"));
        let seal = one.seal("a");
        let mark = seal.mark(&[7; 32], b"content");
        assert!(seal.is_mark(&mark, &[7; 32], b"content"));
        assert!(!seal.is_mark(&mark, &[8; 32], b"content") && !seal.is_mark(&mark, &[7; 32], b"contend"));
        assert!(!seal.is_mark(&mark[..31], &[7; 32], b"content") && !seal.is_mark(b"", &[7; 32], b"content"));
        assert!(!one.seal("b").is_mark(&mark, &[7; 32], b"content"));
        assert!(!two.seal("a").is_mark(&mark, &[7; 32], b"content"));
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, yes, no) in [
            ("gpt-4o", "gpt-4o", "gpt-4o-mini"),
            ("gpt-*", "gpt-4o", "claude"),
            ("*-mini", "gpt-4o-mini", "gpt-4o-mini-2024"),
            ("claude-*-4-*", "claude-sonnet-4-6", "claude-4-6"),
            ("*", "anything", "\u{0}never-compared"),
        ] {
            let glob = Glob(pattern.into());
            assert!(glob.matches(yes), "{pattern} {yes}");
            assert!(pattern == "*" || !glob.matches(no), "{pattern} {no}");
        }
        assert!(allows(&[], "x") && !allows(&[Glob("y".into())], "x"));
    }

    proptest! {
        #[test]
        fn any_random_bits_make_a_plausible_token(random: [u8; 32]) {
            prop_assert!(is_plausible(Token::issue("tg_live", random).reveal(), "tg_live"));
        }
    }
}
