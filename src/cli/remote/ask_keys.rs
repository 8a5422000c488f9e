//! What is asked of a server for commands about keys.

use super::super::CliError;
use super::super::calls::CallsCommand;
use super::super::key::{CreateKey, ImportKey, KeyCommand, OneKey, PREFIX, RotateKey};
use super::ask::{Ask, Shown, not_from_afar, stamp};
use super::limits;
use filters::id::KeyId;
use filters::key::Glob;
use filters::time::EpochMs;
use http::Method;
use serde_json::{Map, Value, json};

const KEYS: &[&str] = &["id", "name", "status", "limit", "usage", "expiresAt", "fingerprint"];
const CALLS: &[&str] = &[
    "started_at",
    "method",
    "endpoint",
    "model",
    "status",
    "error",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "latency_ms",
];

pub(super) fn of(command: &KeyCommand, now: EpochMs) -> Result<Ask, CliError> {
    Ok(match command {
        KeyCommand::Create(key) => Ask::post("/api/keys", Value::Object(new_key(key, now)?)),
        KeyCommand::Import(import) => {
            let ImportKey { sha256, key } = &**import;
            let digits: String = sha256.0.iter().map(|byte| format!("{byte:02x}")).collect();
            let mut body = new_key(key, now)?;
            body.insert("token_sha256".to_owned(), json!(digits));
            Ask::post("/api/keys", Value::Object(body))
        }
        KeyCommand::List { org, .. } => Ask::list("/api/keys", KEYS).asking([("org", Some(org.to_string()))]),
        KeyCommand::Show(OneKey { id, .. }) => Ask::get(path(id)),
        KeyCommand::Limit { id, limits, .. } => {
            Ask::patch(path(id), Value::Object(limits::of_key(&limits.changes(now)?)?))
        }
        KeyCommand::Rotate(RotateKey { grace, key }) => {
            // Lengths of time are typed in minutes at the least.
            Ask::post(format!("{}/rotate", path(&key.id)), json!({"grace": grace / 1_000}))
        }
        KeyCommand::Calls(calls) => of_calls(calls, now),
        KeyCommand::Disable(key) => change(key, "disable"),
        KeyCommand::Enable(key) => change(key, "enable"),
        KeyCommand::Archive(key) => change(key, "archive"),
        KeyCommand::Delete(OneKey { id, .. }) => Ask::delete(path(id), format!("Key {id} is deleted.")),
    })
}

fn path(id: &KeyId) -> String {
    format!("/api/keys/{id}")
}

fn change(key: &OneKey, verb: &str) -> Ask {
    Ask::new(Method::POST, format!("{}/{verb}", path(&key.id)), Shown::Object)
}

fn new_key(key: &CreateKey, now: EpochMs) -> Result<Map<String, Value>, CliError> {
    if key.count.is_some() {
        return not_from_afar("--count makes many keys at once, on the books themselves");
    }
    if key.prefix != PREFIX {
        return not_from_afar("what tokens begin with is configured at the server");
    }
    let patterns = |globs: &[Glob]| globs.iter().map(|glob| glob.0.to_string()).collect::<Vec<_>>();
    let addresses: Vec<String> = key.addresses.iter().map(ToString::to_string).collect();
    let mut body = limits::of_key(&key.limits.named(now)?)?;
    let fields = json!({
        "org": key.org.to_string(),
        "name": key.name,
        "description": key.description,
        "models": patterns(&key.models),
        "providers": patterns(&key.providers),
        "ip_allowlist": addresses,
    });
    if let Value::Object(fields) = fields {
        body.extend(fields);
    }
    let scopes: Vec<&str> = key.scopes.iter().flat_map(|scopes| scopes.names()).collect();
    let more = [
        ("project", key.project.map(|project| json!(project.to_string()))),
        ("expiresAt", key.expires.map(|expires| json!(stamp(expires.after(now))))),
        ("scopes", (!scopes.is_empty()).then(|| json!(scopes))),
    ];
    body.extend(more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    Ok(body)
}

fn of_calls(command: &CallsCommand, now: EpochMs) -> Ask {
    let CallsCommand { id, limit, since, status, model, error, place: _ } = command;
    let status =
        status.map(|(first, last)| if first == last { first.to_string() } else { format!("{}xx", first / 100) });
    let shown = Shown::Pages(CALLS, usize::try_from(*limit).unwrap_or(usize::MAX));
    Ask::new(Method::GET, format!("{}/calls", path(id)), shown).asking([
        ("from", Some(stamp(since.before(now)))),
        ("status", status),
        ("model", model.clone()),
        ("error", error.clone()),
    ])
}
