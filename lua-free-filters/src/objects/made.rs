//! Finds the ids of the objects that an answer makes, while it passes, in constant memory and whatever the chunks.
//!
//! By their places, never by their looks: an answer also holds what a model or a client's tool said, in members of any name.

use super::{OBJECT_ID_BYTES_MAX, ObjectKind};
use crate::dialect::Dialect;
use crate::request_head::RequestHead;
use crate::route::Route;
use memchr::memchr2;

/// Objects and lists within each other that are followed; no id lies deeper.
const DEPTH_MAX: usize = 12;

/// Finds the ids in one answer.
#[derive(Debug)]
pub struct Finder {
    source: Source,
    lines: Option<Lines>,
    json: Json,
}

/// What an answer may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// OpenAI "Responses": the response, its items, its conversation, the containers that its tools ran in; as a whole, or in the
    /// events of a stream.
    Responses,
    /// Items of a response, listed.
    Items,
    /// OpenAI chat: `message.audio.id`.
    Chat,
    /// Anthropic: the container, and the files that code has written in it ("Code execution tool").
    Anthropic,
}

impl Finder {
    /// A finder for the answer of a call; none if its answer makes nothing.
    #[must_use]
    pub fn of_call(head: &RequestHead, is_stream: bool) -> Option<Self> {
        let weight = &head.weight;
        let has_tools = weight.has_foreign_input || weight.has_unlimited_tool || weight.server_tool_uses > 0;
        let source = match head.dialect {
            Dialect::OpenaiResponses => Source::Responses,
            Dialect::OpenaiChat if weight.wants_audio => Source::Chat,
            Dialect::Anthropic if has_tools => Source::Anthropic,
            _ => return None,
        };
        Some(Self::new(source, is_stream))
    }

    /// A finder for what a provider says of an object.
    #[must_use]
    pub fn of_object(route: Route, is_stream: bool) -> Option<Self> {
        match route {
            Route::Response | Route::ResponseCancel => Some(Self::new(Source::Responses, is_stream)),
            Route::ResponseInputItems => Some(Self::new(Source::Items, is_stream)),
            _ => None,
        }
    }

    fn new(source: Source, is_stream: bool) -> Self {
        Self { source, lines: is_stream.then(Lines::default), json: Json::default() }
    }

    /// Reads the next bytes of the answer; `found` is told each id that is complete.
    pub fn feed(&mut self, bytes: &[u8], found: &mut dyn FnMut(ObjectKind, &str)) {
        let Self { source, lines, json } = self;
        let mut on_string = |path: &Path, text: &str| {
            if let Some(kind) = source.kind_of(path) {
                found(kind, text);
            }
        };
        match lines {
            None => json.feed(bytes, &mut on_string),
            Some(lines) => lines.feed(bytes, json, &mut on_string),
        }
    }
}

impl Source {
    fn kind_of(self, path: &Path) -> Option<ObjectKind> {
        use Step::{
            Audio, Choices, Container, ContainerId, Content, ContentBlock, Conversation, Data, Delta, Element, FileId,
            Id, Item, Message, Output, Response,
        };
        match (self, path.steps()?) {
            (Self::Responses, [Id] | [Response, Id]) => Some(ObjectKind::Response),
            (Self::Responses, [Conversation, Id] | [Response, Conversation, Id]) => Some(ObjectKind::Conversation),
            (Self::Responses, [Item, Id] | [Output, Element, Id] | [Response, Output, Element, Id]) => {
                Some(ObjectKind::Item)
            }
            (Self::Items, [Data, Element, Id]) => Some(ObjectKind::Item),
            (
                Self::Responses,
                [Item, ContainerId] | [Output, Element, ContainerId] | [Response, Output, Element, ContainerId],
            ) => Some(ObjectKind::Container),
            (Self::Chat, [Choices, Element, Message | Delta, Audio, Id]) => Some(ObjectKind::Audio),
            (Self::Anthropic, [Container, Id] | [Message | Delta, Container, Id]) => Some(ObjectKind::Container),
            // The block of a tool's result holds the result, and that a list of files.
            (Self::Anthropic, [ContentBlock, Content, Content, Element, FileId])
            | (Self::Anthropic, [Content, Element, Content, Content, Element, FileId]) => Some(ObjectKind::File),
            _ => None,
        }
    }
}

/// A member's name that leads to an id, or an element of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Element,
    Id,
    Response,
    Conversation,
    Item,
    Output,
    ContainerId,
    Choices,
    Message,
    Delta,
    Audio,
    Container,
    Content,
    ContentBlock,
    FileId,
    Data,
    Other,
}

impl Step {
    fn named(name: &[u8]) -> Self {
        match name {
            b"id" => Self::Id,
            b"response" => Self::Response,
            b"conversation" => Self::Conversation,
            b"item" => Self::Item,
            b"output" => Self::Output,
            b"container_id" => Self::ContainerId,
            b"choices" => Self::Choices,
            b"message" => Self::Message,
            b"delta" => Self::Delta,
            b"audio" => Self::Audio,
            b"container" => Self::Container,
            b"content" => Self::Content,
            b"content_block" => Self::ContentBlock,
            b"file_id" => Self::FileId,
            b"data" => Self::Data,
            _ => Self::Other,
        }
    }
}

/// Where a value stands.
#[derive(Debug, Default)]
struct Path {
    steps: Vec<Step>,
    /// Levels beyond [`DEPTH_MAX`].
    deeper: usize,
}

impl Path {
    fn steps(&self) -> Option<&[Step]> {
        (self.deeper == 0).then_some(&self.steps)
    }

    fn push(&mut self, step: Step) {
        if self.steps.len() < DEPTH_MAX { self.steps.push(step) } else { self.deeper += 1 }
    }

    fn pop(&mut self) {
        match self.deeper.checked_sub(1) {
            Some(deeper) => self.deeper = deeper,
            None => _ = self.steps.pop(),
        }
    }

    /// Names the member whose value comes next.
    fn set(&mut self, step: Step) {
        if self.deeper == 0
            && let Some(last) = self.steps.last_mut()
        {
            *last = step;
        }
    }

    fn is_in_list(&self) -> bool {
        self.deeper > 0 || matches!(self.steps.last(), None | Some(Step::Element))
    }
}

type OnString<'a> = &'a mut dyn FnMut(&Path, &str);

/// Reads one JSON text for its strings.
#[derive(Debug, Default)]
struct Json {
    path: Path,
    is_in_string: bool,
    is_escaped: bool,
    /// The next string is a member's name.
    expects_name: bool,
    /// The string that is being read, as it is written; what is longer than any id is cut off.
    text: Vec<u8>,
    is_cut_off: bool,
}

impl Json {
    fn feed(&mut self, bytes: &[u8], on_string: OnString<'_>) {
        let mut at = 0;
        while at < bytes.len() {
            if self.is_in_string {
                at = self.read_string(bytes, at, on_string);
                continue;
            }
            match bytes[at] {
                b'"' => {
                    (self.is_in_string, self.is_cut_off) = (true, false);
                    self.text.clear();
                }
                b'{' => {
                    self.path.push(Step::Other);
                    self.expects_name = true;
                }
                b'[' => {
                    self.path.push(Step::Element);
                    self.expects_name = false;
                }
                b'}' | b']' => {
                    self.path.pop();
                    self.expects_name = false;
                }
                b',' => self.expects_name = !self.path.is_in_list(),
                b':' => self.expects_name = false,
                _ => {}
            }
            at += 1;
        }
    }

    fn read_string(&mut self, bytes: &[u8], from: usize, on_string: OnString<'_>) -> usize {
        if std::mem::take(&mut self.is_escaped) {
            self.keep(&bytes[from..=from]);
            return from + 1;
        }
        let Some(offset) = memchr2(b'"', b'\\', &bytes[from..]) else {
            self.keep(&bytes[from..]);
            return bytes.len();
        };
        let end = from + offset;
        self.is_escaped = bytes[end] == b'\\';
        self.keep(&bytes[from..end + usize::from(self.is_escaped)]);
        if !self.is_escaped {
            self.is_in_string = false;
            self.end_string(on_string);
        }
        end + 1
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = 2 * OBJECT_ID_BYTES_MAX - self.text.len();
        self.is_cut_off |= bytes.len() > room;
        self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end_string(&mut self, on_string: OnString<'_>) {
        let Some(decoded) = decoded(&self.text).filter(|_| !self.is_cut_off) else {
            if self.expects_name {
                self.path.set(Step::Other);
            }
            return;
        };
        if self.expects_name {
            self.path.set(Step::named(decoded.as_bytes()));
        } else if !decoded.is_empty() && decoded.len() <= OBJECT_ID_BYTES_MAX {
            on_string(&self.path, &decoded);
        }
    }
}

fn decoded(text: &[u8]) -> Option<std::borrow::Cow<'_, str>> {
    let text = str::from_utf8(text).ok()?;
    if !text.contains('\\') {
        return Some(text.into());
    }
    serde_json::from_str::<String>(&format!("\"{text}\"")).ok().map(Into::into)
}

/// Reads a stream of events for the JSON in their data.
#[derive(Debug, Default)]
struct Lines {
    /// Bytes of the line, as far as they tell what it is.
    start: Vec<u8>,
    was_return: bool,
}

const DATA: &[u8] = b"data:";

impl Lines {
    fn feed(&mut self, mut bytes: &[u8], json: &mut Json, on_string: OnString<'_>) {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.was_return) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let missing = DATA.len() - self.start.len();
            let end = memchr2(b'\n', b'\r', bytes).unwrap_or(bytes.len());
            let (line, rest) = bytes.split_at(end);
            let (head, tail) = line.split_at(line.len().min(missing));
            self.start.extend_from_slice(head);
            if self.start == DATA {
                json.feed(tail, on_string);
            }
            if let Some((ending, after)) = rest.split_first() {
                self.was_return = *ending == b'\r';
                // An empty line ends the event.
                if self.start.is_empty() {
                    *json = Json::default();
                }
                self.start.clear();
                bytes = after;
            } else {
                bytes = rest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn find(source: Source, is_stream: bool, text: &str, piece: usize) -> Vec<(ObjectKind, String)> {
        let mut finder = Finder::new(source, is_stream);
        let mut found = Vec::new();
        for bytes in text.as_bytes().chunks(piece) {
            finder.feed(bytes, &mut |kind, id| found.push((kind, id.to_owned())));
        }
        found
    }

    fn ids(source: Source, text: &str) -> Vec<(ObjectKind, String)> {
        find(source, false, text, text.len())
    }

    fn pairs(pairs: &[(ObjectKind, &str)]) -> Vec<(ObjectKind, String)> {
        pairs.iter().map(|(kind, id)| (*kind, (*id).to_owned())).collect()
    }

    const RESPONSE: &str = r#"{ "id": "resp_1", "object":"response","conversation":{"id":"conv_1"},"output":[
        {"id":"msg_1","type":"message","content":[{"type":"output_text","text":"{\"id\":\"no\",\"container_id\":\"no\"}","annotations":[{"container_id":"no","file_id":"no"}]}]},
        {"type":"code_interpreter_call","container_id":"cntr\u005f1","id":"ci_1","outputs":null}],
        "metadata":{"id":"no","response":{"id":"no"}},"tools":[{"id":"no","container":{"id":"no"}}],"previous_response_id":"no"}"#;

    #[test]
    fn ids_are_found_where_the_provider_puts_them() {
        use ObjectKind::{Audio, Container, Conversation, File, Item, Response};
        let made =
            [(Response, "resp_1"), (Conversation, "conv_1"), (Item, "msg_1"), (Container, "cntr_1"), (Item, "ci_1")];
        assert_eq!(ids(Source::Responses, RESPONSE), pairs(&made));
        let chat = json!({"id": "chatcmpl", "choices": [{"message": {"audio": {"id": "audio_1", "data": "x"}, "tool_calls": [{"id": "no"}]}}]});
        assert_eq!(ids(Source::Chat, &chat.to_string()), pairs(&[(Audio, "audio_1")]));
        let blocks = json!([
            {"type": "tool_use", "id": "no", "input": {"content": {"content": [{"file_id": "no"}]}, "container": {"id": "no"}}},
            {"type": "bash_code_execution_tool_result", "content": {"content": [{"type": "bash_code_execution_output", "file_id": "file_1"}]}},
        ]);
        let message = json!({"id": "no", "content": blocks, "container": {"id": "container_1", "expires_at": "x"}});
        let mut found = ids(Source::Anthropic, &message.to_string());
        found.sort_by_key(|(_, id)| id.clone());
        assert_eq!(found, pairs(&[(Container, "container_1"), (File, "file_1")]));
    }

    #[test]
    fn streams_are_read_event_by_event() {
        let first = json!({"type": "response.created", "response": {"id": "resp_1", "output": []}});
        let item = json!({"type": "response.output_item.added", "item": {"id": "ci_1", "container_id": "cntr_1"}});
        let delta =
            json!({"type": "response.output_text.delta", "item_id": "msg_1", "delta": "\n\ndata: {\"id\":\"no\"}"});
        for ending in ["\n", "\r\n", "\r"] {
            let stream = format!(
                ": hello{ending}{ending}event: x{ending}data: {first}{ending}{ending}data:{item}{ending}{ending}data: {delta}{ending}{ending}data: [DONE]{ending}{ending}"
            );
            for piece in [1, 7, stream.len()] {
                let found = find(Source::Responses, true, &stream, piece);
                let made =
                    [(ObjectKind::Response, "resp_1"), (ObjectKind::Container, "cntr_1"), (ObjectKind::Item, "ci_1")];
                let mut sorted = found.clone();
                sorted.sort_by_key(|(kind, _)| *kind as u8);
                let mut expected = pairs(&made);
                expected.sort_by_key(|(kind, _)| *kind as u8);
                assert_eq!(sorted, expected, "{ending:?} {piece}");
            }
        }
    }

    #[test]
    fn a_broken_event_spoils_no_other() {
        let stream = "data: {\"response\":{\"id\":\"re\n\ndata: {\"response\":{\"id\":\"resp_1\"}}\n\n";
        assert_eq!(find(Source::Responses, true, stream, 3), pairs(&[(ObjectKind::Response, "resp_1")]));
        let long = format!("{{\"x\":\"{0}\",\"{0}\":{{}},\"id\":\"a\"}}", "y".repeat(10_000));
        assert_eq!(ids(Source::Responses, &long), pairs(&[(ObjectKind::Response, "a")]));
        let deep = format!("{{\"x\":{}{},\"id\":\"a\"}}", "[{\"id\":".repeat(50), "1".to_owned() + &"}]".repeat(50));
        assert_eq!(ids(Source::Responses, &deep), pairs(&[(ObjectKind::Response, "a")]));
    }

    proptest! {
        #[test]
        fn any_chunks_give_the_same_ids(piece in 1usize..400) {
            prop_assert_eq!(find(Source::Responses, false, RESPONSE, piece), ids(Source::Responses, RESPONSE));
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), is_stream in any::<bool>()) {
            Finder::new(Source::Anthropic, is_stream).feed(&bytes, &mut |_, _| {});
        }
    }
}
