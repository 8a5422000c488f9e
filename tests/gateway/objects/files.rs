//! Files: uploaded as they arrive, listed from our own books.

use super::{another_organisations_key, anthropic, ask, openai};
use crate::support::{Answer, Gateway, Key, Request, Setup, Upstream};

fn upload(gateway: &Gateway, key: &Key, bytes: usize) -> Answer {
    let request = Request::post("/v1/files", vec![b'x'; bytes]).header("x-odd", "kept");
    gateway.exchange(&request.bearer(&key.token))
}

fn listed(answer: &Answer) -> Vec<String> {
    let list = answer.json();
    let files = list["data"].as_array().unwrap_or_else(|| panic!("no list: {list}"));
    files.iter().map(|file| file["id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn lists_show_only_ones_own_files() {
    let provider = openai("a");
    let gateway = Setup::new().upstream(Upstream::openai("p", provider.url())).start();
    let another = another_organisations_key(&gateway);
    let mine: Vec<String> =
        (0..3).map(|_| upload(&gateway, &gateway.key, 5).json()["id"].as_str().expect("an id").to_owned()).collect();
    let theirs = upload(&gateway, &another, 5).json()["id"].as_str().expect("an id").to_owned();
    let list = |key: &Key, query: &str| ask(&gateway, key, "GET", &format!("/v1/files{query}"));
    let seen = provider.requests().len();
    assert_eq!(listed(&list(&another, "")), [&*theirs]);
    assert_eq!(listed(&list(&gateway.key, "?order=asc")), mine);
    assert_eq!(listed(&list(&gateway.key, "?limit=2")), [&*mine[2], &mine[1]]);
    let page = list(&gateway.key, &format!("?limit=1&after={}", mine[2]));
    assert_eq!((listed(&page), page.json()["has_more"].as_bool()), (vec![mine[1].clone()], Some(true)));
    assert_eq!(listed(&list(&gateway.key, "?purpose=batch")), [""; 0]);
    assert_eq!(listed(&list(&gateway.key, "?purpose=user_data")).len(), 3);
    assert_eq!(list(&gateway.key, &format!("?after={theirs}")).refusal(), (404, "not_found".to_owned()));
    assert_eq!(provider.requests().len(), seen, "no provider was asked");
    assert_eq!(ask(&gateway, &gateway.key, "DELETE", &format!("/v1/files/{}", mine[1])).status, 200);
    assert_eq!(listed(&list(&gateway.key, "")), [&*mine[2], &mine[0]]);
}

#[test]
fn anthropics_files_are_listed_as_anthropic_does() {
    let provider = anthropic("a");
    let gateway = Setup::new().upstream(Upstream::anthropic("p", provider.url())).start();
    let another = another_organisations_key(&gateway);
    let send = |key: &Key, request: Request| {
        gateway.exchange(&request.header("anthropic-version", "2023-06-01").header("x-api-key", &key.token))
    };
    let made: Vec<String> = (0..3)
        .map(|_| send(&gateway.key, Request::post("/v1/files", "x")).json()["id"].as_str().expect("an id").to_owned())
        .collect();
    let list = |key: &Key, query: &str| send(key, Request::get(&format!("/v1/files{query}")));
    assert_eq!(listed(&list(&another, "")), [""; 0]);
    let whole = list(&gateway.key, "").json();
    assert_eq!((&whole["first_id"], &whole["last_id"]), (&made[2].clone().into(), &made[0].clone().into()));
    assert_eq!(listed(&list(&gateway.key, &format!("?after_id={}&limit=1", made[2]))), [&*made[1]]);
    assert_eq!(listed(&list(&gateway.key, &format!("?before_id={}", made[0]))), [&*made[2], &made[1]]);
    let foreign = send(&another, Request::get(&format!("/v1/files/{}", made[0])));
    assert_eq!((foreign.status, &foreign.json()["error"]["type"]), (404, &"not_found_error".into()));
    let own = send(&gateway.key, Request::get(&format!("/v1/files/{}/content", made[0])));
    assert_eq!(own.status, 200, "{}", own.text());
}

#[test]
fn uploads_may_be_larger_than_what_is_held_in_memory() {
    let provider = openai("a");
    let limits = ["body_bytes_max = 1_000", "request_bytes_in_flight_max = 1_000", "upload_bytes_max = 3_000_000"];
    let setup = limits.iter().fold(Setup::new(), |setup, limit| setup.limit(limit));
    let gateway = setup.upstream(Upstream::openai("p", provider.url())).start();
    let answer = upload(&gateway, &gateway.key, 3_000_000);
    assert_eq!((answer.status, answer.header("x-tollgate-provider")), (200, Some("p")), "{}", answer.text());
    let got = provider.requests().pop().expect("a request");
    assert_eq!((got.body.len(), got.header("x-odd")), (3_000_000, Some("kept")));
    assert_eq!(got.header("authorization"), Some("Bearer sk-upstream"));
    let refused = upload(&gateway, &gateway.key, 3_000_001);
    assert_eq!(refused.refusal(), (413, "body_too_large".to_owned()));
    assert_eq!(provider.requests().len(), 1);
}

#[test]
fn a_file_goes_where_the_path_or_the_key_says() {
    let (first, second) = (openai("a"), openai("b"));
    let gateway = Setup::new()
        .upstream(Upstream::openai("first", first.url()))
        .upstream(Upstream::openai("second", second.url()).priority(1))
        .start();
    let narrow = gateway.create_key(&["--provider", "second"]);
    assert_eq!(upload(&gateway, &gateway.key, 5).header("x-tollgate-provider"), Some("first"));
    assert_eq!(upload(&gateway, &narrow, 5).header("x-tollgate-provider"), Some("second"));
    let named = Request::post("/second/v1/files", "x").bearer(&gateway.key.token);
    assert_eq!(gateway.exchange(&named).header("x-tollgate-provider"), Some("second"));
    let other = Request::post("/first/v1/files", "x").bearer(&narrow.token);
    assert_eq!(gateway.exchange(&other).status, 404);
}
