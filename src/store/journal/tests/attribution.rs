//! For whom calls are stands in their own rooms: it is shipped with them, and a release that does not know of it finds the calls.

use super::*;
use filters::attribution::{Attribution, TAG_BYTES_MAX, TAGS_MAX, USER_BYTES_MAX};

/// As much as there may be.
fn full() -> Attribution {
    let tag = |number: usize| format!("{number}{}", "t".repeat(TAG_BYTES_MAX - 1)).into();
    Attribution { user: Some("u".repeat(USER_BYTES_MAX).into()), tags: (0..TAGS_MAX).map(tag).collect() }
}

fn attributed(call: u128, attribution: Attribution) -> Intent {
    Intent { attribution: Some(Box::new(attribution)), ..intent(call) }
}

#[tokio::test]
async fn for_whom_a_call_is_comes_with_it_however_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let settings = roomy(dir.path());
    let user = || Attribution { tags: Vec::new(), ..full() };
    let tags = || Attribution { user: None, ..full() };
    let calls = [attributed(1, full()), intent(2), attributed(3, user()), attributed(4, tags()), attributed(5, full())];
    let (journal, _) = open(&settings);
    let open_calls: Vec<_> = calls.iter().map(|intent| journal.begin(intent).unwrap()).collect();
    for (open, intent) in open_calls.into_iter().zip(&calls) {
        match intent.call.0 {
            // As a killed process leaves it.
            5 => std::mem::forget(open),
            call => open.end(&terminal(call)),
        }
    }
    drop(journal);
    let ledger = Arc::new(MemoryLedger::default());
    let recovered = reopen_and_ship(&settings, &ledger).await;
    assert_eq!(recovered, Recovered { calls: 5, recovered: 1, ..Recovered::default() });
    for intent in calls {
        assert_eq!(ledger.call(intent.call.0).0, intent);
    }
}

#[tokio::test]
async fn whoever_knows_rooms_alone_steps_over_it() {
    let dir = tempfile::tempdir().unwrap();
    let settings = roomy(dir.path());
    let (journal, _) = open(&settings);
    for call in 1..=3 {
        journal.begin(&attributed(call, full())).unwrap().end(&terminal(call));
    }
    drop(journal);
    let bytes = std::fs::read(only_segment(&settings)).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut at = header::DATA_START;
    for call in 1..=3u8 {
        // The kind, the call and the room of an intent, and behind it the terminal, as every release has read them.
        assert_eq!((bytes[at + 6], bytes[at + 28]), (1, call));
        let length = usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
        assert_eq!(bytes[at + record::slots_bytes(length) + 6], 2);
        at += word(at + 24);
    }
    assert!(bytes[at..at + record::SLOT_BYTES].iter().all(|byte| *byte == 0));
}

#[tokio::test]
async fn an_attribution_whose_call_was_never_begun_is_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let settings = roomy(dir.path());
    let (journal, _) = open(&settings);
    whole_call(&journal, 1);
    journal.begin(&attributed(2, full())).unwrap().end(&terminal(2));
    whole_call(&journal, 3);
    drop(journal);
    // As if the power had gone before the call's first record was on the disk, and after what stands behind it was.
    let path = only_segment(&settings);
    let mut bytes = std::fs::read(&path).unwrap();
    let room = |at: usize| u32::from_le_bytes(bytes[at + 24..at + 28].try_into().unwrap()) as usize;
    let second = header::DATA_START + room(header::DATA_START);
    let gone = second..second + 2 * record::SLOT_BYTES + record::TERMINAL_ROOM_BYTES;
    bytes[gone].fill(0);
    // The marks, so that nothing of it was promised.
    bytes[header::BEGUN_AT..header::BEGUN_AT + 16].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let ledger = Arc::new(MemoryLedger::default());
    let recovered = reopen_and_ship(&settings, &ledger).await;
    assert_eq!((recovered.calls, recovered.recovered, recovered.corrupt), (2, 0, 0), "{recovered:?}");
    assert_eq!(ledger.ids(), [1, 3]);
}
