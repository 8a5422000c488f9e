//! The permissions of a key.

use std::fmt;

/// A permission of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Scope {
    /// Call models.
    ModelInvoke = 1,
    /// Read this key's usage.
    UsageRead = 1 << 1,
    /// See which models there are.
    InferenceRead = 1 << 2,
    /// Call models; implies [`Scope::ModelInvoke`].
    InferenceWrite = 1 << 3,
    /// Read the organisation's usage.
    AnalyticsRead = 1 << 4,
    /// List keys.
    KeysRead = 1 << 5,
    /// Create and change keys.
    KeysWrite = 1 << 6,
    /// Everything in the organisation.
    Admin = 1 << 7,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 8] = [
        Self::ModelInvoke,
        Self::UsageRead,
        Self::InferenceRead,
        Self::InferenceWrite,
        Self::AnalyticsRead,
        Self::KeysRead,
        Self::KeysWrite,
        Self::Admin,
    ];

    /// The name that people write.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ModelInvoke => "model:invoke",
            Self::UsageRead => "usage:read",
            Self::InferenceRead => "inference:read",
            Self::InferenceWrite => "inference:write",
            Self::AnalyticsRead => "analytics:read",
            Self::KeysRead => "keys:read",
            Self::KeysWrite => "keys:write",
            Self::Admin => "admin",
        }
    }

    /// The scope of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Calling models.
    Model,
    /// Administering an organisation; no route of a model is open to it.
    Service,
}

impl KeyKind {
    /// The name in tables and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Service => "service",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Model, Self::Service].into_iter().find(|kind| kind.name() == name)
    }

    /// Whether a key of this kind may have a scope.
    #[must_use]
    pub fn may_have(self, scope: Scope) -> bool {
        match scope {
            Scope::UsageRead | Scope::AnalyticsRead => true,
            Scope::ModelInvoke | Scope::InferenceRead | Scope::InferenceWrite => self == Self::Model,
            Scope::KeysRead | Scope::KeysWrite | Scope::Admin => self == Self::Service,
        }
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scopes(u16);

impl Scopes {
    /// What a key has that was made without naming any.
    #[must_use]
    pub fn of_new_key() -> Self {
        Self::default().with(Scope::ModelInvoke).with(Scope::UsageRead)
    }

    /// The set with one more.
    #[must_use]
    pub fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope as u16)
    }

    /// Whether the set grants a scope, by itself or by one that implies it.
    #[must_use]
    pub fn grants(self, scope: Scope) -> bool {
        let implied = match scope {
            Scope::ModelInvoke => Scope::InferenceWrite as u16,
            Scope::UsageRead
            | Scope::InferenceRead
            | Scope::InferenceWrite
            | Scope::AnalyticsRead
            | Scope::KeysRead
            | Scope::KeysWrite
            | Scope::Admin => 0,
        };
        self.0 & (scope as u16 | implied) != 0
    }

    /// What a key with these is for: calling models, where they would do for both kinds; nothing, where no kind may have them all.
    #[must_use]
    pub fn kind(self) -> Option<KeyKind> {
        [KeyKind::Model, KeyKind::Service].into_iter().find(|kind| self.are_of(*kind))
    }

    /// Whether a key of a kind may have all of them.
    #[must_use]
    pub fn are_of(self, kind: KeyKind) -> bool {
        self.each().all(|scope| kind.may_have(scope))
    }

    /// Those of them that a key of a kind may have: the release before made keys with scopes of both kinds.
    #[must_use]
    pub fn of_kind(self, kind: KeyKind) -> Self {
        self.each().filter(|scope| kind.may_have(*scope)).fold(Self::default(), Self::with)
    }

    /// The scopes, in the table's order.
    pub fn each(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.0 & *scope as u16 != 0)
    }

    /// Reads names separated by spaces or commas; the error is the first unknown name.
    pub fn parse(names: &str) -> Result<Self, String> {
        names.split([' ', ',']).filter(|name| !name.is_empty()).try_fold(Self::default(), |set, name| {
            Scope::named(name).map(|scope| set.with(scope)).ok_or_else(|| name.to_owned())
        })
    }

    /// The names, in the table's order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.each().map(Scope::name)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names().collect();
        formatter.write_str(&names.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_inference_implies_invoking_models_and_nothing_else_does() {
        assert!(Scopes::parse("inference:write").expect("a known scope").grants(Scope::ModelInvoke));
        for name in ["usage:read", "inference:read", "analytics:read", "keys:write", "admin"] {
            assert!(!Scopes::parse(name).expect("a known scope").grants(Scope::ModelInvoke), "{name}");
        }
    }

    #[test]
    fn a_key_is_for_models_or_for_administration() {
        for (names, kind) in [
            ("model:invoke usage:read analytics:read inference:read inference:write", Some(KeyKind::Model)),
            ("usage:read", Some(KeyKind::Model)),
            ("", Some(KeyKind::Model)),
            ("keys:read keys:write admin usage:read analytics:read", Some(KeyKind::Service)),
            ("model:invoke keys:read", None),
            ("inference:read admin", None),
        ] {
            assert_eq!(Scopes::parse(names).expect("known scopes").kind(), kind, "{names}");
        }
        let mixed = Scopes::parse("model:invoke admin usage:read").expect("scopes");
        assert_eq!(mixed.of_kind(KeyKind::Model).to_string(), "model:invoke usage:read");
        assert!(Scopes::parse("usage:read").expect("a scope").are_of(KeyKind::Service));
        assert_eq!(KeyKind::named("service"), Some(KeyKind::Service));
    }

    #[test]
    fn names_are_read_and_printed() {
        let scopes = Scopes::parse("usage:read, model:invoke").expect("known scopes");
        assert_eq!(scopes.to_string(), "model:invoke usage:read");
        assert_eq!(scopes, Scopes::of_new_key());
        assert_eq!(Scopes::parse("usage:read root"), Err("root".to_owned()));
    }
}
