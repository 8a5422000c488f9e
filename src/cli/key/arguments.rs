//! What is typed of keys: which one, or what a new one is to be.

use super::super::Place;
use super::super::limit::LimitOptions;
use super::super::moment::Moment;
use super::KeyCommand;
use super::text::{read_description, read_grace, read_hash, read_name, read_pattern, read_prefix, read_scopes};
use filters::id::{KeyId, OrgId, ProjectId};
use filters::key::{Glob, TokenHash};
use filters::network::Network;
use filters::scope::Scopes;

/// What tokens begin with, if nothing else is said.
pub(in crate::cli) const PREFIX: &str = "tg_live";

/// One key.
#[derive(Debug, clap::Args)]
pub struct OneKey {
    /// Its identifier, `key_…`.
    pub(in crate::cli) id: KeyId,
    #[command(flatten)]
    pub(in crate::cli) place: Place,
}

/// A key that is to have a new token.
#[derive(Debug, clap::Args)]
pub struct RotateKey {
    /// How long the old token goes on, such as 24h; 0: not at all.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = read_grace)]
    pub(in crate::cli) grace: i64,
    #[command(flatten)]
    pub(in crate::cli) key: OneKey,
}

/// A key whose token was issued elsewhere.
#[derive(Debug, clap::Args)]
pub struct ImportKey {
    /// The SHA-256 of the token, 64 hexadecimal digits.
    #[arg(long, value_name = "HEX", value_parser = read_hash)]
    pub(in crate::cli) sha256: TokenHash,
    #[command(flatten)]
    pub(in crate::cli) key: CreateKey,
}

/// A key to be made.
#[derive(Debug, clap::Args)]
pub struct CreateKey {
    /// The organisation that pays, `org_…`.
    #[arg(long)]
    pub(in crate::cli) org: OrgId,
    /// The project of that organisation whose limits it shares, `proj_…`.
    #[arg(long)]
    pub(in crate::cli) project: Option<ProjectId>,
    /// What people call the key.
    #[arg(long, value_parser = read_name)]
    pub(in crate::cli) name: String,
    /// What people say of it.
    #[arg(long, default_value = "", value_parser = read_description)]
    pub(in crate::cli) description: String,
    /// An address that it may be used from, or a range such as 10.0.0.0/8; may be given several times. Without it: from anywhere.
    #[arg(long = "ip", value_name = "RANGE", value_parser = Network::parse)]
    pub(in crate::cli) addresses: Vec<Network>,
    /// What it may do; may be given several times. Without it: model:invoke and usage:read.
    #[arg(long = "scope", value_name = "SCOPE", value_parser = read_scopes)]
    pub(in crate::cli) scopes: Vec<Scopes>,
    /// A model that it may use, `*` for any characters; may be given several times. Without it: all.
    #[arg(long = "model", value_name = "GLOB", value_parser = read_pattern)]
    pub(in crate::cli) models: Vec<Glob>,
    /// A provider that it may use, `*` for any characters; may be given several times. Without it: all.
    #[arg(long = "provider", value_name = "GLOB", value_parser = read_pattern)]
    pub(in crate::cli) providers: Vec<Glob>,
    /// When it ends: a date such as 2030-12-31, or how long from now, such as 90d.
    #[arg(long, value_name = "WHEN")]
    pub(in crate::cli) expires: Option<Moment>,
    /// How many keys to make, called NAME-1, NAME-2 and so on.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(in crate::cli) count: Option<u64>,
    /// What tokens begin with.
    #[arg(long, default_value = PREFIX, value_parser = read_prefix)]
    pub(in crate::cli) prefix: String,
    #[command(flatten)]
    pub(in crate::cli) limits: LimitOptions,
    #[command(flatten)]
    pub(in crate::cli) place: Place,
}

impl KeyCommand {
    pub(in crate::cli) fn place(&self) -> &Place {
        match self {
            Self::Create(key) => &key.place,
            Self::Import(import) => &import.key.place,
            Self::Calls(calls) => &calls.place,
            Self::Rotate(rotation) => &rotation.key.place,
            Self::List { place, .. } | Self::Limit { place, .. } => place,
            Self::Show(key) | Self::Disable(key) | Self::Enable(key) | Self::Archive(key) | Self::Delete(key) => {
                &key.place
            }
        }
    }
}
