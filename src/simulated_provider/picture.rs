//! A picture of one colour that any viewer opens, as large as is asked for.

use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::Write;

/// Larger than any that a provider draws.
const SIDE_MAX: u32 = 4096;
const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A grey PNG of this width and height, padded to so many bytes.
pub(super) fn png(width: u32, height: u32, seed: u64, bytes_min: u64) -> Vec<u8> {
    let (width, height) = (width.clamp(1, SIDE_MAX), height.clamp(1, SIDE_MAX));
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    // Each line has its filter before its pixels.
    let line = [vec![0], vec![seed as u8; width as usize]].concat();
    let mut pixels = ZlibEncoder::new(Vec::new(), Compression::fast());
    for _ in 0..height {
        // Writing to memory does not fail.
        let _ = pixels.write_all(&line);
    }
    let mut picture = SIGNATURE.to_vec();
    put_chunk(&mut picture, b"IHDR", &header);
    put_chunk(&mut picture, b"IDAT", &pixels.finish().unwrap_or_default());
    // A chunk of its own has twelve bytes around it, as the last one has.
    let padding = usize::try_from(bytes_min).unwrap_or(0).saturating_sub(picture.len() + 24);
    if padding > 0 {
        put_chunk(&mut picture, b"paDd", &vec![b'p'; padding]);
    }
    put_chunk(&mut picture, b"IEND", b"");
    picture
}

fn put_chunk(picture: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    picture.extend((data.len() as u32).to_be_bytes());
    picture.extend(kind);
    picture.extend(data);
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(kind);
    checksum.update(data);
    picture.extend(checksum.finalize().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picture_has_the_size_that_was_asked_for() {
        let picture = png(300, 200, 7, 0);
        assert!(picture.starts_with(SIGNATURE) && picture.ends_with(b"IEND\xaeB`\x82"));
        assert_eq!((&picture[16..20], &picture[20..24]), (&300_u32.to_be_bytes()[..], &200_u32.to_be_bytes()[..]));
        assert!(picture.len() < 10_000);
        assert_eq!(png(300, 200, 7, 1_000_000).len(), 1_000_000);
    }
}
