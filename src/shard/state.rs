//! The state machine of a shard, pure: same commands in the same order, same state, replies and facts.
//!
//! - Owns: all that is held in memory of a shard: sessions, the logs they read and the filters of these.
//!   Everything here can be rebuilt from the store (`load`); bodies and indexes live only there.
//! - Takes: commands of one entry. Gives: replies, facts, writes to the store.
//! - Bound: about 500 bytes for each session with one filter of its own; `DEDUP_IDS_MAX` message ids;
//!   what one entry appends. No map is walked in hash order (PURE-CORE).
//! - Source: own design; ARCHITECTURE.md "Durable messages".
//!
//! Appends of an entry wait in `pending` until a command needs them in the log, at the latest until the
//! end of the entry: so a chunk, an index and a quota are touched once for many messages.

use std::collections::BTreeMap;

use hongqiao_cluster::machine::{Store, StoreMut};
use slab::Slab;

use super::{
    command::{Command, Fact, Holder, Reply},
    key,
    record::{
        Amount, LedRecord, LogStateRecord, NumbersRecord, Record as _, SkipsRecord, UsageRecord,
    },
};
use crate::model::{
    id::{AppId, Epoch, Position, SessionKey},
    trie::{FilterId, FilterTrie},
    wire::SubscriptionOptions,
};

mod accounts;
mod ack;
mod append;
mod assigned;
mod claim;
mod flush;
mod groups;
mod inflight;
mod load;
mod membership;
mod quota;
mod recent;
mod release;
mod retain;
mod shares;
mod subscribe;
mod tick;
mod trim;

use append::Pending;
use assigned::Assigned;
use groups::ShareGroups;
use recent::Recent;
pub(super) use {quota::is_skipped, retain::read_retained};

/// A subscription of a durable session to a log.
#[derive(Clone, Debug)]
pub(super) struct Sub {
    /// Place in `State::logs`.
    pub(super) log: usize,
    /// Place in the log's `members`.
    at: usize,
    /// First position that it gets.
    pub(super) start: Position,
    /// First position that it does not get; `OPEN` while it takes new messages.
    pub(super) end: Position,
    /// What the log held before the first item that still waits here.
    base: Amount,
    /// What the log held when this stopped taking items: it drains, or its session is full.
    cap: Option<Amount>,
    pub(super) options: SubscriptionOptions,
    pub(super) subscription_id: u32,
}

/// End of a subscription that takes new messages.
pub(super) const OPEN: Position = Position { entry: u64::MAX, offset: u32::MAX };

/// A durable session, or what stands for the will of a connection without one.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) key: SessionKey,
    pub(super) app: AppId,
    pub(super) epoch: Epoch,
    pub(super) holder: Option<Holder>,
    pub(super) cursor: Position,
    pub(super) beyond: Vec<Position>,
    pub(super) skips: Option<Box<SkipsRecord>>,
    pub(super) subs: Vec<Sub>,
    /// Log of messages for this session alone; it is among `subs`.
    private_log: Option<u64>,
    /// Subscriptions of all kinds.
    subscriptions: u32,
    /// Of these, how many have QoS 0 and no share: they add their ids to deliveries.
    pub(super) quiet: u32,
    /// Last flush that looked at it.
    stamp: u64,
    /// See `SessionRecord`.
    pub(super) will_only: bool,
}

/// A session in a log.
#[derive(Clone, Copy, Debug)]
struct Member {
    session: usize,
    /// First position that it may still need.
    need: Position,
}

/// The messages of one filter, or for one session.
#[derive(Debug)]
pub(super) struct Log {
    /// Its number in the store.
    pub(super) number: u64,
    app: AppId,
    /// Its filter, while that has a subscription that takes new messages.
    filter: Option<FilterId>,
    /// Sessions that read it; one may be here twice, once draining.
    members: Vec<Member>,
    /// Members that take new messages.
    open: u32,
    pub(super) state: LogStateRecord,
    /// It is in `State::trims`.
    trim_due: bool,
    /// It holds shares of a group for one member.
    is_shares: bool,
    /// Last flush that added items, and which items of it.
    fresh: (u64, usize, usize),
}

/// See the head of the file.
#[derive(Default)]
pub(super) struct State {
    pub(super) sessions: Slab<Session>,
    pub(super) by_key: BTreeMap<SessionKey, usize>,
    pub(super) logs: Slab<Log>,
    /// By filter number.
    log_of_filter: Vec<usize>,
    trie: FilterTrie,
    /// Logs of shares, by session and hash of (share, filter).
    share_logs: BTreeMap<(SessionKey, u128), usize>,
    /// By the log's number in the store and the first position.
    pub(super) orphans: BTreeMap<(u64, Position), shares::Orphan>,
    /// Logs with something to trim, by their number in the store.
    pub(super) trims: BTreeMap<u64, usize>,
    pub(super) usage: BTreeMap<AppId, UsageRecord>,
    recent: Recent,
    /// Members of shared groups.
    pub(super) groups: ShareGroups,
    assigned: Assigned,
    numbers: NumbersRecord,
    /// The last leader that has spoken.
    led: LedRecord,
    pending: Pending,
    flushes: u64,
}

/// One entry while it is applied.
pub(super) struct Entry<'a> {
    pub(super) index: u64,
    /// Offset of the next message.
    offset: u32,
    /// Messages before this offset are in the logs.
    flushed: u32,
    /// It has an `EntryRecord`.
    is_recorded: bool,
    pub(super) store: &'a mut dyn StoreMut,
    tell: &'a (dyn Fn(Fact) + 'a),
    replies: Vec<Reply>,
}

impl Entry<'_> {
    /// Takes the next position.
    fn take_position(&mut self) -> Position {
        let position = Position { entry: self.index, offset: self.offset };
        self.offset += 1;
        position
    }

    /// Returns the position that comes next.
    fn here(&self) -> Position {
        Position { entry: self.index, offset: self.offset }
    }

    /// Returns the position behind everything that is in the logs.
    fn logged_to(&self) -> Position {
        Position { entry: self.index, offset: self.flushed }
    }
}

impl State {
    /// Applies the commands of one entry; one reply for each.
    pub(super) fn apply(
        &mut self,
        index: u64,
        commands: Vec<Command>,
        store: &mut dyn StoreMut,
        tell: &dyn Fn(Fact),
    ) -> Vec<Reply> {
        let replies = Vec::with_capacity(commands.len());
        let mut entry =
            Entry { index, offset: 0, flushed: 0, is_recorded: false, store, tell, replies };
        for command in commands {
            let reply = self.apply_one(&mut entry, command);
            entry.replies.push(reply);
        }
        self.flush(&mut entry);
        // An entry that only retained has nothing to flush into logs.
        self.recent.write(&mut entry);
        entry.replies
    }

    fn apply_one(&mut self, entry: &mut Entry<'_>, command: Command) -> Reply {
        match command {
            Command::CreateApp { name } => self.create_app(entry, &name),
            Command::PutUser { app, name, password_hash } => {
                put_user(entry, app, &name, password_hash)
            }
            Command::Append { message, quota } => self.append(entry, &message, quota),
            Command::Retain { message, messages_max, bytes_max } => {
                self.retain(entry, &message, Amount { messages: messages_max, bytes: bytes_max })
            }
            Command::Tick { now_ms, limit } => self.tick(entry, now_ms, limit),
            Command::WillDone { key, epoch } => self.will_done(entry, key, epoch),
            Command::NodeStarted { .. } => Reply::Done,
            Command::ReleaseStale { keys, node, incarnation, now_ms } => {
                self.release_stale(entry, &keys, (node, incarnation), now_ms)
            }
            Command::Claim(claim) => self.claim(entry, *claim),
            Command::Lead { term } if self.leads(entry, term) => Reply::Done,
            Command::ClaimIn { term, claim } if self.leads(entry, term) => {
                self.claim(entry, *claim)
            }
            Command::Lead { .. } | Command::ClaimIn { .. } => Reply::Fenced,
            command @ Command::Share { .. } => self.share(entry, command),
            command @ Command::Redispatch { .. } => self.redispatch(entry, &command),
            Command::Assign { id, owner, instead } => self.assign(entry, id, owner, instead),
            Command::IsKnown { id } => Reply::Known(self.recent.get(id).is_some()),
            command => self.apply_fenced(entry, command),
        }
    }

    /// Takes note of the term of a leader that speaks; `false` if one of a later term has spoken (FENCED).
    fn leads(&mut self, entry: &mut Entry<'_>, term: u64) -> bool {
        if term > self.led.term {
            self.led = LedRecord { term };
            entry.store.put(key::led(), self.led.to_bytes());
        }
        term == self.led.term
    }

    /// Applies a command of a session, if it carries the session's epoch (FENCED).
    fn apply_fenced(&mut self, entry: &mut Entry<'_>, command: Command) -> Reply {
        let Some((key, epoch)) = owner_of(&command) else { return Reply::Fenced };
        // A shared group stores for its members without owning their sessions.
        let unowned = matches!(command, Command::Enqueue { .. }) && epoch == Epoch::default();
        let found = if unowned { self.by_key.get(&key).copied() } else { self.owned(key, epoch) };
        let Some(at) = found else { return Reply::Fenced };
        match command {
            Command::Release { expiry_secs, will_dropped, inflight, now_ms, .. } => {
                let how = release::Release { expiry_secs, will_dropped, inflight, now_ms };
                self.release(entry, at, how);
                Reply::Done
            }
            Command::Subscribe { items, filters_max, .. } => {
                self.subscribe(entry, at, items, filters_max)
            }
            Command::Unsubscribe { items, .. } => {
                let sent = self.sessions[at].cursor;
                self.unsubscribe(entry, at, &items, sent)
            }
            Command::UnsubscribeShared { items, sent, .. } => {
                self.unsubscribe(entry, at, &items, sent)
            }
            Command::Enqueue { messages, qos, subscription_id, quota, .. } => {
                self.enqueue(entry, at, &messages, (qos, subscription_id), quota)
            }
            Command::EnqueueRetained { filter, messages, quota, .. } => {
                self.enqueue_retained(entry, at, &filter, messages, quota)
            }
            Command::Acknowledge { cursor, beyond, .. } => {
                self.acknowledge(entry, at, cursor, beyond);
                Reply::Done
            }
            Command::OutPublish { ids, .. } => inflight::out_publish(entry, key, &ids),
            Command::OutReceived { packet_id, .. } => inflight::out_received(entry, key, packet_id),
            Command::OutCompleted { packet_id, .. } => {
                if let Some(position) = inflight::out_completed(entry, key, packet_id) {
                    let cursor = self.sessions[at].cursor;
                    self.acknowledge(entry, at, cursor, vec![position]);
                }
                Reply::Done
            }
            Command::InBegin { packet_id, id, .. } => inflight::in_begin(entry, key, packet_id, id),
            Command::InEnd { packet_id, .. } => inflight::in_end(entry, key, packet_id),
            _ => Reply::Done,
        }
    }

    /// Finds a session that is at this epoch.
    pub(super) fn owned(&self, key: SessionKey, epoch: Epoch) -> Option<usize> {
        let at = *self.by_key.get(&key)?;
        (self.sessions[at].epoch == epoch).then_some(at)
    }
}

/// Returns whose command it is and at which epoch.
fn owner_of(command: &Command) -> Option<(SessionKey, Epoch)> {
    match command {
        Command::Release { key, epoch, .. }
        | Command::Subscribe { key, epoch, .. }
        | Command::Unsubscribe { key, epoch, .. }
        | Command::UnsubscribeShared { key, epoch, .. }
        | Command::Enqueue { key, epoch, .. }
        | Command::EnqueueRetained { key, epoch, .. }
        | Command::Acknowledge { key, epoch, .. }
        | Command::OutPublish { key, epoch, .. }
        | Command::OutReceived { key, epoch, .. }
        | Command::OutCompleted { key, epoch, .. }
        | Command::InBegin { key, epoch, .. }
        | Command::InEnd { key, epoch, .. } => Some((*key, *epoch)),
        _ => None,
    }
}

fn put_user(entry: &mut Entry<'_>, app: AppId, name: &str, password_hash: String) -> Reply {
    let record = super::record::UserRecord { password_hash };
    entry.store.put(key::user(app, name), record.to_bytes());
    Reply::Done
}

/// Returns how much of a log a subscription takes.
fn limit_of(sub: &Sub, log: &Log) -> Amount {
    sub.cap.unwrap_or(log.state.total)
}

/// Reads a record.
fn read<R: super::record::Record>(store: &(impl Store + ?Sized), key: &[u8]) -> Option<R> {
    R::from_bytes(&store.get(key)?)
}
