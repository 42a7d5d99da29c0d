//! The members of one shared group: found by key, and taken in turn.
//!
//! - Owns: one entry per member; an index from `INDEXED_MIN` members on; whose turn it is.
//! - Takes: joins, leaves, ends of connections. Gives: the member whose turn it is.
//! - Bound: one entry per session. All but `turn` take constant time in a large group; a turn passes over
//!   members that are away.
//! - Source: own design.

use std::{mem, time::Duration};

use ahash::AHashMap;
use tokio::time::Instant;

use super::{Member, MemberKey};
use crate::clock;

/// How long a member without room is passed over.
const REST: Duration = Duration::from_millis(50);

/// Fewer members are looked through one by one.
const INDEXED_MIN: usize = 16;

/// See the file header.
#[derive(Debug, Default)]
pub(super) struct Members {
    list: Vec<Member>,
    /// Places in `list`; empty while there are few.
    places: AHashMap<MemberKey, usize>,
    connected: usize,
    next: usize,
    /// Who had no room, until when they are passed over.
    resting: Vec<(MemberKey, Instant)>,
}

impl Members {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Returns how many are connected.
    pub(super) fn connected(&self) -> usize {
        self.connected
    }

    pub(super) fn get(&self, key: MemberKey) -> Option<&Member> {
        self.list.get(self.place(key)?)
    }

    pub(super) fn any(&self, fits: impl Fn(&Member) -> bool) -> bool {
        self.list.iter().any(fits)
    }

    /// Adds a member or replaces it; `true` if it is new.
    pub(super) fn put(&mut self, member: Member) -> bool {
        self.connected += usize::from(member.connection.is_some());
        if let Some(old) = self.place(member.key).and_then(|at| self.list.get_mut(at)) {
            self.connected -= usize::from(old.connection.is_some());
            *old = member;
            return false;
        }
        self.list.push(member);
        if !self.places.is_empty() {
            self.places.insert(member.key, self.list.len() - 1);
        } else if self.list.len() == INDEXED_MIN {
            let places = self.list.iter().enumerate().map(|(at, member)| (member.key, at));
            self.places = places.collect();
        }
        true
    }

    /// Takes a member out; `false` if it was none.
    pub(super) fn remove(&mut self, key: MemberKey) -> bool {
        let Some(at) = self.place(key) else { return false };
        let gone = self.list.swap_remove(at);
        self.connected -= usize::from(gone.connection.is_some());
        if self.list.len() < INDEXED_MIN / 2 {
            self.places = AHashMap::new();
        } else if !self.places.is_empty() {
            self.places.remove(&key);
            if let Some(moved) = self.list.get(at) {
                self.places.insert(moved.key, at);
            }
        }
        true
    }

    /// Notes that the connection of a member has ended; `false` if there was none.
    pub(super) fn disconnect(&mut self, key: MemberKey) -> bool {
        let member = self.place(key).and_then(|at| self.list.get_mut(at));
        let was = member.is_some_and(|member| member.connection.take().is_some());
        self.connected -= usize::from(was);
        was
    }

    /// Passes a member over for a moment: it has no room.
    pub(super) fn rest(&mut self, key: MemberKey) {
        self.wake();
        if !self.is_resting(key) {
            self.resting.push((key, clock::timer_now() + REST));
        }
    }

    fn is_resting(&self, key: MemberKey) -> bool {
        self.resting.iter().any(|(resting, _)| *resting == key)
    }

    fn wake(&mut self) {
        if !self.resting.is_empty() {
            let now = clock::timer_now();
            self.resting.retain(|(_, until)| *until > now);
        }
    }

    /// Tells whether a connected member is not known to lack room.
    pub(super) fn any_with_room(&mut self) -> bool {
        self.wake();
        let has_room =
            |member: &Member| member.connection.is_some() && !self.is_resting(member.key);
        self.resting.len() < self.connected || self.list.iter().any(has_room)
    }

    /// Gives the next member, of the connected ones if there are any, of those with room if there are any.
    pub(super) fn turn_with_room(&mut self) -> Option<Member> {
        self.wake();
        if self.resting.is_empty() {
            return self.turn(|_| true);
        }
        let resting = mem::take(&mut self.resting);
        let has_room = |member: &Member| !resting.iter().any(|(key, _)| *key == member.key);
        let next = if self.connected > 0 { self.turn(has_room) } else { None };
        self.resting = resting;
        next.or_else(|| self.turn(|_| true))
    }

    /// Gives the next member that fits, of the connected ones if there are any.
    pub(super) fn turn(&mut self, fits: impl Fn(&Member) -> bool) -> Option<Member> {
        let anyone = self.connected == 0;
        self.turn_of_all(|member| (anyone || member.connection.is_some()) && fits(member))
    }

    /// Gives the next member that fits, connected or not.
    pub(super) fn turn_of_all(&mut self, fits: impl Fn(&Member) -> bool) -> Option<Member> {
        let all = self.list.len();
        for step in 0..all {
            let at = (self.next + step) % all;
            let member = self.list.get(at)?;
            if fits(member) {
                self.next = at + 1;
                return Some(*member);
            }
        }
        None
    }

    fn place(&self, key: MemberKey) -> Option<usize> {
        if self.places.is_empty() {
            return self.list.iter().position(|member| member.key == key);
        }
        self.places.get(&key).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{connection_id::ConnectionId, id::SessionKey, wire::SubscriptionOptions};

    fn member(number: u32, connected: bool) -> Member {
        Member {
            key: MemberKey::Session(SessionKey(number.into())),
            connection: connected.then(|| ConnectionId::new(0, 0, number)),
            options: SubscriptionOptions::default(),
            subscription_id: 0,
        }
    }

    #[test]
    fn members_when_they_come_and_go_then_each_is_found_and_has_its_turn() {
        for all in [1, 5, INDEXED_MIN, 60] {
            let mut members = Members::default();
            let all = u32::try_from(all).unwrap();
            for number in 0..all {
                assert!(members.put(member(number, number % 3 != 0)));
                assert!(!members.put(member(number, true)), "known");
            }
            for left in (0..all).rev() {
                let mut turns: Vec<u32> = (0..=left)
                    .map(|_| members.turn(|_| true).unwrap().connection.unwrap().slot())
                    .collect();
                turns.sort_unstable();
                assert!(turns.into_iter().eq(0..=left), "each once in a round");
                assert!(members.get(member(left, true).key).is_some());
                assert!(members.remove(member(left, true).key));
                assert!(!members.remove(member(left, true).key));
            }
            assert!(members.is_empty() && members.connected == 0);
        }
    }

    #[test]
    fn turn_when_some_are_connected_then_passes_over_the_others() {
        let mut members = Members::default();
        for number in 0..40 {
            members.put(member(number, true));
        }
        for number in (0..40).filter(|number| *number != 7) {
            assert!(members.disconnect(member(number, true).key));
            assert!(!members.disconnect(member(number, true).key));
        }
        assert_eq!(members.turn(|_| true), Some(member(7, true)));
        assert_eq!(members.turn(|_| true), Some(member(7, true)));
        assert!(members.disconnect(member(7, true).key));
        let first = members.turn(|_| true).unwrap();
        assert_ne!(members.turn(|_| true), Some(first), "all in turn while nobody is there");
        assert_eq!(members.turn(|_| false), None);
    }
}
