//! How the connections of a worker reach the homes of their sessions, on whatever node those are.
//!
//! - Owns: what this node owes the homes ([`Duty`]).
//! - Takes: claims and releases. Gives: them to the home of the shard's leader, again while that changes.
//! - Bound: a claim is tried for `limits::CLAIM_PATIENCE`, a release for `limits::RELEASE_PATIENCE`; then the
//!   home is told to ask for itself.
//! - A claim that stores something is made by one start of the node: if the others take it for dead meanwhile,
//!   what it was granted is released, its will due, and the client is refused.
//! - A node that is alone asks its own home once and copies nothing.
//! - ALONE: a CONNECT that wants nothing stored is let in without a home; it is told of the connection when
//!   there is one.
//! - A release that nobody took in time is lost with its details: the home finds that the connection is
//!   gone (`upkeep`), and releases the session as if it had died.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use actix::Recipient;
use hongqiao_cluster::id::{NodeId, ShardId};
use tokio::sync::Notify;

use super::{CallAgain, Claim, ClaimBy, ClaimError, Granted, Release, ReleaseBy};
use crate::{
    actors::{
        hub::TakeRoll,
        peer::{Class, PeerReply, PeerRequest, Peers, RollFrom},
        upkeep::Local,
        view::View,
    },
    clock, limits,
    model::{connection_id::ConnectionId, id::SessionKey},
    shard::command::Claimed,
};

/// What this node has promised the homes, and what it owes them. One for all workers.
#[derive(Debug)]
pub struct Duty {
    /// By shard: the newest term whose roll call was taken.
    rolls: Vec<AtomicU64>,
    /// One bit per shard: its home does not know all that it must.
    owed: AtomicU64,
    wake: Notify,
}

impl Duty {
    /// Owes nothing.
    #[must_use]
    pub fn new(shards: u16) -> Arc<Self> {
        let rolls = (0..shards).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { rolls, owed: AtomicU64::new(0), wake: Notify::new() })
    }

    /// The roll of a shard is called in this term: what an earlier one granted, and its connection has
    /// not taken yet, is not told and must be claimed again.
    pub fn called(&self, shard: u16, term: u64) {
        if let Some(roll) = self.rolls.get(usize::from(shard)) {
            roll.fetch_max(term, Ordering::SeqCst);
        }
    }

    fn counts(&self, shard: ShardId, term: u64) -> bool {
        let roll = self.rolls.get(usize::from(shard.0));
        roll.is_none_or(|roll| roll.load(Ordering::SeqCst) <= term)
    }

    fn owe(&self, shard: ShardId) {
        self.owed.fetch_or(1 << (shard.0 % 64), Ordering::Relaxed);
        self.wake.notify_one();
    }

    fn take_owed(&self) -> impl Iterator<Item = ShardId> + use<> {
        let owed = self.owed.swap(0, Ordering::Relaxed);
        (0..64).filter(move |bit| owed & 1 << bit != 0).map(ShardId)
    }
}

/// See the file header.
pub struct Homes {
    /// Who leads.
    pub view: View,
    /// The other nodes.
    pub peers: Peers,
    /// Homes of this node, by shard.
    pub claim: Vec<Recipient<ClaimBy>>,
    /// The same.
    pub release: Vec<Recipient<ReleaseBy>>,
    /// The same.
    pub again: Vec<Recipient<CallAgain>>,
    /// Shared by the workers.
    pub duty: Arc<Duty>,
}

impl Homes {
    /// Claims a session; see [`Claim`].
    #[must_use]
    pub fn claim(
        self: &Rc<Self>,
        shard: ShardId,
        claim: Claim,
    ) -> Local<Result<Box<Claimed>, ClaimError>> {
        if !self.view.is_alone() {
            let this = Rc::clone(self);
            return Box::pin(async move { this.claim_anywhere(shard, claim).await });
        }
        let home = self.claim.get(usize::from(shard.0));
        let claimed = home.map(|home| home.send(ClaimBy { by: self.view.me(), claim }));
        Box::pin(async move {
            match claimed {
                Some(claimed) => match claimed.await {
                    Ok(granted) => granted.map(|granted| granted.claimed),
                    Err(_) => Err(ClaimError::Unavailable),
                },
                None => Err(ClaimError::Unavailable),
            }
        })
    }

    async fn claim_anywhere(
        &self,
        shard: ShardId,
        claim: Claim,
    ) -> Result<Box<Claimed>, ClaimError> {
        let (start, mut hint) = (clock::now(), None);
        let (by, stores) = (self.view.me(), !claim.clean_start || claim.stores());
        loop {
            let leader = hint.take().or_else(|| self.view.leader(shard));
            let asked = match leader {
                Some(node) => self.claim_at(node, shard, claim.clone()).await,
                None => Err(ClaimError::Moved { to: None }),
            };
            if stores && self.view.me() != by {
                return Err(ClaimError::Unavailable);
            }
            match asked {
                Ok(granted) if self.duty.counts(shard, granted.term) => return Ok(granted.claimed),
                Err(ClaimError::Busy) => return Err(ClaimError::Busy),
                Err(ClaimError::Moved { to }) => hint = to.filter(|to| Some(*to) != leader),
                Ok(_) | Err(ClaimError::Unavailable) => {}
            }
            if start.elapsed() >= limits::CLAIM_PATIENCE {
                break;
            }
            self.pause(shard, limits::HOME_RETRY).await;
            // Nor is it asked for again in the name of another start: that would be a takeover of its own.
            if stores && self.view.me() != by {
                return Err(ClaimError::Unavailable);
            }
        }
        if stores {
            return Err(ClaimError::Unavailable);
        }
        self.duty.owe(shard);
        Ok(Box::default())
    }

    async fn claim_at(
        &self,
        node: NodeId,
        shard: ShardId,
        claim: Claim,
    ) -> Result<Granted, ClaimError> {
        let by = self.view.me();
        if node == by.node {
            let home = self.claim.get(usize::from(shard.0)).ok_or(ClaimError::Unavailable)?;
            return home.send(ClaimBy { by, claim }).await.unwrap_or(Err(ClaimError::Unavailable));
        }
        let request = PeerRequest::Claim { incarnation: by.incarnation, claim: Box::new(claim) };
        match self.peers.ask(node, Class::Control, &request, limits::CLAIM_TIMEOUT).await {
            Ok(PeerReply::Claimed(granted)) => granted,
            // It may have been granted; the same connection may claim again.
            _ => Err(ClaimError::Moved { to: None }),
        }
    }

    /// Gives a session back; see [`Release`].
    #[must_use]
    pub fn release(self: &Rc<Self>, shard: ShardId, release: Release) -> Local<()> {
        if !self.view.is_alone() {
            let this = Rc::clone(self);
            return Box::pin(async move { this.release_anywhere(shard, release).await });
        }
        let home = self.release.get(usize::from(shard.0));
        let released = home.map(|home| home.send(ReleaseBy { by: self.view.me(), release }));
        Box::pin(async move {
            if let Some(released) = released {
                let _ = released.await;
            }
        })
    }

    async fn release_anywhere(&self, shard: ShardId, release: Release) {
        let (start, mut pause) = (clock::now(), limits::HOME_RETRY);
        while start.elapsed() < limits::RELEASE_PATIENCE {
            if let Some(node) = self.view.leader(shard)
                && self.release_at(node, shard, release.clone()).await
            {
                return;
            }
            self.pause(shard, pause).await;
            pause = (pause * 2).min(limits::HOME_RETRY_MAX);
        }
        tracing::info!(shard = shard.0, session = ?release.key, "no home took a session back");
        self.duty.owe(shard);
    }

    async fn release_at(&self, node: NodeId, shard: ShardId, release: Release) -> bool {
        let by = self.view.me();
        if node == by.node {
            let Some(home) = self.release.get(usize::from(shard.0)) else { return true };
            return home.send(ReleaseBy { by, release }).await.unwrap_or(false);
        }
        let incarnation = by.incarnation;
        let request = PeerRequest::Release { incarnation, release: Box::new(release) };
        let asked = self.peers.ask(node, Class::Control, &request, limits::CLAIM_TIMEOUT);
        matches!(asked.await, Ok(PeerReply::Released(true)))
    }

    /// Waits for a change of leader, at most `time`.
    async fn pause(&self, shard: ShardId, time: Duration) {
        let Some(mut lead) = self.view.watch_lead(shard) else { return };
        lead.mark_unchanged();
        if let Ok(Err(_)) = tokio::time::timeout(time, lead.changed()).await {
            // The cluster has ended.
            tokio::time::sleep(time).await;
        }
    }

    /// Tells homes that they do not know all connections of this node, for ever. One worker runs it.
    pub async fn pay(self: Rc<Self>) {
        loop {
            self.duty.wake.notified().await;
            let mut failed = false;
            for shard in self.duty.take_owed() {
                if !self.pay_one(shard).await {
                    self.duty.owe(shard);
                    failed = true;
                }
            }
            if failed {
                tokio::time::sleep(limits::HOME_RETRY_MAX).await;
            }
        }
    }

    async fn pay_one(&self, shard: ShardId) -> bool {
        let by = self.view.me();
        match self.view.leader(shard) {
            Some(node) if node == by.node => {
                let Some(home) = self.again.get(usize::from(shard.0)) else { return true };
                home.send(CallAgain(by)).await.unwrap_or(false)
            }
            Some(node) => {
                let request =
                    PeerRequest::CallAgain { incarnation: by.incarnation, shard: shard.0 };
                let asked = self.peers.ask(node, Class::Control, &request, limits::ROLL_TIMEOUT);
                matches!(asked.await, Ok(PeerReply::Done))
            }
            None => false,
        }
    }
}

/// A part of a node's connections of one shard, and where to go on.
pub(in crate::actors) type RollPage = (Vec<(SessionKey, ConnectionId)>, Option<RollFrom>);

/// Reads a part of this node's connections of one shard.
pub(in crate::actors) async fn take_roll(
    hubs: &[Recipient<TakeRoll>],
    (shard, shards): (u16, u16),
    RollFrom { worker, slot }: RollFrom,
) -> Option<RollPage> {
    let hub = hubs.get(usize::from(worker))?;
    let (connections, next) = hub.send(TakeRoll { shard, shards, slot }).await.ok()?;
    let next = match next {
        Some(slot) => Some(RollFrom { worker, slot }),
        None => {
            let worker = worker + 1;
            (usize::from(worker) < hubs.len()).then_some(RollFrom { worker, slot: 0 })
        }
    };
    Some((connections, next))
}
