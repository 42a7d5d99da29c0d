//! When acknowledgements came, and when a majority of the nodes was healthy.
//!
//! - Owns: pauses between acknowledgements, times without a healthy majority. Takes: both, with their times.
//! - Gives: the longest time without an acknowledgement for which no fault is an excuse.
//! - Bound: pauses below `GAP_MIN` are not kept. Pure: the clock is an argument.

use std::time::{Duration, Instant};

/// Shorter pauses say nothing.
const GAP_MIN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Pulse {
    last: Instant,
    gaps: Vec<(Instant, Instant)>,
    /// Begin and end; the end is open as long as it lasts.
    excused: Vec<(Instant, Option<Instant>)>,
}

impl Pulse {
    pub(super) fn new(at: Instant) -> Self {
        Self { last: at, gaps: Vec::new(), excused: Vec::new() }
    }

    /// An acknowledgement has come, or the load has ended.
    pub(super) fn beat(&mut self, at: Instant) {
        if at.saturating_duration_since(self.last) >= GAP_MIN {
            self.gaps.push((self.last, at));
        }
        self.last = self.last.max(at);
    }

    /// A majority is healthy from now on, or no longer.
    pub(super) fn majority(&mut self, healthy: bool, at: Instant) {
        match self.excused.last_mut() {
            Some((_, end @ None)) if healthy => *end = Some(at),
            Some((_, None)) => {}
            _ if healthy => {}
            _ => self.excused.push((at, None)),
        }
    }

    /// Returns the longest time without an acknowledgement inside times with a healthy majority.
    pub(super) fn longest(&self) -> Duration {
        self.gaps.iter().map(|gap| self.longest_in(*gap)).max().unwrap_or_default()
    }

    fn longest_in(&self, (mut from, to): (Instant, Instant)) -> Duration {
        let mut longest = Duration::ZERO;
        for (begin, end) in &self.excused {
            let end = end.unwrap_or(to);
            if end <= from || *begin >= to {
                continue;
            }
            longest = longest.max(begin.saturating_duration_since(from));
            from = end.min(to);
        }
        longest.max(to.saturating_duration_since(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulse_when_a_majority_is_away_then_its_time_does_not_count() {
        let start = crate::support::wait::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut pulse = Pulse::new(start);
        pulse.beat(at(3));
        assert_eq!(pulse.longest(), Duration::from_secs(3));
        pulse.majority(true, at(3));
        pulse.majority(false, at(5));
        pulse.majority(false, at(6));
        pulse.majority(true, at(13));
        pulse.beat(at(14));
        assert_eq!(pulse.longest(), Duration::from_secs(3));
        pulse.beat(at(18));
        assert_eq!(pulse.longest(), Duration::from_secs(4));
        pulse.majority(false, at(19));
        pulse.beat(at(40));
        assert_eq!(pulse.longest(), Duration::from_secs(4));
    }
}
