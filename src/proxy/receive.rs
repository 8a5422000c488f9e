//! What comes in: the head of a request, the credential in it, and the body, each within its limits.

use super::{Activity, Runtime};
use crate::config::Limits;
use bytes::{Bytes, BytesMut};
use filters::attribution::{self, Attribution};
use filters::denied::Denied;
use filters::dialect::Protocol;
use filters::request_head::RequestHead;
use filters::route::{Route, Target};
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, TRANSFER_ENCODING};
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::time::timeout;
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a connection may wait for its next request.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(60);
/// Requests of one connection. Also tells the first one, which must come at once, from those that may wait.
pub const REQUESTS_PER_CONNECTION: u32 = 1_000_000;

/// Reads the head of the next request; false if there is none. One that can't be read is refused: no request follows it.
pub(super) async fn head(session: &mut ServerSession, activity: &Activity, limits: &Limits) -> Result<bool, Denied> {
    let header_timeout = limits.header_timeout;
    session.set_read_timeout(Some(header_timeout));
    session.set_pipelining_enabled(true);
    let is_first = session.get_keepalive_reuses_remaining() == Some(REQUESTS_PER_CONNECTION);
    let deadline = if is_first { header_timeout } else { KEEPALIVE + header_timeout };
    let read = tokio::select! {
        biased;
        read = timeout(deadline, session.read_request()) => read,
        () = activity.closing.notified() => return Ok(false),
    };
    match read {
        Ok(Ok(has_request)) => Ok(has_request),
        Ok(Err(error)) => {
            // Never the error's own words: they quote the head, and with it a credential.
            tracing::debug!(cause = error.etype().as_str(), "a request head can't be read");
            Err(if is_too_large(&error) {
                headers_too_large(limits)
            } else {
                Denied::InvalidRequest("The head of the request is not HTTP, or says two things at once.".to_owned())
            })
        }
        Err(_) => Ok(false),
    }
}

/// Whether Pingora gave up on a head for its size: more than 1 MiB, or more than 256 lines.
fn is_too_large(error: &pingora::Error) -> bool {
    let cause = error.cause.as_ref().map(ToString::to_string).unwrap_or_default();
    let context = error.context.as_ref().map(|context| context.as_str()).unwrap_or_default();
    cause.contains("too many headers") || context.starts_with("Request header larger")
}

/// HTTP/2 within the same limits as HTTP/1.
pub(super) fn h2_options(limits: &Limits) -> H2Options {
    let mut options = default_h2_options();
    options.max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX));
    options
}

/// Refuses a head that is too large.
pub(super) fn check_head(head: &RequestHeader, limits: &Limits) -> Result<(), Denied> {
    let bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if head.headers.len() > limits.headers_max || bytes + head.raw_path().len() > limits.header_bytes_max {
        return Err(headers_too_large(limits));
    }
    Ok(())
}

fn headers_too_large(limits: &Limits) -> Denied {
    Denied::HeadersTooLarge { bytes_max: limits.header_bytes_max, count_max: limits.headers_max }
}

/// What a request is for: one of our own paths, or one of a provider behind its name.
pub(super) fn target(head: &RequestHeader, runtime: &Runtime) -> Result<Target, Denied> {
    let path = head.uri.path();
    let own = Target::at(path, head.headers.contains_key(ANTHROPIC_VERSION));
    own.or_else(|| through(path, runtime)).ok_or(Denied::NotFound)
}

fn through(path: &str, runtime: &Runtime) -> Option<Target> {
    let path = path.strip_prefix("/api").unwrap_or(path).strip_prefix('/')?;
    let (name, _) = path.split_once('/')?;
    let provider = runtime.provider_named(name)?;
    let (settings, path) = (&provider.settings, &path[name.len()..]);
    Some(Target::through(name, settings.protocol, &settings.base_url.path, path))
}

/// Refuses a method that the route does not answer.
pub(super) fn check_method(head: &RequestHeader, route: Route) -> Result<(), Denied> {
    if route.methods().contains(&head.method) {
        return Ok(());
    }
    Err(Denied::MethodNotAllowed { asked: head.method.clone(), answered: route.methods() })
}

/// Refuses a body in a coding that is not ours to undo. The connection must not be used again.
pub(super) fn check_coding(head: &RequestHeader) -> Result<(), Denied> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    if codings.all(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")) {
        return Ok(());
    }
    Err(Denied::UnsupportedEncoding)
}

/// The token of a request. Two different ones are refused, because nobody could say whose call it is.
pub(super) fn token(head: &RequestHeader, protocol: Protocol) -> Result<Option<&str>, Denied> {
    // Gemini's clients may send it in the query.
    let in_query = if protocol == Protocol::Gemini { head.uri.query().and_then(key_of_query) } else { None };
    let mut found: Option<&str> = in_query.filter(|token| !token.is_empty());
    // One look at each header costs less than a search for each name.
    for (name, value) in head.headers.iter().filter(|(name, _)| CREDENTIAL_HEADERS.contains(name)) {
        let text = value.to_str().map_err(|_| Denied::InvalidApiKey)?.trim();
        let token = if *name == AUTHORIZATION { bearer(text) } else { text };
        if token.is_empty() {
            continue;
        }
        if found.replace(token).is_some_and(|other| other != token) {
            return Err(Denied::AmbiguousCredentials);
        }
    }
    Ok(found)
}

const ANTHROPIC_VERSION: http::HeaderName = http::HeaderName::from_static("anthropic-version");

static CREDENTIAL_HEADERS: [http::HeaderName; 4] = [
    AUTHORIZATION,
    http::HeaderName::from_static("x-api-key"),
    http::HeaderName::from_static("api-key"),
    http::HeaderName::from_static("x-goog-api-key"),
];

fn bearer(text: &str) -> &str {
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        None if text.eq_ignore_ascii_case("bearer") => "",
        _ => text,
    }
}

/// The query that a provider gets: the client's, without our token.
pub(super) fn query(head: &RequestHeader, protocol: Protocol) -> Option<Cow<'_, str>> {
    let query = head.uri.query()?;
    if protocol != Protocol::Gemini || key_of_query(query).is_none() {
        return Some(Cow::Borrowed(query));
    }
    let others: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("key=")).collect();
    (!others.is_empty()).then(|| Cow::Owned(others.join("&")))
}

fn key_of_query(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("key="))
}

const TAGS: http::HeaderName = http::HeaderName::from_static("x-tollgate-tags");

/// What a request asks for, with the tags that its head has beside its body.
pub(super) fn tagged(mut asked: RequestHead, head: &RequestHeader) -> Result<Box<RequestHead>, Denied> {
    if head.headers.contains_key(TAGS) {
        let mut tags = Vec::new();
        head.headers.get_all(TAGS).iter().try_for_each(|value| attribution::add_tags(&mut tags, value.as_bytes()))?;
        asked.attribution = Attribution::with_tags(asked.attribution, tags);
    }
    Ok(Box::new(asked))
}

/// What the body is. Two answers are refused, because the provider may believe the other one.
pub(super) fn content_type(head: &RequestHeader) -> Result<Option<&str>, Denied> {
    let mut types = head.headers.get_all(CONTENT_TYPE).iter();
    let first = types.next().and_then(|kind| kind.to_str().ok());
    match types.next() {
        None => Ok(first),
        Some(_) => Err(Denied::InvalidRequest("The request has more than one `Content-Type`. Send one.".to_owned())),
    }
}

/// A request body, counted among those in memory as long as it lives.
pub(super) struct Body<'a> {
    bytes: Bytes,
    _held: HeldBytes<'a>,
}

impl Body<'_> {
    /// The body's bytes.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// How long the body of a message is, where its head says so.
pub(super) fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether a client waits for leave to send its body.
pub(super) fn awaits_leave(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Reads the whole body.
pub(super) async fn body<'a>(
    session: &mut ServerSession,
    limits: &Limits,
    activity: &'a Activity,
) -> Result<Body<'a>, Denied> {
    let headers = &session.req_header().headers;
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Denied::UnsupportedEncoding);
    }
    let announced = content_length(headers);
    if announced.is_some_and(|length| length as u64 > limits.body_bytes_max) {
        return Err(Denied::BodyTooLarge(limits.body_bytes_max));
    }
    let mut held = HeldBytes::none(&activity.body_bytes, limits.request_bytes_in_flight_max);
    held.grow_to(announced.unwrap_or(0) as u64)?;
    if awaits_leave(headers) {
        session.write_continue_response().await.map_err(|_| Denied::RequestTimeout)?;
    }
    session.set_read_timeout(Some(limits.body_idle_timeout));
    let bytes = read_all(session, limits, announced, &mut held).await?;
    if bytes.is_empty() && session.req_header().headers.contains_key(TRANSFER_ENCODING) {
        // Pingora takes a chunk size that is missing for the last chunk. What follows must not be another request.
        session.set_keepalive(None);
    }
    Ok(Body { bytes, _held: held })
}

async fn read_all(
    session: &mut ServerSession,
    limits: &Limits,
    announced: Option<usize>,
    held: &mut HeldBytes<'_>,
) -> Result<Bytes, Denied> {
    let mut whole = BytesMut::new();
    let mut read = 0;
    while let Some(chunk) = next_chunk(session, limits.body_idle_timeout).await? {
        read += chunk.len() as u64;
        if read > limits.body_bytes_max {
            return Err(Denied::BodyTooLarge(limits.body_bytes_max));
        }
        held.grow_to(read)?;
        if announced == Some(chunk.len()) {
            // The whole body in one read, as small ones come: no copy.
            return Ok(chunk);
        }
        if whole.is_empty() {
            whole.reserve(announced.unwrap_or(0));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

/// The next bytes of a request's body, `None` at its end.
pub(super) async fn next_chunk(session: &mut ServerSession, idle: Duration) -> Result<Option<Bytes>, Denied> {
    // HTTP/2 reads know no timeout of their own.
    let read = match session.is_http2() {
        true => match timeout(idle, session.read_request_body()).await {
            Ok(read) => read,
            Err(_) => return Err(Denied::RequestTimeout),
        },
        false => session.read_request_body().await,
    };
    if read.is_err() {
        // Nobody can say where the next request would begin.
        session.set_keepalive(None);
    }
    read.map_err(|error| {
        tracing::debug!(cause = error.etype().as_str(), "a request body can't be read");
        match error.etype() {
            pingora::ErrorType::ReadTimedout => Denied::RequestTimeout,
            _ => Denied::InvalidRequest("The request body ended early or is not framed as its head says.".to_owned()),
        }
    })
}

/// Bytes that are counted in `total` as long as this lives.
struct HeldBytes<'a> {
    total: &'a AtomicU64,
    total_max: u64,
    bytes: u64,
}

impl<'a> HeldBytes<'a> {
    fn none(total: &'a AtomicU64, total_max: u64) -> Self {
        Self { total, total_max, bytes: 0 }
    }

    fn grow_to(&mut self, bytes: u64) -> Result<(), Denied> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let more = bytes - self.bytes;
        let before = self.total.fetch_add(more, Ordering::AcqRel);
        self.bytes = bytes;
        if before + more > self.total_max { Err(Denied::Overloaded) } else { Ok(()) }
    }
}

impl Drop for HeldBytes<'_> {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head_with(headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("POST", b"/v1/chat/completions", None).expect("a request");
        for (name, value) in headers {
            head.append_header(*name, *value).expect("a header");
        }
        head
    }

    #[test]
    fn any_of_the_credential_headers_is_read() {
        for header in [
            ("authorization", "Bearer k"),
            ("Authorization", "bearer  k"),
            ("x-api-key", "k"),
            ("api-key", "k"),
            ("x-goog-api-key", " k "),
        ] {
            assert_eq!(token(&head_with(&[header]), Protocol::Openai), Ok(Some("k")), "{header:?}");
        }
        assert_eq!(token(&head_with(&[]), Protocol::Openai), Ok(None));
        assert_eq!(token(&head_with(&[("authorization", "")]), Protocol::Openai), Ok(None));
    }

    #[test]
    fn two_different_credentials_are_refused_and_equal_ones_are_not() {
        assert_eq!(
            token(&head_with(&[("authorization", "Bearer k"), ("x-api-key", "k")]), Protocol::Openai),
            Ok(Some("k"))
        );
        for second in [("x-api-key", "other"), ("authorization", "Bearer other")] {
            let both = head_with(&[("authorization", "Bearer k"), second]);
            assert_eq!(token(&both, Protocol::Openai), Err(Denied::AmbiguousCredentials));
        }
    }

    #[test]
    fn bodies_in_memory_are_counted_and_bounded() {
        let total = AtomicU64::new(0);
        let mut one = HeldBytes::none(&total, 10);
        assert_eq!(one.grow_to(6), Ok(()));
        assert_eq!(HeldBytes::none(&total, 10).grow_to(5), Err(Denied::Overloaded));
        assert_eq!(one.grow_to(10), Ok(()));
        drop(one);
        assert_eq!(total.load(Ordering::Acquire), 0);
    }
}
