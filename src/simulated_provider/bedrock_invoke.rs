//! Bedrock `invoke`: each model's own language in Bedrock's frames; Anthropic's for its models, Llama's for all others.

use super::anthropic;
use super::ask::Ask;
use super::conversation;
use super::event_stream;
use super::plan::{Event, Plan};
use super::request::Request;
use super::text::Prompt;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use filters::dialect::Dialect;
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

/// Reads a request; the error is a sentence for the caller.
pub(super) fn read(ask: Ask) -> Result<Request, String> {
    let model = ask.model()?.to_owned();
    let (prompt, tool) = if is_anthropic(&model) {
        if ask.text("anthropic_version").is_empty() {
            return Err("anthropic_version: Field required".to_owned());
        }
        conversation::spoken(Dialect::Anthropic, &ask.raw)?
    } else {
        (Prompt::new(ask.text("prompt")), None)
    };
    Ok(Request {
        streamed: ask.is_streamed(),
        output_limit: ask.number(if is_anthropic(&model) { "max_tokens" } else { "max_gen_len" }),
        input_tokens: ask.words(),
        tool,
        ..Request::new(ask, &model, prompt)
    })
}

/// With or without a region before it.
fn is_anthropic(model: &str) -> bool {
    model.contains("anthropic.claude")
}

/// The whole unary answer.
pub(super) fn body(plan: &Plan) -> Event {
    if is_anthropic(&plan.model_name()) {
        return anthropic::body(plan);
    }
    let mut answer = llama(plan, &plan.whole_text(), plan.usage.output_tokens);
    answer["stop_reason"] = if plan.reply.is_cut { "length".into() } else { "stop".into() };
    Event { tokens: plan.reply.tokens, has_usage: plan.reports_usage, ..Event::plain(answer.to_string()) }
}

/// The figures in the headers, which models without a usage of their own have too.
pub(super) fn headers(plan: &Plan) -> Vec<(HeaderName, HeaderValue)> {
    let usage = &plan.usage;
    let counts = [
        ("x-amzn-bedrock-input-token-count", usage.fresh_tokens()),
        ("x-amzn-bedrock-output-token-count", usage.output_tokens),
        ("x-amzn-bedrock-cache-read-input-token-count", usage.cached_tokens),
        ("x-amzn-bedrock-cache-write-input-token-count", usage.cache_write_tokens),
    ];
    let counts = counts.into_iter().filter(|_| plan.reports_usage);
    counts.map(|(name, count)| (HeaderName::from_static(name), HeaderValue::from(count))).collect()
}

/// The chunks of a stream, each made when it is asked for.
pub(super) fn stream(plan: Plan) -> Box<dyn Iterator<Item = Event> + Send + Sync> {
    if !is_anthropic(&plan.model_name()) {
        return Box::new(llama_stream(plan));
    }
    let of_metrics = plan.clone();
    let mut events = anthropic::Stream::new(plan);
    Box::new(std::iter::from_fn(move || {
        let event = events.next()?;
        let text = String::from_utf8_lossy(&event.bytes).into_owned();
        let data = text.split_once("data: ").map_or("{}", |(_, data)| data.trim_end());
        let is_last = data.contains("\"type\":\"message_stop\"");
        Some(chunk(
            &of_metrics,
            data,
            Event { is_paced: event.is_paced, tokens: event.tokens, ..Event::default() },
            is_last,
        ))
    }))
}

fn llama_stream(plan: Plan) -> impl Iterator<Item = Event> + Send + Sync {
    let pieces = plan.reply.tokens;
    (0..=pieces).filter(move |index| *index < pieces || plan.ends_properly).map({
        let plan = plan.clone();
        move |index| {
            let is_last = index == pieces;
            let mut words = bytes::BytesMut::from(&b"\""[..]);
            if !is_last {
                plan.reply.write_piece(index, &mut words);
            }
            words.extend_from_slice(b"\"");
            let words: String = serde_json::from_slice(&words).unwrap_or_default();
            let mut data = llama(&plan, &words, if is_last { plan.usage.output_tokens } else { index + 1 });
            data["stop_reason"] = match (is_last, plan.reply.is_cut) {
                (false, _) => Value::Null,
                (true, true) => "length".into(),
                (true, false) => "stop".into(),
            };
            let event = Event { tokens: u64::from(!is_last), is_paced: index > 0 && !is_last, ..Event::default() };
            chunk(&plan, &data.to_string(), event, is_last)
        }
    })
}

fn llama(plan: &Plan, words: &str, output_tokens: u64) -> Value {
    let mut answer = json!({"generation": words});
    if plan.reports_usage {
        answer["prompt_token_count"] = plan.usage.input_tokens.into();
        answer["generation_token_count"] = output_tokens.into();
    }
    answer
}

/// One event of the model's in a frame; the last one has the runtime's own figures.
fn chunk(plan: &Plan, data: &str, event: Event, is_last: bool) -> Event {
    let has_usage = is_last && plan.reports_usage;
    let usage = &plan.usage;
    let metrics = has_usage.then(|| {
        let metrics = json!({
            "inputTokenCount": usage.fresh_tokens(),
            "outputTokenCount": usage.output_tokens,
            "invocationLatency": 12,
            "firstByteLatency": 3,
            "cacheReadInputTokenCount": usage.cached_tokens,
            "cacheWriteInputTokenCount": usage.cache_write_tokens,
        });
        format!(",\"amazon-bedrock-invocationMetrics\":{metrics}}}")
    });
    let data = match metrics {
        Some(metrics) => format!("{}{metrics}", &data[..data.len() - 1]),
        None => data.to_owned(),
    };
    let payload = format!("{{\"bytes\":\"{}\",\"p\":\"abcdefgh\"}}", STANDARD.encode(data));
    Event { has_usage, bytes: event_stream::event("chunk", &payload), ..event }
}
