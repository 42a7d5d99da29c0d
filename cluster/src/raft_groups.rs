//! All groups of this node: one log, one flusher, one checkpointer, one runtime.
//!
//! - Owns: the groups and what they share. Takes: an open folder. Gives: groups that lead.
//! - Bound: `Options::shards` groups; each step of start and stop has a time-out.
//! - Groups with one voter need no clock: no heartbeat, no election by time-out, no idle work.
//! - Source: openraft 0.9.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use openraft::{Config, EmptyNode, Raft, SnapshotPolicy};
use tokio::runtime::Handle;

use crate::options::Options;
use crate::{
    error::StartError,
    id::ShardId,
    machine::Machine,
    raft_group::{
        log_store::LogStore,
        network::NoNetwork,
        permits::Permits,
        proposer::{Proposer, Queue},
        state_machine::{Shard, StateMachine},
        types::Types,
    },
    storage::{
        checkpoint::{Checkpointer, Fill, ShardStore},
        disk::Disk,
        health::Health,
        log::Log,
        state::{
            kv::Kv,
            shard_state::{Base, ShardState},
        },
    },
};

/// A group elects itself and replays its log within this time, or the node does not start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Groups end within this time, or are left behind.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// One group as the handle sees it.
pub(crate) struct Group<M> {
    pub(crate) shard: Arc<Shard<M>>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) raft: Raft<Types>,
    pub(crate) ready: Arc<AtomicBool>,
}

/// What all groups of a node share.
pub(crate) struct Groups<M> {
    pub(crate) groups: Vec<Arc<Group<M>>>,
    pub(crate) permits: Arc<Permits>,
    pub(crate) health: Arc<Health>,
    pub(crate) base: Arc<Base>,
    pub(crate) fill: Arc<Fill>,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) log: Arc<Log>,
}

/// The parts below the groups: real ones, or twins.
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) kv: Box<dyn Kv>,
    pub(crate) log: Arc<Log>,
    pub(crate) health: Arc<Health>,
}

impl<M: Machine> Groups<M> {
    /// Opens state and machines of all shards, then starts their groups; returns when all lead.
    pub(crate) async fn start(
        parts: Parts,
        options: &Options,
        make: &(dyn Fn(ShardId) -> M + Sync),
    ) -> Result<Self, StartError> {
        let Parts { disk, kv, log, health } = parts;
        let base = Arc::new(Base { kv, health: health.clone() });
        let fill = Arc::new(Fill::new(options.checkpoint_bytes, base.health.clone()));
        let mut stores = Vec::new();
        for shard in 0..options.shards {
            let state = ShardState::open(shard, base.clone()).map_err(|source| StartError::Io {
                what: "read the state in",
                path: options.data_dir.join("state"),
                source,
            })?;
            stores.push(ShardStore::new(state, shard, base.clone(), fill.clone()));
        }
        let checkpointer = Checkpointer::new(
            stores.clone(),
            base.clone(),
            fill.clone(),
            disk,
            log.clone(),
            options,
        );
        checkpointer.look_at_disk();
        let permits = Permits::new(options.proposals_max, options.proposal_bytes_max);
        let groups = stores.into_iter().map(|store| {
            let machine = make(ShardId(store.shard));
            let shard = Shard::open(machine, store);
            start_group(shard, log.clone(), checkpointer.clone(), options)
        });
        let groups = join_all(groups).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(Self { groups, permits, health, base, fill, checkpointer, log })
    }

    /// Purges the logs of shards whose checkpoint is new. Called by the checkpointer's thread.
    pub(crate) fn purge_after_checkpoints(
        &self,
        runtime: Handle,
    ) -> impl Fn(&[u16]) + Send + use<M> {
        let of = |group: &Arc<Group<M>>| (group.raft.clone(), group.ready.clone());
        let groups: Vec<_> = self.groups.iter().map(of).collect();
        move |shards| {
            for (raft, ready) in shards.iter().filter_map(|shard| groups.get(usize::from(*shard))) {
                // The last checkpoint comes when the groups have ended; they would call that an error.
                if !ready.load(Ordering::Relaxed) {
                    continue;
                }
                let raft = raft.clone();
                runtime.spawn(async move { raft.trigger().snapshot().await });
            }
        }
    }

    /// Refuses new proposals and ends the groups.
    pub(crate) async fn stop(&self) {
        for group in &self.groups {
            group.ready.store(false, Ordering::Relaxed);
            group.queue.close();
        }
        // Entries in flight answer their callers first.
        let deadline = crate::clock::now() + crate::limits::PROPOSE_TIMEOUT;
        while self.permits.taken().0 > 0 && crate::clock::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if self.permits.taken().0 > 0 {
            // The disk does not take them: groups end only once the flusher has given up.
            self.log.stop();
        }
        let ended = join_all(self.groups.iter().map(|group| group.raft.shutdown()));
        if tokio::time::timeout(STOP_TIMEOUT, ended).await.is_err() {
            tracing::warn!("groups did not end in time");
        }
    }
}

fn config() -> Config {
    Config {
        cluster_name: "hongqiao".into(),
        heartbeat_interval: 100,
        election_timeout_min: 500,
        election_timeout_max: 800,
        enable_tick: false,
        // Snapshots follow checkpoints; what they cover is purged at once.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        ..Config::default()
    }
}

async fn start_group<M: Machine>(
    shard: Arc<Shard<M>>,
    log: Arc<Log>,
    checkpointer: Arc<Checkpointer>,
    options: &Options,
) -> Result<Arc<Group<M>>, StartError> {
    let number = shard.store.shard;
    let no_leader = || StartError::NoLeader { shard: number };
    let node = options.node.0;
    let log_store = LogStore { log, group: number };
    let (fill, health) = (checkpointer.fill.clone(), checkpointer.health.clone());
    let machine = StateMachine { shard: shard.clone(), checkpointer };
    let config = Arc::new(config());
    let raft = Raft::new(node, config, NoNetwork, log_store, machine).await;
    let raft = raft.map_err(|_| no_leader())?;
    if raft.is_initialized().await.map_err(|_| no_leader())? {
        if raft.current_leader().await != Some(node) {
            raft.trigger().elect().await.map_err(|_| no_leader())?;
        }
    } else {
        let members = BTreeMap::from([(node, EmptyNode::new())]);
        raft.initialize(members).await.map_err(|_| no_leader())?;
    }
    let wait = raft.wait(Some(START_TIMEOUT));
    let leads = wait.metrics(
        |metrics| {
            metrics.current_leader == Some(node)
                && metrics.last_applied.map(|id| id.index) >= metrics.last_log_index
        },
        "leader with its log replayed",
    );
    leads.await.map_err(|_| no_leader())?;
    // The last start may have ended between a checkpoint and its purge; nothing else would ask for it.
    let stored = shard.store.state.lock().stored.last;
    if let Some(last) = stored {
        raft.trigger().purge_log(last.index).await.map_err(|_| no_leader())?;
    }
    let queue = Arc::new(Queue::default());
    tokio::spawn(Proposer { queue: queue.clone(), raft: raft.clone(), fill, health }.run());
    Ok(Arc::new(Group { shard, queue, raft, ready: Arc::new(AtomicBool::new(true)) }))
}
