//! The chain: Received → Authenticated → Resolved → Admitted → Settled. Read this first.
//!
//! A stage can only be made from the stage before it, and only here. So a call that reaches a provider was
//! authenticated, resolved and paid for, because nothing else can be handed to the relay.

use crate::admit::{Admission, Candidature, Taken};
use crate::catalogue::{Candidate, Catalogue, Model};
use crate::denied::Denied;
use crate::growth::Growth;
use crate::id::CallId;
use crate::key::{Key, Pepper};
use crate::objects::{self, SharedObjects};
use crate::own;
use crate::ports::{Authority, FailedAttempt, Intent, Keys, Objects, OpenCall, Outcome, Terminal};
use crate::quota::Reservation;
use crate::request_head::RequestHead;
use crate::reserve::Need;
use crate::resolve::Choice;
use crate::route::Target;
use crate::settle::{Charged, End};
use crate::tally::Tally;
use crate::time::EpochMs;
use crate::{admit, authenticate, resolve, settle};
use core::net::IpAddr;
use std::sync::Arc;

/// A request whose head was read. Its token is looked up before its body is.
#[derive(Debug)]
pub struct Received {
    /// The call, named by us.
    pub call: CallId,
    /// What is asked for.
    pub target: Target,
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
        let token = authenticate::presented(token, prefix, pepper)?;
        let found = keys.find(&token).await.map_err(|_| Denied::LimitsUnavailable)?;
        let key = found.ok_or(Denied::InvalidApiKey)?;
        authenticate::is_usable(&key, self.at)?;
        authenticate::may_take(&key, self.target.route)?;
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

    /// What is asked for.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.received.target
    }

    /// Refuses a key that may be used from some addresses only, from any other. Whose address it is, is asked only then.
    pub fn from(self, client: impl FnOnce() -> Option<IpAddr>) -> Result<Self, Denied> {
        if self.key.addresses.is_empty() || client().is_some_and(|client| self.key.may_come_from(client)) {
            return Ok(self);
        }
        Err(Denied::IpNotAllowed)
    }

    /// Finds the model, and the candidates that may serve it to this key: where the request names stored objects, only those who
    /// have them.
    pub async fn resolve(
        self,
        head: Box<RequestHead>,
        catalogue: &Catalogue,
        stored: &Stored<'_>,
    ) -> Result<Resolved, Denied> {
        let Received { target, at, .. } = &self.received;
        let (model, mut choices) = resolve::choose(&self.key, catalogue, (&head.model, target), *at)?;
        choices.iter_mut().for_each(|choice| choice.price = choice.price.for_picture(&head.picture));
        let mut pin = None;
        if let Some(first) = head.references.first() {
            let ids: Vec<&str> = head.references.iter().map(|reference| &*reference.id).collect();
            let owned = stored.objects.owned(self.key.org, &ids).await.map_err(|_| Denied::OwnersUnavailable)?;
            pin = objects::pin(&head.references, &owned, stored.shared)?;
            if let Some(pin) = &pin {
                choices.retain(|choice| {
                    let own = choice.own.as_ref().map(|own| own.place);
                    pin.allows(&model.candidates[choice.index].provider, own)
                });
            }
            if choices.is_empty() {
                return Err(first.unknown());
            }
        }
        // What an object is stored with must be used, whoever has it.
        if let (Some(own), None) = (&self.key.own, &pin) {
            own::keep_to_own(own, &model, &mut choices);
        }
        if choices.is_empty() {
            return Err(Denied::OwnCredentialUnusable);
        }
        let credential = pin.and_then(|pin| pin.credential);
        Ok(Resolved { authenticated: self, head, model, choices, credential })
    }
}

/// What is known of stored objects.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    /// Whose they are.
    pub objects: &'a dyn Objects,
    /// Those that everybody may use.
    pub shared: &'a SharedObjects,
}

/// A request that somebody may serve.
#[derive(Debug)]
pub struct Resolved {
    authenticated: Authenticated,
    head: Box<RequestHead>,
    model: Arc<Model>,
    choices: Vec<Choice>,
    credential: Option<u16>,
}

impl Resolved {
    /// The model that was meant.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Takes what the call may need from every quota of the key, and writes down that it is about to be sent.
    pub async fn admit(self, admission: &Admission<'_>) -> Result<Box<Admitted>, Denied> {
        let Authenticated { received, key } = self.authenticated;
        let call = Candidature { key: &key, head: &self.head, model: &self.model, choices: &self.choices };
        let Taken { reservation, need, reserved, output_limit } = admit::take(call, admission).await?;
        let first = &self.choices[0];
        let intent = Intent {
            call: received.call,
            key: key.id,
            org: key.org,
            route: received.target.route,
            streamed: self.head.streamed,
            model: Arc::clone(&self.model.id),
            provider: Arc::clone(&self.model.candidates[first.index].provider),
            price: first.price.id,
            started: received.at,
            reserved,
            recovery_charge: settle::recovery_charge(first, need.input_tokens, reserved),
            input_estimate: need.input_tokens,
            shares: reservation.shares(),
            attribution: self.head.attribution.clone(),
        };
        let mut open = admission.journal.begin(&intent).map_err(|_| Denied::StoreUnavailable)?;
        let clamped = output_limit.map_or(u64::MAX, |limit| limit.saturating_mul(self.head.choices));
        let output_max = need.output_max.min(clamped);
        let need = Need { output_max, output_allowance: need.output_allowance.min(output_max), ..need };
        let mut growth = Growth::new(&need, reserved);
        let charged = Charged {
            intent: &intent,
            model: &self.model,
            head: &self.head,
            choice: first,
            tally: &Tally::default(),
            output_max,
        };
        if let Some(note) = settle::beforehand(&charged, reserved) {
            growth.notes = note.sequence;
            open.progress(&note);
        }
        // It is large, and goes from hand to hand: each of the relay's futures would hold it twice.
        Ok(Box::new(Admitted {
            key,
            target: received.target,
            head: self.head,
            model: self.model,
            choices: self.choices,
            credential: self.credential,
            intent,
            output_limit,
            output_max,
            progress: Progress::default(),
            unsettled: Some(Unsettled { open, reservation, growth }),
        }))
    }
}

/// What must be closed exactly once.
struct Unsettled {
    open: Box<dyn OpenCall>,
    reservation: Reservation,
    growth: Growth,
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
    target: Target,
    head: Box<RequestHead>,
    model: Arc<Model>,
    choices: Vec<Choice>,
    credential: Option<u16>,
    intent: Intent,
    output_limit: Option<u64>,
    output_max: u64,
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

    /// Where it was sent.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
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

    /// Which of the provider's credentials must be used, by its place, because it made what the call names.
    #[must_use]
    pub fn pinned_credential(&self) -> Option<u16> {
        self.credential
    }

    /// The call as it was written down.
    #[must_use]
    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    /// The output limit that the provider is to be told, because the strict quotas can't pay for the client's.
    #[must_use]
    pub fn output_limit(&self) -> Option<u64> {
        self.output_limit
    }

    /// Whether the answer has passed what is set aside for it, or is worth a note: then [`Admitted::extend`] is due.
    #[must_use]
    pub fn has_outgrown(&self) -> bool {
        self.unsettled.as_ref().is_some_and(|unsettled| unsettled.growth.is_due(&self.progress.tally))
    }

    /// Sets more aside for an answer that grows, and writes down how far it has come. The refusal says why it must be cut.
    pub async fn extend(&mut self, authority: &dyn Authority, now: EpochMs) -> Result<(), Denied> {
        let Some(Unsettled { open, reservation, growth }) = &mut self.unsettled else { return Ok(()) };
        let choice = &self.choices[self.progress.choice];
        let tally = &self.progress.tally;
        let extended = growth.extend(reservation, (choice, &self.model), tally, (authority, now)).await;
        let output_max = self.output_max;
        let charged = Charged { intent: &self.intent, model: &self.model, head: &self.head, choice, tally, output_max };
        growth.notes += 1;
        open.progress(&settle::progress(&charged, growth));
        extended
    }

    /// Notes a candidate that was tried and did not answer the call.
    pub fn note_attempt(&mut self, attempt: FailedAttempt) {
        if let Some(unsettled) = &mut self.unsettled {
            unsettled.open.attempt(&attempt);
        }
    }

    /// Charges what the call cost, gives the rest back, and writes down how it ended. Synchronous, so that a drop can do it.
    pub fn settle(mut self: Box<Self>, end: End) -> Settled {
        let terminal = self.close(end);
        Settled { bound_exceeded: terminal.charge > terminal.reserved, terminal }
    }

    fn close(&mut self, end: End) -> Terminal {
        let choice = &self.choices[self.progress.choice];
        let (tally, output_max) = (&self.progress.tally, self.output_max);
        let charged = Charged { intent: &self.intent, model: &self.model, head: &self.head, choice, tally, output_max };
        let reserved = self.unsettled.as_ref().map_or(self.intent.reserved, |unsettled| unsettled.growth.reserved);
        let terminal = settle::terminal(&charged, end, reserved);
        if let Some(Unsettled { open, reservation, .. }) = self.unsettled.take() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{InputEstimate, Mode, PriceVersion};
    use crate::denied::{LimitSource, Owner};
    use crate::dialect::{Dialect, Protocol};
    use crate::id::{CredentialId, KeyId, OrgId, QuotaId};
    use crate::key::{Glob, Status, Token};
    use crate::lease::Terms;
    use crate::memory::{MemoryJournal, MemoryKeys, MemoryObjects, SoleNode, ready};
    use crate::money::NanoUsd;
    use crate::objects::{Object, ObjectKind};
    use crate::own::{OWN_PLACES_FROM, OwnCredential, OwnCredentials, OwnSecret};
    use crate::ports::Share;
    use crate::price::{Price, Tier};
    use crate::quota::{Chain, Spend};
    use crate::request_head;
    use crate::reserve::Allowances;
    use crate::route::Route;
    use crate::scope::Scopes;
    use crate::usage::{Kind, Usage};
    use crate::window::Window;

    const NOW: EpochMs = EpochMs(1_800_000_000_000);
    const ALLOWANCES: Allowances = Allowances { output_tokens_max: 16, clamp_output_tokens_min: 1 };
    const BODY: &[u8] = br#"{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"hello"}]}"#;

    fn key(change: impl FnOnce(&mut Key)) -> Key {
        let terms = Terms::elastic(NanoUsd(1_000_000));
        let source = LimitSource::Spend(Owner::Key);
        let spend = Spend::new(QuotaId(7), source, Window::Total, terms, (NanoUsd::ZERO, NOW));
        let mut key = Key {
            id: KeyId(1),
            name: "k".into(),
            org: OrgId(2),
            project: None,
            org_suspended: false,
            status: Status::Live,
            expires: None,
            scopes: Scopes::of_new_key(),
            models: Vec::new(),
            providers: Vec::new(),
            addresses: Vec::new(),
            secret_ends: None,
            chain: Arc::new(Chain { spend: vec![Arc::new(spend)], ..Chain::default() }),
            own: None,
        };
        change(&mut key);
        key
    }

    fn catalogue() -> Catalogue {
        let mut standard = [0; Kind::ALL.len()];
        standard[Kind::Input as usize] = 1_000_000;
        standard[Kind::Output as usize] = 10_000_000;
        let price = Price { standard, ..Price::default() };
        let candidate = Candidate {
            number: 0,
            provider: "p".into(),
            protocol: Protocol::Openai,
            apis: Arc::new([]),
            model: "m-1".into(),
            priority: 0,
            weight: 1,
            input_estimate: InputEstimate::Bound,
            default_tier: Tier::Standard,
            prices: vec![Arc::new(PriceVersion::new(price).with_own(500_000))],
        };
        let model = Model {
            id: "m".into(),
            aliases: vec!["alias".into()],
            context_tokens: 1_000,
            output_tokens_max: 100,
            output_limit_field: "max_tokens".into(),
            output_limit_min: 1,
            mode: Mode::Chat,
            hidden_output: false,
            candidates: vec![candidate],
        };
        Catalogue::new(vec![model]).expect("one model")
    }

    fn authenticate(key: Key, token: Option<&str>) -> Result<Authenticated, Denied> {
        let pepper = Pepper::new(&[1; 32]).expect("long enough");
        let issued = Token::issue("tg_live", [3; 32]);
        let keys = MemoryKeys([(pepper.lookup(issued.reveal()), Arc::new(key))].into());
        let received = Received { call: CallId(9), target: Target::of(Route::ChatCompletions), at: NOW };
        let token = token.map(|token| if token == "issued" { issued.reveal() } else { token });
        ready(received.authenticate(token, "tg_live", &pepper, &keys))
    }

    fn resolve(authenticated: Authenticated, head: RequestHead) -> Result<Resolved, Denied> {
        let (objects, shared) = (MemoryObjects::default(), SharedObjects::default());
        ready(authenticated.resolve(Box::new(head), &catalogue(), &Stored { objects: &objects, shared: &shared }))
    }

    fn admitted(journal: &MemoryJournal) -> Box<Admitted> {
        let head = request_head::scan(BODY, Dialect::OpenaiChat).expect("valid");
        let authenticated = authenticate(key(|_| {}), Some("issued")).expect("a live key");
        let resolved = resolve(authenticated, head).expect("a model");
        let authority = SoleNode::default();
        authority.now.store(NOW.0, std::sync::atomic::Ordering::Relaxed);
        {
            let mut books = authority.authority.lock().expect("not poisoned");
            books.nodes = 1;
            books.set(QuotaId(7), Window::Total, Terms::elastic(NanoUsd(1_000_000)));
        }
        let admission = Admission { allowances: ALLOWANCES, journal, authority: &authority, rates: None, now: NOW };
        ready(resolved.admit(&admission)).expect("enough credit")
    }

    fn end(outcome: Outcome) -> End {
        End { outcome, status: 200, error: None, attempts: 1, ended: NOW, first_byte_ms: 3 }
    }

    #[test]
    fn only_a_usable_key_is_authenticated() {
        assert!(authenticate(key(|_| {}), Some("issued")).is_ok());
        let refused = |key: Key, token| authenticate(key, token).expect_err("refused");
        assert_eq!(refused(key(|_| {}), None), Denied::MissingCredentials);
        assert_eq!(refused(key(|_| {}), Some("someone-else's")), Denied::InvalidApiKey);
        assert_eq!(refused(key(|key| key.status = Status::Disabled), Some("issued")), Denied::KeyDisabled);
        assert_eq!(refused(key(|key| key.status = Status::Archived), Some("issued")), Denied::KeyArchived);
        assert_eq!(refused(key(|key| key.status = Status::Deleted), Some("issued")), Denied::InvalidApiKey);
        assert_eq!(refused(key(|key| key.secret_ends = Some(NOW)), Some("issued")), Denied::SecretReplaced);
        assert!(authenticate(key(|key| key.secret_ends = Some(NOW.plus(1))), Some("issued")).is_ok());
        assert_eq!(refused(key(|key| key.expires = Some(NOW)), Some("issued")), Denied::KeyExpired);
        assert_eq!(refused(key(|key| key.org_suspended = true), Some("issued")), Denied::OrganisationSuspended);
        let scopes = Scopes::parse("usage:read").expect("a scope");
        assert!(matches!(refused(key(|key| key.scopes = scopes), Some("issued")), Denied::RouteScopeDenied { .. }));
    }

    #[test]
    fn a_key_with_addresses_is_usable_from_those_alone() {
        let from = |addresses: &[&str], client: Option<&str>| {
            let networks = addresses.iter().map(|text| text.parse().expect("a range")).collect();
            let authenticated = authenticate(key(|key| key.addresses = networks), Some("issued")).expect("a live key");
            authenticated.from(|| Some(client?.parse().expect("an address"))).map(drop)
        };
        let allowed = ["10.0.0.0/8", "2001:db8::1"];
        assert_eq!(from(&allowed, Some("10.1.2.3")), Ok(()));
        assert_eq!(from(&allowed, Some("2001:db8::1")), Ok(()));
        assert_eq!(from(&allowed, Some("11.0.0.1")), Err(Denied::IpNotAllowed));
        assert_eq!(from(&allowed, None), Err(Denied::IpNotAllowed));
        let unasked = authenticate(key(|_| {}), Some("issued")).expect("a live key");
        assert!(unasked.from(|| unreachable!("it may come from anywhere")).is_ok());
    }

    #[test]
    fn only_an_allowed_and_priced_model_is_resolved() {
        let resolved = |change: fn(&mut Key), name: &str| {
            let body = format!(r#"{{"model":"{name}"}}"#);
            let head = request_head::scan(body.as_bytes(), Dialect::OpenaiChat).expect("valid");
            resolve(authenticate(key(change), Some("issued")).expect("a live key"), head).map(|_| ())
        };
        assert_eq!(resolved(|_| {}, "alias"), Ok(()));
        assert_eq!(resolved(|_| {}, "other"), Err(Denied::ModelNotFound("other".to_owned())));
        assert_eq!(
            resolved(|key| key.models = vec![Glob("x*".into())], "m"),
            Err(Denied::ModelNotAllowed("m".to_owned()))
        );
        assert_eq!(
            resolved(|key| key.providers = vec![Glob("x".into())], "m"),
            Err(Denied::ProviderNotAllowed("m".to_owned()))
        );
    }

    fn own(place: u16, may_fall_back: bool) -> OwnCredential {
        OwnCredential {
            id: CredentialId(u128::from(place)),
            org: OrgId(2),
            version: 1,
            place,
            provider: "p".into(),
            base_url: None,
            models: vec![Glob("m".into())],
            priority: 0,
            weight: 1,
            may_fall_back,
            secret: Some(OwnSecret::new("sk".to_owned())),
        }
    }

    /// The places of the credentials that a call may be made with, with the share of the price; 0 stands for the operator's.
    fn choices(own: Vec<OwnCredential>) -> Result<Vec<(u16, Option<u32>)>, Denied> {
        let own: OwnCredentials = own.into_iter().map(Arc::new).collect();
        let head = request_head::scan(BODY, Dialect::OpenaiChat).expect("valid");
        let resolved =
            resolve(authenticate(key(|key| key.own = Some(own)), Some("issued")).expect("a live key"), head)?;
        let place = |choice: &Choice| (choice.own.as_ref().map_or(0, |own| own.place), choice.price.price.fee);
        Ok(resolved.choices.iter().map(place).collect())
    }

    #[test]
    fn own_credentials_come_first_and_the_operators_only_where_all_let_them() {
        let (first, second) = (OWN_PLACES_FROM, OWN_PLACES_FROM + 1);
        let fee = Some(500_000);
        assert_eq!(choices(vec![own(first, true)]), Ok(vec![(first, fee), (0, None)]));
        assert_eq!(choices(vec![own(first, true), own(second, false)]), Ok(vec![(first, fee), (second, fee)]));
        let elsewhere = |change: fn(&mut OwnCredential)| {
            let mut own = own(first, false);
            change(&mut own);
            choices(vec![own])
        };
        assert_eq!(elsewhere(|own| own.provider = "q".into()), Ok(vec![(0, None)]));
        assert_eq!(elsewhere(|own| own.models = vec![Glob("n*".into())]), Ok(vec![(0, None)]));
        // The operator's is not used in place of one that can't be opened.
        assert_eq!(elsewhere(|own| own.secret = None), Err(Denied::OwnCredentialUnusable));
    }

    #[test]
    fn what_an_own_credential_has_made_is_served_by_it_alone() {
        let object = |id: &str, credential| Object {
            id: id.into(),
            kind: ObjectKind::Response,
            org: OrgId(2),
            key: KeyId(1),
            call: CallId(1),
            provider: "p".into(),
            credential,
            at: NOW,
        };
        let objects = MemoryObjects::default();
        for object in [object("own", OWN_PLACES_FROM), object("operators", 0), object("gone", OWN_PLACES_FROM + 9)] {
            objects.claim(&object).expect("room");
        }
        let served = |id: &str| {
            let body = format!(r#"{{"model":"m","previous_response_id":"{id}"}}"#);
            let head = request_head::scan(body.as_bytes(), Dialect::OpenaiChat).expect("valid");
            let stored = Stored { objects: &objects, shared: &SharedObjects::default() };
            let both = [own(OWN_PLACES_FROM, false), own(OWN_PLACES_FROM + 1, true)];
            let own: OwnCredentials = both.into_iter().map(Arc::new).collect();
            let authenticated = authenticate(key(|key| key.own = Some(own)), Some("issued")).expect("a live key");
            let resolved = ready(authenticated.resolve(Box::new(head), &catalogue(), &stored));
            let places = |choice: &Choice| choice.own.as_ref().map(|own| own.place);
            resolved.map(|resolved| resolved.choices.iter().map(places).collect::<Vec<_>>())
        };
        assert_eq!(served("own"), Ok(vec![Some(OWN_PLACES_FROM)]));
        assert_eq!(served("operators"), Ok(vec![None]));
        assert!(matches!(served("gone"), Err(Denied::ObjectNotFound { .. })));
    }

    #[test]
    fn what_a_call_names_decides_who_serves_it() {
        let object = |id: &str, org, provider: &str| Object {
            id: id.into(),
            kind: ObjectKind::Response,
            org: OrgId(org),
            key: KeyId(1),
            call: CallId(1),
            provider: provider.into(),
            credential: 3,
            at: NOW,
        };
        let objects = MemoryObjects::default();
        for object in [object("mine", 2, "p"), object("elsewhere", 2, "q"), object("foreign", 5, "p")] {
            objects.claim(&object).expect("room");
        }
        let shared = SharedObjects::from([("everybodys".into(), vec!["p".into()])]);
        let resolved = |id: &str| {
            let body = format!(r#"{{"model":"m","previous_response_id":"{id}"}}"#);
            let head = request_head::scan(body.as_bytes(), Dialect::OpenaiChat).expect("valid");
            let stored = Stored { objects: &objects, shared: &shared };
            let authenticated = authenticate(key(|_| {}), Some("issued")).expect("a live key");
            ready(authenticated.resolve(Box::new(head), &catalogue(), &stored)).map(|resolved| resolved.credential)
        };
        assert_eq!((resolved("mine"), resolved("everybodys")), (Ok(Some(3)), Ok(None)));
        for id in ["elsewhere", "foreign", "unknown"] {
            assert!(matches!(resolved(id), Err(Denied::ObjectNotFound { field: "previous_response_id", .. })), "{id}");
        }
    }

    #[test]
    fn a_call_is_charged_what_it_used_and_written_down_once() {
        let journal = MemoryJournal::default();
        let mut call = admitted(&journal);
        let bound = call.intent().reserved;
        call.progress.tally.report(Usage::of(5, 10), true);
        let key = Arc::clone(call.key());
        let settled = call.settle(end(Outcome::Complete));
        assert_eq!(settled.terminal.charge, NanoUsd(5 + 100));
        assert!(!settled.bound_exceeded && bound > settled.terminal.charge);
        assert_eq!((key.chain.spend[0].spent(NOW), key.chain.spend[0].reserved()), (NanoUsd(105), NanoUsd::ZERO));
        let (intent, ends) = journal.calls().remove(&CallId(9)).expect("written down");
        let share = Share { quota: QuotaId(7), period: EpochMs(0) };
        assert_eq!((intent.shares, ends.len()), (vec![share], 1));
    }

    #[test]
    fn a_call_that_is_dropped_half_way_is_charged_what_was_relayed() {
        let journal = MemoryJournal::default();
        let mut call = admitted(&journal);
        let key = Arc::clone(call.key());
        let input = call.intent().input_estimate;
        call.progress.is_asked = true;
        call.progress.tally.relay_text(8);
        drop(call);
        let (_, ends) = journal.calls().remove(&CallId(9)).expect("written down");
        assert_eq!((ends.len(), ends[0].outcome, ends[0].estimated), (1, Outcome::Abandoned, true));
        assert_eq!(ends[0].usage, Usage::of(input, 2));
        assert_eq!((key.chain.spend[0].spent(NOW), key.chain.spend[0].reserved()), (ends[0].charge, NanoUsd::ZERO));
    }

    #[test]
    fn whoever_refused_is_paid_nothing() {
        let journal = MemoryJournal::default();
        let call = admitted(&journal);
        assert_eq!(call.settle(end(Outcome::Refused)).terminal.charge, NanoUsd::ZERO);
        let call = admitted(&journal);
        drop(call);
        let (_, ends) = journal.calls().remove(&CallId(9)).expect("written down");
        assert_eq!((ends[0].outcome, ends[0].charge), (Outcome::Unreached, NanoUsd::ZERO));
    }
}
