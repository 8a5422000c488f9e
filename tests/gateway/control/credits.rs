//! Credits, statements and what is kept, over HTTP and at the command line.

use crate::support::{Call, Gateway, Request, Setup, eventually};
use serde_json::{Value, json};

fn credits(gateway: &Gateway) -> String {
    format!("/api/orgs/{}/credits", gateway.org)
}

/// The month of the machine's clock, as the gateway names it.
fn month(gateway: &Gateway) -> String {
    let entries = gateway.operator().read(&format!("{}/entries", credits(gateway)));
    entries["data"][0]["created_at"].as_str().expect("a moment")[..7].to_owned()
}

#[test]
fn operators_book_and_everything_is_in_the_ledger() {
    let gateway = Gateway::start();
    let (operator, path) = (gateway.operator(), credits(&gateway));
    let topped_up = operator.make(&format!("{path}/topups"), &json!({"amount_usd": 0.07, "reason": "invoice 7"}));
    assert_eq!((&topped_up["kind"], &topped_up["amount_usd"]), (&json!("topup"), &json!("0.07")));
    assert!(topped_up["actor"].as_str().expect("an actor").starts_with("operator:"), "{topped_up}");
    operator.make(&format!("{path}/adjustments"), &json!({"amount_usd": "-1.5", "reason": "goodwill ended"}));
    operator.make(&format!("{path}/refunds"), &json!({"amount_usd": "0.5", "reason": "an outage"}));
    let shown = operator.read(&path);
    assert_eq!((&shown["balance_usd"], &shown["credited_usd"]), (&json!("999.07"), &json!("999.07")));
    assert_eq!((&shown["spent_usd"], &shown["balance_credits"]), (&json!("0"), &Value::Null));

    let first = operator.read(&format!("{path}/entries?limit=10"));
    let kinds: Vec<_> = first["data"].as_array().expect("a list").iter().map(|entry| entry["kind"].clone()).collect();
    assert_eq!(kinds, ["refund", "adjustment", "topup", "topup"]);
    assert_eq!(first["next_cursor"], Value::Null);

    let statement = operator.read(&format!("/api/orgs/{}/statements/{}", gateway.org, month(&gateway)));
    assert_eq!((&statement["opening_usd"], &statement["closing_usd"]), (&json!("0"), &json!("999.07")));
    assert_eq!((statement["entries"].as_array().map(Vec::len), &statement["closed"]), (Some(4), &json!(false)));
    let csv = operator.get(&format!("/api/orgs/{}/statements/{}?format=csv", gateway.org, month(&gateway)));
    assert!(csv.header("content-type").is_some_and(|kind| kind.starts_with("text/csv")));
    assert_eq!(csv.text().lines().count(), 1 + 1 + 4 + 1, "{}", csv.text());
    assert!(gateway.audit().status.success());
}

#[test]
fn what_cannot_be_booked_says_which_field_is_to_blame() {
    let gateway = Gateway::start();
    let (operator, path) = (gateway.operator(), credits(&gateway));
    for (kind, body, code, param) in [
        ("topups", json!({}), "validation_failed", "amount_usd"),
        ("topups", json!({"amount_usd": "0"}), "validation_failed", "amount_usd"),
        ("topups", json!({"amount_usd": -1}), "validation_failed", "amount_usd"),
        ("topups", json!({"amount_usd": "1e3"}), "validation_failed", "amount_usd"),
        ("topups", json!({"amount_credits": 5}), "validation_failed", "amount_credits"),
        ("topups", json!({"amount_usd": 9_300_000_000_u64}), "validation_failed", "amount_usd"),
        ("adjustments", json!({"amount_usd": 1, "reason": " "}), "validation_failed", "reason"),
        ("refunds", json!({"amount_usd": 1, "reason": "r", "call": "x"}), "validation_failed", "call"),
        ("adjustments", json!({"amount_usd": -1001, "reason": "r"}), "not_possible", ""),
    ] {
        let refused = operator.post(&format!("{path}/{kind}"), &body);
        assert_eq!(refused.refusal(), (422, code.to_owned()), "{kind} {body}");
        assert_eq!(refused.json()["error"]["param"].as_str().unwrap_or_default(), param, "{kind} {body}");
    }
    assert_eq!(operator.post(&format!("{path}/topups"), &json!({"amount_usd": true})).status, 422);
    assert_eq!(operator.post(&format!("{path}/topups"), &json!({"amount": 1})).status, 422);
    let nobody = "/api/orgs/org_00000000000000000000000000/credits";
    assert_eq!(operator.get(nobody).refusal(), (404, "not_found".to_owned()));
    assert_eq!(operator.post(&format!("{nobody}/topups"), &json!({"amount_usd": 1})).status, 404);
    for month in ["2026", "2026-13", "never"] {
        assert_eq!(operator.get(&format!("/api/orgs/{}/statements/{month}", gateway.org)).status, 404, "{month}");
    }
    assert_eq!(operator.read(&path)["balance_usd"], "1000");
}

#[test]
fn no_key_books_anything_nor_reads_what_it_may_not() {
    let gateway = Gateway::start();
    let (key, path) = (gateway.control_of(&gateway.key.token), credits(&gateway));
    for kind in ["topups", "adjustments", "refunds"] {
        let refused = key.post(&format!("{path}/{kind}"), &json!({"amount_usd": 1, "reason": "mine"}));
        assert!(matches!(refused.status, 403 | 404), "{kind}: {}", refused.text());
    }
    assert_eq!(key.get(&path).status, 403);
    assert_eq!(gateway.operator().read(&path)["balance_usd"], "1000");
}

#[test]
fn a_request_that_is_sent_again_is_booked_once() {
    let gateway = Gateway::start();
    let (operator, path) = (gateway.operator(), format!("{}/topups", credits(&gateway)));
    let send = |amount: &str| {
        let request = Request::post(&path, json!({"amount_usd": amount}).to_string());
        operator.send(request.header("idempotency-key", "invoice-7"))
    };
    let (first, again) = (send("5"), send("5"));
    assert_eq!((first.status, again.status, first.json()), (201, 201, again.json()));
    assert_eq!(send("6").refusal(), (422, "idempotency_key_reused".to_owned()));
    assert_eq!(operator.read(&credits(&gateway))["balance_usd"], "1005");
}

/// api-key-org-reference: "one credit wallet".
#[test]
fn amounts_are_told_in_credits_where_a_credit_is_defined() {
    let gateway = Setup::new().control("credit_micros = 10_000").start();
    let (operator, path) = (gateway.operator(), credits(&gateway));
    let made = operator.make(&format!("{path}/topups"), &json!({"amount_credits": 250}));
    assert_eq!((&made["amount_usd"], &made["amount_credits"]), (&json!("2.5"), &json!("250")));
    let shown = operator.read(&path);
    assert_eq!((&shown["balance_usd"], &shown["balance_credits"]), (&json!("1002.5"), &json!("100250")));
    assert_eq!(shown["credit_micros"], 10_000);
}

#[test]
fn a_call_is_refunded_up_to_its_charge() {
    let gateway = Gateway::start();
    let answer = gateway.call(&Call::chat("count up").with("max_tokens", 10));
    let row = gateway.row(answer.request_id());
    let path = format!("{}/refunds", credits(&gateway));
    let usd = |nanos: i64| format!("0.{nanos:09}");
    let body = |nanos: i64| json!({"amount_usd": usd(nanos), "reason": "it was wrong", "call": answer.request_id()});
    let operator = gateway.operator();
    assert_eq!(operator.post(&path, &body(row.charge_nano + 1)).refusal(), (422, "not_possible".to_owned()));
    assert_eq!(operator.make(&path, &body(row.charge_nano))["call"], answer.request_id());
    assert_eq!(operator.post(&path, &body(1)).refusal(), (422, "not_possible".to_owned()));
    assert_eq!(operator.read(&credits(&gateway))["balance_usd"], "1000");
    assert!(gateway.audit().status.success());
}

/// Nodes hold credit that they may spend by themselves: what is taken from the balance they see within a second.
#[test]
fn what_is_taken_is_spent_by_nobody() {
    let gateway = Gateway::start();
    let call = Call::chat("count up").with("max_tokens", 10);
    let charge = gateway.row(gateway.call(&call).request_id()).charge_nano;
    let rest = 1_000_000_000_000 - charge;
    let path = format!("{}/adjustments", credits(&gateway));
    let body = |nanos: i64, force: bool| {
        let usd = format!("-{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
        json!({"amount_usd": usd, "reason": "a chargeback", "force": force})
    };
    assert_eq!(gateway.operator().post(&path, &body(rest + 1, false)).refusal(), (422, "not_possible".to_owned()));
    gateway.operator().make(&path, &body(rest, false));
    let refused = eventually("a refusal", || Some(gateway.call(&call)).filter(|answer| answer.status != 200));
    assert_eq!(refused.refusal(), (402, "insufficient_credits".to_owned()));
    assert!(gateway.audit().status.success());
}

#[test]
fn calls_are_kept_as_long_as_operators_say() {
    let gateway = Gateway::start();
    let (operator, path) = (gateway.operator(), format!("/api/orgs/{}/retention", gateway.org));
    let put = |days: Value| {
        operator.send(Request { method: "PUT", ..Request::post(&path, json!({"days": days}).to_string()) })
    };
    assert_eq!(operator.read(&path)["days"], Value::Null);
    assert_eq!(put(json!(30)).json()["days"], 30);
    assert_eq!(put(json!(6)).refusal(), (422, "validation_failed".to_owned()));
    assert_eq!(put(json!(0)).json()["days"], 0);
    let told = gateway.tollgate(&["org", "retention", &gateway.org, "default"]);
    assert_eq!(told["days"], Value::Null);
}

#[test]
fn the_command_line_books_and_tells_the_same() {
    let gateway = Gateway::start();
    let org = gateway.org.as_str();
    let adjusted = gateway.tollgate(&["org", "adjust", org, "-2.5", "--reason", "a promise"]);
    assert_eq!((&adjusted["kind"], adjusted["amount"].to_string().as_str()), (&json!("adjustment"), "-2.5"));
    gateway.tollgate(&["org", "refund", org, "0.5", "--reason", "an outage"]);
    let statement = gateway.tollgate(&["org", "statement", org, &month(&gateway)]);
    assert_eq!((statement["closing"].to_string().as_str(), &statement["closed"]), ("998", &json!(false)));
    assert_eq!(gateway.operator().read(&credits(&gateway))["balance_usd"], "998");
}
