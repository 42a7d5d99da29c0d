//! PUBRELs leave in the order of their PUBRECs, though the writes between them end in any order.
//!
//! - Owns: the packet ids of PUBRECs under way. Takes: a PUBREC, the end of its write. Gives: ids that
//!   may be released now.
//! - Bound: the client's window; empty when nothing is under way.
//! - Source: MQTT 5.0 section 4.6, MQTT-4.6.0-4.

use std::{collections::VecDeque, num::NonZeroU16};

/// See the file header.
#[derive(Debug, Default)]
pub(super) struct ReleaseOrder {
    waiting: VecDeque<(NonZeroU16, bool)>,
    /// Number of the first one waiting.
    first: u64,
}

impl ReleaseOrder {
    /// A PUBREC came; returns its number.
    pub(super) fn begin(&mut self, packet_id: NonZeroU16) -> u64 {
        self.waiting.push_back((packet_id, false));
        self.first + self.waiting.len() as u64 - 1
    }

    /// It is written.
    pub(super) fn written(&mut self, number: u64) {
        let at = usize::try_from(number.wrapping_sub(self.first)).ok();
        if let Some((_, written)) = at.and_then(|at| self.waiting.get_mut(at)) {
            *written = true;
        }
    }

    /// Takes the next id to release, if its turn has come.
    pub(super) fn next(&mut self) -> Option<NonZeroU16> {
        let (packet_id, written) = *self.waiting.front()?;
        if !written {
            return None;
        }
        self.waiting.pop_front();
        self.first += 1;
        Some(packet_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_when_written_in_any_order_then_given_in_order_of_receipt() {
        let id = |number| NonZeroU16::new(number).unwrap();
        let mut order = ReleaseOrder::default();
        let numbers: Vec<u64> =
            [7, 3, 9].into_iter().map(|number| order.begin(id(number))).collect();
        order.written(numbers[2]);
        order.written(numbers[1]);
        assert_eq!(order.next(), None);
        order.written(numbers[0]);
        let given: Vec<_> = std::iter::from_fn(|| order.next()).collect();
        assert_eq!(given, [id(7), id(3), id(9)]);
        let later = order.begin(id(3));
        order.written(numbers[0]);
        assert_eq!(order.next(), None, "an old number does not count again");
        order.written(later);
        assert_eq!(order.next(), Some(id(3)));
    }
}
