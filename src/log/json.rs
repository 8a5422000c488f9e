//! One JSON object a line, written straight from what was said: a call has about twenty facts, and each costs a call of
//! the visitor and the bytes themselves.

use super::Log;
use crate::clock;
use filters::time::{EpochMs, date_of_day};
use serde::Serializer;
use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Room for the line of a call.
const LINE_BYTES: usize = 768;

/// Writes each event as a line of JSON.
pub(super) struct JsonLines(pub(super) Log);

impl<S: Subscriber> Layer<S> for JsonLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.0.push(&line(event, clock::now()));
    }
}

fn line(event: &Event<'_>, now: EpochMs) -> Vec<u8> {
    let mut text = Vec::with_capacity(LINE_BYTES);
    text.extend_from_slice(b"{\"timestamp\":\"");
    put_moment(&mut text, now);
    text.extend_from_slice(b"\",\"level\":\"");
    text.extend_from_slice(event.metadata().level().as_str().as_bytes());
    text.extend_from_slice(b"\",\"target\":\"");
    // A module's path or a name of ours.
    text.extend_from_slice(event.metadata().target().as_bytes());
    text.push(b'"');
    event.record(&mut Members(&mut text));
    text.extend_from_slice(b"}\n");
    text
}

/// RFC 3339, to the millisecond.
fn put_moment(text: &mut Vec<u8>, moment: EpochMs) {
    let (year, month, day) = date_of_day(moment.day());
    let of_day = moment.0.rem_euclid(86_400_000);
    let parts = [
        (year, 1_000, b'-'),
        (month, 10, b'-'),
        (day, 10, b'T'),
        (of_day / 3_600_000, 10, b':'),
        (of_day / 60_000 % 60, 10, b':'),
        (of_day / 1_000 % 60, 10, b'.'),
        (of_day % 1_000, 100, b'Z'),
    ];
    for (number, first_place, after) in parts {
        let mut place = first_place;
        while place > 0 {
            text.push(b'0' + (number / place).rem_euclid(10) as u8);
            place /= 10;
        }
        text.push(after);
    }
}

/// The members of the object.
struct Members<'a>(&'a mut Vec<u8>);

impl Members<'_> {
    /// Names are identifiers, so nothing in them has to be escaped.
    fn name(&mut self, field: &Field) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(field.name().as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn value(&mut self, field: &Field, value: impl serde::Serialize) {
        self.name(field);
        if serde_json::to_writer(&mut *self.0, &value).is_err() {
            // Memory does not fail to be written; this keeps the line whole all the same.
            self.0.extend_from_slice(b"null");
        }
    }
}

impl Visit for Members<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.value(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.value(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.value(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.value(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.name(field);
        if serde_json::Serializer::new(&mut *self.0).collect_str(&format_args!("{value:?}")).is_err() {
            // Its own formatting failed half-way.
            self.0.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt;

    struct Written(Arc<Mutex<Vec<u8>>>);

    impl<S: Subscriber> Layer<S> for Written {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let line = line(event, EpochMs(1_800_000_000_007));
            self.0.lock().expect("no panic").extend_from_slice(&line);
        }
    }

    fn written(say: impl FnOnce()) -> String {
        let text = Arc::new(Mutex::new(Vec::new()));
        let lines = tracing_subscriber::registry().with(Written(Arc::clone(&text)));
        tracing::subscriber::with_default(lines, say);
        let text = text.lock().expect("no panic").clone();
        String::from_utf8(text).expect("text")
    }

    #[test]
    fn every_kind_of_value_is_json_on_a_line_of_its_own() {
        let text = written(|| {
            let (nothing, count) = (None::<u64>, 7_u64);
            tracing::info!(target: "a::b", name = "a \"b\"\n\u{1f600}", count, cost = -3_i64, is = true, nothing, "done {count}");
            tracing::error!(error = %"x\ny", list = ?["z"], limit = i64::MIN, "failed");
        });
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(
            lines[0],
            json!({"timestamp": "2027-01-15T08:00:00.007Z", "level": "INFO", "target": "a::b", "message": "done 7",
                "name": "a \"b\"\n\u{1f600}", "count": 7, "cost": -3, "is": true})
        );
        assert_eq!((&lines[1]["error"], &lines[1]["list"]), (&json!("x\ny"), &json!("[\"z\"]")));
        assert_eq!((&lines[1]["limit"], &lines[1]["message"]), (&json!(i64::MIN), &json!("failed")));
        assert_eq!(lines.len(), 2);
    }
}
