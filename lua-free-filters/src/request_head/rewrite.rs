//! The edits that a request body may get on its way to a provider, by splicing bytes: what is not edited is not touched.

use super::RequestHead;
use super::weigh::Text;
use bytes::{BufMut, Bytes, BytesMut};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// What is to stand in the body that a provider gets.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite<'a> {
    /// The provider's name of the model.
    pub model: &'a str,
    /// Whether a usage event must be asked for (OpenAI `stream_options.include_usage`).
    pub ask_usage: bool,
    /// The most output tokens of an answer, where the request is clamped.
    pub output_limit: Option<u64>,
    /// The field that limits a chat's output with this model, inserted where the request names no limit.
    pub output_limit_field: &'a str,
}

/// Replaces a part of the body; where the part is empty, inserts.
type Edit = (Range<usize>, String);

impl RequestHead {
    /// The body with what `rewrite` says. Untouched bytes are not copied where the body is large; the pieces are to be
    /// sent one after the other.
    #[must_use]
    pub fn rewrite(&self, body: &Bytes, rewrite: &Rewrite<'_>) -> Vec<Bytes> {
        let mut edits: Vec<Edit> = Vec::new();
        if rewrite.model != self.model {
            let name = match self.form {
                Some(_) => rewrite.model.to_owned(),
                None => serde_json::Value::from(rewrite.model).to_string(),
            };
            edits.extend(match &self.model_at {
                Some(at) => Some((at.clone(), name)),
                // The path says it, or the provider knows what it means that none is named.
                None if self.dialect.names_model_in_path() => None,
                None => Some(self.insertion("model", &name)),
            });
        }
        if rewrite.ask_usage && !self.include_usage {
            edits.push(match &self.stream_options_at {
                Some(at) => (at.clone(), with_usage_asked(&body[at.clone()])),
                None => self.insertion("stream_options", "{\"include_usage\":true}"),
            });
        }
        if let Some(limit) = rewrite.output_limit
            && let Some(field) = self.dialect.clamp_field(rewrite.output_limit_field)
        {
            edits.extend(match self.dialect.settings().first() {
                Some(settings) => vec![self.settings_edit(body, settings, (field, limit))],
                None => self.limit_edits(body, limit, field),
            });
        }
        edits.extend(self.budget.as_ref().map(|budget| (budget.member(body), String::new())));
        // What is inserted where another edit begins stands before it.
        edits.sort_by_key(|(at, _)| (at.start, at.end));
        splice(body, &edits)
    }

    /// A member before all others.
    fn insertion(&self, name: &str, value: &str) -> Edit {
        let text = match &self.form {
            Some(form) => form.part(name, value),
            None => format!("\"{name}\":{value},"),
        };
        (self.members_at..self.members_at, text)
    }

    /// No limit of the body is to be larger, and one that the provider reads is to be there. Bodies are clamped seldom, so
    /// their limits are looked for only now.
    fn limit_edits(&self, body: &[u8], limit: u64, field: &str) -> Vec<Edit> {
        let Members(members) = serde_json::from_slice(body).unwrap_or_default();
        let names = self.dialect.output_limits();
        let limits = members.iter().filter(|(name, _)| names.contains(&name.as_ref()));
        let is_replaced = |name: &str, value: &RawValue| match value.get().parse::<u64>() {
            Ok(present) => present > limit,
            // A null limits nothing. Of those, one is enough.
            Err(_) => name == field && self.output_limit_bound.is_none(),
        };
        let replaced = limits.clone().filter(|(name, value)| is_replaced(name, value));
        let mut edits: Vec<Edit> = replaced.map(|(_, value)| (super::place(body, value), limit.to_string())).collect();
        let is_limited = self.output_limit_bound.is_some() || limits.clone().any(|(name, _)| name == field);
        if !is_limited {
            edits.push(self.insertion(field, &limit.to_string()));
        }
        edits
    }
}

impl RequestHead {
    /// The object of settings with a limit that is no larger.
    fn settings_edit(&self, body: &[u8], name: &str, (field, limit): (&str, u64)) -> Edit {
        let limit = limit.min(self.output_limit_bound.unwrap_or(u64::MAX));
        match &self.settings_at {
            None => self.insertion(name, &format!("{{\"{field}\":{limit}}}")),
            Some(at) => {
                let snake = "max_output_tokens";
                let is_limit = |name: &str| name == field || name == snake;
                (at.clone(), with_member(&body[at.clone()], (field, &limit.to_string()), is_limit))
            }
        }
    }
}

/// The text of an object with a member first, and every other as it was but those that it replaces.
fn with_member(object: &[u8], (name, value): (&str, &str), is_replaced: impl Fn(&str) -> bool) -> String {
    let members: Option<Members<'_>> = serde_json::from_slice(object).unwrap_or_default();
    let mut text = format!("{{\"{name}\":{value}");
    for (name, value) in members.unwrap_or_default().0 {
        if !is_replaced(&name) {
            text.push(',');
            text.push_str(&serde_json::Value::from(name.as_ref()).to_string());
            text.push(':');
            text.push_str(value.get());
        }
    }
    text.push('}');
    text
}

/// The text of `stream_options` with `include_usage` true and every other member as it was.
fn with_usage_asked(options: &[u8]) -> String {
    with_member(options, ("include_usage", "true"), |name| name == "include_usage")
}

/// Bodies up to this size are copied into one piece, because a second write costs more than the copy.
const COPIED_BYTES_MAX: usize = 64 * 1024;

fn splice(body: &Bytes, edits: &[Edit]) -> Vec<Bytes> {
    if edits.is_empty() {
        return vec![body.clone()];
    }
    let mut pieces = Vec::with_capacity(2 * edits.len() + 1);
    let mut from = 0;
    for (at, text) in edits {
        pieces.push(body.slice(from..at.start));
        pieces.push(Bytes::copy_from_slice(text.as_bytes()));
        from = at.end;
    }
    pieces.push(body.slice(from..));
    if body.len() > COPIED_BYTES_MAX {
        return pieces;
    }
    let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| whole.put_slice(piece));
    vec![whole.freeze()]
}

/// The members of an object in their order, values as text.
#[derive(Default)]
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> de::Deserialize<'a> for Members<'a> {
    fn deserialize<D: Deserializer<'a>>(reader: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'a> Visitor<'a> for MembersVisitor {
            type Value = Members<'a>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<M: MapAccess<'a>>(self, mut access: M) -> Result<Members<'a>, M::Error> {
                let mut members = Vec::new();
                while let Some((Text(name), value)) = access.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        reader.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::request_head::{LIMITS, scan};
    use proptest::prelude::*;
    use serde_json::json;

    fn rewritten_as(body: &str, rewrite: &Rewrite<'_>) -> serde_json::Value {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let pieces = scan(&bytes, Dialect::OpenaiChat).expect("a valid body").rewrite(&bytes, rewrite);
        serde_json::from_slice(&pieces.concat()).expect("still JSON")
    }

    fn rewritten(body: &str, model: &str, ask_usage: bool) -> serde_json::Value {
        rewritten_as(body, &Rewrite { model, ask_usage, output_limit: None, output_limit_field: "max_tokens" })
    }

    #[test]
    fn edits_change_what_they_name_and_nothing_else() {
        let body = r#"{"messages":[],"stream":true,"model":"a"}"#;
        assert_eq!(
            rewritten(body, "a", false).to_string(),
            serde_json::from_str::<serde_json::Value>(body).expect("JSON").to_string()
        );
        assert_eq!(
            rewritten(body, "b\"", true),
            json!({"messages": [], "stream": true, "model": "b\"", "stream_options": {"include_usage": true}})
        );
        for options in ["null", "{}", r#"{"include_usage":false}"#, r#"{"include_usage":null}"#] {
            let body = format!(r#"{{"model":"a","stream_options":{options},"stream":true}}"#);
            assert_eq!(rewritten(&body, "a", true)["stream_options"], json!({"include_usage": true}), "{options}");
        }
        let body = r#"{"model":"a","stream_options":{"include_obfuscation":false,"include_usage":false}}"#;
        assert_eq!(
            rewritten(body, "a", true)["stream_options"],
            json!({"include_usage": true, "include_obfuscation": false})
        );
    }

    #[test]
    fn large_bodies_are_not_copied() {
        let body = Bytes::from(format!(r#"{{"messages":["{}"],"model":"a"}}"#, "x".repeat(100_000)));
        let rewrite = Rewrite { model: "b", ask_usage: false, output_limit: None, output_limit_field: "max_tokens" };
        let pieces = scan(&body, Dialect::OpenaiChat).expect("valid").rewrite(&body, &rewrite);
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[0].as_ptr(), body.as_ptr());
    }

    fn limited(body: &str, limit: u64, field: &str) -> serde_json::Value {
        let rewrite = Rewrite { model: "a", ask_usage: false, output_limit: Some(limit), output_limit_field: field };
        rewritten_as(body, &rewrite)
    }

    #[test]
    fn a_clamp_lowers_every_limit_and_adds_one_where_none_is_read() {
        for (body, field, expected) in [
            (r#"{"model":"a"}"#, "max_completion_tokens", json!({"model": "a", "max_completion_tokens": 9})),
            (r#"{"model":"a","max_tokens":10}"#, "max_completion_tokens", json!({"model": "a", "max_tokens": 9})),
            (r#"{"model":"a","max_tokens":8}"#, "max_tokens", json!({"model": "a", "max_tokens": 8})),
            (r#"{"max\u005ftokens": null ,"model":"a"}"#, "max_tokens", json!({"model": "a", "max_tokens": 9})),
            (
                r#"{"max_tokens":null,"model":"a"}"#,
                "max_completion_tokens",
                json!({"model": "a", "max_tokens": null, "max_completion_tokens": 9}),
            ),
            (
                r#"{"max_tokens":null,"max_completion_tokens":20,"model":"a"}"#,
                "max_tokens",
                json!({"model": "a", "max_tokens": null, "max_completion_tokens": 9}),
            ),
            (
                r#"{"max_completion_tokens":1,"model":"a","max_tokens":18446744073709551615,"max_output_tokens":10}"#,
                "max_tokens",
                json!({"model": "a", "max_tokens": 9, "max_completion_tokens": 1, "max_output_tokens": 10}),
            ),
            // Chat has no such limit, so whoever answers may not read it.
            (
                r#"{"model":"a","max_output_tokens":10}"#,
                "max_tokens",
                json!({"model": "a", "max_tokens": 9, "max_output_tokens": 10}),
            ),
            (
                r#"{"model":"a","messages":[{"max_tokens":10}],"max_tokens":10}"#,
                "max_tokens",
                json!({"model": "a", "messages": [{"max_tokens": 10}], "max_tokens": 9}),
            ),
        ] {
            assert_eq!(limited(body, 9, field), expected, "{body}");
        }
    }

    /// A member of a body as text: its name, written in one of the ways that JSON has for it, and its value.
    type Member = (&'static str, String, String);

    fn member(name: &'static str, value: impl Strategy<Value = String> + 'static) -> BoxedStrategy<Option<Member>> {
        let escaped = prop::option::of(0..name.len()).prop_map(move |at| match at {
            Some(at) => format!("{}\\u{:04X}{}", &name[..at], name.as_bytes()[at], &name[at + 1..]),
            None => name.to_owned(),
        });
        let member = (escaped, value).prop_map(move |(escaped, value)| (name, escaped, value));
        prop::option::weighted(0.7, member).boxed()
    }

    fn text(values: &'static [&'static str]) -> impl Strategy<Value = String> {
        prop::sample::select(values).prop_map(str::to_owned)
    }

    fn limit() -> impl Strategy<Value = String> {
        prop_oneof![Just("null".to_owned()), any::<u64>().prop_map(|limit| limit.to_string()), text(&["0", "7", "256"])]
    }

    /// A body's members in any order, and what may stand between its tokens.
    fn body() -> impl Strategy<Value = (Vec<Member>, String)> {
        let options = &["null", "{}", r#"{"include_usage":false,"x":[1]}"#, r#"{"include_usage":true}"#];
        let members = vec![
            member("max_tokens", limit()),
            member("max_completion_tokens", limit()),
            member("max_output_tokens", limit()),
            member("stream_options", text(options)),
            member("messages", any::<String>().prop_map(|text| json!([{"model": text}, 1e300, null]).to_string())),
            member("n", text(&["1", "2", "null"])),
        ];
        let model = any::<String>().prop_map(|model| ("model", "model".to_owned(), json!(model).to_string()));
        let members = (members, model)
            .prop_map(|(members, model)| members.into_iter().flatten().chain([model]).collect::<Vec<_>>());
        (members.prop_shuffle(), "[ \\n\\t\\r]{0,3}")
    }

    proptest! {
        #[test]
        fn a_rewritten_body_differs_in_the_edits_only(
            (members, space) in body(),
            model in any::<String>(),
            ask_usage in any::<bool>(),
            output_limit in prop::option::of(1..1_000_u64),
            field in prop::sample::select(&LIMITS[..2]),
        ) {
            let members_text: Vec<String> =
                members.iter().map(|(_, name, value)| format!("{space}\"{name}\"{space}:{space}{value}{space}")).collect();
            let body = format!("{space}{{{}}}{space}", members_text.join(","));
            let head = scan(body.as_bytes(), Dialect::OpenaiChat).expect("valid");
            let bytes = Bytes::from(body.clone());
            let rewrite = Rewrite { model: &model, ask_usage, output_limit, output_limit_field: field };
            let whole = head.rewrite(&bytes, &rewrite).concat();

            let mut expected: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            expected["model"] = json!(model);
            if ask_usage {
                let options = &mut expected["stream_options"];
                *options = if options.is_object() { options.take() } else { json!({}) };
                options["include_usage"] = json!(true);
            }
            if let Some(limit) = output_limit {
                for name in LIMITS.into_iter().take(2) {
                    if expected[name].as_u64().is_some_and(|present| present > limit) {
                        expected[name] = json!(limit);
                    }
                }
                if LIMITS[..2].iter().all(|name| expected[*name].is_null()) {
                    expected[field] = json!(limit);
                }
                // Looking at a name that is not there put a null in its place.
                for name in LIMITS.into_iter().take(3) {
                    if !members.iter().any(|(present, ..)| *present == name) && expected[name].is_null() {
                        expected.as_object_mut().expect("an object").remove(name);
                    }
                }
                let again = scan(&whole, Dialect::OpenaiChat).expect("no field stands twice");
                prop_assert!(again.output_limit_bound.is_some_and(|bound| bound <= limit));
            }
            let read: serde_json::Value = serde_json::from_slice(&whole).expect("still JSON");
            prop_assert_eq!(read, expected);

            // Every member that no edit names is there byte for byte.
            let whole = String::from_utf8(whole).expect("still text");
            for ((name, ..), text) in members.iter().zip(&members_text) {
                if matches!(*name, "messages" | "n") {
                    prop_assert!(whole.contains(text.as_str()));
                }
            }
        }
    }
}
