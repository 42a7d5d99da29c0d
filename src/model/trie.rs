//! Index of the topic filters of many apps: which of them match a topic.
//!
//! - Owns: the text of each distinct (app, filter) once, and a dense number for it.
//! - Takes: parsed filters and topics. Gives: [`FilterId`]s to index the caller's own tables with.
//! - Bound: memory is that of the filters; see the table. Matching visits a node at most once, and only
//!   nodes whose path matches a prefix of the topic: at most the smaller of 2^(levels + 1) and the
//!   number of levels in the app's own wildcard filters, whatever the filters look like. It allocates
//!   only for topics of more than `STACK_LEVELS` levels or more than eight matches.
//! - Order of the matches: that of the walk, the same for the same calls; the random hash keys (against
//!   chosen collisions) never show.
//! - Source: MQTT 5.0 section 4.7.
//!
//! | a filter of 20 bytes | bytes |
//! |---|---|
//! | slot: boxed slice | 16 |
//! | text with its app in front | 24 |
//! | hash table without wildcards: number and tag, filled 7/16 to 7/8 | 6 to 12 |
//! | with wildcards: per level that no other filter shares, a node, its label and its table entry | 45 + label |
//!
//! Measured as resident memory of a million (`benches/trie.rs`): 71 without, 157 with a wildcard.

use std::hash::{BuildHasher as _, Hasher as _};

use ahash::RandomState;
use hashbrown::{HashTable, hash_table::Entry};
use smallvec::SmallVec;

use super::{
    id::AppId,
    topic::{TopicFilter, TopicName},
};

mod levels;
mod slots;

use levels::Levels;
use slots::Slots;

/// Number of hash tables for exact filters; each grows on its own, so that no insert moves them all.
const TABLES: usize = 64;

/// The number of a filter in its [`FilterTrie`]: dense, and given again after removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterId(pub u32);

/// What [`FilterTrie::matches`] appends to.
pub type FoundFilters = SmallVec<[FilterId; 8]>;

/// The index; see the head of the file.
///
/// ```
/// # use hongqiao::model::{id::AppId, topic::{TopicFilter, TopicName}, trie::*};
/// # fn main() -> Result<(), hongqiao::model::topic::TopicError> {
/// let mut trie = FilterTrie::new();
/// let (id, new) = trie.insert(AppId(1), &TopicFilter::parse("room/+")?);
/// assert!(new);
/// let mut found = FoundFilters::new();
/// trie.matches(AppId(1), &TopicName::parse("room/7")?, &mut found);
/// assert_eq!(found[..], [id]);
/// # Ok(())
/// # }
/// ```
pub struct FilterTrie {
    slots: Slots,
    /// Filters without wildcard, by hash of (app, text).
    exact: Box<[HashTable<u32>]>,
    /// Filters with wildcards, level by level.
    levels: Levels,
    hash: RandomState,
}

impl FilterTrie {
    /// Makes an empty index.
    #[must_use]
    pub fn new() -> Self {
        Self {
            slots: Slots::default(),
            exact: (0..TABLES).map(|_| HashTable::new()).collect(),
            levels: Levels::default(),
            hash: RandomState::new(),
        }
    }

    /// Adds a filter, or finds it; `true` if it was not there.
    pub fn insert(&mut self, app: AppId, filter: &TopicFilter) -> (FilterId, bool) {
        let text = filter.as_bytes();
        if filter.has_wildcard() {
            let end = self.levels.insert(app, text);
            if let Some(id) = self.levels.filter(end) {
                return (FilterId(id), false);
            }
            let id = self.slots.insert(app, text);
            self.levels.set_filter(end, id);
            return (FilterId(id), true);
        }
        let hash = hash_of(&self.hash, app, text);
        let slots = &mut self.slots;
        let entry = self.exact[table_of(hash)].entry(
            hash,
            |&id| slots.is(id, app, text),
            |&id| slots.get(id).map_or(0, |(app, text)| hash_of(&self.hash, app, text)),
        );
        match entry {
            Entry::Occupied(entry) => (FilterId(*entry.get()), false),
            Entry::Vacant(entry) => {
                // The slot is filled after the table made room with the old slots.
                let entry = entry.insert(slots.next_id());
                let id = slots.insert(app, text);
                debug_assert_eq!(*entry.get(), id);
                (FilterId(id), true)
            }
        }
    }

    /// Finds a filter.
    #[must_use]
    pub fn get(&self, app: AppId, filter: &TopicFilter) -> Option<FilterId> {
        let text = filter.as_bytes();
        if filter.has_wildcard() {
            return self.levels.find(app, text).map(FilterId);
        }
        self.find_exact(app, text)
    }

    /// Removes a filter, and every level that only it used. A number that is not in use is ignored.
    pub fn remove(&mut self, id: FilterId) {
        let Some((app, text)) = self.slots.get(id.0) else { return };
        if is_wild(text) {
            self.levels.remove(app, text);
        } else {
            let hash = hash_of(&self.hash, app, text);
            let table = &mut self.exact[table_of(hash)];
            if let Ok(entry) = table.find_entry(hash, |&other| other == id.0) {
                entry.remove();
            }
            if table.capacity() > 64 && table.len() < table.capacity() / 4 {
                let (slots, hash) = (&self.slots, &self.hash);
                table.shrink_to(table.len() * 2, |&id| {
                    slots.get(id).map_or(0, |(app, text)| hash_of(hash, app, text))
                });
            }
        }
        self.slots.remove(id.0);
    }

    /// Returns the app and the text of a filter.
    #[must_use]
    pub fn filter(&self, id: FilterId) -> Option<(AppId, &str)> {
        let (app, text) = self.slots.get(id.0)?;
        Some((app, std::str::from_utf8(text).unwrap_or_default()))
    }

    /// Appends every filter of `app` that matches `topic`, each once.
    pub fn matches(&self, app: AppId, topic: &TopicName, found: &mut FoundFilters) {
        found.extend(self.find_exact(app, topic.as_bytes()));
        self.levels.matches(app, topic.as_bytes(), found);
    }

    /// Returns how many filters there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn find_exact(&self, app: AppId, text: &[u8]) -> Option<FilterId> {
        let hash = hash_of(&self.hash, app, text);
        let found = self.exact[table_of(hash)].find(hash, |&id| self.slots.is(id, app, text));
        found.map(|&id| FilterId(id))
    }
}

impl Default for FilterTrie {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for FilterTrie {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FilterTrie").field("len", &self.len()).finish_non_exhaustive()
    }
}

fn is_wild(text: &[u8]) -> bool {
    text.iter().any(|byte| matches!(byte, b'+' | b'#'))
}

fn hash_of(hash: &RandomState, number: AppId, text: &[u8]) -> u64 {
    let mut hasher = hash.build_hasher();
    hasher.write_u32(number.0);
    hasher.write(text);
    hasher.finish()
}

/// Takes bits that neither the bucket (low bits) nor the tag (top seven) of a table uses.
fn table_of(hash: u64) -> usize {
    usize::from((hash >> 48).to_le_bytes()[0]) % TABLES
}

#[cfg(test)]
mod tests;
