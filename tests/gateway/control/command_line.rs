//! The command line as somebody far from the books uses it: `--server`, a token or a login, and what it says when that fails.

use crate::support::{Call, Gateway, OPERATOR, PASSWORD, eventually, run_with};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

/// Somebody with a home and perhaps a token.
struct Person {
    home: tempfile::TempDir,
    server: String,
    token: &'static str,
}

impl Person {
    fn of(gateway: &Gateway, token: &'static str) -> Self {
        Self::at(&format!("http://{}", gateway.control), token)
    }

    fn at(server: &str, token: &'static str) -> Self {
        Self { home: tempfile::tempdir().expect("a temporary directory"), server: server.to_owned(), token }
    }

    fn types(&self, line: &str, input: &str) -> Output {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let home = self.home.path().to_str().expect("a plain name");
        let environment =
            [("XDG_CONFIG_HOME", home), ("TOLLGATE_SERVER", &self.server), ("TOLLGATE_TOKEN", self.token)];
        run_with(&arguments, &environment, input)
    }

    /// What a command that succeeds prints, an object a line.
    fn objects(&self, line: &str, input: &str) -> Vec<Value> {
        let output = self.types(&format!("{line} --json"), input);
        assert!(output.status.success(), "{line}: {}", problem(&output));
        let text = printed(&output);
        text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
    }

    fn object(&self, line: &str) -> Value {
        let mut objects = self.objects(line, "");
        assert_eq!(objects.len(), 1, "{line}");
        objects.remove(0)
    }

    /// How a command fails, and what it says.
    fn fails(&self, line: &str) -> (Option<i32>, String) {
        let output = self.types(line, "");
        assert!(!output.status.success(), "{line}: {}", printed(&output));
        (output.status.code(), problem(&output))
    }
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn problem(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

#[test]
fn organisations_their_money_and_their_projects_are_kept_from_afar() {
    let gateway = Gateway::start();
    let person = Person::of(&gateway, OPERATOR);
    let org = text(&person.object("org create Acme --limit 50 --period month --zone Europe/Berlin --rpm 60")["id"]);
    let shown = person.object(&format!("org show {org}"));
    assert_eq!(shown["limits"].as_array().map(Vec::len), Some(2), "{shown}");
    assert_eq!(person.object(&format!("org topup {org} 10.000000001"))["amount_usd"], "10.000000001");
    assert_eq!(person.object(&format!("org adjust {org} -1 --reason goodwill"))["kind"], "adjustment");
    assert_eq!(person.object(&format!("org refund {org} 0.5 --reason outage"))["amount_usd"], "0.5");
    assert_eq!(person.object(&format!("org show {org}"))["balance_usd"], "9.500000001");
    let entries = person.objects(&format!("org entries {org}"), "");
    assert_eq!(entries.iter().map(|entry| text(&entry["kind"])).collect::<Vec<_>>(), ["refund", "adjustment", "topup"]);
    let month = text(&entries[0]["created_at"])[..7].to_owned();
    assert_eq!(person.object(&format!("org statement {org} {month}"))["closing_usd"], "9.500000001");
    assert_eq!(person.object(&format!("org retention {org} 30"))["days"], 30);
    assert_eq!(person.object(&format!("org retention {org} default"))["days"], Value::Null);
    assert!(person.object(&format!("org suspend {org}"))["suspended_at"].is_string());
    assert!(person.object(&format!("org resume {org}"))["suspended_at"].is_null());
    let removed = person.object(&format!("org limit {org} --rpm none --limit 7 --period week --align rolling"));
    let kinds: Vec<String> =
        removed["limits"].as_array().expect("limits").iter().map(|limit| text(&limit["kind"])).collect();
    assert_eq!(kinds, ["spend", "spend"], "{removed}");

    let project = text(&person.object(&format!("project create web --org {org} --tpm 1000"))["id"]);
    assert_eq!(person.object(&format!("project show {project} --org {org}"))["name"], "web");
    person.object(&format!("project limit {project} --org {org} --tpm none"));
    let limited = person.object(&format!("project limit {project} --org {org} --concurrency 3 --model gpt-*"));
    assert_eq!(limited["limits"][0]["kind"], "concurrency", "{limited}");
    assert_eq!(person.objects(&format!("project list --org {org}"), "").len(), 1);
    assert!(person.fails(&format!("project show {project}")).1.contains("--org"));
}

#[test]
fn keys_their_calls_and_usage_are_kept_from_afar() {
    let gateway = Gateway::start();
    let person = Person::of(&gateway, OPERATOR);
    let org = &gateway.org;
    let made = person.object(&format!(
        "key create --org {org} --name mine --limit 5 --period day --rpm 60 --model gpt-* --ip 127.0.0.0/8 --scope model:invoke --expires 30d"
    ));
    let key = text(&made["id"]);
    assert!(made["token"].is_string() && made["expiresAt"].is_string(), "{made}");
    assert_eq!((&made["rpm"], &made["models"][0]), (&Value::from(60), &Value::from("gpt-*")));
    let limited = person.object(&format!("key limit {key} --rpm none --tpm 100 --limit 2.5 --period day"));
    assert_eq!((&limited["rpm"], &limited["tpm"]), (&Value::Null, &Value::from(100)), "{limited}");
    assert!(person.object(&format!("key rotate {key} --grace 0"))["token"].is_string());
    for (verb, status) in [("disable", "disabled"), ("enable", "live")] {
        assert_eq!(person.object(&format!("key {verb} {key}"))["status"], status);
    }
    let digits = "0a".repeat(32);
    let imported = person.object(&format!("key import --sha256 {digits} --org {org} --name old"));
    assert_eq!(imported["token"], Value::Null);
    assert_eq!(person.objects(&format!("key list --org {org}"), "").len(), 3);
    assert!(printed(&person.types(&format!("key delete {key}"), "")).contains("is deleted"));

    assert_eq!(gateway.call(&Call::chat("hello")).status, 200);
    let used = eventually("the call is on the books", || {
        let calls = person.objects(&format!("key calls {} --limit 1 --status 2xx", gateway.key.id), "");
        calls.first().cloned()
    });
    assert_eq!(used["status"], 200);
    let sums = eventually("the sums are on the books", || {
        let sums = person.objects(&format!("usage --org {org} --by model"), "");
        (!sums.is_empty()).then_some(sums)
    });
    assert_eq!(sums[0]["calls"], 1, "{sums:?}");
    assert_eq!(person.object(&format!("key archive {}", gateway.key.id))["status"], "archived");
    let (code, problem) = person.fails(&format!("key delete {}", gateway.key.id));
    assert!(code == Some(1) && problem.contains("key_has_history") && problem.contains("request req_"), "{problem}");
}

#[test]
fn people_webhooks_credentials_and_the_trail_are_kept_from_afar() {
    let gateway = Gateway::start();
    let person = Person::of(&gateway, OPERATOR);
    let org = &gateway.org;
    let made = person.objects("user create ada@example.com --name Ada --password-file -", PASSWORD).remove(0);
    let user = text(&made["id"]);
    assert_eq!(person.objects("user list", "").len(), 1);
    assert!(person.object(&format!("user disable {user}"))["disabled_at"].is_string());
    assert!(person.object(&format!("user enable {user}"))["disabled_at"].is_null());
    person.objects(&format!("user password {user} --password-file -"), "another password of hers");
    assert_eq!(person.object(&format!("member add --org {org} --user {user} --role viewer"))["role"], "viewer");
    assert_eq!(person.object(&format!("member role --org {org} --user {user} --role admin"))["role"], "admin");
    assert_eq!(person.objects(&format!("member list --org {org}"), "").len(), 1);
    assert!(
        person.object(&format!("member invite --org {org} --email b@example.com --role viewer"))["token"].is_string()
    );
    assert!(person.types(&format!("member remove --org {org} --user {user}"), "").status.success());

    let hook = person.object(&format!("webhook create https://93.184.216.34/hook --org {org} --events credit.low"));
    let id = text(&hook["id"]);
    assert!(text(&hook["secret"]).starts_with("whsec_"));
    assert_eq!(person.object(&format!("webhook disable {id} --org {org}"))["enabled"], false);
    assert_eq!(person.object(&format!("webhook enable {id} --org {org}"))["enabled"], true);
    assert!(person.object(&format!("webhook rotate-secret {id} --org {org}"))["secret"].is_string());
    assert_eq!(person.objects(&format!("webhook list --org {org}"), "").len(), 1);
    assert!(person.objects(&format!("webhook deliveries {id} --org {org}"), "").is_empty());
    assert!(person.types(&format!("webhook delete {id} --org {org}"), "").status.success());

    let create = format!("credential create --org {org} --provider simulated-openai --secret-file - --fallback");
    let credential = text(&person.objects(&create, "sk-of-their-own-0123456789").remove(0)["id"]);
    person.objects(&format!("credential rotate {credential} --org {org} --secret-file -"), "sk-another-0123456789");
    assert_eq!(person.object(&format!("credential show {credential} --org {org}"))["version"], 2);
    assert_eq!(person.object(&format!("credential disable {credential} --org {org}"))["enabled"], false);
    assert_eq!(person.object(&format!("credential enable {credential} --org {org}"))["enabled"], true);
    assert_eq!(person.objects(&format!("credential list --org {org}"), "").len(), 1);
    assert!(person.types(&format!("credential delete {credential} --org {org}"), "").status.success());

    let removed = person.object(&format!("trail --org {org} --action member.remove --since 1d"));
    assert!(text(&removed["action"]) == "member.remove" && removed["actor_kind"] == "operator", "{removed}");
    assert!(person.objects("trail", "").len() > 10);
}

#[test]
fn lists_go_on_over_all_pages_and_are_tables_for_people() {
    let gateway = Gateway::start();
    let person = Person::of(&gateway, OPERATOR);
    for number in 0..101 {
        let new = serde_json::json!({"name": format!("project {number}")});
        gateway.operator().make(&format!("/api/orgs/{}/projects", gateway.org), &new);
    }
    let line = format!("project list --org {}", gateway.org);
    assert_eq!(person.objects(&line, "").len(), 101);
    let table = printed(&person.types(&line, ""));
    assert!(table.starts_with("ID ") && table.lines().count() == 102, "{table}");
    assert_eq!(table.matches("SPENT USD").count(), 1);
    let shown = printed(&person.types(&format!("org show {}", gateway.org), ""));
    assert!(shown.lines().any(|line| line.split_whitespace().eq(["balance_usd", "1000"])), "{shown}");
}

#[test]
fn whoever_signs_in_is_who_asks_until_they_sign_out() {
    let gateway = Gateway::start();
    gateway.member("owner");
    let person = Person::of(&gateway, "");
    let (code, problem) = person.fails("org list");
    assert!(code == Some(2) && problem.contains("tollgate login"), "{problem}");
    let wrong = person.types("login --email owner@example.com", "not their password\n");
    assert!(wrong.status.code() == Some(1) && self::problem(&wrong).contains("invalid_sign_in"));
    let signed_in = person.types("login --email owner@example.com", &format!("{PASSWORD}\n"));
    assert!(signed_in.status.success(), "{}", self::problem(&signed_in));
    assert!(!printed(&signed_in).contains("tg_session"));

    let file = person.home.path().join("tollgate/login.json");
    assert_eq!(mode(&file), 0o600);
    let mine = person.objects("org list", "");
    assert!(mine.iter().any(|org| org["id"] == gateway.org.as_str() && org["role"] == "owner"), "{mine:?}");
    assert!(person.fails("org create Mine").1.contains("route_scope_denied"));
    let elsewhere = person.types("org list --server http://127.0.0.1:9", "");
    assert!(self::problem(&elsewhere).contains("there is no token for http://127.0.0.1:9"));

    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("it is ours");
    assert!(person.fails("org list").1.contains("others may read"));
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("it is ours");

    let saved = std::fs::read_to_string(&file).expect("a file");
    let saved: Value = serde_json::from_str(&saved).expect("JSON");
    let session = text(&saved[&person.server]["token"]);
    assert_eq!(gateway.control_of(&session).get("/api/me").status, 200);
    assert!(person.types("logout", "").status.success());
    assert_eq!(gateway.control_of(&session).get("/api/me").status, 401);
    assert!(person.fails("org list").1.contains("tollgate login"));
    assert!(person.fails("logout").1.contains("nobody has signed in"));
}

#[test]
fn whoever_is_in_one_organisation_need_not_name_it() {
    let gateway = Gateway::start();
    gateway.user("ada@example.com");
    let person = Person::of(&gateway, "");
    assert!(person.types("login --email ada@example.com", PASSWORD).status.success());
    let org = text(&person.object("org list")["id"]);
    let project = text(&person.object(&format!("project create web --org {org}"))["id"]);
    assert_eq!(person.object(&format!("project show {project}"))["org"], org.as_str());
}

fn mode(file: &Path) -> u32 {
    std::fs::metadata(file).expect("a file").permissions().mode() & 0o777
}

#[test]
fn what_a_server_cannot_be_asked_says_so() {
    let gateway = Gateway::start();
    let person = Person::of(&gateway, OPERATOR);
    let org = &gateway.org;
    for line in [
        "node list".to_owned(),
        "audit".to_owned(),
        "backup copy".to_owned(),
        "restore copy".to_owned(),
        "credential rewrap".to_owned(),
        "webhook list --operator".to_owned(),
        format!("key create --org {org} --name many --count 5"),
        format!("key create --org {org} --name other --prefix other"),
        format!("key limit {} --limit 5 --increase 1 --until 7d", gateway.key.id),
        format!("member invite --org {org} --email b@example.com --role viewer --expires 1d"),
    ] {
        let (code, problem) = person.fails(&line);
        assert!(code == Some(2) && problem.contains("--data or --config"), "{line}: {problem}");
    }
    // An option that names the books goes before a server in the environment.
    let data = gateway.data();
    let local = person.object(&format!("org show {org} --data {}", data.display()));
    assert_eq!(local["balance"], 1000);
}

#[test]
fn wrong_tokens_and_servers_that_are_not_there_are_told() {
    let gateway = Gateway::start();
    let (code, problem) = Person::of(&gateway, "tg_op_nobody").fails("org list");
    assert!(code == Some(1) && problem.contains("request req_"), "{problem}");
    let (code, problem) = Person::at("http://127.0.0.1:9", OPERATOR).fails("org list");
    assert!(code == Some(1) && problem.contains("can't be reached"), "{problem}");
    let (code, problem) = Person::at("http://gate.example.com", OPERATOR).fails("org list");
    assert!(code == Some(2) && problem.contains("TOLLGATE_SERVER") && problem.contains("https"), "{problem}");
    // Something else that speaks HTTP.
    let (code, problem) = Person::at(&format!("http://{}", gateway.metrics), OPERATOR).fails("org list");
    assert!(code == Some(1) && problem.contains("is it the control plane"), "{problem}");
    let both = Person::of(&gateway, OPERATOR).fails("org list --server http://127.0.0.1:9 --data data");
    assert!(both.0 == Some(2) && both.1.contains("cannot be used with"), "{}", both.1);
}
