//! Organisations' own credentials, ready to be used: how each goes into a request, where it is asked, and how it fares.
//!
//! One without an address of its own is used at the configured provider in place of ours. One with an address is asked there, and
//! nothing of ours goes there: neither credentials nor added headers and parameters, nor through our proxies.

use super::attempt::Failure;
use super::headers::Means;
use super::health::Rest;
use super::providers::{Credential, Provider};
use crate::address_guard::AddressGuard;
use crate::clock;
use crate::config::{self, BaseUrl};
use crate::metrics::Metrics;
use filters::id::{CredentialId, OrgId};
use filters::key::Key;
use filters::own::{CredentialEvent, CredentialNote, OwnCredential};
use filters::time::EpochMs;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::mpsc;

/// What is not used for so long is made anew when it is used again.
const IDLE_MS: i64 = 600_000;
/// How long addresses of a name are used before it is looked up and checked again.
const ADDRESSES_KEPT_MS: i64 = 30_000;
/// A use within so long of one that was noted is not.
const USE_NOTED_EVERY_MS: i64 = 60_000;

/// Organisations' credentials that were used lately.
pub struct OwnAccounts {
    accounts: RwLock<HashMap<CredentialId, Arc<OwnAccount>>>,
    guard: AddressGuard,
    notes: mpsc::Sender<CredentialNote>,
}

/// A credential of an organisation, and who is asked with it.
pub(super) struct OwnAccount {
    version: i64,
    /// The provider of that name when this was made.
    configured: Arc<Provider>,
    /// Who is asked: that one, or somebody at the organisation's address.
    pub(super) provider: Arc<Provider>,
    pub(super) credential: Credential,
    base_url: Option<Box<str>>,
    checked: AtomicI64,
    used: AtomicI64,
}

/// What an organisation's credential has that ours do not.
pub(super) struct Standing {
    pub(super) id: CredentialId,
    org: OrgId,
    /// It alone is left alone after a failure: what somebody's account does to itself is nothing to others.
    pub(super) cooling: Rest,
    noted: AtomicI64,
    notes: mpsc::Sender<CredentialNote>,
}

impl Standing {
    /// Notes that a provider took it.
    pub(super) fn note_use(&self, now: EpochMs) {
        let before = self.noted.load(Ordering::Relaxed);
        if before + USE_NOTED_EVERY_MS <= now.0 {
            self.noted.store(now.0, Ordering::Relaxed);
            self.note(CredentialEvent::Used, now);
        }
    }

    /// Notes that the provider refused it.
    pub(super) fn note_benched(&self, status: u16, until: EpochMs, now: EpochMs) {
        self.note(CredentialEvent::Benched { status, until }, now);
    }

    /// Where nobody reads them, notes are left out: nothing depends on them.
    fn note(&self, event: CredentialEvent, at: EpochMs) {
        let _ = self.notes.try_send(CredentialNote { id: self.id, org: self.org, at, event });
    }
}

impl OwnAccounts {
    /// None yet.
    #[must_use]
    pub fn new(guard: AddressGuard, notes: mpsc::Sender<CredentialNote>) -> Self {
        Self { accounts: RwLock::default(), guard, notes }
    }

    /// Whether a credential can be used now with hope.
    pub(super) fn is_well(&self, own: &OwnCredential, now: EpochMs) -> bool {
        self.find(own).is_none_or(|account| account.is_well(now))
    }

    /// The account of a credential, with addresses that were checked lately.
    pub(super) async fn account(
        &self,
        own: &OwnCredential,
        configured: &Arc<Provider>,
        metrics: &Metrics,
    ) -> Result<Arc<OwnAccount>, Failure> {
        let now = clock::now();
        let known = self.find(own).filter(|account| Arc::ptr_eq(&account.configured, configured));
        let account = match known {
            Some(account) => account,
            None => self.open(own, configured, metrics)?,
        };
        account.used.store(now.0, Ordering::Relaxed);
        account.look_up(&self.guard, now).await?;
        Ok(account)
    }

    /// The account that something is asked with that may be asked with an organisation's own; none: with ours.
    pub(super) async fn of(
        &self,
        own: Option<&OwnCredential>,
        configured: &Arc<Provider>,
        metrics: &Metrics,
    ) -> Result<Option<Arc<OwnAccount>>, Failure> {
        match own {
            // Boxed: most calls are ours, and their futures are moved at their full size.
            Some(own) => Box::pin(self.account(own, configured, metrics)).await.map(Some),
            None => Ok(None),
        }
    }

    /// Closes connections that were idle for too long, and lets go of what is not used.
    pub fn close_old(&self) {
        let now = clock::now();
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        accounts.retain(|_, account| account.used.load(Ordering::Relaxed) + IDLE_MS > now.0);
        let kept: Vec<_> = accounts.values().map(Arc::clone).collect();
        drop(accounts);
        kept.iter().for_each(|account| account.provider.close_old_connections());
    }

    fn find(&self, own: &OwnCredential) -> Option<Arc<OwnAccount>> {
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        accounts.get(&own.id).filter(|account| account.version == own.version).cloned()
    }

    fn open(
        &self,
        own: &OwnCredential,
        configured: &Arc<Provider>,
        metrics: &Metrics,
    ) -> Result<Arc<OwnAccount>, Failure> {
        let standing = Standing {
            id: own.id,
            org: own.org,
            cooling: Rest::default(),
            noted: AtomicI64::new(0),
            notes: self.notes.clone(),
        };
        let opened = OwnAccount::open(own, configured, (metrics, standing));
        let account = opened.map(Arc::new).map_err(|problem| {
            tracing::warn!(credential = %own.id, problem, "an organisation's credential can't be used");
            Failure::Credential { status: 0 }
        })?;
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        accounts.insert(own.id, Arc::clone(&account));
        Ok(account)
    }
}

impl OwnAccount {
    fn open(
        own: &OwnCredential,
        configured: &Arc<Provider>,
        (metrics, standing): (&Metrics, Standing),
    ) -> Result<Self, String> {
        let secret = own.secret.as_ref().ok_or("its secret can't be opened")?;
        let means = Means::of(&configured.settings.credential, secret.reveal())?;
        let provider = match &own.base_url {
            None => Arc::clone(configured),
            Some(url) => Arc::new(Provider::without_addresses(&elsewhere(&configured.settings, url)?, metrics)?),
        };
        Ok(Self {
            version: own.version,
            configured: Arc::clone(configured),
            provider,
            credential: Credential::of_organisation(own.place, means, standing),
            base_url: own.base_url.clone(),
            checked: AtomicI64::new(0),
            used: AtomicI64::new(0),
        })
    }

    fn is_well(&self, now: EpochMs) -> bool {
        let is_cooling = self.credential.own.as_ref().is_some_and(|standing| standing.cooling.is_on(now));
        !is_cooling && !self.credential.benched.is_on(now)
    }

    async fn look_up(&self, guard: &AddressGuard, now: EpochMs) -> Result<(), Failure> {
        let Some(url) = &self.base_url else { return Ok(()) };
        if self.checked.load(Ordering::Acquire) + ADDRESSES_KEPT_MS > now.0 {
            return Ok(());
        }
        let found = guard.check(url).await.map_err(|refused| {
            tracing::warn!(provider = &*self.provider.name, %refused, "an organisation's address can't be used");
            Failure::Connect
        })?;
        self.provider.set_addresses(found.addresses);
        self.checked.store(now.0, Ordering::Release);
        Ok(())
    }
}

/// Who is asked: the account's provider, or the configured one.
pub(super) fn provider_of<'a>(
    account: &'a Option<Arc<OwnAccount>>,
    configured: &'a Arc<Provider>,
) -> &'a Arc<Provider> {
    account.as_ref().map_or(configured, |account| &account.provider)
}

/// What is asked with: the account's credential, or one of ours.
pub(super) fn credential_of<'a>(
    account: &'a Option<Arc<OwnAccount>>,
    ours: impl FnOnce() -> Option<&'a Credential>,
) -> Result<&'a Credential, Failure> {
    let own = account.as_ref().map(|account| &account.credential);
    own.or_else(ours).ok_or(Failure::Credential { status: 0 })
}

/// The settings of a provider as they are for an organisation's address: its protocol and its deadlines, and nothing that is ours.
fn elsewhere(configured: &config::Provider, url: &str) -> Result<config::Provider, String> {
    let (base_url, query) = url.split_once('?').unwrap_or((url, ""));
    Ok(config::Provider {
        base_url: BaseUrl::parse(base_url)?,
        query: query.to_owned(),
        credentials: Vec::new(),
        headers: Vec::new(),
        proxy: None,
        ca_file: None,
        shared_objects: Arc::new([]),
        ..configured.clone()
    })
}

/// The organisation's credential of a place, if it has it still.
pub(super) fn at_place(key: &Key, place: u16) -> Option<&Arc<OwnCredential>> {
    key.own.iter().flat_map(|own| own.iter()).find(|own| own.place == place)
}

/// The organisation's credential that requests to a provider go out with that are no calls of a model: of those that are well the
/// first, if any is.
pub(super) fn first_at<'k>(
    key: &'k Key,
    provider: &str,
    accounts: &OwnAccounts,
    now: EpochMs,
) -> Option<&'k Arc<OwnCredential>> {
    let all = key.own.iter().flat_map(|own| own.iter());
    let usable = all.filter(|own| *own.provider == *provider && own.secret.is_some());
    usable.min_by_key(|own| (!accounts.is_well(own, now), own.priority))
}
