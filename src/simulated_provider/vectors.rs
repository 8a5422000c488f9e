//! Vectors that look like embeddings: the same text always gets the same.

use super::text::{Prompt, mix};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// No real model's vectors are longer.
const DIMENSIONS_MAX: u64 = 8192;

/// The texts or lists of tokens of an input, one or more.
pub(super) fn inputs(input: &Value) -> Vec<Value> {
    match input.as_array() {
        Some(items) if items.first().is_some_and(|item| !item.is_number()) => items.clone(),
        _ => vec![input.clone()],
    }
}

/// The numbers of an input's vector.
fn numbers(input: &Value, dimensions: u64) -> impl Iterator<Item = f32> {
    let text = input.as_str().map_or_else(|| input.to_string(), str::to_owned);
    let seed = Prompt::new(&text).seed;
    // Sixteenths of thousandths are written with few digits and the same ones everywhere.
    (0..dimensions.min(DIMENSIONS_MAX)).map(move |index| (mix(seed ^ index) % 1024) as f32 / 8192.0 - 0.0625)
}

/// A vector as JSON numbers.
pub(super) fn floats(input: &Value, dimensions: u64) -> Value {
    json!(numbers(input, dimensions).collect::<Vec<f32>>())
}

/// A vector as the base64 of its numbers, four bytes each, the lowest first.
pub(super) fn base64(input: &Value, dimensions: u64) -> Value {
    let bytes: Vec<u8> = numbers(input, dimensions).flat_map(f32::to_le_bytes).collect();
    STANDARD.encode(bytes).into()
}

/// A vector of whole numbers of one byte.
pub(super) fn bytes(input: &Value, dimensions: u64) -> Value {
    json!(numbers(input, dimensions).map(|number| (number * 1024.0) as i8).collect::<Vec<i8>>())
}
