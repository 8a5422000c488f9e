//! What is done to the books by time: hours are booked, old rows go. Every node does it; of two that come at once, the second finds
//! nothing left to do.

use super::credits::HOUR_MS;
use super::retention::RetentionSettings;
use super::{Store, StoreError};
use crate::clock;
use filters::time::EpochMs;
use std::time::Duration;
use tokio::sync::watch;

/// How often it is looked whether an hour is over.
const LOOKS_EVERY: Duration = Duration::from_secs(60);
/// Old rows are looked for each so many looks.
const LOOKS_PER_CLEANING: u64 = 60;
/// At the start so many hours are booked once more: releases before this one mark none that calls come to late.
const BOOKED_AGAIN_MS: i64 = 24 * HOUR_MS;

/// Keeps the books as long as the gateway runs.
pub struct Bookkeeper {
    store: Store,
    settings: RetentionSettings,
}

impl Bookkeeper {
    /// One for a store.
    #[must_use]
    pub fn new(store: Store, settings: RetentionSettings) -> Self {
        Self { store, settings }
    }

    /// Works until shutdown. What fails is tried again at the next look.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut interval = tokio::time::interval(LOOKS_EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut looks, mut again) = (0, clock::now().plus(-BOOKED_AGAIN_MS));
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                // An error says that nobody is left to tell us: that is a shutdown too.
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
            let now = clock::now();
            match self.book(again, now).await {
                Ok(()) => again = now,
                Err(cause) => tracing::warn!(%cause, "charges were not booked; they are at the next look"),
            }
            if looks % LOOKS_PER_CLEANING == 0
                && let Err(cause) = self.store.let_old_rows_go(&self.settings, now).await
            {
                tracing::warn!(%cause, "old rows were not summed up; they are at the next look");
            }
            looks += 1;
        }
    }

    async fn book(&self, again: EpochMs, now: EpochMs) -> Result<(), StoreError> {
        self.store.take_over_credits().await?;
        let entries = self.store.book_charges(again, now).await?;
        if entries > 0 {
            tracing::info!(entries, "charges of past hours are booked");
        }
        Ok(())
    }
}
