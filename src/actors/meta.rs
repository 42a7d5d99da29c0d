//! The meta group as routes need it: proposals, barriers, what a node knows of itself.
//!
//! - Owns: the trait [`Meta`]; a double in tests.
//! - Takes: changes of routes. Gives: the index at which they were committed.
//! - Bound: one proposal of routes per place is under way; who proposes waits.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hongqiao_cluster::id::ShardId;
use tokio::sync::watch;

/// A change of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// This node has live subscribers for these keys.
    AddLive {
        /// The node's.
        incarnation: u64,
        /// At most `limits::ROUTE_STEP_KEYS_MAX`.
        keys: Vec<Bytes>,
    },
    /// It has none any more.
    RemoveLive {
        /// The node's.
        incarnation: u64,
        /// As above.
        keys: Vec<Bytes>,
    },
    /// All live routes of this node are in the directory.
    Complete {
        /// The node's.
        incarnation: u64,
    },
    /// This node leads a shard.
    Led {
        /// Which.
        shard: ShardId,
        /// Since.
        term: u64,
    },
    /// A shard has durable subscribers for these keys.
    AddDurable {
        /// Which.
        shard: ShardId,
        /// In which it is led here.
        term: u64,
        /// As above.
        keys: Vec<Bytes>,
    },
    /// It has none any more.
    RemoveDurable {
        /// Which.
        shard: ShardId,
        /// In which it is led here.
        term: u64,
        /// As above.
        keys: Vec<Bytes>,
    },
}

/// Why a change is not known to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// A newer incarnation of the node, or term of the shard, is known: this one may change nothing.
    #[error("a newer incarnation or term is known")]
    Fenced,
    /// It was not committed, or nobody knows; it may be proposed again.
    #[error("the meta group did not answer")]
    Unavailable,
}

/// What a node knows of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// There is no other member.
    pub alone: bool,
    /// The node's incarnation, if the directory has it as up.
    pub incarnation: Option<u64>,
}

/// See the head of the file.
pub trait Meta: Send + Sync + 'static {
    /// Commits a change; the index is that of the commit.
    fn propose(&self, change: RouteChange) -> BoxFuture<'static, Result<u64, MetaError>>;

    /// Waits until every node that may act has what was committed up to `index`.
    fn barrier(&self, index: u64) -> BoxFuture<'static, ()>;

    /// Tells whether this node's directory is as new as acknowledged subscriptions need it to be.
    fn has_lease(&self) -> bool;

    /// Returns what the node knows of itself.
    fn standing(&self) -> Standing;

    /// Changes with the directory.
    fn changed(&self) -> watch::Receiver<u64>;

    /// Returns all keys at which a shard stands.
    fn routes_of(&self, shard: ShardId) -> BoxFuture<'static, Vec<Bytes>>;
}

/// The meta group of a node that is alone for ever.
#[derive(Clone, Copy, Debug)]
pub struct NoMeta;

impl Meta for NoMeta {
    fn propose(&self, _change: RouteChange) -> BoxFuture<'static, Result<u64, MetaError>> {
        Box::pin(async { Err(MetaError::Unavailable) })
    }

    fn barrier(&self, _index: u64) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }

    fn has_lease(&self) -> bool {
        true
    }

    fn standing(&self) -> Standing {
        Standing { alone: true, incarnation: None }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    fn routes_of(&self, _shard: ShardId) -> BoxFuture<'static, Vec<Bytes>> {
        Box::pin(async { Vec::new() })
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! A meta group whose answers the test decides.

    use std::{
        collections::{BTreeMap, BTreeSet},
        sync::Arc,
    };

    use parking_lot::Mutex;

    use super::*;

    #[derive(Default)]
    struct State {
        standing: Standing,
        no_lease: bool,
        /// Proposals are not committed.
        no_quorum: bool,
        /// Barriers do not pass.
        behind: bool,
        index: u64,
        incarnation: u64,
        live: BTreeSet<Bytes>,
        complete: bool,
        terms: BTreeMap<ShardId, u64>,
        durable: BTreeMap<ShardId, BTreeSet<Bytes>>,
        changes: Vec<RouteChange>,
    }

    pub(crate) struct FakeMeta {
        state: Mutex<State>,
        changed: watch::Sender<u64>,
    }

    impl FakeMeta {
        pub(crate) fn alone() -> Arc<Self> {
            let standing = Standing { alone: true, incarnation: Some(1) };
            let state = State { standing, incarnation: 1, ..State::default() };
            Arc::new(Self { state: Mutex::new(state), changed: watch::channel(0).0 })
        }

        pub(crate) fn in_company() -> Arc<Self> {
            let meta = Self::alone();
            meta.get_company();
            meta
        }

        fn change(&self, change: impl FnOnce(&mut State)) {
            change(&mut self.state.lock());
            self.changed.send_modify(|version| *version += 1);
        }

        pub(crate) fn get_company(&self) {
            self.change(|state| state.standing.alone = false);
        }

        pub(crate) fn set_lease(&self, has: bool) {
            self.change(|state| state.no_lease = !has);
        }

        pub(crate) fn set_quorum(&self, has: bool) {
            self.change(|state| state.no_quorum = !has);
        }

        pub(crate) fn set_behind(&self, behind: bool) {
            self.change(|state| state.behind = behind);
        }

        /// The node is declared down; `up` gives it its next incarnation.
        pub(crate) fn declare_down(&self) {
            self.change(|state| {
                state.standing.incarnation = None;
                state.live.clear();
                state.complete = false;
            });
        }

        pub(crate) fn declare_up(&self) {
            self.change(|state| {
                state.incarnation += 1;
                state.standing.incarnation = Some(state.incarnation);
            });
        }

        /// Puts a route of a shard there that an earlier leader left.
        pub(crate) fn leave_behind(&self, shard: ShardId, key: Bytes) {
            self.change(|state| {
                state.durable.entry(shard).or_default().insert(key);
            });
        }

        /// Another node leads the shard since `term`.
        pub(crate) fn led_elsewhere(&self, shard: ShardId, term: u64) {
            self.change(|state| {
                state.terms.insert(shard, term);
            });
        }

        pub(crate) fn live(&self) -> BTreeSet<Bytes> {
            self.state.lock().live.clone()
        }

        pub(crate) fn durable(&self, shard: ShardId) -> BTreeSet<Bytes> {
            self.state.lock().durable.get(&shard).cloned().unwrap_or_default()
        }

        pub(crate) fn is_complete(&self) -> bool {
            self.state.lock().complete
        }

        pub(crate) fn changes(&self) -> usize {
            self.state.lock().changes.len()
        }
    }

    impl State {
        fn take(&mut self, change: RouteChange) -> Result<u64, MetaError> {
            use RouteChange as Change;
            if self.no_quorum {
                return Err(MetaError::Unavailable);
            }
            let fence = |is_new: bool| if is_new { Ok(()) } else { Err(MetaError::Fenced) };
            match change.clone() {
                Change::AddLive { incarnation, keys } => {
                    fence(self.standing.incarnation == Some(incarnation))?;
                    self.live.extend(keys);
                }
                Change::RemoveLive { incarnation, keys } => {
                    fence(self.standing.incarnation == Some(incarnation))?;
                    self.live.retain(|key| !keys.contains(key));
                }
                Change::Complete { incarnation } => {
                    fence(self.standing.incarnation == Some(incarnation))?;
                    self.complete = true;
                }
                Change::Led { shard, term } => {
                    let known = self.terms.entry(shard).or_default();
                    fence(term >= *known)?;
                    *known = term;
                }
                Change::AddDurable { shard, term, keys } => {
                    fence(self.terms.get(&shard) == Some(&term))?;
                    self.durable.entry(shard).or_default().extend(keys);
                }
                Change::RemoveDurable { shard, term, keys } => {
                    fence(self.terms.get(&shard) == Some(&term))?;
                    let routes = self.durable.entry(shard).or_default();
                    routes.retain(|key| !keys.contains(key));
                }
            }
            self.index += 1;
            self.changes.push(change);
            Ok(self.index)
        }
    }

    impl Meta for Arc<FakeMeta> {
        fn propose(&self, change: RouteChange) -> BoxFuture<'static, Result<u64, MetaError>> {
            let this = Self::clone(self);
            Box::pin(async move {
                tokio::task::yield_now().await;
                let outcome = this.state.lock().take(change);
                this.changed.send_modify(|version| *version += 1);
                outcome
            })
        }

        fn barrier(&self, _index: u64) -> BoxFuture<'static, ()> {
            let mut changed = self.changed.subscribe();
            let this = Self::clone(self);
            Box::pin(async move {
                while this.state.lock().behind {
                    let _ = changed.changed().await;
                }
            })
        }

        fn has_lease(&self) -> bool {
            !self.state.lock().no_lease
        }

        fn standing(&self) -> Standing {
            self.state.lock().standing
        }

        fn changed(&self) -> watch::Receiver<u64> {
            self.changed.subscribe()
        }

        fn routes_of(&self, shard: ShardId) -> BoxFuture<'static, Vec<Bytes>> {
            let routes = self.durable(shard).into_iter().collect();
            Box::pin(async move { routes })
        }
    }
}
