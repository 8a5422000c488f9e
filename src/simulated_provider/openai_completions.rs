//! OpenAI completions, the API before chat: prompts in lists, `n` and `best_of`, `echo`.

use super::ask::Ask;
use super::openai_chat::CREATED;
use super::plan::{Event, Plan, json_string};
use super::request::Request;
use super::text::{Prompt, mix};
use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};
use std::sync::Arc;

/// The output limit of a request that names none.
const OUTPUT_TOKENS_DEFAULT: u64 = 16;
const CHOICES_MAX: u64 = 128;

/// Reads a request; the error is a sentence for the caller.
pub(super) fn read(ask: Ask) -> Result<Request, String> {
    let model = ask.model()?.to_owned();
    let streamed = ask.is_streamed();
    let made = ask.number("best_of").unwrap_or(1).max(told(&ask));
    if streamed && made > told(&ask) {
        return Err("You requested that the server return more choices than `n` in a stream.".to_owned());
    }
    let prompts = prompts(&ask.body["prompt"]);
    if made.saturating_mul(prompts.len() as u64) > CHOICES_MAX {
        return Err(format!("There are at most {CHOICES_MAX} choices."));
    }
    let prompt = Prompt::new(prompts[0].as_str().unwrap_or_default());
    Ok(Request {
        streamed,
        asks_usage: ask.body["stream_options"]["include_usage"] == true,
        output_limit: Some(ask.number("max_tokens").unwrap_or(OUTPUT_TOKENS_DEFAULT)),
        choices: made * prompts.len() as u64,
        input_tokens: ask.words(),
        ..Request::new(ask, &model, prompt)
    })
}

/// Choices of each prompt that are told.
fn told(ask: &Ask) -> u64 {
    ask.number("n").unwrap_or(1).max(1)
}

/// One or more: a text, texts, tokens, or lists of tokens.
fn prompts(prompt: &Value) -> Vec<Value> {
    match prompt.as_array() {
        Some(items) if items.first().is_some_and(|item| !item.is_number()) => items.clone(),
        _ => vec![prompt.clone()],
    }
}

/// What each choice that is told begins with.
fn beginnings(plan: &Plan) -> Vec<String> {
    let is_echoed = plan.ask.flag("echo");
    let echo = |prompt: &Value| prompt.as_str().filter(|_| is_echoed).unwrap_or_default().to_owned();
    let prompts = prompts(&plan.ask.body["prompt"]);
    let told = told(&plan.ask) as usize;
    prompts.iter().flat_map(|prompt| std::iter::repeat_n(echo(prompt), told)).collect()
}

/// The whole unary answer.
pub(super) fn body(plan: &Plan) -> Event {
    let words = plan.whole_text();
    let choice = |(index, beginning): (usize, String)| {
        let text = format!("{beginning}{words}");
        json!({"text": text, "index": index, "logprobs": null, "finish_reason": finish_reason(plan)})
    };
    let choices: Vec<Value> = beginnings(plan).into_iter().enumerate().map(choice).collect();
    let mut answer = json!({
        "id": completion_id(plan),
        "object": "text_completion",
        "created": CREATED,
        "model": plan.model_name(),
        "choices": choices,
    });
    if plan.reports_usage {
        answer["usage"] = usage(plan);
    }
    let text = answer.to_string();
    let text_at = text.find("\"text\":\"").map_or(0, |at| at + 8);
    let tokens = plan.choices * plan.reply.tokens;
    Event { text_at, tokens, has_usage: plan.reports_usage, ..Event::plain(text) }
}

/// The chunks of a stream, each made when it is asked for.
pub(super) fn stream(plan: Plan) -> impl Iterator<Item = Event> + Send + Sync {
    let plan = Arc::new(plan);
    let beginnings = beginnings(&plan);
    let choices = beginnings.len() as u64;
    let of_pieces = Arc::clone(&plan);
    let echoes = beginnings.into_iter().enumerate().filter(|(_, text)| !text.is_empty());
    let echoes: Vec<Event> =
        echoes.map(|(choice, text)| chunk(&plan, choice as u64, &json_string(&text), "null")).collect();
    let words = (0..plan.reply.tokens)
        .flat_map(move |index| (0..choices).map(move |choice| (index, choice)))
        .map(move |(index, choice)| piece(&of_pieces, index, choice));
    echoes.into_iter().chain(words).chain(closing(&plan, choices))
}

fn closing(plan: &Plan, choices: u64) -> Vec<Event> {
    let reason = format!("\"{}\"", finish_reason(plan));
    let mut events: Vec<Event> = (0..choices).map(|choice| chunk(plan, choice, "\"\"", &reason)).collect();
    if plan.asks_usage && plan.reports_usage {
        let text = format!("data: {{{},\"choices\":[],\"usage\":{}}}\n\n", head(plan), usage(plan));
        events.push(Event { has_usage: true, ..Event::plain(text) });
    }
    if plan.ends_properly {
        events.push(Event::plain("data: [DONE]\n\n"));
    }
    events
}

fn piece(plan: &Plan, index: u64, choice: u64) -> Event {
    let mut words = BytesMut::from(&b"\""[..]);
    plan.reply.write_piece(index, &mut words);
    words.put_u8(b'"');
    let event = chunk(plan, choice, &String::from_utf8_lossy(&words), "null");
    Event { tokens: 1, is_paced: index > 0 && choice == 0, ..event }
}

/// A chunk of one choice; its text and its reason are JSON.
fn chunk(plan: &Plan, choice: u64, text: &str, finish_reason: &str) -> Event {
    let before = format!("data: {{{},\"choices\":[{{\"text\":", head(plan));
    let usage = if plan.asks_usage { ",\"usage\":null" } else { "" };
    let after =
        format!("{text},\"index\":{choice},\"logprobs\":null,\"finish_reason\":{finish_reason}}}]{usage}}}\n\n");
    Event { text_at: before.len() + 1, ..Event::plain(before + &after) }
}

fn head(plan: &Plan) -> String {
    let id = completion_id(plan);
    format!("\"id\":\"{id}\",\"object\":\"text_completion\",\"created\":{CREATED},\"model\":{}", plan.model)
}

fn completion_id(plan: &Plan) -> String {
    format!("cmpl-{:016x}{:012x}", plan.id, mix(plan.id) >> 16)
}

fn finish_reason(plan: &Plan) -> &'static str {
    if plan.reply.is_cut { "length" } else { "stop" }
}

fn usage(plan: &Plan) -> Value {
    let usage = &plan.usage;
    json!({
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens(),
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    })
}
