//! How a node leaves: its leads go first, then its clients; and what it does when it was given up by mistake.
//!
//! - Owns: nothing that stays. Takes: hubs, the directory. Gives: clients that know where to go.
//! - Bound: `shutdown.drain_timeout` for all of it.
//!
//! ```text
//! no new sockets ─► leads handed over (3 s) ─► 0x9C with the address of another node, or 0x8B ─► released
//!                                                                       the others are told ◄──┘
//! ```

use std::time::Duration;

use actix::Addr;
use futures_util::future::join_all;
use hongqiao_cluster::ClusterHandle;

use super::workers::Workers;
use crate::{
    actors::{
        hub::{Drain, Hub},
        view::View,
    },
    clock, limits,
    model::reason::Reason,
    shard::machine::ShardMachine,
};

/// Hands the leads over, tells all clients and waits until their sessions are released.
pub(super) async fn leave(
    cluster: &ClusterHandle<ShardMachine>,
    workers: &Workers,
    time: Duration,
) {
    let start = clock::now();
    if !cluster.is_alone() {
        let resigned = tokio::time::timeout(time, cluster.resign());
        if resigned.await.is_err() {
            tracing::warn!("not every lead could be handed over in time");
        }
    }
    let elsewhere = others(cluster);
    let reason =
        if elsewhere.is_empty() { Reason::ServerShuttingDown } else { Reason::UseAnotherServer };
    let drains = workers
        .hubs
        .iter()
        .map(|hub| hub.send(Drain { reason, elsewhere: elsewhere.clone(), durable_only: false }));
    let left = time.saturating_sub(start.elapsed());
    if tokio::time::timeout(left, join_all(drains)).await.is_err() {
        tracing::warn!(
            "some clients did not end in time; their sessions are released at the next start"
        );
    }
    if !cluster.is_alone() {
        // Nobody has to wait for this node from now on; else the others find out after 5 s.
        let retired = tokio::time::timeout(limits::RETIRE_WAIT, cluster.meta().retire());
        if !matches!(retired.await, Ok(Ok(()))) {
            tracing::warn!("the others do not know yet that this node has stopped");
        }
    }
}

/// Where clients may go: nodes that are up and say where.
fn others(cluster: &ClusterHandle<ShardMachine>) -> Vec<String> {
    let (directory, me) = (cluster.meta().directory(), cluster.node());
    let others = directory.nodes.iter().filter(|(node, member)| **node != me && member.up);
    let addresses = others.map(|(_, member)| member.client_addr.clone());
    addresses.filter(|address| !address.is_empty()).collect()
}

/// When the others took this node for dead, they have released the sessions of its durable clients: these must
/// claim them again. Runs as long as the view changes.
pub(super) async fn end_released_clients(view: View, hubs: Vec<Addr<Hub>>) {
    let mut members = view.watch_members();
    let mut me = view.me();
    while members.changed().await.is_ok() {
        let now = members.borrow_and_update().me;
        if std::mem::replace(&mut me, now) == now {
            continue;
        }
        tracing::warn!(
            incarnation = now.incarnation,
            "this node was taken for dead; its durable clients connect again"
        );
        for hub in &hubs {
            let drain =
                Drain { reason: Reason::ServerBusy, elsewhere: Vec::new(), durable_only: true };
            // Their release changes nothing, and is not waited for.
            let _ = hub.try_send(drain);
        }
    }
}
