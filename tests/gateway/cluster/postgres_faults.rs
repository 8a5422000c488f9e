//! PostgreSQL fails: calls live on the credit that the nodes hold; what needs more is told to come again.

use super::{Scene, Tolerance};
use crate::support::{Nodes, eventually};
use std::time::Duration;

/// Lets PostgreSQL fail under load.
fn endures(what: &str, fail: impl FnOnce(&Nodes), mend: impl FnOnce(&Nodes)) {
    Scene::new(Nodes::impatient()).endure(what, Tolerance::Refusals, fail, mend);
}

#[test]
fn postgres_stopped_and_restarted() {
    endures("PostgreSQL stopped", |nodes| nodes.postgres.stop(), |nodes| nodes.postgres.restart());
}

#[test]
fn postgres_crashed_and_recovered() {
    endures("PostgreSQL crashed", |nodes| nodes.postgres.crash(), |nodes| nodes.postgres.restart());
}

#[test]
fn postgres_restarted_at_once() {
    let restart = |nodes: &Nodes| {
        nodes.postgres.crash();
        nodes.postgres.restart();
    };
    endures("PostgreSQL restarted", restart, |_| {});
}

#[test]
fn postgres_out_of_connections() {
    // Two are left for three nodes: the others are kept for those who mend it.
    let few = ["max_connections=5", "superuser_reserved_connections=3"];
    let fail = |nodes: &Nodes| {
        nodes.postgres.stop();
        nodes.postgres.restart_with(&few);
    };
    let mend = |nodes: &Nodes| {
        nodes.postgres.stop();
        nodes.postgres.restart();
    };
    endures("PostgreSQL out of connections", fail, mend);
}

#[test]
fn postgres_slow() {
    let delay = |nodes: &Nodes| nodes.to_postgres.iter().for_each(|proxy| proxy.delay(Duration::from_millis(30)));
    let heal = |nodes: &Nodes| nodes.to_postgres.iter().for_each(|proxy| proxy.heal());
    endures("PostgreSQL slow", delay, heal);
}

#[test]
fn postgres_partitioned_without_a_word() {
    let hold = |nodes: &Nodes| nodes.to_postgres.iter().for_each(|proxy| proxy.hold());
    let heal = |nodes: &Nodes| nodes.to_postgres.iter().for_each(|proxy| proxy.heal());
    endures("PostgreSQL partitioned", hold, heal);
}

#[test]
fn connections_cut_after_their_commit() {
    let cut = |nodes: &Nodes| nodes.to_postgres.iter().for_each(|proxy| proxy.cut_after(b"COMMIT", 5));
    let were_cut = |nodes: &Nodes| {
        let proxies = &nodes.to_postgres;
        eventually("commits go unanswered", || proxies.iter().all(|proxy| proxy.cuts() > 0).then_some(()));
        proxies.iter().for_each(|proxy| proxy.heal());
    };
    endures("commits unanswered", cut, were_cut);
}

/// Makes every so many-th write of these tables fail with this error, as the server would.
fn failing(code: &str) -> String {
    format!(
        "CREATE SEQUENCE faults; GRANT ALL ON SEQUENCE faults TO PUBLIC; \
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF nextval('faults') % 3 = 0 THEN RAISE EXCEPTION 'a fault' USING ERRCODE = '{code}'; END IF; RETURN NULL; END $$; \
         CREATE TRIGGER fail_leases AFTER INSERT OR UPDATE ON leases FOR EACH STATEMENT EXECUTE FUNCTION fail(); \
         CREATE TRIGGER fail_calls AFTER INSERT ON calls FOR EACH STATEMENT EXECUTE FUNCTION fail()"
    )
}

fn endures_failing(what: &str, code: &str) {
    let fail = |nodes: &Nodes| {
        nodes.postgres.ask(&failing(code));
        eventually("statements fail", || {
            let failed: u64 = nodes.postgres.ask("SELECT last_value FROM faults").parse().expect("a number");
            (failed >= 3).then_some(())
        });
    };
    let mend = |nodes: &Nodes| {
        nodes.postgres.ask("DROP TRIGGER fail_leases ON leases; DROP TRIGGER fail_calls ON calls");
    };
    endures(what, fail, mend);
}

#[test]
fn deadlocks() {
    endures_failing("deadlocks", "40P01");
}

#[test]
fn serialisation_failures() {
    endures_failing("serialisation failures", "40001");
}
