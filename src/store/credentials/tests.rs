//! Credentials are kept sealed, moved, and read into memory.

use super::*;
use crate::store::fixture::{Books, NOW};
use crate::store::key_cache::{KeyCache, KeyCacheSettings};
use filters::own::OWN_PLACES_FROM;
use filters::own::{CredentialEvent, CredentialNote};
use filters::ports::Keys;

const SECRET: &str = "sk-of-the-organisation-0001";

fn new_credential(org: OrgId) -> NewCredential {
    NewCredential {
        org,
        name: "ours".to_owned(),
        provider: "openai".to_owned(),
        base_url: None,
        models: vec![Glob("gpt-*".into())],
        priority: 1,
        weight: 2,
        may_fall_back: true,
        secret: OwnSecret::new(SECRET.to_owned()),
    }
}

async fn made(books: &Books) -> CredentialRecord {
    books.store.create_credential(&new_credential(books.org), NOW).await.expect("made")
}

async fn opened(books: &Books) -> Vec<Arc<OwnCredential>> {
    let own = books.store.own_credentials(books.org).await.expect("read");
    own.map(|own| own.to_vec()).unwrap_or_default()
}

#[tokio::test]
async fn a_credential_is_read_back_without_its_secret_and_opened_with_it() {
    let books = Books::open().await;
    let record = made(&books).await;
    assert_eq!((&*record.fingerprint, record.version, record.is_enabled), ("…0001", 1, true));
    assert!(!format!("{record:?}").contains("organisation-0001"));
    let listed = books.store.credentials(books.org, None, 9).await.expect("listed");
    assert_eq!(listed, std::slice::from_ref(&record));
    let own = opened(&books).await.remove(0);
    assert_eq!(own.secret.as_ref().expect("opened").reveal(), SECRET);
    assert_eq!((own.id, own.place, own.may_fall_back, own.weight), (record.id, OWN_PLACES_FROM, true, 2));
    assert!(own.serves("openai", "gpt-5") && !own.serves("openai", "o3") && !own.serves("azure", "gpt-5"));
    let stranger = books.store.credential(OrgId(9), record.id).await;
    assert!(matches!(stranger, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn what_is_no_secret_is_refused_and_not_quoted() {
    let books = Books::open().await;
    for wrong in ["", " sk", "sk\r\nx: y", "sk-ключ", &"x".repeat(SECRET_BYTES_MAX + 1)] {
        let new = NewCredential { secret: OwnSecret::new(wrong.to_owned()), ..new_credential(books.org) };
        let refused = books.store.create_credential(&new, NOW).await.expect_err("refused").to_string();
        assert!(refused.contains("printable ASCII") && (wrong.len() < 3 || !refused.contains(wrong)), "{refused}");
    }
    let short = NewCredential { secret: OwnSecret::new("short".to_owned()), ..new_credential(books.org) };
    assert_eq!(books.store.create_credential(&short, NOW).await.expect("made").fingerprint, "…");
}

#[tokio::test]
async fn a_row_that_is_copied_to_another_organisation_is_not_opened() {
    let books = Books::open().await;
    let record = made(&books).await;
    let other = books.store.create_organisation("other", NOW).await.expect("made").id;
    for (statement, value) in [
        ("UPDATE credentials SET org = $1 WHERE id = $2", other.to_string()),
        ("UPDATE credentials SET provider = $1 WHERE id = $2", "azure".to_owned()),
        ("UPDATE credentials SET base_url = $1 WHERE id = $2", "https://elsewhere.example".to_owned()),
    ] {
        let writer = &books.store.database.writer;
        let before: (String, String, String) =
            sqlx::query_as("SELECT org, provider, base_url FROM credentials").fetch_one(writer).await.expect("a row");
        sqlx::query(statement).bind(value).bind(record.id.to_string()).execute(writer).await.expect("changed");
        let org = if statement.contains("org =") { other } else { books.org };
        let own = books.store.own_credentials(org).await.expect("read").expect("there is one");
        assert!(own[0].secret.is_none(), "{statement}");
        sqlx::query("UPDATE credentials SET org = $1, provider = $2, base_url = $3")
            .bind(before.0)
            .bind(before.1)
            .bind(before.2)
            .execute(writer)
            .await
            .expect("put back");
    }
    assert!(opened(&books).await[0].secret.is_some());
}

#[tokio::test]
async fn a_new_secret_keeps_the_place_and_a_deleted_one_never_gives_it_away() {
    let books = Books::open().await;
    let record = made(&books).await;
    let rotation = Rotation { secret: OwnSecret::new("sk-another-secret-0002".to_owned()), base_url: None };
    let rotated = books.store.rotate_credential(books.org, record.id, &rotation, NOW.plus(5)).await.expect("rotated");
    assert_eq!((rotated.version, &*rotated.fingerprint, rotated.rotated), (2, "…0002", Some(NOW.plus(5))));
    assert_eq!(books.store.credential(books.org, record.id).await.expect("read"), rotated);
    let own = opened(&books).await.remove(0);
    assert_eq!((own.version, own.place), (2, OWN_PLACES_FROM));
    assert_eq!(own.secret.as_ref().expect("opened").reveal(), "sk-another-secret-0002");

    books.store.delete_credential(books.org, record.id, NOW).await.expect("deleted");
    assert!(opened(&books).await.is_empty());
    assert!(matches!(books.store.credential(books.org, record.id).await, Err(StoreError::NotFound(_))));
    let left: i64 = sqlx::query_scalar("SELECT CAST(SUM(LENGTH(sealed) + LENGTH(wrapped)) AS BIGINT) FROM credentials")
        .fetch_one(&books.store.database.writer)
        .await
        .expect("a sum");
    assert_eq!(left, 0);
    made(&books).await;
    assert_eq!(opened(&books).await[0].place, OWN_PLACES_FROM + 1);
}

#[tokio::test]
async fn a_change_is_seen_by_keys_in_memory() {
    let books = Books::open().await;
    let cache = KeyCache::new(books.store.clone(), "node", KeyCacheSettings::default()).await.expect("a cache");
    let token = books.store.pepper().present(&books.token);
    let own = async || {
        cache.tick().await.expect("the store answers");
        let key = cache.find(&token).await.expect("the store answers").expect("it is there");
        key.own.as_ref().map(|own| own.iter().map(|own| own.version).collect::<Vec<_>>())
    };
    assert_eq!(own().await, None);
    let record = made(&books).await;
    assert_eq!(own().await, Some(vec![1]));
    let off = CredentialChange { is_enabled: Some(false), name: Some("off".to_owned()), ..CredentialChange::default() };
    let changed = books.store.change_credential(books.org, record.id, &off, NOW).await.expect("changed");
    assert_eq!(books.store.credential(books.org, record.id).await.expect("read"), changed);
    assert_eq!((&*changed.name, changed.is_enabled, own().await), ("off", false, None));
    let on = CredentialChange { is_enabled: Some(true), ..CredentialChange::default() };
    books.store.change_credential(books.org, record.id, &on, NOW).await.expect("changed");
    assert_eq!(own().await, Some(vec![1]));
}

#[tokio::test]
async fn what_becomes_of_a_credential_is_written_down() {
    let books = Books::open().await;
    let record = made(&books).await;
    let note = |event, at| CredentialNote { id: record.id, org: books.org, at, event };
    let until = NOW.plus(60_000);
    for note in [
        note(CredentialEvent::Used, NOW.plus(9)),
        note(CredentialEvent::Used, NOW.plus(3)),
        note(CredentialEvent::Benched { status: 401, until }, NOW),
    ] {
        books.store.note_credential(&note).await.expect("written");
    }
    let read = books.store.credential(books.org, record.id).await.expect("read");
    assert_eq!((read.last_used, read.benched), (Some(NOW.plus(9)), Some((401, until))));
    let told: Vec<String> = sqlx::query_scalar("SELECT kind FROM outbox")
        .fetch_all(&books.store.database.writer)
        .await
        .expect("the outbox is there");
    assert_eq!(told, ["credential.benched"]);
}

#[tokio::test]
async fn secrets_move_to_a_new_master_key_while_they_are_used() {
    use crate::config::{MasterKey, MasterKeys};
    let books = Books::open().await;
    for _ in 0..3 {
        made(&books).await;
    }
    let path = books.dir.path().join("master-keys");
    let text = std::fs::read_to_string(&path).expect("a file");
    let old = MasterKeys::parse(&text).expect("a key").remove(0);
    let new = MasterKey::new([7; 32]);
    let place = MasterKeys::Given(vec![new.clone(), old.clone()]);
    let foreign = MasterKeys::Given(vec![new.clone()]);
    assert!(books.store.replace_master_keys(&foreign).await.is_err(), "it opens nothing that is there");
    books.store.replace_master_keys(&place).await.expect("both open");
    assert_eq!(opened(&books).await.iter().filter(|own| own.secret.is_some()).count(), 3);
    assert_eq!(books.store.rewrap().await.expect("sealed anew"), 3);
    assert_eq!(books.store.rewrap().await.expect("nothing to do"), 0);
    // Now the old one may go.
    books.store.replace_master_keys(&foreign).await.expect("it is enough");
    assert!(opened(&books).await.iter().all(|own| own.secret.is_some()));
    assert!(books.store.replace_master_keys(&MasterKeys::Given(vec![old])).await.is_err());
}

#[tokio::test]
async fn an_organisation_has_a_bounded_number_of_them() {
    let books = Books::open().await;
    for _ in 0..CREDENTIALS_MAX {
        made(&books).await;
    }
    let refused = books.store.create_credential(&new_credential(books.org), NOW).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    let nobody = books.store.create_credential(&new_credential(OrgId(9)), NOW).await;
    assert!(matches!(nobody, Err(StoreError::NotFound(_))));
}
