//! The chain of quotas from the key to its project and its organisation: who refuses, what a refusal leaves alone, and how
//! soon another limit holds.

mod extension;
mod nodes;
mod restarts;
mod storms;
mod strict;
mod windows;

use crate::money::{Account, OUTPUT_NANO, cost_of, counting, dollars, nano, raw, within_a_second};
use crate::support::{Answer, Call, Gateway, Key, Request, Wire, eventually};
use filters::time::{EpochMs, date_of_day};
use serde_json::{Value, json};

/// More than a call of the tests costs, in nano-USD.
const PLENTY: i64 = 1_000_000_000_000;

/// What a strict quota sets aside for a short call beyond what it costs: instructions of the provider's own, in input tokens.
const BOUND_NANO: i64 = 256 * crate::money::INPUT_NANO;

/// A key with all links of a chain.
struct Links<'a> {
    gateway: &'a Gateway,
    org: String,
    project: String,
    key: Key,
}

impl<'a> Links<'a> {
    fn new(gateway: &'a Gateway) -> Self {
        let account = Account::with(gateway, PLENTY);
        let made = gateway.tollgate(&["project", "create", "web", "--org", &account.org]);
        let project = made["id"].as_str().expect("an id").to_owned();
        let key = account.key(&["--project", &project]);
        Self { gateway, org: account.org, project, key }
    }

    /// Another key of the same project.
    fn sibling(&self) -> Key {
        let arguments = ["key", "create", "--org", &self.org, "--project", &self.project, "--name", "sibling"];
        let made = self.gateway.tollgate(&arguments);
        let text = |field: &str| made[field].as_str().expect("the command prints it").to_owned();
        Key { id: text("id"), token: text("token") }
    }

    /// Sets a limit of one link.
    fn limit(&self, owner: &str, arguments: &[&str]) {
        let id = match owner {
            "key" => &self.key.id,
            "project" => &self.project,
            _ => &self.org,
        };
        let command = if owner == "organisation" { "org" } else { owner };
        self.gateway.tollgate(&[&[command, "limit", id], arguments].concat());
    }

    fn call(&self, call: &Call) -> Answer {
        self.gateway.call_with(&self.key, call)
    }
}

/// How a call was answered: with 200, or with the code of a refusal.
fn code(answer: &Answer) -> String {
    if answer.status == 200 { "200".to_owned() } else { answer.refusal().1 }
}

/// Calls until the answer is as expected, which must be within a second.
fn answered(gateway: &Gateway, key: &Key, call: &Call, expected: &str) -> Answer {
    within_a_second(expected, || Some(gateway.call_with(key, call)).filter(|answer| code(answer) == expected))
}

/// What `/v1/key` says of one limit, as it stands there.
fn limit_of(gateway: &Gateway, key: &Key, source: &str) -> Value {
    let view = gateway.key_view(key);
    let limits = view["limits"].as_array().expect("a list");
    limits.iter().find(|limit| limit["source"] == source).unwrap_or_else(|| panic!("no {source} in {view}")).clone()
}

/// An amount of money in a value of `/v1/key`.
fn money(value: &Value, field: &str) -> i64 {
    nano(raw(&value.to_string(), field))
}

/// A stream that has begun and does not end by itself.
fn running(gateway: &Gateway, key: &Key, call: Call) -> Wire {
    let mut wire = gateway.connect();
    wire.send(&call.streamed().simulate("hang-after=1").request(&key.token).bytes());
    assert_eq!(wire.head().status, 200);
    wire
}

/// A moment as the commands read it.
fn typed(moment: EpochMs) -> String {
    let (year, month, day) = date_of_day(moment.day());
    let seconds = moment.0.div_euclid(1_000).rem_euclid(86_400);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

const OWNERS: [&str; 3] = ["key", "project", "organisation"];

#[test]
fn each_link_of_the_chain_refuses_money_by_its_own_name_and_the_others_keep_theirs() {
    let gateway = Gateway::start();
    let price = cost_of(&gateway, &counting(10));
    for strictness in ["--elastic", "--strict"] {
        for owner in OWNERS {
            let links = Links::new(&gateway);
            for other in OWNERS {
                let limit = if other == owner { price + BOUND_NANO } else { 100 * price };
                links.limit(other, &["--limit", &dollars(limit), strictness]);
            }
            links.limit("project", &["--rpm", "1000", "--tpm", "1000000", "--concurrency", "5"]);
            let after = |answer: &Answer| (code(answer), gateway.key_view(&links.key));
            let (passed, _) = after(&links.call(&counting(10)));
            assert_eq!(passed, "200");
            // It takes what is left of one quota and lets the other two alone.
            let before = gateway.key_view(&links.key);
            let refused = links.call(&counting(100));
            assert_eq!(after(&refused), ("spend_limit_reached".to_owned(), before), "{owner} {strictness}");
            let error = &refused.json()["error"];
            assert_eq!(error["limit_source"], format!("{owner}_spend_limit"));
            assert_eq!((&error["remedy"], refused.header("retry-after")), (&"raise_limit".into(), None));
        }
    }
}

#[test]
fn requests_and_tokens_and_concurrency_count_for_a_whole_project_and_organisation() {
    let gateway = Gateway::start();
    let tokens = gateway.call(&counting(10)).json()["usage"]["total_tokens"].as_i64().expect("a total");
    let tokens = (tokens * 3 / 2).to_string();
    let limits = [["--rpm", "1"], ["--tpm", &tokens], ["--requests", "1"]];
    let named = ["requests_per_minute", "tokens_per_minute", "requests_per_day"];
    for owner in OWNERS {
        for (limit, name) in limits.iter().zip(named) {
            let links = Links::new(&gateway);
            let period: &[&str] = if limit[0] == "--requests" { &["--period", "day"] } else { &[] };
            links.limit(owner, &[&limit[..], period].concat());
            // The first may be of the minute before.
            let refused = eventually("the next one is refused", || {
                let sibling = if owner == "key" { links.key.clone() } else { links.sibling() };
                Some(gateway.call_with(&sibling, &counting(10))).filter(|answer| answer.status != 200)
            });
            assert_eq!(refused.refusal(), (429, "rate_limit_exceeded".to_owned()));
            let error = &refused.json()["error"];
            assert_eq!((&error["limit_source"], &error["remedy"]), (&format!("{owner}_{name}").into(), &"wait".into()));
            assert!(refused.header("retry-after").is_some(), "{refused:?}");
        }
        let links = Links::new(&gateway);
        links.limit(owner, &["--concurrency", "1"]);
        let held = running(&gateway, &links.key, counting(10));
        let key = if owner == "key" { links.key.clone() } else { links.sibling() };
        let refused = gateway.call_with(&key, &counting(10));
        assert_eq!(refused.refusal(), (429, "concurrency_exceeded".to_owned()));
        assert_eq!(refused.json()["error"]["limit_source"], format!("{owner}_concurrency"));
        drop(held);
        eventually("there is room again", || (gateway.call_with(&key, &counting(10)).status == 200).then_some(()));
    }
}

#[test]
fn a_limit_of_some_models_counts_no_others() {
    let gateway = Gateway::start();
    let price = cost_of(&gateway, &counting(10));
    for owner in OWNERS {
        let links = Links::new(&gateway);
        links.limit(owner, &["--limit", &dollars(price), "--model", "gpt-*"]);
        links.limit(owner, &["--rpm", "1000", "--model", "claude-*"]);
        let chat = links.call(&counting(10));
        assert_eq!((chat.status, chat.header("x-ratelimit-limit-requests")), (200, None), "another model's rate");
        let refused = links.call(&counting(10));
        assert_eq!(refused.json()["error"]["limit_source"], format!("{owner}_spend_limit"));
        assert_eq!(refused.header("x-ratelimit-limit-requests"), None);
        let message = links.call(&Call::messages("count up").with("max_tokens", 10));
        assert_eq!((message.status, message.header("x-ratelimit-limit-requests")), (200, Some("1000")));
        let limit = limit_of(&gateway, &links.key, &format!("{owner}_spend_limit"));
        assert_eq!((&limit["model"], money(&limit, "usage")), (&"gpt-*".into(), price));
    }
}

#[test]
fn another_limit_holds_within_a_second_in_both_directions() {
    let gateway = Gateway::start();
    let call = counting(10);
    let price = cost_of(&gateway, &call);
    for owner in OWNERS {
        let links = Links::new(&gateway);
        links.limit(owner, &["--limit", &dollars(10 * price)]);
        assert_eq!(links.call(&call).status, 200);
        links.limit(owner, &["--limit", &dollars(price)]);
        answered(&gateway, &links.key, &call, "spend_limit_reached");
        links.limit(owner, &["--limit", &dollars(PLENTY)]);
        answered(&gateway, &links.key, &call, "200");
        links.limit(owner, &["--limit", "none"]);
        links.limit(owner, &["--rpm", "1"]);
        answered(&gateway, &links.key, &call, "rate_limit_exceeded");
        links.limit(owner, &["--rpm", "1000"]);
        answered(&gateway, &links.key, &call, "200");
    }
}

#[test]
fn a_limit_that_is_lowered_holds_for_what_running_calls_give_back() {
    let gateway = Gateway::start();
    let price = cost_of(&gateway, &counting(10));
    let links = Links::new(&gateway);
    links.limit("project", &["--limit", &dollars(100 * price)]);
    let held = running(&gateway, &links.key, counting(600));
    let reserved = 590 * OUTPUT_NANO + price;
    assert_eq!(gateway.key_money(&links.key, "reserved"), reserved);
    links.limit("project", &["--limit", &dollars(2 * price)]);
    let limit = || money(&limit_of(&gateway, &links.key, "project_spend_limit"), "limit");
    within_a_second("it is lower", || (limit() == 2 * price).then_some(()));
    assert_eq!(code(&links.call(&counting(10))), "credits_reserved");
    drop(held);
    let spent = || money(&limit_of(&gateway, &links.key, "project_spend_limit"), "usage");
    eventually("the stream has been charged", || (spent() > 0).then_some(()));
    for _ in 0..5 {
        links.call(&counting(10));
    }
    assert!(spent() <= 2 * price, "{} of {}", spent(), 2 * price);
}

#[test]
fn an_increase_holds_within_a_second_and_ends_at_its_date() {
    let gateway = Gateway::start();
    let call = counting(10);
    let price = cost_of(&gateway, &call);
    for owner in OWNERS {
        let links = Links::new(&gateway);
        links.limit(owner, &["--limit", &dollars(price)]);
        assert_eq!([(); 2].map(|()| code(&links.call(&call))), ["200", "spend_limit_reached"]);
        // The commands read whole seconds: so this is four to five from now.
        let until = EpochMs(tollgate::clock::now().0 / 1_000 * 1_000 + 5_000);
        links.limit(owner, &["--increase", &dollars(PLENTY), "--until", &typed(until)]);
        answered(&gateway, &links.key, &call, "200");
        let passed_at = eventually("the increase has ended", || {
            let begun = tollgate::clock::now();
            let answer = links.call(&call);
            (code(&answer) == "spend_limit_reached").then_some(begun)
        });
        assert!(passed_at >= until.plus(-1_000), "{owner}: refused at {passed_at:?}, though it holds until {until:?}");
        assert!(money(&limit_of(&gateway, &links.key, &format!("{owner}_spend_limit")), "remaining") == 0);
    }
}

#[test]
fn what_others_have_set_aside_is_another_refusal_than_what_is_gone() {
    let gateway = Gateway::start();
    let call = counting(10);
    let price = cost_of(&gateway, &call);
    for strictness in ["--elastic", "--strict"] {
        for owner in OWNERS {
            let links = Links::new(&gateway);
            let bound = if strictness == "--strict" { price + BOUND_NANO } else { price };
            links.limit(owner, &["--limit", &dollars(bound + price / 2), strictness]);
            let key = if owner == "key" { links.key.clone() } else { links.sibling() };
            let held = running(&gateway, &links.key, call.clone());
            let refused = gateway.call_with(&key, &call);
            assert_eq!(refused.refusal(), (402, "credits_reserved".to_owned()), "{owner} {strictness}");
            let error = &refused.json()["error"];
            assert_eq!(error["limit_source"], format!("{owner}_spend_limit"));
            assert_eq!((&error["remedy"], refused.header("x-should-retry")), (&"wait".into(), Some("true")));
            drop(held);
            eventually("it comes back", || (gateway.call_with(&key, &call).status == 200).then_some(()));
            let refused = gateway.call_with(&key, &call);
            assert_eq!(refused.refusal(), (402, "spend_limit_reached".to_owned()), "{owner} {strictness}");
            assert_eq!(refused.header("x-should-retry"), Some("false"));
        }
    }
}

#[test]
fn a_key_is_told_of_every_limit_of_its_chain() {
    let gateway = Gateway::start();
    let links = Links::new(&gateway);
    links.limit("key", &["--rpm", "50"]);
    links.limit("key", &["--requests", "40", "--period", "day", "--zone", "Asia/Kathmandu", "--model", "gpt-*"]);
    links.limit("project", &["--tokens", "30", "--period", "hour", "--model", "claude-*"]);
    links.limit("organisation", &["--concurrency", "7"]);
    let held = running(&gateway, &links.key, counting(10));
    let shown = |source: &str| {
        let limit = limit_of(&gateway, &links.key, source);
        ["window", "model", "limit", "usage", "remaining"].map(|field| limit[field].clone())
    };
    let minute = shown("key_requests_per_minute");
    assert_eq!((&minute[0], &minute[1], &minute[2]), (&json!("calendar minute UTC"), &Value::Null, &json!(50)));
    let day = json!(["calendar day Asia/Kathmandu", "gpt-*", 40, 1, 39]);
    assert_eq!(json!(shown("key_requests_per_day")), day);
    let hour = json!(["calendar hour UTC", "claude-*", 30, 0, 30]);
    assert_eq!(json!(shown("project_tokens_per_hour")), hour);
    assert_eq!(json!(shown("organisation_concurrency")), json!([null, null, 7, 1, 6]));
    assert!(limit_of(&gateway, &links.key, "organisation_concurrency")["resets_at"].is_null());
    let resets = limit_of(&gateway, &links.key, "project_tokens_per_hour")["resets_at"].clone();
    assert!(resets.as_str().is_some_and(|at| at.ends_with(":00:00Z")), "{resets}");
    // A day's is no minute's.
    let view = gateway.key_view(&links.key);
    assert_eq!((&view["requests_per_minute"], &view["tokens_per_minute"]), (&json!(50), &Value::Null));
    drop(held);
}

#[test]
fn an_organisations_limit_is_beside_its_balance() {
    let gateway = Gateway::start();
    let price = cost_of(&gateway, &counting(10));
    let links = Links::new(&gateway);
    links.limit("organisation", &["--limit", &dollars(price)]);
    assert_eq!(links.call(&counting(10)).status, 200);
    assert_eq!(links.call(&counting(10)).json()["error"]["limit_source"], "organisation_spend_limit");
    let answer = gateway.exchange(&Request::get("/v1/key").bearer(&links.key.token)).text();
    assert_eq!(nano(raw(&answer, "organisation_credits_remaining")), PLENTY - price);
}
