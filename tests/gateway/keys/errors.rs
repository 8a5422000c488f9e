//! Every refusal that a client can bring about, in every shape: status, type, code, ids, and what heals it.

use crate::money::{Account, cost_of, counting, dollars};
use crate::support::{Answer, Call, Gateway, Key, Provider, Request, Setup, Upstream, Wire, eventually};
use serde_json::Value;

/// Code, status and type.
const TABLE: [(&str, u16, &str); 29] = [
    ("invalid_request", 400, "invalid_request_error"),
    ("ambiguous_credentials", 400, "invalid_request_error"),
    ("duplicate_field", 400, "invalid_request_error"),
    ("missing_credentials", 401, "authentication_error"),
    ("invalid_api_key", 401, "authentication_error"),
    ("key_expired", 401, "authentication_error"),
    ("key_disabled", 401, "authentication_error"),
    ("organisation_suspended", 401, "authentication_error"),
    ("insufficient_credits", 402, "insufficient_credits"),
    ("spend_limit_reached", 402, "insufficient_credits"),
    ("credits_reserved", 402, "insufficient_credits"),
    ("route_scope_denied", 403, "permission_error"),
    ("model_not_allowed", 403, "permission_error"),
    ("provider_not_allowed", 403, "permission_error"),
    ("model_not_found", 404, "invalid_request_error"),
    ("not_found", 404, "invalid_request_error"),
    ("method_not_allowed", 405, "invalid_request_error"),
    ("request_timeout", 408, "invalid_request_error"),
    ("body_too_large", 413, "invalid_request_error"),
    ("unsupported_encoding", 415, "invalid_request_error"),
    ("headers_too_large", 431, "invalid_request_error"),
    ("model_unpriced", 422, "invalid_request_error"),
    ("rate_limit_exceeded", 429, "rate_limit_error"),
    ("concurrency_exceeded", 429, "rate_limit_error"),
    ("upstream_failed", 502, "api_error"),
    ("upstream_timeout", 504, "api_error"),
    ("limits_unavailable", 503, "api_error"),
    ("store_unavailable", 503, "api_error"),
    ("overloaded", 503, "api_error"),
];

/// Codes that come from a quota: `limit_source` and `remedy`.
const QUOTAS: [(&str, &str, &str); 5] = [
    ("insufficient_credits", "organisation_balance", "add_credits"),
    ("spend_limit_reached", "key_spend_limit", "raise_limit"),
    ("credits_reserved", "key_spend_limit", "wait"),
    ("rate_limit_exceeded", "key_requests_per_minute", "wait"),
    ("concurrency_exceeded", "key_concurrency", "wait"),
];

/// How a body is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Openai,
    Anthropic,
    Gateway,
    Numeric,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Openai,
    Anthropic,
}

impl Protocol {
    const BOTH: [Self; 2] = [Self::Openai, Self::Anthropic];

    fn path(self) -> &'static str {
        match self {
            Self::Openai => "/v1/chat/completions",
            Self::Anthropic => "/v1/messages",
        }
    }

    /// A call that fills its limit of 10 tokens.
    fn call(self) -> Call {
        match self {
            Self::Openai => counting(10),
            Self::Anthropic => Call::messages("count up").with("max_tokens", 10),
        }
    }
}

/// Everything that was brought about, by code.
type Refusals = Vec<(&'static str, Answer)>;

/// A gateway whose limits are soon reached.
fn gateway(error_shape: &str, provider: &Provider) -> Gateway {
    let upstream = |upstream: Upstream| upstream.timeout("header_ms = 300");
    Setup::new()
        .setting(&format!("error_shape = '{error_shape}'"))
        .limit("body_bytes_max = 1_000_000")
        .limit("request_bytes_in_flight_max = 1_000_000")
        .limit("body_idle_timeout_ms = 300")
        .upstream(upstream(Upstream::openai("simulated-openai", provider.url())))
        .upstream(upstream(Upstream::anthropic("simulated-anthropic", provider.url())))
        .start()
}

/// Requests that nobody could serve.
fn wrong_requests(gateway: &Gateway, protocol: Protocol) -> Refusals {
    let token = &gateway.key.token;
    let post = |body: &str| Request::post(protocol.path(), body).bearer(token);
    let good = || protocol.call().request(token);
    let without_end = |extra: &str, body: &str| {
        let mut wire = gateway.connect();
        wire.send(format!("{}{extra}\r\n{body}", post("").head()).as_bytes());
        wire.answer()
    };
    let many_headers = (0..120).fold(good(), |request, number| request.header(&format!("x-{number}"), "1"));
    vec![
        ("invalid_request", gateway.exchange(&post("{"))),
        ("invalid_request", gateway.exchange(&post("{\"messages\":[]}"))),
        ("duplicate_field", gateway.exchange(&post("{\"model\":\"a\",\"messages\":[],\"model\":\"b\"}"))),
        ("model_not_found", gateway.exchange(&post("{\"model\":\"none\",\"messages\":[]}"))),
        ("method_not_allowed", gateway.exchange(&Request::get(protocol.path()).bearer(token))),
        ("request_timeout", without_end("content-length: 100\r\n", "{")),
        ("body_too_large", without_end("content-length: 1000001\r\n", "")),
        ("unsupported_encoding", gateway.exchange(&good().header("content-encoding", "gzip"))),
        ("headers_too_large", gateway.exchange(&many_headers)),
    ]
}

/// Keys that may not.
fn wrong_keys(gateway: &Gateway, protocol: Protocol) -> Refusals {
    let with = |token: &str| gateway.exchange(&protocol.call().request(token));
    let anonymous = |headers: &[(&str, &str)]| {
        let request = Request::post(protocol.path(), protocol.call().body.to_string());
        gateway.exchange(&headers.iter().fold(request, |request, (name, value)| request.header(name, value)))
    };
    let disabled = gateway.create_key(&[]);
    gateway.tollgate(&["key", "disable", &disabled.id]);
    let account = Account::with(gateway, 1_000_000_000);
    let (suspended, of_scopes) = (account.key(&[]), gateway.create_key(&["--scope", "usage:read"]));
    account.suspend(true);
    vec![
        ("missing_credentials", anonymous(&[])),
        ("ambiguous_credentials", anonymous(&[("authorization", "Bearer one"), ("x-api-key", "two")])),
        ("invalid_api_key", with("nobody's")),
        ("key_disabled", with(&disabled.token)),
        ("organisation_suspended", with(&suspended.token)),
        ("route_scope_denied", with(&of_scopes.token)),
        ("model_not_allowed", with(&gateway.create_key(&["--model", "other-*"]).token)),
        ("provider_not_allowed", with(&gateway.create_key(&["--provider", "other-*"]).token)),
    ]
}

/// A stream that has begun and does not end by itself.
fn running(gateway: &Gateway, protocol: Protocol, key: &Key) -> Wire {
    let mut wire = gateway.connect();
    wire.send(&protocol.call().streamed().simulate("hang-after=1").request(&key.token).bytes());
    assert_eq!(wire.head().status, 200);
    wire
}

/// Quotas that are used up.
fn used_up(gateway: &Gateway, protocol: Protocol) -> Refusals {
    let call = |key: &Key| gateway.call_with(key, &protocol.call());
    let price = cost_of(gateway, &protocol.call());
    let (poor, limited) = (Account::poor(gateway).key(&[]), gateway.create_key(&["--limit", "0.000001"]));
    let held = gateway.create_key(&["--limit", &dollars(price + 1)]);
    let busy = gateway.create_key(&["--concurrency", "1"]);
    let hasty = gateway.create_key(&["--rpm", "1"]);
    let _streams = (running(gateway, protocol, &held), running(gateway, protocol, &busy));
    vec![
        ("insufficient_credits", call(&poor)),
        ("spend_limit_reached", call(&limited)),
        ("credits_reserved", call(&held)),
        ("concurrency_exceeded", call(&busy)),
        (
            "rate_limit_exceeded",
            eventually("the rate is used up", || Some(call(&hasty)).filter(|answer| answer.status != 200)),
        ),
    ]
}

/// Providers that fail, and more than the gateway may hold.
fn failures(gateway: &Gateway, protocol: Protocol) -> Refusals {
    let simulate = |faults: &str| gateway.call(&protocol.call().simulate(faults));
    let mut wires = [gateway.connect(), gateway.connect()];
    let head = Request::post(protocol.path(), "").bearer(&gateway.key.token).head();
    // The first may be looked at after the second: one of them is refused at once, the other waits for its body in vain.
    wires.iter_mut().for_each(|wire| wire.send(format!("{head}content-length: 900000\r\n\r\n").as_bytes()));
    let answers = wires.map(|mut wire| wire.answer());
    let overloaded = answers.into_iter().find(|answer| answer.status == 503).expect("one of them is too much");
    vec![
        ("overloaded", overloaded),
        ("upstream_failed", simulate("status=503")),
        ("upstream_timeout", simulate("hang-before-header")),
    ]
}

fn keys_of(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn assert_is(shape: Shape, code: &str, answer: &Answer) {
    let said = format!("{code} as {shape:?}: {} {}", answer.status, answer.text());
    let (_, status, kind) = TABLE.iter().find(|(of, ..)| *of == code).expect("it is in the table");
    let quota = QUOTAS.iter().find(|(of, ..)| *of == code);
    let body = answer.json();
    let error = &body["error"];
    assert_eq!(answer.status, *status, "{said}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{said}");
    assert_eq!(error["status"], *status, "{said}");
    assert!(error["message"].as_str().is_some_and(|message| message.len() > 10 && message.ends_with('.')), "{said}");
    assert_eq!(error["limit_source"].as_str(), quota.map(|(_, source, _)| *source), "{said}");
    assert_eq!(error["remedy"].as_str(), quota.map(|(.., remedy)| *remedy), "{said}");

    let id = answer.request_id();
    assert!(id.starts_with("req_"), "{said}");
    let (expected_type, expected_code) = match shape {
        Shape::Gateway => ("gateway_error", Value::from(code)),
        Shape::Numeric => (*kind, Value::from(*status)),
        Shape::Openai | Shape::Anthropic => (*kind, Value::from(code)),
    };
    assert_eq!((&error["type"], &error["code"]), (&expected_type.into(), &expected_code), "{said}");
    let is_anthropic = shape == Shape::Anthropic;
    let id_holder = if is_anthropic { &body } else { error };
    assert_eq!(id_holder["request_id"], id, "{said}");
    assert_eq!(error.get("param").is_some(), shape == Shape::Openai, "{said}");
    let details = is_anthropic.then(|| serde_json::json!({ "error_code": code }));
    assert_eq!(error.get("details"), details.as_ref(), "{said}");
    assert_eq!(answer.header("allow"), (code == "method_not_allowed").then_some("POST"), "{said}");
    let outer = if is_anthropic { vec!["error", "request_id", "type"] } else { vec!["error"] };
    assert_eq!(keys_of(&body), outer, "{said}");
    if is_anthropic {
        assert_eq!(body["type"], "error", "{said}");
        assert_eq!(answer.header("request-id"), Some(id), "{said}");
    }
}

/// Brings about what can be, and checks each answer.
fn assert_all(error_shape: &str, shape_of: impl Fn(Protocol) -> Shape, bring: impl Fn(&Gateway, Protocol) -> Refusals) {
    let provider = Provider::start();
    let gateway = gateway(error_shape, &provider);
    for protocol in Protocol::BOTH {
        for (code, answer) in bring(&gateway, protocol) {
            assert_is(shape_of(protocol), code, &answer);
        }
    }
}

fn of_protocol(protocol: Protocol) -> Shape {
    match protocol {
        Protocol::Openai => Shape::Openai,
        Protocol::Anthropic => Shape::Anthropic,
    }
}

#[test]
fn wrong_requests_are_refused_in_the_protocols_shape() {
    assert_all("protocol", of_protocol, wrong_requests);
}

#[test]
fn wrong_keys_are_refused_in_the_protocols_shape() {
    assert_all("protocol", of_protocol, wrong_keys);
}

#[test]
fn used_up_quotas_refuse_in_the_protocols_shape() {
    assert_all("protocol", of_protocol, used_up);
}

#[test]
fn failures_are_told_in_the_protocols_shape() {
    assert_all("protocol", of_protocol, failures);
}

#[test]
fn the_configured_shapes_are_the_same_for_both_protocols() {
    for (name, shape) in [("gateway", Shape::Gateway), ("numeric", Shape::Numeric)] {
        for bring in [wrong_requests, wrong_keys, used_up, failures] {
            assert_all(name, |_| shape, bring);
        }
    }
}

#[test]
fn paths_that_lead_nowhere_are_said_to_be_nowhere() {
    let gateway = Gateway::start();
    for path in
        ["/", "/v1", "/v1/", "/v2/models", "/v1/chat/completions/", "/v1/nothing", "/metrics", "/api/key/x", "/livez"]
    {
        let answer = gateway.exchange(&Request::get(path).bearer(&gateway.key.token));
        assert_is(Shape::Openai, "not_found", &answer);
    }
}

#[test]
fn what_is_to_blame_is_named() {
    let gateway = Gateway::start();
    let error = |call: &Call| gateway.call(call).json()["error"].clone();
    let refused = error(&counting(1).with("model", "none"));
    assert_eq!(refused["param"], "model");
    assert!(refused["message"].as_str().is_some_and(|message| message.contains("`none`")), "{refused}");
    let poor = gateway.create_key(&["--scope", "usage:read", "--scope", "analytics:read"]);
    let refused = gateway.call_with(&poor, &counting(1)).json()["error"].clone();
    assert_eq!(refused["required_scopes"].to_string(), "[\"model:invoke\"]");
    assert_eq!(refused["granted_scopes"].to_string(), "[\"usage:read\",\"analytics:read\"]");
    let message = refused["message"].as_str().expect("a sentence");
    assert!(message.contains("model:invoke") && message.contains("analytics:read"), "{message}");
}
