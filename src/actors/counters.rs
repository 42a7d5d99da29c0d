//! What one worker thread counts; the metrics page adds the threads up.
//!
//! - Owns: plain numbers. Only their own thread writes them, so an addition is a load and a store.
//! - Takes: additions from the worker's thread. Gives: reads from any thread.
//! - Bound: fixed size; nothing per connection.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::model::message::Qos;

/// A number that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`; only for the thread that owns the counter.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// Takes `amount` off; only for the thread that owns the counter.
    pub fn subtract(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(amount), Relaxed);
    }

    /// Reads the number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Why a delivery did not reach one receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum DropCause {
    /// The receiver's outbox holds its limit (QoS 0).
    Slow = 0,
    /// Larger than the receiver's maximum packet size.
    TooLarge = 1,
    /// Past its expiry.
    Expired = 2,
    /// The receiver's queue of unacknowledged deliveries overflowed; it is disconnected.
    Overflow = 3,
    /// A live member of a shared group left it unacknowledged, and it could not be dealt to another.
    GivenBack = 4,
}

/// What metrics call the causes, in order.
pub const DROP_CAUSES: [&str; 5] = ["slow", "too_large", "expired", "overflow", "given_back"];

/// The numbers of one worker thread.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections open now.
    pub connections: Counter,
    /// Connections opened since the start.
    pub connections_opened: Counter,
    /// Sockets closed unread, because their listener had its limit.
    pub connections_refused: Counter,
    /// PUBLISH packets received, by QoS.
    pub messages_in: [Counter; 3],
    /// PUBLISH packets handed to sockets, by QoS.
    pub messages_out: [Counter; 3],
    /// Bytes read.
    pub bytes_in: Counter,
    /// Bytes written.
    pub bytes_out: Counter,
    /// Deliveries that did not happen, by [`DropCause`].
    pub dropped: [Counter; DROP_CAUSES.len()],
    /// System calls that wrote.
    pub writes: Counter,
    /// Handlers that panicked; each ended its connection alone.
    pub panics: Counter,
    /// Subscriptions of this worker's connections.
    pub subscriptions: Counter,
}

impl Counters {
    /// Counts deliveries that did not happen.
    pub fn drop_messages(&self, cause: DropCause, messages: u64) {
        self.dropped[cause as usize].add(messages);
    }

    /// Counts deliveries that were queued for a socket.
    pub fn deliver_messages(&self, qos: Qos, messages: u64) {
        self.messages_out[qos as usize].add(messages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_added_and_subtracted_gives_difference() {
        let counter = Counter::default();
        counter.add(5);
        counter.subtract(2);
        assert_eq!(counter.get(), 3);
    }

    #[test]
    fn drop_counts_only_its_cause() {
        let counters = Counters::default();
        counters.drop_messages(DropCause::Overflow, 4);
        assert_eq!(counters.dropped[DropCause::Overflow as usize].get(), 4);
        assert_eq!(counters.dropped[DropCause::Slow as usize].get(), 0);
    }
}
