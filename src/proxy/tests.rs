//! Clients that leave after every byte of an answer, over streams in memory: what has passed is charged, to the token.

use super::*;
use crate::address_guard::AddressGuard;
use crate::config::Config;
use filters::id::{KeyId, OrgId};
use filters::key::{Key, Status, Token};
use filters::memory::{MemoryJournal, MemoryKeys, MemoryObjects, SoleNode};
use filters::money::NanoUsd;
use filters::ports::{Outcome, Terminal};
use filters::quota::Chain;
use filters::scope::Scopes;
use filters::usage::{Kind, Usage};
use futures_util::FutureExt;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;

const PIPE_BYTES: usize = 64 * 1024;
/// Every task that can go on has gone on when this many others had their turn.
const TURNS: usize = 12;
const CONFIG: &str = "data_dir = 'data'\n[gateway.limits]\nanswer_buffer_bytes = 64\n[log]\ncalls = false\n\
    [catalogue]\nfile = 'models.toml'\n\
    [providers.chat]\nprotocol = 'openai'\nbase_url = 'http://127.0.0.1:9/v1'\ncredentials = [{ value = 'sk' }]\n\
    [providers.messages]\nprotocol = 'anthropic'\nbase_url = 'http://127.0.0.1:9/v1'\ncredentials = [{ value = 'sk' }]\n";

fn models() -> String {
    let model = |provider: &str| {
        format!(
            "[[models]]\nid = '{provider}'\naliases = []\ncontext_tokens = 1_000_000\noutput_tokens_max = 100_000\n\
             output_limit_field = 'max_tokens'\ncandidates = [{{ provider = '{provider}', model = '{provider}' }}]\n\
             [[models.prices]]\nfrom = '2026-01-01'\ninput = '1'\ncache_read = '0.1'\noutput = '10'\n"
        )
    };
    model("chat") + &model("messages")
}

/// A gateway whose providers are reached over the pipes that it is given.
struct Bench {
    gateway: Arc<Gateway>,
    journal: MemoryJournal,
    token: Token,
}

impl Bench {
    fn new() -> Self {
        let config = Config::parse(CONFIG, "tollgate.toml", &models(), "models.toml").expect("a configuration");
        let pepper = Pepper::new(&[1; 32]).expect("long enough");
        let token = Token::issue(&config.keys.prefix, [3; 32]);
        let key = Key {
            id: KeyId(1),
            name: "k".into(),
            org: OrgId(2),
            project: None,
            org_suspended: false,
            status: Status::Live,
            expires: None,
            scopes: Scopes::of_new_key(),
            models: Vec::new(),
            providers: Vec::new(),
            addresses: Vec::new(),
            secret_ends: None,
            chain: Arc::new(Chain::default()),
            own: None,
        };
        let journal = MemoryJournal::default();
        let metrics = Arc::new(Metrics::default());
        let gateway = Gateway {
            runtime: ArcSwap::from_pointee(Runtime::new(&config, &metrics).expect("a runtime")),
            keys: Arc::new(MemoryKeys([(pepper.lookup(token.reveal()), Arc::new(key))].into())),
            pepper,
            journal: Arc::new(journal.clone()),
            objects: Arc::new(MemoryObjects::default()),
            notes: mpsc::channel(1).0,
            authority: Arc::new(SoleNode::default()),
            rates: None,
            metrics,
            control: Arc::new(NoControl),
            own: OwnAccounts::new(AddressGuard::new(&config.outgoing).expect("a guard"), mpsc::channel(1).0),
            dialer: Dialer::new(None).expect("a dialer"),
            activity: Arc::default(),
            options: HttpServerOptions::default(),
            call_salt: [7; 5],
        };
        Self { gateway: Arc::new(gateway), journal, token }
    }

    /// Has a call answered by so many bytes of the sample's answer, leaves, and gives back what the client got and the
    /// call's line in the books.
    async fn leave_after(&self, sample: &Sample, bytes: usize) -> (Vec<u8>, Terminal) {
        let (mut client, door) = duplex(PIPE_BYTES);
        let (mut provider, upstream) = duplex(PIPE_BYTES);
        let providers = self.gateway.runtime.load().providers();
        let known = providers.iter().find(|known| *known.name == *sample.provider).expect("it is configured");
        known.idle.close_old(Duration::ZERO);
        known.idle.give_back(Box::new(upstream));
        let gateway = Arc::clone(&self.gateway);
        let (_keep, shutdown) = watch::channel(false);
        let served = tokio::spawn(async move {
            gateway.process_new_http(ServerSession::new_http1(Box::new(door)), &shutdown).await.is_some()
        });
        client.write_all(&sample.request(self.token.reveal())).await.expect("it is read");
        read_request(&mut provider).await;
        provider.write_all(&sample.wire[..bytes]).await.expect("it is read");
        let mut got = Vec::new();
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
            while let Some(Ok(1..)) = client.read_buf(&mut got).now_or_never() {}
        }
        drop(client);
        served.await.expect("nobody panics");
        let (_, mut ends) = self.journal.calls().into_values().next().expect("the call is on the books");
        self.journal.clear();
        assert_eq!(ends.len(), 1, "a call ends once");
        (got, ends.remove(0))
    }
}

async fn read_request(provider: &mut DuplexStream) {
    let mut request = Vec::new();
    loop {
        assert_ne!(provider.read_buf(&mut request).await.expect("a pipe"), 0, "the request is whole");
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        if body.len() == length.parse::<usize>().expect("a number") {
            return;
        }
    }
}

/// An answer of a provider.
struct Sample {
    name: &'static str,
    provider: &'static str,
    path: &'static str,
    fields: Value,
    /// The events of a stream, or the one text of a body.
    parts: Vec<String>,
    is_stream: bool,
    wire: Vec<u8>,
    /// For each byte of the body, how many bytes of the wire must have come for it.
    comes_at: Vec<usize>,
}

impl Sample {
    /// A stream of events, in chunks of so many bytes; 0: each event in one.
    fn stream(name: &'static str, fields: Value, parts: Vec<String>, chunk_bytes: usize) -> Self {
        let is_chat = !parts.concat().contains("message_start");
        let (provider, path) = if is_chat { ("chat", "/v1/chat/completions") } else { ("messages", "/v1/messages") };
        let mut fields = fields;
        fields["stream"] = true.into();
        let mut wire =
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        let mut comes_at = Vec::new();
        let body = parts.concat().into_bytes();
        let chunks: Vec<&[u8]> = match chunk_bytes {
            0 => parts.iter().map(|part| part.as_bytes()).collect(),
            bytes => body.chunks(bytes).collect(),
        };
        for chunk in chunks {
            wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            comes_at.extend((1..=chunk.len()).map(|byte| wire.len() + byte));
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n\r\n");
        Self { name, provider, path, fields, parts, is_stream: true, wire, comes_at }
    }

    fn body(name: &'static str, text: String) -> Self {
        let mut wire =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", text.len())
                .into_bytes();
        let comes_at = (1..=text.len()).map(|byte| wire.len() + byte).collect();
        wire.extend_from_slice(text.as_bytes());
        let (provider, path, parts) = ("chat", "/v1/chat/completions", vec![text]);
        Self { name, provider, path, fields: json!({}), parts, is_stream: false, wire, comes_at }
    }

    fn request(&self, token: &str) -> Vec<u8> {
        let mut body = self.fields.clone();
        body["model"] = self.provider.into();
        body["max_tokens"] = 50_000.into();
        body["messages"] = json!([{"role": "user", "content": "Hello"}]);
        let body = body.to_string();
        let length = body.len();
        format!(
            "POST {} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n{body}",
            self.path
        )
        .into_bytes()
    }

    /// What the books must say when so many bytes have come and the client has got these.
    fn oracle(&self, bytes: usize, got: &[u8], input_estimate: u64) -> (Usage, bool, Outcome) {
        let came = self.comes_at.iter().filter(|at| **at <= bytes).count();
        let is_over = bytes == self.wire.len();
        if self.is_stream {
            let events = self.events_within(came);
            let has_ended =
                is_over || events.iter().any(|event| event.contains("[DONE]") || event.contains("message_stop"));
            let visible: Vec<_> = events.iter().filter(|event| self.is_visible(event)).map(|event| &***event).collect();
            assert_eq!(String::from_utf8_lossy(&relayed(got)), visible.concat(), "{} after {bytes}", self.name);
            let (usage, is_estimated) = usage_of_events(&events, input_estimate);
            return (usage, is_estimated, if has_ended { Outcome::Complete } else { Outcome::ClientGone });
        }
        let text = &self.parts[0];
        // Figures are read when what follows them shows that they are whole.
        let figures = text.find("\"usage\":").map(|at| {
            let end = at + text[at..].find('}').expect("its end") + 1;
            end + text[end..].find([',', '}']).expect("the object goes on or ends") + 1
        });
        let value: Value = serde_json::from_str(text).expect("JSON");
        let outcome = if came == text.len() { Outcome::Complete } else { Outcome::ClientGone };
        match figures {
            Some(end) if came >= end => (usage_of(&value["usage"], Usage::default()), false, outcome),
            _ => {
                let seen = if came == text.len() { text.len() } else { relayed(got).len() };
                (Usage::of(input_estimate, (seen as u64).div_ceil(4)), true, outcome)
            }
        }
    }

    fn events_within(&self, came: usize) -> Vec<&String> {
        let mut end = 0;
        let whole = |event: &&String| {
            end += event.len();
            end <= came
        };
        self.parts.iter().take_while(whole).collect()
    }

    /// Whether a client that did not ask for the usage event sees this one.
    fn is_visible(&self, event: &str) -> bool {
        self.provider != "chat"
            || self.fields["stream_options"].is_object()
            || !event.contains("\"choices\":[],\"usage\":{")
    }
}

/// The body of what a client got.
fn relayed(got: &[u8]) -> Vec<u8> {
    let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") else { return Vec::new() };
    let (head, mut rest) = got.split_at(end + 4);
    if !String::from_utf8_lossy(head).to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return rest.to_vec();
    }
    let mut body = Vec::new();
    while let Some(line) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..line]), 16).expect("a size");
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[(line + 4 + size).min(rest.len())..];
    }
    body
}

/// A provider's figures; what they leave out is as it was before.
fn usage_of(figures: &Value, before: Usage) -> Usage {
    let count = |path: &str| figures.pointer(path).and_then(Value::as_u64);
    let cached = count("/prompt_tokens_details/cached_tokens").unwrap_or(0);
    [
        (Kind::CacheRead, count("/cache_read_input_tokens").or(Some(cached).filter(|cached| *cached > 0))),
        (Kind::Input, count("/prompt_tokens").map(|all| all - cached).or(count("/input_tokens"))),
        (Kind::Output, count("/completion_tokens").or(count("/output_tokens"))),
    ]
    .into_iter()
    .fold(before, |usage, (kind, count)| count.map_or(usage, |count| usage.with(kind, count)))
}

fn usage_of_events(events: &[&String], input_estimate: u64) -> (Usage, bool) {
    let (mut reported, mut is_final, mut bytes, mut pieces) = (None, false, 0_u64, 0_u64);
    for event in events {
        let Some((_, data)) = event.split_once("data: ") else { continue };
        let data: Value = serde_json::from_str(data.trim_end()).unwrap_or_default();
        for figures in [&data["usage"], &data["message"]["usage"]].into_iter().filter(|figures| figures.is_object()) {
            reported = Some(usage_of(figures, reported.unwrap_or_default()));
            is_final = data["type"] != "message_start";
        }
        let choices = data["choices"].as_array().cloned().unwrap_or_default();
        let deltas = choices.iter().map(|choice| &choice["delta"]).chain([&data["delta"]]);
        let text: u64 = deltas.map(text_bytes).sum();
        bytes += text;
        pieces += u64::from(text > 0);
    }
    let estimate = bytes.div_ceil(4).max(pieces);
    match reported {
        Some(usage) if is_final => (usage, false),
        Some(usage) => (usage.with(Kind::Output, usage.get(Kind::Output).max(estimate)), true),
        None => (Usage::of(input_estimate, estimate), true),
    }
}

fn text_bytes(delta: &Value) -> u64 {
    let names =
        ["/content", "/reasoning_content", "/tool_calls/0/function/arguments", "/text", "/thinking", "/partial_json"];
    names.iter().filter_map(|name| delta.pointer(name)?.as_str()).map(|text| text.len() as u64).sum()
}

fn chunk(delta: &Value) -> String {
    format!(
        "data: {{\"id\":\"c\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":null}}],\"usage\":null}}\n\n"
    )
}

fn chat(deltas: &[Value], usage: &str) -> Vec<String> {
    let mut events: Vec<_> = deltas.iter().map(chunk).collect();
    events.push(
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n".to_owned(),
    );
    if !usage.is_empty() {
        events.push(format!("data: {{\"id\":\"c\",\"choices\":[],\"usage\":{usage}}}\n\n"));
    }
    events.push("data: [DONE]\n\n".to_owned());
    events
}

fn message(start: &str, deltas: &[&str], end: &str) -> Vec<String> {
    let event = |kind: &str, rest: &str| format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{rest}}}\n\n");
    let mut events = vec![
        event("message_start", &format!(",\"message\":{{\"usage\":{start}}}")),
        event("content_block_start", ",\"index\":0"),
        event("ping", ""),
    ];
    events.extend(deltas.iter().map(|delta| event("content_block_delta", &format!(",\"index\":0,\"delta\":{delta}"))));
    events.push(event("content_block_stop", ",\"index\":0"));
    events.push(event("message_delta", &format!(",\"delta\":{{}},\"usage\":{end}")));
    events.push(event("message_stop", ""));
    events
}

const USAGE: &str = r#"{"prompt_tokens":70,"completion_tokens":33}"#;
const CACHED: &str = r#"{"prompt_tokens":70,"completion_tokens":33,"prompt_tokens_details":{"cached_tokens":50}}"#;

fn chats() -> Vec<Sample> {
    let words =
        [json!({"role": "assistant", "content": ""}), json!({"content": "Eins"}), json!({"content": " zwei und fünf"})];
    let asked = || json!({"stream_options": {"include_usage": true}});
    let stream = |name, fields, parts, bytes| Sample::stream(name, fields, parts, bytes);
    let crlf = chat(&words, USAGE).iter().map(|event| event.replace('\n', "\r\n")).collect();
    let mut commented = chat(&words, USAGE);
    commented.insert(1, ": keep-alive\n\n".to_owned());
    let arguments = |text| json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]});
    let two = |text: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}},{{\"index\":1,\"delta\":{{\"content\":\"b\"}}}}]}}\n\n"
        )
    };
    let mut without_end = chat(&words, USAGE);
    without_end.pop();
    vec![
        stream("a chat", json!({}), chat(&words, USAGE), 0),
        stream("a chat in one piece", json!({}), chat(&words, USAGE), 10_000),
        stream("a chat in small pieces", json!({}), chat(&words, USAGE), 7),
        stream("a chat with usage", asked(), chat(&words, USAGE), 0),
        stream("a chat with usage in small pieces", asked(), chat(&words, USAGE), 5),
        stream("a chat with cached input", asked(), chat(&words[1..], CACHED), 0),
        stream("a chat in CRLF", json!({}), crlf, 11),
        stream("a chat with comments", json!({}), commented, 0),
        stream("a chat without figures", json!({}), chat(&words, ""), 0),
        stream("a tool call", json!({}), chat(&[arguments("{a"), arguments(":1}")], USAGE), 0),
        stream("a thoughtful chat", json!({}), chat(&[json!({"reasoning_content": "hm"}), words[1].clone()], USAGE), 0),
        stream("two choices", json!({"n": 2}), vec![two("a"), two("c and more"), "data: [DONE]\n\n".to_owned()], 0),
        stream("a chat without its last event", json!({}), without_end, 0),
    ]
}

fn messages() -> Vec<Sample> {
    let (start, end) = (r#"{"input_tokens":70,"output_tokens":2}"#, r#"{"output_tokens":33}"#);
    let text =
        [r#"{"type":"text_delta","text":"Eins"}"#, r#"{"type":"text_delta","text":" zwei und noch mehr Wörter"}"#];
    let thought = [r#"{"type":"thinking_delta","thinking":"hm, hm, hm"}"#, text[0]];
    let tool =
        [r#"{"type":"input_json_delta","partial_json":"{a"}"#, r#"{"type":"input_json_delta","partial_json":":1}"}"#];
    let cached = r#"{"input_tokens":7,"cache_read_input_tokens":60,"output_tokens":1}"#;
    let stream = |name, parts, bytes| Sample::stream(name, json!({}), parts, bytes);
    vec![
        stream("a message", message(start, &text, end), 0),
        stream("a message in small pieces", message(start, &text, end), 9),
        stream("a thoughtful message", message(start, &thought, end), 0),
        stream("a tool's input", message(start, &tool, end), 0),
        stream("a message with cached input", message(cached, &text, r#"{"input_tokens":null,"output_tokens":9}"#), 0),
    ]
}

fn bodies() -> Vec<Sample> {
    let filler = "x".repeat(150);
    vec![
        Sample::body("a small body", format!("{{\"usage\":{USAGE} }}")),
        Sample::body("a large body", format!("{{\"id\":\"{filler}\",\"usage\":{USAGE},\"object\":\"c\"}}")),
        Sample::body("a large body with its usage first", format!("{{\"usage\":{USAGE},\"id\":\"{filler}\"}}")),
        Sample::body("a large body without figures", format!("{{\"id\":\"{filler}\"}}")),
    ]
}

#[test]
fn a_client_that_leaves_after_any_byte_is_charged_what_has_passed() {
    let samples: Vec<Sample> = [chats(), messages(), bodies()].into_iter().flatten().collect();
    assert!(samples.len() >= 20);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let bench = Bench::new();
        for sample in &samples {
            let (_, begun) = bench.leave_after(sample, 0).await;
            let input_estimate = begun.usage.get(Kind::Input);
            for bytes in 0..=sample.wire.len() {
                let (got, terminal) = bench.leave_after(sample, bytes).await;
                let (usage, is_estimated, outcome) = sample.oracle(bytes, &got, input_estimate);
                let booked = (terminal.usage, terminal.estimated, terminal.outcome);
                assert_eq!(booked, (usage, is_estimated, outcome), "{} after {bytes} bytes", sample.name);
                let prices = [(Kind::Input, 1_000), (Kind::CacheRead, 100), (Kind::Output, 10_000)];
                let cost = prices.iter().map(|(kind, price)| usage.get(*kind) * price).sum::<u64>();
                assert_eq!(terminal.charge, NanoUsd(cost.try_into().expect("little money")));
            }
        }
    });
}

/// Nobody asks these gateways about organisations.
struct NoControl;

impl crate::proxy::ControlPlane for NoControl {
    fn answer(
        &self,
        _: http::Request<bytes::Bytes>,
        _: std::net::IpAddr,
        _: filters::id::CallId,
    ) -> crate::proxy::ControlAnswer {
        unreachable!("nobody asks")
    }
}
