//! A provider whose every byte a test decides: for what the simulated one can't do, or must not do by itself.

use super::wire;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A scripted provider. Its threads end with the connections, the listener's with the process.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<Received>>>,
}

/// A request as it came over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// The first line and the headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Received {
    /// The value of the first header of this name, which is written in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// A request that waits for its answer.
pub(crate) struct Exchange {
    /// How many requests the provider had got before.
    pub(crate) number: usize,
    pub(crate) request: Received,
    stream: TcpStream,
    is_open: bool,
}

impl Exchange {
    /// Sends bytes; the gateway may have left.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.is_open &= self.stream.write_all(bytes.as_ref()).is_ok();
    }

    /// Sends a whole answer of JSON.
    pub(crate) fn answer(&mut self, status: u16, body: &str) {
        let length = body.len();
        self.send(format!(
            "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        ));
    }

    /// Sends the head of a stream of events.
    pub(crate) fn begin_stream(&mut self) {
        self.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    }

    /// Sends an event in a chunk of its own.
    pub(crate) fn event(&mut self, data: &str) {
        let event = format!("data: {data}\n\n");
        self.send(format!("{:x}\r\n{event}\r\n", event.len()));
    }

    pub(crate) fn end_stream(&mut self) {
        self.send("0\r\n\r\n");
    }

    /// Ends the connection after what was sent.
    pub(crate) fn close(&mut self) {
        self.is_open = false;
    }

    /// Breaks the connection off.
    pub(crate) fn reset(&mut self) {
        self.is_open = false;
        wire::reset(self.stream.try_clone().expect("a socket"));
    }

    /// Waits until the gateway has closed the connection.
    pub(crate) fn await_close(&mut self) {
        while matches!(self.stream.read(&mut [0; 1024]), Ok(1..)) {}
        self.is_open = false;
    }
}

impl Scripted {
    /// Answers each request as `script` says. Connections stay open unless it closes them.
    pub(crate) fn start(script: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (script, counted, kept) = (Arc::new(script), Arc::clone(&connections), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::AcqRel);
                let (script, kept) = (Arc::clone(&script), Arc::clone(&kept));
                std::thread::spawn(move || serve(stream, &*script, &kept));
            }
        });
        Self { address, connections, requests }
    }

    /// Answers every call with this status and this JSON.
    pub(crate) fn answering(status: u16, body: &'static str) -> Self {
        Self::start(move |exchange| exchange.answer(status, body))
    }

    /// The base URL that a configuration names.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Connections that were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// The requests that it has got.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.requests.lock().expect("nobody panics with it").clone()
    }
}

fn serve(mut stream: TcpStream, script: &dyn Fn(&mut Exchange), kept: &Mutex<Vec<Received>>) {
    let mut waiting = Vec::new();
    while let Ok(Some(request)) = receive(&mut stream, &mut waiting) {
        let number = {
            let mut kept = kept.lock().expect("nobody panics with it");
            kept.push(request.clone());
            kept.len() - 1
        };
        let Ok(stream) = stream.try_clone() else { return };
        let mut exchange = Exchange { number, request, stream, is_open: true };
        script(&mut exchange);
        if !exchange.is_open {
            // The clone in the exchange and the socket here are one connection: both must go.
            return;
        }
    }
}

/// The next request; none when the gateway has closed the connection.
fn receive(stream: &mut TcpStream, waiting: &mut Vec<u8>) -> Result<Option<Received>> {
    let head_end = loop {
        if let Some(end) = memchr::memmem::find(waiting, b"\r\n\r\n") {
            break end + 4;
        }
        if !receive_more(stream, waiting)? {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&waiting[..head_end]).into_owned();
    let mut request = Received { head, body: Vec::new() };
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while waiting.len() < head_end + length {
        if !receive_more(stream, waiting)? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    request.body = waiting[head_end..head_end + length].to_vec();
    waiting.drain(..head_end + length);
    Ok(Some(request))
}

fn receive_more(stream: &mut TcpStream, waiting: &mut Vec<u8>) -> Result<bool> {
    let mut buffer = [0; 64 * 1024];
    let read = stream.read(&mut buffer)?;
    waiting.extend_from_slice(&buffer[..read]);
    Ok(read > 0)
}
