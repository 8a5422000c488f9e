//! How much is set aside before a call is sent: an estimate for elastic quotas, a bound for strict ones, both at the
//! dearest candidate that may be tried; and the output limit that makes a bound fit what is left.

use crate::catalogue::{Candidate, Mode, Model};
use crate::dialect::{Dialect, Protocol};
use crate::money::NanoUsd;
use crate::price::{CacheWrite, Dearest, Possible, Tier};
use crate::request_head::RequestHead;
use crate::resolve::Choice;
use crate::units;
use crate::usage::Usage;

/// The operator's word on output limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowances {
    /// Most output tokens of an answer that an elastic quota sets aside at first.
    pub output_tokens_max: u64,
    /// The smallest output limit that a request is clamped to.
    pub clamp_output_tokens_min: u64,
}

/// What a call may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// What elastic quotas set aside.
    pub estimate: NanoUsd,
    /// What the call can't cost more than: what strict quotas set aside. None if nothing bounds it.
    pub bound: Option<NanoUsd>,
    /// Input and output tokens, as in the estimate.
    pub tokens: u64,
    /// The input tokens among them.
    pub input_tokens: u64,
    /// The most input tokens that can be billed, where something bounds them.
    pub input_bound: Option<u64>,
    /// Output tokens of all answers, as in the estimate.
    pub output_allowance: u64,
    /// The most output tokens that all answers can have, `u64::MAX` if nothing is known to limit them.
    pub output_max: u64,
}

/// An output limit that fits, and what the call can cost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clamp {
    /// Output tokens of one answer.
    pub output_limit: u64,
    /// What the call can't cost more than.
    pub bound: NanoUsd,
}

impl Need {
    /// What costs nothing.
    const NOTHING: Self = Self {
        estimate: NanoUsd::ZERO,
        bound: Some(NanoUsd::ZERO),
        tokens: 0,
        input_tokens: 0,
        input_bound: Some(0),
        output_allowance: 0,
        output_max: 0,
    };
}

/// The need of a request that any of the choices may serve.
#[must_use]
pub fn need(head: &RequestHead, model: &Model, choices: &[Choice], allowances: &Allowances) -> Need {
    if head.dialect.is_free() {
        return Need::NOTHING;
    }
    let allowance = output_allowance(head, model, allowances.output_tokens_max).saturating_mul(head.choices);
    let units = units::likely(head, model);
    let mut estimate = NanoUsd::ZERO;
    let mut input_tokens = 0;
    for choice in choices {
        let candidate = &model.candidates[choice.index];
        let input = candidate.input_estimate.input_tokens(head);
        let likely = choice.price.price.likely(input, &possible(head, model, candidate));
        estimate = estimate.max(likely.cost(input, allowance, &units));
        input_tokens = input_tokens.max(input);
    }
    let bound = Bound::of(head, model, choices);
    Need {
        estimate,
        bound: bound.as_ref().and_then(|bound| Some(bound.with(bound.output_limit()?))),
        tokens: input_tokens.saturating_add(allowance),
        input_tokens,
        input_bound: input_bound(head, model),
        output_allowance: allowance,
        output_max: output_max(head, model),
    }
}

/// What so many tokens cost at the dearest of the choices, beside what else the request asks for.
pub(crate) fn cost_of_tokens(
    head: &RequestHead,
    model: &Model,
    choices: &[Choice],
    (input, output): (u64, u64),
) -> NanoUsd {
    let costs = choices.iter().map(|choice| {
        let likely = choice.price.price.likely(input, &possible(head, model, &model.candidates[choice.index]));
        likely.cost(input, output, &Usage::default())
    });
    costs.max().unwrap_or(NanoUsd::ZERO)
}

/// The largest output limit, never above the request's own, with which the call can't cost more than `available`. None if
/// it would be so small that the answer is worthless or refused: below `clamp_output_tokens_min`, the provider's minimum
/// or the thinking that is asked for; or if nothing bounds the rest of the cost.
#[must_use]
pub fn clamp(
    head: &RequestHead,
    model: &Model,
    choices: &[Choice],
    allowances: &Allowances,
    available: NanoUsd,
) -> Option<Clamp> {
    head.dialect.clamp_field("")?;
    let bound = Bound::of(head, model, choices)?;
    let requested = output_limit(head, model)?;
    let fitting = bound.output_limit_within(available)?;
    // An answer must be longer than its thinking (Anthropic: "max_tokens must be greater than thinking.budget_tokens").
    let after_thinking = head.weight.thinking_budget.saturating_add(1);
    let least = allowances.clamp_output_tokens_min.max(model.output_limit_min).max(after_thinking);
    let output_limit = fitting.min(requested);
    let is_worthwhile = output_limit == requested || output_limit >= least;
    is_worthwhile.then(|| Clamp { output_limit, bound: bound.with(output_limit) })
}

/// What a call can cost as a function of its output limit.
struct Bound<'a> {
    head: &'a RequestHead,
    model: &'a Model,
    choices: &'a [Choice],
    input: u64,
}

impl<'a> Bound<'a> {
    /// None if nothing bounds the input or the tools.
    fn of(head: &'a RequestHead, model: &'a Model, choices: &'a [Choice]) -> Option<Self> {
        let is_bounded = !head.weight.has_unlimited_tool;
        let free = Self { head, model, choices, input: 0 };
        let needs_none = || (is_bounded && !free.dearest().any(|dearest| dearest.bills_input())).then_some(0);
        Some(Self { input: input_bound(head, model).or_else(needs_none)?, ..free })
    }

    /// The most output tokens of one answer; none are billed where they cost nothing.
    fn output_limit(&self) -> Option<u64> {
        let needs_none = || (!self.dearest().any(|dearest| dearest.bills_output())).then_some(0);
        output_limit(self.head, self.model).or_else(needs_none)
    }

    /// The dearest rates of each choice.
    fn dearest(&self) -> impl Iterator<Item = Dearest> {
        self.choices.iter().map(|choice| {
            let possible = possible(self.head, self.model, &self.model.candidates[choice.index]);
            choice.price.price.dearest(self.input, &possible)
        })
    }

    /// What may be billed beside tokens.
    fn units(&self) -> Usage {
        units::most(self.head, self.model)
    }

    /// Output tokens that are billed whatever the limit.
    fn unlimited_output(&self) -> u64 {
        let shown = units::PARTIAL_IMAGE_TOKENS.saturating_mul(self.head.weight.partial_images);
        self.head.weight.predicted_bytes.saturating_add(shown).saturating_mul(self.head.choices)
    }

    fn with(&self, output_limit: u64) -> NanoUsd {
        let output = output_limit.saturating_mul(self.head.choices).saturating_add(self.unlimited_output());
        let costs = self.dearest().map(|dearest| dearest.cost(self.input, output, &self.units()));
        costs.max().unwrap_or(NanoUsd::ZERO)
    }

    fn output_limit_within(&self, available: NanoUsd) -> Option<u64> {
        let of = |dearest: Dearest| {
            let output = dearest.output_within(available, self.input, &self.units())?;
            Some(output.checked_sub(self.unlimited_output())? / self.head.choices)
        };
        self.dearest().map(of).min().flatten()
    }
}

/// Tokens that a provider may put before a request in words of its own. Recorded calls have up to 89 beyond the other
/// constants (xAI), with tools up to 439 (Anthropic's tool use system prompt with citations).
const TOKENS_OF_INSTRUCTIONS: u64 = 256;
const TOKENS_OF_TOOL_INSTRUCTIONS: u64 = 1_024;

/// The most tokens that a second of sound makes. Those that are known make between ten (OpenAI) and fifty (Whisper).
const TOKENS_PER_SOUND_SECOND: u64 = 100;
/// The most tokens that a picture makes that is to be edited, where the model's context is not known: OpenAI's models make 6 821 of
/// the largest ("Images and vision", "GPT Image 1", high input fidelity).
const TOKENS_PER_EDITED_PICTURE: u64 = 8_192;

/// The most input tokens that can be billed. Text makes at most a token a byte; what is not text is as large as the
/// context can be, anew after each use of a tool that the provider runs.
fn input_bound(head: &RequestHead, model: &Model) -> Option<u64> {
    let weight = &head.weight;
    if weight.has_unlimited_tool {
        return None;
    }
    let instructions = if weight.tools > 0 { TOKENS_OF_TOOL_INSTRUCTIONS } else { TOKENS_OF_INSTRUCTIONS };
    let sound = weight.sound_ms_max.saturating_mul(TOKENS_PER_SOUND_SECOND).div_ceil(1_000);
    let text = weight.input_bound().saturating_add(instructions).saturating_add(sound);
    if !weight.has_foreign_input {
        return Some(text);
    }
    let once = match model.context_tokens {
        0 if head.dialect == Dialect::OpenaiImages => {
            text.saturating_add(weight.attachments.saturating_mul(TOKENS_PER_EDITED_PICTURE))
        }
        0 => return None,
        context => text.max(context),
    };
    Some(once.saturating_mul(weight.server_tool_uses.saturating_add(1)))
}

/// What a candidate may bill a request as.
fn possible(head: &RequestHead, model: &Model, candidate: &Candidate) -> Possible {
    let weight = &head.weight;
    Possible {
        tier: tier(head, candidate),
        cache_write: match candidate.protocol {
            // OpenAI writes what it likes to its cache and bills it where that has a price ("Prompt caching").
            Protocol::Openai => weight.cache_write.max(CacheWrite::FiveMinutes),
            Protocol::Anthropic | Protocol::Gemini | Protocol::Cohere | Protocol::Bedrock => weight.cache_write,
        },
        audio_input: weight.has_audio,
        image_input: weight.has_images,
        // A model that speaks or draws does so unasked.
        audio_output: weight.wants_audio || model.mode == Mode::Speech,
        image_output: weight.wants_images || model.mode == Mode::Image,
    }
}

/// The tier that a request is billed in unless the answer says otherwise.
#[must_use]
pub fn tier(head: &RequestHead, candidate: &Candidate) -> Tier {
    match head.tier {
        Tier::Standard => candidate.default_tier,
        asked => asked,
    }
}

/// The most output tokens of one answer, if something is known to limit them.
fn output_limit(head: &RequestHead, model: &Model) -> Option<u64> {
    if !head.dialect.has_output() {
        return Some(0);
    }
    let of_model = (model.output_tokens_max > 0).then_some(model.output_tokens_max);
    [head.output_limit_bound, of_model].into_iter().flatten().min()
}

/// The most output tokens that all answers to a request can have, `u64::MAX` if nothing is known to limit them.
pub(crate) fn output_max(head: &RequestHead, model: &Model) -> u64 {
    output_limit(head, model).map_or(u64::MAX, |limit| limit.saturating_mul(head.choices))
}

/// Output tokens to set aside for one answer: the limit asked for, but no more than `output_tokens_max` where the stream
/// shows how far it has come or where no limit was named.
fn output_allowance(head: &RequestHead, model: &Model, output_tokens_max: u64) -> u64 {
    if let Some((_, tokens)) = units::unwritten_output(head) {
        return tokens.min(output_limit(head, model).unwrap_or(u64::MAX));
    }
    let shows_its_output = head.streamed && !model.hidden_output;
    let limit = output_limit(head, model).unwrap_or(output_tokens_max);
    if head.output_limit.is_none() || shows_its_output { limit.min(output_tokens_max) } else { limit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{InputEstimate, PriceVersion};
    use crate::price::{LongContext, Price};
    use crate::request_head::{Rewrite, TOKENS_PER_MESSAGE, TOKENS_PER_REQUEST, TOKENS_PER_TOOL, scan};
    use crate::usage::Kind;
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    const CONTEXT: u64 = 100_000;
    const ALLOWANCES: Allowances = Allowances { output_tokens_max: 500, clamp_output_tokens_min: 256 };

    fn candidate(number: usize, protocol: Protocol) -> Candidate {
        Candidate {
            number,
            provider: "p".into(),
            protocol,
            apis: Arc::new([]),
            model: "m".into(),
            priority: 0,
            weight: 1,
            input_estimate: InputEstimate::QuarterOfBytes,
            default_tier: Tier::Standard,
            prices: Vec::new(),
        }
    }

    fn model(candidates: usize) -> Model {
        Model {
            id: "m".into(),
            aliases: Vec::new(),
            context_tokens: CONTEXT,
            output_tokens_max: 4_000,
            output_limit_field: "max_tokens".into(),
            output_limit_min: 1,
            mode: Mode::Chat,
            hidden_output: false,
            candidates: (0..candidates).map(|number| candidate(number, Protocol::Anthropic)).collect(),
        }
    }

    fn priced(change: impl FnOnce(&mut Price)) -> Choice {
        let mut price = Price::default();
        price.standard[Kind::Input as usize] = 1_000_000;
        price.standard[Kind::Output as usize] = 10_000_000;
        change(&mut price);
        Choice { index: 0, price: Arc::new(PriceVersion::new(price)), own: None }
    }

    fn head(body: &Value) -> RequestHead {
        scan(body.to_string().as_bytes(), Dialect::OpenaiChat).expect("a valid body")
    }

    fn need_of(body: &Value, change: impl FnOnce(&mut Price)) -> Need {
        need(&head(body), &model(1), &[priced(change)], &ALLOWANCES)
    }

    /// A bound of input alone, in tokens, as input costs a nano-dollar each.
    fn input_of(body: Value) -> Option<u64> {
        need_of(&body, |_| {}).input_bound
    }

    fn with_content(content: Value) -> Value {
        json!({"model": "m", "max_tokens": 300, "messages": [{"role": "user", "content": content}]})
    }

    fn with_tool(tool: Value) -> Value {
        json!({"model": "m", "max_tokens": 300, "messages": [], "tools": [tool]})
    }

    #[test]
    fn the_estimate_is_elastic_and_the_bound_is_not() {
        let body = json!({"model": "m", "stream": true, "max_tokens": 3_000, "n": 2, "best_of": 3});
        let need = need_of(&body, |_| {});
        assert_eq!((need.output_allowance, need.output_max), (3 * 500, 3 * 3_000));
        assert_eq!(need.estimate, NanoUsd(need.input_tokens as i64 + 15_000));
        assert_eq!(need.bound, need.input_bound.map(|input| NanoUsd(input as i64 + 90_000)));
        assert_eq!(need.tokens, need.input_tokens + 1_500);
        let of_completions = json!({"model": "m", "prompt": ["a", "b", [1, 2]], "max_tokens": 10});
        assert_eq!(need_of(&of_completions, |_| {}).output_max, 3 * 10);
        for one in [json!([1, 2, 3]), json!("text"), json!([])] {
            assert_eq!(head(&json!({"model": "m", "prompt": one})).choices, 1);
        }
    }

    #[test]
    fn pictures_are_set_aside_each_at_its_price() {
        let body = json!({"model": "m", "prompt": "a cat", "n": 3, "size": "1024x1024"});
        let drawn = Model { mode: Mode::Image, ..model(1) };
        let price = PriceVersion::of_pictures(
            &Price::default(),
            &[("1024x1024", 40_000_000_000_000), ("auto", 80_000_000_000_000)],
        );
        let of = |body: &Value| {
            let head = scan(body.to_string().as_bytes(), Dialect::OpenaiImages).expect("a valid body");
            let choice = Choice { index: 0, price: Arc::new(price.clone()).for_picture(&head.picture), own: None };
            let need = need(&head, &drawn, &[choice], &ALLOWANCES);
            assert_eq!(need.bound, Some(need.estimate));
            need.estimate
        };
        assert_eq!(of(&body), NanoUsd(120_000_000));
        assert_eq!(of(&json!({"model": "m", "prompt": "a cat"})), NanoUsd(80_000_000));
        assert_eq!(of(&json!({"model": "m", "prompt": "a cat", "size": "unheard of"})), NanoUsd(80_000_000));
    }

    #[test]
    fn a_limit_counts_only_if_whoever_answers_reads_it() {
        let most = |limits: Value| need_of(&limits, |_| {}).output_max;
        assert_eq!(most(json!({"model": "m"})), 4_000);
        assert_eq!(most(json!({"model": "m", "max_tokens": null})), 4_000);
        assert_eq!(most(json!({"model": "m", "max_tokens": 9_000})), 4_000);
        assert_eq!(most(json!({"model": "m", "max_tokens": 10, "max_completion_tokens": 20})), 20);
        assert_eq!(most(json!({"model": "m", "max_output_tokens": 10})), 4_000);
    }

    #[test]
    fn text_is_bounded_by_its_bytes_wherever_it_stands() {
        let text = "data:".to_owned() + &"x".repeat(995);
        for content in [
            json!(text),
            json!([{"type": "text", "text": text}]),
            json!([{"type": "tool_use", "input": {"data": text}}]),
            json!({"url": "https://example.com", "text": text}),
        ] {
            let input = input_of(with_content(content.clone())).expect("text is bounded");
            assert!((1_000..1_500).contains(&input), "{content}: {input}");
        }
    }

    #[test]
    fn what_bytes_do_not_bound_is_a_whole_context() {
        for content in [
            json!([{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]),
            json!([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]),
            json!([{"type": "image", "source": {"type": "base64", "data": "AAAA"}}]),
            json!([{"source": {"type": "base64", "data": "AAAA"}, "type": "unheard_of"}]),
            json!([{"type": "document", "source": {"type": "file", "file_id": "f"}}]),
            json!([{"type": "unheard_of", "file_id": "f"}]),
            json!([{"type": "unheard_of", "url": "data:,x"}]),
            json!([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]),
            json!([{"type": "tool_result", "content": [{"type": "image"}]}]),
        ] {
            assert_eq!(input_of(with_content(content.clone())), Some(CONTEXT), "{content}");
        }
        for member in [
            json!({"prompt": {"id": "p"}}),
            json!({"previous_response_id": "r"}),
            json!({"conversation": "c"}),
            json!({"container": {"id": "c"}}),
            json!({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}),
            json!({"tools": [{"type": "bash_20250124", "name": "bash"}]}),
        ] {
            let mut body = member.clone();
            body["model"] = json!("m");
            assert_eq!(input_of(body), Some(CONTEXT), "{member}");
        }
        assert!(input_of(json!({"model": "m", "previous_response_id": null})) < Some(400));
        let long = "x".repeat(2 * CONTEXT as usize);
        assert!(input_of(with_content(json!([{"type": "image"}, {"type": "text", "text": long}]))) > Some(2 * CONTEXT));
        let unknown_context = Model { context_tokens: 0, ..model(1) };
        let image = head(&with_content(json!([{"type": "image"}])));
        assert_eq!(need(&image, &unknown_context, &[priced(|_| {})], &ALLOWANCES).bound, None);
        let silent = Model { output_tokens_max: 0, ..model(1) };
        let need = need(&head(&json!({"model": "m"})), &silent, &[priced(|_| {})], &ALLOWANCES);
        assert_eq!((need.bound, need.output_max, need.output_allowance), (None, u64::MAX, 500));
    }

    #[test]
    fn tools_of_the_provider_are_bounded_by_their_uses() {
        let search = |uses: Value| with_tool(json!({"max_uses": uses, "type": "web_search_20250305", "name": "w"}));
        let need = need_of(&search(json!(3)), |price| price.standard[Kind::WebSearch as usize] = 1_000_000_000);
        assert_eq!(need.input_bound, Some(4 * CONTEXT));
        assert_eq!(need.bound, Some(NanoUsd(4 * CONTEXT as i64 + 300 * 10 + 3 * 1_000)));
        for unlimited in [
            search(json!(null)),
            search(json!("3")),
            with_tool(json!({"type": "web_search_20250305", "name": "w"})),
            with_tool(json!({"type": "web_search", "max_uses": 1})),
            with_tool(json!({"type": "code_execution_20250825", "max_uses": 1})),
            with_tool(json!({"type": "custom", "type2": "", "name": "x"}))
                .as_object()
                .map(|body| json!({"model": "m", "tools": body["tools"], "mcp_servers": []}))
                .expect("an object"),
            json!({"model": "m", "web_search_options": {}}),
            json!({"model": "m", "context_management": {"edits": [{"type": "compact_20260112"}]}}),
        ] {
            assert_eq!(need_of(&unlimited, |_| {}).bound, None, "{unlimited}");
        }
        let twice = br#"{"model":"m","tools":[{"type":"mcp","type":"function"}]}"#;
        assert_eq!(need_of_text(twice).bound, None);
        let schema = json!({"name": "f", "input_schema": {"type": "object", "properties": {"type": {"type": "mcp"}}}});
        for own in [schema.clone(), json!({"type": "function", "function": schema}), json!({"type": "custom"})] {
            let input = input_of(with_tool(own)).expect("bounded");
            assert!((TOKENS_OF_TOOL_INSTRUCTIONS..TOKENS_OF_TOOL_INSTRUCTIONS + 300).contains(&input));
        }
    }

    fn need_of_text(body: &[u8]) -> Need {
        need(&scan(body, Dialect::OpenaiChat).expect("valid"), &model(1), &[priced(|_| {})], &ALLOWANCES)
    }

    #[test]
    fn only_prices_that_the_request_leaves_possible_count() {
        let all = |price: &mut Price| {
            for (kind, rate) in
                [(Kind::CacheWrite5m, 2), (Kind::CacheWrite1h, 3), (Kind::ImageInput, 4), (Kind::AudioInput, 5)]
            {
                price.standard[kind as usize] = rate * 1_000_000;
            }
            price.standard[Kind::AudioOutput as usize] = 20_000_000;
            price.standard[Kind::ImageOutput as usize] = 30_000_000;
        };
        let rate = |body: &Value| {
            let need = need_of(body, all);
            let (bound, input) = (need.bound.expect("bounded").0, need.input_bound.expect("bounded") as i64);
            // The output limit is one token.
            (1..=5).find(|rate| (10..=30).contains(&(bound - rate * input))).expect("a rate")
        };
        let text = |block: Value| json!({"model": "m", "max_tokens": 1, "messages": [{"content": [block]}]});
        assert_eq!(rate(&text(json!({"type": "text"}))), 1);
        assert_eq!(rate(&text(json!({"cache_control": {"type": "ephemeral"}}))), 2);
        assert_eq!(rate(&text(json!({"cache_control": null}))), 1);
        assert_eq!(rate(&text(json!({"cache_control": {"type": "ephemeral", "ttl": "5m"}}))), 2);
        assert_eq!(rate(&text(json!({"cache_control": {"type": "ephemeral", "ttl": "1h"}}))), 3);
        assert_eq!(rate(&text(json!({"type": "image"}))), 4);
        assert_eq!(rate(&text(json!({"image_url": {"url": "data:image/png,"}}))), 4);
        assert_eq!(rate(&text(json!({"type": "input_audio"}))), 5);
        let output = |modalities: Value| {
            let body = json!({"model": "m", "max_tokens": 1, "modalities": modalities});
            let need = need_of(&body, all);
            need.bound.expect("bounded").0 - need.input_bound.expect("bounded") as i64
        };
        assert_eq!(
            [json!(null), json!(["text"]), json!(["text", "audio"]), json!(["image"])].map(output),
            [10, 10, 20, 30]
        );
    }

    #[test]
    fn the_dearest_tier_and_length_that_may_be_billed_count() {
        let all = |price: &mut Price| {
            let with_output = |rate: i64| {
                let mut rates = price.standard;
                rates[Kind::Output as usize] = rate * 1_000_000;
                rates
            };
            price.flex = Some(with_output(5));
            price.priority = Some(with_output(40));
            price.long_context = Some(LongContext { above_tokens: 1_000, rates: with_output(20) });
        };
        let output = |tier: &str, text: usize| {
            let body = json!({"model": "m", "max_tokens": 1, "service_tier": tier, "messages": ["x".repeat(text)]});
            let need = need_of(&body, all);
            need.bound.expect("bounded").0 - need.input_bound.expect("bounded") as i64
        };
        assert_eq!((output("auto", 1), output("flex", 1), output("priority", 1)), (10, 10, 40));
        assert_eq!((output("auto", 1_000), output("priority", 1_000)), (20, 40));
    }

    #[test]
    fn a_clamp_leaves_an_answer_that_is_worth_its_price() {
        let clamped = |body: Value, available: u64| {
            let head = head(&body);
            let input = input_bound(&head, &model(1)).expect("bounded");
            let available = NanoUsd((input + 10 * available) as i64);
            clamp(&head, &model(1), &[priced(|_| {})], &ALLOWANCES, available).map(|clamp| clamp.output_limit)
        };
        let body = json!({"model": "m", "max_tokens": 1_000});
        assert_eq!(clamped(body.clone(), 999), Some(999));
        assert_eq!(clamped(body.clone(), 1_001), Some(1_000));
        assert_eq!((clamped(body.clone(), 256), clamped(body, 255)), (Some(256), None));
        assert_eq!(clamped(json!({"model": "m"}), 9_000), Some(4_000));
        let short = json!({"model": "m", "max_tokens": 10});
        assert_eq!((clamped(short.clone(), 10), clamped(short, 9)), (Some(10), None));
        let thinking =
            json!({"model": "m", "max_tokens": 1_000, "thinking": {"budget_tokens": 600, "type": "enabled"}});
        assert_eq!((clamped(thinking.clone(), 601), clamped(thinking, 600)), (Some(601), None));
        let predicted = json!({"model": "m", "max_tokens": 1_000, "prediction": {"content": "x".repeat(80)}});
        assert_eq!(clamped(predicted, 500), Some(500 - 87));
        let unlimited = head(&json!({"model": "m", "web_search_options": {}}));
        assert_eq!(clamp(&unlimited, &model(1), &[priced(|_| {})], &ALLOWANCES, NanoUsd::MAX), None);
    }

    #[derive(Clone, Debug)]
    struct Asked {
        body: Value,
        /// Input tokens by the most wasteful of tokenizers: one a byte of what is to be read, and the protocol's own.
        input: u64,
        answers: u64,
        limit: Option<u64>,
    }

    /// Requests with text of any script in messages and tools.
    fn asked() -> impl Strategy<Value = Asked> {
        let texts = prop::collection::vec(any::<String>(), 0..6);
        let tools = prop::collection::vec((any::<String>(), any::<String>()), 0..4);
        (texts, tools, prop::option::of(1..6_000_u64), prop::option::of(1..4_u64), any::<bool>()).prop_map(
            |(texts, tools, limit, n, caches)| {
                let message = |text: &String| json!({"role": "user", "content": [{"type": "text", "text": text}]});
                let tool = |(name, text): &(String, String)| json!({"name": name, "description": text});
                let mut body = json!({
                    "messages": texts.iter().map(message).collect::<Vec<_>>(),
                    "tools": tools.iter().map(tool).collect::<Vec<_>>(),
                    "model": "m", "max_tokens": limit, "n": n,
                });
                if caches {
                    body["system"] =
                        json!([{"type": "text", "text": "", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]);
                }
                let text_bytes: usize = texts.iter().map(String::len).sum::<usize>()
                    + tools.iter().map(|(name, text)| name.len() + text.len()).sum::<usize>();
                let around =
                    TOKENS_PER_REQUEST + TOKENS_PER_MESSAGE * texts.len() as u64 + TOKENS_PER_TOOL * tools.len() as u64;
                Asked { body, input: text_bytes as u64 + around, answers: n.unwrap_or(1), limit }
            },
        )
    }

    fn rates() -> impl Strategy<Value = [i64; Kind::ALL.len()]> {
        prop::array::uniform15(0..50_000_000_000_i64)
    }

    proptest! {
        #[test]
        fn no_call_costs_more_than_its_bound(
            asked in asked(),
            standard in rates(),
            other in rates(),
            above_tokens in 1..400_u64,
            (kinds, share) in (prop::array::uniform2(0..2_usize), prop::array::uniform2(0..=100_u64)),
        ) {
            let choice = priced(|price| {
                price.standard = standard;
                price.long_context = Some(LongContext { above_tokens, rates: other });
            });
            let need = need(&head(&asked.body), &model(1), std::slice::from_ref(&choice), &ALLOWANCES);
            let writes_cache = asked.body.get("system").is_some();
            let input = asked.input * share[0] / 100;
            let output = asked.limit.unwrap_or(4_000).min(4_000) * asked.answers * share[1] / 100;
            let input_kind = if writes_cache { [Kind::CacheWrite1h, Kind::CacheWrite5m][kinds[0]] } else { Kind::Input };
            let usage = Usage::default().with(input_kind, input).with([Kind::Output, Kind::Reasoning][kinds[1]], output);
            prop_assert!(choice.price.price.cost(&usage, Tier::Standard) <= need.bound.expect("text is bounded"));
        }

        #[test]
        fn a_clamp_is_the_largest_limit_that_fits(
            asked in asked(),
            rates in prop::collection::vec(rates(), 1..4),
            available in prop_oneof![0..100_000_i64, 0..1_000_000_000_i64, 0..1_000_000_000_000_i64],
        ) {
            let model = model(rates.len());
            let choices: Vec<Choice> = rates.iter().enumerate()
                .map(|(index, rates)| Choice { index, ..priced(|price| price.standard = *rates) })
                .collect();
            let original = head(&asked.body);
            let bound_with = |limit: u64| {
                let text = Bytes::from(asked.body.to_string());
                let rewrite = Rewrite { model: "m", ask_usage: false, output_limit: Some(limit), output_limit_field: "max_tokens" };
                let body = original.rewrite(&text, &rewrite).concat();
                need(&scan(&body, Dialect::OpenaiChat).expect("still valid"), &model, &choices, &ALLOWANCES).bound.expect("still bounded")
            };
            let requested = asked.limit.unwrap_or(4_000).min(4_000);
            let least = ALLOWANCES.clamp_output_tokens_min.min(requested);
            let available = NanoUsd(available);
            match clamp(&original, &model, &choices, &ALLOWANCES, available) {
                Some(Clamp { output_limit, bound }) => {
                    prop_assert!((least..=requested).contains(&output_limit));
                    prop_assert_eq!(bound, bound_with(output_limit));
                    prop_assert!(bound <= available);
                    prop_assert!(output_limit == requested || available < bound_with(output_limit + 1));
                }
                None => prop_assert!(available < bound_with(least)),
            }
        }
    }
}
