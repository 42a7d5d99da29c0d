//! Which routes one place (a node, a shard) wants in the directory, has there, and takes away again.
//!
//! - Owns: an entry per key with who holds it; the order of additions; when what nobody holds goes.
//! - Takes: holds and releases, the outcomes of proposals, barriers, the time in milliseconds. Gives: the next
//!   step to propose, one at a time; up to which addition all is in force everywhere.
//! - Bound: an entry per held key, or (`forgetful`) per key that is changing; a key waits at most once to
//!   leave.
//! - Why one step at a time: a removal that is under way while its key is held again is followed, never
//!   overtaken, by the addition.
//! - Source: EDGE-ROUTE in ARCHITECTURE.md.
//!
//! ```text
//! hold ─► Queued ─► Adding ─► Routed ─(nobody holds it, delay)─► Removing ─► gone
//!           ▲                                                       │ held again
//!           └───────────────────────────────────────────────────────┘
//! ```

use std::collections::{HashMap, VecDeque};

use ahash::RandomState;
use bytes::Bytes;

/// The number of an addition: it is in force when [`RouteBook::is_settled`] says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What is to be proposed next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// These keys are wanted.
    Add(Vec<Bytes>),
    /// Nobody has wanted these for a while.
    Remove(Vec<Bytes>),
}

/// Limits of one book.
#[derive(Clone, Copy, Debug)]
pub struct BookTerms {
    /// Most keys of a step.
    pub step_keys_max: usize,
    /// Most bytes of its keys, unless one alone is longer.
    pub step_bytes_max: usize,
    /// How long a key stays that nobody holds.
    pub linger_ms: u64,
    /// How long a removal rests that did not come out.
    pub retry_ms: u64,
    /// What is held and in force is not remembered: the owner can ask elsewhere.
    pub forgetful: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits to be proposed.
    Queued,
    /// Is being added.
    Adding,
    /// Is in the directory.
    Routed,
    /// Is being taken out of the directory, or may be out of it.
    Removing,
}

#[derive(Debug)]
struct Entry {
    holders: u64,
    ticket: Ticket,
    phase: Phase,
    /// When it may go, if nobody holds it then.
    due_ms: u64,
    /// It stands in `leaving`.
    leaves: bool,
}

/// Additions that are committed and not known to be in force everywhere.
#[derive(Debug)]
struct Committed {
    through: Ticket,
    index: u64,
    /// Only of a forgetful book.
    keys: Vec<Bytes>,
}

/// What is proposed and has no outcome.
#[derive(Debug)]
enum UnderWay {
    Add { keys: Vec<Bytes>, through: Ticket },
    Remove { keys: Vec<Bytes> },
}

/// See the head of the file.
#[derive(Debug)]
pub struct RouteBook {
    terms: BookTerms,
    entries: HashMap<Bytes, Entry, RandomState>,
    queued: VecDeque<(Ticket, Bytes)>,
    leaving: VecDeque<(u64, Bytes)>,
    under_way: Option<UnderWay>,
    committed: VecDeque<Committed>,
    last: Ticket,
    added: Ticket,
    settled: Ticket,
    /// The last step was an addition: a removal has its turn.
    added_last: bool,
}

impl RouteBook {
    /// Makes an empty book.
    #[must_use]
    pub fn new(terms: BookTerms) -> Self {
        Self {
            terms,
            entries: HashMap::default(),
            queued: VecDeque::new(),
            leaving: VecDeque::new(),
            under_way: None,
            committed: VecDeque::new(),
            last: Ticket::default(),
            added: Ticket::default(),
            settled: Ticket::default(),
            added_last: false,
        }
    }

    /// Holds a key for `holder` (one of 64); again changes nothing. Returns the addition to wait for.
    pub fn hold(&mut self, key: &Bytes, holder: u8) -> Ticket {
        let bit = 1_u64.checked_shl(holder.into()).unwrap_or(1);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.holders |= bit;
            if entry.phase != Phase::Removing {
                return entry.ticket;
            }
            self.last.0 += 1;
            entry.phase = Phase::Queued;
            entry.ticket = self.last;
        } else {
            self.last.0 += 1;
            let entry = Entry {
                holders: bit,
                ticket: self.last,
                phase: Phase::Queued,
                due_ms: 0,
                leaves: false,
            };
            self.entries.insert(key.clone(), entry);
        }
        self.queued.push_back((self.last, key.clone()));
        self.last
    }

    /// Ends the hold of `holder`. A key that nobody holds goes after the delay.
    pub fn release(&mut self, key: &Bytes, holder: u8, now_ms: u64) {
        let bit = 1_u64.checked_shl(holder.into()).unwrap_or(1);
        let due_ms = now_ms.saturating_add(self.terms.linger_ms);
        if let Some(entry) = self.entries.get_mut(key) {
            if entry.holders & bit == 0 {
                return;
            }
            entry.holders &= !bit;
            if entry.holders == 0 {
                entry.due_ms = due_ms;
                if !std::mem::replace(&mut entry.leaves, true) {
                    self.leaving.push_back((due_ms, key.clone()));
                }
            }
        } else if self.terms.forgetful {
            self.forsake(key, due_ms);
        }
    }

    /// Has a key leave that stands in the directory and that nobody holds.
    pub fn forsake(&mut self, key: &Bytes, due_ms: u64) {
        if self.entries.contains_key(key) {
            return;
        }
        let (ticket, phase) = (Ticket::default(), Phase::Routed);
        let entry = Entry { holders: 0, ticket, phase, due_ms, leaves: true };
        self.entries.insert(key.clone(), entry);
        // Out of order at most by the delay: what is due behind it waits that much longer.
        self.leaving.push_back((due_ms, key.clone()));
    }

    /// Returns the addition that a held key waits for; `None`: the book does not know it.
    #[must_use]
    pub fn ticket(&self, key: &Bytes) -> Option<Ticket> {
        self.entries.get(key).filter(|entry| entry.holders != 0).map(|entry| entry.ticket)
    }

    /// Tells whether the book remembers a key, held or not.
    #[must_use]
    pub fn knows(&self, key: &Bytes) -> bool {
        self.entries.contains_key(key)
    }

    /// Returns the last addition that was asked for.
    #[must_use]
    pub fn last(&self) -> Ticket {
        self.last
    }

    /// Tells whether an addition is committed, and all before it.
    #[must_use]
    pub fn is_added(&self, ticket: Ticket) -> bool {
        ticket <= self.added
    }

    /// Tells whether an addition is in force everywhere.
    #[must_use]
    pub fn is_settled(&self, ticket: Ticket) -> bool {
        ticket <= self.settled
    }

    /// Returns what to propose now, if anything; the outcome is to be told before the next step.
    pub fn step(&mut self, now_ms: u64) -> Option<Step> {
        if self.under_way.is_some() {
            return None;
        }
        let removes_first = std::mem::take(&mut self.added_last);
        if removes_first && let Some(step) = self.remove_step(now_ms) {
            return Some(step);
        }
        if let Some(step) = self.add_step() {
            self.added_last = true;
            return Some(step);
        }
        self.remove_step(now_ms)
    }

    /// Returns when `step` may have a removal, if nothing else happens.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        self.leaving.front().map(|(due_ms, _)| *due_ms)
    }

    fn add_step(&mut self) -> Option<Step> {
        let (mut keys, mut bytes, mut through) = (Vec::new(), 0, self.added);
        while let Some((ticket, key)) = self.queued.front() {
            let entry = self.entries.get_mut(key);
            // One that was released meanwhile is added all the same: somebody may wait for it.
            let entry = entry.filter(|e| e.ticket == *ticket && e.phase == Phase::Queued);
            let full = keys.len() >= self.terms.step_keys_max
                || bytes + key.len() > self.terms.step_bytes_max;
            if full && !keys.is_empty() {
                break;
            }
            through = *ticket;
            if let Some(entry) = entry {
                entry.phase = Phase::Adding;
                bytes += key.len();
                keys.push(key.clone());
            }
            self.queued.pop_front();
        }
        if keys.is_empty() {
            return None;
        }
        self.under_way = Some(UnderWay::Add { keys: keys.clone(), through });
        Some(Step::Add(keys))
    }

    fn remove_step(&mut self, now_ms: u64) -> Option<Step> {
        let (mut keys, mut bytes) = (Vec::new(), 0);
        while let Some((due_ms, key)) = self.leaving.front()
            && *due_ms <= now_ms
        {
            let full = keys.len() >= self.terms.step_keys_max
                || bytes + key.len() > self.terms.step_bytes_max;
            if full && !keys.is_empty() {
                break;
            }
            let Some((_, key)) = self.leaving.pop_front() else { break };
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if entry.holders != 0 {
                entry.leaves = false;
                if self.terms.forgetful && entry.phase == Phase::Routed {
                    self.forget_settled(&key);
                }
                continue;
            }
            let changes = matches!(entry.phase, Phase::Queued | Phase::Adding);
            if entry.due_ms > now_ms || changes {
                let again_ms = entry.due_ms.max(now_ms.saturating_add(self.terms.retry_ms));
                self.leaving.push_back((again_ms, key));
                continue;
            }
            entry.leaves = false;
            entry.phase = Phase::Removing;
            bytes += key.len();
            keys.push(key);
        }
        if keys.is_empty() {
            return None;
        }
        self.under_way = Some(UnderWay::Remove { keys: keys.clone() });
        Some(Step::Remove(keys))
    }

    /// The step under way is committed at `index`.
    pub fn done(&mut self, index: u64) {
        match self.under_way.take() {
            Some(UnderWay::Add { keys, through }) => {
                for key in &keys {
                    if let Some(entry) = self.entries.get_mut(key)
                        && entry.phase == Phase::Adding
                    {
                        entry.phase = Phase::Routed;
                    }
                }
                let keys = if self.terms.forgetful { keys } else { Vec::new() };
                self.added = through;
                self.committed.push_back(Committed { through, index, keys });
            }
            Some(UnderWay::Remove { keys }) => {
                for key in keys {
                    if self.entries.get(&key).is_some_and(|e| e.phase == Phase::Removing) {
                        self.entries.remove(&key);
                    }
                }
            }
            None => {}
        }
    }

    /// The step under way was refused, or nobody knows: it comes again.
    pub fn failed(&mut self, now_ms: u64) {
        match self.under_way.take() {
            Some(UnderWay::Add { keys, .. }) => {
                for key in keys.into_iter().rev() {
                    let Some(entry) = self.entries.get_mut(&key) else { continue };
                    entry.phase = Phase::Queued;
                    self.queued.push_front((entry.ticket, key));
                }
            }
            Some(UnderWay::Remove { keys }) => {
                let due_ms = now_ms.saturating_add(self.terms.retry_ms);
                for key in keys {
                    let entry = self.entries.get_mut(&key);
                    let Some(entry) = entry.filter(|e| e.phase == Phase::Removing) else {
                        continue;
                    };
                    if !std::mem::replace(&mut entry.leaves, true) {
                        entry.due_ms = due_ms;
                        self.leaving.push_back((due_ms, key));
                    }
                }
            }
            None => {}
        }
    }

    /// Returns the index that a barrier should pass next.
    #[must_use]
    pub fn to_settle(&self) -> Option<u64> {
        self.committed.back().map(|committed| committed.index)
    }

    /// Every node has what was committed up to `index`.
    pub fn settle(&mut self, index: u64) {
        while let Some(committed) = self.committed.front()
            && committed.index <= index
        {
            let Some(committed) = self.committed.pop_front() else { return };
            self.settled = self.settled.max(committed.through);
            for key in committed.keys {
                self.forget_settled(&key);
            }
        }
    }

    /// Of a forgetful book: drops what is held, in force and not about to leave.
    fn forget_settled(&mut self, key: &Bytes) {
        let settled = self.settled;
        let stays = |e: &Entry| {
            e.phase != Phase::Routed || e.holders == 0 || e.ticket > settled || e.leaves
        };
        if self.entries.get(key).is_some_and(|entry| !stays(entry)) {
            self.entries.remove(key);
        }
    }

    /// The directory has forgotten the place: everything that is held is to be added again.
    pub fn begin_again(&mut self) {
        self.queued.clear();
        self.leaving.clear();
        self.committed.clear();
        self.under_way = None;
        self.entries.retain(|_, entry| entry.holders != 0);
        for (key, entry) in &mut self.entries {
            self.last.0 += 1;
            entry.ticket = self.last;
            entry.phase = Phase::Queued;
            entry.leaves = false;
            self.queued.push_back((self.last, key.clone()));
        }
    }

    /// Returns how many keys it remembers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Tells whether it remembers none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests;
