//! Invitations into an organisation.

use crate::support::{Gateway, PASSWORD};
use serde_json::{Value, json};

const ACCEPT: &str = "/api/invitations/accept";

fn accept(token: &Value) -> Value {
    json!({"token": token, "name": "Bob", "password": PASSWORD})
}

#[test]
fn a_newcomer_accepts_with_a_name_and_a_password() {
    let gateway = Gateway::start();
    let invitations = format!("/api/orgs/{}/invitations", gateway.org);
    let (admin, _) = gateway.member("admin");
    let made = admin.make(&invitations, &json!({"email": "Bob@example.com", "role": "developer"}));
    let token = &made["token"];
    assert!(token.as_str().is_some_and(|token| token.starts_with("tg_invite_")));
    let listed = admin.read(&invitations);
    assert_eq!(
        (&listed["data"][0]["email"], &listed["data"][0]["status"]),
        (&json!("bob@example.com"), &json!("open"))
    );
    assert!(!listed.to_string().contains(token.as_str().expect("a token")));
    let stranger = gateway.control_of("");
    for (asked, param) in [
        (json!({"token": token}), "name"),
        (json!({"token": token, "name": "Bob"}), "password"),
        (json!({"token": token, "name": "Bob", "password": "short"}), "password"),
    ] {
        let refused = stranger.post(ACCEPT, &asked);
        assert_eq!((refused.status, &refused.json()["error"]["param"]), (422, &json!(param)));
    }
    let member = stranger.make(ACCEPT, &accept(token));
    assert_eq!(
        (&member["email"], &member["role"], &member["org"]),
        (&json!("bob@example.com"), &json!("developer"), &json!(gateway.org))
    );
    assert_eq!(stranger.post(ACCEPT, &accept(token)).refusal(), (404, "not_found".to_owned()));
    let bob = gateway.sign_in("bob@example.com");
    assert_eq!(bob.read(&format!("/api/orgs/{}", gateway.org))["role"], "developer");
    assert_eq!(admin.read(&invitations)["data"][0]["status"], "accepted");
}

#[test]
fn a_user_accepts_what_is_meant_for_them() {
    let gateway = Gateway::start();
    let invitations = format!("/api/orgs/{}/invitations", gateway.org);
    let (bob, _) = gateway.user("bob@example.com");
    let (eve, _) = gateway.user("eve@example.com");
    let made = gateway.operator().make(&invitations, &json!({"email": "bob@example.com", "role": "owner"}));
    let token = json!({"token": made["token"]});
    assert_eq!(eve.post(ACCEPT, &token).refusal(), (422, "not_possible".to_owned()));
    // Whoever has the token without being Bob does not become Bob.
    assert_eq!(
        gateway.control_of("").post(ACCEPT, &accept(&made["token"])).refusal(),
        (422, "not_possible".to_owned())
    );
    assert_eq!(gateway.operator().post(ACCEPT, &token).refusal().0, 403);
    assert_eq!(bob.post(ACCEPT, &accept(&made["token"])).refusal(), (422, "validation_failed".to_owned()));
    assert_eq!(bob.make(ACCEPT, &token)["role"], "owner");
}

#[test]
fn what_was_revoked_opens_nothing() {
    let gateway = Gateway::start();
    let invitations = format!("/api/orgs/{}/invitations", gateway.org);
    let (admin, _) = gateway.member("admin");
    let made = admin.make(&invitations, &json!({"email": "bob@example.com", "role": "viewer"}));
    let path = format!("{invitations}/{}", made["id"].as_str().expect("an id"));
    let (stranger, _) = gateway.user("eve@example.com");
    assert_eq!(stranger.delete(&path).refusal(), (404, "not_found".to_owned()));
    assert_eq!(admin.delete(&path).status, 204);
    for token in [&made["token"], &json!("tg_invite_nothing")] {
        assert_eq!(gateway.control_of("").post(ACCEPT, &accept(token)).refusal(), (404, "not_found".to_owned()));
    }
    assert_eq!(admin.post(&invitations, &json!({"email": "bob@example.com", "role": "owner"})).refusal().0, 422);
    let (developer, _) = gateway.member("developer");
    assert_eq!(developer.post(&invitations, &json!({"email": "bob@example.com", "role": "viewer"})).refusal().0, 403);
}
