//! The sections about ourselves: listeners, limits, keys, journal, quotas, log.

use super::address::{BaseUrl, Network};
use super::place::{Document, Section, Value};
use super::sources::Sources;
use super::{ErrorShape, Gateway, Journal, Keys, Ledger, Limits, Listener, Log, LogFormat, Quotas, SyncMode, Tls};
use std::net::SocketAddr;
use std::path::PathBuf;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SECOND_MS: u64 = 1_000;
const HOUR_MS: u64 = 3_600 * SECOND_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

pub(super) fn read_gateway(section: &Section<'_>, sources: &Sources<'_>) -> Gateway {
    let tls = section.get("tls").and_then(|tls| tls.section(|tls| read_tls(tls, sources))).flatten();
    let listen = section.list("listen", vec![loopback(8080)], socket_address);
    if listen.is_empty() && tls.is_none() {
        section.report("listen", "must name an address where there is no gateway.tls");
    }
    Gateway {
        listen,
        tls,
        h2c: section.boolean("h2c", true),
        threads: match section.size("threads", 0..=1024, 0) {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        },
        error_shape: section.choice(
            "error_shape",
            ErrorShape::Protocol,
            &[("protocol", ErrorShape::Protocol), ("gateway", ErrorShape::Gateway), ("numeric", ErrorShape::Numeric)],
        ),
        cors_origins: section.list("cors_origins", Vec::new(), origin),
        trusted_proxies: section.list("trusted_proxies", Vec::new(), Network::parse),
        limits: section.within("limits", read_limits),
    }
}

fn read_tls(section: &Section<'_>, sources: &Sources<'_>) -> Option<Tls> {
    let listen = section.require("listen").and_then(|value| value.list(socket_address));
    if listen.as_ref().is_some_and(Vec::is_empty) {
        section.report("listen", "must name an address");
    }
    let certificate = section.require("certificate").and_then(|path| pem_file(&path, "CERTIFICATE-----", sources));
    let key = section.require("key").and_then(|path| pem_file(&path, "PRIVATE KEY-----", sources));
    Some(Tls { listen: listen?, certificate: certificate?, key: key? })
}

/// A PEM file that is there and holds a part of that kind. Whether certificate and key belong together is left to
/// the TLS library.
pub(super) fn pem_file(value: &Value<'_>, kind: &str, sources: &Sources<'_>) -> Option<PathBuf> {
    let path = sources.path(value.text()?);
    match sources.read(&path) {
        Ok(text) if text.lines().any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(kind)) => {
            Some(path)
        }
        Ok(_) => {
            value.report(format_args!("{} holds no PEM part {}", path.display(), kind.trim_end_matches('-')));
            None
        }
        Err(message) => {
            value.report(message);
            None
        }
    }
}

fn read_limits(section: &Section<'_>) -> Limits {
    let limits = Limits {
        body_bytes_max: section.number("body_bytes_max", 1..=4 * GIB, 32 * MIB),
        upload_bytes_max: section.number("upload_bytes_max", 1..=1024 * GIB, 512 * MIB),
        request_bytes_in_flight_max: section.number("request_bytes_in_flight_max", 1..=1024 * GIB, 512 * MIB),
        connections_max: section.size("connections_max", 1..=10_000_000, 20_000),
        header_bytes_max: section.size("header_bytes_max", KIB..=MIB, 64 * KIB),
        headers_max: section.size("headers_max", 10..=1_000, 100),
        header_timeout: section.milliseconds("header_timeout_ms", 1..=HOUR_MS, 10 * SECOND_MS),
        body_idle_timeout: section.milliseconds("body_idle_timeout_ms", 1..=HOUR_MS, 30 * SECOND_MS),
        write_idle_timeout: section.milliseconds("write_idle_timeout_ms", 1..=HOUR_MS, 30 * SECOND_MS),
        h2_idle_timeout: section.milliseconds("h2_idle_timeout_ms", 1..=HOUR_MS, 60 * SECOND_MS),
        drain_delay: section.milliseconds("drain_delay_ms", 0..=HOUR_MS, 2 * SECOND_MS),
        drain_timeout: section.milliseconds("drain_timeout_ms", 0..=DAY_MS, 600 * SECOND_MS),
        answer_buffer_bytes: section.size("answer_buffer_bytes", 0..=16 * MIB, 64 * KIB),
        background_time_max: section.milliseconds("background_ms_max", 1..=7 * DAY_MS, DAY_MS),
        drains_max: section.size("drains_max", 0..=1_000_000, 1_000),
        realtime_time_max: section.milliseconds("realtime_ms_max", 1..=DAY_MS, 30 * 60 * SECOND_MS),
    };
    if limits.request_bytes_in_flight_max < limits.body_bytes_max {
        section.report("request_bytes_in_flight_max", "must be at least body_bytes_max");
    }
    limits
}

pub(super) fn read_listener(section: &Section<'_>, default_port: u16) -> Listener {
    Listener { listen: section.parsed("listen", loopback(default_port), socket_address) }
}

pub(super) fn read_keys(section: &Section<'_>) -> Keys {
    Keys {
        prefix: section.parsed("prefix", "tg_live".to_owned(), key_prefix),
        cache_entries_max: section.size("cache_entries_max", 1..=100_000_000, 1_000_000),
        negative_entries_max: section.size("negative_entries_max", 1..=100_000_000, 100_000),
    }
}

pub(super) fn read_journal(section: &Section<'_>) -> Journal {
    let journal = Journal {
        segment_bytes: section.number("segment_bytes", MIB..=4 * GIB, 64 * MIB),
        bytes_max: section.number("bytes_max", 2 * MIB..=1024 * GIB, 8 * GIB),
        keep_hours: section.number("keep_hours", 0..=8_784, 24),
        sync: section.choice("sync", SyncMode::Interval, &[("interval", SyncMode::Interval), ("each", SyncMode::Each)]),
        sync_ms: section.number("sync_ms", 1..=60_000, 50),
        ship_ms: section.number("ship_ms", 1..=60_000, 200),
    };
    // One segment is written while the one before it is shipped.
    if journal.bytes_max < 2 * journal.segment_bytes {
        section.report("bytes_max", "must hold at least two segments of journal.segment_bytes");
    }
    journal
}

pub(super) fn read_ledger(section: &Section<'_>) -> Ledger {
    Ledger {
        merge_ms: section.number("merge_ms", 0..=10 * 60 * SECOND_MS, 60 * SECOND_MS),
        pending_sums_max: section.size("pending_sums_max", 0..=10_000_000, 500_000),
        names_max: section.size("names_max", 0..=10_000, 800),
        requests_keep_days: section.number("requests_keep_days", 0..=3_660, 7),
        calls_keep_days: read_calls_keep_days(section),
        windows_keep_days: section.number("windows_keep_days", 62..=36_600, 100),
    }
}

/// Less than a week is refused: so long the journal may bring calls again, or what belongs to them.
fn read_calls_keep_days(section: &Section<'_>) -> u64 {
    let days = section.number("calls_keep_days", 0..=36_600, 0);
    if (1..7).contains(&days) {
        section.report("calls_keep_days", "must be at least 7, or 0 to keep calls for ever");
    }
    days
}

pub(super) fn read_quotas(section: &Section<'_>) -> Quotas {
    Quotas {
        reserve_output_tokens_max: section.number("reserve_output_tokens_max", 1..=1_000_000_000, 16_384),
        clamp_output_tokens_min: section.number("clamp_output_tokens_min", 1..=1_000_000_000, 256),
    }
}

pub(super) fn read_log(section: &Section<'_>) -> Log {
    let levels = ["error", "warn", "info", "debug", "trace"].map(|level| (level, level));
    Log {
        calls: section.boolean("calls", true),
        level: section.choice("level", "info", &levels).to_owned(),
        format: section.choice("format", LogFormat::Json, &[("json", LogFormat::Json), ("text", LogFormat::Text)]),
        queue_bytes_max: section.size("queue_bytes_max", 64 * KIB..=GIB, 4 * MIB),
    }
}

/// Two listeners of one address could not both start.
pub(super) fn refuse_shared_addresses(document: &Document<'_>, gateway: &Gateway, [control, metrics]: [SocketAddr; 2]) {
    let of_tls = gateway.tls.iter().flat_map(|tls| &tls.listen).map(|address| ("gateway.tls.listen", *address));
    let of_gateway = gateway.listen.iter().map(|address| ("gateway.listen", *address));
    let of_others = [("control.listen", control), ("metrics.listen", metrics)];
    let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
    for (key, address) in of_gateway.chain(of_tls).chain(of_others) {
        let earlier = taken.iter().find(|(_, other)| *other == address && address.port() != 0);
        if let Some((earlier, _)) = earlier {
            document.report_at(key, format_args!("{address} is taken by {earlier} already"));
        }
        taken.push((key, address));
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "not an address and port such as 127.0.0.1:8080 or [::]:8080".to_owned())
}

fn origin(text: &str) -> Result<String, String> {
    let is_origin = text == "*" || (BaseUrl::parse(text).is_ok_and(|url| url.path.is_empty()) && !text.ends_with('/'));
    if is_origin { Ok(text.to_owned()) } else { Err("not an origin such as https://app.example.com, nor *".to_owned()) }
}

fn key_prefix(text: &str) -> Result<String, String> {
    let is_prefix = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if is_prefix && (1..=32).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 32 letters, digits, hyphens or underscores".to_owned())
    }
}
