//! The headers of every answer, as each protocol's real provider has them.

use super::{anthropic, cohere_chat, gemini, openai_chat};
use filters::dialect::Protocol;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Those of a protocol, beside the call's own id.
pub(super) fn header_map(protocol: Protocol) -> HeaderMap {
    let headers: &[(&'static str, &'static str)] = match protocol {
        Protocol::Openai => &openai_chat::HEADERS,
        Protocol::Anthropic => &anthropic::HEADERS,
        Protocol::Gemini => &gemini::HEADERS,
        Protocol::Cohere => &cohere_chat::HEADERS,
        Protocol::Bedrock => &[],
    };
    let pairs = headers.iter().copied();
    pairs.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

/// Where a protocol names the call.
pub(super) fn id_header(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::Openai => Some("x-request-id"),
        Protocol::Anthropic => Some("request-id"),
        Protocol::Gemini => None,
        Protocol::Cohere => Some("x-debug-trace-id"),
        Protocol::Bedrock => Some("x-amzn-requestid"),
    }
}
