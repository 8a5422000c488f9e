//! What organisations' own credentials need of the rest of the house.

use crate::store::Store;

/// Seals under the newest master key what is sealed under others.
pub(super) async fn rewrap(store: Store) {
    match store.rewrap().await {
        Ok(0) => {}
        Ok(rewrapped) => tracing::info!(rewrapped, "secrets were sealed under the newest master key"),
        Err(cause) => tracing::error!(%cause, "secrets can't be sealed under the newest master key"),
    }
}
