//! What comes in with a request: bodies, parameters and identifiers, refused with a sentence where they can't be read.

use crate::error::{Refusal, RefusalCode};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use filters::denied::{Code, Denied};
use filters::time::EpochMs;
use serde::de::DeserializeOwned;
use std::str::FromStr;

/// Largest body of a request to the control plane.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Longest name, title or pattern, in bytes.
pub const TEXT_BYTES_MAX: usize = 128;
/// Longest moment, in bytes.
const MOMENT_BYTES_MAX: usize = 64;

/// A body of JSON.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        if !is_json(&request) {
            let message = "The body must be JSON: send `Content-Type: application/json`.";
            return Err(Refusal::new(RefusalCode::Shared(Code::UnsupportedEncoding), message));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(unreadable)?;
        read_json(&bytes).map(Self)
    }
}

/// A body of JSON, or none: then everything in it has its default.
pub struct OptionalBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = Bytes::from_request(request, state).await.map_err(unreadable)?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        read_json(&bytes).map(Self)
    }
}

fn unreadable(rejection: BytesRejection) -> Refusal {
    if rejection.status() == 413 {
        return Refusal::of(&Denied::BodyTooLarge(BODY_BYTES_MAX as u64));
    }
    Refusal::of(&Denied::InvalidRequest("The request body ended early.".to_owned()))
}

fn is_json(request: &Request) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Reads a body.
pub fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            Refusal::new(RefusalCode::ValidationFailed, format!("The body can't be taken: {error}."))
        }
        _ => Refusal::of(&Denied::InvalidRequest(format!("The body is not JSON: {error}."))),
    })
}

/// The parameters after the `?`.
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let read = Query::<T>::try_from_uri(&parts.uri);
        read.map(|Query(read)| Self(read)).map_err(|error| {
            Refusal::new(RefusalCode::ValidationFailed, format!("The parameters can't be taken: {error}."))
        })
    }
}

/// An identifier in the path. What can't be one names nothing.
pub struct Named<T>(pub T);

impl<S: Send + Sync, T: FromStr> FromRequestParts<S> for Named<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| unknown())?;
        text.parse().map(Self).map_err(|_| unknown())
    }
}

/// Two identifiers in the path.
pub struct NamedWithin<A, B>(pub A, pub B);

impl<S: Send + Sync, A: FromStr, B: FromStr> FromRequestParts<S> for NamedWithin<A, B> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Path((one, two)) =
            Path::<(String, String)>::from_request_parts(parts, state).await.map_err(|_| unknown())?;
        match (one.parse(), two.parse()) {
            (Ok(one), Ok(two)) => Ok(Self(one, two)),
            _ => Err(unknown()),
        }
    }
}

/// Three identifiers in the path.
pub struct NamedDeepWithin<A, B, C>(pub A, pub B, pub C);

impl<S: Send + Sync, A: FromStr, B: FromStr, C: FromStr> FromRequestParts<S> for NamedDeepWithin<A, B, C> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Path((one, two, three)) =
            Path::<(String, String, String)>::from_request_parts(parts, state).await.map_err(|_| unknown())?;
        match (one.parse(), two.parse(), three.parse()) {
            (Ok(one), Ok(two), Ok(three)) => Ok(Self(one, two, three)),
            _ => Err(unknown()),
        }
    }
}

fn unknown() -> Refusal {
    Refusal::of(&Denied::NotFound)
}

/// A name that people give: 1 to 128 bytes without control characters.
pub fn name(param: &str, text: &str) -> Result<String, Refusal> {
    let is_plain = !text.trim().is_empty() && !text.chars().any(char::is_control);
    if is_plain && text.len() <= TEXT_BYTES_MAX {
        return Ok(text.to_owned());
    }
    Err(Refusal::validation(param, "A name has 1 to 128 bytes and no control characters."))
}

/// What a list is narrowed to: an identifier or a name, of at most 128 bytes without control characters.
pub fn filter(param: &str, text: Option<String>) -> Result<Option<String>, Refusal> {
    if text.as_ref().is_none_or(|text| text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control)) {
        return Ok(text);
    }
    Err(Refusal::validation(param, "This has at most 128 bytes and no control characters."))
}

/// A moment, as RFC 3339 has it.
pub fn moment(param: &str, text: &str) -> Result<EpochMs, Refusal> {
    let read = text.parse::<jiff::Timestamp>().ok().filter(|_| text.len() <= MOMENT_BYTES_MAX);
    read.map(|moment| EpochMs(moment.as_millisecond()))
        .ok_or_else(|| Refusal::validation(param, "This is not a moment such as 2030-12-31T18:00:00Z."))
}

/// A point in time: an RFC 3339 moment, or a date, which is its first moment in UTC.
pub fn moment_or_date(param: &str, text: &str) -> Result<EpochMs, Refusal> {
    let of_date = |date: jiff::civil::Date| date.to_zoned(jiff::tz::TimeZone::UTC).map(|moment| moment.timestamp());
    let read = text.parse::<jiff::Timestamp>().or_else(|_| text.parse().and_then(of_date));
    let read = read.ok().filter(|_| text.len() <= MOMENT_BYTES_MAX).map(|moment| EpochMs(moment.as_millisecond()));
    read.ok_or_else(|| {
        Refusal::validation(param, "Send a moment such as 2026-01-15T18:00:00Z, or a date such as 2026-01-15.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[allow(dead_code, reason = "only read")]
        name: String,
    }

    #[test]
    fn bad_json_and_bad_data_are_told_apart() {
        for (text, status) in [("{", 400), ("", 400), ("{\"name\": 1}", 422), ("{\"name\": \"a\", \"b\": 1}", 422)] {
            let refused = read_json::<Sample>(text.as_bytes()).expect_err("refused");
            assert_eq!(refused.status(), status, "{text}");
        }
    }

    #[test]
    fn moments_are_points_in_time_and_dates() {
        for (text, at) in [
            ("1970-01-02", Some(86_400_000)),
            ("1970-01-01T01:00:00Z", Some(3_600_000)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("tomorrow", None),
            ("", None),
            ("1970-13-01", None),
        ] {
            assert_eq!(moment_or_date("from", text).ok(), at.map(EpochMs), "{text}");
        }
    }

    #[test]
    fn names_are_short_and_plain() {
        assert_eq!(name("name", "CI / staging").expect("a name"), "CI / staging");
        for text in ["", "  ", "a\nb", &"x".repeat(129)] {
            assert_eq!(name("name", text).expect_err("refused").status(), 422);
        }
    }
}
