//! Sounds of every container, made of the bytes that say how long they are.

use super::{BYTES_PER_SECOND_MIN, Length, length};
use proptest::prelude::*;

fn wav(seconds: usize, said: u32) -> Vec<u8> {
    let mut file = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0".to_vec();
    // PCM, two channels, 16 kHz, and 64 000 bytes a second, 4 a sample of both, 16 bits.
    file.extend([1, 0, 2, 0]);
    file.extend(16_000u32.to_le_bytes());
    file.extend(64_000u32.to_le_bytes());
    file.extend([4, 0, 16, 0]);
    file.extend(b"LIST\x03\0\0\0abc\0data");
    file.extend(said.to_le_bytes());
    file.resize(file.len() + 64_000 * seconds, 0);
    file
}

/// Frames of layer III, version 1, 44.1 kHz, at these indices of bit rates; each is 1 152 samples.
fn mp3(rates: &[u8]) -> Vec<u8> {
    const KILOBITS: [usize; 15] = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
    let frame = |rate: &u8| {
        let mut frame = vec![0xFF, 0xFB, rate << 4, 0];
        frame.resize(144_000 * KILOBITS[usize::from(*rate)] / 44_100, 0);
        frame
    };
    rates.iter().flat_map(frame).collect()
}

fn flac(samples: u64) -> Vec<u8> {
    let numbers = 44_100u64 << 44 | 1 << 41 | 15 << 36 | samples;
    let mut file = b"fLaC\0\0\0\x22\x10\0\x10\0\0\0\0\0\0\0".to_vec();
    file.extend(numbers.to_be_bytes());
    file.resize(600, 0);
    file
}

fn page(serial: u32, position: u64, body: &[u8]) -> Vec<u8> {
    let mut page = b"OggS\0\0".to_vec();
    page.extend(position.to_le_bytes());
    page.extend(serial.to_le_bytes());
    page.extend([0; 8]);
    page.push(1);
    page.push(u8::try_from(body.len()).expect("a short packet"));
    page.extend(body);
    page
}

fn opus(serial: u32, positions: &[u64]) -> Vec<u8> {
    let mut file = page(serial, 0, b"OpusHead\x01\x01\x38\x01\x80\xBB\0\0\0\0\0");
    positions.iter().for_each(|position| file.extend(page(serial, *position, b"packet")));
    file
}

fn vorbis(position: u64) -> Vec<u8> {
    let mut file = page(7, 0, &[b"\x01vorbis\0\0\0\0\x01", &22_050u32.to_le_bytes()[..], &[0; 14]].concat());
    file.extend(page(7, position, b"packet"));
    file
}

fn mp4_box(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 8).expect("short");
    [&length.to_be_bytes()[..], name, body].concat()
}

fn mp4(movie_ms: u32, track: u64) -> Vec<u8> {
    let header = [&[0; 12][..], &1_000u32.to_be_bytes(), &movie_ms.to_be_bytes(), &[0; 80]].concat();
    let media = [&[1, 0, 0, 0][..], &[0; 16], &48_000u32.to_be_bytes(), &track.to_be_bytes()].concat();
    let track = mp4_box(b"trak", &[mp4_box(b"tkhd", b""), mp4_box(b"mdia", &mp4_box(b"mdhd", &media))].concat());
    let movie = mp4_box(b"moov", &[mp4_box(b"mvhd", &header), track].concat());
    [mp4_box(b"ftyp", b"M4A \0\0\0\0"), mp4_box(b"mdat", &[0; 100]), movie].concat()
}

fn element(id: &[u8], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("short") | 0x1000_0000;
    [id, &length.to_be_bytes(), body].concat()
}

fn webm(duration: &[u8], cluster_ms: u16) -> Vec<u8> {
    let info = [element(&[0x2A, 0xD7, 0xB1], &[0x0F, 0x42, 0x40]), duration.to_vec()].concat();
    let cluster = element(&[0xE7], &cluster_ms.to_be_bytes());
    // Neither the segment nor the clusters of a recording say how long they are.
    let unknown = [0x01, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
    [
        element(&[0x1A, 0x45, 0xDF, 0xA3], b"\x42\x82\x84webm"),
        [&[0x18, 0x53, 0x80, 0x67][..], &unknown].concat(),
        element(&[0x15, 0x49, 0xA9, 0x66], &info),
        [&[0x1F, 0x43, 0xB6, 0x75][..], &unknown, &element(&[0xE7], &[0, 0])].concat(),
        [&[0x1F, 0x43, 0xB6, 0x75][..], &unknown, &cluster].concat(),
    ]
    .concat()
}

fn likely(file: &[u8]) -> u64 {
    let length = length(file);
    assert!(!length.is_estimated && length.most_ms >= length.likely_ms);
    length.likely_ms
}

#[test]
fn samples_that_are_there_are_counted() {
    for said in [0, 7, u32::MAX] {
        assert_eq!(length(&wav(3, said)), Length { likely_ms: 3_000, most_ms: 3_000, is_estimated: false });
    }
    let mut compressed = wav(3, 0);
    compressed[20] = 2;
    assert!(length(&compressed).is_estimated);
    // 1 152 samples at 44.1 kHz are 26.12 ms.
    assert_eq!(length(&mp3(&[9; 100])), Length { likely_ms: 2_613, most_ms: 2_613, is_estimated: false });
    assert_eq!(likely(&mp3(&[1, 5, 14, 9, 2, 11])), 157);
    let tagged = [b"ID3\x04\0\0\0\0\x01\x05".to_vec(), vec![0; 128 + 5], vec![0; 9], mp3(&[9; 100])].concat();
    assert_eq!(likely(&tagged), 2_613);
    let damaged = [mp3(&[9; 50]), vec![1; 333], mp3(&[9; 50]), b"TAG".to_vec(), vec![b' '; 125]].concat();
    assert_eq!(likely(&damaged), 2_613);
    assert!(length(&[mp3(&[9]), vec![1; 500]].concat()).is_estimated);
}

#[test]
fn the_length_that_a_container_says_is_read() {
    assert_eq!(likely(&flac(44_100 * 7 + 1)), 7_001);
    // 312 samples are skipped.
    assert_eq!(likely(&opus(1, &[312, 48_312, u64::MAX])), 1_000);
    assert_eq!(likely(&[opus(1, &[48_312]), opus(2, &[96_312])].concat()), 3_000);
    assert_eq!(likely(&vorbis(22_050)), 1_000);
    assert_eq!(likely(&mp4(2_500, 0)), 2_500);
    assert_eq!(likely(&mp4(0, 96_000)), 2_000);
    let float = [&[0x44, 0x89, 0x84][..], &1_234.5f32.to_be_bytes()].concat();
    let double = [&[0x44, 0x89, 0x88][..], &1_234.0f64.to_be_bytes()].concat();
    assert_eq!((likely(&webm(&float, 9)), likely(&webm(&double, 9))), (1_235, 1_234));
    assert_eq!(likely(&webm(b"", 4_321)), 4_321);
}

#[test]
fn what_a_container_says_is_no_bound() {
    let file = flac(441);
    let most = file.len() as u64 * 1_000 / BYTES_PER_SECOND_MIN;
    assert_eq!(length(&file), Length { likely_ms: 10, most_ms: most, is_estimated: false });
}

#[test]
fn a_file_that_says_nothing_is_as_long_as_its_bytes() {
    for file in [&b""[..], b"not a sound", &flac(0), &[0; 5_000], b"OggS", b"RIFF\0\0\0\0WAVE", &mp4(0, 0)] {
        let ms = file.len() as u64 * 1_000 / BYTES_PER_SECOND_MIN;
        assert_eq!(length(file), Length { likely_ms: ms, most_ms: ms, is_estimated: true }, "{file:?}");
    }
}

fn files() -> Vec<Vec<u8>> {
    let duration = [&[0x44, 0x89, 0x84][..], &9.0f32.to_be_bytes()].concat();
    vec![wav(0, 9), mp3(&[1; 3]), flac(9), opus(1, &[9]), vorbis(9), mp4(9, 9), webm(&duration, 9)]
}

proptest! {
    #[test]
    fn no_file_makes_the_reader_panic(
        which in 0..7_usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut file = files().swap_remove(which);
        for (at, byte) in edits {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let length = length(&file[..cut.index(file.len() + 1)]);
        prop_assert!(length.likely_ms <= length.most_ms);
    }
}
