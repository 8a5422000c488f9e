//! What a call would cost, and calls that say what they may cost (api-key-org-reference, "Budget guard").

use super::{counting, nano, raw};
use crate::support::{Answer, Call, Gateway, Request, Setup};
use serde_json::{Value, json};

/// A cent a credit.
const CENTS: &str = "credit_micros = 10_000";

fn estimate(gateway: &Gateway, body: &Value) -> Answer {
    gateway.exchange(&Request::post("/v1/credits/estimate", body.to_string()).bearer(&gateway.key.token))
}

fn messages(max_tokens: u64) -> Value {
    json!({"model": "gpt-4o-mini", "max_tokens": max_tokens, "messages": [{"role": "user", "content": "count up"}]})
}

/// "Agents should call POST /v1/credits/estimate before paid tasks": it is what is then set aside, and nothing is charged.
#[test]
fn an_estimate_is_what_is_set_aside() {
    let gateway = Setup::new().control(CENTS).start();
    let told = estimate(&gateway, &messages(10));
    assert_eq!(told.status, 200, "{}", told.text());
    let estimated = nano(raw(&told.text(), "estimate_usd"));
    assert_eq!((told.json()["strict"].clone(), told.json()["output_tokens"].clone()), (json!(false), json!(10)));
    assert_eq!(nano(raw(&told.text(), "estimate_credits")), estimated * 100);
    assert_eq!(gateway.key_money(&gateway.key, "usage"), 0);
    let answer = gateway.call(&Call::chat("count up").with("max_tokens", 10));
    assert_eq!(gateway.row(answer.request_id()).reserved_nano, estimated);
}

#[test]
fn a_strict_key_is_told_the_bound() {
    let gateway = Setup::new().key(&["--limit", "5", "--strict"]).start();
    let told = estimate(&gateway, &messages(10));
    assert_eq!((told.status, &told.json()["strict"]), (200, &json!(true)), "{}", told.text());
    assert_eq!(raw(&told.text(), "estimate_usd"), raw(&told.text(), "bound_usd"));
    assert_eq!(told.json().get("estimate_credits"), None);
}

#[test]
fn tokens_alone_can_be_estimated_and_other_protocols_too() {
    let gateway = Gateway::start();
    let tokens = json!({"model": "mini", "input_tokens": 1_000, "output_tokens": 100});
    assert_eq!(nano(raw(&estimate(&gateway, &tokens).text(), "estimate_usd")), 2_000_000);
    let mut call = messages(10);
    call["model"] = json!("claude-sonnet-4-6");
    assert_eq!(estimate(&gateway, &call).status, 200);
    call["endpoint"] = json!("/v1/messages");
    assert_eq!(estimate(&gateway, &call).status, 200);
    for (body, refusal) in [
        (json!({"model": "no-such-model"}), (404, "model_not_found")),
        (json!({"messages": []}), (400, "invalid_request")),
        (json!({"model": "mini", "endpoint": "/v1/models"}), (400, "invalid_request")),
        (json!([]), (400, "invalid_request")),
    ] {
        assert_eq!(estimate(&gateway, &body).refusal(), (refusal.0, refusal.1.to_owned()), "{body}");
    }
    let stranger = Request::post("/v1/credits/estimate", messages(10).to_string());
    assert_eq!(gateway.exchange(&stranger).status, 401);
}

/// "pass max_credits in the JSON body to reject the request before a task is created if the estimate is higher than the user's
/// approved budget".
#[test]
fn a_call_above_its_own_budget_is_refused_before_anything_is_done() {
    let gateway = Setup::new().control(CENTS).start();
    let estimated = nano(raw(&estimate(&gateway, &messages(10)).text(), "estimate_usd"));
    let usd = |nanos: i64| format!("0.{nanos:09}");
    for (field, value) in [("max_cost_usd", usd(estimated - 1)), ("max_credits", usd((estimated - 1_000) * 100))] {
        let refused = gateway.call(&counting(10).with(field, value));
        assert_eq!(refused.refusal(), (402, "max_credits_exceeded".to_owned()), "{field}");
        assert_eq!(refused.json()["error"]["remedy"], "raise_max_cost");
        assert_eq!(refused.header("x-should-retry"), Some("false"));
    }
    assert_eq!((gateway.key_money(&gateway.key, "usage"), gateway.provider().log().len()), (0, 0));
    let within = json!({"model": "gpt-4o-mini", "max_tokens": 10, "messages": [], "max_cost_usd": 1});
    assert_eq!(estimate(&gateway, &within).json()["within_budget"], json!(true));
    for (field, value) in [("max_cost_usd", json!(usd(estimated))), ("max_credits", json!(250))] {
        assert_eq!(gateway.call(&counting(10).with(field, value)).status, 200, "{field}");
    }
}

#[test]
fn a_budget_in_credits_means_nothing_where_there_are_none() {
    let gateway = Gateway::start();
    let refused = gateway.call(&counting(10).with("max_credits", 250));
    assert_eq!(refused.refusal(), (400, "invalid_request".to_owned()));
    assert_eq!(gateway.call(&counting(10).with("max_cost_usd", 1)).status, 200);
}
