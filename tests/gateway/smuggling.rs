//! What must not slip through: a second request inside the first, and anything that is between two parties only.

mod headers;

use crate::money::count;
use crate::support::{Call, Gateway, Request, Scripted, Setup, Upstream, Wire};

const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#;

fn start() -> (Scripted, Gateway) {
    let provider = Scripted::answering(200, ANSWER);
    let gateway = Setup::new().upstream(Upstream::openai("scripted", provider.url())).start();
    (provider, gateway)
}

/// Sends bytes that nobody may understand in two ways. Whatever the gateway makes of them, it answers once at the most,
/// closes the connection, and the provider sees at most one call.
fn is_answered_once_at_most(provider: &Scripted, gateway: &Gateway, bytes: &[u8]) -> String {
    let shown = String::from_utf8_lossy(bytes);
    let before = provider.requests().len();
    let mut wire = gateway.connect();
    wire.send(bytes);
    let said = wire.rest();
    assert!(said.matches("HTTP/1.1 ").count() <= 1, "{shown}\n--- was answered with\n{said}");
    let seen = provider.requests().len() - before;
    assert!(seen <= 1, "{shown}\n--- became {seen} calls");
    said
}

/// Sends bytes that are no request, and sees that they are refused and that nothing of them gets to the provider.
fn is_refused(provider: &Scripted, gateway: &Gateway, bytes: &[u8]) {
    let before = provider.requests().len();
    let said = is_answered_once_at_most(provider, gateway, bytes);
    let shown = String::from_utf8_lossy(bytes);
    assert!(said.starts_with("HTTP/1.1 4"), "{shown}\n---\n{said}");
    is_told(&said);
    assert_eq!(provider.requests().len(), before, "{shown}\n--- reached the provider");
}

/// A refusal says why, and by which name it can be found in the log.
fn is_told(said: &str) {
    let (head, body) = said.split_once("\r\n\r\n").expect("an answer");
    let body: serde_json::Value = serde_json::from_str(body).expect("a body of JSON");
    let id = body["error"]["request_id"].as_str().expect("the call's name");
    let head = head.to_ascii_lowercase();
    assert!(id.starts_with("req_") && head.contains(&format!("x-request-id: {}", id.to_ascii_lowercase())), "{said}");
    assert!(head.contains("content-type: application/json") && head.contains("connection: close"), "{said}");
}

/// The head of a call, without what frames its body.
fn head(gateway: &Gateway) -> String {
    Call::chat("Hello").request(&gateway.key.token).head()
}

fn body() -> String {
    Call::chat("Hello").body.to_string()
}

/// A whole call that somebody tries to hide in another.
fn hidden(gateway: &Gateway) -> String {
    String::from_utf8(Call::chat("hidden").request(&gateway.key.token).bytes()).expect("text")
}

#[test]
fn a_body_that_is_framed_in_two_ways_is_never_two_calls() {
    let (provider, gateway) = start();
    let (head, body, hidden) = (head(&gateway), body(), hidden(&gateway));
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    // The length covers the call that is hidden behind the last chunk; or it ends within the first chunk.
    for length in [chunked.len() + hidden.len(), chunked.len(), 4, 0] {
        for framing in [
            format!("content-length: {length}\r\ntransfer-encoding: chunked"),
            format!("transfer-encoding: chunked\r\ncontent-length: {length}"),
        ] {
            let bytes = format!("{head}{framing}\r\n\r\n{chunked}{hidden}");
            is_answered_once_at_most(&provider, &gateway, bytes.as_bytes());
        }
    }
    assert!(provider.requests().iter().all(|request| !String::from_utf8_lossy(&request.body).contains("hidden")));
}

#[test]
fn lengths_that_differ_are_refused() {
    let (provider, gateway) = start();
    let (head, body, hidden) = (head(&gateway), body(), hidden(&gateway));
    for (first, second) in
        [(body.len(), body.len() + hidden.len()), (body.len() + hidden.len(), body.len()), (0, body.len())]
    {
        let bytes = format!("{head}content-length: {first}\r\ncontent-length: {second}\r\n\r\n{body}{hidden}");
        is_refused(&provider, &gateway, bytes.as_bytes());
    }
}

#[test]
fn lengths_that_are_not_plain_numbers_are_refused() {
    let (provider, gateway) = start();
    let (head, body) = (head(&gateway), body());
    let length = body.len();
    for written in [
        format!("+{length}"),
        format!("-{length}"),
        format!("0x{length:x}"),
        format!("{length}, {}", length + 1),
        format!("{length} {length}"),
        format!("{length}a"),
        "18446744073709551617".to_owned(),
        String::new(),
    ] {
        let bytes = format!("{head}content-length: {written}\r\n\r\n{body}");
        is_refused(&provider, &gateway, bytes.as_bytes());
    }
}

#[test]
fn codings_other_than_chunked_are_refused() {
    let (provider, gateway) = start();
    let (head, body) = (head(&gateway), body());
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for coding in [
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding : chunked",
        "transfer-encoding: \x0bchunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        "transfer-encoding: identity",
        "transfer-encoding:",
    ] {
        is_refused(&provider, &gateway, format!("{head}{coding}\r\n\r\n{chunked}").as_bytes());
    }
}

#[test]
fn codings_that_nobody_undoes_are_refused() {
    let (provider, gateway) = start();
    let (head, body) = (head(&gateway), body());
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for coding in ["gzip, chunked", "chunked, chunked", "deflate\r\ntransfer-encoding: chunked"] {
        is_refused(&provider, &gateway, format!("{head}transfer-encoding: {coding}\r\n\r\n{chunked}").as_bytes());
    }
}

#[test]
fn chunks_that_are_not_framed_right_are_refused() {
    let (provider, gateway) = start();
    let (head, body) = (head(&gateway), body());
    let size = format!("{:x}", body.len());
    for chunks in [
        format!("-{size}\r\n{body}\r\n0\r\n\r\n"),
        format!("0x{size}\r\n{body}\r\n0\r\n\r\n"),
        format!("fffffffffffffffff\r\n{body}\r\n0\r\n\r\n"),
        format!("{size}g\r\n{body}\r\n0\r\n\r\n"),
        format!("{size}\r\n{body}0\r\n\r\n0\r\n\r\n"),
        format!("{size} {size}\r\n{body}\r\n0\r\n\r\n"),
    ] {
        is_refused(&provider, &gateway, format!("{head}transfer-encoding: chunked\r\n\r\n{chunks}").as_bytes());
    }
}

#[test]
fn a_chunk_without_a_size_is_a_body_without_a_call() {
    let (provider, gateway) = start();
    // The parser takes no size for zero; what follows is then a trailer.
    let bytes = format!("{}transfer-encoding: chunked\r\n\r\n\r\n{}\r\n\r\n", head(&gateway), body());
    let mut wire = gateway.connect();
    assert_eq!(wire.exchange(bytes.as_bytes()).status, 400);
    answers_or_is_closed(&mut wire, &gateway.key.token);
    assert!(provider.requests().is_empty());
}

#[test]
fn chunk_extensions_and_trailers_are_read_over() {
    let (provider, gateway) = start();
    let body = body();
    let bytes = format!(
        "{}transfer-encoding: chunked\r\n\r\n{:x};name=\"value\"\r\n{body}\r\n0\r\nx-trailer: a\r\n\r\n",
        head(&gateway),
        body.len()
    );
    let mut wire = gateway.connect();
    assert_eq!(wire.exchange(bytes.as_bytes()).status, 200);
    let seen = provider.requests().remove(0);
    assert_eq!((String::from_utf8_lossy(&seen.body).as_ref(), seen.header("x-trailer")), (body.as_str(), None));
    assert_eq!(wire.exchange(hidden(&gateway).as_bytes()).status, 200, "the connection is in order");
}

#[test]
fn http_1_0_with_a_transfer_coding_is_never_two_calls() {
    let (provider, gateway) = start();
    let (body, hidden) = (body(), hidden(&gateway));
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let head = head(&gateway).replace("HTTP/1.1", "HTTP/1.0");
    let bytes = format!("{head}connection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n{chunked}{hidden}");
    is_answered_once_at_most(&provider, &gateway, bytes.as_bytes());
}

#[test]
fn http_1_0_is_answered_without_chunks() {
    let gateway = Gateway::start();
    let request = Call::chat("Hello").streamed().request(&gateway.key.token);
    let bytes = String::from_utf8(request.bytes()).expect("text").replace("HTTP/1.1", "HTTP/1.0");
    let said = {
        let mut wire = gateway.connect();
        wire.send(bytes.as_bytes());
        wire.rest()
    };
    let (head, body) = said.split_once("\r\n\r\n").expect("an answer");
    assert!(head.contains(" 200 ") && !head.to_ascii_lowercase().contains("chunked"), "{head}");
    assert!(body.starts_with("data: {") && body.ends_with("data: [DONE]\n\n"), "{body}");
}

#[test]
fn heads_that_are_not_http_are_refused() {
    let (provider, gateway) = start();
    let (token, body) = (&gateway.key.token, body());
    let length = body.len();
    let folded = format!("{}content-length: {length}\r\nx-folded: a\r\n b\r\n\r\n{body}", head(&gateway));
    is_refused(&provider, &gateway, folded.as_bytes());
    let path = "/v1/chat/completions";
    for line in [
        format!("POST {path} HTTP/1.1 x"),
        format!("POST {path}"),
        format!("POST  {path} HTTP/1.1"),
        format!("POST {path} HTTP/2.0"),
        format!("P\0ST {path} HTTP/1.1"),
        format!(" POST {path} HTTP/1.1"),
        format!("POST {path} http/1.1"),
    ] {
        let bytes =
            format!("{line}\r\nhost: a\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n{body}");
        is_refused(&provider, &gateway, bytes.as_bytes());
    }
    assert_ne!(count(&gateway, "tollgate_refusals_total", &["reason=\"invalid_request\""]), "0");
    for header in ["no colon", ": no name", "na me: a", "name: a\0b", "name: a\rb", "n\u{e4}me: a"] {
        let bytes = format!("{}{header}\r\ncontent-length: {length}\r\n\r\n{body}", head(&gateway));
        is_refused(&provider, &gateway, bytes.as_bytes());
    }
}

#[test]
fn heads_beyond_what_can_be_read_are_refused_by_their_size() {
    let (provider, gateway) = start();
    let lines: String = (0..300).map(|number| format!("x-{number}: 1\r\n")).collect();
    let said = is_answered_once_at_most(&provider, &gateway, format!("{}{lines}\r\n", head(&gateway)).as_bytes());
    assert!(said.starts_with("HTTP/1.1 431") && said.contains("headers_too_large"), "{said}");
    is_told(&said);
}

#[test]
fn a_whole_url_as_the_target_is_the_path_in_it() {
    let (provider, gateway) = start();
    let call = Call::chat("Hello").request(&gateway.key.token);
    let at = |host: &str| Request { path: format!("http://{host}/v1/chat/completions?a=b"), ..call.clone() };
    assert_eq!(gateway.exchange(&at("gateway.test")).status, 200);
    is_refused(&provider, &gateway, &at("elsewhere.test").bytes());
    let seen = provider.requests().remove(0);
    assert!(seen.head.starts_with("POST /v1/chat/completions?a=b HTTP/1.1\r\n"), "{}", seen.head);
    assert_eq!(seen.header("host"), Some(provider.address.to_string().as_str()));
}

#[test]
fn paths_are_taken_as_they_are_written() {
    let (provider, gateway) = start();
    for path in [
        "/v1/../v1/chat/completions",
        "//v1/chat/completions",
        "/v1/chat/completions/",
        "/v1/chat/%63ompletions",
        "/v1/chat//completions",
        "/V1/chat/completions",
        "/v1/chat/completions;a",
        "/api/api/v1/chat/completions",
        "*",
    ] {
        let request = Request { path: path.to_owned(), ..Call::chat("Hello").request(&gateway.key.token) };
        let mut wire = gateway.connect();
        let _ = wire.try_send(&request.bytes());
        let status = wire.try_answer().map(|answer| answer.status).ok();
        assert!(matches!(status, Some(400 | 404)), "{path}: {status:?}");
    }
    assert!(provider.requests().is_empty());
}

#[test]
fn an_upgrade_is_not_a_tunnel() {
    let (provider, gateway) = start();
    let upgrades = ["websocket", "h2c"];
    for protocol in upgrades {
        let request = Call::chat("Hello").header("connection", "upgrade, http2-settings").header("upgrade", protocol);
        let answer =
            gateway.call(&request.header("http2-settings", "AAMAAABkAAQAAP__").header("sec-websocket-version", "13"));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let connect = format!("CONNECT {} HTTP/1.1\r\nhost: a\r\n\r\n", provider.address);
    let mut wire = gateway.connect();
    wire.send(connect.as_bytes());
    assert!(matches!(wire.answer().status, 400 | 404 | 405 | 501));
    assert_eq!(provider.requests().len(), upgrades.len());
    for seen in provider.requests() {
        assert_eq!((seen.header("upgrade"), seen.header("http2-settings")), (None, None), "{}", seen.head);
        assert!(seen.header("connection").is_none_or(|value| !value.contains("upgrade")), "{}", seen.head);
    }
}

#[test]
fn the_body_of_a_refused_request_is_not_the_next_request() {
    let (provider, gateway) = start();
    let hidden = hidden(&gateway);
    let key = &gateway.key.token;
    for request in [
        Request::post("/v1/chat/completions", hidden.clone()).bearer("nobody"),
        Request::post("/v1/unknown", hidden.clone()).bearer(key),
        Request::post("/v1/chat/completions", hidden.clone()).bearer(key),
        Request { method: "PUT", ..Request::post("/v1/key", hidden.clone()).bearer(key) },
        Request { method: "DELETE", ..Request::post("/v1/models", hidden.clone()).bearer(key) },
    ] {
        for framed in [request.bytes(), request.chunked(50)] {
            let mut wire = gateway.connect();
            wire.send(&framed);
            assert!((400..500).contains(&wire.answer().status));
            // If the connection stays open, it is in order.
            answers_or_is_closed(&mut wire, key);
        }
    }
    let inspection = format!(
        "GET /v1/key HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{hidden}",
        hidden.len()
    );
    let mut wire = gateway.connect();
    assert_eq!(wire.exchange(inspection.as_bytes()).status, 200);
    answers_or_is_closed(&mut wire, key);
    assert!(provider.requests().is_empty());
}

fn answers_or_is_closed(wire: &mut Wire, token: &str) {
    if wire.try_send(&Request::get("/v1/key").bearer(token).bytes()).is_ok()
        && let Ok(answer) = wire.try_answer()
    {
        assert!(answer.status == 200 && answer.json()["limit"].is_null(), "{}", answer.text());
    }
}
