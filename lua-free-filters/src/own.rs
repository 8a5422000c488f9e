//! Credentials that organisations have at providers themselves: calls made with one are billed to the organisation's account there.

use crate::catalogue::Model;
use crate::id::{CredentialId, OrgId};
use crate::key::{Glob, allows};
use crate::resolve::Choice;
use crate::time::EpochMs;
use async_trait::async_trait;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Places of credentials from here on are organisations' own, below are the operator's in the configuration. Of an organisation
/// none is given twice.
pub const OWN_PLACES_FROM: u16 = 0x8000;

/// Whether the credential at a place is an organisation's own.
#[must_use]
pub fn is_own(place: u16) -> bool {
    place >= OWN_PLACES_FROM
}

/// A secret of somebody else's. It has no `Display`, `Debug` does not show it, and it is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnSecret(Zeroizing<String>);

impl OwnSecret {
    /// Takes a secret in.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself, for the one header that carries it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for OwnSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("OwnSecret(…)")
    }
}

/// A credential that an organisation has at a provider.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnCredential {
    /// Names it.
    pub id: CredentialId,
    /// Whose it is.
    pub org: OrgId,
    /// Grows with each new secret and each new address.
    pub version: i64,
    /// What objects that it has made are remembered by; [`OWN_PLACES_FROM`] or more.
    pub place: u16,
    /// The provider, by its name in the configuration.
    pub provider: Arc<str>,
    /// Where it is asked, in place of the provider's own address.
    pub base_url: Option<Box<str>>,
    /// Patterns of models that it is used for; none: all.
    pub models: Vec<Glob>,
    /// Those of the lowest number are tried first.
    pub priority: u32,
    /// Share among those of one priority.
    pub weight: u32,
    /// Whether a call that it could serve may be made with the operator's credentials too, and is charged then.
    pub may_fall_back: bool,
    /// The secret; none if it can't be opened.
    pub secret: Option<OwnSecret>,
}

/// Those of an organisation that are switched on.
pub type OwnCredentials = Arc<[Arc<OwnCredential>]>;

impl OwnCredential {
    /// Whether it is meant for a model at a provider.
    #[must_use]
    pub fn serves(&self, provider: &str, model: &str) -> bool {
        *self.provider == *provider && allows(&self.models, model)
    }
}

/// What has become of an organisation's credential, for whoever keeps its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CredentialNote {
    /// Which.
    pub id: CredentialId,
    /// Whose.
    pub org: OrgId,
    /// When.
    pub at: EpochMs,
    /// What.
    pub event: CredentialEvent,
}

/// Something that becomes of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialEvent {
    /// A provider took it.
    Used,
    /// The provider refused it with this status, so it is left alone until then.
    Benched {
        /// 401 or 403.
        status: u16,
        /// The end of it.
        until: EpochMs,
    },
}

/// Knows providers, for those who keep credentials of organisations.
#[async_trait]
pub trait Providers: Send + Sync {
    /// Sees that there is a provider of that name and that a secret has the form of those that it takes.
    fn check_credential(&self, provider: &str, secret: &OwnSecret) -> Result<(), CredentialProblem>;

    /// Asks the provider something that costs nothing and needs a credential.
    async fn try_credential(&self, own: &OwnCredential) -> Trial;
}

/// Why a credential can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialProblem {
    /// Nobody has this name.
    #[error("There is no provider of this name; the operator's configuration names those that there are.")]
    UnknownProvider,
    /// The secret has another form.
    #[error("The secret {0}.")]
    Secret(String),
}

/// How a provider took a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Whether it did.
    pub is_taken: bool,
    /// The status that it answered with; none if it did not answer.
    pub status: Option<u16>,
    /// How long that took.
    pub milliseconds: u64,
}

/// Leaves the operator's credentials out where one of the organisation's own could serve the call and forbids to fall back on
/// them.
pub(crate) fn keep_to_own(own: &[Arc<OwnCredential>], model: &Model, choices: &mut Vec<Choice>) {
    let serves = |own: &OwnCredential| model.candidates.iter().any(|one| own.serves(&one.provider, &model.id));
    if own.iter().any(|own| !own.may_fall_back && serves(own)) {
        choices.retain(|choice| choice.own.is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let secret = OwnSecret::new("sk-of-somebody".to_owned());
        assert_eq!(secret.reveal(), "sk-of-somebody");
        assert_eq!(format!("{secret:?}"), "OwnSecret(…)");
    }
}
