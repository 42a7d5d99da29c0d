//! One group of this node: its log and state, openraft over them, and who leads it.
//!
//! - Owns: the tasks of the group. Takes: an open state and a network. Gives: a queue for commands, a `Lead`,
//!   answers to questions.
//! - Bound: each step of a start has a time-out. A group whose only voter is this node leads when `start`
//!   returns; one with other voters finds its leader by itself, and nobody waits for that.
//! - Source: openraft 0.9.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use openraft::{Config, EmptyNode, Raft, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedMutexGuard};

use super::{
    lead::{self, LeadState},
    log_store::LogStore,
    members::PLEDGE,
    network::Links,
    proposer::Proposer,
    room::Room,
    snapshot::spool::Snapshots,
    state_machine::{Shard, StateMachine},
    types::Types,
};
use crate::{
    clock,
    error::StartError,
    id::{NodeId, ShardId},
    limits::{APPEND_TIMEOUT, ELECTION_MIN, LEADER_LEASE},
    machine::Machine,
    meta::machine::Published,
    storage::{
        checkpoint::{Checkpointer, ShardStore},
        health::DiskState,
        log::Log,
    },
    stream::{driver, queue::Queue, run::Origin, seek::Way},
    transport::Network,
};

/// A group of one voter elects itself and replays its log within this time, or the node does not start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A hand-over that failed is not tried again before; proposals wait during each.
const HAND_OVER_AGAIN: Duration = Duration::from_secs(10);

/// What a group says for itself, whatever its machine is.
pub(crate) trait Replica: Send + Sync {
    /// Answers an encoded question from the state as it is here.
    fn query(&self, question: &Bytes) -> Bytes;
}

impl<M: Machine> Replica for Shard<M> {
    fn query(&self, question: &Bytes) -> Bytes {
        let machine = self.machine.lock();
        let state = self.store.state.lock();
        machine.query(question, &*state)
    }
}

/// Who may ask openraft for something that it gets one at a time.
#[derive(Default)]
pub(super) struct Turns {
    /// Held while openraft has an append of the group's leader, answered or not.
    pub(super) append: Arc<tokio::sync::Mutex<()>>,
    /// Held while this node gives its vote, to itself or to another.
    pub(super) vote: Arc<tokio::sync::Mutex<()>>,
}

/// Does what was begun to its end, also when nobody waits for it any more: what openraft was given cannot be
/// taken back. The turn is held as long.
pub(super) async fn to_its_end<T: Send + 'static>(
    turn: OwnedMutexGuard<()>,
    act: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let done = tokio::spawn(async move {
        let done = act.await;
        drop(turn);
        done
    });
    done.await.ok()
}

/// What this member promised a leader: to stand for election, should it ask for that in time.
struct Pledge {
    to: NodeId,
    serial: u64,
    until: Instant,
}

/// One group as the node sees it.
pub(crate) struct Group {
    pub(crate) node: NodeId,
    pub(crate) number: u16,
    pub(crate) store: Arc<ShardStore>,
    pub(crate) replica: Arc<dyn Replica>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) raft: Raft<Types>,
    pub(crate) lead: Arc<LeadState>,
    pub(crate) log: Arc<Log>,
    pub(crate) room: Room,
    pub(crate) snapshots: Arc<Snapshots>,
    /// When a leader was last heard of, or this group started.
    heard: Mutex<Instant>,
    /// Until then the lead stays here if it comes here.
    pinned: Mutex<Option<Instant>>,
    /// A lead that could not be handed over is not before.
    hand_over_at: Mutex<Option<Instant>>,
    pledge: Mutex<Option<Pledge>>,
    pub(super) turns: Turns,
    /// The node gives its leads away and takes none.
    leaving: AtomicBool,
    open: AtomicBool,
}

/// What all groups of a node are started with.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) node: NodeId,
    /// Of this start of the node; it grows with each.
    pub(crate) incarnation: u64,
    pub(crate) log: Arc<Log>,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) network: Option<Arc<dyn Network>>,
    pub(crate) published: Arc<Published>,
    /// Wakes the clocks of the groups.
    pub(crate) awake: Arc<Notify>,
    /// This node made its cluster: a group without members is made with it. Another waits to be added.
    pub(crate) founder: bool,
}

impl Group {
    pub(crate) async fn start<M: Machine>(
        shard: Arc<Shard<M>>,
        setting: Setting,
    ) -> Result<Arc<Self>, StartError> {
        let Setting { node, incarnation, log, checkpointer, snapshots, network, .. } = setting;
        let way = network.clone().map(|network| Way::of(network, setting.published));
        let store = shard.store.clone();
        let number = store.shard;
        let failed = || StartError::NoLeader { shard: number };
        let health = checkpointer.health.clone();
        let room = Room { log: log.clone(), store: store.clone() };
        let machine =
            StateMachine { shard: shard.clone(), checkpointer, snapshots: snapshots.clone() };
        let others = has_other_voters(&store, &log, node);
        let log_store = LogStore { log: log.clone(), group: number, node: others.then_some(node) };
        let links = Links {
            node,
            group: number,
            store: store.clone(),
            snapshots: snapshots.clone(),
            network,
        };
        let raft = Raft::new(node.0, Arc::new(config()), links, log_store, machine).await;
        let raft = raft.map_err(|_| failed())?;
        let lead = LeadState::new();
        tokio::spawn(lead::follow(raft.clone(), number, lead.clone(), setting.awake));
        let known = raft.is_initialized().await.map_err(|_| failed())?;
        if known || setting.founder {
            lead_alone(&raft, &lead, node).await.ok_or_else(failed)?;
        }
        let queue = Queue::new(Origin { node: node.0, incarnation });
        driver::start(node, ShardId(number), &queue, lead.watch(), way);
        let proposer = {
            let (queue, raft, lead) = (queue.clone(), raft.clone(), lead.watch());
            Proposer { queue, raft, lead, room: room.clone(), health }
        };
        tokio::spawn(proposer.run());
        let group = Arc::new(Self {
            node,
            number,
            store,
            replica: shard,
            queue,
            raft,
            lead,
            log,
            room,
            snapshots,
            heard: Mutex::new(clock::now()),
            pinned: Mutex::default(),
            hand_over_at: Mutex::default(),
            pledge: Mutex::default(),
            turns: Turns::default(),
            leaving: AtomicBool::default(),
            open: AtomicBool::new(true),
        });
        // The last start may have ended between a checkpoint and its purge; nothing else would ask for it.
        group.purge(None).await;
        Ok(group)
    }

    /// Stands for election, in a term in which this node has voted for nobody else.
    pub(crate) async fn elect(&self) -> Option<()> {
        let turn = self.turns.vote.clone().lock_owned().await;
        let raft = self.raft.clone();
        let elect = async move {
            raft.trigger().elect().await.ok()?;
            // Answered behind it: by then this node has voted for itself, and for nobody else in that term.
            raft.with_raft_state(|_| ()).await.ok()
        };
        to_its_end(turn, elect).await?
    }

    /// Promises a leader to stand for election when it says so: with this serial, within `PLEDGE`, and once.
    pub(crate) fn pledge(&self, to: NodeId, serial: u64) {
        let until = clock::now() + PLEDGE;
        *self.pledge.lock() = Some(Pledge { to, serial, until });
    }

    /// Returns whether that was promised, and holds.
    pub(crate) fn take_pledge(&self, to: NodeId, serial: u64) -> bool {
        let pledge = self.pledge.lock().take_if(|of| of.to == to && of.serial == serial);
        pledge.is_some_and(|pledge| clock::now() < pledge.until)
    }

    /// Keeps the lead here for a time, or lets it go where it should be.
    pub(crate) fn pin(&self, time: Option<Duration>) {
        *self.pinned.lock() = time.map(|time| clock::now() + time);
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.pinned.lock().is_some_and(|until| clock::now() < until)
    }

    pub(crate) fn may_hand_over(&self) -> bool {
        self.hand_over_at.lock().is_none_or(|at| clock::now() >= at)
    }

    pub(crate) fn put_off_hand_over(&self) {
        *self.hand_over_at.lock() = Some(clock::now() + HAND_OVER_AGAIN);
    }

    /// Refuses leads that others want to give to this node, from now on.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Returns whether the disk takes writes: a leader without one refuses all that it is given.
    pub(crate) fn can_write(&self) -> bool {
        self.store.base.health.state() == DiskState::Ready
    }

    /// Returns whether this node takes a lead that another gives away.
    pub(crate) fn would_lead(&self) -> bool {
        !self.is_leaving() && self.can_write()
    }

    /// Returns the last entry that is applied here; `None` while the state is busy.
    pub(crate) fn applied_index(&self) -> Option<u64> {
        // Held for long only while a disk fails, and whoever asks must not wait for that.
        let state = self.store.state.try_lock()?;
        Some(state.applied.last.map_or(0, |id| id.index))
    }

    /// Returns the last entry applied if this node leads: all that was acknowledged before the call is in it.
    pub(crate) fn read_index(&self) -> Option<u64> {
        let applied = self.lead.may_read().then(|| self.applied_index()).flatten();
        applied.filter(|_| self.lead.may_read())
    }

    /// Notes that a leader was heard of.
    pub(crate) fn leader_heard(&self) {
        *self.heard.lock() = clock::now();
    }

    /// Returns when a leader was last heard of.
    pub(crate) fn heard(&self) -> Instant {
        *self.heard.lock()
    }

    /// Returns whether nobody leads, as far as this node knows: no leader was heard of for its lease.
    pub(crate) fn is_leaderless(&self) -> bool {
        !self.lead.now().here
            && clock::now().saturating_duration_since(self.heard()) >= LEADER_LEASE
    }

    /// Returns whether the group has neither ended nor been told to.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) && self.queue.is_open()
    }

    /// Refuses new proposals.
    pub(crate) fn close(&self) {
        self.open.store(false, Ordering::Relaxed);
        self.queue.close();
    }
}

fn has_other_voters(store: &ShardStore, log: &Log, node: NodeId) -> bool {
    let stored = &store.state.lock().stored.membership;
    stored.voter_ids().any(|id| id != node.0)
        || log.group(store.shard).is_some_and(|group| group.has_other_voters(node.0))
}

/// Makes a group of this one voter lead, with its log replayed; does nothing if there are other voters.
async fn lead_alone(raft: &Raft<Types>, lead: &LeadState, node: NodeId) -> Option<()> {
    if !raft.is_initialized().await.ok()? {
        raft.initialize(BTreeMap::from([(node.0, EmptyNode::new())])).await.ok()?;
    }
    let metrics = raft.metrics().borrow().clone();
    // One that was asked to vote for another knows of a term, and need not know of any member yet.
    if !metrics.membership_config.membership().voter_ids().eq([node.0]) {
        return Some(());
    }
    if metrics.current_leader != Some(node.0) {
        raft.trigger().elect().await.ok()?;
    }
    let wait = raft.wait(Some(START_TIMEOUT));
    let leads = wait.metrics(
        |metrics| {
            metrics.current_leader == Some(node.0)
                && metrics.last_applied.map(|id| id.index) >= metrics.last_log_index
        },
        "leader with its log replayed",
    );
    leads.await.ok()?;
    lead.watch().wait_for(|lead| lead.here).await.ok().map(drop)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn config() -> Config {
    Config {
        cluster_name: "hongqiao".into(),
        // openraft knows it as the time-out of an append; `pulse` sends the heartbeats, and knows when
        // to elect.
        heartbeat_interval: milliseconds(APPEND_TIMEOUT),
        enable_heartbeat: false,
        enable_elect: false,
        enable_tick: false,
        election_timeout_min: milliseconds(ELECTION_MIN),
        election_timeout_max: milliseconds(LEADER_LEASE),
        // Snapshots follow checkpoints; see `purge` for what then goes.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    }
}
