//! Limits as servers read them: a list for projects and organisations, fields of their own for keys.

use super::super::CliError;
use super::ask::{not_from_afar, stamp};
use crate::store::limits::{Amount, LimitChange};
use crate::store::quotas::{QuotaKind, plain_window};
use filters::money::NanoUsd;
use filters::window::Window;
use serde_json::{Map, Value, json};

/// The limits of a project or an organisation.
pub(super) fn of(changes: &[LimitChange]) -> Vec<Value> {
    changes.iter().map(|change| Value::Object(one(change))).collect()
}

fn one(change: &LimitChange) -> Map<String, Value> {
    let mut limit = window(change);
    let mut say = |name: &str, value: Value| limit.insert(name.to_owned(), value);
    say("kind", json!(change.kind.name()));
    match change.amount {
        Some(Amount::None) => say("remove", json!(true)),
        Some(Amount::Of(amount)) if change.kind.is_money() => say("amount_usd", json!(NanoUsd(amount).to_string())),
        Some(Amount::Of(amount)) => say("amount", json!(amount)),
        None => None,
    };
    if let Some(model) = &change.model {
        say("model", json!(&*model.0));
    }
    if let Some(is_strict) = change.is_strict {
        say("strict", json!(is_strict));
    }
    if let Some(increase) = change.increase {
        say("increase_usd", json!(increase.amount.to_string()));
        if increase.amount != NanoUsd::ZERO {
            say("increase_until", json!(stamp(increase.until)));
        }
    }
    if let Some(thresholds) = &change.thresholds {
        say("thresholds", json!(thresholds.0));
    }
    limit
}

/// Over which time it counts, where that is not the kind's own.
fn window(change: &LimitChange) -> Map<String, Value> {
    let said = match &change.window {
        window if *window == plain_window(change.kind) => vec![],
        Window::Total => vec![("period", "total".to_owned())],
        Window::Rolling(unit) => vec![("period", unit.name().to_owned()), ("align", "rolling".to_owned())],
        Window::Calendar { unit, zone } => vec![("period", unit.name().to_owned()), ("zone", zone.to_string())],
    };
    said.into_iter().map(|(name, text)| (name.to_owned(), json!(text))).collect()
}

/// The limits of a key: money over a period, and the three plain ones. `null` takes one away.
pub(super) fn of_key(changes: &[LimitChange]) -> Result<Map<String, Value>, CliError> {
    let mut body = Map::new();
    for change in changes {
        let is_plain = change.window == plain_window(change.kind) && change.is_strict.is_none();
        let name = match change.kind {
            QuotaKind::Spend => "limit",
            QuotaKind::Requests if is_plain => "rpm",
            QuotaKind::Tokens if is_plain => "tpm",
            QuotaKind::Concurrency if is_plain => "concurrency",
            QuotaKind::Requests | QuotaKind::Tokens | QuotaKind::Concurrency | QuotaKind::Balance => return beyond(),
        };
        if change.model.is_some() || change.increase.is_some() || change.thresholds.is_some() {
            return beyond();
        }
        let amount = match change.amount {
            None => return beyond(),
            Some(Amount::None) => Value::Null,
            Some(Amount::Of(amount)) if change.kind.is_money() => json!(NanoUsd(amount).to_string()),
            Some(Amount::Of(amount)) => json!(amount),
        };
        body.insert(name.to_owned(), amount);
        if change.kind == QuotaKind::Spend {
            body.extend(window(change));
            body.extend(change.is_strict.map(|is_strict| ("strict".to_owned(), json!(is_strict))));
        }
    }
    Ok(body)
}

fn beyond<T>() -> Result<T, CliError> {
    not_from_afar(
        "a server sets --limit of a key with its period and --strict, --rpm, --tpm and --concurrency, and other limits on its project",
    )
}
