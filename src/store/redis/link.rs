//! The ways to a Redis: one server, the master that Sentinels name, or a Redis Cluster. One connection, shared by all.

use crate::config::{RedisAddress, RedisServers, Secret};
use futures_util::future::join_all;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisConnectionInfo,
    RedisError, TlsCertificates, TlsMode, Value,
};
use std::fmt;
use std::time::Duration;
use tokio::sync::Mutex;

/// The connections' own patience: longer than anybody waits, so that it only ends what is lost.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Commands about keys of one slot.
pub(super) type Part = Vec<Cmd>;

/// Makes connections.
pub(super) enum Client {
    Single(Box<redis::Client>),
    /// It remembers its connections to the Sentinels, so it is asked by one at a time.
    Sentinel(Box<Mutex<SentinelClient>>),
    Cluster(Box<ClusterClient>),
}

impl Client {
    /// `authorities` is PEM.
    pub(super) fn new(address: &RedisAddress, authorities: Option<Vec<u8>>) -> Result<Self, RedisError> {
        let certificates = TlsCertificates { client_tls: None, root_cert: authorities };
        match &address.servers {
            RedisServers::Single => {
                let info = connection_infos(address)?.remove(0);
                Ok(Self::Single(Box::new(match address.tls {
                    true => redis::Client::build_with_tls(info, certificates)?,
                    false => redis::Client::open(info)?,
                })))
            }
            RedisServers::Sentinel(master) => sentinel(address, master, certificates),
            RedisServers::Cluster => {
                let mut builder = ClusterClientBuilder::new(connection_infos(address)?)
                    .connection_timeout(RESPONSE_TIMEOUT)
                    .response_timeout(RESPONSE_TIMEOUT)
                    .overall_response_timeout(Some(RESPONSE_TIMEOUT));
                if address.tls {
                    builder = builder.tls(TlsMode::Secure).certs(certificates);
                }
                Ok(Self::Cluster(Box::new(builder.build()?)))
            }
        }
    }

    pub(super) async fn connect(&self) -> Result<Link, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(RESPONSE_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        match self {
            Self::Single(client) => {
                client.get_multiplexed_async_connection_with_config(&config).await.map(Link::Single)
            }
            Self::Sentinel(client) => {
                client.lock().await.get_async_connection_with_config(&config).await.map(Link::Single)
            }
            Self::Cluster(client) => client.get_async_connection().await.map(Link::Cluster),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Client(…)")
    }
}

fn connection_infos(address: &RedisAddress) -> Result<Vec<ConnectionInfo>, RedisError> {
    let mut redis = RedisConnectionInfo::default().set_db(i64::from(address.database));
    if let Some(user) = &address.user {
        redis = redis.set_username(user);
    }
    if let Some(password) = &address.password {
        redis = redis.set_password(password.reveal());
    }
    let info = |host: ConnectionAddr| Ok(host.into_connection_info()?.set_redis_settings(redis.clone()));
    hosts(address).into_iter().map(info).collect()
}

fn hosts(address: &RedisAddress) -> Vec<ConnectionAddr> {
    let host = |(host, port): &(String, u16)| match address.tls {
        true => ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None },
        false => ConnectionAddr::Tcp(host.clone(), *port),
    };
    address.hosts.iter().map(host).collect()
}

fn sentinel(address: &RedisAddress, master: &str, certificates: TlsCertificates) -> Result<Client, RedisError> {
    let mut builder = SentinelClientBuilder::new(hosts(address), master, SentinelServerType::Master)?
        .set_client_to_redis_db(i64::from(address.database));
    if let Some(user) = &address.user {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = address.password.as_ref().map(Secret::reveal) {
        builder = builder.set_client_to_redis_password(password);
    }
    if address.tls {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_redis_certificates(certificates.clone())
            .set_client_to_sentinel_certificates(certificates);
    }
    Ok(Client::Sentinel(Box::new(Mutex::new(builder.build()?))))
}

/// An open connection.
pub(super) enum Link {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Link {
    /// Asks everything at once. A part has failed if the connection did or one of its commands did; then there is a word why.
    pub(super) async fn ask(&self, parts: Vec<Part>) -> Vec<Result<Vec<Value>, String>> {
        match self {
            Self::Single(connection) => {
                let lengths: Vec<usize> = parts.iter().map(Vec::len).collect();
                let answered = run(connection.clone(), parts.into_iter().flatten().collect()).await;
                let mut values = match answered {
                    Ok(values) => values.into_iter(),
                    Err(error) => return vec![Err(cause(&error)); lengths.len()],
                };
                lengths.into_iter().map(|length| sound(values.by_ref().take(length).collect(), length)).collect()
            }
            Self::Cluster(connection) => {
                join_all(parts.into_iter().map(|part| async {
                    let length = part.len();
                    let answered = run(connection.clone(), part).await;
                    answered.map_err(|error| cause(&error)).and_then(|values| sound(values, length))
                }))
                .await
            }
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Link(…)")
    }
}

async fn run(mut connection: impl ConnectionLike, commands: Vec<Cmd>) -> Result<Vec<Value>, RedisError> {
    let count = commands.len();
    let mut pipeline = Pipeline::with_capacity(count);
    for command in commands {
        pipeline.add_command(command);
    }
    connection.req_packed_commands(&pipeline, 0, count).await
}

fn sound(values: Vec<Value>, length: usize) -> Result<Vec<Value>, String> {
    let error = values.iter().find_map(|value| match value {
        Value::ServerError(error) => Some(error.code().to_owned()),
        _ => None,
    });
    match error {
        Some(code) => Err(code),
        None if values.len() == length => Ok(values),
        None => Err("an answer is missing".to_owned()),
    }
}

/// What went wrong, without words of the server, which may quote ours.
pub(super) fn cause(error: &RedisError) -> String {
    error.code().map_or_else(|| error.category().to_owned(), str::to_owned)
}
