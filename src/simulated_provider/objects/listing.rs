//! How objects look: one by one, in pages, and when they are gone; the models too.

use super::super::ask::words;
use super::super::openai_chat::CREATED;
use super::super::route::query_value;
use super::{Kind, Refused, Reply};
use filters::dialect::Protocol;
use http::{StatusCode, Uri};
use serde_json::{Map, Value, json};

/// When everything was made, as some protocols write it.
const CREATED_AT: &str = "2026-08-06T06:40:00Z";
const PAGE_MAX: usize = 100;

/// An object with what was asked for it.
pub(super) fn made(kind: &Kind, id: &str, asked: Value) -> Value {
    let mut members = match asked {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    let own = match kind.protocol {
        Protocol::Gemini => {
            let tokens = words(&Value::Object(std::mem::take(&mut members)));
            json!({"name": format!("{}/{id}", kind.collection), "createTime": CREATED_AT, "updateTime": CREATED_AT,
                "usageMetadata": {"totalTokenCount": tokens}})
        }
        Protocol::Anthropic => {
            members.clear();
            json!({"id": id, "type": kind.name, "created_at": CREATED_AT, "processing_status": "in_progress"})
        }
        _ => json!({"id": id, "object": kind.name, "created_at": CREATED, "status": "queued"}),
    };
    if let Value::Object(own) = own {
        members.extend(own);
    }
    Value::Object(members)
}

/// What says that an object is gone.
pub(super) fn removed(kind: &Kind, id: &str) -> Value {
    match kind.protocol {
        Protocol::Anthropic => json!({"id": id, "type": format!("{}_deleted", kind.name)}),
        Protocol::Gemini => json!({}),
        _ if kind.name == "file" => json!({"id": id, "object": "file", "deleted": true}),
        _ => json!({"id": id, "object": format!("{}.deleted", kind.name), "deleted": true}),
    }
}

/// A page of a list, the newest first, as its query asks for it.
pub(super) fn page<'a>(kind: &Kind, newest_first: impl Iterator<Item = (&'a str, &'a Value)>, uri: &Uri) -> Value {
    let parameter = |names: [&str; 3]| names.into_iter().find_map(|name| query_value(uri, name));
    let after = parameter(["after", "after_id", "pageToken"]);
    let size = parameter(["limit", "pageSize", "page_size"]).and_then(|size| size.parse().ok()).unwrap_or(PAGE_MAX);
    let size = size.clamp(1, PAGE_MAX);
    let mut is_begun = after.is_none();
    let rest = newest_first.filter(|(id, _)| {
        let is_in = is_begun;
        is_begun |= Some(*id) == after;
        is_in
    });
    let mut found: Vec<(&str, &Value)> = rest.take(size + 1).collect();
    let has_more = found.len() > size;
    found.truncate(size);
    let [first, last] = [found.first(), found.last()].map(|object| object.map(|(id, _)| *id));
    let data: Vec<&Value> = found.iter().map(|(_, value)| *value).collect();
    match kind.protocol {
        Protocol::Gemini if has_more => json!({kind.collection: data, "nextPageToken": last}),
        Protocol::Gemini => json!({kind.collection: data}),
        Protocol::Anthropic => json!({"data": data, "first_id": first, "last_id": last, "has_more": has_more}),
        _ => json!({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more}),
    }
}

fn names(protocol: Protocol) -> &'static [&'static str] {
    match protocol {
        Protocol::Openai => &["gpt-4o-mini", "gpt-4.1-mini", "text-embedding-3-small"],
        Protocol::Anthropic => &["claude-sonnet-4-6", "claude-haiku-4-5"],
        Protocol::Gemini => &["gemini-2.5-flash", "gemini-embedding-001"],
        Protocol::Cohere => &["command-a-03-2025", "embed-v4.0", "rerank-v3.5"],
        Protocol::Bedrock => &[],
    }
}

fn named(protocol: Protocol, name: &str) -> Value {
    match protocol {
        Protocol::Anthropic => json!({"type": "model", "id": name, "display_name": name, "created_at": CREATED_AT}),
        Protocol::Gemini => {
            let methods = ["generateContent", "countTokens"];
            json!({"name": format!("models/{name}"), "displayName": name, "supportedGenerationMethods": methods})
        }
        Protocol::Cohere => json!({"name": name, "endpoints": ["chat"]}),
        Protocol::Openai | Protocol::Bedrock => {
            json!({"id": name, "object": "model", "created": CREATED, "owned_by": "simulated"})
        }
    }
}

/// All models of a protocol.
pub(super) fn models(protocol: Protocol) -> Value {
    let models: Vec<Value> = names(protocol).iter().map(|name| named(protocol, name)).collect();
    match protocol {
        Protocol::Anthropic => json!({"data": models, "has_more": false, "first_id": null, "last_id": null}),
        Protocol::Gemini | Protocol::Cohere => json!({"models": models}),
        Protocol::Openai | Protocol::Bedrock => json!({"object": "list", "data": models}),
    }
}

/// One of them.
pub(super) fn model(protocol: Protocol, name: &str) -> Result<Reply, Refused> {
    let found = names(protocol).iter().find(|known| **known == name);
    let refused = || Refused { status: StatusCode::NOT_FOUND, message: format!("The model '{name}' does not exist.") };
    found.map(|name| Reply::json(&named(protocol, name))).ok_or_else(refused)
}
