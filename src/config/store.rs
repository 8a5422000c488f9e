//! Where the books are: `data_dir`, `[store]`.

use super::own::{MasterKeys, read_master_keys};
use super::place::Section;
use super::providers::read_secret;
use super::sources::{NoSecret, Secret, Sources};
use std::path::PathBuf;
use std::time::Duration;

/// Where the books and the journal are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorePlace {
    /// The journal's directory, and of the books too where no server has them.
    pub data_dir: PathBuf,
    /// The file with the secret that tokens are looked up with.
    pub pepper: PathBuf,
    /// What organisations' secrets are sealed under.
    pub master_keys: MasterKeys,
    /// The server that has the books.
    pub server: Option<Server>,
}

impl StorePlace {
    /// StorePlace without a server.
    #[must_use]
    pub fn embedded(data_dir: PathBuf) -> Self {
        Self {
            pepper: data_dir.join("pepper"),
            master_keys: MasterKeys::Kept(data_dir.join(MASTER_KEYS_FILE)),
            data_dir,
            server: None,
        }
    }
}

/// The file of the data directory that has the master keys.
const MASTER_KEYS_FILE: &str = "master-keys";

/// A database server, and how it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `postgres://user:password@host:port/database?sslmode=…`.
    pub url: Secret,
    /// Most connections of this process, half of them for what writes; at least 2.
    pub connections_max: u32,
    /// How long the server may take, for a connection and for a transaction.
    pub timeout: Duration,
}

/// Reads `[store]`. Without a server everything is in the data directory.
pub(super) fn read_store(section: &Section<'_>, data_dir: PathBuf, sources: &Sources<'_>) -> StorePlace {
    let pepper = section.parsed("pepper_file", data_dir.join("pepper"), |text| match text {
        "" => Err("must not be empty".to_owned()),
        written => Ok(sources.path(written)),
    });
    let connections_max = section.number("connections_max", 2..=1_000, 16);
    let timeout = section.milliseconds("timeout_ms", 100..=60_000, 3_000);
    let url = section.get("url").and_then(|value| {
        let secret = value.section(|section| read_secret(section, sources)).flatten()?;
        match secret {
            Ok(url) if ["postgres://", "postgresql://"].iter().any(|scheme| url.reveal().starts_with(scheme)) => {
                Some(url)
            }
            Ok(_) => {
                value.report("must begin with postgres://");
                None
            }
            Err(NoSecret::Absent(problem) | NoSecret::Unusable(problem)) => {
                value.report(problem);
                None
            }
        }
    });
    let connections_max = u32::try_from(connections_max).unwrap_or(u32::MAX);
    let server = url.map(|url: Secret| Server { url, connections_max, timeout });
    let master_keys = MasterKeys::Kept(data_dir.join(MASTER_KEYS_FILE));
    StorePlace { data_dir, pepper, master_keys, server }
}

/// Takes in the master keys that `[control]` names. Nodes that share a server must be given the same.
pub(super) fn take_master_keys(books: &mut StorePlace, control: &Section<'_>, sources: &Sources<'_>) {
    match read_master_keys(control, sources) {
        Some(keys) => books.master_keys = keys,
        None if books.server.is_some() && control.get("master_keys").is_none() => {
            control.report(
                "master_keys",
                "missing: nodes that share a server must have the same (`openssl rand -hex 32`)",
            );
        }
        None => {}
    }
}
