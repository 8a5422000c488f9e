//! The journey of one request: read, look for faults, plan, answer.

use super::answer::Answer;
use super::ask::Ask;
use super::body::{self, ResponseBody};
use super::faults::{Faults, Instead, WireFaults};
use super::headers::{header_map, id_header};
use super::log::{Entry, Log, credential};
use super::objects::{Objects, Refused};
use super::openai_realtime::{self, Session};
use super::plan::Plan;
use super::request::Request;
use super::route::{self, ObjectPath, Operation, Route, Target};
use super::wire::Control;
use super::{Options, anthropic, bedrock, bedrock_invoke, cohere_chat, gemini, openai_chat};
use bytes::Bytes;
use filters::dialect::{Dialect, Protocol};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, InvalidHeaderValue, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The largest file that a real one takes.
const REQUEST_BYTES_MAX: usize = 512 * 1024 * 1024;
/// How often a background response is asked after before it is complete.
const POLLS_DEFAULT: u64 = 2;
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
    /// Of every answer, by protocol.
    headers: HashMap<Protocol, HeaderMap>,
    objects: Objects,
    calls: AtomicU64,
}

/// A request as it came.
struct Received {
    route: Route,
    protocol: Protocol,
    parts: Parts,
    body: Bytes,
    request_id: String,
}

/// A response before its bytes are sent.
struct Outgoing {
    status: StatusCode,
    content_type: HeaderValue,
    retry_after_s: Option<u64>,
    headers: Vec<(HeaderName, HeaderValue)>,
    wire: WireFaults,
    answer: Answer,
}

/// A request that gets an error in the protocol's shape.
struct Refusal {
    status: StatusCode,
    message: String,
    /// In place of the status's own, where the protocol has codes.
    code: Option<&'static str>,
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
            headers: Protocol::ALL.into_iter().map(|protocol| (protocol, header_map(protocol))).collect(),
            objects: Objects::new()?,
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
        let route = route::find(&parts);
        let protocol = match &route {
            Route::Health => return Ok(plain(StatusCode::OK, JSON, "{\"status\":\"ok\"}")),
            Route::Log => {
                let position = route::query_value(&parts.uri, "after").and_then(|number| number.parse().ok());
                let records = self.log.after(position.unwrap_or(0));
                return Ok(plain(StatusCode::OK, "application/x-ndjson", records));
            }
            Route::Session => return Ok(self.open_session(parts, control)),
            Route::Call(target) => target.dialect.protocol(),
            Route::Object(path) => path.protocol,
        };
        let body = Limited::new(body, REQUEST_BYTES_MAX).collect().await.map_err(io::Error::other)?.to_bytes();
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let received = Received { route, protocol, parts, body, request_id: format!("req_{number:024x}") };
        self.call(received, control).await.map_err(io::Error::other)
    }

    async fn call(
        &self,
        received: Received,
        control: &Arc<Control>,
    ) -> Result<Response<ResponseBody>, InvalidHeaderValue> {
        let mut entry = self.log.begin(&received.parts, &received.body, &received.request_id);
        let answered = match &received.route {
            Route::Call(target) => self.answer(&received, target, &mut entry).await,
            Route::Object(path) => self.answer_object(&received, path, &mut entry).await,
            Route::Session | Route::Health | Route::Log => pending().await,
        };
        let outgoing = answered.unwrap_or_else(|refusal| received.refuse(refusal));
        entry.answer(outgoing.status);
        let mut headers = self.headers.get(&received.protocol).cloned().unwrap_or_default();
        if let Some(name) = id_header(received.protocol) {
            headers.insert(HeaderName::from_static(name), HeaderValue::try_from(received.request_id)?);
        }
        outgoing.write_headers(&mut headers);
        let mut response = Response::new(body::send(outgoing.answer, entry, outgoing.wire, control));
        *response.status_mut() = outgoing.status;
        *response.headers_mut() = headers;
        Ok(response)
    }

    async fn answer(&self, received: &Received, target: &Target, entry: &mut Entry) -> Result<Outgoing, Refusal> {
        self.check_credential(&received.parts.headers)?;
        let ask = Ask::read(target.clone(), received.content_type(), &received.body).map_err(Refusal::bad_request)?;
        let mut request = Request::read(ask).map_err(Refusal::bad_request)?;
        self.go_on_from(&mut request)?;
        let faults = self.faults_of(received, &request.model_faults, entry).map_err(Refusal::bad_request)?;
        let streamed = request.streamed;
        let mut plan = Plan::new(&request, &faults);
        entry.plan(&request.model, streamed, &plan.usage);
        // A unary answer has no event to fail with.
        let failing_body = faults.script.error_event_after.filter(|_| !streamed).map(|_| Instead::ErrorBody);
        if let Some(instead) = faults.instead.or(failing_body) {
            entry.waive();
            wait(faults.pace.first_token_ms).await;
            let outgoing = instead_of_answer(instead, received, streamed).await;
            return Ok(Outgoing { retry_after_s: faults.retry_after_s, wire: faults.wire, ..outgoing });
        }
        self.keep(&mut plan, &faults, streamed);
        let invoked = target.dialect == Dialect::BedrockInvoke && !streamed;
        let headers = if invoked { bedrock_invoke::headers(&plan) } else { Vec::new() };
        let (content_type, answer) = if streamed {
            (EVENT_STREAM, Answer::stream(plan, faults.script, faults.pace))
        } else {
            let gaps_ms = faults.pace.token_ms.saturating_mul(plan.reply.tokens.saturating_sub(1));
            wait(faults.pace.first_token_ms.saturating_add(gaps_ms)).await;
            (JSON, Answer::body(&plan, faults.script))
        };
        let content_type = HeaderValue::from_static(request.content_type.unwrap_or(content_type));
        let status = StatusCode::OK;
        Ok(Outgoing { status, content_type, retry_after_s: None, headers, wire: faults.wire, answer })
    }

    /// What is kept or listed costs nothing, and only what is not of the model can go wrong with it.
    async fn answer_object(
        &self,
        received: &Received,
        path: &ObjectPath,
        entry: &mut Entry,
    ) -> Result<Outgoing, Refusal> {
        self.check_credential(&received.parts.headers)?;
        let faults = self.faults_of(received, "", entry).map_err(Refusal::bad_request)?;
        if let Some(instead) = faults.instead {
            let outgoing = instead_of_answer(instead, received, false).await;
            return Ok(Outgoing { retry_after_s: faults.retry_after_s, wire: faults.wire, ..outgoing });
        }
        let reply = self.objects.answer(path, &received.parts, &received.body)?;
        let content_type = HeaderValue::try_from(reply.content_type).unwrap_or(HeaderValue::from_static(JSON));
        let whole = Outgoing::whole(StatusCode::OK, JSON, reply.body);
        Ok(Outgoing { content_type, headers: reply.headers, wire: faults.wire, ..whole })
    }

    /// Agrees on a session, which begins when this answer has gone.
    fn open_session(&self, mut parts: Parts, control: &Control) -> Response<ResponseBody> {
        let refuse = |status, message: &str| plain(status, JSON, openai_chat::error_body(status, message, None));
        if let Err(refusal) = self.check_credential(&parts.headers) {
            return refuse(refusal.status, &refusal.message);
        }
        let model = route::query_value(&parts.uri, "model").unwrap_or_default().to_owned();
        let mut faults = self.faults.clone();
        let header = parts.headers.get("x-simulate").and_then(|list| list.to_str().ok()).unwrap_or_default();
        let is_known = faults.add(header).and_then(|()| faults.add(model.split_once('+').unwrap_or_default().1));
        let agreed = openai_realtime::agree(&parts.headers).filter(|_| is_known.is_ok());
        let (Some(headers), Some(upgrade)) = (agreed, parts.extensions.remove::<OnUpgrade>()) else {
            return refuse(StatusCode::BAD_REQUEST, "This path takes WebSocket connections only.");
        };
        let request_id = format!("req_{:024x}", self.calls.fetch_add(1, Ordering::Relaxed) + 1);
        let log = Arc::clone(&self.log);
        control.begin(Session { upgrade, parts, request_id, model, faults, log });
        let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, JSON, Bytes::new());
        *response.headers_mut() = headers;
        response
    }

    /// A response that goes on from another is billed for all of that again.
    fn go_on_from(&self, request: &mut Request) -> Result<(), Refusal> {
        let previous = request.ask.text("previous_response_id");
        if request.ask.target.dialect != Dialect::OpenaiResponses || previous.is_empty() {
            return Ok(());
        }
        let message = format!("Previous response with id '{previous}' not found.");
        let code = Some("previous_response_not_found");
        let tokens = self.objects.tokens_before(previous);
        request.input_tokens += tokens.ok_or(Refusal { status: StatusCode::BAD_REQUEST, message, code })?;
        Ok(())
    }

    /// Keeps a response that asks for it, under a name that no other has.
    fn keep(&self, plan: &mut Plan, faults: &Faults, streamed: bool) {
        let ask = &plan.ask;
        let is_response = ask.target.dialect == Dialect::OpenaiResponses && ask.target.operation == Operation::Plain;
        if is_response && ask.body["store"] != false {
            let waits = ask.flag("background") && !streamed;
            plan.id = self.objects.new_number();
            self.objects
                .keep_response(plan.clone(), if waits { faults.script.polls.unwrap_or(POLLS_DEFAULT) } else { 0 });
        }
    }

    /// The faults of all calls, then those of the header, then those of the model's name.
    fn faults_of(&self, received: &Received, model_faults: &str, entry: &mut Entry) -> Result<Faults, String> {
        let header = received.parts.headers.get("x-simulate").and_then(|list| list.to_str().ok()).unwrap_or_default();
        entry.simulate([header, model_faults].join(" ").trim().to_owned());
        let mut faults = self.faults.clone();
        faults.add(header)?;
        faults.add(model_faults)?;
        Ok(faults)
    }

    fn check_credential(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match &self.credential {
            Some(expected) if credential(headers) != Some(expected.as_bytes()) => Err(Refusal {
                status: StatusCode::UNAUTHORIZED,
                message: "Incorrect API key provided. The simulated provider was started with another.".to_owned(),
                code: None,
            }),
            Some(_) | None => Ok(()),
        }
    }
}

impl Received {
    fn content_type(&self) -> &str {
        self.parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// An error in the protocol's shape.
    fn error_body(&self, status: StatusCode, message: &str, code: Option<&str>) -> Bytes {
        match self.protocol {
            Protocol::Openai => openai_chat::error_body(status, message, code),
            Protocol::Anthropic => anthropic::error_body(status, message, &self.request_id),
            Protocol::Gemini => gemini::error_body(status, message),
            Protocol::Cohere => cohere_chat::error_body(message, &self.request_id),
            Protocol::Bedrock => bedrock::error_body(message),
        }
    }

    fn error(&self, status: StatusCode, message: &str, code: Option<&str>) -> Outgoing {
        let mut outgoing = Outgoing::whole(status, JSON, self.error_body(status, message, code));
        if self.protocol == Protocol::Bedrock {
            let kind = HeaderValue::from_static(bedrock::error_kind(status));
            outgoing.headers.push((HeaderName::from_static("x-amzn-errortype"), kind));
        }
        outgoing
    }

    fn refuse(&self, refusal: Refusal) -> Outgoing {
        self.error(refusal.status, &refusal.message, refusal.code)
    }
}

impl Refusal {
    fn bad_request(message: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message, code: None }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let code = (refused.status == StatusCode::NOT_FOUND).then_some("not_found");
        Self { status: refused.status, message: refused.message, code }
    }
}

impl Outgoing {
    fn whole(status: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let (answer, content_type) = (Answer::whole(bytes.into()), HeaderValue::from_static(content_type));
        Self { status, content_type, retry_after_s: None, headers: Vec::new(), wire: WireFaults::default(), answer }
    }

    fn write_headers(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_TYPE, self.content_type.clone());
        headers.extend(self.headers.iter().cloned());
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
            return received.error(status, &message, None);
        }
        Instead::ErrorBody => {
            let shape = StatusCode::INTERNAL_SERVER_ERROR;
            (StatusCode::OK, JSON, received.error_body(shape, "Simulated error with status 200.", None))
        }
        Instead::Garbage => {
            let bytes = if streamed { GARBAGE_EVENTS } else { GARBAGE };
            (StatusCode::OK, expected_type, Bytes::from_static(bytes))
        }
        Instead::Html => (StatusCode::OK, HTML, Bytes::from_static(HTML_PAGE.as_bytes())),
        Instead::Empty => (StatusCode::OK, expected_type, Bytes::new()),
        Instead::Silence => pending().await,
    };
    Outgoing::whole(status, content_type, bytes)
}

fn plain(status: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Response<ResponseBody> {
    let body = Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A model that takes no time touches no timer.
async fn wait(milliseconds: u64) {
    if milliseconds > 0 {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
}
