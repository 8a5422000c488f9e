//! The bodies that hyper sends: a healthy one, frame by frame, and one whose bytes meet a fault on their way out.

use super::answer::Answer;
use super::faults::{Cut, Ending, WireFaults};
use super::log::Entry;
use super::wire::Control;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{Stream, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body, Frame};
use std::future::{pending, poll_fn};
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

const DRIP_PAUSE: Duration = Duration::from_millis(50);

/// What every response of the provider carries.
pub(super) type ResponseBody = UnsyncBoxBody<Bytes, io::Error>;

/// The body of an answer, healthy or not.
pub(super) fn send(answer: Answer, entry: Entry, faults: WireFaults, control: &Arc<Control>) -> ResponseBody {
    if faults == WireFaults::default() {
        return HealthyBody::new(answer, entry).boxed_unsync();
    }
    let gzip = faults.gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast()));
    let control = Arc::clone(control);
    let body = FaultyBody { answer, entry, faults, control, gzip, left: Bytes::new(), events: 0, sent_bytes: 0 };
    StreamBody::new(body.into_frames()).boxed_unsync()
}

/// Hands over one event a frame.
struct HealthyBody {
    answer: Answer,
    entry: Entry,
}

impl HealthyBody {
    fn new(answer: Answer, mut entry: Entry) -> Self {
        if answer.is_finished() {
            entry.complete();
        }
        Self { answer, entry }
    }
}

impl Body for HealthyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(part) = ready!(self.answer.poll_part(context)) else {
            return Poll::Ready(None);
        };
        self.entry.hand_over(&part);
        if self.answer.is_finished() {
            self.entry.complete();
        }
        Poll::Ready(Some(Ok(Frame::data(part.bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_finished()
    }
}

/// Hands over bytes as its faults say.
struct FaultyBody {
    answer: Answer,
    entry: Entry,
    faults: WireFaults,
    control: Arc<Control>,
    gzip: Option<GzEncoder<Vec<u8>>>,
    /// Bytes of the current part that wait to be sent.
    left: Bytes,
    events: u64,
    sent_bytes: u64,
}

impl FaultyBody {
    fn into_frames(self) -> impl Stream<Item = io::Result<Frame<Bytes>>> + Send {
        stream::unfold(self, async |mut body| match body.next().await {
            Ok(Some(bytes)) => Some((Ok(Frame::data(bytes)), body)),
            Ok(None) => None,
            Err(error) => Some((Err(error), body)),
        })
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        while self.left.is_empty() {
            self.stop_if_cut().await;
            if self.faults.hang_after_events == Some(self.events) {
                return pending().await;
            }
            if !self.refill().await? {
                return self.finish().await;
            }
        }
        self.stop_if_cut().await;
        if self.faults.drip {
            tokio::time::sleep(DRIP_PAUSE).await;
        }
        if self.faults.one_byte_chunks {
            self.control.flushed().await;
        }
        let bytes = self.left.split_to(self.step());
        self.sent_bytes += bytes.len() as u64;
        Ok(Some(bytes))
    }

    /// How many bytes may go at once; there are some left and no cut is due.
    fn step(&self) -> usize {
        if self.faults.drip || self.faults.one_byte_chunks {
            return 1;
        }
        let until_cut = self.faults.cut.map_or(u64::MAX, |cut| cut.after_bytes - self.sent_bytes);
        self.left.len().min(usize::try_from(until_cut).unwrap_or(usize::MAX))
    }

    async fn stop_if_cut(&self) {
        if let Some(Cut { after_bytes, how }) = self.faults.cut
            && self.sent_bytes >= after_bytes
        {
            self.stop(how).await;
        }
    }

    /// Ends the connection; never returns, because this body goes with it.
    async fn stop(&self, how: Ending) {
        self.control.flushed().await;
        self.control.end(how);
        pending().await
    }

    /// Takes the next part of the answer; false after the last.
    async fn refill(&mut self) -> io::Result<bool> {
        let answer = &mut self.answer;
        let Some(part) = poll_fn(|context| answer.poll_part(context)).await else {
            self.left = match self.gzip.take() {
                Some(encoder) => encoder.finish()?.into(),
                None => Bytes::new(),
            };
            return Ok(!self.left.is_empty());
        };
        self.entry.hand_over(&part);
        self.events += u64::from(part.ends_event);
        self.left = match &mut self.gzip {
            Some(encoder) => compress(encoder, &part.bytes)?,
            None => part.bytes,
        };
        Ok(true)
    }

    async fn finish(&mut self) -> io::Result<Option<Bytes>> {
        if self.faults.lying_length {
            self.stop(Ending::Close).await;
        }
        self.entry.complete();
        Ok(None)
    }
}

/// Each event leaves compressed but whole, as a compressing proxy that cares for streams sends it.
fn compress(encoder: &mut GzEncoder<Vec<u8>>, bytes: &[u8]) -> io::Result<Bytes> {
    encoder.write_all(bytes)?;
    encoder.flush()?;
    Ok(std::mem::take(encoder.get_mut()).into())
}
