//! Two pieces of an answer as one, copied only where both are something.

use bytes::{Bytes, BytesMut};

/// One text of two.
pub(super) fn join(first: Bytes, second: Bytes) -> Bytes {
    if first.is_empty() {
        return second;
    }
    if second.is_empty() {
        return first;
    }
    let mut joined = first.try_into_mut().unwrap_or_else(|shared| {
        let mut copy = BytesMut::with_capacity(4 * (shared.len() + second.len()));
        copy.extend_from_slice(&shared);
        copy
    });
    joined.extend_from_slice(&second);
    joined.freeze()
}
