//! Which durable sessions of this shard are members of which shared groups.
//!
//! - Owns: per group its members with QoS 1 or 2; what can be rebuilt from the subscriptions.
//! - Takes: shared subscriptions that come and go. Gives: `GroupAdded` with a group's first member here,
//!   `GroupRemoved` with its last; pages of members.
//! - Bound: one entry per shared subscription. Numbers of groups stay while they exist, so that a walk in
//!   pages misses none.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use slab::Slab;

use super::{Entry, State};
use crate::{
    model::{
        id::{AppId, SessionKey},
        message::Qos,
        route_key,
        topic::TopicFilter,
    },
    shard::{command::Fact, record::SubscriptionRecord},
};

struct Group {
    /// As the directory of the cluster calls it.
    key: Bytes,
    members: BTreeSet<SessionKey>,
}

/// See the head of the file.
#[derive(Default)]
pub(in crate::shard) struct ShareGroups {
    list: Slab<Group>,
    by_key: BTreeMap<Bytes, usize>,
}

impl ShareGroups {
    /// Adds a member; `true`: it is the group's first.
    fn add(&mut self, key: Bytes, session: SessionKey) -> bool {
        if let Some(&at) = self.by_key.get(&key) {
            self.list[at].members.insert(session);
            return false;
        }
        let group = Group { key: key.clone(), members: BTreeSet::from([session]) };
        self.by_key.insert(key, self.list.insert(group));
        true
    }

    /// Takes a member out; `true`: it was the group's last.
    fn remove(&mut self, key: &Bytes, session: SessionKey) -> bool {
        let Some(&at) = self.by_key.get(key) else { return false };
        let members = &mut self.list[at].members;
        if !members.remove(&session) || !members.is_empty() {
            return false;
        }
        self.list.remove(at);
        self.by_key.remove(key);
        true
    }

    /// Lists `limit` members of a group after `after`.
    pub(in crate::shard) fn members(
        &self,
        key: &Bytes,
        after: Option<SessionKey>,
        limit: usize,
    ) -> Vec<SessionKey> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let group = self.by_key.get(key).and_then(|at| self.list.get(*at));
        let members = group.map(|group| group.members.range((from, std::ops::Bound::Unbounded)));
        members.into_iter().flatten().take(limit).copied().collect()
    }

    /// Visits the keys of `limit` groups by number from `from` on; returns where to go on.
    pub(in crate::shard) fn visit(
        &self,
        from: usize,
        limit: usize,
        visit: &mut dyn FnMut(Bytes),
    ) -> Option<usize> {
        // Numbers that are free are passed over: there are at most as many as there ever were groups at a time.
        let end = from.saturating_add(limit).min(self.list.capacity());
        for at in from..end {
            if let Some(group) = self.list.get(at) {
                visit(group.key.clone());
            }
        }
        (end < self.list.capacity()).then_some(end)
    }

    /// Walks all keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.by_key.keys()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Takes a stored subscription.
    pub(super) fn load(&mut self, app: AppId, session: SessionKey, record: &SubscriptionRecord) {
        if let Some(key) = key_of(app, record) {
            self.add(key, session);
        }
    }
}

impl State {
    /// Notes that a subscription is stored, new or with other options.
    pub(super) fn note_share(&mut self, entry: &Entry<'_>, at: usize, record: &SubscriptionRecord) {
        let (app, session) = (self.sessions[at].app, self.sessions[at].key);
        if let Some(key) = key_of(app, record) {
            if self.groups.add(key.clone(), session) {
                (entry.tell)(Fact::GroupAdded { key });
            }
        } else if let Some(share) = &record.share {
            self.forget_share(entry, (app, session), (share, &record.filter));
        }
    }

    /// Notes that a shared subscription is gone, or takes no stored messages any more.
    pub(super) fn forget_share(
        &mut self,
        entry: &Entry<'_>,
        (app, session): (AppId, SessionKey),
        (share, filter): (&Bytes, &TopicFilter),
    ) {
        let key = route_key::of_group(app, share, filter.as_bytes());
        if self.groups.remove(&key, session) {
            (entry.tell)(Fact::GroupRemoved { key });
        }
    }
}

/// Returns the key of the group that stores messages for this subscription.
fn key_of(app: AppId, record: &SubscriptionRecord) -> Option<Bytes> {
    let share = record.share.as_ref().filter(|_| record.options.qos > Qos::AtMostOnce)?;
    Some(route_key::of_group(app, share, record.filter.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_when_members_come_and_go_tell_the_first_and_the_last() {
        let mut groups = ShareGroups::default();
        let key = Bytes::from_static(b"one");
        assert!(groups.add(key.clone(), SessionKey(1)));
        assert!(!groups.add(key.clone(), SessionKey(1)));
        assert!(!groups.add(key.clone(), SessionKey(2)));
        assert_eq!(groups.members(&key, None, 1), [SessionKey(1)]);
        assert_eq!(groups.members(&key, Some(SessionKey(1)), 9), [SessionKey(2)]);
        assert!(!groups.remove(&key, SessionKey(1)));
        assert!(!groups.remove(&key, SessionKey(1)));
        assert!(groups.remove(&key, SessionKey(2)));
        assert!(groups.is_empty() && groups.members(&key, None, 9).is_empty());
    }

    #[test]
    fn walk_in_pages_misses_no_group_that_was_there_all_the_time() {
        let mut groups = ShareGroups::default();
        let key = |number: u8| Bytes::from(vec![number]);
        (0..20).for_each(|number| assert!(groups.add(key(number), SessionKey(1))));
        let (mut seen, mut next, mut round) = (BTreeSet::new(), Some(0), 0);
        while let Some(from) = next {
            next = groups.visit(from, 3, &mut |key| assert!(seen.insert(key)));
            groups.remove(&key(round), SessionKey(1));
            groups.add(key(100 + round), SessionKey(1));
            round += 1;
        }
        assert!((7..20).all(|number| seen.contains(&key(number))), "{seen:?}");
    }
}
