//! OpenAI moderations: free, and never alarmed.

use super::ask::Ask;
use super::plan::{Event, Plan};
use super::request::Request;
use super::text::{Prompt, mix};
use super::vectors::inputs;
use serde_json::{Map, Value, json};

const MODEL_DEFAULT: &str = "omni-moderation-latest";
const CATEGORIES: [&str; 13] = [
    "harassment",
    "harassment/threatening",
    "sexual",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm/intent",
    "self-harm/instructions",
    "self-harm",
    "sexual/minors",
    "violence",
    "violence/graphic",
];

/// Reads a request; the error is a sentence for the caller.
pub(super) fn read(ask: Ask) -> Result<Request, String> {
    if ask.body["input"].is_null() {
        return Err("Missing required parameter: 'input'.".to_owned());
    }
    let model = ask.model().unwrap_or(MODEL_DEFAULT).to_owned();
    let (input_tokens, prompt) = (ask.words(), Prompt::new(ask.text("input")));
    Ok(Request { input_tokens, output_tokens: Some(0), ..Request::new(ask, &model, prompt) })
}

/// The whole answer: a result for each text; texts and pictures in parts are one.
pub(super) fn body(plan: &Plan) -> Event {
    let inputs = inputs(&plan.ask.body["input"]);
    let results = if inputs[0].is_object() { 1 } else { inputs.len() };
    let each = |value: Value| -> Map<String, Value> {
        CATEGORIES.iter().map(|category| ((*category).to_owned(), value.clone())).collect()
    };
    let result = json!({
        "flagged": false,
        "categories": each(json!(false)),
        "category_scores": each(json!(0.0009765625)),
        "category_applied_input_types": each(json!(["text"])),
    });
    let answer = json!({
        "id": format!("modr-{:016x}", mix(plan.id)),
        "model": plan.model_name(),
        "results": vec![result; results],
    });
    Event::plain(answer.to_string())
}
