//! OpenAI chat completions as the real one writes them: chunks, the pretty-printed unary body, errors, headers.

use super::plan::{Event, Plan, json_string, member};
use super::text::{mix, put_number};
use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;

/// The moment that every answer says it was made: the same bytes for the same request.
pub(super) const CREATED: u64 = 1_786_000_000;
const FINGERPRINT: &str = "fp_5131a7ed00";
/// A block that holds some thirty chunks, so that most of them cost no allocation.
const BLOCK_BYTES: usize = 8 * 1024;

/// Headers of every answer beside the call's own id; a gateway drops most of them.
pub(super) const HEADERS: [(&str, &str); 15] = [
    ("access-control-expose-headers", "X-Request-ID"),
    ("openai-organization", "simulated-organization"),
    ("openai-processing-ms", "12"),
    ("openai-project", "proj_simulated"),
    ("openai-version", "2020-10-01"),
    ("x-ratelimit-limit-requests", "10000"),
    ("x-ratelimit-limit-tokens", "30000000"),
    ("x-ratelimit-remaining-requests", "9999"),
    ("x-ratelimit-remaining-tokens", "29999000"),
    ("x-ratelimit-reset-requests", "6ms"),
    ("x-ratelimit-reset-tokens", "2ms"),
    ("set-cookie", "__cf_bm=simulated; path=/; HttpOnly; Secure"),
    ("server", "cloudflare"),
    ("cf-ray", "8a0000000000simulated-FRA"),
    ("alt-svc", "h3=\":443\"; ma=86400"),
];

/// The chunks of one stream, each made when it is asked for.
pub(super) struct Stream {
    plan: Plan,
    head: String,
    tail: &'static str,
    position: Position,
    block: BytesMut,
}

#[derive(Clone, Copy)]
enum Position {
    Opening { choice: u64 },
    Piece { index: u64, choice: u64 },
    Finish { choice: u64 },
    Usage,
    Done,
    End,
}

impl Stream {
    pub(super) fn new(plan: Plan) -> Self {
        let head = format!(
            "data: {{\"id\":\"{}\",\"object\":\"chat.completion.chunk\",\"created\":{CREATED},\"model\":{},\
             \"service_tier\":\"{}\",\"system_fingerprint\":\"{FINGERPRINT}\",\"choices\":[",
            completion_id(&plan),
            plan.model,
            tier(&plan),
        );
        let tail = if plan.asks_usage { "],\"usage\":null}\n\n" } else { "]}\n\n" };
        let block = BytesMut::with_capacity(BLOCK_BYTES);
        Self { plan, head, tail, position: Position::Opening { choice: 0 }, block }
    }

    pub(super) fn next(&mut self) -> Option<Event> {
        let event = match self.position {
            Position::Opening { choice } => self.opening(choice),
            Position::Piece { index, choice } => self.piece(index, choice),
            Position::Finish { choice } => self.finish(choice),
            Position::Usage => self.usage(),
            Position::Done => Event { bytes: Bytes::from_static(b"data: [DONE]\n\n"), ..Event::default() },
            Position::End => return None,
        };
        self.position = self.after(self.position);
        Some(event)
    }

    fn after(&self, position: Position) -> Position {
        let plan = &self.plan;
        match position {
            Position::Opening { choice } if choice + 1 < plan.choices => Position::Opening { choice: choice + 1 },
            Position::Opening { .. } => self.piece_or_finish(0),
            Position::Piece { index, choice } if choice + 1 < plan.choices => {
                Position::Piece { index, choice: choice + 1 }
            }
            Position::Piece { index, .. } => self.piece_or_finish(index + 1),
            Position::Finish { choice } if choice + 1 < plan.choices => Position::Finish { choice: choice + 1 },
            Position::Finish { .. } if plan.asks_usage && plan.reports_usage => Position::Usage,
            Position::Finish { .. } | Position::Usage if plan.ends_properly => Position::Done,
            Position::Finish { .. } | Position::Usage | Position::Done | Position::End => Position::End,
        }
    }

    fn piece_or_finish(&self, index: u64) -> Position {
        if index < self.plan.reply.tokens {
            Position::Piece { index, choice: 0 }
        } else {
            Position::Finish { choice: 0 }
        }
    }

    fn opening(&mut self, choice: u64) -> Event {
        self.begin(choice);
        self.block.put_slice(b"\"role\":\"assistant\",");
        match &self.plan.tool {
            None => self.block.put_slice(b"\"content\":\"\","),
            Some(tool) => {
                let call = format!(
                    "\"content\":null,\"tool_calls\":[{{\"index\":0,\"id\":\"{}\",\"type\":\"function\",\
                     \"function\":{{\"name\":{tool},\"arguments\":\"\"}}}}],",
                    call_id(&self.plan, choice),
                );
                self.block.put_slice(call.as_bytes());
            }
        }
        self.block.put_slice(b"\"refusal\":null");
        self.end("null")
    }

    fn piece(&mut self, index: u64, choice: u64) -> Event {
        self.begin(choice);
        let (before, after): (&[u8], &[u8]) = match self.plan.tool {
            None => (b"\"content\":\"", b"\""),
            Some(_) => (b"\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"", b"\"}}]"),
        };
        self.block.put_slice(before);
        let text_at = self.block.len();
        self.plan.reply.write_piece(index, &mut self.block);
        self.block.put_slice(after);
        Event { text_at, tokens: 1, is_paced: index > 0 && choice == 0, ..self.end("null") }
    }

    fn finish(&mut self, choice: u64) -> Event {
        self.begin(choice);
        self.end(finish_reason(&self.plan))
    }

    fn usage(&mut self) -> Event {
        let text = format!("{}],\"usage\":{}}}\n\n", self.head, usage_json(&self.plan));
        Event { bytes: text.into(), has_usage: true, ..Event::default() }
    }

    /// Writes a chunk up to the inside of its `delta`.
    fn begin(&mut self, choice: u64) {
        self.block.put_slice(self.head.as_bytes());
        self.block.put_slice(b"{\"index\":");
        put_number(&mut self.block, choice);
        self.block.put_slice(b",\"delta\":{");
    }

    fn end(&mut self, finish_reason: &str) -> Event {
        self.block.put_slice(b"},\"logprobs\":null,\"finish_reason\":");
        self.block.put_slice(finish_reason.as_bytes());
        self.block.put_u8(b'}');
        self.block.put_slice(self.tail.as_bytes());
        Event { bytes: self.block.split().freeze(), ..Event::default() }
    }
}

/// The whole unary answer.
pub(super) fn body(plan: &Plan) -> Event {
    let mut text = BytesMut::with_capacity(1024);
    let head = format!(
        "{{\n  \"id\": \"{}\",\n  \"object\": \"chat.completion\",\n  \"created\": {CREATED},\n  \"model\": {},\n  \
         \"choices\": [",
        completion_id(plan),
        plan.model,
    );
    text.put_slice(head.as_bytes());
    let mut text_at = 0;
    for choice in 0..plan.choices {
        let begins_at = write_choice(plan, choice, &mut text);
        text_at = if choice == 0 { begins_at } else { text_at };
    }
    text.put_slice(b"\n  ],\n");
    if plan.reports_usage {
        text.put_slice(format!("  \"usage\": {},\n", usage_json(plan)).as_bytes());
    }
    let tail = format!("  \"service_tier\": \"{}\",\n  \"system_fingerprint\": \"{FINGERPRINT}\"\n}}\n", tier(plan));
    text.put_slice(tail.as_bytes());
    Event {
        bytes: text.freeze(),
        text_at,
        tokens: plan.choices * plan.reply.tokens,
        has_usage: plan.reports_usage,
        ..Event::default()
    }
}

/// Writes one element of `choices`; gives back where the model's own words begin.
fn write_choice(plan: &Plan, choice: u64, text: &mut BytesMut) -> usize {
    let comma = if choice > 0 { "," } else { "" };
    let before = format!(
        "{comma}\n    {{\n      \"index\": {choice},\n      \"message\": {{\n        \"role\": \"assistant\",\n        "
    );
    text.put_slice(before.as_bytes());
    match &plan.tool {
        None => text.put_slice(b"\"content\": \""),
        Some(tool) => {
            let call = format!(
                "\"content\": null,\n        \"tool_calls\": [\n          {{\n            \"id\": \"{}\",\n            \
                 \"type\": \"function\",\n            \"function\": {{\n              \"name\": {tool},\n              \
                 \"arguments\": \"",
                call_id(plan, choice)
            );
            text.put_slice(call.as_bytes());
        }
    }
    let text_at = text.len();
    plan.reply.write_all(text);
    if plan.tool.is_some() {
        text.put_slice(b"\"\n            }\n          }\n        ]");
    } else {
        text.put_u8(b'"');
    }
    let after = format!(
        ",\n        \"refusal\": null,\n        \"annotations\": []\n      }},\n      \"logprobs\": null,\n      \
         \"finish_reason\": {}\n    }}",
        finish_reason(plan)
    );
    text.put_slice(after.as_bytes());
    text_at
}

/// The body of an answer with an error status; without a code it has that of the status.
pub(super) fn error_body(status: StatusCode, message: &str, code: Option<&str>) -> Bytes {
    let code = code.map(json_string);
    let (kind, of_status) = match status.as_u16() {
        401 => ("invalid_request_error", "\"invalid_api_key\""),
        403 => ("invalid_request_error", "\"unsupported_country_region_territory\""),
        404 => ("invalid_request_error", "\"model_not_found\""),
        429 => ("requests", "\"rate_limit_exceeded\""),
        500.. => ("server_error", "null"),
        _ => ("invalid_request_error", "null"),
    };
    let (message, code) = (json_string(message), code.as_deref().unwrap_or(of_status));
    let text = format!(
        "{{\n    \"error\": {{\n        \"message\": {message},\n        \"type\": \"{kind}\",\n        \
         \"param\": null,\n        \"code\": {code}\n    }}\n}}\n"
    );
    text.into()
}

/// A failure told in the middle of a stream.
pub(super) fn error_event() -> Event {
    let text = Bytes::from_static(
        b"data: {\"error\":{\"message\":\"The server had an error while processing your request. Sorry about that!\",\
          \"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n",
    );
    Event { is_failure: true, ..Event::plain(text) }
}

fn completion_id(plan: &Plan) -> String {
    format!("chatcmpl-{:016x}{:012x}", plan.id, mix(plan.id) >> 16)
}

fn call_id(plan: &Plan, choice: u64) -> String {
    format!("call_{:016x}{:08x}", mix(plan.id ^ choice), choice)
}

fn finish_reason(plan: &Plan) -> &'static str {
    match (&plan.tool, plan.reply.is_cut) {
        (_, true) => "\"length\"",
        (Some(_), false) => "\"tool_calls\"",
        (None, false) => "\"stop\"",
    }
}

fn tier(plan: &Plan) -> &str {
    plan.tier.as_deref().unwrap_or("default")
}

fn usage_json(plan: &Plan) -> String {
    let usage = &plan.usage;
    format!(
        "{{\"prompt_tokens\":{},\"completion_tokens\":{},\"total_tokens\":{},\
         \"prompt_tokens_details\":{{\"cached_tokens\":{},\"audio_tokens\":{}{}{}}},\
         \"completion_tokens_details\":{{\"reasoning_tokens\":{},\"audio_tokens\":{}{},\
         \"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}}}",
        usage.input_tokens,
        usage.output_tokens,
        usage.total_tokens(),
        usage.cached_tokens,
        usage.audio_input_tokens,
        member("cache_write_tokens", usage.cache_write_tokens),
        member("image_tokens", usage.image_input_tokens),
        usage.reasoning_tokens,
        usage.audio_output_tokens,
        member("image_tokens", usage.image_output_tokens),
    )
}
