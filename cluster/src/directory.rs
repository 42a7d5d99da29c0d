//! What every node knows of the cluster: members, who leads what, routes, rooms with their members.
//!
//! - Owns: immutable maps that share their structure with the ones before and after.
//! - Takes: nothing; `meta/` makes a new one per applied batch. Gives: reads that wait for nobody (NO-WAIT-READ).
//! - Bound: what the meta group holds; a clone costs a few pointers.
//! - Source: own design; ARCHITECTURE.md "The directory".

use std::{collections::BTreeSet, ops::Bound};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::id::{NodeId, ShardId};

/// The cluster as of one position of the meta group's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Index of the last command that is in it.
    pub index: u64,
    /// Every member, those that are down as well.
    pub nodes: imbl::OrdMap<NodeId, Member>,
    /// The data folders of members that have said which it is.
    pub folders: imbl::OrdMap<NodeId, [u8; 16]>,
    /// Ids of members that were removed; never given again.
    pub removed: imbl::OrdSet<NodeId>,
    /// Members that are on their way out.
    pub leaving: imbl::OrdMap<NodeId, Leaving>,
    /// The highest id that was promised to a node that asked for one.
    pub promised: u64,
    /// Where shards were wished to be; they stay there for as long as that is possible.
    pub wishes: imbl::OrdMap<ShardId, Vec<NodeId>>,
    /// Replicas of each shard, in order of preference for its lead.
    pub shards: imbl::Vector<Vec<NodeId>>,
    /// The newest leader that each shard has reported.
    pub leaders: imbl::Vector<Option<Led>>,
    /// Where messages go: opaque keys to nodes with live subscribers and shards with durable ones.
    pub routes: imbl::HashMap<Bytes, Places>,
    /// Rooms and groups with their members.
    pub rooms: Rooms,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The start of the node that counts; whatever an older one left behind is gone.
    pub incarnation: u64,
    /// Not declared down.
    pub up: bool,
    /// All its live routes are in the directory.
    pub routes_complete: bool,
    /// `host:port` for other members.
    pub cluster_addr: String,
    /// `host:port` that clients may be sent to; may be empty.
    pub client_addr: String,
    /// Its release.
    pub version: String,
}

/// How a member leaves the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leaving {
    /// Its replicas move away, with its help while it is up.
    Moving,
    /// It is down and will not come back with its data: its replicas are given up.
    Lost,
    /// No group has it as a voter any more: its process may end.
    Released,
}

/// Who leads a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Led {
    /// The leader.
    pub node: NodeId,
    /// Its term in the shard's group.
    pub term: u64,
}

/// Where a route leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// Nodes with live subscribers, ascending.
    pub nodes: SmallVec<[NodeId; 2]>,
    /// Shards with durable subscribers, one bit each.
    pub shards: u64,
}

impl Places {
    /// Returns whether it leads nowhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.shards == 0
    }

    /// Returns whether it leads to a shard.
    #[must_use]
    pub fn has_shard(&self, shard: ShardId) -> bool {
        1_u64.checked_shl(u32::from(shard.0)).is_some_and(|bit| self.shards & bit != 0)
    }
}

/// What a room is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoomKind {
    /// Members leave with the node that they joined from.
    Room,
    /// Members stay until they leave.
    Group,
}

/// What a member may do; the order is that of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Takes part.
    Member,
    /// Helps the owner.
    Admin,
    /// Owns the room.
    Owner,
}

/// A room or a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// What it is.
    pub kind: RoomKind,
    /// The user that owns it; need not be a member.
    pub owner: Bytes,
    /// Opaque facts of whoever created it.
    pub facts: Bytes,
    /// How many members it has.
    pub members: u32,
    /// Index of the command that created it: tells it from an earlier one of the same name.
    pub created: u64,
}

/// A member of a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomMember {
    /// What it may do.
    pub role: Role,
    /// Index of the command that made it one.
    pub since: u64,
    /// Nodes that it is here from, ascending; none for a member of a group.
    pub nodes: SmallVec<[NodeId; 1]>,
}

/// All rooms and their members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rooms {
    pub(crate) rooms: imbl::OrdMap<Bytes, Room>,
    /// By room, then user.
    pub(crate) members: imbl::OrdMap<(Bytes, Bytes), RoomMember>,
    /// By user, then room.
    pub(crate) of_user: imbl::OrdSet<(Bytes, Bytes)>,
}

impl Rooms {
    /// Returns a room.
    #[must_use]
    pub fn get(&self, room: &Bytes) -> Option<&Room> {
        self.rooms.get(room)
    }

    /// Returns how many rooms there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// Returns whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// Walks rooms in the order of their names, beginning behind `after`.
    pub fn page(&self, after: Option<&Bytes>) -> impl Iterator<Item = (&Bytes, &Room)> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        self.rooms.range((from, Bound::Unbounded))
    }

    /// Returns a member of a room.
    #[must_use]
    pub fn member(&self, room: &Bytes, user: &Bytes) -> Option<&RoomMember> {
        self.members.get(&(room.clone(), user.clone()))
    }

    /// Walks the members of a room in the order of their names, beginning behind `after`.
    pub fn members<'a>(
        &'a self,
        room: &'a Bytes,
        after: Option<&Bytes>,
    ) -> impl Iterator<Item = (&'a Bytes, &'a RoomMember)> {
        let from = match after {
            Some(after) => Bound::Excluded((room.clone(), after.clone())),
            None => Bound::Included((room.clone(), Bytes::new())),
        };
        let all = self.members.range((from, Bound::Unbounded));
        all.take_while(move |((of, _), _)| of == room).map(|((_, user), member)| (user, member))
    }

    /// Walks the rooms of a user in the order of their names, beginning behind `after`.
    pub fn of_user<'a>(
        &'a self,
        user: &'a Bytes,
        after: Option<&Bytes>,
    ) -> impl Iterator<Item = &'a Bytes> {
        let from = match after {
            Some(after) => Bound::Excluded((user.clone(), after.clone())),
            None => Bound::Included((user.clone(), Bytes::new())),
        };
        let all = self.of_user.range((from, Bound::Unbounded));
        all.take_while(move |(of, _)| of == user).map(|(_, room)| room)
    }
}

impl Directory {
    /// Returns the replicas of a shard; none if there is no such shard.
    #[must_use]
    pub fn replicas(&self, shard: ShardId) -> &[NodeId] {
        self.shards.get(usize::from(shard.0)).map_or(&[], Vec::as_slice)
    }

    /// Returns the newest leader that a shard has reported.
    #[must_use]
    pub fn leader(&self, shard: ShardId) -> Option<Led> {
        self.leaders.get(usize::from(shard.0)).copied().flatten()
    }

    /// Returns whether `node` is the only member.
    #[must_use]
    pub fn is_alone(&self, node: NodeId) -> bool {
        self.nodes.len() == 1 && self.nodes.contains_key(&node)
    }

    /// Returns the members that do not leave.
    #[must_use]
    pub fn staying(&self) -> BTreeSet<NodeId> {
        self.nodes.keys().copied().filter(|node| !self.leaving.contains_key(node)).collect()
    }

    /// Returns the members that are up, those that leave as well.
    #[must_use]
    pub fn up(&self) -> BTreeSet<NodeId> {
        let up = self.nodes.iter().filter(|(_, member)| member.up);
        up.map(|(node, _)| *node).collect()
    }

    /// Returns whether this incarnation of a node counts and is up.
    #[must_use]
    pub fn is_up(&self, node: NodeId, incarnation: u64) -> bool {
        self.nodes.get(&node).is_some_and(|member| member.up && member.incarnation == incarnation)
    }
}
