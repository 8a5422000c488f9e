//! The sections about what goes out to where tenants say: connections, and webhooks.

use super::address::Network;
use super::place::Section;
use filters::money::NanoUsd;
use std::time::Duration;

const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Most tries after the first: with a day between them each is made before what is told is removed.
const RETRIES_MAX: usize = 16;
const NOTICES_MAX: usize = 8;

/// Which connections go out to URLs that tenants give, such as those of webhooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Whether they may be plain HTTP.
    pub allow_http: bool,
    /// Ranges that they may lead to though they are not public.
    pub allow_private_addresses: Vec<Network>,
    /// Ports that they may lead to; none named: all.
    pub ports: Vec<u16>,
    /// For the addresses of a name to be found.
    pub resolve_timeout: Duration,
    /// For a connection, TLS included.
    pub connect_timeout: Duration,
    /// For a whole exchange.
    pub timeout: Duration,
}

/// How events are told to webhooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhooks {
    /// How long after a failed try the next is made; none is made after the last.
    pub back_off: Vec<Duration>,
    /// Most deliveries that a node sends at once.
    pub in_flight_max: usize,
    /// Most of them to one webhook.
    pub per_webhook_max: usize,
    /// Most webhooks of an organisation.
    pub per_organisation_max: usize,
    /// How many days events and deliveries are kept.
    pub keep_days: u64,
    /// How often keys and balances are looked after.
    pub notice: Duration,
    /// How many days before its end a key's owner is told.
    pub key_expiry_days: Vec<u64>,
    /// Below which balance an organisation's credit is low, where it names none of its own.
    pub credit_low: Option<NanoUsd>,
}

pub(super) fn read_webhooks(section: &Section<'_>) -> Webhooks {
    let back_off = [
        5 * SECOND_MS,
        5 * MINUTE_MS,
        30 * MINUTE_MS,
        2 * HOUR_MS,
        5 * HOUR_MS,
        10 * HOUR_MS,
        14 * HOUR_MS,
        20 * HOUR_MS,
        DAY_MS,
    ];
    let webhooks = Webhooks {
        back_off: section
            .numbers("back_off_ms", 1..=DAY_MS, &back_off, RETRIES_MAX)
            .into_iter()
            .map(Duration::from_millis)
            .collect(),
        in_flight_max: section.size("in_flight_max", 1..=128, 64),
        per_webhook_max: section.size("per_webhook_max", 1..=128, 4),
        per_organisation_max: section.size("per_organisation_max", 0..=1_000, 20),
        keep_days: section.number("keep_days", 20..=3_660, 30),
        notice: section.milliseconds("notice_ms", 10..=HOUR_MS, MINUTE_MS),
        key_expiry_days: section.numbers("key_expiry_days", 1..=365, &[14, 7, 1], NOTICES_MAX),
        credit_low: section.get("credit_low_usd").and_then(|value| value.parsed(amount)),
    };
    // Whether a notice was given is known by its event.
    if webhooks.key_expiry_days.iter().any(|days| *days >= webhooks.keep_days) {
        section.report("key_expiry_days", "must be less than keep_days");
    }
    webhooks
}

fn amount(text: &str) -> Result<NanoUsd, String> {
    text.parse().map_err(|error: filters::money::MoneyError| error.to_string())
}

pub(super) fn read_outgoing(section: &Section<'_>) -> Outgoing {
    let timeout = |key, default| section.milliseconds(key, 1..=10 * MINUTE_MS, default);
    let ports = section.numbers("ports", 1..=u64::from(u16::MAX), &[443, 8_443], 64);
    Outgoing {
        allow_http: section.boolean("allow_http", false),
        allow_private_addresses: section.list("allow_private_addresses", Vec::new(), Network::parse),
        ports: ports.into_iter().filter_map(|port| u16::try_from(port).ok()).collect(),
        resolve_timeout: timeout("resolve_timeout_ms", 5 * SECOND_MS),
        connect_timeout: timeout("connect_timeout_ms", 5 * SECOND_MS),
        timeout: timeout("timeout_ms", 15 * SECOND_MS),
    }
}
