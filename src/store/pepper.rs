//! The file of the peppers: made once, readable by its owner alone. The first line has the newest; keys that were made with another
//! move to it at their next use, and it may go when none is left.

use super::{StoreError, file_error};
use filters::key::Pepper;
use sqlx::{AnyPool, Row};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes of a pepper.
const PEPPER_BYTES: usize = 32;
/// Most peppers of a list: each is tried for every token that nobody has.
const PEPPERS_MAX: usize = 8;
/// As much of a probe tells peppers apart.
const NAME_DIGITS: usize = 16;
/// A text whose lookup id tells one pepper from another without showing either.
const PROBE: &str = "which pepper is this";

/// What becomes of a new store without a pepper.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum IfNone {
    /// One is made.
    Make,
    /// Nothing: every node must have the same, so somebody has to give it to them.
    Refuse,
}

/// The peppers of a store.
#[derive(Clone, Debug)]
pub(super) struct Peppers {
    /// All of them, as tokens are looked up.
    pub(super) list: Pepper,
    /// What rows say that were made with the newest.
    pub(super) newest: String,
    /// The one that names the store, for as long as it is in the list.
    pub(super) first: Pepper,
}

/// Loads the peppers. A store without those that its keys were made with refuses, because these keys would be unknown.
pub(super) async fn open(path: &Path, if_none: IfNone, writer: &AnyPool) -> Result<Peppers, StoreError> {
    let refuse = |problem| StoreError::Pepper { path: path.to_owned(), problem };
    let known = read_probe(writer).await?;
    if known.is_none() && if_none == IfNone::Make {
        create(path, PEPPER_BYTES)?;
    }
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == ErrorKind::NotFound && known.is_none() => {
            return Err(refuse("there is no pepper: make one with `openssl rand -hex 32` and give it to every node"));
        }
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            return Err(refuse(
                "the pepper is missing, and without it no key can be found: restore it from the backup",
            ));
        }
        Err(cause) => return Err(file_error(path, cause)),
    };
    let peppers = read_list(&text).map_err(refuse)?;
    let probes: Vec<String> = peppers.iter().map(|pepper| encode_hex(&pepper.lookup(PROBE).0)).collect();
    if known.is_none() {
        // Another node may have said first which one it is.
        sqlx::query("INSERT INTO meta (name, content) VALUES ('pepper_probe', $1) ON CONFLICT (name) DO NOTHING")
            .bind(&*probes[0])
            .execute(writer)
            .await?;
    }
    let first = settle(&probes, writer).await?.map_err(refuse)?;
    let is_first = |probe: &&String| **probe == first;
    let newest = if is_first(&&probes[0]) { String::new() } else { name(&probes[0]).to_owned() };
    let at = probes.iter().position(|probe| is_first(&probe)).unwrap_or(0);
    let list = peppers[0].clone().with_older(&peppers[1..]);
    Ok(Peppers { list, newest, first: peppers[at].clone() })
}

fn read_list(text: &str) -> Result<Vec<Pepper>, &'static str> {
    let mut peppers: Vec<Pepper> = Vec::new();
    for line in text.trim().lines() {
        let secret = decode_hex(line.trim())
            .filter(|bytes| bytes.len() >= PEPPER_BYTES)
            .ok_or("a pepper is not at least 64 hexadecimal digits: restore it from the backup")?;
        let pepper = Pepper::new(&secret)?;
        if peppers.iter().any(|other| other.lookup(PROBE) == pepper.lookup(PROBE)) {
            return Err("a pepper stands in the list twice");
        }
        peppers.push(pepper);
    }
    match peppers.len() {
        0 => Err("the file is empty: restore the pepper from the backup"),
        1..=PEPPERS_MAX => Ok(peppers),
        _ => Err("there can be at most 8 peppers: take those away that no key needs any more"),
    }
}

/// Holds a list against the peppers that keys were made with, and remembers what is new in it. Gives the probe that names the store.
async fn settle(probes: &[String], writer: &AnyPool) -> Result<Result<String, &'static str>, StoreError> {
    let Some(mut first) = read_probe(writer).await? else {
        return Ok(Err("the store does not say which pepper it has"));
    };
    let rows = sqlx::query("SELECT probe FROM peppers ORDER BY probe").fetch_all(writer).await?;
    let others = rows.iter().map(|row| row.try_get("probe")).collect::<Result<Vec<String>, _>>()?;
    if !probes.iter().any(|probe| *probe == first || others.contains(probe)) {
        return Ok(Err("this is not the pepper that the store's keys were made with: restore it from the backup"));
    }
    for probe in others.iter().filter(|probe| !probes.contains(probe)) {
        if has_keys(name(probe), writer).await? {
            return Ok(Err(STILL_NEEDED));
        }
        sqlx::query("DELETE FROM peppers WHERE probe = $1").bind(&**probe).execute(writer).await?;
    }
    if !probes.contains(&first) {
        if has_keys("", writer).await? {
            return Ok(Err(STILL_NEEDED));
        }
        let changed = sqlx::query("UPDATE meta SET content = $1 WHERE name = 'pepper_probe' AND content = $2");
        changed.bind(&*probes[0]).bind(&*first).execute(writer).await?;
        first.clone_from(&probes[0]);
    }
    for probe in probes.iter().filter(|probe| **probe != first) {
        let known = sqlx::query("INSERT INTO peppers (probe) VALUES ($1) ON CONFLICT (probe) DO NOTHING");
        known.bind(&**probe).execute(writer).await?;
    }
    Ok(Ok(first))
}

const STILL_NEEDED: &str = "a pepper is missing that keys which may be used are still stored under: put it back, on a line after \
                            the newest; a key moves to the newest at its next use";

/// Whether keys that may be used are stored under a pepper. It looks at every key, once for each pepper that is taken away.
async fn has_keys(pepper: &str, writer: &AnyPool) -> Result<bool, StoreError> {
    let found = sqlx::query("SELECT id FROM keys WHERE pepper = $1 AND status <> 'archived' LIMIT 1");
    Ok(found.bind(pepper).fetch_optional(writer).await?.is_some())
}

/// What rows call a pepper by its probe.
fn name(probe: &str) -> &str {
    &probe[..NAME_DIGITS]
}

async fn read_probe(writer: &AnyPool) -> Result<Option<String>, StoreError> {
    let probe = "SELECT content FROM meta WHERE name = 'pepper_probe'";
    Ok(sqlx::query_scalar(probe).fetch_optional(writer).await?)
}

/// Makes a file with so many random bytes unless there is one. It appears whole or not at all: it is written under another name, then linked.
pub(super) fn create(path: &Path, bytes: usize) -> Result<(), StoreError> {
    if path.exists() {
        return Ok(());
    }
    let mut secret = zeroize::Zeroizing::new(vec![0u8; bytes]);
    getrandom::fill(&mut secret)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let draft = path.with_extension(std::process::id().to_string());
    let made = write_private(&draft, &encode_hex(&secret))
        .and_then(|()| match fs::hard_link(&draft, path) {
            Err(cause) if cause.kind() != ErrorKind::AlreadyExists => Err(cause),
            _ => Ok(()),
        })
        .and_then(|()| File::open(directory)?.sync_all());
    // The draft is of no use either way; if it can't be removed, the link stands all the same.
    let _ = fs::remove_file(&draft);
    made.map_err(|cause| file_error(path, cause))
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// Two digits a byte.
pub(super) fn encode_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use crate::store::{Store, StoreError};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn the_pepper_is_made_once_and_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = Store::open(dir.path()).await.expect("a store");
        let path = dir.path().join("pepper");
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).expect("text").trim().len(), 64);
        let second = Store::open(dir.path()).await.expect("the same store");
        assert_eq!(first.pepper().lookup("token"), second.pepper().lookup("token"));
    }

    #[tokio::test]
    async fn a_missing_short_or_foreign_pepper_refuses_to_start() {
        let dir = tempfile::tempdir().expect("a directory");
        Store::open(dir.path()).await.expect("a store").close().await;
        let path = dir.path().join("pepper");
        for wrong in [Some(String::new()), Some("ab".repeat(31)), Some("é".repeat(32)), Some("ab".repeat(32)), None] {
            match &wrong {
                Some(text) => fs::write(&path, text).expect("written"),
                None => fs::remove_file(&path).expect("removed"),
            }
            let refused = Store::open(dir.path()).await.expect_err("not the pepper");
            assert!(matches!(refused, StoreError::Pepper { .. }), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn a_pepper_may_go_when_no_key_needs_it() {
        use crate::store::fixture::{NOW, new_key};
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pepper");
        let store = Store::open(dir.path()).await.expect("a store");
        let org = store.create_organisation("Acme", NOW).await.expect("made").id;
        let key = store.create_key(&new_key(org), NOW).await.expect("made");
        store.close().await;
        let old = fs::read_to_string(&path).expect("text");
        let [new, newer] = ["cd".repeat(32), "ef".repeat(32)];
        let open = async |lines: &[&str]| {
            fs::write(&path, lines.join("\n")).expect("written");
            Store::open(dir.path()).await
        };
        let refused = open(&[&new]).await.expect_err("the key needs the other");
        assert!(refused.to_string().contains("restore it"), "{refused}");
        let store = open(&[&new, &old]).await.expect("both");
        assert!(store.pepper().has_older());
        let refused = open(&[&new]).await.expect_err("the key needs the other");
        assert!(refused.to_string().contains("put it back"), "{refused}");
        let hash = filters::key::TokenHash::of(key.token.reveal());
        let older: Vec<_> = store.pepper().older_lookups(hash).collect();
        let to = store.pepper().lookup(key.token.reveal());
        store.move_lookups(&[(older[0], to)]).await.expect("moved");
        store.close().await;
        let store = open(&[&new]).await.expect("no key needs the other");
        let made = store.create_key(&new_key(org), NOW).await.expect("made");
        assert_eq!(store.key(made.id, NOW).await.expect("read").lookup, store.pepper().lookup(made.token.reveal()));
        store.close().await;
        for (lines, problem) in
            [(&[&*new, &*new][..], "twice"), (&[&*old][..], "restore it"), (&[&*new, "x"], "64 hex")]
        {
            let refused = open(lines).await.expect_err("not a list of this store");
            assert!(refused.to_string().contains(problem), "{refused}");
        }
        open(&[&newer, &new]).await.expect("both").close().await;
        open(&[&new, &newer]).await.expect("in any order").close().await;
        open(&[&new]).await.expect("none was stored under the newer").close().await;
    }

    #[tokio::test]
    async fn an_empty_pepper_refuses_a_new_store_too() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("pepper"), "").expect("written");
        assert!(Store::open(dir.path()).await.is_err());
    }
}
