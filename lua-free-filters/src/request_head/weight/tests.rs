//! What the requests of each dialect weigh, beside the bytes of their text.

use super::Weight;
use crate::dialect::Dialect;
use crate::request_head::{RequestHead, scan};
use serde_json::{Value, json};

fn head(dialect: Dialect, body: &Value) -> RequestHead {
    scan(body.to_string().as_bytes(), dialect).expect("a request")
}

fn weight(dialect: Dialect, mut body: Value) -> Weight {
    body["model"] = json!("m");
    head(dialect, &body).weight
}

/// Whether input counts that is no text, sounds, pictures; and whether nothing bounds the cost.
fn traits(dialect: Dialect, body: Value) -> (bool, bool, bool, bool) {
    let weight = weight(dialect, body);
    (weight.has_foreign_input, weight.has_audio, weight.has_images, weight.has_unlimited_tool)
}

const TEXT: (bool, bool, bool, bool) = (false, false, false, false);
const PICTURE: (bool, bool, bool, bool) = (true, false, true, false);
const SOUND: (bool, bool, bool, bool) = (true, true, false, false);
const ANYTHING: (bool, bool, bool, bool) = (true, true, true, false);

fn is_unlimited(dialect: Dialect, body: Value) -> bool {
    traits(dialect, body).3
}

#[test]
fn responses_are_weighed() {
    let of = |input: Value| traits(Dialect::OpenaiResponses, json!({"input": [input]}));
    assert_eq!(traits(Dialect::OpenaiResponses, json!({"input": "text", "instructions": "more"})), TEXT);
    assert_eq!(of(json!({"role": "user", "content": "text"})), TEXT);
    assert_eq!(of(json!({"type": "reasoning", "id": "rs_1", "encrypted_content": "AAAA"})), TEXT);
    assert_eq!(of(json!({"content": [{"type": "input_image", "image_url": "https://example.com"}]})), PICTURE);
    assert_eq!(of(json!({"content": [{"type": "input_file", "file_url": "https://example.com"}]})), PICTURE);
    assert_eq!(of(json!({"type": "computer_call_output", "output": {"type": "computer_screenshot"}})), PICTURE);
    assert_eq!(of(json!({"type": "item_reference", "id": "msg_1"})), ANYTHING);
    for stored in [json!({"previous_response_id": "r"}), json!({"conversation": "c"}), json!({"prompt": {"id": "p"}})] {
        assert_eq!(traits(Dialect::OpenaiResponses, stored), ANYTHING);
    }
    assert_eq!(weight(Dialect::OpenaiResponses, json!({"input": [{"content": "a"}, {"content": "b"}]})).messages, 2);
}

#[test]
fn tools_of_responses_are_bounded_by_their_calls() {
    let with = |tool: &str, more: Value| {
        let mut body = more;
        body["tools"] = json!([{"type": tool}]);
        weight(Dialect::OpenaiResponses, body)
    };
    for own in ["function", "custom"] {
        assert!(!with(own, json!({})).has_unlimited_tool && !with(own, json!({})).has_foreign_input);
    }
    for known in ["local_shell", "computer_use_preview", "apply_patch"] {
        assert!(!with(known, json!({})).has_unlimited_tool && with(known, json!({})).has_foreign_input);
    }
    for search in ["web_search", "web_search_preview", "web_search_2025_08_26"] {
        assert!(with(search, json!({})).has_unlimited_tool);
        let limited = with(search, json!({"max_tool_calls": 3}));
        assert_eq!((limited.server_tool_uses, limited.has_unlimited_tool), (3, false));
    }
    for unpriced in ["file_search", "code_interpreter", "image_generation", "mcp", "shell", "of tomorrow"] {
        assert!(with(unpriced, json!({"max_tool_calls": 3})).has_unlimited_tool, "{unpriced}");
    }
    let twice = json!({"max_tool_calls": 4, "tools": [{"type": "web_search"}, {"type": "web_search_preview"}]});
    assert_eq!(weight(Dialect::OpenaiResponses, twice).server_tool_uses, 4);
    for asked in [json!({"reasoning": {"mode": "pro"}}), json!({"context_management": [{"type": "compaction"}]})] {
        assert!(is_unlimited(Dialect::OpenaiResponses, asked));
    }
    assert!(!is_unlimited(Dialect::OpenaiResponses, json!({"reasoning": {"mode": "standard", "effort": "high"}})));
}

#[test]
fn numbers_that_are_tokens_count_one_each() {
    for (dialect, member) in [(Dialect::OpenaiCompletions, "prompt"), (Dialect::OpenaiEmbeddings, "input")] {
        let of = |value: Value| weight(dialect, json!({member: value}));
        assert_eq!((of(json!([1, 2, 3])).tokens, of(json!([[1, 2], [3]])).tokens, of(json!("text")).tokens), (3, 3, 0));
        assert_eq!(of(json!([1, 2, 3])).text_bytes, of(json!([])).text_bytes);
        assert!(of(json!([1, 2, 3])).input_bound() < of(json!([])).input_bound() + 60);
    }
    assert_eq!(weight(Dialect::OpenaiChat, json!({"prompt": [1, 2, 3]})).tokens, 0);
    let prompts =
        |value: Value| head(Dialect::OpenaiCompletions, &json!({"model": "m", "best_of": 2, "prompt": value})).choices;
    assert_eq!((prompts(json!(["a", [1, 2], "b"])), prompts(json!([1, 2])), prompts(json!("a"))), (6, 2, 2));
}

#[test]
fn gemini_requests_are_weighed() {
    let dialect = Dialect::GeminiGenerate;
    let of = |part: Value| traits(dialect, json!({"contents": [{"role": "user", "parts": [part]}]}));
    assert_eq!(of(json!({"text": "text"})), TEXT);
    assert_eq!(of(json!({"functionCall": {"name": "f", "args": {"x": 1}}})), TEXT);
    assert_eq!(of(json!({"inlineData": {"mimeType": "image/png", "data": "AAAA"}})), PICTURE);
    assert_eq!(of(json!({"inline_data": {"data": "AAAA", "mime_type": "audio/wav"}})), SOUND);
    for film in [json!({"mimeType": "video/mp4", "data": "A"}), json!({"data": "A"})] {
        assert_eq!(of(json!({"inlineData": film})), ANYTHING);
    }
    for file in [json!({"fileData": {"fileUri": "files/1"}}), json!({"file_data": {"file_uri": "https://example.com"}})]
    {
        assert_eq!(of(file), ANYTHING);
    }
    assert_eq!(traits(dialect, json!({"cachedContent": "cachedContents/1"})), ANYTHING);
    let data = |length: usize| json!({"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "A".repeat(length)}}]}]});
    assert_eq!(weight(dialect, data(10)).text_bytes, weight(dialect, data(10_000)).text_bytes);
    let functions =
        json!({"tools": [{"functionDeclarations": [{"name": "f"}, {"name": "g", "parameters": {"type": "mcp"}}]}]});
    assert_eq!((weight(dialect, functions.clone()).tools, traits(dialect, functions)), (3, TEXT));
    assert_eq!(traits(dialect, json!({"tools": [{"computerUse": {}}]})), ANYTHING);
    for tool in ["googleSearch", "google_search", "urlContext", "codeExecution", "googleMaps", "fileSearch"] {
        assert!(is_unlimited(dialect, json!({"tools": [{tool: {}}]})), "{tool}");
        assert!(!is_unlimited(dialect, json!({"tools": [{tool: null}]})), "{tool}");
    }
    let settings = json!({"generationConfig": {"responseModalities": ["TEXT", "IMAGE"], "candidateCount": 2}});
    assert!(weight(dialect, settings.clone()).wants_images && !weight(dialect, settings).wants_audio);
}

#[test]
fn bedrock_requests_are_weighed() {
    let dialect = Dialect::BedrockConverse;
    let of = |block: Value| traits(dialect, json!({"messages": [{"role": "user", "content": [block]}]}));
    assert_eq!(of(json!({"text": "text"})), TEXT);
    for source in [json!({"bytes": "AAAA"}), json!({"s3Location": {"uri": "s3://bucket/x"}})] {
        assert_eq!(of(json!({"image": {"format": "png", "source": source}})), PICTURE);
        assert_eq!(of(json!({"document": {"format": "pdf", "source": source}})), PICTURE);
        assert_eq!(of(json!({"video": {"format": "mp4", "source": source}})), ANYTHING);
    }
    assert_eq!(of(json!({"toolResult": {"content": [{"image": {"source": {"bytes": "AAAA"}}}]}})), PICTURE);
    let specified =
        json!({"toolConfig": {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {"type": "mcp"}}}}]}});
    assert_eq!((weight(dialect, specified.clone()).tools, traits(dialect, specified)), (1, TEXT));
    assert!(is_unlimited(dialect, json!({"toolConfig": {"tools": [{"systemTool": {"name": "nova_grounding"}}]}})));
    assert!(is_unlimited(dialect, json!({"additionalModelRequestFields": {"tools": [{"type": "mcp"}]}})));
    assert!(is_unlimited(dialect, json!({"guardrailConfig": {"guardrailIdentifier": "g"}})));
    use crate::price::CacheWrite;
    let cached = |point: Value| weight(dialect, json!({"system": [{"cachePoint": point}]})).cache_write;
    assert_eq!(cached(json!({"type": "default"})), CacheWrite::FiveMinutes);
    assert_eq!(cached(json!({"type": "default", "ttl": "1h"})), CacheWrite::Hour);
    let thinking = json!({"additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 900}}});
    assert_eq!(weight(dialect, thinking).thinking_budget, 900);
    let answers = |body: Value| scan(body.to_string().as_bytes(), Dialect::BedrockInvoke).expect("a request").choices;
    assert_eq!(answers(json!({"prompt": "x", "num_generations": 3})), 3);
    assert_eq!(answers(json!({"imageGenerationConfig": {"numberOfImages": 2}})), 2);
}

#[test]
fn cohere_requests_are_weighed() {
    let chat = |body: Value| weight(Dialect::CohereChat, body);
    assert_eq!(chat(json!({"thinking": {"type": "enabled", "token_budget": 700}})).thinking_budget, 700);
    assert_eq!(chat(json!({"messages": [{"content": "x"}], "documents": ["a", {"data": {"text": "b"}}]})).messages, 3);
    let embed = |body: Value| traits(Dialect::CohereEmbed, body);
    assert_eq!(embed(json!({"texts": ["a", "b"]})), TEXT);
    assert_eq!(embed(json!({"images": ["data:image/png;base64,AAAA"]})), PICTURE);
    let mixed =
        json!({"inputs": [{"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]});
    assert_eq!(embed(mixed), PICTURE);
    let ranked = |documents: Vec<String>, query: usize| {
        let documents =
            weight(Dialect::CohereRerank, json!({"query": "q".repeat(query), "documents": documents})).documents;
        (documents.units(), documents.units_max())
    };
    assert_eq!(ranked(vec!["x".to_owned(); 100], 1), (1, 1));
    assert_eq!(ranked(vec!["x".to_owned(); 101], 1), (2, 2));
    // Documents of 500 tokens, if a token is four bytes; of 2 000, if it is one.
    assert_eq!(ranked(vec!["x".repeat(2_000); 100], 0), (1, 5));
    assert_eq!(ranked(vec!["x".repeat(2_001); 100], 0), (2, 5));
    assert_eq!(ranked(vec!["x".to_owned(); 100], 500).1, 2);
}

#[test]
fn what_is_spoken_or_drawn_is_counted() {
    let spoken = weight(Dialect::OpenaiSpeech, json!({"input": "Grüße", "instructions": "slowly"}));
    assert_eq!(spoken.characters, 5);
    let drawn =
        json!({"prompt": "x", "partial_images": 3, "images": [{"image_url": "https://example.com"}, {"file_id": "f"}]});
    let drawn = weight(Dialect::OpenaiImages, drawn);
    assert_eq!((drawn.partial_images, drawn.has_images, drawn.has_foreign_input), (3, true, true));
    assert!(drawn.attachments >= 2);
}
