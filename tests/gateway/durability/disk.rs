//! A disk that is full, read-only or damaged: new calls are refused if they can't be written down, those that run end and
//! are on the books, and what is wrong with the journal is found.

use super::assert_audit_is_clean;
use crate::money::{counting, storm};
use crate::support::{Answer, Call, Gateway, Provider, Scripted, Setup, Upstream, eventually};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

/// A file that takes the disk's room.
const BALLAST_BYTES: usize = 4 << 20;
/// What each record of the journal begins with.
const RECORD_MAGIC: &[u8] = b"TgJr";

const CLOSED_MARK_AT: usize = 72;

/// What is mounted at a place, as long as this lives.
struct Mount(PathBuf);

impl Mount {
    /// A disk of its own for the journal; it is empty.
    fn tmpfs(place: &Path, kib: usize) -> Self {
        mount(&["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"], place);
        Self(place.to_owned())
    }

    /// The directory as it is, for nobody to write to. Files that are open already stay as they are.
    fn read_only(place: &Path) -> Self {
        mount(&["--bind", place.to_str().expect("a plain name")], place);
        mount(&["-o", "remount,bind,ro"], place);
        Self(place.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(std::thread::panicking() || unmounted.is_ok_and(|status| status.success()), "it was mounted by us");
    }
}

fn mount(arguments: &[&str], place: &Path) {
    let said = Command::new("mount").args(arguments).arg(place).output().expect("the command mount is there");
    let problem = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success(), "this test mounts file systems, so it needs root and CAP_SYS_ADMIN: {problem}");
}

/// A gateway whose model claude-sonnet-4-6 is served by somebody who answers when told.
struct Slow {
    gateway: Gateway,
    answer: Sender<()>,
    _slow: Scripted,
    _provider: Provider,
}

impl Slow {
    fn start() -> Self {
        let (answer, told) = channel();
        let told = Mutex::new(told);
        let slow = Scripted::start(move |exchange| {
            // The sender is gone when the test has failed.
            let _ = told.lock().expect("one call at a time").recv();
            exchange.answer(200, r#"{"usage":{"input_tokens":3,"output_tokens":2}}"#);
        });
        let provider = Provider::start();
        let gateway = Setup::new()
            .upstream(Upstream::openai("openai", provider.url()))
            .upstream(Upstream::anthropic("slow", slow.url()))
            .section("[journal]\nsegment_bytes = 1_048_576\nsync_ms = 10")
            .start();
        Self { gateway, answer, _slow: slow, _provider: provider }
    }

    fn journal(&self) -> PathBuf {
        self.gateway.data().join("journal")
    }

    /// Makes calls until one is refused, with a call of the slow provider in flight; then lets that one end. Gives the
    /// number of calls that passed.
    fn fill(&self) -> usize {
        let mut waiting = self.gateway.open(&Call::messages("wait"));
        eventually("the call is in flight", || {
            (self.gateway.key_money(&self.gateway.key, "reserved") > 0).then_some(())
        });
        let mut passed = 0;
        let refused = eventually("calls are refused", || {
            let storm = storm(&self.gateway, std::slice::from_ref(&self.gateway.key), &counting(1), 500, &[]);
            passed += storm.passed;
            (!storm.refused.is_empty()).then_some(storm.refused)
        });
        assert_eq!(refused.keys().collect::<Vec<_>>(), ["store_unavailable"]);
        let answer = self.gateway.call(&counting(1));
        assert_eq!(answer.refusal(), (503, "store_unavailable".to_owned()));
        assert!(answer.header("retry-after").is_some());
        self.answer.send(()).expect("the provider waits");
        let ended: Answer = waiting.answer();
        assert_eq!(ended.status, 200, "a call in flight ends as if nothing were wrong");
        let row = self.gateway.row(ended.request_id());
        assert_eq!((row.outcome.as_str(), row.charge_nano), ("complete", 3 * 1_000 + 2 * 10_000));
        passed + 1
    }

    /// Calls pass again, and all of them are on the books, by now and after a restart.
    fn heals(&self, passed: usize) {
        eventually("calls pass again", || (self.gateway.call(&counting(1)).status == 200).then_some(()));
        self.gateway.books_of(passed + 1);
        assert_eq!(self.gateway.key_view(&self.gateway.key)["reserved"].to_string(), "0");
        assert_audit_is_clean(&self.gateway);
        self.gateway.kill();
        self.gateway.restart();
        self.gateway.books_of(passed + 1);
        assert_audit_is_clean(&self.gateway);
    }
}

#[test]
fn a_full_disk_refuses_new_calls_only_and_heals_when_there_is_room() {
    let slow = Slow::start();
    slow.gateway.kill();
    let _disk = Mount::tmpfs(&slow.journal(), (BALLAST_BYTES >> 10) + 1_200);
    let ballast = slow.journal().join("ballast");
    std::fs::write(&ballast, vec![1; BALLAST_BYTES]).expect("it has room for that");
    slow.gateway.restart();
    let passed = slow.fill();
    assert!(slow.gateway.metric("tollgate_journal_failures_total", &[]) > 0.0);
    std::fs::remove_file(&ballast).expect("it is there");
    slow.heals(passed);
    slow.gateway.kill();
}

#[test]
fn a_disk_full_of_shipped_segments_is_made_room_on() {
    let gateway = Setup::new().section("[journal]\nsegment_bytes = 1_048_576\nsync_ms = 10").start();
    gateway.kill();
    let journal = gateway.data().join("journal");
    let _disk = Mount::tmpfs(&journal, 2 * 1_024 + 300);
    gateway.restart();
    let first = journal.join("000000000001.segment");
    assert!(first.exists());
    let mut passed = 0;
    eventually("the first segment makes room for the third", || {
        let storm = storm(&gateway, std::slice::from_ref(&gateway.key), &counting(1), 500, &[]);
        passed += storm.passed;
        (!first.exists()).then_some(())
    });
    assert_eq!(gateway.call(&counting(1)).status, 200);
    gateway.books_of(passed + 1);
    assert_audit_is_clean(&gateway);
    gateway.kill();
}

#[test]
fn a_read_only_disk_refuses_new_calls_only_and_heals() {
    let slow = Slow::start();
    let disk = Mount::read_only(&slow.journal());
    let passed = slow.fill();
    drop(disk);
    slow.heals(passed);
    slow.gateway.kill();
    let _disk = Mount::read_only(&slow.journal());
    let refused = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["serve", "--config"])
        .arg(slow.gateway.config())
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("journal") && said.contains("Read-only"), "{said}");
}

/// The segments of a journal, oldest first.
fn segments(gateway: &Gateway) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(gateway.data().join("journal")).expect("the journal");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut segments: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "segment")).collect();
    segments.sort();
    segments
}

/// Where records lie in a segment.
fn records(bytes: &[u8]) -> Vec<usize> {
    (4096..bytes.len()).step_by(64).filter(|at| bytes[*at..].starts_with(RECORD_MAGIC)).collect()
}

/// Flips a bit of a record's fields.
fn damage(path: &Path, choose: impl FnOnce(&[usize]) -> usize) {
    let mut bytes = std::fs::read(path).expect("a segment");
    let at = choose(&records(&bytes));
    bytes[at + 45] ^= 4;
    std::fs::write(path, bytes).expect("written");
}

#[test]
fn where_each_call_is_synced_its_end_leaves_when_it_is_on_disk() {
    // Nobody would sync for a minute.
    let gateway = Setup::new().section("[journal]\nsync = 'each'\nsync_ms = 60_000\nship_ms = 60_000").start();
    for call in
        [counting(3), counting(3).streamed(), Call::messages("count up"), counting(3).simulate("reset-after=10")]
    {
        gateway.call(&call);
        let bytes = std::fs::read(&segments(&gateway)[0]).expect("a segment");
        // The mark below which all calls are on disk, their ends too.
        let mark = bytes[CLOSED_MARK_AT..].first_chunk().copied().map(u32::from_le_bytes).expect("a header");
        let last = *records(&bytes).last().expect("records");
        assert!(mark as usize > last, "{mark} is not behind the record at {last}");
    }
}

#[test]
fn a_torn_tail_is_no_corruption_and_loses_nothing_that_a_client_saw() {
    // Nothing is promised to be on disk yet.
    let gateway = Setup::new().section("[journal]\nsync_ms = 60_000\nship_ms = 60_000").start();
    let answers: Vec<Answer> = (1..20).map(|tokens| gateway.call(&counting(tokens))).collect();
    let mut stream = gateway.open(&counting(20).streamed().simulate("hang-after=1"));
    let torn = stream.head().request_id().to_owned();
    gateway.kill();
    let newest = segments(&gateway).pop().expect("a segment");
    damage(&newest, |records| *records.last().expect("records"));
    gateway.restart();
    let rows = gateway.books_of(answers.len());
    for answer in &answers {
        let row = rows.iter().find(|row| row.request_id == answer.request_id()).expect("it is on the books");
        assert_eq!(row.outcome, "complete");
    }
    assert!(rows.iter().all(|row| row.request_id != torn), "its record is torn");
    assert_audit_is_clean(&gateway);
}

#[test]
fn a_flipped_bit_in_what_was_on_disk_is_found_by_the_audit() {
    let gateway = Setup::new().section("[journal]\nsync_ms = 5").start();
    let answers: Vec<Answer> = (1..20).map(|tokens| gateway.call(&counting(tokens))).collect();
    gateway.books_of(answers.len());
    gateway.kill();
    // The next start sees that all of it is on disk, and says so.
    gateway.restart();
    gateway.kill();
    damage(&segments(&gateway)[0], |records| records[7]);
    let audit = gateway.audit();
    let said = String::from_utf8_lossy(&audit.stdout).into_owned();
    assert_eq!(audit.status.code(), Some(1), "{said}");
    assert!(said.contains("one_end_a_call") && said.contains("can't be read"), "{said}");
    gateway.restart();
    assert_eq!(gateway.call(&counting(1)).status, 200, "it serves all the same");
    gateway.books_of(answers.len() + 1);
    assert_eq!(gateway.audit().status.code(), Some(1), "the evidence stays");
}
