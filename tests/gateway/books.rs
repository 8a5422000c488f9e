//! What is on the books beside the calls: sums of usage, events of quotas, notes of requests that cost nothing.

use crate::money::{nano, raw};
use crate::support::{Call, Gateway, Request, eventually};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use std::process::Command;

#[test]
fn requests_that_cost_nothing_are_noted_if_their_key_is_known() {
    let gateway = Gateway::start();
    let poor = gateway.create_key(&["--limit", "0"]);
    let answers = [
        gateway.call_with(&gateway.key, &Call::chat("Hello")),
        gateway.call_with(&poor, &Call::chat("Hello")),
        gateway.exchange(&Request::get("/v1/key").bearer(&poor.token)),
        gateway.call_with(&poor, &Call::chat("Hello").with("model", "nobody-has-it")),
        gateway.exchange(&Request::get("/v1/key").bearer("tg_live_nobody")),
    ];
    assert_eq!(answers.each_ref().map(|answer| answer.status), [200, 402, 200, 404, 401]);
    let noted = eventually("the requests are noted", || {
        Some(gateway.rows("SELECT * FROM requests")).filter(|rows| rows.len() >= 3)
    });
    assert_eq!(noted.len(), 3);
    for (answer, told) in answers[1..4].iter().zip([
        ["chat_completions", "spend_limit_reached", "key_spend_limit"],
        ["key", "", ""],
        ["chat_completions", "model_not_found", ""],
    ]) {
        let is_it = |row: &&SqliteRow| row.get::<Option<&str>, _>("request_id") == answer.header("x-request-id");
        let row = noted.iter().find(is_it).expect("it is noted");
        let text = |column: &str| row.get::<Option<String>, _>(column).unwrap_or_default();
        assert_eq!(["route", "error", "limit_source"].map(text), told);
        assert_eq!(text("key_id"), poor.id);
    }
    assert_eq!(gateway.books_of(1).len(), 1);
}

#[test]
fn a_key_that_nears_its_limit_is_told_of_once() {
    let gateway = Gateway::start();
    let key = gateway.create_key(&["--limit", "0.001"]);
    let call = Call::chat("count up").with("max_tokens", 21);
    for _ in 0..3 {
        assert_eq!(gateway.call_with(&key, &call).status, 200);
    }
    let rows = gateway.books_of(3);
    let charged: i64 = rows.iter().map(|row| row.charge_nano).sum();
    assert!((800_000..1_000_000).contains(&charged), "{charged}");
    for (percent, times) in [(50, 1.0), (80, 1.0), (100, 0.0)] {
        let label = format!("percent=\"{percent}\"");
        assert_eq!(gateway.metric("tollgate_quota_thresholds_total", &[&label]), times, "{percent}");
    }
    eventually("the log tells of both", || {
        Some(gateway.log().matches("a quota has reached a threshold").count()).filter(|times| *times == 2)
    });
    let used = gateway.tollgate(&["usage", "--key", &key.id, "--by", "model"]);
    assert_eq!(used["calls"], 3);
    assert_eq!(used["output_tokens"], rows.iter().map(|row| row.output_tokens).sum::<i64>());
    let shown = gateway.tollgate(&["key", "show", &key.id]);
    let started = gateway.rows("SELECT MAX(started_ms) AS at FROM calls")[0].get::<i64, _>("at");
    assert_eq!(shown["last_used_ms"], started);
    let audit = gateway.audit();
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
}

#[test]
fn other_prices_are_tried_on_the_books_and_change_nothing() {
    let gateway = Gateway::start();
    let call = Call::chat("count up").with("max_tokens", 10);
    (0..3).for_each(|_| assert_eq!(gateway.call(&call).status, 200));
    let rows = gateway.books_of(3);
    let charged: i64 = rows.iter().map(|row| row.charge_nano).sum();
    let catalogue = gateway.config().with_file_name("models.toml");
    let text = std::fs::read_to_string(&catalogue).expect("the catalogue");
    std::fs::write(&catalogue, text.replace("output = '10'", "output = '12'")).expect("written");
    let reprice = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.arg("reprice").args(arguments).arg("--config").arg(gateway.config()).output().expect("it starts")
    };
    let output = reprice(&["--dry-run", "--since", "1h", "--org", &gateway.org, "--json"]);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 2, "{printed}");
    for line in &lines {
        let object: serde_json::Value = serde_json::from_str(line).expect("an object");
        assert_eq!([&object["calls"], &object["changed"], &object["unpriced"]], [3, 3, 0]);
        // Ten tokens more dearly in each of three calls.
        let figures = ["charged", "repriced", "difference"].map(|field| nano(raw(line, field)));
        assert_eq!(figures, [charged, charged + 3 * 10 * 2_000, 3 * 10 * 2_000]);
    }
    assert!(lines[0].contains("\"model\":\"gpt-4o-mini\"") && lines[1].contains("\"model\":null"), "{printed}");
    assert_eq!(gateway.books(), rows);
    let refused = reprice(&[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--dry-run"));
}

#[test]
fn the_audit_lists_each_account_and_what_is_leased() {
    let gateway = Gateway::start();
    let key = gateway.create_key(&["--limit", "5", "--strict"]);
    (0..3).for_each(|_| assert_eq!(gateway.call_with(&key, &Call::chat("count up")).status, 200));
    let charged: i64 = gateway.books_of(3).iter().map(|row| row.charge_nano).sum();
    gateway.tollgate(&["key", "limit", &key.id, "--limit", "0.00001"]);
    let line = gateway.tollgate(&["audit"]);
    assert_eq!((&line["clean"], &line["first_broken"]), (&true.into(), &serde_json::Value::Null), "{line}");
    let account = &line["accounts"][0];
    let amount = |field: &str| nano(&account[field].to_string());
    assert_eq!(account["org"], *gateway.org);
    assert_eq!(amount("charges"), charged);
    assert_eq!(amount("opening") + amount("top_ups") + amount("refunds") - amount("charges"), amount("balance"));
    let lowered = &line["lowered"];
    assert_eq!((&lowered["count"], &lowered["named"][0]["owner"]), (&1.into(), &key.id.clone().into()), "{line}");
    assert_eq!(nano(&lowered["sum"].to_string()), charged - 10_000);
    assert!(line["nodes"][0]["leases"].as_i64() >= Some(2), "{line}");
}
