//! Keys as clients meet them: tokens, the headers that carry them, what they open, what they tell, and what they never leave behind.

pub(crate) mod canaries;
mod errors;

use crate::money::{Account, cost_of, counting, dollars, meddle, nano, raw, within_a_second};
use crate::support::{Answer, Call, Gateway, Key, Provider, Request, Setup, Upstream, eventually};
use serde_json::Value;

const BASE62: &str = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const HEADERS: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];
const SCOPES: [&str; 8] = [
    "model:invoke",
    "usage:read",
    "inference:read",
    "inference:write",
    "analytics:read",
    "keys:read",
    "keys:write",
    "admin",
];

/// The checksum of the beginning of a token, as it is published: CRC-32 in six base62 digits.
fn checksum(text: &str) -> String {
    let mut rest = crc32fast::hash(text.as_bytes()) as usize;
    let mut digits = Vec::new();
    for _ in 0..6 {
        digits.insert(0, BASE62.as_bytes()[rest % 62]);
        rest /= 62;
    }
    String::from_utf8(digits).expect("digits")
}

fn models(gateway: &Gateway, key: &Key) -> Answer {
    gateway.exchange(&Request::get("/v1/models").bearer(&key.token))
}

/// Whether a key may make a call now.
fn may_call(gateway: &Gateway, key: &Key) -> bool {
    gateway.call_with(key, &counting(1)).status == 200
}

/// The code with which a key is refused now; none if it is not.
fn refusal_of(gateway: &Gateway, key: &Key) -> Option<(u16, String)> {
    let answer = gateway.call_with(key, &counting(1));
    (answer.status != 200).then(|| answer.refusal())
}

#[test]
fn tokens_have_the_published_form() {
    let gateway = Gateway::start();
    for (prefix, start) in [("tg_live", "tg_live_"), ("sk-sr-", "sk-sr-")] {
        let key = gateway.create_key(&["--prefix", prefix]);
        let secret = key.token.strip_prefix(start).expect("it begins with its prefix");
        assert_eq!(secret.len(), 49);
        assert!(secret.chars().all(|letter| BASE62.contains(letter)), "{secret}");
        let (body, sum) = key.token.split_at(key.token.len() - 6);
        assert_eq!(sum, checksum(body));
        // Keys of any prefix are accepted, whatever new ones begin with.
        assert!(may_call(&gateway, &key));
    }
    let other = gateway.create_key(&[]);
    assert_ne!(other.token[8..20], gateway.key.token[8..20]);
    assert!(other.id.starts_with("key_"), "{}", other.id);
}

#[test]
fn a_typo_is_refused_without_a_lookup() {
    let gateway = Gateway::start();
    let token = &gateway.key.token;
    for at in [8, 20, 40, token.len() - 1] {
        let other = if &token[at..=at] == "a" { "b" } else { "a" };
        let typo = Key { id: String::new(), token: format!("{}{other}{}", &token[..at], &token[at + 1..]) };
        assert_eq!(refusal_of(&gateway, &typo), Some((401, "invalid_api_key".to_owned())), "{at}");
    }
    let asked =
        ["memory", "store", "unknown", "failed"].map(|source| gateway.metric("tollgate_key_lookups_total", &[source]));
    assert_eq!(asked.iter().sum::<f64>().to_string(), "0");
}

#[test]
fn any_of_the_credential_headers_opens_every_route() {
    let gateway = Gateway::start();
    let token = &gateway.key.token;
    let chat = || Request::post("/v1/chat/completions", counting(1).body.to_string());
    let messages = || Request::post("/v1/messages", Call::messages("count ").with("max_tokens", 1).body.to_string());
    for header in HEADERS {
        let value = if header == "authorization" { format!("Bearer {token}") } else { token.clone() };
        for request in
            [chat(), messages(), Request::get("/v1/models"), Request::get("/v1/key"), Request::get("/api/v1/key")]
        {
            let path = request.path.clone();
            let answer = gateway.exchange(&request.header(header, &value));
            assert_eq!(answer.status, 200, "{header} {path}: {}", answer.text());
        }
    }
    for scheme in ["bearer", "BEARER", "Bearer "] {
        assert_eq!(
            gateway.exchange(&Request::get("/v1/key").header("authorization", &format!("{scheme} {token}"))).status,
            200
        );
    }
}

#[test]
fn two_different_credentials_are_refused_and_one_sent_twice_is_not() {
    let gateway = Gateway::start();
    let (token, other) = (&gateway.key.token, gateway.create_key(&[]).token);
    let exchange = |headers: [(&str, String); 2]| {
        let [(first, value), (second, other_value)] = headers;
        gateway.exchange(&Request::get("/v1/key").header(first, &value).header(second, &other_value))
    };
    for (index, first) in HEADERS.into_iter().enumerate().skip(1) {
        for second in HEADERS.into_iter().take(index + 1).skip(1) {
            let refused = exchange([(first, token.clone()), (second, other.clone())]);
            assert_eq!(refused.refusal(), (400, "ambiguous_credentials".to_owned()), "{first} {second}");
            assert_eq!(exchange([(first, token.clone()), (second, token.clone())]).status, 200, "{first} {second}");
        }
        let refused = exchange([("authorization", format!("Bearer {token}")), (first, other.clone())]);
        assert_eq!(refused.refusal(), (400, "ambiguous_credentials".to_owned()), "{first}");
        assert_eq!(
            exchange([("authorization", format!("Bearer {token}")), (first, token.clone())]).status,
            200,
            "{first}"
        );
    }
    let twice = [("authorization", format!("Bearer {token}")), ("authorization", format!("Bearer {other}"))];
    assert_eq!(exchange(twice).refusal(), (400, "ambiguous_credentials".to_owned()));
}

#[test]
fn a_key_that_is_wrong_missing_or_empty_is_refused() {
    let gateway = Gateway::start();
    for (value, code) in [
        (None, "missing_credentials"),
        (Some(""), "missing_credentials"),
        (Some("Bearer "), "missing_credentials"),
        (Some("Bearer nobody"), "invalid_api_key"),
        (Some("Basic dXNlcjpwYXNz"), "invalid_api_key"),
        (Some("Bearer tg_live_"), "invalid_api_key"),
    ] {
        let request = Request::get("/v1/key");
        let request = value.map_or(request.clone(), |value| request.header("authorization", value));
        assert_eq!(gateway.exchange(&request).refusal(), (401, code.to_owned()), "{value:?}");
    }
}

#[test]
fn a_disabled_key_is_refused_within_a_second_and_enabled_again() {
    let gateway = Gateway::start();
    let key = gateway.create_key(&[]);
    assert!(may_call(&gateway, &key));
    for (verb, refusal) in [
        ("disable", Some((401, "key_disabled".to_owned()))),
        ("enable", None),
        ("disable", Some((401, "key_disabled".to_owned()))),
    ] {
        gateway.tollgate(&["key", verb, &key.id]);
        within_a_second(verb, || (refusal_of(&gateway, &key) == refusal).then_some(()));
    }
    assert!(may_call(&gateway, &gateway.key), "other keys go on");
}

#[test]
fn a_key_made_beside_the_gateway_is_known_at_once_even_after_it_was_unknown() {
    let gateway = Gateway::start();
    let key = gateway.create_key(&[]);
    meddle(&gateway, "CREATE TABLE aside AS SELECT * FROM keys");
    meddle(&gateway, "DELETE FROM keys");
    assert_eq!(refusal_of(&gateway, &key), Some((401, "invalid_api_key".to_owned())));
    // It is remembered as unknown now; a new key makes the gateway forget that.
    meddle(&gateway, "INSERT INTO keys SELECT * FROM aside");
    let other = gateway.create_key(&[]);
    assert!(may_call(&gateway, &other));
    within_a_second("it is known", || may_call(&gateway, &key).then_some(()));
}

#[test]
fn a_suspended_organisation_is_refused_within_a_second() {
    let gateway = Gateway::start();
    let account = Account::with(&gateway, 1_000_000_000);
    let keys = [account.key(&[]), account.key(&[])];
    assert!(keys.iter().all(|key| may_call(&gateway, key)));
    account.suspend(true);
    let refusal = Some((401, "organisation_suspended".to_owned()));
    within_a_second("they are refused", || keys.iter().all(|key| refusal_of(&gateway, key) == refusal).then_some(()));
    account.suspend(false);
    within_a_second("they are let in", || keys.iter().all(|key| may_call(&gateway, key)).then_some(()));
}

/// A moment so many seconds from now, as the command line takes it.
fn in_seconds(seconds: i64) -> String {
    let moment = tollgate::clock::now().0 / 1_000 + seconds;
    let (day, second) = (moment.div_euclid(86_400), moment.rem_euclid(86_400));
    // Days of a year that begins in March: no month but the last has an odd length.
    let shifted = day + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

#[test]
fn a_key_ends_when_it_expires() {
    let gateway = Gateway::start();
    let key = gateway.create_key(&["--expires", &in_seconds(3)]);
    assert!(may_call(&gateway, &key));
    let expires = gateway.key_view(&key)["expires_at_ms"].as_i64().expect("when");
    let refused = eventually("it has expired", || refusal_of(&gateway, &key));
    assert_eq!(refused, (401, "key_expired".to_owned()));
    let late = tollgate::clock::now().0 - expires;
    assert!((0..1_000).contains(&late), "it was refused {late} ms after its end");
}

#[test]
fn scopes_open_their_routes_and_no_others() {
    let gateway = Gateway::start();
    for scope in SCOPES {
        let key = gateway.create_key(&["--scope", scope]);
        let invokes = matches!(scope, "model:invoke" | "inference:write");
        let status = |may: bool| if may { 200 } else { 403 };
        for call in [counting(1), Call::messages("count ").with("max_tokens", 1), counting(1).under("/api/v1")] {
            let answer = gateway.call_with(&key, &call);
            assert_eq!(answer.status, status(invokes), "{scope}: {}", answer.text());
        }
        assert_eq!(models(&gateway, &key).status, status(invokes || scope == "inference:read"), "{scope}");
        // Any key may ask about itself.
        assert_eq!(gateway.key_view(&key)["scopes"].to_string(), format!("[\"{scope}\"]"));
    }
    let made = gateway.create_key(&[]);
    assert_eq!(gateway.key_view(&made)["scopes"].to_string(), "[\"model:invoke\",\"usage:read\"]");
}

#[test]
fn patterns_of_models_and_providers_are_held() {
    let gateway = Gateway::start();
    let (chat, claude) = (counting(1), Call::messages("count ").with("max_tokens", 1));
    for (arguments, of_chat, of_claude) in [
        (vec!["--model", "gpt-*"], "", "model_not_allowed"),
        (vec!["--model", "*-mini", "--model", "claude-*-4-6"], "", ""),
        (vec!["--model", "gpt-4o"], "model_not_allowed", "model_not_allowed"),
        (vec!["--provider", "*-anthropic"], "provider_not_allowed", ""),
        (vec!["--provider", "simulated-*"], "", ""),
        (vec!["--model", "gpt-*", "--provider", "*-anthropic"], "provider_not_allowed", "model_not_allowed"),
    ] {
        let key = gateway.create_key(&arguments);
        for (call, code) in [(&chat, of_chat), (&claude, of_claude)] {
            let answer = gateway.call_with(&key, call);
            let found = if answer.status == 200 { String::new() } else { answer.refusal().1 };
            assert_eq!(found, code, "{arguments:?}");
        }
    }
    // An alias is another name for the model, not a way around the pattern.
    let key = gateway.create_key(&["--model", "claude-*"]);
    assert_eq!(gateway.call_with(&key, &counting(1).with("model", "mini")).refusal().1, "model_not_allowed");
    let key = gateway.create_key(&["--model", "gpt-4o-mini"]);
    assert_eq!(gateway.call_with(&key, &counting(1).with("model", "mini")).status, 200);
}

#[test]
fn a_key_is_served_only_by_providers_that_it_may_use() {
    let (one, two) = (Provider::start(), Provider::start());
    let setup = Setup::new()
        .upstream(Upstream::openai("one", one.url()))
        .upstream(Upstream::openai("two", two.url()).priority(1));
    let gateway = setup.start();
    let key = gateway.create_key(&["--provider", "two"]);
    for _ in 0..5 {
        assert_eq!(gateway.call_with(&key, &counting(1)).header("x-tollgate-provider"), Some("two"));
    }
    assert_eq!((one.log().len(), two.log().len()), (0, 5));
}

#[test]
fn a_key_tells_its_spend_exactly_and_at_once() {
    let gateway = Gateway::start();
    let account = Account::with(&gateway, 7_000_000_001);
    let limit = 1_000_000_007;
    let arguments = [
        "--limit",
        &dollars(limit),
        "--rpm",
        "600",
        "--tpm",
        "900000",
        "--concurrency",
        "9",
        "--model",
        "gpt-*",
        "--expires",
        "90d",
    ];
    let key = account.key(&arguments);
    let view = |field: &str| {
        let answer = gateway.exchange(&Request::get("/v1/key").bearer(&key.token));
        raw(&answer.text(), field).to_owned()
    };
    let mut spent = 0;
    for tokens in [1, 10, 333] {
        let cost = cost_of_key(&gateway, &key, tokens);
        spent += cost;
        assert_eq!((nano(&view("usage")), nano(&view("limit_remaining"))), (spent, limit - spent));
        assert_eq!(nano(&view("organisation_credits_remaining")), 7_000_000_001 - spent);
    }
    assert_eq!((nano(&view("limit")), nano(&view("reserved"))), (limit, 0));
    let whole = gateway.key_view(&key);
    for (field, value) in [
        ("id", Value::from(key.id.as_str())),
        ("label", "test".into()),
        ("org", account.org.as_str().into()),
        ("requests_per_minute", 600.into()),
        ("tokens_per_minute", 900_000.into()),
        ("concurrency", 9.into()),
        ("models", vec!["gpt-*"].into()),
        ("providers", Value::Array(Vec::new())),
    ] {
        assert_eq!(whole[field], value, "{field}");
    }
    assert!(whole["expires_at_ms"].as_i64().is_some_and(|expires| expires > tollgate::clock::now().0));
}

fn cost_of_key(gateway: &Gateway, key: &Key, tokens: i64) -> i64 {
    crate::money::cost(&gateway.call_with(key, &counting(tokens)))
}

#[test]
fn a_key_without_limits_says_null() {
    let gateway = Gateway::start();
    let spent = cost_of(&gateway, &counting(10));
    let view = gateway.key_view(&gateway.key);
    for field in [
        "limit",
        "limit_remaining",
        "requests_per_minute",
        "requests_remaining",
        "tokens_per_minute",
        "concurrency",
        "expires_at_ms",
    ] {
        assert_eq!(view.get(field), Some(&Value::Null), "{field}");
    }
    let text = gateway.exchange(&Request::get("/v1/key").bearer(&gateway.key.token)).text();
    assert_eq!(nano(raw(&text, "usage")), spent);
}

#[test]
fn an_exhausted_key_can_still_ask_about_itself() {
    let gateway = Gateway::start();
    let price = cost_of(&gateway, &counting(10));
    let key = gateway.create_key(&["--limit", &dollars(price), "--rpm", "5"]);
    assert_eq!(gateway.call_with(&key, &counting(10)).status, 200);
    assert_eq!(refusal_of(&gateway, &key), Some((402, "spend_limit_reached".to_owned())));
    for _ in 0..20 {
        // Asking costs nothing and is not counted as a request.
        assert_eq!(gateway.key_view(&key)["limit_remaining"].to_string(), "0");
    }
    let poor = Account::poor(&gateway).key(&["--scope", "keys:read"]);
    assert_eq!(gateway.key_view(&poor)["organisation_credits_remaining"].to_string(), "0");
    assert_eq!(models(&gateway, &key).status, 200);
}

#[test]
fn models_are_those_that_the_key_may_use() {
    let gateway = Gateway::start();
    let ids = |answer: &Answer| -> Vec<String> {
        let body = answer.json();
        let models = body["data"].as_array().expect("a list").iter();
        models.map(|model| model["id"].as_str().expect("an id").to_owned()).collect()
    };
    for (arguments, expected) in [
        (vec![], vec!["gpt-4o-mini", "claude-sonnet-4-6"]),
        (vec!["--model", "gpt-*"], vec!["gpt-4o-mini"]),
        (vec!["--provider", "*anthropic"], vec!["claude-sonnet-4-6"]),
        (vec!["--model", "nothing"], vec![]),
    ] {
        let key = gateway.create_key(&arguments);
        assert_eq!(ids(&models(&gateway, &key)), expected, "{arguments:?}");
    }
    let model = models(&gateway, &gateway.key).json()["data"][0].clone();
    assert_eq!((&model["object"], &model["owned_by"]), (&"model".into(), &"simulated-openai".into()));
    assert_eq!((&model["context_tokens"], &model["output_tokens_max"]), (&1_000_000_000.into(), &16_384.into()));
    assert_eq!((&model["modality"], &model["aliases"][0]), (&"text".into(), &"mini".into()));
    let prices = ["input", "cache_read", "output"].map(|kind| model["pricing"][kind].to_string());
    assert_eq!(prices, ["1", "0.1", "10"]);
    assert!(model["created"].as_i64().is_some_and(|created| created > 1_700_000_000));
}

#[test]
fn anthropic_clients_get_their_own_list_of_models() {
    let gateway = Gateway::start();
    let request =
        Request::get("/v1/models").header("x-api-key", &gateway.key.token).header("anthropic-version", "2023-06-01");
    let answer = gateway.exchange(&request);
    assert_eq!(answer.header("request-id"), Some(answer.request_id()));
    let list = answer.json();
    assert_eq!((&list["has_more"], &list["first_id"]), (&false.into(), &"claude-sonnet-4-6".into()));
    assert_eq!((&list["last_id"], list["data"].as_array().map(Vec::len)), (&"claude-sonnet-4-6".into(), Some(1)));
    let model = &list["data"][0];
    assert_eq!((&model["type"], &model["id"]), (&"model".into(), &"claude-sonnet-4-6".into()));
    assert!(model["display_name"].is_string());
    assert!(model["created_at"].as_str().is_some_and(|at| at.starts_with("2026-01-01T00:00:00")), "{model}");
}

#[test]
fn a_store_that_does_not_answer_is_not_the_keys_fault() {
    let gateway = Gateway::start();
    let key = gateway.create_key(&[]);
    assert!(may_call(&gateway, &gateway.key));
    meddle(&gateway, "ALTER TABLE keys RENAME TO hidden");
    let answer = gateway.call_with(&key, &counting(1));
    assert_eq!(answer.refusal(), (503, "limits_unavailable".to_owned()));
    assert!(answer.header("retry-after").is_some());
    assert!(may_call(&gateway, &gateway.key), "keys in memory go on");
    meddle(&gateway, "ALTER TABLE hidden RENAME TO keys");
    eventually("it is known", || may_call(&gateway, &key).then_some(()));
}
