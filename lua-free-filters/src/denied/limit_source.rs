//! Which quota refused, as clients are told.

use crate::window::Unit;

/// Whose a quota is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A key.
    Key,
    /// A project of an organisation.
    Project,
    /// An organisation.
    Organisation,
}

/// Which quota refused: what `limit_source` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitSource {
    /// The organisation's prepaid balance.
    OrganisationBalance,
    /// A spend limit.
    Spend(Owner),
    /// Requests in a minute, hour or day.
    Requests(Owner, Unit),
    /// Tokens in a minute, hour or day.
    Tokens(Owner, Unit),
    /// Calls at once.
    Concurrency(Owner),
    /// None of ours: the providers' own.
    Provider,
}

impl LimitSource {
    /// The name in answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OrganisationBalance => "organisation_balance",
            Self::Spend(owner) => pick(owner, ["key_spend_limit", "project_spend_limit", "organisation_spend_limit"]),
            Self::Concurrency(owner) => {
                pick(owner, ["key_concurrency", "project_concurrency", "organisation_concurrency"])
            }
            Self::Requests(owner, Unit::Minute) => pick(
                owner,
                ["key_requests_per_minute", "project_requests_per_minute", "organisation_requests_per_minute"],
            ),
            Self::Requests(owner, Unit::Hour) => {
                pick(owner, ["key_requests_per_hour", "project_requests_per_hour", "organisation_requests_per_hour"])
            }
            Self::Requests(owner, Unit::Day | Unit::Week | Unit::Month) => {
                pick(owner, ["key_requests_per_day", "project_requests_per_day", "organisation_requests_per_day"])
            }
            Self::Tokens(owner, Unit::Minute) => {
                pick(owner, ["key_tokens_per_minute", "project_tokens_per_minute", "organisation_tokens_per_minute"])
            }
            Self::Tokens(owner, Unit::Hour) => {
                pick(owner, ["key_tokens_per_hour", "project_tokens_per_hour", "organisation_tokens_per_hour"])
            }
            Self::Tokens(owner, Unit::Day | Unit::Week | Unit::Month) => {
                pick(owner, ["key_tokens_per_day", "project_tokens_per_day", "organisation_tokens_per_day"])
            }
            Self::Provider => "provider",
        }
    }

    /// How a sentence calls the owner.
    #[must_use]
    pub fn owner_name(self) -> &'static str {
        match self {
            Self::OrganisationBalance => "organisation",
            Self::Provider => "provider",
            Self::Spend(owner) | Self::Requests(owner, _) | Self::Tokens(owner, _) | Self::Concurrency(owner) => {
                pick(owner, ["key", "project", "organisation"])
            }
        }
    }
}

fn pick(owner: Owner, names: [&'static str; 3]) -> &'static str {
    match owner {
        Owner::Key => names[0],
        Owner::Project => names[1],
        Owner::Organisation => names[2],
    }
}
