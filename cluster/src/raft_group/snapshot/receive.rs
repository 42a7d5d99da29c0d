//! Receives the snapshots that leaders send: stages the pieces, checks the whole, has it installed.
//!
//! - Owns: the staging file. Takes: offers, pieces, the wish to finish. Gives: how much is here, and the
//!   vote of the group once openraft has the snapshot.
//! - Bound: one snapshot at a time; one that nobody goes on with makes way after `IDLE_MAX`, or at once for
//!   another of its group. A disk that is full refuses.
//! - What is damaged is thrown away, said in the log, and asked for again.
//! - Source: own design.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use openraft::Snapshot;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{
    SnapshotData,
    file::{self, PIECE_BYTES},
    spool::stopping,
    wire::{Answer, Offer, Question},
};
use crate::{
    clock,
    id::NodeId,
    raft_group::{group::Group, types::Vote},
    runtime,
    storage::{
        health::Health,
        shelf::{Item, Kind, Shelf},
    },
    transport::{Class, PeerService, Served},
};

/// A snapshot that does not go on for so long makes way for another.
const IDLE_MAX: Duration = Duration::from_secs(15);

/// A group that can be sent a snapshot.
pub(crate) trait Member: Send + Sync + 'static {
    /// Returns the highest vote that it has seen; `None` once it has ended.
    fn vote(&self) -> Option<Vote>;
    /// Has what is in its install file installed; returns its vote then. `None` once it has ended.
    fn take(&self, vote: Vote, meta: file::Meta) -> BoxFuture<'static, Option<Vote>>;
}

impl Member for Group {
    fn vote(&self) -> Option<Vote> {
        self.is_open().then(|| self.raft.metrics().borrow().vote)
    }

    fn take(&self, vote: Vote, meta: file::Meta) -> BoxFuture<'static, Option<Vote>> {
        let raft = self.raft.clone();
        let snapshot = Snapshot { meta, snapshot: Box::new(SnapshotData::Installable) };
        async move { Some(raft.install_full_snapshot(vote, snapshot).await.ok()?.vote) }.boxed()
    }
}

/// What is being received.
struct Staging {
    from: NodeId,
    item: Item,
    offer: Offer,
    have: u64,
    touched: Instant,
}

#[derive(Default)]
struct State {
    staging: Option<Staging>,
    /// The last one that openraft has, for a sender that missed the answer.
    settled: Option<(u64, Vote)>,
}

/// Answers at `Desk::Snapshot`.
#[derive(Clone)]
pub(crate) struct Receiver(Arc<Shared>);

struct Shared {
    groups: Vec<Arc<dyn Member>>,
    shelf: Arc<dyn Shelf>,
    health: Arc<Health>,
    state: Arc<Mutex<State>>,
}

type Answered = Result<Answer, String>;

impl Receiver {
    pub(crate) fn new(
        groups: Vec<Arc<dyn Member>>,
        shelf: Arc<dyn Shelf>,
        health: Arc<Health>,
    ) -> Self {
        Self(Arc::new(Shared { groups, shelf, health, state: Arc::default() }))
    }
}

impl PeerService for Receiver {
    fn serve(&self, from: NodeId, _class: Class, body: Bytes) -> Served {
        let shared = self.0.clone();
        async move {
            let Some((group, question)) = Question::decode(body) else {
                tracing::warn!(from = from.0, "a piece of a snapshot came damaged");
                return Err("the question is damaged".to_owned());
            };
            let answer = match question {
                Question::Offer(offer) => shared.offered(from, group, offer).await,
                Question::Piece { number, offset, bytes } => {
                    shared.piece(number, offset, bytes).await
                }
                Question::Finish { number } => shared.finish(group, number).await,
            };
            answer.map(|answer| answer.encode())
        }
        .boxed()
    }
}

impl Shared {
    fn member(&self, group: u16) -> Result<&Arc<dyn Member>, String> {
        self.groups.get(usize::from(group)).ok_or_else(ended)
    }

    async fn offered(&self, from: NodeId, group: u16, offer: Offer) -> Answered {
        let vote = self.member(group)?.vote().ok_or_else(ended)?;
        if offer.vote.partial_cmp(&vote).is_none_or(std::cmp::Ordering::is_lt) {
            return Ok(Answer::Settled { vote });
        }
        let Ok(mut state) = self.state.clone().try_lock_owned() else { return Ok(Answer::Busy) };
        if let Some((number, vote)) = state.settled
            && number == offer.number
        {
            return Ok(Answer::Settled { vote });
        }
        let item = Item { kind: Kind::Staging, group };
        if let Some(staging) = &mut state.staging {
            let is_same = (staging.from, staging.item, staging.offer.number, staging.offer.digest)
                == (from, item, offer.number, offer.digest);
            if is_same {
                staging.offer = offer;
                staging.touched = clock::now();
                return Ok(Answer::Have { bytes: staging.have });
            }
            let idle = clock::now().saturating_duration_since(staging.touched);
            if staging.item != item && idle < IDLE_MAX {
                return Ok(Answer::Busy);
            }
        }
        if let Some(why) = self.health.state().refusal() {
            return Err(why.to_string());
        }
        self.drop_staging(&mut state).await?;
        self.tell(move |shelf| shelf.create(item)).await?;
        tracing::debug!(
            group = item.group,
            from = from.0,
            bytes = offer.bytes,
            "receives a snapshot"
        );
        state.staging = Some(Staging { from, item, offer, have: 0, touched: clock::now() });
        Ok(Answer::Have { bytes: 0 })
    }

    async fn piece(&self, number: u64, offset: u64, bytes: Bytes) -> Answered {
        // Pieces wait for their turn here in the order in which they came.
        let mut state = self.state.clone().lock_owned().await;
        let Some(staging) = state.staging.as_mut().filter(|s| s.offer.number == number) else {
            return Ok(Answer::Unknown);
        };
        staging.touched = clock::now();
        let end = offset.saturating_add(bytes.len() as u64);
        if offset != staging.have || end > staging.offer.bytes {
            return Ok(Answer::Have { bytes: staging.have });
        }
        let item = staging.item;
        if let Err(why) = self.tell(move |shelf| shelf.write(item, offset, &bytes)).await {
            // A disk that is full gets its space back.
            self.drop_staging(&mut state).await?;
            return Err(why);
        }
        staging_of(&mut state, end)
    }

    async fn finish(self: Arc<Self>, group: u16, number: u64) -> Answered {
        let Ok(state) = self.state.clone().try_lock_owned() else { return Ok(Answer::Installing) };
        match &state.staging {
            _ if state.settled.is_some_and(|(settled, _)| settled == number) => {
                let vote = state.settled.map(|(_, vote)| vote).unwrap_or_default();
                return Ok(Answer::Settled { vote });
            }
            Some(staging) if staging.offer.number != number || staging.item.group != group => {
                return Ok(Answer::Unknown);
            }
            Some(staging) if staging.have < staging.offer.bytes => {
                return Ok(Answer::Have { bytes: staging.have });
            }
            Some(_) => {}
            None => return Ok(Answer::Unknown),
        }
        // It goes on when the sender has stopped waiting.
        let installing = tokio::spawn(async move { self.install(state).await });
        installing.await.unwrap_or_else(|_| Err("the node is stopping".to_owned()))
    }

    async fn install(&self, mut state: OwnedMutexGuard<State>) -> Answered {
        let Some(Staging { item, offer, from, .. }) = &state.staging else {
            return Ok(Answer::Unknown);
        };
        let (item, offer, from) = (*item, offer.clone(), *from);
        let promised = (offer.meta.clone(), offer.bytes, offer.digest);
        match self.aside(move |shelf| promote(shelf, item, &promised)).await {
            Ok(()) => {}
            Err(why) if why.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(
                    group = item.group,
                    from = from.0,
                    %why,
                    "a snapshot came damaged; it is thrown away and asked for again"
                );
                self.drop_staging(&mut state).await?;
                return Ok(Answer::Damaged);
            }
            Err(why) => {
                self.drop_staging(&mut state).await?;
                return Err(why.to_string());
            }
        }
        state.staging = None;
        let taken = self.member(item.group)?.take(offer.vote, offer.meta).await;
        let vote = taken.ok_or_else(ended)?;
        // Refused by its vote, or not newer than what is here: then it is still there.
        let install = Item { kind: Kind::Install, ..item };
        self.tell(move |shelf| shelf.remove(install)).await?;
        state.settled = Some((offer.number, vote));
        Ok(Answer::Settled { vote })
    }

    async fn drop_staging(&self, state: &mut State) -> Result<(), String> {
        let Some(staging) = state.staging.take() else { return Ok(()) };
        self.tell(move |shelf| shelf.remove(staging.item)).await
    }

    /// Does something with the folder, beside the tasks of the runtime.
    async fn aside(
        &self,
        act: impl FnOnce(&dyn Shelf) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let shelf = self.shelf.clone();
        runtime::aside(move || act(&*shelf)).await.unwrap_or_else(|| Err(stopping()))
    }

    /// Does it, and tells the sender what went wrong.
    async fn tell(
        &self,
        act: impl FnOnce(&dyn Shelf) -> io::Result<()> + Send + 'static,
    ) -> Result<(), String> {
        self.aside(act).await.map_err(|error| format!("the disk of the follower: {error}"))
    }
}

fn ended() -> String {
    "the group has ended".to_owned()
}

fn staging_of(state: &mut State, have: u64) -> Answered {
    match &mut state.staging {
        Some(staging) => {
            staging.have = have;
            Ok(Answer::Have { bytes: have })
        }
        None => Ok(Answer::Unknown),
    }
}

/// Makes a staged file the one to install, if it is what was promised.
fn promote(
    shelf: &dyn Shelf,
    item: Item,
    (meta, bytes, digest): &(file::Meta, u64, file::Digest),
) -> io::Result<()> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "not what was offered");
    let tail = bytes.checked_sub(digest.len() as u64).ok_or_else(wrong)?;
    if shelf.read(item, tail, PIECE_BYTES)? != digest[..] || file::check(shelf, item)? != *meta {
        return Err(wrong());
    }
    shelf.promote(item.group)
}
