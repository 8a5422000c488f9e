//! Where events end, and what becomes of their bytes.

use super::*;
use proptest::prelude::*;

/// Feeds `stream` in pieces cut at `cuts` and returns the data of each event, that of large ones joined, and the bytes that left.
fn read(stream: &[u8], cuts: &[usize]) -> (Vec<String>, Vec<u8>) {
    let mut scanner = EventScanner::default();
    let (mut events, mut parts, mut out) = (Vec::new(), Vec::new(), Vec::new());
    let mut note = |data: Data<'_>| {
        match data {
            Data::Whole(data) => events.push(String::from_utf8_lossy(data).into_owned()),
            Data::Part(part) => parts.extend_from_slice(part),
            Data::End => events.push(String::from_utf8(std::mem::take(&mut parts)).expect("text")),
        }
        match data {
            Data::Whole(b"secret") => Verdict::Withhold,
            Data::Whole(b"last") => Verdict::Hold,
            _ => Verdict::Relay,
        }
    };
    let mut from = 0;
    for to in cuts.iter().copied().chain([stream.len()]) {
        let to = to.clamp(from, stream.len());
        out.extend_from_slice(&scanner.feed(Bytes::copy_from_slice(&stream[from..to]), &mut note));
        assert!(scanner.held_bytes() <= 2 * EVENT_BYTES_MAX);
        from = to;
    }
    out.extend_from_slice(&scanner.finish(&mut note));
    (events, out)
}

fn every_cut(stream: &[u8]) -> Vec<usize> {
    (0..=stream.len()).collect()
}

#[test]
fn events_end_at_blank_lines_of_any_kind() {
    for end in ["\n", "\r\n", "\r"] {
        let stream = format!("data: a{end}{end}: note{end}{end}event: x{end}data:b{end}{end}data: [DONE]{end}{end}");
        let expected = vec!["a", "b", "[DONE]"];
        assert_eq!(read(stream.as_bytes(), &[]).0, expected, "{end:?}");
        assert_eq!(read(stream.as_bytes(), &every_cut(stream.as_bytes())).0, expected, "{end:?}");
    }
}

#[test]
fn mixed_line_ends_byte_order_mark_and_missing_last_blank_line() {
    let stream = "\u{feff}data: a\r\n\ndata: b\n\r\ndata: c\r\rdata: d".as_bytes();
    assert_eq!(read(stream, &[]).0, ["a", "b", "c", "d"]);
    assert_eq!(read(stream, &[]).1, stream);
    assert_eq!(read(stream, &every_cut(stream)), read(stream, &[]));
    // Anywhere else the mark is part of a name.
    assert_eq!(read("data: a\n\n\u{feff}data: b\n\n".as_bytes(), &[]).0, ["a"]);
    let large = format!("\u{feff}data: {}", "x".repeat(2 * EVENT_BYTES_MAX));
    assert_eq!(read(large.as_bytes(), &[]).0, ["x".repeat(2 * EVENT_BYTES_MAX)]);
}

#[test]
fn several_data_lines_are_one_text() {
    let stream = b"data: a\nid: 1\ndata: b\ndata\n\ndatabase: x\n\n";
    assert_eq!(read(stream, &[]).0, ["a\nb\n"]);
}

#[test]
fn withheld_events_leave_no_trace() {
    let stream = b"data: a\n\ndata: secret\n\ndata: b\n\ndata: secret\n\n";
    for cuts in [vec![], every_cut(stream), vec![12, 20, 35]] {
        assert_eq!(read(stream, &cuts).1, b"data: a\n\ndata: b\n\n");
    }
}

#[test]
fn bytes_leave_only_with_their_whole_event() {
    let mut scanner = EventScanner::default();
    let mut relay = |_: Data<'_>| Verdict::Relay;
    assert_eq!(scanner.feed(Bytes::from_static(b"data: a\n\ndata: [DO"), &mut relay), "data: a\n\n");
    assert_eq!(scanner.feed(Bytes::from_static(b"NE]\n"), &mut relay), "");
    assert_eq!(scanner.feed(Bytes::from_static(b"\n"), &mut relay), "data: [DONE]\n\n");
}

#[test]
fn an_event_that_is_kept_back_leaves_with_the_next_or_at_the_end() {
    let mut hold = |data: Data<'_>| match data {
        Data::Whole(b"last") => Verdict::Hold,
        Data::Whole(b"secret") => Verdict::Withhold,
        _ => Verdict::Relay,
    };
    let mut scanner = EventScanner::default();
    assert_eq!(scanner.feed(Bytes::from_static(b"data: a\n\ndata: last\n\n: note\n\n"), &mut hold), "data: a\n\n");
    assert_eq!(scanner.feed(Bytes::from_static(b"data: sec"), &mut hold), "");
    assert_eq!(scanner.feed(Bytes::from_static(b"ret\n\n"), &mut hold), "data: last\n\n: note\n\n");
    assert_eq!(scanner.feed(Bytes::from_static(b"data: last\n\ndata: last\n\n"), &mut hold), "data: last\n\n");
    assert_eq!(scanner.feed(Bytes::from_static(b"data: b\n\ndata: last\n\n"), &mut hold), "data: last\n\ndata: b\n\n");
    assert_eq!(scanner.feed(Bytes::from_static(b"data: sec"), &mut hold), "");
    assert_eq!(scanner.finish(&mut hold), "data: last\n\ndata: sec");
}

#[test]
fn a_large_event_is_shown_in_parts() {
    let words = "é".repeat(EVENT_BYTES_MAX);
    for end in ["\n", "\r\n", "\r"] {
        let stream = format!(
            "data: a{end}{end}event: x{end}data: {words}{end}id: {words}{end}data:{words}{end}data{end}{end}data: b{end}{end}"
        );
        let expected = ["a".to_owned(), format!("{words}\n{words}\n"), "b".to_owned()];
        for step in [stream.len(), 70_000, 1_000] {
            let cuts: Vec<_> = (0..stream.len()).step_by(step).collect();
            let (events, out) = read(stream.as_bytes(), &cuts);
            assert!(events == expected, "{end:?} {step}");
            assert!(out == stream.as_bytes(), "{end:?} {step}");
        }
    }
    let open = format!("data: {words}");
    assert_eq!(read(open.as_bytes(), &[100_000]).0, [words]);
}

#[test]
fn a_huge_event_passes_in_bounded_memory() {
    let mut scanner = EventScanner::default();
    let (mut events, mut seen) = (0, 0);
    let mut count = |data: Data<'_>| {
        match data {
            Data::Whole(_) | Data::End => events += 1,
            Data::Part(part) => seen += part.len(),
        }
        Verdict::Relay
    };
    let chunk = Bytes::from(vec![b'x'; 100_000]);
    let mut passed = scanner.feed(Bytes::from_static(b"data: "), &mut count).len();
    for _ in 0..1_000 {
        passed += scanner.feed(chunk.clone(), &mut count).len();
        assert!(scanner.held_bytes() <= EVENT_BYTES_MAX);
    }
    passed += scanner.feed(Bytes::from_static(b"\n\ndata: after\n\n"), &mut count).len();
    assert_eq!((passed, events, seen), (6 + 100_000_000 + 15, 2, 100_000_000));
}

#[test]
fn a_million_empty_events_pass() {
    let mut scanner = EventScanner::default();
    let mut events = 0;
    let mut count = |_: Data<'_>| {
        events += 1;
        Verdict::Relay
    };
    let chunk = Bytes::from("data:\n\n\n\n".repeat(1_000));
    for _ in 0..1_000 {
        assert_eq!(scanner.feed(chunk.clone(), &mut count), chunk);
        assert_eq!(scanner.held_bytes(), 0);
    }
    assert_eq!(events, 1_000_000);
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_events_and_bytes(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "data: x", "data:secret", "data: last\n\n", "data", ": c", "event: e", "id", "é", "\n", "\r", "\r\n", "\n\n", "\r\n\r\n", "data: {\"a\":1}\n\n",
        ]), 0..40),
        cuts in prop::collection::vec(0usize..400, 0..40),
    ) {
        let stream = pieces.concat().into_bytes();
        let mut cuts = cuts;
        cuts.sort_unstable();
        let whole = read(&stream, &[]);
        prop_assert_eq!(&read(&stream, &cuts), &whole);
        prop_assert_eq!(&read(&stream, &every_cut(&stream)), &whole);
    }
}
