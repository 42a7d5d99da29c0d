//! Messages to and from the other nodes: to their live subscribers, in one hop (ONE-HOP).
//!
//! - Owns: a lane per other node (`relay/lane.rs`); what came from them is in `relay/arrivals.rs`.
//! - Takes: batches of publishers of all workers. Gives: per message of QoS ≥ 1 an outcome per node: its routers have
//!   it, or the node is down and its live receivers are gone, or a reason after `limits::RELAY_WAIT`.
//! - Bound: a window per node; QoS 0 beyond it is dropped and counted, publishers of QoS ≥ 1 wait for room.
//!   A message is encoded once for all nodes.
//! - Source: ARCHITECTURE.md "Messages between nodes".
//!
//! ```text
//! publisher ─► lane of the node ─ batches, in order ─► its arrivals ─► its routers ─► links
//!           ◄──────────────────── taken ◄──────────────────────────────────┘
//! ```

mod arrivals;
mod frame;
mod lane;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use std::{
    cell::OnceCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use ahash::AHashMap;
use bytes::Bytes;
use futures_util::future::{FutureExt as _, join_all};
use hongqiao_cluster::id::NodeId;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::oneshot;

pub use arrivals::{Arrivals, Spawn};
pub(in crate::actors) use frame::reads_again;
use lane::Lane;

use super::{
    line::Line,
    peer::Wire,
    publish::{Accepted, Part, Parts, Versions},
    route_tables::{RouteTables, Snapshot},
};
use crate::{
    limits,
    model::{
        message::{Message, Qos},
        reason::Reason,
    },
};

/// See the head of the file. Shared by the workers.
pub struct Relay {
    boot: u64,
    wire: Arc<dyn Wire>,
    tables: Arc<RouteTables>,
    lanes: Mutex<AHashMap<NodeId, Arc<Lane>>>,
    dropped: Arc<AtomicU64>,
}

/// The part of a batch that goes to one node, by place in the batch.
struct Share {
    node: NodeId,
    /// QoS 0.
    may_be_lost: Vec<usize>,
    must_arrive: Vec<usize>,
    /// Retained messages that nobody there takes live.
    news: Vec<usize>,
}

/// What relays count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayView {
    /// Messages of QoS 0 that found no room or no link.
    pub dropped_messages: u64,
    /// Bytes that wait for other nodes or for their answers.
    pub waiting_bytes: usize,
}

impl Relay {
    /// Creates the relay of a node; `boot` is a number that grows with each start.
    #[must_use]
    pub fn new(boot: u64, wire: Arc<dyn Wire>, tables: Arc<RouteTables>) -> Arc<Self> {
        let lanes = Mutex::default();
        Arc::new(Self { boot, wire, tables, lanes, dropped: Arc::default() })
    }

    /// Returns what was counted.
    #[must_use]
    pub fn view(&self) -> RelayView {
        let waiting = self.lanes.lock().values().map(|lane| lane.waiting_bytes()).sum();
        RelayView { dropped_messages: self.dropped.load(Relaxed), waiting_bytes: waiting }
    }

    fn lane(&self, node: NodeId) -> Arc<Lane> {
        let mut lanes = self.lanes.lock();
        let lane = lanes.entry(node).or_insert_with(|| {
            let (wire, tables) = (Arc::clone(&self.wire), Arc::clone(&self.tables));
            Lane::new(node, self.boot, wire, tables, Arc::clone(&self.dropped))
        });
        Arc::clone(lane)
    }

    /// Sends a batch of one publisher to the other nodes with live subscribers; `parts` get what messages of
    /// QoS ≥ 1 wait for. The publisher's next batch may come after the answer.
    pub(super) fn spread(
        &self,
        snapshot: &Snapshot,
        messages: &[Arc<Message>],
        versions: &Versions,
        parts: &mut [Parts],
        line: &mut Option<Line>,
    ) -> Option<Part> {
        let shares = shares(snapshot, messages);
        if shares.is_empty() {
            return None;
        }
        let encoded: Vec<OnceCell<Bytes>> = messages.iter().map(|_| OnceCell::new()).collect();
        let item = |at: &usize| {
            let encode = || frame::write_item(&messages[*at], versions.of(*at));
            encoded[*at].get_or_init(encode).clone()
        };
        let fits = |at: &usize| item(at).len() <= limits::RELAY_ITEM_BYTES_MAX;
        let mut rooms = Vec::new();
        for share in shares {
            let lane = self.lane(share.node);
            let (offered, large): (Vec<_>, Vec<_>) = share.may_be_lost.into_iter().partition(fits);
            self.dropped.fetch_add(large.len() as u64, Relaxed);
            if !offered.is_empty() {
                lane.offer(offered.iter().map(item).collect());
            }
            let news: Vec<_> = share.news.iter().filter(|at| fits(at)).map(item).collect();
            if !news.is_empty() {
                lane.tell(news);
            }
            let (sent, large): (Vec<_>, Vec<_>) = share.must_arrive.into_iter().partition(fits);
            for at in large {
                parts[at].push(Box::pin(async { Err(Reason::QuotaExceeded) }));
            }
            if sent.is_empty() {
                continue;
            }
            let lane::Sent { outcome, room } = {
                let line = line.get_or_insert_default().clone();
                lane.send(sent.iter().map(item).collect(), line)
            };
            rooms.extend(room);
            let outcome: Part = Box::pin(in_time(outcome));
            let outcome = outcome.shared();
            for at in sent {
                parts[at].push(Box::pin(outcome.clone()));
            }
        }
        if rooms.is_empty() {
            return None;
        }
        Some(Box::pin(async move {
            join_all(rooms).await;
            Ok(())
        }))
    }
}

/// Waits for what another node tells of a batch.
async fn in_time(told: oneshot::Receiver<Accepted>) -> Accepted {
    let told = tokio::time::timeout(limits::RELAY_WAIT, told).await;
    told.ok().and_then(Result::ok).unwrap_or(Err(Reason::UnspecifiedError))
}

/// Says which messages go to which other node.
///
/// QoS 1 and 2 go to nodes that have somebody for them: a node whose subscribers have them from their logs neither
/// costs a crossing, nor keeps the publisher waiting when it is dead. Only news of a retained message goes there
/// too, as an older copy may be on its way to a new subscriber (see `FreshTopics`).
fn shares(snapshot: &Snapshot, messages: &[Arc<Message>]) -> SmallVec<[Share; 2]> {
    let mut shares = SmallVec::<[Share; 2]>::new();
    for (at, message) in messages.iter().enumerate() {
        let (app, topic) = (message.app, &message.topic);
        let is_reliable = message.qos > Qos::AtMostOnce;
        let nodes = snapshot.nodes(app, topic);
        for node in nodes.iter() {
            let share = share_of(&mut shares, node);
            if is_reliable { &mut share.must_arrive } else { &mut share.may_be_lost }.push(at);
        }
        if is_reliable && !message.retain {
            continue;
        }
        for node in snapshot.nodes_of_qos_0(app, topic).iter().filter(|node| !nodes.contains(*node))
        {
            let share = share_of(&mut shares, node);
            if is_reliable { &mut share.news } else { &mut share.may_be_lost }.push(at);
        }
    }
    shares
}

/// Returns the part of `node`, an empty one if it has none yet.
fn share_of(shares: &mut SmallVec<[Share; 2]>, node: NodeId) -> &mut Share {
    let known = shares.iter().position(|share| share.node == node);
    let place = known.unwrap_or_else(|| {
        let (may_be_lost, must_arrive) = (Vec::new(), Vec::new());
        shares.push(Share { node, may_be_lost, must_arrive, news: Vec::new() });
        shares.len() - 1
    });
    &mut shares[place]
}
