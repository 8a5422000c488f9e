//! The catalogue's file: models, who serves them, and the versions of their prices.

use super::place::{Section, Value};
use super::prices::read_prices;
use super::providers::Providers;
use filters::catalogue::{Candidate, Catalogue, Mode, Model, PriceVersion};
use filters::price::FeePpm;
use std::collections::HashMap;
use std::sync::Arc;

/// More than any model takes, and small enough that its costs can be summed exactly.
const TOKENS_MAX: u64 = 1_000_000_000_000;

/// The request fields that can limit output.
const OUTPUT_LIMIT_FIELDS: [&str; 2] = ["max_completion_tokens", "max_tokens"];

/// Reads all models; none if a mistake keeps them from being a catalogue. Calls with organisations' own credentials are charged the
/// fee.
pub(super) fn read_catalogue(root: &Section<'_>, providers: &Providers, fee: FeePpm) -> Option<Catalogue> {
    let items = root.require("models")?.items()?;
    let mut names = HashMap::new();
    let mut models = Vec::with_capacity(items.len());
    for item in items {
        let item = item.called_by("id");
        models.extend(item.section(|section| read_model(section, providers, &mut names)).flatten());
    }
    for version in models.iter_mut().flat_map(|model: &mut Model| &mut model.candidates).flat_map(|one| &mut one.prices)
    {
        *version = Arc::new(PriceVersion::clone(version).with_own(fee));
    }
    Catalogue::new(models).map_err(|name| root.report("models", format_args!("{name} is there twice"))).ok()
}

/// Which model has claimed a name.
type Names = HashMap<String, String>;

fn read_model(section: &Section<'_>, providers: &Providers, names: &mut Names) -> Option<Model> {
    let id = section.require("id").and_then(|value| claimed_name(&value, None, names));
    let aliases = section.get("aliases").and_then(|value| value.items()).unwrap_or_default();
    let aliases = aliases.iter().filter_map(|alias| claimed_name(alias, id, names)).map(Box::from).collect();
    let context_tokens = section.require("context_tokens").and_then(|value| value.number(1..=TOKENS_MAX));
    let output_tokens_max = section.require("output_tokens_max").and_then(|value| value.number(1..=TOKENS_MAX));
    let output_limit_field = section.require("output_limit_field").and_then(|value| value.parsed(output_limit_field));
    let output_limit_min = section.number("output_limit_min", 1..=output_tokens_max.unwrap_or(TOKENS_MAX), 1);
    let hidden_output = section.boolean("hidden_output", false);
    let mode = section.choice("mode", Mode::Chat, &Mode::ALL.map(|mode| (mode.name(), mode)));
    let prices = section.require("prices").map(|value| read_prices(&value, mode)).unwrap_or_default();
    let candidates = section.require("candidates").and_then(|value| value.items()).unwrap_or_default();
    let candidates = candidates
        .iter()
        .filter_map(|item| item.section(|section| read_candidate(section, providers, (mode, &prices))).flatten())
        .collect();
    Some(Model {
        id: Arc::from(id?),
        aliases,
        context_tokens: context_tokens?,
        output_tokens_max: output_tokens_max?,
        output_limit_field: output_limit_field?,
        output_limit_min,
        mode,
        hidden_output,
        candidates,
    })
}

/// A name that no model has had before.
fn claimed_name<'d>(value: &Value<'d>, model: Option<&str>, names: &mut Names) -> Option<&'d str> {
    let name = value.text()?;
    if let Err(message) = check_model_name(name) {
        value.report(message);
        return None;
    }
    if let Some(earlier) = names.get(name) {
        value.report(format_args!("{name} is a name of {earlier} already"));
        return None;
    }
    names.insert(name.to_owned(), model.unwrap_or(name).to_owned());
    Some(name)
}

fn check_model_name(name: &str) -> Result<(), String> {
    // It is written into JSON bodies and metrics as it is, so nothing in it may need an escape.
    let is_plain = name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    if is_plain && (1..=128).contains(&name.len()) {
        Ok(())
    } else {
        Err("a model's name is 1 to 128 printable ASCII characters without spaces, quotes and backslashes".to_owned())
    }
}

fn output_limit_field(text: &str) -> Result<Box<str>, String> {
    let field = OUTPUT_LIMIT_FIELDS.iter().find(|field| **field == text);
    field.map(|field| Box::from(*field)).ok_or_else(|| format!("not one of {}", OUTPUT_LIMIT_FIELDS.join(", ")))
}

/// The candidate; none if its provider is left out or if there is a mistake.
fn read_candidate(
    section: &Section<'_>,
    providers: &Providers,
    (mode, of_model): (Mode, &[Arc<PriceVersion>]),
) -> Option<Candidate> {
    let model = section
        .require("model")
        .and_then(|value| value.parsed(|text| check_model_name(text).map(|()| Arc::<str>::from(text))));
    let priority = u32::try_from(section.number("priority", 0..=1_000, 0)).unwrap_or(0);
    let weight = u32::try_from(section.number("weight", 1..=1_000_000, 1)).unwrap_or(1);
    let own = section.get("prices").map(|value| read_prices(&value, mode));
    let name = section.require("provider").and_then(|value| {
        value.parsed(|text| {
            let declared = providers.declared.iter().find(|name| &***name == text);
            declared.ok_or_else(|| format!("there is no provider {text} in the configuration"))
        })
    })?;
    let provider = providers.usable.iter().find(|provider| provider.name == *name)?;
    Some(Candidate {
        number: 0,
        provider: Arc::clone(&provider.name),
        protocol: provider.protocol,
        apis: Arc::clone(&provider.apis),
        model: model?,
        priority,
        weight,
        input_estimate: provider.input_estimate,
        default_tier: provider.default_tier,
        prices: own.unwrap_or_else(|| of_model.to_vec()),
    })
}
