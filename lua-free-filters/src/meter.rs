//! The meter of one answer: reads what passes, counts it, and says which bytes may leave.

use crate::answer_scan::AnswerScanner;
use crate::dialect::{Dialect, Event};
use crate::sse::{EventScanner, Verdict};
use crate::tally::Tally;
use bytes::Bytes;

/// Reads one answer, a stream of events or a whole body.
#[derive(Debug)]
pub struct Meter {
    dialect: Dialect,
    reading: Reading,
    tally: Tally,
}

#[derive(Debug)]
enum Reading {
    Events { scanner: EventScanner, withhold_usage: bool, seen: Seen },
    Answer(AnswerScanner),
}

/// What a stream has shown so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// An event with data.
    pub any: bool,
    /// The first event with data was a failure.
    pub error_first: bool,
    /// The provider reported a failure.
    pub error: bool,
    /// The protocol's last event.
    pub finished: bool,
}

impl Meter {
    /// A meter of a stream of events. With `withhold_usage` the usage event that the client did not ask for is taken out.
    #[must_use]
    pub fn of_events(dialect: Dialect, withhold_usage: bool) -> Self {
        let reading = Reading::Events { scanner: EventScanner::default(), withhold_usage, seen: Seen::default() };
        Self { dialect, reading, tally: Tally::default() }
    }

    /// A meter of a whole body.
    #[must_use]
    pub fn of_answer(dialect: Dialect) -> Self {
        Self { dialect, reading: Reading::Answer(AnswerScanner::default()), tally: Tally::default() }
    }

    /// Reads the next chunk; returns the bytes that may leave now. After the protocol's last event nothing leaves.
    pub fn feed(&mut self, chunk: Bytes) -> Bytes {
        let (dialect, tally) = (self.dialect, &mut self.tally);
        match &mut self.reading {
            Reading::Events { scanner, withhold_usage, seen } => {
                scanner.feed(chunk, &mut |data| read_event(dialect, data, *withhold_usage, seen, tally))
            }
            Reading::Answer(scanner) => {
                scanner.feed(&chunk);
                chunk
            }
        }
    }

    /// Reads the end of the body; returns the bytes that were held back.
    pub fn finish(&mut self) -> Bytes {
        let (dialect, tally) = (self.dialect, &mut self.tally);
        match &mut self.reading {
            Reading::Events { scanner, withhold_usage, seen } => {
                scanner.finish(&mut |data| read_event(dialect, data, *withhold_usage, seen, tally))
            }
            Reading::Answer(scanner) => {
                let found = scanner.found();
                dialect.read_answer(found.usage.as_deref(), found.service_tier.as_deref(), tally);
                if tally.reported.is_none() && found.error.is_none() {
                    tally.text_bytes = scanner.bytes();
                }
                Bytes::new()
            }
        }
    }

    /// The count so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What a stream has shown so far; a whole body shows nothing before its end.
    #[must_use]
    pub fn seen(&self) -> Seen {
        match &self.reading {
            Reading::Events { seen, .. } => *seen,
            Reading::Answer(_) => Seen::default(),
        }
    }

    /// Whether a whole body is a report of failure without usage.
    #[must_use]
    pub fn is_error_answer(&self) -> bool {
        match &self.reading {
            Reading::Events { .. } => false,
            Reading::Answer(scanner) => scanner.found().error.is_some() && self.tally.reported.is_none(),
        }
    }
}

fn read_event(dialect: Dialect, data: &[u8], withhold_usage: bool, seen: &mut Seen, tally: &mut Tally) -> Verdict {
    if seen.finished {
        // The call is settled before its last event leaves, so nothing after it may count or pass.
        return Verdict::Withhold;
    }
    let event = dialect.read_event(data, tally);
    let first = !seen.any;
    seen.any = true;
    match event {
        Event::Ordinary => Verdict::Relay,
        Event::UsageOnly if withhold_usage => Verdict::Withhold,
        Event::UsageOnly => Verdict::Relay,
        Event::Final => {
            seen.finished = true;
            Verdict::Relay
        }
        Event::Error => {
            seen.error = true;
            seen.error_first |= first;
            Verdict::Relay
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Usage;
    use proptest::prelude::*;

    const STREAM: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"one\"}}],\"usage\":null}\n\n\
        data: {\"choices\":[{\"delta\":{\"content\":\" two\"}}],\"usage\":null}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\n\n\
        data: [DONE]\n\n";

    fn pass(meter: &mut Meter, stream: &str, cuts: &[usize]) -> String {
        let mut out = Vec::new();
        let mut from = 0;
        for to in cuts.iter().copied().chain([stream.len()]) {
            let to = to.clamp(from, stream.len());
            out.extend_from_slice(&meter.feed(Bytes::copy_from_slice(&stream.as_bytes()[from..to])));
            from = to;
        }
        out.extend_from_slice(&meter.finish());
        String::from_utf8(out).expect("whole events")
    }

    #[test]
    fn the_usage_event_is_taken_out_if_the_client_did_not_ask() {
        for (withhold, events) in [(true, 3), (false, 4)] {
            let mut meter = Meter::of_events(Dialect::OpenaiChat, withhold);
            let out = pass(&mut meter, STREAM, &[]);
            assert_eq!(out.matches("data:").count(), events);
            assert_eq!(out.contains("prompt_tokens"), !withhold);
            assert_eq!(meter.tally().usage(0, 1_000), (Usage::of(5, 2), false));
            assert!(meter.seen().finished);
        }
    }

    #[test]
    fn nothing_passes_after_the_last_event() {
        let mut meter = Meter::of_events(Dialect::OpenaiChat, false);
        let late = format!(
            "{STREAM}data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":1}}}}\n\ndata: [DONE]\n\n"
        );
        assert_eq!(pass(&mut meter, &late, &[]), STREAM);
        assert_eq!(meter.tally().usage(0, 1_000), (Usage::of(5, 2), false));
    }

    #[test]
    fn a_failure_in_the_first_event_is_told_apart() {
        let mut meter = Meter::of_events(Dialect::OpenaiChat, false);
        pass(&mut meter, "data: {\"error\":{\"message\":\"no\"}}\n\n", &[]);
        assert!(meter.seen().error_first);
        let mut meter = Meter::of_events(Dialect::OpenaiChat, false);
        pass(&mut meter, "data: {\"choices\":[]}\n\ndata: {\"error\":{\"message\":\"no\"}}\n\n", &[]);
        assert!(meter.seen().error && !meter.seen().error_first);
    }

    #[test]
    fn a_whole_answer_is_counted_at_its_end() {
        let mut meter = Meter::of_answer(Dialect::OpenaiChat);
        let body = r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#;
        assert_eq!(pass(&mut meter, body, &[9]), body);
        assert_eq!(meter.tally().usage(0, 1_000), (Usage::of(5, 2), false));
        let mut meter = Meter::of_answer(Dialect::OpenaiChat);
        pass(&mut meter, r#"{"error":{"code":"x"}}"#, &[]);
        assert!(meter.is_error_answer());
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_count_and_bytes(cuts in prop::collection::vec(0usize..400, 0..30), withhold: bool) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let (mut whole, mut cut) = (Meter::of_events(Dialect::OpenaiChat, withhold), Meter::of_events(Dialect::OpenaiChat, withhold));
            prop_assert_eq!(pass(&mut whole, STREAM, &[]), pass(&mut cut, STREAM, &cuts));
            prop_assert_eq!(whole.tally(), cut.tally());
        }

        #[test]
        fn the_models_words_never_change_the_count(words in ".*") {
            let event = serde_json::json!({"choices": [{"delta": {"content": words}}], "usage": null});
            let mut meter = Meter::of_events(Dialect::OpenaiChat, true);
            pass(&mut meter, &format!("data: {event}\n\n{STREAM}"), &[]);
            prop_assert_eq!(meter.tally().usage(0, 1_000), (Usage::of(5, 2), false));
        }
    }
}
