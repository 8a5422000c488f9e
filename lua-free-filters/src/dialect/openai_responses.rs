//! OpenAI responses.
//!
//! Source: OpenAI API reference, "Responses" and "Responses: streaming events". The last event, `response.completed`, `response.incomplete` or
//! `response.failed`, has the whole response with its usage; earlier ones say null. Searches that the model made are billed each; opening
//! a page that was found is not.

use super::{Cut, Event, openai_usage, text_bytes};
use crate::answer_scan::{AnswerScanner, Found, Keep, Wanted, value};
use crate::price::Tier;
use crate::tally::Tally;
use crate::usage::Kind;
use memchr::memmem::Finder;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// Items that are open at once; a model writes one after another.
const OPEN_MAX: usize = 16;

const USAGE: usize = 1;
const SERVICE_TIER: usize = 2;
const TYPE: usize = 3;
const SEARCH_CALLS: usize = 4;
const LOOKS: usize = 5;
const NUMBER: usize = 6;
const ITEM_INDEX: usize = 7;
const ITEM_ID: usize = 8;
const ITEM_TYPE: usize = 9;
const ID: usize = 10;
const CREATED: usize = 11;
const MODEL: usize = 12;

/// A call of the search tool, and what such a call may do beside searching.
const SEARCH_CALL: Keep = Keep::Times(&["\"web_search_call\""]);
const LOOK: Keep = Keep::Times(&["\"open_page\"", "\"find_in_page\"", "\"find\""]);

/// What is read of a whole response.
pub(super) const WANTED: &[Wanted] = &[
    value(&["error"]),
    value(&["usage"]),
    value(&["service_tier"]),
    value(&["type"]),
    Wanted { path: &["output", "type"], keep: SEARCH_CALL },
    Wanted { path: &["output", "action", "type"], keep: LOOK },
];

/// What is read of an event: the same of its response, and what the end of a stream that is cut must name.
pub(super) const WANTED_OF_EVENT: &[Wanted] = &[
    value(&["error"]),
    value(&["response", "usage"]),
    value(&["response", "service_tier"]),
    value(&["type"]),
    Wanted { path: &["response", "output", "type"], keep: SEARCH_CALL },
    Wanted { path: &["response", "output", "action", "type"], keep: LOOK },
    value(&["sequence_number"]),
    value(&["output_index"]),
    value(&["item", "id"]),
    value(&["item", "type"]),
    value(&["response", "id"]),
    value(&["response", "created_at"]),
    value(&["response", "model"]),
];

struct Finders {
    text: [Finder<'static>; 1],
    number: Finder<'static>,
}

static FINDERS: LazyLock<Finders> =
    LazyLock::new(|| Finders { text: [Finder::new("\"delta\":\"")], number: Finder::new("\"sequence_number\":") });

/// An item of the output that has begun and not ended.
#[derive(Debug)]
struct OpenItem {
    index: Value,
    id: Value,
    kind: String,
}

/// A stream of events, as far as it has come.
#[derive(Debug, Default)]
pub struct Stream {
    /// The number of the next event.
    number: u64,
    open: Vec<OpenItem>,
    /// What the response is called.
    id: Option<Value>,
    created: Option<Value>,
    model: Option<Value>,
}

impl Stream {
    pub(super) fn read(&mut self, data: &[u8], tally: &mut Tally) -> Event {
        if data.trim_ascii() == b"[DONE]" {
            return Event::Final;
        }
        let finders = &*FINDERS;
        // Deltas are most of a stream and carry no figures.
        let text = text_bytes(data, &finders.text);
        if text > 0 {
            tally.relay_text(text);
            self.number = numbered(data, &finders.number).unwrap_or(self.number) + 1;
            return Event::Ordinary;
        }
        self.note(&AnswerScanner::scan(WANTED_OF_EVENT, data), tally)
    }

    /// Notes what an event has of [`WANTED_OF_EVENT`].
    pub(super) fn note(&mut self, found: &Found, tally: &mut Tally) -> Event {
        let json = |index| found.value(index).and_then(|text| serde_json::from_slice::<Value>(text).ok());
        self.number = json(NUMBER).and_then(|number| number.as_u64()).unwrap_or(self.number) + 1;
        for (kept, index) in [(&mut self.id, ID), (&mut self.created, CREATED), (&mut self.model, MODEL)] {
            *kept = kept.take().or_else(|| json(index));
        }
        let index = json(ITEM_INDEX).unwrap_or_default();
        match found.text(TYPE).unwrap_or_default() {
            "response.output_item.added" if self.open.len() < OPEN_MAX => {
                let kind = found.text(ITEM_TYPE).unwrap_or_default().to_owned();
                self.open.push(OpenItem { index, id: json(ITEM_ID).unwrap_or_default(), kind });
            }
            "response.output_item.done" => self.open.retain(|item| item.index != index),
            "response.completed" | "response.incomplete" | "response.cancelled" => {
                read_answer(found, tally);
                return Event::Closing;
            }
            "response.failed" => {
                // A response that failed is billed as far as its usage says.
                read_answer(found, tally);
                return if tally.reported.is_some() { Event::Closing } else { Event::Error };
            }
            // `response.failed` follows it.
            "error" => return Event::Error,
            _ => {}
        }
        Event::Ordinary
    }

    /// The end of the open items whose end is harmless without their text, and the response as far as it has come.
    pub(super) fn cut(&self, cut: &Cut<'_>) -> Vec<u8> {
        let mut events = String::new();
        let mut number = self.number;
        let mut put = |kind: &str, mut data: Value| {
            data["type"] = kind.into();
            data["sequence_number"] = number.into();
            number += 1;
            events.push_str(&format!("event: {kind}\ndata: {data}\n\n"));
        };
        if self.id.is_none() {
            put("response.created", json!({"response": self.response(cut, "in_progress")}));
        }
        for item in &self.open {
            // A call of a tool whose arguments are cut off must not be made.
            let ended = match item.kind.as_str() {
                "message" => json!({"type": "message", "role": "assistant", "content": []}),
                "reasoning" => json!({"type": "reasoning", "summary": []}),
                _ => continue,
            };
            let mut ended = ended;
            ended["id"] = item.id.clone();
            ended["status"] = "incomplete".into();
            put("response.output_item.done", json!({"output_index": item.index, "item": ended}));
        }
        let mut response = self.response(cut, "incomplete");
        response["incomplete_details"] = json!({"reason": "max_output_tokens"});
        response["usage"] = json!({
            "input_tokens": cut.usage.input_total(),
            "input_tokens_details": {"cached_tokens": cut.usage.get(Kind::CacheRead)},
            "output_tokens": cut.usage.output_total(),
            "output_tokens_details": {"reasoning_tokens": cut.usage.get(Kind::Reasoning)},
            "total_tokens": cut.usage.tokens_total(),
        });
        put("response.incomplete", json!({"response": response, "tollgate": {"code": cut.reason.name()}}));
        events.into_bytes()
    }

    fn response(&self, cut: &Cut<'_>, status: &str) -> Value {
        let or = |said: &Option<Value>, ours: Value| said.clone().unwrap_or(ours);
        json!({
            "id": or(&self.id, format!("resp_{}", cut.call).into()), "object": "response",
            "created_at": or(&self.created, cut.at.0.div_euclid(1_000).into()),
            "status": status, "error": null, "incomplete_details": null, "instructions": null, "metadata": {},
            "model": or(&self.model, cut.model.into()), "output": [], "parallel_tool_calls": true, "temperature": null,
            "tool_choice": "auto", "tools": [], "top_p": null, "usage": null,
        })
    }
}

/// The `sequence_number` of an event, where it is written without a space.
fn numbered(data: &[u8], number: &Finder<'_>) -> Option<u64> {
    let after = &data[number.find(data)? + number.needle().len()..];
    let digits = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&after[..digits]).ok()?.parse().ok()
}

/// Reads usage, tier and searches of a response.
pub(super) fn read_answer(found: &Found, tally: &mut Tally) {
    if let Some(tier) = found.text(SERVICE_TIER) {
        tally.tier = Some(Tier::named(tier));
    }
    let Some(usage) = found.value(USAGE).and_then(|text| openai_usage::read(text, Kind::Output)) else { return };
    let searches = found.count(SEARCH_CALLS).saturating_sub(found.count(LOOKS));
    // xAI counts them itself.
    let searches = searches.max(usage.get(Kind::WebSearch));
    tally.report(usage.with(Kind::WebSearch, searches), true);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Usage;

    fn read(events: &[&str]) -> (Vec<Event>, Stream, Tally) {
        let (mut stream, mut tally) = (Stream::default(), Tally::default());
        (events.iter().map(|data| stream.read(data.as_bytes(), &mut tally)).collect(), stream, tally)
    }

    const CREATED: &str = r#"{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","created_at":7,"model":"m","usage":null}}"#;
    const USAGE: &str = r#"{"input_tokens":100,"input_tokens_details":{"cached_tokens":60},"output_tokens":50,"output_tokens_details":{"reasoning_tokens":30},"total_tokens":150}"#;

    #[test]
    fn the_last_event_has_the_figures_however_it_ends() {
        for end in ["completed", "incomplete", "failed"] {
            let last = format!(
                r#"{{"type":"response.{end}","sequence_number":9,"response":{{"usage":{USAGE},"service_tier":"flex","error":null}}}}"#
            );
            let (events, _, tally) = read(&[
                CREATED,
                r#"{"type":"response.output_text.delta","sequence_number":5,"delta":"\"usage\":{\"input_tokens\":1}"}"#,
                &last,
                "[DONE]",
            ]);
            assert_eq!(events, [Event::Ordinary, Event::Ordinary, Event::Closing, Event::Final]);
            let expected = Usage::of(40, 20).with(Kind::CacheRead, 60).with(Kind::Reasoning, 30);
            assert_eq!((tally.usage(0, 999), tally.tier), ((expected, false), Some(Tier::Flex)));
        }
        let failed = r#"{"type":"response.failed","sequence_number":9,"response":{"usage":null,"error":{"code":"server_error"}}}"#;
        assert_eq!(read(&[failed]).0, [Event::Error]);
        assert_eq!(read(&[r#"{"type":"error","code":"x"}"#]).0, [Event::Error]);
    }

    #[test]
    fn searches_are_billed_and_pages_are_not() {
        let answer = format!(
            r#"{{"object":"response","error":null,"output":[{{"type":"web_search_call","action":{{"type":"search"}}}},{{"type":"web_search_call","action":{{"type":"open_page"}}}},
            {{"type":"web_search_call"}},{{"type":"message","content":[{{"type":"output_text","text":"web_search_call"}}]}}],"usage":{USAGE}}}"#
        );
        let mut tally = Tally::default();
        read_answer(&AnswerScanner::scan(WANTED, answer.as_bytes()), &mut tally);
        assert_eq!(tally.usage(0, 999).0.get(Kind::WebSearch), 2);
    }

    #[test]
    fn a_cut_ends_what_is_open() {
        let (_, stream, _) = read(&[
            CREATED,
            r#"{"type":"response.output_item.added","sequence_number":2,"output_index":0,"item":{"id":"rs_1","type":"reasoning"}}"#,
            r#"{"type":"response.output_item.done","sequence_number":3,"output_index":0,"item":{"id":"rs_1","type":"reasoning"}}"#,
            r#"{"type":"response.output_item.added","sequence_number":4,"output_index":1,"item":{"id":"msg_1","type":"message"}}"#,
            r#"{"type":"response.output_item.added","sequence_number":5,"output_index":2,"item":{"id":"fc_1","type":"function_call"}}"#,
            r#"{"type":"response.output_text.delta","sequence_number":6,"output_index":1,"delta":"Hello"}"#,
        ]);
        let cut = Cut {
            reason: crate::denied::Code::SpendLimitReached,
            usage: Usage::of(5, 2),
            include_usage: false,
            choices: 1,
            call: crate::id::CallId(1),
            model: "other",
            at: crate::time::EpochMs(0),
        };
        let text = String::from_utf8(stream.cut(&cut)).expect("text");
        let events: Vec<Value> = text
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(|data| serde_json::from_str(data).expect("JSON"))
            .collect();
        assert_eq!(events.len(), 2);
        assert_eq!((&events[0]["item"]["id"], &events[0]["sequence_number"]), (&json!("msg_1"), &json!(7)));
        let response = &events[1]["response"];
        assert_eq!(
            (&response["id"], &response["model"], &response["status"]),
            (&json!("resp_1"), &json!("m"), &json!("incomplete"))
        );
        assert_eq!((&response["usage"]["total_tokens"], &events[1]["sequence_number"]), (&json!(7), &json!(8)));
        let whole = String::from_utf8(Stream::default().cut(&cut)).expect("text");
        assert!(whole.starts_with("event: response.created\n"), "{whole}");
    }
}
