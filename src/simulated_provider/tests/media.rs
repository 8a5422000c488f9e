//! OpenAI's pictures and sounds.

use super::client::Simulator;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A second and a half of silence at 24 kHz and 16 bits.
fn wav() -> Vec<u8> {
    let head = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\xc0\x5d\0\0\x80\xbb\0\0\x02\0\x10\0data\0\0\0\0";
    [&head[..], &[0; 72_000]].concat()
}

#[tokio::test]
async fn picture_is_billed_by_its_size_and_quality() {
    let simulator = Simulator::healthy().await;
    let ask = json!({"model": "gpt-image-1", "prompt": "a grey square", "n": 2, "size": "1024x1536", "quality": "low"});
    let body = simulator.ask("/v1/images/generations", "", &ask).await.json();
    let pictures = body["data"].as_array().unwrap();
    let picture = STANDARD.decode(pictures[1]["b64_json"].as_str().unwrap()).unwrap();
    assert!(pictures.len() == 2 && picture.starts_with(b"\x89PNG"));
    assert_eq!((&body["usage"]["input_tokens"], &body["usage"]["output_tokens"]), (&json!(3), &json!(816)));
    let old = json!({"model": "dall-e-3", "prompt": "a grey square"});
    let old = simulator.ask("/v1/images/generations", "", &old).await.json();
    assert!(old["usage"].is_null() && old["data"][0]["url"].is_string());
    let large = simulator.ask_with_fault("/v1/images/generations", "image-bytes=750000", &ask).await;
    assert!(large.body.len() > 2_000_000 && large.whole);
}

#[tokio::test]
async fn edit_counts_the_picture_that_was_sent() {
    let simulator = Simulator::healthy().await;
    let fields = [("model", "gpt-image-1"), ("prompt", "make it red"), ("quality", "low")];
    let body = simulator.upload("/v1/images/edits", "", &fields, b"png").await.json();
    let details = json!({"image_tokens": 260, "text_tokens": 3});
    assert_eq!((&body["usage"]["input_tokens_details"], &body["usage"]["output_tokens"]), (&details, &json!(272)));
    let varied = simulator.upload("/v1/images/variations", "", &[("n", "2")], b"png").await.json();
    assert_eq!(varied["data"].as_array().unwrap().len(), 2);
    assert_eq!(simulator.ask("/v1/images/edits", "", &json!({"prompt": "x"})).await.status, 400);
}

#[tokio::test]
async fn picture_is_streamed_in_parts() {
    let ask = json!({"model": "gpt-image-1", "prompt": "a", "stream": true, "partial_images": 2, "quality": "low"});
    let events = Simulator::healthy().await.ask("/v1/images/generations", "", &ask).await.events();
    let kinds: Vec<&Value> = events.iter().map(|event| &event["type"]).collect();
    let (partial, completed) = ("image_generation.partial_image", "image_generation.completed");
    assert_eq!(kinds, [partial, partial, completed]);
    assert_eq!((&events[1]["partial_image_index"], &events[0]["usage"]), (&json!(1), &Value::Null));
    assert_eq!(events[2]["usage"]["output_tokens"], 272 + 200);
}

#[tokio::test]
async fn speech_is_sound_or_events() {
    let simulator = Simulator::healthy().await;
    let mut ask = json!({"model": "gpt-4o-mini-tts", "input": "one two three", "voice": "alloy"});
    let sound = simulator.ask("/v1/audio/speech", "", &ask).await;
    assert_eq!((sound.header("content-type"), sound.body.len()), (Some("audio/mpeg"), 3 * 417));
    assert!(sound.whole && sound.body.starts_with(b"\xff\xfb"));
    ask["response_format"] = json!("wav");
    assert!(simulator.ask("/v1/audio/speech", "", &ask).await.body.starts_with(b"RIFF"));
    ask["stream_format"] = json!("sse");
    let events = simulator.ask("/v1/audio/speech", "", &ask).await;
    assert!(events.text().contains("\"}\r\n\r\ndata: {"));
    let events = events.events();
    assert_eq!((events.len(), &events[3]["type"]), (4, &json!("speech.audio.done")));
    assert_eq!(events[3]["usage"], json!({"input_tokens": 3, "output_tokens": 3, "total_tokens": 6}));
}

#[tokio::test]
async fn transcription_is_billed_by_time_or_by_tokens() {
    let simulator = Simulator::healthy().await;
    let path = "/v1/audio/transcriptions";
    let whisper = simulator.upload(path, "", &[("model", "whisper-1")], &wav()).await.json();
    assert_eq!(whisper["usage"], json!({"type": "duration", "seconds": 2}));
    let fields = [("model", "whisper-1"), ("response_format", "verbose_json")];
    let verbose = simulator.upload(path, "", &fields, &wav()).await.json();
    assert_eq!((&verbose["duration"], &verbose["text"]), (&json!(1.5), &whisper["text"]));
    let fields = [("model", "whisper-1"), ("response_format", "srt")];
    let captions = simulator.upload(path, "", &fields, &wav()).await;
    assert!(captions.text().starts_with("1\n00:00:00,000 --> 00:00:01,500\n"), "{}", captions.text());
    assert_eq!(captions.header("content-type"), Some("text/plain; charset=utf-8"));
    let translated = simulator.upload("/v1/audio/translations", "", &[("model", "whisper-1")], &wav()).await.json();
    assert_eq!(translated, json!({"text": whisper["text"]}));

    let fields = [("model", "gpt-4o-transcribe"), ("prompt", "two words")];
    let usage = simulator.upload(path, "", &fields, &wav()).await.json()["usage"].clone();
    assert_eq!((&usage["type"], &usage["input_tokens"]), (&json!("tokens"), &json!(22)));
    assert_eq!(usage["input_token_details"], json!({"audio_tokens": 20, "text_tokens": 2}));
    let fields = [("model", "gpt-4o-transcribe"), ("stream", "true")];
    let events = simulator.upload(path, "", &fields, &wav()).await.events();
    let done = events.last().unwrap();
    assert_eq!((&done["type"], &done["text"]), (&json!("transcript.text.done"), &whisper["text"]));
    assert_eq!(done["usage"]["output_tokens"], events.len() - 1);
    assert_eq!(
        simulator.upload(path, "", &[("model", "gpt-4o-transcribe"), ("response_format", "srt")], b"x").await.status,
        400
    );
}
