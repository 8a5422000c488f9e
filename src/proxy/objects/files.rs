//! The list of files: the providers' own would show every organisation's.

use super::Inquiry;
use crate::proxy::Connection;
use crate::proxy::answer::whole_answer;
use crate::proxy::answer_head::{AnswerHead, BodyLength};
use bytes::Bytes;
use filters::denied::Denied;
use filters::dialect::Protocol;
use filters::objects::{ObjectKind, Reference};
use filters::ports::{Files, Page};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;

/// Most files of a page. OpenAI gives ten thousand where nothing is asked for; its clients ask for the rest by themselves.
const PAGE_MAX: usize = 1_000;
/// Anthropic: "List Files".
const ANTHROPIC_PAGE: usize = 20;

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    limit: Option<usize>,
    is_ascending: bool,
    purpose: Option<String>,
    after: Option<String>,
    before: Option<String>,
}

/// OpenAI "List files", Anthropic "List Files".
#[derive(Serialize)]
struct List<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'static str>,
    data: Vec<&'a RawValue>,
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
    has_more: bool,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    id: &'a str,
}

impl Asked {
    fn read(query: &str) -> Result<Self, Denied> {
        let mut asked = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            // Ids and words have nothing that must be escaped.
            let value = value.to_owned();
            match name {
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| *limit > 0);
                    let wrong = || Denied::InvalidRequest("`limit` must be a number above zero.".to_owned());
                    asked.limit = Some(limit.ok_or_else(wrong)?);
                }
                "order" => asked.is_ascending = value == "asc",
                "purpose" => asked.purpose = Some(value),
                "after" | "after_id" => asked.after = Some(value),
                "before_id" => asked.before = Some(value),
                _ => {}
            }
        }
        Ok(asked)
    }
}

impl Inquiry<'_> {
    /// Lists the organisation's files.
    pub(super) async fn list(self) -> Result<Connection, Denied> {
        let asked = Asked::read(self.client.req_header().uri.query().unwrap_or_default())?;
        for (field, id) in [("after", &asked.after), ("before_id", &asked.before)] {
            if let Some(id) = id {
                self.owned(&Reference { field, kind: ObjectKind::File, id: Box::from(&**id) }).await?;
            }
        }
        let protocol = self.target.route.protocol();
        let providers = self.runtime.providers_of(protocol, self.key, self.target.provider.as_deref());
        let providers: Vec<Arc<str>> = providers.iter().map(|provider| Arc::clone(&provider.name)).collect();
        let usual = if protocol == Protocol::Anthropic { ANTHROPIC_PAGE } else { PAGE_MAX };
        // What comes before an id is what follows it in the other order.
        let is_backwards = asked.before.is_some();
        let page = Page {
            org: self.key.org,
            providers: &providers,
            purpose: asked.purpose.as_deref(),
            after: asked.after.as_deref().or(asked.before.as_deref()),
            newest_first: asked.is_ascending == is_backwards,
            limit: asked.limit.unwrap_or(usual).min(PAGE_MAX),
        };
        let mut files = self.gateway.objects.files(&page).await.map_err(|_| Denied::OwnersUnavailable)?;
        if is_backwards {
            files.contents.reverse();
        }
        let body = written(&files, protocol).ok_or(Denied::OwnersUnavailable)?;
        Ok(self.say(body).await)
    }

    /// Answers with JSON of our own.
    async fn say(self, body: Bytes) -> Connection {
        let mut head = AnswerHead::new(200, BodyLength::Bytes(body.len()));
        head.json();
        let protocol = self.target.route.protocol();
        head.call(self.report.call, protocol);
        head.rates(&self.key.chain, None, protocol, self.report.started);
        head.allow_origin(&self.client.req_header().headers, self.runtime);
        self.report.status = 200;
        whole_answer(self.client, head, body).await
    }
}

/// The list as JSON; none if what was kept of a file is not.
fn written(files: &Files, protocol: Protocol) -> Option<Bytes> {
    let data: Result<Vec<&RawValue>, _> = files.contents.iter().map(|content| serde_json::from_str(content)).collect();
    let list = List {
        object: (protocol == Protocol::Openai).then_some("list"),
        data: data.ok()?,
        first_id: files.contents.first().and_then(|content| id(content)),
        last_id: files.contents.last().and_then(|content| id(content)),
        has_more: files.has_more,
    };
    serde_json::to_vec(&list).ok().map(Bytes::from)
}

fn id(content: &str) -> Option<&str> {
    serde_json::from_str::<Named<'_>>(content).ok().map(|named| named.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read() {
        let asked = Asked::read("limit=5&order=asc&purpose=batch&after=file-1&x&y=z").expect("a query");
        let expected = Asked {
            limit: Some(5),
            is_ascending: true,
            purpose: Some("batch".to_owned()),
            after: Some("file-1".to_owned()),
            before: None,
        };
        assert_eq!(asked, expected);
        assert_eq!(Asked::read(""), Ok(Asked::default()));
        for wrong in ["limit=0", "limit=-1", "limit=x"] {
            assert!(Asked::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lists_look_as_their_protocol_has_them() {
        let files =
            Files { contents: vec![r#"{"id":"a"}"#.to_owned(), r#"{"x":1.50,"id":"b"}"#.to_owned()], has_more: true };
        let openai = written(&files, Protocol::Openai).expect("JSON");
        let expected =
            r#"{"object":"list","data":[{"id":"a"},{"x":1.50,"id":"b"}],"first_id":"a","last_id":"b","has_more":true}"#;
        assert_eq!(openai, expected.as_bytes());
        let none = written(&Files::default(), Protocol::Anthropic).expect("JSON");
        assert_eq!(none, r#"{"data":[],"first_id":null,"last_id":null,"has_more":false}"#.as_bytes());
    }
}
