//! Which filters have live subscribers on this node, and whether the other nodes know it.
//!
//! - Owns: the book of the node's live routes, filled by the topic routers of all workers.
//! - Takes: first and last subscribers of a filter per worker. Gives: proposals to the meta group, one at a
//!   time, batched; to connections the moment from which every node sends what matches (before SUBACK).
//! - Bound: an entry per distinct filter, none while the node is alone; who waits gives up after
//!   `limits::ROUTE_WAIT`.
//! - Incarnations: a node that was declared down has lost its routes; it proposes all of them again, and nobody
//!   gets a SUBACK before. Until `Complete` the others send it everything.
//! - Source: ARCHITECTURE.md "Routes between nodes".
//!
//! ```text
//! routers ─ hold, release ─► book ─► propose ─► barrier ─► who waits for SUBACK
//! ```

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use actix::{Message, Recipient};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::Instant,
};

use super::{
    meta::{Meta, MetaError, RouteChange},
    route_book::{BookTerms, RouteBook, Step, Ticket},
};
use crate::{clock, limits};

/// Sent to a router when the node is not alone any more: from now on it tells of first and last
/// subscribers. Holds the next filters from number `from` on; replies where to go on.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Option<u32>")]
pub struct TellFilters {
    /// Number of the first filter.
    pub from: u32,
}

/// Sent to the shared groups of a worker when the node is not alone any more: from now on they tell of
/// first and last connected members.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct TellGroups;

/// Who knows live subscribers; each list by worker.
pub struct Tellers {
    /// Of filters.
    pub routers: Vec<Recipient<TellFilters>>,
    /// Of shared groups.
    pub groups: Vec<Recipient<TellGroups>>,
}

/// See the head of the file. Shared by the workers.
pub struct LiveRoutes {
    inner: Mutex<Inner>,
    /// Set when the node gets company.
    meta: OnceLock<Arc<dyn Meta>>,
    work: Notify,
    committed: Notify,
    began: Instant,
}

struct Inner {
    book: RouteBook,
    /// The incarnation for which the routes are proposed.
    place: Option<u64>,
    /// By what they wait for.
    waiting: BTreeMap<Ticket, Vec<oneshot::Sender<()>>>,
}

impl Default for LiveRoutes {
    fn default() -> Self {
        let book = RouteBook::new(BookTerms {
            step_keys_max: limits::ROUTE_STEP_KEYS_MAX,
            step_bytes_max: limits::ROUTE_STEP_BYTES_MAX,
            linger_ms: millis(limits::ROUTE_LINGER),
            retry_ms: millis(limits::ROUTE_RETRY),
            forgetful: false,
        });
        let inner = Mutex::new(Inner { book, place: None, waiting: BTreeMap::new() });
        Self {
            inner,
            meta: OnceLock::new(),
            work: Notify::new(),
            committed: Notify::new(),
            began: clock::timer_now(),
        }
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl LiveRoutes {
    /// Notes that `worker` has the first subscriber of these routes.
    pub fn hold(&self, worker: u8, keys: impl IntoIterator<Item = Bytes>) {
        let mut inner = self.inner.lock();
        for key in keys {
            inner.book.hold(&key, worker);
        }
        drop(inner);
        self.work.notify_one();
    }

    /// Notes that `worker` lost the last subscriber of a route.
    pub fn release(&self, worker: u8, key: &Bytes) {
        let now_ms = self.now_ms();
        self.inner.lock().book.release(key, worker, now_ms);
        self.work.notify_one();
    }

    /// Waits until all nodes send here what these keys of routes match, which have subscribers; `None` if they do.
    /// The answer says per filter whether they do: after `limits::ROUTE_WAIT` it may be no.
    pub fn routed(
        self: &Arc<Self>,
        keys: Vec<Bytes>,
    ) -> Option<impl Future<Output = Vec<bool>> + Send + use<>> {
        let meta = Arc::clone(self.meta.get()?);
        if keys.is_empty() || (self.counts(&*meta) && self.inner.lock().unsettled(&keys).is_none())
        {
            return None;
        }
        let this = Arc::clone(self);
        Some(async move {
            let settled = tokio::time::timeout(limits::ROUTE_WAIT, this.all_routed(&*meta, &keys));
            if settled.await.is_ok() {
                return vec![true; keys.len()];
            }
            let counts = this.counts(&*meta);
            let inner = this.inner.lock();
            let settled = |key| counts && inner.unsettled(std::slice::from_ref(key)).is_none();
            keys.iter().map(settled).collect()
        })
    }

    /// Tells whether what the book says is what the others have: a node without a lease may have been
    /// declared down, and its routes with it.
    fn counts(&self, meta: &dyn Meta) -> bool {
        let place = self.inner.lock().place;
        place.is_some() && meta.has_lease() && meta.standing().incarnation == place
    }

    async fn all_routed(&self, meta: &dyn Meta, keys: &[Bytes]) {
        loop {
            if !self.counts(meta) {
                tokio::time::sleep(limits::LEASE_LOOK).await;
                continue;
            }
            let wait = {
                let mut inner = self.inner.lock();
                let Some(last) = inner.unsettled(keys) else { return };
                let (settled, wait) = oneshot::channel();
                inner.waiting.entry(last).or_default().push(settled);
                wait
            };
            let _ = wait.await;
        }
    }

    /// Returns how many filters are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.lock().book.len()
    }

    /// Tells whether none is known, as of a node that is alone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Proposes what the routers tell, for as long as the node runs.
    pub async fn run(self: Arc<Self>, meta: Arc<dyn Meta>, tellers: Tellers) {
        let mut changed = meta.changed();
        while meta.standing().alone {
            if changed.changed().await.is_err() {
                return;
            }
        }
        let _ = self.meta.set(Arc::clone(&meta));
        if walk(&tellers).await.is_none() {
            return;
        }
        let settling = tokio::spawn(Arc::clone(&self).settle(Arc::clone(&meta)));
        self.propose(&*meta, &mut changed).await;
        settling.abort();
    }

    async fn propose(&self, meta: &dyn Meta, changed: &mut watch::Receiver<u64>) {
        let mut complete_after = Some(self.inner.lock().book.last());
        loop {
            let Some(incarnation) = meta.standing().incarnation else {
                // Declared down, or not known yet: a new incarnation will come.
                if changed.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if let Some(last) = self.stand_as(incarnation) {
                complete_after = Some(last);
            }
            let is_due = |inner: &Inner| complete_after.is_some_and(|t| inner.book.is_added(t));
            let step = {
                let mut inner = self.inner.lock();
                if is_due(&inner) { None } else { Some(inner.book.step(self.now_ms())) }
            };
            let outcome = match step {
                None => {
                    let outcome = meta.propose(RouteChange::Complete { incarnation }).await;
                    if outcome.is_ok() {
                        complete_after = None;
                    }
                    outcome.map(|_| ())
                }
                Some(Some(step)) => self.perform(meta, incarnation, step).await,
                Some(None) => {
                    if self.rest(changed).await.is_none() {
                        return;
                    }
                    Ok(())
                }
            };
            if outcome.is_err() {
                // Fenced: the directory will tell the new incarnation.
                tokio::time::sleep(limits::ROUTE_RETRY).await;
            }
        }
    }

    async fn perform(
        &self,
        meta: &dyn Meta,
        incarnation: u64,
        step: Step,
    ) -> Result<(), MetaError> {
        let change = match step {
            Step::Add(keys) => RouteChange::AddLive { incarnation, keys },
            Step::Remove(keys) => RouteChange::RemoveLive { incarnation, keys },
        };
        let outcome = meta.propose(change).await;
        let mut inner = self.inner.lock();
        match outcome {
            Ok(index) => inner.book.done(index),
            Err(error) => {
                tracing::debug!(%error, "live routes are not committed");
                inner.book.failed(self.now_ms());
                inner.forget_gone();
            }
        }
        drop(inner);
        self.committed.notify_one();
        outcome.map(|_| ())
    }

    /// Waits for something to do; `None` when the cluster has stopped.
    async fn rest(&self, changed: &mut watch::Receiver<u64>) -> Option<()> {
        let due_ms = self.inner.lock().book.next_due_ms();
        let rest_ms = due_ms.map(|due_ms| due_ms.saturating_sub(self.now_ms()).max(1));
        let rest = rest_ms.map_or(limits::ROUTE_LINGER, Duration::from_millis);
        tokio::select! {
            () = self.work.notified() => {}
            told = changed.changed() => told.ok()?,
            () = tokio::time::sleep(rest) => {}
        }
        Some(())
    }

    /// Proposes for this incarnation from now on; if it is another one, all routes again, up to the
    /// addition that is returned.
    fn stand_as(&self, incarnation: u64) -> Option<Ticket> {
        let mut inner = self.inner.lock();
        let old = inner.place.replace(incarnation);
        if old.is_none_or(|old| old == incarnation) {
            return None;
        }
        tracing::info!(
            incarnation,
            routes = inner.book.len(),
            "this node was declared down: its routes are proposed again"
        );
        inner.book.begin_again();
        // Whoever waits looks again at what it waits for.
        inner.waiting.clear();
        Some(inner.book.last())
    }

    /// Passes barriers, one at a time, and tells who waited for them.
    async fn settle(self: Arc<Self>, meta: Arc<dyn Meta>) {
        loop {
            let Some(index) = self.to_settle() else {
                self.committed.notified().await;
                continue;
            };
            let passed = tokio::time::timeout(limits::ROUTE_WAIT, meta.barrier(index)).await;
            let mut inner = self.inner.lock();
            match passed {
                Ok(()) => inner.settle(index),
                Err(_) => inner.forget_gone(),
            }
        }
    }

    fn to_settle(&self) -> Option<u64> {
        self.inner.lock().book.to_settle()
    }

    fn now_ms(&self) -> u64 {
        millis(self.began.elapsed())
    }
}

impl Inner {
    /// Returns the last addition that must be in force before these keys are; `None`: they are.
    fn unsettled(&self, keys: &[Bytes]) -> Option<Ticket> {
        let last = keys.iter().filter_map(|key| self.book.ticket(key)).max()?;
        (!self.book.is_settled(last)).then_some(last)
    }

    fn settle(&mut self, index: u64) {
        self.book.settle(index);
        while let Some(first) = self.waiting.first_entry()
            && self.book.is_settled(*first.key())
        {
            for waiter in first.remove() {
                // Whoever does not wait any more has given up.
                let _ = waiter.send(());
            }
        }
    }

    /// Forgets those who do not wait any more.
    fn forget_gone(&mut self) {
        self.waiting.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            !waiters.is_empty()
        });
    }
}

/// Has everybody tell of what he has; `None` if one has ended.
async fn walk(tellers: &Tellers) -> Option<()> {
    for groups in &tellers.groups {
        groups.send(TellGroups).await.ok()?;
    }
    for router in &tellers.routers {
        let mut next = Some(0);
        while let Some(from) = next {
            next = router.send(TellFilters { from }).await.ok()?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests;
