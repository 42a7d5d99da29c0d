//! Whether this node can serve: it has a lease on the directory, and every shard has a leader.
//!
//! - Owns: since when each shard is without a leader; one task per shard notes it.
//! - Takes: changes of leaders. Gives: the reason why clients should go elsewhere.
//! - Bound: `limits::LEADERLESS_MAX`: an election alone sends nobody away.

use std::{sync::Arc, time::Instant};

use hongqiao_cluster::{
    ClusterHandle, Directory,
    id::{NodeId, ShardId},
};
use parking_lot::Mutex;

use crate::{clock, limits, shard::machine::ShardMachine};

/// See the file header.
pub(super) struct Standing {
    cluster: ClusterHandle<ShardMachine>,
    /// By shard.
    leaderless: Vec<Mutex<Option<Instant>>>,
}

impl Standing {
    /// Begins to watch all shards.
    pub(super) fn watch(cluster: &ClusterHandle<ShardMachine>) -> Arc<Self> {
        let shards = 0..cluster.shards();
        let now = clock::now();
        let leaderless = shards.clone().map(|_| Mutex::new(Some(now))).collect();
        let this = Arc::new(Self { cluster: cluster.clone(), leaderless });
        for shard in shards {
            let (this, mut lead) = (Arc::clone(&this), cluster.leadership(ShardId(shard)));
            actix_rt::spawn(async move {
                loop {
                    let leader = lead.borrow_and_update().leader;
                    this.note(shard, leader.is_some());
                    if lead.changed().await.is_err() {
                        return;
                    }
                }
            });
        }
        this
    }

    fn note(&self, shard: u16, has_leader: bool) {
        let Some(since) = self.leaderless.get(usize::from(shard)) else { return };
        let mut since = since.lock();
        *since = if has_leader { None } else { since.or_else(|| Some(clock::now())) };
    }

    /// Says why this node cannot serve.
    pub(super) fn ready(&self) -> Result<(), String> {
        if !self.cluster.meta().has_lease() {
            return Err("the node has no contact with the leader of the cluster".to_owned());
        }
        let (directory, me) = (self.cluster.meta().directory(), self.cluster.node());
        for (shard, since) in (0..).zip(&self.leaderless) {
            let silent = since.lock().is_some_and(|since| since.elapsed() > limits::LEADERLESS_MAX);
            if silent && !is_led_elsewhere(&directory, me, ShardId(shard)) {
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
