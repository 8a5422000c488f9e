//! How connections to a provider are made: whose certificates are believed, and through which HTTP proxy they go.

use crate::config::{self, BaseUrl};
use async_trait::async_trait;
use pingora::connectors::http::Connector;
use pingora::connectors::{ConnectorOptions, L4Connect, TransportConnector};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::{Error, ErrorType, OrErr};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Idle HTTP/2 connections that are kept, over all providers of a dialer.
const IDLE_MAX: usize = 1024;
/// Largest head of a proxy's answer.
const PROXY_HEAD_BYTES_MAX: usize = 8 * 1024;

/// Makes connections.
pub struct Dialer {
    /// To providers that speak HTTP/1.1.
    pub(super) transport: TransportConnector,
    /// To providers that speak HTTP/2; made with the first of them, because it holds the authorities a second time.
    connector: OnceLock<Connector<()>>,
    ca_file: Option<String>,
}

impl Dialer {
    /// Believes the authorities of the system, or those of a file in their place.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, String> {
        if let Some(file) = ca_file {
            // Pingora stops the process over a file that it can't use.
            let name = file.display().to_string();
            let certificate = pingora_rustls::load_pem_file_ca(&name).map_err(|error| format!("{name}: {error}"))?;
            if certificate.is_empty() {
                return Err(format!("{name} holds no certificate in PEM form"));
            }
        }
        let ca_file = ca_file.map(|file| file.display().to_string());
        Ok(Self {
            transport: TransportConnector::new(Some(options(ca_file.clone()))),
            connector: OnceLock::new(),
            ca_file,
        })
    }

    /// Makes and keeps connections to providers that speak HTTP/2.
    pub(super) fn connector(&self) -> &Connector<()> {
        self.connector.get_or_init(|| Connector::new(Some(options(self.ca_file.clone()))))
    }
}

fn options(ca_file: Option<String>) -> ConnectorOptions {
    let mut options = ConnectorOptions::new(IDLE_MAX);
    options.ca_file = ca_file;
    options
}

/// A way through an HTTP proxy, made by CONNECT.
#[derive(Debug)]
pub(super) struct Tunnel {
    request: String,
    connect_timeout: Duration,
}

impl Tunnel {
    /// The tunnel to a provider that has a proxy.
    pub(super) fn of(provider: &config::Provider) -> Option<Self> {
        provider.proxy.as_ref()?;
        let BaseUrl { host, port, .. } = &provider.base_url;
        let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n");
        Some(Self { request, connect_timeout: provider.timeouts.connect })
    }

    async fn dig(&self, stream: &mut TcpStream) -> pingora::Result<()> {
        stream.write_all(self.request.as_bytes()).await.or_err(ErrorType::ConnectProxyFailure, "asking the proxy")?;
        let mut head = Vec::new();
        // Byte by byte: what follows the head belongs to the provider.
        while !head.ends_with(b"\r\n\r\n") && head.len() < PROXY_HEAD_BYTES_MAX {
            let byte = stream.read_u8().await.or_err(ErrorType::ConnectProxyFailure, "reading the proxy's answer")?;
            head.push(byte);
        }
        let status = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        if status.starts_with(b"2") {
            return Ok(());
        }
        let status = String::from_utf8_lossy(&status[..status.len().min(3)]).into_owned();
        Error::e_explain(ErrorType::ConnectProxyFailure, format!("the proxy answered {status}"))
    }
}

#[async_trait]
impl L4Connect for Tunnel {
    async fn connect(&self, proxy: &SocketAddr) -> pingora::Result<Stream> {
        let Some(address) = proxy.as_inet() else {
            return Error::e_explain(ErrorType::ConnectError, "a proxy has an internet address");
        };
        let connect = async {
            let mut stream =
                TcpStream::connect(address).await.or_err(ErrorType::ConnectError, "connecting to the proxy")?;
            stream.set_nodelay(true).or_err(ErrorType::ConnectError, "setting up the proxy's socket")?;
            self.dig(&mut stream).await?;
            Ok(stream)
        };
        match tokio::time::timeout(self.connect_timeout, connect).await {
            Ok(connected) => connected.map(Stream::from),
            Err(_) => Error::e_explain(ErrorType::ConnectTimedout, "the proxy did not answer in time"),
        }
    }
}
