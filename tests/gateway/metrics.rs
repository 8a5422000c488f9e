//! What Prometheus, the orchestrator's probes and the log see of the calls.

use crate::money::{Account, count, counting, dollars, storm, times};
use crate::support::{Answer, Call, Gateway, Provider, Request, Scripted, Setup, Upstream, Wire, eventually, run};
use serde_json::Value;
use std::collections::BTreeSet;

/// Model names that nobody has, in the normal run and in the long one.
const INVENTED_NAMES: [usize; 2] = [2_000, 100_000];

/// Names of the series in a text that Prometheus scrapes.
fn names(text: &str) -> BTreeSet<&str> {
    let series = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(['{', ' ']).next().unwrap_or_default());
    series.collect()
}

/// Series with their labels, without their values.
fn series(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(series, _)| series)
        .collect()
}

fn probe(gateway: &Gateway, path: &str) -> Answer {
    Wire::connect(gateway.metrics).exchange(&Request::get(path).bytes())
}

/// Names in the dashboard and the alerts, without what Prometheus adds to a histogram's.
fn names_in_dashboards() -> BTreeSet<String> {
    let texts = [include_str!("../../dashboards/tollgate.json"), include_str!("../../dashboards/alerts.yml")].concat();
    let words = texts.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("tollgate_")).map(str::to_owned).collect()
}

#[test]
fn every_series_of_the_dashboard_appears_after_a_few_calls() {
    let gateway = Gateway::start();
    for call in
        [counting(10), counting(10).streamed(), Call::messages("count up"), Call::messages("count up").streamed()]
    {
        assert_eq!(gateway.call(&call).status, 200);
    }
    assert_eq!(count(&gateway, "tollgate_overhead_seconds_count", &[]), "4");
    let text = gateway.scrape();
    let scraped = names(&text);
    // These calls used nothing but tokens.
    let wanted = names_in_dashboards().into_iter().filter(|name| name != "tollgate_units_total");
    let missing: Vec<String> = wanted.filter(|name| !scraped.contains(name.as_str())).collect();
    assert_eq!(missing, Vec::<String>::new());
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("tollgate_"), "{line}");
        assert!(
            line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok_and(f64::is_finite)),
            "{line}"
        );
    }
    assert!(
        text.contains("# HELP tollgate_requests_total ") && text.contains("# TYPE tollgate_requests_total counter")
    );
    let answer = probe(&gateway, "/metrics");
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4")));
}

#[test]
fn what_runs_says_what_it_was_built_from() {
    let gateway = Gateway::start();
    let printed = run(&["--version"]);
    assert!(printed.status.success(), "{printed:?}");
    let printed = String::from_utf8(printed.stdout).expect("text");
    let (name, built) = printed.trim().split_once(" (").expect("the release, then what it was built from");
    assert_eq!(name, concat!("tollgate ", env!("CARGO_PKG_VERSION")));
    let (commit, target) = built.trim_end_matches(')').split_once(", ").expect("a commit and a target");
    assert!(commit == "unknown" || commit.len() == 12 && commit.chars().all(|digit| digit.is_ascii_hexdigit()));
    assert!(target.starts_with(std::env::consts::ARCH) && target.contains("linux"), "{target}");
    let labels = [format!("version=\"{}\"", env!("CARGO_PKG_VERSION")), format!("commit=\"{commit}\"")];
    assert_eq!(count(&gateway, "tollgate_build_info", &[&labels[0], &labels[1], "rustc=\"1."]), "1");
}

#[test]
fn tokens_and_spend_equal_the_books() {
    let gateway = Gateway::start();
    for call in [
        counting(10),
        counting(7).streamed(),
        counting(5).simulate("cached=11"),
        Call::messages("count up"),
        counting(9).simulate("no-usage"),
    ] {
        assert_eq!(gateway.call(&call).status, 200);
    }
    let rows = gateway.books_of(5);
    assert_eq!(count(&gateway, "tollgate_tokens_total", &["kind=\"cache_read\""]), "11");
    for model in ["gpt-4o-mini", "claude-sonnet-4-6"] {
        let of_model = || rows.iter().filter(|row| row.model == model);
        let label = format!("model=\"{model}\"");
        let tokens = |kind: &str| gateway.metric("tollgate_tokens_total", &[&label, &format!("kind=\"{kind}\"")]);
        let spend = count(&gateway, "tollgate_spend_nano_usd_total", &[&label]);
        assert_eq!(spend, of_model().map(|row| row.charge_nano).sum::<i64>().to_string());
        let input = tokens("input") + tokens("cache_read");
        assert_eq!(input.to_string(), of_model().map(|row| row.input_tokens).sum::<i64>().to_string());
        assert_eq!(tokens("output").to_string(), of_model().map(|row| row.output_tokens).sum::<i64>().to_string());
        assert_eq!(
            count(&gateway, "tollgate_requests_total", &[&label, "status_class=\"2xx\""]),
            of_model().count().to_string()
        );
    }
    eventually("all are shipped", || (count(&gateway, "tollgate_shipped_calls_total", &[]) == "5").then_some(()));
    assert_eq!(count(&gateway, "tollgate_journal_lag_records", &[]), "0");
}

#[test]
fn refusals_are_counted_by_reason() {
    let gateway = Gateway::start();
    let limited = gateway.create_key(&["--limit", &dollars(1)]);
    let poor = Account::poor(&gateway).key(&[]);
    let scoped = gateway.create_key(&["--scope", "usage:read"]);
    for (key, call, reason) in [
        (&limited, counting(10), "spend_limit_reached"),
        (&poor, counting(10), "insufficient_credits"),
        (&scoped, counting(10), "route_scope_denied"),
        (&gateway.key, counting(10).with("model", "none"), "model_not_found"),
        (&gateway.key, counting(10).simulate("status=503"), "upstream_failed"),
    ] {
        let before = count(&gateway, "tollgate_refusals_total", &[&format!("reason=\"{reason}\"")]);
        assert_eq!((gateway.call_with(key, &call).refusal().1.as_str(), before.as_str()), (reason, "0"));
        gateway.call_with(key, &call);
    }
    for reason in ["spend_limit_reached", "insufficient_credits", "route_scope_denied", "model_not_found"] {
        assert_eq!(count(&gateway, "tollgate_refusals_total", &[&format!("reason=\"{reason}\"")]), "2", "{reason}");
    }
    let refused = |status_class: &str, error_type: &str| {
        count(
            &gateway,
            "tollgate_requests_total",
            &[&format!("status_class=\"{status_class}\""), &format!("error_type=\"{error_type}\"")],
        )
    };
    assert_eq!(refused("4xx", "insufficient_credits"), "4");
    assert_eq!(refused("4xx", "permission_error"), "2");
    assert_eq!(refused("5xx", "api_error"), "2");
    assert_eq!(count(&gateway, "tollgate_failovers_total", &["reason=\"status\""]), "2");
}

#[test]
fn questions_of_a_key_about_itself_are_counted_by_route() {
    let gateway = Gateway::start();
    let models = Request::get("/v1/models").bearer(&gateway.key.token);
    for _ in 0..2 {
        gateway.key_view(&gateway.key);
    }
    assert_eq!(gateway.exchange(&models).status, 200);
    assert_eq!(gateway.exchange(&Request::get("/v1/key").bearer("nobody")).status, 401);
    let counted = |route: &str, status_class: &str| {
        let labels = [format!("route=\"{route}\""), format!("status_class=\"{status_class}\"")];
        count(&gateway, "tollgate_requests_total", &[&labels[0], &labels[1]])
    };
    let of_key = (counted("key", "2xx"), counted("key", "4xx"));
    assert_eq!((of_key, counted("models", "2xx")), (("2".to_owned(), "1".to_owned()), "1".to_owned()));
}

#[test]
fn invented_models_routes_and_keys_add_at_most_one_series() {
    let gateway = Gateway::start();
    let names = times(INVENTED_NAMES[0], INVENTED_NAMES[1]);
    assert_eq!(gateway.call(&counting(1)).status, 200);
    let ask = |from: usize, to: usize| {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let gateway = &gateway;
                scope.spawn(move || {
                    let mut wire = gateway.connect();
                    for number in (from..to).filter(|number| number % 8 == thread) {
                        let call = counting(1).with("model", format!("invented-{number}"));
                        assert_eq!(wire.exchange(&call.request(&gateway.key.token).bytes()).status, 404);
                    }
                });
            }
        });
    };
    assert_eq!(count(&gateway, "tollgate_overhead_seconds_count", &[]), "1");
    let before = gateway.scrape();
    ask(0, names);
    let unknown = count(&gateway, "tollgate_requests_total", &["model=\"unknown\"", "status_class=\"4xx\""]);
    assert_eq!(unknown, names.to_string());
    let text = gateway.scrape();
    let (series_before, series_after) = (series(&before), series(&text));
    let new: Vec<_> = series_after
        .difference(&series_before)
        .filter(|series| !series.starts_with("tollgate_refusals_total"))
        .collect();
    assert!(new.len() <= 1, "{new:#?}");
    assert!(!text.contains("invented"));
    for number in 0..20 {
        gateway.exchange(&Request::get(&format!("/v1/path-{number}")).bearer(&gateway.key.token));
        gateway.exchange(&Request::get("/v1/key").bearer(&format!("nobody-{number}")));
        gateway.exchange(
            &counting(1)
                .header("x-simulate", "status=418")
                .header("user-agent", &format!("agent-{number}"))
                .request(&gateway.key.token),
        );
    }
    let text = gateway.scrape();
    for invented in ["path-", "nobody-", "agent-", &gateway.key.id] {
        assert!(!text.contains(invented), "{invented}");
    }
}

#[test]
fn calls_in_flight_are_counted_and_return_to_none() {
    let gateway = Gateway::start();
    let in_flight = || gateway.metric("tollgate_requests_in_flight", &[]).to_string();
    assert_eq!(in_flight(), "0");
    let mut streams: Vec<Wire> =
        (0..7).map(|_| gateway.open(&counting(5).streamed().simulate("hang-after=1"))).collect();
    streams.iter_mut().for_each(|wire| assert_eq!(wire.head().status, 200));
    assert_eq!(in_flight(), "7");
    streams.pop().expect("one of seven").reset();
    eventually("one has left", || (in_flight() == "6").then_some(()));
    drop(streams);
    eventually("all have left", || (in_flight() == "0").then_some(()));
    let left = count(&gateway, "tollgate_calls_estimated_total", &["reason=\"client_gone\""]);
    assert_eq!(left, "7");
    storm(&gateway, std::slice::from_ref(&gateway.key), &counting(1), 200, &[]);
    eventually("all are done", || (in_flight() == "0").then_some(()));
}

#[test]
fn times_are_observed_where_they_pass() {
    let provider = Provider::with(&["--first-token-ms", "600", "--token-ms", "20"]);
    let gateway = Setup::new().upstream(Upstream::openai("slow", provider.url())).start();
    assert_eq!(gateway.call(&counting(5).streamed()).status, 200);
    assert_eq!(count(&gateway, "tollgate_overhead_seconds_count", &[]), "1");
    let labels = ["provider=\"slow\""];
    for (name, least, most) in [
        ("tollgate_upstream_seconds_sum", 0.65, 20.0),
        ("tollgate_time_to_first_token_seconds_sum", 0.6, 20.0),
        ("tollgate_token_gap_seconds_sum", 0.04, 20.0),
    ] {
        let seconds = gateway.metric(name, &labels);
        assert!((least..most).contains(&seconds), "{name}: {seconds}");
    }
    // What the gateway adds is not what it waits for.
    let overhead = gateway.metric("tollgate_overhead_seconds_sum", &[]);
    assert!(overhead < gateway.metric("tollgate_upstream_seconds_sum", &labels), "{overhead}");
    assert!(gateway.metric("tollgate_token_gap_seconds_count", &labels) >= 3.0);
}

#[test]
fn providers_that_fail_are_seen_by_name_and_reason() {
    let dead = Upstream::openai("dead", "http://127.0.0.1:9/v1").credentials(&["one", "two"]);
    let refusing = Scripted::answering(401, "{\"error\":{\"message\":\"who are you?\"}}");
    let provider = Provider::start();
    let setup = Setup::new().upstream(dead).upstream(Upstream::openai("refusing", refusing.url()).priority(1));
    let gateway = setup.upstream(Upstream::openai("good", provider.url()).priority(2)).start();
    assert_eq!(gateway.call(&counting(1)).header("x-tollgate-provider"), Some("good"));
    let failed = |provider: &str, reason: &str| {
        count(
            &gateway,
            "tollgate_failovers_total",
            &[&format!("provider=\"{provider}\""), &format!("reason=\"{reason}\"")],
        )
    };
    assert_eq!(
        (failed("dead", "connect"), failed("refusing", "credential"), failed("good", "status")),
        ("1".into(), "1".into(), "0".into())
    );
    assert_eq!(count(&gateway, "tollgate_provider_cooling", &["provider=\"dead\""]), "1");
    assert_eq!(count(&gateway, "tollgate_credential_benched", &["provider=\"refusing\""]), "1");
    assert_eq!(count(&gateway, "tollgate_provider_cooling", &["provider=\"good\""]), "0");
}

/// A gateway that is not ready for so many milliseconds before it takes no more connections.
fn with_drain_delay(milliseconds: &str) -> Gateway {
    let gateway = Gateway::start();
    let config = std::fs::read_to_string(gateway.config()).expect("the configuration");
    assert!(config.contains("drain_delay_ms = 0\n"));
    let changed = config.replace("drain_delay_ms = 0", &format!("drain_delay_ms = {milliseconds}"));
    std::fs::write(gateway.config(), changed).expect("written");
    gateway.kill();
    gateway.restart();
    gateway
}

#[test]
fn probes_say_whether_it_lives_and_is_ready() {
    let gateway = with_drain_delay("1_500");
    for path in ["/livez", "/readyz"] {
        assert_eq!(probe(&gateway, path).status, 200, "{path}");
        let control = Wire::connect(gateway.control).exchange(&Request::get(path).bytes());
        assert_eq!(control.status, 200, "{path}");
        // They are not on the public listener.
        assert_eq!(gateway.exchange(&Request::get(path)).status, 404, "{path}");
    }
    let stream = gateway.open(&counting(5).streamed().simulate("hang-after=1"));
    gateway.signal(rustix::process::Signal::TERM);
    eventually("it is not ready any more", || (gateway.readiness() == Some(503)).then_some(()));
    assert_eq!(probe(&gateway, "/livez").status, 200, "it lives all the same");
    assert_eq!(gateway.call(&counting(1)).status, 200, "calls that still come are served");
    drop(stream);
    assert!(gateway.wait().success());
}

/// The structured lines of calls.
fn call_lines(gateway: &Gateway) -> Vec<Value> {
    let log = gateway.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == "tollgate::call").collect()
}

#[test]
fn each_call_has_one_structured_line() {
    let gateway = Setup::new().section("[log]\nformat = 'json'\nlevel = 'info'").start();
    let poor = gateway.create_key(&["--limit", "0.000001"]);
    let calls = [
        (gateway.call(&counting(10)), &gateway.key),
        (gateway.call(&Call::messages("count up").streamed()), &gateway.key),
        (gateway.call_with(&poor, &counting(10)), &poor),
        (gateway.call(&counting(10).simulate("status=503")), &gateway.key),
        (gateway.exchange(&Request::get("/v1/key").bearer(&poor.token)), &poor),
    ];
    let nobody = gateway.exchange(&counting(10).request("nobody"));
    let lines = eventually("all lines are written", || Some(call_lines(&gateway)).filter(|lines| lines.len() >= 6));
    assert_eq!(lines.len(), 6, "{lines:#?}");
    let line_of = |answer: &Answer| {
        let mut found = lines.iter().filter(|line| line["request_id"] == answer.request_id());
        let line = found.next().expect("a line");
        assert_eq!((found.count(), &line["status"]), (0, &answer.status.into()), "{line}");
        line
    };
    for (answer, key) in &calls {
        let line = line_of(answer);
        assert_eq!((&line["key"], &line["key_name"]), (&key.id.as_str().into(), &"test".into()), "{line}");
        assert!(line["total_us"].is_u64() && line["route"].is_string(), "{line}");
    }
    let row = gateway.row(calls[0].0.request_id());
    let line = line_of(&calls[0].0);
    for (field, value) in [
        ("model", Value::from("gpt-4o-mini")),
        ("provider", "simulated-openai".into()),
        ("outcome", "complete".into()),
        ("input_tokens", row.input_tokens.into()),
        ("output_tokens", 10.into()),
        ("charge_nano_usd", row.charge_nano.into()),
        ("attempts", 1.into()),
        ("estimated", false.into()),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert_eq!(line_of(&calls[2].0)["error"], "spend_limit_reached");
    assert_eq!(line_of(&calls[3].0)["error"], "upstream_failed");
    let line = line_of(&nobody);
    assert_eq!((&line["error"], line.get("key")), (&"invalid_api_key".into(), None));
    assert!(!gateway.log().contains("count up"));
}

#[test]
fn the_line_of_a_call_can_be_switched_off() {
    let gateway = Setup::new().section("[log]\nformat = 'json'\ncalls = false").start();
    assert_eq!(gateway.call(&counting(1)).status, 200);
    assert_eq!(gateway.call(&counting(1).with("model", "none")).status, 404);
    gateway.signal(rustix::process::Signal::TERM);
    assert!(gateway.wait().success());
    assert_eq!(call_lines(&gateway), Vec::<Value>::new());
}
