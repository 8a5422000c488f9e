//! What a call will be answered: the reply, its usage and who asked for what, before any of it is written.

use super::ask::Ask;
use super::faults::{BillFaults, Faults};
use super::request::Request;
use super::text::Reply;
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;

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
    /// The tier that the call is served in, where it is not the ordinary one.
    pub(super) tier: Option<String>,
    /// The client asked for a usage event (only some of OpenAI's streams ask).
    pub(super) asks_usage: bool,
    /// The answer says its usage.
    pub(super) reports_usage: bool,
    /// A stream ends with the protocol's final event.
    pub(super) ends_properly: bool,
    /// The protocol's final event says that the answer has failed, after all that it cost.
    pub(super) fails: bool,
    /// How large a picture is, at least.
    pub(super) image_bytes_min: u64,
    /// How long a sound is, whatever it says itself.
    pub(super) seconds: Option<u64>,
    /// The request, for what only one API reads.
    pub(super) ask: Arc<Ask>,
}

/// The figures as a provider bills them, over all choices.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// All input, cached or not, of any kind.
    pub(super) input_tokens: u64,
    pub(super) cached_tokens: u64,
    /// Written to a cache, for both times together.
    pub(super) cache_write_tokens: u64,
    pub(super) cache_write_1h_tokens: u64,
    pub(super) audio_input_tokens: u64,
    pub(super) image_input_tokens: u64,
    /// What the results of the provider's own tools added to the prompt, beside the input (only Gemini has it).
    pub(super) tool_prompt_tokens: u64,
    /// All output, of any kind.
    pub(super) output_tokens: u64,
    pub(super) reasoning_tokens: u64,
    pub(super) audio_output_tokens: u64,
    pub(super) image_output_tokens: u64,
    /// Searches that the provider ran.
    pub(super) searches: u64,
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
    pub(super) fn new(request: &Request, faults: &Faults) -> Self {
        let limit = match request.output_tokens {
            Some(_) => 0,
            None => request.output_limit.unwrap_or(OUTPUT_TOKENS_DEFAULT),
        };
        let reasoning = faults.bill.reasoning_tokens.min(limit);
        let reply = match request.tool {
            Some(_) => Reply::arguments(request.prompt, limit - reasoning),
            None => Reply::text(request.prompt, limit - reasoning, faults.script.usage_in_text),
        };
        let choices = request.choices;
        let made_tokens = request.output_tokens.unwrap_or(choices * (reply.tokens + reasoning));
        Self {
            id: request.prompt.seed,
            model: json_string(&request.model),
            tool: request.tool.as_deref().map(json_string),
            choices,
            reply,
            usage: Usage::new(request, &faults.bill, made_tokens, choices * reasoning),
            tier: faults.bill.tier.clone(),
            asks_usage: request.asks_usage,
            reports_usage: !faults.bill.no_usage,
            ends_properly: !faults.script.no_done,
            fails: faults.script.fails,
            image_bytes_min: faults.script.image_bytes,
            seconds: faults.bill.seconds,
            ask: Arc::clone(&request.ask),
        }
    }

    /// Every piece of the reply, unescaped and one after another.
    pub(super) fn whole_text(&self) -> String {
        let mut escaped = BytesMut::from(&b"\""[..]);
        self.reply.write_all(&mut escaped);
        escaped.put_u8(b'"');
        serde_json::from_slice(&escaped).unwrap_or_default()
    }

    /// The model's name, unescaped.
    pub(super) fn model_name(&self) -> String {
        serde_json::from_str(&self.model).unwrap_or_default()
    }
}

impl Usage {
    /// What was made, and what the knobs add to it.
    fn new(request: &Request, bill: &BillFaults, made_tokens: u64, reasoning_tokens: u64) -> Self {
        let audio_input_tokens = request.audio_tokens + bill.audio_input_tokens;
        let image_input_tokens = request.image_tokens + bill.image_input_tokens;
        let added_tokens = bill.audio_input_tokens + bill.image_input_tokens;
        let input_tokens = bill.input_tokens.unwrap_or(request.input_tokens) + added_tokens;
        let cached_tokens = bill.cached_tokens.min(input_tokens);
        let write_tokens = bill.cache_write_tokens + bill.cache_write_1h_tokens;
        let cache_write_tokens = write_tokens.min(input_tokens - cached_tokens);
        Self {
            input_tokens,
            cached_tokens,
            cache_write_tokens,
            cache_write_1h_tokens: bill.cache_write_1h_tokens.min(cache_write_tokens),
            audio_input_tokens,
            image_input_tokens,
            tool_prompt_tokens: bill.tool_prompt_tokens,
            output_tokens: made_tokens + bill.over_tokens + bill.audio_output_tokens + bill.image_output_tokens,
            reasoning_tokens,
            audio_output_tokens: bill.audio_output_tokens,
            image_output_tokens: bill.image_output_tokens,
            searches: bill.searches,
        }
    }

    /// Input that was neither read from a cache nor written to one.
    pub(super) fn fresh_tokens(&self) -> u64 {
        self.input_tokens - self.cached_tokens - self.cache_write_tokens
    }

    pub(super) fn total_tokens(&self) -> u64 {
        self.input_tokens + self.output_tokens
    }
}

impl Event {
    /// Bytes without any of the model's own words.
    pub(super) fn plain(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), ..Self::default() }
    }
}

/// `,"name":count`, where there is anything to count.
pub(super) fn member(name: &str, count: u64) -> String {
    if count == 0 { String::new() } else { format!(",\"{name}\":{count}") }
}

/// A text as a JSON string, quotes included.
pub(super) fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
