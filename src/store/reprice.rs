//! What calls would have been charged at other prices.

use super::ledger::{Prices, read_price_id, read_prices, read_usage};
use super::{Rows, Store, StoreError};
use filters::id::OrgId;
use filters::money::NanoUsd;
use filters::ports::Outcome;
use filters::price::{Price, Tier};
use filters::time::EpochMs;
use futures_util::TryStreamExt;
use sqlx::Row;
use std::collections::BTreeMap;

/// Which calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection {
    /// Those that began at this moment or later.
    pub since: Option<EpochMs>,
    /// Those of one organisation.
    pub org: Option<OrgId>,
}

/// A call as far as its price depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Served<'a> {
    /// The model's name in the catalogue.
    pub model: &'a str,
    /// The provider that answered.
    pub provider: &'a str,
    /// When the call began.
    pub started: EpochMs,
    /// Whether it was made with a credential of the organisation's own.
    pub is_own: bool,
    /// The picture that it was charged for, where the price that it names tells them apart.
    pub picture: Option<&'a str>,
}

/// The calls of a model, as they were charged and as they would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repriced {
    /// How many there are.
    pub calls: u64,
    /// How many of them would be charged otherwise.
    pub changed: u64,
    /// How many there is no price for: they are in neither sum.
    pub unpriced: u64,
    /// What they were charged, in nano-USD.
    pub charged: i128,
    /// What they would be charged, in nano-USD.
    pub repriced: i128,
}

impl Repriced {
    /// Adds others.
    pub fn add(&mut self, others: &Self) {
        self.calls += others.calls;
        self.changed += others.changed;
        self.unpriced += others.unpriced;
        self.charged += others.charged;
        self.repriced += others.repriced;
    }
}

/// Calls with the usage that came after their ends, whose charges are part of theirs.
const CALLS: &str = "SELECT c.* FROM calls c WHERE c.started_ms >= $1 AND ($2 = '' OR c.org_id = $2)";
const AMENDMENTS: &str = "SELECT a.*, c.model, c.provider, c.started_ms, c.tier, c.outcome, c.reserved_nano, c.price_id \
     FROM amendments a JOIN calls c ON c.request_id = a.request_id \
     WHERE c.started_ms >= $1 AND ($2 = '' OR c.org_id = $2)";

impl Store {
    /// Computes charges again at the prices that `price_of` gives, by model. It changes nothing.
    pub async fn reprice<'a>(
        &self,
        selection: Selection,
        price_of: impl Fn(Served<'_>) -> Option<&'a Price>,
    ) -> Result<BTreeMap<String, Repriced>, StoreError> {
        let mut snapshot = self.database.long_snapshot().await?;
        let kept = read_prices(&mut snapshot).await?;
        let since = selection.since.map_or(i64::MIN, |since| since.0);
        let org = selection.org.map(|org| org.to_string()).unwrap_or_default();
        let mut models: BTreeMap<String, Repriced> = BTreeMap::new();
        for (statement, calls) in [(CALLS, 1), (AMENDMENTS, 0)] {
            let mut rows = sqlx::query(statement).bind(since).bind(&org).fetch(&mut *snapshot);
            while let Some(row) = rows.try_next().await? {
                let of_call = Repriced { calls, ..reprice(&row, &kept, &price_of)? };
                models.entry(row.try_get("model")?).or_default().add(&of_call);
            }
        }
        Ok(models)
    }
}

fn reprice<'a>(
    row: &Rows,
    kept: &Prices,
    price_of: impl Fn(Served<'_>) -> Option<&'a Price>,
) -> Result<Repriced, StoreError> {
    let charge = NanoUsd(row.try_get("charge_nano")?);
    let usage = read_usage(row)?;
    let charged_at = kept.get(&read_price_id(row)?);
    let served = Served {
        model: row.try_get("model")?,
        provider: row.try_get("provider")?,
        started: EpochMs(row.try_get("started_ms")?),
        is_own: charged_at.is_some_and(|price| price.fee.is_some()),
        picture: charged_at.and_then(|price| price.picture.as_deref()),
    };
    let cost = match price_of(served) {
        Some(price) => price.cost(&usage, Tier::named(row.try_get("tier")?)),
        // What used nothing costs nothing at any price.
        None if usage.counts.iter().all(|count| *count == 0) => NanoUsd::ZERO,
        None => return Ok(Repriced { unpriced: 1, ..Repriced::default() }),
    };
    let is_recovered = row.try_get::<&str, _>("outcome")? == Outcome::Recovered.name();
    let repriced = if is_recovered { cost.min(NanoUsd(row.try_get("reserved_nano")?)) } else { cost };
    Ok(Repriced {
        changed: u64::from(repriced != charge),
        charged: i128::from(charge.0),
        repriced: i128::from(repriced.0),
        ..Repriced::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW, price};
    use crate::store::journal::Checkpoint;
    use filters::catalogue::PriceVersion;
    use filters::usage::{Kind, Usage};

    /// Twice as dear.
    fn dearer() -> Price {
        let mut price = price();
        price.standard = price.standard.map(|rate| 2 * rate);
        price
    }

    #[tokio::test]
    async fn a_picture_is_computed_again_as_the_one_that_it_was() {
        let books = Books::open().await;
        let [small, large] = [("s", 40_000_000_000_000), ("l", 80_000_000_000_000)];
        let version = PriceVersion::of_pictures(&price(), &[small, large]);
        let kept: Vec<_> = version.pictures.iter().map(|version| (version.id, version.price.clone())).collect();
        books.store.remember_prices(&kept).await.expect("kept");
        let mut call = books.call(1, 0, 0);
        call.1.usage = Usage::default().with(Kind::Images, 2);
        (call.1.price, call.1.charge) = (version.pictures[0].id, NanoUsd(80_000_000));
        books.store.ship("node", &[call], Checkpoint::default()).await.expect("shipped");
        assert_eq!(books.store.audit().await.expect("audited").findings, []);
        let halved = PriceVersion::of_pictures(&price(), &[("s", 20_000_000_000_000), large]);
        let price_of =
            |call: Served<'_>| call.picture.and_then(|name| halved.named(name)).map(|version| &version.price);
        let models = books.store.reprice(Selection::default(), price_of).await.expect("computed");
        let expected = Repriced { calls: 1, changed: 1, unpriced: 0, charged: 80_000_000, repriced: 40_000_000 };
        assert_eq!(models["gpt-4o-mini"], expected);
    }

    #[tokio::test]
    async fn each_model_is_computed_again_and_nothing_is_changed() {
        let books = Books::open().await;
        let mut calls: Vec<_> = (0..5).map(|number| books.call(number, 10, 5)).collect();
        calls[1].0.model = "other".into();
        calls[2].0.started = NOW.plus(-1);
        calls[3].1.outcome = Outcome::Recovered;
        calls[4].1.provider = "gone".into();
        books.store.ship("node", &calls, Checkpoint::default()).await.expect("shipped");
        let dearer = dearer();
        let price_of = |call: Served<'_>| (call.provider == "openai").then_some(&dearer);
        let models = books.store.reprice(Selection { since: Some(NOW), org: Some(books.org) }, price_of).await;
        let models = models.expect("computed");
        assert_eq!(models["other"], Repriced { calls: 1, changed: 1, unpriced: 0, charged: 4_500, repriced: 9_000 });
        // What was recovered costs no more than was set aside for it.
        let mini = Repriced { calls: 3, changed: 1, unpriced: 1, charged: 9_000, repriced: 13_500 };
        assert_eq!(models["gpt-4o-mini"], mini);
        let other_org = Selection { since: None, org: Some(OrgId(9)) };
        assert!(books.store.reprice(other_org, price_of).await.expect("computed").is_empty());
        let all = books.store.reprice(Selection::default(), price_of).await.expect("computed");
        assert_eq!(all.values().map(|model| model.calls).sum::<u64>(), 5);
        assert_eq!(books.key().await.spent(), NanoUsd(5 * 4_500));
    }
}
