//! Where things are on the network: base URLs, and ranges of addresses.

pub use filters::network::Network;

/// An absolute http(s) URL without query: where a provider or a proxy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    /// Whether it is https.
    pub tls: bool,
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// The port, named or the scheme's own.
    pub port: u16,
    /// What paths begin with, without a slash at its end: empty or such as `/v1`.
    pub path: String,
}

impl BaseUrl {
    /// Reads `https://host[:port][/path]`; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let not_absolute = || "not an absolute http(s) URL".to_owned();
        let uri: http::Uri = text.parse().map_err(|_| not_absolute())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(not_absolute()),
        };
        let authority = uri.authority().ok_or_else(not_absolute)?;
        if authority.as_str().contains('@') {
            return Err("must not hold a user name or a password".to_owned());
        }
        if uri.query().is_some() || text.contains('#') {
            return Err("must not have a query or a fragment".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        // `http::Uri` lets `host:` and `host:99999` pass as an authority without a port.
        let has_odd_port = authority.port_u16().is_none() && !authority.as_str().ends_with(authority.host());
        if host.is_empty() || port == 0 || has_odd_port {
            return Err(not_absolute());
        }
        Ok(Self { tls, host, port, path: uri.path().trim_end_matches('/').to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_taken_apart() {
        let url = |tls, host: &str, port, path: &str| BaseUrl { tls, host: host.into(), port, path: path.into() };
        for (text, parts) in [
            ("https://api.openai.com/v1", url(true, "api.openai.com", 443, "/v1")),
            ("https://api.anthropic.com", url(true, "api.anthropic.com", 443, "")),
            ("http://127.0.0.1:8000/", url(false, "127.0.0.1", 8000, "")),
            ("http://[::1]:8000/a/b/", url(false, "::1", 8000, "/a/b")),
        ] {
            assert_eq!(BaseUrl::parse(text), Ok(parts), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_base_url_is_refused() {
        for text in [
            "",
            "api.openai.com",
            "/v1",
            "ftp://host/",
            "https://",
            "https://host:99999",
            "https://host:",
            "https://host:0",
            "https://user:password@host/",
            "https://host/v1?key=1",
            "https://host/#v1",
            "https://ho st/",
        ] {
            assert!(BaseUrl::parse(text).is_err(), "{text}");
        }
    }
}
