//! One node's stream to one group: numbers commands, keeps them until their outcome is known.
//!
//! ```text
//! items:  [ done | in doubt or under way | not sent ]      Streaming: requests go out behind each other
//!          first ┘          first + sent ┘                 Rewinding: a request was refused; once the
//!                                                          others are answered its numbers are used again
//!                                                          Opening: a request is in doubt; a new epoch
//!                                                          voids what may still be on its way
//! ```
//!
//! - Owns: the commands of this node that have no outcome. Takes: verdicts, leaders, the time.
//! - Gives: requests in order; to each caller exactly one outcome, the true one.
//! - A number that may be in some log is never given to another command: only the opening of a new epoch
//!   (`table.rs`) says which commands are in the state, and that the others never will be.
//! - ORDER: what is dropped takes with it all that was taken behind it before its caller could know. Whoever
//!   proposes behind a command without an outcome says so, and is refused once such a break has come.
//! - Bound: the callers' permits; what is sent by `Room`.
//! - Source: own design.

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;

use super::run::{Moment, Origin, Outcome, Refusal, Run, Verdict, adds_up_to};
use crate::{
    error::ProposeError,
    limits::{LEADERLESS_PATIENCE, PROPOSE_TIMEOUT, STREAM_GIVE_UP, STREAM_RETRY},
};

/// Callers, and what they are told.
pub(crate) type Told<C> = Vec<(C, Result<Bytes, ProposeError>)>;

/// How much may be sent now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) bytes: usize,
    pub(crate) commands: usize,
    /// Requests under way, with the new one.
    pub(crate) requests: usize,
    /// Of several requests under way, one carries no less than those in front of it together: under load they
    /// grow instead of becoming more.
    pub(crate) grows: bool,
    /// The first command is taken whatever its size.
    pub(crate) any_size: bool,
}

/// A request to the leader.
#[derive(Clone, Debug)]
pub(crate) struct Sending {
    /// Grows from request to request of a stream.
    pub(crate) request: u64,
    pub(crate) run: Run,
    pub(crate) commands: Vec<Bytes>,
}

/// Who leads, since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) node: u64,
    /// 0: a guess.
    pub(crate) term: u64,
}

impl Leader {
    fn is_guess(self) -> bool {
        self.term == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Streaming,
    /// Without a reason: refused for what is in front alone.
    Rewinding {
        reason: bool,
    },
    Opening,
}

struct Item<C> {
    command: Bytes,
    since: Moment,
    /// `None` once told.
    caller: Option<C>,
    /// Why, if its caller was told of a failure.
    failed: Option<ProposeError>,
    /// In the state.
    done: bool,
    /// How many breaks there had been when it was taken.
    order: u64,
}

impl<C> Item<C> {
    /// Returns the caller, if he was told nothing yet, to be told of a failure.
    fn give_up(&mut self, why: ProposeError) -> Option<C> {
        let caller = self.caller.take();
        self.failed = self.failed.or(caller.is_some().then_some(why));
        caller
    }
}

/// Returns why a command fails that is dropped because of the failure in front of it: for the same reason,
/// and of itself it is known that nothing was written.
fn behind_a(failure: ProposeError) -> ProposeError {
    match failure {
        ProposeError::Unknown | ProposeError::TooLarge => ProposeError::Unavailable,
        why => why,
    }
}

struct UnderWay {
    request: u64,
    run: Run,
    bytes: usize,
}

/// See the file header.
pub(crate) struct Sender<C> {
    origin: Origin,
    epoch: u64,
    /// Number of the first item.
    first: u64,
    items: VecDeque<Item<C>>,
    /// How many items have a number.
    sent: usize,
    under_way: VecDeque<UnderWay>,
    last_request: u64,
    mode: Mode,
    leader: Option<Leader>,
    last_leader: Option<Leader>,
    leaderless_since: Moment,
    not_before: Moment,
    /// A later incarnation of this node is known: nothing of this one is taken any more.
    superseded: bool,
    /// Counts callers who were told that their command failed, or that nobody knows.
    breaks: u64,
    /// What the last of them was told.
    last_break: ProposeError,
}

impl<C> Sender<C> {
    pub(crate) fn new(origin: Origin) -> Self {
        Self {
            origin,
            epoch: 1,
            first: 1,
            items: VecDeque::new(),
            sent: 0,
            under_way: VecDeque::new(),
            last_request: 0,
            mode: Mode::Streaming,
            leader: None,
            last_leader: None,
            leaderless_since: Moment::ZERO,
            not_before: Moment::ZERO,
            superseded: false,
            breaks: 0,
            last_break: ProposeError::Unavailable,
        }
    }

    /// Takes a command behind all that were taken before, and tells its order.
    ///
    /// # Errors
    /// The caller, if there is no hope, or if one of those it was to follow (of the order `behind`) has failed.
    pub(crate) fn push(
        &mut self,
        command: Bytes,
        caller: C,
        behind: Option<u64>,
        now: Moment,
    ) -> Result<u64, (C, ProposeError)> {
        if self.superseded || self.is_leaderless(now) {
            return Err((caller, ProposeError::Unavailable));
        }
        if behind.is_some_and(|order| order != self.breaks) {
            return Err((caller, behind_a(self.last_break)));
        }
        let (order, caller) = (self.breaks, Some(caller));
        let item = Item { command, since: now, caller, failed: None, done: false, order };
        self.items.push_back(item);
        Ok(order)
    }

    /// Tells a caller that its command failed, or that nobody knows.
    fn fail(&mut self, caller: Option<C>, why: ProposeError, told: &mut Told<C>) {
        if let Some(caller) = caller {
            (self.breaks, self.last_break) = (self.breaks + 1, why);
            told.push((caller, Err(why)));
        }
    }

    /// Keeps of `items`, which are not in the state, those that nothing in front of them has failed: their
    /// callers wait, and they were taken after the last one that is dropped had told its caller. The others
    /// hear what the one in front heard.
    fn keep_unbroken(&mut self, items: VecDeque<Item<C>>, told: &mut Told<C>) {
        let mut broken: Option<(u64, ProposeError)> = None;
        for item in items {
            if item.caller.is_some() && broken.is_none_or(|(order, _)| item.order > order) {
                self.items.push_back(item);
                continue;
            }
            let in_front = broken.map(|(_, why)| why);
            let why = item.failed.or(in_front).map_or(ProposeError::Unavailable, behind_a);
            broken = Some((item.order, why));
            self.fail(item.caller, why, told);
        }
    }

    /// Returns whether nobody has led the group for so long that nobody should wait.
    fn is_leaderless(&self, now: Moment) -> bool {
        let patience = self.leaderless_since.saturating_add(LEADERLESS_PATIENCE);
        self.leader.is_none() && now >= patience
    }

    pub(crate) fn leader(&self) -> Option<Leader> {
        self.leader
    }

    /// Returns whether no command waits for its outcome.
    pub(crate) fn is_idle(&self) -> bool {
        self.items.is_empty() && self.under_way.is_empty()
    }

    /// Returns whether `next` has something, given room and time.
    pub(crate) fn has_next(&self) -> bool {
        self.leader.is_some()
            && match self.mode {
                Mode::Streaming => self.sent < self.items.len(),
                Mode::Rewinding { .. } => false,
                Mode::Opening => !self.is_opening(),
            }
    }

    /// Returns until when `next` gives nothing, after a refusal.
    pub(crate) fn not_before(&self) -> Moment {
        self.not_before
    }

    /// Returns when `expire` has something to do, unless something else happens first.
    pub(crate) fn expires(&self) -> Option<Moment> {
        let sent = self.items.range(..self.sent).find(|item| item.caller.is_some());
        let sent = sent.map(|item| item.since.saturating_add(PROPOSE_TIMEOUT));
        let waiting = self.items.get(self.sent).map(|item| {
            let give_up = item.since.saturating_add(STREAM_GIVE_UP);
            match self.leader {
                Some(_) => give_up,
                None => give_up.min(self.leaderless_since.saturating_add(LEADERLESS_PATIENCE)),
            }
        });
        [sent, waiting].into_iter().flatten().min()
    }

    fn is_opening(&self) -> bool {
        self.under_way.iter().any(|under_way| under_way.run.is_opening())
    }

    /// Returns the next request to the leader, if one may go out now.
    pub(crate) fn next(&mut self, now: Moment, room: Room) -> Option<Sending> {
        if !self.has_next() || now < self.not_before {
            return None;
        }
        let (run, commands) = if self.mode == Mode::Opening {
            let epoch = self.epoch.saturating_add(1);
            (Run { origin: self.origin, epoch, first: self.first, count: 0 }, Vec::new())
        } else {
            self.take(room)?
        };
        self.last_request += 1;
        let request = self.last_request;
        let bytes = commands.iter().map(Bytes::len).sum();
        self.under_way.push_back(UnderWay { request, run, bytes });
        Some(Sending { request, run, commands })
    }

    /// Returns whether so many bytes of commands have not been sent.
    pub(crate) fn has_unsent(&self, bytes: usize) -> bool {
        adds_up_to(bytes, self.items.range(self.sent..).map(|item| item.command.len()))
    }

    fn take(&mut self, room: Room) -> Option<(Run, Vec<Bytes>)> {
        let under_way = self.under_way.iter().map(|under_way| under_way.bytes).sum();
        if self.under_way.len() >= room.requests || (room.grows && !self.has_unsent(under_way)) {
            return None;
        }
        let (mut bytes, mut commands) = (0, Vec::new());
        for item in self.items.range(self.sent..).take(room.commands) {
            bytes += item.command.len();
            if bytes > room.bytes && (!room.any_size || !commands.is_empty()) {
                break;
            }
            commands.push(item.command.clone());
        }
        let count = u32::try_from(commands.len()).ok().filter(|count| *count > 0)?;
        let first = self.first + self.sent as u64;
        self.sent += commands.len();
        Some((Run { origin: self.origin, epoch: self.epoch, first, count }, commands))
    }

    /// Takes over what became of a request; a verdict on one that is no longer under way says nothing new.
    pub(crate) fn settle(
        &mut self,
        request: u64,
        verdict: Verdict,
        now: Moment,
        told: &mut Told<C>,
    ) {
        let at = self.under_way.iter().position(|under_way| under_way.request == request);
        let Some(UnderWay { run, .. }) = at.and_then(|at| self.under_way.remove(at)) else {
            return;
        };
        match verdict {
            Verdict::Done(Outcome::Applied(replies)) if !run.is_opening() => {
                self.applied(run, replies, told);
            }
            Verdict::Done(Outcome::Opened { last, replies }) if run.is_opening() => {
                self.opened(last, replies, told);
            }
            Verdict::Done(Outcome::Superseded { incarnation, epoch }) => {
                self.passed(incarnation, epoch, told);
            }
            Verdict::Done(Outcome::Gap) => self.refused(run, Refusal::Behind, now, told),
            Verdict::Refused(why) => self.refused(run, why, now, told),
            // What answers another question is no answer.
            Verdict::Done(Outcome::Applied(_) | Outcome::Opened { .. }) | Verdict::Doubtful => {
                self.mode = Mode::Opening;
            }
        }
        self.go_on(told);
    }

    fn applied(&mut self, run: Run, replies: Vec<Option<Bytes>>, told: &mut Told<C>) {
        debug_assert_eq!(run.epoch, self.epoch);
        for (seq, reply) in (run.first..).zip(replies) {
            // Those in front are done and gone; no more were sent than have a number.
            let at = seq.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
            let at = at.filter(|at| *at < self.sent);
            let Some(item) = at.and_then(|at| self.items.get_mut(at)) else { continue };
            let Some(reply) = reply else {
                // Applied before, by a twin that nobody answered: the opening of an epoch says what came of it.
                self.mode = Mode::Opening;
                continue;
            };
            item.done = true;
            told.extend(item.caller.take().map(|caller| (caller, Ok(reply))));
        }
    }

    fn refused(&mut self, run: Run, why: Refusal, now: Moment, told: &mut Told<C>) {
        let reason = why != Refusal::Behind;
        if reason {
            self.not_before = now.saturating_add(STREAM_RETRY);
        }
        if run.is_opening() {
            return;
        }
        if let Refusal::Told(error) = why {
            let at = usize::try_from(run.first.saturating_sub(self.first)).unwrap_or(usize::MAX);
            let count = usize::try_from(run.count).unwrap_or(usize::MAX);
            let run = self.items.range_mut(..self.sent).skip(at).take(count);
            let callers: Vec<_> = run.map(|item| item.give_up(error)).collect();
            callers.into_iter().for_each(|caller| self.fail(caller, error, told));
        }
        self.mode = match self.mode {
            Mode::Streaming => Mode::Rewinding { reason },
            Mode::Rewinding { reason: before } => Mode::Rewinding { reason: before || reason },
            Mode::Opening => Mode::Opening,
        };
    }

    /// The epoch has begun: what is not in the state never will be under its old number.
    fn opened(&mut self, last: u64, replies: Vec<(u64, Bytes)>, told: &mut Told<C>) {
        let mut replies = replies.into_iter().peekable();
        // Behind what was known to be applied: the group has lost its memory of this stream.
        let forgotten = last.saturating_add(1) < self.first;
        let mut absent = VecDeque::new();
        let unsent = self.items.split_off(self.sent);
        for (seq, mut item) in (self.first..).zip(std::mem::take(&mut self.items)) {
            if seq > last && !forgotten && !item.done {
                absent.push_back(item);
                continue;
            }
            while replies.next_if(|(at, _)| *at < seq).is_some() {}
            let reply = replies.next_if(|(at, _)| *at == seq).map(|(_, reply)| reply);
            let reply = reply.ok_or(ProposeError::Unknown);
            told.extend(item.caller.take().map(|caller| (caller, reply)));
        }
        absent.extend(unsent);
        self.keep_unbroken(absent, told);
        self.begin(self.epoch.saturating_add(1));
        self.not_before = Moment::ZERO;
    }

    fn begin(&mut self, epoch: u64) {
        (self.epoch, self.first, self.sent) = (epoch, 1, 0);
        self.under_way.clear();
        self.mode = Mode::Streaming;
    }

    /// The group knows a later incarnation or epoch than this request was of.
    fn passed(&mut self, incarnation: u64, epoch: u64, told: &mut Told<C>) {
        let own = incarnation == self.origin.incarnation;
        // An opening of this sender may have been applied without its answer: the next one will tell.
        if own && epoch <= self.epoch.saturating_add(1) {
            self.mode = Mode::Opening;
            return;
        }
        let doubtful: Vec<_> = self.items.drain(..self.sent).map(|item| item.caller).collect();
        doubtful.into_iter().for_each(|caller| self.fail(caller, ProposeError::Unknown, told));
        self.begin(epoch.max(self.epoch).saturating_add(1));
        self.superseded = !own;
        self.refuse_unsent(ProposeError::Unavailable, told);
    }

    /// Goes on once nothing stands in the way any more.
    fn go_on(&mut self, told: &mut Told<C>) {
        while self.sent > 0 && self.items.pop_front_if(|item| item.done).is_some() {
            self.first += 1;
            self.sent -= 1;
        }
        if !self.under_way.is_empty() {
            return;
        }
        match self.mode {
            // Nothing in front was refused: that leader counts otherwise than this node.
            Mode::Rewinding { reason: false } => self.mode = Mode::Opening,
            Mode::Rewinding { reason: true } => self.rewind(told),
            // Everything in doubt has been answered after all.
            Mode::Opening if self.sent == 0 => self.mode = Mode::Streaming,
            Mode::Streaming | Mode::Opening => {}
        }
    }

    fn rewind(&mut self, told: &mut Told<C>) {
        if self.items.range(..self.sent).any(|item| item.done) {
            // In the state behind something that is not: no leader of ours does that.
            self.mode = Mode::Opening;
            return;
        }
        let items = std::mem::take(&mut self.items);
        self.keep_unbroken(items, told);
        (self.sent, self.mode) = (0, Mode::Streaming);
    }

    /// Takes over who leads now. What was sent to another one, or in another term, is in doubt.
    pub(crate) fn lead(&mut self, leader: Option<Leader>, now: Moment, told: &mut Told<C>) {
        if leader.is_none() && self.leader.is_some() {
            self.leaderless_since = now;
        }
        self.leader = leader;
        if leader.is_none() || leader == self.last_leader {
            return;
        }
        self.last_leader = leader;
        if leader.is_some_and(|leader| !leader.is_guess()) {
            self.not_before = Moment::ZERO;
        }
        if !self.under_way.is_empty() {
            self.under_way.retain(|under_way| !under_way.run.is_opening());
            self.mode = Mode::Opening;
        }
        self.go_on(told);
    }

    /// Tells those that have waited long enough.
    pub(crate) fn expire(&mut self, now: Moment, told: &mut Told<C>) {
        let is_old = |item: &Item<C>, age: Duration| now >= item.since.saturating_add(age);
        let sent = self.items.range_mut(..self.sent);
        let old = sent.take_while(|item| is_old(item, PROPOSE_TIMEOUT));
        let old: Vec<_> = old.map(|item| item.give_up(ProposeError::Unknown)).collect();
        old.into_iter().for_each(|caller| self.fail(caller, ProposeError::Unknown, told));
        let gives_up = self.items.get(self.sent).is_some_and(|item| is_old(item, STREAM_GIVE_UP));
        if gives_up || self.is_leaderless(now) {
            // Those behind the one that has waited too long as well: they may be to follow it.
            self.refuse_unsent(ProposeError::Unavailable, told);
        }
    }

    /// Gives everything up: nobody carries it on any more.
    pub(crate) fn end(&mut self, told: &mut Told<C>) {
        self.refuse_unsent(ProposeError::Unavailable, told);
        let doubtful: Vec<_> = self.items.drain(..).map(|item| item.caller).collect();
        doubtful.into_iter().for_each(|caller| self.fail(caller, ProposeError::Unknown, told));
        self.begin(self.epoch.saturating_add(1));
    }

    /// Refuses what was not sent.
    pub(crate) fn refuse_unsent(&mut self, why: ProposeError, told: &mut Told<C>) {
        let unsent: Vec<_> = self.items.drain(self.sent..).map(|item| item.caller).collect();
        unsent.into_iter().for_each(|caller| self.fail(caller, why, told));
    }
}
