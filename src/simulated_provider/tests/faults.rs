//! Each fault, seen by a client that looks at every byte.

use super::super::Options;
use super::client::{Answer, Ended, Simulator, read_to_end};
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use std::io::Read;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";

fn unary() -> Value {
    json!({"model": "m", "max_tokens": 3, "messages": [{"role": "user", "content": "count up"}]})
}

fn streamed() -> Value {
    let mut body = unary();
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    body
}

async fn with_fault(path: &str, fault: &str, body: &Value) -> Answer {
    Simulator::healthy().await.ask_with_fault(path, fault, body).await
}

#[tokio::test]
async fn status_comes_in_the_protocols_shape() {
    let chat = with_fault(CHAT, "status=429, retry-after=7", &streamed()).await;
    assert_eq!((chat.status, chat.header("retry-after")), (429, Some("7")));
    assert_eq!(chat.json()["error"]["code"], "rate_limit_exceeded");
    let messages = with_fault(MESSAGES, "status=529", &unary()).await;
    assert_eq!((messages.status, &messages.json()["error"]["type"]), (529, &json!("overloaded_error")));
}

#[tokio::test]
async fn fault_is_taken_from_the_models_name_and_from_the_options() {
    let mut ask = unary();
    ask["model"] = json!("gpt-4o-mini+status=503");
    assert_eq!(Simulator::healthy().await.ask(CHAT, "", &ask).await.status, 503);
    ask["model"] = json!("gpt-4o-mini+cached=1");
    assert_eq!(Simulator::healthy().await.ask(CHAT, "", &ask).await.json()["model"], "gpt-4o-mini");
    let options = Options { fault: Some("status=500".to_owned()), ..Default::default() };
    assert_eq!(Simulator::start(options).await.ask(CHAT, "", &unary()).await.status, 500);
    let wrong = Options { fault: Some("stauts=500".to_owned()), ..Default::default() };
    assert!(super::super::start(wrong).await.is_err());
}

#[tokio::test]
async fn reset_comes_after_so_many_bytes() {
    for (path, body) in [(CHAT, streamed()), (CHAT, unary()), (MESSAGES, streamed())] {
        for bytes in [0, 1, 300] {
            let answer = with_fault(path, &format!("reset-after={bytes}"), &body).await;
            assert_eq!((answer.body.len(), answer.ended, answer.whole), (bytes, Ended::Reset, false), "{path} {bytes}");
        }
    }
}

#[tokio::test]
async fn close_comes_after_so_many_bytes() {
    for (path, body) in [(CHAT, streamed()), (MESSAGES, unary())] {
        for bytes in [0, 1, 100] {
            let answer = with_fault(path, &format!("close-after={bytes}"), &body).await;
            assert_eq!((answer.body.len(), answer.ended, answer.whole), (bytes, Ended::Eof, false), "{path} {bytes}");
        }
    }
}

#[tokio::test]
async fn silence_comes_where_it_is_asked_for() {
    let simulator = Simulator::healthy().await;
    for body in [unary(), streamed()] {
        let (bytes, ended) = simulator.ask_until_silent(CHAT, "hang-before-header", &body).await;
        assert_eq!((bytes.len(), ended), (0, Ended::Silent));
        let (bytes, ended) = simulator.ask_until_silent(CHAT, "hang-after-header", &body).await;
        let answer = Answer::parse(&bytes, ended);
        assert_eq!((answer.status, answer.body.len(), answer.ended), (200, 0, Ended::Silent));
    }
    let (bytes, ended) = simulator.ask_until_silent(MESSAGES, "hang-after=4", &streamed()).await;
    let answer = Answer::parse(&bytes, ended);
    assert_eq!((answer.events().len(), answer.whole, answer.ended), (4, false, Ended::Silent));
}

#[tokio::test]
async fn usage_is_withheld() {
    for (path, body) in [(CHAT, streamed()), (CHAT, unary()), (MESSAGES, streamed()), (MESSAGES, unary())] {
        let answer = with_fault(path, "no-usage", &body).await;
        assert!(
            answer.whole && !answer.text().contains("put_tokens") && !answer.text().contains("completion_tokens"),
            "{}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn error_events_come_in_the_protocols_shape() {
    let chat = with_fault(CHAT, "error-event", &streamed()).await;
    assert_eq!((chat.status, chat.events().len(), chat.whole), (200, 1, true));
    assert_eq!(chat.events()[0]["error"]["type"], "server_error");
    let messages = with_fault(MESSAGES, "error-event-after=4", &streamed()).await;
    assert_eq!(messages.events().len(), 5);
    assert!(messages.text().contains("\n\nevent: error\ndata: "));
    assert_eq!(messages.events()[4]["error"]["type"], "overloaded_error");
    let body = with_fault(CHAT, "error-event", &unary()).await;
    assert_eq!((body.status, &body.json()["error"]["type"]), (200, &json!("server_error")));
    let instead = with_fault(MESSAGES, "error-body", &streamed()).await;
    assert_eq!((instead.status, &instead.json()["error"]["type"]), (200, &json!("api_error")));
}

#[tokio::test]
async fn bytes_drip() {
    let simulator = Simulator::healthy().await;
    let began = Instant::now();
    let mut stream = simulator.send(CHAT, "x-simulate: drip\r\n", &streamed()).await;
    let mut bytes = Vec::new();
    while bytes.windows(9).all(|window| window != b"\r\n1\r\nd\r\n1") {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
    }
    assert!(began.elapsed() >= Duration::from_millis(50), "{:?}", began.elapsed());
}

#[tokio::test]
async fn chunks_have_one_byte() {
    let answer = with_fault(CHAT, "one-byte-chunks", &streamed()).await;
    assert!(answer.whole && answer.chunks.iter().all(|size| *size == 1));
    assert_eq!(answer.body, with_fault(CHAT, "log-only", &streamed()).await.body);
}

#[tokio::test]
async fn bodies_are_not_what_they_should_be() {
    for body in [unary(), streamed()] {
        let garbage = with_fault(CHAT, "garbage", &body).await;
        assert_eq!(garbage.status, 200);
        assert!(serde_json::from_slice::<Value>(&garbage.body).is_err() && std::str::from_utf8(&garbage.body).is_err());
        let html = with_fault(CHAT, "html", &body).await;
        assert_eq!((html.status, html.header("content-type")), (200, Some("text/html; charset=utf-8")));
        let empty = with_fault(CHAT, "empty", &body).await;
        assert_eq!((empty.status, empty.body.len(), empty.whole), (200, 0, true));
    }
}

#[tokio::test]
async fn huge_event_has_the_size_asked_for() {
    let answer = with_fault(CHAT, "huge-event=3000000", &streamed()).await;
    let events: Vec<&str> = answer.text().split_inclusive("\n\n").collect();
    assert_eq!((events[1].len(), events.len(), answer.whole), (3_000_000, 7, true));
    assert!(answer.events()[1]["choices"][0]["delta"]["content"].as_str().unwrap().ends_with("aa1"));
    let body = with_fault(MESSAGES, "huge-event=2000000", &unary()).await;
    assert_eq!((body.body.len(), body.whole), (2_000_000, true));
    assert_eq!(body.json()["usage"]["output_tokens"], 3);
}

#[tokio::test]
async fn gzip_is_sent_unasked() {
    for (path, body) in [(CHAT, streamed()), (MESSAGES, unary())] {
        let answer = with_fault(path, "gzip", &body).await;
        assert_eq!((answer.header("content-encoding"), answer.whole), (Some("gzip"), true));
        let mut plain = Vec::new();
        GzDecoder::new(answer.body.as_slice()).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, with_fault(path, "log-only", &body).await.body);
    }
}

#[tokio::test]
async fn length_lies() {
    let answer = with_fault(CHAT, "lying-length", &unary()).await;
    let promised: usize = answer.header("content-length").unwrap().parse().unwrap();
    assert_eq!((promised, answer.ended), (answer.body.len() + 100, Ended::Eof));
    let stream = with_fault(MESSAGES, "lying-length", &streamed()).await;
    assert!(stream.text().ends_with("\"message_stop\"}\n\n") && !stream.whole);
}

#[tokio::test]
async fn final_event_is_left_out() {
    let chat = with_fault(CHAT, "no-done", &streamed()).await;
    assert!(chat.whole && chat.events().last().unwrap()["usage"].is_object() && !chat.text().contains("[DONE]"));
    let messages = with_fault(MESSAGES, "no-done", &streamed()).await;
    assert!(messages.whole && messages.events().last().unwrap()["type"] == "message_delta");
}

#[tokio::test]
async fn text_looks_like_usage() {
    let answer = with_fault(CHAT, "usage-in-text", &unary()).await;
    let content = answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert_eq!(content, r#""usage":{"prompt_tokens":999999} 2 3"#);
    assert_eq!(answer.json()["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn bill_is_odd() {
    let healthy = with_fault(CHAT, "log-only", &unary()).await.json()["usage"]["prompt_tokens"].as_u64().unwrap();
    let chat = with_fault(CHAT, "cached=5,reasoning=1,over=10", &unary()).await.json();
    assert_eq!((&chat["usage"]["prompt_tokens"], &chat["usage"]["completion_tokens"]), (&json!(healthy), &json!(13)));
    assert_eq!(chat["usage"]["prompt_tokens_details"]["cached_tokens"], 5);
    assert_eq!(chat["usage"]["completion_tokens_details"]["reasoning_tokens"], 1);
    // Reasoning is within the limit, as the real one's is.
    assert_eq!(chat["choices"][0]["message"]["content"], "1 2");
    let messages = with_fault(MESSAGES, "cached=5", &streamed()).await;
    let usage = messages.events().swap_remove(7)["usage"].take();
    assert_eq!(
        (&usage["input_tokens"], &usage["cache_read_input_tokens"]),
        (&json!(healthy_messages() - 5), &json!(5))
    );
}

fn healthy_messages() -> u64 {
    filters::request_head::scan(streamed().to_string().as_bytes(), filters::dialect::Dialect::OpenaiChat)
        .unwrap()
        .input_bound()
}

#[tokio::test]
async fn aborted_provider_takes_its_connections_along() {
    let simulator = Simulator::healthy().await;
    let mut stream = simulator.send(CHAT, "x-simulate: hang-after=2\r\n", &streamed()).await;
    let mut bytes = Vec::new();
    while bytes.windows(4).filter(|window| window == b"\n\n\r\n").count() < 2 {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
    }
    drop(simulator);
    let (_, ended) = read_to_end(&mut stream, Duration::from_secs(20)).await;
    assert_ne!(ended, Ended::Silent);
}
