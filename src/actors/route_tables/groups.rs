//! Where the members of shared groups are, as the directory says.
//!
//! - Owns: the groups by route key and by filter; structure is shared with the tables before.
//! - Takes: routes of groups. Gives: the groups that get a message; one group by its key.
//! - Bound: the routes of the directory.

use std::sync::Arc;

use bytes::Bytes;
use imbl::HashMap;
use smallvec::SmallVec;

use crate::model::{
    id::AppId,
    node_set::NodeSet,
    route::{FilterTable, Places, ShardSet},
    topic::{TopicFilter, TopicName},
};

/// A shared group with members anywhere in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRoute {
    /// Of the route.
    pub key: Bytes,
    /// Tenant.
    pub app: AppId,
    /// Share name.
    pub share: Bytes,
    /// What it subscribes to.
    pub filter: TopicFilter,
    /// Other nodes with connected members.
    pub nodes: NodeSet,
    /// Shards with members whose sessions are durable, with QoS 1 or 2.
    pub shards: ShardSet,
}

/// The groups of a filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupRoutes(SmallVec<[Arc<GroupRoute>; 1]>);

impl GroupRoutes {
    /// Walks the groups.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<GroupRoute>> {
        self.0.iter()
    }
}

impl Places for GroupRoutes {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn extend(&mut self, other: &Self) {
        self.0.extend(other.0.iter().cloned());
    }
}

/// See the head of the file.
#[derive(Clone, Default)]
pub(super) struct GroupRouteTable {
    by_filter: FilterTable<GroupRoutes>,
    by_key: HashMap<Bytes, Arc<GroupRoute>>,
}

impl GroupRouteTable {
    /// Takes the route of a group in place of the one before.
    pub(super) fn set(&mut self, route: GroupRoute) {
        // This node alone has members: it knows them better than the directory does, but others may come.
        let (app, filter) = (route.app, route.filter.clone());
        let key = route.key.clone();
        let is_gone = route.nodes.is_empty() && route.shards.is_empty();
        let route = (!is_gone).then(|| Arc::new(route));
        self.by_filter.change(app, &filter, |set| {
            set.0.retain(|known| known.key != key);
            set.0.extend(route.clone());
        });
        match route {
            Some(route) => drop(self.by_key.insert(key, route)),
            None => drop(self.by_key.remove(&key)),
        }
    }

    pub(super) fn matching(&self, app: AppId, topic: &TopicName) -> GroupRoutes {
        self.by_filter.places(app, topic)
    }

    pub(super) fn get(&self, key: &Bytes) -> Option<Arc<GroupRoute>> {
        self.by_key.get(key).cloned()
    }
}

#[cfg(test)]
mod tests {
    use hongqiao_cluster::id::NodeId;

    use super::*;
    use crate::model::route_key;

    #[test]
    fn groups_of_one_filter_are_found_by_topic_and_by_key_while_they_have_members() {
        let mut table = GroupRouteTable::default();
        let route = |share: &'static [u8], filter: &str, node: Option<u64>, shards: u64| {
            let filter = TopicFilter::parse(filter).unwrap();
            GroupRoute {
                key: route_key::of_group(AppId(1), share, filter.as_bytes()),
                app: AppId(1),
                share: Bytes::from_static(share),
                filter,
                nodes: node.into_iter().map(NodeId).collect(),
                shards: ShardSet::from_bits(shards),
            }
        };
        let topic = TopicName::parse("a/b").unwrap();
        let shares = |table: &GroupRouteTable| {
            let mut shares: Vec<_> =
                table.matching(AppId(1), &topic).iter().map(|route| route.share.clone()).collect();
            shares.sort_unstable();
            shares
        };
        table.set(route(b"g", "a/+", Some(2), 0));
        table.set(route(b"h", "a/+", None, 1));
        table.set(route(b"i", "a/b", Some(3), 0));
        assert_eq!(shares(&table), ["g", "h", "i"]);
        let changed = route(b"g", "a/+", Some(5), 2);
        table.set(changed.clone());
        assert_eq!(shares(&table), ["g", "h", "i"]);
        assert_eq!(table.get(&changed.key).as_deref(), Some(&changed));
        table.set(route(b"g", "a/+", None, 0));
        assert_eq!(table.get(&changed.key), None);
        assert_eq!(shares(&table), ["h", "i"]);
    }
}
