//! Durable messages through the shard, on a store in memory: append, page, acknowledge.
//!
//! - Prints: nanoseconds per message, and the ratio to what cannot be avoided: decoding the batch and
//!   pushing the messages into a vector.
//! - The store is a `BTreeMap`; disk and consensus are measured elsewhere.

#[path = "support/ratio.rs"]
mod ratio;

use std::sync::Arc;

use bytes::Bytes;
use hongqiao::{
    model::{
        id::{AppId, Epoch, Position, SessionKey},
        message::{Message, Qos},
        topic::{TopicFilter, TopicName},
        wire::SubscriptionOptions,
    },
    shard::{
        command::{
            Command, Holder, Quota, Reply, SessionClaim, StoredSubscription, decode_batch,
            decode_replies, encode_batch,
        },
        machine::ShardMachine,
        memory_store::MemoryStore,
        query::{self, PageLimits},
    },
};
use hongqiao_cluster::machine::Machine as _;
use ratio::compare;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const APP: AppId = AppId(1);
/// Messages in an entry, of 256 bytes each.
const BATCH: u32 = 256;
const ENTRIES: u32 = 40;
const MESSAGES: u32 = BATCH * ENTRIES;

const QUOTA: Quota = Quota {
    session_messages_max: 1 << 40,
    session_bytes_max: 1 << 50,
    app_bytes_max: 1 << 50,
    drop_oldest: true,
};

fn main() {
    for sessions in [1, 100] {
        append(sessions);
    }
    replay();
}

/// Each session has a filter of its own; messages go to them in turn.
fn append(sessions: u32) {
    let batch = batch(sessions);
    let mut shard = Shard::new(sessions);
    let by_shard = || {
        for _ in 0..ENTRIES {
            shard.apply(&batch);
        }
        // Read by everybody: the queues do not grow from round to round.
        shard.acknowledge_all();
        shard.index
    };
    let by_vector = || {
        let mut log = Vec::new();
        for _ in 0..ENTRIES {
            log.push(decode_batch(&batch).unwrap_or_default());
        }
        log.len() as u64
    };
    let title = format!("append and acknowledge, {sessions} sessions, {BATCH} messages per entry");
    let runners: Vec<ratio::Runner<'_>> =
        vec![("shard", Box::new(by_shard)), ("decode and push", Box::new(by_vector))];
    compare(&title, MESSAGES, runners);
}

/// One session reads everything in pages of 256.
fn replay() {
    let batch = batch(1);
    let mut shard = Shard::new(1);
    for _ in 0..ENTRIES {
        shard.apply(&batch);
    }
    let by_page = || {
        let (mut after, mut read) = (Position::START, 0);
        let limits = PageLimits { messages: 256, bytes: 1 << 20 };
        let owner = shard.sessions[0];
        loop {
            let page = query::page(&shard.machine, &shard.store, owner, after, limits, 1);
            let Ok(page) = page else { return read };
            read += page.messages.len() as u64;
            after = page.read_to;
            if page.caught_up {
                return read;
            }
        }
    };
    let by_vector = || {
        let mut log = Vec::new();
        for _ in 0..ENTRIES {
            log.push(decode_batch(&batch).unwrap_or_default());
        }
        log.len() as u64
    };
    let runners: Vec<ratio::Runner<'_>> =
        vec![("page", Box::new(by_page)), ("decode and push", Box::new(by_vector))];
    compare("replay in pages of 256", MESSAGES, runners);
}

struct Shard {
    machine: ShardMachine,
    store: MemoryStore,
    index: u64,
    sessions: Vec<(SessionKey, Epoch)>,
}

impl Shard {
    fn new(sessions: u32) -> Self {
        let machine = ShardMachine::new(Arc::new(|_| {}));
        let mut shard =
            Self { machine, store: MemoryStore::default(), index: 0, sessions: Vec::new() };
        for n in 0..sessions {
            let key = SessionKey(u128::from(n) << 64 | u128::from(n));
            let holder = Holder { node: 1, incarnation: 1, connection: u64::from(n) };
            let claim = Command::Claim(Box::new(SessionClaim {
                key,
                app: APP,
                client_id: n.to_string(),
                clean_start: false,
                expiry_secs: u32::MAX,
                will: None,
                holder,
                now_ms: 1,
            }));
            let epoch = match shard.one(claim) {
                Some(Reply::Claimed(claimed)) => claimed.epoch,
                _ => Epoch(0),
            };
            shard.sessions.push((key, epoch));
            let Ok(filter) = TopicFilter::parse(topic(n)) else { continue };
            let options = SubscriptionOptions { qos: Qos::AtLeastOnce, ..Default::default() };
            let items =
                vec![StoredSubscription { filter, share: None, options, subscription_id: 0 }];
            shard.one(Command::Subscribe { key, epoch, items, filters_max: 9 });
        }
        shard
    }

    fn apply(&mut self, batch: &Bytes) -> Bytes {
        self.index += 1;
        self.machine.apply(self.index, batch, &mut self.store)
    }

    fn one(&mut self, command: Command) -> Option<Reply> {
        let replies = self.apply(&encode_batch(&[command]));
        decode_replies(&replies).ok()?.pop()
    }

    fn acknowledge_all(&mut self) {
        let cursor = Position { entry: self.index, offset: u32::MAX };
        let done = |&(key, epoch): &(SessionKey, Epoch)| Command::Acknowledge {
            key,
            epoch,
            cursor,
            beyond: Vec::new(),
        };
        let commands: Vec<Command> = self.sessions.iter().map(done).collect();
        self.apply(&encode_batch(&commands));
        // A single acknowledgement trims a bounded part.
        for _ in 0..ENTRIES {
            self.one(Command::Tick { now_ms: 1, limit: 256 });
        }
    }
}

fn topic(n: u32) -> String {
    format!("device/{n:010}/up")
}

fn batch(sessions: u32) -> Bytes {
    let commands: Vec<Command> = (0..BATCH)
        .filter_map(|n| {
            let message = Message {
                app: APP,
                topic: TopicName::parse(topic(n % sessions)).ok()?,
                publisher: Some(SessionKey(u128::from(n))),
                id: None,
                qos: Qos::AtLeastOnce,
                retain: false,
                published_at_ms: 1,
                expires_at_ms: None,
                properties: Bytes::new(),
                payload: Bytes::from(vec![7; 256]),
            };
            Some(Command::Append { message: Arc::new(message), quota: QUOTA })
        })
        .collect();
    encode_batch(&commands)
}
