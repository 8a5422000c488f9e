//! A request taken apart, before anybody knows what it means: JSON or a form, and the few questions that all APIs ask of it.

use super::multipart::{self, Upload};
use super::route::{Operation, Target};
use super::text::Prompt;
use bytes::Bytes;
use filters::dialect::Dialect;
use serde_json::Value;

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) target: Target,
    pub(super) raw: Bytes,
    /// The body's members; a form's are texts. Null for chat and messages, whose readers borrow from the bytes.
    pub(super) body: Value,
    pub(super) uploads: Vec<Upload>,
}

/// Members whose text no model reads.
const NO_WORDS: [&str; 12] = [
    "model",
    "role",
    "type",
    "id",
    "response_format",
    "input_type",
    "encoding_format",
    "embedding_types",
    "service_tier",
    "previous_response_id",
    "mimeType",
    "mime_type",
];

impl Ask {
    /// Takes a body apart; the error is a sentence for the caller.
    pub(super) fn read(target: Target, content_type: &str, raw: &Bytes) -> Result<Self, String> {
        let mut ask = Self { target, raw: raw.clone(), body: Value::Null, uploads: Vec::new() };
        if let Some(boundary) = multipart::boundary(content_type) {
            let form = multipart::read(raw, boundary)?;
            ask.body = Value::Object(form.texts);
            ask.uploads = form.uploads;
        } else if !matches!(ask.target.dialect, Dialect::OpenaiChat | Dialect::Anthropic | Dialect::AnthropicCount) {
            ask.body = serde_json::from_slice(raw).map_err(|error| format!("The body is not JSON: {error}."))?;
            if !ask.body.is_object() {
                return Err("The body is not a JSON object.".to_owned());
            }
        }
        Ok(ask)
    }

    /// A member's text; empty if there is none.
    pub(super) fn text(&self, name: &str) -> &str {
        self.body[name].as_str().unwrap_or_default()
    }

    /// A member's number, which a form writes as text.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        let value = &self.body[name];
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        let value = &self.body[name];
        value.as_bool().unwrap_or(value == "true")
    }

    /// The model that is named, by the path or by the body; the error is a sentence for the caller.
    pub(super) fn model(&self) -> Result<&str, String> {
        let named = self.target.model.as_deref().unwrap_or_else(|| self.text("model"));
        if named.is_empty() { Err("You must provide a model parameter.".to_owned()) } else { Ok(named) }
    }

    /// Whether a stream is asked for, by the path or by the body.
    pub(super) fn is_streamed(&self) -> bool {
        matches!(self.target.operation, Operation::Streamed | Operation::StreamedArray) || self.flag("stream")
    }

    /// What the input is billed: a token for each word of it.
    pub(super) fn words(&self) -> u64 {
        words(&self.body).max(1)
    }

    /// The words of the last of these messages that the user said.
    pub(super) fn prompt(&self, messages: &Value) -> Prompt {
        let last = match messages {
            Value::Array(items) => items.iter().rfind(|item| is_users(item)),
            other => Some(other),
        };
        let mut text = String::new();
        last.into_iter().for_each(|message| gather(message, &mut text));
        Prompt::new(&text)
    }

    /// A member under either of its names: some providers read both.
    pub(super) fn either(&self, name: &str, other: &str) -> &Value {
        either(&self.body, name, other)
    }
}

/// A member under either of its names.
pub(super) fn either<'a>(object: &'a Value, name: &str, other: &str) -> &'a Value {
    object.get(name).unwrap_or(&object[other])
}

/// The tool that is called, if one is: `word` is the choice as it is written in any of the protocols.
pub(super) fn tool_called(word: &str, name: &str, prompt: Prompt) -> Option<String> {
    match word {
        "none" | "NONE" => None,
        // A counting prompt fills its limit, as it promises, unless a call is forced.
        "auto" | "AUTO" if prompt.counts => None,
        _ => Some(name.to_owned()),
    }
}

/// Said by the user, in any of the protocols: a result of a tool has a text too, but not a user's.
pub(super) fn is_users(message: &Value) -> bool {
    message.get("role").is_none_or(|role| role == "user") && message.get("type").is_none_or(|kind| kind == "message")
}

/// Appends the text of a message, whichever way its protocol nests it.
fn gather(value: &Value, text: &mut String) {
    match value {
        Value::String(piece) => text.push_str(piece),
        Value::Array(items) => items.iter().for_each(|item| gather(item, text)),
        Value::Object(members) => {
            for name in ["content", "parts", "text", "input"] {
                members.get(name).into_iter().for_each(|member| gather(member, text));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Words in all strings of a value, but for those that only say what the others are; a number is a token too.
pub(super) fn words(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.split_whitespace().count() as u64,
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_number) => items.len() as u64,
        Value::Array(items) => items.iter().map(words).sum(),
        Value::Object(members) => {
            let read = members.iter().filter(|(name, _)| !NO_WORDS.contains(&name.as_str()));
            read.map(|(_, member)| words(member)).sum()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_are_those_that_a_model_reads() {
        assert_eq!(words(&json!({"model": "a b", "input": "one two", "more": [{"role": "x", "text": " three\n"}]})), 3);
        assert_eq!(words(&json!({"input": [[1, 2], [3]], "n": 7})), 3);
    }

    #[test]
    fn prompt_is_found_however_it_is_nested() {
        let target = Target { dialect: Dialect::GeminiGenerate, operation: Operation::Plain, model: None };
        let ask = Ask::read(target, "application/json", &Bytes::from_static(b"{}")).expect("JSON");
        let expected = Prompt::new("count up").seed;
        for messages in [
            json!("count up"),
            json!([{"role": "user", "content": "count up"}, {"role": "model", "parts": [{"text": "no"}]}]),
            json!([{"parts": [{"text": "count "}, {"text": "up"}]}]),
            json!([{"role": "user", "content": [{"type": "input_text", "text": "count up"}]},
                   {"type": "function_call_output", "output": "x"}]),
        ] {
            assert_eq!(ask.prompt(&messages).seed, expected, "{messages}");
        }
    }
}
