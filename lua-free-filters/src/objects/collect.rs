//! Collects the ids of stored objects that a request names, while its body is parsed.
//!
//! Only where a provider would read them. What a client says in its own words, such as the arguments of a tool's call or the
//! schema of one, may hold members of any name.

use super::{OBJECT_ID_BYTES_MAX, ObjectKind, Reference};

/// Most ids that a request may name.
pub const REFERENCES_MAX: usize = 256;

/// What a value means for the collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing by itself.
    Open,
    /// The client's own words, whatever they are.
    Words,
    /// The same if it is an object.
    WordsIfObject,
    /// Its members' names are the client's, their values are not (OpenAI `prompt.variables`).
    Named,
    /// The list of input items (OpenAI "Responses").
    Input,
    /// One of them, and in it what decides whether the provider looks it up by its id.
    Item,
    ItemType,
    ItemId,
    ItemRole,
    ItemSecret,
    /// An id, or a list of ids.
    Id(&'static str, ObjectKind),
    /// An object with an id, and whether a string in its place is one too.
    Holder(&'static str, ObjectKind, bool),
    /// An address.
    Address,
    /// An address, of a bucket or of anything (Bedrock `s3Location.uri`).
    Bucket,
    /// The id of a skill, the provider's own or the customer's.
    Skill,
}

impl Place {
    /// The place of a member at the top of a body.
    pub(crate) fn at_top(name: &str) -> Self {
        match name {
            "prompt" => Self::Holder("prompt.id", ObjectKind::Prompt, false),
            "conversation" => Self::Holder("conversation", ObjectKind::Conversation, true),
            "input" => Self::Input,
            // Cohere's documents have members of any name.
            "documents" => Self::Words,
            _ => Self::named(name),
        }
    }

    /// The place of a member of an object at this place.
    pub(crate) fn within(self, name: &str) -> Self {
        match (self, name) {
            (Self::Words | Self::WordsIfObject, _) => Self::Words,
            (Self::Named, _) => Self::Open,
            (Self::Item, "type") => Self::ItemType,
            (Self::Item, "id") => Self::ItemId,
            (Self::Item, "role") => Self::ItemRole,
            (Self::Item, "encrypted_content") => Self::ItemSecret,
            // What a tool has found before.
            (Self::Item, "results" | "outputs") => Self::Words,
            (Self::Holder(field, kind, _), "id") => Self::Id(field, kind),
            (Self::Holder(_, ObjectKind::Prompt, _), "variables") => Self::Named,
            _ => Self::named(name),
        }
    }

    /// The place of an element of a list at this place.
    pub(crate) fn element(self) -> Self {
        match self {
            Self::Words => Self::Words,
            Self::Input => Self::Item,
            Self::Id(field, kind) => Self::Id(field, kind),
            _ => Self::Open,
        }
    }

    /// The place of a member anywhere in a body. Every member of every body is looked up here.
    fn named(name: &str) -> Self {
        match name {
            // OpenAI: "Responses", "Chat completions", "Images"; Anthropic: "Files API" (`source.file_id`).
            "file_id" => Self::Id("file_id", ObjectKind::File),
            "file_ids" => Self::Id("file_ids", ObjectKind::File),
            "input_file_id" => Self::Id("input_file_id", ObjectKind::File),
            "vector_store_id" => Self::Id("vector_store_id", ObjectKind::VectorStore),
            "vector_store_ids" => Self::Id("vector_store_ids", ObjectKind::VectorStore),
            // Mistral: "Document library"; xAI: "Collections".
            "library_ids" => Self::Id("library_ids", ObjectKind::VectorStore),
            "collection_ids" => Self::Id("collection_ids", ObjectKind::VectorStore),
            // A container that an earlier call of a tool names is used again (OpenAI "Code Interpreter").
            "container_id" => Self::Id("container_id", ObjectKind::Container),
            "container" => Self::Holder("container", ObjectKind::Container, true),
            "previous_response_id" => Self::Id("previous_response_id", ObjectKind::Response),
            "response_id" => Self::Id("response_id", ObjectKind::Response),
            "conversation_id" => Self::Id("conversation_id", ObjectKind::Conversation),
            // Gemini API reference, "Caching"; its servers take either spelling.
            "cachedContent" | "cached_content" => Self::Id("cachedContent", ObjectKind::CachedContent),
            "audio" => Self::Holder("audio.id", ObjectKind::Audio, false),
            "voice" => Self::Holder("voice.id", ObjectKind::Voice, false),
            "skill_id" => Self::Skill,
            "uri" => Self::Bucket,
            // What may be stored in Gemini's files, or in a bucket.
            "fileUri" | "file_uri" => Self::Address,
            // What an answer said of its sources, which clients send back with it: the provider looks none of it up.
            "annotations" | "citations" => Self::Words,
            "input"
            | "args"
            | "arguments"
            | "response"
            | "metadata"
            | "parameters"
            | "parametersJsonSchema"
            | "parameters_json_schema"
            | "input_schema"
            | "inputSchema"
            | "schema"
            | "responseSchema"
            | "json" => Self::WordsIfObject,
            _ => Self::Open,
        }
    }
}

/// What is said of an input item that may be looked up by its id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Item {
    id: Option<Box<str>>,
    /// It says all that the provider needs to know of it.
    is_whole: bool,
    /// It is said to be of a type, or in a role: `{"id": …}` alone is a reference.
    is_typed: bool,
}

/// A string of the body, read.
pub(crate) trait Spoken {
    /// Reads a string at a place.
    fn string(&mut self, place: Place, text: &str);
    /// Ends an object at a place.
    fn end(&mut self, place: Place);
}

/// The ids that a request names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    found: Vec<Reference>,
    item: Item,
    /// There were more than may be.
    pub is_full: bool,
}

impl References {
    /// All of them.
    #[must_use]
    pub fn into_found(self) -> Vec<Reference> {
        self.found
    }

    fn add(&mut self, field: &'static str, kind: ObjectKind, id: &str) {
        // One more than is ever remembered: so a longer one is known by nobody.
        let id = &id[..id.floor_char_boundary(OBJECT_ID_BYTES_MAX + 4)];
        if id.is_empty() || self.found.iter().any(|known| *known.id == *id && known.field == field) {
            return;
        }
        self.is_full |= self.found.len() == REFERENCES_MAX;
        if !self.is_full {
            self.found.push(Reference { field, kind, id: id.into() });
        }
    }
}

impl Spoken for References {
    fn string(&mut self, place: Place, text: &str) {
        match place {
            Place::Id(field, kind) | Place::Holder(field, kind, true) => self.add(field, kind, text),
            Place::Address => {
                if let Some(id) = stored_at(text) {
                    self.add("fileUri", ObjectKind::File, id);
                }
            }
            Place::Bucket if ["s3://", "gs://"].iter().any(|scheme| has_scheme(text, scheme)) => {
                self.add("uri", ObjectKind::File, text);
            }
            // The provider's own have names of their own: `pdf`, `openai-spreadsheets`.
            Place::Skill if text.starts_with("skill_") => self.add("skill_id", ObjectKind::Skill, text),
            Place::ItemId => self.item.id = Some(text.into()),
            Place::ItemType => {
                self.item.is_typed |= text != "item_reference";
                self.item.is_whole |= is_whole(text);
            }
            Place::ItemRole => (self.item.is_typed, self.item.is_whole) = (true, true),
            Place::ItemSecret => self.item.is_whole = true,
            Place::Open
            | Place::Words
            | Place::WordsIfObject
            | Place::Named
            | Place::Input
            | Place::Item
            | Place::Holder(_, _, false)
            | Place::Bucket
            | Place::Skill => {}
        }
    }

    fn end(&mut self, place: Place) {
        if place != Place::Item {
            return;
        }
        let Item { id, is_whole, is_typed } = std::mem::take(&mut self.item);
        let field = if is_typed { "input.id" } else { "item_reference" };
        if let Some(id) = id.filter(|_| !is_whole) {
            self.add(field, ObjectKind::Item, &id);
        }
    }
}

fn has_scheme(address: &str, scheme: &str) -> bool {
    address.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

/// Whether items of a type say all that there is to know. Those of the provider's own tools, and thoughts that are not
/// written out, are looked up by their ids (OpenAI "Conversation state", "Image generation: multi-turn editing").
fn is_whole(kind: &str) -> bool {
    matches!(kind, "message" | "function_call" | "custom_tool_call") || kind.ends_with("_output")
}

/// The id of what lies at an address, if it is not the public web: a file of Gemini's Files API by its name (`files/…`), what
/// lies in a bucket by its whole address, because our credentials may open it.
fn stored_at(address: &str) -> Option<&str> {
    let lower = address.to_ascii_lowercase();
    if let Some(rest) = lower.strip_prefix("https://").or_else(|| lower.strip_prefix("http://")) {
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host).split(':').next().unwrap_or(host);
        let name_at =
            ["v1/files/", "v1beta/files/", "v1alpha/files/"].into_iter().find(|start| path.starts_with(start));
        let is_googles = host.ends_with("googleapis.com") && host != "storage.googleapis.com";
        return match name_at {
            Some(start) => {
                let at = address.len() - path.len() + start.len() - "files/".len();
                address.get(at..)
            }
            None => is_googles.then_some(address),
        };
    }
    let is_data = lower.starts_with("data:");
    (!is_data && (lower.contains("://") || lower.starts_with("files/"))).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::request_head::scan;
    use serde_json::{Value, json};

    /// The fields and ids that a body names beside its model.
    fn named(mut body: Value) -> Vec<(&'static str, String)> {
        body["model"] = json!("m");
        let head = scan(body.to_string().as_bytes(), Dialect::OpenaiResponses).expect("a body");
        head.references.into_iter().map(|reference| (reference.field, reference.id.into_string())).collect()
    }

    fn one(field: &'static str, id: &str) -> Vec<(&'static str, String)> {
        vec![(field, id.to_owned())]
    }

    #[test]
    fn every_field_that_names_an_object_is_read() {
        let user = |part: Value| json!({"messages": [{"role": "user", "content": [part]}]});
        let tool = |tool: Value| json!({"tools": [tool]});
        for (body, field) in [
            (json!({"previous_response_id": "x"}), "previous_response_id"),
            (json!({"conversation": "x"}), "conversation"),
            (json!({"conversation": {"id": "x"}}), "conversation"),
            (json!({"prompt": {"id": "x", "version": "2"}}), "prompt.id"),
            (json!({"prompt": {"variables": {"metadata": {"type": "input_file", "file_id": "x"}}}}), "file_id"),
            (json!({"input": [{"type": "item_reference", "id": "x"}]}), "item_reference"),
            (json!({"input": [{"id": "x"}]}), "item_reference"),
            (json!({"input": [{"id": "x", "type": null}]}), "item_reference"),
            (json!({"input": [{"type": "image_generation_call", "id": "x"}]}), "input.id"),
            (json!({"input": [{"id": "x", "type": "reasoning", "summary": []}]}), "input.id"),
            (json!({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]}), "file_id"),
            (json!({"input": [{"type": "function_call", "id": "fc", "container_id": "x"}]}), "container_id"),
            (user(json!({"type": "file", "file": {"file_id": "x"}})), "file_id"),
            (user(json!({"type": "document", "source": {"type": "file", "file_id": "x"}})), "file_id"),
            (user(json!({"type": "container_upload", "file_id": "x"})), "file_id"),
            (json!({"messages": [{"role": "assistant", "audio": {"id": "x"}}]}), "audio.id"),
            (json!({"audio": {"voice": {"id": "x"}}}), "voice.id"),
            (json!({"container": "x"}), "container"),
            (json!({"container": {"id": "x"}}), "container"),
            (json!({"container": {"skills": [{"type": "custom", "skill_id": "skill_x"}]}}), "skill_id"),
            (tool(json!({"type": "file_search", "vector_store_ids": ["x"]})), "vector_store_ids"),
            (tool(json!({"type": "code_interpreter", "container": "x"})), "container"),
            (tool(json!({"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["x"]}})), "file_ids"),
            (tool(json!({"type": "image_generation", "input_image_mask": {"file_id": "x"}})), "file_id"),
            (json!({"input_file_id": "x"}), "input_file_id"),
            (json!({"cachedContent": "x"}), "cachedContent"),
            (json!({"cached_content": "x"}), "cachedContent"),
            (json!({"contents": [{"parts": [{"fileData": {"fileUri": "files/x"}}]}]}), "fileUri"),
            (json!({"contents": [{"parts": [{"file_data": {"file_uri": "gs://b/x"}}]}]}), "fileUri"),
            (
                json!({"messages": [{"content": [{"document": {"source": {"s3Location": {"uri": "s3://b/x"}}}}]}]}),
                "uri",
            ),
        ] {
            let found = named(body.clone());
            assert!(found.len() == 1 && found[0].0 == field && found[0].1.ends_with('x'), "{body}: {found:?}");
        }
    }

    #[test]
    fn the_clients_own_words_name_nothing() {
        let words =
            json!({"file_id": "x", "container": {"id": "x"}, "a": [{"vector_store_ids": ["x"]}], "uri": "gs://x"});
        for body in [
            json!({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "input": words}]}]}),
            json!({"contents": [{"parts": [{"functionCall": {"name": "f", "args": words}}]}]}),
            json!({"contents": [{"parts": [{"functionResponse": {"name": "f", "response": words}}]}]}),
            json!({"messages": [{"content": [{"toolResult": {"content": [{"json": words}]}}]}]}),
            json!({"tools": [{"type": "function", "function": {"parameters": words}}, {"input_schema": words}]}),
            json!({"text": {"format": {"type": "json_schema", "schema": words}}, "metadata": words}),
            json!({"prompt": {"variables": {"file_id": "my words"}}}),
            json!({"input": [{"type": "message", "id": "msg", "role": "assistant", "content": []}, {"id": "m", "role": "user"}]}),
            json!({"input": [{"type": "function_call", "id": "fc", "arguments": words.to_string()}]}),
            json!({"input": [{"type": "reasoning", "id": "rs", "encrypted_content": "secret"}]}),
            json!({"input": "file_id"}),
            json!({"documents": [{"id": "d", "data": words}], "messages": []}),
            json!({"input": [{"type": "message", "content": [{"type": "output_text", "annotations": [words]}]}]}),
            json!({"messages": [{"role": "assistant", "content": [{"type": "text", "citations": [words]}]}]}),
            json!({"input": [{"type": "function_call", "results": [words], "outputs": [words]}]}),
            json!({"messages": [{"content": [{"type": "resource", "resource": {"uri": "mcp://x"}}]}]}),
            json!({"previous_response_id": null, "conversation": null, "container": {"type": "auto"}, "audio": {"voice": "alloy"}}),
            json!({"container": {"skills": [{"type": "anthropic", "skill_id": "pdf"}]}}),
        ] {
            assert_eq!(named(body.clone()), [], "{body}");
        }
    }

    #[test]
    fn addresses_of_the_public_web_are_nobodys() {
        for (address, id) in [
            ("https://www.youtube.com/watch?v=x", None),
            ("https://storage.googleapis.com/public/x.pdf", None),
            ("data:text/plain,x", None),
            ("files/abc", Some("files/abc")),
            ("https://generativelanguage.googleapis.com/v1beta/files/Abc", Some("files/Abc")),
            ("HTTPS://me@GenerativeLanguage.googleapis.com:443/v1beta/files/abc", Some("files/abc")),
            ("http://127.0.0.1:9/v1beta/files/abc", Some("files/abc")),
            (
                "https://generativelanguage.googleapis.com/v1beta/%66iles/abc",
                Some("https://generativelanguage.googleapis.com/v1beta/%66iles/abc"),
            ),
            ("gs://bucket/x", Some("gs://bucket/x")),
        ] {
            assert_eq!(stored_at(address), id, "{address}");
        }
    }

    #[test]
    fn a_field_that_stands_twice_is_read_twice_and_there_is_a_limit() {
        let body = br#"{"model":"m","previous_response_id":"a","previous_response\u005fid":"b"}"#;
        assert_eq!(scan(body, Dialect::OpenaiResponses).expect("a body").references.len(), 2);
        let ids: Vec<String> = (0..=REFERENCES_MAX).map(|number| format!("file-{number}")).collect();
        let many = json!({"model": "m", "file_ids": ids}).to_string();
        assert!(matches!(scan(many.as_bytes(), Dialect::OpenaiResponses), Err(Denied::InvalidRequest(_))));
        let long = "é".repeat(OBJECT_ID_BYTES_MAX);
        assert!(named(json!({"file_id": long}))[0].1.len() > OBJECT_ID_BYTES_MAX);
        assert_eq!(named(json!({"file_ids": ["a", "a"]})), one("file_ids", "a"));
    }

    use crate::denied::Denied;
}
