//! Every URL that the provider answers, in one table. Versions before the path are taken off, as often as they stand
//! there: some clients are told the host, some the host and the version, and either way the call arrives.

use filters::dialect::{Dialect, Protocol};
use http::request::Parts;
use http::{Method, Uri};

/// What a request is for.
#[derive(Clone, Debug)]
pub(super) enum Route {
    /// A call of the model.
    Call(Target),
    /// Something that the provider keeps or lists.
    Object(ObjectPath),
    /// `GET /v1/realtime`.
    Session,
    /// `GET /health`.
    Health,
    /// `GET /log`.
    Log,
}

/// Where a call goes.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) dialect: Dialect,
    pub(super) operation: Operation,
    /// The model, where the path names it.
    pub(super) model: Option<String>,
}

/// What the path says beside its dialect, where one dialect has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// What the dialect is named after; the body says whether it is streamed.
    Plain,
    /// Images: an edit of one.
    Edit,
    /// Images: a variation of one.
    Variation,
    /// Transcription into English.
    Translation,
    /// Embeddings of several contents.
    Batch,
    /// The answer is a stream of events.
    Streamed,
    /// The answer is a JSON array, element by element.
    StreamedArray,
    /// OpenAI responses: only the count of the input.
    Count,
}

/// The path of an object: `files`, `files/ID`, `files/ID/content`.
#[derive(Clone, Debug)]
pub(super) struct ObjectPath {
    pub(super) protocol: Protocol,
    pub(super) segments: Vec<String>,
}

/// Before the path of an API: versions, and what some hosts put before them.
const PREFIXES: [&str; 7] = ["v1", "v1beta", "v2", "openai", "api", "inference", "upload"];

/// Looks a request up.
pub(super) fn find(parts: &Parts) -> Route {
    let all: Vec<String> =
        parts.uri.path().split('/').filter(|segment| !segment.is_empty()).map(percent_decoded).collect();
    let skipped = all.iter().take_while(|segment| PREFIXES.contains(&segment.as_str())).count();
    let mut segments: Vec<&str> = all[skipped..].iter().map(String::as_str).collect();
    let mut model = None;
    if let ["deployments", deployment, ..] = segments[..] {
        model = Some(deployment.to_owned());
        segments.drain(..2);
    }
    match (&parts.method, &segments[..]) {
        (&Method::GET, ["health"]) => return Route::Health,
        (&Method::GET, ["log"]) => return Route::Log,
        (&Method::GET, ["realtime"]) => return Route::Session,
        _ => {}
    }
    let target = if parts.method == Method::POST { target(&segments, &parts.uri) } else { None };
    match target {
        Some(target) => Route::Call(Target { model: target.model.or(model), ..target }),
        None => Route::Object(ObjectPath {
            protocol: protocol(parts, &all),
            segments: segments.into_iter().map(str::to_owned).collect(),
        }),
    }
}

fn target(segments: &[&str], uri: &Uri) -> Option<Target> {
    let (dialect, operation) = match segments {
        ["chat", "completions"] => (Dialect::OpenaiChat, Operation::Plain),
        ["messages"] => (Dialect::Anthropic, Operation::Plain),
        ["messages", "count_tokens"] => (Dialect::AnthropicCount, Operation::Plain),
        ["responses"] => (Dialect::OpenaiResponses, Operation::Plain),
        ["responses", "input_tokens"] => (Dialect::OpenaiResponses, Operation::Count),
        ["completions"] => (Dialect::OpenaiCompletions, Operation::Plain),
        ["embeddings"] => (Dialect::OpenaiEmbeddings, Operation::Plain),
        ["images", "generations"] => (Dialect::OpenaiImages, Operation::Plain),
        ["images", "edits"] => (Dialect::OpenaiImages, Operation::Edit),
        ["images", "variations"] => (Dialect::OpenaiImages, Operation::Variation),
        ["audio", "speech"] => (Dialect::OpenaiSpeech, Operation::Plain),
        ["audio", "transcriptions"] => (Dialect::OpenaiTranscription, Operation::Plain),
        ["audio", "translations"] => (Dialect::OpenaiTranscription, Operation::Translation),
        ["moderations"] => (Dialect::OpenaiModerations, Operation::Plain),
        ["chat"] => (Dialect::CohereChat, Operation::Plain),
        ["embed"] => (Dialect::CohereEmbed, Operation::Plain),
        ["rerank"] => (Dialect::CohereRerank, Operation::Plain),
        ["models", named] => return gemini(named, uri),
        ["model", model, action] => return bedrock(model, action),
        _ => return None,
    };
    Some(Target { dialect, operation, model: None })
}

/// `MODEL:ACTION`.
fn gemini(named: &str, uri: &Uri) -> Option<Target> {
    let (model, action) = named.rsplit_once(':')?;
    let (dialect, operation) = match action {
        "generateContent" => (Dialect::GeminiGenerate, Operation::Plain),
        "streamGenerateContent" if query_value(uri, "alt") == Some("sse") => {
            (Dialect::GeminiGenerate, Operation::Streamed)
        }
        "streamGenerateContent" => (Dialect::GeminiGenerate, Operation::StreamedArray),
        "countTokens" => (Dialect::GeminiCount, Operation::Plain),
        "embedContent" => (Dialect::GeminiEmbed, Operation::Plain),
        "batchEmbedContents" => (Dialect::GeminiEmbed, Operation::Batch),
        _ => return None,
    };
    Some(Target { dialect, operation, model: Some(model.to_owned()) })
}

fn bedrock(model: &str, action: &str) -> Option<Target> {
    let (dialect, operation) = match action {
        "converse" => (Dialect::BedrockConverse, Operation::Plain),
        "converse-stream" => (Dialect::BedrockConverse, Operation::Streamed),
        "invoke" => (Dialect::BedrockInvoke, Operation::Plain),
        "invoke-with-response-stream" => (Dialect::BedrockInvoke, Operation::Streamed),
        _ => return None,
    };
    Some(Target { dialect, operation, model: Some(model.to_owned()) })
}

/// Whose object is meant, where the same path is several providers'.
fn protocol(parts: &Parts, segments: &[String]) -> Protocol {
    if parts.headers.contains_key("anthropic-version") {
        Protocol::Anthropic
    } else if parts.headers.contains_key("x-goog-api-key") || segments.iter().any(|segment| segment == "v1beta") {
        Protocol::Gemini
    } else if segments.iter().any(|segment| segment == "v2") {
        Protocol::Cohere
    } else {
        Protocol::Openai
    }
}

/// The value of a query's parameter, as it stands there.
pub(super) fn query_value<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(found, _)| *found == name).map(|(_, value)| value)
}

/// A segment with its escapes undone; one that is no text stays as it is.
fn percent_decoded(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| after.get(..2)).flatten();
        let escaped = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        rest = if escaped.is_some() { &after[2..] } else { after };
        bytes.push(escaped.unwrap_or(byte));
    }
    String::from_utf8(bytes).unwrap_or_else(|_| segment.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: Method, uri: &str) -> Route {
        let (parts, ()) =
            http::Request::builder().method(method).uri(uri).body(()).expect("a request that is right").into_parts();
        find(&parts)
    }

    fn call(uri: &str) -> Target {
        match found(Method::POST, uri) {
            Route::Call(target) => target,
            other => panic!("{uri}: {other:?}"),
        }
    }

    #[test]
    fn versions_are_taken_off() {
        for uri in ["/chat/completions", "/v1/chat/completions", "/v1/v1/chat/completions?x=1"] {
            assert_eq!(call(uri).dialect, Dialect::OpenaiChat, "{uri}");
        }
        assert_eq!(call("/v2/chat").dialect, Dialect::CohereChat);
        let azure = call("/openai/deployments/mine/chat/completions?api-version=1");
        assert_eq!((azure.dialect, azure.model.as_deref()), (Dialect::OpenaiChat, Some("mine")));
    }

    #[test]
    fn model_is_taken_from_the_path() {
        let target = call("/v1beta/models/gemini-2.5-flash+status=503:streamGenerateContent?alt=sse");
        assert_eq!((target.dialect, target.operation), (Dialect::GeminiGenerate, Operation::Streamed));
        assert_eq!(target.model.as_deref(), Some("gemini-2.5-flash+status=503"));
        let target = call("/v1beta/models/m:streamGenerateContent");
        assert_eq!(target.operation, Operation::StreamedArray);
        let target = call("/model/anthropic.claude-v1%3A0/invoke");
        assert_eq!((target.dialect, target.model.as_deref()), (Dialect::BedrockInvoke, Some("anthropic.claude-v1:0")));
    }

    #[test]
    fn everything_else_is_an_object() {
        let Route::Object(path) = found(Method::GET, "/v1/files/file-1/content") else { panic!("no object") };
        assert_eq!((path.protocol, path.segments.join("/")), (Protocol::Openai, "files/file-1/content".to_owned()));
        let Route::Object(path) = found(Method::GET, "/v1beta/files/f") else { panic!("no object") };
        assert_eq!(path.protocol, Protocol::Gemini);
        assert!(matches!(found(Method::GET, "/v1/health"), Route::Health));
    }
}
