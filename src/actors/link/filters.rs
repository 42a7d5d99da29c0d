//! Which of its thread's filters a link subscribed to, for the clean-up at its end.
//!
//! - Owns: the numbers: the first inline, the others in a box.
//! - Takes: changes from the router. Gives: all of them, once.
//! - Bound: filters per session, checked by the connection.

use smallvec::SmallVec;

use super::{Link, NO_FILTER};
use crate::{actors::socket::Socket, model::trie::FilterId};

impl Link<dyn Socket> {
    /// Notes a subscription. Called by the router.
    pub(in crate::actors) fn add_filter(&self, filter: FilterId) {
        if self.first_filter.get() == NO_FILTER {
            self.first_filter.set(filter.0);
            return;
        }
        let mut more = self.more_filters.take().unwrap_or_default();
        more.push(filter);
        self.more_filters.set(Some(more));
    }

    /// Forgets a subscription. Called by the router.
    pub(in crate::actors) fn remove_filter(&self, filter: FilterId) {
        let mut more = self.more_filters.take();
        if self.first_filter.get() == filter.0 {
            let next = more.as_mut().and_then(|more| more.pop());
            self.first_filter.set(next.map_or(NO_FILTER, |filter| filter.0));
        } else if let Some(more) = &mut more
            && let Some(at) = more.iter().position(|other| *other == filter)
        {
            more.swap_remove(at);
        }
        self.more_filters.set(more.filter(|more| !more.is_empty()));
    }

    /// Returns how many subscriptions the router keeps for this link.
    #[must_use]
    pub fn filters(&self) -> usize {
        let more = self.more_filters.take();
        let count = more.as_ref().map_or(0, |more| more.len());
        self.more_filters.set(more);
        count + usize::from(self.first_filter.get() != NO_FILTER)
    }

    /// Takes all subscriptions.
    pub(in crate::actors) fn take_filters(&self) -> SmallVec<[FilterId; 4]> {
        let mut filters = SmallVec::new();
        if self.first_filter.get() != NO_FILTER {
            filters.push(FilterId(self.first_filter.replace(NO_FILTER)));
        }
        filters.extend(self.more_filters.take().into_iter().flat_map(|more| more.into_iter()));
        filters
    }
}
