//! The journal from its front: begin, end, die, open again, ship.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod after;
mod attribution;
mod before;

use super::record::{Draft, Position};
use super::*;
use async_trait::async_trait;
use filters::id::{CallId, KeyId, OrgId, PriceId, QuotaId};
use filters::money::NanoUsd;
use filters::ports::{Journal as _, Outcome, Share};
use filters::price::Tier;
use filters::route::Route;
use filters::usage::Usage;
use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

const NOW: EpochMs = EpochMs(1_700_000_000_000);

#[derive(Default)]
struct MemoryLedger {
    calls: Mutex<HashMap<u128, (Intent, Terminal)>>,
    attempts: Mutex<Vec<FailedAttempt>>,
    amendments: Mutex<Vec<Amendment>>,
    checkpoint: Mutex<Option<Checkpoint>>,
    handed: AtomicU64,
    is_down: AtomicBool,
}

impl MemoryLedger {
    fn ids(&self) -> Vec<u128> {
        let mut ids: Vec<_> = self.calls.lock().unwrap().keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    fn call(&self, id: u128) -> (Intent, Terminal) {
        self.calls.lock().unwrap().get(&id).cloned().expect("the ledger has the call")
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn ship(&self, node: &str, shipment: &Shipment) -> Result<usize, LedgerError> {
        assert!(node.starts_with("node_") && node.len() == 37);
        if self.is_down.load(Relaxed) {
            return Err(LedgerError("scripted".into()));
        }
        let mut known = self.calls.lock().unwrap();
        let new = shipment.calls.iter().filter(|(intent, terminal)| {
            assert_eq!(intent.call, terminal.call);
            known.insert(intent.call.0, (intent.clone(), terminal.clone())).is_none()
        });
        let new = new.count();
        *self.checkpoint.lock().unwrap() = Some(shipment.checkpoint);
        self.attempts.lock().unwrap().extend_from_slice(&shipment.attempts);
        self.amendments.lock().unwrap().extend_from_slice(&shipment.amendments);
        self.handed.fetch_add(shipment.calls.len() as u64, Relaxed);
        Ok(new)
    }

    async fn merge(&self, _: &str, _: Merge) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn checkpoint(&self, _: &str) -> Result<Option<Checkpoint>, LedgerError> {
        Ok(*self.checkpoint.lock().unwrap())
    }
}

fn small(dir: &Path) -> Settings {
    Settings {
        segment_bytes: 8192,
        bytes_max: 1 << 30,
        keep_hours: 1_000_000,
        sync_ms: 2,
        ship_ms: 2,
        ..Settings::in_dir(dir)
    }
}

fn roomy(dir: &Path) -> Settings {
    Settings { segment_bytes: 1 << 20, ..small(dir) }
}

fn intent(call: u128) -> Intent {
    Intent {
        call: CallId(call),
        key: KeyId(2),
        org: OrgId(3),
        route: Route::Messages,
        streamed: true,
        model: "claude-sonnet-4-6".into(),
        provider: "anthropic".into(),
        price: PriceId(4),
        started: NOW,
        reserved: NanoUsd(5_000),
        recovery_charge: NanoUsd(600),
        input_estimate: 70,
        shares: [8, 9].map(|id| Share { quota: QuotaId(id), period: EpochMs(60_000 * id) }).to_vec(),
        attribution: None,
    }
}

fn terminal(call: u128) -> Terminal {
    Terminal {
        call: CallId(call),
        outcome: Outcome::Complete,
        estimated: false,
        status: 200,
        error: None,
        provider: "anthropic".into(),
        price: PriceId(4),
        tier: Tier::Standard,
        usage: Usage::of(71, 30),
        charge: NanoUsd(900),
        reserved: NanoUsd(5_000),
        attempts: 1,
        ended: NOW.plus(5),
        first_byte_ms: 3,
    }
}

fn open(settings: &Settings) -> (Journal, Recovered) {
    Journal::open(settings.clone(), None, NOW.plus(60_000)).expect("the journal opens")
}

fn whole_call(journal: &Journal, call: u128) {
    journal.begin(&intent(call)).expect("room").end(&terminal(call));
}

/// Opens the journal once more, ships what is there, and says what was found.
async fn reopen_and_ship(settings: &Settings, ledger: &Arc<MemoryLedger>) -> Recovered {
    let (journal, recovered) = open(settings);
    let mut shipper = journal.shipper(Arc::clone(ledger) as Arc<dyn Ledger>).await.expect("a ledger");
    shipper.ship_all().await.expect("a ledger that is up");
    assert_eq!(journal.counts().lag_records(), 0);
    recovered
}

fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_true() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn only_segment(settings: &Settings) -> std::path::PathBuf {
    let found = recovery::segments_in(&directory_of(&settings.dir)).expect("a directory");
    found.into_iter().next().expect("a segment").1
}

/// Where each call's intent and terminal lie in a segment of whole calls.
fn places(path: &Path) -> Vec<(u64, u64)> {
    let bytes = std::fs::read(path).unwrap();
    let number = segment::number_of(path).unwrap();
    let calls = scan::Scanner::new(&bytes, number).filter_map(|item| match item {
        scan::Item::Call { offset, intent, .. } => {
            Some((offset as u64, (offset + record::slots_bytes(intent.length)) as u64))
        }
        _ => None,
    });
    calls.collect()
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[tokio::test]
async fn an_ended_call_is_shipped_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, recovered) = open(&roomy(dir.path()));
    assert_eq!(recovered, Recovered::default());
    let ledger = Arc::new(MemoryLedger::default());
    let mut shipper = journal.shipper(ledger.clone()).await.unwrap();
    let open_call = journal.begin(&intent(1)).unwrap();
    whole_call(&journal, 2);
    assert_eq!(shipper.ship_all().await.unwrap(), 1);
    assert_eq!(ledger.ids(), [2]);
    let low = ledger.checkpoint.lock().unwrap().unwrap();
    assert_eq!(low, Checkpoint { segment: 1, offset: 4096 }, "the open call holds the checkpoint");
    open_call.end(&terminal(1));
    assert_eq!(shipper.ship_all().await.unwrap(), 1);
    assert_eq!(ledger.call(1), (intent(1), terminal(1)));
    assert!(ledger.checkpoint.lock().unwrap().unwrap() > low);
    assert_eq!(shipper.ship_all().await.unwrap(), 0);
}

#[tokio::test]
async fn calls_of_eight_threads_are_found_once_each() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let (journal, _) = open(&settings);
    std::thread::scope(|scope| {
        for thread in 0..8u128 {
            let journal = &journal;
            scope.spawn(move || {
                let mut previous = None;
                for call in 0..200 {
                    let id = thread * 1_000 + call;
                    let begun = journal.begin(&intent(id)).expect("room");
                    // Ended a call late, so that terminals fall into segments that are full already.
                    if let Some((id, begun)) = previous.replace((id, begun)) {
                        end(begun, id);
                    }
                }
                previous.map(|(id, begun)| end(begun, id))
            });
        }
    });
    fn end(begun: Box<dyn OpenCall>, id: u128) {
        begun.end(&terminal(id));
    }
    drop(journal);
    let facts = facts(dir.path(), None).unwrap();
    assert_eq!(facts, JournalFacts { unshipped: 1_600, ..JournalFacts::default() });
    let ledger = Arc::new(MemoryLedger::default());
    let recovered = reopen_and_ship(&settings, &ledger).await;
    assert_eq!(recovered, Recovered { calls: 1_600, ..Recovered::default() });
    let expected: Vec<_> = (0..8).flat_map(|thread| (0..200).map(move |call| thread * 1_000 + call)).collect();
    assert_eq!((ledger.ids(), ledger.handed.load(Relaxed)), (expected, 1_600));
}

#[tokio::test]
async fn the_shipper_keeps_up_with_eight_threads() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&small(dir.path()));
    let ledger = Arc::new(MemoryLedger::default());
    let mut shipper = journal.shipper(ledger.clone()).await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let running = tokio::spawn(async move {
        shipper.run(stopped).await;
        shipper.ship_all().await.map(|_| ())
    });
    let journal = Arc::new(journal);
    let writers: Vec<_> = (0..8u128)
        .map(|thread| {
            let journal = Arc::clone(&journal);
            tokio::task::spawn_blocking(move || (0..500).for_each(|call| whole_call(&journal, thread * 1_000 + call)))
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
    assert_eq!((ledger.ids().len(), ledger.handed.load(Relaxed)), (4_000, 4_000));
    assert_eq!(journal.counts().lag_records(), 0);
}

#[tokio::test]
async fn a_call_whose_process_died_is_recovered_once() {
    let dir = tempfile::tempdir().unwrap();
    let settings = roomy(dir.path());
    let (journal, _) = open(&settings);
    let node = journal.node().to_owned();
    let dying = journal.begin(&intent(1)).unwrap();
    whole_call(&journal, 2);
    drop((dying, journal));
    let ledger = Arc::new(MemoryLedger::default());
    let recovered = reopen_and_ship(&settings, &ledger).await;
    assert_eq!(recovered, Recovered { calls: 2, recovered: 1, ..Recovered::default() });
    let (_, end) = ledger.call(1);
    assert_eq!((end.outcome, end.estimated, end.status), (Outcome::Recovered, true, 0));
    assert_eq!((end.usage, end.charge, end.price), (Usage::of(70, 0), NanoUsd(600), PriceId(4)));
    assert_eq!((&*end.provider, end.ended), ("anthropic", NOW.plus(60_000)));

    let again = reopen_and_ship(&settings, &ledger).await;
    assert_eq!(again, Recovered { calls: 2, ..Recovered::default() });
    assert_eq!(ledger.handed.load(Relaxed), 2, "the checkpoint spares the ledger what it has");
    assert_eq!(open(&settings).0.node(), node);
}

#[tokio::test]
async fn a_ledger_that_forgot_its_checkpoint_gets_everything_again() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let (journal, _) = open(&settings);
    (0..50).for_each(|call| whole_call(&journal, call));
    drop(journal);
    let ledger = Arc::new(MemoryLedger::default());
    reopen_and_ship(&settings, &ledger).await;
    *ledger.checkpoint.lock().unwrap() = None;
    reopen_and_ship(&settings, &ledger).await;
    assert_eq!((ledger.ids().len(), ledger.handed.load(Relaxed)), (50, 100));
    // And one that knows more than the journal: an old copy of the journal was put back.
    *ledger.checkpoint.lock().unwrap() = Some(Checkpoint { segment: 999, offset: 4096 });
    reopen_and_ship(&settings, &ledger).await;
    assert_eq!(ledger.handed.load(Relaxed), 150);
}

#[tokio::test]
async fn torn_records_and_holes_are_skipped_and_made_readable() {
    let dir = tempfile::tempdir().unwrap();
    let settings = roomy(dir.path());
    let (journal, _) = open(&settings);
    (0..5).for_each(|call| whole_call(&journal, call));
    drop(journal);
    let path = only_segment(&settings);
    let places = places(&path);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    // As after a power cut: nothing is promised, one intent is torn, one was never written, one terminal is torn.
    file.write_all_at(&[0; 32], header::BEGUN_AT as u64).unwrap();
    flip(&path, places[1].0 + 50);
    file.write_all_at(&vec![0; (places[3].0 - places[2].0) as usize], places[2].0).unwrap();
    flip(&path, places[3].1 + 50);
    // Old garbage behind the tail: a whole record, but from another place.
    let mut stale = Draft::intent(&intent(99));
    let stale = stale.at(Position { segment: 55, offset: 4096 }).to_vec();
    file.write_all_at(&stale, places[4].0 + 2048).unwrap();

    let ledger = Arc::new(MemoryLedger::default());
    let recovered = reopen_and_ship(&settings, &ledger).await;
    assert_eq!((recovered.calls, recovered.recovered, recovered.corrupt), (3, 1, 0));
    assert!(recovered.torn >= 3);
    assert_eq!(ledger.ids(), [0, 3, 4]);
    assert_eq!(ledger.call(3).1.outcome, Outcome::Recovered);
    let again = reopen_and_ship(&settings, &ledger).await;
    assert_eq!(again, Recovered { calls: 3, ..Recovered::default() });
    let facts = facts(dir.path(), *ledger.checkpoint.lock().unwrap()).unwrap();
    assert_eq!(facts, JournalFacts::default());
}

#[tokio::test]
async fn a_flipped_bit_below_the_mark_is_corruption() {
    let dir = tempfile::tempdir().unwrap();
    let settings = roomy(dir.path());
    let (journal, _) = open(&settings);
    (0..5).for_each(|call| whole_call(&journal, call));
    drop(journal);
    // The second start finds all in order and moves the marks to the end.
    drop(open(&settings));
    let path = only_segment(&settings);
    let places = places(&path);
    flip(&path, places[1].0 + 50);
    flip(&path, places[3].1 + 50);
    let corrupt = facts(dir.path(), None).unwrap();
    assert_eq!(corrupt, JournalFacts { corrupt_records: 2, unshipped: 3, ..JournalFacts::default() });
    let ledger = Arc::new(MemoryLedger::default());
    for _ in 0..2 {
        let recovered = reopen_and_ship(&settings, &ledger).await;
        assert_eq!(recovered, Recovered { calls: 4, corrupt: 2, ..Recovered::default() });
        assert_eq!(ledger.ids(), [0, 2, 4]);
    }
    assert_eq!(facts(dir.path(), None).unwrap().corrupt_records, 2, "the evidence stays");
}

#[tokio::test]
async fn marks_move_while_the_journal_runs() {
    let dir = tempfile::tempdir().unwrap();
    let settings = roomy(dir.path());
    let (journal, _) = open(&settings);
    whole_call(&journal, 1);
    let begun = journal.begin(&intent(2)).unwrap();
    until("the intents to be synced", || journal.synced_through() > 1 << 32 | 4_700);
    let marks = header::Marks::decode(&std::fs::read(only_segment(&settings)).unwrap());
    let places = places(&only_segment(&settings));
    assert_eq!(marks.closed as u64, places[1].0, "the open call holds the closed mark");
    assert!(marks.begun as u64 > places[1].0);
    // A lost page below the mark is noticed, too.
    let copy = tempfile::tempdir().unwrap();
    copy_journal(dir.path(), copy.path());
    let path = only_segment(&small(copy.path()));
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&vec![0; (places[1].0 - places[0].0) as usize], places[0].0).unwrap();
    assert_eq!(facts(copy.path(), None).unwrap().corrupt_records, 1);
    begun.end(&terminal(2));
}

#[tokio::test]
async fn a_live_journal_can_be_read_beside_its_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&small(dir.path()));
    let ledger = Arc::new(MemoryLedger::default());
    let mut shipper = journal.shipper(ledger.clone()).await.unwrap();
    (0..30).for_each(|call| whole_call(&journal, call));
    shipper.ship_all().await.unwrap();
    let running = [journal.begin(&intent(100)).unwrap(), journal.begin(&intent(101)).unwrap()];
    whole_call(&journal, 102);
    let checkpoint = *ledger.checkpoint.lock().unwrap();
    let seen = facts(dir.path(), checkpoint).unwrap();
    assert_eq!(seen, JournalFacts { open_intents: 2, unshipped: 1, ..JournalFacts::default() });
    drop(running);
}

#[tokio::test]
async fn a_full_journal_refuses_new_calls_until_some_are_shipped() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { bytes_max: 3 * 8192, ..small(dir.path()) };
    let (journal, _) = open(&settings);
    let ledger = Arc::new(MemoryLedger::default());
    let mut shipper = journal.shipper(ledger.clone()).await.unwrap();
    let running = journal.begin(&intent(1_000)).unwrap();
    let mut calls = 0;
    while journal.begin(&intent(calls)).map(|begun| begun.end(&terminal(calls))).is_ok() {
        calls += 1;
        assert!(calls < 100, "bytes_max must be felt");
    }
    assert!(calls >= 20);
    running.end(&terminal(1_000));
    until("the counts", || journal.counts().bytes.load(Relaxed) == 3 * 8192);
    // Shipping refuses, so does the journal; shipping works, so does the journal.
    ledger.is_down.store(true, Relaxed);
    assert!(shipper.ship_all().await.is_err());
    assert_eq!(journal.counts().ship_failures.load(Relaxed), 1);
    assert_eq!(journal.begin(&intent(2_000)).err(), Some(JournalFull));
    ledger.is_down.store(false, Relaxed);
    assert_eq!(shipper.ship_all().await.unwrap() as u128, calls + 1);
    until("room", || journal.begin(&intent(2_000)).map(|begun| begun.end(&terminal(2_000))).is_ok());
    shipper.ship_all().await.unwrap();
    assert!(ledger.ids().contains(&2_000));
    assert!(journal.counts().bytes.load(Relaxed) <= 3 * 8192);
}

#[tokio::test]
async fn a_journal_found_full_opens_ships_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&small(dir.path()));
    (0..40).for_each(|call| whole_call(&journal, call));
    drop(journal);
    let (journal, _) = open(&Settings { bytes_max: 2 * 8192, ..small(dir.path()) });
    assert_eq!(journal.begin(&intent(100)).err(), Some(JournalFull));
    let ledger = Arc::new(MemoryLedger::default());
    let mut shipper = journal.shipper(ledger.clone()).await.unwrap();
    assert_eq!(shipper.ship_all().await.unwrap(), 40);
    until("room", || journal.begin(&intent(100)).map(|begun| begun.end(&terminal(100))).is_ok());
    assert_eq!(shipper.ship_all().await.unwrap(), 1);
}

#[tokio::test]
async fn a_long_call_keeps_its_own_segment_only() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { bytes_max: 4 * 8192, ..small(dir.path()) };
    let (journal, _) = open(&settings);
    let ledger = Arc::new(MemoryLedger::default());
    let mut shipper = journal.shipper(ledger.clone()).await.unwrap();
    let long = journal.begin(&intent(5_000)).unwrap();
    for call in 0..200 {
        until("room", || journal.begin(&intent(call)).map(|begun| begun.end(&terminal(call))).is_ok());
        shipper.ship_all().await.unwrap();
    }
    let low = ledger.checkpoint.lock().unwrap().unwrap();
    assert_eq!(low, Checkpoint { segment: 1, offset: 4096 });
    drop(journal);
    drop((long, shipper));
    let recovered = reopen_and_ship(&settings, &ledger).await;
    assert_eq!(recovered.recovered, 1);
    assert_eq!(ledger.ids().len(), 201);
}

#[tokio::test]
async fn old_shipped_segments_go_and_unshipped_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { keep_hours: 0, ..small(dir.path()) };
    let (journal, _) = open(&settings);
    (0..50).for_each(|call| whole_call(&journal, call));
    let segments = || recovery::segments_in(&directory_of(dir.path())).unwrap().len();
    assert!(segments() >= 6);
    let ledger = Arc::new(MemoryLedger::default());
    let mut shipper = journal.shipper(ledger.clone()).await.unwrap();
    shipper.ship_all().await.unwrap();
    until("old segments to go", || segments() <= 2);
    assert_eq!(ledger.ids().len(), 50);
}

#[test]
fn a_second_process_is_told_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&small(dir.path()));
    let refused = Journal::open(small(dir.path()), None, NOW).err().expect("the directory is held").to_string();
    assert!(refused.contains(&dir.path().join("journal").display().to_string()), "{refused}");
    assert!(refused.contains("a data directory of its own"), "{refused}");
    drop(journal);
    assert!(Journal::open(small(dir.path()), None, NOW).is_ok());
}

#[test]
fn what_is_not_this_journal_is_refused_by_name() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&here, &there] {
        whole_call(&open(&roomy(dir.path())).0, 1);
    }
    let mine = only_segment(&roomy(here.path()));
    std::fs::copy(only_segment(&roomy(there.path())), &mine).unwrap();
    assert!(matches!(Journal::open(roomy(here.path()), None, NOW), Err(OpenError::Foreign { path }) if path == mine));
    flip(&mine, 20);
    let refused = Journal::open(roomy(here.path()), None, NOW);
    assert!(matches!(refused, Err(OpenError::Header { flaw: HeaderFlaw::Unreadable, .. })));
    std::fs::write(here.path().join("journal/node"), "node_?\n").unwrap();
    assert!(matches!(Journal::open(roomy(here.path()), None, NOW), Err(OpenError::Node { .. })));
    for wrong in [
        Settings { segment_bytes: 5000, ..small(here.path()) },
        Settings { bytes_max: 8192, ..small(here.path()) },
        Settings { sync_ms: 0, ..small(here.path()) },
    ] {
        assert!(matches!(Journal::open(wrong, None, NOW), Err(OpenError::Settings(_))));
    }
}

#[tokio::test]
async fn a_ledger_that_is_down_gets_everything_later() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&roomy(dir.path()));
    let ledger = Arc::new(MemoryLedger::default());
    let mut shipper = journal.shipper(ledger.clone()).await.unwrap();
    ledger.is_down.store(true, Relaxed);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let running = tokio::spawn(async move { shipper.run(stopped).await });
    (0..700).for_each(|call| whole_call(&journal, call));
    let counts = journal.counts();
    tokio::time::timeout(Duration::from_secs(10), async {
        while counts.ship_failures.load(Relaxed) < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(counts.lag_records(), 700);
        assert!(counts.lag_ms.load(Relaxed) > 0, "the lag is as old as the calls");
        ledger.is_down.store(false, Relaxed);
        while counts.lag_records() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("shipped in time");
    stop.send(true).unwrap();
    running.await.unwrap();
    assert_eq!(ledger.ids().len(), 700);
}

/// A copy of a journal's files, as a crash would leave them.
fn copy_journal(from: &Path, to: &Path) {
    std::fs::create_dir_all(directory_of(to)).unwrap();
    for entry in std::fs::read_dir(directory_of(from)).unwrap() {
        let path = entry.unwrap().path();
        // A segment in the making may have got its name by now.
        let _ = std::fs::copy(&path, directory_of(to).join(path.file_name().unwrap()));
    }
}

#[tokio::test]
async fn a_journal_copied_at_any_moment_can_be_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let (journal, _) = open(&settings);
    let stop = AtomicBool::new(false);
    let copies: Vec<_> = (0..5).map(|_| tempfile::tempdir().unwrap()).collect();
    std::thread::scope(|scope| {
        for thread in 0..2u128 {
            let (journal, stop) = (&journal, &stop);
            scope.spawn(move || {
                let mut call = 0;
                while !stop.load(Relaxed) && call < 3_000 {
                    whole_call(journal, thread * 1_000_000 + call);
                    call += 1;
                }
            });
        }
        for copy in &copies {
            copy_journal(dir.path(), copy.path());
        }
        stop.store(true, Relaxed);
    });
    for copy in copies {
        let ledger = Arc::new(MemoryLedger::default());
        let recovered = reopen_and_ship(&small(copy.path()), &ledger).await;
        assert_eq!((recovered.corrupt, recovered.calls), (0, ledger.ids().len() as u64));
    }
}

#[test]
fn the_format_is_the_one_that_was_released() {
    let place = Position { segment: 1, offset: 4096 };
    let mut draft = Draft::intent(&intent(1));
    draft.set_room(512);
    let notes = [
        Draft::progress(&progress(1, 1, 700)).at(place),
        Draft::attempt(&attempt(1, 1)).at(place),
        Draft::amendment(&amendment(1, 1)).at(place),
    ]
    .map(crc32fast::hash);
    let written =
        [draft.at(place), Draft::terminal(&terminal(1)).at(place), Draft::void(64).at(place)].map(crc32fast::hash);
    // When this fails, the format's number must grow, and the old one must still be read.
    assert_eq!(written, [2_574_024_259, 4_009_030_863, 2_655_049_537]);
    assert_eq!(notes, [1_563_442_652, 1_643_397_780, 3_753_322_621]);
}

fn attempt(call: u128, number: u8) -> FailedAttempt {
    let error = Some(filters::denied::Code::UpstreamTimeout);
    FailedAttempt { call: CallId(call), number, provider: "azure".into(), status: 0, error, at: NOW.plus(1) }
}

fn progress(call: u128, sequence: u32, charge: i64) -> Progress {
    let usage = Usage::of(70, u64::from(sequence));
    Progress { call: CallId(call), sequence, reserved: NanoUsd(8_000), usage, charge: NanoUsd(charge) }
}

fn amendment(call: u128, sequence: u32) -> Amendment {
    let Intent { key, org, shares, .. } = intent(call);
    let (usage, charge) = (Usage::of(0, 12), NanoUsd(120));
    Amendment { call: CallId(call), sequence, key, org, usage, charge, shares, at: NOW.plus(90) }
}

#[tokio::test]
async fn notes_are_shipped_once_beside_open_and_ended_calls() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let (journal, _) = open(&settings);
    let ledger = Arc::new(MemoryLedger::default());
    let mut shipper = journal.shipper(ledger.clone()).await.unwrap();
    let mut running = journal.begin(&intent(1)).unwrap();
    running.attempt(&attempt(1, 1));
    running.progress(&progress(1, 1, 700));
    whole_call(&journal, 2);
    journal.amend(&amendment(2, 1)).unwrap();
    ledger.is_down.store(true, Relaxed);
    assert!(shipper.ship_all().await.is_err());
    ledger.is_down.store(false, Relaxed);
    assert_eq!(shipper.ship_all().await.unwrap(), 1, "calls are counted");
    let shipped = || (ledger.attempts.lock().unwrap().clone(), ledger.amendments.lock().unwrap().clone());
    assert_eq!(shipped(), (vec![attempt(1, 1)], vec![amendment(2, 1)]));
    // Of those that fill segments beside an open call, each is found once too.
    (2..200).for_each(|number| running.attempt(&attempt(1, number)));
    running.end(&terminal(1));
    assert_eq!(shipper.ship_all().await.unwrap(), 1);
    let all: Vec<_> = (1..200).map(|number| attempt(1, number)).collect();
    assert_eq!(shipped(), (all, vec![amendment(2, 1)]));
    drop(journal);
    let facts = facts(dir.path(), *ledger.checkpoint.lock().unwrap()).unwrap();
    assert_eq!(facts, JournalFacts::default());
    drop(shipper);
    reopen_and_ship(&settings, &ledger).await;
    assert_eq!(shipped().0.len(), 199, "the checkpoint has passed them");
}

#[tokio::test]
async fn a_full_journal_leaves_notes_out_and_still_ends_its_calls() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { bytes_max: 2 * 8192, ..small(dir.path()) };
    let (journal, _) = open(&settings);
    let mut running = journal.begin(&intent(1_000)).unwrap();
    let mut calls = 0;
    while journal.begin(&intent(calls)).map(|begun| begun.end(&terminal(calls))).is_ok() {
        calls += 1;
    }
    // What a call does not fit into may have room for a note or two.
    (0..20).for_each(|sequence| running.progress(&progress(1_000, sequence, 700)));
    assert!(journal.counts().left_out.load(Relaxed) >= 16);
    assert_eq!(journal.amend(&amendment(1, 1)), Err(JournalFull));
    running.end(&terminal(1_000));
    let ledger = Arc::new(MemoryLedger::default());
    assert_eq!(journal.shipper(ledger.clone()).await.unwrap().ship_all().await.unwrap() as u128, calls + 1);
    assert_eq!(ledger.call(1_000).1, terminal(1_000));
}

#[tokio::test]
async fn a_call_that_waits_for_the_disk_is_on_it() {
    let dir = tempfile::tempdir().unwrap();
    // Without somebody who waits the next sync would come in a minute.
    let settings = Settings { sync: SyncMode::Each, sync_ms: 60_000, ..roomy(dir.path()) };
    let (journal, _) = open(&settings);
    for call in 0..3 {
        whole_call(&journal, call);
        let durable = journal.durable().expect("each call may wait");
        tokio::time::timeout(Duration::from_secs(10), durable).await.expect("synced at once");
        let marks = header::Marks::decode(&std::fs::read(only_segment(&settings)).unwrap());
        let places = places(&only_segment(&settings));
        assert!(marks.closed as u64 > places[usize::try_from(call).unwrap()].1, "its end is on disk");
    }
    // Those that wait together are served together.
    whole_call(&journal, 3);
    let together = (0..50).map(|_| journal.durable().unwrap());
    let together = futures_util::future::join_all(together);
    tokio::time::timeout(Duration::from_secs(10), together).await.expect("synced at once");
    let other = tempfile::tempdir().unwrap();
    assert!(open(&roomy(other.path())).0.durable().is_none(), "nobody waits unless it is asked for");
}

#[tokio::test]
async fn a_call_is_recovered_by_its_last_progress() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let (journal, _) = open(&settings);
    let [mut moved, mut beyond, mut ended] = [1, 2, 3].map(|call| journal.begin(&intent(call)).unwrap());
    // In later segments than the call's own, and not in their order.
    for sequence in [1, 2, 40, 3].into_iter().chain(4..40) {
        moved.progress(&progress(1, sequence, 700 + i64::from(sequence)));
    }
    beyond.progress(&progress(2, 1, 9_999));
    ended.progress(&progress(3, 1, 800));
    ended.end(&terminal(3));
    let untouched = journal.begin(&intent(4)).unwrap();
    drop((moved, beyond, untouched, journal));
    let ledger = Arc::new(MemoryLedger::default());
    let recovered = reopen_and_ship(&settings, &ledger).await;
    assert_eq!(recovered, Recovered { calls: 4, recovered: 3, ..Recovered::default() });
    let end = |call| {
        let (_, end) = ledger.call(call);
        (end.outcome, end.usage, end.charge.0, end.reserved.0)
    };
    assert_eq!(end(1), (Outcome::Recovered, Usage::of(70, 40), 740, 8_000));
    assert_eq!(end(2), (Outcome::Recovered, Usage::of(70, 1), 8_000, 8_000), "never above what was set aside");
    assert_eq!(end(3), (Outcome::Complete, Usage::of(71, 30), 900, 5_000));
    assert_eq!(end(4), (Outcome::Recovered, Usage::of(70, 0), 600, 5_000));
}

#[tokio::test]
async fn a_torn_progress_leaves_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let settings = roomy(dir.path());
    let (journal, _) = open(&settings);
    let mut running = journal.begin(&intent(1)).unwrap();
    running.progress(&progress(1, 1, 700));
    running.progress(&progress(1, 2, 800));
    drop((running, journal));
    let path = only_segment(&settings);
    let bytes = std::fs::read(&path).unwrap();
    let notes = scan::Scanner::new(&bytes, 1).filter_map(|item| match item {
        scan::Item::Note { offset, .. } => Some(offset as u64),
        _ => None,
    });
    let last = notes.last().unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 32], header::BEGUN_AT as u64).unwrap();
    flip(&path, last + 50);
    let ledger = Arc::new(MemoryLedger::default());
    let recovered = reopen_and_ship(&settings, &ledger).await;
    assert_eq!((recovered.recovered, recovered.torn, recovered.corrupt), (1, 1, 0));
    assert_eq!((ledger.call(1).1.charge, ledger.call(1).1.usage), (NanoUsd(700), Usage::of(70, 1)));
}

#[tokio::test]
async fn finished_and_shipped_segments_are_not_read_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let (journal, _) = open(&settings);
    let ledger = Arc::new(MemoryLedger::default());
    let mut shipper = journal.shipper(ledger.clone()).await.unwrap();
    (0..40).for_each(|call| whole_call(&journal, call));
    let long = journal.begin(&intent(100)).unwrap();
    (41..80).for_each(|call| whole_call(&journal, call));
    shipper.ship_all().await.unwrap();
    long.end(&terminal(100));
    (80..90).for_each(|call| whole_call(&journal, call));
    shipper.ship_all().await.unwrap();
    let paths = || recovery::segments_in(&directory_of(dir.path())).unwrap();
    let is_finished = |path: &Path| header::Finished::decode(&std::fs::read(path).unwrap()).is_some();
    until("the segments to be finished", || {
        let paths = paths();
        paths[..paths.len() - 2].iter().all(|(_, path)| is_finished(path))
    });
    drop((shipper, journal));
    let checkpoint = ledger.checkpoint.lock().unwrap().unwrap();
    let below = paths().iter().filter(|(number, _)| *number < checkpoint.segment).count();
    assert!(below > 5);
    let start = |shipped| Journal::open(settings.clone(), shipped, NOW.plus(60_000)).unwrap();
    let (again, some) = start(Some(checkpoint));
    assert!(some.calls < 10, "{some:?}");
    // Whoever asks for everything again gets what was not read, too.
    *ledger.checkpoint.lock().unwrap() = None;
    ledger.calls.lock().unwrap().clear();
    assert_eq!(again.shipper(ledger.clone()).await.unwrap().ship_all().await.unwrap(), 90);
    drop(again);
    assert_eq!(start(None).1, Recovered { calls: 90, ..Recovered::default() });
    // What is not finished is read, wherever the checkpoint is: here, because a mark is damaged.
    let (_, first) = &paths()[0];
    flip(first, header::CLOSED_AT as u64);
    let (_, more) = start(Some(Checkpoint { segment: u64::MAX, offset: 0 }));
    assert!((1..20).contains(&more.calls), "{more:?}");
}
