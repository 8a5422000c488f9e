//! Every refusal and failure as a client sees it: status, type, code and sentence, in the shape that it understands.
//!
//! The one place that knows HTTP statuses. `row` is the table; a body is written from it and from the refusal.

mod refusal;

pub use refusal::{Refusal, RefusalCode};

use bytes::Bytes;
use filters::denied::{Code, Denied, LimitSource};
use filters::dialect::Protocol;
use filters::id::CallId;
use serde::Serialize;

/// How an error's body is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As OpenAI's API answers: all within `error`, `param` always there.
    Openai,
    /// As Anthropic's API answers: `request_id` beside `error`.
    Anthropic,
    /// As Google's APIs answer: `code` repeats the status, `status` is a canonical name.
    Gemini,
    /// As Cohere's API answers: a `message` at the top, and all else within `error`.
    Cohere,
    /// As Amazon's services answer: a `message` at the top, and all else within `error`.
    Bedrock,
    /// `type` is always `gateway_error`; the code says what happened.
    Gateway,
    /// `code` repeats the status; the type says what happened.
    Numeric,
}

impl Shape {
    /// The shape that a protocol's own clients read.
    #[must_use]
    pub fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Openai => Self::Openai,
            Protocol::Anthropic => Self::Anthropic,
            Protocol::Gemini => Self::Gemini,
            Protocol::Cohere => Self::Cohere,
            Protocol::Bedrock => Self::Bedrock,
        }
    }
}

/// An answer that says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body, JSON.
    pub body: Bytes,
    /// For the headers `retry-after-ms` and, by [`ErrorAnswer::retry_after_seconds`], `Retry-After`.
    pub retry_after_ms: Option<u64>,
    /// For the header `x-should-retry`, which the official SDKs obey before their own rules.
    pub should_retry: Option<bool>,
    /// For the header `Allow`: the methods that the path answers.
    pub allowed: Option<&'static [http::Method]>,
}

impl ErrorAnswer {
    /// What `Retry-After` says: whole seconds, never too early.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after_ms.map(|milliseconds| milliseconds.div_ceil(1_000))
    }
}

/// The closed set of error types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum ErrorType {
    /// The request can't be served as it is.
    InvalidRequest,
    /// Nobody we know sent it.
    Authentication,
    /// The money does not suffice.
    InsufficientCredits,
    /// The key may not do this.
    Permission,
    /// Too much at once.
    RateLimit,
    /// We or the providers failed.
    Api,
}

impl ErrorType {
    /// Every type, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::InvalidRequest,
        Self::Authentication,
        Self::InsufficientCredits,
        Self::Permission,
        Self::RateLimit,
        Self::Api,
    ];

    /// The name in answers, metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request_error",
            Self::Authentication => "authentication_error",
            Self::InsufficientCredits => "insufficient_credits",
            Self::Permission => "permission_error",
            Self::RateLimit => "rate_limit_error",
            Self::Api => "api_error",
        }
    }
}

/// Other calls' reservations shrink as those calls end, and a refusal costs us microseconds. A quarter of a second
/// lets an SDK that tries twice wait out short calls without asking more than a few times a second.
const CREDITS_RESERVED_RETRY_MS: u64 = 250;
/// A slot is free as soon as any of the key's calls ends: the same wait for the same reason.
const CONCURRENCY_RETRY_MS: u64 = 250;
/// What is unavailable comes back by a restart, a reconnection or another node; none takes less than about a second.
const UNAVAILABLE_RETRY_MS: u64 = 1_000;

/// What a client is told about trying again.
#[derive(Clone, Copy)]
enum Retry {
    /// Nothing: its own rules do.
    Unsaid,
    /// The same call will fail again until someone pays or raises a limit.
    Never,
    /// In so many milliseconds, although the status does not say so.
    Transient(u64),
    /// In so many milliseconds, as the status says.
    After(u64),
    /// When the refusal says that the window has room.
    WhenRefilled,
}

/// The table. 409 never stands here: the SDKs retry it on their own.
fn row(code: Code) -> (u16, ErrorType, Retry) {
    match code {
        Code::InvalidRequest | Code::AmbiguousCredentials | Code::DuplicateField => {
            (400, ErrorType::InvalidRequest, Retry::Unsaid)
        }
        Code::MissingCredentials
        | Code::InvalidApiKey
        | Code::KeyExpired
        | Code::KeyArchived
        | Code::KeyDisabled
        | Code::OrganisationSuspended => (401, ErrorType::Authentication, Retry::Unsaid),
        Code::InsufficientCredits | Code::SpendLimitReached | Code::MaxCreditsExceeded => {
            (402, ErrorType::InsufficientCredits, Retry::Never)
        }
        Code::CreditsReserved => (402, ErrorType::InsufficientCredits, Retry::Transient(CREDITS_RESERVED_RETRY_MS)),
        Code::RouteScopeDenied | Code::ModelNotAllowed | Code::ProviderNotAllowed | Code::IpNotAllowed => {
            (403, ErrorType::Permission, Retry::Unsaid)
        }
        Code::ModelNotFound | Code::NotFound => (404, ErrorType::InvalidRequest, Retry::Unsaid),
        Code::MethodNotAllowed => (405, ErrorType::InvalidRequest, Retry::Unsaid),
        Code::RequestTimeout => (408, ErrorType::InvalidRequest, Retry::Unsaid),
        Code::BodyTooLarge => (413, ErrorType::InvalidRequest, Retry::Unsaid),
        Code::UnsupportedEncoding => (415, ErrorType::InvalidRequest, Retry::Unsaid),
        Code::ModelUnpriced | Code::CostUnbounded | Code::RouteUnmetered => {
            (422, ErrorType::InvalidRequest, Retry::Unsaid)
        }
        Code::RateLimitExceeded => (429, ErrorType::RateLimit, Retry::WhenRefilled),
        Code::ConcurrencyExceeded => (429, ErrorType::RateLimit, Retry::After(CONCURRENCY_RETRY_MS)),
        Code::HeadersTooLarge => (431, ErrorType::InvalidRequest, Retry::Unsaid),
        Code::UpstreamFailed => (502, ErrorType::Api, Retry::Unsaid),
        Code::LimitsUnavailable | Code::StoreUnavailable | Code::Overloaded | Code::ShuttingDown => {
            (503, ErrorType::Api, Retry::After(UNAVAILABLE_RETRY_MS))
        }
        Code::UpstreamTimeout => (504, ErrorType::Api, Retry::Unsaid),
    }
}

/// The HTTP status of a code.
#[must_use]
pub fn status(code: Code) -> u16 {
    row(code).0
}

/// The type of a code.
#[must_use]
pub fn error_type(code: Code) -> ErrorType {
    row(code).1
}

/// The type of a code as clients read it.
#[must_use]
pub fn kind(code: Code) -> &'static str {
    error_type(code).name()
}

/// The answer to a refused call.
#[must_use]
pub fn answer(denied: &Denied, shape: Shape, call: CallId) -> ErrorAnswer {
    let (status, _, retry) = row(denied.code());
    let (retry_after_ms, should_retry) = match retry {
        Retry::Unsaid => (None, None),
        // The official SDKs are not to wait for the end of a month; people may.
        Retry::Never => (refilled_after_ms(denied), Some(false)),
        Retry::Transient(milliseconds) => (Some(milliseconds), Some(true)),
        Retry::After(milliseconds) => (Some(milliseconds), None),
        Retry::WhenRefilled => (refilled_after_ms(denied), None),
    };
    let allowed = if let Denied::MethodNotAllowed { answered, .. } = denied { Some(*answered) } else { None };
    ErrorAnswer { status, body: body(denied, shape, call), retry_after_ms, should_retry, allowed }
}

fn refilled_after_ms(denied: &Denied) -> Option<u64> {
    match denied {
        Denied::RateLimitExceeded { retry_after_ms, .. } | Denied::ProviderRateLimited { retry_after_ms } => {
            Some(*retry_after_ms)
        }
        Denied::SpendLimitReached { heals_in_ms, .. } => *heals_in_ms,
        _ => None,
    }
}

fn body(denied: &Denied, shape: Shape, call: CallId) -> Bytes {
    let request_id = call.to_string();
    let (plain, number) = (Fields::of(denied), status(denied.code()));
    let within = Some(&*request_id);
    let envelope = match shape {
        Shape::Openai => Envelope::of(Fields { param: Some(param(denied)), request_id: within, ..plain }),
        Shape::Anthropic => {
            let details = Some(Details::Anthropic { error_code: denied.code().name() });
            let kind = if let Denied::ObjectNotFound { .. } = denied { "not_found_error" } else { plain.kind };
            Envelope { kind: Some("error"), request_id: within, ..Envelope::of(Fields { kind, details, ..plain }) }
        }
        Shape::Gemini => {
            let details = Some(Details::Google([ErrorInfo::of(denied.code())]));
            let status = PublicStatus::Name(canonical_status(number));
            let code = PublicCode::Status(number);
            Envelope::of(Fields { code, status, details, request_id: within, ..plain })
        }
        Shape::Cohere => Envelope { id: within, message: Some(denied.to_string()), ..Envelope::of(plain) },
        Shape::Bedrock => {
            let exception = Some(exception(number));
            let error = Fields { request_id: within, ..plain };
            Envelope { exception, message: Some(denied.to_string()), ..Envelope::of(error) }
        }
        Shape::Gateway => Envelope::of(Fields { kind: "gateway_error", request_id: within, ..plain }),
        Shape::Numeric => Envelope::of(Fields { code: PublicCode::Status(number), request_id: within, ..plain }),
    };
    let text = serde_json::to_vec(&envelope).expect("strings and numbers under string keys are always JSON");
    Bytes::from(text)
}

#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "__type", skip_serializing_if = "Option::is_none")]
    exception: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    error: Fields<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

impl<'a> Envelope<'a> {
    fn of(error: Fields<'a>) -> Self {
        Self { kind: None, id: None, exception: None, message: None, error, request_id: None }
    }
}

/// What stands in `error`. A field that says nothing is left out.
#[derive(Serialize)]
struct Fields<'a> {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    // The outer option: whether the shape has the field; the inner: null where no field of the request is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<Option<&'static str>>,
    code: PublicCode,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    status: PublicStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_source: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    required_scopes: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    granted_scopes: Option<Vec<&'static str>>,
}

/// Where a protocol's SDKs look for the code.
#[derive(Serialize)]
#[serde(untagged)]
enum Details {
    /// `error_code` of Anthropic's errors is `error.details.error_code`.
    Anthropic { error_code: &'static str },
    /// Google: "AIP-193: Errors", `ErrorInfo`.
    Google([ErrorInfo; 1]),
}

#[derive(Serialize)]
struct ErrorInfo {
    #[serde(rename = "@type")]
    kind: &'static str,
    reason: &'static str,
    domain: &'static str,
}

impl ErrorInfo {
    fn of(code: Code) -> Self {
        Self { kind: "type.googleapis.com/google.rpc.ErrorInfo", reason: code.name(), domain: "tollgate" }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum PublicStatus {
    Number(u16),
    Name(&'static str),
}

/// The name that Google's APIs give a status ("google.rpc.Code").
fn canonical_status(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        402 | 422 => "FAILED_PRECONDITION",
        429 => "RESOURCE_EXHAUSTED",
        502 => "INTERNAL",
        503 => "UNAVAILABLE",
        408 | 504 => "DEADLINE_EXCEEDED",
        _ => "INVALID_ARGUMENT",
    }
}

/// The name that Amazon's SDKs make an exception of ("Amazon Bedrock Runtime: Common errors").
fn exception(status: u16) -> &'static str {
    match status {
        401 | 403 => "AccessDeniedException",
        402 => "ServiceQuotaExceededException",
        404 => "ResourceNotFoundException",
        408 | 504 => "ModelTimeoutException",
        429 => "ThrottlingException",
        502 => "InternalServerException",
        503 => "ServiceUnavailableException",
        _ => "ValidationException",
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum PublicCode {
    Name(&'static str),
    Status(u16),
}

impl Fields<'_> {
    /// What all shapes share.
    fn of(denied: &Denied) -> Self {
        let code = denied.code();
        let (required_scopes, granted_scopes) = scopes(denied).unzip();
        Self {
            message: denied.to_string(),
            kind: kind(code),
            param: None,
            code: PublicCode::Name(code.name()),
            details: None,
            status: PublicStatus::Number(status(code)),
            request_id: None,
            limit_source: denied.limit_source().map(LimitSource::name),
            remedy: denied.remedy(),
            required_scopes,
            granted_scopes,
        }
    }
}

/// The scopes that a refusal asks for, and those that the key has.
fn scopes(denied: &Denied) -> Option<(Vec<&'static str>, Vec<&'static str>)> {
    let Denied::RouteScopeDenied { required, granted } = denied else { return None };
    Some((required.iter().map(|scope| scope.name()).collect(), granted.names().collect()))
}

/// The field of the request that is to blame.
fn param(denied: &Denied) -> Option<&'static str> {
    if let Denied::DuplicateField(field) | Denied::ObjectNotFound { field, .. } = denied {
        return Some(field);
    }
    let is_model = matches!(
        denied.code(),
        Code::ModelNotFound | Code::ModelNotAllowed | Code::ProviderNotAllowed | Code::ModelUnpriced
    );
    is_model.then_some("model")
}

#[cfg(test)]
mod tests {
    use super::*;
    use filters::denied::Owner;
    use filters::money::NanoUsd;
    use filters::objects::ObjectKind;
    use filters::route::Route;
    use filters::scope::Scopes;
    use filters::window::Unit;
    use serde_json::{Value, json};

    const CALL: CallId = CallId(1);
    const REQUEST_ID: &str = "req_00000000000000000000000001";

    fn written(denied: &Denied, shape: Shape) -> Value {
        serde_json::from_slice(&answer(denied, shape, CALL).body).expect("the body is JSON")
    }

    fn limited() -> Denied {
        let quota = LimitSource::Requests(Owner::Key, Unit::Minute);
        Denied::RateLimitExceeded { quota, unit: "requests", per: "minute", limit: 60, retry_after_ms: 1_200 }
    }

    fn spent() -> Denied {
        Denied::SpendLimitReached {
            quota: LimitSource::Spend(Owner::Key),
            available: NanoUsd(0),
            needed: NanoUsd(1_500_000_000),
            heals_in_ms: None,
        }
    }

    #[test]
    fn every_code_has_its_status_and_type() {
        let table = [
            (Code::InvalidRequest, 400, "invalid_request_error"),
            (Code::AmbiguousCredentials, 400, "invalid_request_error"),
            (Code::DuplicateField, 400, "invalid_request_error"),
            (Code::MissingCredentials, 401, "authentication_error"),
            (Code::InvalidApiKey, 401, "authentication_error"),
            (Code::KeyExpired, 401, "authentication_error"),
            (Code::KeyArchived, 401, "authentication_error"),
            (Code::KeyDisabled, 401, "authentication_error"),
            (Code::OrganisationSuspended, 401, "authentication_error"),
            (Code::InsufficientCredits, 402, "insufficient_credits"),
            (Code::SpendLimitReached, 402, "insufficient_credits"),
            (Code::CreditsReserved, 402, "insufficient_credits"),
            (Code::RouteScopeDenied, 403, "permission_error"),
            (Code::ModelNotAllowed, 403, "permission_error"),
            (Code::ProviderNotAllowed, 403, "permission_error"),
            (Code::ModelNotFound, 404, "invalid_request_error"),
            (Code::NotFound, 404, "invalid_request_error"),
            (Code::MethodNotAllowed, 405, "invalid_request_error"),
            (Code::RequestTimeout, 408, "invalid_request_error"),
            (Code::BodyTooLarge, 413, "invalid_request_error"),
            (Code::UnsupportedEncoding, 415, "invalid_request_error"),
            (Code::HeadersTooLarge, 431, "invalid_request_error"),
            (Code::ModelUnpriced, 422, "invalid_request_error"),
            (Code::RateLimitExceeded, 429, "rate_limit_error"),
            (Code::ConcurrencyExceeded, 429, "rate_limit_error"),
            (Code::UpstreamFailed, 502, "api_error"),
            (Code::UpstreamTimeout, 504, "api_error"),
            (Code::LimitsUnavailable, 503, "api_error"),
            (Code::StoreUnavailable, 503, "api_error"),
            (Code::Overloaded, 503, "api_error"),
            (Code::ShuttingDown, 503, "api_error"),
            (Code::CostUnbounded, 422, "invalid_request_error"),
            (Code::RouteUnmetered, 422, "invalid_request_error"),
            (Code::MaxCreditsExceeded, 402, "insufficient_credits"),
            (Code::IpNotAllowed, 403, "permission_error"),
        ];
        assert_eq!(table.map(|(code, ..)| code), Code::ALL);
        for (code, expected_status, expected_type) in table {
            assert_eq!((status(code), kind(code)), (expected_status, expected_type), "{}", code.name());
        }
    }

    #[test]
    fn types_are_numbered_in_their_order() {
        for (index, error_type) in ErrorType::ALL.into_iter().enumerate() {
            assert_eq!(error_type as usize, index);
        }
    }

    #[test]
    fn openai_clients_read_everything_within_error() {
        assert_eq!(
            written(&limited(), Shape::Openai),
            json!({"error": {
                "message": "Rate limit exceeded: 60 requests per minute for this key. Try again in 1200 ms.",
                "type": "rate_limit_error",
                "param": null,
                "code": "rate_limit_exceeded",
                "status": 429,
                "request_id": REQUEST_ID,
                "limit_source": "key_requests_per_minute",
                "remedy": "wait",
            }})
        );
    }

    #[test]
    fn anthropic_clients_find_the_request_id_beside_the_error() {
        assert_eq!(
            written(&spent(), Shape::Anthropic),
            json!({
                "type": "error",
                "error": {
                    "type": "insufficient_credits",
                    "message": "The key's spend limit is reached: $0 are left and this call may cost $1.5. Raise the limit or ask for less output.",
                    "code": "spend_limit_reached",
                    "details": {"error_code": "spend_limit_reached"},
                    "status": 402,
                    "limit_source": "key_spend_limit",
                    "remedy": "raise_limit",
                },
                "request_id": REQUEST_ID,
            })
        );
    }

    #[test]
    fn gateway_errors_are_told_apart_by_their_code() {
        assert_eq!(
            written(&Denied::KeyExpired, Shape::Gateway),
            json!({"error": {
                "message": "The API key has expired. Use another, or ask for its expiry to be moved.",
                "type": "gateway_error",
                "code": "key_expired",
                "status": 401,
                "request_id": REQUEST_ID,
            }})
        );
    }

    #[test]
    fn numeric_codes_repeat_the_status() {
        assert_eq!(
            written(&Denied::InvalidApiKey, Shape::Numeric),
            json!({"error": {
                "code": 401,
                "message": "The API key is not valid. Check that it was copied whole and has not been deleted.",
                "type": "authentication_error",
                "status": 401,
                "request_id": REQUEST_ID,
            }})
        );
    }

    #[test]
    fn a_missing_scope_is_named_in_every_shape() {
        let granted = Scopes::parse("usage:read analytics:read").expect("known scopes");
        let denied = Denied::RouteScopeDenied { required: Route::Models.scopes(), granted };
        for shape in [Shape::Openai, Shape::Anthropic, Shape::Gateway, Shape::Numeric] {
            let error = &written(&denied, shape)["error"];
            assert_eq!(error["required_scopes"], json!(["model:invoke", "inference:read"]), "{shape:?}");
            assert_eq!(error["granted_scopes"], json!(["usage:read", "analytics:read"]), "{shape:?}");
        }
    }

    #[test]
    fn the_field_to_blame_is_named() {
        for (denied, param) in [
            (Denied::DuplicateField("stream"), json!("stream")),
            (Denied::ModelNotFound("gpt-0".to_owned()), json!("model")),
            (Denied::ModelUnpriced("gpt-0".to_owned()), json!("model")),
            (Denied::NotFound, Value::Null),
            (
                Denied::ObjectNotFound { field: "conversation", kind: ObjectKind::Conversation, id: "c".to_owned() },
                json!("conversation"),
            ),
        ] {
            assert_eq!(written(&denied, Shape::Openai)["error"]["param"], param);
        }
    }

    #[test]
    fn what_a_client_sent_cannot_break_the_body() {
        let denied = Denied::ModelNotFound("\"},\n\u{0}\u{1f600}".to_owned());
        let message = &written(&denied, Shape::Openai)["error"]["message"];
        assert!(message.as_str().is_some_and(|message| message.contains("\"},\n\u{0}\u{1f600}")));
    }

    #[test]
    fn exhausted_money_is_not_tried_again_but_reserved_money_is() {
        let exhausted = Denied::InsufficientCredits { available: NanoUsd(0), needed: NanoUsd(1) };
        for denied in [exhausted, spent()] {
            let answer = answer(&denied, Shape::Openai, CALL);
            assert_eq!((answer.status, answer.should_retry, answer.retry_after_ms), (402, Some(false), None));
        }
        let reserved = Denied::CreditsReserved { quota: LimitSource::Spend(Owner::Key) };
        let answer = answer(&reserved, Shape::Openai, CALL);
        assert_eq!((answer.status, answer.should_retry), (402, Some(true)));
        assert_eq!(answer.retry_after_ms, Some(CREDITS_RESERVED_RETRY_MS));
        assert_eq!(written(&reserved, Shape::Openai)["error"]["limit_source"], "key_spend_limit");
    }

    #[test]
    fn limits_and_outages_say_when_to_come_back() {
        for (denied, status, milliseconds, seconds) in [
            (limited(), 429, 1_200, 2),
            (Denied::ProviderRateLimited { retry_after_ms: 7_000 }, 429, 7_000, 7),
            (
                Denied::ConcurrencyExceeded { quota: LimitSource::Concurrency(Owner::Key), limit: 3 },
                429,
                CONCURRENCY_RETRY_MS,
                1,
            ),
            (Denied::LimitsUnavailable, 503, 1_000, 1),
            (Denied::OwnersUnavailable, 503, 1_000, 1),
            (Denied::StoreUnavailable, 503, 1_000, 1),
            (Denied::Overloaded, 503, 1_000, 1),
            (Denied::ShuttingDown, 503, 1_000, 1),
        ] {
            let answer = answer(&denied, Shape::Anthropic, CALL);
            assert_eq!((answer.status, answer.should_retry), (status, None), "{denied}");
            assert_eq!(answer.retry_after_ms, Some(milliseconds), "{denied}");
            assert_eq!(answer.retry_after_seconds(), Some(seconds), "{denied}");
        }
    }

    #[test]
    fn the_method_that_a_path_answers_is_named() {
        let denied = Denied::MethodNotAllowed { asked: http::Method::PUT, answered: Route::ChatCompletions.methods() };
        assert_eq!(answer(&denied, Shape::Openai, CALL).allowed, Some(&[http::Method::POST][..]));
        assert_eq!(answer(&Denied::NotFound, Shape::Openai, CALL).allowed, None);
    }

    #[test]
    fn no_code_answers_409_which_the_sdks_retry() {
        assert!(Code::ALL.into_iter().all(|code| status(code) != 409));
    }
}
