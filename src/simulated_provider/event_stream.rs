//! Amazon's binary event stream: messages with a prelude, headers, a payload and two checksums.

use bytes::{BufMut, Bytes, BytesMut};

/// Total length, length of the headers, checksum of both.
const PRELUDE_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 4;
/// The only type of header value that the runtime sends.
const STRING: u8 = 7;

/// A message that carries an event.
pub(super) fn event(kind: &str, payload: &str) -> Bytes {
    message(&[(":event-type", kind), (":content-type", "application/json"), (":message-type", "event")], payload)
}

/// A message that tells of a failure.
pub(super) fn exception(kind: &str, payload: &str) -> Bytes {
    message(
        &[(":exception-type", kind), (":content-type", "application/json"), (":message-type", "exception")],
        payload,
    )
}

fn message(headers: &[(&str, &str)], payload: &str) -> Bytes {
    let mut head = BytesMut::new();
    for (name, value) in headers {
        head.put_u8(name.len() as u8);
        head.put_slice(name.as_bytes());
        head.put_u8(STRING);
        head.put_u16(value.len() as u16);
        head.put_slice(value.as_bytes());
    }
    let total = PRELUDE_BYTES + head.len() + payload.len() + CHECKSUM_BYTES;
    let mut message = BytesMut::with_capacity(total);
    message.put_u32(total as u32);
    message.put_u32(head.len() as u32);
    message.put_u32(crc32fast::hash(&message));
    message.put_slice(&head);
    message.put_slice(payload.as_bytes());
    message.put_u32(crc32fast::hash(&message));
    message.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_the_recorded_one() {
        // From a recorded stream of the runtime.
        let recorded = b"\x00\x00\x00\x92\x00\x00\x00VL\xec_\xd8\x0b:event-type\x07\x00\x10contentBlockStop\r:content-type\x07\x00\x10application/json\r:message-type\x07\x00\x05event{\"contentBlockIndex\":0,\"p\":\"abcdefghijklmn\"}>\xa9`;";
        let made = event("contentBlockStop", "{\"contentBlockIndex\":0,\"p\":\"abcdefghijklmn\"}");
        assert_eq!(&made[..], &recorded[..]);
    }
}
