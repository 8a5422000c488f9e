//! Members of an organisation and their roles.

use crate::support::Gateway;
use serde_json::json;

#[test]
fn members_are_listed_changed_and_removed() {
    let gateway = Gateway::start();
    let members = format!("/api/orgs/{}/members", gateway.org);
    let (owner, _) = gateway.member("owner");
    let (viewer, user) = gateway.member("viewer");
    let listed = viewer.read(&members);
    let roles: Vec<_> = listed["data"].as_array().expect("a list").iter().map(|member| &member["role"]).collect();
    assert_eq!(roles, ["owner", "viewer"]);
    let path = format!("{members}/{user}");
    assert_eq!(viewer.patch(&path, &json!({"role": "admin"})).refusal(), (403, "route_scope_denied".to_owned()));
    assert_eq!(owner.patch(&path, &json!({"role": "developer"})).json()["role"], "developer");
    let at_home = viewer.read("/api/me")["organisations"][0].clone();
    assert_eq!((&at_home["id"], &at_home["role"]), (&json!(gateway.org), &json!("developer")));
    assert_eq!(owner.patch(&path, &json!({"role": "king"})).refusal(), (422, "validation_failed".to_owned()));
    assert_eq!(owner.delete(&path).status, 204);
    // Who is no member any more knows no more than a stranger, with the session that they have.
    assert_eq!(viewer.get(&members).refusal(), (404, "not_found".to_owned()));
    assert_eq!(owner.delete(&path).refusal(), (404, "not_found".to_owned()));
}

#[test]
fn nobody_grants_more_than_they_have_and_the_last_owner_stays() {
    let gateway = Gateway::start();
    let members = format!("/api/orgs/{}/members", gateway.org);
    let (owner, owner_id) = gateway.member("owner");
    let (admin, admin_id) = gateway.member("admin");
    let (_, viewer_id) = gateway.member("viewer");
    let role = |role: &str| json!({"role": role});
    for (member, to) in [(&viewer_id, "owner"), (&admin_id, "owner"), (&owner_id, "viewer")] {
        let refused = admin.patch(&format!("{members}/{member}"), &role(to));
        assert_eq!(refused.refusal(), (422, "not_possible".to_owned()), "{to}");
    }
    assert_eq!(admin.delete(&format!("{members}/{owner_id}")).refusal(), (422, "not_possible".to_owned()));
    assert_eq!(admin.patch(&format!("{members}/{viewer_id}"), &role("admin")).status, 200);
    for caller in [&owner, &gateway.operator()] {
        assert_eq!(caller.patch(&format!("{members}/{owner_id}"), &role("admin")).refusal().0, 422);
        assert_eq!(caller.delete(&format!("{members}/{owner_id}")).refusal().0, 422);
    }
    assert_eq!(owner.patch(&format!("{members}/{admin_id}"), &role("owner")).status, 200);
    assert_eq!(admin.delete(&format!("{members}/{owner_id}")).status, 204);
    // Only operators make somebody a member without asking them.
    let new = json!({"user": owner_id, "role": "owner"});
    assert_eq!(admin.post(&members, &new).refusal().0, 403);
}

#[test]
fn another_organisations_members_are_not_to_be_seen() {
    let gateway = Gateway::start();
    let (_, member) = gateway.member("owner");
    let (stranger, _) = gateway.user("eve@example.com");
    for org in [gateway.org.as_str(), "org_00000000000000000000000000"] {
        let path = format!("/api/orgs/{org}/members");
        assert_eq!(stranger.get(&path).refusal(), (404, "not_found".to_owned()));
        assert_eq!(stranger.delete(&format!("{path}/{member}")).refusal(), (404, "not_found".to_owned()));
    }
}
