//! Which sessions of a shard are online where, and which may have something durable.
//!
//! - Owns: 24 bytes per session in a hash table: the halves of its key, and a [`Seat`].
//! - Takes: sessions that come and go. Gives: copies of seats.
//! - Bound: one entry per session that is online or durable; its owner bounds them.

use ahash::AHashMap;

use crate::{
    limits,
    model::{connection_id::ConnectionId, id::SessionKey},
};

/// Two bits above the number of the worker are free.
const DURABLE: u64 = 1 << 63;
const ENDS: u64 = 1 << 62;
/// No connection has the highest slot.
const OFFLINE: u64 = 0xffff_ffff;

const _: () = assert!(limits::WORKER_THREADS_MAX <= 64);
const _: () = assert!(size_of::<(Key, Seat)>() == 24);

/// Eight bytes of alignment instead of sixteen.
type Key = [u64; 2];

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
    pub(super) fn new(connection: ConnectionId) -> Self {
        debug_assert!(connection.to_u64() & (DURABLE | ENDS) == 0);
        Self(connection.to_u64())
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

    pub(super) fn connection(self) -> Option<ConnectionId> {
        let number = self.0 & !(DURABLE | ENDS);
        (number & OFFLINE != OFFLINE).then(|| ConnectionId::from_u64(number))
    }

    fn leave(&mut self) {
        self.0 |= OFFLINE;
    }
}

/// The sessions of one shard.
#[derive(Default)]
pub(super) struct Register(AHashMap<Key, Seat>);

impl Register {
    /// Creates a register of sessions that are durable and offline.
    pub(super) fn of_durable(keys: impl IntoIterator<Item = SessionKey>) -> Self {
        let seat = Seat::default().durable(true);
        Self(keys.into_iter().map(|key| (halves(key), seat)).collect())
    }

    /// Returns what is known of a session.
    pub(super) fn get(&self, key: SessionKey) -> Option<Seat> {
        self.0.get(&halves(key)).copied()
    }

    /// Returns where a session is online.
    pub(super) fn connection(&self, key: SessionKey) -> Option<ConnectionId> {
        self.get(key)?.connection()
    }

    /// Puts a session in its seat; returns the one it had.
    pub(super) fn insert(&mut self, key: SessionKey, seat: Seat) -> Option<Seat> {
        self.0.insert(halves(key), seat)
    }

    /// Takes `connection` out of the seat of its session. A session that is not durable is forgotten.
    ///
    /// Returns the seat as it was; `None` if the session does not sit there with this connection.
    pub(super) fn leave(&mut self, key: SessionKey, connection: ConnectionId) -> Option<Seat> {
        let seat = self.0.get_mut(&halves(key))?;
        let was = *seat;
        if was.connection() != Some(connection) {
            return None;
        }
        seat.leave();
        if !was.is_durable() {
            self.0.remove(&halves(key));
        }
        Some(was)
    }

    /// Forgets a session that is offline.
    pub(super) fn forget(&mut self, key: SessionKey) {
        if self.get(key).is_some_and(|seat| seat.connection().is_none()) {
            self.0.remove(&halves(key));
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
fn halves(key: SessionKey) -> Key {
    [(key.0 >> 64) as u64, key.0 as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seat_keeps_connection_and_marks_apart() {
        for id in [ConnectionId::new(63, 0x00ff_ffff, u32::MAX - 1), ConnectionId::new(0, 0, 0)] {
            for (durable, ends) in [(false, false), (true, false), (false, true), (true, true)] {
                let seat = Seat::new(id).durable(durable).ending_with_connection(ends);
                assert_eq!(seat.connection(), Some(id));
                assert_eq!((seat.is_durable(), seat.ends_with_connection()), (durable, ends));
            }
        }
        assert_eq!(Seat::default().connection(), None);
    }

    #[test]
    fn leave_by_a_former_connection_changes_nothing() {
        let (key, old, new) =
            (SessionKey(7), ConnectionId::new(1, 1, 1), ConnectionId::new(1, 2, 1));
        let mut register = Register::default();
        register.insert(key, Seat::new(new));
        assert!(register.leave(key, old).is_none());
        assert_eq!(register.connection(key), Some(new));
        assert!(register.leave(key, new).is_some());
        assert!(register.get(key).is_none(), "a session that is not durable is forgotten");
    }

    #[test]
    fn durable_session_stays_until_it_is_forgotten() {
        let (key, connection) = (SessionKey(1 << 90 | 5), ConnectionId::new(0, 0, 9));
        let mut register = Register::of_durable([key]);
        assert_eq!(register.connection(key), None);
        register.insert(key, Seat::new(connection).durable(true));
        register.forget(key);
        assert_eq!(register.connection(key), Some(connection), "it is online");
        register.leave(key, connection);
        assert!(register.get(key).is_some());
        register.forget(key);
        assert!(register.get(key).is_none());
    }
}
