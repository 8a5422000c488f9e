//! The configuration: TOML text becomes one validated [`Config`], or all of its errors at once, each with its place.
//! The only reader of the environment and of configuration files.
//!
//! `reading` goes through the files, `place` knows where in a text a value stands, `gateway`, `cluster`, `outgoing`,
//! `providers`, `models`, `prices` and `own` read the sections, `reload` watches the files. `conf/tollgate.toml` documents every setting.

mod address;
mod cluster;
mod control;
mod gateway;
mod listener;
mod models;
mod outgoing;
mod own;
mod personal;
mod place;
mod prices;
mod providers;
mod reading;
pub mod reload;
mod sources;
mod store;
#[cfg(test)]
mod tests;

pub use address::{BaseUrl, Network};
pub use cluster::{Cluster, RedisAddress, RedisServers};
pub use control::{Accounts, Control};
pub use listener::{ErrorShape, Gateway, Limits, Tls};
pub use outgoing::{Outgoing, Webhooks};
pub use own::{MASTER_KEY_BYTES, MasterKey, MasterKeys};
pub use personal::Personal;
pub use place::ConfigError;
pub use reading::undocumented_keys;
pub use sources::{Secret, WatchedFile};
pub use store::{Server, StorePlace};

use filters::catalogue::{Catalogue, InputEstimate};
use filters::dialect::{Dialect, Protocol};
use filters::price::Tier;
use http::{HeaderName, HeaderValue};
use reading::{Reading, environment};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Everything that can be configured, validated.
#[derive(Debug)]
pub struct Config {
    /// Where the books and the journal are.
    pub books: StorePlace,
    /// The public listener.
    pub gateway: Gateway,
    /// The admin API and the console.
    pub control: Control,
    /// `/metrics`, `/livez` and `/readyz`.
    pub metrics: Listener,
    /// How keys look and how many are kept in memory.
    pub keys: Keys,
    /// The journal's sizes and times.
    pub journal: Journal,
    /// When sums come on the books, and what is kept.
    pub ledger: Ledger,
    /// How much is set aside for a call.
    pub quotas: Quotas,
    /// What is shared with other nodes.
    pub cluster: Cluster,
    /// Which connections go out to where tenants say.
    pub outgoing: Outgoing,
    /// How events are told to webhooks.
    pub webhooks: Webhooks,
    /// What is logged.
    pub log: Log,
    /// Who serves models, in the order of the file, without those optional ones that have no credential.
    pub providers: Vec<Provider>,
    /// Optional providers that were left out because they have no credential.
    pub providers_left_out: Vec<Arc<str>>,
    /// The models, with candidates of these providers only.
    pub catalogue: Arc<Catalogue>,
    /// Every file that all this was read from; a change of one of them asks for a reload.
    pub files: Vec<WatchedFile>,
}

impl Config {
    /// Reads a file and all files that it names.
    pub fn load(file: &Path) -> Result<Self, Vec<ConfigError>> {
        Reading::of_file(file, &environment).result
    }

    /// Reads texts that are not files, or not yet. Paths in the text are relative to the directory of `main_name`;
    /// `catalogue.file` is not read: `models_text` stands for it.
    pub fn parse(
        main_text: &str,
        main_name: &str,
        models_text: &str,
        models_name: &str,
    ) -> Result<Self, Vec<ConfigError>> {
        Reading::of_texts((main_name, main_text), (models_name, models_text), &environment).result
    }

    /// One line about what was read, for `tollgate check`.
    #[must_use]
    pub fn summary(&self) -> String {
        let models = self.catalogue.models();
        let served = models.iter().filter(|model| !model.candidates.is_empty()).count();
        let mut summary =
            format!("{} providers, {} models, {served} of them served", self.providers.len(), models.len());
        if !self.providers_left_out.is_empty() {
            summary.push_str("; left out for want of a credential: ");
            summary.push_str(&self.providers_left_out.join(", "));
        }
        summary
    }
}

/// What `tollgate check` prints: a summary, or every mistake on a line of its own.
pub fn check(file: &Path) -> Result<String, String> {
    let lines = |errors: Vec<ConfigError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    Config::load(file).map(|config| config.summary()).map_err(lines)
}

/// A listener of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The address.
    pub listen: SocketAddr,
}

/// How keys look and how many are kept in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// What new keys begin with.
    pub prefix: String,
    /// Most keys in memory.
    pub cache_entries_max: usize,
    /// Most unknown keys that are remembered as unknown.
    pub negative_entries_max: usize,
}

/// The journal's sizes and times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Size of a segment file.
    pub segment_bytes: u64,
    /// Largest sum of all segments; beyond it new paid calls are refused.
    pub bytes_max: u64,
    /// How long shipped segments are kept.
    pub keep_hours: u64,
    /// Whether a call's end waits for the disk.
    pub sync: SyncMode,
    /// Longest time until a record is safe from a power cut, where its call does not wait for that.
    pub sync_ms: u64,
    /// Longest time until a record is in the books.
    pub ship_ms: u64,
}

/// When sums come on the books, and what is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Longest time that sums of very many keys wait.
    pub merge_ms: u64,
    /// Most sums that wait.
    pub pending_sums_max: usize,
    /// Most end users, and most tags, of an organisation that are told apart in a day, and in a month.
    pub names_max: usize,
    /// How long free and refused requests are kept.
    pub requests_keep_days: u64,
    /// How long calls are kept one by one; 0: for ever.
    pub calls_keep_days: u64,
    /// How long it is kept what was spent in windows that are past.
    pub windows_keep_days: u64,
}

/// At which point a test has this process die.
#[cfg(feature = "crash-points")]
#[must_use]
pub fn crash_at() -> Option<String> {
    reading::environment("TOLLGATE_CRASH_AT")
}

/// The server that tests of the store use, in place of SQLite.
#[cfg(test)]
pub(crate) fn test_server() -> Option<String> {
    reading::environment("TOLLGATE_TEST_POSTGRES")
}

/// When the journal is brought to the disk. From a crash of the process its records are safe at once in either mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// Every `sync_ms`: a power cut can take what came since.
    Interval,
    /// Before the end of each call leaves: a power cut takes nothing that a client saw complete.
    Each,
}

/// How much is set aside for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Most output tokens that an elastic quota sets aside before a stream has shown its growth.
    pub reserve_output_tokens_max: u64,
    /// The smallest output limit that a request is clamped to where money is short.
    pub clamp_output_tokens_min: u64,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Whether each call has a line.
    pub calls: bool,
    /// The least severe level: `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
    /// Most bytes of lines that wait to be written.
    pub queue_bytes_max: usize,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// Somebody who serves models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its name in the catalogue, in metrics and on the books.
    pub name: Arc<str>,
    /// The protocol that it speaks.
    pub protocol: Protocol,
    /// The dialects of it that it speaks; none named: all.
    pub apis: Arc<[Dialect]>,
    /// Where it is.
    pub base_url: BaseUrl,
    /// Parameters that are added to each query, such as `api-version=1`; empty if there are none.
    pub query: String,
    /// Our credentials there; never empty.
    pub credentials: Vec<Credential>,
    /// How they go into a request.
    pub credential: CredentialStyle,
    /// Whether streams are asked for their usage, where they report it only to those who ask.
    pub adds_usage: bool,
    /// Headers that are added to each request; values are marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The deadlines of an attempt.
    pub timeouts: Timeouts,
    /// How long it is passed over after a failure that names no time itself.
    pub cool_down: Duration,
    /// How long a credential is passed over after it was refused.
    pub bench: Duration,
    /// PEM file of the authorities that its certificate may come from, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// The HTTP proxy that leads to it.
    pub proxy: Option<BaseUrl>,
    /// Whether it is spoken to in HTTP/2.
    pub h2: bool,
    /// How long an idle connection to it is kept.
    pub keepalive: Duration,
    /// How input tokens are estimated for it.
    pub input_estimate: InputEstimate,
    /// The tier in which it bills what asks for none.
    pub default_tier: Tier,
    /// Objects stored there that all organisations may use.
    pub shared_objects: Arc<[Box<str>]>,
    /// What becomes of an answer whose client has left.
    pub on_disconnect: OnDisconnect,
}

/// What becomes of an answer whose client has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDisconnect {
    /// The provider's connection is closed.
    Cancel,
    /// It is read on, for the sake of the provider's figures, until one of these is used up.
    Drain {
        /// Longest time.
        time_max: Duration,
        /// Most bytes.
        bytes_max: u64,
    },
}

/// One of our credentials at a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The secret itself.
    pub secret: Secret,
    /// Its share of the calls among the provider's credentials.
    pub weight: u32,
}

/// How a credential goes into a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialStyle {
    /// `Authorization: Bearer …`.
    Bearer,
    /// `x-api-key`.
    XApiKey,
    /// `api-key`.
    ApiKey,
    /// `x-goog-api-key`.
    XGoogApiKey,
    /// As the key of an AWS signature, version 4.
    SigV4 {
        /// AWS's name of the region.
        region: String,
    },
}

/// The deadlines of one attempt at a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the connection, TLS included.
    pub connect: Duration,
    /// From the request's end to the answer's header.
    pub header: Duration,
    /// From the header to the first event.
    pub first_event: Duration,
    /// Between two reads of the answer.
    pub idle: Duration,
    /// For the whole attempt.
    pub total: Duration,
}
