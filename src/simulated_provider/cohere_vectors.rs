//! Cohere embed and rerank, version 2.

use super::ask::Ask;
use super::cohere_chat::answer_id;
use super::plan::{Event, Plan};
use super::request::Request;
use super::text::{Prompt, mix};
use super::vectors::{base64, bytes, floats};
use filters::dialect::Dialect;
use serde_json::{Map, Value, json};

const DIMENSIONS_DEFAULT: u64 = 1536;
/// A search is billed for so many documents.
const DOCUMENTS_PER_SEARCH: u64 = 100;

/// Reads a request; the error is a sentence for the caller.
pub(super) fn read(ask: Ask) -> Result<Request, String> {
    let model = ask.model()?.to_owned();
    let is_rerank = ask.target.dialect == Dialect::CohereRerank;
    if is_rerank && !(ask.body["query"].is_string() && ask.body["documents"].is_array()) {
        return Err("invalid request: query and documents must be specified.".to_owned());
    }
    if !is_rerank && ask.body["texts"].is_null() && ask.body["inputs"].is_null() && ask.body["images"].is_null() {
        return Err("invalid request: texts, images or inputs must be specified.".to_owned());
    }
    let prompt = Prompt::of_bytes(&ask.raw);
    let input_tokens = if is_rerank { 0 } else { ask.words() };
    Ok(Request { input_tokens, output_tokens: Some(0), ..Request::new(ask, &model, prompt) })
}

fn list<'a>(ask: &'a Ask, name: &str) -> &'a [Value] {
    ask.body[name].as_array().map_or(&[], Vec::as_slice)
}

/// The vectors of each text, image or mixed input.
pub(super) fn embed_body(plan: &Plan) -> Event {
    let ask = &plan.ask;
    let inputs: Vec<&Value> = ["texts", "images", "inputs"].into_iter().flat_map(|name| list(ask, name)).collect();
    let dimensions = ask.number("output_dimension").unwrap_or(DIMENSIONS_DEFAULT);
    let kinds = list(ask, "embedding_types").iter().filter_map(Value::as_str);
    let kinds: Vec<&str> = if list(ask, "embedding_types").is_empty() { vec!["float"] } else { kinds.collect() };
    let embeddings: Map<String, Value> = kinds
        .into_iter()
        .map(|kind| {
            let vector = match kind {
                "base64" => base64,
                "float" => floats,
                _ => bytes,
            };
            let vectors = inputs.iter().map(|input| vector(input, dimensions)).collect::<Vec<_>>();
            (kind.to_owned(), Value::Array(vectors))
        })
        .collect();
    let billed = json!({"input_tokens": plan.usage.input_tokens, "image_tokens": 0});
    let answer = json!({
        "id": answer_id(plan),
        "texts": list(ask, "texts"),
        "embeddings": embeddings,
        "response_type": "embeddings_by_type",
    });
    with_units(plan, answer, billed)
}

/// The documents, the best first.
pub(super) fn rerank_body(plan: &Plan) -> Event {
    let documents = list(&plan.ask, "documents");
    let mut ranks: Vec<(u64, usize)> = documents
        .iter()
        .enumerate()
        .map(|(index, document)| (mix(plan.id ^ Prompt::new(&document.to_string()).seed) % 1000, index))
        .collect();
    ranks.sort_unstable_by(|one, other| other.cmp(one));
    let told = plan.ask.number("top_n").map_or(documents.len(), |told| documents.len().min(told as usize));
    let result = |(rank, index): &(u64, usize)| json!({"index": index, "relevance_score": *rank as f64 / 1000.0});
    let results: Vec<Value> = ranks[..told].iter().map(result).collect();
    let searches = (documents.len() as u64).div_ceil(DOCUMENTS_PER_SEARCH).max(1);
    let searches = if plan.usage.searches > 0 { plan.usage.searches } else { searches };
    let answer = json!({"id": answer_id(plan), "results": results});
    with_units(plan, answer, json!({"search_units": searches}))
}

fn with_units(plan: &Plan, mut answer: Value, billed: Value) -> Event {
    answer["meta"] = json!({"api_version": {"version": "2"}});
    if plan.reports_usage {
        answer["meta"]["billed_units"] = billed;
    }
    Event { has_usage: plan.reports_usage, ..Event::plain(answer.to_string()) }
}
