//! An answer on its way: events made one at a time, in the model's pace, with the faults that are in the events themselves.

use super::faults::{Pace, ScriptFaults};
use super::plan::{Event, Plan};
use super::{anthropic, openai_chat};
use bytes::Bytes;
use filters::dialect::Dialect;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Sleep;

/// What a huge event is filled with, again and again.
static FILLER: [u8; 64 * 1024] = [b'a'; 64 * 1024];

/// The parts of a body, each at its time.
pub(super) struct Answer {
    dialect: Dialect,
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
    pub(super) fn stream(dialect: Dialect, plan: Plan, faults: ScriptFaults, pace: Pace) -> Self {
        let events = match dialect {
            Dialect::OpenaiChat => Events::OpenaiChat(openai_chat::Stream::new(plan)),
            Dialect::Anthropic => Events::Anthropic(anthropic::Stream::new(plan)),
        };
        Self::new(dialect, events, faults, Pacer::new(pace))
    }

    /// A unary answer. Its pace is up to whoever sends the header.
    pub(super) fn body(dialect: Dialect, plan: &Plan, faults: ScriptFaults) -> Self {
        let event = match dialect {
            Dialect::OpenaiChat => openai_chat::body(plan),
            Dialect::Anthropic => anthropic::body(plan),
        };
        Self::new(dialect, Events::Whole(Some(event)), faults, Pacer::new(Pace::default()))
    }

    /// Bytes that no model had a part in.
    pub(super) fn whole(dialect: Dialect, bytes: Bytes) -> Self {
        let event = (!bytes.is_empty()).then(|| Event { bytes, ..Event::default() });
        Self::new(dialect, Events::Whole(event), ScriptFaults::default(), Pacer::new(Pace::default()))
    }

    fn new(dialect: Dialect, events: Events, faults: ScriptFaults, pacer: Pacer) -> Self {
        let mut answer = Self {
            dialect,
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
            let bytes = match self.dialect {
                Dialect::OpenaiChat => openai_chat::error_event(),
                Dialect::Anthropic => anthropic::error_event(),
            };
            return Some(Event { bytes, is_failure: true, ..Event::default() });
        }
        match &mut self.events {
            Events::OpenaiChat(stream) => stream.next(),
            Events::Anthropic(stream) => stream.next(),
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
