//! The server's end of a WebSocket: the handshake, whole messages in, texts out (RFC 6455).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What every server appends to the client's key.
const HANDSHAKE: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// A message that a client may send: sounds come in smaller ones.
const MESSAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The value of `Sec-WebSocket-Accept` for a client's key.
pub(super) fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}{HANDSHAKE}")))
}

/// A connection that has been upgraded.
pub(super) struct WebSocket<S>(pub(super) S);

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// The next text; none when the client leaves.
    pub(super) async fn text(&mut self) -> io::Result<Option<String>> {
        let mut message = Vec::new();
        loop {
            let (head, payload) = self.frame().await?;
            match head & 15 {
                CLOSE => {
                    self.send(CLOSE, &payload).await?;
                    return Ok(None);
                }
                PING => self.send(PONG, &payload).await?,
                TEXT | CONTINUATION => {
                    message.extend(payload);
                    let is_last = head & 128 != 0;
                    if is_last {
                        return String::from_utf8(message).map(Some).map_err(io::Error::other);
                    }
                }
                _ => {}
            }
        }
    }

    /// The first byte of a frame, and what it carries.
    async fn frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let head = self.0.read_u8().await?;
        let length = self.0.read_u8().await?;
        let length = match length & 127 {
            126 => u64::from(self.0.read_u16().await?),
            127 => self.0.read_u64().await?,
            short => u64::from(short),
        };
        if length > MESSAGE_BYTES_MAX {
            return Err(io::Error::other("a message that is too long"));
        }
        let mut mask = [0; 4];
        self.0.read_exact(&mut mask).await?;
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        Ok((head, payload))
    }

    /// Sends a text.
    pub(super) async fn send_text(&mut self, text: &str) -> io::Result<()> {
        self.send(TEXT, text.as_bytes()).await
    }

    async fn send(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = vec![128 | opcode];
        match payload.len() {
            length @ 0..126 => frame.push(length as u8),
            length @ 126..65_536 => {
                frame.push(126);
                frame.extend((length as u16).to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        self.0.write_all(&frame).await?;
        self.0.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshake_is_that_of_the_standard() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
