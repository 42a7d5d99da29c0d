//! Several nodes in one process: the memory twin of the links, with faults on demand.
//!
//! ```text
//! request ─▶ pipe there (delay, cut, reset) ─▶ Service ─▶ pipe back ─▶ answer
//! ```
//!
//! - Owns: every pipe between its nodes, and one task that lets events happen at their time.
//! - Takes: faults. Gives: what a caller of sockets would see: order per (pair, class), answers,
//!   `Lost` for what was under way when a connection broke, `Unreachable` after that.
//! - Bound: windows as on sockets.
//! - Deterministic: one event after the other in the order of (time, sequence); random only by the
//!   seed; no thread. Under a paused clock two runs with one seed are the same run.
//! - Source: own design.

mod event;
mod link;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot, watch},
    task::{AbortHandle, JoinSet},
};

use self::link::{Frame, Key, Lane, Link, Way};
use super::{Class, ClusterId, Desk, LinkError, LinkState, Network, Service, reply};
use crate::{
    clock,
    id::NodeId,
    limits::{FRAME_BYTES_MAX, LINK_SILENCE_MAX},
};

/// One node as the hub sees it.
struct Member {
    /// Which start of the node.
    life: u64,
    address: String,
    service: Option<Arc<dyn Service>>,
    cluster: Option<ClusterId>,
    peers: BTreeMap<NodeId, String>,
    /// Whom it lets in no more.
    removed: BTreeSet<NodeId>,
    /// Somebody has said that it is one of those.
    told_removed: watch::Sender<bool>,
    /// Where it lives; not where the hub does if each node has a clock of its own.
    home: Handle,
    /// What it is serving; ends with it.
    serving: JoinSet<()>,
}

/// What happens at some time.
#[derive(Clone, Copy)]
enum Event {
    /// The first frame of a pipe is due.
    Arrive { key: Key, generation: u64, way: Way },
    /// A cut that began then has lasted for too long.
    Silent { key: Key, generation: u64, cut_since: Instant },
}

struct State {
    random: StdRng,
    sequence: u64,
    events: BTreeMap<(Instant, u64), Event>,
    members: BTreeMap<NodeId, Member>,
    links: BTreeMap<Key, Link>,
    /// Directions that let nothing through.
    cuts: BTreeSet<(NodeId, NodeId)>,
    delay: RangeInclusive<Duration>,
    resets_per_million: u32,
    runtime: Handle,
}

/// What hub and networks share.
struct Shared {
    state: Mutex<State>,
    /// An event was added.
    added: Notify,
}

/// The nodes of one process. Dropping it stops all their traffic.
pub(crate) struct Hub {
    shared: Arc<Shared>,
    driver: AbortHandle,
}

impl Hub {
    /// Makes a hub without nodes, delays and faults on the current runtime.
    pub(crate) fn new(seed: u64) -> Self {
        let state = State {
            random: StdRng::seed_from_u64(seed),
            sequence: 0,
            events: BTreeMap::new(),
            members: BTreeMap::new(),
            links: BTreeMap::new(),
            cuts: BTreeSet::new(),
            delay: Duration::ZERO..=Duration::ZERO,
            resets_per_million: 0,
            runtime: Handle::current(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), added: Notify::new() });
        let driver = tokio::spawn(event::drive(Arc::downgrade(&shared))).abort_handle();
        Self { shared, driver }
    }

    /// Adds a node that lives on the current runtime, or starts one again after [`Hub::leave`].
    pub(crate) fn join(&self, node: NodeId, address: &str) -> Arc<MemoryNetwork> {
        self.leave(node);
        let mut state = self.shared.state.lock();
        state.sequence += 1;
        let life = state.sequence;
        let member = Member {
            life,
            address: address.to_owned(),
            service: None,
            cluster: None,
            peers: BTreeMap::new(),
            removed: BTreeSet::new(),
            told_removed: watch::Sender::default(),
            home: Handle::current(),
            serving: JoinSet::new(),
        };
        state.members.insert(node, member);
        Arc::new(MemoryNetwork { node, life, shared: Arc::downgrade(&self.shared) })
    }

    /// Ends a node as `kill -9` does: its connections break, what it was serving stops.
    pub(crate) fn leave(&self, node: NodeId) {
        self.shared.leave(node);
    }

    /// Lets nothing through from one node to another. Connections stand for 3 s of silence.
    pub(crate) fn cut(&self, from: NodeId, to: NodeId) {
        let mut state = self.shared.state.lock();
        state.cuts.insert((from, to));
        state.watch_silence();
        drop(state);
        self.shared.added.notify_one();
    }

    /// Ends a cut; what was held arrives, in order.
    pub(crate) fn heal(&self, from: NodeId, to: NodeId) {
        let mut state = self.shared.state.lock();
        state.cuts.remove(&(from, to));
        state.flow_again();
        drop(state);
        self.shared.added.notify_one();
    }

    /// Cuts both ways between the nodes of one side and those of the other.
    pub(crate) fn partition(&self, one: &[NodeId], other: &[NodeId]) {
        for (&one, &other) in one.iter().flat_map(|one| other.iter().map(move |other| (one, other)))
        {
            self.cut(one, other);
            self.cut(other, one);
        }
    }

    /// Ends all cuts.
    pub(crate) fn heal_all(&self) {
        let cuts = self.shared.state.lock().cuts.clone();
        for (from, to) in cuts {
            self.heal(from, to);
        }
    }

    /// Breaks all connections between two nodes; they may connect again after a moment.
    pub(crate) fn reset(&self, one: NodeId, other: NodeId) {
        let between = |key: &Key| [(one, other), (other, one)].contains(&(key.from, key.to));
        self.shared.state.lock().break_links(between, "connection reset");
    }

    /// Frames take this long; those of one pipe keep their order.
    pub(crate) fn set_delay(&self, delay: RangeInclusive<Duration>) {
        self.shared.state.lock().delay = delay;
    }

    /// So many frames of a million break their connection instead of arriving.
    pub(crate) fn set_resets(&self, per_million: u32) {
        self.shared.state.lock().resets_per_million = per_million;
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.driver.abort();
        let mut state = self.shared.state.lock();
        state.break_links(|_| true, "the hub has ended");
        let members = std::mem::take(&mut state.members);
        drop(state);
        drop(members);
    }
}

impl Shared {
    fn leave(&self, node: NodeId) {
        let mut state = self.state.lock();
        let member = state.members.remove(&node);
        state.break_links(|key| key.from == node || key.to == node, "the node has ended");
        drop(state);
        // Its service may hold networks of this hub.
        drop(member);
    }
}

impl State {
    /// Returns the time of the hub, whose clock need not be that of the node that asks.
    fn now(&self) -> Instant {
        let _here = self.runtime.enter();
        clock::now()
    }

    /// Puts a frame on its way, or breaks the connection.
    fn send(&mut self, key: Key, way: Way, frame: Frame) {
        let lost = self.resets_per_million > 0
            && self.random.gen_ratio(self.resets_per_million.min(1_000_000), 1_000_000);
        if lost {
            return self.break_links(|other| *other == key, "connection reset");
        }
        let delay = self.random.gen_range(self.delay.clone());
        let now = self.now();
        let Some(link) = self.links.get_mut(&key) else { return };
        let due = link.put(way, now + delay, frame);
        let generation = link.generation;
        self.at(due, Event::Arrive { key, generation, way });
    }

    fn at(&mut self, time: Instant, event: Event) {
        self.sequence += 1;
        self.events.insert((time, self.sequence), event);
    }

    fn is_cut(&self, key: Key, way: Way) -> bool {
        self.cuts.contains(&match way {
            Way::There => (key.from, key.to),
            Way::Back => (key.to, key.from),
        })
    }

    fn break_links(&mut self, which: impl Fn(&Key) -> bool, why: &str) {
        let now = self.now();
        for (_, link) in self.links.iter_mut().filter(|(key, _)| which(key)) {
            link.break_off(now, why);
        }
    }

    /// Counts the silence of connections that a cut has just fallen upon.
    fn watch_silence(&mut self) {
        let now = self.now();
        let keys: Vec<Key> = self.links.keys().copied().collect();
        for key in keys {
            let cut = self.is_cut(key, Way::There) || self.is_cut(key, Way::Back);
            let Some(link) = self.links.get_mut(&key).filter(|link| cut && link.connected) else {
                continue;
            };
            if link.cut_since.is_none() {
                link.cut_since = Some(now);
                let generation = link.generation;
                self.at(now + LINK_SILENCE_MAX, Event::Silent { key, generation, cut_since: now });
            }
        }
    }

    /// Lets go what pipes hold that are cut no longer.
    fn flow_again(&mut self) {
        let now = self.now();
        let keys: Vec<Key> = self.links.keys().copied().collect();
        for key in keys {
            let (there, back) = (self.is_cut(key, Way::There), self.is_cut(key, Way::Back));
            let Some(link) = self.links.get_mut(&key) else { continue };
            if !there && !back {
                link.cut_since = None;
            }
            let generation = link.generation;
            for (way, is_cut) in [(Way::There, there), (Way::Back, back)] {
                let held = self.links.get_mut(&key).filter(|_| !is_cut);
                for _ in 0..held.map_or(0, |link| link.take_held(way)) {
                    self.at(now, Event::Arrive { key, generation, way });
                }
            }
        }
    }

    /// Returns the connected link, connecting it first if that is possible now.
    fn connect(&mut self, key: Key) -> Option<&mut Link> {
        let now = self.now();
        let cut = self.is_cut(key, Way::There) || self.is_cut(key, Way::Back);
        let (from, to) = (self.members.get(&key.from)?, self.members.get(&key.to));
        let is_out = to.is_some_and(|to| to.removed.contains(&key.from));
        if is_out && !cut && key.lane != Lane::Knock {
            from.told_removed.send_replace(true);
            return None;
        }
        let meets = to.is_some_and(|to| {
            to.service.is_some()
                && to.cluster.is_some()
                && (key.lane == Lane::Knock || to.cluster == from.cluster)
        });
        let link = self.links.entry(key).or_insert_with(|| Link::new(now));
        if !link.connected {
            if cut || !meets || now < link.retry_at {
                return None;
            }
            link.connect(now);
        }
        Some(link)
    }
}

/// The hub as one node sees it. A network of a node that left, or started again, reaches nobody.
pub(crate) struct MemoryNetwork {
    node: NodeId,
    life: u64,
    shared: Weak<Shared>,
}

impl MemoryNetwork {
    /// Returns this node, unless it has left meanwhile.
    fn member<'a>(&self, state: &'a mut State) -> Option<&'a mut Member> {
        state.members.get_mut(&self.node).filter(|member| member.life == self.life)
    }

    fn change(&self, change: impl FnOnce(&mut Member)) {
        if let Some(shared) = self.shared.upgrade()
            && let Some(member) = self.member(&mut shared.state.lock())
        {
            change(member);
        }
    }

    fn send(
        &self,
        key: Key,
        desk: Desk,
        body: Bytes,
        ask: Option<(reply::Sender, Duration)>,
    ) -> Result<Handle, LinkError> {
        let shared = self.shared.upgrade().ok_or(LinkError::Unreachable)?;
        let mut state = shared.state.lock();
        if body.len() > FRAME_BYTES_MAX {
            return Err(LinkError::TooLong);
        }
        let member = self.member(&mut state).ok_or(LinkError::Unreachable)?;
        if key.lane != Lane::Knock && !member.peers.contains_key(&key.to) {
            return Err(LinkError::Unreachable);
        }
        let home = member.home.clone();
        let link = state.connect(key).ok_or(LinkError::Unreachable)?;
        let frame = link.ask(desk, body, ask)?;
        state.send(key, Way::There, frame);
        drop(state);
        shared.added.notify_one();
        Ok(home)
    }

    fn ask(
        &self,
        key: Key,
        desk: Desk,
        body: Bytes,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let (tell, told) = oneshot::channel();
        match self.send(key, desk, body, Some((tell, time_out))) {
            Ok(home) => reply::within(told, time_out, &home),
            Err(why) => reply::refused(why),
        }
    }
}

impl Network for MemoryNetwork {
    fn set_service(&self, service: Arc<dyn Service>) {
        self.change(|member| member.service = Some(service));
    }

    fn set_cluster(&self, cluster: ClusterId) {
        self.change(|member| member.cluster = Some(cluster));
    }

    fn set_peers(&self, mut peers: BTreeMap<NodeId, String>) {
        peers.remove(&self.node);
        let Some(shared) = self.shared.upgrade() else { return };
        let mut state = shared.state.lock();
        let Some(member) = self.member(&mut state) else { return };
        let old = std::mem::replace(&mut member.peers, peers.clone());
        let stays = |node: &NodeId| peers.get(node) == old.get(node);
        let gone = |key: &Key| key.from == self.node && !stays(&key.to) && key.lane != Lane::Knock;
        state.break_links(gone, "the address has changed");
    }

    fn set_removed(&self, removed: BTreeSet<NodeId>) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut state = shared.state.lock();
        let Some(member) = self.member(&mut state) else { return };
        let old = std::mem::replace(&mut member.removed, removed.clone());
        let new: BTreeSet<NodeId> = removed.difference(&old).copied().collect();
        let is_out =
            |key: &Key| key.to == self.node && new.contains(&key.from) && key.lane != Lane::Knock;
        state.break_links(is_out, "the node was removed");
    }

    fn removed(&self) -> watch::Receiver<bool> {
        let none = || watch::Sender::default().subscribe();
        let Some(shared) = self.shared.upgrade() else { return none() };
        let mut state = shared.state.lock();
        self.member(&mut state).map_or_else(none, |member| member.told_removed.subscribe())
    }

    fn set_node(&self, _node: NodeId) {
        // Nodes of a hub have their ids from the beginning.
    }

    fn request(
        &self,
        to: NodeId,
        class: Class,
        desk: Desk,
        body: Bytes,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let key = Key { from: self.node, to, lane: Lane::Of(class) };
        self.ask(key, desk, body, time_out)
    }

    fn cast(&self, to: NodeId, class: Class, desk: Desk, body: Bytes) -> Result<(), LinkError> {
        let key = Key { from: self.node, to, lane: Lane::Of(class) };
        self.send(key, desk, body, None).map(drop)
    }

    fn knock(
        &self,
        address: String,
        body: Bytes,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let listens = self.shared.upgrade().and_then(|shared| {
            let state = shared.state.lock();
            let mut members = state.members.iter();
            members.find(|(_, member)| member.address == address).map(|(node, _)| *node)
        });
        match listens {
            Some(to) => {
                let key = Key { from: self.node, to, lane: Lane::Knock };
                self.ask(key, Desk::Member, body, time_out)
            }
            None => reply::refused(LinkError::Unreachable),
        }
    }

    fn links(&self) -> Vec<LinkState> {
        let Some(shared) = self.shared.upgrade() else { return Vec::new() };
        let mut state = shared.state.lock();
        let Some(member) = self.member(&mut state) else { return Vec::new() };
        let peers = member.peers.clone();
        let now = state.now();
        let all = peers.iter().flat_map(|peer| Class::ALL.map(|class| (peer, class)));
        let states = all.map(|((&peer, address), class)| {
            let key = Key { from: self.node, to: peer, lane: Lane::Of(class) };
            let fresh = || Link::new(now).state(peer, address, class, now);
            state.links.get(&key).map_or_else(fresh, |link| link.state(peer, address, class, now))
        });
        states.collect()
    }

    fn stop(&self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let is_mine = self.member(&mut shared.state.lock()).is_some();
        if is_mine {
            shared.leave(self.node);
        }
    }
}
