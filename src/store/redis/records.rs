//! Records of keys that nodes keep for one another. They say who may call and under which limits, never what was charged: that is
//! the books' alone. Each is marked with a seal, so that who can write Redis can't make keys or lift limits.

use super::{Purpose, Redis};
use crate::store::keys::KeyRecord;
use crate::store::loader::LoadedKey;
use crate::store::pepper::encode_hex;
use crate::store::quotas::{QuotaKind, QuotaRow, Thresholds};
use filters::id::QuotaId;
use filters::key::{Glob, Lookup, Pepper, Seal, Status};
use filters::lease::Increase;
use filters::money::NanoUsd;
use filters::scope::{KeyKind, Scopes};
use filters::time::EpochMs;
use redis::{Cmd, Value};
use serde::{Deserialize, Serialize};

/// The form of a record. One of another form is none.
const FORM: u32 = 2;
const MARK_BYTES: usize = 32;
/// How long a record stays: by then every node has read the key again.
pub(in crate::store) const RECORD_KEPT_MS: i64 = 60_000;
/// How long a token that nobody has is kept as such.
const UNKNOWN_KEPT_MS: i64 = 10_000;

/// Where the records are.
#[derive(Clone, Debug)]
pub(in crate::store) struct KeyRecords {
    redis: Redis,
    seal: Seal,
}

/// What was found of a token.
#[derive(Debug)]
pub(in crate::store) struct Record {
    /// When the books said so, by their clock.
    pub(in crate::store) read: EpochMs,
    /// The key, its quotas without figures; none if nobody has the token.
    pub(in crate::store) key: Option<LoadedKey>,
}

/// A record that is to be kept.
#[derive(Debug)]
pub(in crate::store) struct SealedRecord {
    lookup: Lookup,
    content: Vec<u8>,
    kept_ms: i64,
}

impl KeyRecords {
    pub(in crate::store) fn new(redis: Redis, pepper: &Pepper) -> Self {
        Self { redis, seal: pepper.seal("key records") }
    }

    /// Whether it is worth asking.
    pub(in crate::store) fn is_up(&self) -> bool {
        self.redis.is_up()
    }

    /// What is kept of tokens, in one round trip. Whatever is no sound record of ours is none.
    pub(in crate::store) async fn read(&self, lookups: &[Lookup]) -> Vec<Option<Record>> {
        let get = |lookup: &Lookup| {
            let mut get = Cmd::new();
            get.arg("GET").arg(self.key(lookup));
            vec![get]
        };
        let answers = self.redis.ask(Purpose::Keys, lookups.iter().map(get).collect()).await;
        let open = |(lookup, answer): (&Lookup, Option<Vec<Value>>)| match answer.as_deref() {
            Some([Value::BulkString(content)]) => self.open(*lookup, content),
            _ => None,
        };
        lookups.iter().zip(answers).map(open).collect()
    }

    /// Keeps records, in one round trip. Where that fails nothing is lost.
    pub(in crate::store) async fn write(&self, records: Vec<SealedRecord>) {
        let set = |record: SealedRecord| {
            let mut set = Cmd::new();
            set.arg("SET").arg(self.key(&record.lookup)).arg(record.content).arg("PX").arg(record.kept_ms);
            vec![set]
        };
        self.redis.ask(Purpose::Keys, records.into_iter().map(set).collect()).await;
    }

    /// A record of what the books said at a moment of a token.
    pub(in crate::store) fn seal(&self, lookup: Lookup, key: Option<&LoadedKey>, read: EpochMs) -> SealedRecord {
        let kept_ms = if key.is_some() { RECORD_KEPT_MS } else { UNKNOWN_KEPT_MS };
        let written = Written { form: FORM, read_ms: read.0, key: key.map(WrittenKey::of) };
        // Nothing of it can't be written; if it were so, nobody could read it.
        let text = serde_json::to_vec(&written).unwrap_or_default();
        let mut content = self.seal.mark(&lookup.0, &text).to_vec();
        content.extend(text);
        SealedRecord { lookup, content, kept_ms }
    }

    fn open(&self, lookup: Lookup, content: &[u8]) -> Option<Record> {
        let (mark, text) = content.split_at_checked(MARK_BYTES)?;
        if !self.seal.is_mark(mark, &lookup.0, text) {
            return None;
        }
        let written: Written = serde_json::from_slice(text).ok().filter(|written: &Written| written.form == FORM)?;
        let key = match written.key {
            Some(key) => Some(key.read(lookup)?),
            None => None,
        };
        Some(Record { read: EpochMs(written.read_ms), key })
    }

    fn key(&self, lookup: &Lookup) -> String {
        self.redis.key(format_args!("key:{}", encode_hex(&lookup.0)))
    }
}

#[derive(Serialize, Deserialize)]
struct Written {
    form: u32,
    read_ms: i64,
    key: Option<WrittenKey>,
}

#[derive(Serialize, Deserialize)]
struct WrittenKey {
    id: String,
    org: String,
    project: Option<String>,
    org_suspended: bool,
    name: String,
    status: String,
    scopes: String,
    models: Vec<Box<str>>,
    providers: Vec<Box<str>>,
    addresses: Vec<String>,
    expires_ms: Option<i64>,
    secret_ends_ms: Option<i64>,
    quotas: Vec<WrittenQuota>,
}

#[derive(Serialize, Deserialize)]
struct WrittenQuota {
    id: i64,
    owner: String,
    kind: String,
    limit: i64,
    window: String,
    strict: bool,
    model: Option<Box<str>>,
    /// How much more, and until when.
    increase: Option<(i64, i64)>,
}

impl WrittenKey {
    fn of(LoadedKey { record, quotas, .. }: &LoadedKey) -> Self {
        let globs = |globs: &[Glob]| globs.iter().map(|glob| glob.0.clone()).collect();
        Self {
            id: record.id.to_string(),
            org: record.org.to_string(),
            project: record.project.map(|project| project.to_string()),
            org_suspended: record.org_suspended,
            name: record.name.clone(),
            status: record.status.name().to_owned(),
            scopes: record.scopes.to_string(),
            models: globs(&record.models),
            providers: globs(&record.providers),
            addresses: record.addresses.iter().map(ToString::to_string).collect(),
            expires_ms: record.expires.map(|expires| expires.0),
            secret_ends_ms: record.secret_ends.map(|ends| ends.0),
            quotas: quotas.iter().map(WrittenQuota::of).collect(),
        }
    }

    fn read(self, lookup: Lookup) -> Option<LoadedKey> {
        let globs = |globs: Vec<Box<str>>| globs.into_iter().map(Glob).collect();
        let project = match self.project {
            Some(project) => Some(project.parse().ok()?),
            None => None,
        };
        let addresses = self.addresses.iter().map(|network| network.parse().ok()).collect::<Option<_>>()?;
        let scopes = Scopes::parse(&self.scopes).ok()?;
        let record = KeyRecord {
            id: self.id.parse().ok()?,
            org: self.org.parse().ok()?,
            project,
            org_suspended: self.org_suspended,
            has_own: false,
            name: self.name,
            lookup,
            status: Status::named(&self.status)?,
            kind: scopes.kind().unwrap_or(KeyKind::Model),
            scopes,
            addresses,
            models: globs(self.models),
            providers: globs(self.providers),
            expires: self.expires_ms.map(EpochMs),
            secret_ends: self.secret_ends_ms.map(EpochMs),
            // What follows is for people.
            fingerprint: String::new(),
            description: String::new(),
            metadata: String::new(),
            created_by: String::new(),
            archived: None,
            created: EpochMs(0),
            limits: Vec::new(),
            last_used: None,
        };
        let quotas = self.quotas.into_iter().map(WrittenQuota::read).collect::<Option<_>>()?;
        Some(LoadedKey { record, quotas, own: None })
    }
}

impl WrittenQuota {
    fn of(row: &QuotaRow) -> Self {
        Self {
            id: row.id.0,
            owner: row.owner.clone(),
            kind: row.kind.name().to_owned(),
            limit: row.limit,
            window: row.window.to_string(),
            strict: row.is_strict,
            model: row.model.as_ref().map(|model| model.0.clone()),
            increase: row.increase.map(|increase| (increase.amount.0, increase.until.0)),
        }
    }

    fn read(self) -> Option<QuotaRow> {
        let increase = |(amount, until)| Increase { amount: NanoUsd(amount), until: EpochMs(until) };
        Some(QuotaRow {
            id: QuotaId(self.id),
            owner: self.owner,
            kind: QuotaKind::named(&self.kind)?,
            limit: self.limit,
            window: self.window.parse().ok()?,
            is_strict: self.strict,
            model: self.model.map(Glob),
            increase: self.increase.map(increase),
            thresholds: Thresholds::default(),
            spent: 0,
            spent_in_span: 0,
        })
    }
}
