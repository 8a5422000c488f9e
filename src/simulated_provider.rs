//! A model provider that is no model: the APIs of OpenAI, Anthropic, Gemini, Cohere and Bedrock with deterministic text,
//! correct usage and faults on demand. The demo, the benches and all gateway tests speak to it.
//!
//! - `route` every URL · `ask`, `multipart`, `conversation` a request taken apart · `request` what was understood of it
//! - `plan` what it will be answered · `text`, `vectors`, `picture` the model's own words, numbers and colours
//! - `openai_…`, `anthropic`, `gemini…`, `cohere_…`, `bedrock…` how each API asks and answers, one a file · `answer` one event
//!   after another, in its pace
//! - `objects` what it keeps: files, stored responses · `websocket` the ground of realtime sessions · `event_stream` Amazon's
//!   frames
//! - `faults` what may go wrong · `body`, `wire` how bytes leave, healthy or not · `call` the journey of a request
//! - `log` what it served

mod answer;
mod anthropic;
mod ask;
mod bedrock;
mod bedrock_invoke;
mod body;
mod call;
mod cohere_chat;
mod cohere_vectors;
mod conversation;
mod event_stream;
mod faults;
mod gemini;
mod gemini_vectors;
mod headers;
mod log;
mod multipart;
mod objects;
mod openai_chat;
mod openai_completions;
mod openai_embeddings;
mod openai_images;
mod openai_moderations;
mod openai_realtime;
mod openai_responses;
mod openai_speech;
mod openai_transcription;
mod picture;
mod plan;
mod request;
mod route;
#[cfg(test)]
mod tests;
mod text;
mod vectors;
mod websocket;
mod wire;

use call::Provider;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use wire::{Control, Wire};

/// Benches open thousands of connections at once.
const LISTEN_BACKLOG: u32 = 4096;
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const H2_STREAMS_MAX: u32 = 4096;
/// A body of a megabyte comes in one go.
const H2_WINDOW_BYTES: u32 = 1024 * 1024;

/// Arguments of `tollgate simulate-provider`.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Options {
    /// Port to listen on, on 127.0.0.1; 0 picks a free one
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Milliseconds before the first event of each answer
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub first_token_ms: u64,
    /// Milliseconds between tokens
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub token_ms: u64,
    /// File to append a JSON line to for each call served
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Keep no records and hash no bodies, for benches; `GET /log` is empty
    #[arg(long, conflicts_with = "log")]
    pub without_log: bool,
    /// The only credential that is accepted; any is, if none is named
    #[arg(long, value_name = "TOKEN")]
    pub credential: Option<String>,
    /// Faults of every call, as in the header x-simulate: "status=503, retry-after=1"
    #[arg(long, value_name = "LIST")]
    pub fault: Option<String>,
}

/// Binds 127.0.0.1 and serves until the task is aborted, which ends its connections too.
pub async fn start(options: Options) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let provider = Provider::new(&options)?;
    let socket = TcpSocket::new_v4()?;
    // A provider that a test starts again on the same port must not wait for old connections to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, options.port)))?;
    let listener = socket.listen(LISTEN_BACKLOG)?;
    let address = listener.local_addr()?;
    Ok((address, tokio::spawn(accept(listener, Arc::new(provider)))))
}

async fn accept(listener: TcpListener, provider: Arc<Provider>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(serve(stream, Arc::clone(&provider)));
                    }
                    // No descriptors are left, most likely: some may be free in a moment.
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection, HTTP/1.1 or HTTP/2 as its first bytes say.
async fn serve(stream: TcpStream, provider: Arc<Provider>) {
    // Each event is to leave at once. Without it the pace is wrong, the bytes are right.
    let _ = stream.set_nodelay(true);
    let control = Arc::new(Control::default());
    let wire = TokioIo::new(Wire::new(stream, Arc::clone(&control)));
    let service = service_fn(|request| {
        let (provider, control) = (Arc::clone(&provider), Arc::clone(&control));
        async move { provider.respond(request, &control).await }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http2()
        .max_concurrent_streams(H2_STREAMS_MAX)
        .initial_stream_window_size(H2_WINDOW_BYTES)
        .initial_connection_window_size(16 * H2_WINDOW_BYTES);
    tokio::select! {
        // How a client leaves is its own affair; what it got is in the log.
        _ = server.serve_connection_with_upgrades(wire, service) => {}
        () = control.ended() => {}
    }
    if let Some(session) = control.session() {
        // How it leaves a session neither.
        let _ = session.run().await;
    }
}
