//! Calls that are not chats: sounds, pictures, speech, vectors, rankings, and those that cost nothing.

use crate::support::{Answer, Call, Gateway, Key, Request, Scripted, Setup, Upstream, eventually};
use serde_json::{Value, json};

/// Nano-USD in the catalogue of the tests: an input token, a second of sound, a picture of dall-e-2, a character, a search unit.
const INPUT_NANO: i64 = 1_000;
const SECOND_NANO: i64 = 100_000;
const PICTURE_NANO: i64 = 20_000_000;
const CHARACTER_NANO: i64 = 15_000;
const UNIT_NANO: i64 = 2_000_000;

const BOUNDARY: &str = "a-boundary";

/// A gateway before a provider of this protocol that always answers with this JSON.
fn before(protocol: &'static str, answer: &'static str) -> (Gateway, Scripted) {
    let provider = Scripted::answering(200, answer);
    (gateway(protocol, &provider), provider)
}

/// A provider that draws as many pictures as it is asked for.
fn drawing() -> Scripted {
    Scripted::start(|exchange| {
        let asked = String::from_utf8_lossy(&exchange.request.body).into_owned();
        let digits = |text: &str| text.trim_start().chars().take_while(char::is_ascii_digit).collect::<String>();
        let count = ["\"n\":", "name=\"n\"\r\n\r\n"]
            .iter()
            .find_map(|before| asked.split_once(before).and_then(|(_, after)| digits(after).parse().ok()));
        let pictures = vec![r#"{"url":"https://example.com/1"}"#; count.unwrap_or(1)].join(",");
        exchange.answer(200, &format!("{{\"created\":1,\"data\":[{pictures}]}}"));
    })
}

fn gateway(protocol: &'static str, provider: &Scripted) -> Gateway {
    let root = if protocol == "cohere" { "/v2" } else { "/v1" };
    let url = format!("http://{}{root}", provider.address);
    Setup::new().every_protocol().upstream(Upstream::speaking(protocol, "scripted", url)).start()
}

fn post(key: &Key, path: &str, body: Value) -> Request {
    Request::post(path, body.to_string()).bearer(&key.token)
}

/// A form of fields and one file.
fn form(key: &Key, path: &str, fields: &[(&str, &str)], file: &[u8]) -> Request {
    let mut body = Vec::new();
    for (name, value) in fields {
        let part = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        body.extend_from_slice(part.as_bytes());
    }
    let head = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n"
    );
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(file);
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    let mut request = Request::post(path, body).bearer(&key.token);
    request.headers.retain(|(name, _)| name != "content-type");
    request.header("content-type", &format!("multipart/form-data; boundary={BOUNDARY}"))
}

/// Eight kilohertz of eight bits: a byte is an eighth of a millisecond.
fn wav(ms: usize) -> Vec<u8> {
    let mut file = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
    file.extend(8_000u32.to_le_bytes());
    file.extend(8_000u32.to_le_bytes());
    file.extend(b"\x01\0\x08\0data\0\0\0\0");
    file.extend((0..ms * 8).map(|at| (at % 251) as u8));
    file
}

/// The answer's header of its cost, which the books must confirm, and whether it was an estimate.
fn charged(gateway: &Gateway, answer: &Answer) -> (i64, bool) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let row = gateway.row(answer.request_id());
    let dollars = answer.header("x-tollgate-cost-usd").unwrap_or_else(|| panic!("no cost in {answer:?}"));
    assert_eq!(crate::money::nano(dollars), row.charge_nano);
    (row.charge_nano, row.is_estimated)
}

fn transcription(key: &Key, ms: usize) -> Request {
    form(key, "/v1/audio/transcriptions", &[("model", "whisper"), ("response_format", "json")], &wav(ms))
}

#[test]
fn a_sound_is_charged_by_its_length_and_reaches_the_provider_as_it_was() {
    let (gateway, provider) = before("openai", r#"{"text":"Hello."}"#);
    let request = transcription(&gateway.key, 90_500);
    for bytes in [request.bytes(), request.chunked(4_096)] {
        let answer = gateway.connect().exchange(&bytes);
        // 90.5 seconds at $0.0001.
        assert_eq!(charged(&gateway, &answer), (9_050_000, false));
        assert_eq!(9_050_000 * 2, 181 * SECOND_NANO);
    }
    for received in provider.requests() {
        let named = String::from_utf8_lossy(&request.body).replacen("\r\nwhisper\r\n", "\r\nwhisper-1\r\n", 1);
        assert_eq!(String::from_utf8_lossy(&received.body), named);
        assert_eq!(received.header("content-type"), Some("multipart/form-data; boundary=a-boundary"));
    }
    assert_eq!(provider.requests().len(), 2);
    assert!(gateway.audit().status.success());
}

#[test]
fn the_providers_own_figures_win() {
    let (gateway, _provider) = before("openai", r#"{"text":"Hello.","usage":{"type":"duration","seconds":7}}"#);
    let answer = gateway.exchange(&transcription(&gateway.key, 3_000));
    assert_eq!(charged(&gateway, &answer), (7 * SECOND_NANO, false));
}

#[test]
fn a_sound_of_unknown_length_is_charged_an_estimate() {
    let (gateway, _provider) = before("openai", r#"{"text":"Hello."}"#);
    let noise = form(&gateway.key, "/v1/audio/translations", &[("model", "whisper-1")], &[7; 5_000]);
    // A thousand bytes a second.
    assert_eq!(charged(&gateway, &gateway.exchange(&noise)), (5 * SECOND_NANO, true));
}

#[test]
fn a_sound_whose_gateway_was_killed_is_charged_by_its_length() {
    let provider = Scripted::start(crate::support::Exchange::await_close);
    let gateway = gateway("openai", &provider);
    let mut wire = gateway.connect();
    wire.send(&transcription(&gateway.key, 3_000).bytes());
    eventually("the provider has the sound", || (provider.requests().len() == 1).then_some(()));
    gateway.kill();
    gateway.restart();
    let row = gateway.books_of(1).remove(0);
    assert_eq!((row.outcome.as_str(), row.charge_nano), ("recovered", 3 * SECOND_NANO));
    assert!(gateway.audit().status.success());
}

/// A model that hears at this price: $6 for a million tokens heard, $10 for a million written.
fn hearing(provider: &Scripted, second: &str) -> Gateway {
    Setup::new()
        .upstream(Upstream::openai("scripted", provider.url()))
        .catalogued(&format!(
            "[[models]]\nid = 'gpt-4o-transcribe'\nmode = 'transcription'\ncontext_tokens = 16_000\noutput_tokens_max = 2_000\n\
             output_limit_field = 'max_tokens'\ncandidates = [{{ provider = 'scripted', model = 'gpt-4o-transcribe' }}]\n\
             [[models.prices]]\nfrom = '2026-01-01'\ninput = '2.5'\naudio_input = '6'\noutput = '10'\n\
             audio_second = '{second}'\n"
        ))
        .start()
}

#[test]
fn a_sound_is_billed_by_the_token_or_by_the_second_and_never_by_both() {
    let provider = Scripted::start(|exchange| {
        let asked = String::from_utf8_lossy(&exchange.request.body).into_owned();
        if asked.contains("\r\ntext\r\n") {
            exchange.send("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 8\r\n\r\nHello.\r\n");
        } else {
            let tokens =
                r#""input_tokens":14,"input_token_details":{"audio_tokens":14,"text_tokens":0},"output_tokens":101"#;
            exchange.answer(200, &format!("{{\"text\":\"Hello.\",\"usage\":{{\"type\":\"tokens\",{tokens}}}}}"));
        }
    });
    let gateway = hearing(&provider, "0.0001");
    let hear = |gateway: &Gateway, format: &str| {
        let fields = [("model", "gpt-4o-transcribe"), ("response_format", format)];
        charged(gateway, &gateway.exchange(&form(&gateway.key, "/v1/audio/transcriptions", &fields, &wav(60_000))))
    };
    // 14 tokens heard, 101 written.
    assert_eq!(hear(&gateway, "json"), (14 * 6_000 + 101 * 10_000, false));
    // Nothing is said of tokens: sixty seconds.
    assert_eq!(hear(&gateway, "text"), (60 * SECOND_NANO, false));
    // Seconds have no price: 600 tokens heard, two written, and some around the form.
    let (charge, is_estimated) = hear(&hearing(&provider, "0"), "text");
    assert!(is_estimated && (3_620_000..4_000_000).contains(&charge), "{charge}");
}

#[test]
fn limits_hold_for_what_is_no_token() {
    let provider = drawing();
    let gateway = gateway("openai", &provider);
    for kind in ["--strict", "--elastic"] {
        let key = gateway.create_key(&["--limit", "0.05", kind]);
        let pictures =
            |n: u64| post(&key, "/v1/images/generations", json!({"model": "dall-e-2", "prompt": "x", "n": n}));
        let before = provider.requests().len();
        assert_eq!(gateway.exchange(&pictures(3)).status, 402);
        // 500 seconds cost $0.05.
        assert_eq!(gateway.exchange(&transcription(&key, 500_001)).status, 402);
        assert_eq!(provider.requests().len(), before);
        assert_eq!(charged(&gateway, &gateway.exchange(&pictures(2))), (2 * PICTURE_NANO, false));
        assert_eq!(gateway.exchange(&pictures(1)).status, 402);
        assert_eq!(charged(&gateway, &gateway.exchange(&transcription(&key, 100_000))), (100 * SECOND_NANO, false));
        assert_eq!(gateway.key_money(&key, "usage"), 50_000_000);
    }
}

#[test]
fn a_form_that_parsers_could_read_in_two_ways_is_refused() {
    let (gateway, provider) = before("openai", "{}");
    let path = "/v1/audio/transcriptions";
    let fields = [("model", "whisper-1"), ("language", "en"), ("model", "tts-1")];
    let twice = gateway.exchange(&form(&gateway.key, path, &fields, &wav(1)));
    assert_eq!(twice.refusal(), (400, "duplicate_field".to_owned()));
    let mut torn = transcription(&gateway.key, 1);
    torn.body.truncate(torn.body.len() - 4);
    let json = post(&gateway.key, path, json!({"model": "whisper-1"}));
    let two_types = transcription(&gateway.key, 1).header("content-type", "multipart/form-data; boundary=other");
    let unnamed = form(&gateway.key, path, &[], &wav(1));
    for request in [torn, json, two_types, unnamed] {
        assert_eq!(gateway.exchange(&request).refusal(), (400, "invalid_request".to_owned()), "{}", request.head());
    }
    assert!(provider.requests().is_empty());
}

#[test]
fn pictures_are_charged_by_number_size_and_quality() {
    let provider = drawing();
    let gateway = Setup::new()
        .upstream(Upstream::openai("scripted", provider.url()))
        .catalogued(
            "[[models]]\nid = 'dall-e-3'\nmode = 'image'\ncontext_tokens = 4_000\noutput_tokens_max = 1\n\
             output_limit_field = 'max_tokens'\ncandidates = [{ provider = 'scripted', model = 'dall-e-3' }]\n\
             [[models.prices]]\nfrom = '2026-01-01'\ninput = '0'\noutput = '0'\n\
             image = { '1024x1024' = '0.04', '1024x1024/hd' = '0.08', '1792x1024' = '0.08', '1792x1024/hd' = '0.12' }\n",
        )
        .start();
    let draw = |asked: Value| {
        let mut body = json!({"model": "dall-e-3", "prompt": "a cat"});
        asked.as_object().expect("members").iter().for_each(|(name, value)| body[name] = value.clone());
        charged(&gateway, &gateway.exchange(&post(&gateway.key, "/v1/images/generations", body))).0
    };
    assert_eq!(draw(json!({"size": "1024x1024", "quality": "standard"})), 40_000_000);
    assert_eq!(draw(json!({"size": "1024x1024", "quality": "hd", "n": 2})), 160_000_000);
    assert_eq!(draw(json!({"size": "1792x1024"})), 80_000_000);
    // Two were asked for, and one was made.
    let (few, _) = before("openai", r#"{"created":1,"data":[{"url":"https://example.com/1"}]}"#);
    let asked = json!({"model": "dall-e-2", "prompt": "a cat", "n": 2});
    let answer = few.exchange(&post(&few.key, "/v1/images/generations", asked));
    assert_eq!(charged(&few, &answer), (PICTURE_NANO, false));
    // Whatever else the provider draws is as dear as the dearest.
    assert_eq!(draw(json!({"size": "4096x4096"})), 120_000_000);
    let edit =
        form(&gateway.key, "/v1/images/edits", &[("model", "dall-e-3"), ("size", "1024x1024"), ("n", "3")], b"PNG");
    assert_eq!(charged(&gateway, &gateway.exchange(&edit)), (120_000_000, false));
    assert!(gateway.audit().status.success());
}

#[test]
fn speech_is_charged_by_the_character() {
    let provider = Scripted::start(|exchange| {
        let sound = [0xFF; 100_000];
        let head = "HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 100000\r\n\r\n";
        exchange.send([head.as_bytes(), &sound].concat());
    });
    let gateway = gateway("openai", &provider);
    let spoken = json!({"model": "tts-1", "input": "Grüße, Änne!", "voice": "alloy"});
    let answer = gateway.exchange(&post(&gateway.key, "/v1/audio/speech", spoken));
    assert_eq!((answer.status, answer.body.len(), answer.header("content-type")), (200, 100_000, Some("audio/mpeg")));
    let row = gateway.row(answer.request_id());
    // Twelve characters, whatever their bytes; the sound's own bytes say nothing.
    assert_eq!((row.charge_nano, row.is_estimated, row.output_tokens), (12 * CHARACTER_NANO, false, 0));
}

#[test]
fn vectors_are_charged_by_the_token() {
    let (gateway, _provider) =
        before("openai", r#"{"object":"list","data":[],"usage":{"prompt_tokens":5,"total_tokens":5}}"#);
    let embed = |input: Value| post(&gateway.key, "/v1/embeddings", json!({"model": "embed", "input": input}));
    for input in [json!("text"), json!(["one", "two"]), json!([1, 2, 3]), json!([[1, 2], [3]])] {
        assert_eq!(charged(&gateway, &gateway.exchange(&embed(input))), (5 * INPUT_NANO, false));
    }
    let tokens: Vec<u32> = (0..1_000).collect();
    let row = gateway.row(gateway.exchange(&embed(json!(tokens))).request_id());
    // A token each, and what stands around them.
    assert!((1_000 * INPUT_NANO..1_100 * INPUT_NANO).contains(&row.reserved_nano), "{row:?}");
}

#[test]
fn a_ranking_is_charged_by_the_search_unit() {
    let (gateway, _provider) = before("cohere", r#"{"id":"r","results":[]}"#);
    for (documents, units) in [(1, 1), (100, 1), (101, 2)] {
        let body = json!({"model": "rerank", "query": "which?", "documents": vec!["a text"; documents]});
        let answer = gateway.exchange(&post(&gateway.key, "/v2/rerank", body));
        assert_eq!(charged(&gateway, &answer), (units * UNIT_NANO, true), "{documents}");
    }
}

#[test]
fn what_costs_nothing_needs_no_price_and_no_money() {
    let provider =
        Scripted::answering(200, r#"{"id":"m","results":[],"usage":{"prompt_tokens":1000,"total_tokens":1000}}"#);
    let gateway = Setup::new()
        .upstream(Upstream::openai("scripted", provider.url()))
        .upstream(Upstream::anthropic("counting", provider.url()))
        .catalogued(
            "[[models]]\nid = 'omni-moderation-latest'\nmode = 'moderation'\ncontext_tokens = 32_000\noutput_tokens_max = 1\n\
             output_limit_field = 'max_tokens'\ncandidates = [{ provider = 'scripted', model = 'omni-moderation-latest' }]\n\
             [[models.prices]]\nfrom = '2999-01-01'\ninput = '1'\noutput = '1'\n",
        )
        .start();
    let key = gateway.create_key(&["--limit", "0.000001", "--rpm", "4"]);
    let judged = gateway.exchange(&post(&key, "/v1/moderations", json!({"input": "a text"})));
    assert_eq!(charged(&gateway, &judged), (0, false));
    let counted = json!({"model": "sonnet", "messages": [{"role": "user", "content": "x".repeat(10_000)}]});
    let count = || post(&key, "/v1/messages/count_tokens", counted.clone()).header("anthropic-version", "2023-06-01");
    for _ in 0..2 {
        assert_eq!(charged(&gateway, &gateway.exchange(&count())), (0, false));
    }
    // A minute may have begun meanwhile, but not three.
    assert!((0..10).any(|_| gateway.exchange(&count()).status == 429), "free requests count too");
    let row = gateway.row(judged.request_id());
    assert_eq!((row.reserved_nano, row.input_tokens), (0, 0));
    // It is billed a thousand tokens, which is more than it had.
    let indebted = gateway.create_key(&["--limit", "0.0002"]);
    let call = Call::chat("Hello").with("max_tokens", 1);
    assert_eq!(gateway.call_with(&indebted, &call).status, 200);
    assert_eq!(gateway.call_with(&indebted, &call).status, 402);
    assert_eq!(gateway.exchange(&post(&indebted, "/v1/moderations", json!({"input": "a text"}))).status, 200);
    assert!(gateway.audit().status.success());
}
