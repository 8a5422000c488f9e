//! What is kept: files of three protocols, and things that are made and listed.

use super::client::Simulator;
use serde_json::{Value, json};

const ANTHROPIC: &str = "anthropic-version: 2023-06-01\r\n";

#[tokio::test]
async fn file_is_kept_byte_for_byte_until_it_is_removed() {
    let simulator = Simulator::healthy().await;
    let content = b"\0\r\n--x\xff";
    for (headers, removed) in [("", json!(true)), (ANTHROPIC, Value::Null)] {
        let made = simulator.upload("/v1/files", headers, &[("purpose", "user_data")], content).await.json();
        let id = made["id"].as_str().unwrap();
        let size = if headers.is_empty() { &made["bytes"] } else { &made["size_bytes"] };
        assert_eq!((size, &made["filename"]), (&json!(content.len()), &json!("a.wav")));
        let line = |method: &str, more: &str| format!("{method} /v1/files/{id}{more}");
        assert_eq!(simulator.exchange(&line("GET", ""), headers, b"").await.json(), made);
        assert_eq!(simulator.exchange(&line("GET", "/content"), headers, b"").await.body, content);
        let listed = simulator.exchange("GET /v1/files", headers, b"").await.json();
        assert_eq!(listed["data"], json!([made]));
        assert_eq!(simulator.exchange(&line("DELETE", ""), headers, b"").await.json()["deleted"], removed);
        let gone = simulator.exchange(&line("GET", ""), headers, b"").await;
        assert_eq!((gone.status, gone.json()["error"]["message"].is_string()), (404, true));
    }
}

#[tokio::test]
async fn lists_are_turned_page_by_page() {
    let simulator = Simulator::healthy().await;
    let mut names = Vec::new();
    for _ in 0..3 {
        names.push(simulator.ask("/v1/vector_stores", "", &json!({"name": "v"})).await.json()["id"].clone());
    }
    let first = simulator.get("/v1/vector_stores?limit=2").await.json();
    assert_eq!(
        (&first["data"][0]["id"], &first["data"][1]["id"], &first["has_more"]),
        (&names[2], &names[1], &json!(true))
    );
    let rest = simulator.get(&format!("/v1/vector_stores?limit=2&after={}", names[1].as_str().unwrap())).await.json();
    assert_eq!(
        (&rest["data"][0]["id"], &rest["has_more"], rest["data"].as_array().unwrap().len()),
        (&names[0], &json!(false), 1)
    );
}

#[tokio::test]
async fn gemini_file_comes_in_two_steps() {
    let simulator = Simulator::healthy().await;
    let start = "x-goog-upload-protocol: resumable\r\nx-goog-upload-command: start\r\n";
    let begun = simulator.exchange("POST /upload/v1beta/files", start, b"{}").await;
    let place = begun.header("x-goog-upload-url").unwrap().strip_prefix("http://x").unwrap().to_owned();
    let finish = "x-goog-upload-command: upload, finalize\r\ncontent-type: text/plain\r\n";
    let file = simulator.exchange(&format!("POST {place}"), finish, b"hello").await.json()["file"].clone();
    assert_eq!((&file["state"], &file["sizeBytes"]), (&json!("ACTIVE"), &json!("5")));
    let name = file["name"].as_str().unwrap();
    assert_eq!(simulator.get(&format!("/v1beta/{name}")).await.json(), file);
    assert_eq!(simulator.get("/v1beta/files").await.json()["files"], json!([file]));
    assert_eq!(simulator.get("/v1beta/files/nobody").await.status, 403);
    let contents = json!([{"role": "user", "parts": [{"text": "one two three"}]}]);
    let cached =
        simulator.ask("/v1beta/cachedContents", "", &json!({"model": "models/m", "contents": contents})).await.json();
    assert_eq!(cached["usageMetadata"]["totalTokenCount"], 3);
}

#[tokio::test]
async fn what_spends_unseen_is_made_and_named() {
    let simulator = Simulator::healthy().await;
    for (path, headers, prefix) in [
        ("/v1/batches", "", "batch_"),
        ("/v1/fine_tuning/jobs", "", "ftjob-"),
        ("/v1/conversations", "", "conv_"),
        ("/v1/messages/batches", ANTHROPIC, "msgbatch_"),
    ] {
        let made = simulator.ask(path, headers, &json!({})).await.json();
        let id = made["id"].as_str().unwrap();
        assert!(id.starts_with(prefix), "{path}: {id}");
        assert_eq!(simulator.exchange(&format!("GET {path}/{id}"), headers, b"").await.json(), made);
    }
    assert_eq!(simulator.get("/v1/models").await.json()["object"], "list");
    assert_eq!(simulator.get("/v1beta/models").await.json()["models"][0]["name"], "models/gemini-2.5-flash");
}

#[tokio::test]
async fn faults_and_records_are_those_of_calls() {
    let simulator = Simulator::healthy().await;
    let refused = simulator.exchange("GET /v1/files/file-1", "x-simulate: status=503\r\n", b"").await;
    assert_eq!(refused.status, 503);
    let record = simulator.records(0, 1).await.remove(0);
    assert_eq!((&record["path"], &record["status"]), (&json!("/v1/files/file-1"), &json!(503)));
}
