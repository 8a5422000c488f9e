//! Whose objects are, in memory.

use crate::id::OrgId;
use crate::objects::Object;
use crate::ports::{Description, Files, JournalFull, Objects, Page, StoreUnavailable, Unread};
use crate::time::EpochMs;
use async_trait::async_trait;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Objects in the order in which they were claimed.
#[derive(Debug, Default)]
pub struct MemoryObjects(Mutex<Vec<Kept>>);

#[derive(Debug)]
struct Kept {
    object: Object,
    description: Option<Description>,
    is_deleted: bool,
}

impl Kept {
    /// Where it stands in lists.
    fn place(&self) -> (EpochMs, &str) {
        (self.object.at, &self.object.id)
    }

    fn is(&self, object: &Object) -> bool {
        self.object.id == object.id && self.object.provider == object.provider
    }
}

impl MemoryObjects {
    /// All that have an owner.
    #[must_use]
    pub fn all(&self) -> Vec<Object> {
        self.lock().iter().filter(|kept| !kept.is_deleted).map(|kept| kept.object.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Objects for MemoryObjects {
    async fn owned(&self, org: OrgId, ids: &[&str]) -> Result<Vec<Object>, StoreUnavailable> {
        let mut all = self.all();
        all.retain(|object| object.org == org && ids.contains(&&*object.id));
        Ok(all)
    }

    fn claim(&self, object: &Object) -> Result<(), JournalFull> {
        let mut all = self.lock();
        if !all.iter().any(|kept| kept.is(object)) {
            all.push(Kept { object: object.clone(), description: None, is_deleted: false });
        }
        Ok(())
    }

    async fn describe(&self, file: &Object, description: &Description) -> Result<(), StoreUnavailable> {
        let _ = self.claim(file);
        let mut all = self.lock();
        if let Some(kept) = all.iter_mut().find(|kept| kept.is(file) && kept.object.org == file.org) {
            kept.description = Some(description.clone());
        }
        Ok(())
    }

    async fn files(&self, page: &Page<'_>) -> Result<Files, StoreUnavailable> {
        let all = self.lock();
        let mut files: Vec<&Kept> = all
            .iter()
            .filter(|kept| !kept.is_deleted && kept.object.org == page.org)
            .filter(|kept| page.providers.contains(&kept.object.provider))
            .filter(|kept| {
                kept.description
                    .as_ref()
                    .is_some_and(|said| page.purpose.is_none() || said.purpose.as_deref() == page.purpose)
            })
            .collect();
        files.sort_by_key(|kept| kept.place());
        if let Some(after) = page.after {
            let after = all.iter().find(|kept| kept.object.org == page.org && *kept.object.id == *after);
            // What is nobody's is followed by nothing.
            files.retain(|kept| {
                after
                    .is_some_and(|after| (kept.place() < after.place()) == page.newest_first && !kept.is(&after.object))
            });
        }
        if page.newest_first {
            files.reverse();
        }
        let has_more = files.len() > page.limit;
        let contents =
            files.into_iter().take(page.limit).filter_map(|kept| Some(kept.description.as_ref()?.content.clone()));
        Ok(Files { contents: contents.collect(), has_more })
    }

    /// No process dies here.
    async fn unread(&self, _: EpochMs) -> Result<Vec<Unread>, StoreUnavailable> {
        Ok(Vec::new())
    }

    async fn forget(&self, object: &Object, _: EpochMs) -> Result<(), StoreUnavailable> {
        let _ = self.claim(object);
        self.lock().iter_mut().filter(|kept| kept.is(object)).for_each(|kept| kept.is_deleted = true);
        Ok(())
    }
}
