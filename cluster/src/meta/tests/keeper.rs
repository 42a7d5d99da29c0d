//! Members, leases and barriers of three nodes around a group in memory.
//!
//! - Owns: a runtime per test, in virtual time. Takes: nothing. Gives: failures. Bound: tests only.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    clock,
    id::NodeId,
    limits::LEASE_SPAN,
    meta::{MetaCommand, MetaHandle, MetaReply, Place, local::Twins, no_sink},
};

async fn three() -> (Arc<Twins>, Vec<MetaHandle>) {
    let twins = Twins::new(3, 4, &no_sink());
    let mut nodes = Vec::new();
    for node in 1..=3 {
        nodes.push(twins.start(node).await);
    }
    for node in &nodes {
        wait("a lease", || node.has_lease()).await;
    }
    (twins, nodes)
}

fn since(started: Instant) -> Duration {
    clock::now() - started
}

async fn wait(what: &str, is_so: impl Fn() -> bool) -> Duration {
    let started = clock::now();
    while !is_so() {
        assert!(since(started) < Duration::from_secs(20), "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    since(started)
}

async fn add_route(meta: &MetaHandle, node: u64, key: &'static str) -> u64 {
    let place = Place::Node { node: NodeId(node), incarnation: meta.incarnation() };
    let keys = vec![Bytes::from_static(key.as_bytes())];
    let (reply, index) = meta.propose(MetaCommand::AddRoutes { place, keys }).await.unwrap();
    assert_eq!(reply, MetaReply::Done);
    index
}

async fn pass(meta: &MetaHandle, index: u64) -> Duration {
    let started: Instant = clock::now();
    meta.barrier(index).await;
    since(started)
}

fn is_down(meta: &MetaHandle, node: u64) -> bool {
    !meta.directory().nodes[&NodeId(node)].up
}

#[tokio::test(start_paused = true)]
async fn barrier_when_all_answer_then_it_passes_at_once_wherever_it_is_asked_for() {
    let (_twins, nodes) = three().await;
    for (node, meta) in (1..).zip(&nodes) {
        let index = add_route(meta, node, "a").await;
        let took = pass(meta, index).await;
        assert!(took < Duration::from_millis(400), "node {node}: {took:?}");
        assert!(nodes.iter().all(|other| other.directory().index >= index));
    }
    // Nothing happens for a while: leases are renewed.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(nodes.iter().all(MetaHandle::has_lease));
}

#[tokio::test(start_paused = true)]
async fn node_when_cut_off_then_barriers_wait_for_its_lease_and_it_comes_back_as_a_new_start() {
    let (twins, nodes) = three().await;
    add_route(&nodes[2], 3, "gone").await;
    twins.cut(3, true);
    let cut = clock::now();
    let index = add_route(&nodes[1], 2, "a").await;
    let took = pass(&nodes[1], index).await;
    assert!(!nodes[2].has_lease(), "it passed while a node relied on an older directory");
    assert!(
        (Duration::from_millis(1_000)..=Duration::from_millis(2_500)).contains(&took),
        "{took:?}"
    );
    // Its lease is over now, so nobody waits for it any more.
    let index = add_route(&nodes[0], 1, "b").await;
    assert!(pass(&nodes[0], index).await < Duration::from_millis(400));
    wait("down", || is_down(&nodes[0], 3)).await;
    let took = since(cut);
    assert!((Duration::from_millis(4_500)..Duration::from_secs(7)).contains(&took), "{took:?}");
    assert!(!nodes[1].directory().routes.contains_key(&Bytes::from_static(b"gone")));
    assert!(nodes[0].has_lease() && nodes[1].has_lease());
    twins.cut(3, false);
    wait("a new start", || nodes[2].incarnation() == 2).await;
    wait("up again", || !is_down(&nodes[0], 3) && nodes[2].has_lease()).await;
    // What it held before is refused.
    let place = Place::Node { node: NodeId(3), incarnation: 1 };
    let keys = vec![Bytes::from_static(b"gone")];
    let stale = nodes[2].propose(MetaCommand::AddRoutes { place, keys }).await.unwrap();
    assert_eq!(stale.0, MetaReply::Fenced);
}

#[tokio::test(start_paused = true)]
async fn barrier_when_the_leader_is_gone_then_it_returns_when_all_leases_are_over() {
    let (twins, nodes) = three().await;
    let index = add_route(&nodes[1], 2, "a").await;
    twins.cut(1, true);
    twins.cut(3, true);
    let took = pass(&nodes[1], index).await;
    assert!(took <= LEASE_SPAN + Duration::from_millis(300), "{took:?}");
    assert!(!nodes[0].has_lease() && !nodes[2].has_lease());
}

#[tokio::test(start_paused = true)]
async fn barrier_when_another_leads_meanwhile_then_it_is_asked_and_nobody_waits_for_the_end() {
    let (twins, nodes) = three().await;
    let asked = nodes[1].clone();
    let index = add_route(&nodes[1], 2, "a").await;
    // Nobody answers until another leads; the old leader is soon heard of again.
    twins.cut(1, true);
    let barrier = tokio::spawn(async move { pass(&asked, index).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    twins.lead(2, 2);
    twins.cut(1, false);
    let took = barrier.await.unwrap();
    assert!(took < LEASE_SPAN - Duration::from_millis(500), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn leader_when_new_then_it_waits_for_leases_of_the_old_one_and_declares_nobody_down_early() {
    let (twins, nodes) = three().await;
    twins.cut(1, true);
    let cut = clock::now();
    twins.lead(2, 2);
    let index = add_route(&nodes[2], 3, "a").await;
    // Node 1 may hold a lease of its own; the new leader cannot know.
    pass(&nodes[2], index).await;
    assert!(!nodes[0].has_lease());
    assert!(since(cut) >= Duration::from_millis(1_500) && since(cut) < Duration::from_secs(3));
    assert!(nodes[1].has_lease() && nodes[2].has_lease());
    wait("down", || is_down(&nodes[1], 1)).await;
    assert!(since(cut) >= Duration::from_secs(5));
    assert!(!is_down(&nodes[1], 2) && !is_down(&nodes[1], 3));
}

#[tokio::test(start_paused = true)]
async fn leader_when_new_then_it_waits_for_the_lease_of_a_member_that_was_declared_down() {
    let (twins, nodes) = three().await;
    // Said by a leader that heard nothing, and long on its way: node 3 has just renewed when it is applied.
    twins.cut(3, true);
    let (node, incarnation) = (NodeId(3), nodes[2].incarnation());
    nodes[0].propose(MetaCommand::NodeDown { node, incarnation }).await.unwrap();
    twins.lead(2, 2);
    let index = add_route(&nodes[1], 2, "a").await;
    assert!(nodes[2].has_lease() && nodes[2].directory().index < index);
    pass(&nodes[1], index).await;
    assert!(!nodes[2].has_lease(), "it passed while a node relied on an older directory");
    // Once, and not for ever.
    let index = add_route(&nodes[1], 2, "b").await;
    assert!(pass(&nodes[1], index).await < Duration::from_millis(400));
}

#[tokio::test(start_paused = true)]
async fn node_when_it_retires_then_it_is_down_at_once_and_nobody_waits_for_it() {
    let (_twins, nodes) = three().await;
    add_route(&nodes[2], 3, "gone").await;
    nodes[2].retire().await.unwrap();
    assert!(!nodes[2].has_lease() && is_down(&nodes[0], 3));
    assert!(nodes[0].directory().routes.is_empty());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(is_down(&nodes[0], 3) && nodes[2].incarnation() == 1, "it does not come back");
}
