//! Whose the objects are that providers store. A claim is a record of the journal first, and a row when it is shipped; in between it
//! is known from memory.

mod known;
mod rows;

pub(super) use known::Known;
pub(super) use rows::insert;

use super::Store;
use super::journal::Journal;
use async_trait::async_trait;
use filters::id::OrgId;
use filters::objects::Object;
use filters::ports::{Description, Files, JournalFull, Objects, Page, StoreUnavailable, Unread};
use filters::time::EpochMs;
use std::sync::Arc;

/// Knows whose objects are: from memory, else from the store.
pub struct ObjectBook {
    store: Store,
    journal: Arc<Journal>,
}

impl ObjectBook {
    /// The book of a store, whose claims are written into this journal.
    #[must_use]
    pub fn new(store: Store, journal: Arc<Journal>) -> Self {
        Self { store, journal }
    }
}

#[async_trait]
impl Objects for ObjectBook {
    async fn owned(&self, org: OrgId, ids: &[&str]) -> Result<Vec<Object>, StoreUnavailable> {
        let known = self.store.objects.find(ids);
        let mut owned: Vec<Object> = known.objects.into_iter().filter(|object| object.org == org).collect();
        let missing: Vec<&str> =
            ids.iter().copied().filter(|id| owned.iter().all(|object| *object.id != **id)).collect();
        if missing.is_empty() {
            return Ok(owned);
        }
        let read = self.store.objects_of(org, &missing).await.map_err(|error| unavailable(&error))?;
        for object in &read {
            self.store.objects.remember(object);
        }
        let is_all = read.len() == missing.len();
        owned.extend(read);
        // What was claimed and is neither in memory nor in the store yet is not to be taken for nobody's.
        if !is_all && known.has_forgotten { Err(StoreUnavailable) } else { Ok(owned) }
    }

    fn claim(&self, object: &Object) -> Result<(), JournalFull> {
        if self.store.objects.is_known(object) {
            return Ok(());
        }
        filters::ports::Journal::claim(&*self.journal, object)?;
        self.store.objects.claim(object);
        Ok(())
    }

    async fn describe(&self, file: &Object, description: &Description) -> Result<(), StoreUnavailable> {
        self.store.describe_object(file, description).await.map_err(|error| unavailable(&error))
    }

    async fn files(&self, page: &Page<'_>) -> Result<Files, StoreUnavailable> {
        self.store.files(page).await.map_err(|error| unavailable(&error))
    }

    async fn unread(&self, since: EpochMs) -> Result<Vec<Unread>, StoreUnavailable> {
        self.store.unread_responses(since).await.map_err(|error| unavailable(&error))
    }

    async fn forget(&self, object: &Object, now: EpochMs) -> Result<(), StoreUnavailable> {
        self.store.forget_object(object, now).await.map_err(|error| unavailable(&error))?;
        self.store.objects.forget(&object.id);
        Ok(())
    }
}

fn unavailable(error: &super::StoreError) -> StoreUnavailable {
    tracing::warn!(%error, "whose objects are can't be read or written");
    StoreUnavailable
}

#[cfg(test)]
mod tests;
