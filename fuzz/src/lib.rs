//! What the targets share: how an input is split.

use bytes::Bytes;

/// The input's first byte as the length of a chunk, at least 1, and the rest.
#[must_use]
pub fn split(input: &[u8]) -> (usize, &[u8]) {
    let (step, rest) = input.split_first().unwrap_or((&1, input));
    (usize::from(*step).max(1), rest)
}

/// The text in chunks of this length.
pub fn chunks(text: &[u8], step: usize) -> impl Iterator<Item = Bytes> {
    text.chunks(step).map(Bytes::copy_from_slice)
}

/// The input's first eight bytes as a number, and the rest.
#[must_use]
pub fn number(input: &[u8]) -> (u64, &[u8]) {
    let (bytes, rest) = input.split_at(input.len().min(8));
    (bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)), rest)
}
