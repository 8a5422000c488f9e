//! The commands as people type them, on a temporary directory.

use super::*;
use clap::Parser;
use serde_json::Value;
use std::path::Path;

const NOW: EpochMs = EpochMs(1_800_000_000_000);

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Runs a command line; `DIR` stands for the data directory. Gives the exit code and what was printed.
async fn type_in(dir: &Path, line: &str) -> (u8, String) {
    let dir = dir.to_str().expect("a plain path");
    let words = line.split_whitespace().map(|word| word.replace("DIR", dir));
    let arguments = std::iter::once("tollgate".to_owned()).chain(words);
    let command = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments.command,
        Err(problem) => return (2, problem.to_string()),
    };
    let mut out = Vec::new();
    let surroundings = Surroundings { now: NOW, out: &mut out };
    let (code, problem) = match run(command, surroundings).await {
        Ok(code) => (code, String::new()),
        Err(problem) => (problem.exit_code(), problem.to_string()),
    };
    let printed = String::from_utf8(out).expect("text") + &problem;
    let codes = [ExitCode::SUCCESS, ExitCode::FAILURE, ExitCode::from(2)];
    let number = codes.iter().position(|known| format!("{known:?}") == format!("{code:?}"));
    (number.expect("0, 1 or 2") as u8, printed)
}

async fn objects(dir: &Path, line: &str) -> Vec<Value> {
    let (code, printed) = type_in(dir, &format!("{line} --data DIR --json")).await;
    assert_eq!(code, 0, "{printed}");
    let lines = printed.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("an object a line")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

#[tokio::test]
async fn organisations_are_made_topped_up_and_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let made = objects(dir.path(), "org create Acme").await;
    let id = text(&made[0]["id"]);
    let topped_up = format!("org topup {id} 100.000000001 --data DIR --json");
    let (_, printed) = type_in(dir.path(), &topped_up).await;
    assert!(printed.contains("\"balance\":100.000000001,"), "{printed}");
    let listed = objects(dir.path(), "org list").await;
    assert_eq!((listed.len(), text(&listed[0]["id"])), (1, id));
    let (code, shown) = type_in(dir.path(), &format!("org show {id} --data DIR")).await;
    assert!(code == 0 && shown.contains("balance    $100.000000001"), "{shown}");
    let (_, table) = type_in(dir.path(), "org list --data DIR").await;
    assert!(table.starts_with("ID "), "{table}");
}

#[tokio::test]
async fn keys_are_made_listed_disabled_and_enabled() {
    let dir = tempfile::tempdir().expect("a directory");
    let made = objects(dir.path(), "org create Acme").await;
    let org = text(&made[0]["id"]);
    let options = "--limit 25.5 --rpm 60 --tpm 1000 --concurrency 3 --model gpt-* --provider openai --expires 90d";
    let line = format!("key create --org {org} --name ci {options}");
    let key = objects(dir.path(), &line).await.remove(0);
    assert!(text(&key["token"]).starts_with("tg_live_"));
    let id = text(&key["id"]);
    let shown = objects(dir.path(), &format!("key show {id}")).await.remove(0);
    assert_eq!(shown["limit"].to_string(), "25.5");
    assert_eq!(shown["rpm"], 60);
    assert_eq!(shown["models"][0], "gpt-*");
    assert_eq!(shown["scopes"].to_string(), r#"["model:invoke","usage:read"]"#);
    assert_eq!(shown["expires_ms"], NOW.0 + 90 * 86_400_000);
    assert!(!shown.to_string().contains(text(&key["token"])));
    for (verb, status) in [("disable", "disabled"), ("enable", "live")] {
        let changed = objects(dir.path(), &format!("key {verb} {id}")).await;
        assert_eq!(changed[0]["status"], status);
    }
    let many = objects(dir.path(), &format!("key create --org {org} --name n --count 300")).await;
    assert_eq!((many.len(), text(&many[299]["name"])), (300, "n-300"));
    let listed = objects(dir.path(), &format!("key list --org {org}")).await;
    assert_eq!(listed.len(), 301);
    let scoped = format!("key create --org {org} --name s --scope admin --scope keys:read");
    let key = objects(dir.path(), &scoped).await.remove(0);
    let shown = objects(dir.path(), &format!("key show {}", text(&key["id"]))).await;
    assert_eq!(shown[0]["scopes"].to_string(), r#"["keys:read","admin"]"#);
}

#[tokio::test]
async fn wrong_input_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let made = objects(dir.path(), "org create Acme").await;
    let org = text(&made[0]["id"]).to_owned();
    let stranger = "org_00000000000000000000000001";
    for (line, hint) in [
        (format!("org topup {org} 1e3"), "decimal number of dollars"),
        (format!("org topup {org} 0"), "more than 0"),
        (format!("org topup {stranger} 1"), "no organisation"),
        ("org show nonsense".to_owned(), "expected org_"),
        (format!("key create --org {stranger} --name x"), "no organisation"),
        (format!("key create --org {org} --name x --scope root"), "model:invoke"),
        (format!("key create --org {org} --name x --rpm 0"), "1.."),
        (format!("key create --org {org} --name x --expires yesterday"), "90d"),
        (format!("key create --org {org} --name x --expires 2001-01-01"), "past"),
        (format!("key create --org {org} --name x --limit=-1"), "0 or more"),
        (format!("key create --org {org} --name x --prefix a.b"), "prefix"),
        ("usage".to_owned(), "--key"),
        ("key show key_00000000000000000000000001".to_owned(), "no key"),
    ] {
        let (code, printed) = type_in(dir.path(), &format!("{line} --data DIR")).await;
        assert!(code == 2 && printed.contains(hint), "{line}: {code} {printed}");
    }
    let (code, printed) = type_in(dir.path(), "org list --data DIR/elsewhere").await;
    assert!(code == 2 && printed.contains("--data"), "{printed}");
    assert!(!dir.path().join("elsewhere").exists());
}

#[tokio::test]
async fn usage_and_audit_of_empty_books_are_empty_and_true() {
    let dir = tempfile::tempdir().expect("a directory");
    let made = objects(dir.path(), "org create Acme").await;
    let org = text(&made[0]["id"]);
    for by in ["day", "model", "key"] {
        let line = format!("usage --org {org} --since 30d --by {by}");
        assert!(objects(dir.path(), &line).await.is_empty());
    }
    let audit = objects(dir.path(), "audit").await.remove(0);
    assert_eq!((&audit["clean"], &audit["organisations"]), (&true.into(), &1.into()));
    let store = Store::open(dir.path()).await.expect("the store");
    let id = org.parse().expect("an organisation");
    store.top_up(id, filters::money::NanoUsd(7), "", NOW).await.expect("done");
    store.close().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.path().join("tollgate.db"));
    let other = sqlx::SqlitePool::connect_with(options).await.expect("open");
    let cooked = sqlx::query("UPDATE credits SET amount_nano = 8").execute(&other).await;
    cooked.expect("cooked");
    let (code, printed) = type_in(dir.path(), "audit --data DIR").await;
    assert!(code == 1 && printed.contains("BROKEN credits_are_the_limit"), "{printed}");
}
