//! Members that come, leave and are lost while everything else goes wrong.
//!
//! - Owns: when the next change is due, and what of the last ones is not done yet. Takes: hosts. Gives: hosts to
//!   start; orders to nodes; the end of those that were removed.
//! - Bound: at most one lost member at a time, and only of a cluster that is whole: more would be more than a quorum
//!   can bear, and no fault to heal.
//! - Source: own design; what the server of a node does that leaves is in `src/server/departure.rs`.

use std::collections::BTreeSet;

use rand::{Rng, rngs::StdRng, seq::SliceRandom};

use super::{
    health,
    host::{Death, Host, Place, Visit},
    links::Links,
    shape::Shape,
    trace::Trace,
};
use crate::{id::NodeId, membership::departure::Departure};

/// Fewer members do not leave.
const MEMBERS_MIN: usize = 3;

/// An order that came to nothing is given again after this time.
const AGAIN_MS: u64 = 500;

#[derive(Default)]
pub(super) struct Changes {
    next_ms: u64,
    /// Starts of nodes that were told to retire.
    retired: BTreeSet<(NodeId, u64)>,
    /// Gone for good, and not removed yet.
    lost: Option<NodeId>,
    lost_again_ms: u64,
    pub(super) over: bool,
}

/// What changes may touch.
pub(super) struct Ground<'a> {
    pub(super) now_ms: u64,
    pub(super) hosts: &'a mut [Host],
    pub(super) links: &'a Links,
    pub(super) shape: &'a Shape,
    pub(super) random: &'a mut StdRng,
    pub(super) trace: &'a mut Trace,
}

impl Changes {
    /// Does what is due; gives the hosts to start.
    pub(super) fn step(&mut self, ground: &mut Ground<'_>) -> Vec<usize> {
        if ground.shape.spares == 0 {
            return Vec::new();
        }
        self.tend(ground);
        self.give_up(ground);
        if self.over || ground.now_ms < self.next_ms {
            return Vec::new();
        }
        let every = ground.shape.change_every_ms;
        self.next_ms = ground.now_ms + ground.random.gen_range(every / 2..every * 2);
        match ground.random.gen_range(0..4) {
            0 | 1 => self.come(ground),
            2 => {
                Self::leave(ground);
                Vec::new()
            }
            _ => {
                self.lose(ground);
                Vec::new()
            }
        }
    }

    /// Retires nodes that are released, and ends those that are removed.
    fn tend(&mut self, ground: &mut Ground<'_>) {
        for host in ground.hosts.iter_mut().filter(|host| host.place == Place::Member) {
            let departure = {
                let Some(Visit { handle, runtime, .. }) = &host.visit() else { continue };
                let departure = *handle.departure().borrow();
                let start = (host.node, host.incarnation);
                if departure == Departure::Released && self.retired.insert(start) {
                    let meta = handle.meta().clone();
                    runtime.spawn(async move { meta.retire().await });
                }
                departure
            };
            if departure == Departure::Removed {
                let line = format_args!("node {} is removed", host.node.0);
                ground.trace.line(ground.now_ms, line);
                host.crash(Death::Kill, ground.links);
                host.place = Place::Gone;
            }
        }
    }

    /// A new node joins.
    fn come(&mut self, ground: &mut Ground<'_>) -> Vec<usize> {
        let unused = ground.hosts.iter().position(|host| host.place == Place::Unused);
        let Some(at) = unused else { return Vec::new() };
        ground.hosts[at].place = Place::Member;
        vec![at]
    }

    /// Some node orders that some node leaves.
    fn leave(ground: &mut Ground<'_>) {
        let members = Self::members(ground.hosts);
        let leaving = members.iter().filter(|at| {
            let handle = ground.hosts[**at].handle();
            handle.is_some_and(|handle| *handle.departure().borrow() != Departure::Staying)
        });
        if members.len() - leaving.count() <= MEMBERS_MIN {
            return;
        }
        let Some(who) = members.choose(ground.random).map(|at| ground.hosts[*at].node) else {
            return;
        };
        Self::order(ground, who, false);
    }

    /// A node is gone for good, with its disk.
    fn lose(&mut self, ground: &mut Ground<'_>) {
        let members = Self::members(ground.hosts);
        let is_whole = health::unwhole(ground.hosts, ground.shape).is_none();
        if self.lost.is_some() || !is_whole || members.len() <= MEMBERS_MIN {
            return;
        }
        let Some(at) = members.choose(ground.random).copied() else { return };
        let host = &mut ground.hosts[at];
        host.crash(Death::Kill, ground.links);
        host.place = Place::Gone;
        self.lost = Some(host.node);
        ground.trace.line(ground.now_ms, format_args!("node {} is lost", host.node.0));
    }

    /// Says that a node is lost until it is removed.
    fn give_up(&mut self, ground: &mut Ground<'_>) {
        let Some(lost) = self.lost.filter(|_| ground.now_ms >= self.lost_again_ms) else { return };
        self.lost_again_ms = ground.now_ms + AGAIN_MS;
        let handles = ground.hosts.iter().filter_map(Host::handle);
        if handles.into_iter().any(|of| of.meta().directory().removed.contains(&lost)) {
            self.lost = None;
            return;
        }
        Self::order(ground, lost, true);
    }

    fn members(hosts: &[Host]) -> Vec<usize> {
        let is_member = |at: &usize| hosts[*at].place == Place::Member;
        (0..hosts.len()).filter(is_member).collect()
    }

    fn order(ground: &mut Ground<'_>, who: NodeId, lost: bool) {
        let members = Self::members(ground.hosts);
        let Some(at) = members.choose(ground.random) else { return };
        let Some(Visit { handle, runtime, .. }) = &ground.hosts[*at].visit() else { return };
        let handle = (*handle).clone();
        // What it says comes out with the directory.
        runtime.spawn(async move { handle.leave(who, lost).await });
        let line = format_args!("node {} is to leave, lost: {lost}", who.0);
        ground.trace.line(ground.now_ms, line);
    }
}
