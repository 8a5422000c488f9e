//! What calls cost at the prices of the shipped catalogue, each computed by hand from the providers' lists.

use super::*;
use filters::catalogue::{Candidate, Mode};
use filters::money::NanoUsd;
use filters::price::Tier::{Batch, Flex, Priority, Standard};
use filters::price::{Price, Tier};
use filters::usage::Kind::*;
use filters::usage::{Kind, Usage};
use std::collections::HashMap;

fn shipped() -> Config {
    // Of the form that signatures take, and good for any header.
    let environment = |_: &str| Some("id:secret".to_owned());
    let reading =
        Reading::of_texts(("conf/tollgate.toml", SHIPPED), ("conf/models.toml", SHIPPED_MODELS), &environment);
    reading.result.expect("sound")
}

fn candidate<'c>(config: &'c Config, provider: &str, model: &str) -> &'c Candidate {
    let mut candidates = config.catalogue.candidates().map(|(_, candidate)| candidate);
    let found = candidates.find(|candidate| (&*candidate.provider, &*candidate.model) == (provider, model));
    found.unwrap_or_else(|| panic!("{provider} serves no {model}"))
}

/// A call: who served it, the tier, what was used, and the cost in nano-USD.
type Case<'a> = ((&'a str, &'a str), Tier, &'a [(Kind, u64)], i64);

fn check(cases: &[Case<'_>]) {
    let config = shipped();
    for ((provider, model), tier, used, cost) in cases {
        let usage = used.iter().fold(Usage::default(), |usage, (kind, count)| usage.with(*kind, *count));
        let price = &candidate(&config, provider, model).prices[0].price;
        assert_eq!(price.cost(&usage, *tier), NanoUsd(*cost), "{provider} {model} {tier:?} {used:?}");
    }
}

#[test]
fn tokens_of_every_kind_cost_what_the_lists_say() {
    check(&[
        // $0.15, cached $0.075, out $0.60: 600 × 150 + 400 × 75 + 200 × 600.
        (("openai", "gpt-4o-mini"), Standard, &[(Input, 600), (CacheRead, 400), (Output, 200)], 240_000),
        // $3, read $0.30, written for 5 minutes $3.75 and for an hour $6, out $15:
        // 100 × 3 000 + 200 × 300 + 300 × 3 750 + 400 × 6 000 + 50 × 15 000.
        (
            ("anthropic", "claude-sonnet-4-6"),
            Standard,
            &[(Input, 100), (CacheRead, 200), (CacheWrite5m, 300), (CacheWrite1h, 400), (Output, 50)],
            4_635_000,
        ),
        // Reasoning $3 where output is $8: 10 × 2 000 + 20 × 8 000 + 30 × 3 000.
        (("perplexity", "sonar-deep-research"), Standard, &[(Input, 10), (Output, 20), (Reasoning, 30)], 270_000),
        // Thoughts cost as much as output, $2.50; sounds heard $1: 10 × 300 + 40 × 1 000 + 20 × 2 500 + 30 × 2 500.
        (
            ("gemini", "gemini-2.5-flash"),
            Standard,
            &[(Input, 10), (AudioInput, 40), (Output, 20), (Reasoning, 30)],
            168_000,
        ),
        // $2.50 and $10, sounds $32 and $64: 5 × 2 500 + 100 × 32 000 + 7 × 10 000 + 60 × 64 000.
        (
            ("openai", "gpt-audio-1.5"),
            Standard,
            &[(Input, 5), (AudioInput, 100), (Output, 7), (AudioOutput, 60)],
            7_122_500,
        ),
        // Text $5, cached $1.25, pictures $8 and $30: 12 × 5 000 + 4 × 1 250 + 323 × 8 000 + 1 056 × 30 000.
        (
            ("openai", "gpt-image-2"),
            Standard,
            &[(Input, 12), (CacheRead, 4), (ImageInput, 323), (ImageOutput, 1_056)],
            34_329_000,
        ),
    ]);
}

#[test]
fn a_long_input_makes_the_whole_call_dear() {
    check(&[
        // Up to 272 000 tokens $2.50 and $15: 272 000 × 2 500 + 10 × 15 000.
        (("openai", "gpt-5.4"), Standard, &[(Input, 272_000), (Output, 10)], 680_150_000),
        // One more, and all of it is $5, cached $0.50, out $22.50: 72 001 × 5 000 + 200 000 × 500 + 10 × 22 500.
        (("openai", "gpt-5.4"), Standard, &[(Input, 72_001), (CacheRead, 200_000), (Output, 10)], 460_230_000),
        // $4, cached $0.40, out $18 above 200 000: 150 000 × 4 000 + 50 001 × 400 + 1 × 18 000.
        (
            ("gemini", "gemini-3.1-pro-preview"),
            Standard,
            &[(Input, 150_000), (CacheRead, 50_001), (Output, 1)],
            620_018_400,
        ),
    ]);
}

#[test]
fn the_tier_that_was_served_decides() {
    let used: &[(Kind, u64)] = &[(Input, 1_000), (CacheRead, 100), (Output, 10)];
    check(&[
        // $2.50, cached $0.25, out $15: 1 000 × 2 500 + 100 × 250 + 10 × 15 000.
        (("openai", "gpt-5.4"), Standard, used, 2_675_000),
        // Half of it, the cache in proportion.
        (("openai", "gpt-5.4"), Flex, used, 1_337_500),
        (("openai", "gpt-5.4"), Batch, used, 1_337_500),
        // Twice as much.
        (("openai", "gpt-5.4"), Priority, used, 5_350_000),
        // $1.50, cached in proportion $0.15, out $7.50: 1 000 × 1 500 + 100 × 150 + 10 × 7 500.
        (("anthropic", "claude-sonnet-4-6"), Batch, used, 1_590_000),
        // It has no such tier: as the ordinary one, 1 000 × 3 000 + 100 × 300 + 10 × 15 000.
        (("anthropic", "claude-sonnet-4-6"), Flex, used, 3_180_000),
        // $0.54 and $4.50; cached $0.03 × 0.54 ÷ 0.30 = $0.054: 1 000 × 540 + 100 × 54 + 10 × 4 500.
        (("gemini", "gemini-2.5-flash"), Priority, used, 590_400),
    ]);
}

#[test]
fn what_is_no_token_costs_what_the_lists_say() {
    check(&[
        // $0.0001 a second: 90.5 × 100 000.
        (("openai", "whisper-1"), Standard, &[(AudioMilliseconds, 90_500)], 9_050_000),
        // $0.00003083 a second: 1.001 × 30 830, rounded up from 30 860.83.
        (("groq", "whisper-large-v3"), Standard, &[(AudioMilliseconds, 1_001)], 30_861),
        // $0.000015 a character: 37 × 15 000; at Azure $0.000033: 37 × 33 000.
        (("openai", "tts-1"), Standard, &[(Characters, 37)], 555_000),
        (("azure", "tts-1-hd"), Standard, &[(Characters, 37)], 1_221_000),
        // $0.02 a picture.
        (("xai", "grok-imagine-image"), Standard, &[(Images, 3)], 60_000_000),
        // $0.002 a search unit.
        (("cohere", "rerank-v3.5"), Standard, &[(SearchUnits, 2)], 4_000_000),
        // $10 for a thousand searches beside the tokens: 2 × 10 000 000 + 1 × 3 000.
        (("anthropic", "claude-sonnet-4-6"), Standard, &[(Input, 1), (WebSearch, 2)], 20_003_000),
        // $0.13 a million: 1 000 × 130.
        (("openai", "text-embedding-3-large"), Standard, &[(Input, 1_000)], 130_000),
        (("openai", "omni-moderation-latest"), Standard, &[(Input, 1_000)], 0),
    ]);
}

/// Columns of the list of facts and the rates that they are, with the number of them that a rate is for.
const COLUMNS: [(&str, Kind); 11] = [
    ("input", Input),
    ("output", Output),
    ("cache_read", CacheRead),
    ("cache_write", CacheWrite5m),
    ("cache_write_1h", CacheWrite1h),
    ("reasoning", Reasoning),
    ("audio_input", AudioInput),
    ("audio_output", AudioOutput),
    ("image_input", ImageInput),
    ("image_output", ImageOutput),
    ("per_query", SearchUnits),
];

#[test]
fn the_catalogue_agrees_with_the_list_of_facts() {
    let file = std::env::var("TOLLGATE_FACTS").unwrap_or_else(|_| "../shared/facts/prices.csv".to_owned());
    let Ok(text) = std::fs::read_to_string(&file) else {
        println!("skipped: there is no list of facts at {file}");
        return;
    };
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let names = lines.next().expect("the names of the columns");
    let rows: HashMap<(&str, &str), HashMap<&str, &str>> = lines
        .map(|values| names.iter().copied().zip(values).collect::<HashMap<_, _>>())
        .map(|row| ((row["provider"], row["model"]), row))
        .collect();
    let config = shipped();
    let (mut compared, mut wrong) = (0, Vec::new());
    for (model, candidate) in config.catalogue.candidates() {
        let Some(row) = rows.get(&(&*candidate.provider, &*candidate.model)) else { continue };
        let price: &Price = &candidate.prices[0].price;
        for (column, kind) in COLUMNS {
            let is_mute = matches!(model.mode, Mode::Embedding | Mode::Moderation | Mode::Rerank);
            if row[column].is_empty() || (is_mute && kind == Output) {
                continue;
            }
            let count = if kind == SearchUnits { 1_000_000 } else { 1 };
            let fact = row[column].parse::<NanoUsd>().expect("dollars").0 * count;
            compared += 1;
            if price.standard[kind as usize] != fact {
                wrong.push(format!("{} {} {column}", candidate.provider, candidate.model));
            }
        }
    }
    assert!(compared > 1_000 && wrong.is_empty(), "{compared} compared, wrong: {wrong:#?}");
}
