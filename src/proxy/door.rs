//! The door: how many connections may be open, and how long one may stay silent before its first byte.

use super::Gateway;
use async_trait::async_trait;
use filters::denied::Code;
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use pingora::time::timeout;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Lets connections in to the gateway.
pub struct Door {
    gateway: Arc<Gateway>,
    connections: AtomicUsize,
}

impl Door {
    /// The door of a gateway.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway, connections: AtomicUsize::new(0) }
    }
}

#[async_trait]
impl ServerApp for Door {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let (connections_max, header_timeout) = {
            let limits = &self.gateway.runtime.load().limits;
            (limits.connections_max, limits.header_timeout)
        };
        let open = super::InFlight::enter(&self.connections);
        if self.connections.load(Ordering::Acquire) > connections_max {
            // It is closed without a word: words would have to wait for a client who may never listen.
            self.gateway.metrics.refused(None, Code::Overloaded);
            return None;
        }
        // TLS streams can't be looked into; their handshake has brought its first bytes.
        let mut first = [0u8; 1];
        timeout(header_timeout, stream.try_peek(&mut first)).await.ok()?.ok()?;
        let leftover = self.gateway.process_new(stream, shutdown).await;
        drop(open);
        leftover
    }
}
