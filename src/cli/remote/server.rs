//! Which server carries commands out, and with which token it is asked.

use super::super::CliError;
use super::login::Logins;
use crate::config::{Personal, Secret};
use reqwest::Url;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The control plane of a gateway: over TLS, or on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Server(Url);

impl Server {
    /// The server that is meant where no option names one, if one is.
    pub(in crate::cli) fn of_environment() -> Result<Option<Self>, CliError> {
        let read = |text: String| {
            text.parse().map_err(|problem: &str| CliError::BadInput(format!("TOLLGATE_SERVER: {problem}")))
        };
        Personal::of_environment().server.map(read).transpose()
    }

    /// The URL of a path with its parameters.
    pub(super) fn url(&self, path: &str, query: &[(&'static str, String)]) -> Url {
        let mut url = self.0.clone();
        url.set_path(&format!("{}{path}", self.0.path().trim_end_matches('/')));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// The token to ask with: of the environment, or of the login.
    pub(super) fn token(&self) -> Result<Secret, CliError> {
        let personal = Personal::of_environment();
        if let Some(token) = personal.token {
            return Ok(token);
        }
        let logins = Logins::of(personal.login_file)?;
        logins.token(self).ok_or_else(|| {
            CliError::BadInput(format!(
                "there is no token for {self}: sign in with `tollgate login --server {self} --email EMAIL`, or set TOLLGATE_TOKEN"
            ))
        })
    }
}

impl FromStr for Server {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text).map_err(|_| "write a server as https://gate.example.com")?;
        let host = url.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let is_here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        let is_bare = url.username().is_empty() && url.password().is_none();
        match url.scheme() {
            _ if host.is_empty() || !is_bare || url.query().is_some() || url.fragment().is_some() => {
                Err("a server is a URL with a host, without user, parameters or fragment")
            }
            "https" => Ok(Self(url)),
            "http" if is_here => Ok(Self(url)),
            "http" => Err("a token goes to another machine over https alone"),
            _ => Err("write a server as https://gate.example.com"),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_go_over_tls_or_stay_on_the_machine() {
        for (text, written) in [
            ("https://gate.example.com", Some("https://gate.example.com")),
            ("https://gate.example.com/tollgate/", Some("https://gate.example.com/tollgate")),
            ("http://127.0.0.1:7000", Some("http://127.0.0.1:7000")),
            ("http://[::1]:7000/", Some("http://[::1]:7000")),
            ("http://localhost", Some("http://localhost")),
            ("http://gate.example.com", None),
            ("http://localhost.example.com", None),
            ("https://ada@gate.example.com", None),
            ("https://gate.example.com/?a=b", None),
            ("ftp://127.0.0.1", None),
            ("gate.example.com", None),
            ("", None),
        ] {
            let server = text.parse::<Server>().ok();
            assert_eq!(server.map(|server| server.to_string()).as_deref(), written, "{text}");
        }
    }

    #[test]
    fn paths_are_below_the_servers_own() {
        let server: Server = "https://gate.example.com/tollgate/".parse().expect("a server");
        let url = server.url("/api/trail", &[("action", "a&b=c".to_owned())]);
        assert_eq!(url.as_str(), "https://gate.example.com/tollgate/api/trail?action=a%26b%3Dc");
    }
}
