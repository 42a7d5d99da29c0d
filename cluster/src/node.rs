//! Starts and stops one node: folder, log, state, groups, and the threads they run on.
//!
//! ```text
//! cluster-N   tokio threads: RaftCore and machine of every group, reads
//! timers      time-outs of proposals, also while the others wait for a failing disk
//! flusher     writes and syncs the log            checkpointer   writes tables to sled
//! ```
//!
//! - Owns: those threads; none of them is an actix arbiter.
//! - Takes: options and a way to make a machine per shard. Gives: a `ClusterHandle`.
//! - Bound: see `Options`.
//! - Source: own design.

use std::{fs, path::Path, sync::Arc, thread::JoinHandle, time::Duration};

use tokio::runtime::{Builder, Runtime};

use crate::{
    backup::Origin,
    error::StartError,
    handle::{ClusterHandle, Handles, Shared},
    id::ShardId,
    machine::Machine,
    meta::{Addresses, MetaSink},
    options::Options,
    raft_groups::{Groups, Parts},
    storage::{
        disk::{Disk, RealDisk},
        format::Folder,
        health::Health,
        log::Log,
        shelf::RealShelf,
        state::sled_kv::SledKv,
    },
};

/// Tasks get this long to end after the groups have.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(5);

/// A start waits this long for the directory to know of it.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(1);

/// A running node. Dropping it stops the node as `shutdown` does.
pub struct Cluster<M: Machine> {
    handle: ClusterHandle<M>,
    running: Option<Running>,
}

struct Running {
    runtime: Runtime,
    timers: Runtime,
    flusher: JoinHandle<()>,
    checkpointer: JoinHandle<()>,
    /// Open until everything else has ended.
    _folder: Folder,
}

impl<M: Machine> Cluster<M> {
    /// Opens the data folder, replays the log and returns when every shard can serve.
    ///
    /// - Shape: `make` is called once per shard; the machine is then loaded from the last checkpoint.
    /// - Blocks the calling thread; call it before an event loop starts, or on a thread of its own.
    ///
    /// # Errors
    /// Every variant of [`StartError`] names the file and what to do; nothing was changed.
    #[expect(clippy::needless_pass_by_value, reason = "the options are the node's from here on")]
    pub fn start(
        options: Options,
        make: impl Fn(ShardId) -> M + Sync,
        sink: MetaSink,
    ) -> Result<Self, StartError> {
        options.check()?;
        let folder = Folder::open(&options)?;
        let (log_dir, state_dir) = (options.data_dir.join("log"), options.data_dir.join("state"));
        let disk = RealDisk::open(&log_dir, options.reserve_file_bytes);
        let disk: Arc<dyn Disk> = Arc::new(disk.map_err(io("open", &log_dir))?);
        let kv = SledKv::open(&state_dir, options.groups(), options.cache_bytes);
        let kv = Box::new(kv.map_err(io("open the state in", &state_dir))?);
        let shelf_dir = options.data_dir.join("snapshots");
        let shelf = RealShelf::open(&shelf_dir).map_err(io("open", &shelf_dir))?;
        sync_folders(&options.data_dir, &state_dir)?;
        let health = Arc::new(Health::default());
        let (log, flusher) =
            Log::open(disk.clone(), options.groups(), options.durability, health.clone())?;
        let (shelf, incarnation) = (Arc::new(shelf), folder.incarnation.now());
        let parts = Parts { disk, kv, shelf, log, health, incarnation };
        Self::run(parts, &options, &make, sink, flusher, folder)
    }

    fn run(
        parts: Parts,
        options: &Options,
        make: &(dyn Fn(ShardId) -> M + Sync),
        sink: MetaSink,
        flusher: JoinHandle<()>,
        folder: Folder,
    ) -> Result<Self, StartError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(options.threads)
            .thread_name("cluster")
            .enable_time()
            .build()
            .map_err(io("start threads for", &options.data_dir))?;
        // `apply` and reads wait for a failing disk on the threads above, so these keep no time then.
        let timers = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("timers")
            .enable_time()
            .build()
            .map_err(io("start threads for", &options.data_dir))?;
        let log = parts.log.clone();
        let groups = match runtime.block_on(Groups::start(parts, options, make, sink)) {
            Ok(groups) => groups,
            Err(error) => {
                log.stop();
                let _ = flusher.join();
                return Err(error);
            }
        };
        let purge = Box::new(groups.purge_after_checkpoints(runtime.handle().clone()));
        let worker = groups.checkpointer.clone();
        let checkpointer = std::thread::Builder::new()
            .name("checkpointer".into())
            .spawn(move || worker.run(&(purge as _)))
            .map_err(io("start a thread for", &options.data_dir))?;
        tracing::info!(
            node = options.node.0,
            incarnation = folder.incarnation.now(),
            shards = options.shards,
            durability = ?options.durability,
            "shards lead"
        );
        let handles = Handles { work: runtime.handle().clone(), timers: timers.handle().clone() };
        let origin = Origin {
            node: options.node,
            incarnation: folder.incarnation.clone(),
            format: folder.format.clone(),
        };
        let shared = Shared::new(groups, handles, origin, None);
        shared.meta.start(addresses(options));
        // Only a disk that takes nothing keeps a node that is alone waiting.
        let is_up = shared.meta.is_up();
        let _ = runtime.block_on(async { tokio::time::timeout(ANNOUNCE_TIMEOUT, is_up).await });
        let running = Running { runtime, timers, flusher, checkpointer, _folder: folder };
        Ok(Self { handle: ClusterHandle::new(shared), running: Some(running) })
    }

    /// Returns a handle; it may outlive the node, and then refuses everything.
    #[must_use]
    pub fn handle(&self) -> ClusterHandle<M> {
        self.handle.clone()
    }

    /// Refuses new proposals, answers the old ones, writes a last checkpoint and ends all threads.
    ///
    /// Blocks the calling thread for as long as that takes, and for about 20 seconds if the disk fails.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        let groups = &self.handle.shared().groups;
        // Not `block_on` of the runtime: this may be a thread of another one.
        let (told, done) = std::sync::mpsc::sync_channel(1);
        let shared = self.handle.shared().clone();
        shared.meta.stop();
        running.runtime.spawn(async move {
            shared.groups.stop().await;
            let _ = told.send(());
        });
        let _ = done.recv();
        groups.checkpointer.stop();
        let _ = running.checkpointer.join();
        groups.log.stop();
        let _ = running.flusher.join();
        // On a thread of its own: tokio refuses to wait on a thread that drives tasks.
        let runtime = running.runtime;
        let ended = std::thread::Builder::new()
            .name("cluster-end".into())
            .spawn(move || runtime.shutdown_timeout(RUNTIME_TIMEOUT));
        if let Ok(ended) = ended {
            let _ = ended.join();
        }
        running.timers.shutdown_background();
        // Handles may outlive the node; the folder must not stay locked by them.
        groups.base.kv.close();
    }
}

impl<M: Machine> Drop for Cluster<M> {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn addresses(options: &Options) -> Addresses {
    let advertised = options.peering.as_ref().map(|peering| peering.advertise.clone());
    Addresses { cluster: advertised.unwrap_or_default(), client: options.client_addr.clone() }
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StartError {
    let path = path.to_path_buf();
    move |source| StartError::Io { what, path, source }
}

/// Makes the new folders and sled's new files survive the loss of power.
fn sync_folders(data: &Path, state: &Path) -> Result<(), StartError> {
    for folder in [state, data] {
        fs::File::open(folder).and_then(|open| open.sync_all()).map_err(io("sync", folder))?;
    }
    Ok(())
}
