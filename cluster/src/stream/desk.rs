//! Takes other nodes' runs into the groups that this node leads.
//!
//! - Owns: nothing that it does not share. Takes: requests, in the order of their sending per node.
//! - Gives: the outcome once applied, or why nothing of it was accepted; `NotLeader` says who leads instead.
//! - Bound: permits, shared with the proposals of this node; a peer that asks for nonsense is refused.
//! - Source: own design.

use std::{future::ready, sync::Arc};

use bytes::Bytes;

use super::{
    run::{Refusal, Verdict},
    wire::{self, Asked},
};
use crate::{
    error::ProposeError,
    id::NodeId,
    limits::PROPOSE_TIMEOUT,
    raft_group::{group::Group, permits::Permits},
    storage::health::Health,
    transport::{Class, PeerService, Served},
};

/// Serves [`Desk::Propose`](crate::transport::Desk::Propose).
pub(crate) struct ProposeClerk {
    pub(crate) node: NodeId,
    pub(crate) groups: Vec<Arc<Group>>,
    pub(crate) permits: Arc<Permits>,
    pub(crate) health: Arc<Health>,
}

impl ProposeClerk {
    /// Enters a run into its group's queue; the answer comes later, or at once if it cannot enter.
    fn enter(&self, asked: Asked) -> Result<tokio::sync::oneshot::Receiver<Verdict>, Verdict> {
        let Asked { group, request, run, commands } = asked;
        let not_here = Verdict::Refused(Refusal::NotLeader(None));
        let group = self.groups.get(usize::from(group.0)).ok_or(not_here)?;
        let lead = group.lead.now();
        let bytes = commands.iter().map(Bytes::len).sum();
        // An opening takes no room worth counting, and whoever asks for one waits for all the others.
        let needs_permit = lead.here && !run.is_opening();
        let permit = needs_permit.then(|| self.permits.take_all(commands.len(), bytes)).flatten();
        let refusal = if lead.here {
            let full = permit.is_none() && needs_permit;
            let why = self.health.state().refusal();
            why.or(full.then_some(ProposeError::Overloaded)).map(Refusal::Told)
        } else {
            let other = lead.leader.filter(|leader| *leader != self.node);
            Some(Refusal::NotLeader(other.map(|leader| leader.0)))
        };
        group.queue.enter(request, run, commands, permit, lead.term, refusal)
    }
}

impl PeerService for ProposeClerk {
    fn serve(&self, from: NodeId, _class: Class, body: Bytes) -> Served {
        let Some(asked) = wire::asked(from, body) else {
            tracing::warn!(peer = from.0, "a peer proposes what cannot be read");
            return Box::pin(ready(Err("the proposal cannot be read".to_owned())));
        };
        match self.enter(asked) {
            Err(verdict) => Box::pin(ready(Ok(wire::answer(&verdict)))),
            Ok(told) => Box::pin(async move {
                let told = tokio::time::timeout(PROPOSE_TIMEOUT, told).await;
                let verdict = told.ok().and_then(Result::ok).unwrap_or(Verdict::Doubtful);
                Ok(wire::answer(&verdict))
            }),
        }
    }
}
