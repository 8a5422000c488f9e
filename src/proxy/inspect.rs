//! What a key may know of itself: its limits and spend, and the models that it may use.
//!
//! Answered here, from memory. `key_view.rs` is the key's own answer, `estimate.rs` what a call would set aside, `models.rs` the models in each protocol's words.

use super::answer::whole_answer;
use super::answer_head::{AnswerHead, BodyLength};
use super::key_view::{self, KeyView};
use super::report::Report;
use super::{Connection, Gateway, Runtime};
use super::{estimate, models};
use bytes::Bytes;
use filters::denied::Denied;
use filters::dialect::Protocol;
use filters::money::NanoUsd;
use filters::pipeline::Authenticated;
use filters::route::Route;
use pingora::protocols::http::ServerSession;
use serde_json::value::RawValue;

/// Answers a route that only tells a key about itself.
pub(super) async fn answer(
    gateway: &Gateway,
    runtime: &Runtime,
    session: &mut ServerSession,
    authenticated: &Authenticated,
    report: &mut Report,
) -> Result<Connection, Denied> {
    let (key, target) = (authenticated.key(), authenticated.target());
    // Three protocols have their models at the same path.
    let has = |header: &str| session.req_header().headers.contains_key(header);
    let protocol = match (has("anthropic-version"), has("x-goog-api-key")) {
        (true, _) => Protocol::Anthropic,
        (false, true) => Protocol::Gemini,
        (false, false) => target.route.protocol(),
    };
    let body = if target.route == Route::CreditsEstimate {
        estimate::answer(gateway, runtime, session, key, report.started).await?
    } else if target.route == Route::Key {
        key_view::refresh(key, gateway, report.started).await;
        serde_json::to_vec(&KeyView::of(key, report.started)).map_err(|_| Denied::StoreUnavailable)?
    } else {
        let usable = models::Usable { key, catalogue: &runtime.catalogue, now: report.started };
        match target.name {
            None => usable.list(protocol),
            Some(_) => usable.one(&target.decoded_name().unwrap_or_default(), protocol)?,
        }
    };
    let body = Bytes::from(body);
    let mut head = AnswerHead::new(200, BodyLength::Bytes(body.len()));
    head.json();
    head.call(report.call, protocol);
    head.rates(&key.chain, None, protocol, report.started);
    head.allow_origin(&session.req_header().headers, runtime);
    report.status = 200;
    Ok(whole_answer(session, head, body).await)
}

/// An amount as a JSON number, written as decimal text and never through a float.
pub(super) fn dollars(amount: NanoUsd) -> Box<RawValue> {
    RawValue::from_string(amount.to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
