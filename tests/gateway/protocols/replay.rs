//! Recorded answers of real providers, replayed through the running gateway: the client gets their bytes, the books their figures.

use crate::support::{Gateway, Request, Row, Setup, Upstream};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

/// The recordings lie beside the checkout, where they are there at all: they are too large to be part of it.
fn corpus() -> Option<PathBuf> {
    let named = std::env::var_os("TOLLGATE_CORPUS").map(PathBuf::from);
    let corpus = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus"));
    corpus.join("index.jsonl").is_file().then_some(corpus)
}

/// A provider that answers with the recording that the request names in a header.
fn provider(corpus: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let corpus = corpus.clone();
            // The gateway closes its connections when it ends.
            std::thread::spawn(move || serve(&stream, &corpus));
        }
    });
    address
}

fn serve(stream: &TcpStream, corpus: &Path) -> std::io::Result<()> {
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    loop {
        let (mut file, mut answer_head, mut length) = (String::new(), String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_end().split_once(": ") {
                Some(("x-file", value)) => value.clone_into(&mut file),
                Some(("x-head", value)) => answer_head = value.replace('|', "\r\n"),
                Some(("content-length", value)) => length = value.parse().expect("a number"),
                _ => {}
            }
            if line == "\r\n" {
                break;
            }
        }
        reader.by_ref().take(length).read_to_end(&mut Vec::new())?;
        let body = std::fs::read(corpus.join(file))?;
        let head = format!("HTTP/1.1 200 OK\r\n{answer_head}content-length: {}\r\n\r\n", body.len());
        writer.write_all(head.as_bytes())?;
        writer.write_all(&body)?;
    }
}

/// The request that a recording is the answer to, as short as it can be; nothing for an API that has no route.
fn request(record: &Value) -> Option<Request> {
    let is_stream = record["stream"] == true;
    let said = json!([{"role": "user", "content": "Hello"}]);
    let options = if is_stream { json!({"include_usage": true}) } else { Value::Null };
    let chat = |model: &str| json!({"model": model, "messages": said, "stream": is_stream, "stream_options": options});
    let contents = json!({"contents": [{"parts": [{"text": "Hello"}]}]});
    let bedrock = |method: &str, streamed: &str| {
        let method = if is_stream { streamed } else { method };
        format!("/model/anthropic.claude-haiku-4-5-v1%3A0/{method}")
    };
    let (path, body) = match record["api"].as_str()? {
        "openai.chat" => ("/v1/chat/completions".to_owned(), chat("gpt-4o-mini")),
        "openai.responses" => {
            ("/v1/responses".to_owned(), json!({"model": "gpt-4o-mini", "input": "Hello", "stream": is_stream}))
        }
        "openai.completions" => (
            "/v1/completions".to_owned(),
            json!({"model": "gpt-4o-mini", "prompt": "Hello", "stream": is_stream, "stream_options": options}),
        ),
        "openai.embeddings" => {
            ("/v1/embeddings".to_owned(), json!({"model": "text-embedding-3-small", "input": "Hello"}))
        }
        "openai.images" => ("/v1/images/generations".to_owned(), json!({"model": "gpt-image-1", "prompt": "Hello"})),
        "anthropic.messages" => {
            let mut body = chat("claude-sonnet-4-6");
            body["max_tokens"] = json!(10_000);
            ("/v1/messages".to_owned(), body)
        }
        "gemini.generateContent" => {
            let sse = if record["format"] == "sse" { "?alt=sse" } else { "" };
            let method = if is_stream { "streamGenerateContent" } else { "generateContent" };
            (format!("/v1beta/models/gemini-2.5-flash:{method}{sse}"), contents)
        }
        "gemini.embed" => {
            let body = json!({"content": {"parts": [{"text": "Hello"}]}});
            ("/v1beta/models/gemini-embedding-001:embedContent".to_owned(), body)
        }
        "cohere.chat" => ("/v2/chat".to_owned(), chat("command-a-03-2025")),
        "cohere.embed" => ("/v2/embed".to_owned(), json!({"model": "embed-v4.0", "texts": ["Hello"]})),
        "cohere.rerank" => {
            ("/v2/rerank".to_owned(), json!({"model": "rerank-v3.5", "query": "Hello", "documents": ["Hello"]}))
        }
        "bedrock.converse" => (
            bedrock("converse", "converse-stream"),
            json!({"messages": [{"role": "user", "content": [{"text": "Hello"}]}]}),
        ),
        "bedrock.invoke" => (bedrock("invoke", "invoke-with-response-stream"), json!({"prompt": "Hello"})),
        _ => return None,
    };
    let request = Request::post(&path, body.to_string());
    Some(request.header("x-file", record["file"].as_str()?).header("x-head", &answer_head(record)))
}

/// The head of the recorded answer, a bar for the end of each line. Not all recordings have kept theirs.
fn answer_head(record: &Value) -> String {
    let content_type = match (record["content_type"].as_str(), record["format"].as_str()) {
        (Some(kept), _) if !kept.is_empty() => kept,
        (_, Some("sse")) => "text/event-stream",
        (_, Some("aws-eventstream")) => "application/vnd.amazon.eventstream",
        _ => "application/json",
    };
    let mut head = format!("content-type: {content_type}|");
    if record["api"] == "bedrock.invoke" && record["format"] == "json" {
        for (direction, count) in [("input", &record["usage"]["input"]), ("output", &record["usage"]["output"])] {
            if count.is_u64() {
                head.push_str(&format!("x-amzn-bedrock-{direction}-token-count: {count}|"));
            }
        }
    }
    head
}

/// Whether a recording is one whose figures nobody doubts.
fn is_certain(record: &Value) -> bool {
    record["has_usage"] == true && record["truth_ambiguous"].is_null() && record["status"] == 200
}

#[test]
fn recorded_answers_pass_unchanged_and_are_charged_as_reported() {
    let Some(corpus) = corpus() else {
        println!("no recordings are here: nothing is replayed");
        return;
    };
    let index = std::fs::read_to_string(corpus.join("index.jsonl")).expect("the index");
    let address = provider(corpus.clone());
    let url = |root: &str| format!("http://{address}{root}");
    let gateway = Setup::new()
        .every_protocol()
        .upstream(Upstream::openai("openai", url("/v1")))
        .upstream(Upstream::anthropic("anthropic", url("/v1")))
        .upstream(Upstream::speaking("gemini", "gemini", url("/v1beta")))
        .upstream(Upstream::speaking("cohere", "cohere", url("/v2")))
        .upstream(Upstream::speaking("bedrock", "bedrock", url("")))
        .start();
    let mut wrong = Vec::new();
    let mut replayed = HashMap::new();
    for line in index.lines() {
        let record: Value = serde_json::from_str(line).expect("a line of JSON");
        let Some(request) = request(&record).filter(|_| is_certain(&record)) else { continue };
        match passed(&gateway, &record, &request.bearer(&gateway.key.token), &corpus) {
            Ok(id) => _ = replayed.insert(id, record),
            Err(why) => wrong.push(format!("{}: {why}", record["id"])),
        }
    }
    assert!(!replayed.is_empty());
    let mut counts: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for row in gateway.books_of(replayed.len()) {
        let Some(record) = replayed.get(&row.request_id) else { continue };
        let [booked, right] = counts.entry(format!("{} {}", record["provider"], record["api"])).or_default();
        *booked += 1;
        match is_as_reported(&row, &record["usage"]) {
            true => *right += 1,
            false => wrong.push(format!("{}: {row:?}, {}", record["id"], record["usage"])),
        }
    }
    for (name, [booked, right]) in &counts {
        println!("{name}: {right} of {booked}");
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Replays a recording; gives back the call's name if its bytes have passed unchanged.
fn passed(gateway: &Gateway, record: &Value, request: &Request, corpus: &Path) -> Result<String, String> {
    let answer = gateway.exchange(request);
    let expected = std::fs::read(corpus.join(record["file"].as_str().expect("a file"))).expect("a body");
    if answer.status != 200 {
        return Err(format!("{}: {}", answer.status, answer.text()));
    }
    // Nothing leaves after a stream's last event.
    if !expected.starts_with(&answer.body) || expected.len() > answer.body.len() + 64 {
        return Err(format!("{} bytes of {}", answer.body.len(), expected.len()));
    }
    Ok(answer.request_id().to_owned())
}

/// Whether the books have the figures of the provider. A kind that was not reported is not held against them.
fn is_as_reported(row: &Row, usage: &Value) -> bool {
    let count = |name: &str| usage[name].as_i64();
    // Cohere bills its own count. Mistral's sounds stand beside the rest of the input.
    let beside = count("audio_in").filter(|sounds| Some(*sounds) > count("input_total")).unwrap_or(0);
    let input = count("billed_input").or_else(|| Some(count("input_total")? + beside));
    let output = count("billed_output").or_else(|| count("output_total"));
    let is = |booked: i64, reported: Option<i64>| reported.is_none_or(|reported| reported == booked);
    !row.is_estimated && is(row.input_tokens, input) && is(row.output_tokens, output)
}
