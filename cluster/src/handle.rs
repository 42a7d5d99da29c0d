//! What the server holds of a node: propose, read, look.
//!
//! - Owns: nothing that it does not share. Takes: commands and questions, from any thread.
//! - Gives: replies once flushed and applied (FLUSH-THEN-ACK); answers computed on the cluster's threads.
//! - Bound: permits before every proposal, `READS_MAX` reads at a time.
//! - Source: own design.

use std::{future::ready, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use tokio::{runtime::Handle, sync::watch};

use crate::{
    backup::{self, Lacking, Origin, current::Leaders},
    desks::{Desks, MemberKind},
    error::{BackupError, ProposeError, ReadError},
    id::{NodeId, ShardId},
    machine::{Machine, Store},
    membership::{Moves, departure::Departure},
    meta::{MetaHandle, handle::MetaPort},
    proposals::{Order, Proposals, Proposed},
    raft_group::{group::Group, lead::Lead},
    raft_groups::Groups,
    stats::{DiskState, Stats},
    status::{GroupStatus, Status},
    stream::{
        desk::ProposeClerk,
        question::{QueryClerk, Questions, Readers},
        seek::Way,
    },
    transport::{Class, Desk, LinkError, Network, PeerService},
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
    pub(crate) proposals: Arc<Proposals>,
    pub(crate) meta: MetaHandle,
    pub(crate) desks: Arc<Desks>,
    pub(crate) network: Option<Arc<dyn Network>>,
    pub(crate) runtimes: Handles,
    /// How far this node is on its way out.
    pub(crate) departure: watch::Sender<Departure>,
    pub(crate) moves: Moves,
    readers: Arc<Readers>,
    questions: Arc<Questions>,
    pub(crate) origin: Origin,
}

impl<M: Machine> Shared<M> {
    pub(crate) fn new(
        groups: Groups<M>,
        runtimes: Handles,
        origin: Origin,
        network: Option<Arc<dyn Network>>,
    ) -> Arc<Self> {
        let proposals = Arc::new(Proposals {
            groups: groups.groups.clone(),
            permits: groups.permits.clone(),
            health: groups.health.clone(),
            timers: runtimes.timers.clone(),
        });
        let published = groups.published.clone();
        let work = runtimes.work.clone();
        let port = Arc::new(ToMeta { proposals: proposals.clone(), network: network.clone() });
        let me = (origin.node, origin.incarnation.clone());
        let meta = MetaHandle::new(me, published, port, work);
        let readers = Arc::new(Readers::new(runtimes.work.clone()));
        let questions = Arc::new(Questions {
            node: origin.node,
            groups: groups.groups.clone(),
            readers: readers.clone(),
            way: network.clone().map(|network| Way::of(network, groups.published.clone())),
        });
        let desks = Arc::<Desks>::default();
        desks.set_member(MemberKind::Lease, Arc::new(meta.clerk()));
        desks.set(Desk::Query, Arc::new(QueryClerk(questions.clone())));
        desks.set(
            Desk::Propose,
            Arc::new(ProposeClerk {
                node: origin.node,
                groups: groups.groups.clone(),
                permits: groups.permits.clone(),
                health: groups.health.clone(),
            }),
        );
        Arc::new(Self {
            groups,
            proposals,
            meta,
            desks,
            network,
            runtimes,
            departure: watch::Sender::default(),
            moves: Moves::default(),
            readers,
            questions,
            origin,
        })
    }
}

/// The way of the meta handle to its group and its members.
struct ToMeta {
    proposals: Arc<Proposals>,
    network: Option<Arc<dyn Network>>,
}

impl ToMeta {
    fn group(&self) -> Option<&Arc<Group>> {
        self.proposals.groups.last()
    }
}

impl MetaPort for ToMeta {
    fn propose(&self, batch: Bytes) -> BoxFuture<'static, Result<Bytes, ProposeError>> {
        let meta = u16::try_from(self.proposals.groups.len().saturating_sub(1));
        Box::pin(self.proposals.propose(ShardId(meta.unwrap_or(u16::MAX)), batch, None))
    }

    fn lead(&self) -> watch::Receiver<Lead> {
        let none = || watch::Sender::default().subscribe();
        self.group().map_or_else(none, |group| group.lead.watch())
    }

    fn leads(&self) -> Option<u64> {
        let lead = &self.group()?.lead;
        let before = lead.now().term;
        // Terms only grow: if it is the same before and after, it was the same in between.
        (lead.may_read() && lead.now().term == before).then_some(before)
    }

    fn ask(
        &self,
        to: NodeId,
        body: Bytes,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let Some(network) = &self.network else {
            return Box::pin(ready(Err(LinkError::Unreachable)));
        };
        let mut request = Vec::with_capacity(1 + body.len());
        request.push(MemberKind::Lease as u8);
        request.extend_from_slice(&body);
        network.request(to, Class::Control, Desk::Member, request.into(), time_out)
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
    /// `Overloaded`, `TooLarge`, `DiskFull`, `DiskFailing` and `Unavailable`: nothing was written. `Unknown` after 5 seconds.
    pub fn propose(&self, shard: ShardId, command: Bytes) -> Proposed {
        if shard.0 >= self.shards() {
            return Proposed::refused(ProposeError::Unavailable);
        }
        self.shared.proposals.propose(shard, command, None)
    }

    /// As `propose`, behind a proposal to the same shard whose outcome the caller has not seen: if that one
    /// fails, this one is refused or fails with it, so that nothing is applied out of order (ORDER).
    pub fn propose_behind(
        &self,
        shard: ShardId,
        command: Bytes,
        behind: Option<Order>,
    ) -> Proposed {
        if shard.0 >= self.shards() {
            return Proposed::refused(ProposeError::Unavailable);
        }
        self.shared.proposals.propose(shard, command, behind)
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
        let group = self.shared.groups.group(shard).ok_or(ReadError::Unavailable)?;
        let answer = move || {
            let machine_lock = machine.machine.lock();
            let state = machine.store.state.lock();
            ask(&machine_lock, &*state)
        };
        self.shared.readers.answer(group, answer).await
    }

    /// Asks the machine of a shard, or of the meta group, an encoded question; see [`Machine::query`].
    /// It is answered by whichever node leads, and sees every command that was acknowledged before the call.
    ///
    /// # Errors
    /// `Unavailable` after 5 seconds without a leader that answers; at once on a node without others.
    pub async fn query(&self, shard: ShardId, question: Bytes) -> Result<Bytes, ReadError> {
        self.shared.questions.ask(shard, question).await
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
        self.shared.origin.incarnation.now()
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

    /// Returns what this node knows of the cluster, and the way to change it.
    #[must_use]
    pub fn meta(&self) -> &MetaHandle {
        &self.shared.meta
    }

    /// Returns whether this node is the only member of its cluster.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.shared.meta.directory().is_alone(self.node())
    }

    /// Asks the server of another node. Enqueued by the call: calls of one class are served in order.
    ///
    /// - Dropping the future cancels nothing.
    pub fn request(
        &self,
        to: NodeId,
        class: Class,
        body: Bytes,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        match &self.shared.network {
            Some(network) => network.request(to, class, Desk::Server, body, time_out),
            None => Box::pin(ready(Err(LinkError::Unreachable))),
        }
    }

    /// Tells the server of another node something, in order with the requests of the class.
    ///
    /// # Errors
    /// `Unreachable` and `Full`: not sent. Without an error it may still get lost with the link.
    pub fn cast(&self, to: NodeId, class: Class, body: Bytes) -> Result<(), LinkError> {
        match &self.shared.network {
            Some(network) => network.cast(to, class, Desk::Server, body),
            None => Err(LinkError::Unreachable),
        }
    }

    /// Says who answers the requests of other nodes' servers; until then they are refused.
    pub fn set_service(&self, service: Arc<dyn PeerService>) {
        self.shared.desks.set(Desk::Server, service);
    }

    /// Returns how this node, its groups and its links do.
    #[must_use]
    pub fn status(&self) -> Status {
        let groups = (0..).zip(&self.shared.groups.groups);
        let origin = &self.shared.origin;
        Status {
            node: origin.node,
            incarnation: origin.incarnation.now(),
            cluster: origin.format.cluster,
            groups: groups.map(|(number, group)| GroupStatus::of(number, group)).collect(),
            links: self.shared.network.as_ref().map(|network| network.links()).unwrap_or_default(),
        }
    }

    /// Gives every lead of this node to a member that follows it, and takes none any more: before it stops.
    ///
    /// - All at once, within 3 seconds; a group without such a member is left as it is.
    pub async fn resign(&self) {
        let Some(network) = self.shared.network.clone() else { return };
        let groups = self.shared.groups.groups.clone();
        for group in &groups {
            group.leave();
        }
        let all = async move { join_all(groups.iter().map(|group| group.resign(&*network))).await };
        let _ = self.shared.runtimes.work.spawn(all).await;
    }

    /// Writes a copy of this node's state into `target`, which must not exist or be empty. It is marked, so that
    /// no node starts on it as this one; [`Survivor::found`](crate::recover::Survivor::found) makes it a cluster of its own.
    ///
    /// - It holds what was acknowledged before the call, but for the groups that it names: waits up to 10 s for
    ///   each group's leader to say how much that is, and until it has come here.
    /// - Each shard is copied as of one moment; its checkpoints wait meanwhile, its proposals only
    ///   once the memory tables are full.
    ///
    /// # Errors
    /// The copy is useless then; what is there may be removed.
    pub async fn backup(&self, target: &Path) -> Result<Lacking, BackupError> {
        let (shared, target) = (self.shared.clone(), target.to_path_buf());
        let work = shared.runtimes.work.clone();
        // Callers need not have a clock.
        let written = work.spawn(async move {
            let leaders = Leaders {
                node: shared.origin.node,
                published: shared.groups.published.clone(),
                network: shared.network.clone(),
            };
            let mut behind = leaders.not_current(&shared.groups.groups).await;
            let write = move || backup::write(&shared.groups, &shared.origin, &target);
            let missing = tokio::task::spawn_blocking(write).await;
            let missing = missing.unwrap_or(Err(BackupError::Stopping))?;
            behind.retain(|group| missing.iter().all(|(other, _)| other != group));
            Ok(Lacking { missing, behind })
        });
        written.await.unwrap_or(Err(BackupError::Stopping))
    }
}
