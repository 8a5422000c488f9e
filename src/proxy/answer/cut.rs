//! A stream that outgrows what can be set aside for it: it is ended as if its output limit had been reached.

use super::{Passage, Unfinished, connection_after, join};
use crate::clock;
use crate::proxy::{Connection, Gateway};
use bytes::Bytes;
use filters::denied::{Code, Denied};
use filters::dialect::Cut;
use filters::pipeline::Admitted;
use filters::ports::Outcome;
use std::sync::Arc;

/// What clients and the books are told, whichever quota it was: the log has the refusal itself.
const REASON: Code = Code::SpendLimitReached;

/// Sets more aside for an answer that shows that it needs it. The error says why that can't be.
pub(super) async fn grow(gateway: &Gateway, call: &mut Admitted) -> Result<(), Denied> {
    if call.has_outgrown() { Box::pin(call.extend(&*gateway.authority, clock::now())).await } else { Ok(()) }
}

impl Passage<'_> {
    /// Ends the stream in the provider's place. What has passed is on the books before the end of it leaves.
    pub(super) async fn cut(self, unfinished: Unfinished, out: Bytes, denied: &Denied) -> Connection {
        let Unfinished { exchange, meter, status, .. } = unfinished;
        let (call, model) = (self.call.intent().call, Arc::clone(&self.call.intent().model));
        let (include_usage, choices) = (self.call.head().include_usage, self.call.head().choices);
        tracing::info!(request_id = %call, code = denied.code().name(), "the stream is cut");
        let Self { gateway, client, call: mut admitted, report, .. } = self;
        admitted.progress.tally = *meter.tally();
        report.status = status;
        report.error = Some(REASON);
        let usage = report.settle(admitted, Outcome::Cut).usage;
        exchange.abort().await;
        gateway.until_durable().await;
        let cut = Cut { reason: REASON, usage, include_usage, choices, call, model: &model, at: clock::now() };
        connection_after(client.write_response_body(join(out, meter.cut(&cut)), true).await)
    }
}
