//! Where the books are: `data_dir`, `[store]`.

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
    /// The server that has the books.
    pub server: Option<Server>,
}

impl StorePlace {
    /// StorePlace without a server.
    #[must_use]
    pub fn embedded(data_dir: PathBuf) -> Self {
        Self { pepper: data_dir.join("pepper"), data_dir, server: None }
    }
}

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
    StorePlace { data_dir, pepper, server }
}
