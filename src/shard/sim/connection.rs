//! A connection of a device: at some node, with the epoch of its claim, and commands under way.
//!
//! - Owns: what it has asked for and not heard of. Takes: outcomes. Gives: commands and questions; news for its device.
//! - One that was taken over lives on for a while and does not know it, as one behind a slow link does.
//! - Bound: `OPEN_MAX` commands under way.
//! - Source: own design; `actors/connection`.

use std::collections::BTreeMap;

use hongqiao_cluster::{
    id::ShardId,
    sim::{Outcome, Stage},
};

use super::{event::Event, oracle::Oracle};
use crate::{
    model::{
        id::{Epoch, MessageId, Position, SessionKey},
        message::Qos,
        topic::TopicFilter,
        wire::SubscriptionOptions,
    },
    shard::{
        ask::{Answer, Question},
        command::{Command, Holder, Reply, StoredSubscription, decode_replies, encode_batch},
        query::PageLimits,
    },
};

const OPEN_MAX: usize = 16;

/// The wall clock of a world: sessions and messages do not end by it.
pub(super) const NOW_MS: u64 = 1_000_000;

const FILTERS: [&str; 5] = ["t/0", "t/1", "t/2", "t/+", "#"];

/// What a command was about, for whom its outcome matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Claim,
    /// Of an exchange of QoS 2, and the same for a shard.
    Begin,
    Append(ShardId),
    End,
    /// With QoS 1.
    Publish,
    Release,
    /// Its outcome only says whether the connection may go on.
    Other,
}

/// What a connection has to tell its device.
#[derive(Debug)]
pub(super) enum News {
    Said(Doing, Reply),
    /// Refused, or nobody knows.
    Failed(Doing),
}

pub(super) struct Connection {
    /// The client of the world that speaks for it.
    client: usize,
    pub(super) node: usize,
    life: (u64, u64),
    number: u64,
    key: SessionKey,
    pub(super) shard: ShardId,
    pub(super) epoch: Epoch,
    open: BTreeMap<u64, (Doing, ShardId)>,
    reading: Option<(u64, Position)>,
    read_to: Position,
    /// Read and not acknowledged.
    pub(super) unread: Vec<Position>,
    /// The last page said that nothing else waits.
    pub(super) caught_up: bool,
    fenced: bool,
}

impl Connection {
    /// Opens one at a node that runs.
    pub(super) fn open(
        stage: &Stage<'_>,
        (client, number): (usize, u64),
        node: usize,
        (key, shard): (SessionKey, ShardId),
    ) -> Option<Self> {
        let life = stage.life(node)?;
        Some(Self {
            client,
            node,
            life,
            number,
            key,
            shard,
            epoch: Epoch::default(),
            open: BTreeMap::new(),
            reading: None,
            read_to: Position::START,
            unread: Vec::new(),
            caught_up: false,
            fenced: false,
        })
    }

    pub(super) fn lives(&self, stage: &Stage<'_>) -> bool {
        !self.fenced && stage.lives(self.node, self.life)
    }

    /// Tells whether something is under way that others may get.
    pub(super) fn publishes(&self) -> bool {
        let publishes = |doing: &Doing| matches!(doing, Doing::Publish | Doing::Append(_));
        self.open.values().any(|(doing, _)| publishes(doing))
    }

    /// Tells whether this client of the world speaks for it.
    pub(super) fn is_of(&self, client: usize) -> bool {
        self.client == client
    }

    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty() && self.reading.is_none()
    }

    pub(super) fn holder(&self) -> Holder {
        let (node, incarnation) = self.life;
        Holder { node, incarnation, connection: self.number }
    }

    /// The session is its own from here on.
    pub(super) fn begin(&mut self, epoch: Epoch, cursor: Position) {
        (self.epoch, self.read_to) = (epoch, cursor);
    }

    /// Proposes commands as one entry at some node; `false` if that cannot be now.
    pub(super) fn send_at(
        &mut self,
        stage: &mut Stage<'_>,
        node: usize,
        (shard, doing): (ShardId, Doing),
        commands: &[Command],
    ) -> bool {
        if self.open.len() >= OPEN_MAX {
            return false;
        }
        let batch = encode_batch(commands);
        let sent = stage.propose(self.client, node, shard, &batch);
        if let Some(number) = sent {
            self.open.insert(number, (doing, shard));
        }
        sent.is_some()
    }

    /// Proposes a command of the session at the node of the connection.
    pub(super) fn send(&mut self, stage: &mut Stage<'_>, doing: Doing, command: Command) -> bool {
        self.send_at(stage, self.node, (self.shard, doing), &[command])
    }

    /// Takes in what has become of its commands and questions.
    pub(super) fn hear(&mut self, stage: &mut Stage<'_>, oracle: &Oracle) -> Vec<News> {
        let mut news = Vec::new();
        for (number, outcome) in stage.outcomes(self.client) {
            let Some((doing, shard)) = self.open.remove(&number) else { continue };
            let Outcome::Told { index, reply } = outcome else {
                news.push(News::Failed(doing));
                continue;
            };
            let replies = decode_replies(&reply).expect("replies");
            oracle.see(&Event::Told { shard, index, replies: &replies });
            // A claim that is refused is made again; anything else ends the connection.
            self.fenced |= replies.contains(&Reply::Fenced) && doing != Doing::Claim;
            news.extend(replies.into_iter().map(|reply| News::Said(doing, reply)));
        }
        for (question, answer) in stage.answers(self.client) {
            let Some((_, after)) = self.reading.take_if(|(open, _)| *open == question) else {
                continue;
            };
            let Some((index, answer)) = answer else { continue };
            let Ok(Answer::Page(page)) = Answer::decode(&answer) else { panic!("no page") };
            let (shard, who) = (self.shard, (self.key, self.epoch));
            oracle.see(&Event::Read { shard, index, who, after, page: &page });
            let Ok(page) = page else {
                self.fenced = true;
                continue;
            };
            self.read_to = page.read_to;
            self.caught_up = page.caught_up;
            self.unread.extend(page.messages.iter().map(|queued| queued.position));
        }
        news
    }

    /// Asks for the next page, unless one is on its way.
    pub(super) fn read(&mut self, stage: &mut Stage<'_>) {
        if self.reading.is_some() {
            return;
        }
        let (key, epoch, after) = (self.key, self.epoch, self.read_to);
        let messages = usize::try_from(1 + stage.below(6)).unwrap_or(1);
        let limits = PageLimits { messages, bytes: 1 << 16 };
        let question = Question::Page { key, epoch, after, limits, now_ms: NOW_MS };
        let question = question.encode().expect("a question");
        self.caught_up = false;
        let asked = stage.ask(self.client, self.node, self.shard, question);
        self.reading = asked.map(|asked| (asked, after));
    }

    /// Acknowledges some of what was read: all up to a message, or one behind others.
    pub(super) fn acknowledge(&mut self, stage: &mut Stage<'_>) {
        if self.unread.is_empty() {
            return;
        }
        let at = usize::try_from(stage.below(self.unread.len() as u64)).unwrap_or(0);
        let (key, epoch) = (self.key, self.epoch);
        let command = if stage.below(3) == 0 {
            let (cursor, beyond) = (Position::START, vec![self.unread.remove(at)]);
            Command::Acknowledge { key, epoch, cursor, beyond }
        } else {
            let (cursor, beyond) = (self.unread[at], Vec::new());
            self.unread.drain(..=at);
            Command::Acknowledge { key, epoch, cursor, beyond }
        };
        self.send(stage, Doing::Other, command);
    }

    pub(super) fn subscribe(&mut self, stage: &mut Stage<'_>) {
        let (key, epoch, filter) = (self.key, self.epoch, some_filter(stage));
        let qos = [Qos::AtLeastOnce, Qos::ExactlyOnce][usize::from(stage.below(2) == 0)];
        let options = SubscriptionOptions { qos, ..Default::default() };
        let item = StoredSubscription { filter, share: None, options, subscription_id: 0 };
        let (items, filters_max) = (vec![item], 1_000);
        self.send(stage, Doing::Other, Command::Subscribe { key, epoch, items, filters_max });
    }

    pub(super) fn unsubscribe(&mut self, stage: &mut Stage<'_>) {
        let (key, epoch, items) = (self.key, self.epoch, vec![(None, some_filter(stage))]);
        self.send(stage, Doing::Other, Command::Unsubscribe { key, epoch, items });
    }

    pub(super) fn release(&mut self, stage: &mut Stage<'_>, expiry_secs: Option<u32>) -> bool {
        let (key, epoch) = (self.key, self.epoch);
        let (will_dropped, inflight, now_ms) = (false, Vec::new(), NOW_MS);
        let release = Command::Release { key, epoch, expiry_secs, will_dropped, inflight, now_ms };
        self.send(stage, Doing::Release, release)
    }

    /// Does what somebody does who has not heard yet that the session is another's.
    pub(super) fn haunt(&mut self, stage: &mut Stage<'_>) {
        let (key, epoch) = (self.key, self.epoch);
        // Not those of the client: its next connection may come to them before this one hears of it.
        let packet_id = u16::try_from(100 + stage.below(3)).unwrap_or(100);
        match stage.below(7) {
            0 => self.subscribe(stage),
            1 => self.unsubscribe(stage),
            2 => self.acknowledge(stage),
            3 => self.read(stage),
            4 => {
                let id = MessageId::in_exchange(key, u16::MAX, u64::MAX);
                self.send(stage, Doing::Other, Command::InBegin { key, epoch, packet_id, id });
            }
            5 => {
                self.send(stage, Doing::Other, Command::InEnd { key, epoch, packet_id });
            }
            _ => {
                self.release(stage, None);
            }
        }
    }
}

fn some_filter(stage: &mut Stage<'_>) -> TopicFilter {
    let at = usize::try_from(stage.below(FILTERS.len() as u64)).unwrap_or(0);
    TopicFilter::parse(FILTERS[at]).expect("a filter")
}
