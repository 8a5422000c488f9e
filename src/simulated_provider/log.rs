//! What the provider served, one JSON line a call: the other side of the books, for tests to compare with.

use super::answer::Part;
use super::plan::Usage;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Kept in memory for `GET /log`, some 30 MB; a file keeps all.
const RECORDS_KEPT_MAX: usize = 65_536;

/// The records of all calls, in the order in which they ended.
#[derive(Debug)]
pub(super) struct Log {
    records: Option<Mutex<Records>>,
}

#[derive(Debug)]
struct Records {
    last_sequence: u64,
    kept: VecDeque<Bytes>,
    file: Option<File>,
}

/// One call, as it stands when it has ended.
#[derive(Debug, Default, Serialize)]
struct Record {
    /// From 1, in the order of the calls' ends.
    sequence: u64,
    /// The id in the response's header.
    request_id: String,
    path: String,
    model: String,
    stream: bool,
    /// The faults asked for.
    simulate: String,
    /// The header's status; null if there was none.
    status: Option<u16>,
    /// Names of the headers received, never their values.
    #[serde(serialize_with = "serialize_names")]
    headers: HeaderMap,
    /// The first 8 hexadecimal digits of the credential's SHA-256.
    credential_sha256: Option<String>,
    tollgate_call: Option<String>,
    body_bytes: u64,
    body_sha256: String,
    input_tokens: u64,
    cached_tokens: u64,
    reasoning_tokens: u64,
    /// Tokens handed to the connection.
    output_tokens: u64,
    /// Tokens that the provider would write on its bill: its usage's if it said it or came to a good end, else
    /// those handed over.
    output_tokens_billed: u64,
    /// The final usage was handed to the connection.
    usage_sent: bool,
    /// The whole answer was handed to the connection.
    complete: bool,
}

/// A call that runs; its record is appended when this is dropped, however the call ends.
#[derive(Debug)]
pub(super) struct Entry {
    log: Arc<Log>,
    record: Option<Box<Record>>,
    usage_output_tokens: u64,
    has_failed: bool,
}

impl Log {
    /// A log that keeps records in memory and, if there is a path, in a file.
    pub(super) fn open(path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
        let records = Records { last_sequence: 0, kept: VecDeque::new(), file };
        Ok(Self { records: Some(Mutex::new(records)) })
    }

    /// A log that keeps nothing.
    pub(super) fn off() -> Self {
        Self { records: None }
    }

    /// Begins a call's record.
    pub(super) fn begin(self: &Arc<Self>, parts: &Parts, body: &[u8], request_id: &str) -> Entry {
        let record = self.records.is_some().then(|| {
            Box::new(Record {
                request_id: request_id.to_owned(),
                path: parts.uri.path().to_owned(),
                headers: parts.headers.clone(),
                credential_sha256: credential(&parts.headers).map(|credential| sha256(credential)[..8].to_owned()),
                tollgate_call: parts
                    .headers
                    .get("x-tollgate-call")
                    .and_then(|call| call.to_str().ok())
                    .map(str::to_owned),
                body_bytes: body.len() as u64,
                body_sha256: sha256(body),
                ..Record::default()
            })
        });
        Entry { log: Arc::clone(self), record, usage_output_tokens: 0, has_failed: false }
    }

    /// The lines of the records after a sequence number.
    pub(super) fn after(&self, sequence: u64) -> Bytes {
        let Some(records) = &self.records else { return Bytes::new() };
        let records = records.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = records.last_sequence.saturating_sub(sequence) as usize;
        let skipped = records.kept.len().saturating_sub(wanted);
        records.kept.iter().skip(skipped).map(AsRef::as_ref).collect::<Vec<&[u8]>>().concat().into()
    }

    fn append(&self, mut record: Record) {
        let Some(records) = &self.records else { return };
        let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
        records.last_sequence += 1;
        record.sequence = records.last_sequence;
        let mut line = serde_json::to_vec(&record).unwrap_or_default();
        line.push(b'\n');
        if let Some(file) = &mut records.file {
            // One write a line, without a buffer of ours: a killed process loses none. A full disk must not stop the
            // model; the sequence shows the gap.
            let _ = file.write_all(&line);
        }
        if records.kept.len() == RECORDS_KEPT_MAX {
            records.kept.pop_front();
        }
        records.kept.push_back(line.into());
    }
}

impl Entry {
    /// The faults that this call asked for.
    pub(super) fn simulate(&mut self, list: String) {
        if let Some(record) = &mut self.record {
            record.simulate = list;
        }
    }

    /// What the call asks for and what it will be billed if it comes to its end.
    pub(super) fn plan(&mut self, model: &str, stream: bool, usage: &Usage) {
        self.usage_output_tokens = usage.output_tokens;
        if let Some(record) = &mut self.record {
            model.clone_into(&mut record.model);
            record.stream = stream;
            record.input_tokens = usage.input_tokens;
            record.cached_tokens = usage.cached_tokens;
            record.reasoning_tokens = usage.reasoning_tokens;
        }
    }

    /// The model has no part in the answer, so nothing is billed.
    pub(super) fn waive(&mut self) {
        self.usage_output_tokens = 0;
        if let Some(record) = &mut self.record {
            record.input_tokens = 0;
            record.cached_tokens = 0;
            record.reasoning_tokens = 0;
        }
    }

    pub(super) fn answer(&mut self, status: StatusCode) {
        if let Some(record) = &mut self.record {
            record.status = Some(status.as_u16());
        }
    }

    pub(super) fn hand_over(&mut self, part: &Part) {
        self.has_failed |= part.is_failure;
        if let Some(record) = &mut self.record {
            record.output_tokens += part.tokens;
            record.usage_sent |= part.has_usage;
        }
    }

    pub(super) fn complete(&mut self) {
        if let Some(record) = &mut self.record {
            record.complete = true;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            let is_final = record.usage_sent || (record.complete && !self.has_failed);
            record.output_tokens_billed = if is_final { self.usage_output_tokens } else { record.output_tokens };
            self.log.append(*record);
        }
    }
}

/// The credential of a request, wherever the protocols put it.
pub(super) fn credential(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
    let bearer = bearer.map(|value| value.strip_prefix(b"Bearer ").unwrap_or(value));
    let named = || {
        let names = ["x-api-key", "api-key", "x-goog-api-key"].into_iter();
        names.filter_map(|name| headers.get(name)).map(|value| value.as_bytes()).next()
    };
    bearer.or_else(named)
}

fn sha256(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn serialize_names<S: Serializer>(headers: &HeaderMap, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(headers.keys().map(http::HeaderName::as_str))
}
