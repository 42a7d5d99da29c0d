//! Which shared groups have members on this node: the table that its publishers read.
//!
//! - Owns: a structure-sharing table, one swap per change.
//! - Takes: groups that gain their first member here or lose their last. Gives: the groups of a topic.
//! - Bound: one entry per group.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::model::{
    id::{AppId, HashKey},
    route::{FilterTable, Places},
    topic::TopicFilter,
};

/// Which group: a keyed hash of (app, share name, filter).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKey(pub u128);

impl GroupKey {
    /// Names the group of `share` and `filter` in `app`.
    #[must_use]
    pub fn new(hash_key: &HashKey, app: AppId, share: &[u8], filter: &TopicFilter) -> Self {
        // A share name has no slash, so the two parts cannot run into each other.
        let mut name = Vec::with_capacity(share.len() + filter.as_bytes().len() + 1);
        name.extend_from_slice(share);
        name.push(b'/');
        name.extend_from_slice(filter.as_bytes());
        Self(hash_key.group(app, &name))
    }

    /// Returns which of `workers` is the home of the group.
    #[must_use]
    pub fn home(self, workers: usize) -> usize {
        usize::try_from(self.0 % workers.max(1) as u128).unwrap_or(0)
    }
}

/// Groups that match a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSet(pub(super) SmallVec<[GroupKey; 1]>);

impl GroupSet {
    /// Walks the groups.
    pub fn iter(&self) -> impl Iterator<Item = GroupKey> {
        self.0.iter().copied()
    }
}

impl Places for GroupSet {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn extend(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }
}

/// Which groups have members: read by every publisher, changed by the groups' homes.
#[derive(Default)]
pub struct GroupTable {
    writing: Mutex<()>,
    snapshot: ArcSwap<FilterTable<GroupSet>>,
}

impl GroupTable {
    /// Returns the present table.
    #[must_use]
    pub fn load(&self) -> arc_swap::Guard<Arc<FilterTable<GroupSet>>> {
        self.snapshot.load()
    }

    pub(super) fn change(&self, app: AppId, filter: &TopicFilter, apply: impl Fn(&mut GroupSet)) {
        let _writing = self.writing.lock();
        let mut table = FilterTable::clone(&self.snapshot.load());
        table.change(app, filter, apply);
        self.snapshot.store(Arc::new(table));
    }
}
