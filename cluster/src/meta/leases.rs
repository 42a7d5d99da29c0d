//! Leases of this node, and of everybody while it leads the meta group; barriers for both sides.
//!
//! ```text
//! keeper ─ renew ─▶ grant (leader) ─▶ granted ─▶ has_lease
//! barrier ─ ask ──▶ wait_for_all (leader) ─▶ passed
//! ```
//!
//! - Owns: a `Holder`, and a `Tracker` while this node leads. Takes: requests of members. Gives: answers.
//! - Bound: `LEASE_BYTES_MAX` per request; one barrier per asking node is under way; each ends with the last
//!   lease that is older than it.
//! - Source: own design; the rules are in `lease.rs`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::{
    command,
    handle::MetaPort,
    lease::{Holder, Tracker},
    machine::Published,
};
use crate::{
    clock,
    directory::Directory,
    id::NodeId,
    limits::{LEASE_BYTES_MAX, LEASE_SPAN},
    storage::folder::incarnation::Incarnation,
    transport::{Class, PeerService, Served},
};

/// What a member asks the leader of the meta group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ask {
    /// A lease for a start of the asking node that has applied `applied`.
    Renew { incarnation: u64, applied: u64 },
    /// To wait until everybody who may rely on his directory has applied `index`.
    Barrier { index: u64 },
}

/// What it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// A lease, which counts once `index` is applied.
    Granted { index: u64 },
    /// The barrier has passed.
    Passed,
    /// This node does not lead, or cannot be sure that it does.
    NotLeader,
    /// Another start of the asking node counts, or it was declared down.
    Fenced,
}

/// See the head of the file.
pub(super) struct Leases {
    pub(super) node: NodeId,
    pub(super) incarnation: Arc<Incarnation>,
    pub(super) published: Arc<Published>,
    pub(super) port: Arc<dyn MetaPort>,
    /// There while this node leads the meta group together with others.
    tracker: Mutex<Option<Tracker>>,
    /// Something that barriers wait for may have happened.
    moved: Notify,
    holder: Mutex<Holder>,
    /// This node was told that it is no member any more.
    pub(super) removed: watch::Sender<bool>,
    /// The cluster knows a later start of this node, or another folder of it.
    pub(super) superseded: watch::Sender<bool>,
    /// This node takes no lease any more.
    is_retired: AtomicBool,
    /// Nanoseconds since `base` at which the lease ends that counts now.
    until: AtomicU64,
    base: Instant,
}

/// Returns all members with their incarnations: one that was declared down a moment ago may hold a lease yet.
fn all_members(directory: &Directory) -> impl Iterator<Item = (NodeId, u64)> {
    directory.nodes.iter().map(|(node, member)| (*node, member.incarnation))
}

/// Returns the members that are up, with their incarnations.
fn members(directory: &Directory) -> impl Iterator<Item = (NodeId, u64)> {
    let up = directory.nodes.iter().filter(|(_, member)| member.up);
    up.map(|(node, member)| (*node, member.incarnation))
}

impl Leases {
    pub(super) fn new(
        (node, incarnation): (NodeId, Arc<Incarnation>),
        published: Arc<Published>,
        port: Arc<dyn MetaPort>,
    ) -> Arc<Self> {
        Arc::new(Self {
            node,
            incarnation,
            published,
            port,
            tracker: Mutex::default(),
            moved: Notify::new(),
            holder: Mutex::default(),
            removed: watch::Sender::default(),
            superseded: watch::Sender::default(),
            is_retired: AtomicBool::new(false),
            until: AtomicU64::new(0),
            base: clock::now(),
        })
    }

    /// Returns whether this node is the only member and nobody can be another one without its knowledge:
    /// it leads, so it has applied all that was ever committed.
    pub(super) fn is_alone(&self) -> bool {
        self.published.directory().is_alone(self.node) && self.port.leads().is_some()
    }

    // The holder's side.

    /// Returns whether this node may rely on its directory now.
    pub(super) fn has_lease(&self) -> bool {
        if self.is_alone() {
            return !self.is_retired.load(Ordering::Relaxed);
        }
        let now = clock::now();
        let nanos = u64::try_from(now.saturating_duration_since(self.base).as_nanos());
        let nanos = nanos.unwrap_or(u64::MAX);
        nanos < self.until.load(Ordering::Acquire) || nanos < self.settle(&mut self.holder.lock())
    }

    /// Finds out until when the lease counts, with what is applied now.
    fn settle(&self, holder: &mut Holder) -> u64 {
        let applied = *self.published.announced().borrow();
        let until = holder.until(applied);
        let until = until.map_or(0, |until| until.saturating_duration_since(self.base).as_nanos());
        let until = u64::try_from(until).unwrap_or(u64::MAX);
        self.until.store(until, Ordering::Release);
        until
    }

    /// Takes a lease for a renewal of `incarnation` that was sent at `sent`.
    pub(super) fn granted(&self, sent: Instant, incarnation: u64, index: u64) {
        let mut holder = self.holder.lock();
        let is_retired = self.is_retired.load(Ordering::Relaxed);
        if incarnation == self.incarnation.now() && !is_retired {
            holder.granted(sent, index);
            self.settle(&mut holder);
        }
    }

    /// Gives up the lease.
    pub(super) fn give_up(&self) {
        let mut holder = self.holder.lock();
        holder.give_up();
        self.settle(&mut holder);
    }

    /// Gives up the lease and takes no other.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
        self.give_up();
    }

    // The leader's side.

    /// Begins to grant leases; this node leads in `term`, and has applied all of earlier terms.
    pub(super) fn begin(&self, term: u64) {
        let directory = self.published.directory();
        let tracker = Tracker::begin(term, clock::now(), all_members(&directory));
        *self.tracker.lock() = Some(tracker);
    }

    /// Stops granting leases; barriers are asked for elsewhere.
    pub(super) fn end(&self) {
        *self.tracker.lock() = None;
        self.moved.notify_waiters();
    }

    /// Looks who has been silent for too long; `slept` if the last look was long ago.
    pub(super) fn look(&self, slept: bool) -> Vec<(NodeId, u64)> {
        let directory = self.published.directory();
        let mut tracker = self.tracker.lock();
        let Some(tracker) = &mut *tracker else { return Vec::new() };
        let now = clock::now();
        tracker.set_members(now, members(&directory));
        if slept {
            tracker.resume(now);
        }
        self.moved.notify_waiters();
        let mut silent = tracker.silent(now);
        silent.retain(|(node, incarnation)| directory.is_up(*node, *incarnation));
        silent
    }

    /// Calls `act` with the tracker of the present term, if this node surely leads.
    fn leading<R>(&self, act: impl FnOnce(&mut Tracker, &Directory) -> R) -> Option<R> {
        let mut tracker = self.tracker.lock();
        // Read under the lock: an index that is acknowledged before a barrier opens is in every later grant.
        let directory = self.published.directory();
        // Asked last: up to here nobody else can have been elected.
        let term = self.port.leads()?;
        tracker.as_mut().filter(|tracker| tracker.term == term).map(|of| act(of, &directory))
    }

    /// Answers a renewal.
    pub(super) fn grant(&self, node: NodeId, incarnation: u64, applied: u64) -> Answer {
        let answer = self.leading(|tracker, directory| {
            if !directory.is_up(node, incarnation) {
                return Answer::Fenced;
            }
            tracker.renew(clock::now(), node, incarnation, applied);
            Answer::Granted { index: directory.index }
        });
        self.moved.notify_waiters();
        answer.unwrap_or(Answer::NotLeader)
    }

    /// Waits until everybody who may rely on his directory has applied `index`.
    async fn wait_for_all(&self, index: u64) -> Answer {
        // Acknowledged at the asking node, so it is applied here unless another leads.
        let mut announced = self.published.announced();
        let known = tokio::time::timeout(LEASE_SPAN, announced.wait_for(|known| *known >= index));
        if !matches!(known.await, Ok(Ok(_))) {
            return Answer::NotLeader;
        }
        if self.is_alone() {
            return Answer::Passed;
        }
        let opened = self.leading(|tracker, _| tracker.barrier(clock::now(), index));
        let Some(mut waits) = opened else { return Answer::NotLeader };
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            // From here on nothing is missed.
            moved.as_mut().enable();
            let until = match &*self.tracker.lock() {
                Some(tracker) => tracker.waits_until(clock::now(), &mut waits),
                None => return Answer::NotLeader,
            };
            let Some(until) = until else { return Answer::Passed };
            tokio::select! {
                () = moved => {}
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    /// Asks whoever leads, which may be this node; `None` if nobody answers.
    pub(super) async fn ask(&self, ask: Ask) -> Option<Answer> {
        let leader = self.port.lead().borrow().leader?;
        if leader == self.node {
            return Some(self.answer(self.node, ask).await);
        }
        let body = command::encode(&ask);
        let answer = self.port.ask(leader, body, LEASE_SPAN).await.ok()?;
        command::decode(&answer, LEASE_BYTES_MAX)
    }

    async fn answer(&self, from: NodeId, ask: Ask) -> Answer {
        match ask {
            Ask::Renew { incarnation, applied } => self.grant(from, incarnation, applied),
            Ask::Barrier { index } => self.wait_for_all(index).await,
        }
    }
}

/// Answers members at the desk for leases.
pub(crate) struct LeaseClerk(pub(super) Arc<Leases>);

impl PeerService for LeaseClerk {
    fn serve(&self, from: NodeId, _class: Class, body: Bytes) -> Served {
        let leases = self.0.clone();
        Box::pin(async move {
            let ask = command::decode(&body, LEASE_BYTES_MAX);
            let ask = ask.ok_or_else(|| "a request about leases that cannot be read".to_owned())?;
            Ok(command::encode(&leases.answer(from, ask).await))
        })
    }
}
