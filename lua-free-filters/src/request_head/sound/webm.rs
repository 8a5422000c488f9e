//! The length of Matroska and WebM files.

use super::{CHUNKS_MAX, big_endian};

const EBML: u64 = 0x1A45_DFA3;
const SEGMENT: u64 = 0x1853_8067;
const INFO: u64 = 0x1549_A966;
const TIMESTAMP_SCALE: u64 = 0x2A_D7B1;
const DURATION: u64 = 0x4489;
const CLUSTER: u64 = 0x1F43_B675;
const CLUSTER_TIMESTAMP: u64 = 0xE7;

/// The duration that is said, else, in a recording that was not finished, the time of the last cluster.
pub(super) fn length_ms(file: &[u8]) -> Option<u64> {
    let mut top = Elements(file);
    (top.next()?.id == EBML).then_some(())?;
    let segment = top.take(CHUNKS_MAX).find(|element| element.id == SEGMENT)?;
    let (mut scale, mut duration, mut last) = (1_000_000, None, None);
    for element in Elements(segment.body).take(CHUNKS_MAX) {
        match element.id {
            INFO => {
                for element in Elements(element.body).take(CHUNKS_MAX) {
                    match element.id {
                        TIMESTAMP_SCALE => scale = big_endian(element.body),
                        DURATION => duration = ticks(element.body),
                        _ => {}
                    }
                }
            }
            CLUSTER => {
                let at = Elements(element.body).take(1).find(|element| element.id == CLUSTER_TIMESTAMP);
                last = last.max(at.map(|element| big_endian(element.body)));
            }
            _ => {}
        }
    }
    let nanos = u128::from(duration.or(last)?) * u128::from(scale);
    u64::try_from(nanos.div_ceil(1_000_000)).ok()
}

/// A duration, which is written as a float, rounded up to whole ticks.
fn ticks(float: &[u8]) -> Option<u64> {
    let (exponent_bits, fraction_bits) = match float.len() {
        4 => (8, 23),
        8 => (11, 52),
        _ => return None,
    };
    let bits = big_endian(float);
    let exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
    let is_negative = bits >> (exponent_bits + fraction_bits) == 1;
    let bias = (1i64 << (exponent_bits - 1)) - 1;
    // 1.fraction × 2^power
    let power = i64::try_from(exponent).ok()? - bias;
    let mantissa = 1u64 << fraction_bits | bits & ((1 << fraction_bits) - 1);
    match power - fraction_bits {
        _ if is_negative || exponent == 0 => None,
        shift @ 0..=10 => mantissa.checked_shl(u32::try_from(shift).ok()?),
        // Below one tick, and above any length.
        shift if shift <= -63 => Some(1),
        shift if shift < 0 => Some(mantissa.div_ceil(1 << -shift)),
        _ => None,
    }
}

/// An element of EBML.
struct Element<'a> {
    id: u64,
    body: &'a [u8],
}

/// The elements of a file or of an element.
struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        let (id, id_bytes) = number(self.0, false)?;
        let (length, length_bytes) = number(&self.0[id_bytes..], true)?;
        let rest = &self.0[id_bytes + length_bytes..];
        // All ones: the length is not known, and the element has all that follows. Clusters then end where the next begins.
        let is_unknown = length == (1 << (7 * length_bytes)) - 1;
        let end = if is_unknown && id == CLUSTER {
            memchr::memmem::find(rest, &CLUSTER.to_be_bytes()[4..]).unwrap_or(rest.len())
        } else if is_unknown {
            rest.len()
        } else {
            usize::try_from(length).ok()?.min(rest.len())
        };
        let (body, after) = rest.split_at(end);
        self.0 = after;
        Some(Element { id, body })
    }
}

/// A number whose first byte says how many bytes it has, and how many they are; `without_marker` takes the saying bit off.
fn number(bytes: &[u8], without_marker: bool) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = first.leading_zeros() as usize + 1;
    let number = big_endian(bytes.get(..length).filter(|_| length <= 8)?);
    let marker = 1u64 << (7 * length);
    Some((if without_marker { number & (marker - 1) } else { number }, length))
}
