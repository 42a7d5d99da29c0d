//! What the server holds of a node: propose, read, look.
//!
//! - Owns: nothing that it does not share. Takes: commands and questions, from any thread.
//! - Gives: replies once flushed and applied (FLUSH-THEN-ACK); answers computed on the cluster's threads.
//! - Bound: permits before every proposal, `READS_MAX` reads at a time.
//! - Source: own design.

use std::{
    future::Future,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, oneshot, watch},
    time::Sleep,
};

use crate::{
    backup::{self, Origin},
    error::{BackupError, ProposeError, ReadError},
    id::{NodeId, ShardId},
    limits::{PROPOSE_TIMEOUT, READS_MAX},
    machine::{Machine, Store},
    meta::{MetaHandle, MetaSink, local},
    options::Options,
    raft_group::{group::Group, lead::Lead, types::Caller},
    raft_groups::Groups,
    stats::{DiskState, Stats},
    storage::format::Folder,
};

/// The runtimes of a node.
pub(crate) struct Handles {
    /// Where groups and reads run.
    pub(crate) work: Handle,
    /// Where time is kept while those wait for a disk.
    pub(crate) timers: Handle,
}

/// What all handles of a node share.
pub(crate) struct Shared<M> {
    pub(crate) groups: Groups<M>,
    runtimes: Handles,
    reads: Arc<Semaphore>,
    meta: MetaHandle,
    pub(crate) origin: Origin,
}

impl<M: Machine> Shared<M> {
    pub(crate) fn new(
        groups: Groups<M>,
        runtimes: Handles,
        options: &Options,
        folder: &Folder,
    ) -> Arc<Self> {
        let this = (options.node, folder.incarnation);
        let sink: MetaSink = Arc::new(|_, _| ());
        let meta = local::handle(this, folder.format.shards, sink, runtimes.work.clone());
        Arc::new(Self {
            groups,
            meta,
            runtimes,
            reads: Arc::new(Semaphore::new(READS_MAX)),
            origin: Origin {
                node: options.node,
                incarnation: folder.incarnation,
                format: folder.format.clone(),
            },
        })
    }

    /// Returns a group that can be read here.
    fn leading(&self, shard: ShardId) -> Result<Arc<Group>, ReadError> {
        let group = self.groups.group(shard).filter(|group| group.lead.may_read());
        group.cloned().ok_or(ReadError::Unavailable)
    }

    /// Computes an answer on the cluster's threads. It counts if this node still leads after it.
    async fn answer<R: Send + 'static>(
        &self,
        group: Arc<Group>,
        answer: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, ReadError> {
        let turn = self.reads.clone().acquire_owned().await;
        let turn = turn.map_err(|_| ReadError::Unavailable)?;
        let answer = self.runtimes.work.spawn(async move {
            let _turn = turn;
            let answer = answer();
            group.lead.may_read().then_some(answer)
        });
        answer.await.ok().flatten().ok_or(ReadError::Unavailable)
    }
}

/// A cheap reference to a running node.
pub struct ClusterHandle<M> {
    shared: Arc<Shared<M>>,
}

impl<M> Clone for ClusterHandle<M> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<M> std::fmt::Debug for ClusterHandle<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterHandle")
            .field("node", &self.shared.origin.node)
            .finish_non_exhaustive()
    }
}

impl<M: Machine> ClusterHandle<M> {
    pub(crate) fn new(shared: Arc<Shared<M>>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<M>> {
        &self.shared
    }

    /// Proposes a command. It is enqueued by the call itself, not by the first poll: commands that
    /// one thread proposes to one shard are applied in the order of the calls.
    ///
    /// - Shape: the machine's reply; a refusal is known at once. Dropping the future cancels nothing.
    /// - Callable from any thread, inside any runtime or none; never blocks.
    ///
    /// # Errors
    /// `Overloaded`, `DiskFull`, `DiskFailing` and `Unavailable`: nothing was written. `Unknown` after 5 seconds.
    pub fn propose(&self, shard: ShardId, command: Bytes) -> Proposed {
        if shard.0 >= self.shards() {
            return Proposed(Outcome::Refused(ProposeError::Unavailable));
        }
        self.propose_to(shard, command)
    }

    /// As [`Self::propose`], also to the meta group.
    pub(crate) fn propose_to(&self, shard: ShardId, command: Bytes) -> Proposed {
        let refused = |why| Proposed(Outcome::Refused(why));
        let groups = &self.shared.groups;
        let Some(group) = self.shared.groups.group(shard) else {
            return refused(ProposeError::Unavailable);
        };
        if let Some(why) = groups.health.state().refusal() {
            return refused(why);
        }
        let Some(permit) = groups.permits.take(command.len()) else {
            return refused(ProposeError::Overloaded);
        };
        let (reply, told) = oneshot::channel();
        if group.queue.push(command, Caller { reply, _permit: permit }).is_err() {
            return refused(ProposeError::Unavailable);
        }
        let _time = self.shared.runtimes.timers.enter();
        Proposed(Outcome::Waiting(told, Box::pin(tokio::time::sleep(PROPOSE_TIMEOUT))))
    }

    /// Asks a shard: `ask` sees every command that was acknowledged before the call.
    ///
    /// - Runs on the cluster's threads, one at a time per shard and never beside `apply`: keep it to a
    ///   page. Dropping the future cancels nothing.
    ///
    /// # Errors
    /// `Unavailable` while the shard cannot be read on this node.
    pub async fn read<R: Send + 'static>(
        &self,
        shard: ShardId,
        ask: impl FnOnce(&M, &dyn Store) -> R + Send + 'static,
    ) -> Result<R, ReadError> {
        let machines = &self.shared.groups.shards;
        let machine = machines.get(usize::from(shard.0)).ok_or(ReadError::Unavailable)?.clone();
        let group = self.shared.leading(shard)?;
        let answer = move || {
            let machine_lock = machine.machine.lock();
            let state = machine.store.state.lock();
            ask(&machine_lock, &*state)
        };
        self.shared.answer(group, answer).await
    }

    /// Asks the machine of a shard, or of the meta group, an encoded question; see [`Machine::query`].
    ///
    /// # Errors
    /// `Unavailable` while the shard cannot be read.
    pub async fn query(&self, shard: ShardId, question: Bytes) -> Result<Bytes, ReadError> {
        let group = self.shared.leading(shard)?;
        let replica = group.replica.clone();
        self.shared.answer(group, move || replica.query(&question)).await
    }

    /// Returns who leads a shard, or the meta group, and how that changes.
    ///
    /// - A shard that does not exist has no leader, for ever.
    #[must_use]
    pub fn leadership(&self, shard: ShardId) -> watch::Receiver<Lead> {
        match self.shared.groups.groups.get(usize::from(shard.0)) {
            Some(group) => group.lead.watch(),
            None => watch::Sender::default().subscribe(),
        }
    }

    /// Returns the number of the meta group; it comes behind the shards.
    #[must_use]
    pub fn meta_shard(&self) -> ShardId {
        ShardId(self.shards())
    }

    /// Returns what this node knows of the cluster.
    #[must_use]
    pub fn meta(&self) -> &MetaHandle {
        &self.shared.meta
    }

    /// Returns how many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.shared.origin.format.shards
    }

    /// Returns this node's id.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.origin.node
    }

    /// Returns the number of this start of the node; it grows with each.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.shared.origin.incarnation
    }

    /// Returns the secret that keys name hashes; made at the first start of the cluster.
    #[must_use]
    pub fn hash_key(&self) -> [u8; 16] {
        self.shared.origin.format.hash_key
    }

    /// Returns the cluster's id; made at its first start.
    #[must_use]
    pub fn cluster_id(&self) -> [u8; 16] {
        self.shared.origin.format.cluster
    }

    /// Returns whether every group is open here and this node knows who leads it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let ready = |group: &Arc<Group>| group.is_open() && group.lead.now().leader.is_some();
        self.shared.groups.groups.iter().all(ready)
    }

    /// Returns whether the disk takes writes.
    #[must_use]
    pub fn disk_state(&self) -> DiskState {
        self.shared.groups.health.state()
    }

    /// Returns the figures of the durable side.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let groups = &self.shared.groups;
        let (waiting, waiting_bytes) = groups.permits.taken();
        let index = |id: Option<crate::raft_group::types::LogId>| id.map_or(0, |id| id.index);
        let lags = groups.groups.iter().filter_map(|group| {
            // Held for long only while a disk fails; whoever asks for figures must not wait for it.
            let state = group.store.state.try_lock()?;
            Some(index(state.applied.last) - index(state.stored.last))
        });
        Stats {
            table_bytes: groups.fill.bytes() as u64,
            state_bytes: groups.base.kv.disk_bytes(),
            checkpoint_lag_entries: lags.max().unwrap_or(0),
            proposals_waiting: waiting as u64,
            proposals_waiting_bytes: waiting_bytes as u64,
            ..Stats::of(&groups.health)
        }
    }

    /// Writes a copy of this node's state into `target`, which must not exist or be empty. A node
    /// started on that folder has everything that was acknowledged before the call.
    ///
    /// - Each shard is copied as of one moment; its checkpoints wait meanwhile, its proposals only
    ///   once the memory tables are full.
    ///
    /// # Errors
    /// The copy is useless then; what is there may be removed.
    pub async fn backup(&self, target: &Path) -> Result<(), BackupError> {
        let (shared, target) = (self.shared.clone(), target.to_path_buf());
        let write = move || backup::write(&shared.groups, &shared.origin, &target);
        let written = self.shared.runtimes.work.spawn_blocking(write);
        written.await.unwrap_or(Err(BackupError::Stopping))
    }
}

/// A proposal on its way: resolves to the reply.
#[must_use = "the reply says whether the command was applied"]
#[derive(Debug)]
pub struct Proposed(Outcome);

#[derive(Debug)]
enum Outcome {
    Refused(ProposeError),
    Waiting(oneshot::Receiver<Result<Bytes, ProposeError>>, Pin<Box<Sleep>>),
}

impl Future for Proposed {
    type Output = Result<Bytes, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Outcome::Refused(why) => Poll::Ready(Err(*why)),
            Outcome::Waiting(told, time_out) => match Pin::new(told).poll(cx) {
                Poll::Ready(told) => Poll::Ready(told.unwrap_or(Err(ProposeError::Unknown))),
                Poll::Pending => time_out.as_mut().poll(cx).map(|()| Err(ProposeError::Unknown)),
            },
        }
    }
}
