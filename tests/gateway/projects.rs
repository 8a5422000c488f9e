//! Projects, and limits that are set, changed and removed while the gateway runs.

use crate::money::{Account, cost_of, counting, nano, within_a_second};
use crate::support::{Gateway, Key};

/// A project of the gateway's own organisation.
fn project(gateway: &Gateway, arguments: &[&str]) -> String {
    let made = gateway.tollgate(&[&["project", "create", "web", "--org", &gateway.org], arguments].concat());
    made["id"].as_str().expect("an id").to_owned()
}

/// Waits until a call of a key is answered so: with 200, or with the code of a refusal.
fn answered(gateway: &Gateway, key: &Key, expected: &str) {
    within_a_second(expected, || {
        let answer = gateway.call_with(key, &counting(1));
        let code = if answer.status == 200 { "200".to_owned() } else { answer.refusal().1 };
        (code == expected).then_some(())
    });
}

#[test]
fn a_key_of_a_project_is_charged_and_the_project_knows() {
    let gateway = Gateway::start();
    let project = project(&gateway, &["--limit", "50", "--period", "month", "--zone", "Europe/Berlin"]);
    let keys = [(); 2].map(|()| gateway.create_key(&["--project", &project]));
    let price = cost_of(&gateway, &counting(3));
    for key in &keys {
        assert_eq!(gateway.call_with(key, &counting(3)).status, 200);
        assert_eq!(gateway.tollgate(&["key", "show", &key.id])["project"], *project);
    }
    within_a_second("the project has spent it", || {
        let shown = gateway.tollgate(&["project", "show", &project]);
        assert_eq!(shown["keys"], 2);
        (nano(&shown["spent"].to_string()) == 2 * price).then_some(())
    });
    let audit = gateway.audit();
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
}

#[test]
fn limits_of_a_key_are_set_changed_and_removed_while_it_is_in_use() {
    let gateway = Gateway::start();
    let key = gateway.create_key(&[]);
    answered(&gateway, &key, "200");
    let limit = |arguments: &[&str]| gateway.tollgate(&[&["key", "limit", &key.id], arguments].concat());
    limit(&["--limit", "0"]);
    answered(&gateway, &key, "spend_limit_reached");
    limit(&["--limit", "5"]);
    answered(&gateway, &key, "200");
    limit(&["--limit", "none", "--rpm", "1"]);
    answered(&gateway, &key, "rate_limit_exceeded");
    limit(&["--rpm", "none"]);
    answered(&gateway, &key, "200");
}

#[test]
fn a_change_of_one_key_or_organisation_leaves_the_others_alone() {
    let gateway = Gateway::start();
    let (key, other) = (gateway.create_key(&[]), Account::with(&gateway, 1_000_000_000).key(&[]));
    for key in [&key, &other] {
        answered(&gateway, key, "200");
    }
    gateway.tollgate(&["key", "limit", &key.id, "--limit", "0"]);
    answered(&gateway, &key, "spend_limit_reached");
    for untouched in [&other, &gateway.key] {
        assert_eq!(gateway.call_with(untouched, &counting(1)).status, 200);
    }
}

#[test]
fn limits_outlive_the_process() {
    let gateway = Gateway::start();
    let project = project(&gateway, &["--concurrency", "3", "--strict"]);
    let key = gateway.create_key(&["--project", &project, "--limit", "0"]);
    let before = (gateway.tollgate(&["project", "show", &project]), gateway.tollgate(&["key", "show", &key.id]));
    answered(&gateway, &key, "spend_limit_reached");
    gateway.kill();
    gateway.restart();
    answered(&gateway, &key, "spend_limit_reached");
    let after = (gateway.tollgate(&["project", "show", &project]), gateway.tollgate(&["key", "show", &key.id]));
    assert_eq!(before, after);
}
