//! The connection under hyper, with a handle for what HTTP cannot say: end here, with a FIN or a RST; tell me when the
//! bytes have gone to the socket.

use super::faults::Ending;
use super::openai_realtime::Session;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// How long to wait for a flush that may have come before the wait began.
const FLUSH_WAIT: Duration = Duration::from_millis(50);

/// A TCP stream that tells its control what happens, and closes the way its control says.
pub(super) struct Wire {
    stream: TcpStream,
    control: Arc<Control>,
}

/// What the answers of a connection may ask of it.
#[derive(Debug, Default)]
pub(super) struct Control {
    flushed: Notify,
    ended: Notify,
    is_reset: AtomicBool,
    session: Mutex<Option<Session>>,
}

impl Control {
    /// Waits until all that was handed over has gone to the socket.
    pub(super) async fn flushed(&self) {
        // HTTP/2 writes from another task, which may have been quicker; then nothing more will be told.
        let _ = tokio::time::timeout(FLUSH_WAIT, self.flushed.notified()).await;
    }

    /// Ends the connection under whatever still runs on it.
    pub(super) fn end(&self, how: Ending) {
        self.is_reset.store(how == Ending::Reset, Ordering::Relaxed);
        self.ended.notify_one();
    }

    /// The connection becomes a session when the answer has gone.
    pub(super) fn begin(&self, session: Session) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }

    /// The session that the connection has become.
    pub(super) fn session(&self) -> Option<Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns when the connection is to end.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }
}

impl Wire {
    pub(super) fn new(stream: TcpStream, control: Arc<Control>) -> Self {
        Self { stream, control }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.control.is_reset.load(Ordering::Relaxed) {
            // A socket that is already broken needs no reset.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes the transport only when its own buffer is empty.
        self.control.flushed.notify_waiters();
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
