//! Keys over HTTP, as the seed documents have them.

use crate::support::{Answer, Call, Control, Gateway, Key, Request, eventually};
use serde_json::{Value, json};

/// A key as it was made.
fn make(control: &Control, body: &Value) -> (Key, Value) {
    let answer = control.post("/api/keys", body);
    assert_eq!(answer.status, 201, "{body}: {}", answer.text());
    let made = answer.json();
    let text = |field: &str| made[field].as_str().unwrap_or_default().to_owned();
    (Key { id: text("id"), token: text("token") }, made)
}

fn path(key: &Key) -> String {
    format!("/api/keys/{}", key.id)
}

fn call(gateway: &Gateway, key: &Key) -> Answer {
    gateway.call_with(key, &Call::chat("hello"))
}

/// Waits until calls of the key are answered so.
fn until(gateway: &Gateway, key: &Key, status: u16, code: &str) {
    eventually(&format!("{} is answered {status} {code}", key.id), || {
        let answer = call(gateway, key);
        let is_so = answer.status == status && (code.is_empty() || answer.refusal().1 == code);
        is_so.then_some(())
    });
}

/// Waits until the books know that the key was used.
fn until_used(control: &Control, key: &Key) {
    eventually("it is known that the key was used", || control.read(&path(key))["last_used_at"].as_str().map(drop));
}

#[test]
fn a_token_is_shown_once_and_a_fingerprint_afterwards() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    // seachat-quickstart: Automation path.
    let body = json!({"org": gateway.org, "label": "agent integration", "scopes": ["model:invoke", "usage:read"],
        "spendLimitMicros": 5_000_000});
    let (key, made) = make(&operator, &body);
    assert!(key.id.starts_with("key_") && key.token.starts_with("tg_live_"), "{made}");
    assert_eq!((&made["name"], &made["label"]), (&json!("agent integration"), &json!("agent integration")));
    assert_eq!((made["limit"].to_string(), &made["spendLimitMicros"]), ("5".to_owned(), &json!(5_000_000)));
    until(&gateway, &key, 200, "");
    // seclai-api-keys: "You will not be able to view the full key again."
    let shown = operator.read(&path(&key));
    let listed = operator.read(&format!("/api/keys?org={}", gateway.org));
    for text in [shown.to_string(), listed.to_string(), gateway.log()] {
        assert!(!text.contains(&key.token[12..50]), "{text}");
    }
    // aiaas-creating-api-keys: "Subsequent views show partial fingerprint".
    let fingerprint = shown["fingerprint"].as_str().expect("a fingerprint");
    let (beginning, end) = fingerprint.split_once('…').expect("two parts");
    assert!(key.token.starts_with(beginning) && key.token.ends_with(end) && fingerprint.len() < 24, "{fingerprint}");
    assert_eq!((&shown["status"], &shown["kind"]), (&json!("live"), &json!("model")));
    // searchrouter-authentication: Verify a key.
    let view = gateway.key_view(&key);
    assert_eq!((&view["label"], view["limit"].to_string()), (&json!("agent integration"), "5".to_owned()));
}

#[test]
fn a_key_is_made_with_everything_that_can_be_said_of_it() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    // aiaas-creating-api-keys: Via API.
    let answer = operator.post(
        "/v1/api-keys",
        &json!({"org": gateway.org, "name": "production-key", "scopes": ["inference:read", "inference:write"], "expires_in_days": 90}),
    );
    assert_eq!(answer.status, 201, "{}", answer.text());
    let made = answer.json();
    assert!(made["token"].is_string() && made["expiresAt"].is_string(), "{made}");
    let (_, made) = make(
        &operator,
        &json!({"org": gateway.org, "name": "all", "description": "Live application backend", "scopes": "model:invoke",
            "limit": "25.50", "period": "month", "zone": "Europe/Berlin", "strict": true, "rpm": 60, "tpm": 1000, "concurrency": 3,
            "models": ["gpt-*"], "providers": ["openai"], "ip_allowlist": ["127.0.0.0/8", "::1"], "metadata": {"team": "web"},
            "expiresAt": "2034-01-01T00:00:00Z"}),
    );
    assert_eq!(
        (&made["description"], &made["metadata"]),
        (&json!("Live application backend"), &json!({"team": "web"}))
    );
    assert_eq!(
        (&made["limit"], &made["rpm"], &made["tpm"], &made["concurrency"]),
        (&Value::Null, &json!(60), &json!(1000), &json!(3))
    );
    let limits = made["limits"].as_array().expect("limits");
    let monthly = limits.iter().find(|limit| limit["kind"] == "spend").expect("one of money");
    assert_eq!(
        (&monthly["amount_usd"], &monthly["period"], &monthly["zone"]),
        (&json!("25.5"), &json!("month"), &json!("Europe/Berlin"))
    );
    assert_eq!((&monthly["strict"], &made["ip_allowlist"]), (&json!(true), &json!(["127.0.0.0/8", "::1"])));
    assert_eq!(made["expiresAt"], "2034-01-01T00:00:00.000Z");
    // seclai-api-keys: "Untitled" if no name was set; "Key names cannot be changed after creation".
    let (untitled, made) = make(&operator, &json!({"org": gateway.org}));
    assert_eq!((&made["name"], &made["last_used_at"]), (&json!("Untitled"), &Value::Null));
    let renamed = operator.patch(&path(&untitled), &json!({"name": "Production"}));
    assert_eq!(renamed.refusal(), (422, "name_immutable".to_owned()));
    assert_eq!(operator.patch(&path(&untitled), &json!({"name": "Untitled"})).status, 200);
}

#[test]
fn keys_are_listed_by_page_filtered_and_sorted() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    for number in 0..24 {
        make(&operator, &json!({"org": gateway.org, "name": format!("page-{number:02}")}));
    }
    let (odd, _) = make(&operator, &json!({"org": gateway.org, "name": "100% Ünï_code", "description": "for q"}));
    let list = |query: &str| operator.read(&format!("/api/keys?org={}{query}", gateway.org));
    let names = |page: &Value| -> Vec<String> {
        let keys = page["data"].as_array().expect("keys").iter();
        keys.map(|key| key["name"].as_str().expect("a name").to_owned()).collect()
    };
    // seclai-api-keys: Pagination, 25 by default.
    let page = list("");
    assert_eq!((names(&page).len(), &page["data"][0]["name"]), (25, &json!("100% Ünï_code")));
    let rest = list(&format!("&cursor={}", page["next_cursor"].as_str().expect("others follow")));
    assert_eq!((names(&rest).len(), &rest["next_cursor"]), (1, &Value::Null));
    let (mut walked, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = list(&format!("&limit=10&sort=name&q=page-{cursor}"));
        walked.extend(names(&page));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let expected: Vec<String> = (0..24).map(|number| format!("page-{number:02}")).collect();
    assert_eq!(walked, expected);
    for (query, found) in [
        ("&q=100%25", 1),
        ("&q=%25", 1),
        ("&q=_", 1),
        ("&q=%C3%BCN%C3%8F_C", 1),
        ("&q=FOR%20Q", 1),
        ("&q=%27%20OR%201=1", 0),
    ] {
        assert_eq!(names(&list(query)).len(), found, "{query}");
    }
    assert_eq!(names(&list(&format!("&q={}", odd.id))).len(), 1);
    assert_eq!(operator.post(&format!("{}/disable", path(&odd)), &json!({})).status, 200);
    assert_eq!(names(&list("&status=disabled")), ["100% Ünï_code"]);
    assert_eq!(names(&list("&status=live&limit=100")).len(), 25);
    for wrong in ["&limit=11", "&limit=0", "&limit=x", "&cursor=x", "&sort=id", "&status=gone", "&q=%00"] {
        let answer = operator.get(&format!("/api/keys?org={}{wrong}", gateway.org));
        assert_eq!(answer.refusal(), (422, "validation_failed".to_owned()), "{wrong}");
    }
}

#[test]
fn a_key_is_changed_and_gateways_see_it() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    let (key, _) = make(&operator, &json!({"org": gateway.org, "name": "k", "limit": 5, "rpm": 50}));
    until(&gateway, &key, 200, "");
    let change = |body: Value| {
        let answer = operator.patch(&path(&key), &body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        answer.json()
    };
    let changed = change(json!({"description": "new", "models": ["no-such-*"], "limit": null, "metadata": {"a": "b"}}));
    assert_eq!(
        (&changed["limit"], &changed["rpm"], &changed["description"]),
        (&Value::Null, &json!(50), &json!("new"))
    );
    until(&gateway, &key, 403, "model_not_allowed");
    change(json!({"models": [], "limit": 0}));
    until(&gateway, &key, 402, "spend_limit_reached");
    change(json!({"limit": "7.25", "scopes": ["usage:read"]}));
    until(&gateway, &key, 403, "route_scope_denied");
    let back = change(json!({"scopes": "model:invoke", "spendLimitMicros": 7_250_000, "rpm": null}));
    assert_eq!((back["limit"].to_string(), &back["rpm"]), ("7.25".to_owned(), &Value::Null));
    until(&gateway, &key, 200, "");
    for (verb, status, code) in [("disable", 401, "key_disabled"), ("enable", 200, "")] {
        let answer = operator.post(&format!("{}/{verb}", path(&key)), &json!({}));
        assert_eq!(answer.status, 200, "{}", answer.text());
        until(&gateway, &key, status, code);
    }
    // Nothing of this is anybody's to set.
    let before = operator.read(&path(&key));
    for field in
        ["id", "org", "created_at", "usage", "spent", "fingerprint", "lookup", "kind", "status", "project", "token"]
    {
        for answer in [
            operator.patch(&path(&key), &json!({field: "x"})),
            operator.post("/api/keys", &json!({"name": "x", field: "x"})),
        ] {
            assert!(matches!(answer.status, 404 | 422), "{field}: {}", answer.text());
        }
    }
    let without_use = |mut key: Value| {
        key["last_used_at"].take();
        key["secrets"].take();
        key
    };
    assert_eq!(without_use(before), without_use(operator.read(&path(&key))));
}

#[test]
fn used_keys_are_archived_and_unused_ones_deleted() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    let (used, _) = make(&operator, &json!({"org": gateway.org, "name": "used"}));
    let (refused, _) = make(&operator, &json!({"org": gateway.org, "name": "refused", "limit": 0}));
    let (unused, _) = make(&operator, &json!({"org": gateway.org, "name": "by mistake"}));
    until(&gateway, &used, 200, "");
    // A refused call is history too.
    until(&gateway, &refused, 402, "spend_limit_reached");
    let answer = operator.post(&format!("{}/archive", path(&unused)), &json!({}));
    assert_eq!(answer.refusal(), (422, "key_never_used".to_owned()));
    for key in [&used, &refused] {
        until_used(&operator, key);
        let answer = operator.delete(&path(key));
        assert_eq!(answer.refusal(), (422, "key_has_history".to_owned()));
        // seclai-api-keys: Deleting Keys.
        let message = "This API key has call history and cannot be deleted. Archive it instead.";
        assert_eq!(answer.json()["error"]["message"], message);
        let answer = operator.post(&format!("{}/archive", path(key)), &json!({}));
        assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("archived")));
        until(&gateway, key, 401, "key_archived");
        // seclai-api-keys: "Archive is a one-way action".
        let answer = operator.post(&format!("{}/enable", path(key)), &json!({}));
        assert_eq!(answer.status, 422, "{}", answer.text());
        assert!(operator.read(&path(key))["archived_at"].is_string());
    }
    // The token is looked up for the first time when the key is gone.
    assert_eq!(operator.delete(&path(&unused)).status, 204);
    for answer in
        [operator.get(&path(&unused)), operator.delete(&path(&unused)), operator.patch(&path(&unused), &json!({}))]
    {
        assert_eq!(answer.refusal(), (404, "not_found".to_owned()));
    }
    assert_eq!(call(&gateway, &unused).refusal(), (401, "invalid_api_key".to_owned()));
    let listed = operator.read(&format!("/api/keys?org={}&q=mistake", gateway.org));
    assert_eq!(listed["data"], json!([]));
    assert!(gateway.audit().status.success());
}

#[test]
fn a_rotated_key_keeps_its_identity_and_its_old_token_for_a_while() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    let (old, _) = make(&operator, &json!({"org": gateway.org, "name": "Production", "limit": 5}));
    until(&gateway, &old, 200, "");
    let rotate = |body: Value| {
        let answer = operator.post(&format!("{}/rotate", path(&old)), &body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        let rotated = answer.json();
        assert_eq!((&rotated["id"], &rotated["name"]), (&json!(old.id), &json!("Production")));
        Key { id: old.id.clone(), token: rotated["token"].as_str().expect("a token").to_owned() }
    };
    let new = rotate(json!({"grace": "1h"}));
    assert_ne!(new.token, old.token);
    until(&gateway, &new, 200, "");
    assert_eq!(call(&gateway, &old).status, 200);
    let spent = |key: &Key| gateway.key_money(key, "usage");
    assert!(spent(&new) > 0 && spent(&new) == spent(&old));
    let secrets = operator.read(&path(&old))["secrets"].clone();
    assert_eq!(secrets.as_array().map(Vec::len), Some(2));
    assert!(secrets[0]["expires_at"].is_null() && secrets[1]["expires_at"].is_string(), "{secrets}");
    let newest = rotate(json!({"grace": 0}));
    for ended in [&old, &new] {
        until(&gateway, ended, 401, "invalid_api_key");
    }
    until(&gateway, &newest, 200, "");
    for wrong in [json!({"grace": -1}), json!({"grace": "91d"}), json!({"grace": "x"}), json!({"token": "x"})] {
        let answer = operator.post(&format!("{}/rotate", path(&old)), &wrong);
        assert_eq!(answer.refusal(), (422, "validation_failed".to_owned()), "{wrong}");
    }
}

#[test]
fn a_request_with_a_name_is_carried_out_once() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    let send = |name: &str, body: &Value| {
        operator.send(Request::post("/api/keys", body.to_string()).header("idempotency-key", name))
    };
    let body = json!({"org": gateway.org, "name": "once"});
    let (first, again) = (send("a-1", &body), send("a-1", &body));
    assert_eq!((first.status, again.status), (201, 201), "{}", first.text());
    assert_eq!(first.json(), again.json());
    let other = send("a-1", &json!({"org": gateway.org, "name": "twice"}));
    assert_eq!(other.refusal(), (422, "idempotency_key_reused".to_owned()));
    assert_ne!(send("a-2", &body).json()["id"], first.json()["id"]);
    assert_eq!(send("a b", &body).refusal(), (422, "validation_failed".to_owned()));
    let listed = operator.read(&format!("/api/keys?org={}&q=once", gateway.org));
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(2));
    // The answer is as good after a restart.
    gateway.kill();
    gateway.restart();
    let later = send("a-1", &body).json();
    assert_eq!((&later["id"], &later["token"]), (&first.json()["id"], &first.json()["token"]));
}

#[test]
fn a_key_with_addresses_is_refused_elsewhere() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    let (key, _) = make(&operator, &json!({"org": gateway.org, "ip_allowlist": ["127.0.0.0/8"]}));
    until(&gateway, &key, 200, "");
    assert_eq!(operator.patch(&path(&key), &json!({"ip_allowlist": ["10.0.0.0/8"]})).status, 200);
    until(&gateway, &key, 403, "ip_not_allowed");
    let forged = gateway.exchange(&Request::get("/v1/models").bearer(&key.token).header("x-forwarded-for", "10.0.0.1"));
    assert_eq!(forged.refusal(), (403, "ip_not_allowed".to_owned()));
    assert_eq!(operator.patch(&path(&key), &json!({"ip_allowlist": []})).status, 200);
    until(&gateway, &key, 200, "");
    let body = json!({"org": gateway.org, "scopes": ["keys:read"], "ip_allowlist": ["10.0.0.0/8"]});
    let (service, _) = make(&operator, &body);
    assert_eq!(gateway.control_of(&service.token).get("/api/keys").refusal(), (403, "ip_not_allowed".to_owned()));
}

#[test]
fn nobody_grants_more_than_they_have() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    let mixed = operator.post("/api/keys", &json!({"org": gateway.org, "scopes": ["model:invoke", "keys:write"]}));
    assert_eq!(mixed.refusal(), (422, "scope_mix".to_owned()));
    let service = |scopes: &str| make(&operator, &json!({"org": gateway.org, "name": scopes, "scopes": scopes}));
    let ((admin, _), (writer, made), (reader, _)) = (service("admin"), service("keys:write"), service("keys:read"));
    assert_eq!(made["kind"], "service");
    // A service key is for no route of a model.
    assert_eq!(call(&gateway, &writer).refusal(), (403, "route_scope_denied".to_owned()));
    let by = |key: &Key| gateway.control_of(&key.token);
    let (model, _) = make(&by(&writer), &json!({"name": "made by a key"}));
    until(&gateway, &model, 200, "");
    assert_eq!(operator.read(&path(&model))["created_by"], writer.id);
    for scopes in ["admin", "analytics:read", "keys:write usage:read"] {
        let answer = by(&writer).post("/api/keys", &json!({"scopes": scopes}));
        assert_eq!(answer.refusal(), (403, "route_scope_denied".to_owned()), "{scopes}");
        assert!(answer.json()["error"]["required_scopes"].is_array(), "{}", answer.text());
        let answer = by(&writer).patch(&path(&model), &json!({"scopes": scopes}));
        assert!(matches!(answer.status, 403 | 422), "{scopes}: {}", answer.text());
    }
    // Nor does anybody get the token of a key that may do more, or change it.
    for answer in [
        by(&writer).post(&format!("{}/rotate", path(&admin)), &json!({})),
        by(&writer).patch(&path(&admin), &json!({"ip_allowlist": []})),
        by(&writer).post(&format!("{}/enable", path(&admin)), &json!({})),
    ] {
        assert_eq!(answer.refusal(), (403, "route_scope_denied".to_owned()));
    }
    let (other, _) = make(&by(&admin), &json!({"scopes": ["keys:write", "usage:read"]}));
    assert_eq!(by(&other).get("/api/keys").status, 200);
    // A model key never creates or changes keys, and who reads does not write.
    for key in [&model, &gateway.key, &reader] {
        for answer in [
            by(key).post("/api/keys", &json!({"name": "x"})),
            by(key).patch(&path(&model), &json!({"description": "x"})),
            by(key).delete(&path(&other)),
            by(key).post(&format!("{}/rotate", path(key)), &json!({})),
        ] {
            assert_eq!(answer.refusal(), (403, "route_scope_denied".to_owned()));
        }
    }
    assert_eq!(by(&reader).get(&path(&model)).status, 200);
    assert_eq!(by(&model).get("/api/keys").refusal(), (403, "route_scope_denied".to_owned()));
}

#[test]
fn members_make_keys_as_their_roles_permit() {
    let gateway = Gateway::start();
    // seachat-quickstart: "The session must include API-key write permission".
    for (role, may_write, may_read) in [
        ("owner", true, true),
        ("admin", true, true),
        ("developer", true, true),
        ("viewer", false, true),
        ("billing", false, false),
    ] {
        let (member, user) = gateway.member(role);
        let body = json!({"org": gateway.org, "name": role, "scopes": ["model:invoke", "usage:read"]});
        let answer = member.post("/api/keys", &body);
        assert_eq!(answer.status, if may_write { 201 } else { 403 }, "{role}: {}", answer.text());
        if may_write {
            assert_eq!(answer.json()["created_by"], user);
        } else {
            assert_eq!(answer.refusal().1, "route_scope_denied");
        }
        let list = member.get(&format!("/api/keys?org={}", gateway.org));
        assert_eq!(list.status, if may_read { 200 } else { 403 }, "{role}: {}", list.text());
        let admin = member.post("/api/keys", &json!({"org": gateway.org, "scopes": ["admin"]}));
        assert_eq!(
            admin.status,
            if ["owner", "admin"].contains(&role) { 201 } else { 403 },
            "{role}: {}",
            admin.text()
        );
    }
    // Whoever is in no organisation but their own makes keys there.
    let (loner, _) = gateway.user("loner@example.com");
    let (key, made) = make(&loner, &json!({"label": "mine"}));
    assert_ne!(made["org"], gateway.org);
    let missing = loner.get("/api/keys/key_00000000000000000000000001").refusal();
    assert_eq!(loner.get(&path(&key)).status, 200);
    let ours = loner.get(&format!("/api/keys/{}", gateway.key.id)).refusal();
    assert_eq!((ours, 404), (missing.clone(), missing.0));
}

#[test]
fn the_keys_of_others_are_as_if_they_did_not_exist() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    let other = gateway.tollgate(&["org", "create", "Other"])["id"].as_str().expect("an id").to_owned();
    let (theirs, _) = make(&operator, &json!({"org": other, "name": "theirs"}));
    let (ours, _) = make(&operator, &json!({"org": gateway.org, "scopes": "admin"}));
    let by = gateway.control_of(&ours.token);
    let missing = "/api/keys/key_00000000000000000000000001";
    let said = |answer: Answer| {
        let mut body = answer.json();
        body["error"]["request_id"].take();
        (answer.status, body)
    };
    let theirs = path(&theirs);
    for verb in ["rotate", "disable", "enable", "archive"] {
        let send = |path: &str| said(by.post(&format!("{path}/{verb}"), &json!({})));
        assert_eq!(send(&theirs), send(missing), "{verb}");
        assert_eq!(send(missing).0, 404);
    }
    assert_eq!(said(by.get(&theirs)), said(by.get(missing)));
    assert_eq!(said(by.delete(&theirs)), said(by.delete(missing)));
    assert_eq!(said(by.patch(&theirs, &json!({}))), said(by.patch(missing, &json!({}))));
    let nobody = "org_00000000000000000000000001";
    let list = |org: &str| said(by.get(&format!("/api/keys?org={org}")));
    assert_eq!(list(&other), list(nobody));
    let create = |org: &str| said(by.post("/api/keys", &json!({"org": org})));
    assert_eq!((create(&other), create(&other).0), (create(nobody), 404));
    let project =
        gateway.tollgate(&["project", "create", "p", "--org", &other])["id"].as_str().expect("an id").to_owned();
    let within = |project: &str| said(by.post("/api/keys", &json!({"project": project})));
    assert_eq!(within(&project), within("proj_00000000000000000000000001"));
    assert_eq!(operator.read(&format!("/api/keys?org={other}"))["data"].as_array().map(Vec::len), Some(1));
}

#[test]
fn tokens_that_were_issued_elsewhere_go_on() {
    let gateway = Gateway::start();
    let operator = gateway.operator();
    let token = "made-elsewhere-0123456789";
    let body = json!({"org": gateway.org, "name": "old", "token_sha256": crate::support::sha256(token.as_bytes())});
    let (service, _) = make(&operator, &json!({"org": gateway.org, "scopes": "admin"}));
    let refused = gateway.control_of(&service.token).post("/api/keys", &body);
    assert_eq!(refused.refusal(), (403, "route_scope_denied".to_owned()));
    let stranger = Key { id: "the imported one".to_owned(), token: token.to_owned() };
    assert_eq!(call(&gateway, &stranger).refusal(), (401, "invalid_api_key".to_owned()));
    let (_, made) = make(&operator, &body);
    assert!(made["token"].is_null(), "{made}");
    until(&gateway, &stranger, 200, "");
    assert_eq!(operator.post("/api/keys", &body).status, 422);
}

#[test]
fn keys_move_to_a_new_pepper_when_they_are_used() {
    let gateway = Gateway::start();
    let (key, _) = make(&gateway.operator(), &json!({"org": gateway.org, "name": "idle"}));
    assert_eq!(call(&gateway, &gateway.key).status, 200);
    let file = gateway.data().join("pepper");
    let old = std::fs::read_to_string(&file).expect("the pepper");
    let write = |lines: &str| std::fs::write(&file, lines).expect("written");
    let new = "c3".repeat(32);
    gateway.kill();
    write(&format!("{new}\n{old}"));
    gateway.restart();
    // Also after a change, which is seen as ever.
    assert_eq!(call(&gateway, &gateway.key).status, 200);
    let operator = gateway.operator();
    let disable = |key: &Key, verb: &str| operator.post(&format!("{}/{verb}", path(key)), &json!({})).status;
    assert_eq!(disable(&gateway.key, "disable"), 200);
    until(&gateway, &gateway.key, 401, "key_disabled");
    assert_eq!(disable(&gateway.key, "enable"), 200);
    until(&gateway, &gateway.key, 200, "");
    until(&gateway, &key, 200, "");
    // All that were used have moved by the time at which it has ended.
    gateway.signal(rustix::process::Signal::TERM);
    assert!(gateway.wait().success());
    write(&new);
    gateway.restart();
    for key in [&gateway.key, &key] {
        assert_eq!(call(&gateway, key).status, 200);
    }
}

#[test]
fn the_command_line_rotates_imports_archives_and_deletes() {
    let gateway = Gateway::start();
    let key = gateway.create_key(&["--description", "by hand", "--ip", "127.0.0.0/8"]);
    until(&gateway, &key, 200, "");
    let rotated = gateway.tollgate(&["key", "rotate", &key.id, "--grace", "0"]);
    let new = Key { id: key.id.clone(), token: rotated["token"].as_str().expect("a token").to_owned() };
    until(&gateway, &key, 401, "invalid_api_key");
    until(&gateway, &new, 200, "");
    until_used(&gateway.operator(), &key);
    let archived = gateway.tollgate(&["key", "archive", &key.id]);
    assert_eq!((&archived["status"], &archived["ip_allowlist"]), (&json!("archived"), &json!(["127.0.0.0/8"])));
    until(&gateway, &new, 401, "key_archived");
    let token = "from-elsewhere";
    let hash = crate::support::sha256(token.as_bytes());
    let imported = gateway.tollgate(&["key", "import", "--org", &gateway.org, "--name", "old", "--sha256", &hash]);
    assert_eq!(imported["description"], "");
    until(&gateway, &Key { id: "imported".to_owned(), token: token.to_owned() }, 200, "");
    let unused = gateway.create_key(&[]);
    assert_eq!(gateway.tollgate(&["key", "delete", &unused.id])["status"], "deleted");
    assert_eq!(gateway.operator().get(&path(&unused)).status, 404);
}
