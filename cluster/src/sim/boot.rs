//! Starts a node on twins: what `node.rs` does on threads and files, with tasks and memory.
//!
//! - Owns: nothing. Takes: the ground that a node stands on. Gives: a handle, or why not.
//! - Source: own design; `crate::node`.

use std::{sync::Arc, time::Duration};

use tokio::runtime::Handle;

use super::{event::Event, host::Ground, ledger::Ledger, links};
use crate::{
    backup::Origin,
    error::StartError,
    handle::{ClusterHandle, Handles, Shared},
    id::{NodeId, ShardId},
    join,
    meta::MetaSink,
    node,
    options::{Durability, Options, Peering, Secret},
    raft_groups::{Groups, Others, Parts},
    storage::{
        disk::Disk,
        folder::format::{FORMAT, Format},
        health::Health,
        log::Log,
        whole,
    },
};

/// Makes the cluster; all others join it.
const FOUNDER: NodeId = NodeId(1);

fn options(ground: &Ground) -> Options {
    let shape = &ground.shape;
    let others = (1..=shape.all_nodes()).map(NodeId).filter(|other| *other != ground.node);
    let founds = ground.node == FOUNDER;
    let peering = Peering {
        listen: ([127, 0, 0, 1], 0).into(),
        advertise: links::address(ground.node),
        secret: Secret::new(b"simulated"),
        join: others.filter(|_| !founds).map(links::address).collect(),
    };
    Options {
        node: ground.node,
        shards: shape.shards,
        checkpoint_interval: Duration::from_millis(shape.checkpoint_ms),
        checkpoint_bytes: 1 << 16,
        peering: ground.network.is_some().then_some(peering),
        ..Options::new("simulated")
    }
}

/// Returns what the folder says, or makes it that of a new cluster, or of a member of the one there is.
async fn enter(
    ground: &Ground,
    options: &Options,
) -> Result<(Format, Vec<(NodeId, String)>), StartError> {
    let known = ground.folder.lock().clone();
    if let Some(format) = known {
        return Ok((format, Vec::new()));
    }
    let join = options.peering.as_ref().map(|peering| &peering.join[..]).unwrap_or_default();
    let (format, peers) = match &ground.network {
        Some(network) if !join.is_empty() => {
            let (replaces, founds_with) = (None, None);
            let who = join::Applicant { node: ground.node, replaces, founds_with, addresses: join };
            let entered = join::ask(&**network, who).await?;
            let (_, admission) = entered.ok_or(StartError::NoLeader { shard: 0 })?;
            (admission.format(), admission.peers)
        }
        _ => {
            let (cluster, hash_key, shards) = ([1; 16], [2; 16], options.shards);
            let format = Format { number: FORMAT, cluster, hash_key, shards, joined: false };
            (format, Vec::new())
        }
    };
    *ground.folder.lock() = Some(format.clone());
    Ok((format, peers))
}

pub(super) async fn boot(ground: Ground) -> Result<ClusterHandle<Ledger>, StartError> {
    let options = options(&ground);
    let (format, peers) = enter(&ground, &options).await?;
    let Ground {
        node: id,
        incarnation,
        disk,
        kv,
        shelf,
        delay,
        network,
        shape,
        oracle,
        machines,
        ..
    } = ground;
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
    whole::check(&log, &kv, options.groups(), false, &options.data_dir)?;
    let kv = Box::new(kv);
    let shelf = Arc::new(shelf);
    let parts = Parts { disk, kv, shelf, log, health, incarnation: incarnation.now() };
    let make = |shard: ShardId| {
        let inner = machines.as_ref().map(|machines| machines(id, shard));
        Ledger::new(id, shard, oracle.clone(), inner)
    };
    let watched = oracle.clone();
    let sink: MetaSink = Arc::new(move |directory, _| {
        watched.see(&Event::Published { node: id, directory });
    });
    let others = Others { network: network.clone(), founder: !format.joined };
    let groups = Groups::start(parts, &options, &make, sink, &others).await?;
    let runtime = Handle::current();
    let purge = groups.purge_after_checkpoints(runtime.clone());
    let checkpointer = groups.checkpointer.clone();
    tokio::spawn(async move { checkpointer.drive(Box::new(purge), delay).await });
    let handles = Handles { work: runtime.clone(), timers: runtime.clone() };
    let origin = Origin { node: id, incarnation, format };
    let shared = Shared::new(groups, handles, origin, network);
    node::live(&shared, &options, peers);
    Ok(ClusterHandle::new(shared))
}
