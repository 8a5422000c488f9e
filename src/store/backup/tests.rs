//! Backups as files: whole or not there, and put back whole.

use super::*;
use crate::store::Store;
use crate::store::fixture::{Books, NOW, price};
use crate::store::journal::Checkpoint;
use std::os::unix::fs::PermissionsExt;

async fn books() -> Books {
    let books = Books::in_a_file().await;
    books.store.remember_prices(&[(price().id(), price())]).await.expect("kept");
    books.store.ship("node", &[books.call(0, 10, 5)], Checkpoint::default()).await.expect("shipped");
    books
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

async fn restore_into(data: &Path, from: &Path) -> Result<Restored, StoreError> {
    make_private_directory(data)?;
    let held = journal::hold(data).expect("no gateway runs here");
    restore(from, data, &held).await
}

#[tokio::test]
async fn a_backup_has_everything_and_nobody_else_can_read_it() {
    let (books, dir) = (books().await, tempfile::tempdir().expect("a directory"));
    let to = dir.path().join("backup");
    let manifest = back_up(books.dir.path(), &to, NOW).await.expect("backed up");
    assert_eq!(names(dir.path()), ["backup"]);
    assert_eq!(names(&to), [MANIFEST, MASTER_KEYS, PEPPER, DATABASE]);
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&to), 0o700);
    assert!([MANIFEST, MASTER_KEYS, PEPPER, DATABASE].iter().all(|name| mode(&to.join(name)) == 0o600));
    let elsewhere = dir.path().join("data");
    let restored = restore_into(&elsewhere, &to).await.expect("restored");
    assert_eq!(restored, Restored { manifest, replaced: None, journal_has_gap: false });
    let [kept, restored] =
        [books.dir.path(), &elsewhere].map(|data| fs::read(data.join(MASTER_KEYS)).expect("it is there"));
    assert_eq!(kept, restored);
    let store = Store::open(&elsewhere).await.expect("a store");
    assert_eq!(store.key(books.key, NOW).await.expect("the key").spent(), books.key().await.spent());
    assert_eq!(store.audit().await.expect("audited").findings, []);
    assert_eq!(mode(&elsewhere.join(DATABASE)), 0o600);
}

#[tokio::test]
async fn a_backup_that_fails_leaves_nothing_behind() {
    let (books, dir) = (books().await, tempfile::tempdir().expect("a directory"));
    let to = dir.path().join("backup");
    fs::remove_file(books.dir.path().join(PEPPER)).expect("removed");
    assert!(back_up(books.dir.path(), &to, NOW).await.is_err());
    assert_eq!(names(dir.path()), [""; 0]);
    fs::create_dir(&to).expect("made");
    let refused = back_up(books.dir.path(), &to, NOW).await.expect_err("it is there");
    assert!(refused.to_string().contains("to be made"), "{refused}");
}

#[tokio::test]
async fn a_backup_that_is_not_whole_is_not_restored() {
    let (books, dir) = (books().await, tempfile::tempdir().expect("a directory"));
    let whole = dir.path().join("backup");
    back_up(books.dir.path(), &whole, NOW).await.expect("backed up");
    let data = dir.path().join("data");
    for (broken, problem) in [(MANIFEST, "no backup"), (PEPPER, "No such file"), (DATABASE, "damaged")] {
        let copy = dir.path().join(broken);
        make_private_directory(&copy).expect("made");
        for name in [MANIFEST, PEPPER, DATABASE] {
            fs::copy(whole.join(name), copy.join(name)).expect("copied");
        }
        match broken {
            DATABASE => {
                let file = OpenOptions::new().write(true).open(copy.join(DATABASE)).expect("opened");
                file.set_len(4_096).expect("cut");
            }
            missing => fs::remove_file(copy.join(missing)).expect("removed"),
        }
        let refused = restore_into(&data, &copy).await.expect_err(broken);
        assert!(refused.to_string().contains(problem), "{refused}");
        assert!(!data.join(DATABASE).exists());
    }
    fs::write(whole.join(MANIFEST), r#"{"format":2}"#).expect("written");
    let refused = restore_into(&data, &whole).await.expect_err("a later format");
    assert!(refused.to_string().contains("this release"), "{refused}");
}

#[tokio::test]
async fn the_books_before_are_kept_with_their_log_and_an_interrupted_restore_goes_on() {
    let (books, dir) = (books().await, tempfile::tempdir().expect("a directory"));
    let (to, data) = (dir.path().join("backup"), books.dir.path());
    back_up(data, &to, NOW).await.expect("backed up");
    books.store.ship("node", &[books.call(1, 10, 5)], Checkpoint::default()).await.expect("shipped");
    // What a process that was killed would leave: the log is not played in.
    let (log, copy) = (data.join("tollgate.db-wal"), dir.path().join("wal"));
    fs::copy(&log, &copy).expect("there is a log");
    books.store.close().await;
    fs::copy(&copy, &log).expect("copied");
    let restored = restore_into(data, &to).await.expect("restored");
    assert_eq!(restored.replaced, Some(data.join(REPLACED)));
    assert!(!log.exists() && data.join("tollgate.db.replaced-wal").exists());
    let calls = |store: Store| async move {
        let calls = store.audit().await.expect("audited").calls;
        store.close().await;
        calls
    };
    assert_eq!(calls(Store::open(data).await.expect("a store")).await, 1);
    // Interrupted half-way: nobody opens it, and the books before are still there when it is done.
    fs::write(data.join(MARKER), "").expect("written");
    let refused = Store::open(data).await.expect_err("half-way");
    assert!(refused.to_string().contains("restore` again"), "{refused}");
    restore_into(data, &to).await.expect("restored");
    assert_eq!(calls(Store::open(data).await.expect("a store")).await, 1);
    let kept = plain_options(&data.join(REPLACED)).connect().await;
    let rows: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM calls").fetch_one(&mut kept.expect("opened")).await.expect("read");
    assert_eq!(rows, 2);
}

#[tokio::test]
async fn numbers_given_out_after_the_backup_are_not_given_out_again() {
    use crate::store::limits::{Amount, LimitChange, Owner};
    use crate::store::quotas::QuotaKind;
    let (books, dir) = (books().await, tempfile::tempdir().expect("a directory"));
    let to = dir.path().join("backup");
    back_up(books.dir.path(), &to, NOW).await.expect("backed up");
    let change = [LimitChange::of(QuotaKind::Tokens, Amount::Of(5))];
    let set = |store: Store| async move {
        let rows = store.change_limits(Owner::Organisation(books.org), &change, NOW).await.expect("set");
        rows.iter().map(|row| row.id).max().expect("a quota")
    };
    let after = set.clone()(books.store.clone()).await;
    let data = dir.path().join("data");
    restore_into(&data, &to).await.expect("restored");
    assert!(set(Store::open(&data).await.expect("a store")).await > after);
}

/// Two nodes share a limit of 100. The restored tables know 10 of what the first was granted; it had charged 60.
#[tokio::test]
async fn a_restored_lease_that_knows_too_little_is_nobody_elses_credit() {
    use crate::store::leases::Leases;
    use filters::denied::{LimitSource, Owner};
    use filters::lease::Terms;
    use filters::money::NanoUsd;
    use filters::ports::{Authority, Want};
    use filters::quota::Spend;
    use filters::window::Window;
    use std::sync::Arc;
    let books = Books::in_a_file().await;
    let quota = books.call(0, 1, 1).0.shares[0].quota;
    for statement in [
        "UPDATE quotas SET limit_value = 100 WHERE id = $1",
        "INSERT INTO spent (quota, window_start_ms, amount) VALUES ($1, 0, 60)",
        "INSERT INTO leases (quota, period_ms, node, granted, returned, shipped) VALUES ($1, 0, 'a', 10, 0, 60)",
    ] {
        sqlx::query(statement).bind(quota.0).execute(&books.store.database.writer).await.expect(statement);
    }
    Leases::new(books.store.clone(), "a", Arc::default()).await.expect("entered");
    let second = Leases::new(books.store.clone(), "b", Arc::default()).await.expect("entered");
    let (source, terms) = (LimitSource::Spend(Owner::Key), Terms::elastic(NanoUsd(100)));
    let spend = Arc::new(Spend::new(quota, source, Window::Total, terms, (NanoUsd(60), NOW)));
    second.lease(vec![Want { spend, amount: NanoUsd(40), at: None }]).await.expect("served");
    let granted = "SELECT node, granted FROM leases WHERE quota = $1 ORDER BY node";
    let rows: Vec<(String, i64)> =
        sqlx::query_as(granted).bind(quota.0).fetch_all(&books.store.database.reader).await.expect("read");
    assert_eq!(rows, [("a".to_owned(), 60), ("b".to_owned(), 40)]);
}

#[tokio::test]
async fn a_journal_that_no_longer_reaches_back_is_told_of() {
    let (books, dir) = (books().await, tempfile::tempdir().expect("a directory"));
    let (calls, checkpoint) = ([books.call(1, 10, 5)], Checkpoint { segment: 3, offset: 4_096 });
    books.store.ship("node_7", &calls, checkpoint).await.expect("shipped");
    let to = dir.path().join("backup");
    back_up(books.dir.path(), &to, NOW).await.expect("backed up");
    for (node, oldest, has_gap) in [("node_7", 3, false), ("node_7", 4, true), ("other", 1, false), ("other", 2, true)]
    {
        let data = dir.path().join(format!("{node}-{oldest}"));
        let journal = data.join("journal");
        fs::create_dir_all(&journal).expect("made");
        fs::write(journal.join("node"), node).expect("written");
        fs::write(journal.join(format!("{oldest:012}.segment")), "").expect("written");
        let restored = restore_into(&data, &to).await.expect("restored");
        assert_eq!(restored.journal_has_gap, has_gap, "{node} from {oldest}");
    }
}
