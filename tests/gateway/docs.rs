//! The documents' own commands, run as they stand: what does not work any more is found here before a reader does.

use crate::support::{Gateway, PASSWORD, Setup, Upstream};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// Everything between ```sh and ``` of a document, in order.
fn commands(document: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(document);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let blocks = text.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap_or_default());
    let script: String = blocks.collect();
    assert!(!script.is_empty(), "{document} has no commands");
    script
}

/// Runs a document's commands in a directory, with variables for what it takes as given.
fn run(document: &str, directory: &Path, variables: &[(&str, &str)]) {
    let binary = Path::new(env!("CARGO_BIN_EXE_tollgate")).parent().expect("a directory");
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").expect("a path"));
    let output = Command::new("bash")
        .args([
            "-euo",
            "pipefail",
            "-c",
            &format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{}", commands(document)),
        ])
        .current_dir(directory)
        .env("PATH", path)
        .envs(variables.iter().copied())
        .output()
        .expect("bash can be started");
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{document}: {}\n{said}\n{log}", output.status);
}

#[test]
fn an_operators_first_day() {
    let directory = tempfile::tempdir().expect("a directory");
    let setup = Setup::new().upstream(Upstream::openai("openai", "http://127.0.0.1:9/v1"));
    let [control, metrics] = setup.write_for_others(directory.path());
    run("operator.md", directory.path(), &[("CONTROL", &control), ("METRICS", &metrics)]);
}

#[test]
fn an_organisation_admins_first_day() {
    let gateway = Gateway::start();
    gateway.member("owner");
    let directory = tempfile::tempdir().expect("a directory");
    let address = format!("http://{}", gateway.address);
    let variables =
        [("GATEWAY", &*address), ("ORG", &*gateway.org), ("EMAIL", "owner@example.com"), ("PASSWORD", PASSWORD)];
    run("organisation.md", directory.path(), &variables);
}

#[test]
fn a_developers_first_day() {
    let gateway = Gateway::start();
    let directory = tempfile::tempdir().expect("a directory");
    let address = format!("http://{}", gateway.address);
    run("developer.md", directory.path(), &[("GATEWAY", &address), ("API_KEY", &gateway.key.token)]);
}

#[test]
fn a_key_is_rotated_without_downtime() {
    let gateway = Gateway::start();
    let (_, user) = gateway.member("owner");
    assert!(user.starts_with("user_"));
    let session =
        gateway.control_of("").make("/api/sessions", &json!({"email": "owner@example.com", "password": PASSWORD}));
    let directory = tempfile::tempdir().expect("a directory");
    let address = format!("http://{}", gateway.address);
    let variables = [
        ("GATEWAY", &*address),
        ("SESSION", session["token"].as_str().expect("a token")),
        ("KEY_ID", &*gateway.key.id),
        ("API_KEY", &*gateway.key.token),
    ];
    run("key-rotation.md", directory.path(), &variables);
}

/// The table of `docs/control-plane.md`, from the document that the control plane serves.
fn table(document: &Value) -> String {
    let mut table = "| method | path | needs | body | answer |\n|---|---|---|---|---|\n".to_owned();
    for (path, item) in document["paths"].as_object().expect("paths") {
        if path.starts_with("/v1/api-keys") {
            continue;
        }
        for method in ["get", "post", "put", "patch", "delete"] {
            let operation = &item[method];
            let Some(needs) = operation["x-needs"].as_str() else { continue };
            let body = fields(document, &operation["requestBody"]["content"]["application/json"]["schema"]);
            let answers = operation["responses"].as_object().expect("answers");
            let good = answers.iter().filter(|(status, _)| status.starts_with('2'));
            let answer = good.map(|(status, answer)| {
                let schema = &answer["content"]["application/json"]["schema"];
                let name = schema["$ref"].as_str().and_then(|name| name.rsplit('/').next()).unwrap_or_default();
                let list = name.split_once('_').map_or(name.to_owned(), |(outer, inner)| format!("{outer} of {inner}"));
                format!("{status} {list}").trim().to_owned()
            });
            let answer: Vec<_> = answer.collect();
            writeln!(table, "| {} | `{path}` | {needs} | {body} | {} |", method.to_uppercase(), answer.join(", "))
                .expect("a text grows");
        }
    }
    table
}

/// The names of a body's fields; those that must be there are set off.
fn fields(document: &Value, schema: &Value) -> String {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => &document["components"]["schemas"][reference.rsplit('/').next().expect("a name")],
        None => schema,
    };
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let names = schema["properties"].as_object().into_iter().flat_map(|fields| fields.keys());
    let named = names.map(|name| if required.contains(&json!(name)) { format!("**{name}**") } else { name.clone() });
    named.collect::<Vec<_>>().join(", ")
}

#[test]
fn the_table_of_routes_is_the_one_that_is_served() {
    let gateway = Gateway::start();
    let served = table(&gateway.operator().read("/openapi.json"));
    let published = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/control-plane.md");
    let text = std::fs::read_to_string(&published).unwrap_or_default();
    let at = text.find("| method |").unwrap_or(text.len());
    if text[at..] != served {
        let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join("control-plane.md");
        std::fs::write(&new, format!("{}{served}", &text[..at])).expect("it can be written");
        panic!("docs/control-plane.md is not what is served: look at {} and put it there", new.display());
    }
}
