//! Which sessions of a shard are online where, and which may have something durable.
//!
//! - Owns: 24 bytes per session in a hash table: the halves of its key, and a [`Seat`]; the starts of nodes
//!   that seats name.
//! - Takes: sessions that come and go. Gives: copies of seats.
//! - Bound: one entry per session that is online or durable; its owner bounds them. Connections of
//!   [`PLACES_MAX`] starts of nodes at a time.

use ahash::AHashMap;

use crate::{
    actors::view::Start,
    limits,
    model::{connection_id::ConnectionId, id::SessionKey},
};

/// Two bits above the number of the worker are free.
const DURABLE: u64 = 1 << 63;
const ENDS: u64 = 1 << 62;
/// Bits of a slot; what is above them in the half of a connection's name says whose it is.
const SLOT_BITS: u32 = 26;
const SLOT: u64 = (1 << SLOT_BITS) - 1;
/// No connection has the highest slot.
const OFFLINE: u64 = SLOT;
const PLACE: u64 = 0xffff_ffff & !SLOT;
/// Starts of nodes whose connections one register can name.
const PLACES_MAX: usize = 1 << (32 - SLOT_BITS);

const _: () = assert!(limits::WORKER_THREADS_MAX <= 64);
const _: () = assert!(limits::CONNECTIONS_PER_WORKER_MAX as u64 <= OFFLINE);
const _: () = assert!(size_of::<(Key, Seat)>() == 24);

/// Eight bytes of alignment instead of sixteen.
type Key = [u64; 2];

/// Which of the starts that a register knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u8);

/// A connection of one of the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seated {
    pub(super) place: Place,
    pub(super) connection: ConnectionId,
}

/// What is known of one session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat(u64);

impl Default for Seat {
    fn default() -> Self {
        Self(OFFLINE)
    }
}

impl Seat {
    /// Seats a connection.
    pub(super) fn new(seated: Seated) -> Self {
        let connection = seated.connection.to_u64();
        debug_assert!(connection & (DURABLE | ENDS | PLACE) == 0);
        Self(connection | u64::from(seated.place.0) << SLOT_BITS)
    }

    /// Sets whether the shard may hold something of the session: said too often costs one commit, too
    /// seldom loses.
    pub(super) fn durable(self, durable: bool) -> Self {
        Self(if durable { self.0 | DURABLE } else { self.0 & !DURABLE })
    }

    /// Sets whether what the shard holds goes with the connection (session expiry 0).
    pub(super) fn ending_with_connection(self, ends: bool) -> Self {
        Self(if ends { self.0 | ENDS } else { self.0 & !ENDS })
    }

    pub(super) fn is_durable(self) -> bool {
        self.0 & DURABLE != 0
    }

    pub(super) fn ends_with_connection(self) -> bool {
        self.0 & ENDS != 0
    }

    pub(super) fn seated(self) -> Option<Seated> {
        let connection = ConnectionId::from_u64(self.0 & !(DURABLE | ENDS | PLACE));
        let place = Place(u8::try_from((self.0 & PLACE) >> SLOT_BITS).unwrap_or(0));
        (self.0 & SLOT != OFFLINE).then_some(Seated { place, connection })
    }

    fn leave(&mut self) {
        self.0 |= OFFLINE;
    }
}

/// The sessions of one shard.
#[derive(Default)]
pub(super) struct Register {
    sessions: AHashMap<Key, Seat>,
    places: Vec<Option<Start>>,
}

impl Register {
    /// Names a start of a node; `None` if there are too many.
    pub(super) fn place(&mut self, start: Start) -> Option<Place> {
        let known = self.places.iter().position(|place| *place == Some(start));
        let free = || self.places.iter().position(Option::is_none);
        let at = known.or_else(free).unwrap_or(self.places.len());
        if at >= PLACES_MAX {
            return None;
        }
        match self.places.get_mut(at) {
            Some(place) => *place = Some(start),
            None => self.places.push(Some(start)),
        }
        u8::try_from(at).ok().map(Place)
    }

    /// Names a connection.
    pub(super) fn seated(&mut self, start: Start, connection: ConnectionId) -> Option<Seated> {
        Some(Seated { place: self.place(start)?, connection })
    }

    /// Returns which start of which node is meant.
    pub(super) fn start(&self, place: Place) -> Option<Start> {
        self.places.get(usize::from(place.0)).copied().flatten()
    }

    /// Every connection of this start is dead.
    pub(super) fn forget_start(&mut self, start: Start) {
        let known = self.places.iter().position(|place| *place == Some(start));
        let Some(at) = known else { return };
        self.sessions.retain(|_, seat| {
            if seat.seated().is_some_and(|seated| usize::from(seated.place.0) == at) {
                seat.leave();
                return seat.is_durable();
            }
            true
        });
        self.places[at] = None;
    }

    /// Returns what is known of a session.
    pub(super) fn get(&self, key: SessionKey) -> Option<Seat> {
        self.sessions.get(&halves(key)).copied()
    }

    /// Returns where a session is online.
    pub(super) fn connection(&self, key: SessionKey) -> Option<(Start, ConnectionId)> {
        let seated = self.get(key)?.seated()?;
        Some((self.start(seated.place)?, seated.connection))
    }

    /// Puts a session in its seat; returns the one it had.
    pub(super) fn insert(&mut self, key: SessionKey, seat: Seat) -> Option<Seat> {
        self.sessions.insert(halves(key), seat)
    }

    /// The shard holds something of this session.
    pub(super) fn mark_durable(&mut self, key: SessionKey) {
        let seat = self.sessions.entry(halves(key)).or_default();
        *seat = seat.durable(true);
    }

    /// Takes a connection out of the seat of its session. A session that is not durable is forgotten.
    ///
    /// Returns the seat as it was; `None` if the session does not sit there with this connection.
    pub(super) fn leave(&mut self, key: SessionKey, seated: Seated) -> Option<Seat> {
        let seat = self.sessions.get_mut(&halves(key))?;
        let was = *seat;
        if was.seated() != Some(seated) {
            return None;
        }
        seat.leave();
        if !was.is_durable() {
            self.sessions.remove(&halves(key));
        }
        Some(was)
    }

    /// Forgets a session that is offline.
    pub(super) fn forget(&mut self, key: SessionKey) {
        if self.get(key).is_some_and(|seat| seat.seated().is_none()) {
            self.sessions.remove(&halves(key));
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
fn halves(key: SessionKey) -> Key {
    [(key.0 >> 64) as u64, key.0 as u64]
}

#[cfg(test)]
mod tests {
    use hongqiao_cluster::id::NodeId;

    use super::*;

    fn start(node: u64) -> Start {
        Start { node: NodeId(node), incarnation: 1 }
    }

    #[test]
    fn seat_keeps_connection_place_and_marks_apart() {
        let highest = limits::CONNECTIONS_PER_WORKER_MAX - 1;
        for id in [ConnectionId::new(63, 0x00ff_ffff, highest), ConnectionId::new(0, 0, 0)] {
            for (durable, ends) in [(false, false), (true, false), (false, true), (true, true)] {
                for place in [Place(0), Place(63)] {
                    let seated = Seated { place, connection: id };
                    let seat = Seat::new(seated).durable(durable).ending_with_connection(ends);
                    assert_eq!(seat.seated(), Some(seated));
                    assert_eq!((seat.is_durable(), seat.ends_with_connection()), (durable, ends));
                }
            }
        }
        assert_eq!(Seat::default().seated(), None);
    }

    #[test]
    fn leave_by_a_former_connection_changes_nothing() {
        let (key, id) = (SessionKey(7), ConnectionId::new(1, 1, 1));
        let mut register = Register::default();
        let old = register.seated(start(1), id).unwrap();
        // The same name on another node is another connection.
        let new = register.seated(start(2), id).unwrap();
        register.insert(key, Seat::new(new));
        assert!(register.leave(key, old).is_none());
        assert_eq!(register.connection(key), Some((start(2), id)));
        assert!(register.leave(key, new).is_some());
        assert!(register.get(key).is_none(), "a session that is not durable is forgotten");
    }

    #[test]
    fn durable_session_stays_until_it_is_forgotten() {
        let (key, connection) = (SessionKey(1 << 90 | 5), ConnectionId::new(0, 0, 9));
        let mut register = Register::default();
        register.mark_durable(key);
        assert_eq!(register.connection(key), None);
        let seated = register.seated(start(1), connection).unwrap();
        register.insert(key, Seat::new(seated).durable(true));
        register.forget(key);
        assert_eq!(register.connection(key), Some((start(1), connection)), "it is online");
        register.leave(key, seated);
        assert!(register.get(key).is_some());
        register.forget(key);
        assert!(register.get(key).is_none());
    }

    #[test]
    fn start_that_is_gone_takes_its_connections_and_leaves_what_is_durable() {
        let mut register = Register::default();
        let connection = ConnectionId::new(0, 0, 1);
        for (key, node, durable) in [(1, 1, false), (2, 2, false), (3, 2, true)] {
            let seated = register.seated(start(node), connection).unwrap();
            register.insert(SessionKey(key), Seat::new(seated).durable(durable));
        }
        register.forget_start(start(2));
        assert!(register.connection(SessionKey(1)).is_some());
        assert!(register.get(SessionKey(2)).is_none());
        let left = register.get(SessionKey(3)).unwrap();
        assert_eq!((left.seated(), left.is_durable()), (None, true));
        // Its place is free for another one; there are no more than fit.
        for node in 3..3 + PLACES_MAX as u64 - 1 {
            assert!(register.place(start(node)).is_some());
        }
        assert!(register.place(start(99)).is_none());
    }
}
