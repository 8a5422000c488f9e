//! The log: whoever has something to say hands a line over and goes on; one thread writes what has come, in batches.
//!
//! A call must never wait for whoever reads the log. So the room for lines that wait is bounded, a line that finds none is
//! counted and left out, and the log itself says how many were.

mod json;

use crate::config::{self, LogFormat};
use json::JsonLines;
use std::io::Write;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How long lines are gathered before they are written together: few enough writes to cost nothing, and nobody who reads
/// the log minds.
const GATHERED: Duration = Duration::from_millis(20);
/// How long the end of the process waits for the last lines. Who does not read for a second does not read.
const ENDING: Duration = Duration::from_secs(1);
/// What a batch may keep of its memory.
const BATCH_KEPT_BYTES: usize = 64 << 10;

/// Where lines go. Clones are the same log.
#[derive(Clone)]
pub struct Log(Arc<Queue>);

impl Log {
    /// Starts the log of this process. A second start in one process keeps the first log.
    pub fn start(settings: &config::Log) -> std::io::Result<Self> {
        let log = Self(Arc::new(Queue::new(settings.queue_bytes_max)));
        let queue = Arc::clone(&log.0);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || queue.write_to(std::io::stderr()))?;
        let level = LevelFilter::from_str(&settings.level).unwrap_or(LevelFilter::INFO);
        let of_others = level.min(LevelFilter::WARN);
        let wanted = Targets::new().with_default(level).with_targets(OTHERS.map(|target| (target, of_others)));
        let registry = tracing_subscriber::registry().with(wanted);
        let _ = match settings.format {
            LogFormat::Json => registry.with(JsonLines(log.clone())).try_init(),
            LogFormat::Text => {
                let lines = tracing_subscriber::fmt::layer().compact().with_writer(log.clone());
                registry.with(lines).try_init()
            }
        };
        Ok(log)
    }

    /// Lines that found no room, in total.
    #[must_use]
    pub fn lines_lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Has everything written that was said. Nothing that is said later is.
    pub fn end(&self) {
        self.0.end();
    }
}

/// Their connection-level chatter is not ours.
const OTHERS: [&str; 3] = ["pingora_core", "pingora_proxy", "sqlx"];

impl<'a> MakeWriter<'a> for Log {
    type Writer = Lines<'a>;

    fn make_writer(&'a self) -> Lines<'a> {
        Lines(&self.0)
    }
}

/// Takes a line with each write.
pub struct Lines<'a>(&'a Queue);

impl Write for Lines<'_> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Lines that wait to be written.
struct Queue {
    bytes_max: usize,
    waiting: Mutex<Waiting>,
    /// Tells the writer of the first line, and of the end.
    arrived: Condvar,
    /// Tells who waits for the end that all is written.
    written: Condvar,
    lost: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    is_ending: bool,
    is_written: bool,
}

impl Queue {
    fn new(bytes_max: usize) -> Self {
        let (arrived, written) = (Condvar::new(), Condvar::new());
        Self { bytes_max, waiting: Mutex::default(), arrived, written, lost: AtomicU64::new(0) }
    }

    /// Locks what no panic can leave half-written.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.lines.len() + line.len() > self.bytes_max {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let is_first = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        // The writer sleeps on after the first line, so that a wake-up is paid for once a batch.
        if is_first {
            self.arrived.notify_one();
        }
    }

    /// Writes what arrives until the end.
    fn write_to(&self, mut out: impl Write) {
        let (mut batch, mut told) = (Vec::new(), 0);
        let mut is_over = false;
        while !is_over {
            is_over = self.take(&mut batch);
            // There is no other place to say that the log can't be written.
            let _ = out.write_all(&batch).and_then(|()| out.flush());
            batch.clear();
            batch.shrink_to(BATCH_KEPT_BYTES);
            let lost = self.lost.load(Ordering::Relaxed);
            if lost > told {
                tracing::warn!(
                    lines = lost - told,
                    "the log is not read as fast as it is written; lines were left out"
                );
                told = lost;
            }
        }
        self.lock().is_written = true;
        self.written.notify_all();
    }

    /// Waits for lines and takes all there are; says whether they are the last.
    fn take(&self, batch: &mut Vec<u8>) -> bool {
        let nothing_yet = |waiting: &mut Waiting| waiting.lines.is_empty() && !waiting.is_ending;
        let waiting = self.arrived.wait_while(self.lock(), nothing_yet).unwrap_or_else(PoisonError::into_inner);
        let goes_on = |waiting: &mut Waiting| !waiting.is_ending;
        let gathered = self.arrived.wait_timeout_while(waiting, GATHERED, goes_on);
        let (mut waiting, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.lines, batch);
        waiting.is_ending
    }

    fn end(&self) {
        let mut waiting = self.lock();
        waiting.is_ending = true;
        self.arrived.notify_all();
        let unwritten = |waiting: &mut Waiting| !waiting.is_written;
        // If the time is up, whoever should read has had it.
        let _ = self.written.wait_timeout_while(waiting, ENDING, unwritten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Somebody who reads a batch when the test lets them.
    struct Reader(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Reader {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            // The test may be over.
            let _ = self.0.recv();
            let _ = self.1.send(text.to_vec());
            Ok(text.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn started(bytes_max: usize) -> (Log, Sender<()>, Receiver<Vec<u8>>) {
        let log = Log(Arc::new(Queue::new(bytes_max)));
        let ((go, gate), (sender, batches)) = (channel(), channel());
        let queue = Arc::clone(&log.0);
        std::thread::spawn(move || queue.write_to(Reader(gate, sender)));
        (log, go, batches)
    }

    #[test]
    fn lines_are_written_in_their_order_and_all_of_them_at_the_end() {
        let (log, go, batches) = started(1_000);
        drop(go);
        let lines: Vec<String> = (0..50).map(|number| format!("line {number}\n")).collect();
        for line in &lines {
            assert_eq!(log.make_writer().write(line.as_bytes()).expect("there is room"), line.len());
        }
        log.end();
        assert_eq!(String::from_utf8(batches.try_iter().flatten().collect()).expect("text"), lines.concat());
        assert_eq!(log.lines_lost(), 0);
    }

    #[test]
    fn nobody_waits_for_a_reader_who_does_not_read() {
        let (log, go, batches) = started(10);
        log.0.push(b"12345678\n");
        // The writer takes it, and then waits for the reader.
        while !log.0.lock().lines.is_empty() {
            std::thread::yield_now();
        }
        (0..5).for_each(|_| log.0.push(b"1234\n"));
        assert_eq!((log.lines_lost(), log.0.lock().lines.len()), (3, 10));
        drop(go);
        log.end();
        assert_eq!(batches.try_iter().flatten().collect::<Vec<u8>>(), b"12345678\n1234\n1234\n");
    }
}
