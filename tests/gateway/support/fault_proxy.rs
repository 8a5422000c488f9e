//! Stands between two parties of TCP and does to their connections what networks do.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// What is being done to what passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    /// Nothing passes and nothing is closed: a partition.
    Held,
    /// Everything comes so much later.
    Delayed(Duration),
    /// Connections are closed as they come.
    Refused,
    /// A connection is closed when the server has answered what contains these bytes, and before its client learns so. Only
    /// so many times.
    CutAfter(Vec<u8>, usize),
}

#[derive(Default)]
struct State {
    fault: Fault,
    is_over: bool,
    /// Both ends of each connection, by its number.
    connections: HashMap<u64, [TcpStream; 2]>,
    /// How many connections there have been.
    accepted: u64,
    /// How many were cut after an answer.
    cut: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A proxy before one server. Its connections end when this is dropped.
pub(crate) struct FaultProxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

impl FaultProxy {
    /// Stands before a server, which need not be there yet.
    pub(crate) fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.lock().is_over {
                    break;
                }
                // Where there is no server the client is dropped, which closes its connection.
                let _ = accepting.connect(client, server);
            }
        });
        Self { address, shared }
    }

    /// Lets everything pass again, what was held too.
    pub(crate) fn heal(&self) {
        self.change(Fault::None);
    }

    /// Holds back all that comes, both ways, and closes nothing: no end of the line learns that the other is gone.
    pub(crate) fn hold(&self) {
        self.change(Fault::Held);
    }

    /// Lets everything come so much later.
    pub(crate) fn delay(&self, by: Duration) {
        self.change(Fault::Delayed(by));
    }

    /// Closes every connection, and those that come, until it is healed.
    pub(crate) fn refuse(&self) {
        self.change(Fault::Refused);
        self.cut();
    }

    /// Closes every connection there is; others may come.
    pub(crate) fn cut(&self) {
        self.shared.lock().close_all();
    }

    /// Lets what contains these bytes through to the server, waits for its answer, and closes the connection in its place.
    /// So many times; then all passes again.
    pub(crate) fn cut_after(&self, bytes: &[u8], times: usize) {
        self.change(Fault::CutAfter(bytes.to_owned(), times));
    }

    /// How many connections were closed in place of an answer.
    pub(crate) fn cuts(&self) -> usize {
        self.shared.lock().cut
    }

    fn change(&self, fault: Fault) {
        self.shared.lock().fault = fault;
        self.shared.changed.notify_all();
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_over = true;
        state.close_all();
        drop(state);
        self.shared.changed.notify_all();
        // The listener sees that it is over when somebody comes.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn close_all(&mut self) {
        for ends in self.connections.values() {
            close(ends);
        }
    }
}

fn close(ends: &[TcpStream; 2]) {
    for end in ends {
        // It may be closed already.
        let _ = end.shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn connect(self: &Arc<Self>, client: TcpStream, server: SocketAddr) -> std::io::Result<()> {
        if self.lock().fault == Fault::Refused {
            return Ok(());
        }
        let server = TcpStream::connect(server)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let mut state = self.lock();
        state.accepted += 1;
        let number = state.accepted;
        state.connections.insert(number, [client.try_clone()?, server.try_clone()?]);
        drop(state);
        // Whether the next answer is to be lost.
        let doomed = Arc::new(AtomicBool::new(false));
        for (way, from, to) in
            [(Way::ToServer, client.try_clone()?, server.try_clone()?), (Way::ToClient, server, client)]
        {
            let (shared, doomed) = (Arc::clone(self), Arc::clone(&doomed));
            std::thread::spawn(move || {
                shared.pump(way, from, to, &doomed);
                if way == Way::ToClient {
                    shared.lock().connections.remove(&number).iter().for_each(close);
                }
            });
        }
        Ok(())
    }

    /// Passes on what comes until there is no more.
    fn pump(&self, way: Way, mut from: TcpStream, mut to: TcpStream, doomed: &AtomicBool) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let Some(fault) = self.passing() else { return };
            if way == Way::ToClient && doomed.load(Ordering::Acquire) {
                self.lock().cut += 1;
                return;
            }
            match fault {
                Fault::Delayed(by) => std::thread::sleep(by),
                Fault::CutAfter(bytes, _) if way == Way::ToServer && contains(&buffer[..read], &bytes) => {
                    if self.takes_a_cut() {
                        doomed.store(true, Ordering::Release);
                    }
                }
                Fault::None | Fault::Held | Fault::Refused | Fault::CutAfter(..) => {}
            }
            if to.write_all(&buffer[..read]).is_err() {
                return;
            }
        }
        // It may be closed already.
        let _ = to.shutdown(Shutdown::Write);
    }

    /// Waits while everything is held, and says what is done to what passes; none if it is all over.
    fn passing(&self) -> Option<Fault> {
        let mut state = self.lock();
        while state.fault == Fault::Held && !state.is_over {
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        (!state.is_over).then(|| state.fault.clone())
    }

    /// Counts one cut off those that are to come; false if there are none left.
    fn takes_a_cut(&self) -> bool {
        match &mut self.lock().fault {
            Fault::CutAfter(_, left @ 1..) => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    memchr::memmem::find(bytes, wanted).is_some()
}

#[cfg(test)]
mod tests {
    use super::super::eventually;
    use super::*;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Instant;

    /// A server that tells what it receives and answers each word with it.
    fn echo() -> (SocketAddr, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (sender, received) = channel();
        std::thread::spawn(move || {
            for mut client in listener.incoming().map_while(Result::ok) {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    let mut word = [0; 4];
                    while client.read_exact(&mut word).is_ok() {
                        let told = sender.send(String::from_utf8_lossy(&word).into_owned());
                        if told.is_err() || client.write_all(&word).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        (address, received)
    }

    fn client(proxy: &FaultProxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address).expect("it listens");
        stream.set_read_timeout(Some(super::super::DEADLINE)).expect("a socket");
        stream
    }

    /// Sends a word and reads the answer; none if the connection is closed.
    fn say(stream: &mut TcpStream, word: &str) -> Option<String> {
        let mut answer = [0; 4];
        stream.write_all(word.as_bytes()).ok()?;
        stream.read_exact(&mut answer).ok().map(|()| String::from_utf8_lossy(&answer).into_owned())
    }

    fn is_silent(stream: &TcpStream) -> bool {
        stream.set_nonblocking(true).expect("a socket");
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false).expect("a socket");
        peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    #[test]
    fn what_is_held_arrives_when_it_is_healed_and_nothing_is_closed_meanwhile() {
        let (server, received) = echo();
        let proxy = FaultProxy::before(server);
        let mut stream = client(&proxy);
        assert_eq!(say(&mut stream, "ping").as_deref(), Some("ping"));
        assert_eq!(received.recv().as_deref(), Ok("ping"));
        proxy.hold();
        stream.write_all(b"held").expect("nobody closed it");
        // Another connection can be made, and is as silent.
        let mut other = client(&proxy);
        other.write_all(b"also").expect("nobody closed it");
        assert!(received.recv_timeout(Duration::from_millis(50)).is_err());
        assert!(is_silent(&stream) && is_silent(&other));
        proxy.heal();
        let mut words: Vec<_> = (0..2).filter_map(|_| received.recv().ok()).collect();
        words.sort();
        assert_eq!(words, ["also", "held"]);
    }

    #[test]
    fn refused_connections_are_closed_until_it_is_healed() {
        let (server, _received) = echo();
        let proxy = FaultProxy::before(server);
        let mut stream = client(&proxy);
        assert!(say(&mut stream, "ping").is_some());
        proxy.refuse();
        assert_eq!(say(&mut stream, "ping"), None);
        assert_eq!(say(&mut client(&proxy), "ping"), None);
        proxy.heal();
        assert!(say(&mut client(&proxy), "ping").is_some());
    }

    #[test]
    fn an_answer_is_cut_when_the_server_has_received_what_it_answers_and_only_so_often() {
        let (server, received) = echo();
        let proxy = FaultProxy::before(server);
        proxy.cut_after(b"DONE", 1);
        let mut stream = client(&proxy);
        assert_eq!(say(&mut stream, "ping").as_deref(), Some("ping"));
        assert_eq!(say(&mut stream, "DONE"), None);
        assert_eq!((received.recv().as_deref(), received.recv().as_deref()), (Ok("ping"), Ok("DONE")));
        assert_eq!(proxy.cuts(), 1);
        assert_eq!(say(&mut client(&proxy), "DONE").as_deref(), Some("DONE"));
    }

    #[test]
    fn what_is_delayed_comes_later_and_a_cut_closes_what_there_is() {
        let (server, _received) = echo();
        let proxy = FaultProxy::before(server);
        proxy.delay(Duration::from_millis(20));
        let mut stream = client(&proxy);
        let begun = Instant::now();
        assert_eq!(say(&mut stream, "ping").as_deref(), Some("ping"));
        assert!(begun.elapsed() >= Duration::from_millis(40));
        proxy.heal();
        proxy.cut();
        eventually("the connection is closed", || say(&mut stream, "ping").is_none().then_some(()));
        assert!(say(&mut client(&proxy), "ping").is_some());
        // A server that is gone closes what comes.
        let nobody = FaultProxy::before(super::super::setup::free_address());
        assert_eq!(say(&mut client(&nobody), "ping"), None);
    }
}
