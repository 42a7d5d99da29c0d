//! The durable routes of the shards that are led here: what the directory must know before a SUBACK.
//!
//! - Owns: per led shard a book of the routes that are changing.
//! - Takes: `FilterAdded` and `FilterRemoved` on the cluster's threads, inside `apply`; changes of leadership;
//!   `ensure` of connections on any node. Gives: proposals to the meta group, one at a time per shard.
//! - Bound: an entry per filter that is changing; after a change of leader one per filter of the shard, as long
//!   as it is compared with the directory. Nothing while the node is alone.
//! - Fence: a leader proposes for its term. The next one reports its own term first, and from then on nothing
//!   of the one before is taken.
//! - Source: ARCHITECTURE.md "Routes between nodes"; NO-LOSS.
//!
//! ```text
//! leads ─► report the term ─► compare the shard's filters with the directory ─► ready
//! facts ─► book ─► propose ─► barrier ─► `ensure` answers ─► SUBACK
//! ```

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use ahash::AHashSet;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hongqiao_cluster::id::ShardId;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{
    live_routes::millis,
    meta::{Meta, MetaError, RouteChange},
    route_book::{BookTerms, RouteBook, Step, Ticket},
};
use crate::{clock, limits, model::route_key};

/// Is called with every key of a page, between two entries of the shard's log.
pub type Visit = Box<dyn FnMut(Bytes) + Send>;

/// What the shards of this node tell of themselves.
pub trait Shards: Send + Sync + 'static {
    /// Returns the term in which this node leads a shard and has applied all before it.
    fn term(&self, shard: ShardId) -> Option<u64>;

    /// Waits until `term` says something else than `old`.
    fn term_changed(&self, shard: ShardId, old: Option<u64>) -> BoxFuture<'static, ()>;

    /// Visits the keys of filters and groups with durable subscribers from number `from` on; answers where to go on. An error:
    /// the shard is not led here any more.
    fn filters(
        &self,
        shard: ShardId,
        from: u32,
        visit: Visit,
    ) -> BoxFuture<'static, Result<Option<u32>, NotLed>>;
}

/// This node does not lead the shard, or has not led it long enough to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard is not led here")]
pub struct NotLed;

/// See the head of the file.
#[derive(Default)]
pub struct DurableRoutes {
    shards: Vec<Arc<Desk>>,
    meta: OnceLock<Arc<dyn Meta>>,
}

/// One shard.
struct Desk {
    shard: ShardId,
    inner: Arc<Mutex<Option<Led>>>,
    work: Notify,
    committed: Notify,
    began: Instant,
}

/// A shard that is led here.
struct Led {
    term: u64,
    /// The directory was compared with it.
    ready: bool,
    book: RouteBook,
    waiting: BTreeMap<Ticket, Vec<oneshot::Sender<()>>>,
}

/// The one holder of a shard's routes.
const SHARD: u8 = 0;

impl DurableRoutes {
    /// Prepares for `shards` shards.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        let desk = |shard| {
            Arc::new(Desk {
                shard: ShardId(shard),
                inner: Arc::default(),
                work: Notify::new(),
                committed: Notify::new(),
                began: clock::timer_now(),
            })
        };
        Self { shards: (0..shards).map(desk).collect(), meta: OnceLock::new() }
    }

    fn desk(&self, shard: ShardId) -> Option<&Arc<Desk>> {
        self.shards.get(usize::from(shard.0))
    }

    /// Notes the first durable subscriber of a filter, or member of a group.
    pub fn added(&self, shard: ShardId, key: &Bytes) {
        let Some(desk) = self.desk(shard) else { return };
        if let Some(led) = &mut *desk.inner.lock() {
            led.book.hold(key, SHARD);
            desk.work.notify_one();
        }
    }

    /// Notes that the last one is gone.
    pub fn removed(&self, shard: ShardId, key: &Bytes) {
        let Some(desk) = self.desk(shard) else { return };
        let now_ms = desk.now_ms();
        if let Some(led) = &mut *desk.inner.lock() {
            led.book.release(key, SHARD, now_ms);
            desk.work.notify_one();
        }
    }

    /// Waits until every node appends to the shard what matches these keys, which have subscribers there.
    /// There is no limit of time: the caller has one.
    ///
    /// # Errors
    /// [`NotLed`]: ask who leads it.
    pub async fn ensure(&self, shard: ShardId, keys: &[Bytes]) -> Result<(), NotLed> {
        let desk = self.desk(shard).ok_or(NotLed)?;
        loop {
            // Without a lease this node may not know of a new leader, nor the new leader of it.
            let has_lease = self.meta.get().is_some_and(|meta| meta.has_lease());
            let wait = {
                let mut inner = desk.inner.lock();
                let led = inner.as_mut().ok_or(NotLed)?;
                if has_lease && led.ready {
                    let last = keys.iter().filter_map(|key| led.book.ticket(key)).max();
                    let Some(last) = last.filter(|last| !led.book.is_settled(*last)) else {
                        return Ok(());
                    };
                    let (settled, wait) = oneshot::channel();
                    led.waiting.entry(last).or_default().push(settled);
                    Some(wait)
                } else {
                    None
                }
            };
            match wait {
                // An error: no longer led here.
                Some(wait) => wait.await.map_err(|_| NotLed)?,
                None => tokio::time::sleep(limits::LEASE_LOOK).await,
            }
        }
    }

    /// Returns how many keys are changing.
    #[must_use]
    pub fn len(&self) -> usize {
        let changing =
            |desk: &Arc<Desk>| desk.inner.lock().as_ref().map_or(0, |led| led.book.len());
        self.shards.iter().map(changing).sum()
    }

    /// Tells whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks after the routes of one shard, for as long as the node runs.
    pub async fn run(
        self: Arc<Self>,
        shard: ShardId,
        meta: Arc<dyn Meta>,
        shards: Arc<dyn Shards>,
    ) {
        let Some(desk) = self.desk(shard).map(Arc::clone) else { return };
        let mut changed = meta.changed();
        while meta.standing().alone {
            if changed.changed().await.is_err() {
                return;
            }
        }
        let _ = self.meta.set(Arc::clone(&meta));
        loop {
            let Some(term) = shards.term(shard) else {
                shards.term_changed(shard, None).await;
                continue;
            };
            tokio::select! {
                () = shards.term_changed(shard, Some(term)) => {}
                () = desk.lead(term, &*meta, &*shards) => {}
            }
            // Who waits learns that it must ask elsewhere.
            *desk.inner.lock() = None;
        }
    }
}

impl Desk {
    /// Keeps the directory up to date with a shard, until it is not led here any more.
    async fn lead(&self, term: u64, meta: &dyn Meta, shards: &dyn Shards) {
        let book = RouteBook::new(BookTerms {
            step_keys_max: limits::ROUTE_STEP_KEYS_MAX,
            step_bytes_max: limits::ROUTE_STEP_BYTES_MAX,
            linger_ms: millis(limits::ROUTE_LINGER),
            retry_ms: millis(limits::ROUTE_RETRY),
            forgetful: true,
        });
        // From here on facts are noted; what was there before is read below.
        *self.inner.lock() = Some(Led { term, ready: false, book, waiting: BTreeMap::new() });
        let shard = self.shard;
        let index = loop {
            match meta.propose(RouteChange::Led { shard, term }).await {
                Ok(index) => break index,
                // If another one leads by now, leadership will tell.
                Err(error) => self.pause("leadership is not reported", error).await,
            }
        };
        // What an earlier leader added may be known to some nodes only.
        meta.barrier(index).await;
        while self.compare(meta, shards).await.is_err() {
            tokio::time::sleep(limits::ROUTE_RETRY).await;
        }
        tokio::join!(self.propose(term, meta), self.settle(meta));
    }

    /// Notes what the directory lacks of the shard's filters, and what it has too much.
    async fn compare(&self, meta: &dyn Meta, shards: &dyn Shards) -> Result<(), NotLed> {
        let there: AHashSet<Bytes> = meta.routes_of(self.shard).await.into_iter().collect();
        let there = Arc::new(Mutex::new(there));
        let mut next = Some(0);
        while let Some(from) = next {
            next = shards.filters(self.shard, from, self.visit(&there)).await?;
        }
        let now_ms = self.now_ms();
        let mut inner = self.inner.lock();
        let led = inner.as_mut().ok_or(NotLed)?;
        let mut there = there.lock();
        if !there.remove(&route_key::ALL_ROUTED) {
            // Behind all others: whoever sees it sees these.
            led.book.hold(&route_key::ALL_ROUTED, SHARD);
        }
        for key in there.drain() {
            led.book.forsake(&key, now_ms.saturating_add(millis(limits::ROUTE_LINGER)));
        }
        led.ready = true;
        tracing::debug!(
            shard = self.shard.0,
            term = led.term,
            changing = led.book.len(),
            "routes of the shard are compared"
        );
        Ok(())
    }

    /// Takes each filter of the shard out of `there`, or notes that it is to be added. Runs between two
    /// entries of the shard, as facts do: so what a fact says later is later.
    fn visit(&self, there: &Arc<Mutex<AHashSet<Bytes>>>) -> Visit {
        let (there, inner) = (Arc::clone(there), Arc::clone(&self.inner));
        Box::new(move |key| {
            let is_there = there.lock().remove(&key);
            if let Some(led) = &mut *inner.lock()
                && (!is_there || led.book.knows(&key))
            {
                led.book.hold(&key, SHARD);
            }
        })
    }

    async fn propose(&self, term: u64, meta: &dyn Meta) {
        loop {
            let (step, due_ms) = {
                let mut inner = self.inner.lock();
                let Some(led) = inner.as_mut() else { return };
                (led.book.step(self.now_ms()), led.book.next_due_ms())
            };
            let Some(step) = step else {
                let rest_ms = due_ms.map(|due_ms| due_ms.saturating_sub(self.now_ms()).max(1));
                let rest = rest_ms.map_or(limits::ROUTE_LINGER, Duration::from_millis);
                // Whoever comes meanwhile is noted: the step is asked for again.
                let _ = tokio::time::timeout(rest, self.work.notified()).await;
                continue;
            };
            let shard = self.shard;
            let change = match step {
                Step::Add(keys) => RouteChange::AddDurable { shard, term, keys },
                Step::Remove(keys) => RouteChange::RemoveDurable { shard, term, keys },
            };
            let outcome = meta.propose(change).await;
            {
                let mut inner = self.inner.lock();
                let Some(led) = inner.as_mut() else { return };
                match outcome {
                    Ok(index) => led.book.done(index),
                    Err(_) => {
                        led.book.failed(self.now_ms());
                        led.forget_gone();
                    }
                }
            }
            self.committed.notify_one();
            if let Err(error) = outcome {
                self.pause("durable routes are not committed", error).await;
            }
        }
    }

    async fn settle(&self, meta: &dyn Meta) {
        loop {
            let index = self.inner.lock().as_ref().and_then(|led| led.book.to_settle());
            let Some(index) = index else {
                self.committed.notified().await;
                continue;
            };
            let passed = tokio::time::timeout(limits::ROUTE_WAIT, meta.barrier(index)).await;
            let mut inner = self.inner.lock();
            let Some(led) = inner.as_mut() else { return };
            match passed {
                Ok(()) => led.settle(index),
                Err(_) => led.forget_gone(),
            }
        }
    }

    async fn pause(&self, what: &str, error: MetaError) {
        tracing::debug!(shard = self.shard.0, %error, "{what}");
        tokio::time::sleep(limits::ROUTE_RETRY).await;
    }

    fn now_ms(&self) -> u64 {
        millis(self.began.elapsed())
    }
}

impl Led {
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

#[cfg(test)]
mod tests;
