//! What is said of a key that is to be made or changed.

use super::limits::{Limits, Terms};
use crate::control::input::{self, TEXT_BYTES_MAX};
use crate::control::money::Decimal;
use crate::error::{Refusal, RefusalCode};
use crate::store::keys::{GRACE_MAX_MS, KeyChange, KeyRecord, NewKey, UNTITLED};
use filters::id::OrgId;
use filters::key::{Glob, TokenHash};
use filters::network::Network;
use filters::scope::{Scope, Scopes};
use filters::time::EpochMs;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Longest description, in bytes.
const DESCRIPTION_BYTES_MAX: usize = 1_024;
/// Most patterns of a key, and most addresses: each is compared on every call.
const PATTERNS_MAX: usize = 64;
/// Most entries of a key's metadata, their longest names and longest texts.
const METADATA_MAX: usize = 16;
const METADATA_NAME_BYTES_MAX: usize = 64;
const METADATA_TEXT_BYTES_MAX: usize = 512;
/// A key ends within ten years, or never.
const EXPIRES_DAYS_MAX: i64 = 3_650;
const DAY_MS: i64 = 86_400_000;
/// How long a replaced secret goes on where nothing is said.
const GRACE_MS: i64 = DAY_MS;

/// Scopes as a list, or as a text with spaces or commas between them.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum ScopeNames {
    /// A list.
    List(Vec<String>),
    /// A text.
    Text(String),
}

/// A key to be made.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyBody {
    /// What people call it, for good; without it: Untitled.
    #[schema(max_length = 128, example = "production-key")]
    name: Option<String>,
    /// The same as `name`.
    #[schema(max_length = 128)]
    label: Option<String>,
    /// What people say of it.
    #[schema(max_length = 1024)]
    description: Option<String>,
    /// What it may do: scopes of a model key (model:invoke, inference:read, inference:write) or of a service key (keys:read, keys:write,
    /// admin), with usage:read and analytics:read for both. Without it: model:invoke and usage:read.
    scopes: Option<ScopeNames>,
    /// What it may spend, in millionths of a dollar.
    #[serde(rename = "spendLimitMicros")]
    #[schema(minimum = 0, example = 5_000_000)]
    spend_limit_micros: Option<i64>,
    /// The same in dollars: a number, or a text that is one.
    limit: Option<Decimal>,
    /// Over which time it may spend that: total, minute, hour, day, week or month. Without it: total.
    period: Option<String>,
    /// Whether the period is the calendar's, as it is without this, or rolling.
    align: Option<String>,
    /// The calendar's time zone, such as Europe/Berlin; without it: UTC.
    zone: Option<String>,
    /// Whether the limit is never passed: calls are held to the most that they can cost.
    strict: Option<bool>,
    /// Requests a minute.
    #[schema(minimum = 1)]
    rpm: Option<i64>,
    /// Tokens a minute.
    #[schema(minimum = 1)]
    tpm: Option<i64>,
    /// Calls at once.
    #[schema(minimum = 1)]
    concurrency: Option<i64>,
    /// When it ends, RFC 3339.
    #[serde(rename = "expiresAt")]
    #[schema(example = "2030-12-31T00:00:00Z")]
    expires_at: Option<String>,
    /// In how many days it ends.
    #[schema(minimum = 1, maximum = 3650)]
    expires_in_days: Option<i64>,
    /// Models that it may use, `*` for any characters; without it: all.
    models: Option<Vec<String>>,
    /// Providers that it may use, `*` for any characters; without it: all.
    providers: Option<Vec<String>>,
    /// The organisation; may be left out by who is in one alone.
    pub(super) org: Option<String>,
    /// A project of that organisation, whose limits it shares.
    project: Option<String>,
    /// Addresses and ranges such as 10.0.0.0/8 that it may be used from; without it: from anywhere.
    ip_allowlist: Option<Vec<String>>,
    /// At most 16 texts of at most 512 bytes, by name.
    metadata: Option<BTreeMap<String, String>>,
    /// For operators: the SHA-256 of a token that was issued elsewhere and is to be this key's, 64 hexadecimal digits.
    token_sha256: Option<String>,
}

impl KeyBody {
    pub(super) fn new_key(&self, org: OrgId, prefix: &str, now: EpochMs) -> Result<NewKey, Refusal> {
        let name = match (&self.name, &self.label) {
            (Some(name), Some(label)) if name != label => return Err(twice("label", "name")),
            (Some(name), _) => input::name("name", name)?,
            (None, Some(label)) => input::name("label", label)?,
            (None, None) => UNTITLED.to_owned(),
        };
        let limits = self.limits().changes()?;
        let limits = limits.iter().map(|change| change.of_new()).collect::<Result<Vec<_>, _>>()?;
        Ok(NewKey {
            project: super::read_id(self.project.as_deref(), "project")?,
            description: self.description.as_deref().map(description).transpose()?.unwrap_or_default(),
            metadata: self.metadata.as_ref().map(metadata).transpose()?.unwrap_or_else(|| "{}".to_owned()),
            prefix: prefix.to_owned(),
            scopes: self.scopes.as_ref().map(scopes).transpose()?.unwrap_or_else(Scopes::of_new_key),
            models: patterns("models", self.models.as_deref())?,
            providers: patterns("providers", self.providers.as_deref())?,
            addresses: addresses(self.ip_allowlist.as_deref())?,
            expires: expires(self.expires_at.as_deref(), self.expires_in_days, now)?,
            limits: limits.into_iter().flatten().collect(),
            ..NewKey::named(org, &name)
        })
    }

    pub(super) fn token_hash(&self) -> Result<Option<TokenHash>, Refusal> {
        let read = |text: &String| {
            let wrong = || Refusal::validation("token_sha256", "The SHA-256 of a token is 64 hexadecimal digits.");
            TokenHash::of_digits(text).ok_or_else(wrong)
        };
        self.token_sha256.as_ref().map(read).transpose()
    }

    fn limits(&self) -> Limits<'_> {
        Limits {
            micros: self.spend_limit_micros.map(Some),
            dollars: self.limit.as_ref().map(Some),
            terms: Terms {
                period: self.period.as_deref(),
                align: self.align.as_deref(),
                zone: self.zone.as_deref(),
                is_strict: self.strict,
            },
            rpm: self.rpm.map(Some),
            tpm: self.tpm.map(Some),
            concurrency: self.concurrency.map(Some),
        }
    }
}

/// A field that is there, be it `null`.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// What is to be changed of a key: what is left out stays, `null` takes away.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyPatch {
    /// The name that it has: another is refused.
    name: Option<String>,
    /// The same as `name`.
    label: Option<String>,
    /// What people say of it.
    #[schema(max_length = 1024)]
    description: Option<String>,
    /// What it may do, of its kind, and no more than the caller may.
    scopes: Option<ScopeNames>,
    /// What it may spend, in millionths of a dollar; null: no limit.
    #[serde(rename = "spendLimitMicros", default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>, minimum = 0)]
    spend_limit_micros: Option<Option<i64>>,
    /// The same in dollars: a number, or a text that is one; null: no limit.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Decimal>)]
    limit: Option<Option<Decimal>>,
    /// The period of the limit that is meant. Without it: total.
    period: Option<String>,
    /// Whether that period is the calendar's, as it is without this, or rolling.
    align: Option<String>,
    /// The calendar's time zone; without it: UTC.
    zone: Option<String>,
    /// Whether the limit is never passed.
    strict: Option<bool>,
    /// Requests a minute; null: no limit.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>, minimum = 1)]
    rpm: Option<Option<i64>>,
    /// Tokens a minute; null: no limit.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>, minimum = 1)]
    tpm: Option<Option<i64>>,
    /// Calls at once; null: no limit.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>, minimum = 1)]
    concurrency: Option<Option<i64>>,
    /// When it ends, RFC 3339; null: never.
    #[serde(rename = "expiresAt", default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    expires_at: Option<Option<String>>,
    /// In how many days it ends.
    #[schema(minimum = 1, maximum = 3650)]
    expires_in_days: Option<i64>,
    /// Models that it may use; []: all.
    models: Option<Vec<String>>,
    /// Providers that it may use; []: all.
    providers: Option<Vec<String>>,
    /// Where it may be used from; []: from anywhere.
    ip_allowlist: Option<Vec<String>>,
    /// All of its metadata.
    metadata: Option<BTreeMap<String, String>>,
}

impl KeyPatch {
    /// Whether it has another name than the key.
    pub(super) fn renames(&self, key: &KeyRecord) -> bool {
        [&self.name, &self.label].into_iter().flatten().any(|name| *name != key.name)
    }

    pub(super) fn change(&self, now: EpochMs) -> Result<KeyChange, Refusal> {
        let list =
            |param, texts: &Option<Vec<String>>| texts.as_deref().map(|texts| patterns(param, Some(texts))).transpose();
        Ok(KeyChange {
            description: self.description.as_deref().map(description).transpose()?,
            metadata: self.metadata.as_ref().map(metadata).transpose()?,
            scopes: self.scopes.as_ref().map(scopes).transpose()?,
            models: list("models", &self.models)?,
            providers: list("providers", &self.providers)?,
            addresses: self.ip_allowlist.as_deref().map(|texts| addresses(Some(texts))).transpose()?,
            expires: match (&self.expires_at, self.expires_in_days) {
                (None, None) => None,
                (Some(None), None) => Some(None),
                (Some(None), Some(_)) => return Err(twice("expires_in_days", "expiresAt")),
                (at, days) => Some(expires(at.as_ref().and_then(Option::as_deref), days, now)?),
            },
            limits: self.limits().changes()?,
        })
    }

    fn limits(&self) -> Limits<'_> {
        Limits {
            micros: self.spend_limit_micros,
            dollars: self.limit.as_ref().map(Option::as_ref),
            terms: Terms {
                period: self.period.as_deref(),
                align: self.align.as_deref(),
                zone: self.zone.as_deref(),
                is_strict: self.strict,
            },
            rpm: self.rpm,
            tpm: self.tpm,
            concurrency: self.concurrency,
        }
    }
}

/// How a key gets a new secret.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRotation {
    /// How long the old one goes on: seconds, or a text such as 24h; 0: not at all. At most 90 days; without it: 24 hours.
    grace: Option<Grace>,
}

/// A length of time.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Grace {
    /// In seconds.
    Seconds(i64),
    /// With its unit.
    Text(String),
}

impl KeyRotation {
    pub(super) fn grace_ms(&self) -> Result<i64, Refusal> {
        let Some(grace) = &self.grace else { return Ok(GRACE_MS) };
        let wrong =
            || Refusal::validation("grace", "Write seconds, or a time such as 30m, 24h or 7d; at most 90d, or 0.");
        let text = match grace {
            Grace::Seconds(seconds) => seconds.to_string(),
            Grace::Text(text) => text.clone(),
        };
        let (count, unit_ms) = match text.char_indices().last() {
            Some((at, 's')) => (&text[..at], 1_000),
            Some((at, 'm')) => (&text[..at], 60_000),
            Some((at, 'h')) => (&text[..at], 3_600_000),
            Some((at, 'd')) => (&text[..at], DAY_MS),
            _ => (&*text, 1_000),
        };
        let is_number = !count.is_empty() && count.bytes().all(|digit| digit.is_ascii_digit());
        let grace_ms = count.parse::<i64>().ok().filter(|_| is_number).and_then(|count| count.checked_mul(unit_ms));
        grace_ms.filter(|grace_ms| *grace_ms <= GRACE_MAX_MS).ok_or_else(wrong)
    }
}

/// Two fields that say the same thing differently.
pub(super) fn twice(param: &str, other: &str) -> Refusal {
    Refusal::validation(param, format!("`{param}` and `{other}` say the same thing: send one of them."))
}

fn description(text: &str) -> Result<String, Refusal> {
    if text.len() <= DESCRIPTION_BYTES_MAX && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(Refusal::validation("description", "A description has at most 1024 bytes and no control characters."))
}

fn metadata(texts: &BTreeMap<String, String>) -> Result<String, Refusal> {
    let is_plain = |text: &str, bytes_max| text.len() <= bytes_max && !text.chars().any(char::is_control);
    let is_entry = |(name, text): (&String, &String)| {
        !name.is_empty() && is_plain(name, METADATA_NAME_BYTES_MAX) && is_plain(text, METADATA_TEXT_BYTES_MAX)
    };
    if texts.len() <= METADATA_MAX && texts.iter().all(is_entry) {
        return Ok(serde_json::to_string(texts).unwrap_or_default());
    }
    let message =
        "Metadata has at most 16 texts of at most 512 bytes, with names of 1 to 64 bytes, and no control characters.";
    Err(Refusal::validation("metadata", message))
}

fn scopes(names: &ScopeNames) -> Result<Scopes, Refusal> {
    let known = || Scope::ALL.map(Scope::name).join(", ");
    let unknown = |name: String| {
        Refusal::validation("scopes", format!("There is no scope `{}`; there are {}.", name.escape_debug(), known()))
    };
    let scopes = match names {
        ScopeNames::List(names) => names.iter().try_fold(Scopes::default(), |set, name| {
            Scope::named(name).map(|scope| set.with(scope)).ok_or_else(|| unknown(name.clone()))
        })?,
        ScopeNames::Text(text) => Scopes::parse(text).map_err(unknown)?,
    };
    if scopes == Scopes::default() {
        return Err(Refusal::validation("scopes", format!("Name a scope: {}.", known())));
    }
    if scopes.kind().is_none() {
        let message = "A key calls models (model:invoke, inference:read, inference:write) or administers the organisation \
                       (keys:read, keys:write, admin), never both: make two keys.";
        return Err(Refusal::new(RefusalCode::ScopeMix, message).about("scopes"));
    }
    Ok(scopes)
}

fn patterns(param: &str, texts: Option<&[String]>) -> Result<Vec<Glob>, Refusal> {
    let texts = texts.unwrap_or_default();
    let is_pattern =
        |text: &String| (1..=TEXT_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if texts.len() <= PATTERNS_MAX && texts.iter().all(is_pattern) {
        return Ok(texts.iter().map(|text| Glob(text.as_str().into())).collect());
    }
    let message = "There are at most 64 patterns, each of 1 to 128 printable ASCII characters and no spaces.";
    Err(Refusal::validation(param, message))
}

fn addresses(texts: Option<&[String]>) -> Result<Vec<Network>, Refusal> {
    let texts = texts.unwrap_or_default();
    if texts.len() > PATTERNS_MAX {
        return Err(Refusal::validation("ip_allowlist", "There are at most 64 addresses and ranges."));
    }
    let read = |text: &String| {
        let wrong = |problem| format!("`{}` can't be taken: {problem}.", text.escape_debug());
        Network::parse(text).map_err(|problem| Refusal::validation("ip_allowlist", wrong(problem)))
    };
    texts.iter().map(read).collect()
}

fn expires(at: Option<&str>, days: Option<i64>, now: EpochMs) -> Result<Option<EpochMs>, Refusal> {
    match (at, days) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(twice("expires_in_days", "expiresAt")),
        (None, Some(days)) if (1..=EXPIRES_DAYS_MAX).contains(&days) => Ok(Some(now.plus(days * DAY_MS))),
        (None, Some(_)) => Err(Refusal::validation("expires_in_days", "A key ends in 1 to 3650 days.")),
        (Some(text), None) => {
            let wrong = || Refusal::validation("expiresAt", "Write a moment such as 2030-12-31T00:00:00Z.");
            let moment: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
            let moment = EpochMs(moment.as_millisecond());
            if moment <= now || moment > now.plus(EXPIRES_DAYS_MAX * DAY_MS) {
                return Err(Refusal::validation("expiresAt", "A key ends later than now and within ten years."));
            }
            Ok(Some(moment))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: EpochMs = EpochMs(1_800_000_000_000);

    fn new_key(body: &str) -> Result<NewKey, Refusal> {
        let body: KeyBody = input::read_json(body.as_bytes())?;
        body.token_hash()?;
        body.new_key(OrgId(1), "tg_live", NOW)
    }

    #[test]
    fn the_seeds_bodies_are_taken() {
        // aiaas-creating-api-keys: Via API.
        let new =
            r#"{"name": "production-key", "scopes": ["inference:read", "inference:write"], "expires_in_days": 90}"#;
        let key = new_key(new).expect("taken");
        assert_eq!((&*key.name, key.expires), ("production-key", Some(NOW.plus(90 * DAY_MS))));
        assert_eq!(key.scopes.to_string(), "inference:read inference:write");
        // seachat-quickstart: Automation path.
        let new =
            r#"{"label": "agent integration", "scopes": ["model:invoke", "usage:read"], "spendLimitMicros": 5000000}"#;
        let key = new_key(new).expect("taken");
        assert_eq!((&*key.name, key.limits[0].amount), ("agent integration", 5_000_000_000));
        // seclai-api-keys: "Untitled" if no name was set.
        assert_eq!(new_key("{}").expect("taken").name, "Untitled");
    }

    #[test]
    fn two_names_for_one_thing_agree_or_are_refused() {
        for same in [
            r#"{"name": "a", "label": "a"}"#,
            r#"{"limit": 5, "spendLimitMicros": 5000000}"#,
            r#"{"limit": "5.00", "spendLimitMicros": 5000000}"#,
        ] {
            assert!(new_key(same).is_ok(), "{same}");
        }
        for different in [
            r#"{"name": "a", "label": "b"}"#,
            r#"{"limit": 5, "spendLimitMicros": 5000001}"#,
            r#"{"expiresAt": "2030-12-31T00:00:00Z", "expires_in_days": 9}"#,
        ] {
            assert_eq!(new_key(different).expect_err("refused").code(), RefusalCode::ValidationFailed, "{different}");
        }
    }

    #[test]
    fn what_cannot_be_taken_is_refused_with_422() {
        for body in [
            r#"{"name": ""}"#,
            r#"{"name": "a\u0000b"}"#,
            r#"{"description": "\n"}"#,
            r#"{"scopes": []}"#,
            r#"{"scopes": ["root"]}"#,
            r#"{"scopes": "model:invoke keys:read"}"#,
            r#"{"scopes": 7}"#,
            r#"{"spendLimitMicros": -1}"#,
            r#"{"spendLimitMicros": 9223372036854775807}"#,
            r#"{"spendLimitMicros": 1.5}"#,
            r#"{"limit": -1}"#,
            r#"{"limit": 1e3}"#,
            r#"{"limit": "abc"}"#,
            r#"{"limit": {}}"#,
            r#"{"limit": 0.0000000001}"#,
            r#"{"period": "month"}"#,
            r#"{"limit": 5, "period": "fortnight"}"#,
            r#"{"limit": 5, "align": "rolling"}"#,
            r#"{"limit": 5, "period": "day", "align": "rolling", "zone": "UTC"}"#,
            r#"{"limit": 5, "period": "day", "zone": "Mars/Olympus"}"#,
            r#"{"rpm": 0}"#,
            r#"{"concurrency": -1}"#,
            r#"{"expiresAt": "yesterday"}"#,
            r#"{"expiresAt": "2001-01-01T00:00:00Z"}"#,
            r#"{"expiresAt": "9000-01-01T00:00:00Z"}"#,
            r#"{"expires_in_days": 0}"#,
            r#"{"models": ["a b"]}"#,
            r#"{"providers": [""]}"#,
            r#"{"ip_allowlist": ["10.0.0.1/8"]}"#,
            r#"{"ip_allowlist": ["localhost"]}"#,
            r#"{"metadata": {"": "a"}}"#,
            r#"{"metadata": {"a": 1}}"#,
            r#"{"token_sha256": "ab"}"#,
            r#"{"id": "key_1"}"#,
            r#"{"created_at": "now"}"#,
            r#"{"kind": "service"}"#,
        ] {
            assert_eq!(new_key(body).expect_err("refused").status(), 422, "{body}");
        }
        let many: BTreeMap<String, String> = (0..17).map(|number| (number.to_string(), String::new())).collect();
        assert!(metadata(&many).is_err());
        assert!(patterns("models", Some(&vec!["a".to_owned(); 65])).is_err());
    }

    #[test]
    fn a_change_tells_null_from_nothing() {
        let change = |body: &str| input::read_json::<KeyPatch>(body.as_bytes()).expect("a body").change(NOW);
        let nothing = change("{}").expect("taken");
        assert!(nothing.expires.is_none() && nothing.limits.is_empty() && nothing.models.is_none());
        let all = change(r#"{"expiresAt": null, "limit": null, "rpm": null, "models": []}"#).expect("taken");
        assert_eq!((all.expires, all.limits.len(), all.models), (Some(None), 2, Some(Vec::new())));
        for wrong in [r#"{"expiresAt": null, "expires_in_days": 1}"#, r#"{"limit": null, "spendLimitMicros": 1}"#] {
            assert!(change(wrong).is_err(), "{wrong}");
        }
        for (text, grace_ms) in [
            ("{}", Some(GRACE_MS)),
            (r#"{"grace": 0}"#, Some(0)),
            (r#"{"grace": 90}"#, Some(90_000)),
            (r#"{"grace": "0"}"#, Some(0)),
            (r#"{"grace": "30m"}"#, Some(1_800_000)),
            (r#"{"grace": "90d"}"#, Some(GRACE_MAX_MS)),
            (r#"{"grace": "91d"}"#, None),
            (r#"{"grace": -1}"#, None),
            (r#"{"grace": "d"}"#, None),
            (r#"{"grace": "é"}"#, None),
        ] {
            let rotation: KeyRotation = input::read_json(text.as_bytes()).expect("a body");
            assert_eq!(rotation.grace_ms().ok(), grace_ms, "{text}");
        }
    }
}
