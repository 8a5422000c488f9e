//! Chat and messages: what the simulated model reads beyond a request's head, the last messages and the tools.

use super::ask::{Ask, tool_called};
use super::request::Request;
use super::text::Prompt;
use filters::dialect::Dialect;
use filters::request_head;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The most choices that OpenAI gives.
const CHOICES_MAX: u64 = 128;

/// Reads a body of chat or of messages; the error is a sentence for the caller.
pub(super) fn read(ask: Ask) -> Result<Request, String> {
    let head = request_head::scan(&ask.raw, ask.target.dialect).map_err(|denied| denied.to_string())?;
    if head.choices > CHOICES_MAX {
        return Err(format!("`n` is at most {CHOICES_MAX}."));
    }
    let dialect = ask.target.dialect;
    let (prompt, tool) = spoken(dialect, &ask.raw)?;
    let of_chat = dialect == Dialect::OpenaiChat;
    Ok(Request {
        streamed: head.streamed && dialect != Dialect::AnthropicCount,
        asks_usage: head.include_usage,
        output_limit: head.output_limit,
        choices: if of_chat { head.choices } else { 1 },
        input_tokens: head.input_bound(),
        tool,
        ..Request::new(ask, &head.model, prompt)
    })
}

/// What the user said last, and the tool that is to be called for it.
pub(super) fn spoken(dialect: Dialect, body: &[u8]) -> Result<(Prompt, Option<String>), String> {
    let conversation: Conversation<'_> =
        serde_json::from_slice(body).map_err(|error| format!("The request is not a conversation: {error}."))?;
    let prompt = conversation.prompt();
    Ok((prompt, conversation.tool_to_call(dialect, prompt)))
}

#[derive(Deserialize)]
struct Conversation<'a> {
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
    tools: Option<Vec<Tool>>,
    tool_choice: Option<ToolChoice>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

/// OpenAI names a tool in `function`, Anthropic beside its schema.
#[derive(Deserialize)]
struct Tool {
    name: Option<String>,
    function: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// OpenAI: a word or the tool; Anthropic: an object that has the word in `type`.
#[derive(Deserialize)]
#[serde(untagged)]
enum ToolChoice {
    Word(String),
    Object {
        #[serde(rename = "type")]
        kind: String,
        #[serde(flatten)]
        tool: Tool,
    },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

impl Conversation<'_> {
    fn prompt(&self) -> Prompt {
        let last = self.messages.iter().rfind(|message| message.role == "user");
        let text = match last.and_then(Message::content) {
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => parts.into_iter().filter_map(|part| part.text).collect(),
            None => String::new(),
        };
        Prompt::new(&text)
    }

    fn tool_to_call(&self, dialect: Dialect, prompt: Prompt) -> Option<String> {
        let first = self.tools.as_ref()?.first()?.name()?;
        if !self.awaits_the_model(dialect) {
            return None;
        }
        let (word, forced) = match &self.tool_choice {
            None => ("auto", None),
            Some(ToolChoice::Word(word)) => (word.as_str(), None),
            Some(ToolChoice::Object { kind, tool }) => (kind.as_str(), tool.name()),
        };
        tool_called(word, forced.unwrap_or(first), prompt)
    }

    /// Whether the last message is the user's own words, not the result of a tool.
    fn awaits_the_model(&self, dialect: Dialect) -> bool {
        let Some(last) = self.messages.last().filter(|last| last.role == "user") else {
            return false;
        };
        match dialect {
            Dialect::OpenaiChat => true,
            // Anthropic's, through Bedrock too.
            _ => match last.content() {
                Some(Content::Parts(parts)) => parts.iter().all(|part| part.kind != "tool_result"),
                Some(Content::Text(_)) | None => true,
            },
        }
    }
}

impl Message<'_> {
    /// The content where it has one of the known shapes; an odd one is an empty prompt, not a refusal.
    fn content(&self) -> Option<Content> {
        serde_json::from_str(self.content?.get()).ok()
    }
}

impl Tool {
    fn name(&self) -> Option<&str> {
        self.function.as_ref().map(|function| function.name.as_str()).or(self.name.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::super::route::{Operation, Target};
    use super::*;
    use serde_json::json;

    fn tool(dialect: Dialect, body: serde_json::Value) -> Option<String> {
        request(dialect, &body).expect("a request that is right").tool
    }

    fn request(dialect: Dialect, body: &serde_json::Value) -> Result<Request, String> {
        let target = Target { dialect, operation: Operation::Plain, model: None };
        read(Ask { target, raw: body.to_string().into(), body: serde_json::Value::Null, uploads: Vec::new() })
    }

    #[test]
    fn faults_are_taken_off_the_model() {
        let body = json!({"model": "gpt-4o+status=503", "messages": []});
        let request = request(Dialect::OpenaiChat, &body).expect("a request that is right");
        assert_eq!((request.model.as_str(), request.model_faults.as_str()), ("gpt-4o", "status=503"));
    }

    #[test]
    fn last_user_message_is_the_prompt() {
        let body = json!({"model": "m", "messages": [
            {"role": "user", "content": "hello"},
            {"role": "user", "content": [{"type": "text", "text": "count "}, {"type": "text", "text": "up"}]},
            {"role": "assistant", "content": "1"},
        ]});
        let request = request(Dialect::OpenaiChat, &body).expect("a request that is right");
        assert!(request.prompt.counts);
        assert_eq!(request.prompt.seed, Prompt::new("count up").seed);
    }

    #[test]
    fn openai_tool_is_called_once_a_turn() {
        let tools = json!([{"type": "function", "function": {"name": "first"}}, {"type": "function", "function": {"name": "second"}}]);
        let asked = |choice: serde_json::Value, prompt: &str| {
            let messages = json!([{"role": "user", "content": prompt}]);
            tool(
                Dialect::OpenaiChat,
                json!({"model": "m", "messages": messages, "tools": tools, "tool_choice": choice}),
            )
        };
        assert_eq!(asked(json!(null), "hi").as_deref(), Some("first"));
        assert_eq!(asked(json!("none"), "hi"), None);
        assert_eq!(asked(json!("auto"), "count "), None);
        assert_eq!(asked(json!("required"), "count ").as_deref(), Some("first"));
        let second = json!({"type": "function", "function": {"name": "second"}});
        assert_eq!(asked(second, "hi").as_deref(), Some("second"));
        let answered =
            json!([{"role": "user", "content": "hi"}, {"role": "tool", "tool_call_id": "c", "content": "4"}]);
        assert_eq!(tool(Dialect::OpenaiChat, json!({"model": "m", "messages": answered, "tools": tools})), None);
    }

    #[test]
    fn anthropic_tool_is_called_once_a_turn() {
        let tools = json!([{"name": "first", "input_schema": {}}, {"name": "second", "input_schema": {}}]);
        let asked = |choice: serde_json::Value, content: serde_json::Value| {
            let messages = json!([{"role": "user", "content": content}]);
            tool(
                Dialect::Anthropic,
                json!({"model": "m", "max_tokens": 9, "messages": messages, "tools": tools, "tool_choice": choice}),
            )
        };
        assert_eq!(asked(json!({"type": "auto"}), json!("hi")).as_deref(), Some("first"));
        assert_eq!(asked(json!({"type": "none"}), json!("hi")), None);
        assert_eq!(asked(json!({"type": "any"}), json!("count ")).as_deref(), Some("first"));
        assert_eq!(asked(json!({"type": "tool", "name": "second"}), json!("hi")).as_deref(), Some("second"));
        let result = json!([{"type": "tool_result", "tool_use_id": "t", "content": "4"}]);
        assert_eq!(asked(json!({"type": "any"}), result), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for body in [json!(""), json!({}), json!({"model": "m"}), json!({"model": "m", "messages": [], "n": 129})] {
            assert!(request(Dialect::OpenaiChat, &body).is_err(), "{body}");
        }
    }
}
