//! The readers of usage: whatever an answer says, any chunks count the same, nothing grows, and the end can be written.

#![no_main]

use filters::denied::Code;
use filters::dialect::{Cut, Dialect};
use filters::id::CallId;
use filters::meter::Meter;
use filters::time::EpochMs;
use filters::usage::Usage;
use libfuzzer_sys::fuzz_target;

const KINDS: [&str; 4] = ["application/json", "text/event-stream", "application/vnd.amazon.eventstream", "audio/mpeg"];
/// An event, and what is kept back behind it.
const HELD_BYTES_MAX: usize = 3 * 64 * 1024;

fn read(dialect: Dialect, kind: &str, body: &[u8], step: usize) -> Meter {
    let mut meter = Meter::of(dialect, kind.as_bytes(), true, true);
    for chunk in fuzz::chunks(body, step) {
        meter.feed(chunk);
        assert!(meter.held_bytes() <= HELD_BYTES_MAX);
    }
    if meter.can_be_cut() {
        let cut = Cut {
            reason: Code::SpendLimitReached,
            usage: meter.tally().usage(1, 1).0,
            include_usage: true,
            choices: 1,
            call: CallId(1),
            model: "m",
            at: EpochMs(0),
        };
        assert!(!meter.cut(&cut).is_empty());
    }
    meter.finish();
    meter
}

fuzz_target!(|input: &[u8]| {
    let (step, rest) = fuzz::split(input);
    let [dialect, kind, body @ ..] = rest else { return };
    let dialect = Dialect::ALL[usize::from(*dialect) % Dialect::ALL.len()];
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    let (whole, parts) = (read(dialect, kind, body, body.len().max(1)), read(dialect, kind, body, step));
    assert_eq!(whole.tally(), parts.tally());
    let usage = whole.tally().reported.map_or_else(Usage::default, |reported| reported.usage);
    assert!(usage.counts.iter().all(|count| *count < 1 << 57));
});
