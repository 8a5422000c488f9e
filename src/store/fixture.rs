//! A store with an organisation, a key and calls to ship, for the tests beside the code.
//!
//! The tests hold for both engines: with `TOLLGATE_TEST_POSTGRES=postgres://…/postgres` they run on that server, each in a database
//! of its own.

use super::journal::{Checkpoint, Shipment};
use super::keys::{KeyRecord, NewKey};
use super::limits::Limit;
use super::organisations::OrganisationRecord;
use super::quotas::QuotaKind;
use super::users::{NewUser, PasswordHash};
use super::{Store, StoreError};
use crate::config::{self, Secret, Server, StorePlace};
use filters::id::{CallId, KeyId, OrgId, QuotaId};
use filters::key::{Lookup, Presented, TokenHash};
use filters::money::NanoUsd;
use filters::ports::{Intent, Outcome, Share, Terminal};
use filters::price::{Price, Tier};
use filters::route::Route;
use filters::time::EpochMs;
use filters::usage::{Kind, Usage};
use sqlx::{AssertSqlSafe, Connection};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// The moment at which tests happen: the first of a UTC day.
pub(super) const NOW: EpochMs = EpochMs(20_833 * 86_400_000);

/// Opens the store of a directory on the engine that is tested. Opened twice, it is as two processes have it.
pub(super) async fn open(dir: &Path) -> Store {
    let place = StorePlace { server: server(dir).await, ..StorePlace::embedded(dir.to_owned()) };
    Store::of(&place).await.expect("a store")
}

/// The server that is tested, with a database for this directory; none where that is SQLite.
async fn server(dir: &Path) -> Option<Server> {
    let url = config::test_server().filter(|_| !dir.join("tollgate.db").exists())?;
    let name: String = dir.to_string_lossy().to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    sqlx::any::install_default_drivers();
    if !dir.join("pepper").exists() {
        let mut admin = sqlx::AnyConnection::connect(&url).await.expect("a server");
        let made = format!("CREATE DATABASE {name}");
        sqlx::query(AssertSqlSafe(made)).execute(&mut admin).await.expect("a database");
        std::fs::write(dir.join("pepper"), "5a".repeat(32)).expect("written");
        std::fs::write(dir.join("master-keys"), "a5".repeat(32)).expect("written");
    }
    let (server, _) = url.rsplit_once('/').expect("a database in the URL");
    let url = Secret::of_test(&format!("{server}/{name}"));
    Some(Server { url, connections_max: 6, timeout: Duration::from_secs(20) })
}

/// A temporary store with one organisation of $10 and one key with a limit of $5.
pub(super) struct Books {
    pub(super) dir: TempDir,
    pub(super) store: Store,
    pub(super) org: OrgId,
    pub(super) key: KeyId,
    pub(super) token: String,
    quotas: Vec<QuotaId>,
}

impl Books {
    pub(super) async fn open() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(dir.path()).await;
        Self::with(dir, store).await
    }

    /// The same in SQLite, for tests of its files.
    pub(super) async fn in_a_file() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).await.expect("a store");
        Self::with(dir, store).await
    }

    async fn with(dir: TempDir, store: Store) -> Self {
        let org = store.create_organisation("Acme", NOW).await.expect("made").id;
        store.top_up(org, NanoUsd(10_000_000_000), "", NOW).await.expect("topped up");
        let issued = store.create_key(&new_key(org), NOW).await.expect("a key");
        let mut books =
            Self { dir, store, org, key: issued.id, token: issued.token.reveal().to_owned(), quotas: Vec::new() };
        for owner in [books.key.to_string(), books.org.to_string()] {
            let id = "SELECT id FROM quotas WHERE owner = $1 AND kind IN ('spend', 'balance')";
            let query = sqlx::query_scalar(id).bind(owner);
            let id: i64 = query.fetch_one(&books.store.database.reader).await.expect("a quota");
            books.quotas.push(QuotaId(id));
        }
        books
    }

    pub(super) async fn key(&self) -> KeyRecord {
        self.store.key(self.key, NOW).await.expect("the key")
    }

    pub(super) async fn organisation(&self) -> OrganisationRecord {
        self.store.organisation(self.org).await.expect("it")
    }

    /// A complete call, charged what its tokens cost.
    pub(super) fn call(&self, number: u128, input: u64, output: u64) -> (Intent, Terminal) {
        let usage = Usage::of(input, output);
        let charge = price().cost(&usage, Tier::Standard);
        let intent = Intent {
            call: CallId(number + 1),
            key: self.key,
            org: self.org,
            route: Route::ChatCompletions,
            streamed: false,
            model: "gpt-4o-mini".into(),
            provider: "openai".into(),
            price: price().id(),
            started: NOW,
            reserved: charge,
            recovery_charge: charge,
            input_estimate: input,
            shares: self.quotas.iter().map(|quota| Share { quota: *quota, period: EpochMs(0) }).collect(),
            attribution: None,
        };
        let terminal = Terminal {
            call: intent.call,
            outcome: Outcome::Complete,
            estimated: false,
            status: 200,
            error: None,
            provider: "openai".into(),
            price: price().id(),
            tier: Tier::Standard,
            usage,
            charge,
            reserved: charge,
            attempts: 1,
            ended: NOW.plus(20),
            first_byte_ms: 10,
        };
        (intent, terminal)
    }
}

impl Store {
    /// Ships calls alone.
    pub(super) async fn ship(
        &self,
        node: &str,
        calls: &[(Intent, Terminal)],
        checkpoint: Checkpoint,
    ) -> Result<usize, StoreError> {
        self.take(node, &Shipment { calls: calls.to_vec(), checkpoint, ..Shipment::default() }).await
    }
}

/// A key with a limit of $5 and of 60 requests a minute.
pub(super) fn new_key(org: OrgId) -> NewKey {
    NewKey {
        limits: vec![Limit::plain(QuotaKind::Spend, 5_000_000_000), Limit::plain(QuotaKind::Requests, 60)],
        ..NewKey::named(org, "tests")
    }
}

/// A user, whose password's hash is none.
pub(super) fn new_user(email: &str) -> NewUser {
    let password = Some(PasswordHash("a hash".to_owned()));
    NewUser { email: email.parse().expect("an address"), name: "Ada".to_owned(), password }
}

/// A token as a request brings it, of which the hash is not needed: there are no older peppers.
pub(super) fn presented(lookup: Lookup) -> Presented {
    Presented { lookup, hash: TokenHash([0; 32]) }
}

/// $0.15 a million tokens in, $0.60 out.
pub(super) fn price() -> Price {
    let mut standard = [0; Kind::ALL.len()];
    standard[Kind::Input as usize] = 150_000_000;
    standard[Kind::Output as usize] = 600_000_000;
    Price { standard, ..Price::default() }
}
