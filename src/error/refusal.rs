//! What the control plane says no with: a code, a sentence, and the field that is to blame.

use super::{ErrorType, Retry, Shape, row};
use filters::denied::{Code, Denied};
use filters::id::CallId;
use serde::Serialize;

/// A refusal of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    code: RefusalCode,
    message: String,
    param: Option<String>,
    permissions: Option<Permissions>,
    retry_after_ms: Option<u64>,
}

/// What would have been needed, and what there was.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Permissions {
    required: Vec<&'static str>,
    granted: Vec<&'static str>,
}

/// The codes of the control plane: those of the data plane, and its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the public codes themselves")]
pub enum RefusalCode {
    /// One that the data plane answers too.
    Shared(Code),
    ValidationFailed,
    InvalidSession,
    InvalidSignIn,
    SignInLimitExceeded,
    NameImmutable,
    KeyHasHistory,
    KeyNeverUsed,
    IdempotencyKeyReused,
    ScopeMix,
    /// The change would break a rule that the sentence names.
    NotPossible,
}

impl RefusalCode {
    /// The code as clients read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared(code) => code.name(),
            Self::ValidationFailed => "validation_failed",
            Self::InvalidSession => "invalid_session",
            Self::InvalidSignIn => "invalid_sign_in",
            Self::SignInLimitExceeded => "sign_in_limit_exceeded",
            Self::NameImmutable => "name_immutable",
            Self::KeyHasHistory => "key_has_history",
            Self::KeyNeverUsed => "key_never_used",
            Self::IdempotencyKeyReused => "idempotency_key_reused",
            Self::ScopeMix => "scope_mix",
            Self::NotPossible => "not_possible",
        }
    }

    /// The rows that the table of the data plane lacks.
    fn row(self) -> (u16, ErrorType) {
        match self {
            Self::Shared(code) => {
                let (status, kind, _) = row(code);
                (status, kind)
            }
            Self::InvalidSession | Self::InvalidSignIn => (401, ErrorType::Authentication),
            Self::SignInLimitExceeded => (429, ErrorType::RateLimit),
            Self::ValidationFailed
            | Self::NameImmutable
            | Self::KeyHasHistory
            | Self::KeyNeverUsed
            | Self::IdempotencyKeyReused
            | Self::ScopeMix
            | Self::NotPossible => (422, ErrorType::InvalidRequest),
        }
    }
}

impl Refusal {
    /// A refusal with a sentence that says what to do.
    #[must_use]
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None, permissions: None, retry_after_ms: None }
    }

    /// A field that can't be taken as it is.
    #[must_use]
    pub fn validation(param: &str, message: impl Into<String>) -> Self {
        Self { param: Some(param.to_owned()), ..Self::new(RefusalCode::ValidationFailed, message) }
    }

    /// A thing that there is not, or that the caller may not know of: the two are answered alike.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(RefusalCode::Shared(Code::NotFound), format!("There is no such {what}."))
    }

    /// A caller who is known and may not do this.
    #[must_use]
    pub fn forbidden(required: Vec<&'static str>, granted: Vec<&'static str>) -> Self {
        let message =
            format!("This needs {}; ask an owner or administrator of the organisation.", required.join(" or "));
        let refusal = Self::new(RefusalCode::Shared(Code::RouteScopeDenied), message);
        Self { permissions: Some(Permissions { required, granted }), ..refusal }
    }

    /// The books can't be asked now.
    #[must_use]
    pub fn store_unavailable() -> Self {
        Self::of(&Denied::StoreUnavailable)
    }

    /// A refusal of the data plane.
    #[must_use]
    pub fn of(denied: &Denied) -> Self {
        Self::new(RefusalCode::Shared(denied.code()), denied.to_string())
    }

    /// The same, with the field that is to blame.
    #[must_use]
    pub fn about(self, param: &str) -> Self {
        Self { param: Some(param.to_owned()), ..self }
    }

    /// The same, with when to try again.
    #[must_use]
    pub fn after(self, milliseconds: u64) -> Self {
        Self { retry_after_ms: Some(milliseconds), ..self }
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> RefusalCode {
        self.code
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.code.row().0
    }

    /// When to try again, where that helps: for the headers `Retry-After` and `retry-after-ms`.
    #[must_use]
    pub fn retry_after_ms(&self) -> Option<u64> {
        let of_code = || match self.code {
            RefusalCode::Shared(code) => match row(code).2 {
                Retry::After(milliseconds) | Retry::Transient(milliseconds) => Some(milliseconds),
                Retry::Unsaid | Retry::Never | Retry::WhenRefilled => None,
            },
            _ => None,
        };
        self.retry_after_ms.or_else(of_code)
    }

    /// The body, JSON. The shapes of protocols are those of their own paths: here all of them are OpenAI's.
    #[must_use]
    pub fn body(&self, shape: Shape, call: CallId) -> Vec<u8> {
        let (status, kind) = self.code.row();
        let (kind, code) = match shape {
            Shape::Gateway => ("gateway_error", Written::Name(self.code.name())),
            Shape::Numeric => (kind.name(), Written::Status(status)),
            Shape::Openai | Shape::Anthropic | Shape::Gemini | Shape::Cohere | Shape::Bedrock => {
                (kind.name(), Written::Name(self.code.name()))
            }
        };
        let error = Fields {
            message: &self.message,
            kind,
            param: self.param.as_deref(),
            code,
            status,
            request_id: call.to_string(),
            required_scopes: self.permissions.as_ref().map(|permissions| &*permissions.required),
            granted_scopes: self.permissions.as_ref().map(|permissions| &*permissions.granted),
        };
        serde_json::to_vec(&Envelope { error }).expect("strings and numbers under string keys are always JSON")
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Fields<'a>,
}

#[derive(Serialize)]
struct Fields<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: Written,
    status: u16,
    request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    required_scopes: Option<&'a [&'static str]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    granted_scopes: Option<&'a [&'static str]>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Written {
    Name(&'static str),
    Status(u16),
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_refusal_names_the_field_and_the_permissions() {
        let refusal = Refusal::forbidden(vec!["keys:write"], vec!["usage:read"]).about("scopes");
        let body: Value = serde_json::from_slice(&refusal.body(Shape::Openai, CallId(7))).expect("JSON");
        assert_eq!((refusal.status(), &body["error"]["code"]), (403, &json!("route_scope_denied")));
        assert_eq!(body["error"]["param"], "scopes");
        assert_eq!(body["error"]["required_scopes"], json!(["keys:write"]));
        assert_eq!(body["error"]["granted_scopes"], json!(["usage:read"]));
    }

    #[test]
    fn no_refusal_is_409_and_what_comes_back_says_when() {
        let unavailable = Refusal::store_unavailable();
        assert_eq!((unavailable.status(), unavailable.retry_after_ms()), (503, Some(1_000)));
        for code in [RefusalCode::KeyHasHistory, RefusalCode::IdempotencyKeyReused, RefusalCode::NotPossible] {
            assert_eq!(Refusal::new(code, "").status(), 422);
        }
    }
}
