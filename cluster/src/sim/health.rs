//! What a cluster without faults must come to: everybody up and known, every group led and complete, replicas
//! equal, one directory.
//!
//! - Owns: nothing. Takes: hosts. Gives: the first thing that is missing, in words.
//! - Promise: HEAL.
//! - Source: own design.

use std::collections::BTreeSet;

use super::{
    event::Event,
    host::{Host, Place},
    ledger::Ledger,
    oracle::Oracle,
    shape::Shape,
};
use crate::{
    handle::ClusterHandle,
    id::{NodeId, ShardId},
};

const REPLICAS_MAX: usize = 3;

type Handle = ClusterHandle<Ledger>;

fn members(hosts: &[Host]) -> impl Iterator<Item = &Host> {
    hosts.iter().filter(|host| host.place == Place::Member)
}

fn handles(hosts: &[Host]) -> impl Iterator<Item = (&Host, &Handle)> {
    members(hosts).filter_map(|host| Some((host, host.handle()?)))
}

/// Returns why the cluster is not whole.
pub(super) fn unwhole(hosts: &[Host], shape: &Shape) -> Option<String> {
    if let Some(host) = members(hosts).find(|host| host.handle().is_none()) {
        return Some(format!("node {} does not run", host.node.0));
    }
    let unknown = handles(hosts).find_map(|(host, handle)| {
        let directory = handle.meta().directory();
        let is_up = |handle: &Handle| directory.is_up(handle.node(), handle.meta().incarnation());
        let stranger = handles(hosts).find(|(_, other)| !is_up(other))?.0;
        Some(format!("node {} is not up for node {}", stranger.node.0, host.node.0))
    });
    let odd = handles(hosts).find_map(|(host, handle)| {
        let directory = handle.meta().directory();
        let known: Vec<NodeId> = directory.nodes.keys().copied().collect();
        let are: Vec<NodeId> = members(hosts).map(|host| host.node).collect();
        (known != are).then(|| format!("node {} knows {known:?}", host.node.0))
    });
    unknown
        .or(odd)
        .or_else(|| (0..shape.shards).map(ShardId).find_map(|shard| unplaced(hosts, shard)))
}

/// Returns why a shard is not where it shall be.
fn unplaced(hosts: &[Host], shard: ShardId) -> Option<String> {
    let replicas = replicas(hosts, shard);
    if replicas.len() != members(hosts).count().min(REPLICAS_MAX) {
        return Some(format!("{shard:?} has {replicas:?}"));
    }
    let leads = |handle: &Handle| handle.leadership(shard).borrow().here;
    let leaders: Vec<_> = handles(hosts).filter(|(_, handle)| leads(handle)).collect();
    let [(leader, handle)] = leaders[..] else {
        return Some(format!("{shard:?} has {} leaders", leaders.len()));
    };
    let group = handle.shared().groups.group(shard)?;
    let voters = group.voters();
    (voters != replicas.into_iter().collect())
        .then(|| format!("{shard:?}, led by {:?}, has voters {voters:?}", leader.node))
}

fn replicas(hosts: &[Host], shard: ShardId) -> Vec<NodeId> {
    let first = members(hosts).next().and_then(Host::handle);
    let directory = first.map(|handle| handle.meta().directory());
    let replicas =
        directory.and_then(|directory| directory.shards.get(usize::from(shard.0)).cloned());
    replicas.unwrap_or_default()
}

/// Returns which replicas, or directories, differ.
pub(super) fn uneven(hosts: &[Host]) -> Option<String> {
    let directories: Vec<_> =
        handles(hosts).map(|(host, handle)| (host.node, handle.meta().directory())).collect();
    for pair in directories.windows(2) {
        if pair[0].1 != pair[1].1 {
            return Some(format!("the directories of {:?} and {:?}", pair[0].0, pair[1].0));
        }
    }
    let shards = members(hosts).next()?.handle()?.shards();
    (0..shards).map(ShardId).find_map(|shard| {
        let states: BTreeSet<_> = states(hosts, shard).map(|(_, state)| state).collect();
        (states.len() > 1).then(|| format!("replicas of {shard:?}: {states:?}"))
    })
}

fn states(
    hosts: &[Host],
    shard: ShardId,
) -> impl Iterator<Item = (NodeId, super::ledger::Summary)> {
    let replicas = replicas(hosts, shard);
    let of = move |(host, handle): (&Host, &Handle)| {
        let machines = &handle.shared().groups.shards;
        let state = machines.get(usize::from(shard.0))?.machine.lock().summary;
        replicas.contains(&host.node).then_some((host.node, state))
    };
    handles(hosts).filter_map(of)
}

/// Shows the oracle the last state of each replica.
pub(super) fn report(hosts: &[Host], oracle: &Oracle) {
    let shards = members(hosts).next().and_then(Host::handle).map_or(0, Handle::shards);
    for shard in (0..shards).map(ShardId) {
        for (node, state) in states(hosts, shard) {
            oracle.see(&Event::Settled { node, shard, state });
        }
    }
}
