//! A new connection to a provider, for a request that is sent once and piece by piece.

use super::Gateway;
use super::attempt::Outgoing;
use super::providers::Provider;
use bytes::{Bytes, BytesMut};
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v1::client::HttpSession as Http1Session;
use pingora::time::timeout;
use pingora::upstreams::peer::HttpPeer;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// A connection that takes the body of a request whose head was sent. What fails on it is not tried again.
pub(super) enum Way {
    H1 { stream: Stream, is_chunked: bool },
    Other(Box<HttpSession<()>>),
}

impl Way {
    /// Makes a connection and sends the head of the request, with the headers of `asked` that go to providers.
    pub(super) async fn open(
        gateway: &Gateway,
        (provider, peer): (&Provider, &Arc<HttpPeer>),
        asked: &RequestHeader,
        outgoing: &Outgoing<'_>,
        length: Option<usize>,
    ) -> Option<Self> {
        let (dialer, idle) = (provider.dialer(&gateway.dialer), provider.settings.timeouts.idle);
        if !provider.settings.h2 {
            let mut stream = dialer.transport.new_stream(&**peer).await.ok()?;
            let mut wire = BytesMut::new();
            provider.header_sets.write_head(&mut wire, asked, outgoing, length);
            timeout(idle, stream.write_all(&wire)).await.ok()?.ok()?;
            return Some(Self::H1 { stream, is_chunked: length.is_none() });
        }
        let (mut session, _) = dialer.connector().get_http_session(&**peer).await.ok()?;
        let is_http2 = matches!(session, HttpSession::H2(_));
        let head = provider.header_sets.request(asked, outgoing, length, is_http2)?;
        session.set_write_timeout(Some(idle));
        session.write_request_header(Box::new(head)).await.ok()?;
        Some(Self::Other(Box::new(session)))
    }

    /// Sends a piece of the body.
    pub(super) async fn write(&mut self, chunk: Bytes, idle: Duration) -> Option<()> {
        match self {
            Self::H1 { stream, is_chunked } => {
                let write = async {
                    match is_chunked {
                        true => {
                            stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
                            stream.write_all(&chunk).await?;
                            stream.write_all(b"\r\n").await
                        }
                        false => stream.write_all(&chunk).await,
                    }
                };
                timeout(idle, write).await.ok()?.ok()
            }
            Self::Other(session) => session.write_request_body(chunk, false).await.ok(),
        }
    }

    /// Ends the request.
    pub(super) async fn finish(self, peer: &HttpPeer, idle: Duration) -> Option<HttpSession<()>> {
        match self {
            Self::H1 { mut stream, is_chunked } => {
                let write = async {
                    if is_chunked {
                        stream.write_all(b"0\r\n\r\n").await?;
                    }
                    stream.flush().await
                };
                timeout(idle, write).await.ok()?.ok()?;
                Some(HttpSession::H1(Http1Session::new_with_options(stream, peer)))
            }
            Self::Other(mut session) => {
                session.finish_request_body().await.ok()?;
                Some(*session)
            }
        }
    }
}
