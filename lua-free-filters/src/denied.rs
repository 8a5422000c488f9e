//! Refusals: expected, counted, and said in a sentence that tells the caller what to do.

mod limit_source;

pub use limit_source::{LimitSource, Owner};

use crate::money::NanoUsd;
use crate::objects::ObjectKind;
use crate::scope::{Scope, Scopes};

/// The closed set of public error codes. `src/error.rs` gives each its status and type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the public codes themselves")]
pub enum Code {
    InvalidRequest = 1,
    AmbiguousCredentials,
    DuplicateField,
    MissingCredentials,
    InvalidApiKey,
    KeyExpired,
    KeyArchived,
    KeyDisabled,
    OrganisationSuspended,
    InsufficientCredits,
    SpendLimitReached,
    CreditsReserved,
    RouteScopeDenied,
    ModelNotAllowed,
    ProviderNotAllowed,
    ModelNotFound,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    BodyTooLarge,
    UnsupportedEncoding,
    HeadersTooLarge,
    ModelUnpriced,
    RateLimitExceeded,
    ConcurrencyExceeded,
    UpstreamFailed,
    UpstreamTimeout,
    LimitsUnavailable,
    StoreUnavailable,
    Overloaded,
    ShuttingDown,
    CostUnbounded,
    RouteUnmetered,
    MaxCreditsExceeded,
    IpNotAllowed,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 35] = [
        Self::InvalidRequest,
        Self::AmbiguousCredentials,
        Self::DuplicateField,
        Self::MissingCredentials,
        Self::InvalidApiKey,
        Self::KeyExpired,
        Self::KeyArchived,
        Self::KeyDisabled,
        Self::OrganisationSuspended,
        Self::InsufficientCredits,
        Self::SpendLimitReached,
        Self::CreditsReserved,
        Self::RouteScopeDenied,
        Self::ModelNotAllowed,
        Self::ProviderNotAllowed,
        Self::ModelNotFound,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::BodyTooLarge,
        Self::UnsupportedEncoding,
        Self::HeadersTooLarge,
        Self::ModelUnpriced,
        Self::RateLimitExceeded,
        Self::ConcurrencyExceeded,
        Self::UpstreamFailed,
        Self::UpstreamTimeout,
        Self::LimitsUnavailable,
        Self::StoreUnavailable,
        Self::Overloaded,
        Self::ShuttingDown,
        Self::CostUnbounded,
        Self::RouteUnmetered,
        Self::MaxCreditsExceeded,
        Self::IpNotAllowed,
    ];

    /// The code as clients read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::AmbiguousCredentials => "ambiguous_credentials",
            Self::DuplicateField => "duplicate_field",
            Self::MissingCredentials => "missing_credentials",
            Self::InvalidApiKey => "invalid_api_key",
            Self::KeyExpired => "key_expired",
            Self::KeyArchived => "key_archived",
            Self::KeyDisabled => "key_disabled",
            Self::OrganisationSuspended => "organisation_suspended",
            Self::InsufficientCredits => "insufficient_credits",
            Self::SpendLimitReached => "spend_limit_reached",
            Self::MaxCreditsExceeded => "max_credits_exceeded",
            Self::CreditsReserved => "credits_reserved",
            Self::RouteScopeDenied => "route_scope_denied",
            Self::ModelNotAllowed => "model_not_allowed",
            Self::ProviderNotAllowed => "provider_not_allowed",
            Self::ModelNotFound => "model_not_found",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::HeadersTooLarge => "headers_too_large",
            Self::ModelUnpriced => "model_unpriced",
            Self::RateLimitExceeded => "rate_limit_exceeded",
            Self::ConcurrencyExceeded => "concurrency_exceeded",
            Self::UpstreamFailed => "upstream_failed",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::LimitsUnavailable => "limits_unavailable",
            Self::StoreUnavailable => "store_unavailable",
            Self::Overloaded => "overloaded",
            Self::ShuttingDown => "shutting_down",
            Self::CostUnbounded => "cost_unbounded",
            Self::RouteUnmetered => "route_unmetered",
            Self::IpNotAllowed => "ip_not_allowed",
        }
    }

    /// The code that a record's byte names.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|code| *code as u8 == byte)
    }
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each variant's sentence is its documentation")]
pub enum Denied {
    #[error("{0}")]
    InvalidRequest(String),
    #[error(
        "The request carries two different credentials. Send one of Authorization, x-api-key, api-key, x-goog-api-key, once."
    )]
    AmbiguousCredentials,
    #[error("The field `{0}` stands more than once at the top of the request body. Send it once.")]
    DuplicateField(&'static str),
    #[error("No API key was sent. Send it as `Authorization: Bearer KEY` or `x-api-key: KEY`.")]
    MissingCredentials,
    #[error("The API key is not valid. Check that it was copied whole and has not been deleted.")]
    InvalidApiKey,
    #[error("The API key was rotated and this is its old secret, whose grace has ended. Use the new one.")]
    SecretReplaced,
    #[error("The API key has expired. Use another, or ask for its expiry to be moved.")]
    KeyExpired,
    #[error("The API key was archived and can't be used again. Create a new one.")]
    KeyArchived,
    #[error("The API key is disabled. Enable it or use another.")]
    KeyDisabled,
    #[error("The organisation is suspended. Contact the operator.")]
    OrganisationSuspended,
    #[error(
        "The organisation's credits are exhausted: ${available} are left and this call may cost ${needed}. Add credits or ask for less output."
    )]
    InsufficientCredits { available: NanoUsd, needed: NanoUsd },
    #[error(
        "The {}'s spend limit is reached: ${available} are left and this call may cost ${needed}. Raise the limit or ask for less output.",
        quota.owner_name()
    )]
    SpendLimitReached { quota: LimitSource, available: NanoUsd, needed: NanoUsd, heals_in_ms: Option<u64> },
    #[error("Other calls in progress have set the remaining credit aside. Try again when they have ended.")]
    CreditsReserved { quota: LimitSource },
    #[error("The API key lacks a scope. Required: {}; granted: {granted}.", scope_names(required))]
    RouteScopeDenied { required: &'static [Scope], granted: Scopes },
    #[error("The API key may not use the model `{0}`.")]
    ModelNotAllowed(String),
    #[error("The API key may not use any provider of the model `{0}`.")]
    ProviderNotAllowed(String),
    #[error("The model `{0}` does not exist or can't be called on this route. GET /v1/models lists those that can.")]
    ModelNotFound(String),
    #[error("There is nothing at this path. The API lives below /v1.")]
    NotFound,
    #[error("No such {}: `{id}`. It does not exist, or it is not your organisation's.", kind.name())]
    ObjectNotFound { field: &'static str, kind: ObjectKind, id: String },
    #[error("This path does not answer {asked}. Use {}.", method_names(answered))]
    MethodNotAllowed { asked: http::Method, answered: &'static [http::Method] },
    #[error("The request body did not arrive in time. Send it without pauses.")]
    RequestTimeout,
    #[error("The request body is larger than {0} bytes.")]
    BodyTooLarge(u64),
    #[error("The request body has a Content-Encoding. Send it uncompressed.")]
    UnsupportedEncoding,
    #[error("The request's headers are too large or too many: at most {bytes_max} bytes, {count_max} headers.")]
    HeadersTooLarge { bytes_max: usize, count_max: usize },
    #[error("The model `{0}` has no price on this day, so it can't be charged. Ask the operator to add one.")]
    ModelUnpriced(String),
    #[error("Rate limit exceeded: {limit} {unit} per {per} for this {}. Try again in {retry_after_ms} ms.", quota.owner_name())]
    RateLimitExceeded { quota: LimitSource, unit: &'static str, per: &'static str, limit: i64, retry_after_ms: u64 },
    #[error("Every provider of the model is at its rate limit. Try again in {retry_after_ms} ms.")]
    ProviderRateLimited { retry_after_ms: u64 },
    #[error("Too many calls at once: the {} may run {limit}. Try again when one has ended.", quota.owner_name())]
    ConcurrencyExceeded { quota: LimitSource, limit: i64 },
    #[error("No provider of the model could answer. Try again.")]
    UpstreamFailed,
    #[error(
        "The organisation's own credential at the provider can't be used, and no other may be. Test it, replace its secret, or let calls fall back on the gateway's."
    )]
    OwnCredentialUnusable,
    #[error("The provider did not answer in time. Try again.")]
    UpstreamTimeout,
    #[error("The key or what it may spend can't be looked up now. Try again shortly.")]
    LimitsUnavailable,
    #[error("Whose objects the request names can't be looked up now. Try again shortly.")]
    OwnersUnavailable,
    #[error("The call can't be written down now, so it was not sent. Try again shortly.")]
    StoreUnavailable,
    #[error("The gateway has as much work as it may hold. Try again shortly.")]
    Overloaded,
    #[error("The gateway is shutting down. Try again; another node will answer.")]
    ShuttingDown,
    #[error(
        "Nothing bounds what this call may cost, and a strict limit holds. Name `max_tokens`, set `max_uses` of tools that the provider runs or remove them, or use a key without strict limits."
    )]
    CostUnbounded,
    #[error(
        "The call is estimated at {estimate} dollars, more than the {max} that it may cost by its own word. Raise `max_credits` or `max_cost_usd`, or ask for less."
    )]
    MaxCreditsExceeded { estimate: NanoUsd, max: NanoUsd },
    #[error("This route spends without saying so in its answers, so it can't be metered. Use another route.")]
    RouteUnmetered,
    #[error(
        "The API key may not be used from this address. Call from one that it allows, or have its `ip_allowlist` changed."
    )]
    IpNotAllowed,
}

fn method_names(methods: &[http::Method]) -> String {
    let names: Vec<_> = methods.iter().map(http::Method::as_str).collect();
    names.join(" or ")
}

fn scope_names(scopes: &[Scope]) -> String {
    let names: Vec<_> = scopes.iter().map(|scope| scope.name()).collect();
    names.join(" or ")
}

impl Denied {
    /// The public code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::InvalidRequest(_) => Code::InvalidRequest,
            Self::AmbiguousCredentials => Code::AmbiguousCredentials,
            Self::DuplicateField(_) => Code::DuplicateField,
            Self::MissingCredentials => Code::MissingCredentials,
            Self::InvalidApiKey | Self::SecretReplaced => Code::InvalidApiKey,
            Self::KeyExpired => Code::KeyExpired,
            Self::KeyArchived => Code::KeyArchived,
            Self::KeyDisabled => Code::KeyDisabled,
            Self::OrganisationSuspended => Code::OrganisationSuspended,
            Self::InsufficientCredits { .. } => Code::InsufficientCredits,
            Self::SpendLimitReached { .. } => Code::SpendLimitReached,
            Self::MaxCreditsExceeded { .. } => Code::MaxCreditsExceeded,
            Self::CreditsReserved { .. } => Code::CreditsReserved,
            Self::RouteScopeDenied { .. } => Code::RouteScopeDenied,
            Self::ModelNotAllowed(_) => Code::ModelNotAllowed,
            Self::ProviderNotAllowed(_) => Code::ProviderNotAllowed,
            Self::ModelNotFound(_) => Code::ModelNotFound,
            Self::NotFound | Self::ObjectNotFound { .. } => Code::NotFound,
            Self::MethodNotAllowed { .. } => Code::MethodNotAllowed,
            Self::RequestTimeout => Code::RequestTimeout,
            Self::BodyTooLarge(_) => Code::BodyTooLarge,
            Self::UnsupportedEncoding => Code::UnsupportedEncoding,
            Self::HeadersTooLarge { .. } => Code::HeadersTooLarge,
            Self::ModelUnpriced(_) => Code::ModelUnpriced,
            Self::RateLimitExceeded { .. } | Self::ProviderRateLimited { .. } => Code::RateLimitExceeded,
            Self::ConcurrencyExceeded { .. } => Code::ConcurrencyExceeded,
            Self::OwnCredentialUnusable | Self::UpstreamFailed => Code::UpstreamFailed,
            Self::UpstreamTimeout => Code::UpstreamTimeout,
            Self::LimitsUnavailable => Code::LimitsUnavailable,
            Self::OwnersUnavailable | Self::StoreUnavailable => Code::StoreUnavailable,
            Self::Overloaded => Code::Overloaded,
            Self::ShuttingDown => Code::ShuttingDown,
            Self::CostUnbounded => Code::CostUnbounded,
            Self::RouteUnmetered => Code::RouteUnmetered,
            Self::IpNotAllowed => Code::IpNotAllowed,
        }
    }

    /// The quota that refused, where one did.
    #[must_use]
    pub fn limit_source(&self) -> Option<LimitSource> {
        match self {
            Self::InsufficientCredits { .. } => Some(LimitSource::OrganisationBalance),
            Self::SpendLimitReached { quota, .. }
            | Self::CreditsReserved { quota }
            | Self::RateLimitExceeded { quota, .. }
            | Self::ConcurrencyExceeded { quota, .. } => Some(*quota),
            Self::ProviderRateLimited { .. } => Some(LimitSource::Provider),
            Self::InvalidRequest(_)
            | Self::AmbiguousCredentials
            | Self::DuplicateField(_)
            | Self::MissingCredentials
            | Self::InvalidApiKey
            | Self::SecretReplaced
            | Self::KeyExpired
            | Self::KeyArchived
            | Self::KeyDisabled
            | Self::OrganisationSuspended
            | Self::RouteScopeDenied { .. }
            | Self::ModelNotAllowed(_)
            | Self::ProviderNotAllowed(_)
            | Self::ModelNotFound(_)
            | Self::NotFound
            | Self::ObjectNotFound { .. }
            | Self::MethodNotAllowed { .. }
            | Self::RequestTimeout
            | Self::BodyTooLarge(_)
            | Self::UnsupportedEncoding
            | Self::HeadersTooLarge { .. }
            | Self::ModelUnpriced(_)
            | Self::MaxCreditsExceeded { .. }
            | Self::CostUnbounded
            | Self::RouteUnmetered
            | Self::IpNotAllowed
            | Self::OwnCredentialUnusable
            | Self::UpstreamFailed
            | Self::UpstreamTimeout
            | Self::LimitsUnavailable
            | Self::OwnersUnavailable
            | Self::StoreUnavailable
            | Self::Overloaded
            | Self::ShuttingDown => None,
        }
    }

    /// What heals it, in one word for programs.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self.code() {
            Code::InsufficientCredits => Some("add_credits"),
            Code::SpendLimitReached => Some("raise_limit"),
            Code::CreditsReserved | Code::ConcurrencyExceeded | Code::RateLimitExceeded => Some("wait"),
            Code::CostUnbounded => Some("bound_the_cost"),
            Code::MaxCreditsExceeded => Some("raise_max_cost"),
            Code::InvalidRequest
            | Code::AmbiguousCredentials
            | Code::DuplicateField
            | Code::MissingCredentials
            | Code::InvalidApiKey
            | Code::KeyExpired
            | Code::KeyArchived
            | Code::KeyDisabled
            | Code::OrganisationSuspended
            | Code::RouteScopeDenied
            | Code::ModelNotAllowed
            | Code::ProviderNotAllowed
            | Code::ModelNotFound
            | Code::NotFound
            | Code::MethodNotAllowed
            | Code::RequestTimeout
            | Code::BodyTooLarge
            | Code::UnsupportedEncoding
            | Code::HeadersTooLarge
            | Code::ModelUnpriced
            | Code::RouteUnmetered
            | Code::IpNotAllowed
            | Code::UpstreamFailed
            | Code::UpstreamTimeout
            | Code::LimitsUnavailable
            | Code::StoreUnavailable
            | Code::Overloaded
            | Code::ShuttingDown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_their_bytes_agree() {
        for code in Code::ALL {
            assert_eq!(Code::from_byte(code as u8), Some(code));
        }
        assert_eq!(Code::from_byte(0), None);
    }
}
