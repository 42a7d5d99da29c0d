//! A device: one durable session, and the connections that claim it one after the other.
//!
//! ```text
//! Away ─▶ Claiming ─▶ online ─(node dies, outcome unknown, taken over, released)─▶ Away
//! ```
//!
//! - Owns: what its client remembers: the exchange that is open, numbers of its messages.
//! - Takes: turns. Gives: claims by way of the home of its session, and what an MQTT client does then.
//! - Bound: two connections, of which one is over and does not know.
//! - Source: own design; `actors/home.rs`, `actors/home/client.rs` for claims.

use hongqiao_cluster::{id::ShardId, sim::Stage};

use super::{
    connection::{Connection, Doing, NOW_MS, News},
    exchange::{APP, Exchange, append},
    oracle::Oracle,
    payload::Payload,
};
use crate::{
    model::id::{MessageId, SessionKey},
    shard::command::{Claimed, Command, Reply, SessionClaim},
};

/// A claim that is not granted within this time is given up.
const PATIENCE_MS: u64 = 8_000;

/// Claims of a session until numbers of its exchanges come again, as in `actors/beginnings.rs`.
const RANGES: u16 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No connection until then.
    Away(u64),
    /// Looks for a home until then.
    Claiming(u64),
    /// A home has taken the claim in this term, and asks the shard at that time: it has a connection to kick first.
    Granting(u64, usize, u64),
    /// The shard was asked.
    Asked(u64),
    Online,
}

pub(super) struct Device {
    pub(super) key: SessionKey,
    name: usize,
    /// Clients of the world that speak for its connections in turn.
    clients: [usize; 2],
    phase: Phase,
    connection: Option<Connection>,
    /// One that was taken over, and until when it goes on.
    ghost: Option<(Connection, u64)>,
    connections: u64,
    clean: bool,
    /// Lives of the client: each begins without a memory.
    life: u64,
    number: u64,
    exchange: Option<Exchange>,
    ids: u64,
    /// First number of the exchanges of this claim.
    base: u16,
    /// Claims that were granted.
    pub(super) claims: u64,
    /// All was read and acknowledged after everybody had published.
    pub(super) drained: bool,
}

impl Device {
    pub(super) fn new(name: usize, clients: [usize; 2]) -> Self {
        // Buckets far apart, so that devices are in several shards.
        let key = SessionKey(name as u128 * 1_365 + 7);
        Self {
            key,
            name,
            clients,
            phase: Phase::Away(0),
            connection: None,
            ghost: None,
            connections: 0,
            clean: false,
            life: 0,
            number: 0,
            exchange: None,
            ids: 0,
            base: 0,
            claims: 0,
            drained: false,
        }
    }

    /// Tells whether it has something under way that others may get.
    pub(super) fn publishes(&self) -> bool {
        let ghost = self.ghost.as_ref().map(|(ghost, _)| ghost);
        let mut both = self.connection.iter().chain(ghost);
        self.exchange.is_some() || both.any(Connection::publishes)
    }

    /// Somebody still publishes: what was read may not be all.
    pub(super) fn read_again(&mut self) {
        self.drained = false;
        if let Some(connection) = &mut self.connection {
            connection.caught_up = false;
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn act(&mut self, stage: &mut Stage<'_>, oracle: &Oracle, ending: bool) {
        self.haunt(stage, oracle, ending);
        self.hear(stage, oracle);
        let now_ms = stage.now_ms();
        match self.phase {
            Phase::Away(until) if now_ms >= until || ending => self.connect(stage, ending),
            Phase::Away(_) => {}
            Phase::Claiming(until) if now_ms > until => self.leave(stage),
            Phase::Claiming(_) => self.find_home(stage),
            Phase::Granting(at, home, term) if now_ms >= at => self.claim(stage, home, term),
            Phase::Granting(..) | Phase::Asked(_) => {}
            Phase::Online if ending => self.drain(stage),
            Phase::Online => self.live(stage),
        }
        let dead = self.connection.as_ref().is_some_and(|connection| !connection.lives(stage));
        if dead {
            self.leave(stage);
        }
    }

    /// Lets the connection go without a word, and comes back later.
    fn leave(&mut self, stage: &mut Stage<'_>) {
        if let Some(gone) = self.connection.take() {
            let until = stage.now_ms() + 200 + stage.below(2_500);
            self.ghost = Some((gone, until));
        }
        let longest = if stage.below(3) == 0 { 1_500 } else { 150 };
        self.phase = Phase::Away(stage.now_ms() + stage.below(longest));
    }

    fn connect(&mut self, stage: &mut Stage<'_>, ending: bool) {
        let node = usize::try_from(stage.below(stage.nodes() as u64)).unwrap_or(0);
        let client = self.clients[usize::try_from(self.connections % 2).unwrap_or(0)];
        if self.ghost.as_ref().is_some_and(|(ghost, _)| ghost.is_of(client)) {
            return;
        }
        let shard = self.key.bucket().shard(stage.shards());
        let number = (self.name as u64) << 32 | self.connections;
        self.connection = Connection::open(stage, (client, number), node, (self.key, shard));
        if self.connection.is_some() {
            self.connections += 1;
            self.clean = !ending && stage.below(12) == 0;
            if self.clean {
                // The client forgets, whatever it will be told.
                self.life += 1;
                self.exchange = None;
            }
            self.phase = Phase::Claiming(stage.now_ms() + PATIENCE_MS);
        }
    }

    /// Any node that believes to lead the shard takes the claim.
    fn find_home(&mut self, stage: &mut Stage<'_>) {
        let Some(connection) = &self.connection else { return };
        let shard = connection.shard;
        let first = usize::try_from(stage.below(stage.nodes() as u64)).unwrap_or(0);
        let nodes = (0..stage.nodes()).map(|at| (first + at) % stage.nodes());
        let found = nodes.into_iter().find_map(|node| Some((node, stage.leads(node, shard)?)));
        let Some((home, term)) = found else { return };
        // The holder before is kicked first: he answers, or is waited for.
        let wait_ms = [0, 3, 60, 600, 2_000][usize::try_from(stage.below(5)).unwrap_or(0)];
        self.phase = Phase::Granting(stage.now_ms() + stage.below(wait_ms + 1), home, term);
    }

    fn claim(&mut self, stage: &mut Stage<'_>, home: usize, term: u64) {
        let Some(connection) = &mut self.connection else { return };
        let expires = stage.below(10) > 0;
        let claim = Box::new(SessionClaim {
            key: self.key,
            app: APP,
            client_id: format!("device-{}", self.name),
            clean_start: self.clean,
            expiry_secs: if expires { u32::MAX } else { 0 },
            will: None,
            holder: connection.holder(),
            now_ms: NOW_MS,
        });
        let what = (connection.shard, Doing::Claim);
        let claim = Command::ClaimIn { term, claim };
        let until = stage.now_ms() + 50;
        self.phase = match connection.send_at(stage, home, what, &[claim]) {
            true => Phase::Asked(until),
            false => Phase::Claiming(until + PATIENCE_MS),
        };
    }

    fn hear(&mut self, stage: &mut Stage<'_>, oracle: &Oracle) {
        let Some(mut connection) = self.connection.take() else { return };
        let mut over = false;
        for news in connection.hear(stage, oracle) {
            match news {
                News::Said(Doing::Claim, Reply::Claimed(claimed)) => {
                    over |= !self.claimed(stage, &mut connection, &claimed);
                }
                News::Said(Doing::Claim, _) | News::Failed(Doing::Claim) => {
                    self.phase = Phase::Claiming(stage.now_ms() + PATIENCE_MS);
                }
                News::Said(Doing::Release, _) | News::Failed(_) => over = true,
                News::Said(doing, reply) => {
                    let Some(exchange) = &mut self.exchange else { continue };
                    let what = (doing, &reply);
                    match exchange.hear(stage, &mut connection, self.key, what) {
                        Some(true) => self.exchange = None,
                        Some(false) => {}
                        None => over = true,
                    }
                }
            }
        }
        self.connection = Some(connection);
        if over {
            self.leave(stage);
        }
    }

    /// Goes online; `false` if nothing is stored, which is of no interest here.
    fn claimed(
        &mut self,
        stage: &mut Stage<'_>,
        connection: &mut Connection,
        claimed: &Claimed,
    ) -> bool {
        self.claims += 1;
        self.base = u16::from(claimed.claims) % RANGES * (u16::MAX / RANGES + 1);
        if !claimed.session_present {
            // The client begins anew, too.
            self.life += 1;
            self.exchange = None;
        }
        if let Some(exchange) = &mut self.exchange {
            exchange.resume();
        }
        connection.begin(claimed.epoch, claimed.cursor);
        self.phase = Phase::Online;
        let is_stored = claimed.epoch.0 != 0;
        if is_stored && claimed.subscriptions.is_empty() {
            connection.subscribe(stage);
        }
        is_stored
    }

    fn live(&mut self, stage: &mut Stage<'_>) {
        let Some(mut connection) = self.connection.take() else { return };
        if stage.below(6) == 0 {
            connection.read(stage);
        }
        if stage.below(12) == 0 {
            connection.acknowledge(stage);
        }
        self.go_on(stage, &mut connection);
        match stage.below(500) {
            0..8 => connection.subscribe(stage),
            8..11 => connection.unsubscribe(stage),
            11..25 => self.publish(stage, &mut connection),
            25..45 if self.exchange.is_none() => {
                self.number += 1;
                let packet_id = u16::try_from(1 + stage.below(3)).unwrap_or(1);
                let payload = Payload { life: self.life, number: self.number };
                self.exchange = Some(Exchange::new(packet_id, stage.below(3), payload));
            }
            45 => {
                let expiry_secs = (stage.below(6) == 0).then_some(0);
                connection.release(stage, expiry_secs);
            }
            46 => {
                // Taken over from elsewhere, in the middle of everything.
                self.connection = Some(connection);
                self.leave(stage);
                self.phase = Phase::Away(0);
                return;
            }
            _ => {}
        }
        self.connection = Some(connection);
    }

    fn go_on(&mut self, stage: &mut Stage<'_>, connection: &mut Connection) {
        let Some(exchange) = &mut self.exchange else { return };
        self.ids += 1;
        // Each claim begins another range of them: the numbers come again only when nothing is on its way any more.
        let fresh = MessageId::in_exchange(self.key, self.base, self.ids);
        exchange.go(stage, connection, self.key, fresh);
    }

    /// Publishes with QoS 1, and waits for no answer before the next.
    fn publish(&mut self, stage: &mut Stage<'_>, connection: &mut Connection) {
        for _ in 0..1 + stage.below(3) {
            self.number += 1;
            let payload = Payload { life: self.life, number: self.number };
            let command = append(self.key, None, stage.below(3), payload);
            for shard in (0..stage.shards()).map(ShardId) {
                let node = connection.node;
                connection.send_at(
                    stage,
                    node,
                    (shard, Doing::Publish),
                    std::slice::from_ref(&command),
                );
            }
        }
    }

    /// Ends what is open, and takes all that waits.
    fn drain(&mut self, stage: &mut Stage<'_>) {
        let Some(mut connection) = self.connection.take() else { return };
        self.go_on(stage, &mut connection);
        if connection.caught_up && connection.is_idle() && connection.unread.is_empty() {
            self.drained = self.exchange.is_none();
        }
        connection.acknowledge(stage);
        if !self.drained {
            connection.read(stage);
        }
        self.connection = Some(connection);
    }

    fn haunt(&mut self, stage: &mut Stage<'_>, oracle: &Oracle, ending: bool) {
        let Some((ghost, until)) = &mut self.ghost else { return };
        ghost.hear(stage, oracle);
        if (stage.now_ms() >= *until || ending || !ghost.lives(stage)) && ghost.is_idle() {
            self.ghost = None;
        } else if stage.now_ms() < *until && !ending && stage.below(60) == 0 {
            ghost.haunt(stage);
        }
    }
}
