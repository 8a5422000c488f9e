//! What must never be written down: tokens, provider credentials, prompts and answers, in any coding.

use crate::money::counting;
use crate::support::{Call, Gateway, Provider, Request, Scripted, Setup, Upstream};
use std::fs;
use std::path::{Path, PathBuf};

const UPSTREAM_CREDENTIAL: &str = "sk-upstream-canary-0123456789abcdef";
const PROMPT: &str = "count the canaries that sing at dawn";
/// Long enough that it does not stand anywhere by chance.
const NEEDLE_BYTES: usize = 16;

/// Base64 without padding, in the given alphabet's last two letters.
fn base64(bytes: &[u8], last: [u8; 2]) -> Vec<u8> {
    let mut alphabet: Vec<u8> = (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').collect();
    alphabet.extend(last);
    let mut text = Vec::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        text.extend((0..=group.len()).map(|digit| alphabet[(bits >> (18 - 6 * digit)) as usize & 63]));
    }
    text
}

/// A secret as it could stand in a text: as it is, in hexadecimal digits, and in base64 wherever it begins in a longer one.
fn needles(secret: &str) -> Vec<Vec<u8>> {
    let secret = &secret.as_bytes()[secret.len().saturating_sub(NEEDLE_BYTES + 6)..secret.len() - 6];
    let lower: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut needles = vec![secret.to_vec(), lower.to_uppercase().into_bytes(), lower.into_bytes()];
    for start in 0..3 {
        // Digits that also depend on what stands before and behind are left out.
        let whole = &secret[start..];
        let whole = &whole[..whole.len() / 3 * 3];
        needles.extend([base64(whole, *b"+/"), base64(whole, *b"-_")]);
    }
    needles
}

pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    let nested = entries.map(|path| if path.is_dir() { files_below(&path) } else { vec![path] });
    nested.flatten().collect()
}

pub(crate) fn assert_nowhere(secret: &str, place: &str, bytes: &[u8]) {
    for needle in needles(secret) {
        let found = memchr::memmem::find(bytes, &needle);
        let context = found.map(|at| String::from_utf8_lossy(&bytes[at.saturating_sub(200)..at]).into_owned());
        assert_eq!(context, None, "{} of {secret} stands in {place}, after this", String::from_utf8_lossy(&needle));
    }
}

/// Everything that a gateway does with a key: served, refused, failed, streamed, asked.
fn use_everything(gateway: &Gateway, token: &str) {
    let chat = Call::chat(PROMPT).with("max_tokens", 30);
    let messages = Call::messages(PROMPT).with("max_tokens", 30);
    for call in [chat.clone(), chat.clone().streamed(), messages.clone(), messages.streamed()] {
        assert_eq!(gateway.exchange(&call.request(token)).status, 200);
        for faults in ["status=503", "status=401", "reset-after=20", "error-event", "garbage"] {
            let mut wire = gateway.connect();
            wire.send(&call.clone().simulate(faults).request(token).bytes());
            // Some of these end with a broken connection.
            let _ = wire.try_answer();
        }
    }
    for request in [
        chat.clone().with("model", "none").request(token),
        chat.request(token).header("x-api-key", "another"),
        chat.request(token).header("cookie", token),
        Request::get("/v1/key").header("x-goog-api-key", token),
        Request::get("/v1/models").header("api-key", token),
        Request::get(&format!("/v1/nothing?key={token}")),
        Request::get("/v1/key").bearer(&token[..token.len() - 1]),
        Request::post("/v1/chat/completions", format!("{{\"model\":\"{token}\",\"messages\":\"{PROMPT}\""))
            .bearer(token),
    ] {
        gateway.exchange(&request);
    }
    let head = chat.request(token).head();
    for broken in [
        format!("GET /v1/key HTTP/1.1\r\nauthorization: Bearer {token}\r\nbroken header {token}\r\n\r\n"),
        format!("{head}transfer-encoding: chunked\r\n\r\n{PROMPT}\r\n{PROMPT}\r\n0\r\n\r\n"),
        format!("{head}transfer-encoding: chunked\r\n\r\n5\r\n{PROMPT}\r\n0\r\n\r\n"),
        format!("{head}content-length: 1000\r\n\r\n{{\"messages\":[\"{PROMPT}\""),
    ] {
        let mut wire = gateway.connect();
        wire.send(broken.as_bytes());
        wire.half_close();
        wire.rest();
    }
}

fn gateway_logging(level: &str, provider: &Provider) -> Gateway {
    let upstream = |upstream: Upstream| upstream.credentials(&[UPSTREAM_CREDENTIAL]).setting("bench_ms = 1");
    Setup::new()
        .section(&format!("[log]\nlevel = '{level}'\nformat = 'json'\n"))
        .upstream(upstream(Upstream::openai("simulated-openai", provider.url())))
        .upstream(upstream(Upstream::anthropic("simulated-anthropic", provider.url())))
        .start()
}

fn assert_canaries_are_nowhere(level: &str) {
    let provider = Provider::start();
    let gateway = gateway_logging(level, &provider);
    let token = gateway.key.token.clone();
    use_everything(&gateway, &token);
    assert!(provider.log().iter().any(|call| call["credential_sha256"].is_string()));
    gateway.call(&counting(1));
    gateway.signal(rustix::process::Signal::TERM);
    assert!(gateway.wait().success(), "{}", gateway.log());
    let log = gateway.log();
    assert!(log.lines().count() > 20, "it has logged: {log}");
    let mut places: Vec<(String, Vec<u8>)> = vec![("the log".to_owned(), log.into_bytes())];
    places.extend(
        files_below(&gateway.data())
            .into_iter()
            .map(|path| (path.display().to_string(), fs::read(&path).expect("a file"))),
    );
    assert!(places.iter().any(|(place, _)| place.ends_with("tollgate.db")));
    for (place, bytes) in &places {
        for secret in [token.as_str(), UPSTREAM_CREDENTIAL, PROMPT] {
            assert_nowhere(secret, place, bytes);
        }
        // What the simulated model answers to it.
        assert_nowhere("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19", place, bytes);
    }
}

#[test]
fn secrets_and_prompts_are_never_written_down() {
    assert_canaries_are_nowhere("info");
}

#[test]
fn secrets_and_prompts_are_never_written_down_however_much_is_logged() {
    assert_canaries_are_nowhere("trace");
}

/// A provider that echoes what it was sent in answers which break every rule.
fn breaking_provider() -> Scripted {
    Scripted::start(|exchange| {
        let secret = format!("{UPSTREAM_CREDENTIAL} {PROMPT}");
        match exchange.number % 6 {
            0 => exchange.send(format!("HTTP/1.1 200 OK\r\nbroken {secret}\r\n\r\n")),
            1 => exchange.send(format!("{secret}\r\n\r\n")),
            2 => {
                exchange.send(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{secret}\r\n{secret}\r\n"))
            }
            3 => {
                exchange.begin_stream();
                exchange.event(&format!("{{\"choices\":[{{\"delta\":{{\"content\":\"{secret}\"}}}}]}}"));
                exchange.send(format!("{secret}\r\n{secret}\r\n"));
            }
            4 => exchange.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {secret}\r\n\r\n{secret}")),
            _ => exchange.answer(500, &format!("{{\"error\":{{\"message\":\"{secret}\"}}}}")),
        }
        exchange.close();
    })
}

#[test]
fn what_a_breaking_provider_echoes_is_never_written_down() {
    for level in ["info", "trace"] {
        let provider = breaking_provider();
        let upstream = Upstream::openai("breaking", provider.url()).credentials(&[UPSTREAM_CREDENTIAL]);
        let gateway =
            Setup::new().section(&format!("[log]\nlevel = '{level}'\nformat = 'json'\n")).upstream(upstream).start();
        for number in 0..12 {
            let call = Call::chat("hi").with("stream", number % 2 == 0);
            let mut wire = gateway.open(&call);
            // Some of these end with a broken connection.
            let _ = wire.try_answer();
        }
        gateway.books_of(12);
        gateway.signal(rustix::process::Signal::TERM);
        assert!(gateway.wait().success());
        for secret in [UPSTREAM_CREDENTIAL, PROMPT] {
            assert_nowhere(secret, "the log", gateway.log().as_bytes());
        }
    }
}

#[test]
fn secrets_never_leave_in_an_answer_or_to_a_provider() {
    let provider = Scripted::answering(200, "{\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}");
    let upstream = Upstream::openai("scripted", provider.url()).credentials(&[UPSTREAM_CREDENTIAL]);
    let gateway = Setup::new().upstream(upstream).start();
    let token = &gateway.key.token;
    let request =
        counting(1).request(token).header("cookie", &format!("session={token}")).header("x-tollgate-secret", token);
    let answer = gateway.exchange(&request.header("x-api-key", token).header("api-key", token));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_nowhere(UPSTREAM_CREDENTIAL, "the answer", format!("{answer:?}").as_bytes());
    let received = &provider.requests()[0];
    assert_nowhere(token, "what the provider got", received.head.as_bytes());
    assert_eq!(received.header("authorization"), Some(format!("Bearer {UPSTREAM_CREDENTIAL}").as_str()));
}
