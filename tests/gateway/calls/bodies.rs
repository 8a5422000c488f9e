//! Request bodies: however framed, however large, and what the provider gets to see of them.

use crate::support::{Call, Gateway, Request, Scripted, Setup, Upstream, Wire, sha256};

const MIB: usize = 1 << 20;
const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

/// A call of this size with its model at the end, where only a whole reading finds it.
fn large(bytes: usize) -> Request {
    let text = "a tollgate on the road ".repeat(bytes / 23);
    let body = format!(r#"{{"max_tokens":4,"messages":[{{"role":"user","content":"{text}"}}],"model":"gpt-4o-mini"}}"#);
    Request::post("/v1/chat/completions", body)
}

#[test]
fn a_body_may_come_whole_or_in_chunks_of_any_size() {
    let gateway = Gateway::start();
    let request = Call::chat("Hello").request(&gateway.key.token);
    let expected = gateway.exchange(&request).text();
    for size in [1, 7, 100_000] {
        let answer = gateway.connect().exchange(&request.chunked(size));
        assert_eq!((answer.status, answer.text()), (200, expected.clone()), "in chunks of {size}");
    }
    let mut drop_by_drop = gateway.connect();
    for byte in request.bytes().chunks(1) {
        drop_by_drop.send(byte);
    }
    assert_eq!(drop_by_drop.answer().text(), expected);
    gateway.books_of(5);
}

#[test]
fn a_megabyte_with_the_model_last_arrives_whole() {
    arrives_whole(MIB);
}

#[test]
fn twenty_megabytes_arrive_whole() {
    arrives_whole(20 * MIB);
}

fn arrives_whole(bytes: usize) {
    let gateway = Gateway::start();
    let request = large(bytes).bearer(&gateway.key.token);
    for framed in [request.bytes(), request.chunked(65_536)] {
        let answer = gateway.connect().exchange(&framed);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    for call in gateway.provider().log_of(2) {
        assert_eq!(call["body_sha256"], sha256(&request.body));
    }
    for row in gateway.books_of(2) {
        assert!(row.input_tokens > bytes as i64 * 9 / 10 && !row.is_estimated, "{row:?}");
    }
}

#[test]
fn a_body_above_the_limit_is_refused_before_it_is_read() {
    let gateway = Gateway::start();
    let head = Request::post("/v1/chat/completions", "").bearer(&gateway.key.token).head();
    let mut wire = gateway.connect();
    wire.send(format!("{head}content-length: {}\r\n\r\n", 32 * MIB + 1).as_bytes());
    assert_eq!(wire.answer().refusal(), (413, "body_too_large".to_owned()));
}

#[test]
fn a_chunked_body_is_refused_once_it_is_above_the_limit() {
    let gateway = Setup::new().limit("body_bytes_max = 100_000").start();
    let request = large(MIB).bearer(&gateway.key.token);
    let mut wire = gateway.connect();
    // The gateway may have said no before all is sent.
    let _ = wire.try_send(&request.chunked(10_000));
    assert_eq!(wire.answer().refusal(), (413, "body_too_large".to_owned()));
    assert_eq!(gateway.call(&Call::chat("Hello")).status, 200);
    assert_eq!(gateway.provider().log_of(1).len(), 1);
}

#[test]
fn a_client_that_waits_to_be_told_to_go_on_is_told() {
    let gateway = Gateway::start();
    let request = Call::chat("Hello").request(&gateway.key.token);
    let mut wire = gateway.connect();
    wire.send(
        format!("{}expect: 100-continue\r\ncontent-length: {}\r\n\r\n", request.head(), request.body.len()).as_bytes(),
    );
    assert_eq!(wire.any_head().expect("an interim answer").status, 100);
    assert_eq!(wire.exchange(&request.body).status, 200);

    let unwelcome = Call::chat("Hello").request("nobody");
    let mut wire = gateway.connect();
    wire.send(format!("{}expect: 100-continue\r\ncontent-length: 9\r\n\r\n", unwelcome.head()).as_bytes());
    assert_eq!(wire.any_head().expect("the answer itself").status, 401);
}

#[test]
fn an_alias_becomes_the_providers_name_and_nothing_else_changes() {
    let provider = Scripted::answering(200, ANSWER);
    let upstream = Upstream::openai("scripted", provider.url()).model("gpt-4o-mini-2024-07-18");
    let gateway = Setup::new().upstream(upstream).start();
    let body = |model: &str| {
        format!(
            "{{ \"n\" : 1,\n\t\"messages\":[ {{\"role\":\"user\",\"content\":\"{model} \\u00e9 \\\"model\\\": x\"}} ], \
             \"unknown\": {{\"model\": \"{model}\", \"a\": 1.50e+1, \"b\": [ ]}}, \"model\" :\"{model}\"  , \"seed\":7 }}\n"
        )
    };
    for name in ["mini", "gpt-4o-mini"] {
        let sent = body(name);
        let request = Request::post("/v1/chat/completions", sent.clone()).bearer(&gateway.key.token);
        assert_eq!(gateway.exchange(&request).status, 200);
        let received = provider.requests().pop().expect("a request");
        let at = sent.rfind(&format!("\"{name}\"")).expect("it is there");
        let expected = format!("{}\"gpt-4o-mini-2024-07-18\"{}", &sent[..at], &sent[at + name.len() + 2..]);
        assert_eq!(String::from_utf8_lossy(&received.body), expected);
        assert_eq!(received.header("content-length"), Some(expected.len().to_string().as_str()));
    }
    assert_eq!(gateway.books_of(2).iter().filter(|row| row.model == "gpt-4o-mini").count(), 2);
}

#[test]
fn only_the_usage_is_asked_for_and_the_clients_own_stream_options_are_kept() {
    let provider = Scripted::start(|exchange| {
        exchange.begin_stream();
        exchange.event("[DONE]");
        exchange.end_stream();
    });
    let gateway = Setup::new().upstream(Upstream::openai("scripted", provider.url())).start();
    let seen = |body: &str| {
        let request = Request::post("/v1/chat/completions", body).bearer(&gateway.key.token);
        assert_eq!(gateway.exchange(&request).status, 200);
        String::from_utf8_lossy(&provider.requests().pop().expect("a request").body).into_owned()
    };
    assert_eq!(
        seen(r#"{"model":"gpt-4o-mini","stream":true,"messages":[]}"#),
        r#"{"stream_options":{"include_usage":true},"model":"gpt-4o-mini","stream":true,"messages":[]}"#
    );
    assert_eq!(
        seen(r#"{"model":"gpt-4o-mini","stream":true,"stream_options":{"include_obfuscation":false},"messages":[]}"#),
        r#"{"model":"gpt-4o-mini","stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false},"messages":[]}"#
    );
    for untouched in [
        r#"{"model":"gpt-4o-mini","stream":true,"stream_options":{"include_usage":true},"messages":[]}"#,
        r#"{"model":"gpt-4o-mini","stream":false,"messages":[]}"#,
    ] {
        assert_eq!(seen(untouched), untouched);
    }
}

#[test]
fn a_body_that_ends_early_is_never_sent_on() {
    let gateway = Gateway::start();
    let request = Call::chat("Hello").request(&gateway.key.token);
    let mut wire = gateway.connect();
    wire.send(&request.bytes()[..request.bytes().len() - 5]);
    wire.half_close();
    let answer = wire.rest();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    let mut chunked = gateway.connect();
    chunked.send(&request.chunked(8)[..request.head().len() + 60]);
    chunked.half_close();
    let answer = chunked.rest();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(gateway.call(&Call::chat("Hello")).status, 200);
    assert_eq!(gateway.provider().log_of(1).len(), 1);
    assert_eq!(Wire::connect(gateway.address).exchange(&request.bytes()).status, 200);
}
