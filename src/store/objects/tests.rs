//! Objects in the store, beside the reference in memory.

use super::*;
use crate::store::fixture::{Books, NOW};
use crate::store::journal::{Settings, Shipment};
use filters::id::{CallId, KeyId};
use filters::memory::MemoryObjects;
use filters::objects::ObjectKind;

const ORG: OrgId = OrgId(1);
const OTHER: OrgId = OrgId(2);

fn object(id: &str, org: OrgId, number: i64) -> Object {
    Object {
        id: id.into(),
        kind: ObjectKind::File,
        org,
        key: KeyId(7),
        call: CallId(9),
        provider: "p".into(),
        credential: 3,
        at: NOW.plus(number),
    }
}

fn description(purpose: &str, id: &str) -> Description {
    Description { content: format!("{{\"id\":\"{id}\"}}"), purpose: Some(purpose.to_owned()) }
}

/// A book, and the store below it as another process sees it, with an empty memory.
async fn book(books: &Books) -> (ObjectBook, ObjectBook, Arc<Journal>) {
    let (journal, _) = Journal::open(Settings::in_dir(books.dir.path()), None, NOW).expect("a journal");
    let journal = Arc::new(journal);
    let another = crate::store::fixture::open(books.dir.path()).await;
    (
        ObjectBook::new(books.store.clone(), Arc::clone(&journal)),
        ObjectBook::new(another, Arc::clone(&journal)),
        journal,
    )
}

#[tokio::test]
async fn a_claim_is_known_at_once_and_in_the_store_when_it_is_shipped() {
    let books = Books::open().await;
    let (here, elsewhere, journal) = book(&books).await;
    let mine = object("file-1", ORG, 0);
    here.claim(&mine).expect("room");
    here.claim(&mine).expect("room");
    assert_eq!(here.owned(ORG, &["file-1", "file-2"]).await, Ok(vec![mine.clone()]));
    assert_eq!(here.owned(OTHER, &["file-1"]).await, Ok(Vec::new()));
    assert_eq!(elsewhere.owned(ORG, &["file-1"]).await, Ok(Vec::new()));
    let mut shipper = journal.shipper(Arc::new(books.store.clone())).await.expect("a shipper");
    shipper.ship_all().await.expect("shipped");
    assert_eq!(elsewhere.owned(ORG, &["file-1", "file-2"]).await, Ok(vec![mine]));
    assert_eq!(elsewhere.owned(OTHER, &["file-1"]).await, Ok(Vec::new()));
}

#[tokio::test]
async fn who_claims_first_has_it_for_good() {
    let books = Books::open().await;
    let (here, elsewhere, _) = book(&books).await;
    let (mine, theirs) = (object("file-1", ORG, 0), object("file-1", OTHER, 1));
    let elsewhere_stored = Object { provider: "q".into(), ..object("file-1", OTHER, 2) };
    for objects in [vec![mine.clone()], vec![theirs, elsewhere_stored.clone()]] {
        let shipment = Shipment { objects, ..Shipment::default() };
        books.store.take("node", &shipment).await.expect("shipped");
    }
    assert_eq!(elsewhere.owned(ORG, &["file-1"]).await, Ok(vec![mine.clone()]));
    assert_eq!(
        here.owned(OTHER, &["file-1"]).await,
        Ok(vec![elsewhere_stored]),
        "another provider's is another object"
    );
    here.forget(&mine, NOW).await.expect("forgotten");
    assert_eq!(here.owned(ORG, &["file-1"]).await, Ok(Vec::new()));
    books.store.take("node", &Shipment { objects: vec![mine], ..Shipment::default() }).await.expect("shipped late");
    assert_eq!(here.owned(ORG, &["file-1"]).await, Ok(Vec::new()));
}

#[tokio::test]
async fn lists_agree_with_the_reference() {
    let books = Books::open().await;
    let (stored, _, _) = book(&books).await;
    let memory = MemoryObjects::default();
    for (number, id) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        let org = if id == "c" { OTHER } else { ORG };
        let file = object(id, org, number as i64 / 2);
        let purpose = if number % 2 == 0 { "batch" } else { "vision" };
        stored.describe(&file, &description(purpose, id)).await.expect("kept");
        memory.describe(&file, &description(purpose, id)).await.expect("kept");
    }
    stored.claim(&object("undescribed", ORG, 9)).expect("room");
    let gone = object("d", ORG, 1);
    stored.forget(&gone, NOW).await.expect("forgotten");
    memory.forget(&gone, NOW).await.expect("forgotten");
    let providers: [Arc<str>; 1] = ["p".into()];
    for newest_first in [true, false] {
        for purpose in [None, Some("batch")] {
            for after in [None, Some("a"), Some("b"), Some("c"), Some("e"), Some("x")] {
                for limit in [1, 2, 10] {
                    let page = Page { org: ORG, providers: &providers, purpose, after, newest_first, limit };
                    assert_eq!(stored.files(&page).await, memory.files(&page).await, "{page:?}");
                }
            }
        }
    }
    let none = Page { org: ORG, providers: &[], purpose: None, after: None, newest_first: true, limit: 9 };
    assert_eq!(stored.files(&none).await, Ok(Files::default()));
}

#[tokio::test]
async fn a_store_that_is_gone_says_so() {
    let books = Books::open().await;
    let (here, elsewhere, _) = book(&books).await;
    here.claim(&object("file-1", ORG, 0)).expect("room");
    books.store.close().await;
    assert_eq!(here.owned(ORG, &["file-1"]).await.map(|owned| owned.len()), Ok(1));
    assert_eq!(here.owned(ORG, &["file-2"]).await, Err(StoreUnavailable));
    assert!(elsewhere.owned(ORG, &["file-2"]).await.is_ok(), "its own connections are open");
}
