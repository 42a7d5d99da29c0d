//! One timing wheel per thread: keep alive, time to CONNECT, lingering after the end.
//!
//! - Owns: one entry of eight bytes per connection that has a deadline.
//! - Takes: `schedule`; `advance` once a second. Gives: entries whose second has come. Whether the
//!   deadline really is due is asked of the link, which may have moved it on; then it is scheduled
//!   again. So a packet costs one store, never a timer.
//! - Bound: one live entry per link, and one more while a connection watches its publishes; moved-up deadlines leave stale ones for at most `BUCKETS` seconds.
//! - Source: Varghese and Lauck, "Hashed and hierarchical timing wheels", scheme 6.

/// Seconds that the wheel reaches; later deadlines are looked at once per turn.
const BUCKETS: usize = 512;

/// Whom to look at: slot (32 bits), generation (24 bits), ticket (8 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm(u64);

impl Alarm {
    /// Ticket of an entry that wakes the connection whatever its deadline is; no link has it.
    pub const LOOK: u8 = u8::MAX;

    /// Puts the parts together; `generation` is cut to 24 bits.
    #[must_use]
    pub fn new(slot: u32, generation: u32, ticket: u8) -> Self {
        let rest = u64::from(generation & 0x00ff_ffff) << 8 | u64::from(ticket);
        Self(u64::from(slot) << 32 | rest)
    }

    /// Returns the link's place in the table.
    #[must_use]
    pub fn slot(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or(0)
    }

    /// Returns the generation of that place.
    #[must_use]
    pub fn generation(self) -> u32 {
        u32::try_from(self.0 >> 8 & 0x00ff_ffff).unwrap_or(0)
    }

    /// Returns the link's ticket; an entry with an old one is stale.
    #[must_use]
    pub fn ticket(self) -> u8 {
        self.0.to_le_bytes()[0]
    }
}

/// The wheel; time is counted in seconds since the worker started.
#[derive(Debug)]
pub struct Wheel {
    buckets: Box<[Vec<Alarm>]>,
    now: u32,
}

impl Default for Wheel {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| Vec::new()).collect(), now: 0 }
    }
}

impl Wheel {
    /// Plans `alarm` for second `at`; the past means the next second.
    pub fn schedule(&mut self, at: u32, alarm: Alarm) {
        let reach = u32::try_from(BUCKETS - 1).unwrap_or(u32::MAX);
        let at = at.clamp(self.now.saturating_add(1), self.now.saturating_add(reach));
        self.buckets[at as usize % BUCKETS].push(alarm);
    }

    /// Moves to second `now` and takes out what was planned up to it.
    pub fn advance(&mut self, now: u32, due: &mut Vec<Alarm>) {
        let steps = (now.saturating_sub(self.now) as usize).min(BUCKETS);
        for step in 1..=steps {
            let bucket = &mut self.buckets[(self.now as usize + step) % BUCKETS];
            due.append(bucket);
            if bucket.capacity() > 1_024 {
                *bucket = Vec::new();
            }
        }
        self.now = now.max(self.now);
    }
}

const _: () = assert!(size_of::<Alarm>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    fn due(wheel: &mut Wheel, now: u32) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.advance(now, &mut due);
        due.into_iter().map(Alarm::slot).collect()
    }

    #[test]
    fn alarm_gives_its_parts_back() {
        let alarm = Alarm::new(u32::MAX, 0x0100_0002, 9);
        assert_eq!((alarm.slot(), alarm.generation(), alarm.ticket()), (u32::MAX, 2, 9));
    }

    #[test]
    fn alarms_fire_in_their_second_and_once() {
        let mut wheel = Wheel::default();
        wheel.schedule(2, Alarm::new(7, 0, 0));
        wheel.schedule(3, Alarm::new(8, 0, 0));
        assert_eq!(due(&mut wheel, 1), Vec::<u32>::new());
        assert_eq!(due(&mut wheel, 2), [7]);
        assert_eq!(due(&mut wheel, 5), [8]);
        assert_eq!(due(&mut wheel, 2_000), Vec::<u32>::new());
    }

    #[test]
    fn deadlines_in_the_past_fire_in_the_next_second() {
        let mut wheel = Wheel::default();
        assert_eq!(due(&mut wheel, 100), Vec::<u32>::new());
        wheel.schedule(50, Alarm::new(1, 0, 0));
        assert_eq!(due(&mut wheel, 100), Vec::<u32>::new());
        assert_eq!(due(&mut wheel, 101), [1]);
    }

    #[test]
    fn deadlines_beyond_the_reach_are_looked_at_once_per_turn() {
        let mut wheel = Wheel::default();
        wheel.schedule(100_000, Alarm::new(1, 0, 0));
        assert_eq!(due(&mut wheel, 511), [1]);
    }

    #[test]
    fn jump_over_more_than_a_turn_fires_all_once() {
        let mut wheel = Wheel::default();
        for at in 1..500 {
            wheel.schedule(at, Alarm::new(at, 0, 0));
        }
        assert_eq!(due(&mut wheel, 5_000).len(), 499);
    }
}
