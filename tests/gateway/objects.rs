//! What providers store: whoever made it may name it, and nobody else; and it is asked for where it was made.

mod background;
mod files;

use crate::support::{Answer, Exchange, Gateway, Key, Request, Scripted, Setup, Upstream};
use serde_json::{Value, json};

/// The first line of a request, without its version.
fn line(exchange: &Exchange) -> String {
    let line = exchange.request.head.lines().next().unwrap_or_default();
    line.trim_end_matches(" HTTP/1.1").to_owned()
}

/// A provider of OpenAI's protocol that gives everything that it makes a number of its own.
fn openai(name: &'static str) -> Scripted {
    Scripted::start(move |exchange| {
        let (asked, number) = (line(exchange), format!("{name}_{}", exchange.number));
        let answer = match asked.as_str() {
            "POST /v1/responses" if exchange.request.body.windows(8).any(|window| window == b"\"stream\"") => {
                return stream(exchange, &number);
            }
            "POST /v1/responses" => response(&number),
            "POST /v1/chat/completions" => json!({
                "id": "chatcmpl", "choices": [{"message": {"content": null, "audio": {"id": format!("audio_{number}"), "data": "AAAA"}}}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 2},
            }),
            "POST /v1/files" => json!({"id": format!("file-{number}"), "object": "file", "purpose": "user_data"}),
            other => json!({"asked": other}),
        };
        exchange.answer(200, &answer.to_string());
    })
}

fn response(number: &str) -> Value {
    json!({
        "id": format!("resp_{number}"), "object": "response", "status": "completed",
        "conversation": {"id": format!("conv_{number}")},
        "output": [
            {"type": "code_interpreter_call", "id": format!("ci_{number}"), "container_id": format!("cntr_{number}")},
            {"type": "message", "id": format!("msg_{number}"), "content": [{"type": "output_text", "text": "{\"id\": \"resp_text\"}"}]},
        ],
        "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
    })
}

fn stream(exchange: &mut Exchange, number: &str) {
    exchange.begin_stream();
    let mut whole = response(number);
    whole["output"] = json!([]);
    exchange.event(&json!({"type": "response.created", "response": whole}).to_string());
    let item = &response(number)["output"][0];
    exchange.event(&json!({"type": "response.output_item.added", "item": item}).to_string());
    exchange.event(&json!({"type": "response.completed", "response": response(number)}).to_string());
    exchange.end_stream();
}

/// A provider of Anthropic's protocol.
fn anthropic(name: &'static str) -> Scripted {
    Scripted::start(move |exchange| {
        let (asked, number) = (line(exchange), format!("{name}_{}", exchange.number));
        let result = json!({"type": "bash_code_execution_tool_result", "content": {
            "type": "bash_code_execution_result",
            "content": [{"type": "bash_code_execution_output", "file_id": format!("file_{number}")}],
        }});
        let answer = match asked.as_str() {
            "POST /v1/messages" => json!({
                "id": "msg", "type": "message", "content": [result], "container": {"id": format!("container_{number}")},
                "usage": {"input_tokens": 3, "output_tokens": 2},
            }),
            "POST /v1/files" => json!({"id": format!("file_up_{number}"), "type": "file", "filename": "a.txt"}),
            other => json!({"asked": other}),
        };
        exchange.answer(200, &answer.to_string());
    })
}

/// A key of another organisation.
fn another_organisations_key(gateway: &Gateway) -> Key {
    let org = gateway.tollgate(&["org", "create", "another"])["id"].as_str().expect("an id").to_owned();
    gateway.tollgate(&["org", "topup", &org, "1000"]);
    let made = gateway.tollgate(&["key", "create", "--org", &org, "--name", "another"]);
    let text = |field: &str| made[field].as_str().expect("text").to_owned();
    Key { id: text("id"), token: text("token") }
}

fn post(gateway: &Gateway, key: &Key, path: &str, body: &Value) -> Answer {
    let mut request = Request::post(path, body.to_string()).bearer(&key.token);
    if path == "/v1/messages" {
        request = request.header("anthropic-version", "2023-06-01");
    }
    gateway.exchange(&request)
}

fn ask(gateway: &Gateway, key: &Key, method: &'static str, path: &str) -> Answer {
    gateway.exchange(&Request { method, ..Request::get(path) }.bearer(&key.token))
}

/// A response made with the gateway's own key.
fn make_response(gateway: &Gateway) -> Value {
    let answer = post(gateway, &gateway.key, "/v1/responses", &json!({"model": "gpt-4o-mini", "input": "Hello"}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn make_file(gateway: &Gateway) -> String {
    let answer = post(gateway, &gateway.key, "/v1/files", &json!({"not": "looked at"}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["id"].as_str().expect("an id").to_owned()
}

/// Sends bodies that name an id in one field each, at the place of `ID`: the owner's pass; another organisation's and those with an
/// id that nobody has are refused in the same words, and the provider never sees them.
fn check_fields(gateway: &Gateway, provider: &Scripted, path: &str, fields: &[(&str, &str, Value)]) {
    let another = another_organisations_key(gateway);
    for (field, id, body) in fields {
        let named = |id: &str| serde_json::from_str::<Value>(&body.to_string().replace("ID", id)).expect("JSON");
        let seen = provider.requests().len();
        let own = post(gateway, &gateway.key, path, &named(id));
        assert_eq!(own.status, 200, "{field}: {}", own.text());
        assert_eq!(provider.requests().len(), seen + 1, "{field}");
        for (key, id) in [(&another, *id), (&gateway.key, "nobodys"), (&another, "nobodys")] {
            let answer = post(gateway, key, path, &named(id));
            assert_eq!(answer.status, 404, "{field}: {}", answer.text());
            let error = &answer.json()["error"];
            let message = error["message"].as_str().expect("a sentence");
            assert!(message.contains(id) && message.starts_with("No such "), "{field}: {message}");
            match path {
                "/v1/messages" => assert_eq!(error["type"], "not_found_error", "{field}"),
                _ => assert_eq!((&error["param"], &error["code"]), (&json!(field), &json!("not_found")), "{field}"),
            }
        }
        assert_eq!(provider.requests().len(), seen + 1, "{field}: only the owner's request was sent");
    }
}

#[test]
fn every_field_of_a_response_names_only_ones_own() {
    let provider = openai("a");
    let gateway = Setup::new().upstream(Upstream::openai("p", provider.url())).start();
    let made = make_response(&gateway);
    let text = |value: &Value| value.as_str().expect("an id").to_owned();
    let (response, conversation) = (text(&made["id"]), text(&made["conversation"]["id"]));
    let [code, message] = [0, 1].map(|place| text(&made["output"][place]["id"]));
    let (container, file) = (text(&made["output"][0]["container_id"]), make_file(&gateway));
    let with = |field: &str, value: Value| {
        let mut body = json!({"model": "gpt-4o-mini", "input": "Hello"});
        body[field] = value;
        body
    };
    let tool = |tool: Value| with("tools", json!([tool]));
    let fields = [
        ("previous_response_id", &*response, with("previous_response_id", json!("ID"))),
        ("conversation", &*conversation, with("conversation", json!("ID"))),
        ("conversation", &*conversation, with("conversation", json!({"id": "ID"}))),
        ("item_reference", &*message, with("input", json!([{"type": "item_reference", "id": "ID"}]))),
        ("item_reference", &*message, with("input", json!([{"id": "ID"}]))),
        ("input.id", &*code, with("input", json!([{"type": "code_interpreter_call", "id": "ID"}]))),
        ("container_id", &*container, with("input", json!([{"type": "code_interpreter_call", "container_id": "ID"}]))),
        ("container", &*container, tool(json!({"type": "code_interpreter", "container": "ID"}))),
        (
            "file_ids",
            &*file,
            tool(json!({"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["ID"]}})),
        ),
        (
            "file_id",
            &*file,
            with("input", json!([{"role": "user", "content": [{"type": "input_file", "file_id": "ID"}]}])),
        ),
        (
            "file_id",
            &*file,
            with("input", json!([{"role": "user", "content": [{"type": "input_image", "file_id": "ID"}]}])),
        ),
        ("input_file_id", &*file, with("input_file_id", json!("ID"))),
    ];
    check_fields(&gateway, &provider, "/v1/responses", &fields);
}

#[test]
fn every_field_of_a_chat_names_only_ones_own() {
    let provider = openai("a");
    let gateway = Setup::new().upstream(Upstream::openai("p", provider.url())).start();
    let spoken = json!({"model": "gpt-4o-mini", "modalities": ["text", "audio"], "messages": []});
    let answer = post(&gateway, &gateway.key, "/v1/chat/completions", &spoken).json();
    let audio = answer["choices"][0]["message"]["audio"]["id"].as_str().expect("an id").to_owned();
    let file = make_file(&gateway);
    let part = json!([{"role": "user", "content": [{"type": "file", "file": {"file_id": "ID"}}]}]);
    let fields = [
        (
            "audio.id",
            &*audio,
            json!({"model": "gpt-4o-mini", "messages": [{"role": "assistant", "audio": {"id": "ID"}}]}),
        ),
        ("file_id", &*file, json!({"model": "gpt-4o-mini", "messages": part})),
    ];
    check_fields(&gateway, &provider, "/v1/chat/completions", &fields);
}

#[test]
fn every_field_of_a_message_names_only_ones_own() {
    let provider = anthropic("a");
    let gateway = Setup::new().upstream(Upstream::anthropic("p", provider.url())).start();
    let with = |content: Value| json!({"model": "claude-sonnet-4-6", "max_tokens": 9, "messages": [{"role": "user", "content": [content]}]});
    let mut running = with(json!({"type": "text", "text": "Run it"}));
    running["tools"] = json!([{"type": "code_execution_20250825", "name": "code_execution"}]);
    let made = post(&gateway, &gateway.key, "/v1/messages", &running).json();
    let container = made["container"]["id"].as_str().expect("an id").to_owned();
    let file = made["content"][0]["content"]["content"][0]["file_id"].as_str().expect("an id").to_owned();
    let [mut as_text, mut as_object] = [running.clone(), running.clone()];
    as_text["container"] = json!("ID");
    as_object["container"] = json!({"id": "ID"});
    let fields = [
        ("container", &*container, as_text),
        ("container", &*container, as_object),
        ("file_id", &*file, with(json!({"type": "document", "source": {"type": "file", "file_id": "ID"}}))),
        ("file_id", &*file, with(json!({"type": "image", "source": {"type": "file", "file_id": "ID"}}))),
        ("file_id", &*file, with(json!({"type": "container_upload", "file_id": "ID"}))),
    ];
    check_fields(&gateway, &provider, "/v1/messages", &fields);
}

#[test]
fn what_is_made_in_a_console_is_everybodys_or_nobodys() {
    let provider = openai("a");
    let shared = "shared_objects = ['vs_all', 'pmpt_all', 'voice_all', 'skill_all', 's3://all']";
    let gateway = Setup::new().upstream(Upstream::openai("p", provider.url()).setting(shared)).start();
    let another = another_organisations_key(&gateway);
    let with = |field: &str, value: Value| {
        let mut body = json!({"model": "gpt-4o-mini", "input": "Hello"});
        body[field] = value;
        body
    };
    for (field, id, body) in [
        ("vector_store_ids", "vs_", with("tools", json!([{"type": "file_search", "vector_store_ids": ["ID"]}]))),
        ("prompt.id", "pmpt_", with("prompt", json!({"id": "ID"}))),
        ("voice.id", "voice_", with("audio", json!({"voice": {"id": "ID"}}))),
        ("skill_id", "skill_", with("tools", json!([{"type": "shell", "skills": [{"skill_id": "ID"}]}]))),
        ("uri", "s3://", with("source", json!({"s3Location": {"uri": "ID"}}))),
    ] {
        for (name, status) in [("all", 200), ("own", 404)] {
            let body: Value =
                serde_json::from_str(&body.to_string().replace("ID", &format!("{id}{name}"))).expect("JSON");
            for key in [&gateway.key, &another] {
                let answer = post(&gateway, key, "/v1/responses", &body);
                assert_eq!(answer.status, status, "{field} {name}: {}", answer.text());
                if status == 404 {
                    assert_eq!(answer.json()["error"]["param"], *field);
                }
            }
        }
    }
}

#[test]
fn geminis_files_and_caches_are_nobodys() {
    let provider = Scripted::answering(200, r#"{"candidates":[],"usageMetadata":{"promptTokenCount":3}}"#);
    let url = format!("http://{}/v1beta", provider.address);
    let upstream =
        Upstream::speaking("gemini", "g", url).setting("shared_objects = ['cachedContents/all', 'files/all']");
    let gateway = Setup::new().every_protocol().upstream(upstream).start();
    let part = |uri: &str| json!({"contents": [{"parts": [{"fileData": {"fileUri": uri}}]}]});
    let cached = |id: &str| json!({"contents": [], "cachedContent": id});
    let files = "https://generativelanguage.googleapis.com/v1beta/files";
    for (body, status) in [
        (cached("cachedContents/all"), 200),
        (cached("cachedContents/x"), 404),
        (part(&format!("{files}/all")), 200),
        (part(&format!("{files}/x")), 404),
        (part("gs://bucket/x"), 404),
        (part("https://www.youtube.com/watch?v=x"), 200),
    ] {
        let seen = provider.requests().len();
        let answer = post(&gateway, &gateway.key, "/v1beta/models/gemini-2.5-flash:generateContent", &body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        assert_eq!(provider.requests().len() - seen, usize::from(status == 200), "{body}");
        if status == 404 {
            let error = &answer.json()["error"];
            assert_eq!((&error["code"], &error["status"]), (&json!(404), &json!("NOT_FOUND")), "{body}");
        }
    }
}

#[test]
fn paths_name_only_ones_own() {
    let provider = openai("a");
    let gateway = Setup::new().upstream(Upstream::openai("p", provider.url())).start();
    let another = another_organisations_key(&gateway);
    let response = make_response(&gateway)["id"].as_str().expect("an id").to_owned();
    let file = make_file(&gateway);
    for (method, path) in [
        ("GET", format!("/v1/responses/{response}?include=x")),
        ("GET", format!("/v1/responses/{response}/input_items")),
        ("POST", format!("/v1/responses/{response}/cancel")),
        ("DELETE", format!("/v1/responses/{response}")),
        ("GET", format!("/v1/files/{file}")),
        ("GET", format!("/v1/files/{file}/content")),
        ("DELETE", format!("/v1/files/{file}")),
    ] {
        let seen = provider.requests().len();
        for (key, path) in [(&another, path.clone()), (&gateway.key, path.replace("a_", "b_"))] {
            let refused = ask(&gateway, key, method, &path);
            assert_eq!(refused.refusal(), (404, "not_found".to_owned()), "{method} {path}");
        }
        assert_eq!(provider.requests().len(), seen, "{method} {path}");
        let own = ask(&gateway, &gateway.key, method, &path);
        assert_eq!(own.status, 200, "{method} {path}: {}", own.text());
        assert_eq!(own.text(), json!({"asked": format!("{method} {path}")}).to_string());
        if method == "DELETE" {
            assert_eq!(ask(&gateway, &gateway.key, "GET", &path).status, 404, "{path} is gone");
        }
    }
    assert_eq!(gateway.books_of(1).len(), 1, "only the call that made the response has cost anything");
}

#[test]
fn a_stream_names_only_what_is_claimed_already() {
    let provider = openai("a");
    let gateway = Setup::new().upstream(Upstream::openai("p", provider.url())).start();
    let another = another_organisations_key(&gateway);
    let body = json!({"model": "gpt-4o-mini", "input": "Hello", "stream": true});
    let answer = post(&gateway, &gateway.key, "/v1/responses", &body);
    assert_eq!(answer.events().len(), 3, "{}", answer.text());
    for (field, id) in [("previous_response_id", "resp_a_0"), ("conversation", "conv_a_0"), ("container", "cntr_a_0")] {
        let body = json!({"model": "gpt-4o-mini", "input": "Hello", field: id});
        assert_eq!(post(&gateway, &gateway.key, "/v1/responses", &body).status, 200, "{field}");
        assert_eq!(post(&gateway, &another, "/v1/responses", &body).status, 404, "{field}");
    }
}

#[test]
fn what_was_made_somewhere_is_asked_for_there() {
    let (first, second) = (openai("a"), openai("b"));
    let two = ["sk-one", "sk-two"];
    let gateway = Setup::new()
        .upstream(Upstream::openai("first", first.url()).credentials(&two))
        .upstream(Upstream::openai("second", second.url()).credentials(&two))
        .start();
    let used = |provider: &Scripted| {
        let last = provider.requests().pop().expect("a request");
        last.header("authorization").expect("a credential").to_owned()
    };
    let mut places = std::collections::HashSet::new();
    for _ in 0..24 {
        let id = make_response(&gateway)["id"].as_str().expect("an id").to_owned();
        let (made_at, other) = if id.contains("_a_") { (&first, &second) } else { (&second, &first) };
        let (credential, seen) = (used(made_at), other.requests().len());
        let body = json!({"model": "gpt-4o-mini", "input": "Hello", "previous_response_id": id});
        assert_eq!(post(&gateway, &gateway.key, "/v1/responses", &body).status, 200);
        assert_eq!(used(made_at), credential);
        assert_eq!(ask(&gateway, &gateway.key, "GET", &format!("/v1/responses/{id}")).status, 200);
        assert_eq!(used(made_at), credential);
        assert_eq!(other.requests().len(), seen, "the other provider was not asked");
        places.insert((id.contains("_a_"), credential));
    }
    assert!([true, false].iter().all(|at_first| places.iter().any(|(place, _)| place == at_first)), "{places:?}");
    let [at_first, at_second] = ["_a_", "_b_"].map(|name| {
        std::iter::repeat_with(|| make_response(&gateway)["id"].as_str().expect("an id").to_owned())
            .find(|id| id.contains(name))
            .expect("it is asked at last")
    });
    let body = json!({"model": "gpt-4o-mini", "input": [{"id": "x"}], "previous_response_id": at_first, "conversation": at_second});
    assert_eq!(post(&gateway, &gateway.key, "/v1/responses", &body).status, 404, "nobody has both");
}

#[test]
fn a_killed_gateway_has_not_forgotten_whose_things_are() {
    let provider = openai("a");
    let gateway = Setup::new().upstream(Upstream::openai("p", provider.url())).start();
    let another = another_organisations_key(&gateway);
    let id = make_response(&gateway)["id"].as_str().expect("an id").to_owned();
    gateway.kill();
    gateway.restart();
    let body = json!({"model": "gpt-4o-mini", "input": "Hello", "previous_response_id": id});
    assert_eq!(post(&gateway, &gateway.key, "/v1/responses", &body).status, 200);
    assert_eq!(post(&gateway, &another, "/v1/responses", &body).status, 404);
}

#[test]
fn questions_about_objects_count_against_the_rate_of_requests() {
    let provider = openai("a");
    let gateway = Setup::new().upstream(Upstream::openai("p", provider.url())).key(&["--rpm", "3"]).start();
    let id = make_response(&gateway)["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/responses/{id}");
    let statuses: Vec<u16> = (0..6).map(|_| ask(&gateway, &gateway.key, "GET", &path).status).collect();
    // A minute may end in between, once.
    assert!(statuses.contains(&429) && statuses.contains(&200), "{statuses:?}");
}
