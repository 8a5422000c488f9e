//! Amazon Bedrock's runtime: `converse` in its own language, requests of both its APIs, errors and headers. `invoke` is beside it.

use super::ask::{Ask, is_users, tool_called};
use super::bedrock_invoke;
use super::event_stream;
use super::plan::{Event, Plan, json_string};
use super::request::Request;
use super::text::mix;
use bytes::{BufMut, Bytes, BytesMut};
use filters::dialect::Dialect;
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) const EVENT_STREAM: &str = "application/vnd.amazon.eventstream";

/// Reads a request of either API; the error is a sentence for the caller.
pub(super) fn read(ask: Ask) -> Result<Request, String> {
    let request = match ask.target.dialect {
        Dialect::BedrockInvoke => bedrock_invoke::read(ask)?,
        _ => read_converse(ask)?,
    };
    let content_type = request.streamed.then_some(EVENT_STREAM);
    Ok(Request { content_type, ..request })
}

fn read_converse(ask: Ask) -> Result<Request, String> {
    let model = ask.model()?.to_owned();
    let Some(messages) = ask.body["messages"].as_array() else {
        return Err("1 validation error detected: Value at 'messages' failed to satisfy constraint: must not be null"
            .to_owned());
    };
    let prompt = ask.prompt(&ask.body["messages"]);
    let is_result = |last: &Value| {
        last["content"].as_array().is_some_and(|parts| parts.iter().any(|part| !part["toolResult"].is_null()))
    };
    let awaits_the_model = messages.last().is_some_and(|last| is_users(last) && !is_result(last));
    let tools = &ask.body["toolConfig"];
    let first = tools["tools"][0]["toolSpec"]["name"].as_str().filter(|_| awaits_the_model);
    let choice = &tools["toolChoice"];
    let word = choice.as_object().and_then(|choice| choice.keys().next()).map_or("auto", String::as_str);
    let tool = first.and_then(|first| tool_called(word, choice["tool"]["name"].as_str().unwrap_or(first), prompt));
    Ok(Request {
        streamed: ask.is_streamed(),
        output_limit: ask.body["inferenceConfig"]["maxTokens"].as_u64(),
        input_tokens: ask.words(),
        tool,
        ..Request::new(ask, &model, prompt)
    })
}

/// The whole unary answer.
pub(super) fn body(plan: &Plan) -> Event {
    let words = plan.whole_text();
    let content = match &plan.tool {
        None => json!({"text": words}),
        Some(_) => {
            let input = serde_json::from_str::<Value>(&words).unwrap_or_else(|_| json!({}));
            json!({"toolUse": {"toolUseId": tool_use_id(plan), "name": tool_name(plan), "input": input}})
        }
    };
    let mut answer = json!({
        "metrics": {"latencyMs": 12},
        "output": {"message": {"role": "assistant", "content": [content]}},
        "stopReason": stop_reason(plan),
    });
    if plan.reports_usage {
        answer["usage"] = usage(plan);
    }
    if let Some(tier) = &plan.tier {
        answer["serviceTier"] = json!({"type": tier});
    }
    let text = answer.to_string();
    let text_at = text.find("\"text\":\"").map_or(0, |at| at + 8);
    Event { text_at, tokens: plan.reply.tokens, has_usage: plan.reports_usage, ..Event::plain(text) }
}

/// The events of a stream, each made when it is asked for.
pub(super) fn stream(plan: Plan) -> impl Iterator<Item = Event> + Send + Sync {
    let plan = Arc::new(plan);
    let mut opening = vec![event("messageStart", &json!({"role": "assistant"}))];
    if plan.tool.is_some() {
        let start = json!({"toolUse": {"toolUseId": tool_use_id(&plan), "name": tool_name(&plan)}});
        opening.push(event("contentBlockStart", &json!({"contentBlockIndex": 0, "start": start})));
    }
    let of_pieces = Arc::clone(&plan);
    let words = (0..plan.reply.tokens).map(move |index| piece(&of_pieces, index));
    let closing = std::iter::once_with(move || closing(&plan)).flatten();
    opening.into_iter().chain(words).chain(closing)
}

/// Padded, as the real one's are, so that the length of a word can't be seen from outside.
fn event(kind: &str, members: &Value) -> Event {
    let members = members.to_string();
    Event::plain(event_stream::event(kind, &format!("{},\"p\":\"abcdefgh\"}}", &members[..members.len() - 1])))
}

fn piece(plan: &Plan, index: u64) -> Event {
    let (before, after) = match plan.tool {
        None => ("{\"text\":\"", "\"}"),
        Some(_) => ("{\"toolUse\":{\"input\":\"", "\"}}"),
    };
    let mut text = BytesMut::from(&b"{\"contentBlockIndex\":0,\"delta\":"[..]);
    text.put_slice(before.as_bytes());
    plan.reply.write_piece(index, &mut text);
    text.put_slice(after.as_bytes());
    text.put_slice(b",\"p\":\"abcdefgh\"}");
    let frame = event_stream::event("contentBlockDelta", &String::from_utf8_lossy(&text));
    Event { tokens: 1, is_paced: index > 0, ..Event::plain(frame) }
}

fn closing(plan: &Plan) -> Vec<Event> {
    let mut events = vec![
        event("contentBlockStop", &json!({"contentBlockIndex": 0})),
        event("messageStop", &json!({"stopReason": stop_reason(plan)})),
    ];
    if plan.ends_properly {
        let mut metadata = json!({"metrics": {"latencyMs": 12}});
        if plan.reports_usage {
            metadata["usage"] = usage(plan);
        }
        events.push(Event { has_usage: plan.reports_usage, ..event("metadata", &metadata) });
    }
    events
}

fn tool_use_id(plan: &Plan) -> String {
    format!("tooluse_{:016x}", mix(plan.id))
}

fn tool_name(plan: &Plan) -> Value {
    plan.tool.as_deref().and_then(|tool| serde_json::from_str(tool).ok()).unwrap_or_default()
}

fn stop_reason(plan: &Plan) -> &'static str {
    match (&plan.tool, plan.reply.is_cut) {
        (_, true) => "max_tokens",
        (Some(_), false) => "tool_use",
        (None, false) => "end_turn",
    }
}

/// Cached tokens stand beside the others, not within them; the total has all.
fn usage(plan: &Plan) -> Value {
    let usage = &plan.usage;
    json!({
        "inputTokens": usage.fresh_tokens(),
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.total_tokens(),
        "cacheReadInputTokens": usage.cached_tokens,
        "cacheWriteInputTokens": usage.cache_write_tokens,
    })
}

/// The kind of a failure, which stands in a header.
pub(super) fn error_kind(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 | 403 => "AccessDeniedException",
        404 => "ResourceNotFoundException",
        408 => "ModelTimeoutException",
        424 => "ModelErrorException",
        429 => "ThrottlingException",
        503 => "ServiceUnavailableException",
        500.. => "InternalServerException",
        _ => "ValidationException",
    }
}

/// The body of an answer with an error status.
pub(super) fn error_body(message: &str) -> Bytes {
    format!("{{\"message\":{}}}", json_string(message)).into()
}

/// A failure told in the middle of a stream.
pub(super) fn error_event() -> Event {
    let text = "{\"message\":\"The simulated model failed.\"}";
    Event { is_failure: true, ..Event::plain(event_stream::exception("modelStreamErrorException", text)) }
}
