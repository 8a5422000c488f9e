//! A record of the corpus: an answer as the provider sent it, and what the index says of it.

use serde_json::Value;
use std::fs;
use std::path::Path;

/// One record.
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) provider: String,
    pub(crate) api: String,
    pub(crate) format: String,
    pub(crate) has_usage: bool,
    pub(crate) ambiguous: Option<String>,
    pub(crate) usage: Value,
    pub(crate) body: Vec<u8>,
}

impl Record {
    /// Every record of the corpus in this folder.
    pub(crate) fn all(folder: &Path) -> Vec<Self> {
        let index = fs::read_to_string(folder.join("index.jsonl")).expect("the corpus's index");
        let lines = index.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| Self::read(folder, &serde_json::from_str(line).expect("a record"))).collect()
    }

    fn read(folder: &Path, entry: &Value) -> Self {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        Self {
            id: text("id"),
            provider: text("provider"),
            api: text("api"),
            format: text("format"),
            has_usage: entry["has_usage"].as_bool().unwrap_or(false),
            ambiguous: entry["truth_ambiguous"].as_str().map(str::to_owned),
            usage: entry["usage"].clone(),
            body: fs::read(folder.join(text("file"))).expect("a record's body"),
        }
    }

    /// The `Content-Type` that the answer's form calls for: some were recorded without one.
    pub(crate) fn content_type(&self) -> &'static str {
        match self.format.as_str() {
            "sse" => "text/event-stream; charset=utf-8",
            "aws-eventstream" => "application/vnd.amazon.eventstream",
            "json" => "application/json",
            _ => "application/octet-stream",
        }
    }

    /// A figure of the index, as a whole number.
    pub(crate) fn figure(&self, name: &str) -> Option<u64> {
        let value = &self.usage[name];
        let written = value.to_string();
        value.as_u64().or_else(|| written.strip_suffix(".0")?.parse().ok())
    }

    /// A figure of seconds, which may have decimals, as milliseconds, rounded up.
    pub(crate) fn milliseconds(&self, name: &str) -> Option<u64> {
        let written = self.usage[name].as_number()?.to_string();
        let (whole, decimals) = written.split_once('.').unwrap_or((&written, ""));
        let mut thousandths = decimals.chars().chain("000".chars());
        let digits: String = thousandths.by_ref().take(3).collect();
        let rest = thousandths.any(|digit| digit != '0');
        Some(whole.parse::<u64>().ok()? * 1_000 + digits.parse::<u64>().ok()? + u64::from(rest))
    }
}
