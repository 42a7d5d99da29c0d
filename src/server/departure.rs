//! How a node ends that leaves its cluster for good.
//!
//! - Owns: nothing. Takes: what the cluster says of this node. Gives: when to stop, and what is said then.
//! - Bound: `limits::REMOVED_WAIT` for the word that the cluster has let it go.
//!
//! ```text
//! leaving ─► its shards are elsewhere: released ─► drained, as on SIGTERM ─► removed ─► exit code 0
//! another folder, or a later start, is the member ─► drained ─► exit code 1, and the folder never starts again
//! declared lost, and back ─► removed ─► drained ─► exit code 1, and its folder never starts again
//! ```

use hongqiao_cluster::{ClusterHandle, Departure};

use super::say;
use crate::{
    banner::{self, Form},
    limits,
    shard::machine::ShardMachine,
};

type Handle = ClusterHandle<ShardMachine>;

/// Waits until this node is no member any more.
pub(super) async fn removed(cluster: &Handle) {
    let mut departure = cluster.departure();
    if departure.wait_for(|now| now.is_end()).await.is_err() {
        // The cluster has ended by itself; whoever waits for it says so.
        std::future::pending::<()>().await;
    }
}

/// Waits until this node is not needed any more, or no member any more.
async fn due(cluster: &Handle) -> Departure {
    let mut departure = cluster.departure();
    let is_due = |now: &Departure| *now == Departure::Released || now.is_end();
    match departure.wait_for(is_due).await {
        Ok(departed) => *departed,
        Err(_) => std::future::pending().await,
    }
}

/// Waits for the word of an operator, or that this node is not needed any more; gives how it departs then.
pub(super) async fn due_or(told: impl Future<Output = ()>, cluster: &Handle) -> Option<Departure> {
    tokio::select! {
        () = told => None,
        departed = due(cluster) => Some(departed),
    }
}

/// Ends a node whose clients are gone: waits for the word of the cluster, and passes it on.
///
/// # Errors
/// If it was removed without having left.
pub(super) async fn end(
    cluster: &Handle,
    departed: Option<Departure>,
    form: Form,
) -> anyhow::Result<()> {
    let Some(departed) = departed else { return Ok(()) };
    if departed.is_end() {
        return refuse(cluster);
    }
    let node = cluster.node().0;
    if tokio::time::timeout(limits::REMOVED_WAIT, removed(cluster)).await.is_ok() {
        tracing::info!(node, "this node has left the cluster");
        say(&banner::left(form, node));
    } else {
        tracing::warn!(
            node,
            "this node is not needed any more, but was not told that it is removed"
        );
    }
    Ok(())
}

/// Says that this node may not go on.
pub(super) fn refuse(cluster: &Handle) -> anyhow::Result<()> {
    let node = cluster.node().0;
    if *cluster.departure().borrow() == Departure::Superseded {
        anyhow::bail!(
            "node {node} has gone on elsewhere: this data folder is an older copy of its folder, or another one with \
             its id, and does not start again; if the other one is lost, give the node up with `hongqiao cluster leave \
             {node} --lost` on another node and join with an empty folder and no id"
        )
    }
    anyhow::bail!(
        "node {} was removed from its cluster while it was away; to come back as a new member start with an \
         empty data folder and another id, or none",
        cluster.node().0
    )
}
