//! What the parts of a node hold of the meta group: read the directory, propose, wait for everybody.
//!
//! - Owns: nothing that it does not share. Takes: commands, from any thread.
//! - Gives: the newest directory without waiting (NO-WAIT-READ); replies once committed and applied.
//! - Bound: see `batch.rs`; a barrier returns after `LEASE_SPAN` at the latest.
//! - Source: own design; design of the barrier in ARCHITECTURE.md "The directory".

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    task::AbortHandle,
};

use super::{
    barrier::Barriers,
    batch::Batches,
    command::{MetaCommand, MetaReply},
    keeper::{Addresses, Keeper},
    leases::{LeaseClerk, Leases},
    machine::Published,
};
use crate::{
    directory::Directory, error::ProposeError, id::NodeId, raft_group::lead::Lead,
    storage::folder::incarnation::Incarnation, transport::LinkError,
};

/// The way from here to the meta group and its members.
pub(crate) trait MetaPort: Send + Sync + 'static {
    /// Proposes a batch. It is enqueued by the call: batches are applied in the order of the calls.
    fn propose(&self, batch: Bytes) -> BoxFuture<'static, Result<Bytes, ProposeError>>;

    /// Watches who leads the group.
    fn lead(&self) -> watch::Receiver<Lead>;

    /// Returns the term that this node leads in, if at some moment of this call it has applied all of
    /// earlier terms and nobody else can have been elected.
    fn leads(&self) -> Option<u64>;

    /// Asks the desk for leases of another member.
    fn ask(
        &self,
        to: NodeId,
        body: Bytes,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>>;
}

/// A cheap reference to what this node knows of the cluster.
#[derive(Clone)]
pub struct MetaHandle {
    inner: Arc<Inner>,
}

struct Inner {
    leases: Arc<Leases>,
    batches: Arc<Batches>,
    barriers: Arc<Barriers>,
    runtime: Handle,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl std::fmt::Debug for MetaHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let node = self.inner.leases.node;
        f.debug_struct("MetaHandle").field("node", &node).finish_non_exhaustive()
    }
}

impl MetaHandle {
    pub(crate) fn new(
        me: (NodeId, Arc<Incarnation>),
        published: Arc<Published>,
        port: Arc<dyn MetaPort>,
        runtime: Handle,
    ) -> Self {
        let batches = Batches::new(port.clone(), runtime.clone());
        let leases = Leases::new(me, published, port);
        let barriers = Barriers::new(leases.clone(), runtime.clone());
        let tasks = Mutex::default();
        Self { inner: Arc::new(Inner { leases, batches, barriers, runtime, tasks }) }
    }

    /// Returns who answers other members at the desk for leases.
    pub(crate) fn clerk(&self) -> LeaseClerk {
        LeaseClerk(self.inner.leases.clone())
    }

    /// Makes this node a member and keeps it one, until [`Self::stop`].
    pub(crate) fn start(&self, addresses: Addresses) {
        let (leases, batches) = (self.inner.leases.clone(), self.inner.batches.clone());
        let keeper =
            Arc::new(Keeper { leases, batches, addresses, was_up: AtomicBool::new(false) });
        let member = self.inner.runtime.spawn(keeper.clone().be_member());
        let leader = self.inner.runtime.spawn(keeper.watch_over());
        self.inner.tasks.lock().extend([member.abort_handle(), leader.abort_handle()]);
    }

    /// Ends what [`Self::start`] began; the lease runs out.
    pub(crate) fn stop(&self) {
        for task in self.inner.tasks.lock().drain(..) {
            task.abort();
        }
    }

    /// Returns once this start of the node is up in its own directory.
    pub(crate) async fn is_up(&self) {
        let leases = &self.inner.leases;
        let is_up = |_: &u64| self.directory().is_up(leases.node, leases.incarnation.now());
        // The publisher lives as long as this handle.
        let _ = self.changed().wait_for(is_up).await;
    }

    /// Watches whether this node was told that it is no member any more.
    pub(crate) fn removed(&self) -> watch::Receiver<bool> {
        self.inner.leases.removed.subscribe()
    }

    /// Notes that it was told so.
    pub(crate) fn note_removed(&self) {
        self.inner.leases.removed.send_replace(true);
    }

    /// Watches whether the cluster knows a later start of this node, or another folder of it.
    pub(crate) fn superseded(&self) -> watch::Receiver<bool> {
        self.inner.leases.superseded.subscribe()
    }

    /// Notes that it does.
    pub(crate) fn note_superseded(&self) {
        self.inner.leases.superseded.send_replace(true);
    }

    /// Returns the newest directory of this node; waits for nobody.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        self.inner.leases.published.directory()
    }

    /// Returns a view of the index up to which the directory is known here.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.leases.published.announced()
    }

    /// Returns the number under which this node is up, or says that it is. It grows with each start, and
    /// when the node was declared down: what it had in the directory is gone then.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.inner.leases.incarnation.now()
    }

    /// Proposes a command. It is enqueued by the call itself, not by the first poll; what waits goes
    /// into one entry, in the order of the calls.
    ///
    /// - Shape: the reply, and the index to pass to [`Self::barrier`]. Dropping the future cancels nothing.
    ///
    /// # Errors
    /// As for [`ClusterHandle::propose`](crate::ClusterHandle::propose).
    #[expect(clippy::needless_pass_by_value, reason = "a command is given away")]
    pub fn propose(&self, command: MetaCommand) -> MetaProposed {
        self.inner.batches.push(&command)
    }

    /// Returns when every node that may rely on its directory has applied `index`, the index of a reply.
    ///
    /// - At once when the node is alone; otherwise when all nodes that are up have applied it, or the leases
    ///   of those that have not are over: 2.2 seconds at the latest, also if nobody can be asked.
    pub async fn barrier(&self, index: u64) {
        self.inner.barriers.pass(index).await;
    }

    /// Returns whether this node may rely on its directory: no barrier has returned, anywhere, for
    /// something that is missing in it. A node that is alone always may.
    #[must_use]
    pub fn has_lease(&self) -> bool {
        self.inner.leases.has_lease()
    }

    /// Gives up the lease for good and says that this node is down: what it has in the directory goes
    /// at once, not after 5 seconds. For a node that stops; it does nothing more for a cluster afterwards.
    ///
    /// # Errors
    /// As for [`Self::propose`]; the others find out by themselves then.
    pub async fn retire(&self) -> Result<(), ProposeError> {
        self.stop();
        let leases = &self.inner.leases;
        leases.retire();
        let incarnation = self.incarnation();
        self.propose(MetaCommand::NodeDown { node: leases.node, incarnation }).await.map(drop)
    }
}

/// A meta command on its way: resolves to the reply and its index.
#[must_use = "the reply says whether the command was applied"]
#[derive(Debug)]
pub struct MetaProposed(pub(super) oneshot::Receiver<Told>);

pub(super) type Told = Result<(MetaReply, u64), ProposeError>;

impl Future for MetaProposed {
    type Output = Told;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Told> {
        let told = Pin::new(&mut self.0).poll(cx);
        told.map(|told| told.unwrap_or(Err(ProposeError::Unknown)))
    }
}
