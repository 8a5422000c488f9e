//! Streams that outgrow what was set aside for them: more is set aside while there is credit, and then they are cut.

use super::{Links, running};
use crate::money::{OUTPUT_NANO, cost_of, count, counting, dollars};
use crate::support::{Call, Gateway, Row, Setup, eventually};
use serde_json::{Value, json};

/// Output tokens that a stream sets aside at first here.
const ALLOWANCE: i64 = 100;
/// Where credit is short, so many more at a time.
const SMALL_STEP: i64 = 256;

fn gateway() -> Gateway {
    Setup::new().section(&format!("[quotas]\nreserve_output_tokens_max = {ALLOWANCE}")).start()
}

/// Streams of both protocols that would go on for long, a token at a time so that each is looked at.
fn long_streams() -> [Call; 2] {
    [counting(3_000), Call::messages("count up").with("max_tokens", 3_000)]
        .map(|call| call.streamed().simulate("token-ms=1"))
}

/// What the input of a call costs.
fn input_of(gateway: &Gateway, call: &Call) -> i64 {
    let short = call.clone().with("max_tokens", 1).with("stream", false);
    cost_of(gateway, &short) - OUTPUT_NANO
}

/// Lets a stream be cut by a limit that pays for so many output tokens; gives its events and its row.
fn cut_at(gateway: &Gateway, links: &Links<'_>, call: &Call) -> (Vec<Value>, Row) {
    let answer = links.call(call);
    assert_eq!(answer.status, 200);
    let id = answer.request_id().to_owned();
    let mut events = answer.events();
    if events.last().is_some_and(|data| data == "[DONE]") {
        events.pop();
    }
    (events.iter().map(|data| serde_json::from_str(data).expect("JSON")).collect(), gateway.row(&id))
}

fn assert_is_cut(row: &Row, (input, limit): (i64, i64)) {
    assert_eq!((row.outcome.as_str(), row.error.as_deref()), ("cut", Some("spend_limit_reached")), "{row:?}");
    assert_eq!((row.status, row.is_estimated), (200, true), "{row:?}");
    assert_eq!(row.charge_nano, input + row.output_tokens * OUTPUT_NANO, "{row:?}");
    // All that could be set aside was used, and no more was passed than comes between two looks.
    let least = ALLOWANCE + (limit - ALLOWANCE) / SMALL_STEP * SMALL_STEP;
    assert!((least..=limit + 100).contains(&row.output_tokens), "{row:?}");
}

#[test]
fn a_chat_that_no_quota_pays_for_any_longer_is_cut_cleanly() {
    let gateway = gateway();
    let [call, _] = long_streams();
    let call = call.with("stream_options", json!({"include_usage": true}));
    let input = input_of(&gateway, &call.clone().with("stream_options", Value::Null));
    for owner in super::OWNERS {
        let links = Links::new(&gateway);
        links.limit(owner, &["--limit", &dollars(input + 400 * OUTPUT_NANO)]);
        let mut wire = gateway.connect();
        wire.send(&call.request(&links.key.token).bytes());
        let id = wire.head().request_id().to_owned();
        let events = wire.events().expect("a clean end");
        assert_eq!(events.last().map(String::as_str), Some("data: [DONE]"));
        let chunk = |place: usize| -> Value {
            serde_json::from_str(events[events.len() - place].trim_start_matches("data: ")).expect("JSON")
        };
        let (last, usage, row) = (chunk(3), chunk(2), gateway.row(&id));
        assert_eq!(last["choices"][0]["finish_reason"], "length");
        assert_eq!(last["tollgate"], json!({"code": "spend_limit_reached"}));
        assert_eq!(last["id"], chunk(4)["id"]);
        assert_is_cut(&row, (input, 400));
        assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &row.output_tokens.into()));
        let amount = |field: &str| gateway.key_money(&links.key, field);
        assert_eq!((amount("usage"), amount("reserved")), (row.charge_nano, 0));
        // The connection is still good.
        wire.send(&counting(3_000).request("nobody").bytes());
        assert_eq!(wire.answer().status, 401);
    }
    // The provider was told to stop: what it wrote afterwards nobody has read.
    let is_stopped = |call: &&Value| call["stream"] == true && call["complete"] == false;
    eventually("the provider is told to stop", || {
        (gateway.provider().log().iter().filter(is_stopped).count() == 3).then_some(())
    });
}

#[test]
fn a_message_that_no_quota_pays_for_any_longer_is_cut_cleanly() {
    let gateway = gateway();
    let [_, call] = long_streams();
    let input = input_of(&gateway, &call);
    let links = Links::new(&gateway);
    links.limit("project", &["--limit", &dollars(input + 400 * OUTPUT_NANO)]);
    let (events, row) = cut_at(&gateway, &links, &call);
    let [.., stop, delta, end] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((&stop["type"], &end["type"]), (&"content_block_stop".into(), &"message_stop".into()));
    assert_eq!((&delta["type"], &delta["delta"]["stop_reason"]), (&"message_delta".into(), &"max_tokens".into()));
    assert_eq!(delta["usage"]["output_tokens"], row.output_tokens);
    assert_is_cut(&row, (input, 400));
}

#[test]
fn each_choice_of_a_cut_chat_is_ended() {
    let gateway = gateway();
    let [call, _] = long_streams();
    let call = call.with("n", 3);
    let links = Links::new(&gateway);
    links.limit("key", &["--limit", &dollars(input_of(&gateway, &call.clone().with("n", 1)) + 700 * OUTPUT_NANO)]);
    let (events, row) = cut_at(&gateway, &links, &call);
    let ended = events.iter().filter(|event| event["choices"][0]["finish_reason"] == "length");
    let ended: Vec<i64> = ended.filter_map(|event| event["choices"][0]["index"].as_i64()).collect();
    assert_eq!((ended, row.outcome.as_str()), (vec![0, 1, 2], "cut"));
}

#[test]
fn a_stream_is_extended_while_there_is_credit_and_the_rest_comes_back() {
    let gateway = gateway();
    for call in long_streams() {
        let call = call.with("max_tokens", 1_000);
        let price = input_of(&gateway, &call) + 1_000 * OUTPUT_NANO;
        let links = Links::new(&gateway);
        for owner in super::OWNERS {
            links.limit(owner, &["--limit", &dollars(price)]);
        }
        let answer = links.call(&call);
        let row = gateway.row(answer.request_id());
        assert_eq!((row.outcome.as_str(), row.output_tokens, row.charge_nano), ("complete", 1_000, price));
        // It is told what was set aside in the end, which is no more than all that it could need.
        assert_eq!((row.reserved_nano, row.is_estimated), (price, false));
        let amount = |field: &str| gateway.key_money(&links.key, field);
        assert_eq!((amount("usage"), amount("reserved")), (price, 0));
    }
    assert_eq!(count(&gateway, "tollgate_calls_bound_exceeded_total", &[]), "0");
}

#[test]
fn a_limit_that_is_raised_in_time_spares_a_running_stream() {
    let gateway = gateway();
    let [call, _] = long_streams();
    let call = call.with("max_tokens", 2_500);
    let price = input_of(&gateway, &call) + 2_500 * OUTPUT_NANO;
    let links = Links::new(&gateway);
    links.limit("project", &["--limit", &dollars(price - 500 * OUTPUT_NANO)]);
    let mut wire = gateway.connect();
    wire.send(&call.request(&links.key.token).bytes());
    let id = wire.head().request_id().to_owned();
    wire.event().expect("it has begun");
    links.limit("project", &["--limit", &dollars(price)]);
    wire.events().expect("a clean end");
    let row = gateway.row(&id);
    assert_eq!((row.outcome.as_str(), row.charge_nano), ("complete", price));
}

#[test]
fn streams_that_grow_side_by_side_share_what_there_is() {
    let gateway = gateway();
    let [call, _] = long_streams();
    let input = input_of(&gateway, &call);
    let links = Links::new(&gateway);
    let limit = 4 * input + 2_000 * OUTPUT_NANO;
    links.limit("organisation", &["--limit", &dollars(limit)]);
    let mut wires: Vec<_> = (0..4)
        .map(|_| {
            let mut wire = gateway.connect();
            wire.send(&call.request(&links.sibling().token).bytes());
            wire
        })
        .collect();
    let ids: Vec<String> = wires.iter_mut().map(|wire| wire.head().request_id().to_owned()).collect();
    wires
        .iter_mut()
        .for_each(|wire| assert_eq!(wire.events().expect("a clean end").last().expect("[DONE]"), "data: [DONE]"));
    let rows: Vec<Row> = ids.iter().map(|id| gateway.row(id)).collect();
    assert!(rows.iter().all(|row| row.outcome == "cut"), "{rows:?}");
    let charged: i64 = rows.iter().map(|row| row.charge_nano).sum();
    let passed = charged - limit;
    assert!((-4 * SMALL_STEP * OUTPUT_NANO..=4 * 100 * OUTPUT_NANO).contains(&passed), "{charged} of {limit}");
    let held = running(&gateway, &gateway.key, counting(10));
    drop(held);
}
