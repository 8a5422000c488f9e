//! What a path asks for, and what the provider's path for it is.

use super::Handling::Inspect;
use super::Root::V1Anthropic;
use super::{Handling, Root, Route, TABLE};
use crate::dialect::Protocol;
use std::borrow::Cow;

/// Other paths of a route, below `/v1`.
const ALIASES: [(&str, Route); 1] = [("/inference", Route::Completions)];

/// First parts of paths, below `/v1` or `/v1beta`, behind which money is spent that no answer tells of: work that runs on when its
/// request has ended, and what is paid for by the day.
const UNMETERED: [&str; 16] = [
    "batches",
    "fine_tuning",
    "fine-tunes",
    "messages/batches",
    "vector_stores",
    "assistants",
    "threads",
    "evals",
    "containers",
    "conversations",
    "uploads",
    "videos",
    "cachedContents",
    "tunedModels",
    "audio/voices",
    "skills",
];

/// Paths of the control plane that clients need, and all below them. Those of operators are none of them: the control plane does not
/// answer them here even if they lie below one.
const CONTROL: [&str; 9] = [
    "/openapi.json",
    "/api/keys",
    "/api/me",
    "/api/orgs",
    "/api/invitations",
    "/api/sessions",
    "/api/usage",
    "/v1/api-keys",
    "/api/v1/api-keys",
];

/// What a path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The route.
    pub route: Route,
    /// The model or object that the path names, as it is written there.
    pub name: Option<Box<str>>,
    /// The provider that the path names: nobody else is asked.
    pub provider: Option<Box<str>>,
}

impl Target {
    /// The target of a path; `speaks_anthropic` decides the paths that two protocols share.
    #[must_use]
    pub fn at(path: &str, speaks_anthropic: bool) -> Option<Self> {
        if let Some(below) = Root::V1.below(path)
            && let Some((_, route)) = ALIASES.iter().find(|(alias, _)| *alias == below)
        {
            return Some(Self::of(*route));
        }
        let find = |is_anthropic: bool| {
            TABLE.iter().filter(|row| (row.root == V1Anthropic) == is_anthropic).find_map(|row| row.at(path))
        };
        let shared = if speaks_anthropic { find(true) } else { None };
        shared.or_else(|| find(false)).or_else(|| is_unmetered(path)).or_else(|| is_control(path))
    }

    /// A target that only names a route.
    #[must_use]
    pub fn of(route: Route) -> Self {
        Self { route, name: None, provider: None }
    }

    /// The target of a path behind the name of a provider. It may be written as the provider's own clients write it, below
    /// the `base` of its URL, or as ours do. What is in no row is passed through to those who have a credential there themselves.
    #[must_use]
    pub fn through(provider: &str, protocol: Protocol, base: &str, path: &str) -> Self {
        let speaks_anthropic = protocol == Protocol::Anthropic;
        let rows = || {
            let rows = TABLE.iter().filter(move |row| row.dialect.protocol() == protocol && row.handling != Inspect);
            rows.filter(move |row| (row.root != V1Anthropic) || speaks_anthropic)
        };
        let below_base = path.strip_prefix(base).filter(|below| below.starts_with('/')).unwrap_or(path);
        let own = rows().find_map(|row| row.below(below_base));
        let passed_through = || {
            let route = is_unmetered(path).map_or(Route::Passthrough, |target| target.route);
            Self { name: Some(below_base.into()), ..Self::of(route) }
        };
        let found = own.or_else(|| rows().find_map(|row| row.at(path))).unwrap_or_else(passed_through);
        Self { provider: Some(provider.into()), ..found }
    }

    /// The path below the provider's base URL, with the provider's own name of the model where the path names one.
    #[must_use]
    pub fn path(&self, model: &str) -> Cow<'static, str> {
        let row = self.route.row();
        match (row.path.split_once("{}"), &self.name) {
            (None, _) | (_, None) => Cow::Borrowed(row.path),
            (Some((before, after)), Some(name)) => match row.handling {
                Handling::Call => Cow::Owned(format!("{before}{}{after}", Written(model))),
                Handling::Inspect
                | Handling::Object
                | Handling::Session
                | Handling::Unmetered
                | Handling::Control
                | Handling::Passthrough => Cow::Owned(format!("{before}{name}{after}")),
            },
        }
    }

    /// The name that the path holds, decoded; nothing if it is not text.
    #[must_use]
    pub fn decoded_name(&self) -> Option<String> {
        let name = self.name.as_deref()?;
        let bytes = name.as_bytes();
        let mut decoded = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            let escaped = (bytes[at] == b'%').then(|| name.get(at + 1..at + 3)).flatten();
            match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                Some(byte) => {
                    decoded.push(byte);
                    at += 3;
                }
                None => {
                    decoded.push(bytes[at]);
                    at += 1;
                }
            }
        }
        String::from_utf8(decoded).ok()
    }
}

fn is_control(path: &str) -> Option<Target> {
    let leads = |first: &&str| path.strip_prefix(*first).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    CONTROL.iter().any(leads).then_some(Target::of(Route::Control))
}

fn is_unmetered(path: &str) -> Option<Target> {
    let below = Root::V1beta.below(path)?.strip_prefix('/')?;
    let leads = |first: &&str| below.strip_prefix(*first).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    UNMETERED.iter().any(leads).then_some(Target::of(Route::Unmetered))
}

/// A name as one part of a path: all but what RFC 3986 leaves free is escaped, and `:`, which names of models hold.
struct Written<'a>(&'a str);

impl std::fmt::Display for Written<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    write!(formatter, "{}", byte as char)?
                }
                _ => write!(formatter, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Handling::{Passthrough, Unmetered};
    use super::super::Root::{Bare, V1, V1beta, V2};
    use super::*;

    fn at(path: &str) -> Option<Route> {
        Target::at(path, false).map(|target| target.route)
    }

    #[test]
    fn every_route_answers_under_both_roots() {
        // Behind a provider's name, or by its first part, stands what the others do not have.
        for row in TABLE.iter().filter(|row| !matches!(row.handling, Unmetered | Passthrough)) {
            let below = row.path.replace("{}", "a-name");
            let root = match row.root {
                V1 | V1Anthropic => "/v1",
                V1beta => "/v1beta",
                V2 => "/v2",
                Bare => "",
            };
            for path in [format!("{root}{below}"), format!("/api{root}{below}")] {
                let target = Target::at(&path, row.root == V1Anthropic).expect(&path);
                assert_eq!(target.route, row.route, "{path}");
                assert_eq!(target.path("a-name"), below);
            }
        }
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/v1/chat",
            "/v2/models",
            "/v1/v1/models",
            "/api/models",
            "/v1/models/",
            "/v1beta/models/:generateContent",
        ] {
            assert_eq!(at(path), None, "{path}");
        }
        assert_eq!(at("/v1/inference"), Some(Route::Completions));
        assert_eq!(at("/v1/models/gemini-3:generateContent"), Some(Route::GenerateContent));
    }

    #[test]
    fn what_spends_in_silence_is_known_by_its_first_part() {
        for path in
            ["/v1/batches", "/v1/fine_tuning/jobs", "/v1/messages/batches/b_1/results", "/v1beta/cachedContents"]
        {
            assert_eq!(at(path), Some(Route::Unmetered), "{path}");
        }
        assert_eq!(at("/v1/batchesque"), None);
    }

    #[test]
    fn names_in_paths_are_read_and_written() {
        let target = Target::at("/model/anthropic.claude-3%3A0/converse", false).expect("a route");
        assert_eq!(target.decoded_name().as_deref(), Some("anthropic.claude-3:0"));
        assert_eq!(target.path("arn:aws/x y"), "/model/arn%3Aaws%2Fx%20y/converse");
        let odd = Target { name: Some("a%2".into()), ..Target::of(Route::File) };
        assert_eq!((odd.decoded_name().as_deref(), &*odd.path("")), (Some("a%2"), "/files/a%2"));
        assert_eq!(Target { name: Some("%ff".into()), ..Target::of(Route::File) }.decoded_name(), None);
    }

    #[test]
    fn a_path_behind_a_providers_name_is_its_clients_or_ours() {
        let through = |protocol, base, path| Target::through("p", protocol, base, path).route;
        for path in ["/openai/v1/chat/completions", "/v1/chat/completions", "/chat/completions"] {
            assert_eq!(through(Protocol::Openai, "/openai/v1", path), Route::ChatCompletions, "{path}");
        }
        assert_eq!(through(Protocol::Anthropic, "/v1", "/v1/files/f"), Route::AnthropicFile);
        assert_eq!(through(Protocol::Openai, "/v1", "/v1/batches"), Route::Unmetered);
        assert_eq!(through(Protocol::Bedrock, "", "/model/m/converse"), Route::Converse);
        for path in ["/v1/messages", "/v1/models", "/v1/organization/users", "/chat"] {
            assert_eq!(through(Protocol::Openai, "/v1", path), Route::Passthrough, "{path}");
        }
        for (path, below) in
            [("/v1/organization/users", "/organization/users"), ("/v1/batches", "/batches"), ("/x", "/x")]
        {
            assert_eq!(Target::through("p", Protocol::Openai, "/v1", path).name.as_deref(), Some(below), "{path}");
        }
        assert_eq!(Target::at("/v1/messages", false).and_then(|target| target.provider), None);
    }

    #[test]
    fn a_shared_path_is_anthropics_where_the_request_says_so() {
        assert_eq!(at("/v1/files/f"), Some(Route::File));
        assert_eq!(Target::at("/v1/files/f", true).map(|target| target.route), Some(Route::AnthropicFile));
        assert_eq!(Target::at("/v1/messages", true).map(|target| target.route), Some(Route::Messages));
    }
}
