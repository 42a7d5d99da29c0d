//! Runs of messages, and the runs that wait for their turn.
//!
//! - Owns: per topic a queue of unfinished runs; topics take turns.
//! - Takes: batches of messages. Gives: runs (consecutive messages that every receiver treats alike).
//! - Bound: `limits::WALKING_BYTES_MAX` before the router takes no more messages.

use std::{
    collections::{HashMap, VecDeque},
    rc::Rc,
    sync::Arc,
};

use ahash::RandomState;
use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::serve::{Receivers, Variants};
use crate::{
    actors::counters::{Counters, DropCause},
    limits,
    model::{
        id::{AppId, SessionKey},
        message::{Message, Qos},
        topic::TopicName,
    },
};

/// Consecutive messages with the same topic, QoS, retain flag and publisher; at least one.
#[derive(Debug)]
pub(super) struct Run {
    first: Arc<Message>,
    rest: SmallVec<[Arc<Message>; 1]>,
}

impl Run {
    pub(super) fn app(&self) -> AppId {
        self.first.app
    }

    pub(super) fn topic(&self) -> &TopicName {
        &self.first.topic
    }

    pub(super) fn qos(&self) -> Qos {
        self.first.qos
    }

    pub(super) fn retain(&self) -> bool {
        self.first.retain
    }

    pub(super) fn publisher(&self) -> Option<SessionKey> {
        self.first.publisher
    }

    pub(super) fn messages(&self) -> impl Iterator<Item = &Message> {
        std::iter::once(&*self.first).chain(self.rest.iter().map(|message| &**message))
    }

    fn bytes(&self) -> usize {
        self.messages().map(|message| message.payload.len() + message.properties.len() + 256).sum()
    }

    fn takes(&self, message: &Message) -> bool {
        let first = &self.first;
        first.topic == message.topic
            && first.app == message.app
            && first.qos == message.qos
            && first.retain == message.retain
            && first.publisher == message.publisher
    }
}

/// Cuts a batch into runs, without messages that are past their expiry.
pub(super) fn runs(
    messages: SmallVec<[Arc<Message>; 1]>,
    now_ms: u64,
    counters: &Counters,
) -> SmallVec<[Run; 1]> {
    let mut runs = SmallVec::<[Run; 1]>::new();
    for message in messages {
        if message.is_expired(now_ms) {
            counters.drop_messages(DropCause::Expired, 1);
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.takes(&message) => run.rest.push(message),
            _ => runs.push(Run { first: message, rest: SmallVec::new() }),
        }
    }
    runs
}

/// Tells the sender of a batch that all of it is served, when the last clone is dropped.
#[derive(Clone, Debug)]
pub(super) struct Done {
    _last: Rc<oneshot::Sender<()>>,
}

impl Done {
    /// The receiver completes with an error once every clone is gone; that is the signal.
    pub(super) fn new() -> (Self, oneshot::Receiver<()>) {
        let (tx, rx) = oneshot::channel();
        (Self { _last: Rc::new(tx) }, rx)
    }
}

/// A run that is not finished.
pub(super) struct Walk {
    pub(super) run: Run,
    pub(super) receivers: Receivers,
    /// Next place to serve.
    pub(super) at: usize,
    pub(super) variants: Variants,
    pub(super) _done: Done,
}

type Topic = (AppId, Bytes);

/// All unfinished runs.
#[derive(Default)]
pub(super) struct Walks {
    by_topic: HashMap<Topic, VecDeque<Walk>, RandomState>,
    turns: VecDeque<Topic>,
    runs: usize,
    bytes: usize,
    merged: usize,
}

impl Walks {
    pub(super) fn is_empty(&self) -> bool {
        self.runs == 0
    }

    pub(super) fn len(&self) -> usize {
        self.runs
    }

    /// Tells whether the router must take no more messages.
    pub(super) fn is_full(&self) -> bool {
        self.bytes > limits::WALKING_BYTES_MAX
    }

    /// Tells whether a paused run names slots that are not in a list.
    pub(super) fn has_merged(&self) -> bool {
        self.merged > 0
    }

    /// Tells whether earlier messages of the run's topic wait.
    pub(super) fn has_topic(&self, run: &Run) -> bool {
        !self.is_empty() && self.by_topic.contains_key(&topic_of(run))
    }

    pub(super) fn push(&mut self, walk: Walk) {
        self.runs += 1;
        self.bytes += walk.run.bytes();
        self.merged += usize::from(matches!(walk.receivers, Receivers::Merged(_)));
        let topic = topic_of(&walk.run);
        let queue = self.by_topic.entry(topic.clone()).or_default();
        if queue.is_empty() {
            self.turns.push_back(topic);
        }
        queue.push_back(walk);
    }

    /// Takes the oldest run of the topic whose turn it is.
    pub(super) fn take(&mut self) -> Option<Walk> {
        let topic = self.turns.front()?;
        self.by_topic.get_mut(topic)?.pop_front()
    }

    /// Puts an unfinished run back in front of its topic; the turn goes on to the next topic.
    pub(super) fn put_back(&mut self, walk: Walk) {
        if let Some(topic) = self.turns.pop_front() {
            if let Some(queue) = self.by_topic.get_mut(&topic) {
                queue.push_front(walk);
            }
            self.turns.push_back(topic);
        }
    }

    /// Forgets a finished run; the turn goes on to the next topic.
    pub(super) fn finish(&mut self, walk: Walk) {
        self.runs -= 1;
        self.bytes -= walk.run.bytes();
        self.merged -= usize::from(matches!(walk.receivers, Receivers::Merged(_)));
        let Some(topic) = self.turns.pop_front() else { return };
        if self.by_topic.get(&topic).is_some_and(|queue| !queue.is_empty()) {
            self.turns.push_back(topic);
        } else {
            self.by_topic.remove(&topic);
        }
        drop(walk);
    }
}

fn topic_of(run: &Run) -> Topic {
    (run.app(), run.topic().as_bytes().clone())
}
