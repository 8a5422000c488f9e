//! Paths behind a provider's name: the routes that the gateway governs, and no others.

use crate::support::{Call, Gateway, Request, Setup, Upstream};

/// A call behind the name of a provider.
fn behind(gateway: &Gateway, name: &str, path: &str, call: &Call) -> crate::support::Answer {
    let mut request = call.request(&gateway.key.token);
    request.path = format!("/{name}{path}");
    gateway.exchange(&request)
}

#[test]
fn a_call_behind_a_providers_name_is_governed_like_any_other() {
    let gateway = Gateway::start();
    let call = Call::chat("count up").with("max_tokens", 5);
    let plain = gateway.call(&call);
    for path in ["/v1/chat/completions", "/chat/completions"] {
        let answer = behind(&gateway, "simulated-openai", path, &call);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.header("x-tollgate-provider"), Some("simulated-openai"));
        assert_eq!(answer.header("x-tollgate-cost-usd"), plain.header("x-tollgate-cost-usd"));
    }
    let rows = gateway.books_of(3);
    assert!(rows.iter().all(|row| row.charge_nano == rows[0].charge_nano), "{rows:?}");
    let message = behind(&gateway, "simulated-anthropic", "/v1/messages", &Call::messages("Hello"));
    assert_eq!(message.status, 200, "{}", message.text());
}

#[test]
fn only_the_named_provider_is_asked_and_its_own_names_of_models_are_known() {
    let provider = crate::support::Provider::start();
    let gateway = Setup::new()
        .upstream(Upstream::openai("first", provider.url()).model("gpt-of-first"))
        .upstream(Upstream::openai("second", provider.url()).model("gpt-of-second"))
        .start();
    for (name, model) in [("first", "gpt-of-first"), ("second", "gpt-of-second"), ("second", "gpt-4o-mini")] {
        let answer = behind(&gateway, name, "/v1/chat/completions", &Call::chat("Hello").with("model", model));
        assert_eq!(answer.header("x-tollgate-provider"), Some(name), "{}", answer.text());
    }
    let foreign =
        behind(&gateway, "first", "/v1/chat/completions", &Call::chat("Hello").with("model", "gpt-of-second"));
    assert_eq!(foreign.refusal(), (404, "model_not_found".to_owned()));
    let narrow = gateway.create_key(&["--provider", "second"]);
    let mut request = Call::chat("Hello").request(&narrow.token);
    request.path = "/first/v1/chat/completions".to_owned();
    assert_eq!(gateway.exchange(&request).refusal(), (403, "provider_not_allowed".to_owned()));
}

#[test]
fn what_is_not_in_a_providers_table_is_not_found() {
    let gateway = Gateway::start();
    for path in ["/v1/organization/users", "/v1/messages", "/", "/v1"] {
        let answer = behind(&gateway, "simulated-openai", path, &Call::chat("Hello"));
        assert_eq!(answer.refusal(), (404, "not_found".to_owned()), "{path}");
    }
    let unknown = behind(&gateway, "nobody", "/v1/chat/completions", &Call::chat("Hello"));
    assert_eq!(unknown.refusal(), (404, "not_found".to_owned()));
    assert!(gateway.provider().log_of(0).is_empty());
}

#[test]
fn routes_that_spend_in_silence_are_refused() {
    let gateway = Gateway::start();
    for path in [
        "/v1/batches",
        "/v1/fine_tuning/jobs",
        "/simulated-openai/v1/batches",
        "/simulated-anthropic/v1/messages/batches",
    ] {
        let answer = gateway.exchange(&Request::post(path, "{}").bearer(&gateway.key.token));
        assert_eq!(answer.refusal(), (422, "route_unmetered".to_owned()), "{path}");
    }
    assert!(gateway.provider().log_of(0).is_empty());
}
