//! A journal of the release before is read: its records and headers have the format 1, its shares no period, its
//! terminals no reservation. The bytes are made here as that release made them, and compared with its checksums.

use super::*;

const SEGMENT: u64 = 1;
const ROOM_BYTES: usize = 512;

/// A record of that release: a header, then the fields.
fn record(kind: u8, call: u128, room: u32, offset: u32, fields: &[&[u8]]) -> Vec<u8> {
    let length = 44 + fields.iter().map(|field| field.len()).sum::<usize>();
    let mut bytes = Vec::new();
    bytes.extend(b"TgJr");
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend([kind, 1]);
    bytes.extend([0; 4]);
    bytes.extend((SEGMENT as u32).to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.extend(u32::from(kind == 2).to_le_bytes());
    bytes.extend(room.to_le_bytes());
    bytes.extend(call.to_le_bytes());
    fields.iter().for_each(|field| bytes.extend(*field));
    let crc = crc32fast::hash(&[&bytes[..8], &bytes[12..]].concat());
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn name(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

fn intent_before(intent: &Intent, offset: u32) -> Vec<u8> {
    let quotas: Vec<u8> = intent.shares.iter().flat_map(|share| share.quota.0.to_le_bytes()).collect();
    let fields: [&[u8]; 12] = [
        &intent.key.0.to_le_bytes(),
        &intent.org.0.to_le_bytes(),
        &[intent.route as u8, u8::from(intent.streamed)],
        &intent.price.0.to_le_bytes(),
        &intent.started.0.to_le_bytes(),
        &intent.reserved.0.to_le_bytes(),
        &intent.recovery_charge.0.to_le_bytes(),
        &intent.input_estimate.to_le_bytes(),
        &name(&intent.model),
        &name(&intent.provider),
        &[intent.shares.len() as u8],
        &quotas,
    ];
    record(1, intent.call.0, ROOM_BYTES as u32, offset, &fields)
}

fn terminal_before(terminal: &Terminal, offset: u32) -> Vec<u8> {
    assert_eq!((terminal.error, terminal.usage), (None, Usage::of(71, 30)));
    let fields: [&[u8]; 10] = [
        &[terminal.outcome as u8, u8::from(terminal.estimated)],
        &terminal.status.to_le_bytes(),
        &[0, terminal.tier as u8, terminal.attempts],
        &terminal.price.0.to_le_bytes(),
        &terminal.charge.0.to_le_bytes(),
        &terminal.ended.0.to_le_bytes(),
        &terminal.first_byte_ms.to_le_bytes(),
        &name(&terminal.provider),
        // Input and output: the kinds 0 and 6.
        &0b100_0001u16.to_le_bytes(),
        &[71, 30],
    ];
    record(2, terminal.call.0, 0, offset, &fields)
}

#[test]
fn the_bytes_are_those_of_the_release_before() {
    let void = record(5, 0, 64, 4096, &[]);
    let written = [intent_before(&intent(1), 4096), terminal_before(&terminal(1), 4096), void];
    assert_eq!(written.map(|bytes| crc32fast::hash(&bytes)), [909_221_475, 447_968_137, 1_616_866_020]);
}

#[tokio::test]
async fn a_journal_of_the_release_before_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let settings = roomy(dir.path());
    drop(open(&settings));
    let path = only_segment(&settings);
    // The header as it was: of format 1, the rest is the same.
    let mut bytes = vec![0; settings.segment_bytes];
    bytes[..40].copy_from_slice(&std::fs::read(&path).unwrap()[..40]);
    bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
    let mut put = |at: usize, record: &[u8]| bytes[at..at + record.len()].copy_from_slice(record);
    for call in [1, 2] {
        let at = 4096 + (call - 1) * ROOM_BYTES;
        let intent = intent_before(&intent(call as u128), at as u32);
        let terminal_at = at + record::slots_bytes(intent.len());
        put(at, &intent);
        if call == 1 {
            put(terminal_at, &terminal_before(&terminal(1), terminal_at as u32));
        }
    }
    std::fs::write(&path, &bytes).unwrap();

    let ledger = Arc::new(MemoryLedger::default());
    let recovered = reopen_and_ship(&settings, &ledger).await;
    assert_eq!(recovered, Recovered { calls: 2, recovered: 1, ..Recovered::default() });
    let without_periods = |call| {
        let shares = [8, 9].map(|id| Share { quota: QuotaId(id), period: EpochMs(0) }).to_vec();
        Intent { shares, ..intent(call) }
    };
    assert_eq!(ledger.call(1), (without_periods(1), terminal(1)), "it had set aside what its intent says");
    let (begun, end) = ledger.call(2);
    assert_eq!((begun, end.outcome, end.reserved), (without_periods(2), Outcome::Recovered, NanoUsd(5_000)));
}
