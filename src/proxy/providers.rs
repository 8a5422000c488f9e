//! What the configuration says now, ready to be used: providers with their addresses, credentials and health.

use super::attempt::judge;
use super::dial::{Dialer, Tunnel};
use super::headers::{HeaderSets, Means};
use super::health::{Rest, pick};
use super::idle::IdleConnections;
use super::own::{OwnAccounts, Standing};
use super::relay::rest;
use crate::clock;
use crate::config::{self, Config, ErrorShape, Limits};
use crate::error::Shape;
use crate::metrics::{CallSeries, Metrics, ProviderSeries};
use arc_swap::ArcSwap;
use filters::catalogue::{Catalogue, Model};
use filters::dialect::Protocol;
use filters::key::{Key, allows};
use filters::money::CreditUnit;
use filters::network::Network;
use filters::objects::SharedObjects;
use filters::pipeline::Admitted;
use filters::reserve::Allowances;
use filters::route::Route;
use filters::time::EpochMs;
use http::HeaderValue;
use pingora::http::ResponseHeader;
use pingora::protocols::ALPN;
use pingora::upstreams::peer::HttpPeer;
use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// The configuration in force, as the data plane uses it. Replaced as a whole when the configuration changes.
pub struct Runtime {
    /// The models.
    pub catalogue: Arc<Catalogue>,
    /// What a client may cost us.
    pub limits: Limits,
    /// How errors look.
    pub error_shape: ErrorShape,
    /// What our keys begin with.
    pub key_prefix: String,
    /// How many output tokens are set aside, and left by a clamp.
    pub allowances: Allowances,
    /// What a credit is worth, for those who count in credits.
    pub credit_unit: Option<CreditUnit>,
    /// Whether each call has a line in the log.
    pub log_calls: bool,
    /// Origins that browsers may call from.
    pub cors_origins: Vec<String>,
    /// Load balancers whose word on the client's address is taken.
    pub trusted_proxies: Vec<Network>,
    /// Stored objects that everybody may use.
    pub shared_objects: SharedObjects,
    /// For each candidate of the catalogue, who serves which model.
    by_candidate: Vec<(Arc<Provider>, Arc<Model>)>,
    by_name: HashMap<Arc<str>, Arc<Provider>>,
    /// For each candidate, the series of each route, once they were used.
    series: Vec<[OnceLock<Arc<CallSeries>>; Route::ALL.len()]>,
}

impl Runtime {
    /// Makes the configuration ready; the error names what can't be.
    pub fn new(config: &Config, metrics: &Metrics) -> Result<Self, String> {
        let providers = config
            .providers
            .iter()
            .map(|provider| Ok((Arc::clone(&provider.name), Arc::new(Provider::new(provider, metrics)?))))
            .collect::<Result<HashMap<_, _>, String>>()?;
        let by_candidate = config
            .catalogue
            .candidates()
            .map(|(model, candidate)| {
                let provider = providers.get(&candidate.provider).map(Arc::clone);
                provider
                    .map(|provider| (provider, Arc::clone(model)))
                    .ok_or_else(|| format!("the provider {} is not configured", candidate.provider))
            })
            .collect::<Result<Vec<_>, String>>()?;
        Ok(Self {
            catalogue: Arc::clone(&config.catalogue),
            limits: config.gateway.limits.clone(),
            error_shape: config.gateway.error_shape,
            key_prefix: config.keys.prefix.clone(),
            allowances: Allowances {
                output_tokens_max: config.quotas.reserve_output_tokens_max,
                clamp_output_tokens_min: config.quotas.clamp_output_tokens_min,
            },
            credit_unit: config.control.credit_unit,
            log_calls: config.log.calls,
            cors_origins: config.gateway.cors_origins.clone(),
            trusted_proxies: config.gateway.trusted_proxies.clone(),
            series: by_candidate.iter().map(|_| [const { OnceLock::new() }; Route::ALL.len()]).collect(),
            shared_objects: shared_objects(config),
            by_candidate,
            by_name: providers,
        })
    }

    /// Whether browser pages of an origin may call.
    pub(super) fn allows_origin(&self, origin: &HeaderValue) -> bool {
        self.cors_origins.iter().any(|allowed| allowed == "*" || allowed.as_bytes() == origin.as_bytes())
    }

    /// The shape of errors in a protocol.
    pub(super) fn shape(&self, protocol: Protocol) -> Shape {
        match self.error_shape {
            ErrorShape::Protocol => Shape::of(protocol),
            ErrorShape::Gateway => Shape::Gateway,
            ErrorShape::Numeric => Shape::Numeric,
        }
    }

    /// Who serves a candidate.
    pub(super) fn provider(&self, candidate_number: usize) -> &Arc<Provider> {
        &self.by_candidate[candidate_number].0
    }

    /// The provider of a name.
    pub(super) fn provider_named(&self, name: &str) -> Option<&Arc<Provider>> {
        self.by_name.get(name)
    }

    /// The providers that a key may use in a protocol, by their names; only the one that is named, where one is.
    pub(super) fn providers_of(&self, protocol: Protocol, key: &Key, named: Option<&str>) -> Vec<Arc<Provider>> {
        let fits = |provider: &&Arc<Provider>| {
            provider.settings.protocol == protocol
                && allows(&key.providers, &provider.name)
                && named.is_none_or(|name| *provider.name == *name)
        };
        let mut providers: Vec<_> = self.by_name.values().filter(fits).map(Arc::clone).collect();
        providers.sort_by(|one, other| one.name.cmp(&other.name));
        providers
    }

    /// The rank among all candidates of the first that a provider is; none if it serves no model.
    pub(super) fn rank(&self, provider: &Provider) -> Option<u32> {
        let candidates = self.catalogue.candidates().map(|(_, candidate)| candidate);
        candidates.filter(|candidate| candidate.provider == provider.name).map(|candidate| candidate.priority).min()
    }

    /// Every provider that serves something.
    #[must_use]
    pub fn providers(&self) -> Vec<Arc<Provider>> {
        let mut providers: Vec<_> = self.by_candidate.iter().map(|(provider, _)| Arc::clone(provider)).collect();
        providers.sort_by(|one, other| one.name.cmp(&other.name));
        providers.dedup_by(|one, other| Arc::ptr_eq(one, other));
        providers
    }

    /// The series that a call is counted in, which a candidate has answered.
    pub(super) fn series(&self, metrics: &Metrics, route: Route, candidate_number: usize) -> &CallSeries {
        let (provider, model) = &self.by_candidate[candidate_number];
        self.series[candidate_number][route as usize - 1]
            .get_or_init(|| metrics.call_series(route, &provider.series, model))
    }

    /// The choice to try next: of those not tried, those that are well come first, then the organisation's own credentials, then
    /// priority, then weight.
    pub(super) fn next_choice(
        &self,
        call: &Admitted,
        tried: &[usize],
        own: &OwnAccounts,
        now: EpochMs,
    ) -> Option<usize> {
        if call.choices().len() == 1 {
            return tried.is_empty().then_some(0);
        }
        let rank = |choice: usize| {
            let candidate = call.candidate(choice);
            match &call.choices()[choice].own {
                Some(mine) => (!own.is_well(mine, now), false, candidate.priority, mine.priority),
                None => (!self.provider(candidate.number).is_well(now), true, candidate.priority, 0),
            }
        };
        let untried = || (0..call.choices().len()).filter(|choice| !tried.contains(choice));
        let best = untried().map(rank).min()?;
        let equals = || untried().filter(|choice| rank(*choice) == best);
        let weight = |choice: usize| match &call.choices()[choice].own {
            Some(mine) => mine.weight,
            None => call.candidate(choice).weight,
        };
        let weights = equals().map(|choice| weight(choice).max(1)).collect::<Vec<_>>();
        let picked = pick(weights.iter().copied(), call.intent().call.0 as u64)?;
        equals().nth(picked)
    }
}

fn shared_objects(config: &Config) -> SharedObjects {
    let mut shared = SharedObjects::new();
    for provider in &config.providers {
        for id in provider.shared_objects.iter() {
            shared.entry(Box::from(&**id)).or_default().push(Arc::clone(&provider.name));
        }
    }
    shared
}

/// A provider, ready to be asked.
pub struct Provider {
    /// Its name.
    pub name: Arc<str>,
    pub(super) settings: config::Provider,
    pub(super) series: Arc<ProviderSeries>,
    pub(super) header_sets: HeaderSets,
    pub(super) cooling: Rest,
    credentials: Vec<Credential>,
    /// Its own dialer, if it has authorities of its own.
    own_dialer: Option<Dialer>,
    pub(super) idle: IdleConnections,
    peers: ArcSwap<Vec<Arc<HttpPeer>>>,
    turn: AtomicUsize,
}

/// A credential at a provider: one of ours, or an organisation's own.
pub(super) struct Credential {
    /// Its place in the configuration, or that of the organisation's.
    pub(super) place: u16,
    /// How it goes into a request.
    pub(super) means: Means,
    pub(super) benched: Rest,
    weight: u32,
    /// Where it is an organisation's.
    pub(super) own: Option<Standing>,
}

impl Credential {
    /// One of an organisation's.
    pub(super) fn of_organisation(place: u16, means: Means, standing: Standing) -> Self {
        Self { place, means, benched: Rest::default(), weight: 1, own: Some(standing) }
    }

    /// Notes what an organisation's credential is worth, by the head of an answer.
    pub(super) fn judge(&self, provider: &Provider, head: &ResponseHeader) {
        let now = clock::now();
        match (&self.own, judge(head)) {
            (Some(_), Err(failure)) => rest(provider, self, failure),
            (Some(standing), Ok(())) => standing.note_use(now),
            (None, _) => {}
        }
    }
}

impl Provider {
    fn new(settings: &config::Provider, metrics: &Metrics) -> Result<Self, String> {
        let provider = Self::without_addresses(settings, metrics)?;
        provider.find_addresses();
        Ok(provider)
    }

    /// A provider that can be asked once it is told where it is.
    pub(super) fn without_addresses(settings: &config::Provider, metrics: &Metrics) -> Result<Self, String> {
        let credentials = settings
            .credentials
            .iter()
            .zip(0..)
            .map(|(credential, place)| {
                let means = Means::of(&settings.credential, credential.secret.reveal())
                    .map_err(|problem| format!("a credential of {} {problem}", settings.name))?;
                Ok(Credential { place, means, benched: Rest::default(), weight: credential.weight, own: None })
            })
            .collect::<Result<Vec<_>, String>>()?;
        Ok(Self {
            name: Arc::clone(&settings.name),
            series: metrics.provider_series(&settings.name),
            header_sets: HeaderSets::new(settings)?,
            settings: settings.clone(),
            cooling: Rest::default(),
            credentials,
            own_dialer: settings.ca_file.as_deref().map(|file| Dialer::new(Some(file))).transpose()?,
            idle: IdleConnections::default(),
            peers: ArcSwap::default(),
            turn: AtomicUsize::new(0),
        })
    }

    /// Says where it is.
    pub(super) fn set_addresses(&self, mut addresses: Vec<SocketAddr>) {
        addresses.sort_unstable();
        self.peers.store(Arc::new(addresses.into_iter().map(|address| Arc::new(self.peer_at(address))).collect()));
    }

    /// Whether it can be asked now with hope.
    pub(super) fn is_well(&self, now: EpochMs) -> bool {
        !self.cooling.is_on(now) && self.has_credential(now)
    }

    /// Whether one of its credentials is not benched.
    pub(super) fn has_credential(&self, now: EpochMs) -> bool {
        self.credentials.iter().any(|credential| !credential.benched.is_on(now))
    }

    /// Tells its gauges how it is.
    pub fn show_health(&self, now: EpochMs) {
        self.series.set_cooling(self.cooling.is_on(now));
        for (number, credential) in self.credentials.iter().enumerate() {
            self.series.set_credential_benched(number, credential.benched.is_on(now));
        }
    }

    /// A credential that is not benched, by weight; if all are, any.
    pub(super) fn credential(&self, number: u64, now: EpochMs) -> Option<&Credential> {
        let weights =
            self.credentials.iter().map(|credential| if credential.benched.is_on(now) { 0 } else { credential.weight });
        let picked = pick(weights, number).or_else(|| pick(self.credentials.iter().map(|_| 1), number))?;
        self.credentials.get(picked)
    }

    /// The credential at that place; any other, if it is gone: all of them lead to the same account as a rule.
    pub(super) fn pinned_credential(&self, place: Option<u16>, number: u64, now: EpochMs) -> Option<&Credential> {
        let pinned = place.and_then(|place| self.credentials.get(usize::from(place)));
        pinned.or_else(|| self.credential(number, now))
    }

    /// One of its addresses, in turn.
    pub(super) fn peer(&self) -> Option<Arc<HttpPeer>> {
        let peers = self.peers.load();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        peers.get(turn.checked_rem(peers.len())?).cloned()
    }

    /// Whether it has another address than the one that was tried.
    pub(super) fn has_more_addresses(&self) -> bool {
        self.peers.load().len() > 1
    }

    /// Who makes connections to it.
    pub(super) fn dialer<'a>(&'a self, common: &'a Dialer) -> &'a Dialer {
        self.own_dialer.as_ref().unwrap_or(common)
    }

    /// Closes connections that were idle for too long.
    pub fn close_old_connections(&self) {
        self.idle.close_old(self.settings.keepalive);
    }

    /// Looks the addresses up anew. Blocks; called at start and from the background. If the name can't be resolved, the
    /// addresses known before stay.
    pub fn find_addresses(&self) {
        let url = self.settings.proxy.as_ref().unwrap_or(&self.settings.base_url);
        match (url.host.as_str(), url.port).to_socket_addrs() {
            Ok(addresses) => self.set_addresses(addresses.collect()),
            Err(error) => {
                tracing::warn!(provider = &*self.name, host = url.host, %error, "the provider's name can't be resolved")
            }
        }
    }

    fn peer_at(&self, address: SocketAddr) -> HttpPeer {
        let settings = &self.settings;
        // An empty server name would turn the verification of certificates off.
        let mut peer = HttpPeer::new(address, settings.base_url.tls, settings.base_url.host.clone());
        let options = &mut peer.options;
        options.connection_timeout = Some(settings.timeouts.connect);
        options.total_connection_timeout = Some(settings.timeouts.connect);
        options.idle_timeout = Some(settings.keepalive);
        options.write_timeout = Some(settings.timeouts.idle);
        options.verify_cert = true;
        options.verify_hostname = true;
        options.custom_l4 = Tunnel::of(settings).map(|tunnel| Arc::new(tunnel) as _);
        if settings.h2 {
            options.alpn = if settings.base_url.tls { ALPN::H2H1 } else { ALPN::H2 };
            options.max_h2_streams = 100;
        }
        peer
    }
}
