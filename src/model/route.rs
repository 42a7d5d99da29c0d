//! Which shards hold durable subscribers of a topic: the table that publishing reads.
//!
//! - Owns: a structure-sharing table; a clone is a snapshot and costs a few counters.
//! - Takes: `add` and `remove` of (app, filter, shard). Gives: the set of shards for a topic.
//! - Bound: one entry per (app, filter) with a durable subscriber anywhere (EDGE-ROUTE); a look-up walks
//!   at most two branches per level.
//! - Source: MQTT 5.0 section 4.7; the snapshot is our own design (NO-WAIT-READ).

use bytes::Bytes;
use hongqiao_cluster::id::ShardId;
use imbl::HashMap;
use smallvec::SmallVec;
use std::sync::Arc;

use super::{
    id::AppId,
    node_set::NodeSet,
    topic::{TopicFilter, TopicName},
};

/// A set of shards; at most 64 (`SHARDS_MAX`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardSet(u64);

impl ShardSet {
    /// Makes the set whose members are the bits of `bits`.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns all of `count` shards.
    #[must_use]
    pub fn all(count: u16) -> Self {
        Self(u64::MAX.checked_shr(64_u32.saturating_sub(count.into())).unwrap_or(0))
    }

    /// Returns those in either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns those that are not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Adds one.
    pub fn insert(&mut self, shard: ShardId) {
        self.0 |= 1 << shard.0;
    }

    /// Takes one out.
    pub fn remove(&mut self, shard: ShardId) {
        self.0 &= !(1 << shard.0);
    }

    /// Walks the shards in order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        (0..64).filter(move |shard| self.0 & (1 << shard) != 0).map(ShardId)
    }
}

/// What a table holds for a filter: a set of places to which matching messages go.
pub trait Places: Clone + Default {
    /// Tells whether there is none.
    fn is_empty(&self) -> bool;

    /// Adds all of another set.
    fn extend(&mut self, other: &Self);
}

impl Places for ShardSet {
    fn is_empty(&self) -> bool {
        Self::is_empty(*self)
    }

    fn extend(&mut self, other: &Self) {
        self.0 |= other.0;
    }
}

/// Most literal levels below a node that are kept in a list.
const FEW_MAX: usize = 8;

/// The literal levels below a node. Most nodes have one: a map of one takes half a kilobyte.
#[derive(Clone)]
enum Children<P: Places> {
    Few(SmallVec<[(Bytes, Arc<Node<P>>); 1]>),
    Many(HashMap<Bytes, Arc<Node<P>>>),
}

/// A node of the tree of wildcard filters.
#[derive(Clone, Default)]
struct Node<P: Places> {
    children: Children<P>,
    plus: Option<Arc<Self>>,
    /// Filters that end here.
    here: P,
    /// Filters that end in `#` below here.
    hash: P,
}

/// The table of filters and where their messages go. Cloning shares all structure.
#[derive(Clone)]
pub struct FilterTable<P: Places> {
    exact: HashMap<(AppId, Bytes), P>,
    wild: HashMap<AppId, Arc<Node<P>>>,
}

/// Filters with live subscribers, and the other nodes these are on.
pub type NodeTable = FilterTable<NodeSet>;

/// Filters with durable subscribers, and the shards these are in.
pub type RouteTable = FilterTable<ShardSet>;

impl<P: Places> Default for FilterTable<P> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wild: HashMap::new() }
    }
}

impl FilterTable<ShardSet> {
    /// Notes that `shard` has a durable subscriber for `filter`; again changes nothing.
    pub fn add(&mut self, app: AppId, filter: &TopicFilter, shard: ShardId) {
        self.change(app, filter, |set| set.insert(shard));
    }

    /// Notes that `shard` has none any more.
    pub fn remove(&mut self, app: AppId, filter: &TopicFilter, shard: ShardId) {
        self.change(app, filter, |set| set.remove(shard));
    }
}

impl<P: Places> FilterTable<P> {
    /// Returns an empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells whether no filter is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wild.is_empty()
    }

    /// Returns the places to which a publish on `topic` must go.
    #[must_use]
    pub fn places(&self, app: AppId, topic: &TopicName) -> P {
        let mut found = P::default();
        if self.is_empty() {
            return found;
        }
        if let Some(set) = self.exact.get(&(app, topic.as_bytes().clone())) {
            found.extend(set);
        }
        if let Some(root) = self.wild.get(&app) {
            let dollar = topic.as_bytes().first() == Some(&b'$');
            collect(root, Some(topic.as_bytes()), dollar, &mut found);
        }
        found
    }

    /// Changes what is held for one filter; a filter without places takes no room.
    pub fn change(&mut self, app: AppId, filter: &TopicFilter, apply: impl Fn(&mut P)) {
        if filter.has_wildcard() {
            let root = self.wild.entry(app).or_default();
            change_node(Arc::make_mut(root), Some(filter.as_bytes()), &apply);
            if root.is_unused() {
                self.wild.remove(&app);
            }
            return;
        }
        let key = (app, filter.as_bytes().clone());
        let mut set = self.exact.get(&key).cloned().unwrap_or_default();
        apply(&mut set);
        if set.is_empty() {
            self.exact.remove(&key);
        } else {
            self.exact.insert(key, set);
        }
    }
}

impl<P: Places> Node<P> {
    fn is_unused(&self) -> bool {
        self.here.is_empty()
            && self.hash.is_empty()
            && self.children.is_empty()
            && self.plus.is_none()
    }
}

impl<P: Places> Default for Children<P> {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl<P: Places> Children<P> {
    fn is_empty(&self) -> bool {
        match self {
            Self::Few(few) => few.is_empty(),
            Self::Many(many) => many.is_empty(),
        }
    }

    fn get(&self, level: &[u8]) -> Option<&Arc<Node<P>>> {
        match self {
            Self::Few(few) => few.iter().find(|(known, _)| known == level).map(|(_, child)| child),
            Self::Many(many) => many.get(level),
        }
    }

    /// Changes a child, which is made if need be; one that is unused then goes.
    fn change(&mut self, level: &Bytes, change: impl FnOnce(&mut Node<P>)) {
        match self {
            Self::Few(few) => {
                let known = few.iter().position(|(known, _)| known == level);
                let at = known.unwrap_or_else(|| {
                    few.push((level.clone(), Arc::default()));
                    few.len() - 1
                });
                change(Arc::make_mut(&mut few[at].1));
                if few[at].1.is_unused() {
                    few.swap_remove(at);
                } else if few.len() > FEW_MAX {
                    *self = Self::Many(few.drain(..).collect());
                }
            }
            Self::Many(many) => {
                let child = many.entry(level.clone()).or_default();
                change(Arc::make_mut(child));
                if child.is_unused() {
                    many.remove(level);
                    if many.is_empty() {
                        *self = Self::default();
                    }
                }
            }
        }
    }
}

/// Splits off the first level; the rest is `None` after the last one.
fn split_level(levels: &Bytes) -> (Bytes, Option<Bytes>) {
    match levels.iter().position(|byte| *byte == b'/') {
        Some(at) => (levels.slice(..at), Some(levels.slice(at + 1..))),
        None => (levels.clone(), None),
    }
}

fn change_node<P: Places>(node: &mut Node<P>, levels: Option<&Bytes>, apply: &impl Fn(&mut P)) {
    let Some(levels) = levels else { return apply(&mut node.here) };
    let (level, rest) = split_level(levels);
    match &level[..] {
        b"#" => apply(&mut node.hash),
        b"+" => {
            let child = node.plus.get_or_insert_default();
            change_node(Arc::make_mut(child), rest.as_ref(), apply);
            if child.is_unused() {
                node.plus = None;
            }
        }
        _ => node.children.change(&level, |child| change_node(child, rest.as_ref(), apply)),
    }
}

/// `literal_only`: the topic begins with `$` and this is its first level.
fn collect<P: Places>(node: &Node<P>, levels: Option<&Bytes>, literal_only: bool, found: &mut P) {
    if !literal_only {
        found.extend(&node.hash);
    }
    let Some(levels) = levels else { return found.extend(&node.here) };
    let (level, rest) = split_level(levels);
    if let (Some(plus), false) = (&node.plus, literal_only) {
        collect(plus, rest.as_ref(), false, found);
    }
    if let Some(child) = node.children.get(&level) {
        collect(child, rest.as_ref(), false, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const APP: AppId = AppId(1);

    fn level() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "b", "", "$x", "+", "c"]).prop_map(str::to_owned)
    }

    fn filter() -> impl Strategy<Value = TopicFilter> {
        (prop::collection::vec(level(), 1..4), any::<bool>()).prop_filter_map("legal", |(l, h)| {
            let mut text = l.join("/");
            if h {
                text.push_str("/#");
            }
            TopicFilter::parse(text).ok()
        })
    }

    fn topic() -> impl Strategy<Value = TopicName> {
        prop::collection::vec(level(), 1..5)
            .prop_filter_map("legal", |l| TopicName::parse(l.join("/")).ok())
    }

    proptest! {
        #[test]
        fn shards_after_adds_and_removes_equal_linear_matching(
            filters in prop::collection::vec((filter(), 0u16..64, any::<bool>()), 0..40),
            topics in prop::collection::vec(topic(), 1..10),
        ) {
            let mut table = RouteTable::new();
            let mut model: Vec<(TopicFilter, u16)> = Vec::new();
            for (filter, shard, add) in &filters {
                if *add {
                    table.add(APP, filter, ShardId(*shard));
                    model.push((filter.clone(), *shard));
                } else if let Some((filter, shard)) = model.pop() {
                    table.remove(APP, &filter, ShardId(shard));
                    model.retain(|entry| *entry != (filter.clone(), shard));
                }
            }
            for topic in &topics {
                let mut want = ShardSet::default();
                for (filter, shard) in model.iter().filter(|(filter, _)| filter.matches(topic)) {
                    let _ = filter;
                    want.insert(ShardId(*shard));
                }
                prop_assert_eq!(table.places(APP, topic), want);
                prop_assert!(table.places(AppId(2), topic).is_empty());
            }
        }
    }

    const _: () = assert!(size_of::<Node<ShardSet>>() <= 96);

    #[test]
    fn table_with_many_children_when_they_go_one_by_one_then_matches_and_empties() {
        let mut table = RouteTable::new();
        let filter = |n: u16| TopicFilter::parse(format!("a/{n}/+")).unwrap();
        let topic = |n: u16| TopicName::parse(format!("a/{n}/x")).unwrap();
        for n in 0..40 {
            table.add(APP, &filter(n), ShardId(n));
        }
        for gone in 0..40 {
            for n in 0..40 {
                let found: Vec<_> = table.places(APP, &topic(n)).iter().collect();
                let want: Vec<_> = (n >= gone).then_some(ShardId(n)).into_iter().collect();
                assert_eq!(found, want);
            }
            table.remove(APP, &filter(gone), ShardId(gone));
        }
        assert!(table.wild.is_empty());
    }

    #[test]
    fn table_when_all_are_removed_is_empty() {
        let mut table = RouteTable::new();
        for text in ["a/+/c", "a/#", "#", "a/b"] {
            let filter = TopicFilter::parse(text).unwrap();
            table.add(APP, &filter, ShardId(3));
            table.remove(APP, &filter, ShardId(3));
        }
        assert!(table.exact.is_empty() && table.wild.is_empty());
    }
}
