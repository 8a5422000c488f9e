//! The documents' own commands, run as they stand: what does not work any more is found here before a reader does.

use crate::support::{Gateway, PASSWORD, Setup, Upstream};
use serde_json::json;
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
