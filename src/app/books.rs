//! Opens what keeps the books, as the configuration says.

use super::own;
use crate::address_guard::AddressGuard;
use crate::clock;
use crate::config::{self, Config, ErrorShape, Ledger, Secret};
use crate::control::sessions::Accounts;
use crate::control::{Control, Settings};
use crate::error::Shape;
use crate::store::bookkeeper::Bookkeeper;
use crate::store::journal::{self, Journal, Shipper};
use crate::store::key_cache::{KeyCache, KeyCacheSettings};
use crate::store::ledger::LedgerSettings;
use crate::store::passwords::Passwords;
use crate::store::redis::Redis;
use crate::store::redis::rates::SharedRates;
use crate::store::retention::RetentionSettings;
use crate::store::sign_in::SignInLimits;
use crate::store::{Store, StoreError};
use filters::id::PriceId;
use filters::price::Price;
use filters::quota::Peers;
use std::sync::{Arc, OnceLock};
use tokio::sync::Semaphore;

type Problem = Box<dyn std::error::Error>;

/// Opens the journal, closes what an earlier process left open in it, and ships it. That of a node that was forgotten is set
/// aside then, and this process goes on as a new node.
pub(super) async fn open_journal(store: &Store, config: &Config) -> Result<(Arc<Journal>, Shipper), Problem> {
    loop {
        let shipped = match journal::node_name(&config.books.data_dir) {
            Some(node) => store.checkpoint(&node).await?,
            None => None,
        };
        let (journal, recovered) = Journal::open(journal_settings(config), shipped, clock::now())?;
        let mut shipper = journal.shipper(Arc::new(store.clone())).await?;
        let shipped = shipper.ship_all().await?;
        if shipped > 0 {
            tracing::info!(?recovered, shipped, "what an earlier process left is on the books");
        }
        if !store.is_forgotten(journal.node()).await? {
            return Ok((Arc::new(journal), shipper));
        }
        let node = journal.node().to_owned();
        drop((shipper, journal));
        let aside = journal::set_aside(&config.books.data_dir, &node)?;
        tracing::warn!(
            node,
            ?aside,
            "this node was forgotten: its journal is on the books, and this process is a new node"
        );
    }
}

/// Opens the control plane. The first operator's token is printed this one time, unless the configuration gives it.
pub(super) async fn open_control(store: &Store, config: &Config, guard: AddressGuard) -> Result<Arc<Control>, Problem> {
    let given = config.control.operator_token.as_ref().map(Secret::reveal);
    if let Some(token) = store.bootstrap_operator(given, clock::now()).await? {
        println!("The operator's token, shown this one time: {}", token.reveal());
    }
    let settings = Settings {
        key_prefix: config.keys.prefix.clone(),
        shape: match config.gateway.error_shape {
            ErrorShape::Protocol => Shape::Openai,
            ErrorShape::Gateway => Shape::Gateway,
            ErrorShape::Numeric => Shape::Numeric,
        },
        credit_unit: config.control.credit_unit,
        request_timeout: config.control.request_timeout,
        accounts: accounts(&config.control.accounts),
        webhooks_max: config.webhooks.per_organisation_max,
    };
    let room = Semaphore::new(config.control.requests_max);
    let passwords = Passwords::default();
    Ok(Arc::new(Control { store: store.clone(), settings, room, passwords, guard, providers: OnceLock::new() }))
}

fn accounts(config: &config::Accounts) -> Accounts {
    Accounts {
        session_idle: config.session_idle,
        session_absolute: config.session_absolute,
        invitation: config.invitation,
        sign_in: SignInLimits {
            per_account_max: config.sign_ins_per_user_max,
            per_address_max: config.sign_ins_per_address_max,
            window: config.sign_in_window,
        },
    }
}

/// Has rates counted together with other nodes, and records of keys shared with them, if there are any.
pub(super) async fn share_with_nodes(
    config: &Config,
    store: &Store,
    keys: &KeyCache,
) -> Result<Option<SharedRates>, Problem> {
    let nodes_max = config.cluster.nodes_max;
    let Some(redis) = Redis::new(&config.cluster, store.first_pepper())? else {
        if store.is_shared() {
            keys.share_rates(Arc::new(Peers::without_store(nodes_max)));
        }
        return Ok(None);
    };
    keys.share_records(redis.clone()).await?;
    let rates = SharedRates::new(redis, nodes_max);
    keys.share_rates(rates.peers());
    Ok(Some(rates))
}

pub(super) fn key_cache_settings(config: &Config) -> KeyCacheSettings {
    KeyCacheSettings {
        entries_max: config.keys.cache_entries_max,
        unknown_max: config.keys.negative_entries_max,
        ..KeyCacheSettings::default()
    }
}

pub(super) fn journal_settings(config: &Config) -> journal::Settings {
    journal::Settings {
        dir: config.books.data_dir.clone(),
        segment_bytes: usize::try_from(config.journal.segment_bytes).unwrap_or(usize::MAX),
        bytes_max: config.journal.bytes_max,
        keep_hours: config.journal.keep_hours,
        sync: config.journal.sync,
        sync_ms: config.journal.sync_ms,
        ship_ms: config.journal.ship_ms,
    }
}

pub(super) fn ledger_settings(config: &Config) -> LedgerSettings {
    let Ledger { merge_ms, pending_sums_max, names_max, .. } = config.ledger;
    LedgerSettings { merge_ms, pending_sums_max, names_max }
}

/// Keeps the books by time until shutdown.
pub(super) fn bookkeeper(store: &Store, config: &Config) -> Bookkeeper {
    let settings = RetentionSettings {
        calls_keep_days: config.ledger.calls_keep_days,
        windows_keep_days: config.ledger.windows_keep_days,
    };
    Bookkeeper::new(store.clone(), settings)
}

/// Takes up what a new configuration says of prices and master keys.
pub(super) async fn take_up(store: &Store, config: &Config) -> Result<(), StoreError> {
    remember_prices(store, config).await?;
    store.replace_master_keys(&config.books.master_keys).await?;
    tokio::spawn(own::rewrap(store.clone()));
    Ok(())
}

pub(super) async fn remember_prices(store: &Store, config: &Config) -> Result<(), StoreError> {
    let versions = config.catalogue.candidates().flat_map(|(_, candidate)| candidate.price_versions());
    let prices: Vec<(PriceId, Price)> = versions.map(|version| (version.id, version.price.clone())).collect();
    store.remember_prices(&prices).await
}
