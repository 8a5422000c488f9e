//! What providers store, and whose it is. Provider accounts are shared by all organisations, so an id says nothing about who may
//! use it: the gateway remembers whose request made it, where, and with which credential.
//!
//! - `collect.rs`: the ids that a request names · `made.rs`: the ids that an answer makes

mod collect;
mod made;

pub(crate) use collect::{Place, Spoken};
pub use collect::{REFERENCES_MAX, References};
pub use made::Finder;

use crate::denied::Denied;
use crate::id::{CallId, KeyId, OrgId};
use crate::own::is_own;
use crate::time::EpochMs;
use std::collections::HashMap;
use std::sync::Arc;

/// The longest id that is remembered, in bytes. Providers' own have up to about 100.
pub const OBJECT_ID_BYTES_MAX: usize = 256;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectKind {
    /// An answer (OpenAI "Responses").
    Response = 1,
    /// A conversation (OpenAI "Conversations").
    Conversation = 2,
    /// An item of a response or conversation: a message, a tool's call, what was thought.
    Item = 3,
    /// A file.
    File = 4,
    /// Where a provider runs code.
    Container = 5,
    /// Documents that are searched: a vector store, a collection, a library.
    VectorStore = 6,
    /// A prompt that is kept at the provider (OpenAI "Reusable prompts").
    Prompt = 7,
    /// A spoken answer (OpenAI chat `message.audio`).
    Audio = 8,
    /// Input that is kept ready (Gemini "Context caching").
    CachedContent = 9,
    /// A skill.
    Skill = 10,
    /// A voice of the customer's own.
    Voice = 11,
    /// An answer that goes on when its request has ended (OpenAI `background`).
    BackgroundResponse = 12,
}

impl ObjectKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Response,
        Self::Conversation,
        Self::Item,
        Self::File,
        Self::Container,
        Self::VectorStore,
        Self::Prompt,
        Self::Audio,
        Self::CachedContent,
        Self::Skill,
        Self::Voice,
        Self::BackgroundResponse,
    ];

    /// The name in tables and sentences.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::Conversation => "conversation",
            Self::Item => "item",
            Self::File => "file",
            Self::Container => "container",
            Self::VectorStore => "vector store",
            Self::Prompt => "prompt",
            Self::Audio => "audio",
            Self::CachedContent => "cached content",
            Self::Skill => "skill",
            Self::Voice => "voice",
            Self::BackgroundResponse => "background response",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind that a record's byte names.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// An object of an organisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The provider's name for it; at most [`OBJECT_ID_BYTES_MAX`] bytes.
    pub id: Arc<str>,
    /// What it is.
    pub kind: ObjectKind,
    /// Whose it is.
    pub org: OrgId,
    /// With whose key it was made.
    pub key: KeyId,
    /// The request that made it.
    pub call: CallId,
    /// Who stores it, by the name in the configuration.
    pub provider: Arc<str>,
    /// Which credential there made it: the operator's by its place in the configuration, or one of the organisation's own
    /// ([`crate::own::is_own`]).
    pub credential: u16,
    /// When it was made.
    pub at: EpochMs,
}

/// An id that a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Where it stands, as the provider's reference writes it.
    pub field: &'static str,
    /// What it should be.
    pub kind: ObjectKind,
    /// The id.
    pub id: Box<str>,
}

impl Reference {
    /// The refusal of an id that the organisation does not have: the same for one that nobody has.
    #[must_use]
    pub fn unknown(&self) -> Denied {
        Denied::ObjectNotFound { field: self.field, kind: self.kind, id: self.id.chars().take(128).collect() }
    }
}

/// Objects that all organisations may use, with the providers that have them: the operator's word.
pub type SharedObjects = HashMap<Box<str>, Vec<Arc<str>>>;

/// Who must serve a request, because of what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// One of these providers.
    pub providers: Vec<Arc<str>>,
    /// With this credential; none: with any.
    pub credential: Option<u16>,
}

/// Finds who must serve a request that names some ids: nobody in particular if it names none. Every id must be the organisation's
/// own or be shared, and all at one provider under one credential: what another has is unknown there.
pub fn pin(references: &[Reference], owned: &[Object], shared: &SharedObjects) -> Result<Option<Pin>, Denied> {
    let mut pin: Option<Pin> = None;
    for reference in references {
        let own = owned.iter().find(|object| *object.id == *reference.id);
        let here = match (own, shared.get(&reference.id)) {
            (Some(object), _) => {
                Pin { providers: vec![Arc::clone(&object.provider)], credential: Some(object.credential) }
            }
            (None, Some(providers)) => Pin { providers: providers.clone(), credential: None },
            (None, None) => return Err(reference.unknown()),
        };
        pin = match pin {
            None => Some(here),
            Some(before) => Some(before.and(here).ok_or_else(|| reference.unknown())?),
        };
    }
    Ok(pin)
}

impl Pin {
    /// Whether a choice may be tried: at this provider, with the organisation's own credential of that place, or with the operator's.
    #[must_use]
    pub fn allows(&self, provider: &Arc<str>, own: Option<u16>) -> bool {
        self.providers.contains(provider) && own == self.credential.filter(|place| is_own(*place))
    }

    /// Who must serve a request for both reasons; nobody can if they contradict each other.
    fn and(mut self, other: Self) -> Option<Self> {
        self.providers.retain(|provider| other.providers.contains(provider));
        let credential = match (self.credential, other.credential) {
            (Some(one), Some(another)) if one != another => return None,
            (one, another) => one.or(another),
        };
        (!self.providers.is_empty()).then_some(Self { credential, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(id: &str, provider: &str, credential: u16) -> Object {
        let (org, key, call, at) = (OrgId(1), KeyId(1), CallId(1), EpochMs(0));
        Object { id: id.into(), kind: ObjectKind::File, org, key, call, provider: provider.into(), credential, at }
    }

    fn reference(id: &str) -> Reference {
        Reference { field: "file_id", kind: ObjectKind::File, id: id.into() }
    }

    #[test]
    fn what_is_named_must_be_owned_or_shared_and_lie_in_one_place() {
        let owned = [object("a", "p", 0), object("b", "p", 1), object("c", "q", 0)];
        let shared = SharedObjects::from([("s".into(), vec!["p".into(), "r".into()])]);
        let pinned = |ids: &[&str]| {
            let references: Vec<_> = ids.iter().map(|id| reference(id)).collect();
            pin(&references, &owned, &shared)
        };
        let at = |provider: &str, credential| Ok(Some(Pin { providers: vec![provider.into()], credential }));
        assert_eq!(pinned(&[]), Ok(None));
        assert_eq!(pinned(&["a", "a", "s"]), at("p", Some(0)));
        assert_eq!(pinned(&["s", "b"]), at("p", Some(1)));
        assert_eq!(pinned(&["s"]), Ok(Some(Pin { providers: vec!["p".into(), "r".into()], credential: None })));
        for foreign in [&["x"] as &[&str], &["a", "x"], &["a", "b"], &["a", "c"], &["c", "s"]] {
            let last = reference(foreign[foreign.len() - 1]);
            assert_eq!(pinned(foreign), Err(last.unknown()), "{foreign:?}");
        }
    }

    #[test]
    fn kinds_and_their_names_agree() {
        for kind in ObjectKind::ALL {
            assert_eq!(ObjectKind::named(kind.name()), Some(kind));
            assert_eq!(ObjectKind::from_byte(kind as u8), Some(kind));
        }
    }
}
