//! `tollgate credential`: what organisations have at providers themselves.

use super::moment::date;
use super::print::or_dash;
use super::{CliError, Place, Surroundings, key};
use crate::config::BaseUrl;
use crate::store::credentials::{CREDENTIALS_MAX, CredentialChange, CredentialRecord, NewCredential, Rotation};
use filters::id::{CredentialId, OrgId};
use filters::key::Glob;
use filters::own::OwnSecret;
use filters::time::EpochMs;
use serde::Serialize;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HEADINGS: [&str; 8] = ["ID", "NAME", "PROVIDER", "SECRET", "STATE", "FALLBACK", "CREATED", "LAST USED"];

/// What to do with credentials.
#[derive(Debug, clap::Subcommand)]
pub enum CredentialCommand {
    /// Keep a credential that an organisation has at a provider: its calls are made with it from then on.
    Create {
        #[command(flatten)]
        new: Box<NewArguments>,
        #[command(flatten)]
        place: Place,
    },
    /// List an organisation's credentials.
    List {
        /// The organisation, `org_…`.
        #[arg(long)]
        org: OrgId,
        #[command(flatten)]
        place: Place,
    },
    /// Show one credential, without its secret.
    Show {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        place: Place,
    },
    /// Replace a credential's secret.
    Rotate {
        #[command(flatten)]
        which: Which,
        /// A file with the new secret; `-`: the standard input.
        #[arg(long, value_name = "FILE")]
        secret_file: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Use a credential no longer, and keep it.
    Disable {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        place: Place,
    },
    /// Use a credential again.
    Enable {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        place: Place,
    },
    /// Delete a credential, and its secret with it.
    Delete {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        place: Place,
    },
    /// Seal all secrets under the newest master key. A gateway does so by itself when it starts or takes up another list; after this
    /// the older keys may go.
    Rewrap {
        #[command(flatten)]
        place: Place,
    },
}

impl CredentialCommand {
    pub(super) fn place(&self) -> &Place {
        match self {
            Self::Create { place, .. }
            | Self::List { place, .. }
            | Self::Show { place, .. }
            | Self::Rotate { place, .. }
            | Self::Disable { place, .. }
            | Self::Enable { place, .. }
            | Self::Delete { place, .. }
            | Self::Rewrap { place } => place,
        }
    }
}

/// One credential.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Which {
    /// Its identifier, `cred_…`.
    pub(super) id: CredentialId,
    /// The organisation, `org_…`.
    #[arg(long)]
    pub(super) org: OrgId,
}

/// A credential to be kept.
#[derive(Clone, Debug, clap::Args)]
pub struct NewArguments {
    /// The organisation, `org_…`.
    #[arg(long)]
    pub(super) org: OrgId,
    /// The provider, by its name in the configuration.
    #[arg(long)]
    pub(super) provider: String,
    /// A file with the secret; `-`: the standard input.
    #[arg(long, value_name = "FILE")]
    pub(super) secret_file: PathBuf,
    /// What people call it; the provider's name if it is left out.
    #[arg(long, value_parser = key::read_name)]
    pub(super) name: Option<String>,
    /// Where it is asked, in place of the provider's own address.
    #[arg(long, value_name = "URL")]
    pub(super) base_url: Option<String>,
    /// A pattern of models that it is used for; may be repeated.
    #[arg(long = "model", value_name = "GLOB", value_parser = key::read_pattern)]
    pub(super) models: Vec<Glob>,
    /// Those of the lowest number are tried first.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub(super) priority: u32,
    /// Share among those of one priority.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) weight: u32,
    /// Let calls be made with the gateway's credentials when it fails; they are charged then.
    #[arg(long)]
    pub(super) fallback: bool,
}

#[derive(Serialize)]
struct CredentialLine {
    id: String,
    org: String,
    name: String,
    provider: String,
    base_url: Option<String>,
    models: Vec<String>,
    priority: u32,
    weight: u32,
    fallback: bool,
    enabled: bool,
    version: i64,
    fingerprint: String,
    created_ms: i64,
    last_used_ms: Option<i64>,
    benched_until_ms: Option<i64>,
}

#[derive(Serialize)]
struct RewrapLine {
    rewrapped: u64,
}

impl From<&CredentialRecord> for CredentialLine {
    fn from(record: &CredentialRecord) -> Self {
        let glob = |Glob(text): &Glob| text.to_string();
        Self {
            id: record.id.to_string(),
            org: record.org.to_string(),
            name: record.name.clone(),
            provider: record.provider.clone(),
            base_url: record.base_url.clone(),
            models: record.models.iter().map(glob).collect(),
            priority: record.priority,
            weight: record.weight,
            fallback: record.may_fall_back,
            enabled: record.is_enabled,
            version: record.version,
            fingerprint: record.fingerprint.clone(),
            created_ms: record.created.0,
            last_used_ms: record.last_used.map(|at| at.0),
            benched_until_ms: record.benched.map(|(_, until)| until.0),
        }
    }
}

pub(super) async fn run(command: CredentialCommand, surroundings: Surroundings<'_>) -> Result<ExitCode, CliError> {
    let Surroundings { now, out, .. } = surroundings;
    let (record, done, place) = match command {
        CredentialCommand::Create { new, place } => {
            let new = new.read()?;
            (place.open_store().await?.create_credential(&new, now).await?, "Keeping", place)
        }
        CredentialCommand::List { org, place } => {
            let store = place.open_store().await?;
            store.organisation(org).await?;
            let records = store.credentials(org, None, CREDENTIALS_MAX as u32).await?;
            let lines: Vec<CredentialLine> = records.iter().map(CredentialLine::from).collect();
            place.printer(out).many(&lines, Some(&HEADINGS), cells)?;
            return Ok(ExitCode::SUCCESS);
        }
        CredentialCommand::Show { which: Which { id, org }, place } => {
            (place.open_store().await?.credential(org, id).await?, "This is", place)
        }
        CredentialCommand::Rotate { which: Which { id, org }, secret_file, place } => {
            let rotation = Rotation { secret: read_secret(&secret_file)?, base_url: None };
            (
                place.open_store().await?.rotate_credential(org, id, &rotation, now).await?,
                "Replaced the secret of",
                place,
            )
        }
        CredentialCommand::Disable { which, place } => (enable(which, false, (&place, now)).await?, "Disabled", place),
        CredentialCommand::Enable { which, place } => (enable(which, true, (&place, now)).await?, "Enabled", place),
        CredentialCommand::Delete { which: Which { id, org }, place } => {
            let store = place.open_store().await?;
            let record = store.credential(org, id).await?;
            store.delete_credential(org, id, now).await?;
            (record, "Deleted", place)
        }
        CredentialCommand::Rewrap { place } => {
            let rewrapped = place.open_store().await?.rewrap().await?;
            let sentence = || format!("Sealed {rewrapped} secrets anew: all are under the newest master key.");
            place.printer(out).one(&RewrapLine { rewrapped }, sentence)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let sentence = || format!("{done} {} ({}), a credential at {}", record.name, record.id, record.provider);
    place.printer(out).one(&CredentialLine::from(&record), sentence)?;
    Ok(ExitCode::SUCCESS)
}

async fn enable(
    Which { id, org }: Which,
    is_enabled: bool,
    (place, now): (&Place, EpochMs),
) -> Result<CredentialRecord, CliError> {
    let change = CredentialChange { is_enabled: Some(is_enabled), ..CredentialChange::default() };
    Ok(place.open_store().await?.change_credential(org, id, &change, now).await?)
}

impl NewArguments {
    fn read(self) -> Result<NewCredential, CliError> {
        if let Some(url) = &self.base_url {
            let (base, _) = url.split_once('?').unwrap_or((url, ""));
            BaseUrl::parse(base).map_err(|problem| CliError::BadInput(format!("--base-url: {problem}")))?;
        }
        Ok(NewCredential {
            org: self.org,
            name: self.name.unwrap_or_else(|| self.provider.clone()),
            provider: self.provider,
            base_url: self.base_url,
            models: self.models,
            priority: self.priority,
            weight: self.weight,
            may_fall_back: self.fallback,
            secret: read_secret(&self.secret_file)?,
        })
    }
}

/// Never from an argument: those can be read by every process of the machine.
pub(super) fn read_secret(file: &Path) -> Result<OwnSecret, CliError> {
    let mut text = String::new();
    let read = match file.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut text).map(drop),
        _ => std::fs::read_to_string(file).map(|read| text = read),
    };
    read.map_err(|error| CliError::BadInput(format!("--secret-file {}: {error}", file.display())))?;
    Ok(OwnSecret::new(text.trim().to_owned()))
}

fn cells(line: &CredentialLine) -> Vec<String> {
    vec![
        line.id.clone(),
        line.name.clone(),
        line.provider.clone(),
        line.fingerprint.clone(),
        if line.enabled { "live" } else { "disabled" }.to_owned(),
        if line.fallback { "yes" } else { "no" }.to_owned(),
        date(EpochMs(line.created_ms).day()),
        or_dash(line.last_used_ms.map(|at| date(EpochMs(at).day()))),
    ]
}
