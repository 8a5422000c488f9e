//! A message to a webhook and its signature, as Standard Webhooks (version 1.0.0) says: `webhook-id`, `webhook-timestamp` and
//! `webhook-signature`, an HMAC-SHA-256 over `id.timestamp.body` for each secret that is valid.

use crate::store::deliveries::Claimed;
use crate::store::webhooks::SigningSecret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use filters::time::EpochMs;
use hmac::{Hmac, KeyInit, Mac};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::Sha256;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'a str,
    timestamp: String,
    org: Option<String>,
    data: &'a RawValue,
}

/// The message's body: the same in every try.
pub(super) fn body(claimed: &Claimed) -> String {
    // What the outbox holds was written as JSON.
    let data = serde_json::from_str(&claimed.data).unwrap_or(RawValue::NULL);
    let body = Body {
        r#type: &claimed.kind,
        timestamp: Timestamp::from_millisecond(claimed.at.0).unwrap_or(Timestamp::MAX).to_string(),
        org: claimed.org.map(|org| org.to_string()),
        data,
    };
    serde_json::to_string(&body).unwrap_or_default()
}

/// The message's headers, for a try that is made now.
pub(super) fn headers(claimed: &Claimed, body: &str, now: EpochMs) -> HeaderMap {
    let (id, seconds) = (claimed.event.to_string(), now.0.div_euclid(1_000));
    let signed = format!("{id}.{seconds}.{body}");
    let signatures: Vec<String> = claimed.secrets.iter().map(|secret| signature(secret, &signed)).collect();
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(TIMESTAMP, HeaderValue::from(seconds));
    for (name, value) in [(ID, id), (SIGNATURE, signatures.join(" "))] {
        // Letters, digits and the marks of base64.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    headers
}

fn signature(secret: &SigningSecret, signed: &str) -> String {
    // An HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.key()) else { return String::new() };
    mac.update(signed.as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}
