//! The rules of the meta group once more, on plain sets and without any thought of cost.
//!
//! - Owns: facts. Takes: commands. Gives: the replies and the directory that the machine must give.
//! - Bound: tests only.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::{
    directory::{Directory, Led, Member, Places, Role, Room, RoomKind, RoomMember},
    id::{NodeId, ShardId},
    meta::{MetaCommand, MetaReply, Place, Refusal, RoomCommand, RoomReply},
};

pub(super) const SHARDS: u16 = 3;
pub(super) const ROOM_MEMBERS_MAX: usize = 3;
pub(super) const ROUTES_MAX: usize = 5;

type Pair = (Bytes, Bytes);

#[derive(Default)]
pub(super) struct Model {
    nodes: BTreeMap<NodeId, Member>,
    folders: BTreeMap<NodeId, [u8; 16]>,
    removed: BTreeSet<NodeId>,
    replicas: BTreeMap<u16, Vec<NodeId>>,
    led: BTreeMap<u16, Led>,
    live: BTreeSet<(Bytes, NodeId)>,
    durable: BTreeSet<(Bytes, u16)>,
    rooms: BTreeMap<Bytes, (RoomKind, Bytes, u64)>,
    members: BTreeMap<Pair, (Role, u64)>,
    from: BTreeSet<(Pair, NodeId)>,
}

fn refused(why: Refusal) -> MetaReply {
    MetaReply::Refused(why)
}

impl Model {
    pub(super) fn apply(&mut self, index: u64, command: &MetaCommand) -> MetaReply {
        match command.clone() {
            MetaCommand::NodeUp { node, incarnation, cluster_addr, client_addr, version } => {
                if self.removed.contains(&node) {
                    return refused(Refusal::Removed);
                }
                let old = self.nodes.get(&node).cloned();
                let again = old.clone().filter(|old| old.incarnation == incarnation && old.up);
                if again.is_none() && old.is_some_and(|old| old.incarnation >= incarnation) {
                    return MetaReply::Fenced;
                }
                if again.is_none() {
                    self.forget(node);
                }
                let routes_complete = again.is_some_and(|old| old.routes_complete);
                if self.nodes.is_empty() && self.removed.is_empty() {
                    self.replicas = (0..SHARDS).map(|shard| (shard, vec![node])).collect();
                }
                let up = true;
                let member =
                    Member { incarnation, up, routes_complete, cluster_addr, client_addr, version };
                self.nodes.insert(node, member);
                self.folders.remove(&node);
                MetaReply::Done
            }
            MetaCommand::NodeUpFrom {
                node,
                incarnation,
                cluster_addr,
                client_addr,
                version,
                folder,
            } => {
                let is_out = self.removed.contains(&node);
                if !is_out && self.folders.get(&node).is_some_and(|known| *known != folder) {
                    return refused(Refusal::OtherFolder);
                }
                let up =
                    MetaCommand::NodeUp { node, incarnation, cluster_addr, client_addr, version };
                let reply = self.apply(index, &up);
                if reply == MetaReply::Done {
                    self.folders.insert(node, folder);
                }
                reply
            }
            MetaCommand::NodeDown { node, incarnation } => match self.nodes.get_mut(&node) {
                None => refused(Refusal::NoNode),
                Some(member) if member.incarnation != incarnation => MetaReply::Fenced,
                Some(member) => {
                    (member.up, member.routes_complete) = (false, false);
                    self.forget(node);
                    MetaReply::Done
                }
            },
            MetaCommand::RemoveNode { node } => {
                if self.removed.contains(&node) {
                    return MetaReply::Done;
                }
                match self.nodes.get(&node) {
                    None => refused(Refusal::NoNode),
                    Some(member) if member.up => refused(Refusal::StillUp),
                    _ if self.replicas.values().flatten().any(|at| *at == node) => {
                        refused(Refusal::HoldsReplicas)
                    }
                    Some(_) => {
                        self.nodes.remove(&node);
                        self.folders.remove(&node);
                        self.removed.insert(node);
                        MetaReply::Done
                    }
                }
            }
            MetaCommand::RoutesComplete { node, incarnation } => {
                if !self.is_up(node, incarnation) {
                    return MetaReply::Fenced;
                }
                self.nodes.get_mut(&node).unwrap().routes_complete = true;
                MetaReply::Done
            }
            MetaCommand::AddRoutes { place, keys } => self.routes(place, keys, true),
            MetaCommand::RemoveRoutes { place, keys } => self.routes(place, keys, false),
            MetaCommand::ShardLed { shard, node, term } => {
                let led = self.led.get(&shard.0);
                if shard.0 >= SHARDS {
                    return refused(Refusal::NoShard);
                }
                if led == Some(&Led { node, term }) {
                    return MetaReply::Done;
                }
                if led.is_some_and(|led| led.term >= term) {
                    return MetaReply::Fenced;
                }
                if !self.nodes.contains_key(&node) {
                    return refused(Refusal::NoNode);
                }
                self.led.insert(shard.0, Led { node, term });
                MetaReply::Done
            }
            MetaCommand::SetReplicas { shard, replicas } => {
                let distinct: BTreeSet<_> = replicas.iter().collect();
                if shard.0 >= SHARDS {
                    return refused(Refusal::NoShard);
                }
                if replicas.is_empty() || distinct.len() < replicas.len() {
                    return refused(Refusal::Limit);
                }
                if !replicas.iter().all(|node| self.nodes.contains_key(node)) {
                    return refused(Refusal::NoNode);
                }
                self.replicas.insert(shard.0, replicas);
                MetaReply::Done
            }
            MetaCommand::Room(command) => self.room(index, command),
            MetaCommand::Leave { .. }
            | MetaCommand::Released { .. }
            | MetaCommand::MoveShard { .. }
            | MetaCommand::PromiseId
            | MetaCommand::Stay { .. } => panic!("these are tested in `leaving.rs`"),
        }
    }

    fn is_up(&self, node: NodeId, incarnation: u64) -> bool {
        self.nodes.get(&node).is_some_and(|at| at.up && at.incarnation == incarnation)
    }

    /// Forgets what is live on a node.
    fn forget(&mut self, node: NodeId) {
        self.live.retain(|(_, at)| *at != node);
        self.from.retain(|(_, at)| *at != node);
        self.drop_ended();
    }

    /// Drops members of rooms that are there from nowhere.
    fn drop_ended(&mut self) {
        let (rooms, from) = (&self.rooms, &self.from);
        self.members.retain(|pair, _| {
            rooms[&pair.0].0 == RoomKind::Group || from.iter().any(|(of, _)| of == pair)
        });
    }

    fn keys(&self) -> BTreeSet<Bytes> {
        let live = self.live.iter().map(|(key, _)| key.clone());
        live.chain(self.durable.iter().map(|(key, _)| key.clone())).collect()
    }

    fn routes(&mut self, place: Place, keys: Vec<Bytes>, add: bool) -> MetaReply {
        if keys.iter().any(Bytes::is_empty) {
            return refused(Refusal::Limit);
        }
        let is_valid = match place {
            Place::Node { node, incarnation } => self.is_up(node, incarnation),
            Place::Shard { shard, .. } if shard.0 >= SHARDS => return refused(Refusal::NoShard),
            Place::Shard { shard, term } => {
                self.led.get(&shard.0).is_some_and(|led| led.term == term)
            }
        };
        if !is_valid {
            return MetaReply::Fenced;
        }
        let known = self.keys();
        let new = keys.iter().filter(|key| !known.contains(*key)).count();
        if add && known.len() + new > ROUTES_MAX && new > 0 {
            return refused(Refusal::Full);
        }
        for key in keys {
            let _ = match (place, add) {
                (Place::Node { node, .. }, true) => self.live.insert((key, node)),
                (Place::Node { node, .. }, false) => self.live.remove(&(key, node)),
                (Place::Shard { shard, .. }, true) => self.durable.insert((key, shard.0)),
                (Place::Shard { shard, .. }, false) => self.durable.remove(&(key, shard.0)),
            };
        }
        MetaReply::Done
    }

    fn count(&self, room: &Bytes) -> u32 {
        u32::try_from(self.members.keys().filter(|(of, _)| of == room).count()).unwrap()
    }

    fn room(&mut self, index: u64, command: RoomCommand) -> MetaReply {
        let (RoomCommand::Create { room, .. }
        | RoomCommand::Change { room, .. }
        | RoomCommand::Destroy { room }
        | RoomCommand::Join { room, .. }
        | RoomCommand::Leave { room, .. }) = &command;
        let room = room.clone();
        let kind = self.rooms.get(&room).map(|(kind, ..)| *kind);
        if let RoomCommand::Create { kind: new, owner, .. } = command {
            if kind.is_some() {
                return refused(Refusal::RoomExists);
            }
            self.rooms.insert(room, (new, owner, index));
            return MetaReply::Room(RoomReply::Done);
        }
        let Some(kind) = kind else { return refused(Refusal::NoRoom) };
        match command {
            RoomCommand::Create { .. } => unreachable!(),
            RoomCommand::Change { owner, .. } => {
                if let Some(owner) = owner {
                    self.rooms.get_mut(&room).unwrap().1 = owner;
                }
                MetaReply::Room(RoomReply::Done)
            }
            RoomCommand::Destroy { .. } => {
                self.members.retain(|(of, _), _| *of != room);
                self.from.retain(|((of, _), _)| *of != room);
                self.rooms.remove(&room);
                MetaReply::Room(RoomReply::Done)
            }
            RoomCommand::Join { user, role, from, .. } => {
                let from = from.filter(|_| kind == RoomKind::Room);
                match from {
                    None if kind == RoomKind::Room => return refused(Refusal::NoNode),
                    Some((node, incarnation)) if !self.is_up(node, incarnation) => {
                        return MetaReply::Fenced;
                    }
                    _ => {}
                }
                let pair = (room.clone(), user);
                let since = self.members.get(&pair).map(|(_, since)| *since);
                if since.is_none() && self.count(&room) as usize >= ROOM_MEMBERS_MAX {
                    return refused(Refusal::Full);
                }
                self.members.insert(pair.clone(), (role, since.unwrap_or(index)));
                self.from.extend(from.map(|(node, _)| (pair, node)));
                let members = self.count(&room);
                MetaReply::Room(RoomReply::Joined { new: since.is_none(), members })
            }
            RoomCommand::Leave { user, from, .. } => {
                let from = from.filter(|_| kind == RoomKind::Room);
                if from.is_some_and(|(node, incarnation)| !self.is_up(node, incarnation)) {
                    return MetaReply::Fenced;
                }
                let pair = (room.clone(), user);
                let before = self.members.contains_key(&pair);
                match from {
                    Some((node, _)) => _ = self.from.remove(&(pair.clone(), node)),
                    None => {
                        self.members.remove(&pair);
                        self.from.retain(|(of, _)| *of != pair);
                    }
                }
                self.drop_ended();
                let last = before && !self.members.contains_key(&pair);
                MetaReply::Room(RoomReply::Left { last, members: self.count(&room) })
            }
        }
    }

    /// The directory that this makes.
    pub(super) fn directory(&self, index: u64) -> Directory {
        let mut directory = Directory { index, ..Directory::default() };
        directory.nodes = self.nodes.clone().into_iter().collect();
        directory.folders = self.folders.clone().into_iter().collect();
        directory.removed = self.removed.iter().copied().collect();
        for shard in 0..SHARDS {
            let replicas = self.replicas.get(&shard).cloned().unwrap_or_default();
            directory.shards.push_back(replicas);
            directory.leaders.push_back(self.led.get(&shard).copied());
        }
        for key in self.keys() {
            let of = self.live.iter().filter(|(at, _)| *at == key);
            let shards = self.durable.iter().filter(|(at, _)| *at == key);
            let places = Places {
                nodes: of.map(|(_, node)| *node).collect(),
                shards: shards.map(|(_, shard)| 1 << shard).sum(),
            };
            assert!((0..SHARDS).all(|at| {
                places.has_shard(ShardId(at)) == self.durable.contains(&(key.clone(), at))
            }));
            directory.routes.insert(key, places);
        }
        for (room, (kind, owner, created)) in self.rooms.clone() {
            let members = self.count(&room);
            let facts = Bytes::new();
            let of = Room { kind, owner, facts, members, created };
            directory.rooms.rooms.insert(room, of);
        }
        for ((room, user), (role, since)) in self.members.clone() {
            let pair = (room.clone(), user.clone());
            let nodes = self.from.iter().filter(|(of, _)| *of == pair).map(|(_, node)| *node);
            let member = RoomMember { role, since, nodes: nodes.collect() };
            directory.rooms.members.insert(pair, member);
            directory.rooms.of_user.insert((user, room));
        }
        directory
    }
}
