//! The section about other nodes: where the Redis is that they share, and what it may cost to ask it.

use super::gateway::pem_file;
use super::place::{Section, Value};
use super::providers::read_secret;
use super::sources::{NoSecret, Secret, Sources};
use std::path::PathBuf;
use std::time::Duration;

/// Most servers that an address names.
const HOSTS_MAX: usize = 64;

/// What nodes share beside the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Where rates are counted together; none: each process counts for itself.
    pub redis: Option<RedisAddress>,
    /// PEM file of the authorities that its certificate may come from, in place of the system's.
    pub redis_ca_file: Option<PathBuf>,
    /// Longest wait for it.
    pub redis_timeout: Duration,
    /// Most nodes at once.
    pub nodes_max: u32,
}

/// Where a Redis is, and who we are to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisAddress {
    /// How its servers are arranged.
    pub servers: RedisServers,
    /// Host, IPv6 without brackets, and port; of Sentinels where there are Sentinels.
    pub hosts: Vec<(String, u16)>,
    /// Whether all are spoken to in TLS.
    pub tls: bool,
    /// Who we are by its access control list; none: its default user.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// The number of the database.
    pub database: u16,
}

/// How Redis servers are arranged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisServers {
    /// There is one.
    Single,
    /// Sentinels say which one is the master of this name.
    Sentinel(String),
    /// Each has a part of the keys.
    Cluster,
}

pub(super) fn read_cluster(section: &Section<'_>, sources: &Sources<'_>) -> Cluster {
    Cluster {
        redis: section.get("redis").and_then(|value| read_redis(&value, sources)),
        redis_ca_file: section.get("redis_ca_file").and_then(|path| pem_file(&path, "CERTIFICATE-----", sources)),
        redis_timeout: section.milliseconds("redis_timeout_ms", 1..=10_000, 50),
        nodes_max: u32::try_from(section.number("nodes_max", 1..=100_000, 16)).unwrap_or(u32::MAX),
    }
}

/// The address, in the text itself or, because it may hold a password, in the environment or a file.
fn read_redis(value: &Value<'_>, sources: &Sources<'_>) -> Option<RedisAddress> {
    if !value.is_table() {
        return value.parsed(RedisAddress::parse);
    }
    let secret = value.section(|section| read_secret(section, sources)).flatten()?;
    let parsed = match secret {
        Ok(secret) => RedisAddress::parse(secret.reveal()),
        Err(NoSecret::Absent(message) | NoSecret::Unusable(message)) => Err(message),
    };
    parsed.map_err(|message| value.report(message)).ok()
}

impl RedisAddress {
    /// Reads `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, `redis+sentinel://…HOST[:PORT],HOST[:PORT]/MASTER[/DATABASE]` or
    /// `redis+cluster://…HOST[:PORT],HOST[:PORT]`, or `rediss` in place of `redis` for TLS. The error never quotes it.
    fn parse(text: &str) -> Result<Self, String> {
        let form = || {
            "must be redis://HOST:PORT/DATABASE, redis+sentinel://HOST:PORT,HOST:PORT/MASTER or \
             redis+cluster://HOST:PORT,HOST:PORT (rediss… for TLS), with USER:PASSWORD@ before the first host if need be"
                .to_owned()
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(form)?;
        let (scheme, arrangement) = scheme.split_once('+').unwrap_or((scheme, ""));
        let tls = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => return Err(form()),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(credentials), hosts),
            None => (None, authority),
        };
        let (servers, database) = match arrangement {
            "" => (RedisServers::Single, path),
            "cluster" if path.is_empty() => (RedisServers::Cluster, ""),
            "sentinel" => {
                let (master, database) = path.split_once('/').unwrap_or((path, ""));
                let is_name = !master.is_empty() && master.bytes().all(|byte| byte.is_ascii_graphic());
                (RedisServers::Sentinel(is_name.then(|| master.to_owned()).ok_or_else(form)?), database)
            }
            _ => return Err(form()),
        };
        let usual_port = if servers.are_sentinels() { 26_379 } else { 6_379 };
        let hosts: Vec<_> =
            hosts.split(',').map(|host| read_host(host, usual_port)).collect::<Option<_>>().ok_or_else(form)?;
        if hosts.len() > HOSTS_MAX || servers == RedisServers::Single && hosts.len() != 1 {
            return Err(form());
        }
        let database = if database.is_empty() { 0 } else { database.parse().map_err(|_| form())? };
        let (user, password) = read_credentials(credentials).ok_or_else(form)?;
        Ok(Self { servers, hosts, tls, user, password, database })
    }
}

impl RedisServers {
    fn are_sentinels(&self) -> bool {
        match self {
            Self::Sentinel(_) => true,
            Self::Single | Self::Cluster => false,
        }
    }
}

/// A host or an IPv6 address in brackets, with a port or without.
fn read_host(text: &str, usual_port: u16) -> Option<(String, u16)> {
    let authority: http::uri::Authority = text.parse().ok()?;
    let host = authority.host();
    let port = match text.strip_prefix(host)? {
        "" => usual_port,
        port => port.strip_prefix(':')?.parse().ok().filter(|port| *port != 0)?,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// User and password, each with `%` before what an address can't hold.
fn read_credentials(text: Option<&str>) -> Option<(Option<String>, Option<Secret>)> {
    let Some(text) = text else { return Some((None, None)) };
    let (user, password) = text.split_once(':')?;
    let user = decoded(user)?;
    let password = Secret::new(&decoded(password)?, "the password").ok()?;
    Some(((!user.is_empty()).then_some(user), Some(password)))
}

fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend(part.get(2..)?.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(address: &RedisAddress) -> Vec<(&str, u16)> {
        address.hosts.iter().map(|(host, port)| (&**host, *port)).collect()
    }

    #[test]
    fn each_arrangement_has_an_address() {
        let single = RedisAddress::parse("rediss://app:p%40ss%3a%25@cache.example:7000/3").expect("sound");
        assert_eq!((&single.servers, single.tls, single.database), (&RedisServers::Single, true, 3));
        assert_eq!(hosts(&single), [("cache.example", 7_000)]);
        assert_eq!(
            (single.user.as_deref(), single.password.as_ref().map(Secret::reveal)),
            (Some("app"), Some("p@ss:%"))
        );
        assert!(!format!("{single:?}").contains("p@ss"));

        let sentinel = RedisAddress::parse("redis+sentinel://:secret@one,two:5000,[::1]/main/2").expect("sound");
        assert_eq!((&sentinel.servers, sentinel.database), (&RedisServers::Sentinel("main".to_owned()), 2));
        assert_eq!(hosts(&sentinel), [("one", 26_379), ("two", 5_000), ("::1", 26_379)]);
        assert_eq!((&sentinel.user, sentinel.password.as_ref().map(Secret::reveal)), (&None, Some("secret")));

        let cluster = RedisAddress::parse("rediss+cluster://a,b:1").expect("sound");
        assert_eq!((&cluster.servers, cluster.tls), (&RedisServers::Cluster, true));
        assert_eq!(hosts(&cluster), [("a", 6_379), ("b", 1)]);
    }

    #[test]
    fn what_is_no_address_is_refused_and_never_quoted() {
        for wrong in [
            "",
            "redis:secret",
            "http://secret",
            "redis+other://secret",
            "redis://",
            "redis://secret,other",
            "redis://secret:0",
            "redis://secret:99999",
            "redis://secret:x",
            "redis://host/secret",
            "redis://host/70000",
            "redis://secret@host",
            "redis://u:secret%zz@host",
            "redis://u:@host",
            "redis+sentinel://secret",
            "redis+sentinel://secret/",
            "redis+cluster://host/1",
            "redis+cluster://,secret",
            "redis://ho st",
        ] {
            let message = RedisAddress::parse(wrong).expect_err(wrong);
            assert!(!message.contains("secret"), "{wrong}: {message}");
        }
    }
}
