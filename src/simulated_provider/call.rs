//! The journey of one request: read, look for faults, plan, answer.

use super::answer::Answer;
use super::body::{self, ResponseBody};
use super::faults::{Faults, Instead, WireFaults};
use super::log::{Entry, Log, credential};
use super::plan::Plan;
use super::request::Request;
use super::wire::Control;
use super::{Options, anthropic, openai_chat};
use bytes::Bytes;
use filters::dialect::Dialect;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, InvalidHeaderValue, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Twice what the gateway lets through.
const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a lying length promises beyond what is sent, and of a stream.
const LIE_BYTES: u64 = 100;
const STREAM_LIE_BYTES: u64 = 1 << 40;

const JSON: &str = "application/json";
const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";
const HTML: &str = "text/html; charset=UTF-8";
const HTML_PAGE: &str =
    "<!DOCTYPE html>\n<html><head><title>Just a moment...</title></head><body>Please wait</body></html>\n";
/// Neither JSON nor UTF-8.
const GARBAGE: &[u8] = b"{\"id\":\"chatcmpl-\xff\xfe\0\x01, \"usage\":{{{]]\n";
const GARBAGE_EVENTS: &[u8] = b"data: {\"id\":\"chatcmpl-\xff\xfe\0\x01, \"usage\":{{{]]\n\nnonsense\n\ndata: }\n\n";

/// What all connections share.
pub(super) struct Provider {
    log: Arc<Log>,
    credential: Option<String>,
    faults: Faults,
    openai_chat_headers: HeaderMap,
    anthropic_headers: HeaderMap,
    calls: AtomicU64,
}

/// A call as it came.
struct Received {
    dialect: Dialect,
    parts: Parts,
    body: Bytes,
    request_id: String,
}

/// A response before its bytes are sent.
struct Outgoing {
    status: StatusCode,
    content_type: &'static str,
    retry_after_s: Option<u64>,
    wire: WireFaults,
    answer: Answer,
}

/// A request that gets an error in the protocol's shape.
struct Refusal {
    status: StatusCode,
    message: String,
}

impl Provider {
    pub(super) fn new(options: &Options) -> io::Result<Self> {
        let mut faults = Faults::default();
        faults.pace.first_token_ms = options.first_token_ms;
        faults.pace.token_ms = options.token_ms;
        faults
            .add(options.fault.as_deref().unwrap_or_default())
            .map_err(|sentence| io::Error::new(io::ErrorKind::InvalidInput, sentence))?;
        let log = if options.without_log { Log::off() } else { Log::open(options.log.as_deref())? };
        Ok(Self {
            log: Arc::new(log),
            credential: options.credential.clone(),
            faults,
            openai_chat_headers: header_map(&openai_chat::HEADERS),
            anthropic_headers: header_map(&anthropic::HEADERS),
            calls: AtomicU64::new(0),
        })
    }

    /// Answers any request; the error is one of the connection.
    pub(super) async fn respond(
        &self,
        request: http::Request<Incoming>,
        control: &Arc<Control>,
    ) -> io::Result<Response<ResponseBody>> {
        let (parts, body) = request.into_parts();
        // Some clients are told the host, some the host and `/v1`; either way the call arrives.
        let path = parts.uri.path().trim_start_matches("/v1");
        let dialect = match (&parts.method, path) {
            (&Method::POST, "/chat/completions") => Dialect::OpenaiChat,
            (&Method::POST, "/messages") => Dialect::Anthropic,
            (&Method::GET, "/health") => return Ok(plain(StatusCode::OK, JSON, "{\"status\":\"ok\"}")),
            (&Method::GET, "/log") => {
                let records = self.log.after(log_position(parts.uri.query().unwrap_or_default()));
                return Ok(plain(StatusCode::OK, "application/x-ndjson", records));
            }
            _ => {
                let message = format!("Unknown request URL: {} {}.", parts.method, parts.uri.path());
                let body = openai_chat::error_body(StatusCode::NOT_FOUND, &message);
                return Ok(plain(StatusCode::NOT_FOUND, JSON, body));
            }
        };
        let body = Limited::new(body, REQUEST_BYTES_MAX).collect().await.map_err(io::Error::other)?.to_bytes();
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let received = Received { dialect, parts, body, request_id: format!("req_{number:024x}") };
        self.call(received, control).await.map_err(io::Error::other)
    }

    async fn call(
        &self,
        received: Received,
        control: &Arc<Control>,
    ) -> Result<Response<ResponseBody>, InvalidHeaderValue> {
        let mut entry = self.log.begin(&received.parts, &received.body, &received.request_id);
        let outgoing = match self.answer(&received, &mut entry).await {
            Ok(outgoing) => outgoing,
            Err(Refusal { status, message }) => {
                Outgoing::whole(received.dialect, status, JSON, received.error_body(status, &message))
            }
        };
        entry.answer(outgoing.status);
        let (template, id_header) = match received.dialect {
            Dialect::OpenaiChat => (&self.openai_chat_headers, "x-request-id"),
            Dialect::Anthropic => (&self.anthropic_headers, "request-id"),
        };
        let mut headers = template.clone();
        headers.insert(HeaderName::from_static(id_header), HeaderValue::try_from(received.request_id)?);
        outgoing.write_headers(&mut headers);
        let mut response = Response::new(body::send(outgoing.answer, entry, outgoing.wire, control));
        *response.status_mut() = outgoing.status;
        *response.headers_mut() = headers;
        Ok(response)
    }

    async fn answer(&self, received: &Received, entry: &mut Entry) -> Result<Outgoing, Refusal> {
        self.check_credential(&received.parts.headers)?;
        let dialect = received.dialect;
        let request = Request::read(dialect, &received.body).map_err(Refusal::bad_request)?;
        let streamed = request.head.streamed;
        let faults = self.faults_of(received, &request, entry).map_err(Refusal::bad_request)?;
        let plan = Plan::new(dialect, &request, &faults);
        entry.plan(&request.model, streamed, &plan.usage);
        // A unary answer has no event to fail with.
        let failing_body = faults.script.error_event_after.filter(|_| !streamed).map(|_| Instead::ErrorBody);
        if let Some(instead) = faults.instead.or(failing_body) {
            entry.waive();
            wait(faults.pace.first_token_ms).await;
            let outgoing = instead_of_answer(instead, received, streamed).await;
            return Ok(Outgoing { retry_after_s: faults.retry_after_s, wire: faults.wire, ..outgoing });
        }
        let (content_type, answer) = if streamed {
            (EVENT_STREAM, Answer::stream(dialect, plan, faults.script, faults.pace))
        } else {
            let gaps_ms = faults.pace.token_ms.saturating_mul(plan.reply.tokens.saturating_sub(1));
            wait(faults.pace.first_token_ms.saturating_add(gaps_ms)).await;
            (JSON, Answer::body(dialect, &plan, faults.script))
        };
        Ok(Outgoing { status: StatusCode::OK, content_type, retry_after_s: None, wire: faults.wire, answer })
    }

    /// The faults of all calls, then those of the header, then those of the model's name.
    fn faults_of(&self, received: &Received, request: &Request, entry: &mut Entry) -> Result<Faults, String> {
        let header = received.parts.headers.get("x-simulate").and_then(|list| list.to_str().ok()).unwrap_or_default();
        entry.simulate([header, &request.model_faults].join(" ").trim().to_owned());
        let mut faults = self.faults.clone();
        faults.add(header)?;
        faults.add(&request.model_faults)?;
        Ok(faults)
    }

    fn check_credential(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match &self.credential {
            Some(expected) if credential(headers) != Some(expected.as_bytes()) => Err(Refusal {
                status: StatusCode::UNAUTHORIZED,
                message: "Incorrect API key provided. The simulated provider was started with another.".to_owned(),
            }),
            Some(_) | None => Ok(()),
        }
    }
}

impl Received {
    /// An error in the protocol's shape.
    fn error_body(&self, status: StatusCode, message: &str) -> Bytes {
        match self.dialect {
            Dialect::OpenaiChat => openai_chat::error_body(status, message),
            Dialect::Anthropic => anthropic::error_body(status, message, &self.request_id),
        }
    }
}

impl Refusal {
    fn bad_request(message: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message }
    }
}

impl Outgoing {
    fn whole(dialect: Dialect, status: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let answer = Answer::whole(dialect, bytes.into());
        Self { status, content_type, retry_after_s: None, wire: WireFaults::default(), answer }
    }

    fn write_headers(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.wire.gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let length = match self.answer.length() {
            length if self.wire.lying_length => Some(length.map_or(STREAM_LIE_BYTES, |length| length + LIE_BYTES)),
            // The compressed length is known only at the end.
            _ if self.wire.gzip => None,
            length => length,
        };
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
    }
}

async fn instead_of_answer(instead: Instead, received: &Received, streamed: bool) -> Outgoing {
    let expected_type = if streamed { EVENT_STREAM } else { JSON };
    let (status, content_type, bytes) = match instead {
        Instead::Status(status) => {
            let message = format!("Simulated status {}.", status.as_u16());
            (status, JSON, received.error_body(status, &message))
        }
        Instead::ErrorBody => {
            let shape = StatusCode::INTERNAL_SERVER_ERROR;
            (StatusCode::OK, JSON, received.error_body(shape, "Simulated error with status 200."))
        }
        Instead::Garbage => {
            let bytes = if streamed { GARBAGE_EVENTS } else { GARBAGE };
            (StatusCode::OK, expected_type, Bytes::from_static(bytes))
        }
        Instead::Html => (StatusCode::OK, HTML, Bytes::from_static(HTML_PAGE.as_bytes())),
        Instead::Empty => (StatusCode::OK, expected_type, Bytes::new()),
        Instead::Silence => pending().await,
    };
    Outgoing::whole(received.dialect, status, content_type, bytes)
}

fn plain(status: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Response<ResponseBody> {
    let body = Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn header_map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = headers.iter().copied();
    pairs.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

/// N of `after=N` in a query; 0 if there is none.
fn log_position(query: &str) -> u64 {
    let after = query.split('&').find_map(|pair| pair.strip_prefix("after="));
    after.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// A model that takes no time touches no timer.
async fn wait(milliseconds: u64) {
    if milliseconds > 0 {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
}
