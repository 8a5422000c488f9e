//! How a provider is asked: our credential as it wants it, its paths and its parameters.

use crate::support::{Call, Scripted, Setup, Upstream};

const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

/// The head that a provider with these settings gets, asked below `path` by a client with `query`.
fn asked(path: &str, settings: &[&str], query: &str) -> crate::support::Received {
    let provider = Scripted::answering(200, ANSWER);
    let url = format!("http://{}{path}", provider.address);
    let upstream = Upstream::openai("scripted", url).credentials(&["AKID:topsecret:token"]).model("gpt-4o/mini");
    let upstream = settings.iter().fold(upstream, |upstream, setting| upstream.setting(setting));
    let gateway = Setup::new().upstream(upstream).start();
    let mut request = Call::chat("Hello").with("stream", true).request(&gateway.key.token);
    request.path.push_str(query);
    let request = request.header("x-amz-date", "mine");
    assert_eq!(gateway.exchange(&request).status, 200);
    provider.requests().remove(0)
}

#[test]
fn a_deployment_is_asked_with_its_name_in_the_path() {
    let settings = ["credential = 'api-key'", "query = 'api-version=2026-01-01&a=b'", "adds_usage = false"];
    let request = asked("/openai/deployments/{model}", &settings, "?api-version=old&c=d");
    let line = request.head.lines().next();
    let path = "/openai/deployments/gpt-4o%2Fmini/chat/completions?c=d&api-version=2026-01-01&a=b";
    assert_eq!(line, Some(&*format!("POST {path} HTTP/1.1")));
    assert_eq!((request.header("api-key"), request.header("authorization")), (Some("AKID:topsecret:token"), None));
    assert!(!String::from_utf8_lossy(&request.body).contains("stream_options"), "it refuses what it does not know");
    let request = asked("/v1", &[], "");
    assert_eq!(request.header("authorization"), Some("Bearer AKID:topsecret:token"));
    assert!(String::from_utf8_lossy(&request.body).contains("stream_options"));
}

#[test]
fn a_request_is_signed_as_aws_wants_it() {
    let request = asked("", &["credential = 'sigv4'", "region = 'eu-west-1'"], "");
    let authorization = request.header("authorization").expect("signed");
    let date = request.header("x-amz-date").expect("dated");
    let (day, time) = date.split_once('T').expect("a moment");
    assert!(day.len() == 8 && time.len() == 7 && time.ends_with('Z'), "{date}");
    let begin = format!(
        "AWS4-HMAC-SHA256 Credential=AKID/{day}/eu-west-1/bedrock/aws4_request, \
         SignedHeaders=host;x-amz-date;x-amz-security-token, Signature="
    );
    assert!(authorization.strip_prefix(&*begin).is_some_and(|signature| signature.len() == 64), "{authorization}");
    assert_eq!(request.header("x-amz-security-token"), Some("token"));
    assert!(!request.head.contains("topsecret") && !request.head.contains("mine"), "{}", request.head);
}
