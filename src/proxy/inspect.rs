//! What a key may know of itself: its limits and spend, and the models that it may use.
//!
//! Answered here, from memory. `key_view.rs` is the key's own answer.

use super::answer::whole_answer;
use super::answer_head::{AnswerHead, BodyLength};
use super::key_view::{self, KeyView};
use super::report::Report;
use super::{Connection, Runtime};
use bytes::Bytes;
use filters::catalogue::{Catalogue, Model};
use filters::denied::Denied;
use filters::dialect::Dialect;
use filters::key::{Key, allows};
use filters::money::NanoUsd;
use filters::pipeline::Authenticated;
use filters::ports::Authority;
use filters::scope::Route;
use filters::time::EpochMs;
use filters::usage::Kind;
use pingora::protocols::http::ServerSession;
use serde::Serialize;
use serde_json::value::RawValue;

/// Answers `GET /v1/key` or `GET /v1/models`.
pub(super) async fn answer(
    runtime: &Runtime,
    session: &mut ServerSession,
    (authenticated, authority): (&Authenticated, &dyn Authority),
    report: &mut Report,
) -> Result<Connection, Denied> {
    let key = authenticated.key();
    let speaks_anthropic = session.req_header().headers.contains_key("anthropic-version");
    let body = match report.route {
        Some(Route::Key) => {
            key_view::refresh(key, authority, report.started).await;
            serde_json::to_vec(&KeyView::of(key, report.started))
        }
        Some(Route::Models) if speaks_anthropic => {
            serde_json::to_vec(&anthropic_models(key, &runtime.catalogue, report.started))
        }
        Some(Route::Models) => serde_json::to_vec(&openai_models(key, &runtime.catalogue, report.started)),
        Some(Route::ChatCompletions | Route::Messages) | None => return Err(Denied::NotFound),
    };
    let body = Bytes::from(body.map_err(|_| Denied::StoreUnavailable)?);
    let dialect = if speaks_anthropic { Dialect::Anthropic } else { Dialect::OpenaiChat };
    let mut head = AnswerHead::new(200, BodyLength::Bytes(body.len()));
    head.json();
    head.call(report.call, dialect);
    head.rates(&key.chain, None, dialect, report.started);
    head.allow_origin(&session.req_header().headers, runtime);
    report.status = 200;
    Ok(whole_answer(session, head, body).await)
}

/// An amount as a JSON number, written as decimal text and never through a float.
pub(super) fn dollars(amount: NanoUsd) -> Box<RawValue> {
    RawValue::from_string(amount.to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The models of a catalogue that a key may use now.
fn usable<'a>(key: &'a Key, catalogue: &'a Catalogue, now: EpochMs) -> impl Iterator<Item = &'a Model> {
    let serves = move |model: &Model| {
        let mut candidates = model.candidates.iter();
        candidates.any(|candidate| allows(&key.providers, &candidate.provider) && candidate.price_at(now).is_some())
    };
    let models = catalogue.models().iter().map(|model| &**model);
    models.filter(move |model| allows(&key.models, &model.id) && serves(model))
}

#[derive(Serialize)]
struct OpenaiModels<'a> {
    object: &'static str,
    data: Vec<OpenaiModel<'a>>,
}

#[derive(Serialize)]
struct OpenaiModel<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    owned_by: &'a str,
    #[serde(flatten)]
    facts: Facts<'a>,
}

/// What is told of a model beside its protocol's own fields.
#[derive(Serialize)]
struct Facts<'a> {
    aliases: Vec<&'a str>,
    modality: &'static str,
    context_tokens: u64,
    output_tokens_max: u64,
    /// USD per million tokens, of the first candidate that the key may use.
    pricing: Option<Pricing>,
}

#[derive(Serialize)]
struct Pricing {
    input: Box<RawValue>,
    cache_read: Box<RawValue>,
    cache_write: Box<RawValue>,
    output: Box<RawValue>,
}

fn openai_models<'a>(key: &'a Key, catalogue: &'a Catalogue, now: EpochMs) -> OpenaiModels<'a> {
    let model = |model: &'a Model| OpenaiModel {
        id: &model.id,
        object: "model",
        created: published_day(model) * 86_400,
        owned_by: model.candidates.first().map_or("", |candidate| &*candidate.provider),
        facts: facts(key, model, now),
    };
    OpenaiModels { object: "list", data: usable(key, catalogue, now).map(model).collect() }
}

#[derive(Serialize)]
struct AnthropicModels<'a> {
    data: Vec<AnthropicModel<'a>>,
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
    has_more: bool,
}

#[derive(Serialize)]
struct AnthropicModel<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    display_name: &'a str,
    created_at: String,
    #[serde(flatten)]
    facts: Facts<'a>,
}

fn anthropic_models<'a>(key: &'a Key, catalogue: &'a Catalogue, now: EpochMs) -> AnthropicModels<'a> {
    let model = |model: &'a Model| AnthropicModel {
        kind: "model",
        id: &model.id,
        display_name: &model.id,
        created_at: super::answer_head::utc(EpochMs(published_day(model) * 86_400_000)),
        facts: facts(key, model, now),
    };
    let speaks = |model: &&Model| model.candidates.iter().any(|candidate| candidate.dialect == Dialect::Anthropic);
    let data: Vec<_> = usable(key, catalogue, now).filter(speaks).map(model).collect();
    AnthropicModels {
        first_id: data.first().map(|model| model.id),
        last_id: data.last().map(|model| model.id),
        has_more: false,
        data,
    }
}

/// The day of the first price: the catalogue knows no other date of a model.
fn published_day(model: &Model) -> i64 {
    let days =
        model.candidates.iter().flat_map(|candidate| candidate.prices.iter().map(|version| version.price.from_day));
    days.min().unwrap_or(0)
}

fn facts<'a>(key: &Key, model: &'a Model, now: EpochMs) -> Facts<'a> {
    let mut candidates = model.candidates.iter().filter(|candidate| allows(&key.providers, &candidate.provider));
    let price = candidates.find_map(|candidate| candidate.price_at(now));
    Facts {
        aliases: model.aliases.iter().map(|alias| &**alias).collect(),
        modality: "text",
        context_tokens: model.context_tokens,
        output_tokens_max: model.output_tokens_max,
        pricing: price.map(|version| {
            let rate = |kind: Kind| dollars(NanoUsd(version.price.standard[kind as usize]));
            Pricing {
                input: rate(Kind::Input),
                cache_read: rate(Kind::CacheRead),
                cache_write: rate(Kind::CacheWrite5m),
                output: rate(Kind::Output),
            }
        }),
    }
}
