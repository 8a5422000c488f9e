//! The provider that benches measure against: answers from memory, so that its own cost is small and even.
//!
//! It answers with bytes made once at start: `POST /v1/chat/completions` with a completion of about 1 KB or, when the body says
//! `"stream":true`, 104 events: the role, 100 deltas, the finish reason, the usage and `[DONE]`, each its own write;
//! `/v1/responses` and Gemini's `:streamGenerateContent` with streams of 100 deltas, `/v1/images/generations` with an image of 1 MB.
//! Request headers change a stream: `x-bench-pace-us: N` sends an event every N microseconds, `x-bench-hold: SECONDS` keeps it
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
    image: Bytes,
    chat: Vec<Bytes>,
    responses: Vec<Bytes>,
    gemini: Vec<Bytes>,
    pace_us: u64,
}

impl Answers {
    fn new(pace_us: u64) -> Self {
        let (chat, responses, gemini) = (chat_events(), responses_events(), gemini_events());
        Self { completion: completion(), image: image(), chat, responses, gemini, pace_us }
    }

    /// The stream or the body that a path is answered with.
    fn at(&'static self, path: &str, streamed: bool) -> Option<Answer> {
        match path {
            "/v1/chat/completions" if streamed => Some(Answer::Stream(&self.chat)),
            "/v1/chat/completions" => Some(Answer::Whole(&self.completion)),
            "/v1/responses" => Some(Answer::Stream(&self.responses)),
            "/v1/images/generations" => Some(Answer::Whole(&self.image)),
            _ => path.ends_with(":streamGenerateContent").then_some(Answer::Stream(&self.gemini)),
        }
    }
}

enum Answer {
    Whole(&'static Bytes),
    Stream(&'static [Bytes]),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let answers: &'static Answers = Box::leak(Box::new(Answers::new(arguments.token_us)));
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
    let streamed = memchr::memmem::find(&head, br#""stream":true"#).is_some();
    let known = (parts.method == Method::POST).then(|| answers.at(parts.uri.path(), streamed)).flatten();
    let (status, content_type, body) = match known {
        Some(Answer::Stream(events)) => (
            StatusCode::OK,
            "text/event-stream; charset=utf-8",
            Either::Right(StreamBody::new(play(&parts.headers, events, answers.pace_us))),
        ),
        Some(Answer::Whole(body)) => (StatusCode::OK, "application/json", Either::Left(Full::new(body.clone()))),
        None => (StatusCode::NOT_FOUND, "text/plain", Either::Left(Full::default())),
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
    events: &'static [Bytes],
    pace_us: u64,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + use<> {
    let pace_us = number(headers, "x-bench-pace-us").unwrap_or(pace_us);
    let hold_seconds = number(headers, "x-bench-hold");
    let start = Instant::now();
    stream::iter(events.iter().zip(0..)).then(move |(event, index)| async move {
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

const WORDS: [&str; 10] = [" The", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog", "."];

fn image() -> Bytes {
    let picture = "iVBORw0KGgoAAAANSUhEUgAABAAAAAQACAIAAADwf7zU".repeat(23_832);
    Bytes::from(format!(
        r#"{{"created":1790000000,"background":"opaque","data":[{{"b64_json":"{picture}"}}],"output_format":"png","quality":"medium","size":"1024x1024","usage":{{"input_tokens":205,"input_tokens_details":{{"image_tokens":0,"text_tokens":205}},"output_tokens":100,"total_tokens":305}}}}"#
    ))
}

fn responses_events() -> Vec<Bytes> {
    let head = r#""id":"resp_benchbenchbenchbenchbenchbenchbenchbench","object":"response","created_at":1790000000,"model":"gpt-4o-mini-2024-07-18""#;
    let event = |kind: &str, number: usize, rest: &str| {
        Bytes::from(format!("event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{number},{rest}}}\n\n"))
    };
    let begun = format!(r#""response":{{{head},"status":"in_progress","output":[],"usage":null}}"#);
    let mut events = vec![event("response.created", 0, &begun), event("response.in_progress", 1, &begun)];
    for (word, number) in WORDS.iter().cycle().take(DELTAS).zip(2..) {
        let rest = format!(
            r#""item_id":"msg_benchbenchbenchbenchbenchbenchbenchbenchbench","output_index":0,"content_index":0,"delta":"{word}","logprobs":[],"obfuscation":"ABCDEFGH""#
        );
        events.push(event("response.output_text.delta", number, &rest));
    }
    let done = format!(
        r#""response":{{{head},"status":"completed","service_tier":"default","output":[{{"id":"msg_bench","type":"message","status":"completed","role":"assistant","content":[{{"type":"output_text","annotations":[],"text":"{}"}}]}}],"usage":{{"input_tokens":205,"input_tokens_details":{{"cached_tokens":0}},"output_tokens":100,"output_tokens_details":{{"reasoning_tokens":0}},"total_tokens":305}}}}"#,
        WORDS.concat().repeat(DELTAS / WORDS.len())
    );
    events.push(event("response.completed", DELTAS + 2, &done));
    events
}

fn gemini_events() -> Vec<Bytes> {
    let event = |word: &str, finish: &str, output: usize| {
        Bytes::from(format!(
            "data: {{\"candidates\": [{{\"content\": {{\"parts\": [{{\"text\": \"{word}\"}}],\"role\": \"model\"}}{finish},\"index\": 0}}],\"usageMetadata\": {{\"promptTokenCount\": 205,\"candidatesTokenCount\": {output},\"totalTokenCount\": {},\"promptTokensDetails\": [{{\"modality\": \"TEXT\",\"tokenCount\": 205}}]}},\"modelVersion\": \"gemini-bench\",\"responseId\": \"bench\"}}\r\n\r\n",
            205 + output
        ))
    };
    let words = WORDS.iter().cycle().zip(1..DELTAS).map(|(word, output)| event(word, "", output));
    words.chain([event(".", ",\"finishReason\": \"STOP\"", DELTAS)]).collect()
}

fn chat_events() -> Vec<Bytes> {
    let role = r#"{"role":"assistant","content":"","refusal":null}"#;
    let mut events = vec![chunk(&choice(role, "null"), "null")];
    for word in WORDS.iter().cycle().take(DELTAS) {
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
