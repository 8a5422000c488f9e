//! The demo: everything in one process, with a simulated provider that costs nothing, so that a stranger has a governed,
//! metered, durable call within a minute of cloning.

use crate::app::{self, Announcement};
use crate::clock;
use crate::config::Config;
use crate::simulated_provider;
use crate::store::keys::NewKey;
use crate::store::limits::Limit;
use crate::store::quotas::QuotaKind;
use crate::store::{Store, StoreError};
use clap::Args;
use filters::money::NanoUsd;
use serde::Serialize;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `tollgate demo`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Where everything is kept; without it, a temporary directory that is removed at the end.
    #[arg(long)]
    data: Option<PathBuf>,
    /// The gateway's port; the control and metrics listeners take 8081 and 9090. 0 picks free ports for all of them.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Print one line of JSON instead of lines to read.
    #[arg(long)]
    json: bool,
    /// Log each call.
    #[arg(long)]
    log: bool,
}

/// Where everything is: what `--json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Addresses {
    gateway: String,
    control: String,
    metrics: String,
    simulated_provider: String,
    org: String,
    key: String,
    operator_token: String,
    data: PathBuf,
}

const CATALOGUE: &str = include_str!("../conf/models.toml");
const SETTINGS: &str = include_str!("../conf/tollgate.toml");
/// What a provider has to say of itself so that its simulated twin can stand in for it.
const TWIN_SETTINGS: [&str; 3] = ["protocol", "apis", "adds_usage"];
const ORGANISATION: &str = "demo";
/// The demo's organisation is among the first.
const ORGANISATIONS_MAX: u32 = 100;
const CREDIT: NanoUsd = NanoUsd(1_000_000_000_000);
const KEY_LIMIT: NanoUsd = NanoUsd(100_000_000_000);
const REQUESTS_PER_MINUTE: i64 = 1_000_000;
const TOKENS_PER_MINUTE: i64 = 1_000_000_000;

/// Runs the demo until it is interrupted.
#[must_use]
pub fn run(options: Options) -> ExitCode {
    match prepare(&options) {
        Ok((config, addresses, _temporary)) => {
            let text = if options.json { json_line(&addresses) } else { lines_to_paste(&addresses) };
            app::serve(config, None, Announcement::Print(text))
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

type Prepared = (Config, Addresses, Option<tempfile::TempDir>);

fn prepare(options: &Options) -> Result<Prepared, String> {
    let (data, temporary) = match &options.data {
        Some(directory) => (directory.clone(), None),
        None => {
            let made = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
            (made.path().to_owned(), Some(made))
        }
    };
    let Records { org, key, operator_token } = app::block_on(records(&data)).map_err(|error| error.to_string())?;
    let simulated =
        app::start_simulated_provider(simulated_provider::Options::default()).map_err(|error| error.to_string())?;
    let listeners = Listeners::choose(options.port).map_err(|error| format!("no free port: {error}"))?;
    let config = configuration(&data, &listeners, simulated, options.log)?;
    let url = |address: SocketAddr| format!("http://{address}");
    let addresses = Addresses {
        gateway: url(listeners.gateway),
        control: url(listeners.control),
        metrics: url(listeners.metrics),
        simulated_provider: url(simulated),
        org,
        key,
        operator_token,
        data,
    };
    Ok((config, addresses, temporary))
}

/// What the demo is used with.
struct Records {
    org: String,
    key: String,
    operator_token: String,
}

/// The organisation, made at the first start, and new tokens: those of earlier starts are known to nobody any more.
async fn records(data: &Path) -> Result<Records, StoreError> {
    let store = Store::open(data).await?;
    let now = clock::now();
    let existing = store
        .organisations(None, ORGANISATIONS_MAX)
        .await?
        .into_iter()
        .find(|organisation| organisation.name == ORGANISATION);
    let org = match existing {
        Some(organisation) => organisation.id,
        None => {
            let made = store.create_organisation(ORGANISATION, now).await?;
            store.top_up(made.id, CREDIT, "demo credit", now).await?;
            made.id
        }
    };
    let limits = vec![
        Limit::plain(QuotaKind::Spend, KEY_LIMIT.0),
        Limit::plain(QuotaKind::Requests, REQUESTS_PER_MINUTE),
        Limit::plain(QuotaKind::Tokens, TOKENS_PER_MINUTE),
    ];
    let new = NewKey { limits, ..NewKey::named(org, ORGANISATION) };
    let key = store.create_key(&new, now).await?;
    let earlier = store.operators().await?;
    let (_, operator) = store.create_operator(ORGANISATION, now).await?;
    for operator in earlier.iter().filter(|operator| operator.revoked.is_none()) {
        store.revoke_operator(operator.id, now).await?;
    }
    store.close().await;
    Ok(Records {
        org: org.to_string(),
        key: key.token.reveal().to_owned(),
        operator_token: operator.reveal().to_owned(),
    })
}

struct Listeners {
    gateway: SocketAddr,
    control: SocketAddr,
    metrics: SocketAddr,
}

impl Listeners {
    fn choose(port: u16) -> std::io::Result<Self> {
        let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if port != 0 {
            return Ok(Self { gateway: local(port), control: local(8081), metrics: local(9090) });
        }
        // Held together, so that no two of them get the same port.
        let held = [TcpListener::bind(local(0))?, TcpListener::bind(local(0))?, TcpListener::bind(local(0))?];
        let [gateway, control, metrics] = held;
        Ok(Self { gateway: gateway.local_addr()?, control: control.local_addr()?, metrics: metrics.local_addr()? })
    }
}

fn configuration(data: &Path, listeners: &Listeners, simulated: SocketAddr, log_calls: bool) -> Result<Config, String> {
    let mut text = format!(
        "data_dir = {data:?}\n[gateway]\nlisten = [\"{}\"]\n[gateway.limits]\ndrain_delay_ms = 0\n[control]\nlisten = \"{}\"\n[metrics]\nlisten = \"{}\"\n\
         [log]\ncalls = {log_calls}\nformat = \"text\"\nlevel = \"{}\"\n[catalogue]\nfile = \"models.toml\"\n",
        listeners.gateway,
        listeners.control,
        listeners.metrics,
        if log_calls { "info" } else { "warn" },
    );
    let settings: toml::Table = SETTINGS.parse().map_err(|error| format!("the shipped configuration: {error}"))?;
    let providers = settings.get("providers").and_then(toml::Value::as_table);
    let providers = with_simulated_twins(providers.ok_or("the shipped configuration has no providers")?, simulated);
    text.push_str(&toml::to_string(&providers).map_err(|error| format!("the providers: {error}"))?);
    let models = with_simulated_candidates(CATALOGUE)?;
    Config::parse(&text, "demo.toml", &models, "models.toml")
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// Each provider that has a credential in the environment, and beside each the simulated one, in the same protocol.
fn with_simulated_twins(providers: &toml::Table, simulated: SocketAddr) -> toml::Table {
    let mut all = toml::Table::new();
    for (name, settings) in providers {
        let Some(settings) = settings.as_table() else { continue };
        let protocol = settings.get("protocol").and_then(toml::Value::as_str).unwrap_or_default();
        let root = match protocol {
            "gemini" => "/v1beta",
            "cohere" => "/v2",
            "bedrock" => "",
            _ => "/v1",
        };
        let kept = settings.iter().filter(|(key, _)| TWIN_SETTINGS.contains(&key.as_str()));
        let mut twin: toml::Table = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
        let credential = toml::Table::from_iter([("value".to_owned(), "sk-simulated".into())]);
        twin.insert("base_url".to_owned(), format!("http://{simulated}{root}").into());
        twin.insert("credentials".to_owned(), vec![credential].into());
        twin.insert("input_estimate".to_owned(), "bound".into());
        if protocol == "bedrock" {
            // The simulated one looks at no signature.
            twin.insert("credential".to_owned(), "bearer".into());
        }
        all.insert(twin_name(name), twin.into());
        let mut real = settings.clone();
        real.insert("optional".to_owned(), true.into());
        all.insert(name.clone(), real.into());
    }
    toml::Table::from_iter([("providers".to_owned(), all.into())])
}

fn twin_name(provider: &str) -> String {
    format!("simulated-{provider}")
}

/// The shipped catalogue with a simulated candidate beside each real one, which is tried only where the real one can't be.
fn with_simulated_candidates(catalogue: &str) -> Result<String, String> {
    let mut table: toml::Table = catalogue.parse().map_err(|error| format!("the shipped catalogue: {error}"))?;
    let models =
        table.get_mut("models").and_then(toml::Value::as_array_mut).ok_or("the shipped catalogue has no models")?;
    for model in models {
        let Some(candidates) = model.get_mut("candidates").and_then(toml::Value::as_array_mut) else { continue };
        let simulated: Vec<toml::Value> = candidates.iter().filter_map(simulated_twin).collect();
        candidates.extend(simulated);
    }
    toml::to_string(&table).map_err(|error| format!("the shipped catalogue: {error}"))
}

fn simulated_twin(candidate: &toml::Value) -> Option<toml::Value> {
    let mut twin = candidate.as_table()?.clone();
    let provider = twin.get("provider")?.as_str()?;
    let name = twin_name(provider);
    twin.insert("provider".to_owned(), toml::Value::String(name));
    twin.insert("priority".to_owned(), toml::Value::Integer(1));
    Some(toml::Value::Table(twin))
}

fn json_line(addresses: &Addresses) -> String {
    serde_json::to_string(addresses).unwrap_or_default()
}

fn lines_to_paste(addresses: &Addresses) -> String {
    let Addresses { gateway, control, metrics, simulated_provider, org, key, operator_token, data } = addresses;
    format!(
        r#"Tollgate is running. Everything is simulated and free; Ctrl-C stops it.

  gateway             {gateway}
  control             {control}
  metrics             {metrics}/metrics
  simulated provider  {simulated_provider}
  organisation        {org}
  key (shown once)    {key}
  operator's token    {operator_token}
  data                {data}

A call, as to OpenAI:

  curl {gateway}/v1/chat/completions -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \
    -d '{{"model":"gpt-4o-mini","messages":[{{"role":"user","content":"Hello"}}]}}'

A stream:

  curl -N {gateway}/v1/chat/completions -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \
    -d '{{"model":"gpt-4o-mini","stream":true,"max_tokens":20,"messages":[{{"role":"user","content":"count to twenty"}}]}}'

As to OpenAI's responses:

  curl {gateway}/v1/responses -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \
    -d '{{"model":"gpt-4o-mini","input":"Hello"}}'

As to Anthropic:

  curl {gateway}/v1/messages -H "x-api-key: {key}" -H "anthropic-version: 2023-06-01" -H "Content-Type: application/json" \
    -d '{{"model":"claude-sonnet-4-6","max_tokens":64,"messages":[{{"role":"user","content":"Hello"}}]}}'

Refused, because the key is wrong:

  curl {gateway}/v1/chat/completions -H "Authorization: Bearer nobody" -H "Content-Type: application/json" \
    -d '{{"model":"gpt-4o-mini","messages":[{{"role":"user","content":"Hello"}}]}}'

What it has spent:

  curl {gateway}/v1/key -H "Authorization: Bearer {key}"

The control plane, which {control}/openapi.json describes:

  curl {control}/api/operators -H "Authorization: Bearer {operator_token}"
"#,
        data = data.display(),
    )
}
