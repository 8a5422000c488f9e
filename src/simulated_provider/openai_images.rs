//! OpenAI images: generations, edits and variations; real pictures, if plain ones, whole or streamed in parts.

use super::ask::Ask;
use super::openai_chat::CREATED;
use super::picture;
use super::plan::{Event, Plan};
use super::request::Request;
use super::route::Operation;
use super::text::{Prompt, mix};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

const MODEL_DEFAULT: &str = "dall-e-2";
const IMAGES_MAX: u64 = 10;
const PARTIAL_IMAGES_MAX: u64 = 3;
/// What a picture that is sent along counts.
const INPUT_IMAGE_TOKENS: u64 = 260;
/// What a picture on the way counts on top.
const PARTIAL_IMAGE_TOKENS: u64 = 100;

/// Reads a request; the error is a sentence for the caller.
pub(super) fn read(ask: Ask) -> Result<Request, String> {
    let is_variation = ask.target.operation == Operation::Variation;
    if ask.text("prompt").is_empty() && !is_variation {
        return Err("Missing required parameter: 'prompt'.".to_owned());
    }
    if ask.uploads.is_empty() && ask.target.operation != Operation::Plain && ask.body["images"].is_null() {
        return Err("Missing required parameter: 'image'.".to_owned());
    }
    if count(&ask) > IMAGES_MAX {
        return Err(format!("`n` is at most {IMAGES_MAX}."));
    }
    let model = ask.model().unwrap_or(MODEL_DEFAULT).to_owned();
    let images = ask.uploads.len().max(ask.body["images"].as_array().map_or(0, Vec::len)) as u64;
    let image_tokens = images * INPUT_IMAGE_TOKENS;
    let prompt = Prompt::new(ask.text("prompt"));
    let words = ask.text("prompt").split_whitespace().count() as u64;
    let streamed = ask.is_streamed() && is_gpt(&model);
    let partials = if streamed { ask.number("partial_images").unwrap_or(0).min(PARTIAL_IMAGES_MAX) } else { 0 };
    let output_tokens = count(&ask) * (tokens(&ask) + partials * PARTIAL_IMAGE_TOKENS);
    Ok(Request {
        streamed,
        input_tokens: words + image_tokens,
        image_tokens,
        output_tokens: Some(if is_gpt(&model) { output_tokens } else { 0 }),
        ..Request::new(ask, &model, prompt)
    })
}

/// The models that say their usage.
fn is_gpt(model: &str) -> bool {
    model.starts_with("gpt-image") || model.starts_with("chatgpt-image")
}

fn count(ask: &Ask) -> u64 {
    ask.number("n").unwrap_or(1).max(1)
}

/// Width and height.
fn size(ask: &Ask) -> (u32, u32) {
    let numbers =
        ask.text("size").split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    numbers.unwrap_or((1024, 1024))
}

fn quality(ask: &Ask) -> &str {
    match ask.text("quality") {
        "" | "auto" => "high",
        named => named,
    }
}

/// Tokens of one picture, as the price list of gpt-image-1 has them.
fn tokens(ask: &Ask) -> u64 {
    let (width, height) = size(ask);
    let by_quality = match width.cmp(&height) {
        std::cmp::Ordering::Equal => [272, 1056, 4160],
        std::cmp::Ordering::Less => [408, 1584, 6240],
        std::cmp::Ordering::Greater => [400, 1568, 6208],
    };
    match quality(ask) {
        "low" => by_quality[0],
        "medium" => by_quality[1],
        _ => by_quality[2],
    }
}

/// The whole unary answer.
pub(super) fn body(plan: &Plan) -> Event {
    let ask = &plan.ask;
    let is_gpt = is_gpt(&plan.model_name());
    let in_body = is_gpt || ask.text("response_format") == "b64_json";
    let image = |index: u64| match in_body {
        true => json!({"b64_json": base64(plan, index)}),
        false => json!({"url": format!("https://images.invalid/img-{:016x}.png", mix(plan.id ^ index))}),
    };
    let mut answer = json!({"created": CREATED, "data": (0..count(ask)).map(image).collect::<Vec<Value>>()});
    if is_gpt && let Value::Object(members) = &mut answer {
        members.extend(about(plan));
        if plan.reports_usage {
            members.insert("usage".to_owned(), usage(plan));
        }
    }
    let text = answer.to_string();
    let text_at = text.find("\"b64_json\":\"").map_or(0, |at| at + 12);
    let tokens = plan.usage.output_tokens;
    Event { text_at, tokens, has_usage: is_gpt && plan.reports_usage, ..Event::plain(text) }
}

/// The events of a stream, each made when it is asked for.
pub(super) fn stream(plan: Plan) -> impl Iterator<Item = Event> + Send + Sync {
    let kind = if plan.ask.target.operation == Operation::Edit { "image_edit" } else { "image_generation" };
    let partials = plan.ask.number("partial_images").unwrap_or(0).min(PARTIAL_IMAGES_MAX);
    (0..=partials).map(move |index| {
        let is_last = index == partials;
        let mut members = about(&plan);
        members.insert("created_at".to_owned(), CREATED.into());
        if !is_last {
            members.insert("partial_image_index".to_owned(), index.into());
        } else if plan.reports_usage {
            members.insert("usage".to_owned(), usage(&plan));
        }
        let kind = format!("{kind}.{}", if is_last { "completed" } else { "partial_image" });
        let before = format!("event: {kind}\ndata: {{\"type\":\"{kind}\",\"b64_json\":\"");
        let members = Value::Object(members).to_string();
        let text = format!("{before}{}\",{}\n\n", base64(&plan, index), &members[1..]);
        Event {
            text_at: before.len(),
            tokens: if is_last { plan.usage.output_tokens } else { 0 },
            is_paced: index > 0,
            has_usage: is_last && plan.reports_usage,
            ..Event::plain(text)
        }
    })
}

fn base64(plan: &Plan, index: u64) -> String {
    let (width, height) = size(&plan.ask);
    STANDARD.encode(picture::png(width, height, plan.id ^ index, plan.image_bytes_min))
}

/// What was made, as the answer says it of all pictures.
fn about(plan: &Plan) -> Map<String, Value> {
    let (width, height) = size(&plan.ask);
    let pairs = [
        ("background", "opaque".to_owned()),
        ("output_format", "png".to_owned()),
        ("quality", quality(&plan.ask).to_owned()),
        ("size", format!("{width}x{height}")),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

fn usage(plan: &Plan) -> Value {
    let usage = &plan.usage;
    let image_tokens = usage.image_input_tokens;
    json!({
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"image_tokens": image_tokens, "text_tokens": usage.input_tokens - image_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"image_tokens": usage.output_tokens, "text_tokens": 0},
        "total_tokens": usage.total_tokens(),
    })
}
