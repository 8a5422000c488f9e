//! Webhooks: what happens is told to URLs of organisations, signed, again and again until it is taken, and to nobody else.

use crate::support::{Call, Control, Exchange, Gateway, Received, Request, Scripted, Setup, eventually};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::collections::HashSet;
use std::sync::{Mutex, mpsc};

/// A closed network: receivers are on this machine, and what fails is sent again at once.
fn setup(back_off_ms: &str) -> Setup {
    setup_with(back_off_ms, 500)
}

fn setup_with(back_off_ms: &str, timeout_ms: u32) -> Setup {
    let outgoing = "[outgoing]\nallow_http = true\nallow_private_addresses = ['127.0.0.0/8']\nports = []\n\
                    resolve_timeout_ms = 100\n";
    let webhooks = format!(
        "[webhooks]\nback_off_ms = {back_off_ms}\nnotice_ms = 100\ncredit_low_usd = '1'\n\
                            in_flight_max = 16\nper_webhook_max = 2\n"
    );
    Setup::new().section(&format!("{outgoing}timeout_ms = {timeout_ms}\n")).section(&webhooks)
}

/// A gateway with a webhook before a receiver.
struct Scene {
    gateway: Gateway,
    receiver: Scripted,
    control: Control,
    /// `/api/orgs/ORG/webhooks`.
    path: String,
    id: String,
    secret: String,
}

impl Scene {
    fn start(setup: Setup, events: &[&str], script: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        let (gateway, receiver) = (setup.start(), Scripted::start(script));
        let control = gateway.operator();
        let path = format!("/api/orgs/{}/webhooks", gateway.org);
        let url = format!("http://{}/hook?token=abc", receiver.address);
        let made = control.make(&path, &json!({ "url": url, "events": events }));
        let (id, secret) = (text(&made["id"]), text(&made["secret"]));
        Self { gateway, receiver, control, path, id, secret }
    }

    fn test(&self) -> String {
        self.test_of(&self.id)
    }

    /// Begins a test, which is done once a second at most.
    fn test_of(&self, webhook: &str) -> String {
        eventually("a test is begun", || {
            let begun = self.control.post(&format!("{}/{webhook}/test", self.path), &json!({}));
            let is_too_soon = begun.status == 422 && begun.text().contains("wait a second");
            assert!(begun.status == 202 || is_too_soon, "{}", begun.text());
            (!is_too_soon).then(|| text(&begun.json()["delivery"]))
        })
    }

    /// The webhook's deliveries, the latest first.
    fn deliveries(&self) -> Vec<Value> {
        let listed = self.control.read(&format!("{}/{}/deliveries", self.path, self.id));
        listed["data"].as_array().expect("a list").clone()
    }

    fn await_status(&self, delivery: &str, status: &str) -> Value {
        eventually(&format!("{delivery} is {status}"), || {
            self.deliveries().into_iter().find(|row| row["id"] == delivery && row["status"] == status)
        })
    }

    /// Waits for so many messages.
    fn messages(&self, count: usize) -> Vec<Received> {
        eventually(&format!("{count} messages"), || Some(self.receiver.requests()).filter(|got| got.len() >= count))
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn header(message: &Received, name: &str) -> String {
    message.header(name).unwrap_or_else(|| panic!("no {name} in {}", message.head)).to_owned()
}

fn take(exchange: &mut Exchange) {
    exchange.answer(204, "");
}

/// Computed as the specification of Standard Webhooks says, from what was received and the text of the secret.
fn signature(message: &Received, secret: &str) -> String {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").expect("its prefix")).expect("base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length");
    mac.update(format!("{}.{}.", header(message, "webhook-id"), header(message, "webhook-timestamp")).as_bytes());
    mac.update(&message.body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[test]
fn a_message_is_signed_and_says_what_happened() {
    let scene = Scene::start(setup("[]"), &[], take);
    let delivery = scene.test();
    let message = scene.messages(1).remove(0);
    assert!(message.head.starts_with("POST /hook?token=abc HTTP/1.1\r\n"), "{}", message.head);
    assert_eq!(header(&message, "content-type"), "application/json");
    assert_eq!(header(&message, "webhook-signature"), signature(&message, &scene.secret));
    let body: Value = serde_json::from_slice(&message.body).expect("JSON");
    assert_eq!((&body["type"], &body["org"]), (&json!("webhook.test"), &json!(scene.gateway.org)));
    assert_eq!(body["data"], json!({ "webhook": scene.id }));
    let row = scene.await_status(&delivery, "delivered");
    assert_eq!((&row["attempts"], &row["last_try"]["status"]), (&json!(1), &json!(204)));
    assert_eq!(text(&row["event"]), header(&message, "webhook-id"));
    let events = scene.control.read(&format!("/api/orgs/{}/events?type=webhook.test", scene.gateway.org));
    assert_eq!((&events["data"][0]["id"], &events["data"][0]["data"]), (&row["event"], &body["data"]));
    // The secret was shown once.
    let shown = scene.control.get(&format!("{}/{}", scene.path, scene.id));
    assert!(!shown.text().contains(&scene.secret) && !scene.gateway.log().contains(&scene.secret));
}

#[test]
fn what_fails_is_sent_again_under_the_same_name_and_given_up_in_the_end() {
    let scene = Scene::start(setup("[20, 20, 20]"), &[], |exchange| {
        // The third is taken; of the second message none is.
        exchange.answer(if exchange.number == 2 { 200 } else { 500 }, "{}");
    });
    let first = scene.test();
    let row = scene.await_status(&first, "delivered");
    assert_eq!(row["attempts"], 3);
    let second = scene.test();
    let row = scene.await_status(&second, "failed");
    assert_eq!((&row["attempts"], &row["last_try"]["status"]), (&json!(4), &json!(500)));
    let messages = scene.messages(7);
    let names: Vec<String> = messages.iter().map(|message| header(message, "webhook-id")).collect();
    assert!(names[..3].iter().all(|name| *name == names[0]) && names[3..].iter().all(|name| *name == names[3]));
    assert!(messages[..3].iter().all(|message| message.body == messages[0].body));
    assert!(messages.iter().all(|message| header(message, "webhook-signature") == signature(message, &scene.secret)));
    let count = |result: &str| scene.gateway.metric("tollgate_webhook_tries_total", &[&format!("result=\"{result}\"")]);
    assert_eq!((count("delivered"), count("failed"), count("given_up")), (1.0, 6.0, 1.0));
}

#[test]
fn a_message_can_be_sent_again_by_hand() {
    let scene = Scene::start(setup("[]"), &[], |exchange| {
        exchange.answer(if exchange.number == 0 { 503 } else { 200 }, "{}");
    });
    let delivery = scene.test();
    scene.await_status(&delivery, "failed");
    let path = format!("{}/{}/deliveries/{delivery}/redeliver", scene.path, scene.id);
    assert_eq!(scene.control.post(&path, &json!({})).status, 202);
    scene.await_status(&delivery, "delivered");
    let messages = scene.messages(2);
    assert_eq!(header(&messages[0], "webhook-id"), header(&messages[1], "webhook-id"));
    let unknown = path.replace(&delivery, "dlv_00000000000000000000000000");
    assert_eq!(scene.control.post(&unknown, &json!({})).refusal(), (404, "not_found".to_owned()));
}

#[test]
fn old_and_new_secrets_sign_side_by_side_for_a_while() {
    let scene = Scene::start(setup("[]"), &[], take);
    let path = format!("{}/{}/rotate-secret", scene.path, scene.id);
    let second = text(&scene.control.make(&path, &json!({ "overlap_seconds": 600 }))["secret"]);
    scene.test();
    let message = scene.messages(1).remove(0);
    let both = format!("{} {}", signature(&message, &second), signature(&message, &scene.secret));
    assert_eq!(header(&message, "webhook-signature"), both);
    let third = text(&scene.control.make(&path, &json!({ "overlap_seconds": 0 }))["secret"]);
    scene.test();
    let message = scene.messages(2).remove(1);
    assert_eq!(header(&message, "webhook-signature"), signature(&message, &third));
    let refused = scene.control.post(&path, &json!({ "overlap_seconds": 604_801 })).refusal();
    assert_eq!(refused, (422, "validation_failed".to_owned()));
}

#[test]
fn what_a_killed_process_had_not_sent_or_not_finished_is_sent_by_the_next() {
    // The first message is never answered.
    let scene = Scene::start(setup("[20]"), &[], |exchange| match exchange.number {
        0 => exchange.await_close(),
        _ => exchange.answer(200, "{}"),
    });
    scene.test();
    scene.messages(1);
    scene.gateway.kill();
    // Written down while no gateway runs.
    scene.gateway.tollgate(&["webhook", "test", &scene.id, "--org", &scene.gateway.org]);
    scene.gateway.restart();
    let messages = eventually("both have arrived", || {
        let names: HashSet<String> =
            scene.receiver.requests()[1..].iter().map(|got| header(got, "webhook-id")).collect();
        Some(scene.receiver.requests()).filter(|_| names.len() == 2)
    });
    let first = header(&messages[0], "webhook-id");
    assert!(messages[1..].iter().any(|message| header(message, "webhook-id") == first), "it was begun before the kill");
    eventually("nothing waits", || {
        scene.deliveries().iter().all(|delivery| delivery["status"] == "delivered").then_some(())
    });
}

#[test]
fn a_receiver_that_is_gone_is_asked_no_more() {
    let scene = Scene::start(setup("[20, 20]"), &[], |exchange| exchange.answer(410, "{}"));
    let delivery = scene.test();
    scene.await_status(&delivery, "failed");
    let path = format!("{}/{}", scene.path, scene.id);
    let shown = scene.control.read(&path);
    assert_eq!(
        (&shown["enabled"], &shown["disabled_reason"]),
        (&json!(false), &json!("the receiver answered 410 Gone"))
    );
    let refused = scene.control.post(&format!("{path}/test"), &json!({})).refusal();
    assert_eq!(refused, (422, "not_possible".to_owned()));
    let enabled = scene.control.patch(&path, &json!({ "enabled": true }));
    assert_eq!((enabled.status, &enabled.json()["enabled"]), (200, &json!(true)));
    assert_eq!(scene.receiver.requests().len(), 1);
}

#[test]
fn a_redirect_is_not_followed_and_a_slow_receiver_holds_nobody_up() {
    let elsewhere = Scripted::answering(200, "{}");
    let location = elsewhere.url();
    let scene = Scene::start(setup_with("[]", 15_000), &[], move |exchange| {
        let location = &location;
        exchange.send(format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"));
    });
    let (release, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let slow = Scripted::start(move |exchange| {
        // It takes one at a time, and none before the test lets it.
        let _ = gate.lock().expect("nobody panics with it").recv();
        exchange.answer(200, "{}");
    });
    let url = format!("http://{}/", slow.address);
    let slow_id = text(&scene.control.make(&scene.path, &json!({ "url": url }))["id"]);
    for _ in 0..4 {
        scene.test_of(&slow_id);
    }
    eventually("the slow one is busy", || (slow.requests().len() == 2).then_some(()));
    let delivery = scene.test();
    let row = scene.await_status(&delivery, "failed");
    assert_eq!(row["last_try"]["status"], 307);
    assert!(elsewhere.requests().is_empty());
    assert_eq!(slow.requests().len(), 2);
    drop(release);
    eventually("the slow one has taken all", || {
        let listed = scene.control.read(&format!("{}/{slow_id}/deliveries", scene.path));
        let rows = listed["data"].as_array().expect("a list").clone();
        (rows.len() == 4 && rows.iter().all(|row| row["status"] == "delivered")).then_some(())
    });
}

#[test]
fn spent_limits_and_low_credit_are_told_and_other_events_are_not() {
    let scene = Scene::start(setup("[]"), &["limit.threshold", "credit.low"], take);
    let key = scene.gateway.create_key(&["--limit", "0.001"]);
    for _ in 0..3 {
        let call = Call::chat("count up").with("max_tokens", 21);
        assert_eq!(scene.gateway.call_with(&key, &call).status, 200);
    }
    let notices = format!("/api/orgs/{}/notices", scene.gateway.org);
    assert_eq!(scene.control.read(&notices), json!({ "credit_low_usd": null }));
    let body = json!({ "credit_low_usd": "1000.00" });
    let set = scene.control.send(Request { method: "PUT", ..Request::post(&notices, body.to_string()) });
    assert_eq!((set.status, set.json()), (200, json!({ "credit_low_usd": "1000" })));
    scene.test();
    let bodies = eventually("both kinds are told", || {
        let read = |message: &Received| serde_json::from_slice::<Value>(&message.body).expect("JSON");
        let bodies: Vec<Value> = scene.receiver.requests().iter().map(read).collect();
        let is_told = |kind: &str| bodies.iter().any(|body| body["type"] == kind);
        (is_told("limit.threshold") && is_told("credit.low")).then_some(bodies)
    });
    let of_kind = |kind: &str| bodies.iter().find(|body| body["type"] == kind).expect("told")["data"].clone();
    let threshold = of_kind("limit.threshold");
    assert_eq!((&threshold["owner"], &threshold["limit_usd"]), (&json!(key.id), &json!("0.001")));
    assert_eq!(of_kind("credit.low")["below_usd"], "1000");
    // A test goes to the webhook that is tested, whatever it hears of.
    let kinds: HashSet<String> = bodies.iter().map(|body| text(&body["type"])).collect();
    assert!(kinds.iter().all(|kind| ["limit.threshold", "credit.low", "webhook.test"].contains(&kind.as_str())));
}

#[test]
fn urls_that_lead_inside_are_refused_with_the_field() {
    let gateway = Gateway::start();
    let (control, path) = (gateway.operator(), format!("/api/orgs/{}/webhooks", gateway.org));
    for url in [
        "http://hooks.example.com/",
        "https://127.0.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::ffff:10.0.0.1]/",
        "https://0x7f000001/",
        "https://localhost/",
        "https://user:password@hooks.example.com/",
        "not a url",
    ] {
        let refused = control.post(&path, &json!({ "url": url }));
        assert_eq!(refused.refusal(), (422, "validation_failed".to_owned()), "{url}");
        assert_eq!(refused.json()["error"]["param"], "url", "{url}");
    }
    let refused = control.post(&path, &json!({ "url": "https://93.184.215.14/", "events": ["key.lost"] }));
    assert_eq!(refused.json()["error"]["param"], "events");
    assert_eq!(control.read(&path)["data"], json!([]));
    let events = control.get(&format!("/api/orgs/{}/events?type=key.lost", gateway.org));
    assert_eq!(events.refusal(), (422, "validation_failed".to_owned()));
}

#[test]
fn a_webhook_is_changed_listed_and_deleted() {
    let scene = Scene::start(setup("[]"), &["key.expiring"], take);
    let path = format!("{}/{}", scene.path, scene.id);
    let changed = scene.control.patch(&path, &json!({ "description": "pager", "events": [] })).json();
    assert_eq!((&changed["description"], &changed["events"]), (&json!("pager"), &json!([])));
    assert_eq!(scene.control.read(&scene.path)["data"], json!([changed]));
    let inside = scene.control.patch(&path, &json!({ "url": "http://10.0.0.1/" }));
    assert_eq!(inside.refusal(), (422, "validation_failed".to_owned()));
    assert_eq!(scene.control.patch(&path, &json!({ "secret": "mine" })).status, 422);
    assert_eq!(scene.control.delete(&path).status, 204);
    assert_eq!(scene.control.get(&path).refusal(), (404, "not_found".to_owned()));
}
