//! The event scanner: any chunks give the same events, and every byte leaves.

#![no_main]

use filters::sse::{Data, EventScanner, Verdict};
use libfuzzer_sys::fuzz_target;

fn read(stream: &[u8], step: usize) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut scanner = EventScanner::default();
    let (mut events, mut out) = (Vec::new(), Vec::new());
    let mut note = |data: Data<'_>| {
        if let Data::Whole(data) = data {
            events.push(data.to_vec());
        }
        // Some events wait for the next.
        if matches!(data, Data::Whole([b'x', ..])) { Verdict::Hold } else { Verdict::Relay }
    };
    for chunk in fuzz::chunks(stream, step) {
        out.extend_from_slice(&scanner.feed(chunk, &mut note));
    }
    out.extend_from_slice(&scanner.finish(&mut note));
    (events, out)
}

fuzz_target!(|input: &[u8]| {
    let (step, stream) = fuzz::split(input);
    let whole = read(stream, stream.len().max(1));
    assert_eq!(read(stream, step), whole);
    assert_eq!(whole.1, stream);
});
