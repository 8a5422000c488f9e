//! What is scraped is what the dashboard and the alerts are written over, and nobody outside can make it grow.

use super::*;
use filters::catalogue::{Catalogue, Mode};
use filters::id::{CallId, PriceId};
use filters::money::NanoUsd;
use filters::pipeline::Settled;
use filters::ports::{Outcome, Terminal};
use filters::price::Tier;
use filters::time::EpochMs;
use filters::usage::{Kind, Usage};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const DASHBOARD: &str = include_str!("../../dashboards/tollgate.json");
const ALERTS: &str = include_str!("../../dashboards/alerts.yml");

fn model(name: &str) -> Model {
    Model {
        id: Arc::from(name),
        aliases: Vec::new(),
        context_tokens: 128_000,
        output_tokens_max: 16_384,
        output_limit_field: Box::from("max_tokens"),
        output_limit_min: 1,
        mode: Mode::Chat,
        hidden_output: false,
        candidates: Vec::new(),
    }
}

fn settled(outcome: Outcome, status: u16, estimated: bool) -> Settled {
    let terminal = Terminal {
        call: CallId(1),
        outcome,
        estimated,
        status,
        error: None,
        provider: Arc::from("openai"),
        price: PriceId(1),
        tier: Tier::Standard,
        usage: Usage::of(30, 12).with(Kind::WebSearch, 2),
        charge: NanoUsd(4_200),
        reserved: NanoUsd(2_000_000_000),
        attempts: 1,
        ended: EpochMs(1),
        first_byte_ms: 3,
    };
    Settled { terminal, bound_exceeded: false }
}

fn timing() -> Timing {
    Timing {
        overhead: Duration::from_micros(42),
        upstream: Duration::from_millis(300),
        first_token: Some(Duration::from_millis(80)),
    }
}

/// Every series once, so that none is left out of the text for want of an event.
fn used() -> Metrics {
    let metrics = Metrics::default();
    let provider = metrics.provider_series("openai");
    let calls = metrics.call_series(Route::ChatCompletions, &provider, &model("gpt-4o-mini"));
    calls.record(&settled(Outcome::Complete, 200, false), &timing());
    provider.set_credential_benched(0, false);
    metrics
}

fn scraped(metrics: &Metrics) -> String {
    metrics.render(&Snapshot::default())
}

fn has(text: &str, line: &str) -> bool {
    text.lines().any(|found| found == line)
}

/// Names of series and the labels that stand with them: in a text that Prometheus scrapes and in expressions alike.
fn series(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (at, _) in text.match_indices("tollgate_") {
        let rest = &text[at..];
        let name_ends = rest.find(|letter: char| !is_of_name(letter)).unwrap_or(rest.len());
        let name = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| rest[..name_ends].strip_suffix(suffix))
            .unwrap_or(&rest[..name_ends]);
        let labels = rest[name_ends..].strip_prefix('{').and_then(|inner| inner.split('}').next()).unwrap_or_default();
        let labels = labels.split(',').filter_map(|matcher| matcher.trim().split(['=', '!']).next());
        let known = found.entry(name.to_owned()).or_default();
        known.extend(labels.filter(|label| !label.is_empty()).map(str::to_owned));
    }
    found
}

fn is_of_name(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_'
}

/// Labels in `by (…)`.
fn grouped_by(text: &str) -> BTreeSet<&str> {
    let lists = text.split(" by (").skip(1).filter_map(|rest| rest.split(')').next());
    lists.flat_map(|list| list.split(',')).map(str::trim).collect()
}

#[test]
fn dashboard_and_alerts_use_exactly_these_series_and_labels() {
    let ours = series(&scraped(&used()));
    let mut theirs = series(DASHBOARD);
    for (name, labels) in series(ALERTS) {
        theirs.entry(name).or_default().extend(labels);
    }
    assert_eq!(theirs.keys().collect::<Vec<_>>(), ours.keys().collect::<Vec<_>>());
    // Prometheus itself adds `instance` and `job` to what it scrapes.
    let scraper = BTreeSet::from(["instance".to_owned(), "job".to_owned()]);
    for (name, labels) in &theirs {
        let unknown: Vec<_> = labels.difference(&ours[name]).filter(|label| !scraper.contains(*label)).collect();
        assert!(unknown.is_empty(), "{name} has no label {unknown:?}");
    }
    let expressions = DASHBOARD.lines().chain(ALERTS.split("- alert:"));
    for expression in expressions {
        let named = series(expression);
        let known: BTreeSet<_> =
            named.keys().flat_map(|name| &ours[name]).chain(&scraper).map(String::as_str).collect();
        let unknown: Vec<_> = grouped_by(expression).into_iter().filter(|label| !known.contains(label)).collect();
        assert!(unknown.is_empty(), "no series of {expression} has the label {unknown:?}");
    }
}

#[test]
fn invented_model_names_add_at_most_one_series() {
    let metrics = used();
    let catalogue = Catalogue::new(vec![model("gpt-4o-mini")]).expect("one model");
    let before = scraped(&metrics).lines().filter(|line| !line.starts_with('#')).count();
    for number in 0..100_000_u64 {
        let name = format!("model-{:x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        assert!(catalogue.find(&name).is_none());
        metrics.refused(Some(Route::ChatCompletions), Code::ModelNotFound);
    }
    let text = scraped(&metrics);
    assert!(text.lines().filter(|line| !line.starts_with('#')).count() <= before + 1);
    assert!(has(
        &text,
        r#"tollgate_requests_total{error_type="invalid_request_error",model="unknown",provider="",route="chat_completions",status_class="4xx"} 100000"#
    ));
    assert!(has(&text, r#"tollgate_refusals_total{reason="model_not_found"} 100000"#));
}

#[test]
fn a_call_is_counted_in_every_series_that_it_concerns() {
    let text = scraped(&used());
    for line in [
        r#"tollgate_requests_total{error_type="",model="gpt-4o-mini",provider="openai",route="chat_completions",status_class="2xx"} 1"#,
        r#"tollgate_tokens_total{kind="input",model="gpt-4o-mini",provider="openai"} 30"#,
        r#"tollgate_tokens_total{kind="output",model="gpt-4o-mini",provider="openai"} 12"#,
        r#"tollgate_units_total{kind="web_search",model="gpt-4o-mini",provider="openai"} 2"#,
        r#"tollgate_spend_nano_usd_total{model="gpt-4o-mini",provider="openai"} 4200"#,
        r#"tollgate_overhead_seconds_bucket{le="0.00002"} 0"#,
        r#"tollgate_overhead_seconds_bucket{le="0.00005"} 1"#,
        r#"tollgate_upstream_seconds_bucket{provider="openai",le="0.5"} 1"#,
        r#"tollgate_time_to_first_token_seconds_bucket{provider="openai",le="0.1"} 1"#,
        r#"tollgate_calls_estimated_total{provider="openai",reason="no_usage"} 0"#,
    ] {
        assert!(has(&text, line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn handles_of_the_same_labels_count_into_the_same_series() {
    let metrics = used();
    let provider = metrics.provider_series("openai");
    let after_reload = metrics.call_series(Route::ChatCompletions, &provider, &model("gpt-4o-mini"));
    after_reload.record(&settled(Outcome::Complete, 200, false), &timing());
    assert!(has(&scraped(&metrics), r#"tollgate_spend_nano_usd_total{model="gpt-4o-mini",provider="openai"} 8400"#));
}

#[test]
fn what_providers_do_wrong_is_counted_by_reason() {
    let metrics = used();
    let provider = metrics.provider_series("openai");
    let calls = metrics.call_series(Route::ChatCompletions, &provider, &model("gpt-4o-mini"));
    for (outcome, status) in [(Outcome::Complete, 200), (Outcome::ClientGone, 0), (Outcome::UpstreamFailed, 200)] {
        calls.record(&settled(outcome, status, true), &timing());
    }
    calls.record(&Settled { bound_exceeded: true, ..settled(Outcome::Refused, 429, false) }, &timing());
    calls.provider().failed_over(Failover::Status);
    calls.provider().set_cooling(true);
    calls.provider().set_credential_benched(1, true);
    calls.provider().observe_token_gap(Duration::from_millis(4));
    let text = scraped(&metrics);
    for line in [
        r#"tollgate_calls_estimated_total{provider="openai",reason="no_usage"} 1"#,
        r#"tollgate_calls_estimated_total{provider="openai",reason="client_gone"} 1"#,
        r#"tollgate_calls_estimated_total{provider="openai",reason="upstream_failed"} 1"#,
        r#"tollgate_calls_bound_exceeded_total{provider="openai"} 1"#,
        r#"tollgate_failovers_total{provider="openai",reason="status"} 1"#,
        r#"tollgate_failovers_total{provider="openai",reason="connect"} 0"#,
        r#"tollgate_provider_cooling{provider="openai"} 1"#,
        r#"tollgate_credential_benched{credential="1",provider="openai"} 1"#,
        r#"tollgate_token_gap_seconds_bucket{provider="openai",le="0.005"} 1"#,
        r#"tollgate_requests_total{error_type="upstream_error",model="gpt-4o-mini",provider="openai",route="chat_completions",status_class="4xx"} 1"#,
        r#"tollgate_requests_total{error_type="",model="gpt-4o-mini",provider="openai",route="chat_completions",status_class="none"} 1"#,
    ] {
        assert!(has(&text, line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn refusals_are_counted_by_code_and_as_calls() {
    let metrics = Metrics::default();
    metrics.answered(Route::Key, 200);
    metrics.refused(None, Code::NotFound);
    metrics.refused(Some(Route::Messages), Code::ModelUnpriced);
    let limited = metrics.refusal_series(Route::Messages, &model("claude-sonnet-4-6"));
    limited.refused(Code::RateLimitExceeded);
    let text = scraped(&metrics);
    for line in [
        r#"tollgate_requests_total{error_type="",model="",provider="",route="key",status_class="2xx"} 1"#,
        r#"tollgate_refusals_total{reason="not_found"} 1"#,
        r#"tollgate_refusals_total{reason="model_unpriced"} 1"#,
        r#"tollgate_refusals_total{reason="rate_limit_exceeded"} 1"#,
        r#"tollgate_refusals_total{reason="overloaded"} 0"#,
        "tollgate_calls_unpriced_total 1",
        r#"tollgate_requests_total{error_type="invalid_request_error",model="",provider="",route="unknown",status_class="4xx"} 1"#,
        r#"tollgate_requests_total{error_type="rate_limit_error",model="claude-sonnet-4-6",provider="",route="messages",status_class="4xx"} 1"#,
    ] {
        assert!(has(&text, line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn calls_are_in_flight_while_their_guard_lives() {
    let metrics = Metrics::default();
    let calls = [metrics.enter(), metrics.enter()];
    assert!(has(&scraped(&metrics), "tollgate_requests_in_flight 2"));
    drop(calls);
    assert!(has(&scraped(&metrics), "tollgate_requests_in_flight 0"));
}

#[test]
fn totals_of_other_parts_are_taken_over_and_never_fall() {
    let metrics = Metrics::default();
    let key_lookups = KeyLookups { memory: 7, redis: 3, store: 2, unknown: 1, failed: 0 };
    let journal_lag = Duration::from_millis(1_500);
    metrics.request_unnoted();
    let (quota_thresholds, requests_unnoted) = ([3, 2, 0, 1], Unnoted { sampled: 9, failed: 1 });
    let redis = RedisUse { is_degraded: true, round_trips: [4, 5, 6], micros: [900, 0, 0], failures: 2 };
    let webhooks =
        WebhookUse { delivered: 8, failed: 2, given_up: 1, waiting: 6, oldest: Duration::from_millis(2_500) };
    let counted = Snapshot { quota_thresholds, requests_unnoted, redis, webhooks, ..Snapshot::default() };
    let newer = Snapshot { shipped_calls: 5, key_lookups, journal_lag, journal_lag_records: 3, ..counted };
    let older = Snapshot { shipped_calls: 4, ..newer };
    let [_, _, text] = [newer, older, newer].map(|snapshot| metrics.render(&snapshot));
    for line in [
        "tollgate_shipped_calls_total 5",
        r#"tollgate_key_lookups_total{result="memory"} 7"#,
        r#"tollgate_key_lookups_total{result="unknown"} 1"#,
        "tollgate_journal_lag_seconds 1.5",
        "tollgate_journal_lag_records 3",
        r#"tollgate_quota_thresholds_total{percent="50"} 3"#,
        r#"tollgate_quota_thresholds_total{percent="100"} 0"#,
        r#"tollgate_quota_thresholds_total{percent="other"} 1"#,
        r#"tollgate_requests_unnoted_total{reason="full"} 1"#,
        r#"tollgate_requests_unnoted_total{reason="sampled"} 9"#,
        "tollgate_redis_degraded 1",
        r#"tollgate_key_lookups_total{result="redis"} 3"#,
        r#"tollgate_redis_round_trips_total{purpose="keys"} 5"#,
        r#"tollgate_redis_round_trips_total{purpose="clock"} 6"#,
        r#"tollgate_redis_microseconds_total{purpose="rates"} 900"#,
        "tollgate_redis_failures_total 2",
        r#"tollgate_webhook_tries_total{result="delivered"} 8"#,
        r#"tollgate_webhook_tries_total{result="given_up"} 1"#,
        "tollgate_webhooks_waiting 6",
        "tollgate_webhooks_oldest_seconds 2.5",
    ] {
        assert!(has(&text, line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn reloads_are_counted_by_result() {
    let metrics = Metrics::default();
    metrics.config_reloaded(true);
    metrics.config_reloaded(false);
    metrics.config_reloaded(false);
    let text = scraped(&metrics);
    assert!(has(&text, r#"tollgate_config_reloads_total{result="ok"} 1"#));
    assert!(has(&text, r#"tollgate_config_reloads_total{result="failed"} 2"#));
}
