//! Tells of calls that cost more than was set aside for them, in the transaction that puts them on the books.

use crate::clock;
use crate::store::outbox::{self, Event, ExceededBound};
use crate::store::{Connection, StoreError};
use filters::ports::{Intent, Terminal};

/// Writes an event for each of some new calls that cost more than its reservation.
pub(super) async fn tell<'a>(
    connection: &mut Connection,
    calls: impl Iterator<Item = &'a (Intent, Terminal)>,
) -> Result<(), StoreError> {
    for (intent, terminal) in calls.filter(|(_, terminal)| terminal.charge > terminal.reserved) {
        let exceeded = ExceededBound {
            call: intent.call,
            key: intent.key,
            model: &intent.model,
            provider: &terminal.provider,
            reserved: terminal.reserved,
            charge: terminal.charge,
        };
        outbox::write(connection, &Event::bound_exceeded(intent.org, &exceeded), clock::now()).await?;
    }
    Ok(())
}
