//! Signing in and out.

use crate::support::{Control, Gateway, PASSWORD, Request};
use serde_json::{Value, json};

#[test]
fn a_user_signs_in_and_out() {
    let gateway = Gateway::start();
    let (ada, user) = gateway.user("ada@example.com");
    let me = ada.read("/api/me");
    assert_eq!(
        (&me["kind"], &me["user"]["id"], &me["user"]["email"]),
        (&json!("user"), &json!(user), &json!("ada@example.com"))
    );
    // The first sign-in makes a personal organisation.
    let orgs = me["organisations"].as_array().expect("a list");
    assert_eq!((orgs.len(), &orgs[0]["role"], &orgs[0]["personal"]), (1, &json!("owner"), &json!(true)));
    assert_eq!(orgs[0]["id"], me["user"]["personal_org"]);
    let again = gateway.sign_in(" ADA@example.com");
    assert_eq!(again.read("/api/me")["organisations"], me["organisations"]);
    assert_eq!(ada.delete("/api/sessions/current").status, 204);
    assert_eq!(ada.get("/api/me").refusal(), (401, "invalid_session".to_owned()));
    assert_eq!(again.get("/api/me").status, 200);
}

#[test]
fn a_token_is_shown_once_and_is_nowhere_afterwards() {
    let gateway = Gateway::start();
    gateway.user("ada@example.com");
    let body = json!({"email": "ada@example.com", "password": PASSWORD});
    let opened = gateway.control_of("").make("/api/sessions", &body);
    let token = opened["token"].as_str().expect("a token");
    assert!(token.starts_with("tg_session_"));
    let control = gateway.control_of(token);
    let listed = control.read("/api/sessions");
    let sessions = listed["data"].as_array().expect("a list");
    assert_eq!(sessions.len(), 2);
    assert_eq!(
        (&sessions[0]["id"], &sessions[0]["current"], &sessions[0]["address"]),
        (&opened["id"], &json!(true), &json!("127.0.0.1"))
    );
    assert!(!listed.to_string().contains(token) && !control.read("/api/me").to_string().contains(token));
    assert!(!gateway.log().contains(token) && !gateway.log().contains(PASSWORD));
}

#[test]
fn whether_there_is_such_a_user_is_not_told() {
    let gateway = Gateway::start();
    let (_, user) = gateway.user("ada@example.com");
    gateway.user("off@example.com");
    let off = gateway.operator().read("/api/users")["data"][1]["id"].as_str().expect("an id").to_owned();
    assert_ne!(off, user);
    assert_eq!(gateway.operator().patch(&format!("/api/users/{off}"), &json!({"disabled": true})).status, 200);
    let stranger = gateway.control_of("");
    let refusal = |email: &str, password: &str| {
        let answer = stranger.post("/api/sessions", &json!({"email": email, "password": password}));
        let mut error = answer.json()["error"].clone();
        error["request_id"] = Value::Null;
        (answer.status, error)
    };
    let wrong = refusal("ada@example.com", "wrong password");
    assert_eq!((wrong.0, &wrong.1["code"]), (401, &json!("invalid_sign_in")));
    assert_eq!(refusal("nobody@example.com", "wrong password"), wrong);
    assert_eq!(refusal("off@example.com", PASSWORD), wrong);
}

#[test]
fn who_guesses_is_sent_away_for_a_while() {
    let gateway = Gateway::start();
    gateway.user("ada@example.com");
    let stranger = gateway.control_of("");
    // Whoever there is or not: 10 failures, as the configuration says.
    for email in ["ada@example.com", "nobody@example.com"] {
        let guess = json!({"email": email, "password": "a guess"});
        let statuses: Vec<u16> = (0..11).map(|_| stranger.post("/api/sessions", &guess).status).collect();
        assert_eq!(statuses, [[401; 10].as_slice(), &[429]].concat(), "{email}");
    }
    let right = stranger.post("/api/sessions", &json!({"email": "ada@example.com", "password": PASSWORD}));
    assert_eq!(right.refusal(), (429, "sign_in_limit_exceeded".to_owned()));
    let wait: u64 = right.header("retry-after").expect("a wait").parse().expect("seconds");
    assert!((1..=900).contains(&wait), "{wait}");
}

#[test]
fn a_cookie_carries_a_session_for_pages_of_this_site_alone() {
    let gateway = Gateway::start();
    gateway.user("ada@example.com");
    let body = json!({"email": "ada@example.com", "password": PASSWORD, "cookie": true});
    let stranger = gateway.control_of("");
    let opened = stranger.post("/api/sessions", &body);
    assert_eq!((opened.status, &opened.json()["token"]), (201, &Value::Null));
    let cookie = opened.header("set-cookie").expect("a cookie");
    assert!(cookie.starts_with("__Host-tollgate=tg_session_"), "{cookie}");
    for attribute in ["; Path=/", "; Secure", "; HttpOnly", "; SameSite=Strict", "; Max-Age=604800"] {
        assert!(cookie.contains(attribute), "{attribute}: {cookie}");
    }
    let pair = cookie.split(';').next().expect("a pair");
    let with = |request: Request, name: &str, value: &str| {
        let request = request.header("cookie", &format!("theme=dark; {pair}"));
        stranger.send(if name.is_empty() { request } else { request.header(name, value) })
    };
    assert_eq!(with(Request::get("/api/me"), "", "").json()["user"]["email"], "ada@example.com");
    let rename = || Request { method: "PATCH", ..Request::post("/api/me", json!({"name": "Countess"}).to_string()) };
    for (name, value, status) in [
        ("", "", 401),
        ("origin", "https://elsewhere.example.com", 401),
        ("sec-fetch-site", "cross-site", 401),
        ("sec-fetch-site", "same-site", 401),
        ("sec-fetch-site", "same-origin", 200),
        ("origin", "https://gateway.test", 200),
    ] {
        assert_eq!(with(rename(), name, value).status, status, "{name}: {value}");
    }
    let ended =
        with(Request { method: "DELETE", ..Request::get("/api/sessions/current") }, "sec-fetch-site", "same-origin");
    assert_eq!(ended.status, 204);
    assert!(
        ended
            .header("set-cookie")
            .is_some_and(|cookie| cookie.contains("__Host-tollgate=;") && cookie.contains("Max-Age=0"))
    );
    assert_eq!(with(Request::get("/api/me"), "", "").refusal(), (401, "invalid_session".to_owned()));
}

#[test]
fn a_session_ends_only_ones_own_others() {
    let gateway = Gateway::start();
    let (ada, _) = gateway.user("ada@example.com");
    let (bob, _) = gateway.user("bob@example.com");
    let other = gateway.sign_in("ada@example.com");
    let id = |control: &Control| {
        let sessions = control.read("/api/sessions");
        let own =
            sessions["data"].as_array().expect("a list").iter().find(|session| session["current"] == true).cloned();
        own.expect("its own session")["id"].as_str().expect("an id").to_owned()
    };
    let path = format!("/api/sessions/{}", id(&other));
    assert_eq!(bob.delete(&path).refusal(), (404, "not_found".to_owned()));
    assert_eq!(ada.delete(&path).status, 204);
    assert_eq!(other.get("/api/me").status, 401);
    let others = [gateway.sign_in("ada@example.com"), gateway.sign_in("ada@example.com")];
    assert_eq!(ada.delete("/api/sessions").json(), json!({"ended": 2}));
    assert!(others.iter().all(|other| other.get("/api/me").status == 401));
    assert_eq!((ada.get("/api/me").status, bob.get("/api/me").status), (200, 200));
}

#[test]
fn another_password_ends_every_other_session() {
    let gateway = Gateway::start();
    let (ada, _) = gateway.user("ada@example.com");
    let other = gateway.sign_in("ada@example.com");
    let change = |current: &str, new: &str| {
        ada.post("/api/me/password", &json!({"current_password": current, "new_password": new})).status
    };
    assert_eq!(change("wrong password", "another long password"), 401);
    assert_eq!(change(PASSWORD, "too short"), 422);
    assert_eq!((other.get("/api/me").status, change(PASSWORD, "another long password")), (200, 204));
    assert_eq!((ada.get("/api/me").status, other.get("/api/me").status), (200, 401));
    let sign_in = |password: &str| {
        gateway.control_of("").post("/api/sessions", &json!({"email": "ada@example.com", "password": password})).status
    };
    assert_eq!((sign_in(PASSWORD), sign_in("another long password")), (401, 201));
}

#[test]
fn operators_and_keys_have_no_sessions() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    assert_eq!(operator.read("/api/me")["kind"], "operator");
    assert_eq!(operator.get("/api/sessions").refusal().0, 403);
    assert_eq!(operator.delete("/api/sessions/current").refusal().0, 403);
    assert_eq!(gateway.control_of(&gateway.key.token).get("/api/me").refusal(), (403, "route_scope_denied".to_owned()));
}
