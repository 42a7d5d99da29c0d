//! Starts a node on twins: what `node.rs` does on threads and files, with tasks and memory.
//!
//! - Owns: nothing. Takes: the ground that a node stands on. Gives: a handle, or why not.
//! - Source: own design; `crate::node`.

use std::{sync::Arc, time::Duration};

use super::{event::Event, host::Ground, ledger::Ledger};
use crate::{
    backup::Origin,
    error::StartError,
    handle::{ClusterHandle, Handles, Shared},
    id::ShardId,
    meta::MetaSink,
    node,
    options::{Durability, Options},
    raft_groups::{Groups, Others, Parts},
    storage::{
        disk::Disk,
        format::{FORMAT, Format, Incarnation},
        health::Health,
        log::Log,
    },
};

pub(super) async fn boot(ground: Ground) -> Result<ClusterHandle<Ledger>, StartError> {
    let Ground { node: id, incarnation, disk, kv, shelf, delay, shape, oracle } = ground;
    let options = Options {
        node: id,
        shards: shape.shards,
        checkpoint_interval: Duration::from_millis(shape.checkpoint_ms),
        checkpoint_bytes: 1 << 16,
        ..Options::new("simulated")
    };
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let health = Arc::new(Health::default());
    let log = Log::open_driven(
        disk.clone(),
        options.groups(),
        Durability::Disk,
        health.clone(),
        shape.segment_bytes,
        delay.clone(),
    )?;
    for group in 0..options.groups() {
        let last = log.group(group).and_then(|group| group.last());
        oracle.see(&Event::Recovered { node: id, group, last });
    }
    let parts = Parts { disk, kv: Box::new(kv), shelf: Arc::new(shelf), log, health, incarnation };
    let make = |shard: ShardId| Ledger::new(id, shard, oracle.clone());
    let sink: MetaSink = Arc::new(|_, _| ());
    let groups = Groups::start(parts, &options, &make, sink, &Others::none()).await?;
    let runtime = tokio::runtime::Handle::current();
    let purge = groups.purge_after_checkpoints(runtime.clone());
    let checkpointer = groups.checkpointer.clone();
    tokio::spawn(async move { checkpointer.drive(Box::new(purge), delay).await });
    let format = Format {
        number: FORMAT,
        cluster: [1; 16],
        hash_key: [2; 16],
        shards: shape.shards,
        joined: false,
    };
    let handles = Handles { work: runtime.clone(), timers: runtime };
    let incarnation = Incarnation::in_memory(id, incarnation);
    let shared = Shared::new(groups, handles, Origin { node: id, incarnation, format }, None);
    shared.meta.start(node::addresses(&options));
    Ok(ClusterHandle::new(shared))
}
