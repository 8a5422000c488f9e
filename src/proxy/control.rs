//! Requests of the control plane that come in by the public listener: handed over within the process, answered as they are.

use super::answer_head::{AnswerHead, BodyLength};
use super::report::Report;
use super::{Connection, EMPTY, Gateway, Runtime, client_address, receive};
use bytes::Bytes;
use filters::denied::Denied;
use filters::id::CallId;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use pingora::protocols::http::ServerSession;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;

/// The body of an answer of the control plane: a page, or an export that is read from the books while it is sent.
pub type ControlBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;
/// An answer that is waited for.
pub type ControlAnswer = Pin<Box<dyn Future<Output = http::Response<ControlBody>> + Send>>;

/// Answers requests about organisations, keys and money.
pub trait ControlPlane: Send + Sync {
    /// The answer to a request from this address, which has this identifier.
    fn answer(&self, request: http::Request<Bytes>, address: IpAddr, call: CallId) -> ControlAnswer;
}

/// Has the control plane answer. Who may ask is its business, and routes of operators are not answered here.
pub(super) async fn answer(
    gateway: &Gateway,
    runtime: &Runtime,
    session: &mut ServerSession,
    report: &mut Report,
) -> Result<Connection, Denied> {
    let body = receive::body(session, &runtime.limits, &gateway.activity).await?;
    let mut request = http::Request::new(body.bytes().clone());
    let asked = session.req_header();
    *request.method_mut() = asked.method.clone();
    *request.uri_mut() = asked.uri.clone();
    *request.headers_mut() = asked.headers.clone();
    let address = client_address::of(session, runtime).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let mut answered = gateway.control.answer(request, address, report.call).await;
    report.status = answered.status().as_u16();
    let head = head(&answered, session, runtime, report);
    let written = async {
        session.write_response_header(head.finish()).await?;
        while let Some(frame) = answered.body_mut().frame().await {
            let Ok(frame) = frame else {
                // The client must not take a part for the whole.
                return Err(pingora::Error::explain(pingora::ErrorType::InternalError, "the answer broke off"));
            };
            if let Ok(data) = frame.into_data() {
                session.write_response_body(data, false).await?;
            }
        }
        session.write_response_body(EMPTY, true).await
    };
    let written = written.await;
    Ok(if written.is_ok() { Connection::Reusable } else { Connection::Broken })
}

fn head(
    answered: &http::Response<ControlBody>,
    session: &ServerSession,
    runtime: &Runtime,
    report: &Report,
) -> AnswerHead {
    let is_empty = matches!(answered.status().as_u16(), 204 | 304);
    let length = answered.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let length = match (is_empty, length) {
        (true, _) => BodyLength::None,
        (false, Some(bytes)) => BodyLength::Bytes(bytes),
        (false, None) if session.req_header().version == http::Version::HTTP_10 => BodyLength::UntilClose,
        (false, None) => BodyLength::Open,
    };
    let mut head = AnswerHead::new(report.status, length);
    head.own(answered.headers());
    head.call(report.call, filters::dialect::Protocol::Openai);
    head.allow_origin(&session.req_header().headers, runtime);
    head
}
