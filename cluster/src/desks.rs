//! Who answers the requests of other nodes: one clerk per desk.
//!
//! - Owns: the clerks. Takes: requests from the links. Gives: their answers; a desk without a clerk refuses.
//! - Bound: none; the links bound what is under way.
//! - Source: own design.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::{
    id::NodeId,
    transport::{Class, Desk, PeerService, Served, Service},
};

/// Kinds of requests at [`Desk::Member`]: the first byte of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemberKind {
    /// To become a member, and how shards do; see `membership`.
    Join = 1,
    /// Leases on the directory; see `meta`.
    Lease = 2,
    /// What a member is asked to do with its groups; see `membership`.
    Order = 3,
}

const DESKS: usize = 8;

/// The clerks of a node.
#[derive(Default)]
pub(crate) struct Desks {
    desks: RwLock<[Option<Arc<dyn PeerService>>; DESKS]>,
    members: RwLock<[Option<Arc<dyn PeerService>>; DESKS]>,
}

impl Desks {
    /// Puts a clerk at a desk.
    pub(crate) fn set(&self, desk: Desk, clerk: Arc<dyn PeerService>) {
        if let Some(place) = self.desks.write().get_mut(desk as usize) {
            *place = Some(clerk);
        }
    }

    /// Puts a clerk behind one kind of requests at [`Desk::Member`]; he gets them without their first byte.
    pub(crate) fn set_member(&self, kind: MemberKind, clerk: Arc<dyn PeerService>) {
        if let Some(place) = self.members.write().get_mut(kind as usize) {
            *place = Some(clerk);
        }
    }

    /// Sends all clerks away: what they hold may end.
    pub(crate) fn close(&self) {
        let gone =
            (std::mem::take(&mut *self.desks.write()), std::mem::take(&mut *self.members.write()));
        drop(gone);
    }
}

impl Service for Desks {
    fn serve(&self, from: NodeId, class: Class, desk: Desk, mut body: Bytes) -> Served {
        let clerk = if desk == Desk::Member {
            let kind = body.first().copied().map_or(0, usize::from);
            if !body.is_empty() {
                body = body.slice(1..);
            }
            self.members.read().get(kind).cloned().flatten()
        } else {
            self.desks.read().get(desk as usize).cloned().flatten()
        };
        match clerk {
            Some(clerk) => clerk.serve(from, class, body),
            None => Box::pin(std::future::ready(Err("nobody is at this desk".to_owned()))),
        }
    }
}
