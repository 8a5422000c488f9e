//! Who gets in, and how those are answered who don't.

use crate::support::{Gateway, OPERATOR, Request};
use serde_json::json;

#[test]
fn strangers_are_told_what_to_send() {
    let gateway = Gateway::start();
    let stranger = gateway.control_of("");
    // seachat-quickstart: "401 missing_credentials".
    assert_eq!(stranger.get("/api/operators").refusal(), (401, "missing_credentials".to_owned()));
    assert_eq!(gateway.control_of("nobody").get("/api/operators").refusal(), (401, "invalid_api_key".to_owned()));
    assert_eq!(stranger.get("/api/nothing").refusal(), (404, "not_found".to_owned()));
    assert_eq!(stranger.patch("/api/operators", &json!({})).status, 405);
    let refused = stranger.delete("/api/operators");
    assert_eq!(refused.refusal(), (405, "method_not_allowed".to_owned()));
    assert_eq!(refused.header("allow"), Some("GET,HEAD,POST"));
    assert!(refused.request_id().starts_with("req_"));
}

#[test]
fn two_credentials_are_refused() {
    let gateway = Gateway::start();
    let twice = Request::get("/api/operators").header("x-api-key", "other");
    assert_eq!(gateway.operator().send(twice).refusal(), (400, "ambiguous_credentials".to_owned()));
}

#[test]
fn operators_make_and_revoke_tokens_and_a_key_is_none() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    assert_eq!(gateway.control_of(&gateway.key.token).get("/api/operators").refusal().0, 403);
    let made = operator.make("/api/operators", &json!({"name": "alice"}));
    let alice = gateway.control_of(made["token"].as_str().expect("a token"));
    let listed = alice.read("/api/operators");
    assert_eq!(listed["data"].as_array().expect("a list").len(), 2);
    assert!(!listed.to_string().contains(made["token"].as_str().expect("a token")));
    let id = made["id"].as_str().expect("an id");
    assert_eq!(operator.delete(&format!("/api/operators/{id}")).status, 204);
    assert_eq!(alice.get("/api/operators").status, 401);
    assert_eq!(operator.delete(&format!("/api/operators/{id}")).refusal(), (404, "not_found".to_owned()));
}

#[test]
fn the_public_listener_has_no_routes_of_operators() {
    let gateway = Gateway::start();
    let public = gateway.public_of(OPERATOR);
    assert_eq!(public.get("/api/operators").refusal(), (404, "not_found".to_owned()));
    let document = public.get("/openapi.json");
    assert_eq!((document.status, document.json()["info"]["title"].as_str()), (200, Some("Tollgate")));
    assert!(document.request_id().starts_with("req_"));
    assert_eq!(gateway.metric("tollgate_requests_total", &["route=\"control\""]), 1.0);
}

#[test]
fn bodies_that_cannot_be_taken_say_why() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    let path = "/api/operators";
    for (body, refusal) in [
        ("{", (400, "invalid_request")),
        ("[]", (422, "validation_failed")),
        (r#"{"name": ""}"#, (422, "validation_failed")),
        (r#"{"name": "a", "role": "b"}"#, (422, "validation_failed")),
    ] {
        let answer = operator.send(Request::post(path, body));
        assert_eq!(answer.refusal(), (refusal.0, refusal.1.to_owned()), "{body}");
    }
    let text = Request { method: "POST", body: b"{}".to_vec(), ..Request::get(path) };
    assert_eq!(operator.send(text).refusal(), (415, "unsupported_encoding".to_owned()));
    let large = Request::post(path, format!("{{\"name\": \"{}\"}}", "x".repeat(1 << 20)));
    assert_eq!(operator.send(large).refusal(), (413, "body_too_large".to_owned()));
}

#[test]
fn the_document_describes_what_is_served() {
    let gateway = Gateway::start();
    let document = gateway.control_of("").read("/openapi.json");
    assert_eq!(document["openapi"].as_str().map(|version| &version[..2]), Some("3."));
    assert_eq!(document["paths"]["/api/operators"]["post"]["x-needs"], "an operator's token");
}
