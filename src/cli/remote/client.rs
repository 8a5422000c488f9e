//! One request to a server, one answer, both bounded.

use super::super::CliError;
use super::ask::Ask;
use super::server::Server;
use super::show::plain;
use crate::config::Secret;
use reqwest::{Response, StatusCode, redirect};
use serde::Deserialize;
use std::error::Error;
use std::time::Duration;

/// How long it may take to be connected …
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// … and to have the whole answer.
const TIMEOUT: Duration = Duration::from_secs(60);
/// No answer is longer: the largest are 10 000 sums of usage.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// Somebody who asks a server.
pub(super) struct Client {
    server: Server,
    token: Option<Secret>,
    http: reqwest::Client,
}

/// What a server says no with.
#[derive(Deserialize)]
struct Refused {
    error: Refusal,
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
    code: String,
    param: Option<String>,
    request_id: String,
}

impl Client {
    /// Somebody who has a token.
    pub(super) fn signed_in(server: Server) -> Result<Self, CliError> {
        let token = server.token()?;
        Self::new(server, Some(token))
    }

    /// Somebody who has this token, or none.
    pub(super) fn new(server: Server, token: Option<Secret>) -> Result<Self, CliError> {
        pingora_rustls::install_default_crypto_provider();
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| CliError::Server(format!("there is no TLS: {error}")))?;
        Ok(Self { server, token, http })
    }

    /// What a server answers, if it does what is asked.
    pub(super) async fn send(&self, ask: &Ask) -> Result<String, CliError> {
        let url = self.server.url(&ask.path, &ask.query);
        let mut request = self.http.request(ask.method.clone(), url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.reveal());
        }
        if let Some(body) = &ask.body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(|error| self.failed(&error))?;
        let body = self.text(&mut response).await?;
        if response.status().is_success() { Ok(body) } else { Err(self.refused(response.status(), &body)) }
    }

    async fn text(&self, response: &mut Response) -> Result<String, CliError> {
        let mut taken = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(&error))? {
            taken.extend_from_slice(&chunk);
            if taken.len() > ANSWER_BYTES_MAX {
                return Err(CliError::Server(format!("{} answers more than 32 MiB: ask for less", self.server)));
            }
        }
        String::from_utf8(taken).map_err(|_| CliError::Server(format!("{} answers no text", self.server)))
    }

    fn refused(&self, status: StatusCode, body: &str) -> CliError {
        CliError::Server(match serde_json::from_str(body) {
            Ok(Refused { error: Refusal { message, code, param, request_id } }) => {
                let param = param.map(|param| format!(", {param}")).unwrap_or_default();
                plain(&format!("{message} ({code}{param}, request {request_id})"))
            }
            Err(_) => format!("{} answers {status}: is it the control plane of a gateway?", self.server),
        })
    }

    fn failed(&self, error: &reqwest::Error) -> CliError {
        let (mut cause, mut deepest): (Option<&dyn Error>, _) = (error.source(), error.to_string());
        while let Some(current) = cause {
            (cause, deepest) = (current.source(), current.to_string());
        }
        CliError::Server(match (error.is_timeout(), error.is_connect()) {
            (true, _) => format!("{} gives no answer in time", self.server),
            (false, true) => format!("{} can't be reached: {deepest}", self.server),
            (false, false) => format!("the exchange with {} failed: {deepest}", self.server),
        })
    }
}
