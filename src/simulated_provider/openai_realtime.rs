//! OpenAI realtime: a session over a WebSocket, whose every `response.create` is answered with text and a usage of its own.

use super::answer::Part;
use super::ask::{Ask, words};
use super::faults::Faults;
use super::log::Log;
use super::plan::Plan;
use super::request::Request;
use super::route::{Operation, Target};
use super::text::mix;
use super::websocket::{WebSocket, accept};
use bytes::{Bytes, BytesMut};
use filters::dialect::Dialect;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;

/// A session that is agreed on.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) upgrade: OnUpgrade,
    pub(super) parts: Parts,
    pub(super) request_id: String,
    /// With the faults behind its `+`.
    pub(super) model: String,
    pub(super) faults: Faults,
    pub(super) log: Arc<Log>,
}

/// The answer that agrees on a session; none if the request does not ask for one.
pub(super) fn agree(headers: &HeaderMap) -> Option<HeaderMap> {
    let key = headers.get(SEC_WEBSOCKET_KEY)?.to_str().ok()?;
    let mut agreed = HeaderMap::new();
    agreed.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    agreed.insert(UPGRADE, HeaderValue::from_static("websocket"));
    agreed.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::try_from(accept(key)).ok()?);
    let protocols = headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|protocols| protocols.to_str().ok());
    if protocols.is_some_and(|protocols| protocols.split(',').any(|protocol| protocol.trim() == "realtime")) {
        agreed.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("realtime"));
    }
    Some(agreed)
}

impl Session {
    /// Answers until the client leaves.
    pub(super) async fn run(self) -> io::Result<()> {
        let upgraded = TokioIo::new(self.upgrade.clone().await.map_err(io::Error::other)?);
        let socket = &mut WebSocket(upgraded);
        let mut conversation: Vec<Value> = Vec::new();
        let about =
            json!({"type": "realtime", "object": "realtime.session", "id": "sess_simulated", "model": self.model});
        tell(socket, "session.created", json!({"session": about})).await?;
        while let Some(text) = socket.text().await? {
            let event: Value = serde_json::from_str(&text).unwrap_or_default();
            match event["type"].as_str().unwrap_or_default() {
                "session.update" => tell(socket, "session.updated", json!({"session": event["session"]})).await?,
                "conversation.item.create" => {
                    let mut item = event["item"].clone();
                    if item["id"].is_null() {
                        item["id"] = format!("item_{:016x}", conversation.len()).into();
                    }
                    conversation.push(item.clone());
                    tell(socket, "conversation.item.added", json!({"item": item})).await?;
                }
                "response.create" => self.answer(socket, &event["response"], &conversation).await?,
                "response.cancel" => {}
                other => {
                    let message = format!("Invalid value: '{other}'.");
                    tell(socket, "error", json!({"error": {"type": "invalid_request_error", "message": message}}))
                        .await?;
                }
            }
        }
        Ok(())
    }

    async fn answer(&self, socket: &mut Socket, asked: &Value, conversation: &[Value]) -> io::Result<()> {
        let plan = self.plan(asked, conversation);
        let body = asked.to_string();
        let mut entry = self.log.begin(&self.parts, body.as_bytes(), &self.request_id);
        entry.plan(&plan.model_name(), true, &plan.usage);
        entry.answer(StatusCode::SWITCHING_PROTOCOLS);
        let id = format!("resp_{:016x}", mix(plan.id));
        let response = |status: &str| json!({"object": "realtime.response", "id": id, "status": status, "output": []});
        tell(socket, "response.created", json!({"response": response("in_progress")})).await?;
        for index in 0..plan.reply.tokens {
            let mut word = BytesMut::from(&b"\""[..]);
            plan.reply.write_piece(index, &mut word);
            word.extend_from_slice(b"\"");
            let word: Value = serde_json::from_slice(&word).unwrap_or_default();
            let place = json!({"response_id": id, "item_id": "item_answer", "output_index": 0, "content_index": 0});
            let mut event = place;
            event["delta"] = word;
            tell(socket, "response.output_text.delta", event).await?;
            entry.hand_over(&Part { tokens: 1, ..Part::default() });
        }
        let mut done = response(if plan.reply.is_cut { "incomplete" } else { "completed" });
        let content = json!([{"type": "output_text", "text": plan.whole_text()}]);
        done["output"] = json!([{"id": "item_answer", "type": "message", "role": "assistant", "content": content}]);
        if plan.reports_usage {
            done["usage"] = usage(&plan);
        }
        tell(socket, "response.done", json!({"response": done})).await?;
        entry.hand_over(&Part { has_usage: plan.reports_usage, ..Part::default() });
        entry.complete();
        Ok(())
    }

    /// What the whole conversation so far is answered.
    fn plan(&self, asked: &Value, conversation: &[Value]) -> Plan {
        let target = Target { dialect: Dialect::OpenaiRealtime, operation: Operation::Plain, model: None };
        let ask = Ask { target, raw: Bytes::new(), body: asked.clone(), uploads: Vec::new() };
        let said = Value::Array(conversation.to_vec());
        let prompt = ask.prompt(&said);
        let request = Request {
            streamed: true,
            output_limit: ask.number("max_output_tokens"),
            input_tokens: words(&said) + words(&asked["instructions"]),
            ..Request::new(ask, &self.model, prompt)
        };
        Plan::new(&request, &self.faults)
    }
}

type Socket = WebSocket<TokioIo<hyper::upgrade::Upgraded>>;

async fn tell(socket: &mut Socket, kind: &str, mut event: Value) -> io::Result<()> {
    event["type"] = kind.into();
    event["event_id"] = "event_simulated".into();
    socket.send_text(&event.to_string()).await
}

/// Of this answer, not of the session.
fn usage(plan: &Plan) -> Value {
    let usage = &plan.usage;
    let (audio_in, audio_out) = (usage.audio_input_tokens, usage.audio_output_tokens);
    json!({
        "total_tokens": usage.total_tokens(),
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "input_token_details": {
            "text_tokens": usage.input_tokens - audio_in - usage.image_input_tokens,
            "audio_tokens": audio_in,
            "image_tokens": usage.image_input_tokens,
            "cached_tokens": usage.cached_tokens,
        },
        "output_token_details": {"text_tokens": usage.output_tokens - audio_out, "audio_tokens": audio_out},
    })
}
