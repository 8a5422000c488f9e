//! OpenAI completions, embeddings and moderations, and Anthropic's count.

use super::client::Simulator;
use serde_json::{Value, json};

#[tokio::test]
async fn completions_answer_each_prompt() {
    let simulator = Simulator::healthy().await;
    let mut ask =
        json!({"model": "m", "prompt": ["count up", "hello"], "n": 2, "best_of": 3, "max_tokens": 2, "echo": true});
    let body = simulator.ask("/v1/completions", "", &ask).await.json();
    let texts: Vec<&Value> = body["choices"].as_array().unwrap().iter().map(|choice| &choice["text"]).collect();
    assert_eq!(texts, ["count up1 2", "count up1 2", "hello1 2", "hello1 2"]);
    // Three of each prompt are made, and two of them told.
    assert_eq!((&body["usage"]["completion_tokens"], &body["usage"]["prompt_tokens"]), (&json!(12), &json!(3)));
    ask["stream"] = json!(true);
    assert_eq!(simulator.ask("/v1/completions", "", &ask).await.status, 400);
    let ask = json!({"model": "m", "prompt": "count up", "n": 2, "max_tokens": 2, "stream": true,
        "stream_options": {"include_usage": true}});
    let answer = simulator.ask("/v1/completions", "", &ask).await;
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
    let mut events = answer.events();
    assert_eq!(events.pop().unwrap()["usage"]["completion_tokens"], 4);
    let first = events.iter().map(|event| &event["choices"][0]).filter(|choice| choice["index"] == 0);
    assert_eq!(first.map(|choice| choice["text"].as_str().unwrap()).collect::<String>(), "1 2");
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn embeddings_come_as_numbers_and_in_base64() {
    let simulator = Simulator::healthy().await;
    let mut ask = json!({"model": "text-embedding-3-small", "input": ["one two", "three"], "dimensions": 4});
    let body = simulator.ask("/v1/embeddings", "", &ask).await.json();
    assert_eq!(body["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
    let numbers: Vec<f32> = serde_json::from_value(body["data"][1]["embedding"].clone()).unwrap();
    assert_eq!((numbers.len(), &body["data"][1]["index"]), (4, &json!(1)));
    ask["encoding_format"] = json!("base64");
    let encoded = simulator.ask("/v1/embeddings", "", &ask).await.json();
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded["data"][1]["embedding"].as_str().unwrap());
    let expected: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    assert_eq!(bytes.unwrap(), expected);
    let tokens = json!({"model": "text-embedding-3-large", "input": [[1, 2, 3], [4]]});
    let body = simulator.ask("/v1/embeddings", "", &tokens).await.json();
    assert_eq!((body["data"].as_array().unwrap().len(), &body["usage"]["prompt_tokens"]), (2, &json!(4)));
    assert_eq!(body["data"][0]["embedding"].as_array().unwrap().len(), 3072);
}

#[tokio::test]
async fn moderation_has_a_result_for_each_text() {
    let ask = json!({"input": ["a", "b"]});
    let body = Simulator::healthy().await.ask("/v1/moderations", "", &ask).await.json();
    assert_eq!((body["results"].as_array().unwrap().len(), &body["results"][1]["flagged"]), (2, &json!(false)));
}

#[tokio::test]
async fn anthropic_counts_what_a_message_would_be() {
    let simulator = Simulator::healthy().await;
    let ask = json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]});
    let count = simulator.ask("/v1/messages/count_tokens", "", &ask).await.json();
    let message = simulator.ask("/v1/messages", "", &ask).await.json();
    // The limit, which a count does not have, is no part of it here either.
    assert_eq!(count, json!({"input_tokens": message["usage"]["input_tokens"]}));
}

#[tokio::test]
async fn kinds_of_usage_are_told_where_they_are_asked_for() {
    let simulator = Simulator::healthy().await;
    let ask = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "count up"}]});
    let knobs =
        "input=100, cached=30, cache-write=20, cache-write-1h=10, audio-in=5, audio-out=4, searches=2, tier=batch";
    let chat = simulator.ask_with_fault("/v1/chat/completions", knobs, &ask).await.json();
    assert_eq!((&chat["usage"]["prompt_tokens"], &chat["usage"]["completion_tokens"]), (&json!(105), &json!(13)));
    let details = &chat["usage"]["prompt_tokens_details"];
    assert_eq!((&details["audio_tokens"], &details["cache_write_tokens"]), (&json!(5), &json!(30)));
    assert_eq!((&details["cached_tokens"], &chat["service_tier"]), (&json!(30), &json!("batch")));
    assert_eq!(chat["usage"]["completion_tokens_details"]["audio_tokens"], 4);
    let usage = simulator.ask_with_fault("/v1/messages", knobs, &ask).await.json()["usage"].clone();
    assert_eq!(usage["input_tokens"], 105 - 30 - 30);
    assert_eq!((&usage["cache_creation_input_tokens"], &usage["service_tier"]), (&json!(30), &json!("batch")));
    assert_eq!(usage["cache_creation"], json!({"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10}));
    assert_eq!(usage["server_tool_use"]["web_search_requests"], 2);
}
