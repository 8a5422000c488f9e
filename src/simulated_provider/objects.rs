//! What the provider keeps for its clients: files, stored responses, and anything else that is made, named, listed and
//! removed. All clients share one account, as those of a gateway do.

mod files;
mod listing;
mod responses;

use super::plan::Plan;
use super::route::ObjectPath;
use super::text::mix;
use bytes::Bytes;
use filters::dialect::Protocol;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use responses::Stored;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The oldest is forgotten when there are more.
const OBJECTS_MAX: usize = 4096;
const JSON: &str = "application/json";

/// Everything that is kept.
pub(super) struct Objects {
    /// Names begin elsewhere at each start, so that no two runs give the same.
    nonce: u64,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    named: u64,
    /// In the order in which they were made.
    objects: VecDeque<Object>,
}

/// One object.
struct Object {
    /// Its path without its name: `files`, `fine_tuning/jobs`.
    collection: &'static str,
    id: String,
    value: Value,
    content_type: String,
    content: Bytes,
    response: Option<Stored>,
}

/// What is sent back.
pub(super) struct Reply {
    pub(super) content_type: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
}

/// A request that can't be met.
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

/// A kind of object: whose it is, where it is, how its names begin, and what it calls itself.
struct Kind {
    protocol: Protocol,
    collection: &'static str,
    prefix: &'static str,
    name: &'static str,
}

const KINDS: [Kind; 15] = [
    Kind { protocol: Protocol::Openai, collection: "files", prefix: "file-", name: "file" },
    Kind { protocol: Protocol::Openai, collection: "batches", prefix: "batch_", name: "batch" },
    Kind { protocol: Protocol::Openai, collection: "conversations", prefix: "conv_", name: "conversation" },
    Kind { protocol: Protocol::Openai, collection: "vector_stores", prefix: "vs_", name: "vector_store" },
    Kind { protocol: Protocol::Openai, collection: "containers", prefix: "cntr_", name: "container" },
    Kind { protocol: Protocol::Openai, collection: "uploads", prefix: "upload_", name: "upload" },
    Kind { protocol: Protocol::Openai, collection: "fine_tuning/jobs", prefix: "ftjob-", name: "fine_tuning.job" },
    Kind { protocol: Protocol::Openai, collection: "assistants", prefix: "asst_", name: "assistant" },
    Kind { protocol: Protocol::Openai, collection: "threads", prefix: "thread_", name: "thread" },
    Kind { protocol: Protocol::Openai, collection: "evals", prefix: "eval_", name: "eval" },
    Kind { protocol: Protocol::Openai, collection: "videos", prefix: "video_", name: "video" },
    Kind { protocol: Protocol::Anthropic, collection: "files", prefix: "file_", name: "file" },
    Kind { protocol: Protocol::Anthropic, collection: "messages/batches", prefix: "msgbatch_", name: "message_batch" },
    Kind { protocol: Protocol::Gemini, collection: "files", prefix: "g-", name: "file" },
    Kind { protocol: Protocol::Gemini, collection: "cachedContents", prefix: "", name: "cachedContent" },
];

impl Objects {
    pub(super) fn new() -> io::Result<Self> {
        let nonce = getrandom::u64().map_err(io::Error::other)?;
        Ok(Self { nonce, kept: Mutex::default() })
    }

    /// Answers a request for an object or for a list of them.
    pub(super) fn answer(&self, path: &ObjectPath, parts: &Parts, body: &Bytes) -> Result<Reply, Refused> {
        let segments: Vec<&str> = path.segments.iter().map(String::as_str).collect();
        match (&parts.method, &segments[..]) {
            (&Method::GET, ["models"]) => return Ok(Reply::json(&listing::models(path.protocol))),
            (&Method::GET, ["models", model]) => return listing::model(path.protocol, model),
            (_, ["responses", id, rest @ ..]) => return self.response(id, rest, parts),
            _ => {}
        }
        let (kind, rest) = find(path.protocol, &segments).ok_or_else(|| unknown(parts))?;
        match (&parts.method, rest) {
            (&Method::POST, []) => self.create(kind, parts, body),
            (&Method::GET, []) => Ok(Reply::json(&self.list(kind, parts))),
            (&Method::GET, [id]) => self.with(kind, id, |object| Reply::json(&object.value)),
            (&Method::GET, [id, "content"]) if kind.name == "file" => self.with(kind, id, Reply::content),
            (&Method::POST, [id, "cancel"]) => self.with(kind, id, |object| {
                object.value["status"] = "cancelled".into();
                Reply::json(&object.value)
            }),
            (&Method::DELETE, [id]) => {
                self.remove(kind.collection, id).ok_or_else(|| missing(kind, id))?;
                Ok(Reply::json(&listing::removed(kind, id)))
            }
            _ => Err(unknown(parts)),
        }
    }

    /// A number that no other object has, of this run or of another.
    pub(super) fn new_number(&self) -> u64 {
        let mut kept = self.lock();
        kept.named += 1;
        mix(self.nonce.wrapping_add(kept.named))
    }

    fn create(&self, kind: &Kind, parts: &Parts, body: &Bytes) -> Result<Reply, Refused> {
        let id = format!("{}{:016x}", kind.prefix, self.new_number());
        if kind.name == "file" {
            if let Some(begun) = files::begin(&id, parts) {
                return Ok(begun);
            }
            let file = files::read(kind, id, parts, body).map_err(Refused::bad_request)?;
            let reply = files::reply(kind, &file);
            self.keep(file);
            return Ok(reply);
        }
        let asked = if body.is_empty() { Ok(json!({})) } else { serde_json::from_slice(body) };
        let asked = asked.map_err(|error| Refused::bad_request(format!("The body is not JSON: {error}.")))?;
        let object = Object::new(kind.collection, id.clone(), listing::made(kind, &id, asked));
        let reply = Reply::json(&object.value);
        self.keep(object);
        Ok(reply)
    }

    fn list(&self, kind: &Kind, parts: &Parts) -> Value {
        let kept = self.lock();
        let is_of_kind = |object: &&Object| object.collection == kind.collection && object.id.starts_with(kind.prefix);
        let newest_first = kept.objects.iter().rev().filter(is_of_kind);
        listing::page(kind, newest_first.map(|object| (object.id.as_str(), &object.value)), &parts.uri)
    }

    fn with(&self, kind: &Kind, id: &str, reply: impl FnOnce(&mut Object) -> Reply) -> Result<Reply, Refused> {
        let mut kept = self.lock();
        let found = kept.objects.iter_mut().find(|object| object.collection == kind.collection && object.id == id);
        found.map(reply).ok_or_else(|| missing(kind, id))
    }

    fn keep(&self, object: Object) {
        let mut kept = self.lock();
        if kept.objects.len() == OBJECTS_MAX {
            kept.objects.pop_front();
        }
        kept.objects.push_back(object);
    }

    fn remove(&self, collection: &str, id: &str) -> Option<Object> {
        let mut kept = self.lock();
        let place = kept.objects.iter().position(|object| object.collection == collection && object.id == id)?;
        kept.objects.remove(place)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a response that may be asked after.
    pub(super) fn keep_response(&self, plan: Plan, polls: u64) {
        self.keep(responses::stored(plan, polls));
    }
}

impl Object {
    fn new(collection: &'static str, id: String, value: Value) -> Self {
        Self { collection, id, value, content_type: JSON.to_owned(), content: Bytes::new(), response: None }
    }
}

impl Reply {
    fn json(value: &Value) -> Self {
        Self { content_type: JSON.to_owned(), headers: Vec::new(), body: value.to_string().into() }
    }

    fn content(object: &mut Object) -> Self {
        Self { content_type: object.content_type.clone(), headers: Vec::new(), body: object.content.clone() }
    }
}

impl Refused {
    fn bad_request(message: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message }
    }
}

/// The kind that a path is about, and what follows its collection.
fn find<'a, 'b>(protocol: Protocol, segments: &'a [&'b str]) -> Option<(&'static Kind, &'a [&'b str])> {
    KINDS.iter().filter(|kind| kind.protocol == protocol).find_map(|kind| {
        let collection: Vec<&str> = kind.collection.split('/').collect();
        Some((kind, segments.strip_prefix(&collection[..])?))
    })
}

fn missing(kind: &Kind, id: &str) -> Refused {
    let message = match kind.protocol {
        Protocol::Anthropic => format!("{} not found: {id}", kind.name),
        Protocol::Gemini => format!("You do not have permission to access the {} {id} or it may not exist.", kind.name),
        _ => format!("No such {} object: {id}", kind.name),
    };
    // What is not one's own is forbidden there, whether it exists or not.
    let status = if kind.protocol == Protocol::Gemini { StatusCode::FORBIDDEN } else { StatusCode::NOT_FOUND };
    Refused { status, message }
}

fn unknown(parts: &Parts) -> Refused {
    let message = format!("Unknown request URL: {} {}.", parts.method, parts.uri.path());
    Refused { status: StatusCode::NOT_FOUND, message }
}
