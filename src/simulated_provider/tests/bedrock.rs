//! Amazon Bedrock's runtime: JSON and binary event streams.

use super::client::{Answer, Simulator};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

const CLAUDE: &str = "/model/eu.anthropic.claude-sonnet-4-6-v1%3A0";

fn converse(limit: u64) -> Value {
    json!({"messages": [{"role": "user", "content": [{"text": "count up"}]}], "inferenceConfig": {"maxTokens": limit}})
}

/// The messages of a stream: the last header's value and the payload, with both checksums looked at.
fn messages(answer: &Answer) -> Vec<(String, Value)> {
    let (mut rest, mut found) = (&answer.body[..], Vec::new());
    while !rest.is_empty() {
        let number = |at: usize| u32::from_be_bytes(rest[at..at + 4].try_into().unwrap());
        let (total, head) = (number(0) as usize, number(4) as usize);
        assert_eq!((number(8), number(total - 4)), (crc32fast::hash(&rest[..8]), crc32fast::hash(&rest[..total - 4])));
        let kind = String::from_utf8_lossy(&rest[12..12 + head]).into_owned();
        found.push((kind, serde_json::from_slice(&rest[12 + head..total - 4]).unwrap()));
        rest = &rest[total..];
    }
    found
}

#[tokio::test]
async fn converse_counts_cached_tokens_beside_the_others() {
    let path = format!("{CLAUDE}/converse");
    let body = Simulator::healthy()
        .await
        .ask_with_fault(&path, "input=10, cached=3, cache-write=2", &converse(3))
        .await
        .json();
    assert_eq!(
        (&body["output"]["message"]["content"][0]["text"], &body["stopReason"]),
        (&json!("1 2 3"), &json!("max_tokens"))
    );
    let expected = json!({"inputTokens": 5, "outputTokens": 3, "totalTokens": 13, "cacheReadInputTokens": 3, "cacheWriteInputTokens": 2});
    assert_eq!(body["usage"], expected);
}

#[tokio::test]
async fn converse_stream_is_binary() {
    let simulator = Simulator::healthy().await;
    let path = format!("{CLAUDE}/converse-stream");
    let answer = simulator.ask(&path, "", &converse(2)).await;
    assert_eq!(answer.header("content-type"), Some("application/vnd.amazon.eventstream"));
    let found = messages(&answer);
    let kinds =
        ["messageStart", "contentBlockDelta", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata"];
    assert!(found.len() == 6 && found.iter().zip(kinds).all(|((head, _), kind)| head.contains(kind)), "{found:?}");
    assert_eq!((&found[2].1["delta"]["text"], &found[5].1["usage"]["outputTokens"]), (&json!(" 2"), &json!(2)));
    let broken = messages(&simulator.ask_with_fault(&path, "error-event-after=1", &converse(2)).await);
    assert!(broken[1].0.contains("exception") && broken[1].0.contains("modelStreamErrorException"));
    let tools =
        json!({"tools": [{"toolSpec": {"name": "search", "inputSchema": {"json": {}}}}], "toolChoice": {"any": {}}});
    let mut ask = converse(99);
    ask["toolConfig"] = tools;
    let called = messages(&simulator.ask(&path, "", &ask).await);
    assert_eq!(called[1].1["start"]["toolUse"]["name"], "search");
    assert_eq!(called.last().unwrap().1["usage"]["outputTokens"], called.len() - 5);
}

#[tokio::test]
async fn invoke_speaks_the_models_own_language() {
    let simulator = Simulator::healthy().await;
    let ask = json!({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 2, "messages": [{"role": "user", "content": "count up"}]});
    let whole = simulator.ask(&format!("{CLAUDE}/invoke"), "", &ask).await;
    assert_eq!(
        (&whole.json()["content"][0]["text"], &whole.json()["usage"]["output_tokens"]),
        (&json!("1 2"), &json!(2))
    );
    assert_eq!(whole.header("x-amzn-bedrock-output-token-count"), Some("2"));
    let stream = simulator.ask(&format!("{CLAUDE}/invoke-with-response-stream"), "", &ask).await;
    let decoded = |(_, payload): (String, Value)| -> Value {
        serde_json::from_slice(&STANDARD.decode(payload["bytes"].as_str().unwrap()).unwrap()).unwrap()
    };
    let events: Vec<Value> = messages(&stream).into_iter().map(decoded).collect();
    assert_eq!((&events[0]["type"], &events[6]["usage"]["output_tokens"]), (&json!("message_start"), &json!(2)));
    assert_eq!(events[7]["amazon-bedrock-invocationMetrics"]["outputTokenCount"], 2);
    let ask = json!({"prompt": "count up", "max_gen_len": 2});
    let llama = simulator.ask("/model/meta.llama3-3-70b-instruct-v1:0/invoke", "", &ask).await.json();
    assert_eq!(
        llama,
        json!({"generation": "1 2", "prompt_token_count": 2, "generation_token_count": 2, "stop_reason": "length"})
    );
    let stream = simulator.ask("/model/meta.llama3-3-70b-instruct-v1:0/invoke-with-response-stream", "", &ask).await;
    let events: Vec<Value> = messages(&stream).into_iter().map(decoded).collect();
    assert_eq!(
        (events.len(), &events[2]["generation_token_count"], &events[1]["generation"]),
        (3, &json!(2), &json!(" 2"))
    );
}

#[tokio::test]
async fn errors_have_its_shape() {
    let simulator = Simulator::healthy().await;
    let refused = simulator.ask_with_fault(&format!("{CLAUDE}/converse"), "status=429", &converse(1)).await;
    assert_eq!((refused.status, refused.header("x-amzn-errortype")), (429, Some("throttlingexception")));
    assert!(refused.json()["message"].is_string());
}
