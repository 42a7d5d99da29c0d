//! Releases durable sessions whose connections are dead and cannot do it themselves.
//!
//! - Owns: how far the sessions of the shard are looked through, and whose connections are doubted.
//! - Takes: the members, the holders as the shard knows them. Gives: `ReleaseStale` for sessions of nodes
//!   that are down or have started again; `Release` for those whose connection its node does not have.
//! - Bound: `limits::STALE_SESSIONS_LOOKED` sessions a step, one commit per node and step.
//! - When: once after this node began to lead, once after each change of what is dead, and for a node that says
//!   that it could not tell of its connections. Otherwise nothing is read.
//! - A pass begins with `Lead`: behind it the shard takes no claim of an earlier home any more, nor of a start that
//!   was dead then, and every claim in front of it is seen. So no session is left with a dead holder.
//! - Both commands change nothing once the session is claimed again: one names the dead start, the other the
//!   epoch (FENCED). So each release, and each will, happens once.

use std::collections::{BTreeMap, BTreeSet};

use hongqiao_cluster::id::{NodeId, ShardId};

use super::Neighbours;
use crate::{
    actors::{
        appender::Submit,
        peer::{Class, PeerReply, PeerRequest, gone_among},
        view::{Members, Start},
    },
    clock, limits,
    model::{
        connection_id::ConnectionId,
        id::{Epoch, SessionKey},
    },
    shard::command::{Command, Reply},
};

/// See the file header.
#[derive(Debug, Default)]
pub(super) struct Stale {
    term: Option<u64>,
    /// By node: what is older is dead.
    bounds: BTreeMap<NodeId, u64>,
    pass: Option<Pass>,
    /// Who must be asked in the next pass.
    unsure: BTreeSet<Start>,
}

/// One way through all sessions.
#[derive(Debug, Default)]
struct Pass {
    /// What came before it is in the shard or will never be.
    fenced: bool,
    after: Option<SessionKey>,
    asked: BTreeSet<Start>,
}

/// What is to be done with a page of sessions.
#[derive(Default)]
struct Found {
    /// By node, with its bound.
    dead: BTreeMap<(NodeId, u64), Vec<SessionKey>>,
    doubted: BTreeMap<Start, Vec<(SessionKey, Epoch, ConnectionId)>>,
}

impl Stale {
    /// Takes note of who leads and who is up; a change begins a new pass.
    pub(super) fn follow(&mut self, term: u64, members: &Members) {
        let bounds: BTreeMap<_, _> = members.bounds().collect();
        if self.term != Some(term) {
            self.term = Some(term);
            self.unsure = members.up().collect();
            self.bounds.clear();
        }
        let rose = |(node, bound): (&NodeId, &u64)| self.bounds.get(node) != Some(bound);
        let rose = bounds.iter().any(rose);
        self.bounds = bounds;
        self.unsure.retain(|start| !members.is_gone(*start));
        if rose || (self.pass.is_none() && !self.unsure.is_empty()) {
            let mut asked = std::mem::take(&mut self.unsure);
            asked.extend(self.pass.take().map(|pass| pass.asked).unwrap_or_default());
            self.pass = Some(Pass { fenced: false, after: None, asked });
        }
    }

    /// This start may have connections less than the shard thinks.
    pub(super) fn doubt(&mut self, start: Start) {
        self.unsure.insert(start);
    }

    /// Takes over what was doubted during a step.
    pub(super) fn add_unsure(&mut self, meanwhile: Self) {
        self.unsure.extend(meanwhile.unsure);
    }

    /// Looks through the next sessions; `true` if there is more to do at once.
    pub(super) async fn step(&mut self, shard: ShardId, neighbours: &Neighbours) -> bool {
        let (Some(pass), Some(term)) = (&mut self.pass, self.term) else { return false };
        if !pass.fenced {
            let command = Command::Lead { term };
            let reply = neighbours.submit.send(Submit { shard, command }).await;
            // Else another leads, or will soon; or it is tried again at the next look.
            if !matches!(reply, Ok(Ok(Reply::Done))) {
                return false;
            }
            pass.fenced = true;
        }
        let Some(page) = (neighbours.held)(pass.after).await else { return false };
        let mut found = Found::default();
        for (key, epoch, holder) in page.sessions {
            let Some(holder) = holder else { continue };
            let start = Start::of(&holder);
            match self.bounds.get(&start.node) {
                Some(bound) if start.incarnation < *bound => {
                    found.dead.entry((start.node, *bound)).or_default().push(key);
                }
                _ if pass.asked.contains(&start) => {
                    let connection = ConnectionId::from_u64(holder.connection);
                    found.doubted.entry(start).or_default().push((key, epoch, connection));
                }
                _ => {}
            }
        }
        if !release_dead(shard, neighbours, found.dead).await {
            return false;
        }
        for (start, doubted) in found.doubted {
            if !release_gone(shard, neighbours, start, doubted).await {
                // Asked again in a pass of its own: it must not hold up the others.
                self.unsure.insert(start);
            }
        }
        match page.next {
            Some(next) => pass.after = Some(next),
            None => self.pass = None,
        }
        self.pass.is_some()
    }
}

/// A claim of one of them that is still to come releases it by itself.
async fn release_dead(
    shard: ShardId,
    neighbours: &Neighbours,
    dead: BTreeMap<(NodeId, u64), Vec<SessionKey>>,
) -> bool {
    for ((node, incarnation), keys) in dead {
        let count = keys.len();
        let now_ms = clock::wall_ms();
        let command = Command::ReleaseStale { keys, node: node.0, incarnation, now_ms };
        let reply = neighbours.submit.send(Submit { shard, command }).await;
        if !matches!(reply, Ok(Ok(_))) {
            return false;
        }
        tracing::info!(shard = shard.0, node = node.0, count, "sessions of a dead start released");
    }
    true
}

/// Releases what a node that is up holds with connections that it does not have any more.
async fn release_gone(
    shard: ShardId,
    neighbours: &Neighbours,
    start: Start,
    doubted: Vec<(SessionKey, Epoch, ConnectionId)>,
) -> bool {
    let connections: Vec<_> = doubted.iter().map(|(.., connection)| *connection).collect();
    let Some(gone) = ask_gone(neighbours, start, connections).await else { return false };
    let gone: BTreeSet<_> = gone.into_iter().collect();
    let released = doubted.into_iter().filter(|(.., connection)| gone.contains(connection));
    let released: Vec<_> = released
        .map(|(key, epoch, _)| {
            let command = Command::Release {
                key,
                epoch,
                expiry_secs: None,
                will_dropped: false,
                inflight: Vec::new(),
                now_ms: clock::wall_ms(),
            };
            neighbours.submit.send(Submit { shard, command })
        })
        .collect();
    let mut all = true;
    for released in released {
        all &= matches!(released.await, Ok(Ok(_)));
    }
    all
}

async fn ask_gone(
    neighbours: &Neighbours,
    start: Start,
    connections: Vec<ConnectionId>,
) -> Option<Vec<ConnectionId>> {
    if start == neighbours.view.me() {
        return gone_among(&neighbours.gone, connections).await;
    }
    let request = PeerRequest::GoneAmong { incarnation: start.incarnation, connections };
    let peers = &neighbours.peers;
    match peers.ask(start.node, Class::Control, &request, limits::ROLL_TIMEOUT).await {
        Ok(PeerReply::Gone(gone)) => Some(gone),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
