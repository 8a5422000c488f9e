//! Versions of prices by name, so that any charge can be computed again.

use super::signed;
use crate::store::{Rows, Store, StoreError, Transaction};
use filters::id::PriceId;
use filters::price::Price;
use sqlx::Row;
use std::collections::HashMap;

/// The versions that are kept.
pub(in crate::store) type Prices = HashMap<PriceId, Price>;

impl Store {
    /// Keeps versions of prices, so that charges made with them can be computed again. To be called before they are used.
    pub async fn remember_prices(&self, prices: &[(PriceId, Price)]) -> Result<(), StoreError> {
        let mut transaction = self.database.write().await?;
        for (id, price) in prices {
            let content =
                serde_json::to_string(price).map_err(|cause| StoreError::Sql(sqlx::Error::Encode(Box::new(cause))))?;
            sqlx::query("INSERT INTO prices (id, content) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING")
                .bind(signed(id.0))
                .bind(content)
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
    }
}

/// The price that a row names.
pub(in crate::store) fn read_price_id(row: &Rows) -> Result<PriceId, StoreError> {
    Ok(PriceId(row.try_get::<i64, _>("price_id")?.unsigned_abs()))
}

/// Reads all that are kept.
pub(in crate::store) async fn read_prices(snapshot: &mut Transaction) -> Result<Prices, StoreError> {
    let rows = sqlx::query("SELECT id, content FROM prices").fetch_all(&mut **snapshot).await?;
    let read = |row: &Rows| {
        let content: String = row.try_get("content")?;
        let price: Price =
            serde_json::from_str(&content).map_err(|_| StoreError::Corrupt { column: "prices.content", content })?;
        Ok((PriceId(row.try_get::<i64, _>("id")?.unsigned_abs()), price))
    };
    rows.iter().map(read).collect()
}
