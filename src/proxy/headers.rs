//! The head of a request on its way to a provider: what of the client's is passed on, and what is added.

use super::attempt::Outgoing;
use super::receive;
use super::sigv4::{self, Signer};
use crate::config::{self, CredentialStyle};
use bytes::{BufMut, BytesMut};
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue,
};
use http::{Uri, Version};
use pingora::http::RequestHeader;
use std::fmt::Write;

/// What stands for the provider's name of the model in a base URL.
const MODEL: &str = "{model}";
/// The usual size of a path with its query.
const TARGET_BYTES_USUAL: usize = 96;
const AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const AMZ_SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// What a provider's requests have in common.
pub(super) struct HeaderSets {
    host: HeaderValue,
    added: Vec<(HeaderName, HeaderValue)>,
    scheme: &'static str,
    /// What paths begin with; between the parts stands the provider's name of the model.
    path: Vec<String>,
    /// Parameters that are added to each query, as they are written.
    query: String,
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
            fixed: fixed_lines(&host, &provider.headers),
            path: url.path.split(MODEL).map(str::to_owned).collect(),
            query: provider.query.clone(),
            added: provider.headers.clone(),
            scheme: if url.tls { "https" } else { "http" },
        })
    }

    /// Writes the head of the request to the provider in HTTP/1.1: the client's own, without what is between the client
    /// and us. A body of unknown length is announced in chunks.
    pub(super) fn write_head(
        &self,
        wire: &mut BytesMut,
        client: &RequestHeader,
        outgoing: &Outgoing<'_>,
        body_bytes: Option<usize>,
    ) {
        let target = self.target(client, outgoing);
        let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| wire.put_slice(part));
        put(&[outgoing.method.as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n", &self.fixed]);
        self.put_credential(outgoing, &target, |name, value| {
            put(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        });
        let is_hop = named_in_connection(&client.headers);
        for (name, value) in &client.headers {
            if passes_to_provider(name) && !self.is_added(name) && !is_hop(name) {
                put(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
            }
        }
        match body_bytes {
            Some(bytes) => {
                put(&[b"content-length: "]);
                put_number(wire, bytes as u64);
            }
            None => put(&[b"transfer-encoding: chunked"]),
        }
        wire.put_slice(b"\r\n\r\n");
    }

    /// The path and the query of a request.
    fn target(&self, client: &RequestHeader, outgoing: &Outgoing<'_>) -> String {
        let mut target = String::with_capacity(TARGET_BYTES_USUAL);
        for (number, part) in self.path.iter().enumerate() {
            if number > 0 {
                target.push_str(&percent_encoded(outgoing.model, b""));
            }
            target.push_str(part);
        }
        target.push_str(outgoing.path);
        let theirs = receive::query(client, outgoing.protocol).unwrap_or_default();
        let pairs = theirs.split('&').filter(|pair| !pair.is_empty() && !self.sets_parameter(pair));
        let all = pairs.chain(Some(&*self.query).filter(|query| !query.is_empty()));
        for (number, pair) in all.enumerate() {
            target.push(if number == 0 { '?' } else { '&' });
            target.push_str(pair);
        }
        target
    }

    /// Whether a parameter of a client has the name of one that we add.
    fn sets_parameter(&self, pair: &str) -> bool {
        let ours = self.query.split('&').filter(|ours| !ours.is_empty());
        let mut names = ours.map(|ours| ours.split('=').next());
        names.any(|name| name == pair.split('=').next())
    }

    /// Puts the headers that make the request ours.
    fn put_credential(&self, outgoing: &Outgoing<'_>, target: &str, mut put: impl FnMut(&HeaderName, &HeaderValue)) {
        match outgoing.credential {
            Means::Header(name, value) => put(name, value),
            Means::Signature(signer) => {
                let (path, query) = target.split_once('?').unwrap_or((target, ""));
                let host = self.host.to_str().unwrap_or_default();
                let method = outgoing.method.as_str();
                let request = sigv4::Request { method, host, path, query, pieces: outgoing.pieces };
                // Without one the provider refuses the request, which is told as a refused credential.
                let Some(signature) = signer.sign(&request, outgoing.at) else { return };
                put(&AUTHORIZATION, &signature.authorization);
                put(&AMZ_DATE, &signature.date);
                if let Some(token) = &signature.token {
                    put(&AMZ_SECURITY_TOKEN, token);
                }
            }
        }
    }

    fn is_added(&self, name: &HeaderName) -> bool {
        self.added.iter().any(|(added, _)| added == name)
    }

    /// The head of the request to the provider, for HTTP/2.
    pub(super) fn request(
        &self,
        client: &RequestHeader,
        outgoing: &Outgoing<'_>,
        body_bytes: Option<usize>,
        is_http2: bool,
    ) -> Option<RequestHeader> {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = outgoing.method.clone();
        parts.version = if is_http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        let target = self.target(client, outgoing);
        parts.headers = HeaderMap::with_capacity(client.headers.len() + 6);
        let is_hop = named_in_connection(&client.headers);
        for (name, value) in &client.headers {
            if passes_to_provider(name) && !is_hop(name) {
                parts.headers.append(name, value.clone());
            }
        }
        parts.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(bytes) = body_bytes {
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
        }
        for (name, value) in &self.added {
            parts.headers.insert(name, value.clone());
        }
        self.put_credential(outgoing, &target, |name, value| {
            parts.headers.insert(name, value.clone());
        });
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

/// How a credential goes into a request.
pub(super) enum Means {
    /// As a header of its own.
    Header(HeaderName, HeaderValue),
    /// As the key that the request is signed with.
    Signature(Signer),
}

impl Means {
    /// The means of a provider's credential; the error says why there is none.
    pub(super) fn of(style: &CredentialStyle, secret: &str) -> Result<Self, String> {
        let header = |name: HeaderName, text: &str| {
            let value = HeaderValue::from_str(text);
            let mut value = value.map_err(|_| "has characters that no header may have".to_owned())?;
            value.set_sensitive(true);
            Ok(Self::Header(name, value))
        };
        match style {
            CredentialStyle::Bearer => header(AUTHORIZATION, &format!("Bearer {secret}")),
            CredentialStyle::XApiKey => header(HeaderName::from_static("x-api-key"), secret),
            CredentialStyle::ApiKey => header(HeaderName::from_static("api-key"), secret),
            CredentialStyle::XGoogApiKey => header(HeaderName::from_static("x-goog-api-key"), secret),
            CredentialStyle::SigV4 { region } => {
                let signer = Signer::new(secret, region).ok_or("is not ID:SECRET or ID:SECRET:SESSION_TOKEN")?;
                Ok(Self::Signature(signer))
            }
        }
    }
}

/// A text in which everything is encoded but letters, digits, `-._~` and `kept`.
pub(super) fn percent_encoded(text: &str, kept: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String can't fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
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
                | "x-amz-date"
                | "x-amz-security-token"
                | "x-amz-content-sha256"
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

/// Tells the headers that `Connection` names: they go no further.
pub(super) fn named_in_connection(headers: &HeaderMap) -> impl Fn(&HeaderName) -> bool {
    let values = headers.get_all(CONNECTION);
    move |name| {
        let mut tokens = values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
    }
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
        let is_hop = named_in_connection(&headers);
        assert!(is_hop(&HeaderName::from_static("x-secret")));
        assert!(!is_hop(&HeaderName::from_static("x-other")));
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
            "x-tollgate-tags",
            "accept-encoding",
            "openai-organization",
            "x-amz-date",
            "x-amz-security-token",
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
