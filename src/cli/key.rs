//! `tollgate key`: keys, their limits and whether they may be used.

mod arguments;
mod text;

pub(super) use arguments::PREFIX;
pub(super) use arguments::{CreateKey, ImportKey, OneKey, RotateKey};
pub(super) use text::{read_name, read_pattern};

use super::limit::{self, LimitLine, NarrowedLimits};
use super::moment::date;
use super::print::{Printer, or_dash};
use super::{CliError, Place, Surroundings};
use crate::decimal::Usd;
use crate::store::keys::{IssuedKey, KEYS_PER_TRANSACTION, KeyRecord, NewKey};
use crate::store::limits::Owner;
use crate::store::quotas::PlainLimits;
use filters::id::{KeyId, OrgId};
use filters::key::Glob;
use filters::scope::{Scope, Scopes};
use filters::time::EpochMs;
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;

/// Most patterns of a key: each is compared on every call.
const PATTERNS_MAX: usize = 64;
const HEADINGS: [&str; 7] = ["ID", "NAME", "STATUS", "LIMIT", "SPENT", "EXPIRES", "KEY"];

/// What to do with keys.
#[derive(Debug, clap::Subcommand)]
pub enum KeyCommand {
    /// Make a key, or many. The token is shown this one time.
    Create(Box<CreateKey>),
    /// List an organisation's keys.
    List {
        /// The organisation, `org_…`.
        #[arg(long)]
        org: OrgId,
        #[command(flatten)]
        place: Place,
    },
    /// Show one key.
    Show(OneKey),
    /// Set, change or remove limits of a key.
    Limit {
        /// Its identifier, `key_…`.
        id: KeyId,
        #[command(flatten)]
        limits: Box<NarrowedLimits>,
        #[command(flatten)]
        place: Place,
    },
    /// Give a key a new token; the old one goes on for a while.
    Rotate(RotateKey),
    /// Make a key of a token that was issued elsewhere, by its SHA-256.
    Import(Box<ImportKey>),
    /// List a key's calls, the newest first.
    Calls(super::calls::CallsCommand),
    /// Refuse a key until it is enabled again.
    Disable(OneKey),
    /// Let a disabled key in again.
    Enable(OneKey),
    /// Put away a key that has been used, for good; what it did stays on the books.
    Archive(OneKey),
    /// Delete a key that was never used.
    Delete(OneKey),
}

#[derive(Serialize)]
struct IssuedLine<'a> {
    id: String,
    token: &'a str,
    org: String,
    name: &'a str,
}

#[derive(Serialize)]
struct KeyLine {
    id: String,
    org: String,
    project: Option<String>,
    name: String,
    description: String,
    kind: &'static str,
    fingerprint: String,
    status: &'static str,
    scopes: Vec<&'static str>,
    models: Vec<String>,
    providers: Vec<String>,
    ip_allowlist: Vec<String>,
    limit: Option<Usd>,
    spent: Usd,
    rpm: Option<i64>,
    tpm: Option<i64>,
    concurrency: Option<i64>,
    limits: Vec<LimitLine>,
    created_ms: i64,
    expires_ms: Option<i64>,
    last_used_ms: Option<i64>,
}

impl KeyLine {
    fn of(record: &KeyRecord, now: EpochMs) -> Self {
        let limits = PlainLimits::of(&record.limits, now);
        let texts = |patterns: &[Glob]| patterns.iter().map(|glob| glob.0.to_string()).collect();
        Self {
            id: record.id.to_string(),
            org: record.org.to_string(),
            project: record.project.map(|project| project.to_string()),
            name: record.name.clone(),
            description: record.description.clone(),
            kind: record.kind.name(),
            fingerprint: record.fingerprint.clone(),
            status: record.state(now),
            scopes: record.scopes.names().collect(),
            models: texts(&record.models),
            providers: texts(&record.providers),
            ip_allowlist: record.addresses.iter().map(ToString::to_string).collect(),
            limit: limits.spend.map(Usd),
            spent: Usd(record.spent()),
            rpm: limits.requests,
            tpm: limits.tokens,
            concurrency: limits.concurrency,
            limits: limit::lines(&record.limits),
            created_ms: record.created.0,
            expires_ms: record.expires.map(|expires| expires.0),
            last_used_ms: record.last_used.map(|at| at.0),
        }
    }
}

pub(super) async fn run(command: KeyCommand, surroundings: Surroundings<'_>) -> Result<ExitCode, CliError> {
    let Surroundings { now, out } = surroundings;
    match command {
        KeyCommand::Calls(command) => super::calls::run(command, Surroundings { now, out }).await?,
        KeyCommand::Create(arguments) => create(*arguments, now, out).await?,
        KeyCommand::List { org, place } => list(org, &place, now, out).await?,
        KeyCommand::Show(OneKey { id, place }) => {
            let record = place.open_store().await?.key(id, now).await?;
            place.printer(out).one(&KeyLine::of(&record, now), || describe(&record))?;
        }
        KeyCommand::Limit { id, limits, place } => {
            let changes = limits.changes(now)?;
            let store = place.open_store().await?;
            store.change_limits(Owner::Key(id), &changes, now).await?;
            let record = store.key(id, now).await?;
            place.printer(out).one(&KeyLine::of(&record, now), || describe(&record))?;
        }
        KeyCommand::Rotate(RotateKey { grace, key: OneKey { id, place } }) => {
            let store = place.open_store().await?;
            let (issued, record) = store.rotate_key(id, grace, PREFIX, now).await?;
            print_token(&issued, record.org, "Rotated", place.printer(out))?;
        }
        KeyCommand::Import(arguments) => {
            let ImportKey { sha256, key } = *arguments;
            let place = key.place.clone();
            if key.count.is_some() {
                return Err(CliError::BadInput("--count makes tokens: a token that is imported is one".to_owned()));
            }
            let (new, store) = (new_key(key, now)?, place.open_store().await?);
            let id = store.import_key(&new, sha256, now).await?;
            let record = store.key(id, now).await?;
            place.printer(out).one(&KeyLine::of(&record, now), || describe(&record))?;
        }
        KeyCommand::Disable(key) => change(key, Verb::Disable, now, out).await?,
        KeyCommand::Enable(key) => change(key, Verb::Enable, now, out).await?,
        KeyCommand::Archive(key) => change(key, Verb::Archive, now, out).await?,
        KeyCommand::Delete(OneKey { id, place }) => {
            let store = place.open_store().await?;
            let record = store.key(id, now).await?;
            store.delete_key(id, now).await?;
            let line = KeyLine { status: "deleted", ..KeyLine::of(&record, now) };
            place.printer(out).one(&line, || format!("Key {} ({id}) is deleted.", record.name))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(arguments: CreateKey, now: EpochMs, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
    let (place, count) = (arguments.place.clone(), arguments.count.unwrap_or(1));
    let new = new_key(arguments, now)?;
    let store = place.open_store().await?;
    if count == 1 {
        let issued = store.create_key(&new, now).await?;
        return print_token(&issued, new.org, "Made", place.printer(out));
    }
    let mut headings = Some(&["ID", "NAME", "TOKEN"][..]);
    for first in (1..=count).step_by(KEYS_PER_TRANSACTION as usize) {
        let last = count.min(first + KEYS_PER_TRANSACTION - 1);
        let issued = store.create_keys(&new, first..=last, now).await?;
        let lines: Vec<_> = issued.iter().map(|key| line(key, new.org)).collect();
        place
            .printer(out)
            .many(&lines, headings.take(), |line| vec![line.id.clone(), line.name.to_owned(), line.token.to_owned()])?;
    }
    Ok(())
}

fn print_token(issued: &IssuedKey, org: OrgId, verb: &str, mut printer: Printer<'_>) -> Result<(), CliError> {
    Ok(printer.one(&line(issued, org), || {
        format!(
            "{verb} key {} ({}). This is the only time that its token is shown:\n\n  {}\n",
            issued.name,
            issued.id,
            issued.token.reveal()
        )
    })?)
}

fn line(issued: &IssuedKey, org: OrgId) -> IssuedLine<'_> {
    IssuedLine { id: issued.id.to_string(), token: issued.token.reveal(), org: org.to_string(), name: &issued.name }
}

fn new_key(arguments: CreateKey, now: EpochMs) -> Result<NewKey, CliError> {
    let bad = |problem: &str| Err(CliError::BadInput(problem.to_owned()));
    let expires = arguments.expires.map(|moment| moment.after(now));
    if expires.is_some_and(|expires| expires <= now) {
        return bad("--expires lies in the past: name a later date, or a length of time such as 90d");
    }
    if arguments.models.len() > PATTERNS_MAX || arguments.providers.len() > PATTERNS_MAX {
        return bad("a key can have at most 64 patterns of models and 64 of providers: use `*`");
    }
    let limits = arguments.limits.of_new(now)?;
    let scopes = arguments.scopes.into_iter().flat_map(Scopes::names);
    let scopes = scopes.filter_map(Scope::named).fold(Scopes::default(), Scopes::with);
    Ok(NewKey {
        org: arguments.org,
        project: arguments.project,
        name: arguments.name,
        description: arguments.description,
        prefix: arguments.prefix,
        addresses: arguments.addresses,
        scopes: if scopes == Scopes::default() { Scopes::of_new_key() } else { scopes },
        models: arguments.models,
        providers: arguments.providers,
        expires,
        limits,
        ..NewKey::named(arguments.org, "")
    })
}

async fn list(org: OrgId, place: &Place, now: EpochMs, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
    let store = place.open_store().await?;
    store.organisation(org).await?;
    let mut printer = place.printer(out);
    let (mut after, mut headings) = (None, Some(&HEADINGS[..]));
    loop {
        let page = store.keys(org, after, now).await?;
        let lines: Vec<KeyLine> = page.iter().map(|key| KeyLine::of(key, now)).collect();
        printer.many(&lines, headings.take(), |line| {
            vec![
                line.id.clone(),
                line.name.clone(),
                line.status.to_owned(),
                or_dash(line.limit.map(|limit| format!("${}", limit.0))),
                format!("${}", line.spent.0),
                or_dash(line.expires_ms.map(|at| date(EpochMs(at).day()))),
                line.fingerprint.clone(),
            ]
        })?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.id);
    }
}

/// What becomes of a key.
enum Verb {
    Disable,
    Enable,
    Archive,
}

async fn change(
    OneKey { id, place }: OneKey,
    verb: Verb,
    now: EpochMs,
    out: &mut (dyn Write + Send),
) -> Result<(), CliError> {
    let store = place.open_store().await?;
    let record = match verb {
        Verb::Disable => store.enable_key(id, false, now).await?,
        Verb::Enable => store.enable_key(id, true, now).await?,
        Verb::Archive => store.archive_key(id, now).await?,
    };
    Ok(place
        .printer(out)
        .one(&KeyLine::of(&record, now), || format!("Key {} ({id}) is {} now.", record.name, record.status.name()))?)
}

fn describe(record: &KeyRecord) -> String {
    let list = |patterns: &[Glob]| {
        let texts: Vec<&str> = patterns.iter().map(|glob| &*glob.0).collect();
        if texts.is_empty() { "all".to_owned() } else { texts.join(" ") }
    };
    let addresses: Vec<String> = record.addresses.iter().map(ToString::to_string).collect();
    let addresses = addresses.join(" ");
    let rows = [
        ("organisation", record.org.to_string()),
        ("project", or_dash(record.project)),
        ("key", record.fingerprint.clone()),
        ("status", record.status.name().to_owned()),
        ("description", or_dash(Some(&record.description).filter(|text| !text.is_empty()))),
        ("kind", record.kind.name().to_owned()),
        ("scopes", record.scopes.to_string()),
        ("models", list(&record.models)),
        ("providers", list(&record.providers)),
        ("addresses", or_dash(Some(addresses).filter(|text| !text.is_empty()))),
        ("spent", format!("${}", record.spent())),
        ("created", date(record.created.day())),
        ("expires", or_dash(record.expires.map(|at| date(at.day())))),
        ("last used", or_dash(record.last_used.map(|at| date(at.day())))),
    ];
    let lines = rows.map(|(name, content)| format!("  {name:14}{content}"));
    format!("{} ({})\n{}{}", record.name, record.id, lines.join("\n"), limit::describe(&record.limits))
}
