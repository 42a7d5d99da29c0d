//! How the cluster does, for people and for metrics.
//!
//! - Owns: nothing. Takes: the cluster's own figures and its directory. Gives: a report, numbers of a scrape.

use hongqiao_cluster::{
    Class, ClusterHandle, Directory, GroupStatus, Leaving, LinkState, MemberProgress, Move, Status,
    id::{NodeId, ShardId},
};

use crate::{
    http::{ClusterReport, GroupReport, LagReport, LinkReport, MemberMove, NodeReport, ShardMove},
    metrics::Snapshot,
    shard::machine::ShardMachine,
};

/// Puts the report together.
pub(super) fn of(cluster: &ClusterHandle<ShardMachine>) -> ClusterReport {
    let (status, directory) = (cluster.status(), cluster.meta().directory());
    let (meta, progress) = (cluster.meta_shard(), cluster.progress());
    ClusterReport {
        cluster: status.cluster.iter().map(|byte| format!("{byte:02x}")).collect(),
        node: status.node.0,
        has_lease: cluster.meta().has_lease(),
        nodes: nodes(&directory),
        groups: status.groups.iter().map(|of| group(of, meta, &directory)).collect(),
        links: status.links.iter().map(link).collect(),
        routes: directory.routes.len(),
        members_moving: progress.members.iter().map(member_move).collect(),
        groups_moving: progress.moves.iter().map(shard_move).collect(),
    }
}

fn member_move(of: &MemberProgress) -> MemberMove {
    MemberMove { node: of.node.0, to_get: of.to_get, to_give: of.to_give }
}

fn shard_move(of: &Move) -> ShardMove {
    let behind = of.behind.iter().map(|(node, entries)| lag(*node, *entries));
    ShardMove {
        group: of.shard.0,
        now: ids(&of.now),
        to: ids(&of.to),
        behind: behind.collect(),
        snapshot_bytes: of.snapshot,
        stuck: of.stuck,
    }
}

fn ids(nodes: &[NodeId]) -> Vec<u64> {
    nodes.iter().map(|node| node.0).collect()
}

fn lag(node: NodeId, entries: u64) -> LagReport {
    LagReport { node: node.0, entries }
}

fn nodes(directory: &Directory) -> Vec<NodeReport> {
    let nodes = directory.nodes.iter().map(|(node, member)| NodeReport {
        node: node.0,
        up: member.up,
        leaving: directory.leaving.get(node).map(|how| match how {
            Leaving::Moving => "moving",
            Leaving::Lost => "lost",
            Leaving::Released => "released",
        }),
        incarnation: member.incarnation,
        cluster_address: member.cluster_addr.clone(),
        client_address: member.client_addr.clone(),
        version: member.version.clone(),
    });
    nodes.collect()
}

fn group(of: &GroupStatus, meta: ShardId, directory: &Directory) -> GroupReport {
    let lag = of.lag.iter().map(|(node, entries)| lag(*node, *entries));
    let replicas = directory.shards.get(usize::from(of.shard.0));
    GroupReport {
        group: of.shard.0,
        meta: of.shard == meta,
        leader: of.leader_or(directory.leader(of.shard)).map(|node| node.0),
        term: of.term,
        voters: ids(&of.voters),
        learners: ids(&of.learners),
        replicas: replicas.map(|nodes| ids(nodes)).unwrap_or_default(),
        applied: of.applied,
        lag: if of.here { lag.collect() } else { Vec::new() },
    }
}

fn link(of: &LinkState) -> LinkReport {
    LinkReport {
        node: of.peer.0,
        class: of.class.name().to_owned(),
        connected: of.connected,
        since_ms: u64::try_from(of.since.as_millis()).unwrap_or(u64::MAX),
        protocol: of.version,
        in_flight_bytes: of.in_flight_bytes,
        last_error: of.last_error.clone(),
    }
}

/// Counts what a scrape shows of groups and links.
pub(super) fn count(snapshot: &mut Snapshot, status: &Status) {
    let led = || status.groups.iter().filter(|group| group.here);
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    snapshot.groups_led = number(led().count());
    let leaderless = status.groups.iter().filter(|group| group.leader.is_none());
    snapshot.groups_leaderless = number(leaderless.count());
    let lags = led().flat_map(|group| group.lag.iter().map(|(_, entries)| *entries));
    snapshot.follower_lag_entries = lags.max().unwrap_or(0);
    for class in Class::ALL {
        for (state, connected) in [("connected", true), ("broken", false)] {
            let is_one = |link: &&LinkState| link.class == class && link.connected == connected;
            let count = number(status.links.iter().filter(is_one).count());
            snapshot.links.push((class.name(), state, count));
        }
    }
}
