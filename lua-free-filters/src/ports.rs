//! What the decisions ask of the world: who owns a token, and a durable note of what was begun and how it ended.

use crate::denied::{Code, LimitSource};
use crate::id::{CallId, KeyId, OrgId, PriceId, QuotaId};
use crate::key::{Key, Lookup};
use crate::money::NanoUsd;
use crate::price::Tier;
use crate::scope::Route;
use crate::time::EpochMs;
use crate::usage::Usage;
use async_trait::async_trait;
use std::sync::Arc;

/// Finds keys by the lookup id of their token.
#[async_trait]
pub trait Keys: Send + Sync {
    /// The key, `None` for a token that nobody has, an error when neither can be said.
    async fn find(&self, lookup: Lookup) -> Result<Option<Arc<Key>>, StoreUnavailable>;
}

/// The store that would know can't be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store can't be asked now")]
pub struct StoreUnavailable;

/// Keeps the two ends of each call where `kill -9` can't reach them.
pub trait Journal: Send + Sync {
    /// Writes down that a call is about to be sent, and takes the room that its end will need.
    fn begin(&self, intent: &Intent) -> Result<Box<dyn OpenCall>, JournalFull>;
}

/// No room for another call: the disk is full or the journal has reached its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal has no room for another call")]
pub struct JournalFull;

/// A call that was written down as begun and waits for its end.
pub trait OpenCall: Send + Sync {
    /// Writes how the call ended. Never fails for want of room: `begin` took it.
    fn end(self: Box<Self>, terminal: &Terminal);
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
    /// What a recovered call is charged: the estimated input at that price, never above `reserved`.
    pub recovery_charge: NanoUsd,
    /// Input tokens as estimated.
    pub input_estimate: u64,
    /// Where the charge goes, at most [`QUOTAS_MAX`].
    pub shares: Vec<Share>,
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
}
