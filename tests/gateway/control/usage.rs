//! Usage by the API (seclai-api-keys, "Usage Tab"; seachat-quickstart, "usage attribution").

use crate::support::{Call, Control, Gateway, eventually};
use serde_json::Value;

/// Usage, once so many calls are in it.
fn usage(reader: &Control, query: &str, calls: i64) -> Value {
    eventually("the calls are summed up", || {
        let usage = reader.read(&format!("/api/usage{query}"));
        let sum: i64 = rows(&usage).iter().filter_map(|row| row["calls"].as_i64()).sum();
        (sum == calls).then_some(usage)
    })
}

fn rows(usage: &Value) -> &[Value] {
    usage["data"].as_array().expect("a list")
}

/// Groups with their calls, in order.
fn groups(usage: &Value) -> Vec<(Option<String>, i64)> {
    let pair = |row: &Value| (row["group"].as_str().map(str::to_owned), row["calls"].as_i64().unwrap_or_default());
    let mut pairs: Vec<_> = rows(usage).iter().map(pair).collect();
    pairs.sort();
    pairs
}

fn named(name: &str, calls: i64) -> (Option<String>, i64) {
    (Some(name.to_owned()), calls)
}

/// Calls of two keys, one of them in a project; some say for whom they are.
fn called(gateway: &Gateway) -> [String; 3] {
    let made = gateway.tollgate(&["project", "create", "web", "--org", &gateway.org]);
    let project = made["id"].as_str().expect("an id").to_owned();
    let second = gateway.create_key(&["--project", &project]);
    let call = Call::chat("count up").with("max_tokens", 5);
    for (key, call) in [
        (&gateway.key, call.clone()),
        (&gateway.key, call.clone().with("user", "ada").header("x-tollgate-tags", "team=search, nightly")),
        (&second, call.with("safety_identifier", "bob").header("x-tollgate-tags", "nightly")),
        (&second, Call::messages("count up").with("metadata", serde_json::json!({"user_id": "ada"}))),
    ] {
        let answer = gateway.call_with(key, &call);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    [gateway.key.id.clone(), second.id, project]
}

#[test]
fn usage_is_told_apart_by_whatever_is_asked() {
    let gateway = Gateway::start();
    let [first, second, project] = called(&gateway);
    let operator = gateway.operator();
    let by = |by: &str, calls: i64| {
        groups(&usage(&operator, &format!("?org={}&by={by}&granularity=month", gateway.org), calls))
    };
    assert_eq!(by("model", 4), [named("claude-sonnet-4-6", 1), named("gpt-4o-mini", 3)]);
    assert_eq!(by("provider", 4), [named("simulated-anthropic", 1), named("simulated-openai", 3)]);
    assert_eq!(by("project", 4), [(None, 2), named(&project, 2)]);
    let mut keys = [named(&first, 2), named(&second, 2)];
    keys.sort();
    assert_eq!(by("key", 4), keys);
    assert_eq!(by("user", 3), [named("ada", 2), named("bob", 1)]);
    assert_eq!(by("tag", 3), [named("nightly", 2), named("team=search", 1)]);
    assert_eq!(by("organisation", 4), [named(&gateway.org, 4)]);
    assert_eq!(by("day", 4), [(None, 4)]);
    let of_project = usage(&operator, &format!("?project={project}&by=model"), 2);
    assert_eq!(groups(&of_project), [named("claude-sonnet-4-6", 1), named("gpt-4o-mini", 1)]);
    let of_model = usage(&operator, &format!("?key={first}&model=gpt-4o-mini"), 2);
    assert_eq!(of_model["total"]["output_tokens"], 10);
    // The cost is what the books have, to the nano-dollar.
    let charged: i64 = gateway.books_of(4).iter().map(|row| row.charge_nano).sum();
    let all = usage(&operator, &format!("?org={}", gateway.org), 4);
    let cost = crate::money::nano(all["total"]["cost_usd"].as_str().expect("a text"));
    assert_eq!((cost, all["total"]["cost_micros"].as_i64()), (charged, Some(charged / 1_000)));
    let audit = gateway.audit();
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
}

#[test]
fn ranges_have_buckets_that_suit_them() {
    let gateway = Gateway::start();
    assert_eq!(gateway.call(&Call::chat("count up")).status, 200);
    let operator = gateway.operator();
    // seclai-api-keys: "24h, 7d, 30d, etc. or custom date ranges", "Automatically adjusts (day/week/month)".
    for (range, granularity) in [
        ("range=24h", "hour"),
        ("range=7d", "day"),
        ("range=30d", "day"),
        ("range=90d", "week"),
        ("from=2020-01-01", "month"),
        ("from=2020-01-01&granularity=day", "day"),
        ("range=24h&by=user", "day"),
    ] {
        let query = format!("?org={}&{range}", gateway.org);
        let calls = i64::from(!range.ends_with("user"));
        let read = usage(&operator, &query, calls);
        assert_eq!(read["granularity"], granularity, "{range}");
        assert!(read["from"].as_str() < read["to"].as_str(), "{read}");
    }
    let printed = gateway.tollgate(&["usage", "--org", &gateway.org, "--by", "provider"]);
    assert_eq!((&printed["provider"], &printed["calls"]), (&"simulated-openai".into(), &1.into()));
    for (query, field) in [
        ("range=7d&from=2026-01-01", "range"),
        ("to=2026-01-01", "from"),
        ("from=2026-02-01&to=2026-01-01", "from"),
        ("from=soon", "from"),
    ] {
        let refused = operator.get(&format!("/api/usage?org={}&{query}", gateway.org));
        assert_eq!(refused.refusal(), (422, "validation_failed".to_owned()), "{query}");
        assert_eq!(refused.json()["error"]["param"], field, "{query}");
    }
    for query in ["range=1y", "by=colour", "granularity=minute", "org=x&org=y", "colour=red"] {
        assert_eq!(operator.get(&format!("/api/usage?{query}")).refusal().0, 422, "{query}");
    }
    let of_key = format!("/api/usage?key={}&by=provider", gateway.key.id);
    assert_eq!(operator.get(&of_key).refusal(), (422, "not_possible".to_owned()));
    assert_eq!(operator.get("/api/usage").json()["error"]["param"], "org");
}

#[test]
fn a_key_that_may_read_usage_sees_its_own_alone() {
    let gateway = Gateway::start();
    let other = gateway.create_key(&[]);
    for key in [&gateway.key, &other] {
        assert_eq!(gateway.call_with(key, &Call::chat("count up")).status, 200);
    }
    let own = gateway.control_of(&gateway.key.token);
    usage(&gateway.operator(), &format!("?org={}", gateway.org), 2);
    // searchrouter-authentication: a key tells its own usage.
    assert_eq!(usage(&own, "", 1)["total"]["calls"], 1);
    assert_eq!(usage(&own, &format!("?key={}&by=key", gateway.key.id), 1)["data"][0]["group"], *gateway.key.id);
    for query in [
        format!("?key={}", other.id),
        "?key=key_00000000000000000000000001".to_owned(),
        "?org=org_00000000000000000000000001".to_owned(),
    ] {
        assert_eq!(own.get(&format!("/api/usage{query}")).refusal(), (404, "not_found".to_owned()), "{query}");
    }
    let reader = gateway.create_key(&["--scope", "model:invoke", "--scope", "analytics:read"]);
    assert_eq!(usage(&gateway.control_of(&reader.token), "?by=key", 2)["data"].as_array().map(Vec::len), Some(2));
    let blind = gateway.create_key(&["--scope", "model:invoke"]);
    let refused = gateway.control_of(&blind.token).get("/api/usage");
    assert_eq!(refused.refusal(), (403, "route_scope_denied".to_owned()));
}

#[test]
fn tags_that_cannot_be_kept_are_refused_with_a_sentence() {
    let gateway = Gateway::start();
    let call = Call::chat("count up");
    let nine: Vec<String> = (0..9).map(|number| number.to_string()).collect();
    for tags in [&*nine.join(","), "two words", "=x", &*"x".repeat(65)] {
        let answer = gateway.call(&call.clone().header("x-tollgate-tags", tags));
        assert_eq!(answer.refusal(), (400, "invalid_request".to_owned()), "{tags}");
        assert!(answer.text().contains("x-tollgate-tags"), "{}", answer.text());
    }
    let answer = gateway.call(&call.header("x-tollgate-tags", "a").header("x-tollgate-tags", "b=c,a"));
    assert_eq!(answer.status, 200);
    let kept = eventually("the call is on the books", || {
        let rows = gateway.rows("SELECT tags, end_user FROM calls");
        rows.first().map(|row| sqlx::Row::get::<Option<String>, _>(row, "tags"))
    });
    assert_eq!(kept.as_deref(), Some("a b=c"));
    assert!(!gateway.scrape().contains("b=c"), "tags are never labels of metrics");
}

#[test]
fn for_whom_a_call_was_outlives_its_process() {
    let gateway = Gateway::start();
    let call = Call::chat("count up").streamed().with("user", "eve\u{0}").simulate("hang-after=2");
    let mut stream = gateway.open(&call.header("x-tollgate-tags", "job=7"));
    stream.head();
    stream.event().expect("it has begun");
    gateway.kill();
    gateway.restart();
    let row = eventually("the call is on the books", || {
        let rows = gateway.rows("SELECT outcome, end_user, tags FROM calls");
        let text = |column: &str| rows.first().map(|row| sqlx::Row::get::<String, _>(row, column));
        Some([text("outcome")?, text("end_user")?, text("tags")?])
    });
    assert_eq!(row, ["recovered", "eve\u{fffd}", "job=7"]);
}
