//! Commands that a server carries out: its control plane's HTTP API in place of the store.
//!
//! - `server.rs`: which server, and who asks it; `login.rs` signs in and out
//! - `client.rs`: one request, one answer
//! - `ask.rs`: from commands to requests; `ask_keys.rs` and `ask_people.rs` those of their nouns, `limits.rs` limits
//! - `show.rs`: answers as text

mod ask;
mod ask_keys;
mod ask_people;
mod client;
mod limits;
pub(super) mod login;
mod server;
mod show;

pub(super) use server::Server;

use super::print::Printer;
use super::{CliError, Command};
use ask::{Ask, Shown};
use client::Client;
use filters::time::EpochMs;
use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use show::Fields;

/// What stands in a path for the caller's only organisation.
const OWN_ORG: &str = "{org}";
/// Objects of a page: the most that a server gives.
const PAGE: &str = "100";

/// A part of a list.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    next_cursor: Option<String>,
}

/// Has a server carry a command out, and prints what it answers.
pub(super) async fn run(
    command: &Command,
    server: Server,
    mut printer: Printer<'_>,
    now: EpochMs,
) -> Result<(), CliError> {
    let mut ask = ask::of(command, now)?;
    let client = Client::signed_in(server)?;
    if ask.path.contains(OWN_ORG) {
        ask.path = ask.path.replace(OWN_ORG, &only_org(&client).await?);
    }
    match ask.shown {
        Shown::Pages(columns, most) => list(&client, ask, (columns, most), &mut printer).await,
        Shown::Rows(columns) => {
            let text = client.send(&ask).await?;
            let Page { data, .. } = read(&text)?;
            rows(&data, columns, true, &mut printer)
        }
        Shown::Object => {
            let text = client.send(&ask).await?;
            let object: &RawValue = read(&text)?;
            let fields: Fields<'_> = read(object.get())?;
            Ok(printer.one(&object, || fields.describe())?)
        }
        Shown::Sentence(ref sentence) => {
            client.send(&ask).await?;
            if !printer.json {
                writeln!(printer.out, "{sentence}")?;
            }
            Ok(())
        }
    }
}

/// Prints a list page by page, no more objects than are wanted.
async fn list(
    client: &Client,
    mut ask: Ask,
    (columns, most): (&[&str], usize),
    printer: &mut Printer<'_>,
) -> Result<(), CliError> {
    ask.query.push(("limit", PAGE.to_owned()));
    let (wanted, mut left) = (ask.query.clone(), most);
    loop {
        let text = client.send(&ask).await?;
        let Page { mut data, next_cursor } = read(&text)?;
        data.truncate(left);
        rows(&data, columns, left == most, printer)?;
        left -= data.len();
        let Some(cursor) = next_cursor.filter(|_| left > 0 && !data.is_empty()) else { return Ok(()) };
        ask.query = [&wanted[..], &[("cursor", cursor)]].concat();
    }
}

fn rows(data: &[&RawValue], columns: &[&str], is_first: bool, printer: &mut Printer<'_>) -> Result<(), CliError> {
    if printer.json {
        return Ok(printer.many(data, None, |_| Vec::new())?);
    }
    let headings: Vec<String> = columns.iter().map(|column| column.replace('_', " ").to_uppercase()).collect();
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let fields: Vec<Fields<'_>> = data.iter().map(|object| read(object.get())).collect::<Result<_, _>>()?;
    Ok(printer.many(&fields, is_first.then_some(&headings), |fields| fields.cells(columns))?)
}

/// The organisation of a caller who is in one alone.
async fn only_org(client: &Client) -> Result<String, CliError> {
    #[derive(Deserialize)]
    struct Org {
        id: String,
    }
    #[derive(Deserialize)]
    struct Me {
        organisations: Vec<Org>,
    }
    let text = client.send(&Ask::new(Method::GET, "/api/me", Shown::Object)).await?;
    let me: Me = read(&text)?;
    match &me.organisations[..] {
        [org] => Ok(org.id.clone()),
        _ => Err(CliError::BadInput("say which organisation is meant: --org org_…".to_owned())),
    }
}

/// Reads what a server has answered.
fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, CliError> {
    serde_json::from_str(text).map_err(|problem| {
        CliError::Server(format!("the answer can't be read: is this the control plane of a gateway? ({problem})"))
    })
}
