//! The provider that benches measure against: OpenAI chat completions from memory, so that its own cost is small and even.
//!
//! It answers `POST /v1/chat/completions` with bytes made once at start: a completion of about 1 KB or, when the body says
//! `"stream":true`, 104 events: the role, 100 deltas, the finish reason, the usage and `[DONE]`, each its own write. Request
//! headers change a stream: `x-bench-pace-us: N` sends an event every N microseconds, `x-bench-hold: SECONDS` keeps it
//! open that long after its third event.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use futures_util::stream::{self, Stream, StreamExt};
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, sleep_until};

const DELTAS: usize = 100;
const EVENTS_BEFORE_HOLD: u64 = 3;
/// Streams are asked for in bodies of 1 KB, so the rest of a 2 MB body is read and dropped.
const HEAD_BYTES: usize = 4096;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    /// Microseconds between the events of a stream; 0 sends them as fast as they are taken.
    #[arg(long, default_value_t = 0)]
    token_us: u64,
}

/// Every byte that is ever sent, made once.
struct Answers {
    completion: Bytes,
    events: Vec<Bytes>,
    pace_us: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let answers: &'static Answers =
        Box::leak(Box::new(Answers { completion: completion(), events: events(), pace_us: arguments.token_us }));
    let listener = TcpListener::bind(arguments.listen).await?;
    loop {
        let (connection, _) = listener.accept().await?;
        connection.set_nodelay(true)?;
        let service = service_fn(move |request| answer(request, answers));
        // A connection that ends badly is the load generator's to report.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), service));
    }
}

async fn answer(
    request: Request<Incoming>,
    answers: &'static Answers,
) -> hyper::Result<Response<impl Body<Data = Bytes, Error = Box<dyn Error + Send + Sync>>>> {
    let (parts, body) = request.into_parts();
    let head = read_to_end(body).await?;
    let known = parts.method == Method::POST && parts.uri.path() == "/v1/chat/completions";
    let streamed = memchr::memmem::find(&head, br#""stream":true"#).is_some();
    let (status, content_type, body) = match (known, streamed) {
        (true, true) => (
            StatusCode::OK,
            "text/event-stream; charset=utf-8",
            Either::Right(StreamBody::new(play(&parts.headers, answers))),
        ),
        (true, false) => (StatusCode::OK, "application/json", Either::Left(Full::new(answers.completion.clone()))),
        (false, _) => (StatusCode::NOT_FOUND, "text/plain", Either::Left(Full::default())),
    };
    let response = Response::builder()
        .status(status)
        .header("content-type", content_type)
        .header("x-request-id", "req_bench")
        .body(body)
        .expect("constant headers are valid");
    Ok(response)
}

async fn read_to_end(mut body: Incoming) -> hyper::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            let room = HEAD_BYTES - head.len();
            head.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(head)
}

fn play(
    headers: &HeaderMap,
    answers: &'static Answers,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + use<> {
    let pace_us = number(headers, "x-bench-pace-us").unwrap_or(answers.pace_us);
    let hold_seconds = number(headers, "x-bench-hold");
    let start = Instant::now();
    stream::iter(answers.events.iter().zip(0..)).then(move |(event, index)| async move {
        if pace_us > 0 {
            // Counted from the start: sleeping between events would round each one up to the timer's next millisecond.
            sleep_until(start + Duration::from_micros(pace_us * index)).await;
        } else {
            // hyper writes what it has when the body is pending: this is what makes each event its own write.
            tokio::task::yield_now().await;
        }
        if let Some(seconds) = hold_seconds.filter(|_| index == EVENTS_BEFORE_HOLD) {
            sleep(Duration::from_secs(seconds)).await;
        }
        Ok(Frame::data(event.clone()))
    })
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

const USAGE: &str = r#"{"prompt_tokens":205,"completion_tokens":100,"total_tokens":305,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}"#;

fn completion() -> Bytes {
    let content = "The quick brown fox jumps over the lazy dog, and the dog does not mind. ".repeat(6);
    Bytes::from(format!(
        r#"{{"id":"chatcmpl-CXbenchbenchbenchbenchbenchb","object":"chat.completion","created":1790000000,"model":"gpt-4o-mini-2024-07-18","choices":[{{"index":0,"message":{{"role":"assistant","content":"{content}","refusal":null,"annotations":[]}},"logprobs":null,"finish_reason":"stop"}}],"usage":{USAGE},"service_tier":"default","system_fingerprint":"fp_benchbench"}}"#
    ))
}

fn events() -> Vec<Bytes> {
    let words = [" The", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog", "."];
    let role = r#"{"role":"assistant","content":"","refusal":null}"#;
    let mut events = vec![chunk(&choice(role, "null"), "null")];
    for word in words.iter().cycle().take(DELTAS) {
        events.push(chunk(&choice(&format!(r#"{{"content":"{word}"}}"#), "null"), "null"));
    }
    events.push(chunk(&choice("{}", r#""stop""#), "null"));
    events.push(chunk("", USAGE));
    events.push(Bytes::from_static(b"data: [DONE]\n\n"));
    events
}

fn chunk(choices: &str, usage: &str) -> Bytes {
    Bytes::from(format!(
        "data: {{\"id\":\"chatcmpl-CXbenchbenchbenchbenchbenchb\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\"model\":\"gpt-4o-mini-2024-07-18\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_benchbench\",\"choices\":[{choices}],\"usage\":{usage}}}\n\n"
    ))
}

fn choice(delta: &str, finish_reason: &str) -> String {
    format!(r#"{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish_reason}}}"#)
}
