//! Members on their way out, shards that are wished elsewhere, ids that were promised.
//!
//! ```text
//! Leave ─▶ Moving or Lost ─ no shard is placed there ─▶ … ─▶ Released ─ down ─▶ RemoveNode
//! ```
//!
//! - Owns: the rules of leaving. Takes: commands. Gives: changes of the directory, the same on every replica:
//!   what would cost a quorum is refused here, so two that leave at once are judged one after the other.
//! - Bound: a record per member and per shard.
//! - Source: own design. What groups have committed is the business of `membership.rs`, not of the directory.

use super::{
    command::{MetaReply, Refusal},
    machine::{MetaMachine, No, Turn},
    record,
};
use crate::{
    directory::Leaving,
    id::{NodeId, ShardId},
    machine::Store,
    placement,
};

impl MetaMachine {
    pub(super) fn load_leaving(&mut self, store: &dyn Store) {
        record::each(store, record::LEAVING, |key, value| {
            if let Some((node, how)) = record::number(&key).zip(record::read(b"Q", &value)) {
                self.now.leaving.insert(NodeId(node), how);
            }
        });
        for shard in (0..self.shards()).map(ShardId) {
            let stored = store.get(&record::wish(shard));
            if let Some(wish) = stored.and_then(|value| record::read(b"W", &value)) {
                self.now.wishes.insert(shard, wish);
            }
        }
        let promised = store.get(&record::promised());
        self.now.promised = promised.and_then(|value| record::read(b"P", &value)).unwrap_or(0);
    }

    /// Marks a member as leaving, if those who stay can go on without it.
    pub(super) fn leave_cluster(
        &mut self,
        turn: &mut Turn<'_>,
        node: NodeId,
        lost: bool,
    ) -> Result<(), No> {
        if self.now.removed.contains(&node) {
            return Err(Refusal::Removed.into());
        }
        let is_up = self.now.nodes.get(&node).ok_or(Refusal::NoNode)?.up;
        let before = self.now.leaving.get(&node).copied();
        let how = match (lost, is_up, before) {
            (true, true, _) => return Err(Refusal::StillUp.into()),
            (_, _, Some(Leaving::Released)) => return Ok(()),
            (true, false, _) => Leaving::Lost,
            (false, false, None) => return Err(Refusal::Down.into()),
            (false, _, Some(_)) => return Ok(()),
            (false, true, None) => Leaving::Moving,
        };
        if before.is_none() {
            self.now.leaving.insert(node, how);
            let judged = self.judge();
            self.now.leaving.remove(&node);
            judged?;
        }
        self.put_leaving(turn, node, how);
        self.forget_wishes(turn, node);
        Ok(())
    }

    /// A member stays after all.
    pub(super) fn stay(&mut self, turn: &mut Turn<'_>, node: NodeId) -> Result<(), No> {
        if !self.now.nodes.contains_key(&node) {
            return Err(Refusal::NoNode.into());
        }
        if self.now.leaving.remove(&node).is_some() {
            turn.store.delete(&record::leaving(node));
            self.changes.nodes.insert(node);
        }
        Ok(())
    }

    /// No shard is wished to be at this node any more.
    fn forget_wishes(&mut self, turn: &mut Turn<'_>, node: NodeId) {
        let gone = self.now.wishes.iter().filter(|(_, at)| at.contains(&node));
        let gone: Vec<ShardId> = gone.map(|(shard, _)| *shard).collect();
        for shard in gone {
            self.now.wishes.remove(&shard);
            turn.store.delete(&record::wish(shard));
        }
    }

    /// Refuses what would leave nobody, or a group that cannot get to its new members or go on with them.
    fn judge(&self) -> Result<(), No> {
        let (staying, up) = (self.now.staying(), self.now.up());
        if staying.is_empty() {
            return Err(Refusal::LastMember.into());
        }
        let is_quorum = |voters: &[NodeId]| {
            voters.is_empty()
                || voters.iter().filter(|at| up.contains(at)).count() * 2 > voters.len()
        };
        let now: Vec<Vec<NodeId>> = self.now.shards.iter().cloned().collect();
        let desired = placement::of(&self.now, &now);
        let voters = placement::meta_voters(&staying, &up, &staying);
        let voters: Vec<NodeId> = voters.into_iter().collect();
        if now.iter().chain(&desired).all(|at| is_quorum(at)) && is_quorum(&voters) {
            Ok(())
        } else {
            Err(Refusal::QuorumLost.into())
        }
    }

    /// Notes that a member that leaves votes nowhere any more.
    pub(super) fn release(&mut self, turn: &mut Turn<'_>, node: NodeId) -> Result<(), No> {
        if self.now.removed.contains(&node) {
            return Ok(());
        }
        if !self.now.leaving.contains_key(&node) {
            return Err(Refusal::NoNode.into());
        }
        if self.now.shards.iter().any(|replicas| replicas.contains(&node)) {
            return Err(Refusal::HoldsReplicas.into());
        }
        self.put_leaving(turn, node, Leaving::Released);
        Ok(())
    }

    /// A member that was lost is up: it can help to leave.
    pub(super) fn came_back(&mut self, turn: &mut Turn<'_>, node: NodeId) {
        if self.now.leaving.get(&node) == Some(&Leaving::Lost) {
            self.put_leaving(turn, node, Leaving::Moving);
        }
    }

    /// A member is gone for good.
    pub(super) fn forget_leaving(&mut self, turn: &mut Turn<'_>, node: NodeId) {
        if self.now.leaving.remove(&node).is_some() {
            turn.store.delete(&record::leaving(node));
        }
        // One that was lost with the majority never left.
        self.forget_wishes(turn, node);
    }

    fn put_leaving(&mut self, turn: &mut Turn<'_>, node: NodeId, how: Leaving) {
        turn.store.put(record::leaving(node), record::value(&how));
        self.now.leaving.insert(node, how);
        self.changes.nodes.insert(node);
    }

    /// Wishes one replica of a shard elsewhere.
    pub(super) fn move_shard(
        &mut self,
        turn: &mut Turn<'_>,
        shard: ShardId,
        from: NodeId,
        to: NodeId,
    ) -> Result<(), No> {
        let now = self.now.shards.get(usize::from(shard.0)).ok_or(Refusal::NoShard)?;
        let mut wish = self.now.wishes.get(&shard).unwrap_or(now).clone();
        let member = self.now.nodes.get(&to).ok_or(Refusal::NoNode)?;
        if self.now.leaving.contains_key(&to) {
            return Err(Refusal::Leaving.into());
        }
        if !member.up {
            return Err(Refusal::Down.into());
        }
        if wish.contains(&to) {
            return Err(Refusal::AlreadyThere.into());
        }
        let place = wish.iter_mut().find(|at| **at == from).ok_or(Refusal::NotThere)?;
        *place = to;
        turn.store.put(record::wish(shard), record::value(&wish));
        self.now.wishes.insert(shard, wish);
        self.changes.shards.insert(shard);
        Ok(())
    }

    /// Promises an id that nobody has or had; it is not promised twice.
    pub(super) fn promise_id(&mut self, turn: &mut Turn<'_>) -> MetaReply {
        let ids = [self.now.nodes.get_max().map(|(node, _)| node), self.now.removed.get_max()];
        let highest = ids.into_iter().flatten().map(|node| node.0).max().unwrap_or(0);
        let Some(id) = highest.max(self.now.promised).checked_add(1) else {
            return MetaReply::Refused(Refusal::Full);
        };
        turn.store.put(record::promised(), record::value(&id));
        self.now.promised = id;
        MetaReply::Promised(NodeId(id))
    }
}
