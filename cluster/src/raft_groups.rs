//! All groups of this node: one log, one flusher, one checkpointer, one runtime.
//!
//! - Owns: the groups of all shards and the meta group, and what they share. Takes: an open folder.
//! - Gives: groups; the number of a shard's group is the shard's, the meta group comes behind them.
//! - Bound: `Options::shards` groups and one; each step of start and stop has a time-out.
//! - Groups with one voter need no clock: no heartbeat, no election by time-out, no idle work.
//! - Source: openraft 0.9.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use futures_util::future::{join_all, try_join_all};
use tokio::runtime::Handle;

use crate::{
    error::StartError,
    id::ShardId,
    machine::Machine,
    meta::{
        MetaSink,
        machine::{MetaMachine, Published},
    },
    options::Options,
    raft_group::{
        group::{Group, Setting},
        permits::Permits,
        pulse::Pulse,
        snapshot::{install, spool::Snapshots},
        state_machine::Shard,
    },
    storage::{
        checkpoint::{Checkpointer, Fill, ShardStore},
        disk::Disk,
        health::Health,
        log::Log,
        shelf::Shelf,
        state::{
            kv::Kv,
            shard_state::{Base, ShardState},
        },
    },
    transport::Network,
};

/// Groups end within this time, or are left behind.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What all groups of a node share.
pub(crate) struct Groups<M> {
    /// Every group; the last is the meta group.
    pub(crate) groups: Vec<Arc<Group>>,
    /// The machines of the shards.
    pub(crate) shards: Vec<Arc<Shard<M>>>,
    /// What the meta group's machine has made.
    pub(crate) published: Arc<Published>,
    pub(crate) permits: Arc<Permits>,
    pub(crate) health: Arc<Health>,
    pub(crate) base: Arc<Base>,
    pub(crate) fill: Arc<Fill>,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) log: Arc<Log>,
    pub(crate) snapshots: Arc<Snapshots>,
    log_budget: usize,
}

/// Other nodes, and how this one came to be with them.
pub(crate) struct Others {
    /// `None`: this node is alone.
    pub(crate) network: Option<Arc<dyn Network>>,
    /// This node made its cluster; another waits until its groups get it as a member.
    pub(crate) founder: bool,
}

#[cfg(test)]
impl Others {
    /// There are none: a node that is alone.
    pub(crate) fn none() -> Self {
        Self { network: None, founder: true }
    }
}

/// The parts below the groups: real ones, or twins.
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) kv: Box<dyn Kv>,
    pub(crate) shelf: Arc<dyn Shelf>,
    pub(crate) log: Arc<Log>,
    pub(crate) health: Arc<Health>,
    /// Of this start of the node; it grows with each.
    pub(crate) incarnation: u64,
}

fn open_stores(
    options: &Options,
    base: &Arc<Base>,
    fill: &Arc<Fill>,
    log: &Log,
) -> Result<Vec<Arc<ShardStore>>, StartError> {
    let path = options.data_dir.join("state");
    let open = |group| {
        let state = ShardState::open(group, base.clone());
        let state = state.map_err(StartError::of_state("read the state in", &path))?;
        log.check_behind(group, state.stored.last, &options.data_dir)?;
        Ok(ShardStore::new(state, group, base.clone(), fill.clone()))
    };
    (0..options.groups()).map(open).collect()
}

impl<M: Machine> Groups<M> {
    /// Opens state and machines of all groups, then starts them; returns when those lead that have no
    /// other voter.
    pub(crate) async fn start(
        parts: Parts,
        options: &Options,
        make: &(dyn Fn(ShardId) -> M + Sync),
        sink: MetaSink,
        others: &Others,
    ) -> Result<Self, StartError> {
        let Parts { disk, kv, shelf, log, health, incarnation } = parts;
        install::redo(&shelf, &*kv, &log, options.groups(), &options.data_dir).await?;
        let snapshots = Snapshots::new(shelf, log.clone());
        let base = Arc::new(Base { kv, health: health.clone() });
        let fill = Arc::new(Fill::new(options.checkpoint_bytes, base.health.clone()));
        let mut stores = open_stores(options, &base, &fill, &log)?;
        let checkpointer = Checkpointer::new(
            stores.clone(),
            base.clone(),
            fill.clone(),
            disk,
            log.clone(),
            options,
        );
        checkpointer.look_at_disk();
        let published = Published::new(sink);
        let meta = MetaMachine::new(options.shards, published.clone());
        let meta = stores.pop().map(|store| Shard::open(meta, store));
        let open = |store: Arc<ShardStore>| Shard::open(make(ShardId(store.shard)), store);
        let shards: Vec<_> = stores.into_iter().map(open).collect();
        let setting = Setting {
            node: options.node,
            incarnation,
            log: log.clone(),
            checkpointer: checkpointer.clone(),
            snapshots: snapshots.clone(),
            network: others.network.clone(),
            published: published.clone(),
            awake: Arc::default(),
            founder: others.founder,
        };
        let meta = try_join_all(meta.map(|meta| Group::start(meta, setting.clone())));
        let groups = shards.iter().map(|shard| Group::start(shard.clone(), setting.clone()));
        let (groups, meta) = tokio::try_join!(try_join_all(groups), meta)?;
        let groups: Vec<_> = groups.into_iter().chain(meta).collect();
        if let Some(network) = setting.network {
            let Setting { node, awake, .. } = setting;
            tokio::spawn(Pulse { node, groups: groups.clone(), network, awake }.run());
        }
        Ok(Self {
            groups,
            shards,
            published,
            permits: Permits::new(options.proposals_max, options.proposal_bytes_max),
            health,
            base,
            fill,
            checkpointer,
            log,
            snapshots,
            log_budget: options.checkpoint_bytes,
        })
    }

    pub(crate) fn group(&self, shard: ShardId) -> Option<&Arc<Group>> {
        self.groups.get(usize::from(shard.0)).filter(|group| group.is_open())
    }

    /// Purges the logs of shards whose checkpoint is new. Called by the checkpointer's thread.
    pub(crate) fn purge_after_checkpoints(
        &self,
        runtime: Handle,
    ) -> impl Fn(&[u16]) + Send + use<M> {
        let (groups, health, budget) = (self.groups.clone(), self.health.clone(), self.log_budget);
        move |shards| {
            // What waits for other members may hold as much as a checkpoint; proposals wait at three times.
            let short = health.memory.bytes() > budget;
            let part = short.then(|| budget / groups.len().max(1));
            for group in shards.iter().filter_map(|shard| groups.get(usize::from(*shard))) {
                // The last checkpoint comes when the groups have ended; they would call that an error.
                if !group.is_open() {
                    continue;
                }
                let group = group.clone();
                runtime.spawn(async move { group.purge(part).await });
            }
        }
    }

    /// Refuses new proposals and ends the groups.
    pub(crate) async fn stop(&self) {
        for group in &self.groups {
            group.close();
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
        for group in &self.groups {
            group.queue.end();
        }
    }
}
