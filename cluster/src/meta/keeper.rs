//! Keeps this node a member: says that it is up, renews its lease, and declares others down.
//!
//! ```text
//! member: not known ─ NodeUp ─▶ up ─ renewals ─▶ … ─ declared down ─▶ next incarnation ─ NodeUp ─▶ up
//! leader: begin to grant ─▶ look who is silent ─ NodeDown
//! ```
//!
//! - Owns: two tasks per node. Alone they wait for company and cost nothing.
//! - Takes: the directory, and who leads. Gives: `NodeUp`, `NodeDown`, leases.
//! - Bound: one renewal under way, at most one per applied batch and at least one per `LEASE_RENEWAL`.
//! - Source: own design; the rules of leases are in `lease.rs`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    batch::Batches,
    command::{MetaCommand, MetaReply, Refusal},
    lease::LOOKS_APART_MAX,
    leases::{Answer, Ask, Leases},
};
use crate::{
    clock,
    directory::Directory,
    id::NodeId,
    limits::{LEASE_RENEWAL, PROPOSE_TIMEOUT},
    membership::handle::all_know,
    raft_group::lead::Lead,
    runtime,
    storage::folder::incarnation::Incarnation,
};

/// How long to wait before somebody is asked once more.
const RETRY: Duration = Duration::from_millis(50);

/// How long to wait before a node says once more that it is up.
const UP_RETRY: Duration = Duration::from_millis(200);

/// A renewal without an answer is tried again after this time.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the leader looks who is silent.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// What this node says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    /// `host:port` for other members.
    pub(crate) cluster: String,
    /// `host:port` that clients may be sent to.
    pub(crate) client: String,
}

impl Addresses {
    /// Returns what says that a start of a node is up, in words that all members of `directory` know.
    pub(crate) fn up(&self, who: &Incarnation, directory: &Directory) -> MetaCommand {
        let (node, incarnation) = (who.node(), who.now());
        let (cluster_addr, client_addr) = (self.cluster.clone(), self.client.clone());
        let version = env!("CARGO_PKG_VERSION").into();
        match who.record().folder.filter(|_| all_know(directory).is_ok()) {
            Some(folder) => MetaCommand::NodeUpFrom {
                node,
                incarnation,
                cluster_addr,
                client_addr,
                version,
                folder,
            },
            None => MetaCommand::NodeUp { node, incarnation, cluster_addr, client_addr, version },
        }
    }
}

/// What the directory says of this node.
enum Standing {
    /// Nothing of this start yet.
    Unknown,
    Alone,
    Up,
    /// It was declared down, or a later start was seen: the number of the latest.
    Down(u64),
    /// A later start was seen than this folder knows of: it is an older copy.
    Superseded,
    Removed,
}

/// See the head of the file.
pub(super) struct Keeper {
    pub(super) leases: Arc<Leases>,
    pub(super) batches: Arc<Batches>,
    pub(super) addresses: Addresses,
    /// The directory has had a start of this process: from then on every later number is its own.
    pub(super) was_up: AtomicBool,
}

impl Keeper {
    fn standing(&self) -> Standing {
        let directory = self.leases.published.directory();
        let (node, incarnation) = (self.leases.node, self.leases.incarnation.now());
        match directory.nodes.get(&node) {
            _ if directory.removed.contains(&node) => Standing::Removed,
            Some(me) if me.incarnation == incarnation && me.up => {
                self.was_up.store(true, Ordering::Relaxed);
                if directory.is_alone(node) { Standing::Alone } else { Standing::Up }
            }
            // A folder writes down each number before anybody hears of it.
            Some(me) if me.incarnation > incarnation && !self.was_up.load(Ordering::Relaxed) => {
                Standing::Superseded
            }
            Some(me) if me.incarnation >= incarnation => Standing::Down(me.incarnation),
            _ => Standing::Unknown,
        }
    }

    /// Keeps this node a member, for as long as the node runs.
    pub(super) async fn be_member(self: Arc<Self>) {
        let mut changed = self.leases.published.announced();
        let mut lead = self.leases.port.lead();
        loop {
            changed.borrow_and_update();
            let is_member = match self.standing() {
                Standing::Alone => changed.changed().await.is_ok(),
                Standing::Up => self.renew(&mut changed, &mut lead).await,
                Standing::Unknown => self.say_up(&mut changed).await,
                Standing::Down(latest) => self.be_born_again(latest).await,
                Standing::Superseded => self.is_superseded(),
                Standing::Removed => self.is_removed(),
            };
            if !is_member {
                self.leases.give_up();
                return;
            }
        }
    }

    fn is_removed(&self) -> bool {
        self.leases.removed.send_replace(true);
        false
    }

    fn is_superseded(&self) -> bool {
        self.leases.superseded.send_replace(true);
        false
    }

    /// Says once that this node is up, and waits until what came of it is in the directory here; `false` if it
    /// is no member.
    async fn say_up(&self, changed: &mut watch::Receiver<u64>) -> bool {
        let up = self.addresses.up(&self.leases.incarnation, &self.leases.published.directory());
        match self.batches.push(&up).await {
            // Which later start is the one that counts stands in the directory.
            Ok((MetaReply::Done | MetaReply::Fenced, index)) => {
                let known = changed.wait_for(|known| *known >= index);
                // A node that is behind says so again, which changes nothing.
                let _ = tokio::time::timeout(PROPOSE_TIMEOUT, known).await;
                true
            }
            Ok((MetaReply::Refused(Refusal::Removed), _)) => self.is_removed(),
            Ok((MetaReply::Refused(Refusal::OtherFolder), _)) => self.is_superseded(),
            Ok((reply, _)) => {
                tracing::error!(?reply, "the directory refuses this node");
                tokio::time::sleep(RENEWAL_TIMEOUT).await;
                true
            }
            // No leader yet, or a disk that is full.
            Err(_) => {
                tokio::time::sleep(UP_RETRY).await;
                true
            }
        }
    }

    /// Takes the incarnation behind `latest`: what this node held in an older one is gone.
    async fn be_born_again(&self, latest: u64) -> bool {
        self.leases.give_up();
        let incarnation = self.leases.incarnation.clone();
        let node = self.leases.node;
        match runtime::aside(move || incarnation.take_behind(latest)).await {
            Some(Ok(incarnation)) => {
                tracing::warn!(
                    node = node.0,
                    incarnation,
                    "declared down; going on as a new start"
                );
            }
            Some(Err(error)) => {
                tracing::error!(%error, "the next incarnation cannot be written down");
                tokio::time::sleep(UP_RETRY).await;
            }
            // The node is stopping.
            None => tokio::time::sleep(UP_RETRY).await,
        }
        true
    }

    /// Renews the lease once, then waits until it is time again.
    async fn renew(
        &self,
        changed: &mut watch::Receiver<u64>,
        lead: &mut watch::Receiver<Lead>,
    ) -> bool {
        let incarnation = self.leases.incarnation.now();
        let applied = *changed.borrow_and_update();
        let leader = lead.borrow_and_update().leader;
        let sent = clock::now();
        let asked = self.leases.ask(Ask::Renew { incarnation, applied });
        let answer = tokio::select! {
            answer = tokio::time::timeout(RENEWAL_TIMEOUT, asked) => answer.ok().flatten(),
            // Whom this was sent to will not answer.
            _ = lead.wait_for(|lead| lead.leader != leader) => None,
        };
        match answer {
            Some(Answer::Granted { index }) => self.leases.granted(sent, incarnation, index),
            Some(Answer::Fenced) => return self.be_born_again(incarnation).await,
            _ => {
                tokio::time::sleep(RETRY).await;
                return true;
            }
        }
        let again = tokio::time::sleep_until((sent + LEASE_RENEWAL).into());
        tokio::select! {
            changed = changed.changed() => changed.is_ok(),
            led = lead.wait_for(|lead| lead.leader != leader) => led.is_ok(),
            () = again => true,
        }
    }

    /// Grants leases and declares nodes down while this node leads others, for as long as it runs.
    pub(super) async fn watch_over(self: Arc<Self>) {
        let mut changed = self.leases.published.announced();
        let mut lead = self.leases.port.lead();
        loop {
            changed.borrow_and_update();
            let led = *lead.borrow_and_update();
            let has_company = self.leases.published.directory().nodes.len() > 1;
            if led.here && has_company {
                self.leases.begin(led.term);
                let is_open = self.lead(led, &mut lead).await;
                self.leases.end();
                if !is_open {
                    return;
                }
                continue;
            }
            // The directory of who does not lead is none of this task's business.
            let is_open = tokio::select! {
                changed = changed.changed(), if led.here => changed.is_ok(),
                led = lead.changed() => led.is_ok(),
            };
            if !is_open {
                return;
            }
        }
    }

    /// Looks after everybody until another leads, or nobody else is there.
    async fn lead(&self, led: Lead, lead: &mut watch::Receiver<Lead>) -> bool {
        let mut looked = clock::now();
        let mut declared = BTreeMap::new();
        loop {
            tokio::select! {
                led_now = lead.wait_for(|now| *now != led) => return led_now.is_ok(),
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            let now = clock::now();
            let slept = now.saturating_duration_since(looked) > LOOKS_APART_MAX;
            looked = now;
            for (node, incarnation) in self.leases.look(slept) {
                self.declare_down(now, node, incarnation, &mut declared);
            }
            if self.leases.published.directory().nodes.len() < 2 {
                return true;
            }
        }
    }

    fn declare_down(
        &self,
        now: Instant,
        node: NodeId,
        incarnation: u64,
        declared: &mut BTreeMap<(NodeId, u64), Instant>,
    ) {
        // A leader whose quorum is silent hears of nobody; and this node knows that it is up.
        if node == self.leases.node || self.leases.port.leads().is_none() {
            return;
        }
        declared.retain(|_, at| now.saturating_duration_since(*at) < PROPOSE_TIMEOUT);
        if declared.insert((node, incarnation), now).is_none() {
            tracing::warn!(node = node.0, incarnation, "node is silent, declared down");
            // If nobody hears of it, it is said again.
            drop(self.batches.push(&MetaCommand::NodeDown { node, incarnation }));
        }
    }
}
