//! What a call can cost at most, held against what providers did bill: recorded requests with their true figures.

use filters::catalogue::{Candidate, Catalogue, InputEstimate, Model, PriceVersion};
use filters::dialect::Dialect;
use filters::price::{Price, Tier};
use filters::request_head;
use filters::reserve::{self, Allowances};
use filters::resolve::Choice;
use filters::usage::{Kind, Usage};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The recordings lie beside the checkout, where they are there at all: they are too large to be part of it.
fn corpus() -> Option<PathBuf> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus");
    corpus.join("index.jsonl").is_file().then_some(corpus)
}

/// Models whose provider bills past what a request can tell: such a call is charged, and counted as past its bound.
const EXCEPTIONS: [(&str, &str); 2] = [
    ("compound-beta", "searches the web in any call, unasked"),
    ("minimax/minimax-m2:free", "bills the token that ends an answer beside its limit"),
];

/// Every kind has a price of its own, so that a kind that the bound forgets is seen.
fn price() -> Price {
    let standard = Kind::ALL.map(|kind| match kind {
        Kind::CacheRead => 100_000_000,
        Kind::Input => 1_000_000_000,
        Kind::CacheWrite5m => 1_250_000_000,
        Kind::CacheWrite1h => 2_000_000_000,
        Kind::ImageInput => 3_000_000_000,
        Kind::AudioInput => 40_000_000_000,
        Kind::Output => 10_000_000_000,
        Kind::Reasoning => 11_000_000_000,
        Kind::ImageOutput => 30_000_000_000,
        Kind::AudioOutput => 80_000_000_000,
        Kind::WebSearch => 10_000_000_000_000,
    });
    Price { from_day: 0, standard, flex: None, priority: None, long_context: None }
}

fn catalogue(dialect: Dialect) -> Catalogue {
    let candidate = Candidate {
        number: 0,
        provider: "recorded".into(),
        dialect,
        model: "any".into(),
        priority: 0,
        weight: 1,
        input_estimate: InputEstimate::Bound,
        default_tier: Tier::Standard,
        prices: vec![Arc::new(PriceVersion::new(price()))],
    };
    let model = Model {
        id: "any".into(),
        aliases: Vec::new(),
        context_tokens: 1_000_000,
        output_tokens_max: 128_000,
        output_limit_field: "max_tokens".into(),
        output_limit_min: 1,
        hidden_output: false,
        candidates: vec![candidate],
    };
    Catalogue::new(vec![model]).expect("one model")
}

/// The provider's figures, every kind beside the others.
fn usage(reported: &Value) -> Usage {
    let count = |name: &str| reported[name].as_u64().unwrap_or(0);
    let hour = count("cache_write_1h");
    let parts = [
        (Kind::CacheRead, count("cached_read")),
        (Kind::CacheWrite1h, hour),
        (Kind::CacheWrite5m, count("cache_write").max(hour + count("cache_write_5m")) - hour),
        (Kind::AudioInput, count("audio_in")),
        (Kind::ImageInput, count("image_in")),
    ];
    let input_parts: u64 = parts.iter().map(|(_, count)| count).sum();
    let (reasoning, spoken, drawn) = (count("reasoning"), count("audio_out"), count("image_out"));
    parts
        .into_iter()
        .fold(Usage::default(), |usage, (kind, count)| usage.with(kind, count))
        .with(Kind::Input, count("input_total").saturating_sub(input_parts))
        .with(Kind::Output, count("output_total").saturating_sub(reasoning + spoken + drawn))
        .with(Kind::Reasoning, reasoning)
        .with(Kind::AudioOutput, spoken)
        .with(Kind::ImageOutput, drawn)
        .with(Kind::WebSearch, count("web_search_requests"))
}

#[test]
fn no_recorded_call_cost_more_than_its_bound() {
    let Some(corpus) = corpus() else { return };
    let index = std::fs::read_to_string(corpus.join("index.jsonl")).expect("the index is readable");
    let allowances = Allowances { output_tokens_max: 16_384, clamp_output_tokens_min: 256 };
    let (mut bounded, mut exceeded, mut excepted) = (0, Vec::new(), BTreeSet::new());
    for line in index.lines() {
        let record: Value = serde_json::from_str(line).expect("a record is JSON");
        let dialect = match record["api"].as_str() {
            Some("openai.chat") => Dialect::OpenaiChat,
            Some("anthropic.messages") => Dialect::Anthropic,
            _ => continue,
        };
        let Some(request) = record["request_file"].as_str() else { continue };
        let body = std::fs::read(corpus.join(request)).expect("the request is readable");
        let Ok(head) = request_head::scan(&body) else { continue };
        let catalogue = catalogue(dialect);
        let model = &catalogue.models()[0];
        let choice = Choice { index: 0, price: Arc::clone(&model.candidates[0].prices[0]) };
        let need = reserve::need(&head, model, &[choice], &allowances);
        let usage = usage(&record["usage"]);
        let Some(bound) = need.bound else { continue };
        bounded += 1;
        let cost = price().cost(&usage, Tier::Standard);
        let (input, output) = (usage.input_total(), usage.output_total());
        // Each by itself, because output that was not used would hide too much input.
        if cost > bound || Some(input) > need.input_bound || output > need.output_max {
            if EXCEPTIONS.iter().any(|(model, _)| record["model"] == *model) {
                excepted.insert(record["model"].to_string());
                continue;
            }
            exceeded.push(format!(
                "{}: {} {} cost ${cost}, at most ${bound}; input {input} of {:?}, output {output} of {}",
                record["id"], record["provider"], record["model"], need.input_bound, need.output_max
            ));
        }
    }
    assert!(bounded > 1_000, "only {bounded} calls were bounded");
    assert_eq!(excepted.len(), EXCEPTIONS.len(), "an exception that nothing needs any more");
    assert!(exceeded.is_empty(), "{}", exceeded.join("\n"));
}
