//! What is asked of a server for each command.

use super::super::credential::{CredentialCommand, NewArguments, Which, read_secret};
use super::super::credits::{CreditsCommand, Days};
use super::super::org::OrgCommand;
use super::super::project::ProjectCommand;
use super::super::trail::TrailCommand;
use super::super::usage::{By, UsageCommand};
use super::super::webhook::{Owner, WebhookCommand};
use super::super::{CliError, Command};
use super::{OWN_ORG, ask_keys, ask_people, limits};
use filters::id::{OrgId, WebhookId};
use filters::time::EpochMs;
use http::Method;
use serde_json::{Value, json};

const ORGS: &[&str] = &["id", "name", "role", "created_at", "suspended_at"];
const ENTRIES: &[&str] = &["id", "created_at", "kind", "amount_usd", "call", "reason", "actor"];
const PROJECTS: &[&str] = &["id", "name", "keys", "spent_usd", "created_at"];
const TRAIL: &[&str] = &["at", "actor_kind", "actor", "role", "action", "object"];
const WEBHOOKS: &[&str] = &["id", "url", "events", "enabled", "description"];
const DELIVERIES: &[&str] = &["id", "event", "type", "status", "attempts", "next_at"];
const CREDENTIALS: &[&str] =
    &["id", "name", "provider", "fingerprint", "enabled", "fallback", "created_at", "last_used_at"];
const USAGE: &[&str] =
    &["start", "group", "calls", "estimated_calls", "input_tokens", "cache_read_tokens", "output_tokens", "cost_usd"];

/// A request to a control plane.
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) body: Option<Value>,
    pub(super) shown: Shown,
}

/// What of the answer is shown.
pub(super) enum Shown {
    /// The object that it is.
    Object,
    /// A list that comes in pages, with these columns, up to so many.
    Pages(&'static [&'static str], usize),
    /// A list that comes as a whole, with these columns.
    Rows(&'static [&'static str]),
    /// Nothing comes: a sentence says what was done.
    Sentence(String),
}

impl Ask {
    pub(super) fn new(method: Method, path: impl Into<String>, shown: Shown) -> Self {
        Self { method, path: path.into(), query: Vec::new(), body: None, shown }
    }

    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path, Shown::Object)
    }

    pub(super) fn post(path: impl Into<String>, body: Value) -> Self {
        Self::new(Method::POST, path, Shown::Object).with(body)
    }

    pub(super) fn patch(path: impl Into<String>, body: Value) -> Self {
        Self::new(Method::PATCH, path, Shown::Object).with(body)
    }

    pub(super) fn delete(path: impl Into<String>, sentence: String) -> Self {
        Self::new(Method::DELETE, path, Shown::Sentence(sentence))
    }

    /// A list of all that there is.
    pub(super) fn list(path: impl Into<String>, columns: &'static [&'static str]) -> Self {
        Self::new(Method::GET, path, Shown::Pages(columns, usize::MAX))
    }

    pub(super) fn with(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    /// The same, with those parameters that are said.
    pub(super) fn asking<const N: usize>(mut self, query: [(&'static str, Option<String>); N]) -> Self {
        self.query.extend(query.into_iter().filter_map(|(name, text)| Some((name, text?))));
        self
    }
}

/// What a server is asked for a command.
pub(super) fn of(command: &Command, now: EpochMs) -> Result<Ask, CliError> {
    match command {
        Command::Org(command) => of_org(command, now),
        Command::Project(command) => of_project(command, now),
        Command::Key(command) => ask_keys::of(command, now),
        Command::User(command) => ask_people::of_user(command),
        Command::Member(command) => ask_people::of_member(command),
        Command::Trail(command) => Ok(of_trail(command, now)),
        Command::Webhook(command) => of_webhook(command),
        Command::Credential(command) => of_credential(command),
        Command::Usage(command) => Ok(of_usage(command, now)),
        Command::Node(_) => at_the_books("node"),
        Command::Audit(_) => at_the_books("audit"),
        Command::Reprice(_) => at_the_books("reprice"),
        Command::Backup(_) => at_the_books("backup"),
        Command::Restore(_) => at_the_books("restore"),
        Command::Login(_) | Command::Logout(_) => at_the_books("login"),
    }
}

/// What no server does from afar.
fn at_the_books(command: &str) -> Result<Ask, CliError> {
    not_from_afar(&format!("`tollgate {command}` works on the books themselves"))
}

/// Why something can't be asked of a server.
pub(super) fn not_from_afar<T>(why: &str) -> Result<T, CliError> {
    Err(CliError::BadInput(format!("{why}: run it beside the gateway, with --data or --config")))
}

/// A moment as servers read it.
pub(super) fn stamp(moment: EpochMs) -> String {
    jiff::Timestamp::from_millisecond(moment.0).unwrap_or(jiff::Timestamp::MAX).to_string()
}

fn of_org(command: &OrgCommand, now: EpochMs) -> Result<Ask, CliError> {
    Ok(match command {
        OrgCommand::Create { name, limits, .. } => {
            Ask::post("/api/orgs", json!({"name": name, "limits": limits::of(&limits.named(now)?)}))
        }
        OrgCommand::List { .. } => Ask::list("/api/orgs", ORGS),
        OrgCommand::Show { id, .. } => Ask::get(format!("/api/orgs/{id}")),
        OrgCommand::Limit { id, limits, .. } => {
            Ask::patch(format!("/api/orgs/{id}"), json!({"limits": limits::of(&limits.changes(now)?)}))
        }
        OrgCommand::Suspend { id, .. } => Ask::new(Method::POST, format!("/api/orgs/{id}/suspend"), Shown::Object),
        OrgCommand::Resume { id, .. } => Ask::new(Method::POST, format!("/api/orgs/{id}/resume"), Shown::Object),
        OrgCommand::Topup { id, usd, reason, .. } => {
            let body = json!({"amount_usd": usd.to_string(), "reason": reason});
            Ask::post(format!("/api/orgs/{id}/credits/topups"), body)
        }
        OrgCommand::Credits(command) => of_credits(command),
    })
}

fn of_credits(command: &CreditsCommand) -> Ask {
    match command {
        CreditsCommand::Adjust { id, usd, reason, force, .. } => {
            let body = json!({"amount_usd": usd.to_string(), "reason": reason, "force": force});
            Ask::post(format!("/api/orgs/{id}/credits/adjustments"), body)
        }
        CreditsCommand::Refund { id, usd, reason, call, .. } => {
            let call = call.map(|call| call.to_string());
            let body = json!({"amount_usd": usd.to_string(), "reason": reason, "call": call});
            Ask::post(format!("/api/orgs/{id}/credits/refunds"), body)
        }
        CreditsCommand::Entries { id, .. } => Ask::list(format!("/api/orgs/{id}/credits/entries"), ENTRIES),
        CreditsCommand::Statement { id, month, .. } => Ask::get(format!("/api/orgs/{id}/statements/{month}")),
        CreditsCommand::Retention { id, days, .. } => {
            let path = format!("/api/orgs/{id}/retention");
            match days {
                None => Ask::get(path),
                Some(Days(days)) => Ask::new(Method::PUT, path, Shown::Object).with(json!({"days": days})),
            }
        }
    }
}

fn of_project(command: &ProjectCommand, now: EpochMs) -> Result<Ask, CliError> {
    let below = |org: Option<OrgId>, id| {
        let org = org.map_or_else(|| OWN_ORG.to_owned(), |org| org.to_string());
        format!("/api/orgs/{org}/projects/{id}")
    };
    Ok(match command {
        ProjectCommand::Create { name, org, limits, .. } => {
            let body = json!({"name": name, "limits": limits::of(&limits.named(now)?)});
            Ask::post(format!("/api/orgs/{org}/projects"), body)
        }
        ProjectCommand::List { org, .. } => Ask::list(format!("/api/orgs/{org}/projects"), PROJECTS),
        ProjectCommand::Show { id, org, .. } => Ask::get(below(*org, id)),
        ProjectCommand::Limit { id, org, limits, .. } => {
            Ask::patch(below(*org, id), json!({"limits": limits::of(&limits.changes(now)?)}))
        }
    })
}

fn of_trail(command: &TrailCommand, now: EpochMs) -> Ask {
    let TrailCommand { org, action, actor, object, since, place: _ } = command;
    let path = org.map_or_else(|| "/api/trail".to_owned(), |org| format!("/api/orgs/{org}/trail"));
    Ask::list(path, TRAIL).asking([
        ("action", action.clone()),
        ("actor", actor.clone()),
        ("object", object.clone()),
        ("from", since.map(|since| stamp(since.before(now)))),
    ])
}

fn of_usage(command: &UsageCommand, now: EpochMs) -> Ask {
    let UsageCommand { key, org, since, by, place: _ } = command;
    let by = match by {
        By::Day => "day",
        By::Model => "model",
        By::Key => "key",
        By::Provider => "provider",
        By::Project => "project",
        By::User => "user",
        By::Tag => "tag",
    };
    Ask::new(Method::GET, "/api/usage", Shown::Rows(USAGE)).asking([
        ("key", key.map(|key| key.to_string())),
        ("org", org.map(|org| org.to_string())),
        ("from", Some(stamp(since.before(now)))),
        ("by", Some(by.to_owned())),
    ])
}

fn of_webhook(command: &WebhookCommand) -> Result<Ask, CliError> {
    let webhooks = |owner: &Owner| match owner.org {
        Some(org) => Ok(format!("/api/orgs/{org}/webhooks")),
        None => not_from_afar("the operator's own webhooks are kept on the books themselves"),
    };
    let one = |owner: &Owner, id: &WebhookId| Ok::<_, CliError>(format!("{}/{id}", webhooks(owner)?));
    Ok(match command {
        WebhookCommand::Create { url, owner, events, description, .. } => {
            Ask::post(webhooks(owner)?, json!({"url": url, "events": events, "description": description}))
        }
        WebhookCommand::List { owner, .. } => Ask::list(webhooks(owner)?, WEBHOOKS),
        WebhookCommand::Enable { id, owner, .. } => Ask::patch(one(owner, id)?, json!({"enabled": true})),
        WebhookCommand::Disable { id, owner, .. } => Ask::patch(one(owner, id)?, json!({"enabled": false})),
        WebhookCommand::RotateSecret { id, owner, overlap_hours, .. } => {
            let body = json!({"overlap_seconds": u32::from(*overlap_hours) * 3_600});
            Ask::post(format!("{}/rotate-secret", one(owner, id)?), body)
        }
        WebhookCommand::Test { id, owner, .. } => {
            Ask::new(Method::POST, format!("{}/test", one(owner, id)?), Shown::Object)
        }
        WebhookCommand::Deliveries { id, owner, .. } => {
            Ask::list(format!("{}/deliveries", one(owner, id)?), DELIVERIES)
        }
        WebhookCommand::Redeliver { id, delivery, owner, .. } => {
            let path = format!("{}/deliveries/{delivery}/redeliver", one(owner, id)?);
            Ask::new(Method::POST, path, Shown::Object)
        }
        WebhookCommand::Delete { id, owner, .. } => Ask::delete(one(owner, id)?, format!("{id} is deleted.")),
    })
}

fn of_credential(command: &CredentialCommand) -> Result<Ask, CliError> {
    let one = |Which { id, org }: &Which| format!("/api/orgs/{org}/credentials/{id}");
    Ok(match command {
        CredentialCommand::Create { new, .. } => {
            let NewArguments { org, provider, secret_file, name, base_url, models, priority, weight, fallback } =
                &**new;
            let models: Vec<&str> = models.iter().map(|glob| &*glob.0).collect();
            let body = json!({
                "provider": provider, "secret": read_secret(secret_file)?.reveal(), "name": name, "base_url": base_url,
                "models": models, "priority": priority, "weight": weight, "fallback": fallback,
            });
            Ask::post(format!("/api/orgs/{org}/credentials"), body)
        }
        CredentialCommand::List { org, .. } => Ask::list(format!("/api/orgs/{org}/credentials"), CREDENTIALS),
        CredentialCommand::Show { which, .. } => Ask::get(one(which)),
        CredentialCommand::Rotate { which, secret_file, .. } => {
            Ask::post(format!("{}/rotate", one(which)), json!({"secret": read_secret(secret_file)?.reveal()}))
        }
        CredentialCommand::Disable { which, .. } => Ask::patch(one(which), json!({"enabled": false})),
        CredentialCommand::Enable { which, .. } => Ask::patch(one(which), json!({"enabled": true})),
        CredentialCommand::Delete { which, .. } => Ask::delete(one(which), format!("{} is deleted.", which.id)),
        CredentialCommand::Rewrap { .. } => return at_the_books("credential rewrap"),
    })
}
