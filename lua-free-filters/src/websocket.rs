//! The frame scanner of WebSocket connections: finds the text messages of a server in a byte stream, whatever the chunks, in
//! bounded memory. Bytes are only read, never held back.
//!
//! Source: RFC 6455, "Base Framing Protocol". Servers do not mask; extensions are not negotiated, so nothing is compressed.

/// A message longer than this is not read: it carries sounds, and no figures.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const CLOSE: u8 = 8;

/// What a server has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A whole text.
    Text(&'a [u8]),
    /// A text that was too long to be read.
    Unread,
    /// The server ends the connection.
    Close,
}

/// Cuts a byte stream into messages.
#[derive(Debug, Default)]
pub struct FrameScanner {
    /// The head of the frame as far as it has come.
    head: Vec<u8>,
    /// Bytes of the payload that are still to come, once the head is whole.
    left: Option<u64>,
    opcode: u8,
    is_last: bool,
    is_control: bool,
    /// The text message so far; nothing while none is open.
    text: Option<Vec<u8>>,
    is_too_long: bool,
}

impl FrameScanner {
    /// Reads the next chunk, and tells each message that has become whole.
    pub fn feed(&mut self, chunk: &[u8], on_message: &mut dyn FnMut(Message<'_>)) {
        let mut rest = chunk;
        while !rest.is_empty() || self.left == Some(0) {
            match self.left {
                None => {
                    self.head.push(rest[0]);
                    rest = &rest[1..];
                    self.read_head();
                }
                Some(left) => {
                    let here = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.keep(&rest[..here]);
                    rest = &rest[here..];
                    let left = left - here as u64;
                    self.left = (left > 0).then_some(left);
                    if left > 0 {
                        return;
                    }
                    self.end_frame(on_message);
                }
            }
        }
    }

    /// Takes the head apart once all of it is there.
    fn read_head(&mut self) {
        let [first, second, ..] = self.head[..] else { return };
        let length_bytes = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask_bytes = if second & 0x80 == 0 { 0 } else { 4 };
        if self.head.len() < 2 + length_bytes + mask_bytes {
            return;
        }
        let length = match length_bytes {
            0 => u64::from(second & 0x7f),
            _ => self.head[2..2 + length_bytes].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        self.opcode = first & 0x0f;
        self.is_control = self.opcode >= CLOSE;
        self.is_last = first & 0x80 != 0;
        self.left = Some(length);
        self.head.clear();
        if self.opcode == TEXT {
            self.text = Some(Vec::new());
            self.is_too_long = false;
        } else if !self.is_control && self.opcode != CONTINUATION {
            self.text = None;
        }
    }

    fn keep(&mut self, payload: &[u8]) {
        let Some(text) = self.text.as_mut().filter(|_| !self.is_control) else { return };
        if text.len() + payload.len() > MESSAGE_BYTES_MAX {
            self.is_too_long = true;
            *text = Vec::new();
        } else if !self.is_too_long {
            text.extend_from_slice(payload);
        }
    }

    fn end_frame(&mut self, on_message: &mut dyn FnMut(Message<'_>)) {
        if self.opcode == CLOSE {
            on_message(Message::Close);
        }
        if self.is_control || !self.is_last {
            return;
        }
        match self.text.take() {
            Some(_) if self.is_too_long => on_message(Message::Unread),
            Some(text) => on_message(Message::Text(&text)),
            None => {}
        }
    }
}

/// The frame that ends a connection, with a status and a reason of at most 123 bytes, as a server sends it.
#[must_use]
pub fn close_frame(status: u16, reason: &str) -> Vec<u8> {
    const REASON_BYTES_MAX: usize = 123;
    let end = (0..=reason.len().min(REASON_BYTES_MAX)).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    // At most 125 bytes, so the length fits the head's second byte.
    let mut frame = vec![0x80 | CLOSE, (2 + end) as u8];
    frame.extend_from_slice(&status.to_be_bytes());
    frame.extend_from_slice(&reason.as_bytes()[..end]);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..=125 => frame.push(length as u8),
            length @ 126..=65_535 => {
                frame.push(126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        frame
    }

    fn read(stream: &[u8], step: usize) -> Vec<String> {
        let (mut scanner, mut messages) = (FrameScanner::default(), Vec::new());
        for chunk in stream.chunks(step) {
            scanner.feed(chunk, &mut |message| {
                messages.push(match message {
                    Message::Text(text) => String::from_utf8_lossy(text).into_owned(),
                    Message::Unread => "unread".to_owned(),
                    Message::Close => "close".to_owned(),
                });
            });
        }
        messages
    }

    #[test]
    fn messages_are_found_whatever_lies_between_their_parts() {
        let long = "x".repeat(70_000);
        let stream = [
            frame(0x81, b"one"),
            frame(0x01, b"tw"),
            frame(0x89, b"ping"),
            frame(0x80, b"o"),
            frame(0x82, b"binary"),
            frame(0x81, b""),
            frame(0x81, long.as_bytes()),
            close_frame(1008, "no more"),
        ]
        .concat();
        for step in [1, 2, 5, 4_096, stream.len()] {
            assert_eq!(read(&stream, step), ["one", "two", "", &long, "close"], "{step}");
        }
    }

    #[test]
    fn what_is_too_long_is_passed_over_in_bounded_memory() {
        let mut scanner = FrameScanner::default();
        let mut seen = Vec::new();
        let mut note = |message: Message<'_>| seen.push(matches!(message, Message::Unread));
        let stream = frame(0x81, &vec![b'x'; 3 * MESSAGE_BYTES_MAX]);
        stream.chunks(10_000).for_each(|chunk| scanner.feed(chunk, &mut note));
        scanner.feed(&frame(0x81, b"after"), &mut note);
        assert_eq!(seen, [true, false]);
    }

    #[test]
    fn reasons_are_cut_at_a_character() {
        let frame = close_frame(1008, &"é".repeat(100));
        assert_eq!((frame[1], frame.len()), (2 + 122, 2 + 2 + 122));
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_messages(texts in prop::collection::vec(".{0,200}", 0..6), step in 1usize..64) {
            let stream: Vec<u8> = texts.iter().flat_map(|text| frame(0x81, text.as_bytes())).collect();
            prop_assert_eq!(read(&stream, step), texts);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            read(&bytes, 7);
        }
    }
}
