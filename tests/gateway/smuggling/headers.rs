//! Headers that are between the client and the gateway, or between the gateway and the provider, stay there.

use super::ANSWER;
use crate::support::{Call, Gateway, Request, Scripted, Setup, Upstream};
use std::collections::BTreeSet;

/// The names of a request's headers.
fn names(head: &str) -> BTreeSet<String> {
    head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0.to_ascii_lowercase())).collect()
}

#[test]
fn the_clients_credential_becomes_the_providers() {
    let provider = Scripted::answering(200, ANSWER);
    let gateway = Setup::new()
        .upstream(Upstream::openai("scripted-openai", provider.url()))
        .upstream(Upstream::anthropic("scripted-anthropic", provider.url()))
        .start();
    let token = gateway.key.token.clone();
    let chat = Call::chat("Hello").request(&token);
    let body = chat.body.clone();
    let bare = || Request::post("/v1/chat/completions", body.clone());
    let all = chat.clone().header("x-api-key", &token).header("api-key", &token).header("x-goog-api-key", &token);
    let requests = [
        chat,
        bare().header("x-api-key", &token),
        bare().header("api-key", &token),
        bare().header("x-goog-api-key", &token),
        all,
    ];
    for request in requests {
        assert_eq!(gateway.exchange(&request).status, 200);
        let seen = provider.requests().pop().expect("a request");
        assert_eq!(seen.header("authorization"), Some("Bearer sk-upstream"));
        assert!(!seen.head.contains(&token) && !names(&seen.head).contains("x-api-key"), "{}", seen.head);
    }
    assert_eq!(gateway.call(&Call::messages("Hello")).status, 200);
    let seen = provider.requests().pop().expect("a request");
    assert_eq!((seen.header("x-api-key"), seen.header("authorization")), (Some("sk-upstream"), None));
    assert_eq!(seen.header("anthropic-version"), Some("2023-06-01"));
    assert!(!seen.head.contains(&token));
}

#[test]
fn two_different_credentials_are_refused() {
    let gateway = Gateway::start();
    let request = Call::chat("Hello").request(&gateway.key.token).header("x-api-key", "another");
    assert_eq!(gateway.exchange(&request).refusal(), (400, "ambiguous_credentials".to_owned()));
    let twice = Call::chat("Hello").request(&gateway.key.token).bearer("another");
    assert_eq!(gateway.exchange(&twice).refusal(), (400, "ambiguous_credentials".to_owned()));
}

#[test]
fn what_is_between_client_and_gateway_goes_no_further() {
    let provider = Scripted::answering(200, ANSWER);
    let gateway = Setup::new().upstream(Upstream::openai("scripted", provider.url())).start();
    let stopped = [
        ("x-tollgate-client", "10.0.0.1"),
        ("X-Tollgate-Call", "mine"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-host", "a"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=10.0.0.1"),
        ("x-real-ip", "10.0.0.1"),
        ("cookie", "session=1"),
        ("te", "trailers"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic x"),
        ("proxy-connection", "keep-alive"),
        ("trailer", "x-trailer"),
        ("x-request-id", "mine"),
        ("openai-organization", "org-mine"),
        ("openai-project", "proj-mine"),
        ("x-named", "by connection"),
        ("cf-connecting-ip", "10.0.0.1"),
    ];
    let passed = [
        ("user-agent", "OpenAI/Python 2.0"),
        ("accept", "application/json"),
        ("x-stainless-lang", "python"),
        ("idempotency-key", "one"),
        ("openai-beta", "assistants=v2"),
        ("traceparent", "00-1-1-01"),
    ];
    let call = stopped.iter().chain(&passed).fold(Call::chat("Hello"), |call, (name, value)| call.header(name, value));
    assert_eq!(gateway.call(&call.header("connection", "X-Named, keep-alive")).status, 200);
    let seen = provider.requests().remove(0);
    for (name, value) in stopped {
        assert!(!names(&seen.head).contains(&name.to_ascii_lowercase()), "{name} in {}", seen.head);
        assert!(!seen.head.contains(&format!(": {value}\r\n")), "{value} in {}", seen.head);
    }
    for (name, value) in passed {
        assert_eq!(seen.header(name), Some(value));
    }
    let own = ["host", "authorization", "accept-encoding", "content-length", "content-type"];
    let expected: BTreeSet<String> =
        own.iter().copied().chain(passed.iter().map(|(name, _)| *name)).map(str::to_owned).collect();
    assert_eq!(names(&seen.head), expected);
    assert_eq!(seen.header("host"), Some(provider.address.to_string().as_str()));
}

#[test]
fn what_is_between_provider_and_gateway_goes_no_further() {
    let stopped = [
        ("set-cookie", "__cf_bm=1"),
        ("alt-svc", "h3=\":443\""),
        ("x-ratelimit-limit-requests", "10000"),
        ("x-ratelimit-remaining-tokens", "29999000"),
        ("anthropic-ratelimit-requests-limit", "4000"),
        ("server", "cloudflare"),
        ("openai-organization", "org-ours"),
        ("anthropic-organization-id", "ours"),
        ("cf-ray", "1"),
        ("keep-alive", "timeout=5"),
        ("strict-transport-security", "max-age=1"),
        ("x-tollgate-provider", "forged"),
        ("x-tollgate-cost-usd", "0"),
        ("access-control-allow-origin", "*"),
    ];
    let lines: String = stopped.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let provider = Scripted::start(move |exchange| {
        let length = ANSWER.len();
        exchange.send(format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nopenai-version: 2020-10-01\r\nx-request-id: req_theirs\r\n\
             {lines}content-length: {length}\r\n\r\n{ANSWER}"
        ));
    });
    let gateway = Setup::new().upstream(Upstream::openai("scripted", provider.url())).start();
    let answer = gateway.call(&Call::chat("Hello"));
    for (name, value) in stopped {
        assert_ne!(answer.header(name), Some(value), "{name}");
    }
    assert_eq!(answer.header("openai-version"), Some("2020-10-01"));
    assert_eq!(answer.header("x-tollgate-upstream-request-id"), Some("req_theirs"));
    assert_ne!(answer.request_id(), "req_theirs");
    for name in ["x-request-id", "content-length", "x-tollgate-provider", "x-tollgate-cost-usd", "content-type"] {
        assert_eq!(answer.headers.iter().filter(|(other, _)| other == name).count(), 1, "{name}");
    }
}

#[test]
fn headers_that_the_provider_names_in_connection_go_no_further() {
    let provider = Scripted::start(|exchange| {
        exchange
            .send("HTTP/1.1 200 OK\r\nconnection: keep-alive, X-Named\r\nx-named: a\r\ncontent-length: 2\r\n\r\n{}");
    });
    let gateway = Setup::new().upstream(Upstream::openai("scripted", provider.url())).start();
    assert_eq!(gateway.call(&Call::chat("Hello")).header("x-named"), None);
}

#[test]
fn the_simulated_providers_account_is_not_shown_either() {
    let gateway = Gateway::start();
    for call in [
        Call::chat("Hello"),
        Call::messages("Hello"),
        Call::chat("Hello").streamed(),
        Call::messages("Hello").streamed(),
    ] {
        let answer = gateway.call(&call);
        assert_eq!(answer.status, 200);
        for name in ["set-cookie", "alt-svc", "server", "cf-ray", "openai-organization", "anthropic-organization-id"] {
            assert_eq!(answer.header(name), None, "{name}");
        }
        assert!(
            !answer
                .headers
                .iter()
                .any(|(name, _)| name.starts_with("x-ratelimit-") || name.starts_with("anthropic-ratelimit-"))
        );
    }
}

#[test]
fn a_status_line_or_header_that_is_forged_by_the_provider_splits_nothing() {
    let provider = Scripted::start(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nx-forged: a\rHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        exchange.close();
    });
    let gateway = Setup::new().upstream(Upstream::openai("scripted", provider.url())).start();
    let answer = gateway.call(&Call::chat("Hello"));
    assert_eq!(answer.refusal(), (502, "upstream_failed".to_owned()));
}

#[test]
fn an_interim_answer_of_the_provider_is_not_the_answer() {
    let provider = Scripted::start(|exchange| {
        exchange.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        exchange.answer(200, ANSWER);
    });
    let gateway = Setup::new().upstream(Upstream::openai("scripted", provider.url())).start();
    let answer = gateway.call(&Call::chat("Hello"));
    assert_eq!((answer.status, answer.text().as_str(), answer.header("link")), (200, ANSWER, None));
}
