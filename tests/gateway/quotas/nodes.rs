//! A node as its operator sees it: it stops, it is forgotten, it comes back.

use super::{Links, code};
use crate::money::counting;
use crate::support::{Gateway, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

/// The only node, or the one that came last.
fn node(gateway: &Gateway) -> Value {
    let arguments = ["node", "list"];
    gateway.tollgate(&arguments)
}

fn id(node: &Value) -> &str {
    node["id"].as_str().expect("a name")
}

fn assert_audit_is_clean(gateway: &Gateway) {
    let audit = gateway.audit();
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
}

#[test]
fn a_node_that_stops_gives_everything_back() {
    let gateway = Gateway::start();
    let links = Links::new(&gateway);
    assert_eq!(links.call(&counting(10)).status, 200);
    let running = node(&gateway);
    assert_eq!(running["state"], "live");
    assert_ne!(running["outstanding"], json!(0));
    gateway.signal(Signal::TERM);
    gateway.wait();
    let stopped = node(&gateway);
    assert_eq!((&stopped["state"], &stopped["outstanding"]), (&json!("stopped"), &json!(0)));
    gateway.restart();
    assert_eq!(node(&gateway)["state"], "live");
    assert_eq!(links.call(&counting(10)).status, 200);
    assert_audit_is_clean(&gateway);
}

#[test]
fn a_dead_node_that_was_forgotten_ships_its_journal_and_goes_on_as_a_new_one() {
    let gateway = Gateway::start();
    let links = Links::new(&gateway);
    assert_eq!(links.call(&counting(10)).status, 200);
    gateway.kill();
    let dead = node(&gateway);
    let forgotten = gateway.tollgate(&["node", "forget", id(&dead), "--force"]);
    assert_eq!((&forgotten["state"], &forgotten["outstanding"]), (&json!("forgotten"), &json!(0)));
    assert_ne!(forgotten["unaccounted"], json!(0));
    assert_audit_is_clean(&gateway);
    gateway.restart();
    assert!(gateway.data().join(format!("journal-{}", id(&dead))).is_dir());
    assert_audit_is_clean(&gateway);
    // What it held stays spent: nobody can know that no call of it is missing.
    assert_eq!(code(&links.call(&counting(10))), "insufficient_credits");
    gateway.tollgate(&["org", "topup", &links.org, "5"]);
    eventually("the new node serves", || (links.call(&counting(10)).status == 200).then_some(()));
    assert_audit_is_clean(&gateway);
}

#[test]
fn a_running_node_that_was_forgotten_admits_nothing() {
    let gateway = Gateway::start();
    let links = Links::new(&gateway);
    assert_eq!(links.call(&counting(10)).status, 200);
    let running = node(&gateway);
    gateway.tollgate(&["node", "forget", id(&running), "--force"]);
    eventually("it has noticed", || (code(&links.call(&counting(10))) == "limits_unavailable").then_some(()));
    eventually("it says so", || gateway.log().contains("this node admits no calls any more").then_some(()));
    gateway.signal(Signal::TERM);
    gateway.wait();
    assert_audit_is_clean(&gateway);
    gateway.restart();
    gateway.tollgate(&["org", "topup", &links.org, "5"]);
    eventually("it serves as a new node", || (links.call(&counting(10)).status == 200).then_some(()));
    assert_audit_is_clean(&gateway);
}
