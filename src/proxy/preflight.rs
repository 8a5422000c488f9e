//! What a browser asks before it lets a page call: may a page of that origin do so?

use super::answer::whole_answer;
use super::answer_head::{AnswerHead, BodyLength};
use super::report::Report;
use super::{Connection, EMPTY, Runtime};
use bytes::BufMut;
use filters::dialect::Protocol;
use filters::route::Route;
use http::Method;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;

/// How long a browser may remember the answer, in seconds.
const REMEMBERED_S: &str = "600";

/// Whether this is such a question, from an origin that may call.
pub(super) fn is_asked(head: &RequestHeader, runtime: &Runtime) -> bool {
    head.method == Method::OPTIONS
        && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        && head.headers.get(ORIGIN).is_some_and(|origin| runtime.allows_origin(origin))
}

/// Says yes: this method, with the headers that were asked for.
pub(super) async fn answer(
    runtime: &Runtime,
    session: &mut ServerSession,
    route: Route,
    report: &mut Report,
) -> Connection {
    let asked = &session.req_header().headers;
    let mut head = AnswerHead::new(204, BodyLength::None);
    head.call(report.call, Protocol::Openai);
    head.allow_origin(asked, runtime);
    head.methods(ACCESS_CONTROL_ALLOW_METHODS, route.methods());
    if let Some(headers) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        head.text(ACCESS_CONTROL_ALLOW_HEADERS, |text| text.put_slice(headers.as_bytes()));
    }
    head.fixed(ACCESS_CONTROL_MAX_AGE, REMEMBERED_S);
    report.status = 204;
    whole_answer(session, head, EMPTY).await
}
