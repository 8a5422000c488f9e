//! One answer in each language, with the model's words in it.

use crate::dialect::Dialect;
use crate::usage::{Kind, Usage};
use serde_json::{Value, json};

/// A stream and what it must count.
pub(super) struct Sample {
    pub dialect: Dialect,
    /// The data of its events, without a `[DONE]`.
    pub events: Vec<Value>,
    /// Where the event with the final figures stands, and the object in it.
    pub figures: (usize, &'static str),
    /// A figure in that object.
    pub figure: &'static str,
    pub usage: Usage,
    /// Whether a `[DONE]` ends it.
    pub done: bool,
}

impl Sample {
    /// The stream with these line ends, `data:` and a space or not.
    pub(super) fn text(&self, end: &str, space: &str) -> String {
        let mut text: String = self
            .events
            .iter()
            .map(|event| {
                let name = event["type"].as_str().map(|name| format!("event:{space}{name}{end}")).unwrap_or_default();
                format!("{name}data:{space}{event}{end}{end}")
            })
            .collect();
        if self.done {
            text.push_str(&format!("data:{space}[DONE]{end}{end}"));
        }
        text
    }

    /// The event with the final figures.
    pub(super) fn last(&mut self) -> &mut Value {
        &mut self.events[self.figures.0]
    }

    /// The object of the final figures.
    pub(super) fn usage_object(&mut self) -> &mut Value {
        let pointer = self.figures.1;
        self.last().pointer_mut(pointer).expect("figures")
    }
}

/// A stream in every language of server-sent events.
pub(super) fn samples(words: &str) -> Vec<Sample> {
    let mut samples = openai(words);
    samples.push(anthropic(words));
    samples.push(gemini(words));
    samples.push(cohere(words));
    samples.extend(media(words));
    samples
}

fn openai(words: &str) -> Vec<Sample> {
    let usage = json!({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "prompt_tokens_details": {"cached_tokens": 4}});
    let chunk = |choice: Value| json!({"id": "c", "choices": [choice], "usage": null});
    let chat = vec![
        chunk(json!({"index": 0, "delta": {"content": words}})),
        chunk(json!({"index": 0, "delta": {}, "finish_reason": "stop"})),
        json!({"id": "c", "choices": [], "usage": usage}),
    ];
    let completions = vec![
        chunk(json!({"index": 0, "text": words, "finish_reason": null})),
        chunk(json!({"index": 0, "text": "", "finish_reason": "stop"})),
        json!({"id": "c", "choices": [], "usage": usage}),
    ];
    let response = |usage: Value| json!({"id": "r", "created_at": 7, "model": "m", "output": [{"type": "message", "content": [{"text": words}]}], "usage": usage});
    let figures = json!({"input_tokens": 9, "output_tokens": 5, "total_tokens": 14, "input_tokens_details": {"cached_tokens": 4}});
    let responses = vec![
        json!({"type": "response.created", "sequence_number": 0, "response": response(Value::Null)}),
        json!({"type": "response.output_item.added", "sequence_number": 1, "output_index": 0, "item": {"id": "i", "type": "message"}}),
        json!({"type": "response.output_text.delta", "sequence_number": 2, "delta": words}),
        json!({"type": "response.output_item.done", "sequence_number": 3, "output_index": 0, "item": {"id": "i", "type": "message", "content": [words]}}),
        json!({"type": "response.completed", "sequence_number": 4, "response": response(figures)}),
    ];
    let sample = |dialect, events, figures, figure| {
        let usage = Usage::of(5, 5).with(Kind::CacheRead, 4);
        Sample { dialect, events, figures, figure, usage, done: dialect != Dialect::OpenaiResponses }
    };
    vec![
        sample(Dialect::OpenaiChat, chat, (2, "/usage"), "completion_tokens"),
        sample(Dialect::OpenaiCompletions, completions, (2, "/usage"), "completion_tokens"),
        sample(Dialect::OpenaiResponses, responses, (4, "/response/usage"), "output_tokens"),
    ]
}

fn anthropic(words: &str) -> Sample {
    let events = vec![
        json!({"type": "message_start", "message": {"usage": {"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": words}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}),
        json!({"type": "message_stop"}),
    ];
    let usage = Usage::of(5, 5).with(Kind::CacheRead, 4);
    Sample { dialect: Dialect::Anthropic, events, figures: (4, "/usage"), figure: "output_tokens", usage, done: false }
}

fn gemini(words: &str) -> Sample {
    let chunk =
        |usage: Value| json!({"candidates": [{"content": {"parts": [{"text": words}]}}], "usageMetadata": usage});
    let mut last = chunk(
        json!({"promptTokenCount": 9, "cachedContentTokenCount": 4, "candidatesTokenCount": 3, "thoughtsTokenCount": 2}),
    );
    last["candidates"][0]["finishReason"] = "STOP".into();
    let events = vec![
        chunk(json!({"promptTokenCount": 9})),
        chunk(json!({"promptTokenCount": 9, "candidatesTokenCount": 1})),
        last,
    ];
    let usage = Usage::of(5, 3).with(Kind::CacheRead, 4).with(Kind::Reasoning, 2);
    let (figures, figure) = ((2, "/usageMetadata"), "candidatesTokenCount");
    Sample { dialect: Dialect::GeminiGenerate, events, figures, figure, usage, done: false }
}

fn cohere(words: &str) -> Sample {
    let usage = json!({"billed_units": {"input_tokens": 9, "output_tokens": 5}, "tokens": {"input_tokens": 90, "output_tokens": 50}});
    let events = vec![
        json!({"type": "message-start", "id": "m", "delta": {"message": {"role": "assistant"}}}),
        json!({"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}}),
        json!({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": words}}}}),
        json!({"type": "content-end", "index": 0}),
        json!({"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": usage}}),
    ];
    let (figures, figure) = ((4, "/delta/usage/billed_units"), "output_tokens");
    Sample { dialect: Dialect::CohereChat, events, figures, figure, usage: Usage::of(9, 5), done: true }
}

fn media(words: &str) -> Vec<Sample> {
    let usage = json!({"input_tokens": 9, "output_tokens": 5, "total_tokens": 14});
    [
        (
            Dialect::OpenaiImages,
            "image_generation.partial_image",
            "image_generation.completed",
            "b64_json",
            Kind::ImageOutput,
        ),
        (Dialect::OpenaiSpeech, "speech.audio.delta", "speech.audio.done", "audio", Kind::AudioOutput),
        (Dialect::OpenaiTranscription, "transcript.text.delta", "transcript.text.done", "text", Kind::Output),
    ]
    .map(|(dialect, part, last, member, kind)| {
        let events = vec![json!({"type": part, member: words}), json!({"type": last, member: words, "usage": usage})];
        let usage = Usage::of(9, 0).with(kind, 5);
        Sample { dialect, events, figures: (1, "/usage"), figure: "output_tokens", usage, done: false }
    })
    .into()
}
