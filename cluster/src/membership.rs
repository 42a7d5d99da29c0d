//! Keeps the groups where the directory wants them, and tells the directory where that shall be.
//!
//! ```text
//! directory ─▶ peers of the links
//!           ─▶ every group led here: one step towards its members (`raft_group/members.rs`)
//!           ─▶ meta group led here: one shard after the other to its place (`placement.rs`)
//!           ─▶ shards led here that another shall lead: handed over, one at a time
//! ```
//!
//! - Owns: one task per node, and nothing that must survive: whoever leads next goes on from what is there.
//! - Takes: the directory, the groups. Gives: changes of members, `SetReplicas`, hand-overs.
//! - Bound: one shard on the move in the cluster; a node that is alone waits for news and does nothing.
//! - Source: own design.

pub(crate) mod error;
pub(crate) mod handle;
pub(crate) mod orders;
pub(crate) mod progress;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;

use crate::{
    clock,
    directory::Directory,
    id::{NodeId, ShardId},
    join,
    meta::{MetaCommand, MetaHandle},
    placement,
    raft_group::{group::Group, members::Wanted},
    transport::Network,
};

/// How often groups on the move are looked at.
const BUSY_INTERVAL: Duration = Duration::from_millis(25);

/// How often groups at rest are: their leaders change.
const REST_INTERVAL: Duration = Duration::from_millis(500);

/// Time between two hand-overs of one node.
const BALANCE_INTERVAL: Duration = Duration::from_secs(1);

/// A node hands nothing over before it has run for this long: others may still be starting.
const BALANCE_AFTER: Duration = Duration::from_secs(5);

/// See the head of the file.
pub(crate) struct Keeper {
    pub(crate) node: NodeId,
    /// By number; the last is the meta group.
    pub(crate) groups: Vec<Arc<Group>>,
    pub(crate) meta: MetaHandle,
    pub(crate) network: Arc<dyn Network>,
}

impl Keeper {
    /// Runs until the runtime ends.
    pub(crate) async fn run(self) {
        let mut changed = self.meta.changed();
        let mut peers = BTreeMap::new();
        let mut look_at = clock::now();
        let mut balance_at = look_at + BALANCE_AFTER;
        loop {
            changed.borrow_and_update();
            let directory = self.meta.directory();
            self.meet(&directory, &mut peers);
            let others = directory.nodes.keys().any(|node| *node != self.node);
            if others && clock::now() >= look_at {
                let busy = self.move_on(&directory).await;
                if !busy {
                    self.balance(&directory, &mut balance_at).await;
                }
                look_at = clock::now() + if busy { BUSY_INTERVAL } else { REST_INTERVAL };
            }
            let ended = tokio::select! {
                changed = changed.changed() => changed.is_err(),
                () = tokio::time::sleep_until(look_at.into()), if others => false,
            };
            if ended {
                return;
            }
        }
    }

    /// Tells the links who the peers are. Who is not in the directory yet knows them from its admission.
    fn meet(&self, directory: &Directory, known: &mut BTreeMap<NodeId, String>) {
        let others = directory.nodes.iter().filter(|(node, _)| **node != self.node);
        let peers: BTreeMap<_, _> =
            others.map(|(node, member)| (*node, member.cluster_addr.clone())).collect();
        if directory.nodes.contains_key(&self.node) && peers != *known {
            known.clone_from(&peers);
            self.network.set_peers(peers);
        }
    }

    /// Takes a step with every group that is led here; gives whether something is on the move.
    async fn move_on(&self, directory: &Directory) -> bool {
        let steps = self.groups.iter().filter_map(|group| {
            let wanted = self.wanted(group, directory)?;
            Some(async move { group.step(&wanted).await })
        });
        let steps = join_all(steps).await;
        let placed = self.place(directory).await;
        !placed || steps.contains(&false)
    }

    fn is_meta(&self, group: &Group) -> bool {
        usize::from(group.number) + 1 == self.groups.len()
    }

    fn wanted(&self, group: &Group, directory: &Directory) -> Option<Wanted> {
        if !group.lead.now().here {
            return None;
        }
        if !self.is_meta(group) {
            let voters = directory.shards.get(usize::from(group.number))?;
            return Some(Wanted { voters: voters.iter().copied().collect(), learners: [].into() });
        }
        let (members, up) = members(directory);
        let voters = placement::meta_voters(&members, &up, &group.voters());
        let learners = members.difference(&voters).copied().collect();
        Some(Wanted { voters, learners })
    }

    /// Sets the next shard on its way, if this node leads the meta group and none is under way; gives
    /// whether all are where they shall be.
    async fn place(&self, directory: &Directory) -> bool {
        if !self.groups.last().is_some_and(|meta| meta.lead.now().here) {
            return true;
        }
        let now: Vec<Vec<NodeId>> = directory.shards.iter().cloned().collect();
        if now.iter().any(Vec::is_empty) {
            return true;
        }
        let desired = placement::of(directory, &now);
        let next = (0..).zip(now.iter().zip(&desired)).find(|(_, (now, then))| now != then);
        let Some((shard, (_, replicas))) = next else { return true };
        for (shard, now) in (0..).zip(&now) {
            if !self.is_settled(ShardId(shard), now).await {
                return false;
            }
        }
        let shard = ShardId(shard);
        tracing::info!(shard = shard.0, ?replicas, "a shard gets its place");
        let command = MetaCommand::SetReplicas { shard, replicas: replicas.clone() };
        if let Err(why) = self.meta.propose(command).await {
            tracing::warn!(shard = shard.0, %why, "a shard's place is not set");
        }
        false
    }

    async fn is_settled(&self, shard: ShardId, replicas: &[NodeId]) -> bool {
        let voters: BTreeSet<NodeId> = replicas.iter().copied().collect();
        if voters.contains(&self.node) {
            let group = self.groups.get(usize::from(shard.0));
            return group.is_some_and(|group| group.has_voters(&voters));
        }
        join::has_voters(&*self.network, replicas, shard, &voters).await
    }

    /// Hands one shard over to the replica that shall lead it.
    async fn balance(&self, directory: &Directory, at: &mut Instant) {
        if clock::now() < *at {
            return;
        }
        let shards = self.groups.iter().zip(&directory.shards);
        let to = shards.filter(|(group, _)| group.lead.now().here && !group.is_pinned()).find_map(
            |(group, replicas)| {
                let first = *replicas.first().filter(|first| **first != self.node)?;
                let up = directory.nodes.get(&first).is_some_and(|member| member.up);
                (up && group.is_followed_by(first)).then_some((group, first))
            },
        );
        if let Some((group, first)) = to {
            group.hand_over(first, &*self.network, false).await;
            *at = clock::now() + BALANCE_INTERVAL;
        }
    }
}

/// Returns all members, and those that are up.
fn members(directory: &Directory) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
    let up = directory.nodes.iter().filter(|(_, member)| member.up);
    (directory.nodes.keys().copied().collect(), up.map(|(node, _)| *node).collect())
}
