//! Recomputes the books, in one snapshot of them: what was paid in, charged and spent must agree to the nano-dollar.

mod rollups;

pub use super::journal::JournalFacts;
use super::ledger::{Tail, Whose, amended, read_usage};
use super::{Rows, Store, StoreError, Transaction, parsed};
use filters::id::{KeyId, OrgId, PriceId, QuotaId};
use filters::money::NanoUsd;
use filters::ports::Outcome;
use filters::price::{Price, Tier};
use futures_util::TryStreamExt;
use sqlx::Row;
use std::collections::HashMap;

/// Most findings and most recovered calls that a report names; further ones are counted.
const NAMED_MAX: usize = 100;

/// What must be true of the books, in the order in which it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// What an organisation may spend is the sum of its credits.
    CreditsAreTheLimit,
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
    /// What stands in the tables of usage are the sums of their calls.
    RollupsAreTheirRows,
    /// The journal is sound and has one end for each call that was begun.
    OneEndACall,
}

impl Invariant {
    /// The name for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CreditsAreTheLimit => "credits_are_the_limit",
            Self::RowsBelong => "rows_belong",
            Self::ChargesAreTheirCost => "charges_are_their_cost",
            Self::RecoveredWithinReserve => "recovered_within_reserve",
            Self::KeySpentIsCharged => "key_spent_is_charged",
            Self::OrganisationSpentIsCharged => "organisation_spent_is_charged",
            Self::RollupsAreTheirRows => "rollups_are_their_rows",
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

/// What an audit has found.
#[derive(Clone, Debug, Default)]
pub struct AuditReport {
    /// Organisations looked at.
    pub organisations: u64,
    /// Keys looked at.
    pub keys: u64,
    /// Calls recomputed.
    pub calls: u64,
    /// What they were charged, together.
    pub charged: i128,
    /// What is wrong, in the order of the invariants.
    pub findings: Vec<Finding>,
    /// Findings beyond those that are named.
    pub findings_unnamed: u64,
    /// Calls that were recovered after a crash and charged by their estimate: no error, but worth knowing.
    pub recovered: Vec<String>,
    /// Recovered calls beyond those that are named.
    pub recovered_unnamed: u64,
    /// Calls charged more than was set aside: a provider billed past the bound, or an estimate was short. No error.
    pub above_reserve: u64,
    /// What the journals say.
    pub journal: JournalFacts,
}

impl AuditReport {
    /// The first invariant that is broken.
    #[must_use]
    pub fn first_broken(&self) -> Option<&Finding> {
        self.findings.first()
    }

    fn find(&mut self, invariant: Invariant, object: impl ToString, detail: String) {
        if self.findings.len() < NAMED_MAX {
            self.findings.push(Finding { invariant, object: object.to_string(), detail });
        } else {
            self.findings_unnamed += 1;
        }
    }

    fn note_recovered(&mut self, call: String) {
        if self.recovered.len() < NAMED_MAX {
            self.recovered.push(call);
        } else {
            self.recovered_unnamed += 1;
        }
    }
}

/// Charges summed up by whoever is to have spent them.
#[derive(Default)]
struct Charged {
    by_key: HashMap<KeyId, i128>,
    by_org: HashMap<OrgId, i128>,
}

impl Charged {
    /// Adds the charge of a call or of an amendment.
    fn add(&mut self, key: KeyId, org: OrgId, charge: NanoUsd) {
        *self.by_key.entry(key).or_default() += i128::from(charge.0);
        *self.by_org.entry(org).or_default() += i128::from(charge.0);
    }
}

/// Rows that belong to nothing: a statement, and what its rows are.
const ORPHANS: [(&str, &str); 6] = [
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
        "SELECT CAST(q.id AS TEXT) AS object FROM quotas q LEFT JOIN keys k ON k.id = q.owner \
         LEFT JOIN projects p ON p.id = q.owner LEFT JOIN organisations o ON o.id = q.owner \
         WHERE k.id IS NULL AND p.id IS NULL AND o.id IS NULL",
        "a quota of nobody",
    ),
    (
        "SELECT CAST(s.quota AS TEXT) AS object FROM spent s LEFT JOIN quotas q ON q.id = s.quota WHERE q.id IS NULL",
        "a sum spent of a quota that does not exist",
    ),
];

impl Store {
    /// Checks every invariant. The gateway may go on meanwhile: all is read as of one moment.
    pub async fn audit(&self, journal: JournalFacts) -> Result<AuditReport, StoreError> {
        let mut snapshot = self.snapshot().await?;
        let mut report = AuditReport { journal, ..AuditReport::default() };
        check_credits(&mut snapshot, &mut report).await?;
        for (statement, what) in ORPHANS {
            for row in sqlx::query(statement).fetch_all(&mut *snapshot).await? {
                let object: String = row.try_get("object")?;
                report.find(Invariant::RowsBelong, object, format!("this is {what}"));
            }
        }
        let prices = read_prices(&mut snapshot).await?;
        let charged = check_calls(&mut snapshot, &prices, &mut report).await?;
        check_spent(&mut snapshot, charged, &mut report).await?;
        rollups::check_rollups(&mut snapshot, &mut report).await?;
        check_journal(&mut report);
        report.findings.sort_by_key(|finding| finding.invariant);
        Ok(report)
    }
}

async fn check_credits(snapshot: &mut Transaction, report: &mut AuditReport) -> Result<(), StoreError> {
    let mut rows = sqlx::query(
        "SELECT o.id, q.limit_value, CAST(COALESCE(c.total, 0) AS BIGINT) AS credits FROM organisations o \
         LEFT JOIN quotas q ON q.owner = o.id AND q.kind = 'balance' \
         LEFT JOIN (SELECT org, SUM(amount_nano) AS total FROM credits GROUP BY org) c ON c.org = o.id",
    )
    .fetch(&mut **snapshot);
    while let Some(row) = rows.try_next().await? {
        report.organisations += 1;
        let id: String = row.try_get("id")?;
        let limit: Option<i64> = row.try_get("limit_value")?;
        let credits = NanoUsd(row.try_get("credits")?);
        if limit.map(NanoUsd) != Some(credits) {
            let limit = limit.map_or("missing".to_owned(), |limit| format!("${}", NanoUsd(limit)));
            let detail = format!("its credits are ${credits} but its balance's limit is {limit}");
            report.find(Invariant::CreditsAreTheLimit, id, detail);
        }
    }
    Ok(())
}

async fn read_prices(snapshot: &mut Transaction) -> Result<HashMap<PriceId, Price>, StoreError> {
    let rows = sqlx::query("SELECT id, content FROM prices").fetch_all(&mut **snapshot).await?;
    let read = |row: &Rows| {
        let content: String = row.try_get("content")?;
        let price: Price =
            serde_json::from_str(&content).map_err(|_| StoreError::Corrupt { column: "prices.content", content })?;
        Ok((PriceId(row.try_get::<i64, _>("id")?.unsigned_abs()), price))
    };
    rows.iter().map(read).collect()
}

async fn check_calls(
    snapshot: &mut Transaction,
    prices: &HashMap<PriceId, Price>,
    report: &mut AuditReport,
) -> Result<Charged, StoreError> {
    let mut charged = Charged::default();
    let mut rows = sqlx::query("SELECT * FROM calls").fetch(&mut **snapshot);
    while let Some(row) = rows.try_next().await? {
        let charge = NanoUsd(row.try_get("charge_nano")?);
        report.calls += 1;
        report.charged += i128::from(charge.0);
        charged.add(parsed(&row, "key_id")?, parsed(&row, "org_id")?, charge);
        check_call(&row, charge, prices, report)?;
    }
    drop(rows);
    for (key, org, charge) in amended(snapshot).await? {
        report.charged += i128::from(charge.0);
        charged.add(key, org, charge);
    }
    Ok(charged)
}

fn check_call(
    row: &Rows,
    charge: NanoUsd,
    prices: &HashMap<PriceId, Price>,
    report: &mut AuditReport,
) -> Result<(), StoreError> {
    let call: String = row.try_get("request_id")?;
    let reserved = NanoUsd(row.try_get("reserved_nano")?);
    if row.try_get::<&str, _>("outcome")? == Outcome::Recovered.name() {
        if charge < NanoUsd::ZERO || charge > reserved {
            let detail = format!("it was charged ${charge} of ${reserved} set aside");
            report.find(Invariant::RecoveredWithinReserve, &call, detail);
        }
        report.note_recovered(call);
        return Ok(());
    }
    if charge > reserved {
        report.above_reserve += 1;
    }
    let usage = read_usage(row)?;
    let price_id = PriceId(row.try_get::<i64, _>("price_id")?.unsigned_abs());
    let cost = match prices.get(&price_id) {
        Some(price) => price.cost(&usage, Tier::named(row.try_get("tier")?)),
        // A call that used nothing costs nothing at any price.
        None if usage.counts.iter().all(|count| *count == 0) => NanoUsd::ZERO,
        None => {
            let detail = format!("it was charged ${charge} at the price {price_id}, which is not kept");
            report.find(Invariant::ChargesAreTheirCost, call, detail);
            return Ok(());
        }
    };
    if cost != charge {
        let detail = format!("it was charged ${charge}, but its tokens cost ${cost}");
        report.find(Invariant::ChargesAreTheirCost, call, detail);
    }
    Ok(())
}

async fn check_spent(
    snapshot: &mut Transaction,
    mut charged: Charged,
    report: &mut AuditReport,
) -> Result<(), StoreError> {
    let tail = Tail::read(snapshot, Whose::All).await?;
    let mut rows = sqlx::query(
        "SELECT q.id, q.owner, COALESCE(s.amount, 0) AS amount FROM quotas q \
         LEFT JOIN spent s ON s.quota = q.id AND s.window_start_ms = 0 \
         WHERE q.kind = 'balance' \
         OR (q.kind = 'spend' AND q.unit = 'total' AND q.model = '' AND q.owner IN (SELECT id FROM keys))",
    )
    .fetch(&mut **snapshot);
    while let Some(row) = rows.try_next().await? {
        let owner: String = row.try_get("owner")?;
        let waiting = tail.charged_in_all(QuotaId(row.try_get("id")?));
        let spent = row.try_get::<i64, _>("amount")?.saturating_add(waiting);
        let (invariant, sum) = if let Ok(key) = owner.parse() {
            report.keys += 1;
            (Invariant::KeySpentIsCharged, charged.by_key.remove(&key))
        } else if let Ok(org) = owner.parse() {
            let sum = charged.by_org.remove(&org);
            (Invariant::OrganisationSpentIsCharged, sum)
        } else {
            // A quota of nobody has been found already.
            continue;
        };
        let sum = sum.unwrap_or(0);
        if sum != i128::from(spent) {
            report.find(invariant, owner, difference(NanoUsd(spent), sum));
        }
    }
    Ok(())
}

fn difference(spent: NanoUsd, charged: i128) -> String {
    match i64::try_from(charged) {
        Ok(charged) => {
            let charged = NanoUsd(charged);
            format!("it is said to have spent ${spent}, but its calls were charged ${charged}")
        }
        Err(_) => "its calls were charged more than an account can hold".to_owned(),
    }
}

fn check_journal(report: &mut AuditReport) {
    let facts = report.journal;
    for (count, what) in
        [(facts.duplicate_terminals, "calls ended more than once"), (facts.corrupt_records, "records can't be read")]
    {
        if count > 0 {
            let detail = format!("{count} {what}");
            report.find(Invariant::OneEndACall, "journal", detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, price};
    use crate::store::journal::Checkpoint;

    /// Books with three calls on them, one of them recovered.
    async fn books() -> Books {
        let books = Books::open().await;
        let known = [(price().id(), price())];
        books.store.remember_prices(&known).await.expect("kept");
        let mut calls: Vec<_> = (0..3).map(|number| books.call(number, 10, 5)).collect();
        calls[2].1.outcome = Outcome::Recovered;
        calls[2].1.charge = NanoUsd(1);
        let shipped = books.store.ship("node", &calls, Checkpoint::default());
        shipped.await.expect("shipped");
        books
    }

    async fn broken_after(statements: &[&'static str]) -> Vec<Invariant> {
        let books = books().await;
        let mut writer = books.store.writer.acquire().await.expect("a connection");
        for statement in statements {
            let done = sqlx::query(*statement).execute(&mut *writer).await;
            done.expect(statement);
        }
        let audit = books.store.audit(JournalFacts::default()).await;
        let findings = audit.expect("audited").findings;
        findings.iter().map(|finding| finding.invariant).collect()
    }

    #[tokio::test]
    async fn true_books_have_no_findings() {
        let books = books().await;
        let facts = JournalFacts { open_intents: 2, unshipped: 3, ..JournalFacts::default() };
        let report = books.store.audit(facts).await.expect("audited");
        assert_eq!(report.findings, []);
        assert_eq!((report.organisations, report.keys, report.calls), (1, 1, 3));
        assert_eq!(report.charged, i128::from(books.key().await.spent().0));
        assert_eq!(report.recovered.len(), 1);
    }

    #[tokio::test]
    async fn each_cooked_row_is_found() {
        use Invariant::*;
        let spent = [KeySpentIsCharged, OrganisationSpentIsCharged];
        let missing = [KeySpentIsCharged, OrganisationSpentIsCharged, RollupsAreTheirRows];
        let other_usage = [ChargesAreTheirCost, ChargesAreTheirCost, RollupsAreTheirRows];
        for (statement, broken) in [
            ("UPDATE credits SET amount_nano = 1", &[CreditsAreTheLimit][..]),
            ("UPDATE quotas SET limit_value = 1 WHERE kind = 'balance'", &[CreditsAreTheLimit]),
            ("DELETE FROM calls WHERE request_id = (SELECT MIN(request_id) FROM calls)", &missing),
            ("UPDATE spent SET amount = amount + 1 WHERE quota = (SELECT MAX(quota) FROM spent)", &spent[..1]),
            ("UPDATE spent SET amount = amount + 1 WHERE quota = (SELECT MIN(quota) FROM spent)", &spent[1..]),
            ("UPDATE calls SET output_tokens = 4 WHERE outcome = 'complete'", &other_usage),
            ("UPDATE calls SET tier = 'flex', price_id = 7 WHERE outcome = 'complete'", &[ChargesAreTheirCost; 2]),
            ("DELETE FROM prices", &[ChargesAreTheirCost; 2]),
            ("UPDATE calls SET reserved_nano = 0 WHERE outcome = 'recovered'", &[RecoveredWithinReserve]),
            ("INSERT INTO spent (quota, window_start_ms, amount) VALUES (99, 0, 0)", &[RowsBelong]),
            ("UPDATE quotas SET owner = 'x' WHERE kind = 'requests'", &[RowsBelong]),
        ] {
            assert_eq!(broken_after(&[statement]).await, broken, "{statement}");
        }
        let raised = "UPDATE calls SET charge_nano = charge_nano + 1 WHERE outcome = 'complete'";
        let broken = broken_after(&[raised]).await;
        assert_eq!(broken, [&[ChargesAreTheirCost; 2][..], &missing].concat());
        let key_gone = ["PRAGMA foreign_keys = OFF", "DELETE FROM keys"];
        assert_eq!(broken_after(&key_gone).await[..3], [RowsBelong; 3]);
    }

    #[tokio::test]
    async fn a_journal_that_ended_a_call_twice_is_found() {
        let books = books().await;
        for facts in [
            JournalFacts { duplicate_terminals: 1, ..JournalFacts::default() },
            JournalFacts { corrupt_records: 1, ..JournalFacts::default() },
        ] {
            let report = books.store.audit(facts).await.expect("audited");
            let first = report.first_broken().expect("a finding");
            assert_eq!(first.invariant, Invariant::OneEndACall);
        }
    }
}
