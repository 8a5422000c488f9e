//! The chain: Received → Authenticated → Resolved → Admitted → Settled. Read this first.
//!
//! A stage can only be made from the stage before it, and only here. So a call that reaches a provider was
//! authenticated, resolved and paid for, because nothing else can be handed to the relay.

use crate::catalogue::{Candidate, Catalogue, Model};
use crate::denied::Denied;
use crate::id::CallId;
use crate::key::{Key, Pepper};
use crate::ports::{Intent, Journal, Keys, OpenCall, Outcome, Terminal};
use crate::quota::Reservation;
use crate::request_head::RequestHead;
use crate::resolve::Choice;
use crate::scope::Route;
use crate::settle::End;
use crate::tally::Tally;
use crate::time::EpochMs;
use crate::{authenticate, reserve, resolve, settle};
use std::sync::Arc;

/// A request whose head was read. Its token is looked up before its body is.
#[derive(Debug)]
pub struct Received {
    /// The call, named by us.
    pub call: CallId,
    /// What is asked for.
    pub route: Route,
    /// When it came.
    pub at: EpochMs,
}

impl Received {
    /// Finds the key behind the token, and sees that it may be used on this route now.
    pub async fn authenticate(
        self,
        token: Option<&str>,
        prefix: &str,
        pepper: &Pepper,
        keys: &dyn Keys,
    ) -> Result<Authenticated, Denied> {
        let lookup = authenticate::lookup(token, prefix, pepper)?;
        let found = keys.find(lookup).await.map_err(|_| Denied::LimitsUnavailable)?;
        let key = found.ok_or(Denied::InvalidApiKey)?;
        authenticate::is_usable(&key, self.at)?;
        authenticate::may_take(&key, self.route)?;
        Ok(Authenticated { received: self, key })
    }
}

/// A request of a key that may take this route.
#[derive(Debug)]
pub struct Authenticated {
    received: Received,
    key: Arc<Key>,
}

impl Authenticated {
    /// Whose request it is.
    #[must_use]
    pub fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// Finds the model, and the candidates that may serve it to this key.
    pub fn resolve(self, head: RequestHead, catalogue: &Catalogue) -> Result<Resolved, Denied> {
        let Received { route, at, .. } = self.received;
        let (model, choices) = resolve::choose(&self.key, catalogue, &head.model, route.dialect(), at)?;
        Ok(Resolved { authenticated: self, head, model, choices })
    }
}

/// A request that somebody may serve.
#[derive(Debug)]
pub struct Resolved {
    authenticated: Authenticated,
    head: RequestHead,
    model: Arc<Model>,
    choices: Vec<Choice>,
}

impl Resolved {
    /// The model that was meant.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Takes what the call may need from every quota of the key, and writes down that it is about to be sent.
    pub fn admit(self, output_tokens_max: u64, journal: &dyn Journal) -> Result<Admitted, Denied> {
        let Authenticated { received, key } = self.authenticated;
        let need = reserve::need(&self.head, &self.model, &self.choices, output_tokens_max);
        let reservation = key.chain.reserve(need.money, need.tokens, received.at)?;
        let first = &self.choices[0];
        let intent = Intent {
            call: received.call,
            key: key.id,
            org: key.org,
            route: received.route,
            streamed: self.head.streamed,
            model: Arc::clone(&self.model.id),
            provider: Arc::clone(&self.model.candidates[first.index].provider),
            price: first.price.id,
            started: received.at,
            reserved: need.money,
            recovery_charge: settle::recovery_charge(first, need.input_tokens, need.money),
            input_estimate: need.input_tokens,
            quotas: key.chain.spend.iter().map(|spend| spend.id).collect(),
        };
        let open = journal.begin(&intent).map_err(|_| Denied::StoreUnavailable)?;
        let unsettled = Some(Unsettled { open, reservation });
        Ok(Admitted {
            key,
            head: self.head,
            model: self.model,
            choices: self.choices,
            intent,
            progress: Progress::default(),
            unsettled,
        })
    }
}

/// What must be closed exactly once.
struct Unsettled {
    open: Box<dyn OpenCall>,
    reservation: Reservation,
}

/// How far the relay has come: what a call is charged by, should it end now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// The place in [`Admitted::choices`] of the candidate that is being tried.
    pub choice: usize,
    /// Whether a provider was asked and has not refused.
    pub is_asked: bool,
    /// What it has answered.
    pub tally: Tally,
}

/// A call that is paid for. Whatever happens to it, it is settled once: by [`Admitted::settle`], or when it is dropped.
pub struct Admitted {
    key: Arc<Key>,
    head: RequestHead,
    model: Arc<Model>,
    choices: Vec<Choice>,
    intent: Intent,
    /// How far the relay has come.
    pub progress: Progress,
    unsettled: Option<Unsettled>,
}

impl Admitted {
    /// Whose call it is.
    #[must_use]
    pub fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// What it asks for.
    #[must_use]
    pub fn head(&self) -> &RequestHead {
        &self.head
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The candidates that may be tried.
    #[must_use]
    pub fn choices(&self) -> &[Choice] {
        &self.choices
    }

    /// The candidate of one of the choices.
    #[must_use]
    pub fn candidate(&self, choice: usize) -> &Candidate {
        &self.model.candidates[self.choices[choice].index]
    }

    /// The call as it was written down.
    #[must_use]
    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    /// Charges what the call cost, gives the rest back, and writes down how it ended. Synchronous, so that a drop can do it.
    pub fn settle(mut self, end: End) -> Settled {
        let terminal = self.close(end);
        Settled { bound_exceeded: terminal.charge > self.intent.reserved, terminal }
    }

    fn close(&mut self, end: End) -> Terminal {
        let choice = &self.choices[self.progress.choice];
        let terminal = settle::terminal(&self.intent, &self.model, &self.head, choice, &self.progress.tally, end);
        if let Some(Unsettled { open, reservation }) = self.unsettled.take() {
            open.end(&terminal);
            reservation.settle(terminal.charge, terminal.usage.tokens_total());
        }
        terminal
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if self.unsettled.is_none() {
            return;
        }
        // The relay was stopped half-way. It can't say when, so the record says when the call began.
        let outcome = if self.progress.is_asked { Outcome::Abandoned } else { Outcome::Unreached };
        self.close(End { outcome, status: 0, error: None, attempts: 0, ended: self.intent.started, first_byte_ms: 0 });
    }
}

/// A call that is on the books.
#[derive(Debug)]
pub struct Settled {
    /// Its line in the books.
    pub terminal: Terminal,
    /// The provider billed more than was set aside.
    pub bound_exceeded: bool,
}
