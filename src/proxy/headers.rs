//! The head of a request on its way to a provider: what of the client's is passed on, and what is added.

use crate::config;
use bytes::{BufMut, BytesMut};
use filters::dialect::Dialect;
use filters::scope::Route;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue,
};
use http::{Method, Uri, Version};
use pingora::http::RequestHeader;

/// What a provider's requests have in common.
pub(super) struct HeaderSets {
    host: HeaderValue,
    credential_name: HeaderName,
    added: Vec<(HeaderName, HeaderValue)>,
    scheme: &'static str,
    path: String,
    /// The header lines that are the same in every HTTP/1.1 request.
    fixed: Vec<u8>,
}

impl HeaderSets {
    pub(super) fn new(provider: &config::Provider) -> Result<Self, String> {
        let url = &provider.base_url;
        let default_port = if url.tls { 443 } else { 80 };
        let host = if url.port == default_port { url.host.clone() } else { format!("{}:{}", url.host, url.port) };
        Ok(Self {
            host: HeaderValue::from_str(&host)
                .map_err(|_| format!("the host of {} can't be a header", provider.name))?,
            credential_name: match provider.dialect {
                Dialect::OpenaiChat => AUTHORIZATION,
                Dialect::Anthropic => HeaderName::from_static("x-api-key"),
            },
            fixed: fixed_lines(&host, &provider.headers),
            path: url.path.clone(),
            added: provider.headers.clone(),
            scheme: if url.tls { "https" } else { "http" },
        })
    }

    /// Writes the head of the request to the provider in HTTP/1.1: the client's own, without what is between the client
    /// and us.
    pub(super) fn write_head(
        &self,
        wire: &mut BytesMut,
        client: &RequestHeader,
        route: Route,
        credential: &HeaderValue,
        body_bytes: usize,
    ) {
        let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| wire.put_slice(part));
        put(&[b"POST ", self.path.as_bytes(), route.path().as_bytes()]);
        if let Some(query) = client.uri.query() {
            put(&[b"?", query.as_bytes()]);
        }
        put(&[
            b" HTTP/1.1\r\n",
            &self.fixed,
            self.credential_name.as_str().as_bytes(),
            b": ",
            credential.as_bytes(),
            b"\r\n",
        ]);
        for (name, value) in &client.headers {
            if passes_to_provider(name) && !self.is_added(name) && !is_named_in_connection(name, &client.headers) {
                put(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
            }
        }
        put(&[b"content-length: "]);
        put_number(wire, body_bytes as u64);
        wire.put_slice(b"\r\n\r\n");
    }

    fn is_added(&self, name: &HeaderName) -> bool {
        self.added.iter().any(|(added, _)| added == name)
    }

    /// The head of the request to the provider, for HTTP/2.
    pub(super) fn request(
        &self,
        client: &RequestHeader,
        route: Route,
        credential: &HeaderValue,
        body_bytes: usize,
        is_http2: bool,
    ) -> Option<RequestHeader> {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = Method::POST;
        parts.version = if is_http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        let target = match client.uri.query() {
            Some(query) => format!("{}{}?{query}", self.path, route.path()),
            None => format!("{}{}", self.path, route.path()),
        };
        parts.headers = HeaderMap::with_capacity(client.headers.len() + 6);
        for (name, value) in &client.headers {
            if passes_to_provider(name) && !is_named_in_connection(name, &client.headers) {
                parts.headers.append(name, value.clone());
            }
        }
        parts.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(body_bytes));
        for (name, value) in &self.added {
            parts.headers.insert(name, value.clone());
        }
        parts.headers.insert(&self.credential_name, credential.clone());
        if is_http2 {
            let uri = format!("{}://{}{target}", self.scheme, self.host.to_str().ok()?);
            parts.uri = Uri::try_from(uri).ok()?;
        } else {
            parts.headers.insert(HOST, self.host.clone());
            parts.uri = Uri::try_from(target).ok()?;
        }
        Some(RequestHeader::from(parts))
    }
}

fn fixed_lines(host: &str, added: &[(HeaderName, HeaderValue)]) -> Vec<u8> {
    // Asked for plain text, the provider sends what the meter can read.
    let mut lines = format!("host: {host}\r\naccept-encoding: identity\r\n").into_bytes();
    for (name, value) in added {
        lines.extend_from_slice(name.as_str().as_bytes());
        lines.extend_from_slice(b": ");
        lines.extend_from_slice(value.as_bytes());
        lines.extend_from_slice(b"\r\n");
    }
    lines
}

/// Whether a client's header goes to the provider.
fn passes_to_provider(name: &HeaderName) -> bool {
    let name = name.as_str();
    !is_hop_by_hop(name)
        && !matches!(
            name,
            "authorization"
                | "x-api-key"
                | "api-key"
                | "x-goog-api-key"
                | "cookie"
                | "host"
                | "content-length"
                | "accept-encoding"
                | "expect"
                | "origin"
                | "forwarded"
                | "via"
                | "x-real-ip"
                | "x-request-id"
                | "openai-organization"
                | "openai-project"
        )
        && !name.starts_with("x-tollgate-")
        && !name.starts_with("x-forwarded-")
        && !name.starts_with("cf-")
}

pub(super) fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

pub(super) fn is_named_in_connection(name: &HeaderName, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONNECTION).iter();
    values.any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
    })
}

/// Writes a number in decimal.
pub(super) fn put_number(text: &mut BytesMut, number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    text.put_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_named_in_connection_go_no_further() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("close, X-Secret"));
        assert!(is_named_in_connection(&HeaderName::from_static("x-secret"), &headers));
        assert!(!is_named_in_connection(&HeaderName::from_static("x-other"), &headers));
    }
    #[test]
    fn what_is_between_the_client_and_us_stays_there() {
        for name in [
            "authorization",
            "x-api-key",
            "cookie",
            "connection",
            "x-forwarded-for",
            "x-tollgate-client",
            "accept-encoding",
            "openai-organization",
        ] {
            assert!(!passes_to_provider(&HeaderName::from_static(name)), "{name}");
        }
        for name in
            ["content-type", "anthropic-version", "anthropic-beta", "user-agent", "idempotency-key", "x-simulate"]
        {
            assert!(passes_to_provider(&HeaderName::from_static(name)), "{name}");
        }
    }
}
