//! The figures of usage, as answers have them.

use crate::control::money::Told;
use crate::store::usage::buckets::{TOTALS, Totals};
use filters::money::{CreditUnit, NanoUsd};
use serde::Serialize;
use utoipa::ToSchema;

/// What calls used and were charged. Kinds of tokens are parts of all input tokens or all output tokens.
#[derive(Serialize, ToSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub struct UsageFigures {
    pub calls: i64,
    /// Those that were charged by an estimate, because the provider's figures were not seen.
    pub estimated_calls: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub cache_read_tokens: i64,
    pub cache_write_5m_tokens: i64,
    pub cache_write_1h_tokens: i64,
    pub audio_input_tokens: i64,
    pub image_input_tokens: i64,
    pub reasoning_tokens: i64,
    pub audio_output_tokens: i64,
    pub image_output_tokens: i64,
    pub web_searches: i64,
    pub images: i64,
    pub audio_milliseconds: i64,
    pub characters: i64,
    pub search_units: i64,
    /// Exact, in US dollars.
    #[schema(example = "0.0123")]
    pub cost_usd: String,
    /// In whole millionths of a dollar, rounded down.
    pub cost_micros: i64,
    /// In credits, where a credit is defined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_credits: Option<String>,
}

impl UsageFigures {
    pub(super) fn of(unit: Option<CreditUnit>, Totals(figures): Totals) -> Self {
        let charge = NanoUsd(figures[TOTALS - 1]);
        let Told { usd, credits } = Told::of(unit, charge);
        let [calls, estimated_calls, input_tokens, output_tokens, rest @ .., _]: [i64; TOTALS] = figures;
        let [cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, rest @ ..] = rest;
        let [audio_input_tokens, image_input_tokens, reasoning_tokens, rest @ ..] = rest;
        let [audio_output_tokens, image_output_tokens, web_searches, rest @ ..] = rest;
        let [images, audio_milliseconds, characters, search_units] = rest;
        Self {
            calls,
            estimated_calls,
            input_tokens,
            output_tokens,
            cache_read_tokens,
            cache_write_5m_tokens,
            cache_write_1h_tokens,
            audio_input_tokens,
            image_input_tokens,
            reasoning_tokens,
            audio_output_tokens,
            image_output_tokens,
            web_searches,
            images,
            audio_milliseconds,
            characters,
            search_units,
            cost_usd: usd,
            cost_micros: charge.0.div_euclid(1_000),
            cost_credits: credits,
        }
    }
}
