//! A client without mercy: it sees every byte, every chunk and how the connection ended.

use super::super::{Options, start};
use serde_json::Value;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Long enough for a slow machine, short enough for a test that hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a silence must last to be believed.
pub(super) const SILENCE: Duration = Duration::from_secs(1);

pub(super) struct Simulator {
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Ended {
    Eof,
    Reset,
    Silent,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    /// Without the chunks' framing.
    pub(super) body: Vec<u8>,
    pub(super) chunks: Vec<usize>,
    /// The body came to the end that its header announced.
    pub(super) whole: bool,
    pub(super) ended: Ended,
}

impl Simulator {
    pub(super) async fn start(options: Options) -> Self {
        let (address, task) = start(options).await.unwrap();
        Self { address, task }
    }

    pub(super) async fn healthy() -> Self {
        Self::start(Options::default()).await
    }

    pub(super) async fn send(&self, path: &str, headers: &str, body: &Value) -> TcpStream {
        self.send_bytes(&format!("POST {path}"), headers, body.to_string().as_bytes()).await
    }

    /// `line` is the method and the path.
    async fn send_bytes(&self, line: &str, headers: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        stream
    }

    pub(super) async fn exchange(&self, line: &str, headers: &str, body: &[u8]) -> Answer {
        let mut stream = self.send_bytes(line, headers, body).await;
        let (bytes, ended) = read_to_end(&mut stream, PATIENCE).await;
        Answer::parse(&bytes, ended)
    }

    /// Sends a form with one file and these fields.
    pub(super) async fn upload(&self, path: &str, headers: &str, fields: &[(&str, &str)], file: &[u8]) -> Answer {
        let mut body = Vec::new();
        for (name, value) in fields {
            body.extend(format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").bytes());
        }
        let field = if path.contains("images") { "image" } else { "file" };
        let head = format!("--b\r\ncontent-disposition: form-data; name=\"{field}\"; filename=\"a.wav\"\r\n\r\n");
        body.extend([head.as_bytes(), file, b"\r\n--b--\r\n"].concat());
        let headers = format!("content-type: multipart/form-data; boundary=b\r\n{headers}");
        self.exchange(&format!("POST {path}"), &headers, &body).await
    }

    pub(super) async fn ask(&self, path: &str, headers: &str, body: &Value) -> Answer {
        let mut stream = self.send(path, headers, body).await;
        let (bytes, ended) = read_to_end(&mut stream, PATIENCE).await;
        Answer::parse(&bytes, ended)
    }

    pub(super) async fn ask_with_fault(&self, path: &str, fault: &str, body: &Value) -> Answer {
        self.ask(path, &format!("x-simulate: {fault}\r\n"), body).await
    }

    /// What comes until nothing more comes.
    pub(super) async fn ask_until_silent(&self, path: &str, fault: &str, body: &Value) -> (Vec<u8>, Ended) {
        let mut stream = self.send(path, &format!("x-simulate: {fault}\r\n"), body).await;
        read_to_end(&mut stream, SILENCE).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (bytes, ended) = read_to_end(&mut stream, PATIENCE).await;
        Answer::parse(&bytes, ended)
    }

    /// The records after a sequence number, when there are so many.
    pub(super) async fn records(&self, after: u64, count: usize) -> Vec<Value> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.get(&format!("/log?after={after}")).await;
            let records: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            if records.len() >= count {
                return records;
            }
            assert!(tokio::time::Instant::now() < deadline, "{count} records never came: {records:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) async fn read_to_end(stream: &mut TcpStream, patience: Duration) -> (Vec<u8>, Ended) {
    let mut bytes = Vec::new();
    loop {
        match tokio::time::timeout(patience, stream.read_buf(&mut bytes)).await {
            Err(_) => return (bytes, Ended::Silent),
            Ok(Ok(0)) => return (bytes, Ended::Eof),
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionReset => return (bytes, Ended::Reset),
            Ok(Err(error)) => panic!("{error}"),
        }
    }
}

impl Answer {
    pub(super) fn parse(bytes: &[u8], ended: Ended) -> Self {
        let split = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a header") + 4;
        let head = String::from_utf8(bytes[..split].to_vec()).unwrap().to_ascii_lowercase();
        let status = head[9..12].parse().unwrap();
        let body = bytes[split..].to_vec();
        let mut answer = Self { status, head, body, chunks: Vec::new(), whole: false, ended };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.take_chunks_apart();
        } else {
            answer.whole =
                answer.header("content-length").and_then(|length| length.parse().ok()) == Some(answer.body.len());
        }
        answer
    }

    fn take_chunks_apart(&mut self) {
        let raw = std::mem::take(&mut self.body);
        let mut rest = raw.as_slice();
        while let Some(line) = rest.windows(2).position(|window| window == b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
            if size == 0 {
                self.whole = true;
                return;
            }
            let chunk = &rest[line + 2..];
            let here = size.min(chunk.len());
            self.body.extend_from_slice(&chunk[..here]);
            self.chunks.push(size);
            rest = chunk.get(size + 2..).unwrap_or_default();
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The data of each event that is JSON.
    pub(super) fn events(&self) -> Vec<Value> {
        let lines = self.text().lines().filter_map(|line| line.strip_prefix("data: "));
        lines.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}
