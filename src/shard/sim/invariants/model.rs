//! A plain model of one shard: sessions with their filters, and a list of messages for each.
//!
//! - Owns: sessions, queues with what has left them and when, ids of messages, the last exchange of each publisher.
//! - Takes: commands in the order of the log, with what was replied; pages that were read, as of a place in the log.
//! - Gives: the first thing that cannot be.
//! - Bound: one world; knows only what the clients of a world send.
//! - Source: MQTT 5.0 sections 3.1.2.4, 3.1.2.11.2, 4.3.3, 4.4; `shard/tests/against_model` for queues under quotas.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    model::{
        id::{Epoch, MessageId, Position, SessionKey},
        message::Message,
        topic::TopicFilter,
    },
    shard::{
        command::{Claimed, Command, Holder, Page, Reply, SessionClaim},
        query::Fenced,
        sim::payload::Payload,
    },
};

#[derive(Clone, Default)]
struct Session {
    epoch: Epoch,
    holder: Option<Holder>,
    expiry_secs: u32,
    filters: BTreeSet<TopicFilter>,
    incoming: BTreeMap<u16, MessageId>,
    cursor: Position,
    beyond: BTreeSet<Position>,
}

/// A message of a session's queue.
struct Item {
    position: Position,
    message: Message,
    /// Filters that it waits for.
    filters: BTreeSet<TopicFilter>,
    /// Since when it waits no longer.
    gone: Option<u64>,
}

#[derive(Default)]
pub(super) struct Model {
    index: u64,
    /// Messages that this entry had so far.
    offset: u32,
    sessions: BTreeMap<SessionKey, Session>,
    /// Who owned a session since when; `None`: it ended.
    owners: BTreeMap<SessionKey, Vec<(u64, Option<Epoch>)>>,
    queues: BTreeMap<SessionKey, Vec<Item>>,
    /// By slot the newest id that somebody got, where it is, and how many got it.
    ids: BTreeMap<u64, (MessageId, Position, u32)>,
    /// The last QoS 2 message of a publisher that a session got.
    last: BTreeMap<(SessionKey, SessionKey, u64), u64>,
}

fn demand<T: PartialEq + std::fmt::Debug>(what: &str, is: &T, shall: &T) -> Result<(), String> {
    (is == shall).then_some(()).ok_or_else(|| format!("{what} is {is:?}, not {shall:?}"))
}

impl Model {
    /// A new entry begins.
    pub(super) fn begin(&mut self, index: u64) {
        (self.index, self.offset) = (index, 0);
    }

    /// Applies a command as it should be, and compares what was replied.
    pub(super) fn step(&mut self, command: &Command, reply: &Reply) -> Result<(), String> {
        match command {
            Command::Claim(claim) => self.claim(claim, reply),
            Command::ClaimIn { .. } | Command::Lead { .. } if *reply == Reply::Fenced => Ok(()),
            Command::ClaimIn { claim, .. } => self.claim(claim, reply),
            Command::Lead { .. } => demand("the reply", reply, &Reply::Done),
            Command::Append { message, .. } => self.append(message, reply),
            Command::Tick { .. } => match reply {
                Reply::Ticked { wills, sessions_ended, .. } => {
                    demand("what is due", &(wills.len(), sessions_ended.len()), &(0, 0))
                }
                _ => Err("it has not ticked".to_owned()),
            },
            command => {
                let Some((key, epoch)) = super::fenced::owner(command) else {
                    return Err("nobody sends it".to_owned());
                };
                let owned = self.sessions.get(&key).is_some_and(|session| session.epoch == epoch);
                if !owned {
                    return demand("the reply", reply, &Reply::Fenced);
                }
                let shall = self.owned(key, command);
                demand("the reply", reply, &shall)
            }
        }
    }

    /// Applies a command of a session's owner; returns what it shall be told.
    fn owned(&mut self, key: SessionKey, command: &Command) -> Reply {
        let Some(session) = self.sessions.get_mut(&key) else { return Reply::Fenced };
        match command {
            Command::Subscribe { items, .. } => Reply::Subscribed(
                items.iter().map(|item| Ok(session.filters.insert(item.filter.clone()))).collect(),
            ),
            Command::Unsubscribe { items, .. } => {
                let had: Vec<_> =
                    items.iter().map(|(_, filter)| session.filters.remove(filter)).collect();
                for (_, filter) in items {
                    self.drop_filter(key, filter);
                }
                Reply::Unsubscribed(had)
            }
            Command::Acknowledge { cursor, beyond, .. } => {
                // Nothing of the entry itself was read by anyone.
                let here = Position { entry: self.index, offset: 0 };
                let newest = Position { entry: self.index - 1, offset: u32::MAX };
                session.cursor = session.cursor.max((*cursor).min(newest));
                session.beyond.extend(beyond.iter().filter(|position| **position < here));
                let cursor = session.cursor;
                session.beyond.retain(|position| *position > cursor);
                let (index, beyond) = (self.index, session.beyond.clone());
                for item in self.waiting(key) {
                    if item.position <= cursor || beyond.contains(&item.position) {
                        item.gone = Some(index);
                    }
                }
                Reply::Done
            }
            Command::InBegin { packet_id, id, .. } => {
                let known = session.incoming.get(packet_id).copied();
                session.incoming.entry(*packet_id).or_insert(*id);
                Reply::InBegun { known }
            }
            Command::InEnd { packet_id, .. } => {
                Reply::InEnded(session.incoming.remove(packet_id).is_some())
            }
            Command::Release { expiry_secs, .. } => {
                self.release(key, *expiry_secs);
                Reply::Done
            }
            _ => Reply::Fenced,
        }
    }

    fn waiting(&mut self, key: SessionKey) -> impl Iterator<Item = &mut Item> {
        self.queues.entry(key).or_default().iter_mut().filter(|item| item.gone.is_none())
    }

    /// What waits for a filter alone does so no longer.
    fn drop_filter(&mut self, key: SessionKey, filter: &TopicFilter) {
        let index = self.index;
        for item in self.waiting(key) {
            item.filters.remove(filter);
            if item.filters.is_empty() {
                item.gone = Some(index);
            }
        }
    }

    fn release(&mut self, key: SessionKey, expiry_secs: Option<u32>) {
        // Once is enough: what comes after it is of a connection that has ended.
        let held = self.sessions.get_mut(&key).filter(|session| session.holder.is_some());
        let Some(session) = held else { return };
        session.expiry_secs = expiry_secs.unwrap_or(session.expiry_secs);
        session.holder = None;
        if session.expiry_secs == 0 {
            self.end(key);
        }
    }

    fn end(&mut self, key: SessionKey) {
        let index = self.index;
        self.sessions.remove(&key);
        self.owners.entry(key).or_default().push((index, None));
        for item in self.waiting(key) {
            item.gone = Some(index);
        }
    }

    fn claim(&mut self, claim: &SessionClaim, reply: &Reply) -> Result<(), String> {
        let Reply::Claimed(claimed) = reply else { return Err("it is no claim".to_owned()) };
        let (key, holder) = (claim.key, claim.holder);
        let held = self.sessions.get(&key).and_then(|session| session.holder);
        let again = held == Some(holder);
        let is_lost =
            held.is_some_and(|h| h.node == holder.node && h.incarnation < holder.incarnation);
        if is_lost {
            self.release(key, None);
        }
        let previous_holder = self.sessions.get(&key).and_then(|session| session.holder);
        if claim.clean_start && self.sessions.contains_key(&key) {
            self.end(key);
        }
        let present = self.sessions.contains_key(&key);
        if !present && claim.expiry_secs == 0 {
            let shall = Claimed { previous_holder, ..Claimed::default() };
            return demand("the claim", &**claimed, &shall);
        }
        let session = self.sessions.entry(key).or_default();
        session.epoch = claimed.epoch;
        session.holder = Some(holder);
        session.expiry_secs = claim.expiry_secs;
        self.owners.entry(key).or_default().push((self.index, Some(claimed.epoch)));
        // What only the claim before has made was not there for the client.
        let is_blank = session.filters.is_empty() && session.incoming.is_empty();
        let shall = present && !(again && is_blank);
        demand("session present", &claimed.session_present, &shall)?;
        let filters = claimed.subscriptions.iter().map(|item| item.filter.clone()).collect();
        demand("the filters", &filters, &session.filters)?;
        let incoming = claimed.incoming.iter().copied().collect();
        demand("what is coming in", &incoming, &session.incoming)?;
        let beyond = claimed.beyond.iter().copied().collect();
        demand(
            "what is done",
            &(claimed.cursor, beyond),
            &(session.cursor, session.beyond.clone()),
        )?;
        demand("the holder before", &claimed.previous_holder, &previous_holder)
    }

    fn append(&mut self, message: &Message, reply: &Reply) -> Result<(), String> {
        let mut position = Position { entry: self.index, offset: self.offset };
        self.offset += 1;
        let known = message.id.and_then(|id| {
            let (newest, at, sessions) = self.ids.get(&id.slot())?;
            (*newest == id).then_some((*at, *sessions))
        });
        let mut sessions = 0;
        match known {
            Some(known) => (position, sessions) = known,
            None => {
                let receivers: Vec<SessionKey> = self.sessions.keys().copied().collect();
                for key in receivers {
                    sessions += u32::from(self.receive(key, message, position)?);
                }
                if let Some(id) = message.id.filter(|_| sessions > 0) {
                    self.ids.insert(id.slot(), (id, position, sessions));
                }
            }
        }
        let (dropped, refused) = (0, false);
        demand("the reply", reply, &Reply::Appended { position, sessions, dropped, refused })
    }

    /// A session gets a message, if it asked for it.
    fn receive(
        &mut self,
        key: SessionKey,
        message: &Message,
        position: Position,
    ) -> Result<bool, String> {
        let filters = self.sessions.get(&key).map(|session| &session.filters);
        let filters: BTreeSet<_> = filters
            .into_iter()
            .flatten()
            .filter(|filter| filter.matches(&message.topic))
            .cloned()
            .collect();
        if filters.is_empty() {
            return Ok(false);
        }
        if let (Some(Payload { life, number }), Some(publisher)) =
            (Payload::read(&message.payload).filter(|_| message.id.is_some()), message.publisher)
        {
            let last = self.last.insert((key, publisher, life), number);
            if last >= Some(number) {
                return Err(format!("{key:?} gets {number} of {publisher:?} behind {last:?}"));
            }
        }
        let item = Item { position, message: message.clone(), filters, gone: None };
        self.queues.entry(key).or_default().push(item);
        Ok(true)
    }

    /// Compares a page that was read as of `index`.
    pub(super) fn read(
        &self,
        index: u64,
        (key, epoch): (SessionKey, Epoch),
        after: Position,
        page: &Result<Page, Fenced>,
    ) -> Result<(), String> {
        let owners = self.owners.get(&key).map_or(&[][..], Vec::as_slice);
        let owner = owners.iter().rev().find(|(since, _)| *since <= index);
        let owner = owner.and_then(|(_, epoch)| *epoch);
        let Ok(page) = page else {
            let owned = owner == Some(epoch);
            return if owned { Err("it is the owner".to_owned()) } else { Ok(()) };
        };
        demand("the epoch", &Some(epoch), &owner)?;
        let waits = |item: &&Item| {
            item.position.entry <= index
                && item.position > after
                && item.gone.is_none_or(|gone| gone > index)
        };
        let waiting: Vec<(Position, &[u8])> = self
            .queues
            .get(&key)
            .into_iter()
            .flatten()
            .filter(waits)
            .map(|item| (item.position, &*item.message.payload))
            .collect();
        let read: Vec<(Position, &[u8])> = page
            .messages
            .iter()
            .map(|queued| (queued.position, &*queued.message.payload))
            .collect();
        let shall = waiting.get(..read.len()).unwrap_or(&waiting);
        demand("what it gets", &&read[..], &shall)?;
        let all = read.len() == waiting.len();
        (all || !page.caught_up).then_some(()).ok_or_else(|| format!("more waits: {waiting:?}"))
    }
}
