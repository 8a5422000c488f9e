//! The usage of OpenAI's APIs and of all that are compatible with them, under each of its names.
//!
//! Source: OpenAI API reference, "Chat completion usage", "Response usage", "Image generation usage", "Transcription usage"; and the
//! references of Mistral (`num_cached_tokens`, `prompt_token_details`), DeepSeek (`prompt_cache_hit_tokens`), Moonshot (`cached_tokens`),
//! OpenRouter (`server_tool_use_details`), Perplexity (`num_search_queries`) and xAI (`server_side_tool_usage_details`).

use super::figures::{Figures, NotACount, Written, take};
use crate::usage::{Kind, Usage};

const PROMPT_DETAILS: [&str; 4] =
    ["prompt_tokens_details", "prompt_token_details", "input_tokens_details", "input_token_details"];
const COMPLETION_DETAILS: [&str; 4] =
    ["completion_tokens_details", "completion_token_details", "output_tokens_details", "output_token_details"];
const CACHED: [&str; 4] = ["cached_tokens", "num_cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens"];
const CACHE_WRITTEN: [&str; 2] = ["cache_write_tokens", "cache_creation_input_tokens"];

/// Reads a usage object. Output that no detail names is of the kind `plain_output`. None if there are no figures, or if
/// one of them is no count.
pub(super) fn read(text: &[u8], plain_output: Kind) -> Option<Usage> {
    usage(&Figures::of(&Written::read(text)?), plain_output).ok().flatten()
}

/// How long the sound was that was heard, where that is said beside the tokens (Mistral).
pub(super) fn heard_milliseconds(text: &[u8]) -> Option<u64> {
    Figures::of(&Written::read(text)?).milliseconds("prompt_audio_seconds").ok().flatten()
}

fn usage(figures: &Figures<'_>, plain_output: Kind) -> Result<Option<Usage>, NotACount> {
    let input = figures.count(&["prompt_tokens", "input_tokens"])?;
    let output = figures.count(&["completion_tokens", "output_tokens"])?;
    let total = figures.count(&["total_tokens"])?;
    let seconds = figures.milliseconds("seconds")?;
    if input.or(output).or(total).or(seconds).is_none() {
        return Ok(None);
    }
    let prompt = figures.within(&PROMPT_DETAILS);
    let completion = figures.within(&COMPLETION_DETAILS);
    let audio_input = prompt.count_or_zero(&["audio_tokens"])?;
    let reasoning = completion.count(&["reasoning_tokens"])?.or(figures.count(&["reasoning_tokens"])?).unwrap_or(0);
    let mut output = output.unwrap_or(0);
    // Embeddings of some name the total only.
    let mut input = input.or(total.map(|total| total.saturating_sub(output))).unwrap_or(0);
    // Parts are inside of their totals, unless the sum says that they stand beside them: reasoning at xAI, sound at Mistral.
    for (beside_input, beside_output) in [(0, reasoning), (audio_input, 0), (audio_input, reasoning)] {
        if total.is_some_and(|total| input + output != total && input + output + beside_input + beside_output == total)
        {
            input += beside_input;
            output += beside_output;
        }
    }
    let mut usage = Usage::default();
    let cached = prompt.count(&CACHED)?.or(figures.count(&CACHED)?).unwrap_or(0);
    let written = prompt.count(&CACHE_WRITTEN)?.or(figures.count(&CACHE_WRITTEN)?).unwrap_or(0);
    for (kind, part) in [
        (Kind::CacheRead, cached),
        (Kind::CacheWrite5m, written),
        (Kind::AudioInput, audio_input),
        (Kind::ImageInput, prompt.count_or_zero(&["image_tokens"])?),
    ] {
        usage = usage.with(kind, take(&mut input, part));
    }
    for (kind, part) in [
        (Kind::Reasoning, reasoning),
        (Kind::AudioOutput, completion.count_or_zero(&["audio_tokens"])?),
        (Kind::ImageOutput, completion.count_or_zero(&["image_tokens"])?),
    ] {
        usage = usage.with(kind, take(&mut output, part));
    }
    // What is said to be text is text, whatever the API is for.
    let text = if plain_output == Kind::Output {
        output
    } else {
        take(&mut output, completion.count_or_zero(&["text_tokens"])?)
    };
    if plain_output == Kind::Output {
        output = 0
    };
    usage = usage.with(Kind::Input, input).with(Kind::Output, text);
    usage = usage.with(plain_output, usage.get(plain_output) + output).with(Kind::WebSearch, searches(figures)?);
    Ok(Some(usage.with(Kind::AudioMilliseconds, seconds.unwrap_or(0))))
}

fn searches(figures: &Figures<'_>) -> Result<u64, NotACount> {
    let tools = figures.within(&["server_tool_use_details", "server_tool_use"]);
    let xai = figures.within(&["server_side_tool_usage_details"]);
    let searches = figures.count(&["num_search_queries"])?.or(tools.count(&["web_search_requests"])?);
    match searches {
        Some(searches) => Ok(searches),
        None => Ok(xai.count_or_zero(&["web_search_calls"])? + xai.count_or_zero(&["x_search_calls"])?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(usage: &str) -> Usage {
        read(usage.as_bytes(), Kind::Output).expect("usage")
    }

    #[test]
    fn details_are_parts_of_their_totals_under_every_name() {
        let expected = Usage::of(35, 20).with(Kind::CacheRead, 60).with(Kind::AudioInput, 5).with(Kind::Reasoning, 30);
        for (input, output, inputs, outputs) in [
            ("prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details"),
            ("prompt_tokens", "completion_tokens", "prompt_token_details", "completion_token_details"),
            ("input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details"),
            ("input_tokens", "output_tokens", "input_token_details", "output_token_details"),
        ] {
            let usage = format!(
                r#"{{"{input}":100,"{output}":50,"total_tokens":150,"{inputs}":{{"cached_tokens":60,"audio_tokens":5,"cache_write_tokens":null}},
                "{outputs}":{{"reasoning_tokens":30,"rejected_prediction_tokens":4}}}}"#
            );
            assert_eq!(text(&usage), expected, "{usage}");
        }
    }

    #[test]
    fn cached_tokens_have_many_names() {
        for cached in [
            r#""num_cached_tokens":6"#,
            r#""cached_tokens":6"#,
            r#""prompt_cache_hit_tokens":6,"prompt_cache_miss_tokens":4"#,
            r#""prompt_tokens_details":{"cached_tokens":6},"num_cached_tokens":9"#,
            r#""prompt_tokens_details":null,"prompt_token_details":{"cached_tokens":6}"#,
        ] {
            let usage = format!(r#"{{"prompt_tokens":10,"completion_tokens":1,{cached}}}"#);
            assert_eq!(text(&usage), Usage::of(4, 1).with(Kind::CacheRead, 6), "{cached}");
        }
    }

    #[test]
    fn the_total_tells_what_stands_beside_it() {
        // xAI: 10 + 5 + 7 = 22.
        let beside = r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":22,"completion_tokens_details":{"reasoning_tokens":7}}"#;
        assert_eq!(text(beside), Usage::of(10, 5).with(Kind::Reasoning, 7));
        let inside = r#"{"prompt_tokens":10,"completion_tokens":12,"total_tokens":22,"completion_tokens_details":{"reasoning_tokens":7}}"#;
        assert_eq!(text(inside), Usage::of(10, 5).with(Kind::Reasoning, 7));
        // Mistral: 9 + 375 + 201 = 585.
        let sound = r#"{"prompt_tokens":9,"completion_tokens":201,"total_tokens":585,"prompt_tokens_details":{"audio_tokens":375}}"#;
        assert_eq!(text(sound), Usage::of(9, 201).with(Kind::AudioInput, 375));
        // Without a sum there is no telling: parts are inside.
        let no_total =
            r#"{"prompt_tokens":10,"completion_tokens":5,"completion_tokens_details":{"reasoning_tokens":7}}"#;
        assert_eq!(text(no_total), Usage::of(10, 0).with(Kind::Reasoning, 5));
    }

    #[test]
    fn a_total_alone_is_input() {
        assert_eq!(text(r#"{"total_tokens":14}"#), Usage::of(14, 0));
        assert_eq!(read(b"{}", Kind::Output), None);
        assert_eq!(read(b"7", Kind::Output), None);
    }

    #[test]
    fn output_is_of_the_kind_that_the_api_makes() {
        let image =
            br#"{"input_tokens":50,"output_tokens":40,"input_tokens_details":{"image_tokens":30,"text_tokens":20}}"#;
        assert_eq!(
            read(image, Kind::ImageOutput),
            Some(Usage::of(20, 0).with(Kind::ImageInput, 30).with(Kind::ImageOutput, 40))
        );
        let both =
            br#"{"input_tokens":50,"output_tokens":40,"output_tokens_details":{"image_tokens":30,"text_tokens":10}}"#;
        assert_eq!(read(both, Kind::ImageOutput), Some(Usage::of(50, 10).with(Kind::ImageOutput, 30)));
    }

    #[test]
    fn searches_are_counted_under_every_name() {
        for searches in [
            r#""num_search_queries":3"#,
            r#""server_tool_use_details":{"web_search_requests":3}"#,
            r#""server_side_tool_usage_details":{"web_search_calls":2,"x_search_calls":1}"#,
        ] {
            let usage = format!(r#"{{"input_tokens":1,"output_tokens":1,{searches}}}"#);
            assert_eq!(text(&usage).get(Kind::WebSearch), 3, "{searches}");
        }
    }

    #[test]
    fn figures_that_are_no_counts_are_no_figures() {
        for count in ["-1", "1.5", "1e3", "18446744073709551616", "\"7\"", "{}"] {
            let usage = format!(r#"{{"prompt_tokens":1,"completion_tokens":{count}}}"#);
            assert_eq!(read(usage.as_bytes(), Kind::Output), None, "{count}");
        }
    }
}
