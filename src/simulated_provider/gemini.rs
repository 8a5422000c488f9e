//! Gemini `generateContent` as the real one writes it: the answer in parts, as events or as the elements of an array, with
//! the usage so far in each; `countTokens`; errors and headers.

use super::ask::{Ask, either, tool_called};
use super::plan::{Event, Plan, json_string};
use super::request::Request;
use super::route::Operation;
use super::text::mix;
use bytes::{BufMut, Bytes, BytesMut};
use filters::dialect::Dialect;
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;

const CANDIDATES_MAX: u64 = 8;

/// Headers of every answer; a gateway drops most of them.
pub(super) const HEADERS: [(&str, &str); 6] = [
    ("server", "scaffolding on HTTPServer2"),
    ("server-timing", "gfet4t7; dur=12"),
    ("vary", "Origin, X-Origin, Referer"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "SAMEORIGIN"),
    ("alt-svc", "h3=\":443\"; ma=2592000"),
];

/// Reads a request; the error is a sentence for the caller.
pub(super) fn read(ask: Ask) -> Result<Request, String> {
    let model = ask.model()?.to_owned();
    let is_count = ask.target.dialect == Dialect::GeminiCount;
    let wrapped = ask.either("generateContentRequest", "generate_content_request");
    let contents = if is_count && wrapped.is_object() { &wrapped["contents"] } else { &ask.body["contents"] };
    if !contents.is_array() {
        return Err("* GenerateContentRequest.contents: contents is not specified".to_owned());
    }
    let settings = ask.either("generationConfig", "generation_config");
    let candidates = either(settings, "candidateCount", "candidate_count").as_u64().unwrap_or(1);
    if !(1..=CANDIDATES_MAX).contains(&candidates) {
        return Err(format!("Only 1 to {CANDIDATES_MAX} candidates can be specified."));
    }
    let prompt = ask.prompt(contents);
    let said = contents.as_array().and_then(|contents| contents.last());
    let is_result =
        said.is_some_and(|said| said["parts"].as_array().is_some_and(|parts| parts.iter().any(is_tool_result)));
    let tool = first_tool(&ask).filter(|_| !is_result && !is_count).and_then(|first| {
        let choice =
            either(ask.either("toolConfig", "tool_config"), "functionCallingConfig", "function_calling_config");
        let allowed = &either(choice, "allowedFunctionNames", "allowed_function_names")[0];
        tool_called(choice["mode"].as_str().unwrap_or("AUTO"), allowed.as_str().unwrap_or(first), prompt)
    });
    Ok(Request {
        streamed: ask.is_streamed(),
        output_limit: either(settings, "maxOutputTokens", "max_output_tokens").as_u64(),
        choices: candidates,
        input_tokens: ask.words(),
        output_tokens: is_count.then_some(0),
        content_type: (ask.target.operation == Operation::StreamedArray).then_some("application/json; charset=UTF-8"),
        tool,
        ..Request::new(ask, &model, prompt)
    })
}

fn is_tool_result(part: &Value) -> bool {
    !either(part, "functionResponse", "function_response").is_null()
}

fn first_tool(ask: &Ask) -> Option<&str> {
    let tools = ask.body["tools"].as_array()?.iter();
    let mut declared = tools.flat_map(|tool| {
        either(tool, "functionDeclarations", "function_declarations").as_array().into_iter().flatten()
    });
    declared.find_map(|function| function["name"].as_str())
}

/// The whole unary answer.
pub(super) fn body(plan: &Plan) -> Event {
    let part = format!("{{{}}}", whole_part(plan));
    let candidates: Vec<String> = (0..plan.choices).map(|index| candidate(plan, index, &part, true)).collect();
    let text = answer(plan, &candidates.join(","), plan.usage.output_tokens);
    let text_at = text.find("{\"text\":\"").map_or(0, |at| at + 9);
    let tokens = plan.choices * plan.reply.tokens;
    Event { text_at, tokens, has_usage: plan.reports_usage, ..Event::plain(text + "\n") }
}

/// How many tokens a request has.
pub(super) fn count(plan: &Plan) -> Event {
    let tokens = plan.usage.input_tokens;
    let details = json!([{"modality": "TEXT", "tokenCount": tokens}]);
    Event::plain(json!({"totalTokens": tokens, "promptTokensDetails": details}).to_string())
}

/// The parts of a stream, each made when it is asked for.
pub(super) fn stream(plan: Plan) -> impl Iterator<Item = Event> + Send + Sync {
    let plan = Arc::new(plan);
    // A call of a tool is told in one piece.
    let pieces = if plan.tool.is_some() { 1 } else { plan.reply.tokens.max(1) };
    let choices = plan.choices;
    let is_array = plan.ask.target.operation == Operation::StreamedArray;
    let of_end = Arc::clone(&plan);
    let parts = (0..pieces)
        .flat_map(move |index| (0..choices).map(move |choice| (index, choice)))
        .map(move |(index, choice)| framed(&plan, piece(&plan, index, choice), (index, choice) == (0, 0)));
    parts.chain((is_array && of_end.ends_properly).then(|| Event::plain("]\n")))
}

fn framed(plan: &Plan, event: Event, is_first: bool) -> Event {
    let (before, after) = match plan.ask.target.operation {
        Operation::StreamedArray if is_first => ("[", ""),
        Operation::StreamedArray => ("\n,\r\n", ""),
        _ => ("data: ", "\r\n\r\n"),
    };
    let bytes = [before.as_bytes(), &event.bytes, after.as_bytes()].concat();
    let text_at = if event.text_at > 0 { event.text_at + before.len() } else { 0 };
    Event { bytes: bytes.into(), text_at, ..event }
}

fn piece(plan: &Plan, index: u64, choice: u64) -> Event {
    let is_last = plan.tool.is_some() || index + 1 >= plan.reply.tokens;
    let part = match plan.tool {
        Some(_) => whole_part(plan),
        None => {
            let mut text = BytesMut::from(&b"\"text\":\""[..]);
            if plan.reply.tokens > 0 {
                plan.reply.write_piece(index, &mut text);
            }
            text.put_u8(b'"');
            String::from_utf8_lossy(&text).into_owned()
        }
    };
    let is_very_last = is_last && choice + 1 == plan.choices;
    let tokens = if plan.tool.is_some() { plan.reply.tokens } else { plan.reply.tokens.min(1) };
    let so_far = index * plan.choices + (choice + 1) * tokens + plan.usage.reasoning_tokens;
    let so_far = if is_very_last { plan.usage.output_tokens } else { so_far };
    // Where the final event is to be missing, nothing says that the answer is at its end.
    let text = answer(plan, &candidate(plan, choice, &format!("{{{part}}}"), is_last && plan.ends_properly), so_far);
    let text_at = text.find("{\"text\":\"").map_or(0, |at| at + 9);
    let has_usage = is_very_last && plan.reports_usage;
    Event { text_at, tokens, is_paced: index > 0 && choice == 0, has_usage, ..Event::plain(text) }
}

/// The members of the part that holds the whole reply.
fn whole_part(plan: &Plan) -> String {
    let words = plan.whole_text();
    match &plan.tool {
        None => format!("\"text\":{}", json_string(&words)),
        Some(tool) => {
            // Arguments that the limit has cut are none.
            let arguments = serde_json::from_str::<Value>(&words).unwrap_or_else(|_| json!({}));
            format!("\"functionCall\":{{\"name\":{tool},\"args\":{arguments}}}")
        }
    }
}

fn candidate(plan: &Plan, index: u64, part: &str, is_last: bool) -> String {
    let reason = match (is_last, plan.reply.is_cut) {
        (false, _) => "",
        (true, true) => ",\"finishReason\":\"MAX_TOKENS\"",
        (true, false) => ",\"finishReason\":\"STOP\"",
    };
    format!("{{\"content\":{{\"parts\":[{part}],\"role\":\"model\"}}{reason},\"index\":{index}}}")
}

fn answer(plan: &Plan, candidates: &str, output_tokens: u64) -> String {
    let usage = plan.reports_usage.then(|| format!(",\"usageMetadata\":{}", usage(plan, output_tokens)));
    format!(
        "{{\"candidates\":[{candidates}]{},\"modelVersion\":{},\"responseId\":\"{:016x}\"}}",
        usage.unwrap_or_default(),
        plan.model,
        mix(plan.id),
    )
}

/// The usage so far. Thoughts are beside the candidates' tokens, what tools added is beside the prompt's.
fn usage(plan: &Plan, output_tokens: u64) -> Value {
    let usage = &plan.usage;
    let details = |kinds: [(&str, u64); 3]| -> Vec<Value> {
        let found = kinds.into_iter().filter(|(_, tokens)| *tokens > 0);
        found.map(|(modality, tokens)| json!({"modality": modality, "tokenCount": tokens})).collect()
    };
    let (audio, image) = (usage.audio_input_tokens, usage.image_input_tokens);
    let text = usage.input_tokens - audio - image;
    let mut members = json!({
        "promptTokenCount": usage.input_tokens,
        "candidatesTokenCount": output_tokens - usage.reasoning_tokens,
        "totalTokenCount": usage.input_tokens + usage.tool_prompt_tokens + output_tokens,
        "promptTokensDetails": details([("TEXT", text), ("AUDIO", audio), ("IMAGE", image)]),
    });
    let others = [
        ("thoughtsTokenCount", usage.reasoning_tokens),
        ("cachedContentTokenCount", usage.cached_tokens),
        ("toolUsePromptTokenCount", usage.tool_prompt_tokens),
    ];
    for (name, tokens) in others.into_iter().filter(|(_, tokens)| *tokens > 0) {
        members[name] = tokens.into();
    }
    let (audio, image) = (usage.audio_output_tokens, usage.image_output_tokens);
    if audio + image > 0 && output_tokens == usage.output_tokens {
        let text = output_tokens - usage.reasoning_tokens - audio - image;
        members["candidatesTokensDetails"] = details([("TEXT", text), ("AUDIO", audio), ("IMAGE", image)]).into();
    }
    members
}

/// The body of an answer with an error status.
pub(super) fn error_body(status: StatusCode, message: &str) -> Bytes {
    let kind = match status.as_u16() {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        500.. => "INTERNAL",
        _ => "FAILED_PRECONDITION",
    };
    let (code, message) = (status.as_u16(), json_string(message));
    let text = format!(
        "{{\n  \"error\": {{\n    \"code\": {code},\n    \"message\": {message},\n    \"status\": \"{kind}\"\n  }}\n}}\n"
    );
    text.into()
}

/// A failure told in the middle of a stream.
pub(super) fn error_event(operation: Operation, is_first: bool) -> Event {
    let error = json!({"error": {"code": 503, "message": "The model is overloaded. Please try again later.",
        "status": "UNAVAILABLE"}});
    let text = match operation {
        Operation::StreamedArray if is_first => format!("[{error}]\n"),
        Operation::StreamedArray => format!("\n,\r\n{error}]\n"),
        _ => format!("data: {error}\r\n\r\n"),
    };
    Event { is_failure: true, ..Event::plain(text) }
}
