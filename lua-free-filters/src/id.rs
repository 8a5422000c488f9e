//! Identifiers: 128 bits that sort by creation, printed with a prefix that says what they name.

use std::fmt;
use std::str::FromStr;

/// Crockford's base 32 in lower case: no i, l, o or u to misread.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters that 128 bits need.
const DIGITS: usize = 26;

/// Why a text is not an identifier of the kind asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an identifier: expected {prefix}_ and 26 characters of 0-9 a-z without i, l, o, u")]
pub struct IdError {
    /// The prefix that was expected.
    pub prefix: &'static str,
}

fn encode(value: u128) -> [u8; DIGITS] {
    let mut digits = [b'0'; DIGITS];
    let mut rest = value;
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest & 31) as usize];
        rest >>= 5;
    }
    digits
}

fn decode(digits: &str) -> Option<u128> {
    if digits.len() != DIGITS {
        return None;
    }
    let mut value: u128 = 0;
    for byte in digits.bytes() {
        let digit = ALPHABET.iter().position(|letter| *letter == byte)?;
        value = value.checked_mul(32)?.checked_add(digit as u128)?;
    }
    Some(value)
}

/// Makes an identifier's bits: 48 bits of time, so that rows made together lie together, and 80 random ones.
#[must_use]
pub fn bits(now: crate::time::EpochMs, random: [u8; 10]) -> u128 {
    let mut low = [0u8; 16];
    low[6..].copy_from_slice(&random);
    ((now.0 as u128 & 0xffff_ffff_ffff) << 80) | u128::from_be_bytes(low)
}

macro_rules! identifier {
    ($(#[$about:meta])* $name:ident, $prefix:literal) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl $name {
            /// The text as ASCII bytes, without an allocation.
            #[must_use]
            pub fn to_ascii(self) -> [u8; $prefix.len() + 1 + DIGITS] {
                let mut text = [b'_'; $prefix.len() + 1 + DIGITS];
                text[..$prefix.len()].copy_from_slice($prefix.as_bytes());
                text[$prefix.len() + 1..].copy_from_slice(&encode(self.0));
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = self.to_ascii();
                formatter.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, formatter)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(decode)
                    .map(Self)
                    .ok_or(IdError { prefix: $prefix })
            }
        }
    };
}

identifier!(
    /// One call of a client, whatever the number of attempts: what `x-request-id` says.
    CallId,
    "req"
);
identifier!(
    /// A key: not its secret, safe to log.
    KeyId,
    "key"
);
identifier!(
    /// An organisation.
    OrgId,
    "org"
);
identifier!(
    /// The holder of an operator's token.
    OperatorId,
    "op"
);
identifier!(
    /// A person who can sign in.
    UserId,
    "user"
);
identifier!(
    /// A session of a person: not its token.
    SessionId,
    "sess"
);
identifier!(
    /// An invitation into an organisation: not its token.
    InvitationId,
    "inv"
);
identifier!(
    /// An organisation's own credential of a provider: not its secret.
    CredentialId,
    "cred"
);
identifier!(
    /// An address that is told of events.
    WebhookId,
    "hook"
);
identifier!(
    /// Something that happened and that somebody should be told.
    EventId,
    "evt"
);
identifier!(
    /// A project: keys of an organisation that share limits.
    ProjectId,
    "proj"
);
identifier!(
    /// An event on its way to a webhook.
    DeliveryId,
    "dlv"
);

/// A quota's row in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuotaId(pub i64);

/// The content hash of one version of a candidate's prices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PriceId(pub u64);

impl fmt::Display for PriceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::EpochMs;

    #[test]
    fn text_and_bits_agree() {
        for value in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef] {
            let id = CallId(value);
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(id.to_string().as_bytes(), id.to_ascii());
        }
    }

    #[test]
    fn later_identifiers_sort_later() {
        let earlier = KeyId(bits(EpochMs(1_700_000_000_000), [255; 10]));
        let later = KeyId(bits(EpochMs(1_700_000_000_001), [0; 10]));
        assert!(earlier < later && earlier.to_string() < later.to_string());
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "key_", "req_0", "org_00000000000000000000000000", "key_zzzzzzzzzzzzzzzzzzzzzzzzzz"] {
            assert!(text.parse::<KeyId>().is_err(), "{text}");
        }
    }
}
