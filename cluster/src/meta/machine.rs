//! The machine of the meta group, pure: same commands in the same order, same directory and replies.
//!
//! - Owns: the directory that the next batch starts from, and what is found by node in it.
//! - Takes: batches of commands. Gives: replies; writes of what changed; one new directory per applied
//!   batch, first to the sink, then to who waits for its index.
//! - Bound: `limits::META_*`; a command that breaks one is refused. No map is walked in hash order (PURE-CORE).
//! - Source: own design; ARCHITECTURE.md "The directory".

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::watch;

use super::{
    command::{self, MetaCommand, MetaReply, Refusal},
    record,
};
use crate::{
    directory::{Directory, Places},
    id::{NodeId, ShardId},
    limits::{
        META_ENTRY_BYTES_MAX, META_MEMBERSHIPS_MAX, META_NODES_MAX, META_REMOVED_MAX,
        META_ROOM_MEMBERS_MAX, META_ROOMS_MAX, META_ROOMS_OF_USER_MAX, META_ROUTES_MAX,
    },
    machine::{Machine, Store, StoreMut},
};

/// What is different in a new directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaChange {
    /// A route leads elsewhere; without places it is gone.
    Route {
        /// Its key.
        key: Bytes,
        /// Where it leads now.
        places: Places,
    },
    /// A member came, went, or is otherwise.
    Node {
        /// Which one.
        node: NodeId,
    },
    /// A shard has other replicas or another leader.
    Shard {
        /// Which one.
        shard: ShardId,
    },
    /// A room or its members changed.
    Room {
        /// Which one.
        room: Bytes,
    },
    /// Everything may have changed: this node has just started, or was far behind.
    Reloaded,
}

/// Called with each new directory, before its index is announced: whoever has passed a barrier for
/// a command has been called with it. It runs where the log is applied, so it must not block.
pub type MetaSink = Arc<dyn Fn(&Directory, &[MetaChange]) + Send + Sync>;

/// Returns a sink that does nothing.
#[must_use]
pub fn no_sink() -> MetaSink {
    Arc::new(|_, _| ())
}

/// The newest directory of this node.
pub(crate) struct Published {
    directory: ArcSwap<Directory>,
    announced: watch::Sender<u64>,
    sink: MetaSink,
}

impl Published {
    pub(crate) fn new(sink: MetaSink) -> Arc<Self> {
        let directory = ArcSwap::from_pointee(Directory::default());
        Arc::new(Self { directory, announced: watch::Sender::new(0), sink })
    }

    pub(crate) fn directory(&self) -> Arc<Directory> {
        self.directory.load_full()
    }

    /// Returns the index up to which the sink has seen everything.
    pub(crate) fn announced(&self) -> watch::Receiver<u64> {
        self.announced.subscribe()
    }

    fn publish(&self, directory: &Directory, changes: &[MetaChange]) {
        self.directory.store(Arc::new(directory.clone()));
        (self.sink)(directory, changes);
        self.announced.send_replace(directory.index);
    }
}

/// What changed since the last publication; each thing once.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) nodes: BTreeSet<NodeId>,
    pub(super) shards: BTreeSet<ShardId>,
    pub(super) routes: BTreeSet<Bytes>,
    pub(super) rooms: BTreeSet<Bytes>,
}

/// What a machine may hold; the same on every replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) nodes: usize,
    pub(super) removed: usize,
    pub(super) routes: usize,
    pub(super) rooms: usize,
    pub(super) room_members: u32,
    pub(super) memberships: usize,
    pub(super) rooms_of_user: usize,
}

/// What every node holds; tests reach smaller ones.
const LIMITS: Limits = Limits {
    nodes: META_NODES_MAX,
    removed: META_REMOVED_MAX,
    routes: META_ROUTES_MAX,
    rooms: META_ROOMS_MAX,
    room_members: META_ROOM_MEMBERS_MAX,
    memberships: META_MEMBERSHIPS_MAX,
    rooms_of_user: META_ROOMS_OF_USER_MAX,
};

/// See the head of the file.
pub(crate) struct MetaMachine {
    shards: u16,
    pub(super) limits: Limits,
    pub(super) now: Directory,
    /// Live routes of each node.
    pub(super) routes_of: BTreeMap<NodeId, BTreeSet<Bytes>>,
    /// Places in the store of routes with long keys.
    pub(super) long_routes: BTreeMap<Bytes, (u64, u32)>,
    /// Memberships that hang on each node: room and user.
    pub(super) joined_from: BTreeMap<NodeId, BTreeSet<(Bytes, Bytes)>>,
    pub(super) changes: Changes,
    published: Arc<Published>,
}

/// One command while it is applied.
pub(super) struct Turn<'a> {
    pub(super) index: u64,
    /// Next number for a long route of this batch.
    pub(super) long_next: u32,
    pub(super) store: &'a mut dyn StoreMut,
}

impl MetaMachine {
    pub(crate) fn new(shards: u16, published: Arc<Published>) -> Self {
        let shards_known = usize::from(shards);
        let now = Directory {
            shards: imbl::Vector::from(vec![Vec::new(); shards_known]),
            leaders: imbl::Vector::from(vec![None; shards_known]),
            ..Directory::default()
        };
        Self {
            shards,
            limits: LIMITS,
            now,
            routes_of: BTreeMap::new(),
            long_routes: BTreeMap::new(),
            joined_from: BTreeMap::new(),
            changes: Changes::default(),
            published,
        }
    }

    #[cfg(test)]
    pub(super) fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// Returns the directory as of the last command.
    pub(crate) fn directory(&self) -> &Directory {
        &self.now
    }

    /// Returns how many shards the cluster has.
    pub(super) fn shards(&self) -> u16 {
        self.shards
    }

    fn apply_one(&mut self, turn: &mut Turn<'_>, command: MetaCommand) -> MetaReply {
        let done = match command {
            MetaCommand::NodeUp { node, incarnation, cluster_addr, client_addr, version } => {
                self.node_up(turn, node, incarnation, [cluster_addr, client_addr, version], None)
            }
            MetaCommand::NodeUpFrom {
                node,
                incarnation,
                cluster_addr,
                client_addr,
                version,
                folder,
            } => {
                let texts = [cluster_addr, client_addr, version];
                self.node_up(turn, node, incarnation, texts, Some(folder))
            }
            MetaCommand::NodeDown { node, incarnation } => self.node_down(turn, node, incarnation),
            MetaCommand::RemoveNode { node } => self.remove_node(turn, node),
            MetaCommand::RoutesComplete { node, incarnation } => {
                self.routes_complete(turn, node, incarnation)
            }
            MetaCommand::AddRoutes { place, keys } => self.add_routes(turn, place, keys),
            MetaCommand::RemoveRoutes { place, keys } => self.remove_routes(turn, place, keys),
            MetaCommand::ShardLed { shard, node, term } => self.shard_led(turn, shard, node, term),
            MetaCommand::SetReplicas { shard, replicas } => {
                self.set_replicas(turn, shard, replicas)
            }
            MetaCommand::Room(command) => return self.room(turn, command),
            MetaCommand::Leave { node, lost } => self.leave_cluster(turn, node, lost),
            MetaCommand::Released { node } => self.release(turn, node),
            MetaCommand::MoveShard { shard, from, to } => self.move_shard(turn, shard, from, to),
            MetaCommand::PromiseId => return self.promise_id(turn),
            MetaCommand::Stay { node } => self.stay(turn, node),
        };
        match done {
            Ok(()) => MetaReply::Done,
            Err(No::Fenced) => MetaReply::Fenced,
            Err(No::Refused(why)) => MetaReply::Refused(why),
        }
    }

    fn take_changes(&mut self) -> Vec<MetaChange> {
        let Changes { nodes, shards, routes, rooms } = std::mem::take(&mut self.changes);
        let places = |key: &Bytes| self.now.routes.get(key).cloned().unwrap_or_default();
        let route = |key: Bytes| MetaChange::Route { places: places(&key), key };
        let nodes = nodes.into_iter().map(|node| MetaChange::Node { node });
        let shards = shards.into_iter().map(|shard| MetaChange::Shard { shard });
        let rooms = rooms.into_iter().map(|room| MetaChange::Room { room });
        nodes.chain(shards).chain(routes.into_iter().map(route)).chain(rooms).collect()
    }
}

/// Why a command did nothing.
pub(super) enum No {
    Fenced,
    Refused(Refusal),
}

impl From<Refusal> for No {
    fn from(why: Refusal) -> Self {
        Self::Refused(why)
    }
}

impl Machine for MetaMachine {
    fn load(&mut self, store: &dyn Store) {
        *self = Self { limits: self.limits, ..Self::new(self.shards, self.published.clone()) };
        let index = store.get(&record::index());
        self.now.index = index.and_then(|value| record::read(b"I", &value)).unwrap_or(0);
        self.load_members(store);
        self.load_leaving(store);
        self.load_routes(store);
        self.load_rooms(store);
        self.published.publish(&self.now, &[MetaChange::Reloaded]);
    }

    fn apply(&mut self, index: u64, command: &Bytes, store: &mut dyn StoreMut) -> Bytes {
        let commands: Option<Vec<MetaCommand>> = command::decode(command, META_ENTRY_BYTES_MAX);
        let mut turn = Turn { index, long_next: 0, store };
        let replies: Vec<MetaReply> = match commands {
            Some(commands) => {
                commands.into_iter().map(|command| self.apply_one(&mut turn, command)).collect()
            }
            None => vec![MetaReply::Refused(Refusal::Unreadable)],
        };
        self.now.index = index;
        store.put(record::index(), record::value(&index));
        command::encode(&(index, replies))
    }

    fn applied(&mut self) {
        // Entries without commands (a new leader, a change of voters) change nothing here.
        if self.now.index != *self.published.announced.borrow() {
            let changes = self.take_changes();
            self.published.publish(&self.now, &changes);
        }
    }
}
