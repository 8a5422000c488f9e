//! Recorded answers of real providers: the meter's figures are those that the corpus's index has, whatever the chunks.
//!
//! The corpus is not part of the project. It is looked for at `TOLLGATE_CORPUS`, else beside the checkout; without it
//! nothing is tested, and a line says so.

mod expected;
mod record;

use bytes::Bytes;
use expected::Expected;
use filters::dialect::Dialect;
use filters::meter::Meter;
use filters::usage::Usage;
use record::Record;
use std::collections::BTreeMap;
use std::path::PathBuf;

fn corpus() -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let folder = std::env::var_os("TOLLGATE_CORPUS").map_or_else(beside, PathBuf::from);
    folder.join("index.jsonl").is_file().then_some(folder)
}

/// Random enough to split at, and the same in every run.
struct Splits(u64);

impl Splits {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below.max(1)
    }
}

fn meter_of(record: &Record, dialect: Dialect) -> Meter {
    // An array of chunks is what a stream looks like that was asked for without `alt=sse`.
    let is_stream = record.format != "json" || record.body.trim_ascii_start().starts_with(b"[");
    Meter::of(dialect, record.content_type().as_bytes(), is_stream, false)
}

/// What the meter makes of the body in chunks of at most `size` bytes, and the figures of its headers.
fn read(record: &Record, dialect: Dialect, size: usize, told: Option<Usage>) -> (Meter, Vec<u8>) {
    let mut meter = meter_of(record, dialect);
    if let Some(told) = told {
        meter.tell(told);
    }
    let mut splits = Splits(size as u64);
    let mut out = Vec::with_capacity(record.body.len());
    let mut rest = record.body.as_slice();
    while !rest.is_empty() {
        let length = if size >= rest.len() { rest.len() } else { 1 + splits.next(size) };
        let (chunk, after) = rest.split_at(length.min(rest.len()));
        out.extend_from_slice(&meter.feed(Bytes::copy_from_slice(chunk)));
        assert!(meter.held_bytes() <= 192 * 1024, "{}: {} bytes are held", record.id, meter.held_bytes());
        rest = after;
    }
    out.extend_from_slice(&meter.finish());
    (meter, out)
}

/// What is wrong with the meter of this record, whole and in chunks.
fn faults(record: &Record, dialect: Dialect, expected: &Expected) -> Vec<String> {
    let mut faults = Vec::new();
    for size in [usize::MAX, 1_500, 97, 5, 1] {
        let (meter, out) = read(record, dialect, size, expected.told);
        if out != record.body {
            faults.push(format!("in chunks of {size} its bytes change"));
        }
        let reported = meter.tally().reported;
        match (reported, &expected.usage) {
            (Some(reported), Some(usage)) => {
                faults.extend(
                    usage.compare(&reported.usage).into_iter().map(|fault| format!("in chunks of {size}: {fault}")),
                );
                if !reported.is_final {
                    faults.push(format!("in chunks of {size} its figures are not final"));
                }
            }
            (None, Some(_)) => faults.push(format!("in chunks of {size} no figures are found")),
            (Some(reported), None) if reported.usage != Usage::default() => {
                faults.push(format!("in chunks of {size} figures are found: {:?}", reported.usage));
            }
            (_, None) => {}
        }
    }
    faults
}

#[test]
fn the_meter_equals_the_index() {
    let Some(folder) = corpus() else {
        println!("skipped: there is no corpus (TOLLGATE_CORPUS)");
        return;
    };
    let mut counts: BTreeMap<(String, String), [u32; 3]> = BTreeMap::new();
    let (mut aside, mut notes, mut wrong) =
        (BTreeMap::<String, Vec<String>>::new(), BTreeMap::<&str, Vec<String>>::new(), Vec::new());
    for record in Record::all(&folder) {
        let dialect = match expected::dialect(&record) {
            Ok(dialect) => dialect,
            Err(reason) => {
                aside.entry(reason).or_default().push(record.id);
                continue;
            }
        };
        let expected = Expected::of(&record);
        for note in &expected.notes {
            notes.entry(note).or_default().push(record.id.clone());
        }
        let faults = faults(&record, dialect, &expected);
        let count = counts.entry((record.provider.clone(), record.api.clone())).or_default();
        count[usize::from(expected.usage.is_none())] += 1;
        count[2] += u32::from(!faults.is_empty());
        wrong
            .extend(faults.first().map(|fault| format!("{} ({} {}): {fault}", record.id, record.provider, record.api)));
    }
    println!("{:<20} {:<24} {:>8} {:>8} {:>6}", "provider", "api", "figures", "none", "wrong");
    for ((provider, api), [figures, none, wrong]) in &counts {
        println!("{provider:<20} {api:<24} {figures:>8} {none:>8} {wrong:>6}");
    }
    for (reason, records) in aside {
        println!("set aside, {reason}: {} ({})", records.len(), sample(&records));
    }
    for (note, records) in notes {
        println!("compared with care, {note}: {} ({})", records.len(), sample(&records));
    }
    assert!(wrong.is_empty(), "{} records differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(!counts.is_empty(), "the corpus is empty");
}

fn sample(records: &[String]) -> String {
    let shown = records.iter().take(12).map(String::as_str).collect::<Vec<_>>().join(" ");
    if records.len() > 12 { format!("{shown} …") } else { shown }
}
