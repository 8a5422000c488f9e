//! Forms as clients write them, and as only somebody would who hopes that two parsers disagree.

use crate::denied::Denied;
use crate::request_head::{RequestHead, Rewrite, read};
use crate::route::{Route, Target};
use bytes::Bytes;
use proptest::prelude::*;

const TYPE: &str = "multipart/form-data; boundary=XX";

fn part(headers: &str, value: &str) -> String {
    format!("--XX\r\n{headers}\r\n\r\n{value}\r\n")
}

fn field(name: &str, value: &str) -> String {
    part(&format!("Content-Disposition: form-data; name=\"{name}\""), value)
}

fn form(parts: &[String]) -> String {
    format!("{}--XX--\r\n", parts.concat())
}

fn head(route: Route, body: &str) -> Result<RequestHead, Denied> {
    read(body.as_bytes(), Some(TYPE), &Target::of(route))
}

fn is_refused(body: &str) -> bool {
    matches!(head(Route::ImageEdits, body), Err(Denied::InvalidRequest(_)))
}

#[test]
fn the_parts_of_a_form_are_read() {
    let image = "Content-Disposition: form-data; name=\"image[]\"; filename=\"a;b.png\"\r\nContent-Type: image/png";
    let body = form(&[
        field("model", "gpt-image-1"),
        field("n", "3"),
        field("stream", "true"),
        field("partial_images", "2"),
        field("prompt", "a cat"),
        part(image, "\u{1}\u{2}\r\n\r\n--X"),
        part(image, ""),
    ]);
    let head = head(Route::ImageEdits, &body).expect("a form");
    assert_eq!((head.model.as_str(), head.choices, head.streamed), ("gpt-image-1", 3, true));
    let weight = &head.weight;
    assert_eq!((weight.attachments, weight.partial_images, weight.has_images, weight.has_audio), (2, 2, true, false));
    assert!((20..100).contains(&weight.text_bytes));
}

#[test]
fn governed_parts_stand_once() {
    for name in super::GOVERNED {
        let value = if name == "stream" { "true" } else { "1" };
        let twice = form(&[field(name, value), field("x", "y"), field(name, value)]);
        assert_eq!(head(Route::ImageEdits, &twice), Err(Denied::DuplicateField(name)));
        assert!(is_refused(&form(&[field("model", "m"), field(&format!("{name}[]"), value)])), "{name}");
    }
    let lists = form(&[field("model", "m"), field("image[]", "1"), field("image[]", "2"), field("a[b]", "c")]);
    assert!(head(Route::ImageEdits, &lists).is_ok());
}

#[test]
fn what_two_parsers_could_read_in_two_ways_is_refused() {
    let model = field("model", "m");
    let named = |disposition: &str| form(&[model.clone(), part(&format!("Content-Disposition: {disposition}"), "v")]);
    for body in [
        String::new(),
        "{}".to_owned(),
        "--XX--\r\n".to_owned(),
        model.clone(),
        form(std::slice::from_ref(&model)).replace("--XX--\r\n", "--XX--\r\nmore"),
        format!("preamble\r\n{}", form(std::slice::from_ref(&model))),
        form(std::slice::from_ref(&model)).replace("\r\n", "\n"),
        form(&[model.clone(), field("a", "x\n--XX\nContent-Disposition: form-data; name=\"model\"\n\nother")]),
        form(&[model.clone(), field("a", "text --XX text")]),
        form(&[model.clone(), "--XX\r\n".to_owned()]),
        form(&[model.clone(), part("X: y", "v")]),
        form(&[model.clone(), part("Content-Disposition form-data", "v")]),
        form(&[model.clone(), part("Content-Disposition: form-data;\r\n name=\"a\"", "v")]),
        form(&[
            model.clone(),
            part("Content-Disposition: form-data; name=\"a\"\r\nContent-Disposition: form-data; name=\"b\"", "v"),
        ]),
        form(&[
            model.clone(),
            part("Content-Disposition: form-data; name=\"a\"\r\nContent-Transfer-Encoding: base64", "v"),
        ]),
        named("attachment; name=\"a\""),
        named("form-data"),
        named("form-data; name=\"a\"; name=\"b\""),
        named("form-data; name=\"mod\\el\""),
        named("form-data; name=\"mod%65l\""),
        named("form-data; name=\" model\""),
        named("form-data; name=\"a"),
        named("form-data; name*=UTF-8''model"),
        named("form-data; name=\"a\"; filename=\"x\\\"; name=\"model\""),
        named("form-data; name=\"a\" filename=\"x\""),
        form(&[part("Content-Disposition: form-data; name=\"model\"; filename=\"m\"", "m")]),
        form(&[model.clone(), field("stream", "maybe")]),
        form(&[model.clone(), field("n", "-1")]),
    ] {
        assert!(is_refused(&body), "{body:?}");
    }
    let many: Vec<String> = (0..300).map(|number| field(&format!("a{number}"), "")).collect();
    assert!(is_refused(&form(&many)));
}

#[test]
fn a_content_type_names_one_boundary() {
    let body = form(&[field("model", "m")]);
    let with = |kind: &str, route: Route| read(body.as_bytes(), Some(kind), &Target::of(route)).is_ok();
    for kind in [TYPE, "Multipart/Form-Data;boundary=\"XX\"", "multipart/form-data; charset=utf-8; boundary=XX"] {
        assert!(with(kind, Route::ImageEdits), "{kind}");
    }
    let long = format!("multipart/form-data; boundary={}", "X".repeat(71));
    for kind in
        ["", "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=X\"X", &long]
    {
        assert!(!with(kind, Route::ImageEdits), "{kind}");
    }
    assert!(!with("multipart/form-data; boundary=XX; boundary=YY", Route::ImageEdits));
    assert!(!with("application/x-www-form-urlencoded", Route::Transcriptions));
    assert!(!with("application/json", Route::Transcriptions));
    assert!(!with(TYPE, Route::ChatCompletions));
    let json = br#"{"model":"m","images":[{"image_url":"https://example.com/a.png"}]}"#;
    assert!(read(json, Some("application/json"), &Target::of(Route::ImageEdits)).is_ok());
}

#[test]
fn a_model_is_named_unless_the_protocol_has_one() {
    let body = form(&[field("prompt", "x")]);
    assert_eq!(head(Route::ImageVariations, &body).expect("a form").model, "dall-e-2");
    assert!(matches!(head(Route::Transcriptions, &body), Err(Denied::InvalidRequest(_))));
}

fn rewritten(body: &str, model: &str) -> String {
    let bytes = Bytes::copy_from_slice(body.as_bytes());
    let rewrite = Rewrite { model, ask_usage: false, output_limit: Some(5), output_limit_field: "max_tokens" };
    let pieces = head(Route::ImageEdits, body).expect("a form").rewrite(&bytes, &rewrite);
    String::from_utf8(pieces.concat()).expect("text")
}

proptest! {
    #[test]
    fn a_rewritten_form_differs_in_its_model_only(
        before in prop::collection::vec(("[a-z]{2}[0-9]{1,3}", "[^X]{0,40}"), 1..4),
        after in prop::collection::vec(("[a-z]{2}[0-9]{1,3}", "[^X]{0,40}"), 0..4),
        (named, model) in (any::<bool>(), "[a-zA-Z0-9./-]{1,30}"),
    ) {
        let fields = |parts: &[(String, String)]| -> Vec<String> { parts.iter().map(|(name, value)| field(name, value)).collect() };
        let with = |model: &str| {
            let of_model = if named { vec![field("model", model)] } else { Vec::new() };
            form(&[fields(&before), of_model, fields(&after)].concat())
        };
        let rewritten = rewritten(&with("client's"), &model);
        if named {
            prop_assert_eq!(&rewritten, &with(&model));
        } else {
            prop_assert_eq!(&rewritten, &(field("model", &model) + &with("")));
        }
        prop_assert_eq!(head(Route::ImageEdits, &rewritten).expect("still a form").model, model);
    }

    #[test]
    fn no_bytes_make_the_scanner_panic(body in prop::collection::vec(prop::sample::select(&b"-X\r\n:;=\"a "[..]), 0..200)) {
        let _ = read(&body, Some(TYPE), &Target::of(Route::Transcriptions));
        let _ = read(&[b"--XX\r\n", &body[..], b"\r\n--XX--"].concat(), Some(TYPE), &Target::of(Route::Transcriptions));
    }
}

#[test]
fn a_stored_file_that_a_form_names_is_somebodys() {
    for name in ["file_id", "image[file_id]"] {
        let body = form(&[field("model", "gpt-image-1"), field(name, "file-1")]);
        let references = head(Route::ImageEdits, &body).expect("a form").references;
        assert_eq!(references.iter().map(|reference| &*reference.id).collect::<Vec<_>>(), ["file-1"], "{name}");
    }
}
