//! Messages that came from other nodes: to the routers of this one, and nowhere else (ONE-HOP).
//!
//! - Owns: per node the stream it sends and the task that hands it on, in order.
//! - Takes: frames, in the order of sending. Gives: `Relayed` to the routers of workers that may have a
//!   subscriber; an answer when all of them have queued their copies.
//! - Bound: `limits::RELAY_ARRIVALS_MAX` batches per node wait for routers; then the sender must come again.
//! - A router whose mailbox is full holds up the batches of that node behind it, so that order stays.
//! - Source: ORDER, ONE-HOP in ARCHITECTURE.md.

use std::sync::Arc;

use actix::{Addr, prelude::SendError};
use ahash::AHashMap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hongqiao_cluster::{Served, id::NodeId};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::frame::{self, Answer, Head};
use crate::{
    actors::{
        interest::Interests,
        route_tables::RouteTables,
        topic_router::{Publish, Relayed, TopicRouter},
    },
    limits,
};

/// Runs a task on one of the workers.
pub type Spawn = Box<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;

type Answered = oneshot::Sender<Result<(), frame::Malformed>>;

/// The stream of one node.
struct Stream {
    boot: u64,
    epoch: u64,
    last: u64,
    batches: mpsc::Sender<(Bytes, Answered)>,
}

/// See the head of the file.
pub struct Arrivals {
    routers: Vec<Addr<TopicRouter>>,
    interests: Interests,
    tables: Arc<RouteTables>,
    spawn: Spawn,
    streams: Mutex<AHashMap<NodeId, Stream>>,
}

/// What to do with a batch.
enum Verdict {
    Answer(Answer),
    Wait(oneshot::Receiver<Result<(), frame::Malformed>>),
}

impl Arrivals {
    /// Prepares for batches to these routers, by worker.
    #[must_use]
    pub fn new(
        routers: Vec<Addr<TopicRouter>>,
        interests: Interests,
        tables: Arc<RouteTables>,
        spawn: Spawn,
    ) -> Arc<Self> {
        Arc::new(Self { routers, interests, tables, spawn, streams: Mutex::default() })
    }

    /// Takes one frame. Frames of one node are taken in the order of the calls; an error drops the link.
    pub fn arrive(self: &Arc<Self>, from: NodeId, frame: Bytes) -> Served {
        let verdict = match frame::read_head(&frame) {
            Ok(head) => self.judge(from, head, frame),
            Err(error) => return Box::pin(async move { Err(error.to_string()) }),
        };
        Box::pin(async move {
            match verdict {
                Verdict::Answer(answer) => Ok(answer.write()),
                Verdict::Wait(taken) => match taken.await {
                    Ok(Err(error)) => Err(error.to_string()),
                    // An error here: the node is stopping, and its receivers with it.
                    Ok(Ok(())) | Err(_) => Ok(Answer::Taken.write()),
                },
            }
        })
    }

    fn judge(self: &Arc<Self>, from: NodeId, head: Head, frame: Bytes) -> Verdict {
        if head.receiver < self.tables.own_incarnation() {
            return Verdict::Answer(Answer::Gone);
        }
        let mut streams = self.streams.lock();
        let stream = streams.entry(from).or_insert_with(|| {
            let batches = self.begin(from);
            Stream { boot: head.boot, epoch: head.epoch, last: 0, batches }
        });
        if (head.boot, head.epoch) > (stream.boot, stream.epoch) {
            (stream.boot, stream.epoch, stream.last) = (head.boot, head.epoch, 0);
        }
        let wanted = stream.last + 1;
        if (head.boot, head.epoch) < (stream.boot, stream.epoch) || head.number < wanted {
            // Of a stream that has ended, or a double: it was taken, or its sender has given it up.
            return Verdict::Answer(Answer::Taken);
        }
        if head.number > wanted {
            return Verdict::Answer(Answer::Wanted(wanted));
        }
        let (answer, taken) = oneshot::channel();
        match stream.batches.try_send((frame, answer)) {
            Ok(()) => {
                stream.last = head.number;
                Verdict::Wait(taken)
            }
            Err(mpsc::error::TrySendError::Full(_)) => Verdict::Answer(Answer::Wanted(wanted)),
            Err(mpsc::error::TrySendError::Closed(_)) => Verdict::Answer(Answer::Taken),
        }
    }

    /// Starts the task that hands on what one node sends.
    fn begin(self: &Arc<Self>, from: NodeId) -> mpsc::Sender<(Bytes, Answered)> {
        let (batches, mut arrived) = mpsc::channel::<(Bytes, Answered)>(limits::RELAY_ARRIVALS_MAX);
        let this = Arc::clone(self);
        (self.spawn)(Box::pin(async move {
            while let Some((frame, answer)) = arrived.recv().await {
                if let Err(error) = this.hand_on(&frame, answer).await {
                    tracing::warn!(peer = from.0, %error, "messages of a node cannot be read");
                }
            }
        }));
        batches
    }

    /// Gives the messages of a frame to the routers; `answer` is dropped by the last one.
    async fn hand_on(&self, frame: &Bytes, answer: Answered) -> Result<(), frame::Malformed> {
        let messages = match frame::read_messages(frame) {
            Ok(messages) => messages,
            Err(error) => {
                let _ = answer.send(Err(error));
                return Err(error);
            }
        };
        let answer = Arc::new(answer);
        let mut by_worker: Vec<Publish> = Vec::new();
        by_worker.resize_with(self.routers.len(), Publish::default);
        for (message, version) in messages {
            let mut workers = self.interests.workers(message.app, &message.topic);
            while workers != 0 {
                let worker = workers.trailing_zeros() as usize;
                workers &= workers - 1;
                if let Some(publish) = by_worker.get_mut(worker) {
                    publish.push(Arc::clone(&message), version);
                }
            }
        }
        for (publish, router) in by_worker.into_iter().zip(&self.routers) {
            if publish.messages.is_empty() {
                continue;
            }
            let relayed = Relayed { publish, answer: Arc::clone(&answer) };
            if let Err(SendError::Full(relayed)) = router.try_send(relayed) {
                // What comes behind waits, or it would overtake.
                let _ = router.send(relayed).await;
            }
        }
        Ok(())
    }
}
