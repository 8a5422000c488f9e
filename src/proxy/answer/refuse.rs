//! Answers that are ours alone: refusals and other whole bodies.

use super::super::answer_head::{AnswerHead, BodyLength};
use super::super::report::Report;
use super::super::{Connection, Runtime};
use super::connection_after;
use crate::error::ErrorAnswer;
use bytes::Bytes;
use filters::dialect::Protocol;
use filters::route::Route;
use pingora::protocols::http::ServerSession;
use pingora::time::timeout;
use std::time::Duration;

/// How long the rest of a refused request's body is read, so that the client sees the refusal.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Tells the client why it is refused.
pub(in crate::proxy) async fn refusal(
    client: &mut ServerSession,
    refused: &ErrorAnswer,
    runtime: &Runtime,
    report: &mut Report,
) -> Connection {
    report.status = refused.status;
    let protocol = report.route.map_or(Protocol::Openai, Route::protocol);
    let mut head = AnswerHead::new(refused.status, BodyLength::Bytes(refused.body.len()));
    head.json();
    head.call(report.call, protocol);
    if let Some(key) = &report.key {
        let model = report.model.as_ref().map(|model| &*model.id);
        head.rates(&key.chain, model, protocol, report.started);
    }
    head.refusal(refused);
    head.allow_origin(&client.req_header().headers, runtime);
    whole_answer(client, head, refused.body.clone()).await
}

/// Sends a head and its body. What is left of the request is read for a while, so that the client sees the answer.
pub(in crate::proxy) async fn whole_answer(client: &mut ServerSession, head: AnswerHead, body: Bytes) -> Connection {
    client.set_total_drain_timeout(Some(DRAIN_TIME));
    let written = async {
        client.write_response_header(head.finish()).await?;
        client.write_response_body(body, true).await
    };
    let written = written.await;
    if client.is_http2() {
        // A stream that is dropped with its request half read is reset, and the client may not look at the answer then.
        // HTTP/1.1 is read on when the connection is given back.
        let _ = timeout(DRAIN_TIME, async { while let Ok(Some(_)) = client.read_request_body().await {} }).await;
    }
    connection_after(written)
}
