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

#[cfg(test)]
mod tests;

use std::{fs, path::Path, sync::Arc, thread::JoinHandle, time::Duration};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::{
    backup::Origin,
    desks::MemberKind,
    error::StartError,
    handle::{ClusterHandle, Handles, Shared},
    id::{NodeId, ShardId},
    join::{self, Added, Applicant, JoinClerk},
    machine::Machine,
    membership::{Keeper, departure::Watcher, orders::OrderClerk},
    meta::{Addresses, MetaCommand, MetaHandle, MetaSink},
    options::{Options, Peering},
    raft_group::{
        clerk::RaftClerk,
        snapshot::receive::{Member, Receiver},
    },
    raft_groups::{Groups, Others, Parts},
    storage::{
        disk::{Disk, RealDisk},
        folder::{Entered, Folder, incarnation::Incarnation},
        health::Health,
        log::Log,
        shelf::RealShelf,
        state::sled_kv::SledKv,
        whole,
    },
    transport::{
        Desk, Network,
        tcp::{Identity, TcpNetwork, VERSIONS, hello::Secret},
    },
};

/// Tasks get this long to end after the groups have.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a node that is not known yet introduces itself.
const INTRODUCE_INTERVAL: Duration = Duration::from_millis(200);

/// A start waits this long for the directory to know of it.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(1);

/// A running node. Dropping it stops the node as `shutdown` does.
pub struct Cluster<M: Machine> {
    handle: ClusterHandle<M>,
    running: Option<Running>,
}

struct Running {
    runtimes: Runtimes,
    flusher: JoinHandle<()>,
    checkpointer: JoinHandle<()>,
    /// Open until everything else has ended.
    _folder: Folder,
}

impl<M: Machine> Cluster<M> {
    /// Opens the data folder, replays the log and starts all groups. Those of which this node is the
    /// only voter can serve when this returns; others find their leaders by themselves.
    ///
    /// - Shape: `make` is called once per shard; the machine is then loaded from the last checkpoint. `sink`
    ///   gets every directory, see [`MetaSink`].
    /// - A new folder becomes that of a new cluster, or, with [`Peering::join`](crate::Peering::join), of a
    ///   member of the one that is there; then this waits for a member to answer.
    /// - Blocks the calling thread; call it before an event loop starts, or on a thread of its own.
    ///
    /// # Errors
    /// Every variant of [`StartError`] names the file or address and what to do; nothing was changed.
    pub fn start(
        options: Options,
        make: impl Fn(ShardId) -> M + Sync,
        sink: MetaSink,
    ) -> Result<Self, StartError> {
        Self::start_known(options, make, |_| sink)
    }

    /// As [`Self::start`], for a sink that must know which node this is: the cluster may give it its id.
    ///
    /// # Errors
    /// As [`Self::start`].
    #[expect(clippy::needless_pass_by_value, reason = "the options are the node's from here on")]
    pub fn start_known(
        options: Options,
        make: impl Fn(ShardId) -> M + Sync,
        sink: impl FnOnce(NodeId) -> MetaSink,
    ) -> Result<Self, StartError> {
        options.check()?;
        let entered = Folder::enter(&options)?;
        let runtimes = Runtimes::start(&options)?;
        let network = match &options.peering {
            Some(peering) => Some(listen(peering, &entered, &runtimes)?),
            None => None,
        };
        Self::start_on(&options, &make, sink, entered, runtimes, network)
    }

    /// As [`Self::start`], with links to others that are there already.
    pub(crate) fn start_on(
        options: &Options,
        make: &(dyn Fn(ShardId) -> M + Sync),
        sink: impl FnOnce(NodeId) -> MetaSink,
        entered: Entered,
        runtimes: Runtimes,
        network: Option<Arc<dyn Network>>,
    ) -> Result<Self, StartError> {
        let admitted = async {
            tokio::select! {
                biased;
                () = options.given_up() => Err(StartError::GivenUp),
                admitted = admit(options, entered, network.as_deref()) => admitted,
            }
        };
        let (folder, peers) = runtimes.work.block_on(admitted)?;
        let options = &Options { node: folder.incarnation.node(), ..options.clone() };
        let sink = sink(options.node);
        let (parts, flusher) = open_parts(options, &folder.incarnation)?;
        let log = parts.log.clone();
        let others = Others { network: network.clone(), founder: !folder.format.joined };
        let started = runtimes.work.block_on(Groups::start(parts, options, make, sink, &others));
        let groups = match started {
            Ok(groups) => groups,
            Err(error) => {
                log.stop();
                let _ = flusher.join();
                return Err(error);
            }
        };
        let checkpointer = start_checkpointer(&groups, &runtimes, options)?;
        let handles = runtimes.handles();
        let origin = Origin {
            node: options.node,
            incarnation: folder.incarnation.clone(),
            format: folder.format.clone(),
        };
        let shared = Shared::new(groups, handles, origin, network);
        live(&shared, options, peers);
        if !folder.format.joined {
            // Only a disk that takes nothing keeps a node that is alone waiting.
            let is_up = shared.meta.is_up();
            let timed = async { tokio::time::timeout(ANNOUNCE_TIMEOUT, is_up).await };
            let _ = runtimes.work.block_on(timed);
        }
        tracing::info!(
            node = options.node.0,
            incarnation = folder.incarnation.now(),
            shards = options.shards,
            durability = ?options.durability,
            "groups run"
        );
        let running = Running { runtimes, flusher, checkpointer, _folder: folder };
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
        running.runtimes.work.spawn(async move {
            shared.groups.stop().await;
            shared.desks.close();
            if let Some(network) = &shared.network {
                network.stop();
            }
            let _ = told.send(());
        });
        let _ = done.recv();
        groups.checkpointer.stop();
        let _ = running.checkpointer.join();
        groups.log.stop();
        let _ = running.flusher.join();
        running.runtimes.stop();
        // Handles may outlive the node; the folder must not stay locked by them.
        groups.base.kv.close();
    }
}

impl<M: Machine> Drop for Cluster<M> {
    fn drop(&mut self) {
        self.stop();
    }
}

fn addresses(options: &Options) -> Addresses {
    let advertised = options.peering.as_ref().map(|peering| peering.advertise.clone());
    Addresses { cluster: advertised.unwrap_or_default(), client: options.client_addr.clone() }
}

/// The runtimes of a node.
pub(crate) struct Runtimes {
    pub(crate) work: Runtime,
    timers: Runtime,
}

impl Runtimes {
    pub(crate) fn start(options: &Options) -> Result<Self, StartError> {
        let start = |name: &str, threads| {
            let built = Builder::new_multi_thread()
                .worker_threads(threads)
                .thread_name(name)
                .enable_all()
                .build();
            built.map_err(io("start threads for", &options.data_dir))
        };
        // `apply` and reads wait for a failing disk on the first ones, so these keep no time then.
        Ok(Self { work: start("cluster", options.threads)?, timers: start("timers", 1)? })
    }

    fn handles(&self) -> Handles {
        Handles { work: self.work.handle().clone(), timers: self.timers.handle().clone() }
    }

    fn stop(self) {
        // On a thread of its own: tokio refuses to wait on a thread that drives tasks.
        let work = self.work;
        let ended = std::thread::Builder::new()
            .name("cluster-end".into())
            .spawn(move || work.shutdown_timeout(RUNTIME_TIMEOUT));
        if let Ok(ended) = ended {
            let _ = ended.join();
        }
        self.timers.shutdown_background();
    }
}

/// Opens what lies below the groups, and starts the flusher.
fn open_parts(
    options: &Options,
    incarnation: &Incarnation,
) -> Result<(Parts, JoinHandle<()>), StartError> {
    let (log_dir, state_dir) = (options.data_dir.join("log"), options.data_dir.join("state"));
    let disk = RealDisk::open(&log_dir, options.reserve_file_bytes);
    let disk: Arc<dyn Disk> = Arc::new(disk.map_err(io("open", &log_dir))?);
    let kv = SledKv::open(&state_dir, options.groups(), options.cache_bytes);
    let kv = Box::new(kv.map_err(StartError::of_state("open the state in", &state_dir))?);
    let shelf_dir = options.data_dir.join("snapshots");
    let shelf = Arc::new(RealShelf::open(&shelf_dir).map_err(io("open", &shelf_dir))?);
    sync_folders(&options.data_dir, &state_dir)?;
    let health = Arc::new(Health::default());
    let mut found = Log::find(disk.clone(), options.groups(), options.durability, health.clone())?;
    let was_begun = incarnation.record().has_log;
    whole::check(&found.log, &*kv, options.groups(), was_begun, &options.data_dir)?;
    found.begin()?;
    // Before any group gives a vote: from here on a folder without its log is known for one.
    incarnation.set_has_log().map_err(io("mark", &options.data_dir))?;
    let (log, flusher) = found.run()?;
    Ok((Parts { disk, kv, shelf, log, health, incarnation: incarnation.now() }, flusher))
}

/// Listens for other nodes.
fn listen(
    peering: &Peering,
    entered: &Entered,
    runtimes: &Runtimes,
) -> Result<Arc<dyn Network>, StartError> {
    let address = peering.listen.to_string();
    let identity = Identity {
        node: entered.node(),
        incarnation: entered.incarnation.now(),
        secret: Secret::new(peering.secret.bytes()),
        versions: VERSIONS,
        instance: rand::random(),
    };
    let bound = runtimes.work.block_on(TcpNetwork::bind(&address, identity));
    let network = bound.map_err(|source| StartError::Listen { address, source })?;
    if let Some(cluster) = entered.cluster() {
        // Whoever knocks meanwhile hears that it is not ready, not that it belongs to none.
        network.set_cluster(cluster);
    }
    Ok(network)
}

/// Makes a new folder that of a cluster; gives the peers that a new member has been told of.
async fn admit(
    options: &Options,
    entered: Entered,
    network: Option<&dyn Network>,
) -> Result<(Folder, Vec<(NodeId, String)>), StartError> {
    let join = options.peering.as_ref().map(|peering| &peering.join[..]).unwrap_or_default();
    match network {
        _ if !entered.is_new() => Ok((entered.open()?, Vec::new())),
        Some(network) if !join.is_empty() => {
            let who = Applicant {
                node: entered.node(),
                replaces: options.replaces,
                founds_with: options.founds_with,
                addresses: join,
            };
            match join::ask(network, who).await? {
                Some((node, admission)) => {
                    network.set_node(node);
                    let folder = entered.join(node, &admission.format(), options)?;
                    Ok((folder, admission.peers))
                }
                None => found(options, entered, Some(network)),
            }
        }
        _ => found(options, entered, network),
    }
}

/// Makes a new cluster, whose first member is this node.
fn found(
    options: &Options,
    entered: Entered,
    network: Option<&dyn Network>,
) -> Result<(Folder, Vec<(NodeId, String)>), StartError> {
    let folder = entered.found(options)?;
    if let Some(network) = network {
        network.set_node(folder.incarnation.node());
    }
    Ok((folder, Vec::new()))
}

fn start_checkpointer<M: Machine>(
    groups: &Groups<M>,
    runtimes: &Runtimes,
    options: &Options,
) -> Result<JoinHandle<()>, StartError> {
    let purge = Box::new(groups.purge_after_checkpoints(runtimes.work.handle().clone()));
    let worker = groups.checkpointer.clone();
    std::thread::Builder::new()
        .name("checkpointer".into())
        .spawn(move || worker.run(&(purge as _)))
        .map_err(io("start a thread for", &options.data_dir))
}

/// Makes a node with its groups started a member of its cluster, and keeps it one.
pub(crate) fn live<M: Machine>(
    shared: &Shared<M>,
    options: &Options,
    peers: Vec<(NodeId, String)>,
) {
    let runtime = &shared.runtimes.work;
    meet_others(shared, runtime, peers);
    shared.meta.start(addresses(options));
    let watcher = Watcher {
        node: shared.origin.node,
        meta: shared.meta.clone(),
        network: shared.network.clone(),
        incarnation: shared.origin.incarnation.clone(),
        tell: shared.departure.clone(),
    };
    runtime.spawn(watcher.run());
    if shared.origin.format.joined {
        runtime.spawn(introduce(Introduction::of(shared, options)));
    }
}

/// Opens the desks for other members, and keeps the groups where the directory wants them.
fn meet_others<M: Machine>(shared: &Shared<M>, runtime: &Handle, peers: Vec<(NodeId, String)>) {
    let Some(network) = &shared.network else { return };
    let (node, format) = (shared.origin.node, shared.origin.format.clone());
    let (groups, meta) = (shared.groups.groups.clone(), shared.meta.clone());
    let cluster = format.cluster;
    shared.desks.set(Desk::Raft, Arc::new(RaftClerk { groups: groups.clone() }));
    let members = groups.iter().map(|group| group.clone() as Arc<dyn Member>).collect();
    let shelf = shared.groups.snapshots.shelf.clone();
    let receiver = Receiver::new(members, shelf, shared.groups.health.clone());
    shared.desks.set(Desk::Snapshot, Arc::new(receiver));
    let clerk = JoinClerk { format, meta: meta.clone(), groups: groups.clone() };
    shared.desks.set_member(MemberKind::Join, Arc::new(clerk));
    let orders = OrderClerk {
        groups: groups.clone(),
        network: network.clone(),
        meta: meta.clone(),
        moves: shared.moves.clone(),
    };
    shared.desks.set_member(MemberKind::Order, Arc::new(orders));
    network.set_service(shared.desks.clone());
    network.set_cluster(cluster);
    // Last: who called them before would be taken for a node of another cluster.
    network.set_peers(peers.into_iter().collect());
    let moves = shared.moves.clone();
    runtime.spawn(Keeper { node, groups, meta, network: network.clone(), moves }.run());
}

/// How a node that its own directory does not know yet makes itself known.
struct Introduction {
    meta: MetaHandle,
    network: Option<Arc<dyn Network>>,
    /// Where members are.
    join: Vec<String>,
    node: NodeId,
    command: MetaCommand,
}

impl Introduction {
    fn of<M: Machine>(shared: &Shared<M>, options: &Options) -> Self {
        let peering = options.peering.as_ref();
        let command = addresses(options).up(&shared.origin.incarnation, &shared.meta.directory());
        let join = peering.map(|peering| peering.join.clone()).unwrap_or_default();
        let (meta, network) = (shared.meta.clone(), shared.network.clone());
        Self { meta, network, join, node: options.node, command }
    }

    fn is_known(&self) -> bool {
        self.meta.directory().nodes.contains_key(&self.node)
    }
}

/// Lets members put this node into the directory; returns once it has come here with the log.
async fn introduce(who: Introduction) {
    let Some(network) = who.network.as_deref() else { return };
    let mut changed = who.meta.changed();
    while !who.is_known() {
        match join::add(network, &who.join, &who.command).await {
            Added::Removed => return who.meta.note_removed(),
            Added::OtherFolder => return who.meta.note_superseded(),
            Added::Yes | Added::NotYet => {}
        }
        let known = changed.wait_for(|_| who.is_known());
        let _ = tokio::time::timeout(INTRODUCE_INTERVAL, known).await;
    }
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
