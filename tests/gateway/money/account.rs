//! Organisations beside the gateway's own, what calls cost, and many calls at the same moment.

use crate::support::{Answer, Call, DEADLINE, Gateway, Key, Wire, eventually};
use std::collections::BTreeMap;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use tollgate::store::Store;

/// What the catalogue of the tests says, in nano-USD for a token.
pub(crate) const INPUT_NANO: i64 = 1_000;
pub(crate) const CACHE_READ_NANO: i64 = 100;
pub(crate) const OUTPUT_NANO: i64 = 10_000;

/// Connections that one thread of a storm holds.
const CONNECTIONS_PER_THREAD: usize = 20;

/// An organisation.
pub(crate) struct Account<'a> {
    gateway: &'a Gateway,
    pub(crate) org: String,
}

impl<'a> Account<'a> {
    /// One without credit.
    pub(crate) fn poor(gateway: &'a Gateway) -> Self {
        let made = gateway.tollgate(&["org", "create", "account"]);
        Self { gateway, org: made["id"].as_str().expect("an id").to_owned() }
    }

    /// One with so much credit.
    pub(crate) fn with(gateway: &'a Gateway, nano: i64) -> Self {
        let account = Self::poor(gateway);
        account.top_up(nano);
        account
    }

    pub(crate) fn top_up(&self, nano: i64) {
        self.gateway.tollgate(&["org", "topup", &self.org, &dollars(nano)]);
    }

    /// A key of it, with arguments of `tollgate key create`.
    pub(crate) fn key(&self, arguments: &[&str]) -> Key {
        let made =
            self.gateway.tollgate(&[&["key", "create", "--org", &self.org, "--name", "test"], arguments].concat());
        let text = |field: &str| made[field].as_str().expect("the command prints it").to_owned();
        Key { id: text("id"), token: text("token") }
    }

    /// Suspends it, or lets it go on.
    pub(crate) fn suspend(&self, is_suspended: bool) {
        let org = self.org.parse().expect("an organisation's id");
        let now = tollgate::clock::now();
        block_on(async {
            let store = Store::open(&self.gateway.data()).await.expect("the store beside the gateway");
            store.suspend_organisation(org, is_suspended, now).await.expect("it is there");
            store.close().await;
        });
    }
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Changes the books behind the gateway's back.
pub(crate) fn meddle(gateway: &Gateway, statement: &'static str) {
    use sqlx::{ConnectOptions, sqlite::SqliteConnectOptions};
    block_on(async {
        let options = SqliteConnectOptions::new().filename(gateway.data().join("tollgate.db"));
        let mut books = options.busy_timeout(Duration::from_secs(5)).connect().await.expect("the books are there");
        sqlx::query(statement).execute(&mut books).await.expect(statement);
    });
}

/// How often something is done: in the normal run, and in the long one.
pub(crate) fn times(normal: usize, soak: usize) -> usize {
    if std::env::var_os("TOLLGATE_SOAK").is_some() { soak } else { normal }
}

/// Nano-USD as decimal dollars, as people write them.
pub(crate) fn dollars(nano: i64) -> String {
    format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)
}

/// Decimal dollars as nano-USD, read without a float.
pub(crate) fn nano(dollars: &str) -> i64 {
    let (whole, fraction) = dollars.split_once('.').unwrap_or((dollars, ""));
    assert!(fraction.len() <= 9, "finer than a nano-dollar: {dollars}");
    format!("{whole}{fraction:0<9}").parse().unwrap_or_else(|_| panic!("not an amount: {dollars}"))
}

/// The text of a number in JSON, as it stands there.
pub(crate) fn raw<'t>(json: &'t str, field: &str) -> &'t str {
    let name = format!("\"{field}\":");
    let at = json.find(&name).unwrap_or_else(|| panic!("no {field} in {json}")) + name.len();
    json[at..].split([',', '}']).next().unwrap_or_default()
}

/// What a whole answer costs by the usage in it and the catalogue's prices.
pub(crate) fn cost(answer: &Answer) -> i64 {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    let usage = &body["usage"];
    let count = |pointer: &str| usage.pointer(pointer).and_then(serde_json::Value::as_i64).unwrap_or(0);
    // OpenAI's totals include what was cached, Anthropic's don't.
    let cached = count("/prompt_tokens_details/cached_tokens") + count("/cache_read_input_tokens");
    let fresh = count("/prompt_tokens") - count("/prompt_tokens_details/cached_tokens") + count("/input_tokens");
    let output = count("/completion_tokens") + count("/output_tokens");
    fresh * INPUT_NANO + cached * CACHE_READ_NANO + output * OUTPUT_NANO
}

/// A call whose answer fills its limit, so that what is set aside for it is what it costs.
pub(crate) fn counting(output_tokens: i64) -> Call {
    Call::chat("count up").with("max_tokens", output_tokens)
}

/// What a call costs, found out with the gateway's own key.
pub(crate) fn cost_of(gateway: &Gateway, call: &Call) -> i64 {
    cost(&gateway.call(call))
}

/// A sum of series when no call is in flight: a call is counted after its answer has left, and in flight until then.
pub(crate) fn count(gateway: &Gateway, name: &str, labels: &[&str]) -> String {
    let in_flight = || gateway.metric("tollgate_requests_in_flight", &[]).to_string();
    eventually("all calls have been counted", || (in_flight() == "0").then_some(()));
    gateway.metric(name, labels).to_string()
}

/// Polls until it is seen; panics when it takes more than a second. Only the long run, which has the machine for itself,
/// holds it to that.
pub(crate) fn within_a_second<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let (begun, most) = (Instant::now(), times(DEADLINE.as_secs() as usize, 1));
    loop {
        let asked = Instant::now();
        if let Some(answer) = ask() {
            return answer;
        }
        // The last question that was answered with no was asked within the second.
        assert!(asked - begun < Duration::from_secs(most as u64), "not within a second: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How a storm of calls ended: how many passed, and how many were refused for good, by code.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Storm {
    pub(crate) passed: usize,
    pub(crate) refused: BTreeMap<String, usize>,
}

/// Makes many calls at the same moment, each on a connection of its own, the keys in turn. What a code in `transient`
/// refuses is tried again until it passes or is refused for another reason.
pub(crate) fn storm(gateway: &Gateway, keys: &[Key], call: &Call, calls: usize, transient: &[&str]) -> Storm {
    assert!(calls.is_multiple_of(CONNECTIONS_PER_THREAD), "whole threads");
    let threads = calls / CONNECTIONS_PER_THREAD;
    let start = Barrier::new(threads);
    let requests: Vec<Vec<u8>> = keys.iter().map(|key| call.request(&key.token).bytes()).collect();
    let one_thread = |thread: usize| {
        let of_connection = |number: usize| &requests[(thread * CONNECTIONS_PER_THREAD + number) % requests.len()];
        let mut wires: Vec<(Wire, &Vec<u8>)> =
            (0..CONNECTIONS_PER_THREAD).map(|number| (gateway.connect(), of_connection(number))).collect();
        start.wait();
        let mut storm = Storm::default();
        while !wires.is_empty() {
            wires.iter_mut().for_each(|(wire, request)| wire.send(request));
            wires.retain_mut(|(wire, _)| !storm.takes(&wire.answer(), transient));
        }
        storm
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one_thread(thread))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("a thread of the storm"))
            .fold(Storm::default(), Storm::and)
    })
}

/// Begins many streams at the same moment, each on a connection of its own, the keys in turn, and ends none before all have
/// been answered.
pub(crate) fn storm_of_held(gateway: &Gateway, keys: &[Key], call: &Call, calls: usize) -> Storm {
    assert!(calls.is_multiple_of(CONNECTIONS_PER_THREAD), "whole threads");
    let start = Barrier::new(calls / CONNECTIONS_PER_THREAD);
    let call = call.clone().streamed().simulate("hang-after=1");
    let requests: Vec<Vec<u8>> = keys.iter().map(|key| call.request(&key.token).bytes()).collect();
    let one_thread = || {
        let mut wires: Vec<Wire> = (0..CONNECTIONS_PER_THREAD).map(|_| gateway.connect()).collect();
        start.wait();
        wires.iter_mut().zip(requests.iter().cycle()).for_each(|(wire, request)| wire.send(request));
        let mut storm = Storm::default();
        for wire in &mut wires {
            let mut answer = wire.head();
            if answer.status != 200 {
                answer.body = wire.body(&answer).expect("a refusal is whole");
            }
            assert!(storm.takes(&answer, &[]), "no refusal is transient here");
        }
        start.wait();
        storm
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..calls / CONNECTIONS_PER_THREAD).map(|_| scope.spawn(one_thread)).collect();
        let storms = running.into_iter().map(|thread| thread.join().expect("a thread of the storm"));
        storms.fold(Storm::default(), Storm::and)
    })
}

impl Storm {
    /// Counts an answer; false if the call is to be made again.
    fn takes(&mut self, answer: &Answer, transient: &[&str]) -> bool {
        if answer.status == 200 {
            self.passed += 1;
            return true;
        }
        let (_, code) = answer.refusal();
        if transient.contains(&code.as_str()) {
            return false;
        }
        *self.refused.entry(code).or_default() += 1;
        true
    }

    fn and(mut self, other: Self) -> Self {
        self.passed += other.passed;
        for (code, count) in other.refused {
            *self.refused.entry(code).or_default() += count;
        }
        self
    }

    /// So many passed, and the others were refused with this code.
    pub(crate) fn of(passed: usize, code: &str, refused: usize) -> Self {
        Self { passed, refused: BTreeMap::from([(code.to_owned(), refused)]) }
    }
}
