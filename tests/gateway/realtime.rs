//! Realtime sessions: a WebSocket over which a model answers again and again, each answer a call that is governed and charged.

use crate::money::within_a_second;
use crate::support::{Answer, Gateway, Key, Request, Setup, Upstream, Wire, eventually};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// 100 input tokens, 40 of them heard, and 20 spoken ones: what each answer of the provider costs at the prices of the tests.
const DONE: &str = r#"{"type":"response.done","response":{"status":"completed","usage":{"total_tokens":120,"input_tokens":100,"output_tokens":20,"input_token_details":{"text_tokens":60,"audio_tokens":40},"output_token_details":{"text_tokens":0,"audio_tokens":20}}}}"#;
const ANSWER_NANO: i64 = 100 * 1_000 + 20 * 10_000;

/// A provider that answers each `response.create`; it stops half-way where the request says so.
struct Provider {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Provider {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (address, heads) = (listener.local_addr().expect("an address"), Arc::<Mutex<Vec<String>>>::default());
        let seen = Arc::clone(&heads);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let seen = Arc::clone(&seen);
                // The client leaves when it likes: that is how a session ends.
                std::thread::spawn(move || serve(stream, &seen));
            }
        });
        Self { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("nobody panics with it").clone()
    }
}

fn serve(mut stream: TcpStream, heads: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    heads.lock().expect("nobody panics with it").push(String::from_utf8_lossy(&head).into_owned());
    stream.write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: x\r\n\r\n",
    )?;
    stream.write_all(&text_frame(r#"{"type":"session.created"}"#, None))?;
    loop {
        let asked = read_frame(&mut stream)?;
        let delta = r#"{"type":"response.output_text.delta","delta":"12345678"}"#;
        stream.write_all(&text_frame(r#"{"type":"response.created","response":{"usage":null}}"#, None))?;
        stream.write_all(&text_frame(delta, None))?;
        if !asked.contains("half") {
            stream.write_all(&text_frame(DONE, None))?;
        }
    }
}

/// A frame; clients mask theirs.
fn text_frame(text: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut frame = vec![0x81];
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match u8::try_from(text.len()) {
        Ok(length @ 0..=125) => frame.push(masked | length),
        _ => {
            frame.push(masked | 126);
            frame.extend_from_slice(&u16::try_from(text.len()).expect("short").to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask.unwrap_or_default()[..if mask.is_some() { 4 } else { 0 }]);
    let key = mask.unwrap_or_default();
    frame.extend(text.bytes().enumerate().map(|(place, byte)| byte ^ key[place % 4]));
    frame
}

/// The payload of the next frame, unmasked; the status and reason of a close frame.
fn read_frame(stream: &mut impl Read) -> std::io::Result<String> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let length = match head[1] & 0x7f {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            usize::from(u16::from_be_bytes(length))
        }
        length => usize::from(length),
    };
    let mut mask = [0; 4];
    if head[1] & 0x80 != 0 {
        stream.read_exact(&mut mask)?;
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    payload.iter_mut().enumerate().for_each(|(place, byte)| *byte ^= mask[place % 4]);
    if head[0] & 0x0f == 8 {
        let status = u16::from_be_bytes([payload[0], payload[1]]);
        return Ok(format!("close {status} {}", String::from_utf8_lossy(&payload[2..])));
    }
    Ok(String::from_utf8_lossy(&payload).into_owned())
}

fn gateway(provider: &Provider) -> Setup {
    let model = "id = 'gpt-realtime'\nmode = 'realtime'\ncontext_tokens = 32_000\noutput_tokens_max = 4_096\noutput_limit_field = 'max_tokens'";
    Setup::new().upstream(Upstream::openai("realtime", format!("http://{}/v1", provider.address))).catalogued(&format!(
        "[[models]]\n{model}\ncandidates = [{{ provider = 'realtime', model = 'gpt-realtime-of-theirs' }}]\n\
             [[models.prices]]\nfrom = '2026-01-01'\ninput = '1'\noutput = '10'\n"
    ))
}

fn request(key: &Key) -> Request {
    Request::get("/v1/realtime?model=gpt-realtime&intent=x")
        .bearer(&key.token)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-extensions", "permessage-deflate")
}

fn open(gateway: &Gateway, key: &Key) -> (Wire, Answer) {
    let mut wire = gateway.connect();
    wire.send(&request(key).bytes());
    let head = wire.any_head().expect("an answer");
    (wire, head)
}

fn ask(wire: &mut Wire, words: &str) {
    let event = format!(r#"{{"type":"response.create","response":{{"instructions":"{words}"}}}}"#);
    wire.send(&text_frame(&event, Some([1, 2, 3, 4])));
}

/// Messages up to the end of an answer, or of the session.
fn answered(wire: &mut Wire) -> Vec<String> {
    let mut messages = Vec::new();
    while let Ok(message) = read_frame(&mut wire.reader()) {
        let is_last = message.contains("response.done") || message.starts_with("close");
        messages.push(message);
        if is_last {
            break;
        }
    }
    messages
}

#[test]
fn each_answer_of_a_session_is_a_call_that_is_charged() {
    let provider = Provider::start();
    let gateway = gateway(&provider).start();
    let (mut wire, head) = open(&gateway, &gateway.key);
    assert_eq!(
        (head.status, head.header("upgrade"), head.header("sec-websocket-accept")),
        (101, Some("websocket"), Some("x"))
    );
    for number in 1..=3 {
        ask(&mut wire, "speak");
        let messages = answered(&mut wire);
        assert_eq!(messages.last().map(String::as_str), Some(DONE), "{messages:?}");
        let rows = gateway.books_of(number);
        assert!(
            rows.iter().all(|row| (row.charge_nano, row.outcome.as_str()) == (ANSWER_NANO, "complete")),
            "{rows:?}"
        );
    }
    let head = provider.heads().pop().expect("it was asked");
    assert!(head.starts_with("GET /v1/realtime?model=gpt-realtime-of-theirs&intent=x HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("authorization: bearer sk-upstream"), "{head}");
    assert!(!head.to_lowercase().contains("permessage-deflate") && !head.contains(&gateway.key.token), "{head}");
    drop(wire);
    // The answer that might have come cost nothing.
    let rows = gateway.books_of(4);
    assert_eq!(rows.iter().map(|row| row.charge_nano).sum::<i64>(), 3 * ANSWER_NANO);
    let audit = gateway.audit();
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
}

#[test]
fn a_session_ends_when_its_money_does() {
    let provider = Provider::start();
    let gateway = gateway(&provider).start();
    // Enough to set aside for one answer at a time, and to pay for two.
    let limit = 32_000 * 1_000 + 4_096 * 10_000 + 2 * ANSWER_NANO - 1;
    let key = gateway.create_key(&["--limit", &crate::money::dollars(limit), "--strict"]);
    let (mut wire, head) = open(&gateway, &key);
    assert_eq!(head.status, 101);
    let mut answers = 0;
    let last = loop {
        ask(&mut wire, "speak");
        let messages = answered(&mut wire);
        match messages.last() {
            Some(message) if message == DONE => answers += 1,
            _ => break messages.concat(),
        }
    };
    assert!(last.contains("close 1008 spend_limit_reached") || last.contains("close 1008 credits_reserved"), "{last}");
    let rows = gateway.books_of(answers);
    let charged: i64 = rows.iter().map(|row| row.charge_nano).sum();
    assert_eq!(charged, answers as i64 * ANSWER_NANO);
    assert!(charged <= limit);
}

#[test]
fn an_answer_that_breaks_off_is_charged_as_far_as_it_came() {
    let provider = Provider::start();
    let gateway = gateway(&provider).start();
    let (mut wire, _) = open(&gateway, &gateway.key);
    ask(&mut wire, "half");
    eventually("its words have come", || {
        read_frame(&mut wire.reader()).ok().filter(|message| message.contains("text.delta"))
    });
    drop(wire);
    let rows = gateway.books_of(1);
    assert_eq!((rows[0].outcome.as_str(), rows[0].is_estimated, rows[0].output_tokens), ("client_gone", true, 2));
}

#[test]
fn a_session_ends_within_its_time_and_when_its_key_does() {
    let provider = Provider::start();
    let short = gateway(&provider).limit("realtime_ms_max = 200").start();
    let (mut wire, _) = open(&short, &short.key);
    let messages = answered(&mut wire);
    assert!(messages.last().is_some_and(|message| message.starts_with("close 1001")), "{messages:?}");

    let gateway = gateway(&provider).start();
    let key = gateway.create_key(&[]);
    let (mut wire, _) = open(&gateway, &key);
    gateway.tollgate(&["key", "disable", &key.id]);
    within_a_second("new requests are refused", || {
        let refused = gateway.exchange(&Request::get("/v1/key").bearer(&key.token));
        (refused.status == 401).then_some(())
    });
    ask(&mut wire, "speak");
    let answer = answered(&mut wire);
    assert_eq!(answer.last().map(String::as_str), Some(DONE));
    let end = answered(&mut wire);
    assert!(end.concat().contains("close 1008 key_disabled"), "{end:?}");
}

#[test]
fn what_is_no_session_is_refused_before_anybody_is_asked() {
    let provider = Provider::start();
    let gateway = gateway(&provider).start();
    let plain = gateway.exchange(&Request::get("/v1/realtime?model=gpt-realtime").bearer(&gateway.key.token));
    assert_eq!(plain.refusal(), (400, "invalid_request".to_owned()));
    let mut nameless = request(&gateway.key);
    nameless.path = "/v1/realtime".to_owned();
    assert_eq!(gateway.exchange(&nameless).refusal(), (400, "invalid_request".to_owned()));
    let poor = gateway.create_key(&["--limit", "0"]);
    assert_eq!(gateway.exchange(&request(&poor)).refusal(), (402, "spend_limit_reached".to_owned()));
    let mut chat = request(&gateway.key);
    chat.path = "/v1/realtime?model=gpt-4o-mini".to_owned();
    assert_eq!(gateway.exchange(&chat).refusal(), (404, "model_not_found".to_owned()));
    assert!(provider.heads().is_empty());
}
