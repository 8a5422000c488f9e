//! How the process stops: no call is lost, and nothing is waited for that nobody waits for.

use super::{BACKGROUND, Parts};
use crate::proxy::Activity;
use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Stops the process: first it is no longer ready, then it takes no new connections, then, when every running call is on
/// the books, it ends itself.
pub(super) struct Stop {
    pub(super) parts: Arc<Parts>,
    pub(super) drain_delay: Duration,
    pub(super) drain_timeout: Duration,
}

#[async_trait]
impl ShutdownSignalWatch for Stop {
    async fn recv(&self) -> ShutdownSignal {
        stop_signal().await;
        self.parts.vitals.ready.store(false, Ordering::Release);
        self.parts.gateway.activity.start_draining();
        tracing::info!("stopping: calls in progress go on, new connections are still taken for a moment");
        tokio::time::sleep(self.drain_delay).await;
        let (parts, timeout) = (Arc::clone(&self.parts), self.drain_timeout);
        BACKGROUND.spawn(async move {
            parts.gateway.activity.close();
            wait_until_idle(&parts.gateway.activity, timeout).await;
            parts.finish().await;
            std::process::exit(0);
        });
        let log = self.parts.log.clone();
        BACKGROUND.spawn(async move {
            stop_signal().await;
            log.end();
            std::process::exit(130);
        });
        ShutdownSignal::GracefulTerminate
    }
}

async fn stop_signal() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

async fn wait_until_idle(activity: &Activity, timeout: Duration) {
    let begun = Instant::now();
    while activity.requests.load(Ordering::Acquire) > 0 && begun.elapsed() < timeout {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
