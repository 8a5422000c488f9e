//! OpenAI responses as the real one writes them: the object, its stream of numbered events, the tools it calls.

use super::ask::{Ask, is_users, tool_called};
use super::openai_chat::CREATED;
use super::plan::{Event, Plan};
use super::request::Request;
use super::route::Operation;
use super::text::mix;
use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};
use std::sync::Arc;

/// How a response stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Queued,
    InProgress,
    Completed,
    Incomplete,
    Failed,
    Cancelled,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the output and its usage are known.
    fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Incomplete | Self::Failed)
    }
}

/// Reads a request; the error is a sentence for the caller.
pub(super) fn read(ask: Ask) -> Result<Request, String> {
    let model = ask.model()?.to_owned();
    let input = &ask.body["input"];
    let prompt = ask.prompt(input);
    let tools = ask.body["tools"].as_array().into_iter().flatten();
    let first = tools.filter(|tool| tool["type"] == "function").find_map(|tool| tool["name"].as_str());
    let choice = &ask.body["tool_choice"];
    let word = choice.as_str().or(choice["type"].as_str()).unwrap_or("auto");
    let awaits_the_model = input.as_array().is_none_or(|items| items.last().is_none_or(is_users));
    let tool = first
        .filter(|_| awaits_the_model)
        .and_then(|first| tool_called(word, choice["name"].as_str().unwrap_or(first), prompt));
    let is_count = ask.target.operation == Operation::Count;
    Ok(Request {
        streamed: ask.is_streamed() && !is_count,
        output_limit: ask.number("max_output_tokens"),
        input_tokens: ask.words(),
        output_tokens: is_count.then_some(0),
        tool,
        ..Request::new(ask, &model, prompt)
    })
}

/// How the response ends.
pub(super) fn end_status(plan: &Plan) -> Status {
    match (plan.fails, plan.reply.is_cut) {
        (true, _) => Status::Failed,
        (false, true) => Status::Incomplete,
        (false, false) => Status::Completed,
    }
}

/// The response as an object, as it stands in a status.
pub(super) fn object(plan: &Plan, status: Status) -> Value {
    let is_final = status.is_final();
    let error = json!({"code": "server_error", "message": "The simulated response failed."});
    let output: Vec<Value> = if is_final { items(plan) } else { Vec::new() };
    let asked = |name: &str, default: Value| {
        Some(&plan.ask.body[name]).filter(|value| !value.is_null()).cloned().unwrap_or(default)
    };
    json!({
        "id": response_id(plan),
        "object": "response",
        "created_at": CREATED,
        "status": status.name(),
        "background": plan.ask.flag("background"),
        "completed_at": if status == Status::Completed { json!(CREATED + 1) } else { Value::Null },
        "error": if status == Status::Failed { error } else { Value::Null },
        "incomplete_details": if status == Status::Incomplete { json!({"reason": "max_output_tokens"}) } else { Value::Null },
        "instructions": asked("instructions", Value::Null),
        "max_output_tokens": asked("max_output_tokens", Value::Null),
        "max_tool_calls": null,
        "metadata": asked("metadata", json!({})),
        "model": plan.model_name(),
        "output": output,
        "parallel_tool_calls": asked("parallel_tool_calls", json!(true)),
        "previous_response_id": asked("previous_response_id", Value::Null),
        "reasoning": {"effort": null, "summary": null},
        "service_tier": plan.tier.as_deref().unwrap_or("default"),
        "store": asked("store", json!(true)),
        "temperature": asked("temperature", json!(1.0)),
        "text": asked("text", json!({"format": {"type": "text"}, "verbosity": "medium"})),
        "tool_choice": asked("tool_choice", json!("auto")),
        "tool_usage": {"web_search": {"num_requests": if is_final { plan.usage.searches } else { 0 }}},
        "tools": asked("tools", json!([])),
        "top_p": asked("top_p", json!(1.0)),
        "truncation": "disabled",
        "usage": if is_final && plan.reports_usage { usage(plan) } else { Value::Null },
        "user": null,
    })
}

/// The whole unary answer: a background response has only begun.
pub(super) fn body(plan: &Plan) -> Event {
    if plan.ask.target.operation == Operation::Count {
        let count = plan.usage.input_tokens;
        return Event::plain(json!({"object": "response.input_tokens", "input_tokens": count}).to_string());
    }
    let is_background = plan.ask.flag("background");
    let status = if is_background { Status::Queued } else { end_status(plan) };
    let tokens = if is_background { 0 } else { plan.reply.tokens };
    let text = object(plan, status).to_string();
    // Where the model's own words are, for faults that are among them.
    let text_at = text.find("\"type\":\"output_text\"").and_then(|at| Some(text[..at].rfind("\"text\":\"")? + 8));
    let has_usage = status.is_final() && plan.reports_usage;
    Event { text_at: text_at.unwrap_or(0), tokens, has_usage, ..Event::plain(text) }
}

/// The events of a stream, each made when it is asked for.
pub(super) fn stream(plan: Plan) -> impl Iterator<Item = Event> + Send + Sync {
    let plan = Arc::new(plan);
    let opening = opening(&plan);
    let (first_piece, pieces) = (opening.len() as u64, plan.reply.tokens);
    let (of_pieces, of_closing) = (Arc::clone(&plan), plan);
    let words = (0..pieces).map(move |index| piece(&of_pieces, index, first_piece + index));
    let closing = std::iter::once_with(move || closing(&of_closing, first_piece + pieces)).flatten();
    opening.into_iter().chain(words).chain(closing)
}

/// Events one after another, numbered.
struct Numbered {
    next: u64,
    events: Vec<Event>,
}

impl Numbered {
    /// `members` are those between the type and the number.
    fn push(&mut self, kind: &str, members: &str) {
        self.events.push(Event::plain(event(kind, members, self.next)));
        self.next += 1;
    }
}

fn event(kind: &str, members: &str, number: u64) -> String {
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\",{members},\"sequence_number\":{number}}}\n\n")
}

fn opening(plan: &Plan) -> Vec<Event> {
    let mut events = Numbered { next: 0, events: Vec::new() };
    let begun = format!("\"response\":{}", object(plan, Status::InProgress));
    events.push("response.created", &begun);
    events.push("response.in_progress", &begun);
    let before = items_before(plan);
    for (index, item) in before.iter().enumerate() {
        let id = &item["id"];
        let place = format!("\"output_index\":{index}");
        events.push("response.output_item.added", &format!("\"item\":{item},{place}"));
        if item["type"] == "web_search_call" {
            for state in ["in_progress", "searching", "completed"] {
                events.push(&format!("response.web_search_call.{state}"), &format!("\"item_id\":{id},{place}"));
            }
        }
        events.push("response.output_item.done", &format!("\"item\":{item},{place}"));
    }
    let index = before.len();
    let item = main_item(plan, Status::InProgress);
    events.push("response.output_item.added", &format!("\"item\":{item},\"output_index\":{index}"));
    if plan.tool.is_none() {
        let part = text_part("");
        let place = format!("\"content_index\":0,\"item_id\":{},\"output_index\":{index}", item["id"]);
        events.push("response.content_part.added", &format!("{place},\"part\":{part}"));
    }
    events.events
}

/// One word of the answer.
fn piece(plan: &Plan, index: u64, number: u64) -> Event {
    let mut text = BytesMut::with_capacity(320);
    let (kind, content) = match plan.tool {
        None => ("response.output_text.delta", "\"content_index\":0,"),
        Some(_) => ("response.function_call_arguments.delta", ""),
    };
    text.put_slice(format!("event: {kind}\ndata: {{\"type\":\"{kind}\",{content}\"delta\":\"").as_bytes());
    let text_at = text.len();
    plan.reply.write_piece(index, &mut text);
    let logprobs = if plan.tool.is_none() { ",\"logprobs\":[]" } else { "" };
    let tail = format!(
        "\",\"item_id\":\"{}\"{logprobs},\"output_index\":{},\"sequence_number\":{number}}}\n\n",
        main_id(plan),
        items_before(plan).len(),
    );
    text.put_slice(tail.as_bytes());
    Event { text_at, tokens: 1, is_paced: index > 0, ..Event::plain(text.freeze()) }
}

fn closing(plan: &Plan, first_number: u64) -> Vec<Event> {
    let mut events = Numbered { next: first_number, events: Vec::new() };
    let status = end_status(plan);
    let item = main_item(plan, status);
    let index = items_before(plan).len();
    let place = format!("\"item_id\":{},\"output_index\":{index}", item["id"]);
    match plan.tool {
        None => {
            let part = &item["content"][0];
            let text = &part["text"];
            let within = format!("\"content_index\":0,{place}");
            events.push("response.output_text.done", &format!("{within},\"logprobs\":[],\"text\":{text}"));
            events.push("response.content_part.done", &format!("{within},\"part\":{part}"));
        }
        Some(_) => {
            let arguments = &item["arguments"];
            events.push("response.function_call_arguments.done", &format!("\"arguments\":{arguments},{place}"));
        }
    }
    events.push("response.output_item.done", &format!("\"item\":{item},\"output_index\":{index}"));
    if plan.ends_properly {
        let kind = format!("response.{}", status.name());
        events.push(&kind, &format!("\"response\":{}", object(plan, status)));
        if let Some(last) = events.events.last_mut() {
            last.has_usage = plan.reports_usage;
        }
    }
    events.events
}

fn items(plan: &Plan) -> Vec<Value> {
    let mut items = items_before(plan);
    items.push(main_item(plan, end_status(plan)));
    items
}

/// What the model did before it answered: it thought, and it searched.
fn items_before(plan: &Plan) -> Vec<Value> {
    let mut items = Vec::new();
    if plan.usage.reasoning_tokens > 0 {
        items.push(json!({"id": format!("rs_{:016x}", mix(plan.id ^ 1)), "type": "reasoning", "summary": []}));
    }
    for search in 0..plan.usage.searches {
        let action = json!({"type": "search", "query": "simulated"});
        let id = format!("ws_{:016x}", mix(plan.id ^ (2 + search)));
        items.push(json!({"id": id, "type": "web_search_call", "status": "completed", "action": action}));
    }
    items
}

/// The answer itself, a message or a call of a tool.
fn main_item(plan: &Plan, status: Status) -> Value {
    let is_final = status.is_final();
    let words = if is_final { plan.whole_text() } else { String::new() };
    let status = if status == Status::Failed { Status::Incomplete } else { status };
    match &plan.tool {
        None => {
            let content = if is_final { json!([text_part(&words)]) } else { json!([]) };
            let (kind, role) = ("message", "assistant");
            json!({"id": main_id(plan), "type": kind, "status": status.name(), "content": content, "role": role})
        }
        Some(tool) => json!({
            "id": main_id(plan),
            "type": "function_call",
            "status": status.name(),
            "arguments": words,
            "call_id": format!("call_{:016x}", mix(plan.id)),
            "name": serde_json::from_str::<Value>(tool).unwrap_or_default(),
        }),
    }
}

fn text_part(words: &str) -> Value {
    json!({"type": "output_text", "annotations": [], "logprobs": [], "text": words})
}

fn main_id(plan: &Plan) -> String {
    let kind = if plan.tool.is_some() { "fc" } else { "msg" };
    format!("{kind}_{:016x}{:016x}", plan.id, mix(plan.id ^ 7))
}

/// The name under which it is kept.
pub(super) fn response_id(plan: &Plan) -> String {
    format!("resp_{:016x}{:016x}", plan.id, mix(plan.id))
}

fn usage(plan: &Plan) -> Value {
    let usage = &plan.usage;
    json!({
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens(),
    })
}

/// A failure told in the middle of a stream.
pub(super) fn error_event() -> Event {
    let message = "The server had an error while processing your request. Sorry about that!";
    let data =
        json!({"type": "error", "code": "server_error", "message": message, "param": null, "sequence_number": 0});
    Event { is_failure: true, ..Event::plain(format!("event: error\ndata: {data}\n\n")) }
}
