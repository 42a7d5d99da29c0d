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
    transport::{Class, PeerService},
};

/// A snapshot that does not go on for so long makes way for another.
const IDLE_MAX: Duration = Duration::from_secs(15);

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
    groups: Vec<Arc<Group>>,
    shelf: Arc<dyn Shelf>,
    health: Arc<Health>,
    state: Arc<Mutex<State>>,
}

type Answered = Result<Answer, String>;

impl Receiver {
    pub(crate) fn new(
        groups: Vec<Arc<Group>>,
        shelf: Arc<dyn Shelf>,
        health: Arc<Health>,
    ) -> Self {
        Self(Arc::new(Shared { groups, shelf, health, state: Arc::default() }))
    }
}

impl PeerService for Receiver {
    fn serve(
        &self,
        from: NodeId,
        _class: Class,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let shared = self.0.clone();
        async move {
            let Some((group, question)) = Question::decode(body) else {
                tracing::warn!(from = from.0, "a piece of a snapshot came damaged");
                return Err("the question is damaged".to_owned());
            };
            let Some(group) = shared.group(group) else {
                return Err("the group has ended".to_owned());
            };
            let answer = match question {
                Question::Offer(offer) => shared.offered(from, &group, offer).await,
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
    fn group(&self, number: u16) -> Option<Arc<Group>> {
        self.groups.get(usize::from(number)).filter(|group| group.is_open()).cloned()
    }

    async fn offered(&self, from: NodeId, group: &Arc<Group>, offer: Offer) -> Answered {
        let vote = group.raft.metrics().borrow().vote;
        if offer.vote.partial_cmp(&vote).is_none_or(std::cmp::Ordering::is_lt) {
            return Ok(Answer::Settled { vote });
        }
        let Ok(mut state) = self.state.clone().try_lock_owned() else { return Ok(Answer::Busy) };
        if let Some((number, vote)) = state.settled
            && number == offer.number
        {
            return Ok(Answer::Settled { vote });
        }
        let item = Item { kind: Kind::Staging, group: group.number };
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
        self.aside(move |shelf| shelf.create(item)).await?;
        tracing::info!(
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
        if let Err(why) = self.aside(move |shelf| shelf.write(item, offset, &bytes)).await {
            // What was written of it is not counted; a disk that is full gets its space back.
            self.drop_staging(&mut state).await?;
            return Err(why);
        }
        staging_of(&mut state, end)
    }

    async fn finish(self: Arc<Self>, group: Arc<Group>, number: u64) -> Answered {
        let Ok(state) = self.state.clone().try_lock_owned() else { return Ok(Answer::Installing) };
        match &state.staging {
            _ if state.settled.is_some_and(|(settled, _)| settled == number) => {
                let vote = state.settled.map(|(_, vote)| vote).unwrap_or_default();
                return Ok(Answer::Settled { vote });
            }
            Some(staging) if staging.offer.number != number => return Ok(Answer::Unknown),
            Some(staging) if staging.have < staging.offer.bytes => {
                return Ok(Answer::Have { bytes: staging.have });
            }
            Some(_) => {}
            None => return Ok(Answer::Unknown),
        }
        // It goes on when the sender has stopped waiting.
        let installing = tokio::spawn(async move { self.install(group, state).await });
        installing.await.unwrap_or_else(|_| Err("the node is stopping".to_owned()))
    }

    async fn install(&self, group: Arc<Group>, mut state: OwnedMutexGuard<State>) -> Answered {
        let Some(Staging { item, offer, from, .. }) = &state.staging else {
            return Ok(Answer::Unknown);
        };
        let (item, offer, from) = (*item, offer.clone(), *from);
        let promised = (offer.meta.clone(), offer.bytes, offer.digest);
        if let Err(why) = self.aside(move |shelf| promote(shelf, item, &promised)).await {
            tracing::warn!(
                group = item.group,
                from = from.0,
                why,
                "a snapshot came damaged; it is thrown away and asked for again"
            );
            self.drop_staging(&mut state).await?;
            return Ok(Answer::Damaged);
        }
        state.staging = None;
        let snapshot =
            Snapshot { meta: offer.meta, snapshot: Box::new(SnapshotData::Installable) };
        let installed = group.raft.install_full_snapshot(offer.vote, snapshot).await;
        let vote = installed.map_err(|_| "the group has ended".to_owned())?.vote;
        // Refused by its vote, or not newer than what is here: then it is still there.
        let install = Item { kind: Kind::Install, ..item };
        self.aside(move |shelf| shelf.remove(install)).await?;
        state.settled = Some((offer.number, vote));
        Ok(Answer::Settled { vote })
    }

    async fn drop_staging(&self, state: &mut State) -> Result<(), String> {
        let Some(staging) = state.staging.take() else { return Ok(()) };
        self.aside(move |shelf| shelf.remove(staging.item)).await
    }

    /// Does something with the folder, beside the tasks of the runtime.
    async fn aside(
        &self,
        act: impl FnOnce(&dyn Shelf) -> io::Result<()> + Send + 'static,
    ) -> Result<(), String> {
        let shelf = self.shelf.clone();
        let done = runtime::aside(move || act(&*shelf)).await;
        done.unwrap_or_else(|| Err(stopping())).map_err(|error| error.to_string())
    }
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
