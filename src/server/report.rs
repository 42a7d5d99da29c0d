//! How the cluster does, for people and for metrics.
//!
//! - Owns: nothing. Takes: the cluster's own figures and its directory. Gives: a report, numbers of a scrape.

use hongqiao_cluster::{
    Class, ClusterHandle, Directory, GroupStatus, Leaving, LinkState, MemberProgress, Move, Status,
    id::{NodeId, ShardId},
};

use super::standing::is_led_elsewhere;
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

/// Counts what a scrape shows of groups and links. Who leads a group that has no replica here, the directory knows.
pub(super) fn count(snapshot: &mut Snapshot, status: &Status, directory: &Directory) {
    let led = || status.groups.iter().filter(|group| group.here);
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    snapshot.groups_led = number(led().count());
    // As `/readyz` sees it: with a replica here an old leader in the directory counts for nothing.
    let is_led = |group: &&GroupStatus| {
        group.leader.is_some() || is_led_elsewhere(directory, status.node, group.shard)
    };
    let leaderless = status.groups.iter().filter(|group| !is_led(group));
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

#[cfg(test)]
mod tests {
    use hongqiao_cluster::{Led, directory::Member};

    use super::*;

    fn node(number: u64, up: bool) -> (NodeId, Member) {
        let text = String::new;
        let (cluster_addr, client_addr, version) = (text(), text(), text());
        let (incarnation, routes_complete) = (1, true);
        let member =
            Member { incarnation, up, routes_complete, cluster_addr, client_addr, version };
        (NodeId(number), member)
    }

    #[test]
    fn group_without_a_replica_here_has_the_leader_that_the_directory_names_if_it_is_up() {
        let group = |number, leader: Option<u64>| GroupStatus {
            shard: ShardId(number),
            leader: leader.map(NodeId),
            here: leader == Some(1),
            term: 3,
            last: 0,
            applied: 0,
            voters: Vec::new(),
            learners: Vec::new(),
            lag: Vec::new(),
            silence_ms: None,
        };
        let status = Status {
            node: NodeId(1),
            incarnation: 1,
            cluster: [0; 16],
            groups: vec![group(0, Some(1)), group(1, None), group(2, None), group(3, None)],
            links: Vec::new(),
        };
        let led = |node| Some(Led { node: NodeId(node), term: 3 });
        let replicas = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect();
        let directory = Directory {
            nodes: [node(1, true), node(4, true), node(5, false)].into_iter().collect(),
            // The last has a replica here, which knows that nobody leads, whoever led before.
            shards: [&[1][..], &[4, 5], &[4, 5], &[1, 4]].into_iter().map(replicas).collect(),
            leaders: [led(1), led(4), led(5), led(4)].into_iter().collect(),
            ..Directory::default()
        };
        let mut snapshot = Snapshot::default();
        count(&mut snapshot, &status, &directory);
        assert_eq!((snapshot.groups_led, snapshot.groups_leaderless), (1, 2));
    }
}
