//! Calls as clients make them, and what they get back.

use serde_json::{Value, json};

/// A request of HTTP/1.1.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn get(path: &str) -> Self {
        Self { method: "GET", path: path.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn post(path: &str, body: impl Into<Vec<u8>>) -> Self {
        let request = Self { method: "POST", body: body.into(), ..Self::get(path) };
        request.header("content-type", "application/json")
    }

    #[must_use]
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this key, as OpenAI's clients send it.
    #[must_use]
    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// The request with a Content-Length, if it has a body.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut text = self.head();
        if self.method != "GET" {
            text.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        text.push_str("\r\n");
        [text.as_bytes(), &self.body].concat()
    }

    /// The request in chunks of this size.
    pub(crate) fn chunked(&self, size: usize) -> Vec<u8> {
        let mut bytes = format!("{}transfer-encoding: chunked\r\n\r\n", self.head()).into_bytes();
        for chunk in self.body.chunks(size) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }

    /// The first line and the headers, without what frames the body and without the empty line.
    pub(crate) fn head(&self) -> String {
        let mut text = format!("{} {} HTTP/1.1\r\nhost: gateway.test\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text
    }
}

/// A model call in one of the protocols.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    is_anthropic: bool,
    prefix: &'static str,
    pub(crate) body: Value,
    headers: Vec<(String, String)>,
}

impl Call {
    /// `POST /v1/chat/completions`, as to OpenAI.
    pub(crate) fn chat(prompt: &str) -> Self {
        let body = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}]});
        Self { is_anthropic: false, prefix: "/v1", body, headers: Vec::new() }
    }

    /// `POST /v1/messages`, as to Anthropic.
    pub(crate) fn messages(prompt: &str) -> Self {
        let messages = json!([{"role": "user", "content": prompt}]);
        let body = json!({"model": "claude-sonnet-4-6", "max_tokens": 256, "messages": messages});
        let headers = vec![("anthropic-version".to_owned(), "2023-06-01".to_owned())];
        Self { is_anthropic: true, prefix: "/v1", body, headers }
    }

    /// With another value of a field of the body.
    #[must_use]
    pub(crate) fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.body[field] = value.into();
        self
    }

    #[must_use]
    pub(crate) fn streamed(self) -> Self {
        self.with("stream", true)
    }

    /// With faults of the simulated provider.
    #[must_use]
    pub(crate) fn simulate(self, faults: &str) -> Self {
        self.header("x-simulate", faults)
    }

    #[must_use]
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Under another root than `/v1`.
    #[must_use]
    pub(crate) fn under(mut self, prefix: &'static str) -> Self {
        self.prefix = prefix;
        self
    }

    /// The request with this token, where the protocol has it.
    pub(crate) fn request(&self, token: &str) -> Request {
        let path = if self.is_anthropic { "messages" } else { "chat/completions" };
        let mut request = Request::post(&format!("{}/{path}", self.prefix), self.body.to_string());
        request.headers.extend(self.headers.iter().cloned());
        if self.is_anthropic { request.header("x-api-key", token) } else { request.bearer(token) }
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The value of the first header of this name, which is written in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Our name of the call.
    pub(crate) fn request_id(&self) -> &str {
        self.header("x-request-id").unwrap_or_else(|| panic!("there is a request id: {self:?}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// Status and code of a refusal.
    pub(crate) fn refusal(&self) -> (u16, String) {
        (self.status, self.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
    }

    /// The data of each event of a stream.
    pub(crate) fn events(&self) -> Vec<String> {
        let text = self.text();
        text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
    }
}
