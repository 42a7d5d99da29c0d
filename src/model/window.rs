//! Deliveries of QoS 1 and 2 that a client has not finished: packet ids, window, what waits.
//!
//! - Owns: which packet ids are in use and how far each delivery has come; values of the caller's
//!   choice (a log position, or nothing), and what waits for a place in the window.
//! - Takes: acknowledgements. Gives: packet ids, and what each acknowledgement means.
//! - Bound: receive maximum of the client for what is out; messages and bytes for what waits.
//! - Source: MQTT 5.0 sections 2.2.1, 3.3.4, 4.3, 4.4, 4.9.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU16,
};

use super::{
    message::Qos,
    wire::{Ack, AckKind},
};

/// How far one delivery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// PUBLISH sent; PUBACK or PUBREC is due.
    Published(Qos),
    /// PUBREC came, PUBREL sent; PUBCOMP is due.
    Released,
}

/// What an acknowledgement means for the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged<V> {
    /// The delivery is finished; its packet id is free. Also after a PUBREC that refuses.
    Finished(V),
    /// PUBREC: send PUBREL. The value is a copy; the delivery goes on.
    Release(V),
    /// PUBREC came again: send PUBREL again.
    ReleaseAgain,
    /// PUBREC for an id that is not in use: answer PUBREL with "packet identifier not found".
    ReleaseUnknown,
    /// Nothing to do: the id is not in use.
    Unknown,
    /// The acknowledgement is of the wrong kind for the delivery: protocol error.
    Violation,
}

/// Unfinished deliveries of one receiver.
#[derive(Clone, Debug)]
pub struct Window<V> {
    out: BTreeMap<u16, (Progress, V)>,
    last_id: u16,
    receive_maximum: NonZeroU16,
}

impl<V: Copy> Window<V> {
    /// Returns an empty window. `last_id` is the packet id used last (0: none yet).
    #[must_use]
    pub fn new(receive_maximum: NonZeroU16, last_id: u16) -> Self {
        Self { out: BTreeMap::new(), last_id, receive_maximum }
    }

    /// Tells whether another delivery must wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.out.len() >= usize::from(self.receive_maximum.get())
    }

    /// Tells whether nothing is out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Returns how many deliveries are out.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Returns how many more fit.
    #[must_use]
    pub fn room(&self) -> usize {
        usize::from(self.receive_maximum.get()).saturating_sub(self.out.len())
    }

    /// Returns the packet id that was given out last.
    #[must_use]
    pub fn last_id(&self) -> u16 {
        self.last_id
    }

    /// Takes a place in the window and gives its packet id; `None` if it is full.
    pub fn begin(&mut self, qos: Qos, value: V) -> Option<NonZeroU16> {
        debug_assert!(qos != Qos::AtMostOnce);
        if self.is_full() {
            return None;
        }
        let id = self.free_id()?;
        self.last_id = id.get();
        self.out.insert(id.get(), (Progress::Published(qos), value));
        Some(id)
    }

    /// Puts back a delivery of an earlier connection, whatever the receive maximum is now; refuses
    /// an id that is in use.
    pub fn restore(&mut self, id: NonZeroU16, progress: Progress, value: V) -> bool {
        if self.out.contains_key(&id.get()) {
            return false;
        }
        self.last_id = id.get();
        self.out.insert(id.get(), (progress, value));
        true
    }

    /// Gives up a delivery that was not sent after all.
    pub fn cancel(&mut self, id: NonZeroU16) {
        self.out.remove(&id.get());
    }

    /// Takes PUBACK, PUBREC or PUBCOMP.
    pub fn acknowledge(&mut self, ack: &Ack) -> Acknowledged<V> {
        let id = ack.packet_id.get();
        let Some((progress, value)) = self.out.get_mut(&id) else {
            return match ack.kind {
                AckKind::Pubrec => Acknowledged::ReleaseUnknown,
                AckKind::Puback | AckKind::Pubcomp | AckKind::Pubrel => Acknowledged::Unknown,
            };
        };
        let value = *value;
        match (ack.kind, *progress) {
            (AckKind::Puback, Progress::Published(Qos::AtLeastOnce))
            | (AckKind::Pubcomp, Progress::Released) => {}
            (AckKind::Pubrec, Progress::Published(Qos::ExactlyOnce)) => {
                if !ack.reason.is_refusal() {
                    *progress = Progress::Released;
                    return Acknowledged::Release(value);
                }
            }
            (AckKind::Pubrec, Progress::Released) => return Acknowledged::ReleaseAgain,
            _ => return Acknowledged::Violation,
        }
        self.out.remove(&id);
        Acknowledged::Finished(value)
    }

    /// Walks what is out, by packet id.
    pub fn iter(&self) -> impl Iterator<Item = (u16, Progress, V)> + '_ {
        self.out.iter().map(|(id, (progress, value))| (*id, *progress, *value))
    }

    /// The next id after the last one that is not in use; ids are 1 to 65,535.
    fn free_id(&self) -> Option<NonZeroU16> {
        let mut id = self.last_id;
        loop {
            id = id.checked_add(1).unwrap_or(1);
            if !self.out.contains_key(&id) {
                return NonZeroU16::new(id);
            }
            if id == self.last_id {
                return None;
            }
        }
    }
}

/// What waits for a place in the window; bounded by messages and bytes.
#[derive(Clone, Debug)]
pub struct Pending<T> {
    queue: VecDeque<(u32, T)>,
    bytes: u64,
}

/// The queue of a receiver holds its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingFull;

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), bytes: 0 }
    }
}

impl<T> Pending<T> {
    /// Tells whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Returns how many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Returns the bytes of what waits.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts one at the end.
    ///
    /// # Errors
    /// `PendingFull`: a limit is reached; nothing was changed.
    pub fn push(
        &mut self,
        item: T,
        bytes: u32,
        messages_max: u32,
        bytes_max: u32,
    ) -> Result<(), PendingFull> {
        let bytes_after = self.bytes + u64::from(bytes);
        if self.queue.len() >= messages_max as usize || bytes_after > u64::from(bytes_max) {
            return Err(PendingFull);
        }
        self.queue.push_back((bytes, item));
        self.bytes = bytes_after;
        Ok(())
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<T> {
        let (bytes, item) = self.queue.pop_front()?;
        self.bytes -= u64::from(bytes);
        Some(item)
    }

    /// Looks at the oldest.
    #[must_use]
    pub fn front(&self) -> Option<&T> {
        self.queue.front().map(|(_, item)| item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::reason::Reason;

    fn window(receive_maximum: u16) -> Window<u32> {
        Window::new(NonZeroU16::new(receive_maximum).unwrap(), 0)
    }

    fn ack(kind: AckKind, id: u16) -> Ack {
        Ack { kind, packet_id: NonZeroU16::new(id).unwrap(), reason: Reason::Success }
    }

    #[test]
    fn begin_beyond_receive_maximum_waits_until_an_ack() {
        let mut window = window(2);
        assert_eq!(window.begin(Qos::AtLeastOnce, 10).map(NonZeroU16::get), Some(1));
        assert_eq!(window.begin(Qos::ExactlyOnce, 11).map(NonZeroU16::get), Some(2));
        assert_eq!(window.begin(Qos::AtLeastOnce, 12), None);
        assert_eq!(window.acknowledge(&ack(AckKind::Puback, 1)), Acknowledged::Finished(10));
        assert_eq!(window.begin(Qos::AtLeastOnce, 12).map(NonZeroU16::get), Some(3));
    }

    #[test]
    fn exactly_once_holds_its_place_until_pubcomp() {
        let mut window = window(1);
        window.begin(Qos::ExactlyOnce, 5).unwrap();
        assert_eq!(window.acknowledge(&ack(AckKind::Pubrec, 1)), Acknowledged::Release(5));
        assert!(window.is_full());
        assert_eq!(window.acknowledge(&ack(AckKind::Pubrec, 1)), Acknowledged::ReleaseAgain);
        assert_eq!(window.acknowledge(&ack(AckKind::Pubcomp, 1)), Acknowledged::Finished(5));
        assert!(window.is_empty());
    }

    #[test]
    fn pubrec_with_refusal_ends_the_delivery() {
        let mut window = window(1);
        window.begin(Qos::ExactlyOnce, 5).unwrap();
        let refusal = Ack { reason: Reason::QuotaExceeded, ..ack(AckKind::Pubrec, 1) };
        assert_eq!(window.acknowledge(&refusal), Acknowledged::Finished(5));
        assert!(window.is_empty());
    }

    #[test]
    fn pubrec_without_subscribers_is_no_refusal() {
        let mut window = window(1);
        window.begin(Qos::ExactlyOnce, 5).unwrap();
        let fine = Ack { reason: Reason::NoMatchingSubscribers, ..ack(AckKind::Pubrec, 1) };
        assert_eq!(window.acknowledge(&fine), Acknowledged::Release(5));
    }

    #[test]
    fn acks_of_the_wrong_kind_are_violations_and_change_nothing() {
        let mut window = window(4);
        window.begin(Qos::AtLeastOnce, 1).unwrap();
        window.begin(Qos::ExactlyOnce, 2).unwrap();
        assert_eq!(window.acknowledge(&ack(AckKind::Pubrec, 1)), Acknowledged::Violation);
        assert_eq!(window.acknowledge(&ack(AckKind::Puback, 2)), Acknowledged::Violation);
        assert_eq!(window.acknowledge(&ack(AckKind::Pubcomp, 2)), Acknowledged::Violation);
        assert_eq!(window.len(), 2);
    }

    #[test]
    fn unknown_ids_are_told_apart_by_kind() {
        let mut window = window(4);
        assert_eq!(window.acknowledge(&ack(AckKind::Puback, 9)), Acknowledged::Unknown);
        assert_eq!(window.acknowledge(&ack(AckKind::Pubcomp, 9)), Acknowledged::Unknown);
        assert_eq!(window.acknowledge(&ack(AckKind::Pubrec, 9)), Acknowledged::ReleaseUnknown);
    }

    #[test]
    fn ids_wrap_round_and_skip_those_in_use() {
        let mut window = window(65_535);
        for want in 1..=65_535 {
            assert_eq!(window.begin(Qos::AtLeastOnce, 0).map(NonZeroU16::get), Some(want));
        }
        assert_eq!(window.begin(Qos::AtLeastOnce, 0), None);
        for id in [2, 4] {
            window.acknowledge(&ack(AckKind::Puback, id));
        }
        assert_eq!(window.begin(Qos::AtLeastOnce, 0).map(NonZeroU16::get), Some(2));
        assert_eq!(window.begin(Qos::AtLeastOnce, 0).map(NonZeroU16::get), Some(4));
        assert_eq!(window.begin(Qos::AtLeastOnce, 0), None);
    }

    #[test]
    fn restore_keeps_ids_and_refuses_doubles() {
        let mut window = window(2);
        let id = NonZeroU16::new(700).unwrap();
        assert!(window.restore(id, Progress::Published(Qos::AtLeastOnce), 1));
        assert!(!window.restore(id, Progress::Released, 2));
        assert_eq!(window.begin(Qos::AtLeastOnce, 3).map(NonZeroU16::get), Some(701));
    }

    #[test]
    fn restore_beyond_a_smaller_receive_maximum_only_delays_new_ones() {
        let mut window = window(1);
        for id in [5, 6] {
            let id = NonZeroU16::new(id).unwrap();
            assert!(window.restore(id, Progress::Published(Qos::AtLeastOnce), 0));
        }
        assert_eq!(window.room(), 0);
        window.acknowledge(&ack(AckKind::Puback, 5));
        assert_eq!(window.begin(Qos::AtLeastOnce, 0), None);
        window.acknowledge(&ack(AckKind::Puback, 6));
        assert!(window.begin(Qos::AtLeastOnce, 0).is_some());
    }

    #[test]
    fn pending_refuses_beyond_either_limit() {
        let mut pending = Pending::default();
        assert_eq!(pending.push('a', 60, 2, 100), Ok(()));
        assert_eq!(pending.push('b', 60, 2, 100), Err(PendingFull));
        assert_eq!(pending.push('b', 40, 2, 100), Ok(()));
        assert_eq!(pending.push('c', 0, 2, 100), Err(PendingFull));
        assert_eq!((pending.len(), pending.bytes()), (2, 100));
        assert_eq!(pending.pop(), Some('a'));
        assert_eq!(pending.front(), Some(&'b'));
        assert_eq!(pending.bytes(), 40);
    }
}
