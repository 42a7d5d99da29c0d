//! Whether this node can serve: it has a lease on the directory, and every shard has a leader.
//!
//! - Owns: since when each shard is without a leader; one task per shard notes it.
//! - Takes: changes of leaders and members. Gives: the reason why clients should go elsewhere.
//! - Bound: `limits::LEADERLESS_MAX`: an election alone sends nobody away.

use std::{sync::Arc, time::Instant};

use hongqiao_cluster::{
    ClusterHandle, Directory, Lead,
    id::{NodeId, ShardId},
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{actors::view::View, clock, limits, shard::machine::ShardMachine};

/// See the file header.
pub(super) struct Standing {
    cluster: ClusterHandle<ShardMachine>,
    /// By shard.
    shards: Vec<Watched>,
}

struct Watched {
    lead: watch::Receiver<Lead>,
    leaderless: Mutex<Option<Instant>>,
}

impl Standing {
    /// Begins to watch all shards.
    pub(super) fn watch(cluster: &ClusterHandle<ShardMachine>, view: &View) -> Arc<Self> {
        let now = clock::now();
        let watched = |shard| Watched {
            lead: cluster.leadership(ShardId(shard)),
            leaderless: Mutex::new(Some(now)),
        };
        let shards = (0..cluster.shards()).map(watched).collect();
        let this = Arc::new(Self { cluster: cluster.clone(), shards });
        for shard in 0..cluster.shards() {
            let (this, mut lead) = (Arc::clone(&this), cluster.leadership(ShardId(shard)));
            let mut members = view.watch_members();
            actix_rt::spawn(async move {
                loop {
                    this.leaderless(shard);
                    let changed = tokio::select! {
                        changed = lead.changed() => changed,
                        changed = members.changed() => changed,
                    };
                    if changed.is_err() {
                        return;
                    }
                }
            });
        }
        this
    }

    /// Notes whether a shard has a leader; since when it has none.
    fn leaderless(&self, shard: u16) -> Option<Instant> {
        let watched = self.shards.get(usize::from(shard))?;
        let is_led = self.is_led(ShardId(shard), *watched.lead.borrow());
        let mut since = watched.leaderless.lock();
        *since = if is_led { None } else { since.or_else(|| Some(clock::now())) };
        *since
    }

    /// A replica that cannot elect another goes on naming a leader that is dead, and a leader without a quorum itself.
    /// A node that gave its replica away names whom it followed last.
    fn is_led(&self, shard: ShardId, lead: Lead) -> bool {
        let (directory, me) = (self.cluster.meta().directory(), self.cluster.node());
        if !directory.replicas(shard).contains(&me) {
            return is_led_elsewhere(&directory, me, shard);
        }
        match lead.leader {
            Some(leader) if leader == me => lead.here,
            Some(leader) => directory.nodes.get(&leader).is_some_and(|leader| leader.up),
            None => false,
        }
    }

    /// Says why this node cannot serve.
    pub(super) fn ready(&self) -> Result<(), String> {
        if !self.cluster.meta().has_lease() {
            return Err("the node has no contact with the leader of the cluster".to_owned());
        }
        for shard in 0..self.cluster.shards() {
            let since = self.leaderless(shard);
            if since.is_some_and(|since| since.elapsed() > limits::LEADERLESS_MAX) {
                return Err(format!("shard {shard} has no leader"));
            }
        }
        Ok(())
    }
}

/// Of a shard that has no replica on `node` that node hears through the directory alone.
pub(super) fn is_led_elsewhere(directory: &Directory, node: NodeId, shard: ShardId) -> bool {
    let leader = directory.leader(shard).and_then(|led| directory.nodes.get(&led.node));
    !directory.replicas(shard).contains(&node) && leader.is_some_and(|leader| leader.up)
}
