//! Cohere, version 2.

use super::client::Simulator;
use serde_json::{Value, json};

#[tokio::test]
async fn chat_bills_less_than_it_counts() {
    let simulator = Simulator::healthy().await;
    let mut ask = json!({"model": "command-a", "max_tokens": 3, "messages": [{"role": "user", "content": "count up"}]});
    let body = simulator.ask("/v2/chat", "", &ask).await.json();
    assert_eq!(
        (&body["message"]["content"][0]["text"], &body["finish_reason"]),
        (&json!("1 2 3"), &json!("MAX_TOKENS"))
    );
    assert_eq!(body["usage"]["billed_units"], json!({"input_tokens": 2, "output_tokens": 3}));
    assert_eq!(body["usage"]["tokens"]["input_tokens"], 498);
    ask["stream"] = json!(true);
    let events = simulator.ask("/v2/chat", "", &ask).await.events();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let delta = "content-delta";
    assert_eq!(kinds, ["message-start", "content-start", delta, delta, delta, "content-end", "message-end"]);
    assert_eq!(events[6]["delta"]["usage"], body["usage"]);
    assert_eq!(
        simulator.ask("/v2/chat", "", &json!({"model": "m"})).await.json()["id"].as_str().map(str::len),
        Some(28)
    );
}

#[tokio::test]
async fn tool_is_called_in_fragments() {
    let simulator = Simulator::healthy().await;
    let tools = json!([{"type": "function", "function": {"name": "search", "parameters": {}}}]);
    let mut ask = json!({"model": "m", "messages": [{"role": "user", "content": "call it"}], "tools": tools});
    let whole = simulator.ask("/v2/chat", "", &ask).await.json();
    let call = &whole["message"]["tool_calls"][0]["function"];
    ask["stream"] = json!(true);
    let events = simulator.ask("/v2/chat", "", &ask).await.events();
    let deltas = events.iter().filter(|event| event["type"] == "tool-call-delta");
    let arguments: String = deltas
        .map(|event| event["delta"]["message"]["tool_calls"]["function"]["arguments"].as_str().unwrap())
        .collect();
    assert_eq!((&call["name"], &call["arguments"]), (&json!("search"), &json!(arguments)));
}

#[tokio::test]
async fn embed_and_rerank_bill_their_units() {
    let simulator = Simulator::healthy().await;
    let ask = json!({"model": "embed-v4.0", "input_type": "search_query", "texts": ["one two", "three"],
        "output_dimension": 4, "embedding_types": ["float", "int8"]});
    let body = simulator.ask("/v2/embed", "", &ask).await.json();
    assert_eq!(
        (body["embeddings"]["int8"][1].as_array().unwrap().len(), &body["meta"]["billed_units"]["input_tokens"]),
        (4, &json!(3))
    );
    let ask = json!({"model": "rerank-v3.5", "query": "q", "documents": vec!["d"; 101], "top_n": 2});
    let body = simulator.ask("/v2/rerank", "", &ask).await.json();
    let results: &Vec<Value> = body["results"].as_array().unwrap();
    assert_eq!((results.len(), &body["meta"]["billed_units"]), (2, &json!({"search_units": 2})));
}
