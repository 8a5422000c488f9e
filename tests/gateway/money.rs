//! What calls cost, and that nobody spends past a limit, however many ask at once.

mod account;
mod budget;

pub(crate) use account::{
    Account, CACHE_READ_NANO, INPUT_NANO, OUTPUT_NANO, Storm, cost, cost_of, count, counting, dollars, meddle, nano,
    raw, storm, storm_of_held, times, within_a_second,
};

use crate::support::{Answer, Call, Gateway, Key, Request, Wire, eventually};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Runs of each storm: in the normal run, and in the long one.
const RUNS: [usize; 2] = [10, 100];
/// Seconds that a storm of 500 calls may take: time is no matter of the normal run, whatever else the machine does.
const RUN_SECONDS_MAX: [usize; 2] = [60, 2];

/// The cost that an answer's header names.
fn cost_header(answer: &Answer) -> i64 {
    nano(answer.header("x-tollgate-cost-usd").unwrap_or_else(|| panic!("it says what it cost: {answer:?}")))
}

/// What `/v1/key` says of an amount, to the nano.
fn amount(gateway: &Gateway, key: &Key, field: &str) -> i64 {
    nano(raw(&gateway.exchange(&Request::get("/v1/key").bearer(&key.token)).text(), field))
}

/// A stream that has begun and does not end by itself.
fn running(gateway: &Gateway, key: &Key, call: Call) -> Wire {
    let mut wire = gateway.connect();
    wire.send(&call.streamed().simulate("hang-after=1").request(&key.token).bytes());
    assert_eq!(wire.head().status, 200);
    wire
}

#[test]
fn the_charge_of_a_call_is_what_a_hand_computes() {
    let gateway = Gateway::start();
    let call = Call::chat("count to ten").with("max_tokens", 10);
    let answer = gateway.call(&call);
    // 8 bytes of `messages`, 4 + 4 of role and user, 7 + 12 of content and the prompt; 16 for the request and 16 for the
    // message: 67 tokens in at $1 a million, 10 out at $10 a million.
    assert_eq!((cost(&answer), cost_header(&answer)), (167_000, 167_000));
    assert_eq!(answer.header("x-tollgate-cost-usd"), Some("0.000167"));
    let row = gateway.row(answer.request_id());
    assert_eq!((row.input_tokens, row.output_tokens, row.charge_nano), (67, 10, 167_000));
    assert_eq!((row.reserved_nano, row.is_estimated), (167_000, false));
    assert_eq!(amount(&gateway, &gateway.key, "usage"), 167_000);
}

#[test]
fn both_protocols_are_charged_unary_and_streamed() {
    let gateway = Gateway::start();
    let mut total = 0;
    for call in [Call::chat("count up").with("max_tokens", 7), Call::messages("count up").with("max_tokens", 7)] {
        let unary = gateway.call(&call);
        let charged = gateway.row(unary.request_id());
        assert_eq!((charged.charge_nano, charged.output_tokens), (cost(&unary), 7));
        assert_eq!(cost_header(&unary), charged.charge_nano);
        let streamed = gateway.call(&call.streamed());
        total += 2 * charged.charge_nano;
        // At once: before the call is on the books.
        assert_eq!(amount(&gateway, &gateway.key, "usage"), total);
        let row = gateway.row(streamed.request_id());
        assert_eq!((row.charge_nano, row.is_streamed, row.is_estimated), (charged.charge_nano, true, false));
    }
}

#[test]
fn cached_tokens_cost_their_own_price() {
    let gateway = Gateway::start();
    for call in [Call::chat("count up").with("max_tokens", 5), Call::messages("count up").with("max_tokens", 5)] {
        let full = cost_of(&gateway, &call);
        let answer = gateway.call(&call.simulate("cached=20"));
        assert_eq!(cost_header(&answer), full - 20 * (INPUT_NANO - CACHE_READ_NANO));
        assert_eq!(gateway.row(answer.request_id()).charge_nano, cost(&answer));
    }
}

#[test]
fn each_choice_is_paid_for() {
    let gateway = Gateway::start();
    let one = cost_of(&gateway, &counting(10));
    let answer = gateway.call(&counting(10).with("n", 3));
    assert_eq!(gateway.row(answer.request_id()).output_tokens, 30);
    assert_eq!(cost_header(&answer), one + 2 * 10 * OUTPUT_NANO);
}

#[test]
fn a_limit_that_pays_for_100_calls_lets_exactly_100_of_500_pass() {
    let [runs, seconds_max] = [RUNS, RUN_SECONDS_MAX].map(|[normal, soak]| times(normal, soak));
    let gateway = Gateway::start();
    let call = counting(10);
    let price = cost_of(&gateway, &call);
    for run in 0..runs {
        let key = gateway.create_key(&["--limit", &dollars(100 * price)]);
        let begun = Instant::now();
        let storm = storm(&gateway, std::slice::from_ref(&key), &call, 500, &["credits_reserved"]);
        assert_eq!(storm, Storm::of(100, "spend_limit_reached", 400), "run {run}");
        assert!(begun.elapsed().as_secs() < seconds_max as u64, "run {run} took {:?}", begun.elapsed());
        assert_eq!(amount(&gateway, &key, "usage"), 100 * price);
        assert_eq!(amount(&gateway, &key, "limit_remaining"), 0);
        assert_eq!(amount(&gateway, &key, "reserved"), 0);
    }
    let rows = gateway.books_of(1 + 100 * runs);
    assert!(rows.iter().all(|row| row.charge_nano == price && row.outcome == "complete"));
    assert_eq!(gateway.provider().log().len(), 1 + 100 * runs);
}

#[test]
fn the_first_calls_of_a_key_all_find_credit() {
    let gateway = Gateway::start();
    for run in 0..times(RUNS[0], RUNS[1]) {
        let key = gateway.create_key(&["--limit", "1000"]);
        let storm = storm(&gateway, std::slice::from_ref(&key), &counting(1), 200, &[]);
        assert_eq!((storm.passed, storm.refused.len()), (200, 0), "run {run}: {storm:?}");
    }
}

#[test]
fn a_balance_that_pays_for_300_calls_is_shared_by_three_keys() {
    let [runs, seconds_max] = [RUNS, RUN_SECONDS_MAX].map(|[normal, soak]| times(normal, soak));
    let gateway = Gateway::start();
    let call = counting(10);
    let price = cost_of(&gateway, &call);
    for run in 0..runs {
        let account = Account::with(&gateway, 300 * price);
        let keys = [account.key(&[]), account.key(&[]), account.key(&["--limit", &dollars(1_000 * price)])];
        let begun = Instant::now();
        let storm = storm(&gateway, &keys, &call, 500, &["credits_reserved"]);
        assert_eq!(storm, Storm::of(300, "insufficient_credits", 200), "run {run}");
        assert!(begun.elapsed().as_secs() < seconds_max as u64, "run {run} took {:?}", begun.elapsed());
        let spent: i64 = keys.iter().map(|key| amount(&gateway, key, "usage")).sum();
        assert_eq!((spent, amount(&gateway, &keys[0], "organisation_credits_remaining")), (300 * price, 0));
    }
}

/// Minutes since 1970: windows of rates begin with them.
fn minute() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() / 60
}

/// Does something within one minute, again if a new one has begun meanwhile.
fn within_a_minute<T>(mut ask: impl FnMut() -> T) -> T {
    loop {
        let begun = minute();
        let done = ask();
        if begun == minute() {
            return done;
        }
    }
}

#[test]
fn exactly_as_many_requests_pass_in_a_minute_as_the_rate_says() {
    let gateway = Gateway::start();
    for _ in 0..3 {
        let storm = within_a_minute(|| {
            let key = gateway.create_key(&["--rpm", "100"]);
            storm(&gateway, &[key], &counting(1), 500, &[])
        });
        assert_eq!(storm, Storm::of(100, "rate_limit_exceeded", 400));
    }
}

#[test]
fn tokens_per_minute_hold_for_what_was_used() {
    let gateway = Gateway::start();
    let call = counting(40);
    let answer = gateway.call(&call);
    let tokens = answer.json()["usage"]["total_tokens"].as_i64().expect("a total");
    let storm = within_a_minute(|| {
        let key = gateway.create_key(&["--tpm", &(50 * tokens).to_string()]);
        storm(&gateway, &[key], &call, 200, &[])
    });
    assert_eq!(storm, Storm::of(50, "rate_limit_exceeded", 150));
}

#[test]
fn no_more_calls_run_at_once_than_the_limit_says() {
    let gateway = Gateway::start();
    let key = gateway.create_key(&["--concurrency", "10"]);
    let mut streams: Vec<Wire> = (0..10).map(|_| running(&gateway, &key, counting(5))).collect();
    assert_eq!(
        storm(&gateway, std::slice::from_ref(&key), &counting(1), 100, &[]),
        Storm::of(0, "concurrency_exceeded", 100)
    );
    // One that ends makes room for one.
    streams.pop();
    let first = eventually("there is room for one", || {
        let mut wire = gateway.connect();
        wire.send(&counting(5).streamed().simulate("hang-after=1").request(&key.token).bytes());
        (wire.head().status == 200).then_some(wire)
    });
    assert_eq!(
        storm(&gateway, std::slice::from_ref(&key), &counting(1), 20, &[]),
        Storm::of(0, "concurrency_exceeded", 20)
    );
    drop((streams, first));
    // None is lost on the way: all pass in the end, whatever was refused before.
    let passed = storm(&gateway, &[key], &counting(1), 200, &["concurrency_exceeded"]);
    assert_eq!((passed.passed, passed.refused.len()), (200, 0));
}

#[test]
fn a_refusal_takes_nothing() {
    let gateway = Gateway::start();
    let price = cost_of(&gateway, &counting(10));
    let account = Account::with(&gateway, 10 * price);
    let limits = ["--rpm", "50", "--tpm", "100000", "--concurrency", "2"];
    let key = account.key(&[&limits[..], &["--limit", &dollars(20 * price), "--model", "gpt-*"]].concat());
    within_a_minute(|| {
        let before = gateway.key_view(&key);
        for (call, code) in [
            // Dearer than the balance, and dearer than the key's own limit: rates and concurrency were taken before.
            (counting(200), "insufficient_credits"),
            (counting(400), "spend_limit_reached"),
            (counting(200_000).with("n", 100), "rate_limit_exceeded"),
            (Call::messages("count up"), "model_not_allowed"),
            (Call::chat("hi").with("model", "gpt-none"), "model_not_found"),
        ] {
            assert_eq!(gateway.call_with(&key, &call).refusal().1, code);
        }
        assert_eq!(gateway.key_view(&key), before);
    });
    assert_eq!((amount(&gateway, &key, "usage"), amount(&gateway, &key, "reserved")), (0, 0));
    assert_eq!(gateway.provider().log().len(), 1);
    let answer = gateway.call_with(&key, &counting(10));
    assert_eq!(answer.status, 200);
    gateway.row(answer.request_id());
    gateway.books_of(2);
}

#[test]
fn credit_that_others_hold_is_another_refusal_than_credit_that_is_gone() {
    let gateway = Gateway::start();
    let call = counting(10);
    let price = cost_of(&gateway, &call);
    let key = gateway.create_key(&["--limit", &dollars(price + price / 2)]);
    let stream = running(&gateway, &key, call.clone());
    assert_eq!(amount(&gateway, &key, "reserved"), price);

    let transient = gateway.call_with(&key, &call);
    assert_eq!(transient.refusal(), (402, "credits_reserved".to_owned()));
    assert_eq!(transient.header("x-should-retry"), Some("true"));
    let wait: u64 = transient.header("retry-after-ms").expect("how long").parse().expect("milliseconds");
    assert!((1..=5_000).contains(&wait), "{wait}");

    drop(stream);
    let done = eventually("the held credit comes back", || {
        Some(gateway.call_with(&key, &call)).filter(|answer| answer.status == 200)
    });
    assert_eq!(cost_header(&done), price);
    let gone = gateway.call_with(&key, &call);
    assert_eq!(gone.refusal(), (402, "spend_limit_reached".to_owned()));
    assert_eq!((gone.header("x-should-retry"), gone.header("retry-after-ms")), (Some("false"), None));
    assert_eq!(gone.header("retry-after"), None);
}

#[test]
fn a_limit_of_nothing_refuses_every_call() {
    let gateway = Gateway::start();
    let key = gateway.create_key(&["--limit", "0"]);
    for _ in 0..3 {
        assert_eq!(gateway.call_with(&key, &counting(1)).refusal(), (402, "spend_limit_reached".to_owned()));
    }
    assert_eq!((amount(&gateway, &key, "limit"), amount(&gateway, &key, "limit_remaining")), (0, 0));
}

#[test]
fn a_rate_refusal_says_which_window_and_how_long() {
    let gateway = Gateway::start();
    for (arguments, source, window) in [
        (["--rpm", "2"], "key_requests_per_minute", "2 requests per minute"),
        (["--tpm", "150"], "key_tokens_per_minute", "150 tokens per minute"),
    ] {
        let refused = within_a_minute(|| {
            let key = gateway.create_key(&arguments);
            let calls = std::iter::repeat_with(|| gateway.call_with(&key, &counting(10)));
            calls.take(3).last().expect("three calls")
        });
        assert_eq!(refused.refusal(), (429, "rate_limit_exceeded".to_owned()));
        let error = &refused.json()["error"];
        assert_eq!((&error["limit_source"], &error["remedy"]), (&source.into(), &"wait".into()));
        assert!(error["message"].as_str().is_some_and(|message| message.contains(window)), "{error}");
        let number =
            |name: &str| refused.header(name).unwrap_or_else(|| panic!("no {name}")).parse::<u64>().expect("a number");
        let wait_ms = number("retry-after-ms");
        assert!((1..=60_000).contains(&wait_ms), "{wait_ms}");
        assert_eq!(number("retry-after"), wait_ms.div_ceil(1_000));
        assert_eq!(refused.header("x-should-retry"), None);
    }
}

#[test]
fn rate_headers_count_down() {
    let gateway = Gateway::start();
    let (tokens_before, answers) = within_a_minute(|| {
        let key = gateway.create_key(&["--rpm", "50", "--tpm", "100000"]);
        let answers: Vec<Answer> = (0..3).map(|_| gateway.call_with(&key, &counting(10))).collect();
        (gateway.key_view(&key)["tokens_remaining"].as_i64().expect("a rate"), answers)
    });
    let used = answers[0].json()["usage"]["total_tokens"].as_i64().expect("a total");
    assert_eq!(tokens_before, 100_000 - 3 * used);
    for (index, answer) in answers.iter().enumerate() {
        let header = |name: &str| answer.header(name).unwrap_or_else(|| panic!("no {name}: {answer:?}"));
        assert_eq!((header("x-ratelimit-limit-requests"), header("x-ratelimit-limit-tokens")), ("50", "100000"));
        let left = 49 - index;
        assert_eq!(header("x-ratelimit-remaining-requests"), left.to_string());
        // The estimate of a counting call is what it uses.
        let tokens_left = 100_000 - used * (i64::try_from(index).expect("small") + 1);
        assert_eq!(header("x-ratelimit-remaining-tokens"), tokens_left.to_string());
        let reset: u64 = header("x-ratelimit-reset-requests").trim_end_matches("ms").parse().expect("milliseconds");
        assert!((1..=60_000).contains(&reset));
        assert_eq!(header("ratelimit-policy"), "\"requests\";q=50;w=60, \"tokens\";q=100000;w=60");
        let seconds = reset.div_ceil(1_000);
        assert_eq!(
            header("ratelimit"),
            format!("\"requests\";r={left};t={seconds}, \"tokens\";r={tokens_left};t={seconds}")
        );
    }
}

#[test]
fn anthropic_clients_get_their_own_rate_headers() {
    let gateway = Gateway::start();
    let key = gateway.create_key(&["--rpm", "50", "--tpm", "100000"]);
    let answer = gateway.call_with(&key, &Call::messages("count up"));
    assert_eq!(answer.header("anthropic-ratelimit-requests-limit"), Some("50"));
    assert_eq!(answer.header("anthropic-ratelimit-requests-remaining"), Some("49"));
    assert_eq!(answer.header("anthropic-ratelimit-tokens-limit"), Some("100000"));
    let reset = answer.header("anthropic-ratelimit-requests-reset").expect("when");
    assert!(reset.len() >= 20 && reset.contains('T') && reset.ends_with('Z'), "{reset}");
    assert_eq!(answer.header("anthropic-ratelimit-input-tokens-limit"), None, "the provider's own are not passed on");
}

#[test]
fn a_top_up_is_seen_within_a_second() {
    let gateway = Gateway::start();
    let account = Account::poor(&gateway);
    let key = account.key(&[]);
    let price = cost_of(&gateway, &counting(10));
    assert_eq!(gateway.call_with(&key, &counting(10)).refusal(), (402, "insufficient_credits".to_owned()));
    account.top_up(2 * price);
    within_a_second("the call passes", || (gateway.call_with(&key, &counting(10)).status == 200).then_some(()));
    assert_eq!(amount(&gateway, &key, "organisation_credits_remaining"), price);
}

#[test]
fn a_model_without_a_price_in_force_is_refused_and_never_free() {
    let gateway = Gateway::start();
    let file = gateway.config().with_file_name("models.toml");
    let catalogue = std::fs::read_to_string(&file).expect("the catalogue");
    let unpriced = "[[models]]\nid = 'of-tomorrow'\ncontext_tokens = 1000\noutput_tokens_max = 100\n\
         output_limit_field = 'max_tokens'\ncandidates = [{ provider = 'simulated-openai', model = 'x' }]\n\
         [[models.prices]]\nfrom = '2999-01-01'\ninput = '1'\noutput = '1'\n";
    let call = counting(1).with("model", "of-tomorrow");
    assert_eq!(gateway.call(&call).refusal(), (404, "model_not_found".to_owned()));
    std::fs::write(&file, format!("{catalogue}{unpriced}")).expect("written");
    let refused =
        eventually("the catalogue is read again", || Some(gateway.call(&call)).filter(|answer| answer.status != 404));
    assert_eq!(refused.refusal(), (422, "model_unpriced".to_owned()));
    assert_eq!(refused.json()["error"]["type"], "invalid_request_error");
    assert!(gateway.provider().log().is_empty());
    assert_eq!(count(&gateway, "tollgate_calls_unpriced_total", &[]), "1");
    let listed = gateway.exchange(&Request::get("/v1/models").bearer(&gateway.key.token)).text();
    assert!(!listed.contains("of-tomorrow"), "{listed}");
}

#[test]
fn an_estimate_settles_to_the_real_cost() {
    let gateway = Gateway::start();
    // It names no limit, so the model's own is set aside; the answer has a few dozen tokens.
    let call = Call::chat("tell me about gates");
    let stream = running(&gateway, &gateway.key, call.clone());
    let held = amount(&gateway, &gateway.key, "reserved");
    assert!(held > 16_384 * OUTPUT_NANO, "{held}");
    drop(stream);
    eventually("what was held is given back", || (amount(&gateway, &gateway.key, "reserved") == 0).then_some(()));
    let spent = amount(&gateway, &gateway.key, "usage");
    let answer = gateway.call(&call);
    let row = gateway.row(answer.request_id());
    assert_eq!((row.charge_nano, row.reserved_nano), (cost(&answer), held));
    assert_eq!(amount(&gateway, &gateway.key, "usage"), spent + cost(&answer));
    assert_eq!(amount(&gateway, &gateway.key, "reserved"), 0);
}

#[test]
fn a_stream_sets_aside_no_more_than_the_configured_allowance() {
    let gateway = crate::support::Setup::new().section("[quotas]\nreserve_output_tokens_max = 100").start();
    let key = gateway.create_key(&[]);
    let hung = running(&gateway, &key, counting(200));
    let set_aside = amount(&gateway, &key, "reserved");
    drop(hung);
    let stream = gateway.call(&counting(200).streamed());
    let unary = gateway.call(&counting(200));
    let (streamed, whole) = (gateway.row(stream.request_id()), gateway.row(unary.request_id()));
    assert_eq!((streamed.charge_nano, whole.charge_nano), (cost(&unary), cost(&unary)));
    assert_eq!(whole.reserved_nano - set_aside, 100 * OUTPUT_NANO);
    // It grew past what was set aside, and more was: no quota was passed.
    assert_eq!(streamed.reserved_nano, whole.reserved_nano);
    assert_eq!(count(&gateway, "tollgate_calls_bound_exceeded_total", &[]), "0");
}

#[test]
fn calls_without_usage_are_estimated_and_say_so() {
    let gateway = Gateway::start();
    for call in [counting(10), counting(10).streamed(), Call::messages("count up").streamed()] {
        let exact = gateway.row(gateway.call(&call).request_id());
        let row = gateway.row(gateway.call(&call.simulate("no-usage")).request_id());
        assert_eq!((row.is_estimated, row.outcome.as_str(), exact.is_estimated), (true, "complete", false));
        assert_eq!(row.input_tokens, exact.input_tokens);
        assert!(row.output_tokens > 0 && row.charge_nano > 0, "{row:?}");
    }
    assert_eq!(count(&gateway, "tollgate_calls_estimated_total", &["reason=\"no_usage\""]), "3");
}

#[test]
fn what_a_provider_bills_beyond_the_reserve_is_charged() {
    let gateway = Gateway::start();
    let price = cost_of(&gateway, &counting(10));
    let key = gateway.create_key(&["--limit", &dollars(price)]);
    let answer = gateway.call_with(&key, &counting(10).simulate("over=50"));
    let row = gateway.row(answer.request_id());
    assert_eq!((row.charge_nano, row.reserved_nano), (price + 50 * OUTPUT_NANO, price));
    assert_eq!(amount(&gateway, &key, "usage"), price + 50 * OUTPUT_NANO);
    assert_eq!(amount(&gateway, &key, "limit_remaining"), 0);
    assert_eq!(gateway.call_with(&key, &counting(10)).refusal().1, "spend_limit_reached");
    assert_eq!(count(&gateway, "tollgate_calls_bound_exceeded_total", &[]), "1");
}

#[test]
fn a_provider_that_refuses_is_paid_nothing() {
    let gateway = Gateway::start();
    for (faults, status) in [("status=400", 400), ("status=503", 502), ("error-body", 200), ("status=401", 502)] {
        let answer = gateway.call(&counting(10).simulate(faults));
        assert_eq!(answer.status, status, "{faults}: {}", answer.text());
        let row = gateway.row(answer.request_id());
        assert_eq!((row.charge_nano, row.outcome.as_str()), (0, "refused"), "{faults}");
    }
    assert_eq!(amount(&gateway, &gateway.key, "usage"), 0);
    assert_eq!(amount(&gateway, &gateway.key, "reserved"), 0);
}
