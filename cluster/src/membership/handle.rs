//! What an operator may do with members, shards and leads, from any node.
//!
//! - Owns: nothing. Takes: calls on [`ClusterHandle`]. Gives: marks and wishes in the directory, leads handed
//!   over, checkpoints of this node; or why not.
//! - Bound: a change of the directory takes 5 seconds at most; what follows from it goes on by itself.
//! - Source: own design.

use tokio::sync::watch;

use super::{
    departure::Departure,
    error::MemberError,
    orders::{self, Order, Outcome},
    progress::{MemberProgress, Progress},
};
use crate::{
    directory::Directory,
    handle::ClusterHandle,
    id::{NodeId, ShardId},
    machine::Machine,
    meta::{MetaCommand, MetaReply},
    placement,
    raft_group::group::Group,
};

/// The first release that knows of leaving, wishes and promised ids.
const SINCE: (u64, u64, u64) = (0, 1, 0);

/// What was written down of one group of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupSnapshot {
    /// The shard, or the meta group.
    pub shard: ShardId,
    /// Index of the last entry that the checkpoint covers.
    pub covered: u64,
    /// Index of the last entry that was let go of.
    pub purged: u64,
}

impl<M: Machine> ClusterHandle<M> {
    /// Has a member leave for good. Its replicas move away, its leads are handed over, then it is removed; a live one is
    /// told so and its process stops. This returns once that is decided; see [`Self::progress`] for the rest.
    ///
    /// - `lost`: it is down and will not come back with its data; refused while it is up.
    /// - Its id is never given again.
    ///
    /// # Errors
    /// What would lose the quorum of a group, or the last member, is refused.
    pub async fn leave(&self, node: NodeId, lost: bool) -> Result<(), MemberError> {
        let command = MetaCommand::Leave { node, lost };
        self.change(command, node, ShardId(0)).await
    }

    /// Has a replica of a shard move from one member to another, and stay there until another wish, or
    /// until that member leaves. This returns once that is decided.
    ///
    /// # Errors
    /// If there is no such shard, replica or member, or the member is down or leaves.
    pub async fn move_shard(
        &self,
        shard: ShardId,
        from: NodeId,
        to: NodeId,
    ) -> Result<(), MemberError> {
        let moved = self.change(MetaCommand::MoveShard { shard, from, to }, to, shard).await;
        moved.map_err(|why| match why {
            MemberError::NotThere(shard, _) => MemberError::NotThere(shard, from),
            other => other,
        })
    }

    async fn change(
        &self,
        command: MetaCommand,
        node: NodeId,
        shard: ShardId,
    ) -> Result<(), MemberError> {
        all_know(&self.meta().directory())?;
        match self.meta().propose(command).await? {
            (MetaReply::Refused(why), _) => Err(MemberError::of(why, node, shard)),
            (MetaReply::Fenced, _) => Err(MemberError::Unknown),
            (MetaReply::Done | MetaReply::Room(_) | MetaReply::Promised(_), _) => Ok(()),
        }
    }

    /// Gives the lead of a shard, or of the meta group, to a member that votes in it and has caught up.
    ///
    /// - It stays there for ten minutes although another should lead. Proposals wait meanwhile, 3 seconds
    ///   at most. With more than three voters it takes about a second.
    ///
    /// # Errors
    /// `Stayed` if it could not be handed over in time, else why nothing was tried.
    pub async fn transfer(&self, group: ShardId, to: NodeId) -> Result<(), MemberError> {
        let shared = self.shared();
        let led = shared.groups.groups.get(usize::from(group.0)).cloned();
        let led = led.ok_or(MemberError::NoShard(group))?;
        let directory = self.meta().directory();
        let member = directory.nodes.get(&to).ok_or(MemberError::NoNode(to))?;
        if !member.up {
            return Err(MemberError::Down(to));
        }
        if directory.leaving.contains_key(&to) {
            return Err(MemberError::Leaving(to));
        }
        let leader = self.leader_of(&led, &directory).ok_or(MemberError::NoLeader(group))?;
        if leader == to {
            return Ok(());
        }
        let network = shared.network.clone().ok_or(MemberError::NoNode(to))?;
        let done = shared.runtimes.work.spawn(async move {
            if leader == led.node {
                return orders::transfer(&led, &*network, to).await;
            }
            match orders::give(&*network, leader, &Order::Transfer { group, to }).await? {
                Outcome::Done => Ok(()),
                Outcome::Refused(why) => Err(why),
                Outcome::Report(_) | Outcome::Moves(_) | Outcome::ReadIndex(_) => {
                    Err(MemberError::Unknown)
                }
            }
        });
        done.await.unwrap_or(Err(MemberError::Unknown))
    }

    fn leader_of(&self, group: &Group, directory: &Directory) -> Option<NodeId> {
        group.lead.now().leader_or(directory.leader(ShardId(group.number)))
    }

    /// Watches how far this node is on its way out of the cluster.
    #[must_use]
    pub fn departure(&self) -> watch::Receiver<Departure> {
        self.shared().departure.subscribe()
    }

    /// Returns what is on the move between members.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let directory = self.meta().directory();
        let moves = self.shared().moves.lock().moves(&directory);
        Progress { members: members_of(&directory), moves }
    }

    /// Writes checkpoints of this node's replicas, all or those of `groups`, and lets go of the log that
    /// they cover and no other member lacks.
    ///
    /// # Errors
    /// `NoShard` for a group that there is not; `Unavailable` if the node stops meanwhile.
    pub async fn snapshot(
        &self,
        groups: Option<Vec<ShardId>>,
    ) -> Result<Vec<GroupSnapshot>, MemberError> {
        let shared = self.shared().clone();
        let all = &shared.groups.groups;
        let mut chosen = Vec::new();
        for shard in groups.unwrap_or_else(|| (0..=self.shards()).map(ShardId).collect()) {
            let group = all.get(usize::from(shard.0)).ok_or(MemberError::NoShard(shard))?;
            chosen.push(group.clone());
        }
        let stopping = || MemberError::Unavailable("the node is stopping".to_owned());
        let checkpointer = shared.groups.checkpointer.clone();
        let (work, writing) = (shared.runtimes.work.clone(), chosen.clone());
        let written = work.spawn_blocking(move || {
            writing.iter().all(|group| {
                let _pin = group.store.pin.clone().blocking_lock_owned();
                checkpointer.write(&[&*group.store])
            })
        });
        if !written.await.unwrap_or(false) {
            return Err(stopping());
        }
        let named = work.spawn(async move {
            let mut done = Vec::new();
            for group in chosen.iter().filter(|group| group.is_open()) {
                group.purge(None).await;
                done.push(snapshot_of(group));
            }
            done
        });
        named.await.map_err(|_| stopping())
    }
}

fn snapshot_of(group: &Group) -> GroupSnapshot {
    let covered = group.store.state.lock().stored.last.map_or(0, |id| id.index);
    let purged = group.raft.data_metrics().borrow().purged.map_or(0, |id| id.index);
    GroupSnapshot { shard: ShardId(group.number), covered, purged }
}

/// Refuses while a member has a release that cannot read the commands of this file: it would refuse what
/// others apply, and replicas would disagree.
pub(crate) fn all_know(directory: &Directory) -> Result<(), MemberError> {
    let old = directory.nodes.iter().find(|(_, member)| !knows(&member.version));
    old.map_or(Ok(()), |(node, member)| Err(MemberError::OldRelease(*node, member.version.clone())))
}

fn knows(version: &str) -> bool {
    let release = version.split(['-', '+']).next().unwrap_or_default();
    let mut parts = release.split('.').map(|part| part.parse::<u64>().ok());
    let mut part = || parts.next().flatten();
    let read = part().zip(part()).zip(part());
    read.is_some_and(|((major, minor), patch)| (major, minor, patch) >= SINCE)
}

/// Returns the members that come, leave, or whose share of the shards changes.
fn members_of(directory: &Directory) -> Vec<MemberProgress> {
    let now: Vec<Vec<NodeId>> = directory.shards.iter().cloned().collect();
    let then = placement::of(directory, &now);
    let members = directory.nodes.keys().map(|node| {
        let pairs = || now.iter().zip(&then);
        let to_get = pairs().filter(|(now, then)| !now.contains(node) && then.contains(node));
        let to_give = pairs().filter(|(now, then)| now.contains(node) && !then.contains(node));
        let leaving = directory.leaving.get(node).copied();
        MemberProgress { node: *node, leaving, to_get: to_get.count(), to_give: to_give.count() }
    });
    members.filter(|of| of.leaving.is_some() || of.to_get + of.to_give > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_when_older_or_strange_then_it_does_not_know() {
        assert!(knows("0.1.0") && knows("0.2.0-rc.1") && knows("1.0.0+build"));
        assert!(!knows("0.0.9") && !knows("") && !knows("0.1") && !knows("x.y.z"));
    }
}
