//! Who uses the client's product, where the body says so.

use crate::attribution::Attribution;
use crate::dialect::{Dialect, Protocol};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// What the members of a body say of the end user. Of one that stands twice the last counts: nothing depends on it.
#[derive(Default)]
pub(super) struct User<'a> {
    /// OpenAI API reference, `user` and `safety_identifier`; of both, the first is meant for the books.
    user: Option<&'a RawValue>,
    safety_identifier: Option<&'a RawValue>,
    /// Anthropic API reference, "Create a Message", `metadata.user_id`.
    metadata: Option<&'a RawValue>,
}

#[derive(serde::Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    user_id: Option<Cow<'a, str>>,
}

impl<'a> User<'a> {
    /// Whether a member of a dialect's body names the end user.
    pub(super) fn is_named_by(name: &str, dialect: Dialect) -> bool {
        match dialect.protocol() {
            Protocol::Openai => matches!(name, "user" | "safety_identifier"),
            Protocol::Anthropic => name == "metadata",
            Protocol::Gemini | Protocol::Cohere | Protocol::Bedrock => false,
        }
    }

    /// Keeps what one of these members says.
    pub(super) fn note(&mut self, name: &str, value: &'a RawValue) {
        match name {
            "user" => self.user = Some(value),
            "safety_identifier" => self.safety_identifier = Some(value),
            _ => self.metadata = Some(value),
        }
    }

    /// What is kept of it. What is not as the protocol has it is the provider's to refuse.
    pub(super) fn attribution(&self) -> Option<Box<Attribution>> {
        let text = |raw: &'a RawValue| serde_json::from_str::<Cow<'a, str>>(raw.get()).ok();
        let of_metadata = |raw: &'a RawValue| serde_json::from_str::<Metadata<'a>>(raw.get()).ok()?.user_id;
        let kept = |name: Cow<'a, str>| Attribution::to_user(&name);
        let named = self.user.and_then(text).and_then(kept);
        let identified = || self.safety_identifier.and_then(text).and_then(kept);
        named.or_else(identified).or_else(|| self.metadata.and_then(of_metadata).and_then(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::super::scan;
    use super::*;

    fn user(body: &str, dialect: Dialect) -> Option<String> {
        let head = scan(body.as_bytes(), dialect).expect("a valid body");
        head.attribution.and_then(|attribution| attribution.user).map(|user| user.to_string())
    }

    #[test]
    fn each_protocol_names_its_user() {
        for (body, dialect, named) in [
            (r#"{"model":"m","user":"ad\u0061"}"#, Dialect::OpenaiChat, Some("ada")),
            (r#"{"safety_identifier":"s","model":"m"}"#, Dialect::OpenaiResponses, Some("s")),
            (r#"{"model":"m","safety_identifier":"s","user":"u"}"#, Dialect::OpenaiEmbeddings, Some("u")),
            (r#"{"model":"m","user":null,"safety_identifier":"s"}"#, Dialect::OpenaiChat, Some("s")),
            (r#"{"model":"m","user":{"id":1}}"#, Dialect::OpenaiChat, None),
            (r#"{"model":"m","metadata":{"x":[1],"user_id":"u"}}"#, Dialect::Anthropic, Some("u")),
            (r#"{"model":"m","metadata":{"user_id":null}}"#, Dialect::Anthropic, None),
            (r#"{"model":"m","metadata":null}"#, Dialect::Anthropic, None),
            // Of OpenAI it is the client's own, and of Anthropic nobody's name.
            (r#"{"model":"m","metadata":{"user_id":"u"}}"#, Dialect::OpenaiChat, None),
            (r#"{"model":"m","user":"u"}"#, Dialect::Anthropic, None),
        ] {
            assert_eq!(user(body, dialect).as_deref(), named, "{body}");
        }
    }

    #[test]
    fn naming_a_user_weighs_its_text() {
        let weight = |body: &str, dialect| scan(body.as_bytes(), dialect).expect("a valid body").weight.text_bytes;
        let bare = weight(r#"{"model":"m"}"#, Dialect::OpenaiChat);
        assert_eq!(weight(r#"{"model":"m","user":"ada"}"#, Dialect::OpenaiChat), bare + 7);
        let bare = weight(r#"{"model":"m"}"#, Dialect::Anthropic);
        assert_eq!(weight(r#"{"model":"m","metadata":{"user_id":"ada"}}"#, Dialect::Anthropic), bare + 8 + 7 + 3);
    }
}
