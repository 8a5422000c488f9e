//! Redis fails: rates are shared out less well, and nothing else is seen.

use super::{Scene, Tolerance};
use crate::support::{Nodes, RedisCluster, Sentinel, SharedRedis};
use std::time::Duration;

/// Lets the single Redis fail under load. Nobody but the operator may notice.
fn endures(what: &str, fail: impl FnOnce(&Nodes), mend: impl FnOnce(&Nodes)) {
    Scene::new(Nodes::start()).endure(what, Tolerance::Nothing, fail, mend);
}

#[test]
fn redis_stopped_and_restarted_empty() {
    endures("Redis restarted empty", |nodes| nodes.redis().stop(), |nodes| nodes.redis().restart());
}

#[test]
fn redis_flushed() {
    let flush = |nodes: &Nodes| {
        nodes.redis().ask(&["FLUSHALL"]);
    };
    endures("Redis flushed", flush, |_| {});
}

#[test]
fn redis_paused() {
    endures("Redis paused", |nodes| nodes.redis().pause(), |nodes| nodes.redis().go_on());
}

#[test]
fn redis_partitioned_without_a_word() {
    let hold = |nodes: &Nodes| nodes.to_redis.iter().for_each(|proxy| proxy.hold());
    let heal = |nodes: &Nodes| nodes.to_redis.iter().for_each(|proxy| proxy.heal());
    endures("Redis partitioned", hold, heal);
}

#[test]
fn redis_slow() {
    let delay = |nodes: &Nodes| nodes.to_redis.iter().for_each(|proxy| proxy.delay(Duration::from_millis(200)));
    let heal = |nodes: &Nodes| nodes.to_redis.iter().for_each(|proxy| proxy.heal());
    endures("Redis slow", delay, heal);
}

#[test]
fn redis_full() {
    endures("Redis full", |nodes| nodes.redis().be_full(true), |nodes| nodes.redis().be_full(false));
}

#[test]
fn redis_read_only() {
    endures("Redis read-only", |nodes| nodes.redis().be_read_only(true), |nodes| nodes.redis().be_read_only(false));
}

#[test]
fn redis_loading() {
    endures("Redis loading", |nodes| nodes.redis().restart_loading(), |nodes| nodes.redis().end_loading());
}

fn sentinel(nodes: &Nodes) -> &Sentinel {
    match &nodes.redis {
        SharedRedis::Sentinel(sentinel) => sentinel,
        SharedRedis::Single(_) | SharedRedis::Cluster(_) => panic!("the test has a Sentinel"),
    }
}

#[test]
fn a_failover_that_loses_writes() {
    let scene = Scene::new(Nodes::sharing(SharedRedis::Sentinel(Sentinel::start())));
    let fail = |nodes: &Nodes| {
        sentinel(nodes).lose_writes();
        sentinel(nodes).fail_over();
    };
    scene.endure("Sentinel failed over", Tolerance::Nothing, fail, |_| {});
}

#[test]
fn a_slot_that_moves() {
    let scene = Scene::new(Nodes::sharing(SharedRedis::Cluster(RedisCluster::start())));
    let fail = |nodes: &Nodes| {
        let SharedRedis::Cluster(cluster) = &nodes.redis else { panic!("the test has a cluster") };
        assert!(cluster.move_slots() > 0, "there is something in Redis");
    };
    scene.endure("slots moved", Tolerance::Nothing, fail, |_| {});
}
