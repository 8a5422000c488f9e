//! A journal that a later release has written to: what it says may be done without is passed over, all else is refused before
//! anything is touched. The bytes are made here, as a release would make them that keeps to the records' header.

use super::*;

/// From here on a kind may be done without.
const MAY_BE_DONE_WITHOUT: u8 = 129;

/// A record of a kind and format, for a place, as long as a slot.
fn record(kind: u8, format: u8, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; record::SLOT_BYTES];
    bytes[..4].copy_from_slice(b"TgJr");
    bytes[4..6].copy_from_slice(&(record::SLOT_BYTES as u16).to_le_bytes());
    bytes[6..8].copy_from_slice(&[kind, format]);
    bytes[12..16].copy_from_slice(&1u32.to_le_bytes());
    bytes[16..20].copy_from_slice(&(offset as u32).to_le_bytes());
    bytes[24..28].copy_from_slice(&(record::SLOT_BYTES as u32).to_le_bytes());
    bytes[28..44].copy_from_slice(&7u128.to_le_bytes());
    let crc = crc32fast::hash(&[&bytes[..8], &bytes[12..]].concat());
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// A journal of two calls, in one segment that ends with them.
fn two_calls(dir: &Path) -> (Settings, PathBuf, u64) {
    let settings = roomy(dir);
    let (journal, _) = open(&settings);
    (1..=2).for_each(|call| whole_call(&journal, call));
    drop(journal);
    drop(open(&settings));
    let path = only_segment(&settings);
    let end = std::fs::metadata(&path).unwrap().len();
    assert_eq!(end % record::SLOT_BYTES as u64, 0, "it was cut after its last record");
    (settings, path, end)
}

fn put(path: &Path, at: u64, bytes: &[u8]) {
    std::fs::File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

/// Opens the journal in vain, twice, and says why; the segment is as it was.
fn refused(settings: &Settings, path: &Path) -> String {
    let before = std::fs::read(path).unwrap();
    let refusals = [0; 2].map(|_| match Journal::open(settings.clone(), None, NOW) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    });
    assert!(before == std::fs::read(path).unwrap(), "nothing was touched");
    assert_eq!(refusals[0], refusals[1]);
    let audited = facts(&settings.dir, None).unwrap_err().to_string();
    assert_eq!(refusals[0], audited, "the audit says the same");
    refusals[0].rsplit_once(": ").expect("which segment, and why").1.to_owned()
}

#[tokio::test]
async fn what_may_be_done_without_is_passed_over_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, path, end) = two_calls(dir.path());
    for (number, kind) in [MAY_BE_DONE_WITHOUT, u8::MAX].into_iter().enumerate() {
        let at = end + (number * record::SLOT_BYTES) as u64;
        // Its format is its own affair.
        put(&path, at, &record(kind, 9, at));
    }
    let ledger = Arc::new(MemoryLedger::default());
    let recovered = reopen_and_ship(&settings, &ledger).await;
    assert_eq!(recovered, Recovered { calls: 2, passed_over: 2, ..Recovered::default() });
    assert_eq!(ledger.ids(), [1, 2]);
    assert_eq!(facts(dir.path(), *ledger.checkpoint.lock().unwrap()).unwrap(), JournalFacts::default());
}

#[test]
fn a_kind_that_is_not_known_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, path, end) = two_calls(dir.path());
    put(&path, end, &record(127, 2, end));
    let why = "it has a record of kind 127, which is newer than this release; start the release that wrote it";
    assert_eq!(refused(&settings, &path), why);
}

#[test]
fn a_known_kind_in_a_format_that_is_not_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, path, end) = two_calls(dir.path());
    put(&path, end, &record(1, 3, end));
    let why = "it has a record of kind 1, which is newer than this release; start the release that wrote it";
    assert_eq!(refused(&settings, &path), why);
}

#[test]
fn an_end_that_only_a_later_release_can_read_is_not_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, path, _) = two_calls(dir.path());
    let terminal_at = places(&path)[1].1;
    put(&path, terminal_at, &record(2, 3, terminal_at));
    let why = "it has a record of kind 2, which is newer than this release; start the release that wrote it";
    assert_eq!(refused(&settings, &path), why);
}

#[test]
fn a_segment_of_a_later_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, path, _) = two_calls(dir.path());
    put(&path, 8, &3u32.to_le_bytes());
    assert_eq!(refused(&settings, &path), "its format 3 is newer than this release; start the release that wrote it");
}

#[tokio::test]
async fn a_damaged_record_of_a_later_release_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, path, end) = two_calls(dir.path());
    let mut bytes = record(127, 2, end);
    bytes[60] ^= 1;
    put(&path, end, &bytes);
    let ledger = Arc::new(MemoryLedger::default());
    let recovered = reopen_and_ship(&settings, &ledger).await;
    assert_eq!(recovered, Recovered { calls: 2, torn: 1, ..Recovered::default() });
    assert_eq!(ledger.ids(), [1, 2]);
}
