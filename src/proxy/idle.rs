//! Idle connections to a provider: a stack of our own, because Pingora's pool starts a task for each connection that is
//! given back, and a call over a warm connection should cost no more than its own bytes.

use futures_util::FutureExt;
use pingora::protocols::Stream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;

/// Idle connections kept for one provider.
const IDLE_MAX: usize = 512;

/// Idle connections to one provider, the one used last on top.
#[derive(Default)]
pub(super) struct IdleConnections {
    stack: Mutex<Vec<Idle>>,
}

struct Idle {
    stream: Stream,
    since: Instant,
}

impl IdleConnections {
    /// The connection that was used last and is still open.
    pub(super) fn take(&self, age_max: Duration) -> Option<Stream> {
        loop {
            let Idle { mut stream, since } = self.lock().pop()?;
            if since.elapsed() < age_max && is_silent(&mut stream) {
                return Some(stream);
            }
        }
    }

    /// Keeps a connection whose last answer was read to its end.
    pub(super) fn give_back(&self, stream: Stream) {
        let mut stack = self.lock();
        if stack.len() < IDLE_MAX {
            stack.push(Idle { stream, since: Instant::now() });
        }
    }

    /// Closes connections that were idle for too long.
    pub(super) fn close_old(&self, age_max: Duration) {
        let mut stack = self.lock();
        let keep_from = stack.iter().position(|idle| idle.since.elapsed() < age_max).unwrap_or(stack.len());
        let old: Vec<Idle> = stack.drain(..keep_from).collect();
        drop(stack);
        // Closing may ask the system; nobody should wait for that.
        drop(old);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        // A stack is whole after every step, so a panic elsewhere has left it usable.
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An idle connection has nothing to say; one that has was closed, or is out of step.
fn is_silent(stream: &mut Stream) -> bool {
    let mut byte = [0u8; 1];
    stream.read(&mut byte).now_or_never().is_none()
}
