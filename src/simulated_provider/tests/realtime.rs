//! A realtime session, frame by frame.

use super::client::{SILENCE, Simulator, read_to_end};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const MASK: [u8; 4] = [1, 2, 3, 4];

fn masked(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, 0x80 | 126];
    frame.extend((text.len() as u16).to_be_bytes());
    frame.extend(MASK);
    frame.extend(text.bytes().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The texts of short frames.
fn texts(mut rest: &[u8]) -> Vec<Value> {
    let mut found = Vec::new();
    while let [0x81, length, after @ ..] = rest {
        let (length, after) = match length {
            126 => (usize::from(u16::from_be_bytes([after[0], after[1]])), &after[2..]),
            short => (usize::from(*short), after),
        };
        found.push(serde_json::from_slice(&after[..length]).unwrap());
        rest = &after[length..];
    }
    found
}

#[tokio::test]
async fn session_answers_and_bills_each_answer() {
    let simulator = Simulator::healthy().await;
    let mut stream = TcpStream::connect(simulator.address).await.unwrap();
    let head = "GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nx-simulate: audio-out=5\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let item = json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "count up"}]});
    stream.write_all(&masked(&json!({"type": "conversation.item.create", "item": item}).to_string())).await.unwrap();
    let create = json!({"type": "response.create", "response": {"max_output_tokens": 2}});
    stream.write_all(&masked(&create.to_string())).await.unwrap();
    let (bytes, _) = read_to_end(&mut stream, SILENCE).await;
    let split = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let answered = String::from_utf8_lossy(&bytes[..split]).to_ascii_lowercase();
    assert!(answered.starts_with("http/1.1 101"), "{answered}");
    let events = texts(&bytes[split..]);
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let delta = "response.output_text.delta";
    assert_eq!(
        kinds,
        ["session.created", "conversation.item.added", "response.created", delta, delta, "response.done"]
    );
    let response = &events[5]["response"];
    assert_eq!(response["output"][0]["content"][0]["text"], "1 2");
    assert_eq!((&response["usage"]["input_tokens"], &response["usage"]["output_tokens"]), (&json!(2), &json!(7)));
    assert_eq!(response["usage"]["output_token_details"], json!({"text_tokens": 2, "audio_tokens": 5}));
    let record = simulator.records(0, 1).await.remove(0);
    assert_eq!((&record["path"], &record["output_tokens_billed"]), (&json!("/v1/realtime"), &json!(7)));
}

#[tokio::test]
async fn other_requests_are_refused() {
    assert_eq!(Simulator::healthy().await.get("/v1/realtime?model=m").await.status, 400);
}
