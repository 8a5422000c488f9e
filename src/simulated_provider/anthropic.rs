//! Anthropic messages as the real one writes them: events with their `event:` lines, the unary body, errors, headers.

use super::plan::{Event, Plan, json_string, member};
use super::text::mix;
use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;

/// A block that holds some fifty deltas, so that most of them cost no allocation.
const BLOCK_BYTES: usize = 8 * 1024;

/// Headers of every answer beside the call's own id; a gateway drops most of them.
pub(super) const HEADERS: [(&str, &str); 15] = [
    ("anthropic-organization-id", "00000000-0000-4000-8000-000000000000"),
    ("anthropic-ratelimit-requests-limit", "4000"),
    ("anthropic-ratelimit-requests-remaining", "3999"),
    ("anthropic-ratelimit-requests-reset", "2026-08-01T00:00:00Z"),
    ("anthropic-ratelimit-input-tokens-limit", "2000000"),
    ("anthropic-ratelimit-input-tokens-remaining", "1999000"),
    ("anthropic-ratelimit-input-tokens-reset", "2026-08-01T00:00:00Z"),
    ("anthropic-ratelimit-output-tokens-limit", "400000"),
    ("anthropic-ratelimit-output-tokens-remaining", "399000"),
    ("anthropic-ratelimit-output-tokens-reset", "2026-08-01T00:00:00Z"),
    ("set-cookie", "_cfuvid=simulated; path=/; HttpOnly; Secure"),
    ("server", "cloudflare"),
    ("cf-ray", "8a0000000000simulated-FRA"),
    ("via", "1.1 google"),
    ("alt-svc", "h3=\":443\"; ma=86400"),
];

/// The events of one stream, each made when it is asked for.
pub(super) struct Stream {
    plan: Plan,
    position: Position,
    block: BytesMut,
}

#[derive(Clone, Copy)]
enum Position {
    MessageStart,
    BlockStart,
    Ping,
    Piece { index: u64 },
    BlockStop,
    MessageDelta,
    MessageStop,
    End,
}

impl Stream {
    pub(super) fn new(plan: Plan) -> Self {
        Self { plan, position: Position::MessageStart, block: BytesMut::with_capacity(BLOCK_BYTES) }
    }

    pub(super) fn next(&mut self) -> Option<Event> {
        let event = match self.position {
            Position::MessageStart => Event::plain(self.message_start()),
            Position::BlockStart => Event::plain(self.block_start()),
            Position::Ping => Event::plain("event: ping\ndata: {\"type\": \"ping\"}\n\n"),
            Position::Piece { index } => self.piece(index),
            Position::BlockStop => {
                Event::plain("event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n")
            }
            Position::MessageDelta => {
                Event { has_usage: self.plan.reports_usage, ..Event::plain(self.message_delta()) }
            }
            Position::MessageStop => Event::plain("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"),
            Position::End => return None,
        };
        self.position = self.after(self.position);
        Some(event)
    }

    fn after(&self, position: Position) -> Position {
        match position {
            Position::MessageStart => Position::BlockStart,
            Position::BlockStart => Position::Ping,
            Position::Ping => self.piece_or_stop(0),
            Position::Piece { index } => self.piece_or_stop(index + 1),
            Position::BlockStop => Position::MessageDelta,
            Position::MessageDelta if self.plan.ends_properly => Position::MessageStop,
            Position::MessageDelta | Position::MessageStop | Position::End => Position::End,
        }
    }

    fn piece_or_stop(&self, index: u64) -> Position {
        if index < self.plan.reply.tokens { Position::Piece { index } } else { Position::BlockStop }
    }

    fn message_start(&self) -> String {
        // The real one counts the token that opens the block.
        let usage = self.plan.reports_usage.then(|| format!(",\"usage\":{}", start_usage_json(&self.plan, 1)));
        format!(
            "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{\"model\":{},\"id\":\"{}\",\
             \"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null\
             {}}}}}\n\n",
            self.plan.model,
            message_id(&self.plan),
            usage.unwrap_or_default(),
        )
    }

    fn block_start(&self) -> String {
        let block = match &self.plan.tool {
            None => "{\"type\":\"text\",\"text\":\"\"}".to_owned(),
            Some(tool) => {
                let id = tool_use_id(&self.plan);
                format!("{{\"type\":\"tool_use\",\"id\":\"{id}\",\"name\":{tool},\"input\":{{}}}}")
            }
        };
        format!(
            "event: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":0,\
             \"content_block\":{block}}}\n\n"
        )
    }

    fn piece(&mut self, index: u64) -> Event {
        let delta: &[u8] = match self.plan.tool {
            None => b"\"text_delta\",\"text\":\"",
            Some(_) => b"\"input_json_delta\",\"partial_json\":\"",
        };
        self.block.put_slice(
            b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":",
        );
        self.block.put_slice(delta);
        let text_at = self.block.len();
        self.plan.reply.write_piece(index, &mut self.block);
        self.block.put_slice(b"\"}}\n\n");
        let bytes = self.block.split().freeze();
        Event { bytes, text_at, tokens: 1, is_paced: index > 0, ..Event::default() }
    }

    fn message_delta(&self) -> String {
        let usage = &self.plan.usage;
        let usage = self.plan.reports_usage.then(|| {
            format!(
                ",\"usage\":{{\"input_tokens\":{},\"cache_creation_input_tokens\":{},\
                 \"cache_read_input_tokens\":{},\"output_tokens\":{}{}}}",
                usage.fresh_tokens(),
                usage.cache_write_tokens,
                usage.cached_tokens,
                usage.output_tokens,
                server_tools(&self.plan),
            )
        });
        format!(
            "event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":{},\
             \"stop_sequence\":null}}{}}}\n\n",
            stop_reason(&self.plan),
            usage.unwrap_or_default(),
        )
    }
}

/// The whole unary answer.
pub(super) fn body(plan: &Plan) -> Event {
    let mut text = BytesMut::with_capacity(1024);
    let head = format!(
        "{{\"model\":{},\"id\":\"{}\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[",
        plan.model,
        message_id(plan)
    );
    text.put_slice(head.as_bytes());
    let opening = match &plan.tool {
        None => "{\"type\":\"text\",\"text\":\"".to_owned(),
        Some(tool) => {
            let id = tool_use_id(plan);
            format!("{{\"type\":\"tool_use\",\"id\":\"{id}\",\"name\":{tool},\"input\":{{\"input\":\"")
        }
    };
    text.put_slice(opening.as_bytes());
    let text_at = text.len();
    if plan.tool.is_some() {
        plan.reply.write_argument(&mut text);
        text.put_slice(b"\"}}");
    } else {
        plan.reply.write_all(&mut text);
        text.put_slice(b"\"}");
    }
    let usage = plan.reports_usage.then(|| format!(",\"usage\":{}", start_usage_json(plan, plan.usage.output_tokens)));
    let tail = format!("],\"stop_reason\":{},\"stop_sequence\":null{}}}", stop_reason(plan), usage.unwrap_or_default());
    text.put_slice(tail.as_bytes());
    let bytes = text.freeze();
    Event { bytes, text_at, tokens: plan.reply.tokens, has_usage: plan.reports_usage, ..Event::default() }
}

/// The body of an answer with an error status.
pub(super) fn error_body(status: StatusCode, message: &str, request_id: &str) -> Bytes {
    let kind = match status.as_u16() {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    let message = json_string(message);
    let text = format!(
        "{{\"type\":\"error\",\"error\":{{\"type\":\"{kind}\",\"message\":{message}}},\"request_id\":\"{request_id}\"}}"
    );
    text.into()
}

/// A failure told in the middle of a stream.
pub(super) fn error_event() -> Event {
    let text = Bytes::from_static(
        b"event: error\ndata: {\"type\":\"error\",\"error\":{\"details\":null,\"type\":\"overloaded_error\",\
          \"message\":\"Overloaded\"}}\n\n",
    );
    Event { is_failure: true, ..Event::plain(text) }
}

fn message_id(plan: &Plan) -> String {
    format!("msg_01{:016x}{:06x}", plan.id, mix(plan.id) >> 40)
}

fn tool_use_id(plan: &Plan) -> String {
    format!("toolu_01{:016x}{:06x}", mix(plan.id), plan.id >> 40)
}

fn stop_reason(plan: &Plan) -> &'static str {
    match (&plan.tool, plan.reply.is_cut) {
        (_, true) => "\"max_tokens\"",
        (Some(_), false) => "\"tool_use\"",
        (None, false) => "\"end_turn\"",
    }
}

/// Usage as a message itself carries it; cached tokens stand beside the others, not within them.
fn start_usage_json(plan: &Plan, output_tokens: u64) -> String {
    let usage = &plan.usage;
    format!(
        "{{\"input_tokens\":{},\"cache_creation_input_tokens\":{},\"cache_read_input_tokens\":{},\
         \"cache_creation\":{{\"ephemeral_5m_input_tokens\":{},\"ephemeral_1h_input_tokens\":{}}},\
         \"output_tokens\":{output_tokens}{},\"service_tier\":\"{}\"}}",
        usage.fresh_tokens(),
        usage.cache_write_tokens,
        usage.cached_tokens,
        usage.cache_write_tokens - usage.cache_write_1h_tokens,
        usage.cache_write_1h_tokens,
        server_tools(plan),
        plan.tier.as_deref().unwrap_or("standard"),
    )
}

/// What the provider's own tools did.
fn server_tools(plan: &Plan) -> String {
    let searches = member("web_search_requests", plan.usage.searches);
    searches.strip_prefix(',').map_or_else(String::new, |searches| format!(",\"server_tool_use\":{{{searches}}}"))
}

/// How many tokens a message would be.
pub(super) fn count(plan: &Plan) -> Event {
    Event::plain(format!("{{\"input_tokens\":{}}}", plan.usage.input_tokens))
}
