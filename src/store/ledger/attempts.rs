//! What is written beside the calls: candidates that did not answer, and usage that came after a call's end.

use super::calls::KIND_COLUMNS;
use super::merge::{Pending, chunks};
use super::signed;
use crate::store::engine::On;
use crate::store::{Connection, Engine, StoreError};
use filters::ports::{Amendment, FailedAttempt};
use sqlx::{QueryBuilder, Row};
use std::collections::HashSet;

/// Writes attempts down; those that are on the books change nothing.
pub(super) async fn insert(
    connection: &mut Connection,
    node: &str,
    attempts: &[FailedAttempt],
) -> Result<(), StoreError> {
    for chunk in chunks(attempts) {
        let mut query = QueryBuilder::<Engine>::new(
            "INSERT INTO attempts (request_id, number, provider, status, error, cost_nano, at_ms, node) ",
        );
        query.push_values(chunk, |mut row, attempt| {
            row.push_bind(attempt.call.to_string())
                .push_bind(i64::from(attempt.number))
                .push_bind(&*attempt.provider)
                .push_bind(i64::from(attempt.status))
                .push_bind(attempt.error.map(|code| code.name()))
                // Whoever did not answer is paid nothing.
                .push_bind(0i64)
                .push_bind(attempt.at.0)
                .push_bind(node);
        });
        query.push(" ON CONFLICT (request_id, number) DO NOTHING");
        query.on(connection).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Writes amendments down, and adds the charges of those that were new.
pub(super) async fn insert_amendments(
    connection: &mut Connection,
    amendments: &[Amendment],
    pending: &mut Pending,
) -> Result<(), StoreError> {
    for chunk in chunks(amendments) {
        let rows = insertion(&pending.node, chunk).on(connection).fetch_all(&mut *connection).await?;
        let mut new = HashSet::with_capacity(rows.len());
        for row in &rows {
            new.insert((row.try_get::<String, _>("request_id")?, row.try_get::<i64, _>("sequence")?));
        }
        for amendment in chunk {
            // Taken out, so that one that stands here twice is counted with its first row, the one that was inserted.
            if !new.remove(&(amendment.call.to_string(), i64::from(amendment.sequence))) {
                continue;
            }
            pending.sums.amend(amendment);
            pending.late.extend(amendment.shares.iter().map(|share| (*share, amendment.charge.0)));
        }
    }
    Ok(())
}

fn insertion<'a>(node: &'a str, amendments: &'a [Amendment]) -> QueryBuilder<Engine> {
    let mut query = QueryBuilder::<Engine>::new(
        "INSERT INTO amendments (request_id, sequence, key_id, org_id, input_tokens, output_tokens, cache_read_tokens, \
         cache_write_5m_tokens, cache_write_1h_tokens, audio_input_tokens, image_input_tokens, reasoning_tokens, \
         audio_output_tokens, image_output_tokens, web_searches, images, audio_milliseconds, characters, search_units, \
         charge_nano, at_ms, node) ",
    );
    query.push_values(amendments, |mut row, amendment| {
        row.push_bind(amendment.call.to_string())
            .push_bind(i64::from(amendment.sequence))
            .push_bind(amendment.key.to_string())
            .push_bind(amendment.org.to_string())
            .push_bind(signed(amendment.usage.input_total()))
            .push_bind(signed(amendment.usage.output_total()));
        for (kind, _) in KIND_COLUMNS {
            row.push_bind(signed(amendment.usage.get(kind)));
        }
        row.push_bind(amendment.charge.0).push_bind(amendment.at.0).push_bind(node);
    });
    query.push(" ON CONFLICT (request_id, sequence) DO NOTHING RETURNING request_id, sequence");
    query
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Rows;
    use crate::store::fixture::{Books, NOW, price};
    use crate::store::journal::{Checkpoint, Shipment};
    use filters::denied::Code;
    use filters::id::CallId;
    use filters::money::NanoUsd;
    use filters::ports::{Intent, Terminal};
    use filters::usage::Usage;

    fn attempt(call: CallId, number: u8) -> FailedAttempt {
        let error = Some(Code::UpstreamFailed);
        FailedAttempt { call, number, provider: "azure".into(), status: 503, error, at: NOW }
    }

    fn amendment((intent, _): &(Intent, Terminal), sequence: u32, charge: i64) -> Amendment {
        Amendment {
            call: intent.call,
            sequence,
            key: intent.key,
            org: intent.org,
            usage: Usage::of(0, 7),
            charge: NanoUsd(charge),
            shares: intent.shares.clone(),
            at: NOW.plus(60_000),
        }
    }

    async fn number(books: &Books, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&books.store.database.reader).await.expect(sql)
    }

    #[tokio::test]
    async fn an_amendment_is_added_once_to_every_share_of_its_call() {
        let books = Books::open().await;
        let call = books.call(1, 10, 5);
        let charged = call.1.charge;
        let first = amendment(&call, 1, 4_200);
        let twice = Amendment { charge: NanoUsd(999), ..first.clone() };
        let shipment = Shipment { calls: vec![call.clone()], amendments: vec![first, twice], ..Shipment::default() };
        for _ in 0..2 {
            books.store.take("node", &shipment).await.expect("shipped");
            assert_eq!(books.key().await.spent(), charged + NanoUsd(4_200));
            assert_eq!(books.organisation().await.spent, charged + NanoUsd(4_200));
        }
        let given_back = Shipment { amendments: vec![amendment(&call, 2, -200)], ..Shipment::default() };
        books.store.take("node", &given_back).await.expect("shipped");
        assert_eq!(books.key().await.spent(), charged + NanoUsd(4_000));
        assert_eq!(number(&books, "SELECT CAST(SUM(output_tokens) AS BIGINT) FROM amendments").await, 14);
        assert_eq!(number(&books, "SELECT COUNT(*) FROM calls").await, 1, "the call's own row stays as it was");
        books.store.remember_prices(&[(price().id(), price())]).await.expect("kept");
        let audit = books.store.audit().await.expect("audited");
        assert_eq!(audit.findings, []);
        assert_eq!(audit.charged, i128::from(charged.0) + 4_000);
    }

    #[tokio::test]
    async fn what_is_beside_calls_moves_the_checkpoint_too() {
        let books = Books::open().await;
        let checkpoint = Checkpoint { segment: 2, offset: 4096 };
        let attempts = (1..=100).map(|number| attempt(CallId(7), number)).collect();
        let shipment = Shipment { attempts, checkpoint, ..Shipment::default() };
        assert_eq!(books.store.take("node", &shipment).await.expect("shipped"), 0);
        assert_eq!(books.store.checkpoint("node").await.expect("read"), Some(checkpoint));
        assert_eq!(number(&books, "SELECT COUNT(*) FROM attempts WHERE status = 503 AND cost_nano = 0").await, 100);
    }

    #[tokio::test]
    async fn the_attempt_that_answered_stands_beside_those_that_failed() {
        let books = Books::open().await;
        let mut call = books.call(1, 10, 5);
        call.1.attempts = 3;
        let mut unsent = books.call(2, 10, 5);
        unsent.1.attempts = 0;
        let mut unanswered = books.call(3, 10, 5);
        unanswered.1.attempts = 1;
        let unanswered_id = unanswered.0.call;
        let id = call.0.call;
        let attempts = vec![attempt(id, 1), attempt(id, 2), attempt(id, 2), attempt(unanswered_id, 1)];
        let charged = call.1.charge.0;
        let shipment = Shipment { calls: vec![call, unsent, unanswered], attempts, ..Shipment::default() };
        for _ in 0..2 {
            books.store.take("node", &shipment).await.expect("shipped");
        }
        let rows = sqlx::query("SELECT * FROM all_attempts ORDER BY request_id, number")
            .fetch_all(&books.store.database.reader)
            .await;
        let read = |row: &Rows| {
            let [call, provider]: [String; 2] = ["request_id", "provider"].map(|column| row.get(column));
            let [number, cost, answered]: [i64; 3] = ["number", "cost_nano", "answered"].map(|column| row.get(column));
            (call, number, provider, cost, answered)
        };
        let rows: Vec<_> = rows.expect("rows").iter().map(read).collect();
        let azure = |call: CallId, number| (call.to_string(), number, "azure".to_owned(), 0, 0);
        let answered = (id.to_string(), 3, "openai".to_owned(), charged, 1);
        assert_eq!(rows, [azure(id, 1), azure(id, 2), answered, azure(unanswered_id, 1)]);
    }
}
