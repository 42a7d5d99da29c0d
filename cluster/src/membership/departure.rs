//! What a node knows of its own way out of the cluster, and who is told.
//!
//! ```text
//! Staying ─ its folder is another one, or an older copy ─▶ Superseded
//! Staying ─ Leave ─▶ Leaving ─ no group needs it ─▶ Released ─ the server ends, says so ─▶ Removed
//! ```
//!
//! - Owns: one task per node; the mark in its data folder. Takes: the directory, and what others say to who
//!   cannot read it any more. Gives: [`Departure`] to whoever ends the process.
//! - Bound: nothing is looked at but news.
//! - Source: own design.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::sync::watch;

use super::orders::{self, Order};

use crate::{
    clock,
    id::{NodeId, ShardId},
    meta::MetaHandle,
    runtime,
    storage::folder::incarnation::Incarnation,
    transport::Network,
};

/// How often a node that was released asks whether it is removed.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

/// How far this node is on its way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Departure {
    /// It is a member, or becomes one.
    #[default]
    Staying,
    /// What it holds moves away; it serves as before.
    Leaving,
    /// No group needs it any more: it should end its clients, retire and stop.
    Released,
    /// It is no member any more, and never will be: its folder says so.
    Removed,
    /// The member is another folder, or a later start than this folder knows of: it says so from now on.
    Superseded,
}

impl Departure {
    /// Returns whether this process must end without the leave of anybody.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::Removed | Self::Superseded)
    }
}

/// What it is found out from.
pub(crate) struct Watcher {
    pub(crate) node: NodeId,
    pub(crate) meta: MetaHandle,
    pub(crate) network: Option<Arc<dyn Network>>,
    pub(crate) incarnation: Arc<Incarnation>,
    pub(crate) tell: watch::Sender<Departure>,
}

impl Watcher {
    /// Runs until the node is removed, or the runtime ends.
    pub(crate) async fn run(self) {
        let (mut changed, mut refused) = (self.meta.changed(), self.meta.removed());
        let mut superseded = self.meta.superseded();
        let none = watch::Sender::default();
        let mut told = self.network.as_ref().map_or_else(|| none.subscribe(), |of| of.removed());
        loop {
            changed.borrow_and_update();
            let is_out = *refused.borrow_and_update() || *told.borrow_and_update();
            let now = match (is_out, *superseded.borrow_and_update()) {
                (true, _) => Departure::Removed,
                (false, true) => Departure::Superseded,
                (false, false) => self.look(),
            };
            if now.is_end() {
                // Before anybody hears of it: a folder that was used up must not start again.
                self.mark(now).await;
                self.tell.send_replace(now);
                return;
            }
            self.tell.send_if_modified(|told| std::mem::replace(told, now) != now);
            let ask_at = clock::now() + ASK_INTERVAL;
            let ended = tokio::select! {
                changed = changed.changed() => changed.is_err(),
                refused = refused.changed() => refused.is_err(),
                superseded = superseded.changed() => superseded.is_err(),
                Ok(()) = told.changed() => false,
                () = tokio::time::sleep_until(ask_at.into()), if now == Departure::Released => {
                    self.ask().await;
                    false
                }
            };
            if ended {
                return;
            }
        }
    }

    async fn mark(&self, now: Departure) {
        let incarnation = self.incarnation.clone();
        let marked = runtime::aside(move || match now {
            Departure::Superseded => incarnation.set_superseded(),
            _ => incarnation.set_removed(),
        });
        if let Some(Err(error)) = marked.await {
            tracing::error!(%error, ?now, "the data folder cannot be marked");
        }
    }

    /// Speaks to the others: who has retired hears nothing of the directory once they have let it go, but they
    /// say so to who knocks.
    async fn ask(&self) {
        let Some(network) = &self.network else { return };
        let directory = self.meta.directory();
        let others = directory.nodes.keys().filter(|node| **node != self.node);
        let order = Order::Report { group: ShardId(0) };
        join_all(others.map(|node| orders::give(&**network, *node, &order))).await;
    }

    fn look(&self) -> Departure {
        use crate::directory::Leaving;
        let directory = self.meta.directory();
        if directory.removed.contains(&self.node) {
            return Departure::Removed;
        }
        match directory.leaving.get(&self.node) {
            None => Departure::Staying,
            Some(Leaving::Moving | Leaving::Lost) => Departure::Leaving,
            Some(Leaving::Released) => Departure::Released,
        }
    }
}
