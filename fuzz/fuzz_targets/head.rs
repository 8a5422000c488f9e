//! The scan of a request's head: it reads what a parser of JSON reads, or refuses.

#![no_main]

use filters::dialect::Dialect;
use filters::request_head;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let (dialect, body) = fuzz::split(input);
    let dialect = Dialect::ALL[dialect % Dialect::ALL.len()];
    let Ok(head) = request_head::scan(body, dialect) else { return };
    let value: Value = serde_json::from_slice(body).expect("the scan takes JSON only");
    assert!(value.is_object());
    // Some protocols name the model in the path.
    if let Some(model) = value["model"].as_str().filter(|_| !head.model.is_empty()) {
        assert_eq!(head.model, model);
    }
    if let Some(streamed) = value["stream"].as_bool()
        && matches!(dialect, Dialect::OpenaiChat | Dialect::Anthropic | Dialect::OpenaiResponses)
    {
        assert_eq!(head.streamed, streamed);
    }
});
