//! Strict limits: the bound of a call is set aside, its output limit made to fit, and nothing is passed.

use super::{BOUND_NANO, Links, code, limit_of, running};
use crate::money::{INPUT_NANO, OUTPUT_NANO, cost, cost_of, count, counting, dollars};
use crate::support::{Call, Gateway, Scripted, Setup, Upstream, eventually};
use serde_json::{Value, json};

/// A chat that says its usage as it is told to, whatever was asked.
const LONG_WORDS: &str = "wordswordswordswordswordswordswordswords";

/// The output limit in each request that the provider has got.
fn limits_received(provider: &Scripted) -> Vec<Value> {
    let body = |request: &[u8]| serde_json::from_slice::<Value>(request).expect("JSON");
    provider.requests().iter().map(|request| body(&request.body)["max_tokens"].clone()).collect()
}

#[test]
fn a_strict_limit_sets_the_bound_aside_and_charges_the_cost() {
    let gateway = Gateway::start();
    let call = counting(10);
    let price = cost_of(&gateway, &call);
    let key = gateway.create_key(&["--limit", "1", "--strict"]);
    let held = running(&gateway, &key, call.clone());
    assert_eq!(gateway.key_money(&key, "reserved"), price + BOUND_NANO);
    drop(held);
    eventually("it is given back", || (gateway.key_money(&key, "reserved") == 0).then_some(()));
    let before = gateway.key_money(&key, "usage");
    assert_eq!(gateway.call_with(&key, &call).status, 200);
    assert_eq!(gateway.key_money(&key, "usage") - before, price);
}

#[test]
fn the_output_limit_is_clamped_to_what_a_strict_limit_can_pay_for() {
    let gateway = Gateway::start();
    for owner in super::OWNERS {
        for call in [counting(2_000), Call::messages("count up").with("max_tokens", 2_000)] {
            for call in [call.clone(), call.streamed()] {
                let input = cost_of(&gateway, &call.clone().with("max_tokens", 1).with("stream", false)) - OUTPUT_NANO;
                let links = Links::new(&gateway);
                links.limit(owner, &["--limit", &dollars(input + BOUND_NANO + 300 * OUTPUT_NANO), "--strict"]);
                let answer = links.call(&call);
                assert_eq!((answer.status, answer.header("x-tollgate-max-tokens")), (200, Some("300")), "{answer:?}");
                let row = gateway.row(answer.request_id());
                assert_eq!((row.output_tokens, row.charge_nano), (300, input + 300 * OUTPUT_NANO));
                assert_eq!((row.reserved_nano, row.outcome.as_str()), (row.charge_nano + BOUND_NANO, "complete"));
                // What is left pays for no answer that is worth it.
                let refused = links.call(&call);
                assert_eq!(
                    (code(&refused).as_str(), refused.header("x-tollgate-max-tokens")),
                    ("spend_limit_reached", None)
                );
                let served = gateway.provider().log();
                let last = served.last().expect("a call");
                assert_eq!((&last["output_tokens_billed"], &last["complete"]), (&300.into(), &true.into()));
            }
        }
    }
}

#[test]
fn no_request_is_clamped_below_the_smallest_answer_that_is_worth_it() {
    let provider = Scripted::answering(200, r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#);
    let setup = Setup::new().upstream(Upstream::openai("scripted", provider.url()));
    let gateway = setup.section("[quotas]\nclamp_output_tokens_min = 100").start();
    let bound = |call: &Call| {
        let key = gateway.create_key(&["--limit", "1000", "--strict"]);
        assert_eq!(gateway.call_with(&key, call).header("x-tollgate-max-tokens"), None);
        let answer = gateway.call_with(&key, call);
        // The balance is elastic, and sets less aside.
        gateway.row(answer.request_id()).reserved_nano + BOUND_NANO
    };
    let call = counting(2_000);
    let of_input = bound(&call) - 2_000 * OUTPUT_NANO;
    let sent = provider.requests().len();
    for (left, expected) in [(99, None), (100, Some(100)), (1_999, Some(1_999)), (2_000, Some(2_000))] {
        let limit = dollars(of_input + left * OUTPUT_NANO);
        let key = gateway.create_key(&["--limit", &limit, "--strict"]);
        let answer = gateway.call_with(&key, &call);
        let told = answer.header("x-tollgate-max-tokens").map(str::to_owned);
        assert_eq!(told, expected.filter(|tokens| *tokens < 2_000).map(|tokens: i64| tokens.to_string()), "{left}");
        assert_eq!(answer.status, if expected.is_some() { 200 } else { 402 });
    }
    assert_eq!(limits_received(&provider)[sent..], [json!(100), json!(1_999), json!(2_000)]);
    // A short answer that was asked for is no clamp, and is not lengthened.
    let short = counting(10);
    let key = gateway.create_key(&["--limit", &dollars(bound(&short)), "--strict"]);
    assert_eq!(gateway.call_with(&key, &short).header("x-tollgate-max-tokens"), None);
    assert_eq!(limits_received(&provider).last(), Some(&json!(10)));
}

#[test]
fn what_others_have_set_aside_clamps_nobody() {
    let gateway = Gateway::start();
    let call = counting(2_000);
    let bound = cost_of(&gateway, &counting(1)) + 1_999 * OUTPUT_NANO + BOUND_NANO;
    let key = gateway.create_key(&["--limit", &dollars(bound + bound / 2), "--strict"]);
    let held = running(&gateway, &key, call.clone());
    assert_eq!(code(&gateway.call_with(&key, &call)), "credits_reserved");
    drop(held);
    let answer =
        eventually("it comes back", || Some(gateway.call_with(&key, &call)).filter(|answer| answer.status == 200));
    assert_eq!(answer.header("x-tollgate-max-tokens"), None);
}

#[test]
fn a_call_whose_cost_nothing_bounds_is_refused_by_strict_limits_alone() {
    let gateway = Gateway::start();
    let unbounded = counting(10).with("web_search_options", json!({}));
    for owner in super::OWNERS {
        let links = Links::new(&gateway);
        assert_eq!(links.call(&unbounded).status, 200);
        links.limit(owner, &["--limit", "100"]);
        links.limit(owner, &["--limit", "50", "--period", "day", "--strict"]);
        let refused = super::answered(&gateway, &links.key, &unbounded, "cost_unbounded");
        assert_eq!(refused.refusal(), (422, "cost_unbounded".to_owned()));
        assert_eq!(refused.json()["error"]["remedy"], "bound_the_cost");
        let limit = limit_of(&gateway, &links.key, &format!("{owner}_spend_limit"));
        assert_eq!(links.call(&counting(10)).status, 200, "{limit}");
    }
    assert_eq!(gateway.key_view(&gateway.key)["reserved"].to_string(), "0");
}

#[test]
fn a_provider_that_bills_past_the_bound_is_paid_and_counted_and_the_quota_is_in_debt() {
    let gateway = Gateway::start();
    let price = cost_of(&gateway, &counting(10));
    let key = gateway.create_key(&["--limit", &dollars(price + BOUND_NANO), "--strict"]);
    let answer = gateway.call_with(&key, &counting(10).simulate("over=500"));
    let row = gateway.row(answer.request_id());
    assert_eq!((row.charge_nano, row.reserved_nano), (price + 500 * OUTPUT_NANO, price));
    assert_eq!(cost(&answer), row.charge_nano);
    assert_eq!(count(&gateway, "tollgate_calls_bound_exceeded_total", &[]), "1");
    assert_eq!(gateway.key_money(&key, "usage"), row.charge_nano);
    // So much more must be allowed before another call passes.
    let debt = row.charge_nano - price - BOUND_NANO;
    gateway.tollgate(&["key", "limit", &key.id, "--limit", &dollars(price + BOUND_NANO + debt)]);
    assert_eq!(gateway.call_with(&key, &counting(10)).refusal().1, "spend_limit_reached");
    gateway.tollgate(&["key", "limit", &key.id, "--limit", &dollars(2 * (price + BOUND_NANO) + debt)]);
    super::answered(&gateway, &key, &counting(10), "200");
    gateway.kill();
    gateway.restart();
    assert_eq!(gateway.key_money(&key, "usage"), row.charge_nano + price);
    let audit = gateway.audit();
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
}

#[test]
fn a_clamped_answer_that_breaks_off_is_not_estimated_past_its_clamp() {
    // More text than so many tokens are thought to be.
    let provider = Scripted::start(|exchange| {
        exchange.begin_stream();
        for _ in 0..250 {
            exchange.event(&json!({"choices": [{"index": 0, "delta": {"content": LONG_WORDS}}]}).to_string());
        }
        exchange.close();
    });
    let gateway = Setup::new().upstream(Upstream::openai("scripted", provider.url())).start();
    let call = counting(2_000).streamed();
    let limit = 3_000_000 + 400 * OUTPUT_NANO;
    let key = gateway.create_key(&["--limit", &dollars(limit), "--strict"]);
    let mut wire = gateway.connect();
    wire.send(&call.request(&key.token).bytes());
    let head = wire.head();
    let clamp: i64 = head.header("x-tollgate-max-tokens").expect("a clamp").parse().expect("a number");
    assert!(wire.events().is_err(), "it breaks off");
    let row = gateway.row(head.request_id());
    assert_eq!((row.outcome.as_str(), row.output_tokens), ("upstream_failed", clamp));
    assert!(row.charge_nano <= row.reserved_nano && row.charge_nano <= limit, "{row:?}");
    assert!(row.charge_nano >= clamp * OUTPUT_NANO + 10 * INPUT_NANO, "{row:?}");
}
