//! What a request is billed by beside the tokens of its text: pictures, sounds, characters, rankings. What a provider reports of
//! them wins; where it reports none, what the request itself shows is charged.

use crate::catalogue::{Mode, Model};
use crate::dialect::Dialect;
use crate::price::{Picture, Price};
use crate::request_head::RequestHead;
use crate::usage::{Kind, Usage};

/// What is likely billed.
#[must_use]
pub(crate) fn likely(head: &RequestHead, model: &Model) -> Usage {
    counted(head, model, head.weight.sound_ms, head.weight.documents.units())
}

/// The most that can be billed, where something limits it.
#[must_use]
pub(crate) fn most(head: &RequestHead, model: &Model) -> Usage {
    counted(head, model, head.weight.sound_ms_max, head.weight.documents.units_max())
        .with(Kind::WebSearch, head.weight.server_tool_uses)
}

fn counted(head: &RequestHead, model: &Model, sound_ms: u64, search_units: u64) -> Usage {
    let draws = head.dialect == Dialect::OpenaiImages || model.mode == Mode::Image;
    Usage::default()
        .with(Kind::Images, if draws { head.choices } else { 0 })
        .with(Kind::AudioMilliseconds, sound_ms)
        .with(Kind::Characters, head.weight.characters)
        .with(Kind::SearchUnits, search_units)
}

/// Whether what is likely billed is a guess.
#[must_use]
pub(crate) fn is_guess(head: &RequestHead) -> bool {
    head.weight.has_unmeasured_sound || head.dialect == Dialect::CohereRerank
}

/// Output that is no text, as far as the request shows it: its kind, and the tokens of one answer.
#[must_use]
pub(crate) fn unwritten_output(head: &RequestHead) -> Option<(Kind, u64)> {
    match head.dialect {
        Dialect::OpenaiImages => {
            let shown = PARTIAL_IMAGE_TOKENS.saturating_mul(head.weight.partial_images);
            Some((Kind::ImageOutput, picture_tokens(&head.picture).saturating_add(shown)))
        }
        Dialect::OpenaiSpeech => Some((Kind::AudioOutput, head.weight.characters.saturating_mul(SPOKEN_TOKENS))),
        _ => None,
    }
}

/// Tokens of a picture that is shown while it is drawn (OpenAI, "Image generation", "Partial images cost").
pub(crate) const PARTIAL_IMAGE_TOKENS: u64 = 100;

/// Tokens of a spoken character: OpenAI's models speak about fifteen characters a second, and make some twenty tokens of it
/// ("Pricing": $12 for a million tokens, about $0.015 a minute).
const SPOKEN_TOKENS: u64 = 2;

/// Output tokens of a picture (OpenAI, "Image generation", "Cost and latency"). What is left to the provider may be the dearest.
fn picture_tokens(asked: &Picture) -> u64 {
    let by_size = match asked.quality.as_deref() {
        Some("low") => [272, 408, 400],
        Some("medium") => [1_056, 1_584, 1_568],
        _ => [4_160, 6_240, 6_208],
    };
    match asked.size.as_deref() {
        Some("1024x1024") => by_size[0],
        Some("1536x1024") => by_size[2],
        _ => by_size[1],
    }
}

/// What a provider reported, and of what it is billed by beside tokens and did not report, what the request shows.
#[must_use]
pub(crate) fn completed(reported: Usage, shown: &Usage, price: &Price) -> Usage {
    let is_missing = |kind: &Kind| reported.get(*kind) == 0 && price.bills(*kind);
    let missing = Kind::UNITS.into_iter().filter(is_missing);
    missing.fold(reported, |usage, kind| usage.with(kind, shown.get(kind)))
}
