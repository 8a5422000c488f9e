//! Recomputes the books, in one snapshot of them: what was paid in, charged and spent must agree to the nano-dollar.
//!
//! - `accounts.rs`: credits, and what was charged to each quota; `entries.rs`: the ledger of credits
//! - `folded.rs`: what calls were that have been let go
//! - `calls.rs`: each call's charge; `limits.rs`: whether all of them together kept to the limits
//! - `beside.rs`, `leases.rs`: attempts and amendments, leases
//! - `rollups.rs`: sums of usage; `parts.rs`: those of organisations

mod accounts;
mod beside;
mod calls;
mod entries;
mod folded;
mod leases;
mod limits;
mod parts;
mod rollups;

pub use super::journal::JournalFacts;
use super::{Store, StoreError};
use accounts::Charged;
pub use beside::HomeJournal;
use filters::id::{CallId, QuotaId};
use filters::money::NanoUsd;
use filters::time::EpochMs;
use folded::Folded;
use limits::Limits;
use sqlx::Row;
use std::collections::BTreeSet;

/// Most findings of an invariant, and most items of a list, that a report names; further ones are counted.
const NAMED_MAX: usize = 100;

/// What must be true of the books, in the order in which it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// What an organisation may spend is the sum of its credits.
    CreditsAreTheLimit,
    /// The legs of each entry of the ledger add up to nothing.
    EntriesAddUp,
    /// What is booked as charged in an hour is what its calls were charged.
    ChargesAreBooked,
    /// No more was given back of a call than it was charged.
    RefundsWithinCharges,
    /// Every row belongs to a key, an organisation or a quota that exists.
    RowsBelong,
    /// Every charge is what the tokens cost at the price that the row names.
    ChargesAreTheirCost,
    /// A call that was recovered after a crash was charged no more than was set aside for it.
    RecoveredWithinReserve,
    /// What a key has spent is the sum of its calls' charges.
    KeySpentIsCharged,
    /// What an organisation has spent is the sum of its calls' charges, so that credits less charges are its balance.
    OrganisationSpentIsCharged,
    /// What was spent of any other quota in a period is the sum of the charges that went there.
    QuotaSpentIsCharged,
    /// What stands in the tables of usage are the sums of their calls.
    RollupsAreTheirRows,
    /// Attempts and amendments are of calls that there are.
    AttemptsHaveCalls,
    /// What a node was granted covers what it gave back, and what it has shipped are its calls' charges.
    LeasesAreSound,
    /// No strict limit was passed, at no point of the ledger.
    StrictLimitsHold,
    /// The journal is sound and has one end for each call that was begun.
    OneEndACall,
}

impl Invariant {
    /// The name for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CreditsAreTheLimit => "credits_are_the_limit",
            Self::EntriesAddUp => "entries_add_up",
            Self::ChargesAreBooked => "charges_are_booked",
            Self::RefundsWithinCharges => "refunds_within_charges",
            Self::RowsBelong => "rows_belong",
            Self::ChargesAreTheirCost => "charges_are_their_cost",
            Self::RecoveredWithinReserve => "recovered_within_reserve",
            Self::KeySpentIsCharged => "key_spent_is_charged",
            Self::OrganisationSpentIsCharged => "organisation_spent_is_charged",
            Self::QuotaSpentIsCharged => "quota_spent_is_charged",
            Self::RollupsAreTheirRows => "rollups_are_their_rows",
            Self::AttemptsHaveCalls => "attempts_have_calls",
            Self::LeasesAreSound => "leases_are_sound",
            Self::StrictLimitsHold => "strict_limits_hold",
            Self::OneEndACall => "one_end_a_call",
        }
    }
}

/// A row or a sum that breaks an invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub invariant: Invariant,
    /// The identifier of what breaks it.
    pub object: String,
    /// What is wrong, in a sentence.
    pub detail: String,
}

/// What is worth knowing and no error: how much of it there is, and the first of it.
#[derive(Clone, Debug)]
pub struct Listing<T> {
    /// How many there are.
    pub count: u64,
    /// What they come to, in nano-USD.
    pub sum: i128,
    /// The first hundred.
    pub named: Vec<T>,
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Self { count: 0, sum: 0, named: Vec::new() }
    }
}

impl<T> Listing<T> {
    fn add(&mut self, amount: i64, item: impl FnOnce() -> T) {
        self.count += 1;
        self.sum += i128::from(amount);
        if self.named.len() < NAMED_MAX {
            self.named.push(item());
        }
    }
}

/// An organisation's account: opening, top-ups, adjustments and refunds less charges and what is unaccounted are the balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Whose.
    pub org: String,
    /// What it began with.
    pub opening: NanoUsd,
    /// Paid in.
    pub top_ups: NanoUsd,
    /// Given or taken by the operator.
    pub adjustments: NanoUsd,
    /// Given back to it.
    pub refunds: NanoUsd,
    /// What its calls were charged.
    pub charges: NanoUsd,
    /// What forgotten nodes held, and no call has accounted for.
    pub unaccounted: NanoUsd,
    /// What the books say is left.
    pub balance: NanoUsd,
}

/// A call that was charged more than was set aside for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AboveReserve {
    /// Which.
    pub call: String,
    /// What it was charged.
    pub charge: NanoUsd,
    /// What had been set aside.
    pub reserved: NanoUsd,
    /// A bound, past which its provider billed; otherwise an estimate was short.
    pub is_bound: bool,
}

/// A quota that more was charged to than its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Which.
    pub quota: QuotaId,
    /// Whose.
    pub owner: String,
    /// When the period began; 0 for a total and for a rolling window.
    pub period: EpochMs,
    /// Whether it is a bound: then a provider billed past it. Otherwise an estimate was short.
    pub is_strict: bool,
    /// The most that was above the limit, in nano-USD.
    pub amount: i64,
}

/// A limit that was set below what had been spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lowered {
    /// Which quota's.
    pub quota: QuotaId,
    /// Whose.
    pub owner: String,
    /// When.
    pub at: EpochMs,
    /// The limit from then on, in nano-USD.
    pub limit: i64,
    /// How much more had been spent, in nano-USD.
    pub amount: i64,
}

/// What a node may still spend by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLeases {
    /// Its name.
    pub node: String,
    /// How many leases it has.
    pub leases: u64,
    /// Granted, not given back and not on the books, in nano-USD.
    pub outstanding: i128,
}

/// What a forgotten node held of a quota in a period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unaccounted {
    /// The node's name.
    pub node: String,
    /// Which quota.
    pub quota: QuotaId,
    /// Whose.
    pub owner: String,
    /// When the period began; 0 for a total.
    pub period: EpochMs,
    /// Booked as spent when the node was forgotten.
    pub booked: NanoUsd,
    /// Of it, what no call has accounted for.
    pub left: NanoUsd,
}

/// What an audit has found.
#[derive(Clone, Debug, Default)]
pub struct AuditReport {
    /// Organisations looked at.
    pub organisations: u64,
    /// Keys looked at.
    pub keys: u64,
    /// Calls recomputed.
    pub calls: u64,
    /// Calls of which only sums are left.
    pub folded: u64,
    /// What all of them were charged, together.
    pub charged: i128,
    /// Each organisation's account.
    pub accounts: Vec<Account>,
    /// What is wrong, in the order of the invariants.
    pub findings: Vec<Finding>,
    /// Findings beyond those that are named.
    pub findings_unnamed: u64,
    /// Calls that were recovered after a crash and charged by how far they had come.
    pub recovered: Listing<String>,
    /// Recovered calls whose charge is that of another candidate's price, which is not on the books.
    pub not_recomputed: u64,
    /// Calls charged more than was set aside.
    pub above_reserve: Listing<AboveReserve>,
    /// Quotas that more was charged to than their limit.
    pub excesses: Listing<Excess>,
    /// Limits that were set below what had been spent.
    pub lowered: Listing<Lowered>,
    /// What is leased.
    pub nodes: Vec<NodeLeases>,
    /// What forgotten nodes held, with the sum of what no call has accounted for.
    pub unaccounted: Listing<Unaccounted>,
    /// What the journals say.
    pub journal: JournalFacts,
    /// Calls that something is written of and that are not on the books: for [`Store::judge_strays`].
    pub strays: BTreeSet<CallId>,
    /// Those of them that other nodes have begun, and have in their journals as far as can be known here.
    pub elsewhere: u64,
}

impl AuditReport {
    /// The first invariant that is broken.
    #[must_use]
    pub fn first_broken(&self) -> Option<&Finding> {
        self.findings.first()
    }

    fn find(&mut self, invariant: Invariant, object: impl ToString, detail: String) {
        let named = self.findings.iter().filter(|finding| finding.invariant == invariant).count();
        if named < NAMED_MAX {
            self.findings.push(Finding { invariant, object: object.to_string(), detail });
        } else {
            self.findings_unnamed += 1;
        }
    }

    /// Takes in what the journals say.
    pub fn add_journal(&mut self, facts: JournalFacts) {
        self.journal = facts;
        let broken = [
            (facts.duplicate_terminals, "calls ended more than once"),
            (facts.corrupt_records, "records can't be read"),
        ];
        for (count, what) in broken.into_iter().filter(|(count, _)| *count > 0) {
            self.find(Invariant::OneEndACall, "journal", format!("{count} {what}"));
        }
        self.sort();
    }

    fn sort(&mut self) {
        self.findings.sort_by_key(|finding| finding.invariant);
    }
}

/// Rows that belong to nothing: a statement, and what its rows are.
const ORPHANS: [(&str, &str); 8] = [
    (
        "SELECT c.request_id AS object FROM calls c LEFT JOIN keys k ON k.id = c.key_id AND k.org = c.org_id WHERE k.id IS NULL",
        "a call of a key that its organisation does not have",
    ),
    (
        "SELECT k.id AS object FROM keys k LEFT JOIN organisations o ON o.id = k.org WHERE o.id IS NULL",
        "a key of an organisation that does not exist",
    ),
    (
        "SELECT k.id AS object FROM keys k LEFT JOIN quotas q ON q.owner = k.id AND q.kind = 'spend' AND q.unit = 'total' AND q.model = '' WHERE q.id IS NULL",
        "a key without a quota that says what it has spent",
    ),
    (
        "SELECT CAST(c.id AS TEXT) AS object FROM credits c LEFT JOIN organisations o ON o.id = c.org WHERE o.id IS NULL",
        "a credit of an organisation that does not exist",
    ),
    (
        "SELECT CAST(e.id AS TEXT) AS object FROM entries e LEFT JOIN organisations o ON o.id = e.org WHERE o.id IS NULL",
        "an entry of an organisation that does not exist",
    ),
    (
        "SELECT CAST(q.id AS TEXT) AS object FROM quotas q LEFT JOIN keys k ON k.id = q.owner \
         LEFT JOIN projects p ON p.id = q.owner LEFT JOIN organisations o ON o.id = q.owner \
         WHERE k.id IS NULL AND p.id IS NULL AND o.id IS NULL",
        "a quota of nobody",
    ),
    (
        "SELECT CAST(s.quota AS TEXT) AS object FROM spent s LEFT JOIN quotas q ON q.id = s.quota WHERE q.id IS NULL",
        "a sum spent of a quota that does not exist",
    ),
    (
        "SELECT CAST(l.quota AS TEXT) AS object FROM leases l LEFT JOIN quotas q ON q.id = l.quota WHERE q.id IS NULL",
        "a lease of a quota that does not exist",
    ),
];

impl Store {
    /// Checks every invariant of the books. The gateway may go on meanwhile: all is read as of one moment. What the journals
    /// say is to be read after it, by [`AuditReport::add_journal`] and [`Store::judge_strays`].
    pub async fn audit(&self) -> Result<AuditReport, StoreError> {
        let mut snapshot = self.database.long_snapshot().await?;
        let mut report = AuditReport::default();
        for (statement, what) in ORPHANS {
            for row in sqlx::query(statement).fetch_all(&mut *snapshot).await? {
                let object: String = row.try_get("object")?;
                report.find(Invariant::RowsBelong, object, format!("this is {what}"));
            }
        }
        let mut limits = Limits::read(&mut snapshot).await?;
        let mut charged = Charged::read(&mut snapshot).await?;
        let folded = Folded::read(&mut snapshot).await?;
        folded.open(&mut snapshot, (&mut charged, &mut limits), &mut report).await?;
        calls::check_amendments(&mut snapshot, &mut charged, &mut limits, &mut report).await?;
        calls::check_calls(&mut snapshot, &mut charged, &mut limits, &mut report).await?;
        limits.finish(&mut report);
        charged.check(&mut snapshot, folded.windows_from, &mut report).await?;
        entries::check_entries(&mut snapshot, &mut report).await?;
        rollups::check_rollups(&mut snapshot, &folded, &mut report).await?;
        parts::check_parts(&mut snapshot, &mut report).await?;
        beside::check_beside(&mut snapshot, &mut report).await?;
        leases::check_leases(&mut snapshot, &folded, &mut report).await?;
        report.sort();
        Ok(report)
    }
}

#[cfg(test)]
mod tests;
