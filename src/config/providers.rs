//! The sections `[providers.NAME]`: who serves models, and how they are reached.

use super::address::BaseUrl;
use super::gateway::pem_file;
use super::place::{Section, Value};
use super::sources::{NoSecret, Secret, Sources};
use super::{Credential, CredentialStyle, OnDisconnect, Provider, Timeouts};
use filters::catalogue::InputEstimate;
use filters::dialect::{Dialect, Protocol};
use filters::objects::OBJECT_ID_BYTES_MAX;
use filters::price::Tier;
use http::{HeaderName, HeaderValue};
use std::sync::Arc;

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

/// What the first part of a public path can be: a provider of such a name could never be named in one.
const RESERVED_NAMES: [&str; 10] =
    ["v1", "v1beta", "v2", "api", "key", "model", "openapi.json", "auth.md", ".well-known", "metrics"];

/// Headers of the connection or of our credentials, which the relay writes itself.
const RESERVED_HEADERS: [&str; 18] = [
    "host",
    "connection",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "accept-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "x-amz-date",
    "x-amz-security-token",
    "cookie",
];

/// All providers that the file names.
#[derive(Debug, Default)]
pub(super) struct Providers {
    /// Those that can be used.
    pub(super) usable: Vec<Provider>,
    /// Optional ones without a credential.
    pub(super) left_out: Vec<Arc<str>>,
    /// Every name in the file, those with mistakes among them.
    pub(super) declared: Vec<Arc<str>>,
}

impl Providers {
    pub(super) fn read(root: &Section<'_>, sources: &Sources<'_>) -> Self {
        let mut providers = Self::default();
        for (name, value) in root.get("providers").map(|value| value.entries()).unwrap_or_default() {
            providers.add(name, &value, sources);
        }
        providers
    }

    fn add(&mut self, name: &str, value: &Value<'_>, sources: &Sources<'_>) {
        let shared: Arc<str> = Arc::from(name);
        self.declared.push(Arc::clone(&shared));
        if let Err(message) = check_name(name) {
            value.report(message);
        }
        match value.section(|section| read_provider(section, &shared, sources)).flatten() {
            Some(provider) if provider.credentials.is_empty() => self.left_out.push(shared),
            Some(provider) => self.usable.push(provider),
            None => {}
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if RESERVED_NAMES.contains(&name) {
        return Err(format!("the name {name} is reserved"));
    }
    let is_plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if is_plain && (1..=128).contains(&name.len()) {
        Ok(())
    } else {
        Err("a provider's name is 1 to 128 lower-case letters, digits and hyphens".to_owned())
    }
}

/// The provider; without credentials if it is optional and has none; none if there is a mistake in it.
fn read_provider(section: &Section<'_>, name: &Arc<str>, sources: &Sources<'_>) -> Option<Provider> {
    let protocol = section.require("protocol").and_then(|value| value.parsed(protocol));
    let apis = read_apis(section, protocol);
    let base_url = section.require("base_url").and_then(|value| value.parsed(BaseUrl::parse));
    let is_optional = section.boolean("optional", false);
    let credentials = section.require("credentials").map(|value| read_credentials(&value, is_optional, sources));
    let credential = read_style(section, protocol, credentials.as_ref().and_then(Option::as_deref));
    let query = section.parsed("query", String::new(), query);
    let adds_usage = section.boolean("adds_usage", true);
    let headers = section.get("headers").map(|value| read_headers(&value)).unwrap_or_default();
    let timeouts = section.within("timeouts", read_timeouts);
    let proxy = section.get("proxy").and_then(|value| value.parsed(proxy));
    let ca_file = section.get("ca_file").and_then(|value| pem_file(&value, "CERTIFICATE-----", sources));
    let cool_down = section.milliseconds("cool_down_ms", 0..=DAY_MS, 5_000);
    let bench = section.milliseconds("bench_ms", 0..=DAY_MS, MINUTE_MS);
    let keepalive = section.milliseconds("keepalive_ms", 0..=DAY_MS, MINUTE_MS);
    let h2 = section.boolean("h2", false);
    let input_estimate = section.parsed("input_estimate", InputEstimate::default(), |text| {
        InputEstimate::named(text).ok_or_else(|| "not one of bytes/4, bound".to_owned())
    });
    let default_tier = section.choice("default_tier", Tier::Standard, &Tier::ALL.map(|tier| (tier.name(), tier)));
    let on_disconnect = read_on_disconnect(section);
    let shared_objects = section.list("shared_objects", Vec::new(), object_id);
    Some(Provider {
        name: Arc::clone(name),
        protocol: protocol?,
        apis: apis.into(),
        base_url: base_url?,
        query,
        credentials: credentials??,
        credential: credential?,
        adds_usage,
        headers,
        timeouts,
        cool_down,
        bench,
        ca_file,
        proxy,
        h2,
        keepalive,
        input_estimate,
        default_tier,
        on_disconnect,
        shared_objects: shared_objects.into(),
    })
}

fn read_on_disconnect(section: &Section<'_>) -> OnDisconnect {
    let time_max = section.milliseconds("drain_ms_max", 1..=DAY_MS, 5 * MINUTE_MS);
    let bytes_max = section.number("drain_bytes_max", 1..=1 << 40, 16 << 20);
    let drain = OnDisconnect::Drain { time_max, bytes_max };
    section.choice("on_disconnect", OnDisconnect::Cancel, &[("cancel", OnDisconnect::Cancel), ("drain", drain)])
}

/// How credentials go into requests; none if there is a mistake.
fn read_style(
    section: &Section<'_>,
    protocol: Option<Protocol>,
    credentials: Option<&[Credential]>,
) -> Option<CredentialStyle> {
    const STYLES: [&str; 5] = ["bearer", "x-api-key", "api-key", "x-goog-api-key", "sigv4"];
    let usual = match protocol? {
        Protocol::Openai | Protocol::Cohere => STYLES[0],
        Protocol::Anthropic => STYLES[1],
        Protocol::Gemini => STYLES[3],
        Protocol::Bedrock => STYLES[4],
    };
    let written = section.choice("credential", usual, &STYLES.map(|style| (style, style)));
    let region = section.get("region");
    if written == STYLES[4] {
        let Some(region) = region else {
            section.report("region", "missing: signatures name the region");
            return None;
        };
        let is_sound = |credential: &Credential| (2..=3).contains(&credential.secret.reveal().split(':').count());
        if !credentials.unwrap_or_default().iter().all(is_sound) {
            section.report("credentials", "must be ID:SECRET or ID:SECRET:SESSION_TOKEN for signatures");
        }
        return Some(CredentialStyle::SigV4 { region: region.parsed(region_name)? });
    }
    if region.is_some() {
        section.report("region", "is of no use: only signatures (credential = \"sigv4\") name the region");
    }
    Some(match written {
        "x-api-key" => CredentialStyle::XApiKey,
        "api-key" => CredentialStyle::ApiKey,
        "x-goog-api-key" => CredentialStyle::XGoogApiKey,
        _ => CredentialStyle::Bearer,
    })
}

fn region_name(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if is_plain && !text.is_empty() { Ok(text.to_owned()) } else { Err("not a region such as us-east-1".to_owned()) }
}

/// Parameters as they are added to a query.
fn query(text: &str) -> Result<String, String> {
    let is_parameter = |pair: &str| pair.split_once('=').is_some_and(|(name, _)| !name.is_empty());
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'#' | b'<' | b'>' | b'?'));
    if is_plain && (text.is_empty() || text.split('&').all(is_parameter)) {
        Ok(text.to_owned())
    } else {
        Err("not parameters such as api-version=2026-01-01".to_owned())
    }
}

fn protocol(text: &str) -> Result<Protocol, String> {
    Protocol::named(text).ok_or_else(|| format!("not one of {}", Protocol::ALL.map(Protocol::name).join(", ")))
}

/// The dialects that a provider is said to speak, by their names.
fn read_apis(section: &Section<'_>, protocol: Option<Protocol>) -> Vec<Dialect> {
    let spoken = || Dialect::ALL.into_iter().filter(|dialect| Some(dialect.protocol()) == protocol);
    let parse = |text: &str| {
        let known = || spoken().map(Dialect::name).collect::<Vec<_>>().join(", ");
        spoken().find(|dialect| dialect.name() == text).ok_or_else(|| format!("not one of {}", known()))
    };
    let items = section.get("apis").and_then(|value| value.items()).unwrap_or_default();
    items.iter().filter_map(|item| item.parsed(parse)).collect()
}

fn object_id(text: &str) -> Result<Box<str>, String> {
    if (1..=OBJECT_ID_BYTES_MAX).contains(&text.len()) {
        Ok(text.into())
    } else {
        Err(format!("must be the id of an object, 1 to {OBJECT_ID_BYTES_MAX} bytes"))
    }
}

fn proxy(text: &str) -> Result<BaseUrl, String> {
    let url = BaseUrl::parse(text)?;
    if url.tls || !url.path.is_empty() {
        return Err("must be http://HOST:PORT".to_owned());
    }
    Ok(url)
}

fn read_timeouts(section: &Section<'_>) -> Timeouts {
    let timeouts = Timeouts {
        connect: section.milliseconds("connect_ms", 1..=DAY_MS, 5_000),
        header: section.milliseconds("header_ms", 1..=DAY_MS, 2 * MINUTE_MS),
        first_event: section.milliseconds("first_event_ms", 1..=DAY_MS, 2 * MINUTE_MS),
        idle: section.milliseconds("idle_ms", 1..=DAY_MS, 2 * MINUTE_MS),
        total: section.milliseconds("total_ms", 1..=DAY_MS, 60 * MINUTE_MS),
    };
    if timeouts.total < timeouts.header {
        section.report("total_ms", "must be at least header_ms");
    }
    timeouts
}

fn read_headers(value: &Value<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (written, value) in value.entries() {
        let Ok(name) = written.parse::<HeaderName>() else {
            value.report("not a header name");
            continue;
        };
        if RESERVED_HEADERS.contains(&name.as_str()) || name.as_str().starts_with("proxy-") {
            value.report("is written by the gateway itself");
        } else if headers.iter().any(|(other, _)| *other == name) {
            value.report("is there twice: case makes no difference in header names");
        }
        let parse = |text: &str| HeaderValue::from_str(text).map_err(|_| "not a header value".to_owned());
        if let Some(mut header) = value.parsed(parse) {
            // Nobody knows what it holds, so nothing may print it.
            header.set_sensitive(true);
            headers.push((name, header));
        }
    }
    headers
}

/// The credentials that are there; none at all if there is a mistake.
fn read_credentials(value: &Value<'_>, is_optional: bool, sources: &Sources<'_>) -> Option<Vec<Credential>> {
    let items = value.items()?;
    if items.is_empty() {
        value.report("must name a credential such as { env = \"NAME\" }");
        return None;
    }
    let mut is_sound = true;
    let mut credentials = Vec::with_capacity(items.len());
    for item in items {
        match item.section(|section| read_credential(section, sources)).flatten() {
            Some((Ok(secret), weight)) => credentials.push(Credential { secret, weight }),
            Some((Err(NoSecret::Absent(_)), _)) if is_optional => {}
            Some((Err(NoSecret::Absent(message) | NoSecret::Unusable(message)), _)) => {
                item.report(message);
                is_sound = false;
            }
            None => is_sound = false,
        }
    }
    is_sound.then_some(credentials)
}

fn read_credential(section: &Section<'_>, sources: &Sources<'_>) -> Option<(Result<Secret, NoSecret>, u32)> {
    let weight = u32::try_from(section.number("weight", 1..=1_000_000, 1)).unwrap_or(1);
    Some((read_secret(section, sources)?, weight))
}

/// The secret that a table such as `{ env = "NAME" }` names; none if there is a mistake in it.
pub(super) fn read_secret(section: &Section<'_>, sources: &Sources<'_>) -> Option<Result<Secret, NoSecret>> {
    let [env, file, value] = ["env", "file", "value"].map(|key| section.get(key));
    Some(match (env, file, value) {
        (Some(name), None, None) => from_environment(name.text()?, sources),
        (None, Some(path), None) => from_file(path.text()?, sources),
        (None, None, Some(value)) => Secret::new(value.text()?, "the value"),
        _ => Err(NoSecret::Unusable("must have exactly one of env, file, value".to_owned())),
    })
}

fn from_environment(name: &str, sources: &Sources<'_>) -> Result<Secret, NoSecret> {
    match sources.variable(name) {
        Some(text) => Secret::new(&text, &format!("the environment variable {name}")),
        None => Err(NoSecret::Absent(format!("the environment variable {name} is not set"))),
    }
}

fn from_file(written: &str, sources: &Sources<'_>) -> Result<Secret, NoSecret> {
    let path = sources.path(written);
    let text = sources.read(&path).map_err(NoSecret::Absent)?;
    Secret::new(&text, &path.display().to_string())
}
