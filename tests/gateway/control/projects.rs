//! Projects of an organisation.

use crate::support::Gateway;
use serde_json::json;

#[test]
fn projects_are_made_listed_shown_and_changed() {
    let gateway = Gateway::start();
    let projects = format!("/api/orgs/{}/projects", gateway.org);
    let (admin, _) = gateway.member("admin");
    let limits = json!([{"kind": "spend", "amount_usd": "5", "period": "day"}]);
    let made = admin.make(&projects, &json!({"name": "web", "limits": limits}));
    assert_eq!((&made["name"], &made["org"], &made["keys"]), (&json!("web"), &json!(gateway.org), &json!(0)));
    let path = format!("{projects}/{}", made["id"].as_str().expect("an id"));
    assert_eq!(admin.read(&path), made);
    assert_eq!(admin.read(&projects)["data"], json!([made]));
    let patch = json!({"name": "site", "limits": [{"kind": "spend", "amount_usd": "7", "period": "day"}]});
    let changed = admin.patch(&path, &patch).json();
    assert_eq!((&changed["name"], &changed["limits"][0]["amount_usd"]), (&json!("site"), &json!("7")));
    for role in ["developer", "billing", "viewer"] {
        let (member, _) = gateway.member(role);
        assert_eq!(member.read(&path)["name"], "site", "{role}");
        assert_eq!(member.patch(&path, &json!({"name": "mine"})).refusal().0, 403, "{role}");
        assert_eq!(member.post(&projects, &json!({"name": "mine"})).refusal().0, 403, "{role}");
    }
    assert_eq!(admin.patch(&path, &json!({"org": gateway.org})).refusal(), (422, "validation_failed".to_owned()));
    assert_eq!(admin.post(&projects, &json!({"name": ""})).refusal().0, 422);
}

#[test]
fn another_organisations_project_is_as_good_as_none() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    let other = operator.make("/api/orgs", &json!({"name": "Acme"}))["id"].as_str().expect("an id").to_owned();
    let theirs = operator.make(&format!("/api/orgs/{other}/projects"), &json!({"name": "theirs"}));
    let theirs = theirs["id"].as_str().expect("an id");
    let (owner, _) = gateway.member("owner");
    let answers = [
        format!("/api/orgs/{}/projects/{theirs}", gateway.org),
        format!("/api/orgs/{}/projects/proj_00000000000000000000000000", gateway.org),
    ]
    .map(|path| {
        let (shown, changed) = (owner.get(&path), owner.patch(&path, &json!({"name": "mine"})));
        (shown.status, shown.json()["error"]["message"].clone(), changed.status)
    });
    assert_eq!(answers[0], answers[1]);
    assert_eq!((answers[0].0, answers[0].2), (404, 404));
    let path = format!("/api/orgs/{other}/projects/{theirs}");
    assert_eq!((owner.get(&path).status, operator.read(&path)["name"].as_str()), (404, Some("theirs")));
}
