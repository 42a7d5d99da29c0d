//! What the control plane may ask, answered by the running node.
//!
//! - Owns: handles only. Takes: requests of `http`. Gives: counts and the outcome of changes.
//! - Bound: one backup at a time.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::BoxFuture;
use hongqiao_cluster::{DiskState, ProposeError, Stats, stats::FLUSH_BUCKETS_US};

use parking_lot::Mutex;

use super::{apps::Apps, orders, report, standing::Standing};
use crate::{
    actors::{
        appender::SubmitError,
        counters::{Counters, DROP_CAUSES},
        facts::Facts,
        publish::Beyond,
    },
    auth::UserName,
    http::{AdminError, ClusterOrder, ClusterReport, Lacking, Missing, NodeApi, Ordered},
    limits,
    metrics::{Latencies, ProcessUsage, Snapshot},
    shard::{
        client::ShardClient,
        query::{self, Totals},
    },
};

/// The node as the control plane sees it.
pub(super) struct Api {
    pub(super) shards: ShardClient,
    pub(super) apps: Apps,
    pub(super) counters: Vec<Arc<Counters>>,
    pub(super) beyond: Beyond,
    pub(super) facts: Arc<Facts>,
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) standing: Arc<Standing>,
    pub(super) backing_up: Arc<AtomicBool>,
    /// As of the last scrape.
    pub(super) totals: Arc<Mutex<Totals>>,
}

impl NodeApi for Api {
    fn ready(&self) -> Result<(), String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err("the node is stopping".to_owned());
        }
        self.standing.ready()?;
        let cluster = self.shards.cluster();
        match cluster.disk_state() {
            DiskState::Ready => Ok(()),
            state => Err(format!("the disk takes no writes: {state:?}")),
        }
    }

    fn snapshot(&self) -> BoxFuture<'static, Snapshot> {
        let mut snapshot = Snapshot { process: ProcessUsage::read(), ..Snapshot::default() };
        for counters in &self.counters {
            add_counters(&mut snapshot, counters);
        }
        snapshot.dropped.push(("queue_full", self.facts.dropped_messages()));
        let relay = self.beyond.relay.view();
        snapshot.dropped.push(("node", relay.dropped_messages));
        snapshot.relay_bytes = relay.waiting_bytes as u64;
        snapshot.routes = self.beyond.live.len() as u64;
        snapshot.writes_refused.extend(self.facts.refused_writes());
        add_stats(&mut snapshot, &self.shards.cluster().stats());
        let cluster = self.shards.cluster();
        report::count(&mut snapshot, &cluster.status(), &cluster.meta().directory());
        let (shards, last) = (self.shards.clone(), Arc::clone(&self.totals));
        Box::pin(async move {
            // Shards do not answer while their disk fails: then the last figures stand.
            let totals = tokio::time::timeout(limits::TOTALS_WAIT, totals(&shards)).await;
            if let Ok(totals) = totals {
                *last.lock() = totals;
            }
            let totals = *last.lock();
            snapshot.sessions = totals.sessions;
            snapshot.retained_messages = totals.retained_messages;
            snapshot.queue_messages = totals.log_messages;
            snapshot.queue_bytes = totals.log_bytes;
            snapshot
        })
    }

    fn cluster(&self) -> ClusterReport {
        report::of(self.shards.cluster())
    }

    fn order(&self, order: ClusterOrder) -> BoxFuture<'static, Result<Ordered, AdminError>> {
        Box::pin(orders::give(self.shards.cluster().clone(), order))
    }

    fn put_user(
        &self,
        name: UserName,
        password_hash: String,
    ) -> BoxFuture<'static, Result<(), AdminError>> {
        let (apps, facts) = (self.apps.clone(), Arc::clone(&self.facts));
        Box::pin(async move {
            apps.put_user(&name, password_hash).await.map_err(|error| {
                facts.refuse(SubmitError::from(error).cause(), 1);
                match error {
                    ProposeError::Unknown => AdminError::Unknown,
                    refused => AdminError::Unavailable(refused.to_string()),
                }
            })
        })
    }

    fn backup(&self, folder: PathBuf) -> BoxFuture<'static, Result<Lacking, AdminError>> {
        let (cluster, busy) = (self.shards.cluster().clone(), Arc::clone(&self.backing_up));
        Box::pin(async move {
            if busy.swap(true, Ordering::AcqRel) {
                return Err(AdminError::Busy);
            }
            let written = cluster.backup(&folder).await;
            busy.store(false, Ordering::Release);
            let lacking = written.map_err(|error| AdminError::Refused(error.to_string()))?;
            let missing = lacking.missing.into_iter().map(|(group, nodes)| Missing {
                group: group.0,
                nodes: nodes.into_iter().map(|node| node.0).collect(),
            });
            let behind = lacking.behind.into_iter().map(|group| group.0);
            Ok(Lacking { missing: missing.collect(), behind: behind.collect() })
        })
    }
}

/// Adds up what all shards hold; one that cannot be read counts nothing.
async fn totals(shards: &ShardClient) -> Totals {
    let mut sum = Totals::default();
    for shard in shards.shards() {
        let totals = shards.cluster().read(shard, |machine, _| query::totals(machine));
        let Ok(totals) = totals.await else { continue };
        sum.sessions += totals.sessions;
        sum.logs += totals.logs;
        sum.retained_messages += totals.retained_messages;
        sum.log_messages += totals.log_messages;
        sum.log_bytes += totals.log_bytes;
    }
    sum
}

fn add_counters(snapshot: &mut Snapshot, counters: &Counters) {
    snapshot.connections += counters.connections.get();
    snapshot.connections_opened += counters.connections_opened.get();
    snapshot.connections_refused += counters.connections_refused.get();
    snapshot.bytes_in += counters.bytes_in.get();
    snapshot.bytes_out += counters.bytes_out.get();
    snapshot.socket_writes += counters.writes.get();
    snapshot.panics += counters.panics.get();
    snapshot.subscriptions += counters.subscriptions.get();
    for qos in 0..3 {
        snapshot.messages_in[qos] += counters.messages_in[qos].get();
        snapshot.messages_out[qos] += counters.messages_out[qos].get();
    }
    for (name, counter) in DROP_CAUSES.iter().zip(&counters.dropped) {
        match snapshot.dropped.iter_mut().find(|(cause, _)| cause == name) {
            Some((_, count)) => *count += counter.get(),
            None => snapshot.dropped.push((name, counter.get())),
        }
    }
}

/// Gives the figures of the cluster's log and state.
#[expect(clippy::cast_precision_loss, reason = "metrics are floating point")]
fn add_stats(snapshot: &mut Snapshot, stats: &Stats) {
    let secs = |us: u64| us as f64 / 1e6;
    let bounds = FLUSH_BUCKETS_US.iter().map(|us| secs(*us)).chain([f64::INFINITY]);
    snapshot.flush = Latencies {
        buckets: bounds.zip(stats.flush_buckets).collect(),
        sum_secs: secs(stats.flush_us),
    };
    snapshot.commands_waiting = stats.proposals_waiting;
    snapshot.log_written_bytes = stats.log_written_bytes;
    snapshot.log_bytes = stats.log_bytes;
    snapshot.log_memory_bytes = stats.log_memory_bytes;
    snapshot.table_bytes = stats.table_bytes;
    snapshot.state_bytes = stats.state_bytes;
    snapshot.checkpoints = stats.checkpoints;
    snapshot.checkpoint_secs = secs(stats.checkpoint_us);
    snapshot.disk_retries = stats.disk_retries;
    snapshot.disk_writable = stats.disk == DiskState::Ready;
}
