//! Cohere chat, version 2: events with their `event:` lines, the unary body, errors and headers.

use super::ask::{Ask, tool_called};
use super::plan::{Event, Plan, json_string};
use super::request::Request;
use super::text::mix;
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};
use std::sync::Arc;

/// What the provider's own words around the prompt count: it tells them, and does not bill them.
const TEMPLATE_TOKENS: u64 = 496;

/// Headers of every answer; a gateway drops most of them.
pub(super) const HEADERS: [(&str, &str); 6] = [
    ("x-endpoint-monthly-call-limit", "1000"),
    ("x-trial-endpoint-call-limit", "20"),
    ("x-trial-endpoint-call-remaining", "19"),
    ("num_tokens", "29"),
    ("server", "envoy"),
    ("via", "1.1 google"),
];

/// Reads a request; the error is a sentence for the caller.
pub(super) fn read(ask: Ask) -> Result<Request, String> {
    let model = ask.model()?.to_owned();
    let Some(messages) = ask.body["messages"].as_array() else {
        return Err("invalid request: messages must be specified.".to_owned());
    };
    let prompt = ask.prompt(&ask.body["messages"]);
    let awaits_the_model = messages.last().is_some_and(|last| last["role"] == "user");
    let first = ask.body["tools"][0]["function"]["name"].as_str().filter(|_| awaits_the_model);
    let word = if ask.text("tool_choice").is_empty() { "auto" } else { ask.text("tool_choice") };
    let tool = first.and_then(|first| tool_called(&word.to_lowercase(), first, prompt));
    Ok(Request {
        streamed: ask.is_streamed(),
        output_limit: ask.number("max_tokens"),
        input_tokens: ask.words(),
        tool,
        ..Request::new(ask, &model, prompt)
    })
}

/// The whole unary answer.
pub(super) fn body(plan: &Plan) -> Event {
    let words = plan.whole_text();
    let message = match &plan.tool {
        None => json!({"role": "assistant", "content": [{"type": "text", "text": words}]}),
        Some(_) => {
            json!({"role": "assistant", "tool_plan": "I will use the tool.", "tool_calls": [tool_call(plan, &words)]})
        }
    };
    let mut answer = json!({"id": answer_id(plan), "message": message, "finish_reason": finish_reason(plan)});
    if plan.reports_usage {
        answer["usage"] = usage(plan);
    }
    let text = answer.to_string();
    let text_at = text.find("\"text\":\"").map_or(0, |at| at + 8);
    Event { text_at, tokens: plan.reply.tokens, has_usage: plan.reports_usage, ..Event::plain(text) }
}

/// The events of a stream, each made when it is asked for.
pub(super) fn stream(plan: Plan) -> impl Iterator<Item = Event> + Send + Sync {
    let plan = Arc::new(plan);
    let opening = opening(&plan);
    let of_pieces = Arc::clone(&plan);
    let words = (0..plan.reply.tokens).map(move |index| piece(&of_pieces, index));
    let closing = std::iter::once_with(move || closing(&plan)).flatten();
    opening.into_iter().chain(words).chain(closing)
}

fn event(kind: &str, members: &Value) -> Event {
    let members = members.to_string();
    Event::plain(format!("event: {kind}\ndata: {{\"type\":\"{kind}\",{}\n\n", &members[1..]))
}

fn opening(plan: &Plan) -> Vec<Event> {
    let message = json!({"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []});
    let mut events = vec![event("message-start", &json!({"id": answer_id(plan), "delta": {"message": message}}))];
    match &plan.tool {
        None => {
            let content = json!({"type": "text", "text": ""});
            events.push(event("content-start", &json!({"index": 0, "delta": {"message": {"content": content}}})));
        }
        Some(_) => {
            let planned = json!({"delta": {"message": {"tool_plan": "I will use the tool."}}});
            events.push(event("tool-plan-delta", &planned));
            let call = tool_call(plan, "");
            events.push(event("tool-call-start", &json!({"index": 0, "delta": {"message": {"tool_calls": call}}})));
        }
    }
    events
}

fn piece(plan: &Plan, index: u64) -> Event {
    let (kind, before, after) = match plan.tool {
        None => ("content-delta", "\"content\":{\"text\":\"", "\"}"),
        Some(_) => ("tool-call-delta", "\"tool_calls\":{\"function\":{\"arguments\":\"", "\"}}"),
    };
    let head = format!("event: {kind}\ndata: {{\"type\":\"{kind}\",\"index\":0,\"delta\":{{\"message\":{{{before}");
    let mut text = BytesMut::from(head.as_bytes());
    plan.reply.write_piece(index, &mut text);
    text.put_slice(after.as_bytes());
    text.put_slice(b"}}}\n\n");
    Event { text_at: head.len(), tokens: 1, is_paced: index > 0, ..Event::plain(text.freeze()) }
}

fn closing(plan: &Plan) -> Vec<Event> {
    let kind = if plan.tool.is_some() { "tool-call-end" } else { "content-end" };
    let mut events = vec![event(kind, &json!({"index": 0}))];
    if plan.ends_properly {
        let mut delta = json!({"finish_reason": finish_reason(plan)});
        if plan.reports_usage {
            delta["usage"] = usage(plan);
        }
        events.push(Event { has_usage: plan.reports_usage, ..event("message-end", &json!({"delta": delta})) });
        events.push(Event::plain("data: [DONE]\n\n"));
    }
    events
}

fn tool_call(plan: &Plan, arguments: &str) -> Value {
    let name: Value = plan.tool.as_deref().and_then(|tool| serde_json::from_str(tool).ok()).unwrap_or_default();
    let id = format!("{}_{:012x}", name.as_str().unwrap_or_default(), mix(plan.id) >> 16);
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

fn finish_reason(plan: &Plan) -> &'static str {
    match (&plan.tool, plan.reply.is_cut) {
        (_, true) => "MAX_TOKENS",
        (Some(_), false) => "TOOL_CALL",
        (None, false) => "COMPLETE",
    }
}

/// What is billed stands beside what was counted.
fn usage(plan: &Plan) -> Value {
    let (input, output) = (plan.usage.input_tokens, plan.usage.output_tokens);
    json!({
        "billed_units": {"input_tokens": input, "output_tokens": output},
        "tokens": {"input_tokens": input + TEMPLATE_TOKENS, "output_tokens": output + 2},
        "cached_tokens": plan.usage.cached_tokens,
    })
}

/// Answers are named with UUIDs.
pub(super) fn answer_id(plan: &Plan) -> String {
    let (high, low) = (plan.id, mix(plan.id));
    let groups = (high >> 32, high >> 16 & 0xffff, high & 0xfff, 0x8000 | low >> 48 & 0x3fff, low & 0xffff_ffff_ffff);
    format!("{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}", groups.0, groups.1, groups.2, groups.3, groups.4)
}

/// The body of an answer with an error status.
pub(super) fn error_body(message: &str, request_id: &str) -> Bytes {
    format!("{{\"id\":\"{request_id}\",\"message\":{}}}", json_string(message)).into()
}

/// A failure told in the middle of a stream.
pub(super) fn error_event() -> Event {
    let delta = json!({"finish_reason": "ERROR", "error": "The simulated answer failed."});
    Event { is_failure: true, ..event("message-end", &json!({"delta": delta})) }
}
