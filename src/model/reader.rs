//! How a durable session is read from its log: what to send, with which packet id, and how far it is
//! acknowledged. Pure; `actors/durable_reader.rs` asks the shard and writes to the link.
//!
//! - Owns: deliveries in flight of one connection, in order of position; the cursor.
//! - Takes: unfinished deliveries of the last connection, pages, acks, news that the log grew.
//! - Gives: steps to perform in order, ids to commit first, the cursor to report.
//! - Bound: the client's receive maximum; `SPAN_MAX` deliveries from the oldest unacknowledged on; nothing is read that could not be sent.
//! - Source: MQTT 5.0 sections 4.3.3, 4.4, 4.6, 4.9; design of "in flight" in ARCHITECTURE.md.
//!
//! ```text
//! want() ─► page ─► plan() ─► [commit ids of QoS 2] ─► steps: PUBLISH, PUBREL
//! PUBACK, PUBCOMP ─► acknowledge() ─► cursor and what lies beyond it
//! ```
//!
//! What was unfinished is sent again where the log comes to its position, so one pass over the log
//! keeps the original order: a resend, a delivery whose id was never written, then what is new.

mod acks;
mod flight;

use std::{collections::VecDeque, num::NonZeroU16};

use ahash::AHashMap;

pub use self::{
    acks::Acked,
    flight::{Flight, Progress},
};
use super::{id::Position, message::Qos};

/// What to read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Exclusive.
    pub after: Position,
    /// At most so many.
    pub messages: usize,
}

/// One thing to send, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// PUBLISH of the page's message `index`.
    Publish {
        /// Place in the page.
        index: usize,
        /// `None` for QoS 0.
        packet_id: Option<NonZeroU16>,
        /// A resend.
        dup: bool,
    },
    /// PUBREL.
    Release {
        /// Its id.
        packet_id: NonZeroU16,
    },
}

/// A page turned into things to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be committed before any step is performed; then call [`Reader::committed`].
    pub commit: Vec<(u16, Position)>,
    /// To be performed in order.
    pub steps: Vec<Step>,
}

/// Most deliveries from the oldest unacknowledged one on, with what is acknowledged behind it: so the log
/// can remember all of the latter.
pub const SPAN_MAX: usize = 8_192;

/// After every message.
const END: Position = Position { entry: u64::MAX, offset: u32::MAX };

/// The sequence number of a delivery that the pass over the log has not reached yet.
const AHEAD: u64 = u64::MAX;

/// Whether reading has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    None,
    On,
    /// And the page under way was asked for before.
    OnAndOutdated,
    /// It has not, but the page under way was asked for before it had.
    Outdated,
}

impl Hold {
    fn is_on(self) -> bool {
        matches!(self, Self::On | Self::OnAndOutdated)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Reader {
    window: u16,
    read_to: Position,
    caught_up: bool,
    /// The log grew while a page was under way.
    grew: bool,
    /// A page or a commit in front of its steps is under way.
    busy: bool,
    hold: Hold,
    /// Unfinished when the connection began, by position; taken over as the pass reaches them.
    resume: VecDeque<Flight>,
    /// By position; a finished one stays until all before it are finished.
    flights: VecDeque<Flight>,
    /// Sequence number of the front of `flights`.
    first: u64,
    /// Those of `flights` that are not done.
    unfinished: usize,
    /// Packet id → sequence number; also holds ids whose end is still being written.
    ids: AHashMap<u16, u64>,
    last_id: u16,
    /// QoS 2 ids whose end has to be written.
    completed: Vec<u16>,
    /// Acknowledged over earlier connections, behind something that is not.
    earlier: VecDeque<Position>,
    cursor: Position,
    reported: Position,
    /// Finished deliveries behind an unfinished one that were not reported yet.
    beyond_untold: usize,
}

impl Reader {
    /// Starts after `cursor` with what an earlier connection left unfinished.
    ///
    /// - Units: `window` is the client's receive maximum.
    #[must_use]
    pub fn new(window: NonZeroU16, cursor: Position, mut unfinished: Vec<Flight>) -> Self {
        unfinished.sort_by_key(|flight| flight.position);
        let ids = unfinished.iter().map(|flight| (flight.packet_id.get(), AHEAD)).collect();
        // New ids go on behind the last one used, so that an id rests as long as it can.
        let last_id = unfinished.last().map_or(0, |flight| flight.packet_id.get());
        Self {
            window: window.get(),
            read_to: cursor,
            caught_up: false,
            grew: false,
            busy: false,
            hold: Hold::None,
            resume: unfinished.into(),
            flights: VecDeque::new(),
            first: 0,
            unfinished: 0,
            ids,
            last_id,
            completed: Vec::new(),
            earlier: VecDeque::new(),
            cursor,
            reported: cursor,
            beyond_untold: 0,
        }
    }

    /// Adds what the log knows as acknowledged beyond the cursor, ascending.
    #[must_use]
    pub fn with_beyond(mut self, beyond: &[Position]) -> Self {
        self.earlier = beyond.iter().copied().collect();
        self
    }

    /// Tells whether so much lies behind the oldest unacknowledged delivery that nothing new is begun. What
    /// is resumed always goes on: it was counted before.
    fn is_spanned(&self) -> bool {
        self.resume.is_empty() && self.flights.len() + self.earlier.len() >= SPAN_MAX
    }

    /// Notes that new messages wait.
    pub fn grew(&mut self) {
        self.caught_up = false;
        self.grew = true;
    }

    /// Says what to read now, if anything; the caller asks the shard and must answer with
    /// [`Reader::plan`] or [`Reader::failed`].
    pub fn want(&mut self) -> Option<Want> {
        let free = usize::from(self.window).saturating_sub(self.unfinished);
        if self.busy || self.hold.is_on() || free == 0 || self.caught_up || self.is_spanned() {
            return None;
        }
        self.busy = true;
        self.grew = false;
        Some(Want { after: self.read_to, messages: free })
    }

    /// Stops reading, until [`Reader::go_on`]; returns up to where messages have been or are being sent.
    pub fn hold(&mut self) -> Position {
        let is_committing =
            self.flights.iter().any(|flight| flight.progress == Progress::Committing);
        let outdated = self.is_outdated() || self.busy && !is_committing;
        self.hold = if outdated { Hold::OnAndOutdated } else { Hold::On };
        self.read_to
    }

    /// Tells whether the page that came was asked for before a [`Reader::hold`]: what it holds may be
    /// somebody else's. Answer it with [`Reader::failed`].
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        matches!(self.hold, Hold::OnAndOutdated | Hold::Outdated)
    }

    /// Reads again, from where it had come.
    pub fn go_on(&mut self) {
        self.hold = if self.is_outdated() { Hold::Outdated } else { Hold::None };
    }

    /// Notes that the page could not be read; it is wanted again. A commit that failed is no case of
    /// this: the caller keeps the plan and commits it again.
    pub fn failed(&mut self) {
        self.hold = if self.hold.is_on() { Hold::On } else { Hold::None };
        self.busy = false;
    }

    /// Turns a page into steps. `page` gives position and QoS of each message, oldest first.
    pub fn plan(
        &mut self,
        page: impl IntoIterator<Item = (Position, Qos)>,
        read_to: Position,
        caught_up: bool,
    ) -> Plan {
        let mut plan = Plan::default();
        let mut whole = true;
        for (index, (position, qos)) in page.into_iter().enumerate() {
            self.pass(|front| front < position, &mut plan);
            let (packet_id, dup) = if self.is_resumed(position) {
                self.read_to = position;
                let Some(packet_id) = self.resend(&mut plan) else { continue };
                (Some(packet_id), true)
            } else if qos == Qos::AtMostOnce {
                (None, false)
            } else if let Some(packet_id) = self.begin(position, qos, &mut plan) {
                (Some(packet_id), false)
            } else {
                whole = false;
                break;
            };
            self.read_to = position;
            plan.steps.push(Step::Publish { index, packet_id, dup });
        }
        if whole {
            self.read_to = self.read_to.max(read_to);
            self.caught_up = caught_up && !self.grew;
            let end = self.read_to;
            self.pass(|front| caught_up || front <= end, &mut plan);
        }
        self.busy = !plan.commit.is_empty();
        self.advance();
        plan
    }

    /// Notes that the ids of the last plan are committed: its steps may be performed.
    pub fn committed(&mut self) {
        self.busy = false;
        for flight in self.flights.iter_mut().rev() {
            if flight.progress == Progress::Committing {
                flight.progress = Progress::Published;
            }
        }
    }

    /// Everything up to and including this position is acknowledged.
    #[must_use]
    pub fn cursor(&self) -> Position {
        self.cursor
    }

    /// How many deliveries wait for acks.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// What the next connection has to resume, by position.
    pub fn leftovers(&self) -> impl Iterator<Item = Flight> + '_ {
        let left =
            |flight: &&Flight| !matches!(flight.progress, Progress::Done | Progress::Committing);
        self.flights.iter().filter(left).chain(self.resume.iter().filter(left)).copied()
    }

    /// Takes over resumed deliveries that the log does not give any more.
    fn pass(&mut self, passed: impl Fn(Position) -> bool, plan: &mut Plan) {
        while self.resume.front().is_some_and(|front| passed(front.position)) {
            let Some(flight) = self.resume.pop_front() else { return };
            let fresh = !flight.told;
            match (flight.qos, flight.progress) {
                // A QoS 1 message that expired or was dropped: no resend is owed and no client
                // remembers the id.
                (Qos::AtMostOnce | Qos::AtLeastOnce, _) | (_, Progress::Done) => {
                    self.take_over(Flight { progress: Progress::Done, ..flight });
                }
                // The client may remember the id of QoS 2. PUBREL makes it forget, whether it had
                // the PUBLISH or not, so that the id cannot swallow another message.
                (Qos::ExactlyOnce, Progress::Published | Progress::Released) if fresh => {
                    let packet_id = flight.packet_id;
                    self.take_over(Flight { progress: Progress::Released, ..flight });
                    plan.steps.push(Step::Release { packet_id });
                }
                (Qos::ExactlyOnce, _) => self.take_over(flight),
            }
        }
    }

    fn is_resumed(&self, position: Position) -> bool {
        self.resume.front().is_some_and(|front| front.position == position)
    }

    /// Takes over the front of `resume` at its position in the log; `Some`: send it again.
    fn resend(&mut self, plan: &mut Plan) -> Option<NonZeroU16> {
        let flight = self.resume.pop_front()?;
        let packet_id = flight.packet_id;
        self.take_over(flight);
        match flight.progress {
            Progress::Published => Some(packet_id),
            Progress::Released if !flight.told => {
                plan.steps.push(Step::Release { packet_id });
                None
            }
            Progress::Committing | Progress::Receiving | Progress::Released | Progress::Done => {
                None
            }
        }
    }

    /// Moves a resumed delivery into the order of this connection.
    fn take_over(&mut self, flight: Flight) {
        let done = flight.progress == Progress::Done;
        if done {
            self.forget(&flight);
            self.beyond_untold += 1;
        } else {
            let seq = self.first + self.flights.len() as u64;
            self.ids.insert(flight.packet_id.get(), seq);
            self.unfinished += 1;
        }
        self.flights.push_back(Flight { told: false, ..flight });
    }

    fn begin(&mut self, position: Position, qos: Qos, plan: &mut Plan) -> Option<NonZeroU16> {
        if self.is_spanned() {
            return None;
        }
        let packet_id = self.next_id()?;
        let progress = if qos == Qos::ExactlyOnce {
            plan.commit.push((packet_id.get(), position));
            Progress::Committing
        } else {
            Progress::Published
        };
        let seq = self.first + self.flights.len() as u64;
        self.ids.insert(packet_id.get(), seq);
        self.unfinished += 1;
        self.flights.push_back(Flight { packet_id, position, qos, progress, told: false });
        Some(packet_id)
    }

    /// Finds an id that neither side has in use.
    fn next_id(&mut self) -> Option<NonZeroU16> {
        for _ in 0..=u16::MAX {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = NonZeroU16::new(self.last_id)
                && !self.ids.contains_key(&id.get())
            {
                return Some(id);
            }
        }
        None
    }

    /// Frees the id; that of QoS 2 only when its end is written, see [`Reader::ended`].
    fn forget(&mut self, flight: &Flight) {
        if flight.qos == Qos::ExactlyOnce {
            self.completed.push(flight.packet_id.get());
            // No delivery has the number 0 of a front that moved on, so acks find nothing.
            self.ids.insert(flight.packet_id.get(), AHEAD - 1);
        } else {
            self.ids.remove(&flight.packet_id.get());
        }
    }

    fn advance(&mut self) {
        while let Some(front) = self.flights.front()
            && front.progress == Progress::Done
        {
            self.beyond_untold -= usize::from(!front.told);
            self.cursor = self.cursor.max(front.position);
            self.first += 1;
            self.flights.pop_front();
        }
        let next = self.resume.front().map_or(END, |front| front.position);
        if self.flights.is_empty() && self.read_to < next {
            self.cursor = self.cursor.max(self.read_to);
        }
        while self.earlier.front().is_some_and(|front| *front <= self.cursor) {
            self.earlier.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
