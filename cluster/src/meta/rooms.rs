//! Rooms and groups: members of a room come from nodes and leave with them, members of a group stay.
//!
//! - Owns: rooms of the directory, and which memberships hang on which node.
//! - Takes: `RoomCommand`. Gives: changes of the directory.
//! - Bound: `META_ROOMS_MAX`, `META_ROOM_MEMBERS_MAX`, `META_MEMBERSHIPS_MAX`, `META_ROOMS_OF_USER_MAX`; names and
//!   facts as in `limits`.
//! - Source: own design.

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    command::{MetaReply, Refusal, RoomCommand, RoomReply},
    machine::{MetaMachine, No, Turn},
    record::{self, RoomRecord},
};
use crate::{
    directory::{Role, Room, RoomKind, RoomMember},
    id::NodeId,
    limits::{META_FACTS_BYTES_MAX, META_ROOM_BYTES_MAX, META_USER_BYTES_MAX},
    machine::Store,
};

fn is_name(name: &Bytes, bytes_max: usize) -> bool {
    !name.is_empty() && name.len() <= bytes_max
}

impl MetaMachine {
    pub(super) fn load_rooms(&mut self, store: &dyn Store) {
        record::each(store, record::ROOM, |key, value| {
            if let Some(RoomRecord { kind, owner, facts, created }) = record::read(b"r", &value) {
                self.now.rooms.rooms.insert(key, Room { kind, owner, facts, members: 0, created });
            }
        });
        record::each(store, record::MEMBER, |key, value| {
            let member = record::read::<RoomMember>(b"m", &value);
            let Some(((room, user), member)) = record::member_parts(&key).zip(member) else {
                return;
            };
            let rooms = &mut self.now.rooms;
            if let Some(of) = rooms.rooms.get_mut(&room) {
                of.members += 1;
            }
            for node in &member.nodes {
                self.joined_from.entry(*node).or_default().insert((room.clone(), user.clone()));
            }
            rooms.of_user.insert((user.clone(), room.clone()));
            rooms.members.insert((room, user), member);
        });
    }

    pub(super) fn room(&mut self, turn: &mut Turn<'_>, command: RoomCommand) -> MetaReply {
        let done = match command {
            RoomCommand::Create { room, kind, owner, facts } => {
                let record = RoomRecord { kind, owner, facts, created: turn.index };
                self.create_room(turn, room, record)
            }
            RoomCommand::Change { room, owner, facts } => {
                self.change_room(turn, &room, owner, facts)
            }
            RoomCommand::Destroy { room } => self.destroy_room(turn, &room),
            RoomCommand::Join { room, user, role, from } => self.join(turn, room, user, role, from),
            RoomCommand::Leave { room, user, from } => self.leave(turn, room, user, from),
        };
        match done {
            Ok(reply) => MetaReply::Room(reply),
            Err(No::Fenced) => MetaReply::Fenced,
            Err(No::Refused(why)) => MetaReply::Refused(why),
        }
    }

    fn create_room(
        &mut self,
        turn: &mut Turn<'_>,
        room: Bytes,
        record: RoomRecord,
    ) -> Result<RoomReply, No> {
        if !is_name(&room, META_ROOM_BYTES_MAX)
            || record.owner.len() > META_USER_BYTES_MAX
            || record.facts.len() > META_FACTS_BYTES_MAX
        {
            return Err(Refusal::Limit.into());
        }
        if self.now.rooms.rooms.contains_key(&room) {
            return Err(Refusal::RoomExists.into());
        }
        if self.now.rooms.rooms.len() >= self.limits.rooms {
            return Err(Refusal::Full.into());
        }
        turn.store.put(record::room(&room), record::value(&record));
        self.changes.rooms.insert(room.clone());
        let RoomRecord { kind, owner, facts, created } = record;
        self.now.rooms.rooms.insert(room, Room { kind, owner, facts, members: 0, created });
        Ok(RoomReply::Done)
    }

    fn change_room(
        &mut self,
        turn: &mut Turn<'_>,
        room: &Bytes,
        owner: Option<Bytes>,
        facts: Option<Bytes>,
    ) -> Result<RoomReply, No> {
        let owner_is_long = owner.as_ref().is_some_and(|owner| owner.len() > META_USER_BYTES_MAX);
        let facts_are_long = facts.as_ref().is_some_and(|facts| facts.len() > META_FACTS_BYTES_MAX);
        if owner_is_long || facts_are_long {
            return Err(Refusal::Limit.into());
        }
        let of = self.now.rooms.rooms.get_mut(room).ok_or(Refusal::NoRoom)?;
        of.owner = owner.unwrap_or_else(|| of.owner.clone());
        of.facts = facts.unwrap_or_else(|| of.facts.clone());
        let Room { kind, owner, facts, created, .. } = of.clone();
        let record = RoomRecord { kind, owner, facts, created };
        turn.store.put(record::room(room), record::value(&record));
        self.changes.rooms.insert(room.clone());
        Ok(RoomReply::Done)
    }

    fn destroy_room(&mut self, turn: &mut Turn<'_>, room: &Bytes) -> Result<RoomReply, No> {
        if !self.now.rooms.rooms.contains_key(room) {
            return Err(Refusal::NoRoom.into());
        }
        let members = self.now.rooms.members(room, None);
        let users: Vec<Bytes> = members.map(|(user, _)| user.clone()).collect();
        for user in users {
            self.end_membership(turn, (room.clone(), user));
        }
        self.now.rooms.rooms.remove(room);
        turn.store.delete(&record::room(room));
        self.changes.rooms.insert(room.clone());
        Ok(RoomReply::Done)
    }

    fn join(
        &mut self,
        turn: &mut Turn<'_>,
        room: Bytes,
        user: Bytes,
        role: Role,
        from: Option<(NodeId, u64)>,
    ) -> Result<RoomReply, No> {
        if !is_name(&user, META_USER_BYTES_MAX) {
            return Err(Refusal::Limit.into());
        }
        let of = self.now.rooms.rooms.get(&room).ok_or(Refusal::NoRoom)?;
        let from = match (of.kind, from) {
            (RoomKind::Group, _) => None,
            (RoomKind::Room, None) => return Err(Refusal::NoNode.into()),
            (RoomKind::Room, Some((node, incarnation))) => {
                self.check_up(node, incarnation)?;
                Some(node)
            }
        };
        let members = of.members;
        let key = (room, user);
        let old = self.now.rooms.members.get(&key);
        let new = old.is_none();
        if new && self.is_full(&key, members) {
            return Err(Refusal::Full.into());
        }
        let mut member =
            old.cloned().unwrap_or(RoomMember { role, since: turn.index, nodes: SmallVec::new() });
        if let Some(node) = from
            && let Err(at) = member.nodes.binary_search(&node)
        {
            member.nodes.insert(at, node);
            self.joined_from.entry(node).or_default().insert(key.clone());
        } else if !new && member.role == role {
            return Ok(RoomReply::Joined { new, members });
        }
        member.role = role;
        if new {
            self.now.rooms.of_user.insert((key.1.clone(), key.0.clone()));
            self.count(&key.0, 1);
        }
        self.changes.rooms.insert(key.0.clone());
        self.put_membership(turn, key, member);
        Ok(RoomReply::Joined { new, members: members + u32::from(new) })
    }

    fn is_full(&self, (_, user): &(Bytes, Bytes), members: u32) -> bool {
        let rooms = &self.now.rooms;
        members >= self.limits.room_members
            || rooms.members.len() >= self.limits.memberships
            || rooms.of_user(user, None).nth(self.limits.rooms_of_user - 1).is_some()
    }

    fn leave(
        &mut self,
        turn: &mut Turn<'_>,
        room: Bytes,
        user: Bytes,
        from: Option<(NodeId, u64)>,
    ) -> Result<RoomReply, No> {
        let of = self.now.rooms.rooms.get(&room).ok_or(Refusal::NoRoom)?;
        let (kind, members) = (of.kind, of.members);
        if let (RoomKind::Room, Some((node, incarnation))) = (kind, from) {
            self.check_up(node, incarnation)?;
        }
        let key = (room, user);
        if !self.now.rooms.members.contains_key(&key) {
            return Ok(RoomReply::Left { last: false, members });
        }
        let last = match (kind, from) {
            (RoomKind::Room, Some((node, _))) => self.leave_from(turn, key, node),
            _ => {
                self.end_membership(turn, key);
                true
            }
        };
        Ok(RoomReply::Left { last, members: members - u32::from(last) })
    }

    /// Ends what of a membership came from a node; returns whether that was all of it.
    fn leave_from(&mut self, turn: &mut Turn<'_>, key: (Bytes, Bytes), node: NodeId) -> bool {
        let Some(mut member) = self.now.rooms.members.get(&key).cloned() else { return false };
        let Ok(at) = member.nodes.binary_search(&node) else { return false };
        member.nodes.remove(at);
        if member.nodes.is_empty() {
            self.end_membership(turn, key);
            return true;
        }
        self.forget_node(node, &key);
        self.changes.rooms.insert(key.0.clone());
        self.put_membership(turn, key, member);
        false
    }

    fn put_membership(&mut self, turn: &mut Turn<'_>, key: (Bytes, Bytes), member: RoomMember) {
        turn.store.put(record::member(&key.0, &key.1), record::value(&member));
        self.now.rooms.members.insert(key, member);
    }

    /// Ends a membership as a whole.
    fn end_membership(&mut self, turn: &mut Turn<'_>, key: (Bytes, Bytes)) {
        let Some(member) = self.now.rooms.members.remove(&key) else { return };
        for node in member.nodes {
            self.forget_node(node, &key);
        }
        turn.store.delete(&record::member(&key.0, &key.1));
        self.count(&key.0, -1);
        self.changes.rooms.insert(key.0.clone());
        let (room, user) = key;
        self.now.rooms.of_user.remove(&(user, room));
    }

    fn forget_node(&mut self, node: NodeId, key: &(Bytes, Bytes)) {
        if let Some(joined) = self.joined_from.get_mut(&node) {
            joined.remove(key);
            if joined.is_empty() {
                self.joined_from.remove(&node);
            }
        }
    }

    fn count(&mut self, room: &Bytes, by: i32) {
        if let Some(of) = self.now.rooms.rooms.get_mut(room) {
            of.members = of.members.saturating_add_signed(by);
        }
    }

    /// Ends what of all memberships came from a node.
    pub(super) fn drop_memberships(&mut self, turn: &mut Turn<'_>, node: NodeId) {
        for key in self.joined_from.remove(&node).unwrap_or_default() {
            self.leave_from(turn, key, node);
        }
    }
}
