//! Objects in memory: those whose claims are not in the store yet, and those that were asked for lately.

use filters::objects::Object;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most objects in memory, about 400 bytes each: a few seconds of claims, and they are shipped several times a second.
const KNOWN_MAX: usize = 50_000;

/// Objects in memory, the oldest of which go first.
#[derive(Debug, Default)]
pub(in crate::store) struct Known {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: HashMap<Arc<str>, Entry>,
    order: VecDeque<Arc<str>>,
    /// Claims that had to go before they were shipped.
    forgotten: usize,
}

#[derive(Debug)]
struct Entry {
    object: Object,
    is_shipped: bool,
}

/// What memory knows of some ids.
pub(super) struct Found {
    pub(super) objects: Vec<Object>,
    /// There are claims that neither memory nor the store knows.
    pub(super) has_forgotten: bool,
}

impl Known {
    pub(super) fn find(&self, ids: &[&str]) -> Found {
        let state = self.lock();
        let objects = ids.iter().filter_map(|id| Some(state.objects.get(*id)?.object.clone())).collect();
        Found { objects, has_forgotten: state.forgotten > 0 }
    }

    /// Whether this very object is known: then it was claimed before.
    pub(super) fn is_known(&self, object: &Object) -> bool {
        let state = self.lock();
        state.objects.get(&object.id).is_some_and(|entry| entry.object.provider == object.provider)
    }

    /// Keeps a claim that is in the journal.
    pub(super) fn claim(&self, object: &Object) {
        self.lock().keep(object, false);
    }

    /// Keeps what the store has.
    pub(super) fn remember(&self, object: &Object) {
        self.lock().keep(object, true);
    }

    pub(super) fn forget(&self, id: &str) {
        // Its place in the order stays: it is passed over when its turn comes.
        self.lock().objects.remove(id);
    }

    /// Notes that claims are in the store.
    pub(in crate::store) fn shipped(&self, objects: &[Object]) {
        if objects.is_empty() {
            return;
        }
        let mut state = self.lock();
        for object in objects {
            match state.objects.get_mut(&object.id) {
                Some(entry) => entry.is_shipped = true,
                None => state.forgotten = state.forgotten.saturating_sub(1),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves no step of this half done that a lookup would take for an owner.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Who is there first stays: another's claim of an id that has an owner is for the store to judge.
    fn keep(&mut self, object: &Object, is_shipped: bool) {
        if self.objects.contains_key(&object.id) {
            return;
        }
        self.objects.insert(Arc::clone(&object.id), Entry { object: object.clone(), is_shipped });
        self.order.push_back(Arc::clone(&object.id));
        while self.order.len() > KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            let gone = self.objects.remove(&oldest);
            self.forgotten += usize::from(gone.is_some_and(|entry| !entry.is_shipped));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use filters::id::{CallId, KeyId, OrgId};
    use filters::objects::ObjectKind;
    use filters::time::EpochMs;

    fn object(number: usize) -> Object {
        Object {
            id: format!("resp_{number}").into(),
            kind: ObjectKind::Response,
            org: OrgId(1),
            key: KeyId(1),
            call: CallId(1),
            provider: "p".into(),
            credential: 0,
            at: EpochMs(0),
        }
    }

    #[test]
    fn claims_that_had_to_go_are_counted_until_they_are_shipped() {
        let known = Known::default();
        known.remember(&object(0));
        for number in 1..=KNOWN_MAX {
            known.claim(&object(number));
        }
        assert!(!known.find(&["resp_0"]).has_forgotten, "what is in the store may go");
        known.claim(&object(KNOWN_MAX + 1));
        let found = known.find(&["resp_1", "resp_2"]);
        assert_eq!((found.objects, found.has_forgotten), (vec![object(2)], true));
        known.shipped(&[object(1), object(2)]);
        assert!(!known.find(&[]).has_forgotten);
    }
}
