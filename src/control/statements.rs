//! Monthly statements, as JSON and as CSV.

use super::Control;
use super::credits::EntryView;
use super::input::{NamedWithin, Params};
use super::money::Told;
use crate::control::caller::Caller;
use crate::error::Refusal;
use crate::store::statements::{ChargeLine, Month, Statement};
use axum::Json;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use filters::id::OrgId;
use filters::money::CreditUnit;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// How a statement is written.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Json,
    Csv,
}

/// What else can be said of a statement.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Options {
    /// json or csv.
    #[param(inline, required = false)]
    format: Option<Format>,
}

/// An organisation's month, in UTC. Amounts in credits are there where a credit is defined.
#[derive(Serialize, ToSchema)]
pub struct StatementView {
    org: String,
    /// Such as 2026-11.
    month: String,
    /// Whether it changes no more. Charges that come on the books later stand in a later month.
    closed: bool,
    opening_usd: String,
    opening_credits: Option<String>,
    /// What moved beside charges, the oldest first.
    entries: Vec<EntryView>,
    charges: Vec<ChargeView>,
    charged_usd: String,
    charged_credits: Option<String>,
    /// What the organisation had at the end of the month, or has now.
    closing_usd: String,
    closing_credits: Option<String>,
}

/// What a key's calls of a model were charged.
#[derive(Serialize, ToSchema)]
pub struct ChargeView {
    project: Option<String>,
    key: String,
    model: String,
    charge_usd: String,
    charge_credits: Option<String>,
}

impl ChargeView {
    fn of(unit: Option<CreditUnit>, line: ChargeLine) -> Self {
        let Told { usd, credits } = Told::of(unit, line.charge);
        Self { project: line.project, key: line.key, model: line.model, charge_usd: usd, charge_credits: credits }
    }
}

impl StatementView {
    fn of(unit: Option<CreditUnit>, statement: Statement) -> Self {
        let [opening, charged, closing] =
            [statement.opening, statement.charged, statement.closing].map(|amount| Told::of(unit, amount));
        Self {
            org: statement.org.to_string(),
            month: statement.month.to_string(),
            closed: statement.is_closed,
            opening_usd: opening.usd,
            opening_credits: opening.credits,
            entries: statement.entries.into_iter().map(|entry| EntryView::of(unit, entry)).collect(),
            charges: statement.charges.into_iter().map(|line| ChargeView::of(unit, line)).collect(),
            charged_usd: charged.usd,
            charged_credits: charged.credits,
            closing_usd: closing.usd,
            closing_credits: closing.credits,
        }
    }
}

/// Tells what an organisation had, what moved and what was charged in a month.
#[utoipa::path(get, path = "/api/orgs/{org}/statements/{month}", tag = "credits", operation_id = "statement",
    params(("org" = String, Path), ("month" = String, Path, description = "Such as 2026-11, in UTC."), Options),
    responses((status = 200, content((StatementView = "application/json"), (String = "text/csv")))))]
pub async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedWithin(org, month): NamedWithin<OrgId, Month>,
    Params(options): Params<Options>,
) -> Result<Response, Refusal> {
    let permitted = caller.in_org(org)?;
    let statement = control.store.statement(permitted.org, month).await?;
    Ok(match options.format.unwrap_or_default() {
        Format::Json => Json(StatementView::of(control.settings.credit_unit, statement)).into_response(),
        Format::Csv => {
            let file = format!("attachment; filename=\"{org}-{month}.csv\"");
            let headers = [(CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (CONTENT_DISPOSITION, file)];
            (headers, csv(&statement)).into_response()
        }
    })
}

/// A line each: the opening, what moved, what was charged, the closing. Amounts are what the organisation has more.
fn csv(statement: &Statement) -> String {
    let mut text = "line,at,amount_usd,project,key,model,call,reason,actor\r\n".to_owned();
    let mut line = |cells: [&str; 9]| {
        let cells: Vec<String> = cells.iter().map(|cell| quoted(cell)).collect();
        // Writing to a String can't fail.
        let _ = write!(text, "{}\r\n", cells.join(","));
    };
    let [from, until] = [statement.month.from(), statement.month.until()].map(super::stamp);
    line(["opening", &from, &statement.opening.to_string(), "", "", "", "", "", ""]);
    for entry in &statement.entries {
        let (at, amount, call) =
            (super::stamp(entry.at), entry.amount.to_string(), entry.call.as_deref().unwrap_or_default());
        line([entry.kind.name(), &at, &amount, "", "", "", call, &entry.reason, &entry.actor]);
    }
    for charge in &statement.charges {
        let (project, amount) = (charge.project.as_deref().unwrap_or_default(), (-charge.charge).to_string());
        line(["charges", "", &amount, project, &charge.key, &charge.model, "", "", ""]);
    }
    line(["closing", &until, &statement.closing.to_string(), "", "", "", "", "", ""]);
    text
}

/// A cell as RFC 4180 has it. What a spreadsheet would take for a formula is made a text; a number stays one.
fn quoted(cell: &str) -> String {
    let is_number = cell.parse::<filters::money::NanoUsd>().is_ok();
    let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && !is_number;
    let cell = if is_formula { format!("'{cell}") } else { cell.to_owned() };
    match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_no_formulas() {
        for (cell, expected) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"no\"", "\"say \"\"no\"\"\""),
            ("=1+1", "'=1+1"),
            ("@cmd", "'@cmd"),
            ("-2.5", "-2.5"),
            ("-a", "'-a"),
        ] {
            assert_eq!(quoted(cell), expected);
        }
    }
}
