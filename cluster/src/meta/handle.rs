//! What the parts of a node hold of the meta group: read the directory, propose, wait for everybody.
//!
//! - Owns: nothing that it does not share. Takes: commands, from any thread.
//! - Gives: the newest directory without waiting (NO-WAIT-READ); replies once committed and applied.
//! - Bound: see `batch.rs`; a barrier returns after about 2.5 seconds at the latest.
//! - Source: own design; design of the barrier in ARCHITECTURE.md "The directory".

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};

use super::{
    batch::Batches,
    command::{MetaCommand, MetaReply},
    machine::Published,
};
use crate::{directory::Directory, error::ProposeError, id::NodeId};

/// The way from here to the meta group.
pub(crate) trait MetaPort: Send + Sync + 'static {
    /// Proposes a batch. It is enqueued by the call: batches are applied in the order of the calls.
    fn propose(&self, batch: Bytes) -> BoxFuture<'static, Result<Bytes, ProposeError>>;
}

/// A cheap reference to what this node knows of the cluster.
#[derive(Clone)]
pub struct MetaHandle {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    published: Arc<Published>,
    batches: Arc<Batches>,
}

impl std::fmt::Debug for MetaHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetaHandle").field("node", &self.inner.node).finish_non_exhaustive()
    }
}

impl MetaHandle {
    pub(crate) fn new(
        node: NodeId,
        published: Arc<Published>,
        port: Arc<dyn MetaPort>,
        runtime: Handle,
    ) -> Self {
        let batches = Batches::new(port, runtime);
        Self { inner: Arc::new(Inner { node, published, batches }) }
    }

    /// Returns the newest directory of this node; waits for nobody.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        self.inner.published.directory()
    }

    /// Returns a view of the index up to which the directory is known here.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.published.announced()
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

    /// Returns when every node that may rely on its directory has applied `index`, a reply's index.
    pub async fn barrier(&self, index: u64) {
        let mut changed = self.changed();
        // The publisher lives as long as this handle.
        let _ = changed.wait_for(|known| *known >= index).await;
    }

    /// Returns whether this node may rely on its directory: no barrier has returned for something
    /// that is missing in it.
    #[must_use]
    pub fn has_lease(&self) -> bool {
        self.inner.published.directory().is_alone(self.inner.node)
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
