//! The log: what the provider says it served.

use super::super::Options;
use super::client::Simulator;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

const CHAT: &str = "/v1/chat/completions";

fn counting(limit: u64, stream: bool) -> Value {
    json!({"model": "m", "max_tokens": limit, "stream": stream, "messages": [{"role": "user", "content": "count up"}]})
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn call_is_recorded_without_its_credential() {
    let simulator = Simulator::healthy().await;
    let ask = counting(3, false);
    let headers = "authorization: Bearer secret-token\r\nx-tollgate-call: call-7\r\nx-simulate: log-only\r\n";
    let answer = simulator.ask("/v1/v1/chat/completions?x=1", headers, &ask).await;
    let record = simulator.records(0, 1).await.remove(0);
    assert_eq!((&record["sequence"], &record["status"]), (&json!(1), &json!(200)));
    assert_eq!(record["request_id"].as_str(), answer.header("x-request-id"));
    assert_eq!((&record["path"], &record["model"]), (&json!("/v1/v1/chat/completions"), &json!("m")));
    assert_eq!((&record["stream"], &record["simulate"]), (&json!(false), &json!("log-only")));
    assert!(record["headers"].as_array().unwrap().contains(&json!("authorization")));
    assert_eq!(record["credential_sha256"], hex(b"secret-token")[..8]);
    assert_eq!(record["tollgate_call"], "call-7");
    assert_eq!(record["body_sha256"], hex(ask.to_string().as_bytes()));
    assert_eq!(record["input_tokens"], answer.json()["usage"]["prompt_tokens"]);
    assert_eq!((&record["output_tokens"], &record["output_tokens_billed"]), (&json!(3), &json!(3)));
    assert_eq!((&record["complete"], &record["usage_sent"]), (&json!(true), &json!(true)));
    assert!(!record.to_string().contains("secret-token"));
}

#[tokio::test]
async fn broken_calls_are_billed_as_far_as_they_went() {
    let simulator = Simulator::healthy().await;
    for (fault, complete, output, billed) in [
        ("error-event-after=3", true, 2, 2),
        ("no-usage", true, 9, 9),
        ("over=4", true, 9, 13),
        ("close-after=1", false, 0, 0),
        ("status=503", true, 0, 0),
        ("lying-length", false, 9, 9),
    ] {
        let seen = simulator.records(0, 0).await.len() as u64;
        simulator.ask_with_fault(CHAT, fault, &counting(9, true)).await;
        let record = simulator.records(seen, 1).await.remove(0);
        assert_eq!((&record["sequence"], &record["complete"]), (&json!(seen + 1), &json!(complete)), "{fault}");
        assert_eq!(record["output_tokens"], output, "{fault}");
        assert_eq!(record["output_tokens_billed"], billed, "{fault}");
    }
}

#[tokio::test]
async fn departure_of_the_client_ends_the_record() {
    let simulator = Simulator::healthy().await;
    for (sequence, fault) in [(1, "token-ms=20"), (2, "hang-after=3"), (3, "hang-before-header"), (4, "drip")] {
        let mut stream = simulator.send(CHAT, &format!("x-simulate: {fault}\r\n"), &counting(100_000, true)).await;
        if fault != "hang-before-header" {
            assert!(stream.read_buf(&mut Vec::new()).await.unwrap() > 0);
        }
        drop(stream);
        let record = simulator.records(sequence - 1, 1).await.remove(0);
        assert_eq!((&record["complete"], &record["usage_sent"]), (&json!(false), &json!(false)), "{fault}");
        assert!(record["output_tokens"].as_u64().unwrap() < 1000, "{fault}");
        assert_eq!(record["output_tokens"], record["output_tokens_billed"], "{fault}");
    }
}

#[tokio::test]
async fn file_holds_the_same_lines() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("served.jsonl");
    let simulator = Simulator::start(Options { log: Some(log.clone()), ..Default::default() }).await;
    for _ in 0..3 {
        simulator.ask(CHAT, "", &counting(2, true)).await;
    }
    simulator.records(0, 3).await;
    let served = simulator.get("/log?after=0").await;
    assert_eq!(std::fs::read_to_string(log).unwrap(), served.text());
    assert_eq!(simulator.records(2, 1).await.len(), 1);
    assert_eq!(simulator.records(9, 0).await.len(), 0);
}

#[tokio::test]
async fn log_can_be_off() {
    let simulator = Simulator::start(Options { without_log: true, ..Default::default() }).await;
    assert_eq!(simulator.ask(CHAT, "", &counting(2, true)).await.status, 200);
    assert_eq!(simulator.get("/log").await.body.len(), 0);
}
