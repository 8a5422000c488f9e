//! How long a sound lasts, as its container says: calls that hear are paid for by the second, and some answers do not say how
//! many there were.
//!
//! Sources: RIFF WAVE (Microsoft "Multimedia Programming Interface"), ISO/IEC 11172-3 and 13818-3 (MPEG audio), RFC 9639 (FLAC),
//! RFC 3533 and 7845 (Ogg, Opus), "Vorbis I specification", ISO/IEC 14496-12 (MP4), RFC 9559 (Matroska, WebM).

mod ogg;
mod webm;

/// The length of a sound in milliseconds, what is left of one counted whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Length {
    /// As its container says, else as its bytes last at [`BYTES_PER_SECOND_MIN`].
    pub(super) likely_ms: u64,
    /// The longest that it can be: a container may say less than it holds.
    pub(super) most_ms: u64,
    /// Whether nothing in the file says how long it is.
    pub(super) is_estimated: bool,
}

/// The fewest bytes that a second of speech takes: 8 kbit/s, which is less than any telephone sends. Sounds that are more dense
/// than that are silence.
const BYTES_PER_SECOND_MIN: u64 = 1_000;

impl Length {
    /// Of every sample that is there: nothing more can be heard.
    fn counted(ms: u64) -> Self {
        Self { likely_ms: ms, most_ms: ms, is_estimated: false }
    }
}

/// How long the file lasts.
pub(super) fn length(file: &[u8]) -> Length {
    if let Some(ms) = wav_ms(file).or_else(|| mpeg_ms(file)) {
        return Length::counted(ms);
    }
    let most = as_ms(file.len() as u64, BYTES_PER_SECOND_MIN);
    let said =
        flac_ms(file).or_else(|| ogg::length_ms(file)).or_else(|| mp4_ms(file)).or_else(|| webm::length_ms(file));
    match said.filter(|ms| *ms > 0) {
        Some(ms) => Length { likely_ms: ms, most_ms: ms.max(most), is_estimated: false },
        None => Length { likely_ms: most, most_ms: most, is_estimated: true },
    }
}

/// So many of what a second has `per_second` of.
fn as_ms(count: u64, per_second: u64) -> u64 {
    let ms = (u128::from(count) * 1_000).div_ceil(u128::from(per_second.max(1)));
    u64::try_from(ms).unwrap_or(u64::MAX)
}

/// A number of up to eight bytes, the first one the highest.
fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A RIFF file of WAVE: its samples from the first chunk of them to the end of the file, whatever the chunk says of its own
/// length, because a recorder that was stopped has written none.
fn wav_ms(file: &[u8]) -> Option<u64> {
    let is_wave = matches!(file.get(..4)?, b"RIFF" | b"RIFX" | b"RF64") && file.get(8..12)? == b"WAVE";
    let number = if file[3] == b'X' { big_endian } else { little_endian };
    let mut at = is_wave.then_some(12)?;
    let mut bytes_per_second = 0;
    for _ in 0..CHUNKS_MAX {
        let (name, length) = (file.get(at..at + 4)?, number(file.get(at + 4..at + 8)?));
        let body = at + 8;
        match name {
            b"fmt " => {
                let format = file.get(body..body + 16)?;
                let (channels, rate, bits) = (number(&format[2..4]), number(&format[4..8]), number(&format[14..16]));
                // Samples of one size: PCM, floats, A-law, µ-law, and what says more behind. Others are not counted.
                let is_plain = matches!(number(&format[..2]), 1 | 3 | 6 | 7 | 0xFFFE);
                bytes_per_second = if is_plain { channels * rate * bits / 8 } else { 0 };
            }
            b"data" => return (bytes_per_second > 0).then(|| as_ms((file.len() - body) as u64, bytes_per_second)),
            _ => {}
        }
        let length = usize::try_from(length).ok()?;
        at = body.checked_add(length)?.checked_add(length % 2)?;
    }
    None
}

/// Chunks, boxes and blocks that are looked at before a file counts as unreadable.
const CHUNKS_MAX: usize = 10_000;

/// MPEG audio, frame by frame: variable bit rates need no table then, and nothing needs to be believed.
fn mpeg_ms(file: &[u8]) -> Option<u64> {
    let mut at = id3_bytes(file);
    // Bytes between a tag and the first frame are padding.
    at += file.get(at..)?.iter().take(PADDING_BYTES_MAX).position(|byte| *byte != 0)?;
    let mut nanos: u128 = 0;
    let (mut frames, mut is_damaged) = (0u64, false);
    while let Some(frame) = file.get(at..at + 4).and_then(MpegFrame::read) {
        nanos += u128::from(frame.samples) * 1_000_000_000 / u128::from(frame.rate);
        frames += 1;
        at += frame.bytes;
        // Decoders search for the next frame where one is damaged.
        if file.get(at..at + 4).is_some_and(|next| MpegFrame::read(next).is_none()) {
            is_damaged = true;
            at += next_frame(&file[at..]).unwrap_or(file.len() - at);
        }
    }
    // One header of four bytes may stand in any file.
    (frames > 1 || (frames == 1 && !is_damaged)).then(|| u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

const PADDING_BYTES_MAX: usize = 64 * 1024;

/// Where two frames follow each other.
fn next_frame(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(0xFF, bytes).find(|at| {
        let frame = bytes.get(*at..at + 4).and_then(MpegFrame::read);
        frame.is_some_and(|frame| {
            bytes.get(at + frame.bytes..at + frame.bytes + 4).is_none_or(|next| MpegFrame::read(next).is_some())
        })
    })
}

/// The tag that may stand before the frames (ID3v2.4, "ID3v2 header").
fn id3_bytes(file: &[u8]) -> usize {
    match file {
        [b'I', b'D', b'3', _, _, flags, a, b, c, d, ..] => {
            let length = [a, b, c, d].iter().fold(0usize, |length, byte| length << 7 | usize::from(**byte & 0x7F));
            let footer = if flags & 0x10 == 0 { 0 } else { 10 };
            10 + length + footer
        }
        _ => 0,
    }
}

/// The header of a frame.
struct MpegFrame {
    samples: u32,
    rate: u32,
    bytes: usize,
}

impl MpegFrame {
    fn read(header: &[u8]) -> Option<Self> {
        /// kbit/s by index: version 1 layers I, II, III; version 2 and 2.5 layer I, and II and III.
        const KILOBITS: [[u32; 15]; 5] = [
            [0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
            [0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
            [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
            [0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
            [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
        ];
        let [first, second, third, _] = *header else { return None };
        if first != 0xFF || second & 0xE0 != 0xE0 {
            return None;
        }
        let (version, layer) = (second >> 3 & 3, 4 - u32::from(second >> 1 & 3));
        // 1 is no version, and 4 no layer.
        let halvings = match version {
            3 => 0,
            2 => 1,
            0 => 2,
            _ => return None,
        };
        let table = match (halvings, layer) {
            (0, 1) => 0,
            (0, 2) => 1,
            (0, 3) => 2,
            (_, 1) => 3,
            (_, 2 | 3) => 4,
            _ => return None,
        };
        let bits = *KILOBITS[table].get(usize::from(third >> 4)).filter(|kilobits| **kilobits > 0)? * 1_000;
        let rate = [44_100, 48_000, 32_000].get(usize::from(third >> 2 & 3))? >> halvings;
        let padding = u32::from(third >> 1 & 1);
        let samples = match (layer, halvings) {
            (1, _) => 384,
            (3, 1 | 2) => 576,
            _ => 1_152,
        };
        let bytes = if layer == 1 { (12 * bits / rate + padding) * 4 } else { samples / 8 * bits / rate + padding };
        Some(Self { samples, rate, bytes: bytes as usize })
    }
}

/// FLAC: the first block says the rate and the samples of the whole.
fn flac_ms(file: &[u8]) -> Option<u64> {
    let file = file.get(id3_bytes(file)..)?;
    let info = file.strip_prefix(b"fLaC")?.get(4..)?;
    let numbers = big_endian(info.get(10..18)?);
    let (rate, samples) = (numbers >> 44, numbers & 0xF_FFFF_FFFF);
    (rate > 0 && samples > 0).then(|| as_ms(samples, rate))
}

/// MP4 and its relatives: the longest of the movie and its tracks.
fn mp4_ms(file: &[u8]) -> Option<u64> {
    (file.get(4..8)? == b"ftyp").then_some(())?;
    let movie = boxes(file).find(|(name, _)| name == b"moov")?.1;
    let mut longest = None;
    for (name, body) in boxes(movie) {
        let header = match &name {
            b"mvhd" => Some(body),
            b"trak" => boxes(body)
                .find(|(name, _)| name == b"mdia")
                .and_then(|(_, media)| boxes(media).find(|(name, _)| name == b"mdhd").map(|(_, header)| header)),
            _ => None,
        };
        longest = longest.max(header.and_then(mp4_header_ms));
    }
    longest
}

/// `mvhd` and `mdhd` begin alike: two times, units of a second, length; version 1 has wider numbers.
fn mp4_header_ms(header: &[u8]) -> Option<u64> {
    let (units, length, unknown) = match header.first()? {
        0 => (header.get(12..16)?, header.get(16..20)?, u64::from(u32::MAX)),
        1 => (header.get(20..24)?, header.get(24..32)?, u64::MAX),
        _ => return None,
    };
    let (units, length) = (big_endian(units), big_endian(length));
    (units > 0 && length > 0 && length != unknown).then(|| as_ms(length, units))
}

/// The boxes of an MP4 file or of a box.
fn boxes(mut bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let next = move || {
        let length = big_endian(bytes.get(..4)?);
        let name = bytes.get(4..8)?.try_into().ok()?;
        let (head, length) = match length {
            0 => (8, bytes.len() as u64),
            1 => (16, big_endian(bytes.get(8..16)?)),
            _ => (8, length),
        };
        let end = usize::try_from(length).ok()?.min(bytes.len());
        let body = bytes.get(head..end)?;
        bytes = &bytes[end..];
        Some((name, body))
    };
    std::iter::from_fn(next).take(CHUNKS_MAX)
}

#[cfg(test)]
mod tests;
