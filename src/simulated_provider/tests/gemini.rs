//! Gemini, as events and as an array.

use super::client::Simulator;
use serde_json::{Value, json};

const GENERATE: &str = "/v1beta/models/gemini-2.5-flash:generateContent";
const STREAM: &str = "/v1beta/models/gemini-2.5-flash:streamGenerateContent";

fn counting(limit: u64) -> Value {
    json!({"contents": [{"role": "user", "parts": [{"text": "count up"}]}], "generationConfig": {"maxOutputTokens": limit}})
}

fn text(parts: &[Value]) -> String {
    parts.iter().filter_map(|part| part["candidates"][0]["content"]["parts"][0]["text"].as_str()).collect()
}

#[tokio::test]
async fn answer_has_its_text_and_its_usage() {
    let simulator = Simulator::healthy().await;
    let body = simulator.ask_with_fault(GENERATE, "reasoning=2, tool-prompt=7, cached=1", &counting(5)).await.json();
    assert_eq!(text(std::slice::from_ref(&body)), "1 2 3");
    assert_eq!(
        (&body["candidates"][0]["finishReason"], &body["modelVersion"]),
        (&json!("MAX_TOKENS"), &json!("gemini-2.5-flash"))
    );
    let expected = json!({
        "promptTokenCount": 2, "candidatesTokenCount": 3, "thoughtsTokenCount": 2, "cachedContentTokenCount": 1,
        "toolUsePromptTokenCount": 7, "totalTokenCount": 14,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 2}],
    });
    assert_eq!(body["usageMetadata"], expected);
    let sounds = simulator.ask_with_fault(GENERATE, "audio-in=5, image-out=9", &counting(1)).await.json();
    assert_eq!(sounds["usageMetadata"]["promptTokensDetails"][1], json!({"modality": "AUDIO", "tokenCount": 5}));
    assert_eq!(sounds["usageMetadata"]["candidatesTokensDetails"][1], json!({"modality": "IMAGE", "tokenCount": 9}));
}

#[tokio::test]
async fn stream_tells_the_usage_so_far() {
    let simulator = Simulator::healthy().await;
    let events = simulator.ask(&format!("{STREAM}?alt=sse"), "", &counting(3)).await;
    assert!(
        events.text().ends_with("}\r\n\r\n") && events.header("content-type").unwrap().starts_with("text/event-stream")
    );
    let parts = events.events();
    assert_eq!((parts.len(), text(&parts)), (3, "1 2 3".to_owned()));
    let counts: Vec<&Value> = parts.iter().map(|part| &part["usageMetadata"]["candidatesTokenCount"]).collect();
    assert_eq!(counts, [1, 2, 3]);
    assert_eq!(
        (&parts[1]["candidates"][0]["finishReason"], &parts[2]["candidates"][0]["finishReason"]),
        (&Value::Null, &json!("MAX_TOKENS"))
    );
    let array = simulator.ask(STREAM, "", &counting(3)).await;
    assert_eq!(array.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(array.json().as_array().unwrap(), &parts);
    let broken = simulator.ask_with_fault(STREAM, "error-event-after=1", &counting(3)).await.json();
    assert_eq!(broken[1]["error"]["status"], "UNAVAILABLE");
}

#[tokio::test]
async fn tool_is_called() {
    let simulator = Simulator::healthy().await;
    let ask = json!({"contents": [{"role": "user", "parts": [{"text": "call it"}]}],
        "tools": [{"functionDeclarations": [{"name": "search"}]}]});
    let body = simulator.ask(GENERATE, "", &ask).await.json();
    let call = &body["candidates"][0]["content"]["parts"][0]["functionCall"];
    assert!(call["name"] == "search" && call["args"]["input"].is_string(), "{call}");
    let parts = simulator.ask(&format!("{STREAM}?alt=sse"), "", &ask).await.events();
    assert_eq!((parts.len(), &parts[0]["candidates"][0]["content"]["parts"][0]["functionCall"]), (1, call));
}

#[tokio::test]
async fn tokens_are_counted_and_texts_embedded() {
    let simulator = Simulator::healthy().await;
    let count = simulator.ask("/v1beta/models/m:countTokens", "", &counting(1)).await.json();
    assert_eq!(count["totalTokens"], 2);
    let content = json!({"parts": [{"text": "one two"}]});
    let one = json!({"content": content, "outputDimensionality": 4});
    let embedded = simulator.ask("/v1beta/models/gemini-embedding-2:embedContent", "", &one).await.json();
    assert_eq!(
        (embedded["embedding"]["values"].as_array().unwrap().len(), &embedded["usageMetadata"]["promptTokenCount"]),
        (4, &json!(2))
    );
    let batch = json!({"requests": [one, {"content": content}]});
    let embedded = simulator.ask("/v1beta/models/gemini-embedding-001:batchEmbedContents", "", &batch).await.json();
    assert_eq!(
        (embedded["embeddings"][1]["values"].as_array().unwrap().len(), &embedded["usageMetadata"]),
        (3072, &Value::Null)
    );
}

#[tokio::test]
async fn errors_have_its_shape() {
    let simulator = Simulator::healthy().await;
    let path = "/v1beta/models/m+status=429:generateContent";
    let refused = simulator.ask(path, "", &counting(1)).await;
    assert_eq!((refused.status, &refused.json()["error"]["status"]), (429, &json!("RESOURCE_EXHAUSTED")));
    assert_eq!(simulator.ask(GENERATE, "", &json!({})).await.json()["error"]["status"], "INVALID_ARGUMENT");
}
