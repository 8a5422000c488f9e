//! Both protocols as their official clients know them.

use super::super::Options;
use super::client::{Answer, Ended, SILENCE, Simulator, read_to_end};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";

fn counting(limit: u64, more: Value) -> Value {
    let mut body = json!({"model": "m-1", "max_tokens": limit, "messages": [{"role": "user", "content": "count up"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn chat_text(events: &[Value], choice: u64) -> String {
    let choices = events.iter().flat_map(|event| event["choices"].as_array().unwrap());
    choices.filter(|found| found["index"] == choice).filter_map(|found| found["delta"]["content"].as_str()).collect()
}

#[tokio::test]
async fn chat_counts_to_the_limit_in_one_answer() {
    let answer = Simulator::healthy().await.ask(CHAT, "", &counting(4, json!({"n": 2}))).await;
    let body = answer.json();
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!((&body["object"], &body["model"]), (&json!("chat.completion"), &json!("m-1")));
    for choice in [0, 1] {
        assert_eq!(body["choices"][choice]["index"], choice);
        assert_eq!(body["choices"][choice]["message"]["content"], "1 2 3 4");
        assert_eq!(body["choices"][choice]["finish_reason"], "length");
    }
    let bound = filters::request_head::scan(
        counting(4, json!({"n": 2})).to_string().as_bytes(),
        filters::dialect::Dialect::OpenaiChat,
    )
    .unwrap()
    .input_bound();
    assert_eq!(body["usage"]["prompt_tokens"], bound);
    assert_eq!(body["usage"]["completion_tokens"], 8);
    assert_eq!(body["usage"]["total_tokens"], bound + 8);
}

#[tokio::test]
async fn chat_stream_has_one_event_a_token_and_usage_where_asked() {
    let simulator = Simulator::healthy().await;
    let more = json!({"stream": true, "n": 2, "stream_options": {"include_usage": true}});
    let answer = simulator.ask(CHAT, "", &counting(3, more)).await;
    assert!(answer.whole && answer.text().ends_with("data: [DONE]\n\n"));
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let events = answer.events();
    // A role and a finish for each choice, three tokens for each, the usage.
    assert_eq!((events.len(), answer.chunks.len()), (11, 12));
    assert_eq!((chat_text(&events, 0), chat_text(&events, 1)), ("1 2 3".to_owned(), "1 2 3".to_owned()));
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(events[9]["choices"][0]["finish_reason"], "length");
    assert!(events[..10].iter().all(|event| event.get("usage") == Some(&Value::Null)));
    assert_eq!((&events[10]["choices"], &events[10]["usage"]["completion_tokens"]), (&json!([]), &json!(6)));
    assert_eq!(events[10]["usage"]["prompt_tokens_details"]["cached_tokens"], 0);

    let silent = simulator.ask(CHAT, "", &counting(3, json!({"stream": true}))).await;
    assert!(!silent.text().contains("usage"));
}

#[tokio::test]
async fn other_prompts_get_a_short_reply_that_stops() {
    let simulator = Simulator::healthy().await;
    let ask = json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]});
    let first = simulator.ask(CHAT, "", &ask).await;
    assert_eq!(first.body, simulator.ask("/chat/completions", "", &ask).await.body);
    let body = first.json();
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    let words = body["choices"][0]["message"]["content"].as_str().unwrap().split(' ').count();
    assert_eq!(body["usage"]["completion_tokens"], words);
    let no_limit = json!({"model": "m", "messages": [{"role": "user", "content": "count "}]});
    assert_eq!(simulator.ask(CHAT, "", &no_limit).await.json()["usage"]["completion_tokens"], 256);
}

#[tokio::test]
async fn messages_count_to_the_limit_in_one_answer() {
    let body = Simulator::healthy().await.ask(MESSAGES, "", &counting(4, json!({}))).await.json();
    assert_eq!((&body["type"], &body["stop_reason"]), (&json!("message"), &json!("max_tokens")));
    assert_eq!(body["content"], json!([{"type": "text", "text": "1 2 3 4"}]));
    assert_eq!((&body["usage"]["output_tokens"], &body["usage"]["cache_read_input_tokens"]), (&json!(4), &json!(0)));
}

#[tokio::test]
async fn messages_stream_has_the_events_of_the_real_one() {
    let answer = Simulator::healthy().await.ask(MESSAGES, "", &counting(2, json!({"stream": true}))).await;
    let names: Vec<&str> = answer.text().lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    let delta = "content_block_delta";
    let expected = [
        "message_start",
        "content_block_start",
        "ping",
        delta,
        delta,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names, expected);
    let events = answer.events();
    assert!(events.iter().zip(expected).all(|(event, name)| event["type"] == name));
    assert_eq!(events[0]["message"]["usage"]["output_tokens"], 1);
    assert_eq!(events[4]["delta"], json!({"type": "text_delta", "text": " 2"}));
    assert_eq!(events[6]["delta"]["stop_reason"], "max_tokens");
    assert_eq!(events[6]["usage"]["output_tokens"], 2);
    assert_eq!(events[6]["usage"]["input_tokens"], events[0]["message"]["usage"]["input_tokens"]);
}

#[tokio::test]
async fn chat_calls_a_tool_in_fragments() {
    let simulator = Simulator::healthy().await;
    let mut ask = json!({"model": "m", "messages": [{"role": "user", "content": "call it"}],
        "tools": [{"type": "function", "function": {"name": "look \"up\"", "parameters": {}}}]});
    let whole = simulator.ask(CHAT, "", &ask).await.json();
    let call = &whole["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(call["function"]["name"], "look \"up\"");

    ask["stream"] = json!(true);
    let events = simulator.ask(CHAT, "", &ask).await.events();
    let opening = &events[0]["choices"][0]["delta"]["tool_calls"][0];
    assert_eq!((&opening["id"], &opening["function"]["name"]), (&call["id"], &call["function"]["name"]));
    let fragments: Vec<&str> = events[1..events.len() - 1]
        .iter()
        .map(|event| event["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str().unwrap())
        .collect();
    assert!(fragments.len() >= 2);
    assert_eq!(fragments.concat(), call["function"]["arguments"].as_str().unwrap());
    let arguments: Value = serde_json::from_str(&fragments.concat()).unwrap();
    assert!(arguments["input"].as_str().unwrap().contains(' '));
    assert_eq!(whole["usage"]["completion_tokens"], fragments.len());
}

#[tokio::test]
async fn messages_call_a_tool_in_fragments() {
    let simulator = Simulator::healthy().await;
    let mut ask = json!({"model": "m", "max_tokens": 99, "messages": [{"role": "user", "content": "call it"}],
        "tools": [{"name": "search", "input_schema": {}}]});
    let whole = simulator.ask(MESSAGES, "", &ask).await.json();
    assert_eq!((&whole["stop_reason"], &whole["content"][0]["name"]), (&json!("tool_use"), &json!("search")));

    ask["stream"] = json!(true);
    let events = simulator.ask(MESSAGES, "", &ask).await.events();
    assert_eq!(events[1]["content_block"]["id"], whole["content"][0]["id"]);
    let fragments: Vec<&str> = events.iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
    assert!(fragments.len() >= 2);
    let input: Value = serde_json::from_str(&fragments.concat()).unwrap();
    assert_eq!(input, whole["content"][0]["input"]);
}

#[tokio::test]
async fn headers_are_those_that_a_gateway_must_drop() {
    let simulator = Simulator::healthy().await;
    let chat = simulator.ask(CHAT, "", &counting(1, json!({}))).await;
    for name in
        ["x-request-id", "openai-organization", "openai-processing-ms", "x-ratelimit-limit-tokens", "set-cookie"]
    {
        assert!(chat.header(name).is_some(), "{name}");
    }
    let messages = simulator.ask(MESSAGES, "", &counting(1, json!({}))).await;
    for name in ["request-id", "anthropic-ratelimit-requests-limit", "set-cookie"] {
        assert!(messages.header(name).is_some(), "{name}");
    }
}

#[tokio::test]
async fn another_credential_is_refused_in_the_protocols_shape() {
    let options = Options { credential: Some("right".to_owned()), ..Default::default() };
    let simulator = Simulator::start(options).await;
    let ask = counting(1, json!({}));
    assert_eq!(simulator.ask(CHAT, "authorization: Bearer right\r\n", &ask).await.status, 200);
    assert_eq!(simulator.ask(MESSAGES, "x-api-key: right\r\n", &ask).await.status, 200);
    let chat = simulator.ask(CHAT, "authorization: Bearer wrong\r\n", &ask).await;
    assert_eq!((chat.status, &chat.json()["error"]["code"]), (401, &json!("invalid_api_key")));
    let messages = simulator.ask(MESSAGES, "", &ask).await;
    assert_eq!((messages.status, &messages.json()["error"]["type"]), (401, &json!("authentication_error")));
    assert_eq!(messages.json()["request_id"].as_str(), messages.header("request-id"));
}

#[tokio::test]
async fn what_is_not_a_call_is_refused() {
    let simulator = Simulator::healthy().await;
    assert_eq!(simulator.ask(CHAT, "", &json!({"messages": []})).await.status, 400);
    assert_eq!(simulator.ask(MESSAGES, "x-simulate: stauts=1\r\n", &counting(1, json!({}))).await.status, 400);
    assert_eq!(simulator.ask("/v1/embeddings", "", &json!({})).await.status, 400);
    assert_eq!(simulator.ask("/v1/nothing", "", &json!({})).await.status, 404);
    assert_eq!(simulator.get(CHAT).await.status, 404);
    assert_eq!(simulator.get("/health").await.json()["status"], "ok");
}

#[tokio::test]
async fn pace_is_kept() {
    let options = Options { first_token_ms: 60, token_ms: 20, ..Default::default() };
    let simulator = Simulator::start(options).await;
    for more in [json!({}), json!({"stream": true})] {
        let began = Instant::now();
        let answer = simulator.ask(CHAT, "", &counting(4, more)).await;
        assert!(answer.whole);
        assert!(began.elapsed() >= Duration::from_millis(120), "{:?}", began.elapsed());
    }
    // A call may ask for another pace.
    let began = Instant::now();
    simulator.ask_with_fault(CHAT, "first-token-ms=0,token-ms=0", &counting(400, json!({"stream": true}))).await;
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn connection_is_kept_for_the_next_call() {
    let simulator = Simulator::healthy().await;
    let mut stream = TcpStream::connect(simulator.address).await.unwrap();
    let body = counting(2, json!({})).to_string();
    for _ in 0..2 {
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        let (bytes, ended) = read_to_end(&mut stream, SILENCE).await;
        assert_eq!(ended, Ended::Silent);
        assert!(Answer::parse(&bytes, ended).whole);
    }
}

/// HTTP/2 frames by hand: type, flags, stream, payload.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Header fields as literals that are not indexed.
fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.extend([0, name.len() as u8]);
        bytes.extend(name.as_bytes());
        bytes.push(value.len() as u8);
        bytes.extend(value.as_bytes());
    }
    bytes
}

#[tokio::test]
async fn http2_is_spoken_without_an_upgrade() {
    let simulator = Simulator::healthy().await;
    let mut stream = TcpStream::connect(simulator.address).await.unwrap();
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", CHAT), (":authority", "x")];
    let body = counting(3, json!({"stream": true})).to_string();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, b""));
    bytes.extend(frame(1, 4, 1, &literals(&fields)));
    bytes.extend(frame(0, 1, 1, body.as_bytes()));
    stream.write_all(&bytes).await.unwrap();
    let (bytes, _) = read_to_end(&mut stream, SILENCE).await;
    let (mut rest, mut text, mut is_ended) = (bytes.as_slice(), Vec::new(), false);
    while rest.len() >= 9 {
        let size = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        if rest[3] == 0 {
            text.extend_from_slice(&rest[9..9 + size]);
            is_ended |= rest[4] & 1 == 1;
        }
        rest = &rest[9 + size..];
    }
    let text = String::from_utf8(text).unwrap();
    assert!(is_ended && text.contains("\"content\":\" 3\"") && text.ends_with("data: [DONE]\n\n"), "{text}");
}
