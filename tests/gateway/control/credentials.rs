//! Credentials that organisations bring themselves (searchrouter-authentication: "Bringing your own provider keys").

use crate::keys::canaries::{assert_nowhere, files_below};
use crate::money::counting;
use crate::support::{Answer, Call, Control, Gateway, Request, Scripted, Setup, Upstream, eventually, run};
use serde_json::{Value, json};
use std::fs;

const OURS: &str = "sk-upstream-of-the-operator";
const OWN: &str = "sk-own-of-the-organisation-0001";
const OTHER: &str = "sk-own-of-the-organisation-0002";
/// 10 input tokens at 1 000 nano-USD and 3 output tokens at 10 000.
const ANSWER: &str = r#"{"id":"resp_1","object":"response","status":"completed","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":3,"input_tokens":10,"output_tokens":3}}"#;
const LIST_PRICE: i64 = 40_000;

/// A provider that takes all credentials but those of a word.
fn provider_refusing(word: &'static str) -> Scripted {
    Scripted::start(move |exchange| {
        let credential = exchange.request.header("authorization").unwrap_or_default().to_owned();
        let is_refused = !word.is_empty() && credential.contains(word);
        exchange.answer(if is_refused { 401 } else { 200 }, if is_refused { r#"{"error":{}}"# } else { ANSWER });
    })
}

fn before(provider: &Scripted) -> Setup {
    let upstream = Upstream::openai("scripted", provider.url()).credentials(&[OURS]);
    Setup::new().upstream(upstream.setting("headers = { x-of-the-operator = 'secret of the operator' }"))
}

/// The organisation's credentials, as an operator asks for them.
struct Credentials {
    control: Control,
    path: String,
}

impl Credentials {
    fn of(gateway: &Gateway) -> Self {
        Self { control: gateway.operator(), path: format!("/api/orgs/{}/credentials", gateway.org) }
    }

    fn create(&self, body: Value) -> Value {
        self.control.make(&self.path, &body)
    }

    fn at(&self, made: &Value) -> String {
        format!("{}/{}", self.path, made["id"].as_str().expect("an id"))
    }
}

fn bearer(secret: &str) -> String {
    format!("Bearer {secret}")
}

/// The credential of the latest request that a provider has got.
fn latest(provider: &Scripted) -> String {
    provider.requests().last().and_then(|request| request.header("authorization")).unwrap_or_default().to_owned()
}

/// Calls until the provider is asked with this credential: changes are seen within a second. Gives the last answer back.
fn call_until(gateway: &Gateway, provider: &Scripted, secret: &str) -> Answer {
    eventually("calls are made with the credential", || {
        let answer = gateway.call(&counting(1));
        (latest(provider) == bearer(secret)).then_some(answer)
    })
}

#[test]
fn calls_go_out_with_the_organisations_own_credential_and_cost_nothing() {
    let provider = provider_refusing("");
    let gateway = before(&provider).start();
    assert_eq!(gateway.call(&counting(1)).status, 200);
    assert_eq!(latest(&provider), bearer(OURS));
    let credentials = Credentials::of(&gateway);
    let made = credentials.create(json!({"provider": "scripted", "secret": OWN}));
    assert_eq!(
        (&made["fingerprint"], &made["version"], &made["fallback"]),
        (&json!("…0001"), &json!(1), &json!(false))
    );
    let answer = call_until(&gateway, &provider, OWN);
    assert_eq!((answer.status, answer.header("x-tollgate-cost-usd")), (200, Some("0")));
    let row = gateway.row(answer.request_id());
    // It is metered as always.
    assert_eq!((row.charge_nano, row.input_tokens, row.output_tokens), (0, 10, 3));
    let shown = eventually("its use is noted", || {
        Some(credentials.control.read(&credentials.at(&made))).filter(|shown| shown["last_used_at"].is_string())
    });
    assert_eq!(shown["benched"], Value::Null);
    let other = gateway.tollgate(&["org", "create", "other"])["id"].as_str().expect("an id").to_owned();
    gateway.tollgate(&["org", "topup", &other, "1"]);
    let key = gateway.tollgate(&["key", "create", "--org", &other, "--name", "other"]);
    let request = counting(1).request(key["token"].as_str().expect("a token"));
    assert_eq!((gateway.exchange(&request).status, latest(&provider)), (200, bearer(OURS)));
    let audit = gateway.audit();
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
    let config = gateway.config();
    let repriced = run(&["reprice", "--dry-run", "--json", "--config", config.to_str().expect("a plain name")]);
    let last = String::from_utf8_lossy(&repriced.stdout).lines().last().unwrap_or_default().to_owned();
    assert!(last.contains("\"changed\":0,"), "{last}");
}

#[test]
fn the_configured_fee_is_charged_rounded_up_once() {
    let provider = provider_refusing("");
    let gateway = before(&provider).control("byok_fee_percent = '2.5'").start();
    Credentials::of(&gateway).create(json!({"provider": "scripted", "secret": OWN, "fallback": true}));
    let answer = call_until(&gateway, &provider, OWN);
    let row = gateway.row(answer.request_id());
    assert_eq!(row.charge_nano, LIST_PRICE / 40);
    // With ours to fall back on, all that a call with it could cost is set aside.
    assert!(row.reserved_nano >= LIST_PRICE, "{row:?}");
    let audit = gateway.audit();
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
}

#[test]
fn a_refused_credential_is_benched_and_ours_follows_only_where_it_may() {
    let provider = provider_refusing("sk-own");
    let gateway = before(&provider).start();
    let credentials = Credentials::of(&gateway);
    let made = credentials.create(json!({"provider": "scripted", "secret": OWN}));
    let answer = call_until(&gateway, &provider, OWN);
    assert_eq!(answer.refusal(), (502, "upstream_failed".to_owned()));
    assert!(answer.text().contains("own credential"), "{}", answer.text());
    assert_eq!(gateway.row(answer.request_id()).charge_nano, 0);
    let benched = eventually("it is noted", || {
        Some(credentials.control.read(&credentials.at(&made))["benched"].clone()).filter(|benched| !benched.is_null())
    });
    assert_eq!(benched["status"], 401);
    // While it rests nobody else is asked in its place.
    let before = provider.requests().len();
    assert_eq!(gateway.call(&counting(1)).status, 502);
    assert!(provider.requests()[before..].iter().all(|request| request.header("authorization") != Some(&bearer(OURS))));
    let changed = credentials.control.patch(&credentials.at(&made), &json!({"fallback": true}));
    assert_eq!(changed.json()["fallback"], true);
    let answer = call_until(&gateway, &provider, OURS);
    assert_eq!((answer.status, gateway.row(answer.request_id()).charge_nano), (200, LIST_PRICE));
    let tried = credentials.control.make(&format!("{}/test", credentials.at(&made)), &json!({}));
    assert_eq!((&tried["ok"], &tried["status"]), (&json!(false), &json!(401)));
}

#[test]
fn an_own_address_gets_the_own_credential_and_nothing_of_the_operators() {
    let (provider, own) = (provider_refusing(""), provider_refusing(""));
    let guard = "[outgoing]\nallow_http = true\nallow_private_addresses = ['127.0.0.0/8']\nports = []\n";
    let gateway = before(&provider).section(guard).start();
    let credentials = Credentials::of(&gateway);
    let url = format!("http://{}/theirs?api-version=7", own.address);
    let made = credentials.create(json!({"provider": "scripted", "secret": OWN, "base_url": url, "fallback": true}));
    assert_eq!(call_until(&gateway, &own, OWN).status, 200);
    let tried = credentials.control.make(&format!("{}/test", credentials.at(&made)), &json!({}));
    assert_eq!((&tried["ok"], &tried["status"]), (&json!(true), &json!(200)));
    let got = own.requests();
    assert!(got[0].head.starts_with("POST /theirs/chat/completions?api-version=7 "), "{}", got[0].head);
    assert!(got.last().expect("the test").head.starts_with("GET /theirs/models?api-version=7 "));
    for request in &got {
        assert!(!request.head.contains(OURS) && !request.head.contains("of-the-operator"), "{}", request.head);
        assert_eq!(request.header("authorization"), Some(&*bearer(OWN)));
    }
    assert!(provider.requests().iter().all(|request| !request.head.contains(OWN)));
    // An address never changes without a secret, so that who may change it learns none.
    let moved = credentials.control.patch(&credentials.at(&made), &json!({"base_url": provider.url()}));
    assert_eq!(moved.refusal(), (422, "validation_failed".to_owned()));
}

#[test]
fn addresses_that_are_not_public_are_refused() {
    let provider = provider_refusing("");
    let gateway = before(&provider).start();
    let credentials = Credentials::of(&gateway);
    for url in ["http://models.example.com", "https://127.0.0.1/v1", "https://[::1]/v1", "https://a@b.example", "x"] {
        let body = json!({"provider": "scripted", "secret": OWN, "base_url": url});
        let refused = credentials.control.post(&credentials.path, &body);
        assert_eq!((refused.status, &refused.json()["error"]["param"]), (422, &json!("base_url")), "{url}");
    }
}

#[test]
fn secrets_go_in_and_are_never_shown() {
    let provider = provider_refusing("");
    let gateway = before(&provider).start();
    let credentials = Credentials::of(&gateway);
    let made = credentials.create(json!({"provider": "scripted", "secret": OWN, "name": "ours", "models": ["gpt-*"]}));
    let at = credentials.at(&made);
    call_until(&gateway, &provider, OWN);
    let rotated = credentials.control.make(&format!("{at}/rotate"), &json!({"secret": OTHER}));
    assert_eq!((&rotated["id"], &rotated["version"]), (&made["id"], &json!(2)));
    assert_eq!((&rotated["fingerprint"], rotated["rotated_at"].is_string()), (&json!("…0002"), true));
    call_until(&gateway, &provider, OTHER);
    let changed = credentials.control.patch(&at, &json!({"name": "theirs", "weight": 3, "enabled": false})).json();
    assert_eq!(
        (&changed["name"], &changed["weight"], &changed["enabled"]),
        (&json!("theirs"), &json!(3), &json!(false))
    );
    call_until(&gateway, &provider, OURS);
    let listed = credentials.control.read(&credentials.path);
    assert_eq!((&listed["data"][0]["name"], &listed["next_cursor"]), (&json!("theirs"), &Value::Null));
    let trail = gateway.rows("SELECT COALESCE(before_json, '') || COALESCE(after_json, '') AS said FROM trail");
    let trail: Vec<String> = trail.iter().map(|row| sqlx::Row::get(row, "said")).collect();
    assert!(trail.iter().filter(|said| said.contains("fingerprint")).count() >= 3, "{trail:?}");
    for said in [made, rotated, changed, listed].map(|value| value.to_string()).iter().chain(&trail) {
        assert!(!said.contains("of-the-organisation") && !said.contains("sealed"), "{said}");
    }
    assert_eq!(credentials.control.delete(&at).status, 204);
    assert_eq!(credentials.control.get(&at).refusal(), (404, "not_found".to_owned()));
    assert_eq!(credentials.control.delete(&at).status, 404);
}

#[test]
fn what_cannot_be_a_credential_is_refused_by_its_field() {
    let provider = provider_refusing("");
    let gateway = before(&provider).start();
    let credentials = Credentials::of(&gateway);
    for (body, param) in [
        (json!({"provider": "nobody", "secret": OWN}), "provider"),
        (json!({"provider": "scripted", "secret": "a\r\nb: c"}), "secret"),
        (json!({"provider": "scripted", "secret": OWN, "models": ["a b"]}), "models"),
        (json!({"provider": "scripted", "secret": OWN, "weight": 0}), "weight"),
        (json!({"provider": "scripted", "secret": OWN, "priority": 1_001}), "priority"),
        (json!({"provider": "scripted", "secret": OWN, "name": ""}), "name"),
    ] {
        let refused = credentials.control.post(&credentials.path, &body);
        assert_eq!((refused.status, &refused.json()["error"]["param"]), (422, &json!(param)), "{body}");
        assert!(!refused.text().contains("of-the-organisation"));
    }
    for field in ["org", "version", "place", "status", "last_used_at", "id"] {
        let body = json!({"provider": "scripted", "secret": OWN, field: 1});
        assert_eq!(credentials.control.post(&credentials.path, &body).refusal().0, 422, "{field}");
    }
    assert_eq!(credentials.control.post(&credentials.path, &json!({"provider": "scripted"})).status, 422);
    // A model key may not, whosever organisation it is.
    let model_key = gateway.control_of(&gateway.key.token);
    let body = json!({"provider": "scripted", "secret": OWN});
    assert_eq!(model_key.post(&credentials.path, &body).refusal().0, 403);
    assert!(credentials.control.read(&credentials.path)["data"].as_array().expect("a list").is_empty());
}

#[test]
fn a_providers_other_paths_are_open_to_those_with_a_credential_there() {
    let provider = provider_refusing("");
    let gateway = before(&provider).start();
    let ask = |path: &str| gateway.exchange(&Request::post(path, "{}").bearer(&gateway.key.token));
    assert_eq!(ask("/scripted/v1/anything/else").refusal(), (404, "not_found".to_owned()));
    assert_eq!(ask("/scripted/v1/batches").refusal(), (422, "route_unmetered".to_owned()));
    assert!(provider.requests().is_empty());
    Credentials::of(&gateway).create(json!({"provider": "scripted", "secret": OWN}));
    call_until(&gateway, &provider, OWN);
    for (path, asked) in
        [("/scripted/v1/anything/else?a=b", "/v1/anything/else?a=b"), ("/scripted/v1/batches", "/v1/batches")]
    {
        let answer = ask(path);
        assert_eq!((answer.status, answer.text()), (200, ANSWER.to_owned()), "{path}");
        let request = provider.requests().pop().expect("it was asked");
        assert!(request.head.starts_with(&format!("POST {asked} ")), "{}", request.head);
        assert_eq!(request.header("authorization"), Some(&*bearer(OWN)));
    }
    assert_eq!(ask("/v1/batches").refusal(), (422, "route_unmetered".to_owned()));
    let anonymous = gateway.exchange(&Request::post("/scripted/v1/anything", "{}"));
    assert_eq!(anonymous.refusal(), (401, "missing_credentials".to_owned()));
}

#[test]
fn what_an_own_credential_has_made_is_asked_for_with_it_alone() {
    let provider = provider_refusing("");
    let gateway = before(&provider).start();
    let credentials = Credentials::of(&gateway);
    let made = credentials.create(json!({"provider": "scripted", "secret": OWN, "fallback": true}));
    call_until(&gateway, &provider, OWN);
    let responses =
        |body: Value| gateway.exchange(&Request::post("/v1/responses", body.to_string()).bearer(&gateway.key.token));
    assert_eq!(responses(json!({"model": "gpt-4o-mini", "input": "hi"})).status, 200);
    let second = credentials.create(json!({"provider": "scripted", "secret": OTHER, "priority": 0}));
    assert_eq!(second["version"], 1);
    let next = || responses(json!({"model": "gpt-4o-mini", "input": "go on", "previous_response_id": "resp_1"}));
    for _ in 0..4 {
        assert_eq!((next().status, latest(&provider)), (200, bearer(OWN)));
    }
    let get = || gateway.exchange(&Request::get("/v1/responses/resp_1").bearer(&gateway.key.token));
    assert_eq!((get().status, latest(&provider)), (200, bearer(OWN)));
    assert_eq!(credentials.control.delete(&credentials.at(&made)).status, 204);
    eventually("nobody else is asked for it", || (next().status == 404).then_some(()));
    assert_eq!(get().status, 404);
}

#[test]
fn master_keys_are_replaced_while_calls_go_on() {
    let provider = provider_refusing("");
    let gateway = before(&provider).control("master_keys = { file = 'data/master-keys' }").start();
    Credentials::of(&gateway).create(json!({"provider": "scripted", "secret": OWN}));
    call_until(&gateway, &provider, OWN);
    let keys = gateway.data().join("master-keys");
    let old = fs::read_to_string(&keys).expect("they were made");
    let replace = |text: &str, awaited: &str| {
        fs::write(&keys, text).expect("written");
        gateway.signal(rustix::process::Signal::HUP);
        eventually(awaited, || gateway.log().contains(awaited).then_some(()));
    };
    replace(&"22".repeat(32), "is not in the list");
    replace(&format!("{}\n{old}\n", "22".repeat(32)), "sealed under the newest master key");
    replace(&"22".repeat(32), "the new configuration is in force");
    gateway.signal(rustix::process::Signal::TERM);
    assert!(gateway.wait().success());
    gateway.restart();
    assert_eq!(call_until(&gateway, &provider, OWN).status, 200);
}

#[test]
fn the_command_line_keeps_credentials_too() {
    let provider = provider_refusing("");
    let gateway = before(&provider).start();
    let file = gateway.data().join("secret");
    fs::write(&file, format!("{OWN}\n")).expect("written");
    let file = file.to_str().expect("a plain name");
    let org = gateway.org.clone();
    let of_org = |arguments: &[&str]| gateway.tollgate(&[&["credential"], arguments, &["--org", &org]].concat());
    let made = of_org(&["create", "--provider", "scripted", "--secret-file", file, "--fallback"]);
    assert!(!made.to_string().contains(OWN) && made["fallback"] == true, "{made}");
    call_until(&gateway, &provider, OWN);
    let id = made["id"].as_str().expect("an id");
    assert_eq!(of_org(&["disable", id])["enabled"], false);
    call_until(&gateway, &provider, OURS);
    fs::write(file, OTHER).expect("written");
    assert_eq!(of_org(&["rotate", id, "--secret-file", file])["version"], 2);
    assert_eq!(of_org(&["enable", id])["enabled"], true);
    call_until(&gateway, &provider, OTHER);
    assert_eq!(gateway.tollgate(&["credential", "rewrap"])["rewrapped"], 0);
    assert_eq!(of_org(&["delete", id])["id"], made["id"]);
    call_until(&gateway, &provider, OURS);
}

#[test]
fn an_own_secret_is_never_written_down_and_never_said() {
    for level in ["info", "trace"] {
        let provider = provider_refusing("0002");
        let log = format!("[log]\nlevel = '{level}'\nformat = 'json'\n");
        let gateway = before(&provider).section(&log).start();
        let credentials = Credentials::of(&gateway);
        let mut said = Vec::new();
        let made = credentials.create(json!({"provider": "scripted", "secret": OWN}));
        said.extend(format!("{:?}", call_until(&gateway, &provider, OWN)).into_bytes());
        let at = credentials.at(&made);
        for (path, body) in [
            ("rotate", json!({"secret": OTHER})),
            ("rotate", json!({"secret": OTHER, "x": OTHER})),
            ("rotate", json!({"secret": [OTHER]})),
            ("test", json!({})),
        ] {
            said.extend(credentials.control.post(&format!("{at}/{path}"), &body).body);
        }
        said.extend(format!("{:?}", call_until(&gateway, &provider, OTHER)).into_bytes());
        let malformed = format!("{{\"provider\":\"scripted\",\"secret\":\"{OTHER}\"");
        said.extend(credentials.control.send(Request::post(&credentials.path, malformed)).body);
        said.extend(gateway.exchange(&Call::chat("x").request(OTHER)).body);
        said.extend(gateway.scrape().into_bytes());
        gateway.signal(rustix::process::Signal::TERM);
        assert!(gateway.wait().success(), "{}", gateway.log());
        let mut places = vec![("an answer".to_owned(), said), ("the log".to_owned(), gateway.log().into_bytes())];
        let files = files_below(&gateway.data()).into_iter();
        places.extend(files.map(|path| (path.display().to_string(), fs::read(&path).expect("a file"))));
        for (place, bytes) in &places {
            for secret in [OWN, OTHER] {
                assert_nowhere(secret, place, bytes);
            }
        }
    }
}

#[test]
fn empty_or_foreign_master_keys_refuse_to_start() {
    let provider = provider_refusing("");
    let gateway = before(&provider).start();
    Credentials::of(&gateway).create(json!({"provider": "scripted", "secret": OWN}));
    gateway.signal(rustix::process::Signal::TERM);
    assert!(gateway.wait().success());
    let keys = gateway.data().join("master-keys");
    let right = fs::read_to_string(&keys).expect("they were made");
    for wrong in ["", "abcd", &"33".repeat(32)] {
        fs::write(&keys, wrong).expect("written");
        assert!(!gateway.start_and_wait(&[]).success(), "{wrong:?}");
        assert!(gateway.log().contains("tollgate can't start") && !gateway.log().contains(right.trim()));
    }
    fs::write(&keys, right).expect("written");
    gateway.restart();
    assert_eq!(call_until(&gateway, &provider, OWN).status, 200);
}
