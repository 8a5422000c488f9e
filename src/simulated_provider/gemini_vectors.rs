//! Gemini `embedContent` and `batchEmbedContents`.

use super::ask::Ask;
use super::plan::{Event, Plan};
use super::request::Request;
use super::route::Operation;
use super::vectors::floats;
use serde_json::{Value, json};

const DIMENSIONS_DEFAULT: u64 = 3072;

/// Reads a request; the error is a sentence for the caller.
pub(super) fn read(ask: Ask) -> Result<Request, String> {
    let model = ask.model()?.to_owned();
    if contents(&ask).is_empty() {
        return Err("* EmbedContentRequest.content: content is not specified".to_owned());
    }
    let prompt = ask.prompt(contents(&ask)[0]);
    Ok(Request { input_tokens: ask.words(), output_tokens: Some(0), ..Request::new(ask, &model, prompt) })
}

/// One request, or each of a batch.
fn requests(ask: &Ask) -> Vec<&Value> {
    match ask.target.operation {
        Operation::Batch => ask.body["requests"].as_array().into_iter().flatten().collect(),
        _ => vec![&ask.body],
    }
}

fn contents(ask: &Ask) -> Vec<&Value> {
    requests(ask).into_iter().map(|request| &request["content"]).filter(|content| !content.is_null()).collect()
}

/// The whole answer. Only the newer models say their usage.
pub(super) fn body(plan: &Plan) -> Event {
    let embed = |request: &Value| {
        let dimensions = request["outputDimensionality"].as_u64().unwrap_or(DIMENSIONS_DEFAULT);
        json!({"values": floats(&request["content"], dimensions)})
    };
    let mut embeddings: Vec<Value> = requests(&plan.ask).into_iter().map(embed).collect();
    let mut answer = match plan.ask.target.operation {
        Operation::Batch => json!({"embeddings": embeddings}),
        _ => json!({"embedding": embeddings.remove(0)}),
    };
    let has_usage = plan.reports_usage && plan.model_name().ends_with("-2");
    if has_usage {
        let tokens = plan.usage.input_tokens;
        let details = json!([{"modality": "TEXT", "tokenCount": tokens}]);
        answer["usageMetadata"] = json!({"promptTokenCount": tokens, "promptTokenDetails": details});
    }
    Event { has_usage, ..Event::plain(answer.to_string()) }
}
