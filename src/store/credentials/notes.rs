//! What providers made of organisations' credentials, written down beside the calls: nobody waits for it.

use crate::store::outbox::{self, Event};
use crate::store::{Store, StoreError};
use filters::own::{CredentialEvent, CredentialNote};
use sqlx::Row;
use tokio::sync::{mpsc, watch};

/// Notes that wait; the next ones are left out.
const NOTES_MAX: usize = 1_024;

/// A way for notes, and who writes them.
#[must_use]
pub fn credential_notes(store: Store) -> (mpsc::Sender<CredentialNote>, CredentialNotes) {
    let (sender, notes) = mpsc::channel(NOTES_MAX);
    (sender, CredentialNotes { store, notes })
}

/// Writes notes down.
pub struct CredentialNotes {
    store: Store,
    notes: mpsc::Receiver<CredentialNote>,
}

impl CredentialNotes {
    /// Writes until the process stops. What can't be written is said and left out: nothing depends on it.
    pub async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        loop {
            let note = tokio::select! {
                note = self.notes.recv() => note,
                // An error says that nobody is left to tell us: that is a stop too.
                _ = stopping.wait_for(|stop| *stop) => None,
            };
            let Some(note) = note else { return };
            if let Err(cause) = self.store.note_credential(&note).await {
                tracing::warn!(credential = %note.id, %cause, "what became of a credential can't be written down");
            }
        }
    }
}

impl Store {
    /// Writes down what became of a credential.
    pub async fn note_credential(&self, note: &CredentialNote) -> Result<(), StoreError> {
        let mut transaction = self.database.write().await?;
        let id = note.id.to_string();
        match note.event {
            CredentialEvent::Used => {
                sqlx::query(
                    "UPDATE credentials SET last_used_ms = $1 WHERE id = $2 AND COALESCE(last_used_ms, 0) < $1",
                )
                .bind(note.at.0)
                .bind(id)
                .execute(&mut *transaction)
                .await?;
            }
            CredentialEvent::Benched { status, until } => {
                let benched = "UPDATE credentials SET benched_until_ms = $1, benched_status = $2 WHERE id = $3 RETURNING provider";
                let benched = sqlx::query(benched).bind(until.0).bind(i64::from(status)).bind(id);
                if let Some(row) = benched.fetch_optional(&mut *transaction).await? {
                    let event = Event::credential_benched(note.org, note.id, row.try_get("provider")?, status, note.at);
                    outbox::write(&mut transaction, &event, note.at).await?;
                }
            }
        }
        Ok(transaction.commit().await?)
    }
}
