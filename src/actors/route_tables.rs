//! Where messages go beyond this node: the directory's routes, as publishing reads them.
//!
//! - Owns: a snapshot of two tables that share structure with the ones before (NO-WAIT-READ).
//! - Takes: each new directory, on the cluster's threads, before its index is announced. Gives: the other nodes
//!   with live subscribers of a topic, and which of them take QoS 0 alone; the shards with durable ones; which
//!   nodes are up.
//! - Bound: the routes of the directory, text shared with it. One swap per batch. Empty on a node alone: a
//!   look-up costs a comparison.
//! - Who has not told all of its routes yet gets everything: a node that has just started, a shard whose leader
//!   has not compared it with the directory. What is too much is ignored on arrival.
//! - Source: EDGE-ROUTE, NO-LOSS in ARCHITECTURE.md.

mod groups;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use hongqiao_cluster::{
    MetaChange,
    directory::{Directory, Places as Routed},
    id::NodeId,
};
use imbl::OrdMap;
use parking_lot::Mutex;

use groups::GroupRouteTable;
pub use groups::{GroupRoute, GroupRoutes};

use crate::model::{
    id::AppId,
    node_set::NodeSet,
    route::{NodeTable, RouteTable, ShardSet},
    route_key::{self, RouteKey},
    topic::TopicName,
};

/// What publishing knows of the cluster, as of one directory.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Other members that are up, with their incarnations.
    peers: OrdMap<NodeId, u64>,
    /// There are other members, up or down.
    in_company: bool,
    /// There were, at some time.
    had_company: bool,
    /// Of this node.
    own_incarnation: u64,
    live: NodeTable,
    /// Of subscribers that take QoS 0 alone.
    live_qos_0: NodeTable,
    durable: RouteTable,
    groups: GroupRouteTable,
    /// Nodes that have not told all their routes.
    untold_nodes: NodeSet,
    /// Shards all of whose filters have routes.
    told_shards: ShardSet,
    all_shards: ShardSet,
}

impl Snapshot {
    /// Tells whether this node has no other members beside it.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        !self.in_company
    }

    /// Tells whether this node has never had other members beside it: all that is stored was stored by it.
    #[must_use]
    pub fn was_always_alone(&self) -> bool {
        !self.had_company
    }

    /// Returns this node's incarnation, as far as the directory has come; 0 before that.
    #[must_use]
    pub fn own_incarnation(&self) -> u64 {
        self.own_incarnation
    }

    /// Returns the incarnation of another node; `None` while it is down.
    #[must_use]
    pub fn incarnation(&self, node: NodeId) -> Option<u64> {
        self.peers.get(&node).copied()
    }

    /// Walks the other nodes that are up.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, u64)> {
        self.peers.iter().map(|(node, incarnation)| (*node, *incarnation))
    }

    /// Returns the other nodes to which a live message on `topic` must go, whatever its QoS.
    #[must_use]
    pub fn nodes(&self, app: AppId, topic: &TopicName) -> NodeSet {
        let mut nodes = self.live.places(app, topic);
        if !self.untold_nodes.is_empty() {
            self.untold_nodes.iter().for_each(|node| nodes.insert(node));
        }
        nodes
    }

    /// Returns the other nodes whose live subscribers of `topic` take messages of QoS 0 alone; some of them may
    /// have others, too.
    #[must_use]
    pub fn nodes_of_qos_0(&self, app: AppId, topic: &TopicName) -> NodeSet {
        self.live_qos_0.places(app, topic)
    }

    /// Returns the shared groups that get a message on `topic`.
    #[must_use]
    pub fn groups(&self, app: AppId, topic: &TopicName) -> GroupRoutes {
        self.groups.matching(app, topic)
    }

    /// Returns where the members of a shared group are; by the key of its route.
    #[must_use]
    pub fn group(&self, key: &Bytes) -> Option<Arc<GroupRoute>> {
        self.groups.get(key)
    }

    /// Tells whether every other node that is up, and every shard, has told all of its routes.
    #[must_use]
    pub fn knows_all(&self) -> bool {
        let told = self.all_shards.without(self.told_shards).is_empty();
        self.is_alone() || (self.untold_nodes.is_empty() && told)
    }

    /// Returns the shards to which a durable message on `topic` must go; `local` are the filters of the
    /// replicas here.
    #[must_use]
    pub fn shards(&self, app: AppId, topic: &TopicName, local: &RouteTable) -> ShardSet {
        if self.is_alone() {
            return local.places(app, topic);
        }
        let mut shards = self.durable.places(app, topic);
        let untold = self.all_shards.without(self.told_shards);
        if !untold.is_empty() {
            shards = shards.union(untold).union(local.places(app, topic));
        }
        shards
    }
}

/// See the head of the file.
pub struct RouteTables {
    me: NodeId,
    writing: Mutex<()>,
    snapshot: ArcSwap<Snapshot>,
}

impl RouteTables {
    /// Prepares the tables of node `me`.
    #[must_use]
    pub fn new(me: NodeId) -> Arc<Self> {
        Arc::new(Self { me, writing: Mutex::new(()), snapshot: ArcSwap::default() })
    }

    /// Returns the incarnation of this node; see [`Snapshot::own_incarnation`].
    #[must_use]
    pub fn own_incarnation(&self) -> u64 {
        self.load().own_incarnation()
    }

    /// Returns the present tables.
    #[must_use]
    pub fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Takes a new directory; called with every one, in order.
    pub fn take(&self, directory: &Directory, changes: &[MetaChange]) {
        let _writing = self.writing.lock();
        let mut next = Snapshot::clone(&self.snapshot.load());
        let mut nodes_changed = false;
        for change in changes {
            match change {
                MetaChange::Route { key, places } => next.set(self.me, key, places),
                MetaChange::Node { .. } => nodes_changed = true,
                MetaChange::Reloaded => {
                    next = Snapshot::default();
                    for (key, places) in &directory.routes {
                        next.set(self.me, key, places);
                    }
                    nodes_changed = true;
                }
                MetaChange::Shard { .. } | MetaChange::Room { .. } => {}
            }
        }
        let shards = u16::try_from(directory.shards.len()).unwrap_or(u16::MAX);
        next.all_shards = ShardSet::all(shards);
        if nodes_changed {
            next.set_nodes(self.me, directory);
        }
        self.snapshot.store(Arc::new(next));
    }
}

impl Snapshot {
    fn set(&mut self, me: NodeId, key: &Bytes, routed: &Routed) {
        match route_key::parse(key) {
            Ok(RouteKey::Filter(app, filter)) => {
                let nodes = others_of(me, routed);
                self.live.change(app, &filter, |set| set.clone_from(&nodes));
                let shards = ShardSet::from_bits(routed.shards);
                self.durable.change(app, &filter, |set| *set = shards);
            }
            Ok(RouteKey::FilterQos0(app, filter)) => {
                let nodes = others_of(me, routed);
                self.live_qos_0.change(app, &filter, |set| set.clone_from(&nodes));
            }
            Ok(RouteKey::Group(app, share, filter)) => {
                let (nodes, shards) = (others_of(me, routed), ShardSet::from_bits(routed.shards));
                let key = key.clone();
                self.groups.set(GroupRoute { key, app, share, filter, nodes, shards });
            }
            Ok(RouteKey::AllRouted) => self.told_shards = ShardSet::from_bits(routed.shards),
            Err(error) => tracing::error!(%error, bytes = key.len(), "route is ignored"),
        }
    }

    fn set_nodes(&mut self, me: NodeId, directory: &Directory) {
        let others = directory.nodes.iter().filter(|(node, _)| **node != me);
        self.in_company = others.clone().next().is_some();
        self.had_company = self.in_company || !directory.removed.is_empty();
        self.own_incarnation = directory.nodes.get(&me).map_or(0, |member| member.incarnation);
        let up = others.filter(|(_, member)| member.up);
        self.peers = up.clone().map(|(node, member)| (*node, member.incarnation)).collect();
        let untold = up.filter(|(_, member)| !member.routes_complete);
        self.untold_nodes = untold.map(|(node, _)| *node).collect();
    }
}

fn others_of(me: NodeId, routed: &Routed) -> NodeSet {
    routed.nodes.iter().copied().filter(|node| *node != me).collect()
}

#[cfg(test)]
mod tests {
    use hongqiao_cluster::{directory::Member, id::ShardId};

    use super::*;
    use crate::model::topic::TopicFilter;

    const APP: AppId = AppId(1);
    const ME: NodeId = NodeId(1);

    fn member(up: bool, routes_complete: bool) -> Member {
        Member {
            incarnation: 9,
            up,
            routes_complete,
            cluster_addr: String::new(),
            client_addr: String::new(),
            version: String::new(),
        }
    }

    fn key(filter: &str) -> Bytes {
        route_key::of_filter(APP, filter.as_bytes())
    }

    fn places(nodes: &[u64], shards: u64) -> Routed {
        Routed { nodes: nodes.iter().copied().map(NodeId).collect(), shards }
    }

    fn topic(text: &str) -> TopicName {
        TopicName::parse(text).unwrap()
    }

    fn nodes(tables: &RouteTables, text: &str) -> Vec<u64> {
        tables.load().nodes(APP, &topic(text)).iter().map(|node| node.0).collect()
    }

    fn shards(tables: &RouteTables, text: &str, local: &RouteTable) -> Vec<u16> {
        let shards = tables.load().shards(APP, &topic(text), local);
        shards.iter().map(|shard| shard.0).collect()
    }

    fn in_company(tables: &RouteTables) -> Directory {
        let shards = imbl::Vector::from(vec![Vec::new(); 4]);
        let mut directory = Directory { shards, ..Directory::default() };
        directory.nodes.insert(ME, member(true, true));
        directory.nodes.insert(NodeId(2), member(true, true));
        directory.nodes.insert(NodeId(3), member(true, true));
        tables.take(&directory, &[MetaChange::Node { node: NodeId(2) }]);
        directory
    }

    #[test]
    fn routes_of_other_nodes_are_found_and_own_ones_are_not() {
        let tables = RouteTables::new(ME);
        assert!(tables.load().is_alone());
        let directory = in_company(&tables);
        let route = |filter, nodes: &[u64]| MetaChange::Route {
            key: key(filter),
            places: places(nodes, 0),
        };
        tables.take(&directory, &[route("a/+", &[1, 3]), route("a/b", &[2]), route("b", &[1])]);
        assert_eq!(nodes(&tables, "a/b"), [2, 3]);
        assert_eq!(nodes(&tables, "b"), [0_u64; 0]);
        tables.take(&directory, &[route("a/+", &[]), route("a/b", &[2])]);
        assert_eq!(nodes(&tables, "a/b"), [2]);
        assert!(!tables.load().is_alone());
    }

    #[test]
    fn nodes_that_take_qos_0_alone_are_apart_from_those_that_take_all() {
        let tables = RouteTables::new(ME);
        let directory = in_company(&tables);
        let key_of_qos_0 = route_key::of_filter_qos_0(APP, b"a/+");
        let route = |key, nodes: &[u64]| MetaChange::Route { key, places: places(nodes, 0) };
        tables.take(&directory, &[route(key_of_qos_0, &[1, 2, 3]), route(key("a/b"), &[3])]);
        let of_qos_0 = tables.load().nodes_of_qos_0(APP, &topic("a/b"));
        assert_eq!(of_qos_0.iter().map(|node| node.0).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(nodes(&tables, "a/b"), [3]);
    }

    #[test]
    fn node_that_has_not_told_its_routes_gets_everything_while_it_is_up() {
        let tables = RouteTables::new(ME);
        let mut directory = in_company(&tables);
        let news = [MetaChange::Node { node: NodeId(3) }];
        directory.nodes.insert(NodeId(3), member(true, false));
        tables.take(&directory, &news);
        assert_eq!(nodes(&tables, "x"), [3]);
        assert_eq!(tables.load().incarnation(NodeId(3)), Some(9));
        directory.nodes.insert(NodeId(3), member(false, false));
        tables.take(&directory, &news);
        assert_eq!(nodes(&tables, "x"), [0_u64; 0]);
        assert_eq!(tables.load().incarnation(NodeId(3)), None);
    }

    #[test]
    fn shard_that_is_not_compared_gets_everything() {
        let tables = RouteTables::new(ME);
        let mut local = RouteTable::new();
        local.add(APP, &TopicFilter::parse("a").unwrap(), ShardId(2));
        assert_eq!(shards(&tables, "a", &local), [2], "alone");
        assert_eq!(shards(&tables, "b", &local), [0_u16; 0]);
        let directory = in_company(&tables);
        let told =
            |bits| MetaChange::Route { key: route_key::ALL_ROUTED, places: places(&[], bits) };
        tables.take(&directory, &[told(0b0111)]);
        assert_eq!(shards(&tables, "a", &local), [2, 3]);
        assert_eq!(shards(&tables, "b", &local), [3]);
        let route = MetaChange::Route { key: key("#"), places: places(&[], 0b1) };
        tables.take(&directory, &[told(0b1111), route]);
        assert_eq!(shards(&tables, "a", &local), [0], "the directory knows all");
    }

    #[test]
    fn tables_that_are_reloaded_hold_what_the_directory_holds() {
        let tables = RouteTables::new(ME);
        let mut directory = in_company(&tables);
        let old = MetaChange::Route { key: key("old"), places: places(&[2], 1) };
        tables.take(&directory, &[old]);
        directory.routes.insert(key("new"), places(&[3], 0b10));
        directory.routes.insert(Bytes::from_static(b"\xffrubbish"), places(&[3], 0b10));
        directory.routes.insert(route_key::ALL_ROUTED, places(&[], 0b1111));
        tables.take(&directory, &[MetaChange::Reloaded]);
        assert_eq!(nodes(&tables, "old"), [0_u64; 0]);
        assert_eq!(nodes(&tables, "new"), [3]);
        assert_eq!(shards(&tables, "new", &RouteTable::new()), [1]);
    }
}
