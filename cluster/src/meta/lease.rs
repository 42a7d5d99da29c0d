//! Who may rely on its directory, and since when everybody who may knows of a change. Pure.
//!
//! A node that holds a lease has applied everything that was acknowledged before the lease was granted. A
//! barrier for an index returns once every node has applied it or holds no lease that is older. So
//! whoever holds a lease after a barrier has returned has applied its index:
//!
//! - A lease counts from the sending of its renewal, for `LEASE` on the holder's clock, and only once the
//!   holder has applied what the leader had applied at the grant (`Holder`).
//! - The leader counts it from the grant, for `LEASE_SPAN` on its own clock: later than the sending, and
//!   longer by more than two clocks run apart meanwhile (`Tracker`).
//! - A barrier for `index` is asked for after `index` was acknowledged, so the leader has applied it: what
//!   it grants later carries at least that index. Only older leases are waited for, and none of
//!   these is extended.
//! - A new leader does not know who renewed with the one before it; it takes it that everybody has, those that
//!   were declared down too, until it began. Later the old one cannot have: it grants only while no other can be elected.
//!
//! Hence also what is done when no leader can be asked: `LEASE_SPAN` after `index` was acknowledged, every
//! lease that was granted before is over, and every later one carries that index.
//!
//! - Owns: what is known of leases. Takes: monotonic times. Gives: decisions.
//! - Bound: one record per member; `GRANTS_MAX` grants per holder.
//! - Source: own design; leases as in Gray and Cheriton 1989, with the clocks' drift as their only assumption.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{
    id::NodeId,
    limits::{DOWN_AFTER, LEASE, LEASE_SPAN},
};

/// Grants that a holder keeps: one that counts, and newer ones whose index it has not applied yet.
const GRANTS_MAX: usize = 8;

/// A node's own leases.
#[derive(Debug, Default)]
pub(crate) struct Holder {
    /// The later, the higher the index and the later the end.
    grants: VecDeque<(u64, Instant)>,
}

impl Holder {
    /// Takes a grant for a renewal that was sent at `sent`, from a leader that had applied `index`.
    pub(crate) fn granted(&mut self, sent: Instant, index: u64) {
        let until = sent + LEASE;
        // One renewal is under way at a time, so ends grow. So does the index: a leader that grants
        // has applied all that earlier ones had.
        let index = self.grants.back().map_or(index, |(last, _)| index.max(*last));
        // The first ones count soonest, the last one for longest.
        if self.grants.len() == GRANTS_MAX {
            self.grants.pop_back();
        }
        self.grants.push_back((index, until));
    }

    /// Returns until when a node that has applied `applied` holds a lease.
    pub(crate) fn until(&mut self, applied: u64) -> Option<Instant> {
        let counts = self.grants.iter().take_while(|(index, _)| *index <= applied).count();
        self.grants.drain(..counts.saturating_sub(1));
        self.grants.front().filter(|(index, _)| *index <= applied).map(|(_, until)| *until)
    }

    /// Gives everything up.
    pub(crate) fn give_up(&mut self) {
        self.grants.clear();
    }
}

/// What the leader knows of one node.
#[derive(Clone, Copy, Debug)]
struct Known {
    incarnation: u64,
    /// The highest index that it has said to have applied.
    applied: u64,
    /// When it was last heard of.
    heard: Instant,
    /// When the last lease that anybody may have granted to it is over.
    lease_ends: Instant,
}

/// What the leader of the meta group knows of everybody's leases.
#[derive(Debug)]
pub(crate) struct Tracker {
    /// The term that this counts in.
    pub(crate) term: u64,
    nodes: BTreeMap<NodeId, Known>,
}

/// What a barrier still waits for: leases that are older than it.
#[derive(Debug)]
pub(crate) struct Waits {
    index: u64,
    leases: Vec<(NodeId, u64, Instant)>,
}

impl Tracker {
    /// Begins at `now` to grant leases, as the leader of `term` that has applied all of earlier terms.
    /// `members` are all that there are, up or down, with their incarnations: `NodeDown` may have been
    /// long on its way, and its node have renewed meanwhile.
    pub(crate) fn begin(
        term: u64,
        now: Instant,
        members: impl Iterator<Item = (NodeId, u64)>,
    ) -> Self {
        let lease_ends = now + LEASE_SPAN;
        let known = |incarnation| Known { incarnation, applied: 0, heard: now, lease_ends };
        let nodes = members.map(|(node, incarnation)| (node, known(incarnation))).collect();
        Self { term, nodes }
    }

    /// Takes over which members are up.
    pub(crate) fn set_members(
        &mut self,
        now: Instant,
        members: impl Iterator<Item = (NodeId, u64)>,
    ) {
        let members: BTreeMap<NodeId, u64> = members.collect();
        for (node, incarnation) in &members {
            self.meet(now, *node, *incarnation);
        }
        // Who is no member any more may hold its last lease for a while.
        self.nodes.retain(|node, known| members.contains_key(node) || now < known.lease_ends);
    }

    /// Makes sure that an incarnation that is up is known. What an older one held it has given up.
    fn meet(&mut self, now: Instant, node: NodeId, incarnation: u64) -> &mut Known {
        let new = Known { incarnation, applied: 0, heard: now, lease_ends: now };
        let known = self.nodes.entry(node).or_insert(new);
        if known.incarnation < incarnation {
            *known = new;
        }
        known
    }

    /// Grants a lease at `now` to an incarnation that is up and has applied `applied`. The grant must carry
    /// the index that this leader has applied, read under the same lock as this is called under.
    pub(crate) fn renew(&mut self, now: Instant, node: NodeId, incarnation: u64, applied: u64) {
        let known = self.meet(now, node, incarnation);
        known.applied = known.applied.max(applied);
        known.heard = known.heard.max(now);
        known.lease_ends = known.lease_ends.max(now + LEASE_SPAN);
    }

    /// Opens a barrier at `now` for an index that this leader has applied.
    pub(crate) fn barrier(&self, now: Instant, index: u64) -> Waits {
        let is_open = |known: &Known| known.applied < index && now < known.lease_ends;
        let open = self.nodes.iter().filter(|(_, known)| is_open(known));
        let lease = |(node, known): (&NodeId, &Known)| (*node, known.incarnation, known.lease_ends);
        Waits { index, leases: open.map(lease).collect() }
    }

    /// Returns when to look again at the latest; `None` once the barrier has passed.
    pub(crate) fn waits_until(&self, now: Instant, waits: &mut Waits) -> Option<Instant> {
        let index = waits.index;
        waits.leases.retain(|(node, incarnation, ends)| {
            // A node that is up in a newer incarnation has given up the leases of the older one.
            let is_past = self
                .nodes
                .get(node)
                .is_some_and(|known| known.incarnation > *incarnation || known.applied >= index);
            !is_past && now < *ends
        });
        waits.leases.iter().map(|(_, _, ends)| *ends).min()
    }

    /// Returns who has been silent for so long that it is down, among those who are up.
    pub(crate) fn silent(&self, now: Instant) -> Vec<(NodeId, u64)> {
        let is_silent = |known: &Known| now.saturating_duration_since(known.heard) >= DOWN_AFTER;
        let silent = self.nodes.iter().filter(|(_, known)| is_silent(known));
        silent.map(|(node, known)| (*node, known.incarnation)).collect()
    }

    /// Counts silence anew: this node has not looked for a while, so it cannot tell who was silent.
    pub(crate) fn resume(&mut self, now: Instant) {
        for known in self.nodes.values_mut() {
            known.heard = known.heard.max(now);
        }
    }
}

/// Longest time between two looks at who is silent after which silence is counted anew.
pub(crate) const LOOKS_APART_MAX: Duration = Duration::from_secs(1);

const _: () = assert!(LEASE.as_millis() < LEASE_SPAN.as_millis());
const _: () = assert!(LEASE_SPAN.as_millis() < DOWN_AFTER.as_millis());
const _: () = assert!(LOOKS_APART_MAX.as_millis() < DOWN_AFTER.as_millis());
