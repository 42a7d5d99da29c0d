//! Who leads a group, as far as this node knows, and whether it may act as the leader itself.
//!
//! ```text
//! metrics of openraft ─▶ follow ─▶ Lead (watched by whoever acts while it leads here)
//!                              └─▶ heard of a quorum until … (asked before each read)
//! ```
//!
//! - Owns: one task per group; it also wakes the clocks once there is a second member.
//! - Takes: metrics. Gives: `Lead`; `here` is lost at once when another leads or the quorum is silent.
//! - Bound: one look per `LOOK_INTERVAL` and group; none at all in a group of one voter that leads.
//! - Source: openraft 0.9 `RaftServerMetrics`, `RaftDataMetrics`; leases as in Raft §6.4.1.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use openraft::{
    Raft, ServerState,
    error::Fatal,
    metrics::{RaftDataMetrics, RaftServerMetrics},
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::types::{LogId, Types};
use crate::{
    clock,
    directory::Led,
    id::NodeId,
    limits::{LEAD_SILENCE_MAX, READ_SILENCE_MAX},
};

/// Metrics of a busy group are looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Who leads a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lead {
    /// The leader that this node knows of. `None` while there is none, and for shards that have no
    /// replica here.
    pub leader: Option<NodeId>,
    /// The newest term that this node knows of.
    pub term: u64,
    /// This node leads, has applied all of earlier terms, and a quorum follows it.
    pub here: bool,
}

impl Lead {
    /// Returns who leads: as the group itself knows, or the directory where it knows of a newer term. A replica that
    /// was moved away hears of no later leader.
    #[must_use]
    pub fn leader_or(self, written: Option<Led>) -> Option<NodeId> {
        match written {
            Some(led) if led.term > self.term => Some(led.node),
            _ => self.leader.or(written.map(|led| led.node)),
        }
    }
}

/// One group's lead, shared by its task and whoever asks.
#[derive(Debug)]
pub(crate) struct LeadState {
    lead: watch::Sender<Lead>,
    heard: Mutex<Heard>,
    /// Votes of this node that others have asked for and that are not yet decided.
    doubts: AtomicUsize,
    /// Until then a member may stand for election although this leader is heard of: its lease says nothing.
    unsafe_until: Mutex<Option<Instant>>,
    handing_over: AtomicBool,
    quiet: AtomicBool,
    /// Since when this node leads.
    since: Mutex<Option<Instant>>,
}

/// When a quorum last acknowledged this leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    #[default]
    Never,
    At(Instant),
    /// This node is the quorum.
    Always,
}

impl Heard {
    fn within(self, silence_max: Duration) -> bool {
        match self {
            Self::Never => false,
            Self::At(at) => clock::now().saturating_duration_since(at) < silence_max,
            Self::Always => true,
        }
    }
}

impl LeadState {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            lead: watch::Sender::default(),
            heard: Mutex::default(),
            doubts: AtomicUsize::default(),
            unsafe_until: Mutex::default(),
            handing_over: AtomicBool::default(),
            quiet: AtomicBool::default(),
            since: Mutex::default(),
        })
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Lead> {
        self.lead.subscribe()
    }

    pub(crate) fn now(&self) -> Lead {
        *self.lead.borrow()
    }

    /// Returns whether a read here sees every command that was acknowledged anywhere before.
    pub(crate) fn may_read(&self) -> bool {
        self.doubts.load(Ordering::SeqCst) == 0
            && self.now().here
            && self.heard.lock().within(READ_SILENCE_MAX)
            && self.unsafe_until.lock().is_none_or(|until| clock::now() >= until)
    }

    /// Holds reads back for a time, or no longer.
    pub(crate) fn hold_reads(&self, time: Option<Duration>) {
        *self.unsafe_until.lock() = time.map(|time| clock::now() + time);
    }

    /// Holds reads back while this node decides on a vote, which may end its own lead.
    pub(crate) fn doubt(self: &Arc<Self>) -> Doubt {
        self.doubts.fetch_add(1, Ordering::SeqCst);
        Doubt(self.clone())
    }

    /// Returns when a leader of this node began to lead.
    pub(crate) fn since(&self) -> Option<Instant> {
        *self.since.lock()
    }

    /// Says whether the leader sends no heartbeats, so that its members may vote for another.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    pub(crate) fn set_quiet(&self, so: bool) {
        self.quiet.store(so, Ordering::Relaxed);
    }

    /// Says whether the leader gives its lead to another member.
    pub(crate) fn is_handing_over(&self) -> bool {
        self.handing_over.load(Ordering::Relaxed)
    }

    pub(crate) fn set_handing_over(&self, so: bool) {
        self.handing_over.store(so, Ordering::Relaxed);
    }

    fn set(&self, lead: Lead) {
        self.lead.send_if_modified(|now| std::mem::replace(now, lead) != lead);
    }
}

/// A vote that is being decided.
pub(crate) struct Doubt(Arc<LeadState>);

impl Doubt {
    /// The vote is given, or not; whoever gives one does not lead any more.
    pub(crate) fn settle(self, granted: bool) {
        if granted {
            self.0.lead.send_if_modified(|lead| std::mem::take(&mut lead.here));
        }
    }
}

impl Drop for Doubt {
    fn drop(&mut self) {
        self.0.doubts.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What one look at the metrics finds.
struct Look {
    lead: Lead,
    leads: bool,
    /// Members beside this node: replication needs a clock.
    others: bool,
    /// Voters beside this node: leading needs a quorum.
    quorum: bool,
    silence: Option<Duration>,
    /// What it was found under: a quorum of other voters is another quorum.
    under: (u64, Option<LogId>),
}

type Server = RaftServerMetrics<u64, openraft::EmptyNode>;
type Data = RaftDataMetrics<u64>;

fn look(server: &Server, data: &Data) -> Look {
    let members = server.membership_config.membership();
    let leads = server.state == ServerState::Leader && server.current_leader == Some(server.id);
    let term = server.vote.leader_id().term;
    // The first entry of its own term is applied behind all that earlier leaders have committed.
    let caught_up = data.last_applied.is_some_and(|id| id.leader_id.term == term);
    // Who was let go of hears of no later leader, and may even take itself for one.
    let is_gone = members.nodes().next().is_some() && members.get_node(&server.id).is_none();
    let leader = server.current_leader.map(NodeId).filter(|_| !is_gone);
    Look {
        lead: Lead { leader, term, here: leads && caught_up },
        leads,
        others: members.nodes().any(|(id, _)| *id != server.id),
        quorum: members.voter_ids().any(|id| id != server.id),
        silence: data.millis_since_quorum_ack.map(Duration::from_millis),
        under: (term, *server.membership_config.log_id()),
    }
}

/// One group's follower.
struct Follower {
    state: Arc<LeadState>,
    awake: Arc<Notify>,
    clock: bool,
    /// The last look. A report that is new at the next one was made after it.
    looked: Instant,
    under: (u64, Option<LogId>),
}

impl Follower {
    /// Takes over what was found; gives when the quorum will have been silent for too long.
    fn settle(&mut self, raft: &Raft<Types>, found: &Look, is_new: bool) -> Option<Instant> {
        if self.clock != found.others {
            self.clock = found.others;
            // openraft's own ticks only let a leader that was removed step down; see `pulse`.
            raft.runtime_config().tick(found.others);
            self.awake.notify_one();
        }
        let looked = std::mem::replace(&mut self.looked, clock::now());
        let mut since = self.state.since.lock();
        *since = if found.leads { since.or(Some(self.looked)) } else { None };
        drop(since);
        if std::mem::replace(&mut self.under, found.under) != found.under {
            *self.state.heard.lock() = Heard::Never;
        }
        let heard = match found.silence.and_then(|silence| looked.checked_sub(silence)) {
            _ if !found.quorum => Heard::Always,
            Some(at) if is_new => Heard::At(at),
            _ => Heard::Never,
        };
        let heard = {
            let mut known = self.state.heard.lock();
            *known = if found.quorum { heard.max(*known) } else { heard };
            *known
        };
        let here = found.lead.here && heard.within(LEAD_SILENCE_MAX);
        self.state.set(Lead { here, ..found.lead });
        match heard {
            Heard::At(at) if here => Some(at + LEAD_SILENCE_MAX),
            _ => None,
        }
    }
}

/// A group that ends by itself is the end of its part of the node; openraft's own log is off by default.
fn say_why(raft: &Raft<Types>, group: u16) {
    if let Err(why) = &raft.metrics().borrow().running_state
        && !matches!(why, Fatal::Stopped)
    {
        tracing::error!(group, %why, "a group has ended: start the node again");
    }
}

/// Follows one group until it ends.
pub(crate) async fn follow(
    raft: Raft<Types>,
    group: u16,
    state: Arc<LeadState>,
    awake: Arc<Notify>,
) {
    let (mut server, mut data) = (raft.server_metrics(), raft.data_metrics());
    let under = (0, None);
    let mut follower = Follower { state, awake, clock: false, looked: clock::now(), under };
    loop {
        let is_new = data.has_changed().unwrap_or(false);
        let found = look(&server.borrow_and_update(), &data.borrow_and_update());
        let silent_at = follower.settle(&raft, &found, is_new);
        let silent = async {
            match silent_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let watched = found.leads && (found.quorum || !found.lead.here);
        let ended = tokio::select! {
            biased;
            changed = server.changed() => changed.is_err(),
            changed = data.changed(), if watched => match changed {
                Err(_) => true,
                // A busy group reports all the time; who leads is news at once.
                Ok(()) if !found.quorum => false,
                Ok(()) => tokio::select! {
                    changed = server.changed() => changed.is_err(),
                    () = tokio::time::sleep(LOOK_INTERVAL) => false,
                },
            },
            () = silent => false,
        };
        if ended {
            say_why(&raft, group);
            follower.state.set(Lead { leader: None, here: false, ..found.lead });
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leader_when_another_term_is_written_then_the_newer_counts() {
        let known = Lead { leader: Some(NodeId(3)), term: 4, here: false };
        let led = |term| Some(Led { node: NodeId(2), term });
        assert_eq!(known.leader_or(None), Some(NodeId(3)));
        assert_eq!(known.leader_or(led(4)), Some(NodeId(3)));
        assert_eq!(known.leader_or(led(5)), Some(NodeId(2)));
        // Elections take place before anything is written.
        let none = Lead { leader: None, ..known };
        assert_eq!((none.leader_or(None), none.leader_or(led(3))), (None, Some(NodeId(2))));
    }

    #[test]
    fn heard_when_compared_then_the_later_and_the_quorum_itself_win() {
        let now = clock::now();
        let earlier = Heard::At(now.checked_sub(Duration::from_secs(1)).unwrap());
        assert_eq!(earlier.max(Heard::At(now)), Heard::At(now));
        assert!(Heard::Never < earlier && earlier < Heard::Always);
        assert!(!Heard::Never.within(Duration::MAX));
        assert!(!earlier.within(Duration::from_secs(1)));
        assert!(earlier.within(Duration::from_secs(60)) && Heard::Always.within(Duration::ZERO));
    }
}
