//! What is no request, because its head can't be read: refused in the same words as any other, counted and logged.
//!
//! Over HTTP/2 the codec answers such heads itself, before there is a stream to answer on.

use super::answer::whole_answer;
use super::answer_head::{AnswerHead, BodyLength};
use super::{Gateway, InFlight, client_address};
use crate::error;
use filters::denied::Denied;
use filters::dialect::Protocol;
use pingora::protocols::http::ServerSession;

/// Nobody knows what was meant to be spoken.
const PROTOCOL: Protocol = Protocol::Openai;

impl Gateway {
    /// Says no to what is no request. Where it ends nobody knows, so the connection must not be used again.
    pub(super) async fn refuse_unread(&self, session: &mut ServerSession, denied: &Denied) {
        let _in_flight = (InFlight::enter(&self.activity.requests), self.metrics.enter());
        let runtime = self.runtime.load_full();
        let mut report = self.report();
        if runtime.log_calls {
            report.client = client_address::peer(session);
        }
        report.refuse(denied);
        let refused = error::answer(denied, runtime.shape(PROTOCOL), report.call);
        report.status = refused.status;
        session.set_keepalive(None);
        let mut head = AnswerHead::new(refused.status, BodyLength::Bytes(refused.body.len()));
        head.json();
        head.call(report.call, PROTOCOL);
        // The client may be gone already; then nobody is left to be told.
        let _ = whole_answer(session, head, refused.body).await;
        self.account(&runtime, &report);
    }
}
