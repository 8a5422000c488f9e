//! The traps of event streams, in every language.

use super::samples::{Sample, samples};
use super::*;
use crate::sse::EVENT_BYTES_MAX;
use serde_json::json;

const WORDS: &str = "Grüße, \"usage\":{\"prompt_tokens\":99,\"completion_tokens\":99} data: [DONE]\n\n";

/// What is counted of a stream that is fed in steps of so many bytes; each of its bytes must leave.
fn count(dialect: Dialect, text: &[u8], step: usize) -> Meter {
    let mut meter = Meter::of_events(dialect, false);
    let mut out = Vec::new();
    for chunk in text.chunks(step.max(1)) {
        out.extend_from_slice(&meter.feed(Bytes::copy_from_slice(chunk)));
    }
    out.extend_from_slice(&meter.finish());
    assert!(out == text, "{dialect:?} in steps of {step}: {}", String::from_utf8_lossy(&out));
    meter
}

fn reported(meter: &Meter) -> Option<Usage> {
    meter.tally().reported.filter(|reported| reported.is_final).map(|reported| reported.usage)
}

fn expect(sample: &Sample, text: &str) {
    for step in [1, 2, 3, 7, 64, text.len()] {
        let meter = count(sample.dialect, text.as_bytes(), step);
        assert_eq!(reported(&meter), Some(sample.usage), "{:?} in steps of {step}: {text}", sample.dialect);
        assert!(meter.seen().finished, "{:?}", sample.dialect);
    }
}

#[test]
fn any_line_ends_and_any_split() {
    for sample in samples(WORDS) {
        for end in ["\n", "\r\n", "\r"] {
            for space in ["", " "] {
                expect(&sample, &sample.text(end, space));
            }
        }
        let mixed: String = sample.text("\n", " ").split("\n\n").collect::<Vec<_>>().join("\r\n\n");
        expect(&sample, &mixed);
    }
}

#[test]
fn marks_comments_other_fields_and_a_missing_end() {
    for sample in samples(WORDS) {
        let text = sample.text("\n", " ");
        expect(&sample, &format!("\u{feff}{text}"));
        expect(
            &sample,
            &format!(
                ": OPENROUTER PROCESSING\n\n\n\n{}",
                text.replace("data:", "id: 1\nretry: 3\n: keep-alive\ndata:")
            ),
        );
        expect(&sample, text.trim_end());
        if !sample.done && sample.dialect != Dialect::Anthropic {
            expect(&sample, &format!("{text}: bye\n\n"));
        }
    }
}

#[test]
fn data_may_stand_in_several_lines_and_before_its_name() {
    for sample in samples("words") {
        let mut text: String = sample
            .events
            .iter()
            .map(|event| {
                let lines = serde_json::to_string_pretty(event).expect("JSON");
                let data: String = lines.lines().map(|line| format!("data: {line}\n")).collect();
                format!("{data}event: {}\n\n", event["type"].as_str().unwrap_or("x"))
            })
            .collect();
        if sample.done {
            text.push_str("data: [DONE]\n\n");
        }
        expect(&sample, &text);
    }
}

#[test]
fn done_may_be_missing_or_come_where_none_is_due() {
    for mut sample in samples("[DONE]") {
        sample.done = !sample.done;
        let text = sample.text("\n", " ");
        let meter = count_to_end(sample.dialect, &text);
        assert_eq!(reported(&meter), Some(sample.usage), "{:?}", sample.dialect);
    }
}

/// The same, where what comes behind the end may be dropped.
fn count_to_end(dialect: Dialect, text: &str) -> Meter {
    let mut meter = Meter::of_events(dialect, false);
    pass(&mut meter, text, &[]);
    meter
}

#[test]
fn nothing_behind_the_end_counts() {
    for sample in samples(WORDS) {
        let text = sample.text("\n", " ");
        let mut late = samples(WORDS).into_iter().find(|late| late.dialect == sample.dialect).expect("the same");
        late.usage_object()[sample.figure] = 77.into();
        let is_over = sample.done || sample.dialect == Dialect::Anthropic;
        let meter = count_to_end(sample.dialect, &format!("{text}data: {}\n\ndata: [DONE]\n\n", late.last()));
        let usage = reported(&meter).expect("figures");
        // Where no mark ends a stream, the last figures of the body are the right ones.
        assert_eq!(usage == sample.usage, is_over, "{:?}", sample.dialect);
    }
}

#[test]
fn null_takes_nothing_back_and_the_last_figures_win() {
    for mut sample in samples(WORDS) {
        let (place, dialect) = (sample.figures.0, sample.dialect);
        let mut early = sample.last().clone();
        *early.pointer_mut(sample.figures.1).expect("figures") = {
            let mut figures = sample.usage_object().clone();
            figures[sample.figure] = 1.into();
            figures
        };
        let mut late = sample.last().clone();
        *late.pointer_mut(sample.figures.1).expect("figures") = Value::Null;
        sample.events.insert(place + 1, late);
        sample.events.insert(place, early);
        let meter = count_to_end(dialect, &sample.text("\n", " "));
        let is_billed_alone = dialect == Dialect::CohereChat;
        if !is_billed_alone {
            assert_eq!(reported(&meter), Some(sample.usage), "{dialect:?}");
        }
    }
}

#[test]
fn figures_that_are_no_counts_are_none() {
    for bad in ["-1", "1.5", "1e3", "18446744073709551616", "\"7\"", "[]", "{}"] {
        for mut sample in samples(WORDS) {
            let figure = sample.figure;
            sample.usage_object()[figure] = "BAD".into();
            let text = sample.text("\n", " ").replace("\"BAD\"", bad);
            let meter = count(sample.dialect, text.as_bytes(), 50);
            let found = reported(&meter);
            // Cohere says what was read, beside what is billed, and may write a thousand as it likes.
            let others = [Some(Usage::of(9, 50)), Some(Usage::of(9, 1_000))];
            let is_other = sample.dialect == Dialect::CohereChat && others.contains(&found);
            // The chunks before have figures too.
            assert!(found.is_none() || is_other, "{:?} {bad}: {found:?}", sample.dialect);
        }
    }
}

#[test]
fn of_duplicate_members_the_last_wins() {
    for mut sample in samples(WORDS) {
        let (name, figure) = (sample.figures.1.rsplit('/').next().expect("a name"), sample.figure);
        let good = sample.usage_object().to_string();
        *sample.usage_object() = "TWICE".into();
        let text = sample.text("\n", " ");
        let twice = format!(r#"{{"{figure}":1}},"{name}":{good},"{name}":null"#);
        let is_kept = sample.dialect != Dialect::CohereChat;
        let text = text.replace("\"TWICE\"", &twice);
        if is_kept {
            expect(&sample, &text);
        }
        let inner = text.replace(&twice, &good.replacen('{', &format!(r#"{{"{figure}":1,"#), 1));
        expect(&sample, &inner);
    }
}

#[test]
fn figures_are_found_in_an_event_of_any_size() {
    let words = WORDS.repeat(3 * EVENT_BYTES_MAX / WORDS.len());
    for mut sample in samples("x") {
        for name in ["aaa", "zzz"] {
            sample.last()[name] = words.clone().into();
        }
        let text = sample.text("\r\n", " ");
        for step in [1_000, 65_537, text.len()] {
            let meter = count(sample.dialect, text.as_bytes(), step);
            assert_eq!(reported(&meter), Some(sample.usage), "{:?} in steps of {step}", sample.dialect);
            assert!(meter.seen().finished);
        }
    }
}

#[test]
fn a_picture_of_a_hundred_megabytes_is_counted_in_constant_memory() {
    let mut meter = Meter::of_events(Dialect::OpenaiImages, false);
    let mut passed =
        meter.feed(Bytes::from_static(b"data: {\"type\":\"image_generation.completed\",\"b64_json\":\"")).len();
    let picture = Bytes::from(vec![b'A'; 100_000]);
    for _ in 0..1_000 {
        passed += meter.feed(picture.clone()).len();
        assert!(meter.held_bytes() <= EVENT_BYTES_MAX);
    }
    let end = b"\",\"usage\":{\"input_tokens\":9,\"output_tokens\":4160}}\n\n";
    passed += meter.feed(Bytes::from_static(end)).len();
    // The end of the event waits for the end of the body, by when it is on the books.
    assert!(meter.seen().closing && meter.held_bytes() > 0);
    passed += meter.finish().len();
    assert_eq!(passed, 55 + 100_000_000 + end.len());
    assert_eq!(reported(&meter), Some(Usage::of(9, 0).with(Kind::ImageOutput, 4160)));
}

#[test]
fn a_million_empty_events_cost_no_memory() {
    for sample in samples("x") {
        let mut meter = Meter::of_events(sample.dialect, false);
        let empty = Bytes::from("data:\n\n: x\n\ndata: {}\n\n\n\n".repeat(1_000));
        for _ in 0..50 {
            assert_eq!(meter.feed(empty.clone()), empty);
            assert_eq!(meter.held_bytes(), 0);
        }
        pass(&mut meter, &sample.text("\n", " "), &[]);
        assert_eq!(reported(&meter), Some(sample.usage), "{:?}", sample.dialect);
    }
}

#[test]
fn answers_that_are_no_streams_though_one_was_asked_for() {
    let zipped = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x22, 0x7b, 0x0a, 0x0a, 0x5c, 0x22];
    for dialect in Dialect::ALL {
        for (kind, body) in [
            ("application/json", br#"{"error":{"message":"no"},"type":"error"}"#.as_slice()),
            ("application/json", b""),
            ("text/html", b"<html>{\"usage\":{\"prompt_tokens\":5}}</html>"),
            ("application/json", &zipped),
            ("text/event-stream", &zipped),
            ("application/vnd.amazon.eventstream", &zipped),
            ("text/event-stream", b""),
            ("audio/mpeg", &zipped),
        ] {
            let mut meter = Meter::of(dialect, kind.as_bytes(), true, true);
            let mut out = meter.feed(Bytes::copy_from_slice(body)).to_vec();
            out.extend_from_slice(&meter.finish());
            assert_eq!(out, body, "{dialect:?} {kind}");
            let usage = meter.tally().reported.map(|reported| reported.usage);
            assert_eq!(usage.unwrap_or_default(), Usage::default(), "{dialect:?} {kind}");
            let is_error = meter.is_error_answer() || meter.seen().error_first;
            assert_eq!(is_error, body.starts_with(b"{\"error\""), "{dialect:?} {kind}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_chunks_count_alike(words in ".{0,40}", cuts in prop::collection::vec(0usize..1_500, 0..30)) {
        let mut cuts = cuts;
        cuts.sort_unstable();
        for sample in samples(&words) {
            let text = sample.text("\r\n", " ");
            let (mut whole, mut cut) = (Meter::of_events(sample.dialect, true), Meter::of_events(sample.dialect, true));
            let splits: Vec<_> = cuts.iter().copied().filter(|cut| text.is_char_boundary((*cut).min(text.len()))).collect();
            prop_assert_eq!(pass(&mut whole, &text, &[]), pass(&mut cut, &text, &splits));
            prop_assert_eq!(whole.tally(), cut.tally());
        }
    }

    #[test]
    fn words_never_change_the_count(words in ".*", name in "[a-z_\"]{0,12}") {
        for said in [words.clone(), format!("{words}\"{name}\":{{\"{name}\":1}}"), json!({"usage": {name: 7}, "usageMetadata": 8}).to_string()] {
            for sample in samples(&said) {
                prop_assert_eq!(reported(&count(sample.dialect, sample.text("\n", " ").as_bytes(), 40)), Some(sample.usage));
            }
        }
    }
}
