//! OpenAI responses, made, streamed and kept.

use super::client::Simulator;
use serde_json::{Value, json};

const RESPONSES: &str = "/v1/responses";

fn counting(limit: u64, more: Value) -> Value {
    let mut body = json!({"model": "m-1", "max_output_tokens": limit, "input": "count up"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn response_has_its_text_and_its_usage() {
    let simulator = Simulator::healthy().await;
    let cut = simulator.ask(RESPONSES, "", &counting(3, json!({}))).await.json();
    assert_eq!((&cut["object"], &cut["status"]), (&json!("response"), &json!("incomplete")));
    assert_eq!(cut["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(cut["output"][0]["content"][0]["text"], "1 2 3");
    assert_eq!((&cut["usage"]["input_tokens"], &cut["usage"]["output_tokens"]), (&json!(2), &json!(3)));
    let knobs = "reasoning=2, cached=1, searches=1, tier=flex";
    let whole = simulator.ask_with_fault(RESPONSES, knobs, &json!({"model": "m", "input": "hello you"})).await.json();
    assert_eq!((&whole["status"], &whole["service_tier"]), (&json!("completed"), &json!("flex")));
    let kinds: Vec<&Value> = whole["output"].as_array().unwrap().iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["reasoning", "web_search_call", "message"]);
    assert_eq!(whole["usage"]["output_tokens_details"]["reasoning_tokens"], 2);
    assert_eq!(whole["usage"]["input_tokens_details"]["cached_tokens"], 1);
    assert_eq!(whole["tool_usage"]["web_search"]["num_requests"], 1);
}

#[tokio::test]
async fn stream_has_the_events_of_the_real_one() {
    let simulator = Simulator::healthy().await;
    let ask = counting(2, json!({"stream": true, "store": false}));
    let answer = simulator.ask(RESPONSES, "", &ask).await;
    let events = answer.events();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ];
    assert_eq!(kinds, expected);
    assert!(events.iter().enumerate().all(|(index, event)| event["sequence_number"] == index));
    assert_eq!(events[0]["response"]["usage"], Value::Null);
    assert_eq!((&events[5]["delta"], &events[6]["text"]), (&json!(" 2"), &json!("1 2")));
    let unary = simulator.ask(RESPONSES, "", &counting(2, json!({"store": false}))).await.json();
    let last = &events[9]["response"];
    assert_eq!((&last["id"], &last["output"], &last["usage"]), (&unary["id"], &unary["output"], &unary["usage"]));
    let failed = simulator.ask_with_fault(RESPONSES, "failed", &ask).await;
    let failed = failed.events().pop().unwrap();
    assert_eq!(
        (&failed["type"], &failed["response"]["usage"]["output_tokens"]),
        (&json!("response.failed"), &json!(2))
    );
    let broken = simulator.ask_with_fault(RESPONSES, "error-event-after=2", &ask).await.events();
    assert_eq!((broken.len(), &broken[2]["type"]), (3, &json!("error")));
}

#[tokio::test]
async fn tool_is_called_in_fragments() {
    let simulator = Simulator::healthy().await;
    let tools = json!([{"type": "web_search"}, {"type": "function", "name": "search", "parameters": {}}]);
    let mut ask = json!({"model": "m", "input": "call it", "tools": tools, "store": false});
    let whole = simulator.ask(RESPONSES, "", &ask).await.json();
    let call = &whole["output"][0];
    assert_eq!((&call["type"], &call["name"]), (&json!("function_call"), &json!("search")));
    ask["stream"] = json!(true);
    let events = simulator.ask(RESPONSES, "", &ask).await.events();
    let deltas = events.iter().filter(|event| event["type"] == "response.function_call_arguments.delta");
    let fragments: String = deltas.map(|event| event["delta"].as_str().unwrap()).collect();
    assert_eq!(call["arguments"], fragments.as_str());
    let result = json!([{"role": "user", "content": "call it"}, call, {"type": "function_call_output", "output": "4"}]);
    ask["input"] = result;
    let after = simulator.ask(RESPONSES, "", &ask).await.events().pop().unwrap();
    assert_eq!(after["response"]["output"][0]["type"], "message");
}

#[tokio::test]
async fn response_is_kept_until_it_is_removed() {
    let simulator = Simulator::healthy().await;
    let made = simulator.ask(RESPONSES, "", &counting(2, json!({}))).await.json();
    let again = simulator.ask(RESPONSES, "", &counting(2, json!({}))).await.json();
    assert_ne!(made["id"], again["id"]);
    let path = format!("{RESPONSES}/{}", made["id"].as_str().unwrap());
    assert_eq!(simulator.get(&path).await.json(), made);
    let items = simulator.get(&format!("{path}/input_items")).await.json();
    assert_eq!(items["data"][0]["content"][0]["text"], "count up");
    let replayed = simulator.get(&format!("{path}?stream=true&starting_after=7")).await.events();
    assert_eq!((replayed.len(), &replayed[0]["sequence_number"]), (2, &json!(8)));
    assert_eq!(simulator.exchange(&format!("POST {path}/cancel"), "", b"").await.status, 400);
    let next = counting(1, json!({"previous_response_id": made["id"]}));
    let next = simulator.ask(RESPONSES, "", &next).await.json();
    assert_eq!(next["usage"]["input_tokens"], 2 + 4);
    let removed = simulator.exchange(&format!("DELETE {path}"), "", b"").await.json();
    assert_eq!(removed["deleted"], true);
    assert_eq!(simulator.get(&path).await.status, 404);
    let orphan = simulator.ask(RESPONSES, "", &counting(1, json!({"previous_response_id": made["id"]}))).await;
    assert_eq!((orphan.status, &orphan.json()["error"]["code"]), (400, &json!("previous_response_not_found")));
    let unkept = simulator.ask(RESPONSES, "", &counting(2, json!({"store": false}))).await.json();
    assert_eq!(simulator.get(&format!("{RESPONSES}/{}", unkept["id"].as_str().unwrap())).await.status, 404);
}

#[tokio::test]
async fn background_response_completes_when_it_has_been_asked_after() {
    let simulator = Simulator::healthy().await;
    let ask = counting(2, json!({"background": true}));
    let queued = simulator.ask_with_fault(RESPONSES, "polls=1", &ask).await.json();
    assert_eq!((&queued["status"], &queued["usage"]), (&json!("queued"), &Value::Null));
    let path = format!("{RESPONSES}/{}", queued["id"].as_str().unwrap());
    assert_eq!(simulator.get(&path).await.json()["status"], "in_progress");
    let done = simulator.get(&path).await.json();
    assert_eq!((&done["status"], &done["usage"]["output_tokens"]), (&json!("incomplete"), &json!(2)));
    let other = simulator.ask(RESPONSES, "", &ask).await.json();
    let path = format!("{RESPONSES}/{}", other["id"].as_str().unwrap());
    let cancelled = simulator.exchange(&format!("POST {path}/cancel"), "", b"").await.json();
    assert_eq!((&cancelled["status"], &cancelled["usage"]), (&json!("cancelled"), &Value::Null));
    assert_eq!(simulator.get(&path).await.json()["status"], "cancelled");
}

#[tokio::test]
async fn input_is_counted_without_an_answer() {
    let ask = json!({"model": "m", "input": "one two three"});
    let answer = Simulator::healthy().await.ask("/v1/responses/input_tokens", "", &ask).await.json();
    assert_eq!(answer, json!({"object": "response.input_tokens", "input_tokens": 3}));
}
