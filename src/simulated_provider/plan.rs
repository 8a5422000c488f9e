//! What a call will be answered: the reply, its usage and who asked for what, before any of it is written.

use super::faults::Faults;
use super::request::Request;
use super::text::Reply;
use bytes::Bytes;
use filters::dialect::Dialect;

/// The output limit of a request that names none.
const OUTPUT_TOKENS_DEFAULT: u64 = 256;

/// Everything that the writers of events need to know.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The same for the same prompt, so that a direct call and one through a gateway answer the same bytes.
    pub(super) id: u64,
    /// The model's name as a JSON string.
    pub(super) model: String,
    /// The called tool's name as a JSON string.
    pub(super) tool: Option<String>,
    pub(super) choices: u64,
    pub(super) reply: Reply,
    pub(super) usage: Usage,
    /// The client asked for a usage event (only OpenAI's streams ask).
    pub(super) asks_usage: bool,
    /// The answer says its usage.
    pub(super) reports_usage: bool,
    /// A stream ends with the protocol's final event.
    pub(super) ends_properly: bool,
}

/// The figures as a provider bills them, over all choices.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// All input, cached or not.
    pub(super) input_tokens: u64,
    pub(super) cached_tokens: u64,
    /// All output, reasoning included.
    pub(super) output_tokens: u64,
    pub(super) reasoning_tokens: u64,
}

/// One event of a stream, or a whole unary body.
#[derive(Clone, Debug, Default)]
pub(super) struct Event {
    pub(super) bytes: Bytes,
    /// Where the model's own words begin; 0 is none.
    pub(super) text_at: usize,
    pub(super) tokens: u64,
    /// The model takes its time before this one.
    pub(super) is_paced: bool,
    /// It carries the call's final usage.
    pub(super) has_usage: bool,
    /// It tells the client that the answer has failed.
    pub(super) is_failure: bool,
}

impl Plan {
    pub(super) fn new(dialect: Dialect, request: &Request, faults: &Faults) -> Self {
        let limit = request.head.output_limit.unwrap_or(OUTPUT_TOKENS_DEFAULT);
        let reasoning = faults.bill.reasoning_tokens.min(limit);
        let reply = match request.tool {
            Some(_) => Reply::arguments(request.prompt, limit - reasoning),
            None => Reply::text(request.prompt, limit - reasoning, faults.script.usage_in_text),
        };
        let choices = match dialect {
            Dialect::OpenaiChat => request.head.choices,
            Dialect::Anthropic => 1,
        };
        let input_tokens = request.head.input_bound();
        let usage = Usage {
            input_tokens,
            cached_tokens: faults.bill.cached_tokens.min(input_tokens),
            output_tokens: choices * (reply.tokens + reasoning) + faults.bill.over_tokens,
            reasoning_tokens: choices * reasoning,
        };
        Self {
            id: request.prompt.seed,
            model: json_string(&request.model),
            tool: request.tool.as_deref().map(json_string),
            choices,
            reply,
            usage,
            asks_usage: request.head.include_usage,
            reports_usage: !faults.bill.no_usage,
            ends_properly: !faults.script.no_done,
        }
    }
}

/// A text as a JSON string, quotes included.
pub(super) fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
