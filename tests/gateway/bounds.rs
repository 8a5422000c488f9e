//! What a call can cost at most, held against what providers did bill: recorded requests with their true figures.

use filters::catalogue::{Candidate, Catalogue, InputEstimate, Mode, Model, PriceVersion};
use filters::dialect::{Dialect, Protocol};
use filters::price::{Price, Tier};
use filters::request_head::{self, RequestHead};
use filters::reserve::{self, Allowances};
use filters::resolve::Choice;
use filters::usage::{Kind, Usage};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The recordings lie beside the checkout, or where `TOLLGATE_CORPUS` says, where they are there at all: they are too large to be
/// part of it.
fn corpus() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus");
    let corpus = std::env::var_os("TOLLGATE_CORPUS").map_or_else(beside, PathBuf::from);
    corpus.join("index.jsonl").is_file().then_some(corpus)
}

/// Models whose provider bills past what a request can tell (such a call is charged, and counted as past its bound), and
/// recordings that are not what was sent.
const EXCEPTIONS: [(&str, &str); 3] = [
    ("compound-beta", "searches the web in any call, unasked"),
    ("minimax/minimax-m2:free", "bills the token that ends an answer beside its limit"),
    ("148c70929e6fa728", "its system prompt was shortened when it was recorded: 18 131 tokens of it came from a cache"),
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
        Kind::SearchUnits => 2_000_000_000_000,
        Kind::Images => 40_000_000_000_000,
        Kind::AudioMilliseconds => 100_000_000,
        Kind::Characters => 15_000_000_000,
    });
    Price { standard, ..Price::default() }
}

fn catalogue(dialect: Dialect) -> Catalogue {
    let candidate = Candidate {
        number: 0,
        provider: "recorded".into(),
        protocol: dialect.protocol(),
        apis: Arc::new([]),
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
        mode: Mode::Chat,
        hidden_output: false,
        candidates: vec![candidate],
    };
    Catalogue::new(vec![model]).expect("one model")
}

/// The provider's figures, every kind beside the others.
fn usage(reported: &Value) -> Usage {
    let count = |name: &str| reported[name].as_u64().unwrap_or(0);
    // Where a provider bills other units than it counts (Cohere), those are what is paid for, whatever it had in its cache.
    let is_billed_apart = reported["billed_input"].is_u64();
    let total = |side: &str| {
        let billed = &reported[format!("billed_{side}")];
        billed.as_u64().unwrap_or_else(|| count(&format!("{side}_total")))
    };
    let hour = count("cache_write_1h");
    let parts = [
        (Kind::CacheRead, if is_billed_apart { 0 } else { count("cached_read") }),
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
        .with(Kind::Input, total("input").saturating_sub(input_parts))
        .with(Kind::Output, total("output").saturating_sub(reasoning + spoken + drawn))
        .with(Kind::Reasoning, reasoning)
        .with(Kind::AudioOutput, spoken)
        .with(Kind::ImageOutput, drawn)
        .with(Kind::WebSearch, count("web_search_requests"))
        .with(Kind::SearchUnits, count("search_units"))
}

/// The languages that have recorded requests, and how many of those calls must be bounded for the test to say anything.
const SPOKEN: [(&str, Dialect, usize); 13] = [
    ("openai.chat", Dialect::OpenaiChat, 600),
    ("anthropic.messages", Dialect::Anthropic, 300),
    ("openai.responses", Dialect::OpenaiResponses, 300),
    ("openai.completions", Dialect::OpenaiCompletions, 15),
    ("openai.embeddings", Dialect::OpenaiEmbeddings, 25),
    ("openai.images", Dialect::OpenaiImages, 1),
    ("gemini.generateContent", Dialect::GeminiGenerate, 300),
    ("gemini.embed", Dialect::GeminiEmbed, 5),
    ("cohere.chat", Dialect::CohereChat, 20),
    ("cohere.embed", Dialect::CohereEmbed, 4),
    ("cohere.rerank", Dialect::CohereRerank, 4),
    ("bedrock.converse", Dialect::BedrockConverse, 100),
    ("bedrock.invoke", Dialect::BedrockInvoke, 20),
];

/// A recorded call: its language, its request and the provider's figures.
struct Recorded {
    id: String,
    api: String,
    model: String,
    dialect: Dialect,
    head: RequestHead,
    usage: Usage,
}

impl Recorded {
    /// None if no gateway could have made it.
    fn read(corpus: &Path, record: &Value) -> Option<Self> {
        let api = record["api"].as_str()?;
        let dialect = SPOKEN.iter().find(|(name, ..)| *name == api)?.1;
        // The first version of Cohere's protocol is another one.
        if dialect.protocol() == Protocol::Cohere && !record["endpoint"].as_str()?.starts_with("/v2/") {
            return None;
        }
        let body = std::fs::read(corpus.join(record["request_file"].as_str()?)).expect("the request is readable");
        let head = request_head::scan(&body, dialect).ok()?;
        let text = |field: &str| record[field].as_str().unwrap_or_default().to_owned();
        let is_counted = record["usage"].is_object() && record["truth_ambiguous"].is_null();
        is_counted.then(|| Self {
            id: text("id"),
            api: text("api"),
            model: text("model"),
            dialect,
            head,
            usage: usage(&record["usage"]),
        })
    }

    /// Why it cost more than its bound, if it did; nothing if nothing bounds it.
    fn excess(&self) -> Option<Option<String>> {
        let allowances = Allowances { output_tokens_max: 16_384, clamp_output_tokens_min: 256 };
        let catalogue = catalogue(self.dialect);
        let model = &catalogue.models()[0];
        let choice = Choice { index: 0, price: Arc::clone(&model.candidates[0].prices[0]), own: None };
        let need = reserve::need(&self.head, model, &[choice], &allowances);
        let bound = need.bound?;
        let cost = price().cost(&self.usage, Tier::Standard);
        let (input, output) = (self.usage.input_total(), self.usage.output_total());
        // Each by itself, because output that was not used would hide too much input.
        let is_within = cost <= bound && Some(input) <= need.input_bound && output <= need.output_max;
        Some((!is_within).then(|| {
            format!(
                "{} {} {} cost ${cost}, at most ${bound}; input {input} of {:?}, output {output} of {}",
                self.id, self.api, self.model, need.input_bound, need.output_max
            )
        }))
    }
}

#[test]
fn no_recorded_call_cost_more_than_its_bound() {
    let Some(corpus) = corpus() else { return println!("there are no recordings: nothing is held against the bounds") };
    let index = std::fs::read_to_string(corpus.join("index.jsonl")).expect("the index is readable");
    let (mut counts, mut exceeded, mut excepted) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
    for line in index.lines() {
        let record: Value = serde_json::from_str(line).expect("a record is JSON");
        let Some(recorded) = Recorded::read(&corpus, &record) else { continue };
        let (bounded, all): &mut (usize, usize) = counts.entry(recorded.dialect as u8).or_default();
        *all += 1;
        let Some(excess) = recorded.excess() else { continue };
        *bounded += 1;
        let Some(excess) = excess else { continue };
        match EXCEPTIONS.iter().find(|(name, _)| recorded.id == *name || recorded.model == *name) {
            Some((name, _)) => _ = excepted.insert(*name),
            None => exceeded.push(excess),
        }
    }
    for (api, dialect, least) in SPOKEN {
        let (bounded, all) = counts.get(&(dialect as u8)).copied().unwrap_or_default();
        println!("{api}: {bounded} of {all} calls are bounded");
        assert!(bounded >= least, "only {bounded} calls of {api} were bounded");
    }
    assert!(exceeded.is_empty(), "{}", exceeded.join("\n"));
    assert_eq!(excepted.len(), EXCEPTIONS.len(), "an exception that nothing needs any more");
}
