//! Organisations: who sees, changes and suspends them.

use crate::support::{Call, Gateway, eventually};
use serde_json::{Value, json};

fn names(list: &Value) -> Vec<&str> {
    list["data"].as_array().expect("a list").iter().filter_map(|org| org["name"].as_str()).collect()
}

#[test]
fn an_operator_makes_organisations_and_sees_all() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    let limits = json!([{"kind": "requests", "amount": 60}]);
    let made = operator.make("/api/orgs", &json!({"name": "Acme", "limits": limits}));
    assert_eq!(
        (&made["name"], &made["balance_usd"], &made["limits"][0]["amount"]),
        (&json!("Acme"), &json!("0"), &json!(60))
    );
    assert_eq!(names(&operator.read("/api/orgs")), ["tests", "Acme"]);
    let own = operator.read(&format!("/api/orgs/{}", gateway.org));
    assert_eq!(
        (&own["balance_usd"], &own["credits_usd"], &own["spent_usd"]),
        (&json!("1000"), &json!("1000"), &json!("0"))
    );
    let (owner, _) = gateway.member("owner");
    assert_eq!(owner.post("/api/orgs", &json!({"name": "Mine"})).refusal().0, 403);
}

#[test]
fn users_see_their_own_organisations_and_no_others() {
    let gateway = Gateway::start();
    let (viewer, _) = gateway.member("viewer");
    assert_eq!(names(&viewer.read("/api/orgs")), ["tests", "viewer@example.com"]);
    let other =
        gateway.operator().make("/api/orgs", &json!({"name": "Acme"}))["id"].as_str().expect("an id").to_owned();
    // Another tenant's object is indistinguishable from a missing one.
    let answer = |org: &str| {
        let answer = viewer.get(&format!("/api/orgs/{org}"));
        (answer.status, answer.json()["error"]["message"].clone(), answer.json()["error"]["code"].clone())
    };
    assert_eq!(answer(&other), answer("org_00000000000000000000000000"));
    assert_eq!(answer(&other).0, 404);
    // Who may not see money sees none.
    let own = viewer.read(&format!("/api/orgs/{}", gateway.org));
    assert_eq!(
        (&own["role"], &own["balance_usd"], &own["credits_usd"], &own["spent_usd"]),
        (&json!("viewer"), &Value::Null, &Value::Null, &Value::Null)
    );
    let (billing, _) = gateway.member("billing");
    assert_eq!(billing.read(&format!("/api/orgs/{}", gateway.org))["balance_usd"], "1000");
}

#[test]
fn organisations_are_listed_page_by_page() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    for number in 0..11 {
        operator.make("/api/orgs", &json!({"name": format!("org-{number:02}")}));
    }
    let first = operator.read("/api/orgs?limit=10");
    let cursor = first["next_cursor"].as_str().expect("a cursor");
    let second = operator.read(&format!("/api/orgs?limit=10&cursor={cursor}"));
    assert_eq!((names(&first).len(), names(&second).len(), &second["next_cursor"]), (10, 2, &Value::Null));
    assert_eq!(operator.get("/api/orgs?limit=11").refusal(), (422, "validation_failed".to_owned()));
    assert_eq!(operator.get("/api/orgs?cursor=x").refusal(), (422, "validation_failed".to_owned()));
}

#[test]
fn a_suspended_organisation_is_refused_within_a_second_and_resumes() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    assert_eq!(gateway.call(&Call::chat("hello")).status, 200);
    let path = format!("/api/orgs/{}", gateway.org);
    let (owner, _) = gateway.member("owner");
    assert_eq!(owner.post(&format!("{path}/suspend"), &json!({})).refusal().0, 403);
    let suspended = operator.make(&format!("{path}/suspend"), &json!({}));
    assert!(suspended["suspended_at"].is_string());
    eventually("its keys are refused", || (gateway.call(&Call::chat("hello")).status == 401).then_some(()));
    assert_eq!(gateway.call(&Call::chat("hello")).refusal(), (401, "organisation_suspended".to_owned()));
    // Its people still see it, and since when.
    assert_eq!(owner.read(&path)["suspended_at"], suspended["suspended_at"]);
    assert_eq!(operator.make(&format!("{path}/suspend"), &json!({}))["suspended_at"], suspended["suspended_at"]);
    assert!(operator.make(&format!("{path}/resume"), &json!({}))["suspended_at"].is_null());
    eventually("its keys are let in", || (gateway.call(&Call::chat("hello")).status == 200).then_some(()));
    assert_eq!(operator.post("/api/orgs/org_00000000000000000000000000/suspend", &json!({})).refusal().0, 404);
}

#[test]
fn the_command_line_suspends_and_resumes_too() {
    let gateway = Gateway::start();
    assert_eq!(gateway.call(&Call::chat("hello")).status, 200);
    assert!(gateway.tollgate(&["org", "suspend", &gateway.org])["suspended_ms"].is_i64());
    eventually("its keys are refused", || (gateway.call(&Call::chat("hello")).status == 401).then_some(()));
    assert!(gateway.tollgate(&["org", "resume", &gateway.org])["suspended_ms"].is_null());
    eventually("its keys are let in", || (gateway.call(&Call::chat("hello")).status == 200).then_some(()));
}

#[test]
fn an_organisation_is_renamed_and_limited_by_its_own_people() {
    let gateway = Gateway::start();
    let path = format!("/api/orgs/{}", gateway.org);
    let (admin, _) = gateway.member("admin");
    let patch = json!({"name": "Acme", "limits": [
        {"kind": "spend", "amount_usd": 100.50, "period": "month", "zone": "Europe/Berlin", "strict": true},
        {"kind": "tokens", "amount": 5, "model": "gpt-*"},
    ]});
    let changed = admin.patch(&path, &patch).json();
    assert_eq!(
        (&changed["name"], &changed["limits"][0]["amount_usd"], &changed["limits"][0]["zone"]),
        (&json!("Acme"), &json!("100.5"), &json!("Europe/Berlin"))
    );
    assert_eq!(
        (&changed["limits"][1]["amount"], &changed["limits"][1]["model"], &changed["limits"][1]["period"]),
        (&json!(5), &json!("gpt-*"), &json!("minute"))
    );
    let removed = admin.patch(&path, &json!({"limits": [{"kind": "tokens", "model": "gpt-*", "remove": true}]})).json();
    assert_eq!(removed["limits"].as_array().map(Vec::len), Some(1));
    for role in ["developer", "billing", "viewer"] {
        let (member, _) = gateway.member(role);
        assert_eq!(
            member.patch(&path, &json!({"name": "Mine"})).refusal(),
            (403, "route_scope_denied".to_owned()),
            "{role}"
        );
    }
    for field in ["id", "balance_usd", "credits_usd", "spent_usd", "created_at", "suspended_at", "role"] {
        assert_eq!(admin.patch(&path, &json!({field: "1000000"})).refusal().0, 422, "{field}");
    }
    assert_eq!(gateway.operator().read(&path)["credits_usd"], "1000");
}

#[test]
fn an_operators_limits_are_the_operators_to_change() {
    let gateway = Gateway::start();
    let path = format!("/api/orgs/{}", gateway.org);
    let limit = |amount: u32| json!({"limits": [{"kind": "requests", "amount": amount}]});
    assert_eq!(gateway.operator().patch(&path, &limit(5)).status, 200);
    let (owner, _) = gateway.member("owner");
    assert_eq!(owner.patch(&path, &limit(500)).refusal(), (422, "not_possible".to_owned()));
    let removed = json!({"limits": [{"kind": "requests", "remove": true}]});
    assert_eq!(owner.patch(&path, &removed).refusal(), (422, "not_possible".to_owned()));
    assert_eq!(owner.read(&path)["limits"][0]["amount"], 5);
    assert_eq!(gateway.operator().patch(&path, &limit(500)).status, 200);
}
