//! How a node leaves: its leads go first, then its clients; and what it does when it was given up by mistake.
//!
//! - Owns: nothing that stays. Takes: hubs, the directory. Gives: clients that know where to go.
//! - Bound: `shutdown.drain_timeout` for all of it; one message per hub and start that was given up.
//!
//! ```text
//! no new sockets ─► leads handed over (3 s) ─► 0x9C with the address of another node, or 0x8B ─► released
//!                                                                       the others are told ◄──┘
//! ```

use std::time::Duration;

use actix::{Addr, Recipient};
use futures_util::future::join_all;
use hongqiao_cluster::ClusterHandle;

use crate::{
    actors::{
        hub::{Drain, Hub},
        view::View,
    },
    clock, limits,
    model::reason::Reason,
    shard::machine::ShardMachine,
};

/// Hands the leads over, tells all clients and waits until their sessions are released. A node that stops while it
/// starts has no hubs, and may lead all the same.
pub(super) async fn leave(
    cluster: &ClusterHandle<ShardMachine>,
    hubs: &[Addr<Hub>],
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
    let drains = hubs
        .iter()
        .map(|hub| hub.send(Drain { reason, elsewhere: elsewhere.clone(), durable_only: false }));
    let left = time.saturating_sub(start.elapsed());
    if tokio::time::timeout(left, join_all(drains)).await.is_err() {
        tracing::warn!(
            "some clients did not end in time; their sessions are released at the next start"
        );
    }
    if !cluster.is_alone() && is_member(cluster) {
        // Nobody has to wait for this node from now on; else the others find out after 5 s.
        let retired = tokio::time::timeout(limits::RETIRE_WAIT, cluster.meta().retire());
        if !matches!(retired.await, Ok(Ok(()))) {
            tracing::warn!("the others do not know yet that this node has stopped");
        }
    }
}

/// One that was never let in has nobody to tell that it is gone.
fn is_member(cluster: &ClusterHandle<ShardMachine>) -> bool {
    cluster.meta().directory().nodes.contains_key(&cluster.node())
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
pub(super) async fn end_released_clients(view: View, hubs: Vec<Recipient<Drain>>) {
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
            // A request, because it has a place in a mailbox that is full, and in a task of its own, because
            // their release changes nothing here and is not waited for.
            actix_rt::spawn(hub.send(drain));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc, sync::Arc};

    use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, WrapFuture as _};
    use hongqiao_cluster::id::NodeId;
    use tokio::sync::{oneshot, watch};

    use super::*;
    use crate::actors::view::{Members, Start};

    /// A hub that handles nothing until it is let go.
    struct Busy {
        until: Option<oneshot::Receiver<()>>,
        drained: Rc<Cell<usize>>,
    }

    impl Actor for Busy {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Self::Context) {
            ctx.set_mailbox_capacity(1);
            if let Some(until) = self.until.take() {
                ctx.wait(until.into_actor(self).map(|_, _, _| ()));
            }
        }
    }

    impl Handler<Drain> for Busy {
        type Result = ();

        fn handle(&mut self, _: Drain, _: &mut Self::Context) {
            self.drained.set(self.drained.get() + 1);
        }
    }

    fn members(incarnation: u64) -> Arc<Members> {
        let me = Start { node: NodeId(1), incarnation };
        Arc::new(Members { me, alone: false, all: Vec::new(), leaders: Vec::new() })
    }

    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[actix::test]
    async fn clients_of_a_node_taken_for_dead_end_although_the_mailbox_of_their_hub_is_full() {
        let (go, until) = oneshot::channel();
        let drained = Rc::<Cell<usize>>::default();
        let hub = Busy { until: Some(until), drained: Rc::clone(&drained) }.start();
        settle().await;
        let hub = hub.recipient::<Drain>();
        let members_of = watch::Sender::new(members(1));
        let view = View::new(Vec::new(), members_of.subscribe());
        actix_rt::spawn(end_released_clients(view, vec![hub.clone()]));
        settle().await;
        // Each is one more than the mailbox holds: whoever is to be told first is not told twice.
        for incarnation in 2..=4 {
            members_of.send_replace(members(incarnation));
            settle().await;
        }
        assert_eq!(drained.get(), 0);
        go.send(()).unwrap();
        settle().await;
        assert_eq!(drained.get(), 3);
    }
}
