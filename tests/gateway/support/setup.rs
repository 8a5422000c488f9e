//! What a gateway is started with: its configuration and catalogue as text, in a directory of its own.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// US dollars per million tokens in the catalogue of the tests: an input token costs 1 000 nano-USD, an output token 10 000.
const PRICES: &str = "from = '2026-01-01'\ninput = '1'\ncache_read = '0.1'\noutput = '10'";

/// The models of every gateway, by protocol: name, alias, mode, prices.
const MODELS: [(&str, &str, &str, &str, &str); 2] =
    [("openai", "gpt-4o-mini", "mini", "chat", PRICES), ("anthropic", "claude-sonnet-4-6", "sonnet", "chat", PRICES)];

/// Those of a gateway that speaks every protocol, beside them.
const MORE_MODELS: [(&str, &str, &str, &str, &str); 13] = [
    ("openai", "text-embedding-3-small", "embed", "embedding", "from = '2026-01-01'\ninput = '1'"),
    ("openai", "gpt-3.5-turbo-instruct", "instruct", "completion", PRICES),
    ("openai", "gpt-image-1", "image", "image", PRICES),
    ("openai", "dall-e-2", "dalle", "image", "from = '2026-01-01'\ninput = '0'\noutput = '0'\nimage = '0.02'"),
    ("openai", "tts-1", "tts", "speech", "from = '2026-01-01'\ninput = '0'\noutput = '0'\ncharacter = '0.000015'"),
    (
        "openai",
        "whisper-1",
        "whisper",
        "transcription",
        "from = '2026-01-01'\ninput = '0'\noutput = '0'\naudio_second = '0.0001'",
    ),
    ("openai", "omni-moderation-latest", "moderation", "moderation", "from = '2026-01-01'\ninput = '0'\noutput = '0'"),
    ("gemini", "gemini-2.5-flash", "flash", "chat", PRICES),
    ("gemini", "gemini-embedding-001", "gemini-embedding", "embedding", "from = '2026-01-01'\ninput = '1'"),
    ("cohere", "command-a-03-2025", "command", "chat", PRICES),
    ("cohere", "embed-v4.0", "embed-4", "embedding", "from = '2026-01-01'\ninput = '1'"),
    ("cohere", "rerank-v3.5", "rerank", "rerank", "from = '2026-01-01'\ninput = '0'\nsearch_unit = '0.002'"),
    ("bedrock", "anthropic.claude-haiku-4-5-v1:0", "bedrock-haiku", "chat", PRICES),
];

/// How a gateway is to be started. Without an upstream it gets a simulated provider of its own, for both protocols.
#[derive(Clone, Default)]
pub(crate) struct Setup {
    pub(super) upstreams: Vec<Upstream>,
    pub(super) key: Vec<String>,
    gateway: Vec<String>,
    control: Vec<String>,
    limits: Vec<String>,
    /// Lines of `[store]`, for those who write the others.
    pub(super) store: Vec<String>,
    sections: Vec<String>,
    models: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) speaks_all: bool,
    tls: Option<String>,
}

/// A provider as the configuration names it.
#[derive(Clone)]
pub(crate) struct Upstream {
    name: String,
    protocol: &'static str,
    url: String,
    model: Option<String>,
    priority: u32,
    weight: u32,
    credentials: Vec<String>,
    settings: Vec<String>,
    timeouts: Vec<String>,
}

impl Upstream {
    /// One that speaks OpenAI's protocol and serves the model gpt-4o-mini.
    pub(crate) fn openai(name: &str, url: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            protocol: "openai",
            url: url.into(),
            model: None,
            priority: 0,
            weight: 1,
            credentials: vec!["sk-upstream".to_owned()],
            settings: Vec::new(),
            timeouts: Vec::new(),
        }
    }

    /// One that speaks Anthropic's protocol and serves the model claude-sonnet-4-6.
    pub(crate) fn anthropic(name: &str, url: impl Into<String>) -> Self {
        Self { protocol: "anthropic", ..Self::openai(name, url) }
    }

    /// One that speaks this protocol and serves the models of it that the tests have.
    pub(crate) fn speaking(protocol: &'static str, name: &str, url: impl Into<String>) -> Self {
        Self { protocol, ..Self::openai(name, url) }
    }

    /// 0 is tried first.
    #[must_use]
    pub(crate) fn priority(self, priority: u32) -> Self {
        Self { priority, ..self }
    }

    #[must_use]
    pub(crate) fn weight(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    /// What the provider calls the model.
    #[must_use]
    pub(crate) fn model(self, model: &str) -> Self {
        Self { model: Some(model.to_owned()), ..self }
    }

    #[must_use]
    pub(crate) fn credentials(self, credentials: &[&str]) -> Self {
        Self { credentials: credentials.iter().map(|text| (*text).to_owned()).collect(), ..self }
    }

    /// A line of its section.
    #[must_use]
    pub(crate) fn setting(mut self, line: &str) -> Self {
        self.settings.push(line.to_owned());
        self
    }

    /// A line of its timeouts.
    #[must_use]
    pub(crate) fn timeout(mut self, line: &str) -> Self {
        self.timeouts.push(line.to_owned());
        self
    }

    fn section(&self) -> String {
        let Self { name, protocol, url, credentials, settings, timeouts, .. } = self;
        // Bedrock's requests are signed unless it is said otherwise, and that takes a credential of another form.
        let style = if *protocol == "bedrock" { "credential = 'bearer'\n" } else { "" };
        let credentials: Vec<_> = credentials.iter().map(|secret| format!("{{ value = '{secret}' }}")).collect();
        format!(
            "[providers.{name}]\nprotocol = '{protocol}'\nbase_url = '{url}'\ncredentials = [{}]\n\
             input_estimate = 'bound'\n{style}{}\n[providers.{name}.timeouts]\n{}\n",
            credentials.join(", "),
            settings.join("\n"),
            timeouts.join("\n"),
        )
    }

    fn candidate(&self, model: &str) -> String {
        let Self { name, priority, weight, .. } = self;
        let model = self.model.as_deref().unwrap_or(model);
        format!("{{ provider = '{name}', model = '{model}', priority = {priority}, weight = {weight} }}")
    }
}

/// The addresses that a gateway listens on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listeners {
    pub(super) gateway: SocketAddr,
    pub(super) tls: SocketAddr,
    pub(super) control: SocketAddr,
    pub(super) metrics: SocketAddr,
}

impl Listeners {
    pub(super) fn choose() -> Self {
        Self { gateway: free_address(), tls: free_address(), control: free_address(), metrics: free_address() }
    }
}

/// An address that nobody listens on. Ports below the range of outgoing connections, so that no connection takes it
/// before the gateway does.
pub(super) fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const PORTS: u32 = 20_000;
    loop {
        let number = std::process::id().wrapping_mul(1_009).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        let port = u16::try_from(11_000 + number).expect("below 31 000");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub(crate) fn upstream(mut self, upstream: Upstream) -> Self {
        self.upstreams.push(upstream);
        self
    }

    /// Another part of the catalogue, whole.
    #[must_use]
    pub(crate) fn catalogued(mut self, text: &str) -> Self {
        self.models.push(text.to_owned());
        self
    }

    /// With models of every protocol and mode in the catalogue; without an upstream the simulated provider serves them all.
    #[must_use]
    pub(crate) fn every_protocol(self) -> Self {
        Self { speaks_all: true, ..self }
    }

    /// Arguments of `tollgate key create` for the gateway's own key.
    #[must_use]
    pub(crate) fn key(mut self, arguments: &[&str]) -> Self {
        self.key.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// A line of `[gateway]`.
    #[must_use]
    pub(crate) fn setting(mut self, line: &str) -> Self {
        self.gateway.push(line.to_owned());
        self
    }

    /// Adds a line to `[control]`.
    #[must_use]
    pub(crate) fn control(mut self, line: &str) -> Self {
        self.control.push(line.to_owned());
        self
    }

    /// A line of `[gateway.limits]`.
    #[must_use]
    pub(crate) fn limit(mut self, line: &str) -> Self {
        self.limits.push(line.to_owned());
        self
    }

    /// A line of `[store]`, where nodes share one.
    #[must_use]
    pub(crate) fn store(mut self, line: &str) -> Self {
        self.store.push(line.to_owned());
        self
    }

    /// Another section, whole.
    #[must_use]
    pub(crate) fn section(mut self, text: &str) -> Self {
        self.sections.push(text.to_owned());
        self
    }

    /// A variable in the environment of the process.
    #[must_use]
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// TLS with a certificate and a key from these files.
    #[must_use]
    pub(crate) fn tls(mut self, certificate: &Path, key: &Path) -> Self {
        self.tls = Some(format!("certificate = {certificate:?}\nkey = {key:?}"));
        self
    }

    /// Writes the configuration and the catalogue for somebody else to start; gives back the addresses of the control plane and of
    /// the process's own state.
    pub(crate) fn write_for_others(&self, directory: &Path) -> [String; 2] {
        let listeners = Listeners::choose();
        self.write(directory, &listeners);
        [listeners.control, listeners.metrics].map(|address| format!("http://{address}"))
    }

    /// Writes the configuration and the catalogue.
    pub(super) fn write(&self, directory: &Path, listeners: &Listeners) {
        let Listeners { gateway, tls, control, metrics } = listeners;
        let mut limits = self.limits.clone();
        if !limits.iter().any(|line| line.starts_with("drain_delay_ms")) {
            limits.push("drain_delay_ms = 0".to_owned());
        }
        let mut text = format!(
            "data_dir = 'data'\n[gateway]\nlisten = ['{gateway}']\nthreads = 2\n{}\n[gateway.limits]\n{}\n",
            self.gateway.join("\n"),
            limits.join("\n")
        );
        if let Some(files) = &self.tls {
            let _ = writeln!(text, "[gateway.tls]\nlisten = ['{tls}']\n{files}");
        }
        let more = self.control.join("\n");
        let _ = writeln!(text, "[control]\nlisten = '{control}'\n{more}\n[metrics]\nlisten = '{metrics}'");
        text.push_str("[catalogue]\nfile = 'models.toml'\n");
        if !self.sections.iter().any(|section| section.starts_with("[log]")) {
            text.push_str("[log]\nformat = 'text'\n");
        }
        for section in self.sections.iter().cloned().chain(self.upstreams.iter().map(Upstream::section)) {
            let _ = writeln!(text, "{section}");
        }
        std::fs::write(directory.join("tollgate.toml"), text).expect("the directory can be written");
        std::fs::write(directory.join("models.toml"), self.catalogue()).expect("the directory can be written");
    }

    fn catalogue(&self) -> String {
        let more = MORE_MODELS.iter().filter(|_| self.speaks_all);
        MODELS.iter().chain(more).map(|model| self.model(model)).chain(self.models.iter().cloned()).collect()
    }

    fn model(&self, (protocol, id, alias, mode, prices): &(&str, &str, &str, &str, &str)) -> String {
        let serving = self.upstreams.iter().filter(|upstream| upstream.protocol == *protocol);
        let candidates: Vec<_> = serving.map(|upstream| upstream.candidate(id)).collect();
        if candidates.is_empty() {
            return String::new();
        }
        format!(
            "[[models]]\nid = '{id}'\naliases = ['{alias}']\ncontext_tokens = 1_000_000_000\noutput_tokens_max = 16_384\n\
             output_limit_field = 'max_tokens'\nmode = '{mode}'\ncandidates = [{}]\n[[models.prices]]\n{prices}\n",
            candidates.join(", ")
        )
    }
}
