//! Strings that break out of statements, pages, paths and logs, in every parameter, field and credential of the control plane.
//!
//! The document says which parameters there are, so a new route is asked too.

use crate::support::{Clock, Gateway, Key, Nodes, OPERATOR, Postgres, Request, Setup, SharedRedis, Wire};
use serde_json::{Map, Value, json};
use std::net::SocketAddr;

/// What is tried: each in every wrapping.
const PAYLOADS: [&str; 30] = [
    "'",
    "\"",
    "' OR '1'='1",
    "'; DROP TABLE keys; --",
    "\"; DROP TABLE keys; --",
    "1; SELECT pg_sleep(9)",
    "' UNION SELECT lookup FROM keys --",
    "') OR 1=1 --",
    "%' OR '%'='",
    "$1",
    "?1",
    "\\'; SELECT 1; --",
    "/* */",
    "%",
    "_",
    "%%%%%%%%%%%%%%%%_",
    "${jndi:ldap://127.0.0.1/a}",
    "{{7*7}}",
    "<script>alert(1)</script>",
    "../../../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "\u{0}",
    "\u{202e}gnirts",
    "\u{1f4a5}\u{fe0f}",
    "%s%n%x",
    "9223372036854775808",
    "-1",
    "null",
    "[object Object]",
];

/// How a payload is wrapped: what stands before it and behind it.
const WRAPPINGS: [(&str, &str); 10] = [
    ("", ""),
    ("key_", ""),
    ("org_00000000000000000000000001", ""),
    ("2026-01-01T00:00:00Z", ""),
    ("a", "a"),
    ("1", ""),
    (" ", " "),
    ("\u{e9}", "\u{e9}"),
    ("live", ""),
    ("x=", ";y=z"),
];

/// Words that a database's own errors have in them.
const TELLTALES: [&str; 8] =
    ["sqlite", "postgres", "sqlx", "syntax error", "database", "constraint", "panicked", "relation \""];

fn strings() -> Vec<String> {
    let all = WRAPPINGS.iter().flat_map(|(before, after)| PAYLOADS.map(|payload| format!("{before}{payload}{after}")));
    all.collect()
}

/// A method and a path, the names of what can be put into it, and the schema of its body.
struct Operation {
    method: &'static str,
    path: String,
    query: Vec<String>,
    fields: Map<String, Value>,
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in ["GET", "POST", "PATCH", "PUT", "DELETE"] {
            let operation = &item[method.to_lowercase()];
            if operation.is_null() {
                continue;
            }
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let in_query = parameters.iter().filter(|parameter| parameter["in"] == "query");
            let query = in_query.filter_map(|parameter| parameter["name"].as_str().map(str::to_owned)).collect();
            let fields = properties(document, &operation["requestBody"]["content"]["application/json"]["schema"]);
            found.push(Operation { method, path: path.clone(), query, fields });
        }
    }
    found
}

fn properties(document: &Value, schema: &Value) -> Map<String, Value> {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => &document["components"]["schemas"][reference.rsplit('/').next().expect("a name")],
        None => schema,
    };
    schema["properties"].as_object().cloned().unwrap_or_default()
}

/// Every byte that is not plainly part of a word is escaped.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte == b'.';
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

impl Operation {
    fn request(&self, text: &str) -> Request {
        let mut path = String::new();
        for part in self.path.split('/').skip(1) {
            let part = if part.starts_with('{') { escaped(text) } else { part.to_owned() };
            path.push('/');
            path.push_str(&part);
        }
        let pairs: Vec<String> = self.query.iter().map(|name| format!("{name}={}", escaped(text))).collect();
        if !pairs.is_empty() {
            path = format!("{path}?{}", pairs.join("&"));
        }
        let body: Map<String, Value> =
            self.fields.iter().map(|(name, schema)| (name.clone(), filled(schema, text))).collect();
        let body = if body.is_empty() { Vec::new() } else { json!(body).to_string().into_bytes() };
        Request { method: self.method, ..Request::post(&path, body) }
    }
}

/// A value of the type that a schema asks for, with the string wherever text can stand.
fn filled(schema: &Value, text: &str) -> Value {
    let is = |kind: &str| {
        schema["type"] == kind || schema["type"].as_array().is_some_and(|types| types.contains(&json!(kind)))
    };
    if is("string") {
        text.into()
    } else if is("array") {
        json!([text])
    } else if is("object") {
        json!({ text: text })
    } else if is("boolean") {
        true.into()
    } else if is("integer") || is("number") {
        1.into()
    } else {
        text.into()
    }
}

/// Sends a request on a connection that is kept; a new one is made when it was closed.
struct Asker {
    address: SocketAddr,
    wire: Wire,
}

impl Asker {
    fn new(address: SocketAddr) -> Self {
        Self { address, wire: Wire::connect(address) }
    }

    fn ask(&mut self, request: &Request, what: &str) -> u16 {
        let bytes = request.bytes();
        let answered = self.wire.try_send(&bytes).and_then(|()| self.wire.try_answer());
        let answer = answered.unwrap_or_else(|_| {
            self.wire = Wire::connect(self.address);
            self.wire.exchange(&bytes)
        });
        if answer.header("connection") == Some("close") {
            self.wire = Wire::connect(self.address);
        }
        assert!(answer.status < 500, "{} {} with {what:?}: {}", request.method, request.path, answer.text());
        if answer.status >= 400 {
            let text = answer.text().to_lowercase().replace(&what.to_lowercase(), "");
            let told = TELLTALES.into_iter().find(|word| text.contains(word));
            assert_eq!(told, None, "{} {} with {what:?}: {text}", request.method, request.path);
        }
        answer.status
    }
}

fn ask_everything(gateway: &Gateway, key: &Key, step: usize) {
    let operator = gateway.operator();
    let document = operator.read("/openapi.json");
    let mut asker = Asker::new(gateway.control);
    for operation in operations(&document) {
        for text in strings().iter().step_by(step) {
            asker.ask(&operation.request(text).bearer(OPERATOR), text);
        }
    }
    for text in strings().iter().step_by(step) {
        let text: String = text.chars().filter(|letter| letter.is_ascii_graphic() || *letter == ' ').collect();
        for header in
            [("authorization", format!("Bearer {text}")), ("x-api-key", text.clone()), ("cookie", text.clone())]
        {
            let request = Request::get("/api/operators").header(header.0, &header.1);
            let status = asker.ask(&request, &text);
            assert!(matches!(status, 400 | 401), "{status} for {header:?}");
        }
    }
    // Everything is still there.
    let listed = operator.read("/api/operators");
    assert!(listed["data"].as_array().is_some_and(|operators| !operators.is_empty()));
    assert_eq!(gateway.key_view(key)["label"], "test");
}

#[test]
fn three_hundred_strings_break_nothing_in_a_file() {
    assert_eq!(strings().len(), 300);
    let gateway = Gateway::start();
    ask_everything(&gateway, &gateway.key, 1);
}

#[test]
fn three_hundred_strings_break_nothing_on_a_server() {
    let nodes = Nodes::with(SharedRedis::single(), Postgres::start(), [Clock::Right], &Setup::new());
    let key = nodes.create_key(&[]);
    let step = if std::env::var_os("TOLLGATE_SOAK").is_some() { 1 } else { 7 };
    ask_everything(&nodes.gateways[0], &key, step);
}
