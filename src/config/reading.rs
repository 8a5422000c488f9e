//! From files to a [`Config`]: the main file, the files it names, and what must be true of them together.

use super::place::{ConfigError, Document, Section};
use super::providers::Providers;
use super::sources::{Sources, WatchedFile};
use super::{
    Cluster, Config, Control, Gateway, Journal, Keys, Ledger, Listener, Log, Outgoing, Quotas, StorePlace, Webhooks,
};
use super::{cluster, control, gateway, models, outgoing, own, store};
use filters::catalogue::Catalogue;
use filters::price::FeePpm;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The process's environment.
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What came of reading, and which files took part, also where it failed: one of them has to change first.
pub(super) struct Reading {
    pub(super) result: Result<Config, Vec<ConfigError>>,
    pub(super) files: Vec<WatchedFile>,
}

impl Reading {
    pub(super) fn of_file(file: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Self {
        let sources = Sources::beside(file, environment);
        let name = file.display().to_string();
        let result = match sources.read(file) {
            Ok(text) => read(Document::parse(&name, &text), None, &sources),
            Err(message) => Err(vec![ConfigError { file: name, line: None, key: String::new(), message }]),
        };
        Self::with_files(result, sources)
    }

    /// Reads texts, each with its name in front, in place of the main file and of `catalogue.file`.
    pub(super) fn of_texts(
        (main_name, main_text): (&str, &str),
        models: (&str, &str),
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let sources = Sources::beside(Path::new(main_name), environment);
        let result = read(Document::parse(main_name, main_text), Some(models), &sources);
        Self::with_files(result, sources)
    }

    fn with_files(result: Result<Config, Vec<ConfigError>>, sources: Sources<'_>) -> Self {
        let files = sources.into_files();
        Self { result: result.map(|config| Config { files: files.clone(), ..config }), files }
    }
}

/// Settings that there are and that `main_text` does not have anywhere; names are written `*`. A text that is a
/// complete reference lacks none of them, and by being read without a mistake it proves to have no others.
#[must_use]
pub fn undocumented_keys(main_text: &str) -> Vec<String> {
    let no_environment = |_: &str| None;
    let document = Document::parse("reference", main_text);
    document.read(|root| Main::read(root, &Sources::beside(Path::new(""), &no_environment)));
    document.absent_keys()
}

/// The main file's sections.
struct Main {
    books: StorePlace,
    own_fee: FeePpm,
    gateway: Gateway,
    control: Control,
    metrics: Listener,
    keys: Keys,
    journal: Journal,
    ledger: Ledger,
    quotas: Quotas,
    cluster: Cluster,
    outgoing: Outgoing,
    webhooks: Webhooks,
    log: Log,
    catalogue_file: PathBuf,
    providers: Providers,
}

impl Main {
    fn read(root: &Section<'_>, sources: &Sources<'_>) -> Self {
        let path = |section: &Section<'_>, key, default| {
            section.parsed(key, sources.path(default), |text| match text {
                "" => Err("must not be empty".to_owned()),
                written => Ok(sources.path(written)),
            })
        };
        let data_dir = path(root, "data_dir", "data");
        let mut books = root.within("store", |section| store::read_store(section, data_dir, sources));
        let (control, own_fee) = root.within("control", |section| {
            store::take_master_keys(&mut books, section, sources);
            (control::read_control(section, sources), section.parsed("byok_fee_percent", 0, own::fee))
        });
        Self {
            books,
            own_fee,
            gateway: root.within("gateway", |section| gateway::read_gateway(section, sources)),
            control,
            metrics: root.within("metrics", |section| gateway::read_listener(section, 9090)),
            keys: root.within("keys", gateway::read_keys),
            journal: root.within("journal", gateway::read_journal),
            ledger: root.within("ledger", gateway::read_ledger),
            quotas: root.within("quotas", gateway::read_quotas),
            cluster: root.within("cluster", |section| cluster::read_cluster(section, sources)),
            outgoing: root.within("outgoing", outgoing::read_outgoing),
            webhooks: root.within("webhooks", outgoing::read_webhooks),
            log: root.within("log", gateway::read_log),
            catalogue_file: root.within("catalogue", |section| path(section, "file", "models.toml")),
            providers: Providers::read(root, sources),
        }
    }

    fn into_config(self, catalogue: Catalogue) -> Config {
        Config {
            books: self.books,
            gateway: self.gateway,
            control: self.control,
            metrics: self.metrics,
            keys: self.keys,
            journal: self.journal,
            ledger: self.ledger,
            quotas: self.quotas,
            cluster: self.cluster,
            outgoing: self.outgoing,
            webhooks: self.webhooks,
            log: self.log,
            providers: self.providers.usable,
            providers_left_out: self.providers.left_out,
            catalogue: Arc::new(catalogue),
            files: Vec::new(),
        }
    }
}

/// Reads the main document and the models, given as name and text or else in the file that the document names.
fn read(
    document: Document<'_>,
    models: Option<(&str, &str)>,
    sources: &Sources<'_>,
) -> Result<Config, Vec<ConfigError>> {
    let Some(main) = document.read(|root| Main::read(root, sources)) else {
        return Err(document.into_errors());
    };
    gateway::refuse_shared_addresses(&document, &main.gateway, [main.control.listen, main.metrics.listen]);
    let models = match models {
        Some((name, text)) => Ok((name.to_owned(), text.to_owned())),
        None => sources.read(&main.catalogue_file).map(|text| (main.catalogue_file.display().to_string(), text)),
    };
    let (name, text) = match models {
        Ok(models) => models,
        Err(message) => {
            document.report_at("catalogue.file", message);
            return Err(document.into_errors());
        }
    };
    let models = Document::parse(&name, &text);
    let catalogue = models.read(|root| models::read_catalogue(root, &main.providers, main.own_fee)).flatten();
    let mut errors = document.into_errors();
    errors.extend(models.into_errors());
    match catalogue {
        Some(catalogue) if errors.is_empty() => Ok(main.into_config(catalogue)),
        Some(_) | None => Err(errors),
    }
}
