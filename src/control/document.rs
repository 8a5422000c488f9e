//! The document at `/openapi.json`: what the handlers say of themselves, and what holds for all of them.

use super::access::{self, Access};
use axum::http::Method;
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

/// Paths that are served under another name too: the name, what it stands for, and whether the document tells of it.
pub(super) const ALIASES: [(&str, &str, bool); 2] =
    [("/v1/api-keys", "/api/keys", true), ("/api/v1/api-keys", "/api/keys", false)];

/// What any request may be answered with.
const REFUSALS: [(&str, &str); 10] = [
    ("400", "The request can't be read."),
    ("401", "No credential, or one that is not valid."),
    ("403", "The credential does not permit this."),
    ("404", "There is nothing of this name, or the caller may not know of it."),
    ("405", "The path does not take this method."),
    ("413", "The body is too large."),
    ("415", "The body is not JSON."),
    ("422", "A field can't be taken, or the change would break a rule."),
    ("429", "Too many attempts."),
    ("503", "The books can't be asked now."),
];

/// The whole document.
pub(super) fn complete(paths: &OpenApi) -> Value {
    let mut document = serde_json::to_value(paths).unwrap_or_default();
    document["info"] = json!({
        "title": "Tollgate",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "The control plane: organisations, people, keys, credits, usage, credentials, events.",
        "license": {"name": "Apache-2.0"},
    });
    document["components"]["securitySchemes"] = json!({
        "bearer": {"type": "http", "scheme": "bearer",
            "description": "A session, an operator's token or a key; `x-api-key` takes them too, but not both headers at once."},
    });
    document["components"]["schemas"]["Refusal"] = refusal_schema();
    if let Some(paths) = document["paths"].as_object_mut() {
        paths.insert("/openapi.json".to_owned(), json!({"get": own_description()}));
        for (path, item) in paths.iter_mut() {
            describe(path, item);
        }
        for (alias, original, _) in ALIASES.iter().filter(|(.., is_told)| *is_told) {
            add_alias(paths, alias, original);
        }
    }
    document
}

fn own_description() -> Value {
    let content = json!({"application/json": {"schema": {"type": "object"}}});
    json!({"tags": ["document"], "operationId": "openapi", "summary": "This document.",
        "responses": {"200": {"description": "The document.", "content": content}}})
}

/// Says of each operation who may ask, and how it is refused.
fn describe(path: &str, item: &mut Value) {
    let Some(operations) = item.as_object_mut() else { return };
    for (method, operation) in operations {
        let Ok(method) = Method::from_bytes(method.to_uppercase().as_bytes()) else { continue };
        let Some(access) = access::of(&method, path) else { continue };
        let (needs, is_open) = match access {
            Access::Open | Access::Anyone => ("nothing", true),
            Access::SignedIn => ("a session", false),
            Access::Org(permission) => (permission.name(), false),
            Access::Operator => ("an operator's token", false),
        };
        operation["x-needs"] = needs.into();
        operation["security"] = if is_open { json!([]) } else { json!([{"bearer": []}]) };
        let Some(responses) = operation["responses"].as_object_mut() else { continue };
        for (status, description) in REFUSALS {
            let schema = json!({"schema": {"$ref": "#/components/schemas/Refusal"}});
            let refusal = json!({"description": description, "content": {"application/json": schema}});
            responses.entry(status).or_insert(refusal);
        }
    }
}

fn add_alias(paths: &mut Map<String, Value>, alias: &str, original: &str) {
    let under = paths.iter().filter(|(path, _)| path.starts_with(original));
    let copies = under.map(|(path, item)| (format!("{alias}{}", &path[original.len()..]), renamed(item)));
    let copies: Vec<_> = copies.collect();
    paths.extend(copies);
}

/// The same operations under names of their own.
fn renamed(item: &Value) -> Value {
    let mut item = item.clone();
    for operation in item.as_object_mut().into_iter().flat_map(|item| item.values_mut()) {
        let name = operation["operationId"].as_str().unwrap_or_default();
        operation["operationId"] = format!("v1_{name}").into();
    }
    item
}

fn refusal_schema() -> Value {
    json!({
        "type": "object",
        "required": ["error"],
        "properties": {"error": {
            "type": "object",
            "required": ["message", "type", "code", "status", "request_id"],
            "properties": {
                "message": {"type": "string", "description": "A sentence that says what to do."},
                "type": {"type": "string"},
                "code": {"description": "Such as `not_found`."},
                "param": {"type": ["string", "null"], "description": "The field that is to blame."},
                "status": {"type": "integer"},
                "request_id": {"type": "string"},
                "required_scopes": {"type": "array", "items": {"type": "string"}},
                "granted_scopes": {"type": "array", "items": {"type": "string"}},
            },
        }},
    })
}
