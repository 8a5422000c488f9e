//! The scan agrees with a parser, whatever the chunks.

use super::*;
use proptest::prelude::*;

const WANTED: &[Wanted] = &[
    value(&["error"]),
    value(&["usage"]),
    value(&["service_tier"]),
    value(&["response", "usage"]),
    Wanted { path: &["items", "type"], keep: Keep::Times(&["\"search\""]) },
    Wanted { path: &["items", "text"], keep: Keep::Bytes },
    Wanted { path: &["choices"], keep: Keep::Head },
    Wanted { path: &["items", "picture"], keep: Keep::Each },
];

fn found(text: &str, step: usize) -> Found {
    let mut scanner = AnswerScanner::new(WANTED);
    text.as_bytes().chunks(step).for_each(|chunk| scanner.feed(chunk));
    scanner.found().clone()
}

#[test]
fn members_are_found_first_or_last_in_any_chunks() {
    let filler = "x\\\"},{\\\"usage\\\":1".repeat(100);
    for text in [
        format!(r#"{{"usage":{{"a":[1,{{"b":"}}"}}]}},"service_tier" : "flex","choices":["{filler}"]}}"#),
        format!(
            r#"  {{"choices":[{{"usage":7,"t":"{filler}"}}],"usage":{{"a":[1,{{"b":"}}"}}]}}, "service_tier": "flex" }}"#
        ),
    ] {
        for step in [1, 2, 3, 7, text.len()] {
            let found = found(&text, step);
            assert_eq!(found.value(1), Some(br#"{"a":[1,{"b":"}"}]}"#.as_slice()), "{step}");
            assert_eq!(found.text(2), Some("flex"));
            assert!(found.value(6).is_some_and(|head| head.len() == HEAD_BYTES));
        }
    }
}

#[test]
fn arrays_on_the_way_are_looked_through() {
    let text = r#"{"items":[{"type":"search","text":"ab"},{"type":"other","picture":"x","text":"c\"d","picture":null},[{"type":"search"}],7],
        "response":{"usage":{"n":1},"output":[{"usage":2}]},"usage":null}"#;
    for step in [1, 4, text.len()] {
        let found = found(text, step);
        assert_eq!((found.count(4), found.count(5), found.count(7)), (2, 6, 1), "{step}");
        assert_eq!((found.value(3), found.value(1)), (Some(br#"{"n":1}"#.as_slice()), None), "{step}");
    }
}

#[test]
fn of_duplicates_the_last_wins_and_null_is_nothing() {
    let found_usage = |text: &str| found(text, 9).value(1).map(<[u8]>::to_vec);
    assert_eq!(found_usage(r#"{"usage":1,"usage":2,"usage":null,"error":null}"#), Some(b"2".to_vec()));
    assert_eq!(found_usage(r#"[{"usage":1},{"usage":2}]"#), Some(b"2".to_vec()));
    for nothing in ["<html>{\"usage\":1}</html>", "", "\"usage\":1", "{\"us\":1} {\"usage\":1}", "}{\"usage\":1}"] {
        assert_eq!(found(nothing, 9), Found::default(), "{nothing}");
    }
}

#[test]
fn a_value_that_is_too_long_is_not_kept() {
    let text = format!(r#"{{"error":"{}","usage":1}}"#, "x".repeat(VALUE_BYTES_MAX));
    let found = found(&text, 100);
    assert_eq!((found.value(0), found.value(1)), (None, Some(b"1".as_slice())));
}

#[test]
fn elements_of_an_array_are_told_apart() {
    let text = br#"[{"usage":1},{"usage":{"x":[2]}},3,{"usage":4}]"#;
    for step in [1, 5, text.len()] {
        let mut scanner = AnswerScanner::new(WANTED);
        let mut usages = Vec::new();
        for chunk in text.chunks(step) {
            let mut from = 0;
            while let Some(end) = scanner.feed_element(chunk, from) {
                assert_eq!(chunk[end - 1], b'}');
                assert!(scanner.is_between_elements());
                usages.push(String::from_utf8(scanner.take_found().value(1).expect("usage").to_vec()).expect("text"));
                from = end;
            }
        }
        assert_eq!(usages, ["1", r#"{"x":[2]}"#, "4"], "{step}");
        assert!(!scanner.is_between_elements());
    }
}

proptest! {
    #[test]
    fn the_scanner_agrees_with_serde_json(words in ".*", count in any::<u32>(), step in 1usize..50) {
        let value = serde_json::json!({
            "choices": [{"message": {"content": words, "usage": words}}],
            "usage": {"n": count, "w": words}, "response": {"a": [words], "usage": count}, "z": words,
        });
        let found = found(&value.to_string(), step);
        let read = |index| found.value(index).map(|text| serde_json::from_slice::<serde_json::Value>(text).expect("JSON"));
        let usage = Some(value["usage"].clone()).filter(|usage| usage.to_string().len() <= VALUE_BYTES_MAX);
        prop_assert_eq!(read(1), usage);
        prop_assert_eq!(read(3), Some(value["response"]["usage"].clone()));
    }

    #[test]
    fn any_text_is_read_alike_in_any_chunks(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"", "\\", "\\\"", "\"usage\"", "\"response\"", "\"items\":[", "\"type\":\"search\"", "1", "null", " ", "é",
        ]), 0..40),
        step in 1usize..9,
    ) {
        let text = pieces.concat();
        prop_assert_eq!(found(&text, step), found(&text, text.len().max(1)));
    }
}
