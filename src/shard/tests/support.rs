//! A shard on a store in memory, and short ways to say commands.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use hongqiao_cluster::machine::Machine as _;

use crate::{
    model::{
        id::{AppId, Epoch, MessageId, Position, SessionKey},
        message::{Message, Qos},
        topic::{TopicFilter, TopicName},
        wire::SubscriptionOptions,
    },
    shard::{
        command::{
            AppUsage, Claimed, Command, Fact, Holder, Page, Quota, Reply, SessionClaim,
            StoredSubscription, StoredWill, decode_replies, encode_batch,
        },
        machine::ShardMachine,
        memory_store::MemoryStore,
        query::{self, PageLimits},
    },
};

pub(super) const APP: AppId = AppId(1);
pub(super) const NOW: u64 = 1_000_000;

pub(super) struct Shard {
    pub(super) machine: ShardMachine,
    pub(super) store: MemoryStore,
    pub(super) index: u64,
    facts: Arc<Mutex<Told>>,
}

/// What a shard told: the last usage of `APP`, and everything else.
#[derive(Default)]
struct Told {
    usage: AppUsage,
    others: Vec<Fact>,
}

fn machine(told: &Arc<Mutex<Told>>) -> ShardMachine {
    let told = Arc::clone(told);
    ShardMachine::new(Arc::new(move |fact| {
        let mut told = told.lock().unwrap();
        match fact {
            Fact::Usage { app: APP, used } => told.usage = used,
            Fact::Usage { .. } => {}
            other => told.others.push(other),
        }
    }))
}

impl Shard {
    pub(super) fn new() -> Self {
        let facts = Arc::default();
        let machine = machine(&facts);
        Self { machine, store: MemoryStore::default(), index: 0, facts }
    }

    /// Applies commands as one entry.
    pub(super) fn apply(&mut self, commands: &[Command]) -> Vec<Reply> {
        self.index += 1;
        let replies = self.machine.apply(self.index, &encode_batch(commands), &mut self.store);
        decode_replies(&replies).unwrap()
    }

    pub(super) fn one(&mut self, command: Command) -> Reply {
        self.apply(&[command]).remove(0)
    }

    /// Forgets all memory and starts from the store.
    pub(super) fn reload(&mut self) {
        self.facts.lock().unwrap().usage = AppUsage::default();
        self.machine = machine(&self.facts);
        self.machine.load(&self.store);
    }

    pub(super) fn facts(&self) -> Vec<Fact> {
        std::mem::take(&mut self.facts.lock().unwrap().others)
    }

    /// What the shard last told of `APP`'s usage.
    pub(super) fn usage(&self) -> AppUsage {
        self.facts.lock().unwrap().usage
    }

    /// Claims a session that never expires, without clean start.
    pub(super) fn claim(&mut self, key: u128) -> Claimed {
        self.claim_with(key, |_| {})
    }

    pub(super) fn claim_with(
        &mut self,
        key: u128,
        change: impl FnOnce(&mut SessionClaim),
    ) -> Claimed {
        let mut claim = claim(key);
        // Each claim is that of another connection.
        claim.holder.connection = self.index + 1;
        change(&mut claim);
        match self.one(Command::Claim(Box::new(claim))) {
            Reply::Claimed(claimed) => *claimed,
            other => panic!("no claim: {other:?}"),
        }
    }

    pub(super) fn subscribe(&mut self, key: u128, epoch: Epoch, items: &[StoredSubscription]) {
        let items = items.to_vec();
        let reply =
            self.one(Command::Subscribe { key: SessionKey(key), epoch, items, filters_max: 1_000 });
        assert!(
            matches!(reply, Reply::Subscribed(ref results) if results.iter().all(Result::is_ok))
        );
    }

    pub(super) fn unsubscribe(&mut self, key: u128, epoch: Epoch, filter: &str) -> Reply {
        let items = vec![(None, TopicFilter::parse(filter).unwrap())];
        self.one(Command::Unsubscribe { key: SessionKey(key), epoch, items })
    }

    /// Appends each message in an entry of its own; returns the last reply.
    pub(super) fn append(&mut self, messages: &[Message]) -> Reply {
        let mut last = Reply::Done;
        for message in messages {
            last = self.one(append(message.clone(), QUOTA));
        }
        last
    }

    pub(super) fn acknowledge(&mut self, key: u128, epoch: Epoch, cursor: Position) -> Reply {
        let beyond = Vec::new();
        self.one(Command::Acknowledge { key: SessionKey(key), epoch, cursor, beyond })
    }

    pub(super) fn release(&mut self, key: u128, epoch: Epoch, now_ms: u64) -> Reply {
        self.one(Command::Release {
            key: SessionKey(key),
            epoch,
            expiry_secs: None,
            will_dropped: false,
            inflight: Vec::new(),
            now_ms,
        })
    }

    pub(super) fn tick(&mut self, now_ms: u64) -> Reply {
        self.one(Command::Tick { now_ms, limit: 1_000 })
    }

    pub(super) fn page(&self, key: u128, epoch: Epoch, after: Position, messages: usize) -> Page {
        let limits = PageLimits { messages, bytes: 1 << 30 };
        let key = (SessionKey(key), epoch);
        query::page(&self.machine, &self.store, key, after, limits, NOW).unwrap()
    }

    /// Reads everything that waits, page by page; payloads as text.
    pub(super) fn waiting(&self, key: u128, epoch: Epoch) -> Vec<String> {
        let mut texts = Vec::new();
        let mut after = Position::START;
        loop {
            let page = self.page(key, epoch, after, 3);
            let text = |payload: &Bytes| String::from_utf8_lossy(payload).into_owned();
            texts.extend(page.messages.iter().map(|queued| text(&queued.message.payload)));
            after = page.read_to;
            if page.caught_up {
                return texts;
            }
        }
    }

    /// Counts the stored pairs with this shard-wide tag.
    pub(super) fn pairs(&self, tag: u8) -> usize {
        self.store.iter().filter(|(key, _)| key.starts_with(&[0xff, 0xff, tag])).count()
    }

    /// Counts everything that belongs to messages.
    pub(super) fn message_pairs(&self) -> usize {
        self.pairs(b'b') + self.pairs(b'e') + self.pairs(b'i') + self.pairs(b't')
    }
}

pub(super) const QUOTA: Quota = Quota {
    session_messages_max: 1_000_000,
    session_bytes_max: 1 << 40,
    app_bytes_max: 1 << 40,
    drop_oldest: true,
};

pub(super) fn claim(key: u128) -> SessionClaim {
    SessionClaim {
        key: SessionKey(key),
        app: APP,
        client_id: format!("client-{key}"),
        clean_start: false,
        expiry_secs: u32::MAX,
        will: None,
        holder: holder(1),
        now_ms: NOW,
    }
}

pub(super) fn holder(connection: u64) -> Holder {
    Holder { node: 1, incarnation: 1, connection }
}

pub(super) fn append(message: Message, quota: Quota) -> Command {
    Command::Append { message: Arc::new(message), quota }
}

pub(super) fn message(topic: &str, payload: &str) -> Message {
    Message {
        app: APP,
        topic: TopicName::parse(topic).unwrap(),
        publisher: None,
        id: None,
        qos: Qos::AtLeastOnce,
        retain: false,
        published_at_ms: NOW,
        expires_at_ms: None,
        properties: Bytes::new(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

pub(super) fn with_id(id: u128, message: Message) -> Message {
    Message { id: Some(MessageId(id << 64)), ..message }
}

pub(super) fn subscription(filter: &str, qos: Qos) -> StoredSubscription {
    StoredSubscription {
        filter: TopicFilter::parse(filter).unwrap(),
        share: None,
        options: SubscriptionOptions { qos, ..Default::default() },
        subscription_id: 0,
    }
}

pub(super) fn subscription_id(id: u32, filter: &str, qos: Qos) -> StoredSubscription {
    let id = NonZeroU32::new(id).unwrap().get();
    StoredSubscription { subscription_id: id, ..subscription(filter, qos) }
}

pub(super) fn will(topic: &str, delay_secs: u32) -> Option<Box<StoredWill>> {
    let message = message(topic, "gone");
    Some(Box::new(StoredWill { message, delay_secs, expiry_secs: Some(60) }))
}
