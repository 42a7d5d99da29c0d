//! Questions to a shard that may be led by another node, and their answers, as bytes.
//!
//! - Owns: the closed lists [`Question`] and [`Answer`] and their versioned encoding.
//! - Takes: what connections and HTTP need to know of any shard. Gives: the same answers as `query`.
//! - Bound: `limits::PEER_MESSAGE_BYTES_MAX`; pages no larger than a page may be, whatever is asked.
//! - Cost: topics, properties and payloads of a page stay slices of the bytes that came.
//!
//! Upkeep, homes and metrics read only shards that this node leads, and do so without encoding.
//!
//! ```text
//! question: version u8 | bincode
//! answer:   version u8 | head length u32 | head (bincode) | messages, as in a batch
//! ```

use std::sync::Arc;

use bincode::Options as _;
use bytes::Bytes;
use hongqiao_cluster::machine::Store;
use serde::{Deserialize, Serialize};

use super::{
    body,
    command::{Page, Queued, RetainedPage},
    machine::ShardMachine,
    query::{self, Fenced, PageLimits},
};
use crate::{
    limits,
    model::{
        id::{AppId, Epoch, Position, SessionKey},
        message::{Message, Qos},
        topic::{TopicFilter, TopicName},
    },
};

const VERSION: u8 = 1;
/// Version and length of the head.
const HEAD_AT: usize = 5;

/// What may be asked of a shard wherever its leader is. New variants go at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "fields are arguments of the query of the same name")]
pub enum Question {
    /// The next messages of a durable session. → [`Answer::Page`]
    Page { key: SessionKey, epoch: Epoch, after: Position, limits: PageLimits, now_ms: u64 },
    /// Retained messages that a filter matches. → [`Answer::Retained`]
    Retained {
        app: AppId,
        filter: TopicFilter,
        after: Option<TopicName>,
        limits: PageLimits,
        now_ms: u64,
    },
    /// The password hash of a user. → [`Answer::User`]
    User { app: AppId, name: String },
    /// The number of an app. → [`Answer::App`]
    App { name: String },
    /// Durable members of a shared group. → [`Answer::Members`]
    Members { key: Bytes, after: Option<SessionKey>, limit: u32 },
}

/// What a shard answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "see Question")]
pub enum Answer {
    Page(Result<Page, Fenced>),
    Retained(RetainedPage),
    User(Option<String>),
    App(Option<AppId>),
    Members(Vec<SessionKey>),
}

/// Bytes that are no question or answer of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a question or answer cannot be read")]
pub struct Unreadable;

/// An answer without the messages in it. New variants go at the end.
#[derive(Serialize, Deserialize)]
enum Head {
    /// The leader does not know such a question: it is of an older release.
    NotUnderstood,
    Fenced,
    Page {
        read_to: Position,
        caught_up: bool,
        messages: Vec<QueuedHead>,
    },
    Retained {
        next: Option<TopicName>,
        versions: Vec<Position>,
    },
    User(Option<String>),
    App(Option<AppId>),
    Members(Vec<SessionKey>),
}

#[derive(Serialize, Deserialize)]
struct QueuedHead {
    position: Position,
    qos: Qos,
    retain: bool,
    subscription_ids: Vec<u32>,
}

impl Question {
    /// Answers from a shard as it is between two entries.
    #[must_use]
    pub fn answer(self, machine: &ShardMachine, store: &dyn Store) -> Answer {
        match self {
            Self::Page { key, epoch, after, limits, now_ms } => {
                let page = query::page(machine, store, (key, epoch), after, bound(limits), now_ms);
                Answer::Page(page)
            }
            Self::Retained { app, filter, after, limits, now_ms } => {
                let limits = bound(limits);
                let page = query::retained(store, app, &filter, after.as_ref(), limits, now_ms);
                Answer::Retained(page)
            }
            Self::User { app, name } => Answer::User(query::user(store, app, &name)),
            Self::App { name } => Answer::App(query::app(store, &name)),
            Self::Members { key, after, limit } => {
                let limit = (limit as usize).min(limits::GROUP_MEMBERS_PAGE);
                Answer::Members(query::group_members(machine, &key, after, limit))
            }
        }
    }

    /// Writes the question.
    ///
    /// # Errors
    /// It is larger than the leader would read.
    pub fn encode(&self) -> Result<Bytes, Unreadable> {
        let mut out = vec![VERSION];
        codec().serialize_into(&mut out, self).map_err(|_| Unreadable)?;
        Ok(Bytes::from(out))
    }

    fn decode(bytes: &Bytes) -> Result<Self, Unreadable> {
        let rest = bytes.strip_prefix(&[VERSION]).ok_or(Unreadable)?;
        codec().deserialize(rest).map_err(|_| Unreadable)
    }
}

/// Answers an encoded question.
#[must_use]
pub fn answer(question: &Bytes, machine: &ShardMachine, store: &dyn Store) -> Bytes {
    match Question::decode(question) {
        Ok(question) => question.answer(machine, store).encode(),
        Err(Unreadable) => encode(&Head::NotUnderstood, &[]),
    }
}

fn bound(limits: PageLimits) -> PageLimits {
    PageLimits {
        messages: limits.messages.min(limits::PAGE_MESSAGES_MAX),
        bytes: limits.bytes.min(limits::PAGE_BYTES_MAX),
    }
}

impl Answer {
    fn encode(self) -> Bytes {
        match self {
            Self::Page(Err(Fenced)) => encode(&Head::Fenced, &[]),
            Self::Page(Ok(Page { messages, read_to, caught_up })) => {
                let (heads, messages): (Vec<_>, Vec<_>) =
                    messages.into_iter().map(QueuedHead::split).unzip();
                encode(&Head::Page { read_to, caught_up, messages: heads }, &messages)
            }
            Self::Retained(RetainedPage { messages, next }) => {
                let (versions, messages): (Vec<_>, Vec<_>) = messages.into_iter().unzip();
                encode(&Head::Retained { next, versions }, &messages)
            }
            Self::User(hash) => encode(&Head::User(hash), &[]),
            Self::App(app) => encode(&Head::App(app), &[]),
            Self::Members(members) => encode(&Head::Members(members), &[]),
        }
    }

    /// Reads an answer; all of it must be used.
    ///
    /// # Errors
    /// It is damaged, or the leader does not know the question.
    pub fn decode(bytes: &Bytes) -> Result<Self, Unreadable> {
        Self::read(bytes).ok_or(Unreadable)
    }

    fn read(bytes: &Bytes) -> Option<Self> {
        let length = u32::from_le_bytes(*bytes.strip_prefix(&[VERSION])?.first_chunk()?);
        let end = HEAD_AT.checked_add(usize::try_from(length).ok()?)?;
        let head: Head = codec().deserialize(bytes.get(HEAD_AT..end)?).ok()?;
        let mut messages = Messages { bytes, at: end };
        let answer = match head {
            Head::NotUnderstood => return None,
            Head::Fenced => Self::Page(Err(Fenced)),
            Head::Page { read_to, caught_up, messages: heads } => {
                let queued = |head: QueuedHead| Some(head.join(messages.next()?));
                let messages = heads.into_iter().map(queued).collect::<Option<_>>()?;
                Self::Page(Ok(Page { messages, read_to, caught_up }))
            }
            Head::Retained { next, versions } => {
                let versioned = |version| Some((version, messages.next()?));
                let messages = versions.into_iter().map(versioned).collect::<Option<_>>()?;
                Self::Retained(RetainedPage { messages, next })
            }
            Head::User(hash) => Self::User(hash),
            Head::App(app) => Self::App(app),
            Head::Members(members) => Self::Members(members),
        };
        (messages.at == bytes.len()).then_some(answer)
    }
}

impl QueuedHead {
    fn split(queued: Queued) -> (Self, Arc<Message>) {
        let Queued { position, message, qos, subscription_ids, retain } = queued;
        (Self { position, qos, retain, subscription_ids }, message)
    }

    fn join(self, message: Arc<Message>) -> Queued {
        let Self { position, qos, retain, subscription_ids } = self;
        Queued { position, message, qos, subscription_ids, retain }
    }
}

/// Messages behind a head.
struct Messages<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Messages<'_> {
    fn next(&mut self) -> Option<Arc<Message>> {
        let (message, end) = body::read_message(self.bytes, self.at)?;
        self.at = end;
        Some(Arc::new(message))
    }
}

fn encode(head: &Head, messages: &[Arc<Message>]) -> Bytes {
    let bodies: usize = messages.iter().map(|message| body::message_bytes(message)).sum();
    let mut out = Vec::with_capacity(HEAD_AT + 64 * (1 + messages.len()) + bodies);
    out.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
    // What does not fit is cut off, and refused by who reads it.
    let _ = codec().serialize_into(&mut out, head);
    let length = u32::try_from(out.len() - HEAD_AT).unwrap_or(u32::MAX);
    out[1..HEAD_AT].copy_from_slice(&length.to_le_bytes());
    for message in messages {
        body::write_message(message, &mut out);
    }
    Bytes::from(out)
}

fn codec() -> impl bincode::Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(limits::PEER_MESSAGE_BYTES_MAX)
}

/// For `doors`: reads bytes as an answer and, if they are one, writes and reads them again.
pub(super) fn read_again(bytes: &Bytes) -> bool {
    match Answer::decode(bytes) {
        Ok(answer) => Answer::decode(&answer.clone().encode()) == Ok(answer),
        Err(Unreadable) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &'static str) -> Arc<Message> {
        Arc::new(Message {
            app: AppId(3),
            topic: TopicName::parse("a/b").unwrap(),
            publisher: Some(SessionKey(u128::MAX - 1)),
            id: None,
            qos: Qos::AtLeastOnce,
            retain: true,
            published_at_ms: 7,
            expires_at_ms: Some(99),
            properties: Bytes::from_static(b"\x01\x01"),
            payload: Bytes::from_static(payload.as_bytes()),
        })
    }

    fn answers() -> Vec<Answer> {
        let position = Position { entry: 1 << 40, offset: 3 };
        let queued = |payload, subscription_ids| Queued {
            position,
            message: message(payload),
            qos: Qos::ExactlyOnce,
            subscription_ids,
            retain: false,
        };
        let messages = vec![queued("one", vec![]), queued("", vec![1, 70_000])];
        vec![
            Answer::Page(Err(Fenced)),
            Answer::Page(Ok(Page { messages, read_to: position, caught_up: true })),
            Answer::Page(Ok(Page::default())),
            Answer::Retained(RetainedPage {
                messages: vec![(position, message("kept"))],
                next: Some(TopicName::parse("a/b").unwrap()),
            }),
            Answer::User(Some("$argon2id$".to_owned())),
            Answer::User(None),
            Answer::App(Some(AppId(9))),
            Answer::Members(vec![SessionKey(1), SessionKey(u128::MAX)]),
        ]
    }

    #[test]
    fn answer_reads_the_same_after_being_written() {
        for answer in answers() {
            assert_eq!(Answer::decode(&answer.clone().encode()), Ok(answer));
        }
    }

    #[test]
    fn answer_cut_or_grown_anywhere_is_unreadable() {
        for answer in answers() {
            let whole = answer.encode();
            for end in 0..whole.len() {
                assert_eq!(Answer::decode(&whole.slice(..end)), Err(Unreadable), "{end}");
            }
            let longer = Bytes::from([&whole[..], &[0]].concat());
            assert_eq!(Answer::decode(&longer), Err(Unreadable));
        }
    }

    #[test]
    fn question_of_another_version_is_not_understood_and_says_so() {
        let machine = ShardMachine::new(Arc::new(|_| {}));
        let store = crate::shard::memory_store::MemoryStore::default();
        let question = Question::App { name: "a#b".to_owned() }.encode().unwrap();
        let known = answer(&question, &machine, &store);
        assert_eq!(Answer::decode(&known), Ok(Answer::App(None)));
        let newer = Bytes::from([&[VERSION + 1], &question[1..]].concat());
        for question in [newer, Bytes::new(), question.slice(..question.len() - 1)] {
            assert_eq!(Answer::decode(&answer(&question, &machine, &store)), Err(Unreadable));
        }
    }
}
