//! Members and shards: who is there, in which incarnation; where replicas are, and who leads.
//!
//! - Owns: the rules of fencing. Takes: commands about nodes and shards. Gives: changes of the directory.
//! - Bound: `META_NODES_MAX` members, `META_ADDRESS_BYTES_MAX` per text, as many replicas as members.
//! - Source: own design.

use super::{
    command::Refusal,
    machine::{MetaMachine, No, Turn},
    record::{self, ShardRecord},
};
use crate::{
    directory::{Led, Member},
    id::{NodeId, ShardId},
    limits::{META_ADDRESS_BYTES_MAX, META_REPLICAS_MAX},
    machine::Store,
};

impl MetaMachine {
    pub(super) fn load_members(&mut self, store: &dyn Store) {
        record::each(store, record::NODE, |key, value| {
            if let Some((node, member)) = record::number(&key).zip(record::read(b"N", &value)) {
                self.now.nodes.insert(NodeId(node), member);
            }
        });
        record::each(store, record::FOLDER, |key, value| {
            if let Some((node, folder)) = record::number(&key).zip(record::read(b"F", &value)) {
                self.now.folders.insert(NodeId(node), folder);
            }
        });
        record::each(store, record::REMOVED, |key, _| {
            self.now.removed.extend(record::number(&key).map(NodeId));
        });
        let mut shards = vec![ShardRecord::default(); usize::from(self.shards())];
        for shard in (0..self.shards()).map(ShardId) {
            let stored = store.get(&record::shard(shard));
            if let Some(stored) = stored.and_then(|value| record::read(b"S", &value)) {
                shards[usize::from(shard.0)] = stored;
            }
        }
        self.now.leaders = shards.iter().map(|shard| shard.led).collect();
        self.now.shards = shards.into_iter().map(|shard| shard.replicas).collect();
    }

    /// Checks that this incarnation of a node counts and is up.
    pub(super) fn check_up(&self, node: NodeId, incarnation: u64) -> Result<(), No> {
        if self.now.is_up(node, incarnation) { Ok(()) } else { Err(No::Fenced) }
    }

    pub(super) fn node_up(
        &mut self,
        turn: &mut Turn<'_>,
        node: NodeId,
        incarnation: u64,
        texts: [String; 3],
        folder: Option<[u8; 16]>,
    ) -> Result<(), No> {
        if texts.iter().any(|text| text.len() > META_ADDRESS_BYTES_MAX) {
            return Err(Refusal::Limit.into());
        }
        if self.now.removed.contains(&node) {
            return Err(Refusal::Removed.into());
        }
        let known = self.now.folders.get(&node).copied();
        if folder.zip(known).is_some_and(|(folder, known)| folder != known) {
            return Err(Refusal::OtherFolder.into());
        }
        let mut routes_complete = false;
        match self.now.nodes.get(&node) {
            // Said again, or with other addresses.
            Some(old) if old.incarnation == incarnation && old.up => {
                routes_complete = old.routes_complete;
            }
            Some(old) if old.incarnation >= incarnation => return Err(No::Fenced),
            Some(_) => self.drop_live(turn, node),
            None if self.now.nodes.len() >= self.limits.nodes => return Err(Refusal::Full.into()),
            None => {}
        }
        let [cluster_addr, client_addr, version] = texts;
        let member =
            Member { incarnation, up: true, routes_complete, cluster_addr, client_addr, version };
        self.came_back(turn, node);
        self.put_folder(turn, node, folder);
        let is_first = self.now.nodes.is_empty() && self.now.removed.is_empty();
        self.put_member(turn, node, member);
        if is_first {
            // Who founds a cluster has all of it.
            for shard in (0..self.shards()).map(ShardId) {
                self.put_shard(turn, shard, ShardRecord { replicas: vec![node], led: None });
            }
        }
        Ok(())
    }

    pub(super) fn node_down(
        &mut self,
        turn: &mut Turn<'_>,
        node: NodeId,
        incarnation: u64,
    ) -> Result<(), No> {
        let member = self.now.nodes.get(&node).ok_or(Refusal::NoNode)?;
        if member.incarnation != incarnation {
            return Err(No::Fenced);
        }
        if member.up {
            let member = Member { up: false, routes_complete: false, ..member.clone() };
            self.put_member(turn, node, member);
            self.drop_live(turn, node);
        }
        Ok(())
    }

    pub(super) fn remove_node(&mut self, turn: &mut Turn<'_>, node: NodeId) -> Result<(), No> {
        if self.now.removed.contains(&node) {
            return Ok(());
        }
        let member = self.now.nodes.get(&node).ok_or(Refusal::NoNode)?;
        // Only then its lease has surely run out, and it has given up what it led.
        if member.up {
            return Err(Refusal::StillUp.into());
        }
        if self.now.shards.iter().any(|replicas| replicas.contains(&node)) {
            return Err(Refusal::HoldsReplicas.into());
        }
        if self.now.removed.len() >= self.limits.removed {
            return Err(Refusal::Full.into());
        }
        self.now.nodes.remove(&node);
        self.now.removed.insert(node);
        self.forget_leaving(turn, node);
        self.put_folder(turn, node, None);
        turn.store.delete(&record::node(node));
        turn.store.put(record::removed(node), record::value(&()));
        self.changes.nodes.insert(node);
        Ok(())
    }

    pub(super) fn routes_complete(
        &mut self,
        turn: &mut Turn<'_>,
        node: NodeId,
        incarnation: u64,
    ) -> Result<(), No> {
        self.check_up(node, incarnation)?;
        let member = self.now.nodes.get(&node).ok_or(Refusal::NoNode)?;
        let member = Member { routes_complete: true, ..member.clone() };
        self.put_member(turn, node, member);
        Ok(())
    }

    pub(super) fn shard_led(
        &mut self,
        turn: &mut Turn<'_>,
        shard: ShardId,
        node: NodeId,
        term: u64,
    ) -> Result<(), No> {
        let mut record = self.shard_record(shard)?;
        let led = Led { node, term };
        match record.led {
            Some(last) if last == led => return Ok(()),
            // One term has one leader.
            Some(last) if last.term >= term => return Err(No::Fenced),
            _ if !self.now.nodes.contains_key(&node) => return Err(Refusal::NoNode.into()),
            _ => record.led = Some(led),
        }
        self.put_shard(turn, shard, record);
        Ok(())
    }

    pub(super) fn set_replicas(
        &mut self,
        turn: &mut Turn<'_>,
        shard: ShardId,
        replicas: Vec<NodeId>,
    ) -> Result<(), No> {
        let mut record = self.shard_record(shard)?;
        let is_double = |(at, node)| replicas[..at].contains(node);
        if replicas.is_empty()
            || replicas.len() > META_REPLICAS_MAX
            || replicas.iter().enumerate().any(is_double)
        {
            return Err(Refusal::Limit.into());
        }
        if !replicas.iter().all(|node| self.now.nodes.contains_key(node)) {
            return Err(Refusal::NoNode.into());
        }
        record.replicas = replicas;
        self.put_shard(turn, shard, record);
        Ok(())
    }

    fn shard_record(&self, shard: ShardId) -> Result<ShardRecord, No> {
        let at = usize::from(shard.0);
        let replicas = self.now.shards.get(at).ok_or(Refusal::NoShard)?.clone();
        Ok(ShardRecord { replicas, led: self.now.leader(shard) })
    }

    fn put_member(&mut self, turn: &mut Turn<'_>, node: NodeId, member: Member) {
        turn.store.put(record::node(node), record::value(&member));
        self.now.nodes.insert(node, member);
        self.changes.nodes.insert(node);
    }

    /// Notes which folder a node is on. One that does not say it is of an earlier release, which writes its folder
    /// without the id: with the next release it has another.
    fn put_folder(&mut self, turn: &mut Turn<'_>, node: NodeId, folder: Option<[u8; 16]>) {
        match folder {
            Some(folder) if self.now.folders.get(&node) == Some(&folder) => {}
            Some(folder) => {
                turn.store.put(record::folder(node), record::value(&folder));
                self.now.folders.insert(node, folder);
            }
            None if self.now.folders.remove(&node).is_some() => {
                turn.store.delete(&record::folder(node));
            }
            None => {}
        }
    }

    fn put_shard(&mut self, turn: &mut Turn<'_>, shard: ShardId, record: ShardRecord) {
        let at = usize::from(shard.0);
        turn.store.put(record::shard(shard), record::value(&record));
        self.now.shards.set(at, record.replicas);
        self.now.leaders.set(at, record.led);
        self.changes.shards.insert(shard);
    }

    /// Drops the live routes and memberships of a node.
    fn drop_live(&mut self, turn: &mut Turn<'_>, node: NodeId) {
        self.drop_live_routes(turn, node);
        self.drop_memberships(turn, node);
    }
}
