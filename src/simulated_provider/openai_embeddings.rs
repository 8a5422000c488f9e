//! OpenAI embeddings: texts or tokens, one or many, as numbers or in base64.

use super::ask::Ask;
use super::plan::{Event, Plan};
use super::request::Request;
use super::text::Prompt;
use super::vectors::{base64, floats, inputs};
use serde_json::{Value, json};

const DIMENSIONS_SMALL: u64 = 1536;
const DIMENSIONS_LARGE: u64 = 3072;
const INPUTS_MAX: usize = 2048;

/// Reads a request; the error is a sentence for the caller.
pub(super) fn read(ask: Ask) -> Result<Request, String> {
    let model = ask.model()?.to_owned();
    let input = &ask.body["input"];
    if !(input.is_string() || input.is_array()) {
        return Err("`input` is a text, a list of texts, a list of tokens, or a list of such lists.".to_owned());
    }
    if inputs(input).len() > INPUTS_MAX {
        return Err(format!("`input` has at most {INPUTS_MAX} items."));
    }
    let (input_tokens, prompt) = (ask.words(), Prompt::new(input.as_str().unwrap_or_default()));
    Ok(Request { input_tokens, output_tokens: Some(0), ..Request::new(ask, &model, prompt) })
}

/// The whole answer.
pub(super) fn body(plan: &Plan) -> Event {
    let model = plan.model_name();
    let default = if model.contains("large") { DIMENSIONS_LARGE } else { DIMENSIONS_SMALL };
    let dimensions = plan.ask.number("dimensions").unwrap_or(default);
    let vector = if plan.ask.text("encoding_format") == "base64" { base64 } else { floats };
    let data: Vec<Value> = inputs(&plan.ask.body["input"])
        .iter()
        .enumerate()
        .map(|(index, input)| json!({"object": "embedding", "index": index, "embedding": vector(input, dimensions)}))
        .collect();
    let mut answer = json!({"object": "list", "data": data, "model": model});
    if plan.reports_usage {
        let tokens = plan.usage.input_tokens;
        answer["usage"] = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    }
    Event { has_usage: plan.reports_usage, ..Event::plain(answer.to_string()) }
}
