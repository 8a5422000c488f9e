//! An answer on its way: events made one at a time, in the model's pace, with the faults that are in the events themselves.

use super::faults::{Pace, ScriptFaults};
use super::plan::{Event, Plan};
use super::route::{Operation, Target};
use super::{
    anthropic, bedrock, bedrock_invoke, cohere_chat, cohere_vectors, gemini, gemini_vectors, openai_chat,
    openai_completions, openai_embeddings, openai_images, openai_moderations, openai_responses, openai_speech,
    openai_transcription,
};
use bytes::Bytes;
use filters::dialect::{Dialect, Protocol};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Sleep;

/// What a huge event is filled with, again and again.
static FILLER: [u8; 64 * 1024] = [b'a'; 64 * 1024];

/// The parts of a body, each at its time.
pub(super) struct Answer {
    dialect: Dialect,
    operation: Operation,
    events: Events,
    /// One event ahead, so that the last is known to be the last.
    upcoming: Option<Event>,
    taken: u64,
    error_event_after: Option<u64>,
    huge_event_bytes: Option<u64>,
    rest: Option<HugeRest>,
    pacer: Pacer,
}

/// One frame of the body.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) bytes: Bytes,
    pub(super) tokens: u64,
    pub(super) has_usage: bool,
    pub(super) ends_event: bool,
    /// It tells the client that the answer has failed.
    pub(super) is_failure: bool,
}

enum Events {
    OpenaiChat(openai_chat::Stream),
    Anthropic(anthropic::Stream),
    Others(Box<dyn Iterator<Item = Event> + Send + Sync>),
    Whole(Option<Event>),
}

/// What is still to come of a huge event.
struct HugeRest {
    filler_bytes: u64,
    tail: Bytes,
    has_usage: bool,
}

impl Answer {
    /// A stream of events.
    pub(super) fn stream(plan: Plan, faults: ScriptFaults, pace: Pace) -> Self {
        let target = plan.ask.target.clone();
        Self::new(&target, stream(plan), faults, Pacer::new(pace))
    }

    /// A unary answer. Its pace is up to whoever sends the header.
    pub(super) fn body(plan: &Plan, faults: ScriptFaults) -> Self {
        Self::new(&plan.ask.target, Events::Whole(Some(body(plan))), faults, Pacer::new(Pace::default()))
    }

    /// Bytes that no model had a part in.
    pub(super) fn whole(bytes: Bytes) -> Self {
        let event = (!bytes.is_empty()).then(|| Event::plain(bytes));
        // Nothing goes wrong within it, so nothing asks for its dialect.
        let target = Target { dialect: Dialect::OpenaiChat, operation: Operation::Plain, model: None };
        Self::new(&target, Events::Whole(event), ScriptFaults::default(), Pacer::new(Pace::default()))
    }

    fn new(target: &Target, events: Events, faults: ScriptFaults, pacer: Pacer) -> Self {
        let mut answer = Self {
            dialect: target.dialect,
            operation: target.operation,
            events,
            upcoming: None,
            taken: 0,
            error_event_after: faults.error_event_after,
            huge_event_bytes: faults.huge_event_bytes,
            rest: None,
            pacer,
        };
        answer.upcoming = answer.make_next();
        answer
    }

    /// How many bytes there are, where all of them are known.
    pub(super) fn length(&self) -> Option<u64> {
        let Events::Whole(_) = self.events else { return None };
        let event_bytes = self.upcoming.as_ref().map_or(0, |event| event.bytes.len() as u64);
        Some(event_bytes.max(self.huge_event_bytes.unwrap_or(0)))
    }

    pub(super) fn is_finished(&self) -> bool {
        self.upcoming.is_none() && self.rest.is_none()
    }

    /// The next part when its time has come; none after the last.
    pub(super) fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Option<Part>> {
        if let Some(rest) = self.rest.take() {
            return Poll::Ready(Some(self.go_on(rest)));
        }
        if self.upcoming.is_none() {
            return Poll::Ready(None);
        }
        ready!(self.pacer.poll(context));
        let part = self.upcoming.take().map(|event| self.begin(event));
        self.taken += 1;
        self.upcoming = self.make_next();
        if self.upcoming.as_ref().is_some_and(|event| event.is_paced) {
            self.pacer.set();
        }
        Poll::Ready(part)
    }

    fn make_next(&mut self) -> Option<Event> {
        if self.error_event_after == Some(self.taken) {
            self.error_event_after = None;
            self.events = Events::Whole(None);
            return Some(error_event(self.dialect, self.operation, self.taken == 0));
        }
        match &mut self.events {
            Events::OpenaiChat(stream) => stream.next(),
            Events::Anthropic(stream) => stream.next(),
            Events::Others(stream) => stream.next(),
            Events::Whole(event) => event.take(),
        }
    }

    fn begin(&mut self, event: Event) -> Part {
        let Event { mut bytes, text_at, tokens, has_usage, is_failure, is_paced: _ } = event;
        let huge_event_bytes = self.huge_event_bytes.take_if(|_| text_at > 0).unwrap_or(0);
        let filler_bytes = huge_event_bytes.saturating_sub(bytes.len() as u64);
        if filler_bytes == 0 {
            return Part { bytes, tokens, has_usage, ends_event: true, is_failure };
        }
        let tail = bytes.split_off(text_at);
        self.rest = Some(HugeRest { filler_bytes, tail, has_usage });
        Part { bytes, tokens, ..Part::default() }
    }

    fn go_on(&mut self, mut rest: HugeRest) -> Part {
        if rest.filler_bytes == 0 {
            return Part { bytes: rest.tail, has_usage: rest.has_usage, ends_event: true, ..Part::default() };
        }
        let size = rest.filler_bytes.min(FILLER.len() as u64);
        rest.filler_bytes -= size;
        self.rest = Some(rest);
        Part { bytes: Bytes::from_static(&FILLER[..size as usize]), ..Part::default() }
    }
}

/// The events of a stream. What is never streamed comes whole.
fn stream(plan: Plan) -> Events {
    let others: Box<dyn Iterator<Item = Event> + Send + Sync> = match plan.ask.target.dialect {
        Dialect::OpenaiChat => return Events::OpenaiChat(openai_chat::Stream::new(plan)),
        Dialect::Anthropic => return Events::Anthropic(anthropic::Stream::new(plan)),
        Dialect::OpenaiResponses => Box::new(openai_responses::stream(plan)),
        Dialect::OpenaiCompletions => Box::new(openai_completions::stream(plan)),
        Dialect::OpenaiImages => Box::new(openai_images::stream(plan)),
        Dialect::OpenaiSpeech => Box::new(openai_speech::stream(plan)),
        Dialect::OpenaiTranscription => Box::new(openai_transcription::stream(plan)),
        Dialect::GeminiGenerate => Box::new(gemini::stream(plan)),
        Dialect::CohereChat => Box::new(cohere_chat::stream(plan)),
        Dialect::BedrockConverse => Box::new(bedrock::stream(plan)),
        Dialect::BedrockInvoke => bedrock_invoke::stream(plan),
        Dialect::OpenaiEmbeddings
        | Dialect::OpenaiModerations
        | Dialect::AnthropicCount
        | Dialect::GeminiCount
        | Dialect::GeminiEmbed
        | Dialect::CohereEmbed
        | Dialect::CohereRerank
        | Dialect::OpenaiRealtime => return Events::Whole(Some(body(&plan))),
    };
    Events::Others(others)
}

/// The whole unary answer.
fn body(plan: &Plan) -> Event {
    match plan.ask.target.dialect {
        Dialect::OpenaiChat => openai_chat::body(plan),
        Dialect::Anthropic => anthropic::body(plan),
        Dialect::AnthropicCount => anthropic::count(plan),
        Dialect::OpenaiResponses => openai_responses::body(plan),
        Dialect::OpenaiCompletions => openai_completions::body(plan),
        Dialect::OpenaiEmbeddings => openai_embeddings::body(plan),
        Dialect::OpenaiImages => openai_images::body(plan),
        // Speech is always in pieces; a session never gets here.
        Dialect::OpenaiSpeech | Dialect::OpenaiRealtime => Event::default(),
        Dialect::OpenaiTranscription => openai_transcription::body(plan),
        Dialect::OpenaiModerations => openai_moderations::body(plan),
        Dialect::GeminiGenerate => gemini::body(plan),
        Dialect::GeminiCount => gemini::count(plan),
        Dialect::GeminiEmbed => gemini_vectors::body(plan),
        Dialect::CohereChat => cohere_chat::body(plan),
        Dialect::CohereEmbed => cohere_vectors::embed_body(plan),
        Dialect::CohereRerank => cohere_vectors::rerank_body(plan),
        Dialect::BedrockConverse => bedrock::body(plan),
        Dialect::BedrockInvoke => bedrock_invoke::body(plan),
    }
}

/// A failure told in the middle of a stream.
fn error_event(dialect: Dialect, operation: Operation, is_first: bool) -> Event {
    match dialect {
        Dialect::OpenaiResponses => openai_responses::error_event(),
        Dialect::GeminiGenerate => gemini::error_event(operation, is_first),
        other => match other.protocol() {
            Protocol::Openai => openai_chat::error_event(),
            Protocol::Anthropic => anthropic::error_event(),
            Protocol::Gemini => gemini::error_event(Operation::Plain, is_first),
            Protocol::Cohere => cohere_chat::error_event(),
            Protocol::Bedrock => bedrock::error_event(),
        },
    }
}

/// The waits before the first event and before each token; without a pace no timer is ever made.
struct Pacer {
    token: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    is_set: bool,
}

impl Pacer {
    fn new(pace: Pace) -> Self {
        let first = Duration::from_millis(pace.first_token_ms);
        let sleep = (!first.is_zero()).then(|| Box::pin(tokio::time::sleep(first)));
        Self { token: Duration::from_millis(pace.token_ms), is_set: sleep.is_some(), sleep }
    }

    /// The next event waits. Counted from the last wait's end as it was planned, so that the pace holds on the average.
    fn set(&mut self) {
        if self.token.is_zero() {
            return;
        }
        match &mut self.sleep {
            Some(sleep) => {
                let deadline = sleep.deadline() + self.token;
                sleep.as_mut().reset(deadline);
            }
            None => self.sleep = Some(Box::pin(tokio::time::sleep(self.token))),
        }
        self.is_set = true;
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(sleep) = self.sleep.as_mut().filter(|_| self.is_set) {
            ready!(sleep.as_mut().poll(context));
            self.is_set = false;
        }
        Poll::Ready(())
    }
}
