//! Stored responses: asked after, replayed, cancelled, removed; a background response takes a few questions to complete.

use super::super::openai_responses::{self, Status};
use super::super::plan::Plan;
use super::super::route::query_value;
use super::{Object, Objects, Refused, Reply, unknown};
use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Value, json};

const COLLECTION: &str = "responses";
const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

/// A response that may be asked after.
pub(super) struct Stored {
    plan: Plan,
    status: Status,
    /// How often it is still found unfinished.
    polls_left: u64,
}

/// A response of this plan.
pub(super) fn stored(plan: Plan, polls: u64) -> Object {
    let status = if polls > 0 { Status::Queued } else { openai_responses::end_status(&plan) };
    let object = Object::new(COLLECTION, openai_responses::response_id(&plan), Value::Null);
    Object { response: Some(Stored { plan, status, polls_left: polls }), ..object }
}

impl Objects {
    /// What a response that another goes on from had counted, in and out.
    pub(in super::super) fn tokens_before(&self, id: &str) -> Option<u64> {
        self.with_response(id, |stored| stored.plan.usage.total_tokens()).ok()
    }

    pub(super) fn response(&self, id: &str, rest: &[&str], parts: &Parts) -> Result<Reply, Refused> {
        match (&parts.method, rest) {
            (&Method::GET, []) if query_value(&parts.uri, "stream") == Some("true") => {
                let after = query_value(&parts.uri, "starting_after").and_then(|number| number.parse().ok());
                self.with_response(id, |stored| stored.replay(after))
            }
            (&Method::GET, []) => self.with_response(id, |stored| Reply::json(&stored.poll())),
            (&Method::GET, ["input_items"]) => self.with_response(id, |stored| Reply::json(&stored.input_items())),
            (&Method::POST, ["cancel"]) => self.with_response(id, Stored::cancel)?,
            (&Method::DELETE, []) => {
                self.remove(COLLECTION, id).ok_or_else(|| missing(id))?;
                Ok(Reply::json(&json!({"id": id, "object": "response", "deleted": true})))
            }
            _ => Err(unknown(parts)),
        }
    }

    fn with_response<T>(&self, id: &str, ask: impl FnOnce(&mut Stored) -> T) -> Result<T, Refused> {
        let mut kept = self.lock();
        let found = kept.objects.iter_mut().find(|object| object.collection == COLLECTION && object.id == id);
        found.and_then(|object| object.response.as_mut()).map(ask).ok_or_else(|| missing(id))
    }
}

impl Stored {
    /// How it stands; each question brings it nearer to its end.
    fn poll(&mut self) -> Value {
        if self.polls_left > 0 {
            self.polls_left -= 1;
            self.status = Status::InProgress;
        } else if self.status != Status::Cancelled {
            self.status = openai_responses::end_status(&self.plan);
        }
        openai_responses::object(&self.plan, self.status)
    }

    /// The events again, after the one of a number.
    fn replay(&mut self, after: Option<usize>) -> Reply {
        let events = openai_responses::stream(self.plan.clone()).skip(after.map_or(0, |number| number + 1));
        let bytes: Vec<Bytes> = events.map(|event| event.bytes).collect();
        let reply = Reply::json(&Value::Null);
        Reply { content_type: EVENT_STREAM.to_owned(), body: bytes.concat().into(), ..reply }
    }

    fn cancel(&mut self) -> Result<Reply, Refused> {
        match self.status {
            Status::Queued | Status::InProgress | Status::Cancelled => {
                self.polls_left = 0;
                self.status = Status::Cancelled;
                Ok(Reply::json(&openai_responses::object(&self.plan, self.status)))
            }
            Status::Completed | Status::Incomplete | Status::Failed => {
                Err(Refused::bad_request("Cannot cancel a completed response.".to_owned()))
            }
        }
    }

    fn input_items(&self) -> Value {
        let item = |(index, item): (usize, &Value)| {
            let mut item = match item {
                Value::String(text) => json!({"role": "user", "content": [{"type": "input_text", "text": text}]}),
                other => other.clone(),
            };
            for (name, value) in
                [("id", json!(format!("msg_{:016x}", self.plan.id ^ index as u64))), ("type", json!("message"))]
            {
                if item[name].is_null() {
                    item[name] = value;
                }
            }
            item
        };
        let data: Vec<Value> = match &self.plan.ask.body["input"] {
            Value::Array(items) => items.iter().enumerate().rev().map(item).collect(),
            other => vec![item((0, other))],
        };
        let [first, last] = [data.first(), data.last()].map(|item| item.map(|item| item["id"].clone()));
        json!({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": false})
    }
}

fn missing(id: &str) -> Refused {
    Refused { status: StatusCode::NOT_FOUND, message: format!("Response with id '{id}' not found.") }
}
