//! Reading the queue of a durable session, oldest first.
//!
//! - Takes: where the reader has come. Gives: messages, each once, with all that matched it.
//! - Bound: the limits of the call; at most `LOOKED_AT_PER_MESSAGE` times as many items are looked at, so
//!   that a queue full of expired messages cannot hold a thread.
//! - Cost: each body chunk is fetched once; topic, properties and payload are slices of it.
//! - Source: MQTT 5.0 section 3.3.4 (overlapping subscriptions), 3.8.3.1 (options).

use std::sync::Arc;

use bytes::Bytes;
use hongqiao_cluster::machine::Store;

use crate::{
    model::{
        id::{Epoch, Position, SessionKey},
        message::{Message, Qos},
        topic::TopicFilter,
    },
    shard::{
        body,
        command::{Page, Queued},
        index::{IndexReader, Item, Merge},
        key,
        machine::ShardMachine,
        record::{Record as _, SubscriptionRecord},
        state::{Session, State, is_skipped},
    },
};

/// How many items are looked at for each message asked for.
const LOOKED_AT_PER_MESSAGE: usize = 16;

/// The epoch is not that of the session: another connection owns it, or it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session has another owner")]
pub struct Fenced;

/// How much a page may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PageLimits {
    /// Most messages.
    pub messages: usize,
    /// Most bytes of topics, properties and payloads; one message is given even if it is larger.
    pub bytes: usize,
}

/// Reads the messages of a session behind `after` (and behind its cursor).
///
/// - Order: by position; a message that several subscriptions match is one delivery.
/// - Left out: what is acknowledged, expired at `now_ms`, the session's own where no-local says so, and
///   what came while the session was full.
/// - A reader that is caught up and waits for no acknowledgement acknowledges `read_to`: so own and
///   expired messages do not count against its quota.
///
/// # Errors
/// [`Fenced`]: the reader must stop (promise FENCED).
pub fn page(
    machine: &ShardMachine,
    store: &dyn Store,
    (key, epoch): (SessionKey, Epoch),
    after: Position,
    limits: PageLimits,
    now_ms: u64,
) -> Result<Page, Fenced> {
    let state = &machine.state;
    let session = &state.sessions[state.owned(key, epoch).ok_or(Fenced)?];
    let after = after.max(session.cursor);
    let mut merge = Merge::new(readers(state, store, session, after));
    let mut reading = Reading { store, session, now_ms, quiet: None, chunk: Chunk::default() };
    let mut page = Page { messages: Vec::new(), read_to: after, caught_up: false };
    let (mut bytes, mut looked_at) = (0, 0);
    let looked_at_max = limits.messages.saturating_mul(LOOKED_AT_PER_MESSAGE);
    let mut matched: Vec<(usize, Item)> = Vec::new();
    while let Some(position) = merge.peek() {
        if page.messages.len() >= limits.messages || looked_at >= looked_at_max {
            return Ok(page);
        }
        matched.clear();
        while merge.peek() == Some(position) {
            matched.extend(merge.next());
        }
        looked_at += matched.len();
        if let Some(queued) = reading.deliver(position, &matched) {
            let size = matched.first().map_or(0, |(_, item)| item.size);
            bytes += usize::try_from(size).unwrap_or(usize::MAX);
            if bytes > limits.bytes && !page.messages.is_empty() {
                return Ok(page);
            }
            page.messages.push(queued);
        }
        page.read_to = position;
    }
    page.caught_up = true;
    Ok(page)
}

/// Opens every log of a session that has something behind `after`.
fn readers<'a>(
    state: &'a State,
    store: &'a dyn Store,
    session: &'a Session,
    after: Position,
) -> impl Iterator<Item = (usize, IndexReader<'a>)> {
    let from = after.next();
    session.subs.iter().enumerate().filter_map(move |(number, sub)| {
        let log = &state.logs[sub.log];
        let from = from.max(sub.start);
        if log.state.last < from || from >= sub.end {
            return None;
        }
        Some((number, IndexReader::new(store, log.number, from, sub.end)))
    })
}

/// A subscription with QoS 0: it brings no messages, but its id is told with those that others bring.
struct Quiet {
    filter: TopicFilter,
    record: SubscriptionRecord,
}

struct Reading<'a> {
    store: &'a dyn Store,
    session: &'a Session,
    now_ms: u64,
    /// Read with the first message of a session that has such.
    quiet: Option<Vec<Quiet>>,
    chunk: Chunk,
}

impl Reading<'_> {
    /// Makes one delivery of what matched at a position; `None` if there is none.
    fn deliver(&mut self, position: Position, matched: &[(usize, Item)]) -> Option<Queued> {
        let session = self.session;
        let (_, item) = matched.first()?;
        let is_done = session.beyond.binary_search(&position).is_ok();
        if is_done || item.is_expired(self.now_ms) {
            return None;
        }
        if is_skipped(session.skips.as_deref(), position) {
            return None;
        }
        let message = self.chunk.message(self.store, item)?;
        if message.is_expired(self.now_ms) {
            return None;
        }
        let is_own = message.publisher == Some(session.key);
        let mut delivery = Delivery::default();
        for (number, item) in matched {
            let sub = session.subs.get(*number)?;
            match item.private {
                Some((qos, id)) => delivery.add(qos, id, true),
                None if is_own && sub.options.no_local => {}
                None => {
                    let options = &sub.options;
                    delivery.add(options.qos, sub.subscription_id, options.retain_as_published);
                }
            }
        }
        let qos = delivery.qos?.min(message.qos);
        // A copy for this session alone answers one subscription, whatever else matches.
        if session.quiet > 0 && item.private.is_none() {
            self.add_quiet(&mut delivery, &message, position, is_own);
        }
        Some(Queued {
            position,
            qos,
            subscription_ids: delivery.ids,
            retain: message.retain && delivery.keeps_retain,
            message: Arc::new(message),
        })
    }

    fn add_quiet(
        &mut self,
        delivery: &mut Delivery,
        message: &Message,
        position: Position,
        is_own: bool,
    ) {
        let (store, key) = (self.store, self.session.key);
        let quiet = self.quiet.get_or_insert_with(|| read_quiet(store, key));
        for Quiet { filter, record } in quiet.iter() {
            let options = &record.options;
            let applies = record.start <= position && !(is_own && options.no_local);
            if applies && filter.matches(&message.topic) {
                delivery.add(options.qos, record.subscription_id, options.retain_as_published);
            }
        }
    }
}

/// What the matching subscriptions make of a message.
#[derive(Default)]
struct Delivery {
    qos: Option<Qos>,
    ids: Vec<u32>,
    keeps_retain: bool,
}

impl Delivery {
    fn add(&mut self, qos: Qos, subscription_id: u32, keeps_retain: bool) {
        self.qos = self.qos.max(Some(qos));
        self.keeps_retain |= keeps_retain;
        if subscription_id != 0
            && let Err(at) = self.ids.binary_search(&subscription_id)
        {
            self.ids.insert(at, subscription_id);
        }
    }
}

/// The body chunk that was read last.
#[derive(Default)]
pub(super) struct Chunk {
    name: Option<(u64, u32)>,
    bytes: Option<Bytes>,
}

impl Chunk {
    /// Returns the message of an item; `None` if all of its chunk has expired and is gone.
    pub(super) fn message(&mut self, store: &dyn Store, item: &Item) -> Option<Message> {
        let name = (item.position.entry, item.chunk);
        if self.name != Some(name) {
            self.name = Some(name);
            self.bytes = store.get(&key::body(name.0, name.1));
        }
        body::find_in_chunk(self.bytes.as_ref()?, item.position.offset)
    }
}

fn read_quiet(store: &dyn Store, session: SessionKey) -> Vec<Quiet> {
    const RECORDS_PER_SCAN: usize = 256;
    let mut from = key::of_session(session, key::SUBSCRIPTION, &[]);
    let to = key::of_session(session, key::DRAIN, &[]);
    let mut quiet = Vec::new();
    loop {
        let found = store.scan(&from, &to, RECORDS_PER_SCAN);
        for (_, value) in &found {
            let Some(record) = SubscriptionRecord::from_bytes(value) else { continue };
            if record.share.is_none() && record.log.is_none() {
                quiet.push(Quiet { filter: record.filter.clone(), record });
            }
        }
        match found.last() {
            Some((last, _)) if found.len() == RECORDS_PER_SCAN => from = key::after(last),
            _ => return quiet,
        }
    }
}
