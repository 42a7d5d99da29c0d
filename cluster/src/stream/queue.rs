//! One group's commands on this node, between callers and whoever carries them on.
//!
//! ```text
//! callers of this node ─▶ sender ─┬─▶ proposer, while this node leads the group
//! desk, for other nodes ─▶ line ──┘ └─▶ driver, while another node leads
//! ```
//!
//! - Owns: this node's sender, the runs of other nodes that wait for an entry, their doors.
//! - Takes: commands and verdicts, from any thread, without waiting. Gives: entries, requests, outcomes.
//! - Bound: permits in front; an entry takes `ENTRY_BYTES_TARGET` bytes and `ENTRY_COMMANDS_MAX` commands.
//! - Source: own design.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{
    door::Door,
    run::{Moment, Origin, Outcome, Refusal, Run, Verdict, adds_up_to},
    sender::{Leader, Room, Sender, Sending, Told},
};
use crate::{
    clock,
    error::ProposeError,
    limits::{
        ENTRY_BYTES_TARGET, ENTRY_COMMANDS_MAX, STREAM_NODES_MAX, STREAM_REQUEST_BYTES,
        STREAM_REQUESTS_MAX,
    },
    raft_group::permits::Permit,
};

/// One caller of `propose`.
pub(crate) struct Caller {
    pub(crate) reply: oneshot::Sender<Result<Bytes, ProposeError>>,
    /// Given back once the outcome is known, even if the caller stopped waiting.
    pub(crate) _permit: Permit,
}

/// A run of another node's stream that waits for its entry.
struct Entering {
    run: Run,
    commands: Vec<Bytes>,
    reply: oneshot::Sender<Verdict>,
    permit: Option<Permit>,
}

/// Who waits for the outcome of a run.
enum Ask {
    Here(Arc<Queue>, u64),
    /// The permit is given back with the outcome, or with the last copy of the entry.
    Peer(oneshot::Sender<Verdict>, Option<Permit>),
}

impl Ask {
    fn answer(self, verdict: Verdict) {
        match self {
            Self::Here(queue, request) => queue.settle(request, verdict),
            Self::Peer(reply, _permit) => drop(reply.send(verdict)),
        }
    }
}

/// Who waits for the runs of one entry: all clones of the entry share them, and the first to answer
/// takes them.
#[derive(Clone, Default)]
pub(crate) struct Asks(Option<Arc<Mutex<Vec<Ask>>>>);

impl Asks {
    fn new(asks: Vec<Ask>) -> Self {
        Self(Some(Arc::new(Mutex::new(asks))))
    }

    fn take(&self) -> Vec<Ask> {
        self.0.as_ref().map(|asks| std::mem::take(&mut *asks.lock())).unwrap_or_default()
    }

    /// Hands the outcomes out, as soon as the entry is applied.
    pub(crate) fn answer(&self, outcomes: impl IntoIterator<Item = Outcome>) {
        for (ask, outcome) in self.take().into_iter().zip(outcomes) {
            ask.answer(Verdict::Done(outcome));
        }
    }

    /// Tells all that the entry may be in a log, and may be applied later or never.
    pub(crate) fn doubt(&self) {
        for ask in self.take() {
            ask.answer(Verdict::Doubtful);
        }
    }
}

/// What one entry carries.
pub(crate) struct Gathered {
    pub(crate) commands: Vec<Bytes>,
    pub(crate) runs: Vec<Run>,
    pub(crate) asks: Asks,
}

/// See the file header.
pub(crate) struct Queue {
    node: u64,
    since: Instant,
    state: Mutex<State>,
    proposer: Notify,
    driver: Notify,
}

struct State {
    sender: Sender<Caller>,
    line: VecDeque<Entering>,
    doors: BTreeMap<u64, Door>,
    /// The lead is being handed over: nothing enters the log here.
    held: bool,
    closed: bool,
}

impl State {
    fn leads(&self, node: u64) -> bool {
        self.sender.leader().is_some_and(|leader| leader.node == node)
    }
}

impl Queue {
    pub(crate) fn new(origin: Origin) -> Arc<Self> {
        let state = State {
            sender: Sender::new(origin),
            line: VecDeque::new(),
            doors: BTreeMap::new(),
            held: false,
            closed: false,
        };
        Arc::new(Self {
            node: origin.node,
            since: clock::now(),
            state: Mutex::new(state),
            proposer: Notify::new(),
            driver: Notify::new(),
        })
    }

    fn now(&self) -> Moment {
        clock::now().saturating_duration_since(self.since)
    }

    /// Returns the instant of a moment.
    pub(crate) fn instant(&self, at: Moment) -> Instant {
        self.since + at
    }

    /// Changes the state, wakes whoever carries on if that let something go on, then tells callers.
    fn change<R>(&self, change: impl FnOnce(&mut State, Moment, &mut Told<Caller>) -> R) -> R {
        let mut told = Told::new();
        let mut state = self.state.lock();
        let (had_next, was_idle) = (state.sender.has_next(), state.sender.is_idle());
        let result = change(&mut state, self.now(), &mut told);
        let (has_next, is_idle) = (state.sender.has_next(), state.sender.is_idle());
        let here = state.leads(self.node);
        drop(state);
        if here && has_next && !had_next {
            self.proposer.notify_one();
        } else if !here && (has_next && !had_next || was_idle && !is_idle) {
            // Also without a leader: somebody has to say so to those who wait.
            self.driver.notify_one();
        }
        for (caller, outcome) in told {
            let _ = caller.reply.send(outcome);
        }
        result
    }

    /// Enqueues a command behind all that were enqueued before, and tells its order. `refusal` holds where
    /// this node leads; `behind` is the order of one that it is to follow.
    ///
    /// # Errors
    /// Nothing was written, nor will be.
    pub(crate) fn push(
        &self,
        command: Bytes,
        caller: Caller,
        behind: Option<u64>,
        refusal: Option<ProposeError>,
    ) -> Result<u64, ProposeError> {
        self.change(|state, now, _| {
            if state.closed {
                return Err(ProposeError::Unavailable);
            }
            if let Some(why) = refusal.filter(|_| state.leads(self.node)) {
                return Err(why);
            }
            let pushed = state.sender.push(command, caller, behind, now);
            pushed.map_err(|(_, why)| why)
        })
    }

    /// Takes over who leads the group.
    pub(crate) fn lead(&self, leader: Option<Leader>) {
        let news = self.change(|state, now, told| {
            let news = state.sender.leader() != leader;
            state.sender.lead(leader, now, told);
            state.held &= state.leads(self.node);
            news
        });
        if news {
            // Whoever carried on until now looks again, and so does whoever has to from now on.
            self.proposer.notify_one();
            self.driver.notify_one();
        }
    }

    /// Keeps commands out of the log while the lead is being handed over, or lets them go on. Those of
    /// other nodes go back to them; those of this one wait.
    pub(crate) fn hold(&self, held: bool) {
        self.state.lock().held = held;
        if held {
            self.send_back(Refusal::NotLeader(None));
        } else {
            self.proposer.notify_one();
        }
    }

    /// Refuses the runs of other nodes that wait.
    fn send_back(&self, why: Refusal) {
        let mut state = self.state.lock();
        let line = std::mem::take(&mut state.line);
        for waiting in &line {
            if let Some(door) = state.doors.get_mut(&waiting.run.origin.node) {
                door.refuse(&waiting.run);
            }
        }
        drop(state);
        for waiting in line {
            let _ = waiting.reply.send(Verdict::Refused(why));
        }
    }

    /// Takes over what became of a request.
    pub(crate) fn settle(&self, request: u64, verdict: Verdict) {
        self.change(|state, now, told| state.sender.settle(request, verdict, now, told));
    }

    /// Tells those that have waited long enough; returns when to come again.
    pub(crate) fn expire(&self) -> Option<Moment> {
        self.change(|state, now, told| {
            state.sender.expire(now, told);
            state.sender.expires()
        })
    }

    /// Takes no more; gives up what waits. What is under way still gets its outcome.
    pub(crate) fn close(&self) {
        self.change(|state, _, told| {
            state.closed = true;
            state.sender.refuse_unsent(ProposeError::Unavailable, told);
        });
        // Those of other nodes go on elsewhere.
        self.send_back(Refusal::NotLeader(None));
        self.proposer.notify_one();
        self.driver.notify_one();
    }

    /// Closes for good: what has no outcome by now gets none.
    pub(crate) fn end(&self) {
        self.close();
        self.change(|state, _, told| state.sender.end(told));
    }

    /// Returns whether commands are still taken; not after the group has ended.
    pub(crate) fn is_open(&self) -> bool {
        !self.state.lock().closed
    }

    /// Refuses what waits for an entry of this node.
    pub(crate) fn refuse(&self, why: ProposeError) {
        self.change(|state, _, told| {
            if state.leads(self.node) {
                state.sender.refuse_unsent(why, told);
            }
        });
        self.send_back(Refusal::Told(why));
    }

    /// Takes another node's run into the line, in the order of arrival. `term` is that of this leader,
    /// `refusal` why it takes nothing.
    pub(crate) fn enter(
        &self,
        request: u64,
        run: Run,
        commands: Vec<Bytes>,
        permit: Option<Permit>,
        term: u64,
        refusal: Option<Refusal>,
    ) -> Result<oneshot::Receiver<Verdict>, Verdict> {
        let mut state = self.state.lock();
        if state.doors.len() >= STREAM_NODES_MAX && !state.doors.contains_key(&run.origin.node) {
            // Members come and go; a door that is forgotten costs a sender a new epoch at most.
            state.doors.clear();
        }
        let closed = (state.closed || state.held).then_some(Refusal::NotLeader(None));
        let door = state.doors.entry(run.origin.node).or_default();
        if let Some(why) = door.check(request, term, &run) {
            return Err(why);
        }
        if let Some(why) = refusal.or(closed) {
            door.refuse(&run);
            return Err(Verdict::Refused(why));
        }
        door.enter(&run);
        let (reply, told) = oneshot::channel();
        state.line.push_back(Entering { run, commands, reply, permit });
        drop(state);
        self.proposer.notify_one();
        Ok(told)
    }

    /// Waits for something to propose here; `false` once the queue is closed.
    pub(crate) async fn filled(&self) -> bool {
        loop {
            let wake = self.proposer.notified();
            let again_at = {
                let state = self.state.lock();
                let own = state.leads(self.node) && state.sender.has_next() && !state.held;
                let now = self.now();
                // Whoever led before may have refused a request after this node began to lead.
                let not_before = Some(state.sender.not_before()).filter(|at| own && *at > now);
                let waits = own && not_before.is_none() || !state.line.is_empty() && !state.held;
                if state.closed || waits {
                    return !state.closed;
                }
                not_before.map(|at| self.instant(at))
            };
            match again_at {
                Some(at) => drop(tokio::time::timeout_at(at.into(), wake).await),
                None => wake.await,
            }
        }
    }

    /// Returns whether so many bytes of commands wait for an entry of this node: of this node, or of others.
    pub(crate) fn has_waiting(&self, bytes: usize) -> bool {
        let state = self.state.lock();
        let lines = state.line.iter().flat_map(|waiting| waiting.commands.iter().map(Bytes::len));
        adds_up_to(bytes, lines) || (state.leads(self.node) && state.sender.has_unsent(bytes))
    }

    /// Takes as much as an entry may carry: other nodes' runs up to half of it, own commands, and what
    /// else waits.
    pub(crate) fn gather(self: &Arc<Self>) -> Gathered {
        let mut entry = Filling::default();
        let mut state = self.state.lock();
        entry.take_line(&mut state.line, ENTRY_BYTES_TARGET / 2);
        if state.leads(self.node) && !state.held {
            let room = Room {
                bytes: ENTRY_BYTES_TARGET.saturating_sub(entry.bytes),
                commands: ENTRY_COMMANDS_MAX.saturating_sub(entry.commands.len()),
                requests: usize::MAX,
                grows: false,
                any_size: entry.runs.is_empty(),
            };
            if let Some(Sending { request, run, commands }) = state.sender.next(self.now(), room) {
                entry.add(run, commands, Ask::Here(self.clone(), request));
            }
        }
        entry.take_line(&mut state.line, ENTRY_BYTES_TARGET);
        drop(state);
        Gathered { commands: entry.commands, runs: entry.runs, asks: Asks::new(entry.asks) }
    }

    /// Returns whether nobody is known to lead. Looked at without a command that waits, too: the first one would be
    /// refused for the time in which nobody has asked.
    pub(crate) fn is_lost(&self) -> bool {
        self.state.lock().sender.leader().is_none()
    }

    /// Returns once the driver should look again.
    pub(crate) async fn woken(&self) {
        self.driver.notified().await;
    }

    /// Returns the next request to a leader elsewhere, or from when on there may be one.
    pub(crate) fn next(&self) -> Result<(u64, Sending), Option<Moment>> {
        let mut state = self.state.lock();
        let room = Room {
            bytes: STREAM_REQUEST_BYTES,
            commands: ENTRY_COMMANDS_MAX,
            requests: STREAM_REQUESTS_MAX,
            grows: true,
            any_size: true,
        };
        let now = self.now();
        let Some(to) = state.sender.leader().filter(|leader| leader.node != self.node) else {
            return Err(None);
        };
        let next = state.sender.next(now, room).map(|sending| (to.node, sending));
        next.ok_or_else(|| {
            let at = state.sender.not_before();
            (state.sender.has_next() && at > now).then_some(at)
        })
    }
}

/// An entry that is being filled.
#[derive(Default)]
struct Filling {
    bytes: usize,
    commands: Vec<Bytes>,
    runs: Vec<Run>,
    asks: Vec<Ask>,
}

impl Filling {
    fn add(&mut self, run: Run, mut commands: Vec<Bytes>, ask: Ask) {
        self.bytes += commands.iter().map(Bytes::len).sum::<usize>();
        if self.commands.is_empty() {
            self.commands = commands;
        } else {
            self.commands.append(&mut commands);
        }
        self.runs.push(run);
        self.asks.push(ask);
    }

    fn take_line(&mut self, line: &mut VecDeque<Entering>, bytes_max: usize) {
        while let Some(first) = line.front() {
            let bytes: usize = first.commands.iter().map(Bytes::len).sum();
            let fits = self.bytes + bytes <= bytes_max
                && self.commands.len() + first.commands.len() <= ENTRY_COMMANDS_MAX;
            // The first is taken whatever its size.
            if !fits && !self.runs.is_empty() {
                break;
            }
            if let Some(Entering { run, commands, reply, permit }) = line.pop_front() {
                self.add(run, commands, Ask::Peer(reply, permit));
            }
        }
    }
}
