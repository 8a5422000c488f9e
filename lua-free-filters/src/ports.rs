//! What the decisions ask of the world: who owns a token or an object, and a durable note of what was begun and how it ended.

use crate::attribution::Attribution;
use crate::denied::{Code, LimitSource};
use crate::id::{CallId, KeyId, OrgId, PriceId, QuotaId};
use crate::key::{Key, Presented};
use crate::money::NanoUsd;
use crate::objects::Object;
use crate::own::OwnCredentials;
use crate::price::Tier;
use crate::quota::{Rate, Spend};
use crate::route::Route;
use crate::time::EpochMs;
use crate::usage::Usage;
use async_trait::async_trait;
use std::pin::Pin;
use std::sync::Arc;

/// Finds keys by the lookup ids of their tokens.
#[async_trait]
pub trait Keys: Send + Sync {
    /// The key, `None` for a token that nobody has, an error when neither can be said.
    async fn find(&self, token: &Presented) -> Result<Option<Arc<Key>>, StoreUnavailable>;

    /// The credentials that an organisation has at providers itself, if it has any.
    async fn own(&self, org: OrgId) -> Result<Option<OwnCredentials>, StoreUnavailable>;
}

/// The store that would know can't be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store can't be asked now")]
pub struct StoreUnavailable;

/// Knows what providers store, and whose it is.
#[async_trait]
pub trait Objects: Send + Sync {
    /// Those of some ids that an organisation has, in any order. What is found nowhere is nobody's.
    async fn owned(&self, org: OrgId, ids: &[&str]) -> Result<Vec<Object>, StoreUnavailable>;

    /// Writes down whose an object is, where `kill -9` can't reach it. Who claims an id of a provider first has it for good.
    fn claim(&self, object: &Object) -> Result<(), JournalFull>;

    /// Keeps what the provider says of a file, so that it can be listed.
    async fn describe(&self, file: &Object, description: &Description) -> Result<(), StoreUnavailable>;

    /// Described files of an organisation.
    async fn files(&self, page: &Page<'_>) -> Result<Files, StoreUnavailable>;

    /// Calls whose answers began since then and go on in the background, and whose processes died.
    async fn unread(&self, since: EpochMs) -> Result<Vec<Unread>, StoreUnavailable>;

    /// Lets go of an object that the provider has deleted. Its id is never given to another.
    async fn forget(&self, object: &Object, now: EpochMs) -> Result<(), StoreUnavailable>;
}

/// A call whose process died before the provider's figures came, and whose answer goes on at the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The answer: whose it is, and which call it is of.
    pub response: Object,
    /// What the call was charged for.
    pub usage: Usage,
    /// What it was charged.
    pub charge: NanoUsd,
    /// The version of the prices.
    pub price: PriceId,
    /// Where the charge went.
    pub shares: Vec<Share>,
}

/// What a provider says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its answer, JSON.
    pub content: String,
    /// What the file is for, where it says so.
    pub purpose: Option<String>,
}

/// Which files are listed.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// Whose.
    pub org: OrgId,
    /// At these providers.
    pub providers: &'a [Arc<str>],
    /// For this purpose only.
    pub purpose: Option<&'a str>,
    /// Only what follows this id in the list's order, and is not it.
    pub after: Option<&'a str>,
    /// Whether the newest come first.
    pub newest_first: bool,
    /// Most of them.
    pub limit: usize,
}

/// A page of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// What the providers say of each, JSON.
    pub contents: Vec<String>,
    /// Whether others follow.
    pub has_more: bool,
}

/// Gives this node credit of quotas of money, so that checks need not ask.
#[async_trait]
pub trait Authority: Send + Sync {
    /// Brings credit, as far as there is any, to quotas that calls are short of; the quotas know where they stand when it returns.
    /// Those who ask at once are served together.
    async fn lease(&self, wants: Vec<Want>) -> Result<(), StoreUnavailable>;

    /// Whether other nodes may charge to the same quotas: then only the authority knows where they stand.
    fn is_shared(&self) -> bool;
}

/// A quota that is short of credit.
#[derive(Clone, Debug)]
pub struct Want {
    /// The quota.
    pub spend: Arc<Spend>,
    /// What a call needs of it; zero: only to learn where it stands.
    pub amount: NanoUsd,
    /// A moment of the period that a running call takes from; none for a new call, which takes from the present one.
    pub at: Option<EpochMs>,
}

/// Shares rates with other nodes.
#[async_trait]
pub trait Rates: Send + Sync {
    /// Brings slices of windows, as far as there are any, to rates that calls are short of, and tells the others what was used. It
    /// never takes long and never fails: where the others can't be reached, the rates know that when it returns, and go on with
    /// this node's part of them. Those who ask at once are served together.
    async fn share(&self, shortages: Vec<Shortage>);
}

/// A rate that has no room for a call.
#[derive(Clone, Debug)]
pub struct Shortage {
    /// The rate.
    pub rate: Arc<Rate>,
    /// What the call needs of it; 0: only to learn where it stands.
    pub amount: i64,
}

/// Keeps the two ends of each call where `kill -9` can't reach them.
pub trait Journal: Send + Sync {
    /// Writes down that a call is about to be sent, and takes the room that its end will need.
    fn begin(&self, intent: &Intent) -> Result<Box<dyn OpenCall>, JournalFull>;

    /// Writes down usage that came after its call's end. One [`Amendment::sequence`] of a call counts once.
    fn amend(&self, amendment: &Amendment) -> Result<(), JournalFull>;

    /// Writes down whose an object is that a provider has stored.
    fn claim(&self, object: &Object) -> Result<(), JournalFull>;

    /// Where every call's end is to be on disk before the client sees it: resolves when a sync has ended that began
    /// after this was called. A sync that failed resolves it too; it is the journal's to say so. `None` where nobody
    /// waits for the disk: then a power cut may take the last moments, a killed process nothing.
    fn durable(&self) -> Option<Durable<'_>>;
}

/// See [`Journal::durable`].
pub type Durable<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// No room for another call: the disk is full or the journal has reached its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal has no room for another call")]
pub struct JournalFull;

/// A call that was written down as begun and waits for its end.
pub trait OpenCall: Send + Sync {
    /// Writes what the call is to be charged if the process dies now. The last one that can be read counts. Where there
    /// is no room it is left out and counted: the one before stands.
    fn progress(&mut self, progress: &Progress);

    /// Writes that a candidate was tried and did not answer. Where there is no room it is left out and counted.
    fn attempt(&mut self, attempt: &FailedAttempt);

    /// Writes how the call ended. Never fails for want of room: `begin` took it.
    fn end(self: Box<Self>, terminal: &Terminal);
}

/// How far an open call has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The call.
    pub call: CallId,
    /// Grows with each one of the call; the highest counts.
    pub sequence: u32,
    /// Money set aside in each spend quota by now. Never below the intent's.
    pub reserved: NanoUsd,
    /// What was used so far, as far as it is known.
    pub usage: Usage,
    /// What the call is charged if it is recovered from here; above `reserved`, it is charged `reserved`.
    pub charge: NanoUsd,
}

/// A candidate that was tried and did not answer the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedAttempt {
    /// The call.
    pub call: CallId,
    /// 1 for the first candidate tried. One number of a call is written once.
    pub number: u8,
    /// Who was tried; at most [`NAME_BYTES_MAX`] bytes.
    pub provider: Arc<str>,
    /// The HTTP status that it answered with, 0 if it gave none.
    pub status: u16,
    /// Why it was left, in the words of the public error table.
    pub error: Option<Code>,
    /// When it was left.
    pub at: EpochMs,
}

/// Usage that arrived after its call's end: what is to be added to what the terminal said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amendment {
    /// The call.
    pub call: CallId,
    /// Grows with each one of the call. The same one twice is added once.
    pub sequence: u32,
    /// Whose key the call came with.
    pub key: KeyId,
    /// Who pays.
    pub org: OrgId,
    /// What was used beyond the terminal and the amendments before.
    pub usage: Usage,
    /// What it costs beyond them; below zero where less is owed than was charged.
    pub charge: NanoUsd,
    /// Where the call's charge went, at most [`QUOTAS_MAX`].
    pub shares: Vec<Share>,
    /// When it arrived.
    pub at: EpochMs,
}

/// A call as it was admitted. Together with its [`Terminal`] it is a row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The call.
    pub call: CallId,
    /// Whose key it came with.
    pub key: KeyId,
    /// Who pays.
    pub org: OrgId,
    /// What was asked for.
    pub route: Route,
    /// Whether the answer is a stream of events.
    pub streamed: bool,
    /// The model's name in the catalogue; at most [`NAME_BYTES_MAX`] bytes.
    pub model: Arc<str>,
    /// The candidate whose price a recovered call is charged at; at most [`NAME_BYTES_MAX`] bytes.
    pub provider: Arc<str>,
    /// The version of that candidate's prices.
    pub price: PriceId,
    /// When the call was admitted.
    pub started: EpochMs,
    /// Money set aside in each spend quota.
    pub reserved: NanoUsd,
    /// What a call that is recovered without a [`Progress`] is charged: the estimated input at that price, never above
    /// `reserved`.
    pub recovery_charge: NanoUsd,
    /// Input tokens as estimated.
    pub input_estimate: u64,
    /// Where the charge goes, at most [`QUOTAS_MAX`].
    pub shares: Vec<Share>,
    /// For whom and for what it is, where the client says so.
    pub attribution: Option<Box<Attribution>>,
}

/// A quota of money that a charge goes to, whole, and the period of it that the call was reserved in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share {
    /// The quota.
    pub quota: QuotaId,
    /// When the period began; 0 where the quota has none.
    pub period: EpochMs,
}

/// Longest name of a model or provider that the catalogue accepts, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Most quotas of money in a chain.
pub const QUOTAS_MAX: usize = 16;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// The provider's answer ended as it should, and the client could have it all.
    Complete = 1,
    /// The client left first.
    ClientGone = 2,
    /// The provider failed after the answer had begun.
    UpstreamFailed = 3,
    /// The provider refused the call; nothing was relayed but its refusal.
    Refused = 4,
    /// No candidate could be reached.
    Unreached = 5,
    /// This process died; the next one closed the call.
    Recovered = 6,
    /// The code that ran the call stopped half-way (a panic or a dropped task).
    Abandoned = 7,
    /// The stream outgrew what could be set aside for it, and was ended in the provider's place.
    Cut = 8,
}

impl Outcome {
    /// The name in tables and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientGone => "client_gone",
            Self::UpstreamFailed => "upstream_failed",
            Self::Refused => "refused",
            Self::Unreached => "unreached",
            Self::Recovered => "recovered",
            Self::Abandoned => "abandoned",
            Self::Cut => "cut",
        }
    }

    /// The outcome that a record's byte names.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Complete,
            Self::ClientGone,
            Self::UpstreamFailed,
            Self::Refused,
            Self::Unreached,
            Self::Recovered,
            Self::Abandoned,
            Self::Cut,
        ]
        .into_iter()
        .find(|outcome| *outcome as u8 == byte)
    }
}

/// The end of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// The call.
    pub call: CallId,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether the counts are an estimate because the provider's figures were not seen.
    pub estimated: bool,
    /// The HTTP status that the client got, 0 if none was sent.
    pub status: u16,
    /// Why the call failed, in the words of the public error table.
    pub error: Option<Code>,
    /// The provider that answered; at most [`NAME_BYTES_MAX`] bytes.
    pub provider: Arc<str>,
    /// The version of the prices that `charge` was computed with.
    pub price: PriceId,
    /// The tier that it was computed in.
    pub tier: Tier,
    /// What was used.
    pub usage: Usage,
    /// What it costs the organisation.
    pub charge: NanoUsd,
    /// Money set aside in each spend quota by then: the intent's, or more where it was extended.
    pub reserved: NanoUsd,
    /// Providers tried, the one that answered among them.
    pub attempts: u8,
    /// When the call ended.
    pub ended: EpochMs,
    /// Milliseconds from admission to the first byte for the client.
    pub first_byte_ms: u32,
}

/// A request of a known key that no provider was asked to serve: refused, or answered by the gateway itself. It costs nothing
/// and is noted as far as is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeRequest {
    /// What the client got as `x-request-id`.
    pub call: CallId,
    /// Whose key it came with.
    pub key: KeyId,
    /// Whose key that is.
    pub org: OrgId,
    /// What was asked for.
    pub route: Route,
    /// With which method: its place among [`Route::methods`].
    pub method: u8,
    /// The model's name in the catalogue, where one was found.
    pub model: Option<Arc<str>>,
    /// The HTTP status that the client got.
    pub status: u16,
    /// Why it was refused; nothing for what was answered.
    pub error: Option<Code>,
    /// The quota that refused, where one did.
    pub limit_source: Option<LimitSource>,
    /// When it came.
    pub at: EpochMs,
    /// Milliseconds from then to the end of the answer.
    pub latency_ms: u32,
}
