//! The head of an answer on its way to the client: what of the provider's is passed on, and what is added.
//!
//! Values are rendered into one buffer and shared out, because headers are the dearest part of governance.

use super::Runtime;
use super::headers::{is_hop_by_hop, named_in_connection, put_number};
use crate::error::ErrorAnswer;
use bytes::{BufMut, BytesMut};
use filters::dialect::Protocol;
use filters::id::CallId;
use filters::money::NanoUsd;
use filters::quota::{Chain, Counted, RateReading};
use filters::time::{EpochMs, date_of_day};
use http::StatusCode;
use http::header::{
    ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, TRANSFER_ENCODING,
};
use pingora::http::ResponseHeader;
use std::fmt::Write;

/// Whether a provider's header goes to the client: nothing that is between the provider and us, or about our account.
fn passes_to_client(name: &HeaderName) -> bool {
    let name = name.as_str();
    !is_hop_by_hop(name)
        && !matches!(
            name,
            "content-length"
                | "date"
                | "server"
                | "set-cookie"
                | "alt-svc"
                | "x-request-id"
                | "request-id"
                | "openai-organization"
                | "openai-project"
                | "anthropic-organization-id"
                | "ratelimit"
                | "ratelimit-policy"
                | "strict-transport-security"
        )
        && !name.starts_with("x-ratelimit-")
        && !name.starts_with("anthropic-ratelimit-")
        && !name.starts_with("x-tollgate-")
        && !name.starts_with("access-control-")
        && !name.starts_with("cf-")
}

/// How long the body of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    /// Known.
    Bytes(usize),
    /// Known when it ends.
    Open,
    /// Told by the end of the connection: the client knows no other way.
    UntilClose,
    /// There is none.
    None,
}

/// An answer's head in the making.
pub(super) struct AnswerHead {
    parts: http::response::Parts,
    text: BytesMut,
}

impl AnswerHead {
    pub(super) fn new(status: u16, length: BodyLength) -> Self {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
        parts.headers = HeaderMap::with_capacity(32);
        match length {
            BodyLength::Bytes(bytes) => _ = parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes)),
            BodyLength::Open => _ = parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
            BodyLength::UntilClose | BodyLength::None => {}
        }
        Self { parts, text: BytesMut::with_capacity(1024) }
    }

    /// The provider's headers that clients may see.
    pub(super) fn pass_on(&mut self, provider: &HeaderMap) {
        let is_hop = named_in_connection(provider);
        for (name, value) in provider {
            if passes_to_client(name) && !is_hop(name) {
                self.parts.headers.append(name, value.clone());
            }
        }
        let request_id = provider.get(REQUEST_ID).or_else(|| provider.get(ANTHROPIC_REQUEST_ID));
        if let Some(id) = request_id {
            self.parts.headers.insert(UPSTREAM_REQUEST_ID, id.clone());
        }
    }

    /// The headers of an answer of our own, but for those that frame it and its identifier.
    pub(super) fn own(&mut self, headers: &HeaderMap) {
        let is_framing =
            |name: &HeaderName| is_hop_by_hop(name.as_str()) || *name == CONTENT_LENGTH || *name == REQUEST_ID;
        for (name, value) in headers.iter().filter(|(name, _)| !is_framing(name)) {
            self.parts.headers.append(name, value.clone());
        }
    }

    /// A body of JSON.
    pub(super) fn json(&mut self) {
        self.parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }

    /// A header whose value never changes.
    pub(super) fn fixed(&mut self, name: HeaderName, value: &'static str) {
        self.parts.headers.insert(name, HeaderValue::from_static(value));
    }

    /// A header with a value of printable ASCII.
    pub(super) fn text(&mut self, name: HeaderName, write: impl FnOnce(&mut BytesMut)) {
        write(&mut self.text);
        self.insert_written(name);
    }

    /// A header with a number.
    pub(super) fn number(&mut self, name: HeaderName, number: u64) {
        self.parts.headers.insert(name, HeaderValue::from(number));
    }

    fn insert_written(&mut self, name: HeaderName) {
        // What is written is digits and names of ours; anything else is left out rather than sent broken.
        if let Ok(value) = HeaderValue::from_maybe_shared(self.text.split().freeze()) {
            self.parts.headers.insert(name, value);
        }
    }

    /// The call's name, as each protocol's clients expect it.
    pub(super) fn call(&mut self, call: CallId, protocol: Protocol) {
        self.text(REQUEST_ID, |text| text.put_slice(&call.to_ascii()));
        if protocol == Protocol::Anthropic {
            self.text(ANTHROPIC_REQUEST_ID, |text| text.put_slice(&call.to_ascii()));
        }
    }

    /// Who answered.
    pub(super) fn provider(&mut self, name: &str) {
        self.text(PROVIDER, |text| text.put_slice(name.as_bytes()));
    }

    /// When to try again, as HTTP says it and as the official SDKs understand it, and with which method.
    pub(super) fn refusal(&mut self, refused: &ErrorAnswer) {
        if let (Some(seconds), Some(after_ms)) = (refused.retry_after_seconds(), refused.retry_after_ms) {
            self.parts.headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
            self.number(RETRY_AFTER_MS, after_ms);
        }
        if let Some(should_retry) = refused.should_retry {
            self.fixed(SHOULD_RETRY, if should_retry { "true" } else { "false" });
        }
        if let Some(methods) = refused.allowed {
            self.methods(ALLOW, methods);
        }
    }

    /// The methods that a path answers.
    pub(super) fn methods(&mut self, name: HeaderName, methods: &[http::Method]) {
        let names: Vec<_> = methods.iter().map(http::Method::as_str).collect();
        self.text(name, |text| text.put_slice(names.join(", ").as_bytes()));
    }

    /// What the call cost.
    pub(super) fn cost(&mut self, charge: NanoUsd) {
        // Writing to a buffer that grows can't fail.
        self.text(COST, |text| _ = write!(text, "{charge}"));
    }

    /// The output limit that the provider was told in place of the client's.
    pub(super) fn output_limit(&mut self, tokens: u64) {
        self.number(MAX_TOKENS, tokens);
    }

    /// Where the key's rates stand for calls of a model.
    pub(super) fn rates(&mut self, chain: &Chain, model: Option<&str>, protocol: Protocol, now: EpochMs) {
        let requests = chain.tightest(Counted::Requests, model, now);
        let tokens = chain.tightest(Counted::Tokens, model, now);
        if let Some(reading) = requests {
            self.rate(&REQUEST_RATE, reading, protocol, now);
        }
        if let Some(reading) = tokens {
            self.rate(&TOKEN_RATE, reading, protocol, now);
        }
        self.ietf_rates(requests, tokens);
    }

    fn rate(&mut self, names: &RateNames, reading: RateReading, protocol: Protocol, now: EpochMs) {
        let [limit, remaining, reset] = &names.openai;
        self.number(limit.clone(), reading.limit.unsigned_abs());
        self.number(remaining.clone(), reading.remaining.unsigned_abs());
        self.text(reset.clone(), |text| {
            put_number(text, reading.reset_ms);
            text.put_slice(b"ms");
        });
        if protocol == Protocol::Anthropic {
            let [limit, remaining, reset] = &names.anthropic;
            self.number(limit.clone(), reading.limit.unsigned_abs());
            self.number(remaining.clone(), reading.remaining.unsigned_abs());
            self.text(reset.clone(), |text| text.put_slice(utc(now.plus(reading.reset_ms as i64)).as_bytes()));
        }
    }

    /// Source: IETF draft-ietf-httpapi-ratelimit-headers.
    fn ietf_rates(&mut self, requests: Option<RateReading>, tokens: Option<RateReading>) {
        let both = || {
            [("requests", requests), ("tokens", tokens)]
                .into_iter()
                .filter_map(|(name, reading)| Some((name, reading?)))
        };
        if both().next().is_none() {
            return;
        }
        for (name, reading) in both() {
            put_item(&mut self.text, name, "q", reading.limit.unsigned_abs());
            self.text.put_slice(b";w=");
            put_number(&mut self.text, reading.window_ms.unsigned_abs() / 1_000);
        }
        self.insert_written(RATE_LIMIT_POLICY);
        for (name, reading) in both() {
            put_item(&mut self.text, name, "r", reading.remaining.unsigned_abs());
            self.text.put_slice(b";t=");
            put_number(&mut self.text, reading.reset_ms.div_ceil(1000));
        }
        self.insert_written(RATE_LIMIT);
    }

    /// Lets a browser page of an allowed origin read the answer.
    pub(super) fn allow_origin(&mut self, client: &HeaderMap, runtime: &Runtime) {
        let Some(origin) = client.get(http::header::ORIGIN) else { return };
        if runtime.allows_origin(origin) {
            self.parts.headers.insert(http::header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            self.parts.headers.insert(http::header::VARY, HeaderValue::from_static("origin"));
        }
    }

    pub(super) fn finish(self) -> Box<ResponseHeader> {
        Box::new(ResponseHeader::from(self.parts))
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ANTHROPIC_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const UPSTREAM_REQUEST_ID: HeaderName = HeaderName::from_static("x-tollgate-upstream-request-id");
const PROVIDER: HeaderName = HeaderName::from_static("x-tollgate-provider");
const COST: HeaderName = HeaderName::from_static("x-tollgate-cost-usd");
const MAX_TOKENS: HeaderName = HeaderName::from_static("x-tollgate-max-tokens");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The names of one rate's headers: limit, remaining, reset.
struct RateNames {
    openai: [HeaderName; 3],
    anthropic: [HeaderName; 3],
}

static REQUEST_RATE: RateNames = RateNames {
    openai: [
        HeaderName::from_static("x-ratelimit-limit-requests"),
        HeaderName::from_static("x-ratelimit-remaining-requests"),
        HeaderName::from_static("x-ratelimit-reset-requests"),
    ],
    anthropic: [
        HeaderName::from_static("anthropic-ratelimit-requests-limit"),
        HeaderName::from_static("anthropic-ratelimit-requests-remaining"),
        HeaderName::from_static("anthropic-ratelimit-requests-reset"),
    ],
};

static TOKEN_RATE: RateNames = RateNames {
    openai: [
        HeaderName::from_static("x-ratelimit-limit-tokens"),
        HeaderName::from_static("x-ratelimit-remaining-tokens"),
        HeaderName::from_static("x-ratelimit-reset-tokens"),
    ],
    anthropic: [
        HeaderName::from_static("anthropic-ratelimit-tokens-limit"),
        HeaderName::from_static("anthropic-ratelimit-tokens-remaining"),
        HeaderName::from_static("anthropic-ratelimit-tokens-reset"),
    ],
};

fn put_item(text: &mut BytesMut, name: &str, parameter: &str, number: u64) {
    if !text.is_empty() {
        text.put_slice(b", ");
    }
    for part in ["\"", name, "\";", parameter, "="] {
        text.put_slice(part.as_bytes());
    }
    put_number(text, number);
}

/// RFC 3339, to the second.
pub(super) fn utc(moment: EpochMs) -> String {
    let (year, month, day) = date_of_day(moment.day());
    let seconds = moment.0.div_euclid(1000).rem_euclid(86_400);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use filters::denied::{LimitSource, Owner};
    use filters::quota::Rate;
    use filters::window::Unit;
    use std::sync::Arc;

    fn value(head: &ResponseHeader, name: &str) -> String {
        head.headers.get(name).map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default()
    }

    #[test]
    fn rates_are_told_in_every_form() {
        let rate = |source, counted, limit| Arc::new(Rate::new(source, counted, Unit::Minute, limit));
        let chain = Chain {
            rates: vec![
                rate(LimitSource::Requests(Owner::Key, Unit::Minute), Counted::Requests, 10),
                rate(LimitSource::Tokens(Owner::Key, Unit::Minute), Counted::Tokens, 1_000),
            ],
            ..Chain::default()
        };
        let mut head = AnswerHead::new(200, BodyLength::Bytes(7));
        head.rates(&chain, None, Protocol::Anthropic, EpochMs(1_800_000_000_500));
        let head = head.finish();
        assert_eq!(value(&head, "x-ratelimit-limit-requests"), "10");
        assert_eq!(value(&head, "x-ratelimit-remaining-tokens"), "1000");
        assert_eq!(value(&head, "x-ratelimit-reset-requests"), "59500ms");
        assert_eq!(value(&head, "anthropic-ratelimit-requests-reset"), "2027-01-15T08:01:00Z");
        assert_eq!(value(&head, "ratelimit-policy"), "\"requests\";q=10;w=60, \"tokens\";q=1000;w=60");
        assert_eq!(value(&head, "ratelimit"), "\"requests\";r=10;t=60, \"tokens\";r=1000;t=60");
        assert_eq!(value(&head, "content-length"), "7");
    }

    #[test]
    fn what_is_between_the_provider_and_us_stays_there() {
        for name in [
            "set-cookie",
            "x-ratelimit-limit-requests",
            "anthropic-ratelimit-tokens-limit",
            "openai-organization",
            "alt-svc",
            "request-id",
        ] {
            assert!(!passes_to_client(&HeaderName::from_static(name)), "{name}");
        }
        for name in ["content-type", "openai-processing-ms", "openai-version", "retry-after", "cache-control"] {
            assert!(passes_to_client(&HeaderName::from_static(name)), "{name}");
        }
    }
}
