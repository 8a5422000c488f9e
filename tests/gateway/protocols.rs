//! Every protocol through the front door: answered in its own words, byte for byte, charged to the token, refused in its own shape.

mod replay;

use crate::support::{Answer, Exchange, Gateway, Request, Scripted, Setup, Upstream, Wire, sha256};
use serde_json::{Value, json};

/// A request as a client of one API sends it.
struct Ask {
    path: &'static str,
    body: Value,
    is_stream: bool,
}

fn ask(path: &'static str, body: Value) -> Ask {
    Ask { path, body, is_stream: false }
}

fn stream(path: &'static str, body: Value) -> Ask {
    Ask { path, body, is_stream: true }
}

impl Ask {
    fn request(&self, token: &str) -> Request {
        let request = Request::post(self.path, self.body.to_string());
        match self.path {
            path if path.starts_with("/v1beta") => request.header("x-goog-api-key", token),
            path if path.contains("/messages") => {
                request.header("x-api-key", token).header("anthropic-version", "2023-06-01")
            }
            _ => request.bearer(token),
        }
    }

    fn direct(&self, gateway: &Gateway) -> Answer {
        Wire::connect(gateway.provider().address).exchange(&self.request("sk-direct").bytes())
    }
}

/// One of each API that bills by the token.
fn billed() -> Vec<Ask> {
    let contents = json!({"contents": [{"role": "user", "parts": [{"text": "count to five"}]}]});
    let cohere = json!({"model": "command-a-03-2025", "messages": [{"role": "user", "content": "Hello"}]});
    let converse = json!({"messages": [{"role": "user", "content": [{"text": "Hello"}]}]});
    let invoke = json!({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]});
    let with_stream = |body: &Value| {
        let mut body = body.clone();
        body["stream"] = json!(true);
        body
    };
    let responses = json!({"model": "gpt-4o-mini", "input": "Hello"});
    let mut completion = json!({"model": "gpt-4o-mini", "prompt": "Hello", "max_tokens": 20});
    let plain_completion = completion.clone();
    completion["stream_options"] = json!({"include_usage": true});
    vec![
        ask("/v1/responses", responses.clone()),
        stream("/v1/responses", with_stream(&responses)),
        ask("/v1/completions", plain_completion),
        stream("/v1/completions", with_stream(&completion)),
        ask("/v1/embeddings", json!({"model": "text-embedding-3-small", "input": ["one", "two"]})),
        ask("/v1/images/generations", json!({"model": "gpt-image-1", "prompt": "a fox", "size": "1024x1024"})),
        ask("/v1beta/models/gemini-2.5-flash:generateContent", contents.clone()),
        stream("/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", contents.clone()),
        stream("/v1beta/models/gemini-2.5-flash:streamGenerateContent", contents),
        ask(
            "/v1beta/models/gemini-embedding-001:embedContent",
            json!({"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "one"}]}}),
        ),
        ask("/v2/chat", cohere.clone()),
        stream("/v2/chat", with_stream(&cohere)),
        ask(
            "/v2/embed",
            json!({"model": "embed-v4.0", "texts": ["one"], "input_type": "search_document", "embedding_types": ["float"]}),
        ),
        ask("/model/anthropic.claude-haiku-4-5-v1%3A0/converse", converse.clone()),
        stream("/model/anthropic.claude-haiku-4-5-v1%3A0/converse-stream", converse),
        ask("/model/anthropic.claude-haiku-4-5-v1%3A0/invoke", invoke.clone()),
        stream("/model/anthropic.claude-haiku-4-5-v1%3A0/invoke-with-response-stream", invoke),
    ]
}

#[test]
fn each_api_is_answered_in_its_own_bytes_and_charged_to_the_token() {
    let gateway = Setup::new().every_protocol().start();
    for asked in billed() {
        let answer = gateway.exchange(&asked.request(&gateway.key.token));
        assert_eq!(answer.status, 200, "{}: {}", asked.path, answer.text());
        let expected = asked.direct(&gateway);
        assert_eq!(answer.header("content-type"), expected.header("content-type"), "{}", asked.path);
        assert_eq!(
            answer.body.len(),
            expected.body.len(),
            "{}: {} and not {}",
            asked.path,
            answer.text(),
            expected.text()
        );
        let row = gateway.row(answer.request_id());
        // Gemini's vectors come without figures.
        assert_eq!(
            row.is_estimated,
            asked.path.ends_with(":embedContent"),
            "{}: {row:?} {}",
            asked.path,
            answer.text()
        );
        assert_eq!(row.outcome, "complete", "{}", asked.path);
        let due = row.input_tokens * 1_000 + row.output_tokens * 10_000;
        assert_eq!(row.charge_nano, due, "{}: {row:?}", asked.path);
        assert!(due > 0 && row.charge_nano <= row.reserved_nano, "{}: {row:?}", asked.path);
        if !asked.is_stream {
            assert!(answer.header("x-tollgate-cost-usd").is_some(), "{}", asked.path);
        }
    }
    let audit = gateway.audit();
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
}

#[test]
fn an_answer_without_a_changing_id_is_the_same_to_the_last_bit() {
    let gateway = Setup::new().every_protocol().start();
    let fixed = [
        ask("/v1/embeddings", json!({"model": "text-embedding-3-small", "input": "one"})),
        ask("/v1/images/generations", json!({"model": "gpt-image-1", "prompt": "a fox"})),
        ask("/v1/moderations", json!({"model": "omni-moderation-latest", "input": "one"})),
        ask("/v1/audio/speech", json!({"model": "tts-1", "input": "Hello", "voice": "alloy"})),
    ];
    for asked in fixed {
        let answer = gateway.exchange(&asked.request(&gateway.key.token));
        assert_eq!(answer.status, 200, "{}: {}", asked.path, answer.text());
        let (again, expected) = (asked.direct(&gateway), asked.direct(&gateway));
        if again.body == expected.body {
            assert_eq!(sha256(&answer.body), sha256(&expected.body), "{}", asked.path);
        }
    }
}

#[test]
fn each_api_refuses_in_its_own_shape() {
    let gateway = Setup::new().every_protocol().start();
    for asked in billed() {
        let refused = gateway.exchange(&asked.request("tg_live_nobody"));
        assert_eq!(refused.status, 401, "{}", asked.path);
        let body = refused.json();
        let message = match asked.path {
            path if path.starts_with("/v1beta") => {
                assert_eq!(
                    (&body["error"]["code"], &body["error"]["status"]),
                    (&json!(401), &json!("UNAUTHENTICATED"))
                );
                assert_eq!(body["error"]["details"][0]["reason"], "invalid_api_key");
                &body["error"]["message"]
            }
            path if path.starts_with("/v2") => &body["message"],
            path if path.starts_with("/model") => {
                assert_eq!(body["__type"], "AccessDeniedException");
                &body["message"]
            }
            _ => {
                assert_eq!(body["error"]["code"], "invalid_api_key");
                &body["error"]["message"]
            }
        };
        assert!(message.is_string(), "{}: {body}", asked.path);
    }
}

#[test]
fn a_geminis_client_may_send_its_key_in_the_query() {
    let gateway = Setup::new().every_protocol().start();
    let path = format!("/v1beta/models/gemini-2.5-flash:generateContent?key={}&x=y", gateway.key.token);
    let body = json!({"contents": [{"parts": [{"text": "Hello"}]}]}).to_string();
    let answer = gateway.exchange(&Request::post(&path, body));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let log = gateway.provider().log_of(1);
    assert!(!log[0].to_string().contains(&gateway.key.token), "{log:?}");
}

#[test]
fn an_answer_that_has_said_all_needs_no_end() {
    for end in [Exchange::await_close, Exchange::reset] {
        let provider = Scripted::start(move |exchange| {
            let usage = json!({"input_tokens": 7, "output_tokens": 3, "total_tokens": 10});
            exchange.begin_stream();
            exchange.event(r#"{"type":"response.created","response":{"id":"resp_1","usage":null}}"#);
            exchange.event(r#"{"type":"response.output_text.delta","delta":"Hello"}"#);
            let response = json!({"id": "resp_1", "status": "completed", "usage": usage});
            exchange.event(&json!({"type": "response.completed", "response": response}).to_string());
            end(exchange);
        });
        let gateway = Setup::new().upstream(Upstream::openai("scripted", provider.url())).start();
        let body = json!({"model": "gpt-4o-mini", "input": "Hello", "stream": true}).to_string();
        let answer = gateway.exchange(&Request::post("/v1/responses", body).bearer(&gateway.key.token));
        let events = answer.events();
        assert!(events.last().is_some_and(|event| event.contains("response.completed")), "{events:?}");
        let row = gateway.row(answer.request_id());
        assert_eq!((row.outcome.as_str(), row.input_tokens, row.output_tokens), ("complete", 7, 3));
        assert!(!row.is_estimated);
    }
}

#[test]
fn a_limit_holds_in_every_api() {
    let gateway = Setup::new().every_protocol().start();
    for asked in billed() {
        let poor = gateway.create_key(&["--limit", "0.000000001", "--strict"]);
        let refused = gateway.exchange(&asked.request(&poor.token));
        assert_eq!(refused.status, 402, "{}: {}", asked.path, refused.text());
    }
    assert!(gateway.provider().log().is_empty());
}
