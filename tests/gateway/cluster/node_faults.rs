//! A node fails, or is cut off: the others go on, and what it held is neither lost nor spent twice.

use super::{PASSING, Scene, Tolerance};
use crate::support::{Clock, Nodes, Postgres, Setup, SharedRedis};
use rustix::process::Signal;

/// The node that fails.
const NODE: usize = 1;

fn endures(what: &str, tolerance: Tolerance, fail: impl FnOnce(&Nodes), mend: impl FnOnce(&Nodes)) {
    Scene::new(Nodes::start()).endure(what, tolerance, fail, mend);
}

#[test]
fn a_node_killed_and_started_again() {
    let kill = |nodes: &Nodes| nodes.gateways[NODE].kill();
    endures("a node killed", Tolerance::BrokenConnections, kill, |nodes| nodes.gateways[NODE].restart());
}

#[test]
fn a_node_paused_while_it_holds_leases() {
    // Its clients wait; the others' go on. Where it was paused within a transaction, its locks are kept until the store breaks
    // it off, and so long nobody leases more of what it was about to.
    Scene::new(Nodes::start()).endure_while("a node paused", Tolerance::Refusals, |scene, load| {
        let node = &scene.nodes.gateways[NODE];
        node.signal(Signal::STOP);
        load.await_passed(PASSING, |other| other != NODE);
        node.signal(Signal::CONT);
    });
}

#[test]
fn a_node_cut_off_from_redis_alone() {
    let cut = |nodes: &Nodes| nodes.to_redis[NODE].hold();
    endures("a node cut off from Redis", Tolerance::Nothing, cut, |nodes| nodes.to_redis[NODE].heal());
}

#[test]
fn a_node_cut_off_from_postgres_alone() {
    let cut = |nodes: &Nodes| nodes.to_postgres[NODE].hold();
    let heal = |nodes: &Nodes| nodes.to_postgres[NODE].heal();
    Scene::new(Nodes::impatient()).endure("a node cut off from PostgreSQL", Tolerance::Refusals, cut, heal);
}

#[test]
fn clocks_five_seconds_apart() {
    let clocks = [Clock::Right, Clock::Off(5), Clock::Off(-5)];
    let nodes = Nodes::with(SharedRedis::single(), Postgres::start(), clocks, &Setup::new());
    Scene::new(nodes).endure("clocks apart", Tolerance::Nothing, |_| {}, |_| {});
}
