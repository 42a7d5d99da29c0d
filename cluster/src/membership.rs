//! Keeps the groups where the directory wants them, and tells the directory where that shall be.
//!
//! ```text
//! directory ─▶ peers of the links, and who is let in no more
//!           ─▶ every group led here: one step towards its members (`raft_group/members.rs`)
//!           ─▶ meta group led here: one shard after the other to its place (`mover.rs`, `placement.rs`);
//!              members that leave, once no group has them: released, and removed when they are down
//!           ─▶ shards led here that another shall lead: handed over, one at a time
//! disk      ─▶ groups led here while it takes no writes: handed over, all of them
//! ```
//!
//! - Owns: one task per node, and nothing that must survive: whoever leads next goes on from what is there.
//! - Takes: the directory, the groups. Gives: changes of members, `SetReplicas`, `Released`, `RemoveNode`.
//! - Bound: one shard on the move in the cluster; a node that is alone waits for news and does nothing.
//! - A group takes steps only while its leader may rely on its directory: what a barrier has passed is
//!   known wherever a step is taken, so no group goes back to members of before.
//! - Source: own design; Raft §4.

pub(crate) mod departure;
pub(crate) mod error;
pub(crate) mod handle;
pub(crate) mod mover;
pub(crate) mod orders;
pub(crate) mod progress;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use parking_lot::Mutex;

use self::{
    mover::Mover,
    orders::{Order, Outcome},
    progress::Move,
};
use crate::{
    clock,
    directory::{Directory, Leaving},
    id::{NodeId, ShardId},
    meta::{MetaCommand, MetaHandle, MetaReply},
    placement,
    raft_group::{
        group::Group,
        members::{Report, Wanted},
    },
    transport::Network,
};

/// How often groups on the move are looked at.
const BUSY_INTERVAL: Duration = Duration::from_millis(25);

/// How often groups at rest are: their leaders change.
const REST_INTERVAL: Duration = Duration::from_millis(500);

/// Time between two hand-overs of one node.
const BALANCE_INTERVAL: Duration = Duration::from_secs(1);

/// A node hands nothing over before it has run for this long: others may still be starting.
const BALANCE_AFTER: Duration = Duration::from_secs(5);

/// What is known of groups on the move.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// While this node leads the meta group.
    mover: Option<Mover>,
    /// What the one that does has said last.
    heard: Vec<Move>,
}

impl Known {
    pub(crate) fn moves(&self, directory: &Directory) -> Vec<Move> {
        match &self.mover {
            Some(mover) => mover.moves(clock::now(), directory),
            None => self.heard.clone(),
        }
    }
}

/// See [`Known`].
pub(crate) type Moves = Arc<Mutex<Known>>;

/// See the head of the file.
pub(crate) struct Keeper {
    pub(crate) node: NodeId,
    /// By number; the last is the meta group.
    pub(crate) groups: Vec<Arc<Group>>,
    pub(crate) meta: MetaHandle,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) moves: Moves,
}

/// What the task knows from one turn to the next.
struct State {
    peers: BTreeMap<NodeId, String>,
    removed: usize,
    ask_at: Instant,
    balance_at: Instant,
}

impl Keeper {
    /// Runs until the runtime ends.
    pub(crate) async fn run(self) {
        let mut changed = self.meta.changed();
        let mut look_at = clock::now();
        let mut state = State {
            peers: BTreeMap::new(),
            removed: 0,
            ask_at: look_at,
            balance_at: look_at + BALANCE_AFTER,
        };
        loop {
            changed.borrow_and_update();
            let directory = self.meta.directory();
            self.meet(&directory, &mut state);
            let others = directory.nodes.keys().any(|node| *node != self.node);
            // Who is alone again may still have members to forget.
            let others = others || self.groups.iter().any(|group| group.has_company());
            if others && clock::now() >= look_at {
                join_all(self.groups.iter().map(|group| group.relieve(&*self.network))).await;
                let busy = self.move_on(&directory, &mut state.ask_at).await;
                if !busy {
                    self.balance(&directory, &mut state.balance_at).await;
                }
                look_at = clock::now() + if busy { BUSY_INTERVAL } else { REST_INTERVAL };
            }
            let ended = tokio::select! {
                changed = changed.changed() => changed.is_err(),
                () = tokio::time::sleep_until(look_at.into()), if others => false,
            };
            if ended {
                return;
            }
        }
    }

    /// Tells the links who the peers are. Who is not in the directory yet knows them from its admission.
    fn meet(&self, directory: &Directory, state: &mut State) {
        if directory.removed.len() != state.removed {
            state.removed = directory.removed.len();
            self.network.set_removed(directory.removed.iter().copied().collect());
        }
        let others = directory.nodes.iter().filter(|(node, _)| **node != self.node);
        let peers: BTreeMap<_, _> =
            others.map(|(node, member)| (*node, member.cluster_addr.clone())).collect();
        if directory.nodes.contains_key(&self.node) && peers != state.peers {
            state.peers.clone_from(&peers);
            self.network.set_peers(peers);
        }
    }

    /// Takes a step with every group that is led here; gives whether something is on the move.
    async fn move_on(&self, directory: &Directory, ask_at: &mut Instant) -> bool {
        let steps = self.groups.iter().filter_map(|group| {
            let wanted = self.wanted(group, directory)?;
            Some(async move { group.step(&wanted, &*self.network).await })
        });
        let steps: Vec<_> = if self.meta.has_lease() { steps.collect() } else { Vec::new() };
        let steps = join_all(steps).await;
        if !self.meta_group().is_some_and(|meta| meta.lead.now().here) {
            self.moves.lock().mover = None;
            if clock::now() >= *ask_at {
                *ask_at = clock::now() + REST_INTERVAL;
                self.hear().await;
            }
            return steps.contains(&false);
        }
        let placed = self.place(directory).await;
        let parted = self.part(directory).await;
        !placed || !parted || steps.contains(&false)
    }

    /// Asks the leader of the meta group what is on the move, for whoever asks this node.
    async fn hear(&self) {
        let leader = self.meta_group().and_then(|meta| meta.lead.now().leader);
        let Some(leader) = leader.filter(|leader| *leader != self.node) else { return };
        if let Ok(Outcome::Moves(moves)) = orders::give(&*self.network, leader, &Order::Moves).await
        {
            self.moves.lock().heard = moves;
        }
    }

    fn meta_group(&self) -> Option<&Arc<Group>> {
        self.groups.last()
    }

    fn is_meta(&self, group: &Group) -> bool {
        usize::from(group.number) + 1 == self.groups.len()
    }

    fn wanted(&self, group: &Group, directory: &Directory) -> Option<Wanted> {
        if !group.lead.now().here {
            return None;
        }
        if !self.is_meta(group) {
            let replicas = directory.shards.get(usize::from(group.number))?;
            let voters: BTreeSet<NodeId> = replicas.iter().copied().collect();
            return Some(Wanted { voters, first: replicas.first().copied(), ..Wanted::default() });
        }
        let (staying, up) = (directory.staying(), directory.up());
        let voters = placement::meta_voters(&staying, &up, &group.voters());
        // Who leaves hears with the log that it may go; who is down hears nothing.
        let hears = |node: &&NodeId| staying.contains(node) || up.contains(node);
        let all = directory.nodes.keys().filter(hears);
        let learners = all.copied().filter(|node| !voters.contains(node)).collect();
        Some(Wanted { voters, learners, first: None })
    }

    /// Sets the next shard on its way, if none is; gives whether all are where they shall be.
    async fn place(&self, directory: &Directory) -> bool {
        if directory.shards.iter().any(Vec::is_empty) {
            return true;
        }
        let open = self.moves.lock().mover.get_or_insert_default().open(directory);
        let reports = open.iter().map(|shard| self.ask(directory, *shard));
        let reports = join_all(reports).await;
        let now = clock::now();
        let (next, is_settled) = {
            let mut known = self.moves.lock();
            let mover = known.mover.get_or_insert_default();
            for (shard, report) in open.into_iter().zip(reports) {
                mover.take(now, directory, shard, report);
            }
            (mover.next(now, directory), mover.is_settled(directory))
        };
        let Some((shard, replicas)) = next else { return is_settled };
        tracing::info!(shard = shard.0, ?replicas, "a shard gets its place");
        let command = MetaCommand::SetReplicas { shard, replicas };
        if let Err(why) = self.meta.propose(command).await {
            tracing::warn!(shard = shard.0, %why, "a shard's place is not set");
        }
        false
    }

    /// Asks for the members of a shard: its leader as far as one is known, else everybody.
    async fn ask(&self, directory: &Directory, shard: ShardId) -> Option<Report> {
        let group = self.groups.get(usize::from(shard.0))?;
        if let Some(report) = group.report() {
            return Some(report);
        }
        let known = group.lead.now().leader.or(directory.leader(shard).map(|led| led.node));
        if let Some(known) = known.filter(|node| *node != self.node)
            && let Some(report) = self.ask_node(known, shard).await
        {
            return Some(report);
        }
        let others = directory.up().into_iter().filter(|node| *node != self.node);
        let asked = join_all(others.map(|node| self.ask_node(node, shard))).await;
        asked.into_iter().flatten().next()
    }

    async fn ask_node(&self, node: NodeId, group: ShardId) -> Option<Report> {
        match orders::give(&*self.network, node, &Order::Report { group }).await {
            Ok(Outcome::Report(report)) => Some(report),
            _ => None,
        }
    }

    /// Lets members go that leave and that no group needs; gives whether none is left.
    async fn part(&self, directory: &Directory) -> bool {
        let is_settled = || {
            let known = self.moves.lock();
            known.mover.as_ref().is_some_and(|mover| mover.is_settled(directory))
        };
        let has_none = |node: &NodeId| !directory.shards.iter().any(|at| at.contains(node));
        for (node, how) in &directory.leaving {
            let is_up = directory.nodes.get(node).is_some_and(|member| member.up);
            // The rest is up to the node itself.
            let waits = *how == Leaving::Released && is_up;
            if waits || !has_none(node) || !is_settled() {
                continue;
            }
            // Nobody takes a step by an older directory from here on, so nobody brings it back.
            self.meta.barrier(directory.index).await;
            if !self.is_gone(*node, is_up, directory).await {
                continue;
            }
            let (node, up) = (*node, is_up);
            let command =
                if up { MetaCommand::Released { node } } else { MetaCommand::RemoveNode { node } };
            match self.meta.propose(command).await {
                Ok((MetaReply::Done, _)) if up => {
                    tracing::info!(node = node.0, "no group needs the member that leaves");
                }
                Ok((MetaReply::Done, _)) => {
                    tracing::info!(node = node.0, "member removed from the cluster");
                }
                other => tracing::warn!(node = node.0, ?other, "a member cannot be let go of"),
            }
        }
        directory.leaving.is_empty()
    }

    /// Returns whether no group has a node any more, by what each one's leader says now. One that is up still
    /// follows the meta group, without a vote.
    async fn is_gone(&self, node: NodeId, is_up: bool, directory: &Directory) -> bool {
        let Some(meta) = self.meta_group().and_then(|meta| meta.report()) else { return false };
        let is_out = !meta.voters.contains(&node) && (is_up || !meta.all.contains(&node));
        if !meta.settled || !is_out {
            return false;
        }
        let shards = (0..directory.shards.len()).filter_map(|shard| u16::try_from(shard).ok());
        let reports = shards.map(|shard| self.ask(directory, ShardId(shard)));
        let is_out = |report: &Report| report.settled && !report.all.contains(&node);
        join_all(reports).await.iter().all(|report| report.as_ref().is_some_and(is_out))
    }

    /// Hands one shard over to the replica that shall lead it.
    async fn balance(&self, directory: &Directory, at: &mut Instant) {
        if clock::now() < *at {
            return;
        }
        let shards = self.groups.iter().zip(&directory.shards);
        let to = shards
            .filter(|(group, _)| {
                group.lead.now().here && !group.is_pinned() && group.may_hand_over()
            })
            .find_map(|(group, replicas)| {
                let first = *replicas.first().filter(|first| **first != self.node)?;
                let up = directory.nodes.get(&first).is_some_and(|member| member.up);
                (up && group.is_followed_by(first)).then_some((group, first))
            });
        if let Some((group, first)) = to {
            if !group.hand_over(first, &*self.network, false).await {
                group.put_off_hand_over();
            }
            *at = clock::now() + BALANCE_INTERVAL;
        }
    }
}
