//! The frame scanner: any chunks give the same frames, and every byte leaves. An input can be made into sound frames, as no
//! fuzzer guesses a checksum.

#![no_main]

use filters::event_stream::{FrameScanner, event_frame};
use filters::sse::Data;
use libfuzzer_sys::fuzz_target;

fn read(stream: &[u8], step: usize) -> (Vec<(String, Vec<u8>)>, Vec<u8>) {
    let mut scanner = FrameScanner::default();
    let (mut frames, mut out) = (Vec::new(), Vec::new());
    for chunk in fuzz::chunks(stream, step) {
        let left = scanner.feed(chunk, &mut |kind, data| {
            if let Data::Whole(payload) = data {
                frames.push((kind.name.clone(), payload.to_vec()));
            }
            true
        });
        out.extend_from_slice(&left);
    }
    out.extend_from_slice(&scanner.finish());
    (frames, out)
}

fuzz_target!(|input: &[u8]| {
    let (step, raw) = fuzz::split(input);
    let framed: Vec<u8> = raw.splitn(8, |byte| *byte == 0).flat_map(|payload| event_frame("chunk", payload)).collect();
    for stream in [raw, &framed, &[framed.as_slice(), raw].concat()] {
        let whole = read(stream, stream.len().max(1));
        assert_eq!(read(stream, step), whole);
        assert_eq!(whole.1, stream);
    }
});
