//! Users, as operators make them and as they change themselves.

use crate::support::{Gateway, PASSWORD};
use serde_json::json;

#[test]
fn an_operator_makes_users_and_switches_them_off_and_on() {
    let gateway = Gateway::start();
    let (ada, user) = gateway.user("Ada@Example.com");
    let operator = gateway.operator();
    let path = format!("/api/users/{user}");
    assert_eq!(operator.read(&path)["email"], "ada@example.com");
    assert_eq!(operator.read("/api/users")["data"].as_array().map(Vec::len), Some(1));
    let off = operator.patch(&path, &json!({"disabled": true}));
    assert!(off.json()["disabled_at"].is_string());
    assert_eq!(ada.get("/api/me").refusal(), (401, "invalid_session".to_owned()));
    assert!(operator.patch(&path, &json!({"disabled": false})).json()["disabled_at"].is_null());
    // It ended the sessions: being let in again is no session.
    assert_eq!(ada.get("/api/me").status, 401);
    assert_eq!(gateway.sign_in("ada@example.com").get("/api/me").status, 200);
    assert_eq!(operator.get("/api/users/user_00000000000000000000000000").refusal().0, 404);
}

#[test]
fn nobody_else_makes_or_sees_users() {
    let gateway = Gateway::start();
    let (owner, user) = gateway.member("owner");
    for path in ["/api/users".to_owned(), format!("/api/users/{user}")] {
        assert_eq!(owner.get(&path).refusal(), (403, "route_scope_denied".to_owned()), "{path}");
        assert_eq!(gateway.control_of("").get(&path).refusal(), (401, "missing_credentials".to_owned()), "{path}");
    }
    let new = json!({"email": "eve@example.com", "name": "Eve", "password": PASSWORD});
    assert_eq!(owner.post("/api/users", &new).refusal().0, 403);
}

#[test]
fn what_makes_no_user_is_refused() {
    let gateway = Gateway::start();
    gateway.user("ada@example.com");
    let operator = gateway.operator();
    for (new, param) in [
        (json!({"email": "ada", "name": "Ada", "password": PASSWORD}), "email"),
        (json!({"email": "eve@example.com", "name": " ", "password": PASSWORD}), "name"),
        (json!({"email": "eve@example.com", "name": "Eve", "password": "short"}), "password"),
    ] {
        let refused = operator.post("/api/users", &new);
        assert_eq!((refused.status, &refused.json()["error"]["param"]), (422, &json!(param)), "{new}");
    }
    let twice = json!({"email": "ADA@example.com", "name": "Ada", "password": PASSWORD});
    assert_eq!(operator.post("/api/users", &twice).refusal(), (422, "not_possible".to_owned()));
    let privileged = json!({"email": "e@example.com", "name": "Eve", "password": PASSWORD, "id": "user_1"});
    assert_eq!(operator.post("/api/users", &privileged).refusal(), (422, "validation_failed".to_owned()));
    assert_eq!(operator.read("/api/users")["data"].as_array().map(Vec::len), Some(1));
}

#[test]
fn users_change_their_name_and_nothing_else_of_themselves() {
    let gateway = Gateway::start();
    let (ada, user) = gateway.user("ada@example.com");
    assert_eq!(ada.patch("/api/me", &json!({"name": "Countess"})).json()["name"], "Countess");
    for field in ["email", "id", "personal_org", "disabled", "operator", "role", "organisations"] {
        let refused = ada.patch("/api/me", &json!({"name": "Eve", field: "org_1"}));
        assert_eq!(refused.refusal(), (422, "validation_failed".to_owned()), "{field}");
    }
    assert_eq!(gateway.operator().read(&format!("/api/users/{user}"))["name"], "Countess");
}
