//! The calls of a key (seclai-api-keys, "API Calls Tab": method, endpoint, status, error, started).

use crate::support::{Answer, Call, Gateway, Request, eventually};
use serde_json::Value;

fn path(gateway: &Gateway, query: &str) -> String {
    format!("/api/keys/{}/calls{query}", gateway.key.id)
}

/// The list, once it has so many calls.
fn listed(gateway: &Gateway, count: usize) -> Vec<Value> {
    eventually("the calls are on the books", || {
        let list = gateway.operator().read(&path(gateway, ""));
        let data = list["data"].as_array().expect("a list").clone();
        (data.len() == count).then_some(data)
    })
}

/// A call that is answered, one that its provider fails, one of a model that there is not, and a request that costs nothing.
fn four(gateway: &Gateway) -> [Answer; 4] {
    let answered = gateway.call(&Call::chat("count up").with("max_tokens", 5).with("user", "ada"));
    let failed = gateway.call(&Call::chat("count up").simulate("status=500"));
    let unknown = gateway.call(&Call::chat("count up").with("model", "no-such-model"));
    let free = gateway.exchange(&Request::get("/v1/models").bearer(&gateway.key.token));
    let statuses = [&answered, &failed, &unknown, &free].map(|answer| answer.status);
    assert_eq!(statuses, [200, 502, 404, 200]);
    [answered, failed, unknown, free]
}

#[test]
fn each_call_of_a_key_is_listed_with_its_status_and_error() {
    let gateway = Gateway::start();
    let made = four(&gateway);
    let calls = listed(&gateway, 4);
    let find = |answer: &Answer| {
        let is_it = |call: &&Value| call["id"] == answer.request_id();
        calls.iter().find(is_it).expect("it is listed")
    };
    for (answer, method, endpoint, error) in [
        (&made[0], "POST", "/v1/chat/completions", Value::Null),
        (&made[1], "POST", "/v1/chat/completions", "upstream_failed".into()),
        (&made[2], "POST", "/v1/chat/completions", "model_not_found".into()),
        (&made[3], "GET", "/v1/models", Value::Null),
    ] {
        let call = find(answer);
        assert_eq!([&call["method"], &call["endpoint"], &call["error"]], [&method.into(), &endpoint.into(), &error]);
        assert_eq!(call["status"], answer.status);
        assert!(call["started_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{call}");
        assert!(call["latency_ms"].as_i64().is_some_and(|latency| latency >= 0), "{call}");
    }
    let answered = find(&made[0]);
    assert_eq!([&answered["model"], &answered["user"]], ["gpt-4o-mini", "ada"]);
    assert_eq!(answered["output_tokens"], 5);
    assert!(answered["cost_micros"].as_i64().is_some_and(|cost| cost > 0), "{answered}");
    // Newest first, and under its other name too.
    let started: Vec<&str> = calls.iter().filter_map(|call| call["started_at"].as_str()).collect();
    assert!(started.windows(2).all(|pair| pair[0] >= pair[1]), "{started:?}");
    let other = gateway.operator().read(&format!("/v1/api-keys/{}/calls", gateway.key.id));
    assert_eq!(other["data"].as_array().map(Vec::len), Some(4));
    let printed = gateway.tollgate(&["key", "calls", &gateway.key.id, "--status", "502"]);
    assert_eq!(printed["error"], "upstream_failed");
}

#[test]
fn calls_are_filtered_paged_and_exported() {
    let gateway = Gateway::start();
    let made = four(&gateway);
    listed(&gateway, 4);
    let operator = gateway.operator();
    let ids = |query: &str| {
        let list = operator.read(&path(&gateway, query));
        let data = list["data"].as_array().expect("a list").clone();
        data.iter().filter_map(|call| call["id"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(ids("?status=4xx"), [made[2].request_id()]);
    assert_eq!(ids("?status=502"), [made[1].request_id()]);
    assert_eq!(ids("?error=model_not_found"), [made[2].request_id()]);
    assert_eq!(ids("?model=gpt-4o-mini").len(), 2);
    assert_eq!(ids("?to=2020-01-01"), [""; 0]);
    assert_eq!(ids("?from=2020-01-01").len(), 4);
    let all = ids("");
    assert_eq!(ids(&format!("?limit=10&cursor={}", all[1])), all[2..]);

    let csv = operator.get(&path(&gateway, "?format=csv"));
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8"));
    let text = csv.text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("id,method,endpoint,model,provider,status,error,"), "{text}");
    assert_eq!(lines.len(), 5);
    assert!(all.iter().zip(&lines[1..]).all(|(id, line)| line.starts_with(id.as_str())), "{text}");
    let text = operator.get(&path(&gateway, "?format=jsonl&status=2xx")).text();
    let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert!(objects.len() == 2 && objects.iter().all(|call| call["status"] == 200), "{text}");

    for (query, field) in [
        ("?limit=11", "limit"),
        ("?cursor=nonsense", "cursor"),
        ("?status=teapot", "status"),
        ("?from=yesterday", "from"),
    ] {
        let refused = operator.get(&path(&gateway, query));
        assert_eq!(refused.refusal(), (422, "validation_failed".to_owned()), "{query}");
        assert_eq!(refused.json()["error"]["param"], field);
    }
    assert_eq!(operator.get(&path(&gateway, "?colour=red")).refusal().0, 422);
}

#[test]
fn calls_are_for_those_who_may_read_them() {
    let gateway = Gateway::start();
    let own = path(&gateway, "");
    let reader = gateway.create_key(&["--scope", "model:invoke", "--scope", "analytics:read"]);
    assert_eq!(gateway.control_of(&reader.token).get(&own).status, 200);
    // The gateway's own key may read its usage, not what each call was.
    assert_eq!(gateway.control_of(&gateway.key.token).get(&own).refusal(), (403, "route_scope_denied".to_owned()));
    let stranger = crate::money::Account::with(&gateway, 1_000_000_000);
    let stranger = stranger.key(&["--scope", "model:invoke", "--scope", "analytics:read"]);
    let of_another = gateway.control_of(&stranger.token).get(&own);
    let of_nobody = gateway.control_of(&stranger.token).get("/api/keys/key_00000000000000000000000001/calls");
    assert_eq!(of_another.refusal(), (404, "not_found".to_owned()));
    let message = |answer: &Answer| answer.json()["error"]["message"].clone();
    assert_eq!(message(&of_another), message(&of_nobody), "there is no telling another's key from none");
}
