//! One group of this node: its log and state, openraft over them, and who leads it.
//!
//! - Owns: the tasks of the group. Takes: an open state and a network. Gives: a queue for commands, a `Lead`,
//!   answers to questions.
//! - Bound: each step of a start has a time-out. A group whose only voter is this node leads when `start`
//!   returns; one with other voters finds its leader by itself, and nobody waits for that.
//! - Source: openraft 0.9.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use openraft::{Config, EmptyNode, Raft, SnapshotPolicy};

use super::{
    lead::{self, LeadState},
    log_store::LogStore,
    network::NoNetwork,
    proposer::Proposer,
    snapshot::spool::Snapshots,
    state_machine::{Shard, StateMachine},
    types::Types,
};
use crate::{
    error::StartError,
    id::{NodeId, ShardId},
    limits::{ELECTION_MAX, ELECTION_MIN, HEARTBEAT},
    machine::Machine,
    storage::{
        checkpoint::{Checkpointer, ShardStore},
        log::Log,
    },
    stream::{driver, queue::Queue, run::Origin},
};

/// A group of one voter elects itself and replays its log within this time, or the node does not start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What a group says for itself, whatever its machine is.
pub(crate) trait Replica: Send + Sync {
    /// Answers an encoded question from the state as it is here.
    fn query(&self, question: &Bytes) -> Bytes;
}

impl<M: Machine> Replica for Shard<M> {
    fn query(&self, question: &Bytes) -> Bytes {
        let machine = self.machine.lock();
        let state = self.store.state.lock();
        machine.query(question, &*state)
    }
}

/// One group as the node sees it.
pub(crate) struct Group {
    pub(crate) store: Arc<ShardStore>,
    pub(crate) replica: Arc<dyn Replica>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) raft: Raft<Types>,
    pub(crate) lead: Arc<LeadState>,
    open: AtomicBool,
}

/// What all groups of a node are started with.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) node: NodeId,
    /// Of this start of the node; it grows with each.
    pub(crate) incarnation: u64,
    pub(crate) log: Arc<Log>,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) snapshots: Arc<Snapshots>,
    /// This node made its cluster: a group without members is made with it. Another waits to be added.
    pub(crate) founder: bool,
}

impl Group {
    pub(crate) async fn start<M: Machine>(
        shard: Arc<Shard<M>>,
        setting: Setting,
    ) -> Result<Arc<Self>, StartError> {
        let Setting { node, incarnation, log, checkpointer, snapshots, founder } = setting;
        let store = shard.store.clone();
        let number = store.shard;
        let failed = || StartError::NoLeader { shard: number };
        let (fill, health) = (checkpointer.fill.clone(), checkpointer.health.clone());
        let machine = StateMachine { shard: shard.clone(), checkpointer, snapshots };
        let log_store = LogStore { log, group: number };
        let raft = Raft::new(node.0, Arc::new(config()), NoNetwork, log_store, machine).await;
        let raft = raft.map_err(|_| failed())?;
        let lead = LeadState::new();
        tokio::spawn(lead::follow(raft.clone(), lead.clone()));
        let known = raft.is_initialized().await.map_err(|_| failed())?;
        if known || founder {
            lead_alone(&raft, &lead, node).await.ok_or_else(failed)?;
        }
        // The last start may have ended between a checkpoint and its purge; nothing else would ask for it.
        let stored = store.state.lock().stored.last;
        if let Some(last) = stored {
            raft.trigger().purge_log(last.index).await.map_err(|_| failed())?;
        }
        let queue = Queue::new(Origin { node: node.0, incarnation });
        driver::start(node, ShardId(number), &queue, lead.watch(), None);
        let proposer =
            Proposer { queue: queue.clone(), raft: raft.clone(), lead: lead.watch(), fill, health };
        tokio::spawn(proposer.run());
        let replica: Arc<dyn Replica> = shard;
        let open = AtomicBool::new(true);
        Ok(Arc::new(Self { store, replica, queue, raft, lead, open }))
    }

    /// Returns whether the group has neither ended nor been told to.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) && self.queue.is_open()
    }

    /// Refuses new proposals.
    pub(crate) fn close(&self) {
        self.open.store(false, Ordering::Relaxed);
        self.queue.close();
    }
}

/// Makes a group of this one voter lead, with its log replayed; does nothing if there are other voters.
async fn lead_alone(raft: &Raft<Types>, lead: &LeadState, node: NodeId) -> Option<()> {
    if !raft.is_initialized().await.ok()? {
        raft.initialize(BTreeMap::from([(node.0, EmptyNode::new())])).await.ok()?;
    }
    let metrics = raft.metrics().borrow().clone();
    if metrics.membership_config.membership().voter_ids().any(|voter| voter != node.0) {
        return Some(());
    }
    if metrics.current_leader != Some(node.0) {
        raft.trigger().elect().await.ok()?;
    }
    let wait = raft.wait(Some(START_TIMEOUT));
    let leads = wait.metrics(
        |metrics| {
            metrics.current_leader == Some(node.0)
                && metrics.last_applied.map(|id| id.index) >= metrics.last_log_index
        },
        "leader with its log replayed",
    );
    leads.await.ok()?;
    lead.watch().wait_for(|lead| lead.here).await.ok().map(drop)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn config() -> Config {
    Config {
        cluster_name: "hongqiao".into(),
        heartbeat_interval: milliseconds(HEARTBEAT),
        election_timeout_min: milliseconds(ELECTION_MIN),
        election_timeout_max: milliseconds(ELECTION_MAX),
        // On once a group has a second member; see `lead`.
        enable_tick: false,
        // Snapshots follow checkpoints; what they cover is purged at once.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        ..Config::default()
    }
}
