//! The public listener: where it is, how it answers, and what a client may cost us.

use super::Network;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The public listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Addresses of plain HTTP.
    pub listen: Vec<SocketAddr>,
    /// Addresses of HTTP over TLS, with its certificate.
    pub tls: Option<Tls>,
    /// Whether plain listeners speak HTTP/2 too.
    pub h2c: bool,
    /// Worker threads; never zero.
    pub threads: usize,
    /// How errors look.
    pub error_shape: ErrorShape,
    /// Origins that browsers may call from; none turns CORS off.
    pub cors_origins: Vec<String>,
    /// Load balancers whose X-Forwarded-For is believed.
    pub trusted_proxies: Vec<Network>,
    /// What a client may cost us.
    pub limits: Limits,
}

/// TLS of the public listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Addresses.
    pub listen: Vec<SocketAddr>,
    /// PEM file: the certificate and its chain.
    pub certificate: PathBuf,
    /// PEM file: the private key.
    pub key: PathBuf,
}

/// How errors look to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorShape {
    /// As the protocol that was spoken has them.
    #[default]
    Protocol,
    /// `type` is always `gateway_error`.
    Gateway,
    /// `code` repeats the status.
    Numeric,
}

/// What a client may cost us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest request body.
    pub body_bytes_max: u64,
    /// Largest file that is uploaded: it is passed on as it arrives.
    pub upload_bytes_max: u64,
    /// Largest sum of the request bodies that are held at once.
    pub request_bytes_in_flight_max: u64,
    /// Most client connections at once.
    pub connections_max: usize,
    /// Largest request head.
    pub header_bytes_max: usize,
    /// Most header lines.
    pub headers_max: usize,
    /// For a whole request head to arrive.
    pub header_timeout: Duration,
    /// Between two reads of a request body.
    pub body_idle_timeout: Duration,
    /// For a client to take what it was sent.
    pub write_idle_timeout: Duration,
    /// For an HTTP/2 connection without streams.
    pub h2_idle_timeout: Duration,
    /// Between "not ready" and the closing of listeners at shutdown.
    pub drain_delay: Duration,
    /// For running calls to end at shutdown.
    pub drain_timeout: Duration,
    /// Largest answer that is held back so that its cost can be named in a header.
    pub answer_buffer_bytes: usize,
    /// Longest time that an answer in the background is asked after.
    pub background_time_max: Duration,
    /// Most answers at once that are read on after their clients have left.
    pub drains_max: usize,
    /// For a realtime session.
    pub realtime_time_max: Duration,
}
