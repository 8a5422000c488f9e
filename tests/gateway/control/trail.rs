//! The trail of every change.

use crate::support::{Gateway, PASSWORD};
use serde_json::{Value, json};

#[test]
fn every_change_is_in_the_trail_with_who_made_it() {
    let gateway = Gateway::start();
    let path = format!("/api/orgs/{}", gateway.org);
    let (admin, user) = gateway.member("admin");
    let renamed = admin.patch(&path, &json!({"name": "Acme"}));
    let page = admin.read(&format!("{path}/trail?action=org.change"));
    let [entry] = &page["data"].as_array().expect("a list")[..] else { panic!("one entry: {page}") };
    assert_eq!(
        (&entry["actor_kind"], &entry["actor"], &entry["role"]),
        (&json!("user"), &json!(user), &json!("admin"))
    );
    assert_eq!((&entry["address"], &entry["request_id"]), (&json!("127.0.0.1"), &json!(renamed.request_id())));
    assert_eq!((&entry["before"]["name"], &entry["after"]["name"]), (&json!("tests"), &json!("Acme")));
    assert_eq!((&entry["org"], &entry["object"]), (&json!(gateway.org), &json!(gateway.org)));
    let added = admin.read(&format!("{path}/trail?action=member.add&object={user}"));
    assert_eq!(
        (&added["data"][0]["actor_kind"], &added["data"][0]["after"]["role"]),
        (&json!("operator"), &json!("admin"))
    );
    let local = admin.read(&format!("{path}/trail?action=org.create"));
    assert_eq!((&local["data"][0]["actor_kind"], &local["data"][0]["actor"]), (&json!("local"), &Value::Null));
    for role in ["developer", "billing", "viewer"] {
        let (member, _) = gateway.member(role);
        assert_eq!(member.get(&format!("{path}/trail")).refusal().0, 403, "{role}");
        assert_eq!(member.get(&format!("{path}/trail/export")).refusal().0, 403, "{role}");
    }
}

#[test]
fn the_trail_of_all_is_the_operators() {
    let gateway = Gateway::start();
    let (owner, user) = gateway.member("owner");
    assert_eq!(owner.get("/api/trail").refusal().0, 403);
    assert_eq!(owner.get("/api/trail/export").refusal().0, 403);
    let of_user = gateway.operator().read(&format!("/api/trail?actor={user}"));
    let actions: Vec<_> = of_user["data"].as_array().expect("a list").iter().map(|entry| &entry["action"]).collect();
    assert_eq!(actions, ["session.create", "member.add", "org.create"]);
}

#[test]
fn the_trail_is_read_page_by_page_and_exported_as_a_whole() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    let path = format!("/api/orgs/{}", gateway.org);
    for number in 0..12 {
        operator.patch(&path, &json!({"name": format!("name-{number}")}));
    }
    let first = operator.read(&format!("{path}/trail?limit=10&action=org.change"));
    let cursor = first["next_cursor"].as_str().expect("a cursor");
    let rest = operator.read(&format!("{path}/trail?limit=10&action=org.change&cursor={cursor}"));
    assert_eq!((first["data"][0]["after"]["name"].as_str(), rest["next_cursor"].as_str()), (Some("name-11"), None));
    let whole = operator.get(&format!("{path}/trail/export?action=org.change"));
    assert_eq!(whole.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<Value> = whole.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let pages: Vec<&Value> =
        [&first, &rest].into_iter().flat_map(|page| page["data"].as_array().expect("a list")).collect();
    assert_eq!(lines.iter().collect::<Vec<_>>(), pages);
    for (query, count) in
        [("from=2020-01-01T00:00:00Z", 12), ("from=2100-01-01T00:00:00Z", 0), ("to=2020-01-01T00:00:00Z", 0)]
    {
        let part = operator.get(&format!("/api/trail/export?action=org.change&{query}"));
        assert_eq!(part.text().lines().count(), count, "{query}");
    }
    let long = "0".repeat(129);
    for query in [&*format!("object={long}"), "actor=a%00b", "from=yesterday", "to=1", "limit=1", "cursor=x"] {
        let refused = operator.get(&format!("{path}/trail?{query}"));
        assert_eq!(refused.refusal(), (422, "validation_failed".to_owned()), "{query}");
    }
}

#[test]
fn no_secret_is_in_the_trail() {
    let gateway = Gateway::start();
    let invitations = format!("/api/orgs/{}/invitations", gateway.org);
    gateway.user("ada@example.com");
    let body = json!({"email": "ada@example.com", "password": PASSWORD});
    let session = gateway.control_of("").make("/api/sessions", &body);
    let invited = gateway.operator().make(&invitations, &json!({"email": "bob@example.com", "role": "viewer"}));
    let whole = gateway.operator().get("/api/trail/export").text();
    for secret in
        [PASSWORD, session["token"].as_str().expect("a token"), invited["token"].as_str().expect("a token"), "argon2"]
    {
        assert!(!whole.contains(secret), "{secret}");
    }
    assert!(whole.contains("invitation.create") && whole.contains("user.create"));
}
