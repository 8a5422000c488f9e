//! A client of HTTP/1.1 on a bare socket: it sends any bytes, sees each chunk as it comes, and can leave at any moment.

use super::{Answer, DEADLINE};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

/// One connection.
pub(crate) struct Wire {
    stream: TcpStream,
    /// What was received and not yet asked for.
    received: Vec<u8>,
    /// Bytes of an event stream, with the chunks' framing taken off.
    events: Vec<u8>,
}

/// Bytes that were received already, then those of the stream. What is not read of the former is kept.
struct Leftover<'w> {
    before: Vec<u8>,
    stream: &'w mut TcpStream,
    received: &'w mut Vec<u8>,
}

impl Read for Leftover<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.before.is_empty() {
            return self.stream.read(buffer);
        }
        let length = self.before.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.before[..length]);
        self.before.drain(..length);
        Ok(length)
    }
}

impl Drop for Leftover<'_> {
    fn drop(&mut self) {
        *self.received = std::mem::take(&mut self.before);
    }
}

impl Wire {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("the listener accepts")
    }

    pub(crate) fn try_connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::new(), events: Vec::new() })
    }

    /// What comes after the head of an answer, as it comes.
    pub(crate) fn reader(&mut self) -> impl Read + '_ {
        let before = std::mem::take(&mut self.received);
        Leftover { before, stream: &mut self.stream, received: &mut self.received }
    }

    /// Sends bytes; the other side must take them.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the other side takes what is sent");
    }

    /// Sends bytes to somebody who may have closed the connection.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a request and reads the whole answer.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> Answer {
        self.send(request);
        self.answer()
    }

    /// Reads a whole answer, which must be framed as it says.
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer().expect("a whole answer")
    }

    /// Reads a whole answer; the error is that it breaks off.
    pub(crate) fn try_answer(&mut self) -> Result<Answer> {
        let mut answer = self.try_head()?;
        answer.body = self.body(&answer)?;
        Ok(answer)
    }

    /// Reads the head of an answer; interim ones are skipped.
    pub(crate) fn head(&mut self) -> Answer {
        self.try_head().expect("the head of an answer")
    }

    pub(crate) fn try_head(&mut self) -> Result<Answer> {
        loop {
            let head = self.any_head()?;
            if head.status >= 200 {
                return Ok(head);
            }
        }
    }

    /// Reads the head of an answer, an interim one too.
    pub(crate) fn any_head(&mut self) -> Result<Answer> {
        let end = loop {
            if let Some(end) = find(&self.received, b"\r\n\r\n") {
                break end;
            }
            self.receive()?;
        };
        let text = String::from_utf8_lossy(&self.received[..end]).into_owned();
        self.received.drain(..end + 4);
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status = status.ok_or_else(|| Error::new(ErrorKind::InvalidData, text.clone()))?;
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Ok(Answer { status, headers, body: Vec::new() })
    }

    /// Reads the body that belongs to a head.
    pub(crate) fn body(&mut self, head: &Answer) -> Result<Vec<u8>> {
        if matches!(head.status, 204 | 304) {
            return Ok(Vec::new());
        }
        if head.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            let mut body = Vec::new();
            while let Some(chunk) = self.chunk()? {
                body.extend_from_slice(&chunk);
            }
            return Ok(body);
        }
        if matches!(head.status, 204 | 304) {
            return Ok(Vec::new());
        }
        if let Some(length) = head.header("content-length") {
            return self.take(length.parse().map_err(|_| Error::new(ErrorKind::InvalidData, length.to_owned()))?);
        }
        while self.receive().map(|()| true).or_else(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Ok(false),
            _ => Err(error),
        })? {}
        Ok(std::mem::take(&mut self.received))
    }

    /// Reads a chunk of a body; none is the body's end.
    pub(crate) fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
            .map_err(|_| Error::new(ErrorKind::InvalidData, format!("not the size of a chunk: {line}")))?;
        if size == 0 {
            while !self.line()?.is_empty() {}
            return Ok(None);
        }
        let chunk = self.take(size)?;
        match self.line()?.as_str() {
            "" => Ok(Some(chunk)),
            other => Err(Error::new(ErrorKind::InvalidData, format!("after a chunk: {other}"))),
        }
    }

    /// Reads the next event of a chunked event stream, without its blank line; none is the body's end.
    pub(crate) fn event(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = find(&self.events, b"\n\n") {
                let event = String::from_utf8_lossy(&self.events[..end]).into_owned();
                self.events.drain(..end + 2);
                return Ok(Some(event));
            }
            match self.chunk()? {
                Some(chunk) => self.events.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }

    /// Reads events to the body's end.
    pub(crate) fn events(&mut self) -> Result<Vec<String>> {
        std::iter::from_fn(|| self.event().transpose()).collect()
    }

    fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = find(&self.received, b"\r\n") {
                let line = String::from_utf8_lossy(&self.received[..end]).into_owned();
                self.received.drain(..end + 2);
                return Ok(line);
            }
            self.receive()?;
        }
    }

    fn take(&mut self, bytes: usize) -> Result<Vec<u8>> {
        while self.received.len() < bytes {
            self.receive()?;
        }
        let rest = self.received.split_off(bytes);
        Ok(std::mem::replace(&mut self.received, rest))
    }

    /// Receives some more bytes; the end of the connection is an error.
    fn receive(&mut self) -> Result<()> {
        let mut buffer = [0; 64 * 1024];
        match self.stream.read(&mut buffer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            read => {
                self.received.extend_from_slice(&buffer[..read]);
                Ok(())
            }
        }
    }

    /// Waits until the other side has closed the connection, and gives back what it sent before.
    pub(crate) fn rest(&mut self) -> String {
        loop {
            match self.receive() {
                Ok(()) => {}
                Err(error) => {
                    assert!(!is_timeout(&error), "the other side keeps the connection open");
                    return String::from_utf8_lossy(&std::mem::take(&mut self.received)).into_owned();
                }
            }
        }
    }

    /// Says that nothing more will be sent.
    pub(crate) fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).expect("an open socket");
    }

    /// Breaks the connection off with a RST.
    pub(crate) fn reset(self) {
        reset(self.stream);
    }
}

/// Breaks a connection off with a RST.
pub(crate) fn reset(stream: TcpStream) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    let _inside = runtime.enter();
    stream.set_nonblocking(true).expect("a socket");
    let stream = tokio::net::TcpStream::from_std(stream).expect("a socket");
    // It may be closed already.
    let _ = stream.set_zero_linger();
}

fn is_timeout(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, wanted)
}
