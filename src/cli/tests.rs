//! The commands as people type them, on a temporary directory.

mod people;

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
    assert!(code == 0 && shown.contains("balance       $100.000000001"), "{shown}");
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
        (format!("key create --org {org} --name x --rpm 0"), "from 1 to"),
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

/// An organisation, a project of it, and a key of that.
async fn house(dir: &Path) -> [String; 3] {
    let org = text(&objects(dir, "org create Acme").await[0]["id"]).to_owned();
    let project = text(&objects(dir, &format!("project create web --org {org}")).await[0]["id"]).to_owned();
    let line = format!("key create --org {org} --project {project} --name ci --limit 25");
    let key = text(&objects(dir, &line).await[0]["id"]).to_owned();
    [org, project, key]
}

#[tokio::test]
async fn projects_are_made_listed_and_shown_with_their_keys() {
    let dir = tempfile::tempdir().expect("a directory");
    let [org, project, key] = house(dir.path()).await;
    let shown = objects(dir.path(), &format!("project show {project}")).await.remove(0);
    assert_eq!((&shown["name"], &shown["org"], &shown["keys"]), (&"web".into(), &(*org).into(), &1.into()));
    assert_eq!((shown["spent"].to_string(), shown["limits"].to_string()), ("0".into(), "[]".into()));
    let listed = objects(dir.path(), &format!("project list --org {org}")).await;
    assert_eq!((listed.len(), &listed[0]), (1, &shown));
    let of_key = objects(dir.path(), &format!("key show {key}")).await.remove(0);
    assert_eq!(text(&of_key["project"]), project);
    let (_, table) = type_in(dir.path(), &format!("project list --org {org} --data DIR")).await;
    assert!(table.starts_with("ID ") && table.contains(&project), "{table}");
    let (code, printed) = type_in(dir.path(), &format!("key show {key} --data DIR")).await;
    assert!(code == 0 && printed.contains(&project) && printed.contains("$25 in all; spent $0"), "{printed}");
    let loose = objects(dir.path(), &format!("key create --org {org} --name x")).await.remove(0);
    let loose = objects(dir.path(), &format!("key show {}", text(&loose["id"]))).await.remove(0);
    assert_eq!((&loose["project"], &loose["limit"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn limits_are_set_changed_and_removed_on_keys_projects_and_organisations() {
    let dir = tempfile::tempdir().expect("a directory");
    let [org, project, _] = house(dir.path()).await;
    let key = objects(dir.path(), &format!("key create --org {org} --name x")).await.remove(0);
    for (noun, id) in [("key", text(&key["id"])), ("project", &project), ("org", &org)] {
        let limits = async |options: &str| {
            let printed = objects(dir.path(), &format!("{noun} limit {id} {options}")).await.remove(0);
            assert_eq!(printed, objects(dir.path(), &format!("{noun} show {id}")).await[0]);
            printed["limits"].as_array().expect("limits").clone()
        };
        let of_kind = |limits: &[Value], kind: &str| -> Vec<String> {
            let fits = limits.iter().filter(|limit| limit["kind"] == kind && limit["period"] != "total");
            fits.map(ToString::to_string).collect()
        };
        let options = "--limit 5.00 --period month --align calendar --zone Europe/Berlin --strict --model gpt-*";
        let set = of_kind(&limits(options).await, "spend");
        assert_eq!(
            set,
            [
                r#"{"align":"calendar","increase":null,"increase_until_ms":null,"kind":"spend","limit":5,"model":"gpt-*","period":"month","spent":0,"strict":true,"thresholds":[50,80,100],"zone":"Europe/Berlin"}"#
            ]
        );
        // Another amount leaves the rest as it is; more until a date leaves the amount.
        let changed = of_kind(&limits("--limit 7.5 --period month --zone Europe/Berlin --model gpt-*").await, "spend");
        assert_eq!(changed, [set[0].replace(":5,", ":7.5,")]);
        let more =
            "--increase 2 --until 7d --thresholds 90 --elastic --period month --zone Europe/Berlin --model gpt-*";
        let raised = of_kind(&limits(more).await, "spend");
        assert!(raised[0].contains(r#""limit":7.5,"#) && raised[0].contains(r#""increase":2,"#), "{raised:?}");
        let until = format!(r#""increase_until_ms":{}"#, NOW.0 + 7 * 86_400_000);
        assert!(raised[0].contains(&until), "{raised:?}");
        assert!(raised[0].contains(r#""strict":false,"thresholds":[90]"#), "{raised:?}");
        let rates = limits("--rpm 60 --tokens 1000 --period hour --limit 1").await;
        assert_eq!((of_kind(&rates, "requests").len(), of_kind(&rates, "tokens").len()), (1, 1));
        assert!(of_kind(&rates, "tokens")[0].contains(r#""align":"calendar""#));
        assert_eq!(of_kind(&rates, "spend").len(), 2);
        let fewer = limits("--rpm none --limit none --period hour").await;
        assert_eq!((of_kind(&fewer, "requests").len(), of_kind(&fewer, "spend").len()), (0, 1));
        let (code, printed) = type_in(dir.path(), &format!("{noun} limit {id} --rpm none --data DIR")).await;
        assert!(code == 2 && printed.contains("no such limit to remove"), "{printed}");
        let (code, printed) = type_in(dir.path(), &format!("{noun} show {id} --data DIR")).await;
        let sentence = "$7.5 a month in Europe/Berlin, of gpt-*, and $2 more until 2027-01-22; spent $0";
        assert!(code == 0 && printed.contains(sentence), "{printed}");
        assert!(printed.contains("1000 tokens a hour in UTC"), "{printed}");
    }
    let audit = objects(dir.path(), "audit").await.remove(0);
    assert_eq!(audit["clean"], true, "{audit}");
}

#[tokio::test]
async fn limits_can_be_set_when_something_is_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = "--limit 5 --period week --concurrency 3 --rpm 10";
    let org = objects(dir.path(), &format!("org create Acme {options}")).await.remove(0);
    let org = text(&org["id"]);
    let project = objects(dir.path(), &format!("project create p --org {org} {options} --model gpt-*")).await.remove(0);
    let key = objects(dir.path(), &format!("key create --org {org} --name k {options} --model gpt-*")).await.remove(0);
    let key = objects(dir.path(), &format!("key show {}", text(&key["id"]))).await.remove(0);
    let org = objects(dir.path(), &format!("org show {org}")).await.remove(0);
    // A key's `--model` is what it may use, not what a limit counts.
    assert_eq!((key["models"].to_string(), &key["limits"][1]["model"]), (r#"["gpt-*"]"#.to_owned(), &Value::Null));
    assert_eq!((&key["limit"], &key["rpm"], &key["concurrency"]), (&Value::Null, &10.into(), &3.into()));
    let kinds = |line: &Value| -> Vec<String> {
        let limits = line["limits"].as_array().expect("limits").iter();
        limits.map(|limit| format!("{} {} {}", text(&limit["kind"]), limit["limit"], text(&limit["period"]))).collect()
    };
    let expected = ["spend 5 week", "requests 10 minute", "concurrency 3 total"];
    assert_eq!(
        (kinds(&org), kinds(&project)),
        (expected.map(String::from).to_vec(), expected.map(String::from).to_vec())
    );
    assert_eq!(kinds(&key)[1..], expected);
    assert_eq!(kinds(&key)[0], "spend null total");
    assert_eq!(project["limits"][0]["model"], "gpt-*");
}

#[tokio::test]
async fn limits_that_make_no_sense_are_refused_with_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let [org, project, key] = house(dir.path()).await;
    for (options, hint) in [
        ("", "say what to limit"),
        ("--limit 5 --zone Europe/Berlin", "--zone needs --period"),
        ("--limit 5 --align calendar", "--align needs --period"),
        ("--limit 5 --period total --align rolling", "--align needs --period"),
        ("--limit 5 --period month --align rolling --zone UTC", "--zone goes with --align calendar"),
        ("--limit 5 --period month --zone Europe/Berln", "did you mean Europe/Berlin"),
        ("--limit 5 --period fortnight", "a period is total"),
        ("--period month", "name one of them"),
        ("--requests 5", "--period minute, hour or day"),
        ("--tokens 5 --period month", "--period minute, hour or day"),
        ("--tokens 5 --period hour --align rolling", "--align rolling is for money"),
        ("--rpm 5 --requests 6 --period minute", "one limit twice"),
        ("--rpm 5 --strict", "--strict is for money and concurrency"),
        ("--limit 5 --tpm 5 --strict", "--strict is for money and concurrency"),
        ("--tokens 5 --period hour --strict", "--strict is for money and concurrency"),
        ("--limit 5 --strict --elastic", "cannot be used with"),
        ("--limit 5 --increase 5", "--increase needs --until"),
        ("--limit 5 --until 7d", "--until needs --increase"),
        ("--limit 5 --increase 5 --until 2001-01-01", "past"),
        ("--limit 5 --increase=-5 --until 7d", "to lower a limit"),
        ("--limit 5 --thresholds 80,50", "rising order"),
        ("--limit 5 --thresholds 101", "from 1 to 100"),
        ("--limit 1e3", "decimal number"),
        ("--tpm 0", "from 1 to"),
        ("--concurrency many", "from 1 to"),
        ("--model gpt-*", "name the limit too"),
        ("--period day --strict", "say how much it is"),
        ("--concurrency none", "no such limit to remove"),
    ] {
        for line in [format!("key limit {key}"), format!("project limit {project}"), format!("org limit {org}")] {
            let (code, printed) = type_in(dir.path(), &format!("{line} {options} --data DIR")).await;
            assert!(code == 2 && printed.contains(hint), "{line} {options}: {code} {printed}");
        }
    }
    let other = text(&objects(dir.path(), "org create Other").await[0]["id"]).to_owned();
    let stranger = "00000000000000000000000001";
    for (line, hint) in [
        (format!("key create --org {other} --project {project} --name x"), "another organisation's"),
        (format!("key create --org {org} --project proj_{stranger} --name x"), "no project"),
        (format!("project create x --org org_{stranger}"), "no organisation"),
        (format!("project list --org org_{stranger}"), "no organisation"),
        (format!("project show proj_{stranger}"), "no project"),
        (format!("key limit key_{stranger} --rpm 5"), "no key"),
        (format!("project limit proj_{stranger} --rpm 5"), "no project"),
        (format!("org limit org_{stranger} --rpm 5"), "no organisation"),
    ] {
        let (code, printed) = type_in(dir.path(), &format!("{line} --data DIR")).await;
        assert!(code == 2 && printed.contains(hint), "{line}: {code} {printed}");
    }
    // None of it changed anything.
    let shown = objects(dir.path(), &format!("key show {key}")).await.remove(0);
    assert_eq!(shown["limits"].as_array().map(Vec::len), Some(1));
    for line in [format!("project show {project}"), format!("org show {org}")] {
        assert_eq!(objects(dir.path(), &line).await[0]["limits"].to_string(), "[]");
    }
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

#[tokio::test]
async fn webhooks_of_an_organisation_and_of_the_operator_are_kept_apart() {
    let dir = tempfile::tempdir().expect("a directory");
    let org = text(&objects(dir.path(), "org create Acme").await[0]["id"]).to_owned();
    let create = format!("webhook create https://hooks.example.com/a --org {org} --events key.expiring,credit.low");
    let made = objects(dir.path(), &create).await.remove(0);
    assert!(text(&made["secret"]).starts_with("whsec_"));
    let id = text(&made["id"]);
    let own = objects(dir.path(), "webhook create https://hooks.example.com/b --operator").await.remove(0);
    for (owner, only) in [(format!("--org {org}"), id), ("--operator".to_owned(), text(&own["id"]))] {
        let listed = objects(dir.path(), &format!("webhook list {owner}")).await;
        assert_eq!((listed.len(), text(&listed[0]["id"])), (1, only));
        assert_eq!(listed[0]["secret"], Value::Null);
    }
    let begun = objects(dir.path(), &format!("webhook test {id} --org {org}")).await.remove(0);
    let listed = objects(dir.path(), &format!("webhook deliveries {id} --org {org}")).await.remove(0);
    assert_eq!((&listed["id"], text(&listed["status"])), (&begun["id"], "waiting"));
    let rotated = objects(dir.path(), &format!("webhook rotate-secret {id} --org {org}")).await.remove(0);
    assert_ne!(rotated["secret"], made["secret"]);
    let disabled = objects(dir.path(), &format!("webhook disable {id} --org {org}")).await.remove(0);
    assert_eq!(disabled["enabled"], false);
    for (line, said) in [
        (format!("webhook delete {id} --operator --data DIR"), "there is no webhook"),
        (format!("webhook create https://a@b.example.com --org {org} --data DIR"), "user name"),
        (format!("webhook create https://b.example.com --org {org} --events nothing --data DIR"), "not one of"),
        ("webhook list --data DIR".to_owned(), "--org"),
    ] {
        let (code, printed) = type_in(dir.path(), &line).await;
        assert!(code == 2 && printed.contains(said), "{line}: {printed}");
    }
    objects(dir.path(), &format!("webhook delete {id} --org {org}")).await;
    assert!(objects(dir.path(), &format!("webhook list --org {org}")).await.is_empty());
}
