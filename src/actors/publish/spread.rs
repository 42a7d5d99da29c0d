//! Where a batch goes once it may: shards, workers, other nodes; and what it waits for before.
//!
//! - Takes: a batch whose retained messages are committed, on a node that has the lease of its directory.
//! - Gives: messages to appender, routers and relay; an outcome for those that had to wait.
//! - Bound: a held batch is its publisher's only one; it waits `limits::LEASE_WAIT` at most.
//! - Source: ARCHITECTURE.md "Routes between nodes"; ALONE.

use std::sync::Arc;

use futures_util::future::{FutureExt as _, Shared, join_all};
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::{Accepted, Outcome, Part, Parts, Published, Publisher, Retaining, Versions, join};
use crate::{
    actors::{appender::SubmitError, line::Line, topic_router},
    limits,
    model::{
        message::{Message, Qos},
        reason::Reason,
    },
};

/// Answers that are given later, one per message of a batch; none for QoS 0 of a held one.
type Answers = Vec<Option<oneshot::Sender<Accepted>>>;

/// What a node says that cannot know all subscribers now.
const NO_LEASE: Reason = Reason::ImplementationSpecificError;

impl Publisher {
    /// Tells whether no subscriber who was told that he is one can be missed.
    pub(super) fn may_publish(&self, messages: &[Arc<Message>]) -> bool {
        let beyond = &self.targets.beyond;
        // In this order: what a lease vouches for is in the tables that are read after it.
        messages.iter().all(|message| message.qos == Qos::AtMostOnce)
            || beyond.tables.load().is_alone()
            || beyond.meta.has_lease()
    }

    /// Waits for the lease; `false` after `limits::LEASE_WAIT`.
    pub(super) async fn lease(&self) -> bool {
        let beyond = &self.targets.beyond;
        let lease = async {
            while !beyond.tables.load().is_alone() && !beyond.meta.has_lease() {
                tokio::time::sleep(limits::LEASE_LOOK).await;
            }
        };
        tokio::time::timeout(limits::LEASE_WAIT, lease).await.is_ok()
    }

    /// Publishes a batch when the lease is back, or without it what has QoS 0.
    pub(super) fn hold(&self, messages: &[Arc<Message>], line: &Line) -> Published {
        let (mut answers, mut outcomes) = (Answers::new(), Vec::new());
        for message in messages {
            if message.qos == Qos::AtMostOnce {
                answers.push(None);
                outcomes.push(Outcome::Done(Ok(())));
            } else {
                let (answer, outcome) = answer();
                answers.push(Some(answer));
                outcomes.push(Outcome::Pending(outcome));
            }
        }
        let (this, messages, line) = (self.clone(), messages.to_vec(), line.clone());
        let taken: Part = Box::pin(async move {
            let (messages, _, answers) = if this.lease().await {
                (messages, Versions::default(), answers)
            } else {
                without_reliable(messages, &Versions::default(), answers, &line)
            };
            let Published { outcomes, taken } = this.publish_now(&messages, &mut Some(line));
            pass_on(outcomes, answers);
            match taken {
                Some(taken) => taken.await,
                None => Ok(()),
            }
        });
        Published { outcomes, taken: Some(taken) }
    }

    /// As [`hold`](Self::hold), for messages that are stored again.
    pub(super) fn hold_again(&self, messages: &[Arc<Message>], line: &Line) -> Published {
        let (answers, outcomes): (Vec<_>, Vec<_>) = messages.iter().map(|_| answer()).unzip();
        let answers: Answers = answers.into_iter().map(Some).collect();
        let (this, messages, line) = (self.clone(), messages.to_vec(), line.clone());
        let taken: Part = Box::pin(async move {
            let (messages, _, answers) = if this.lease().await {
                (messages, Versions::default(), answers)
            } else {
                without_reliable(messages, &Versions::default(), answers, &line)
            };
            pass_on(this.publish_again_now(&messages, &mut Some(line)), answers);
            Ok(())
        });
        Published {
            outcomes: outcomes.into_iter().map(Outcome::Pending).collect(),
            taken: Some(taken),
        }
    }

    /// Stores and routes a batch once its retained messages are committed (or refused: traffic goes on).
    /// `parts` wait for what is stored then; the future is done when routers have their copies.
    pub(super) fn spread_after(
        &self,
        retained: Vec<Retaining>,
        messages: &[Arc<Message>],
        parts: &mut [Parts],
        line: &Line,
    ) -> Shared<Part> {
        let mut answers = Answers::with_capacity(messages.len());
        for parts in parts {
            let (answer, stored) = answer();
            answers.push(Some(answer));
            parts.push(stored);
        }
        let (this, messages, line) = (self.clone(), messages.to_vec(), line.clone());
        let spread: Part = Box::pin(async move {
            join_all(retained.iter().map(|each| each.part.clone())).await;
            let mut versions = Versions::default();
            retained.iter().for_each(|each| versions.push(each.place, each.version.get()));
            // The commit may have taken longer than the lease lasted.
            let (messages, versions, answers) = if this.may_publish(&messages) || this.lease().await
            {
                (messages, versions, answers)
            } else {
                without_reliable(messages, &versions, answers, &line)
            };
            let mut stored: Vec<Parts> = messages.iter().map(|_| Parts::new()).collect();
            let taken = this.spread(&messages, &versions, &mut stored, &mut Some(line));
            let outcome = |parts| join(parts).map_or(Outcome::Done(Ok(())), Outcome::Pending);
            pass_on(stored.into_iter().map(outcome).collect(), answers);
            match taken {
                Some(taken) => taken.await,
                None => Ok(()),
            }
        });
        spread.shared()
    }

    /// Hands a batch to shards, workers and other nodes; the next one may come after the answer.
    pub(super) fn spread(
        &self,
        messages: &[Arc<Message>],
        versions: &Versions,
        parts: &mut [Parts],
        line: &mut Option<Line>,
    ) -> Option<Part> {
        self.store(messages, parts, line);
        self.route_all(messages, versions, parts, line)
    }

    /// Hands a batch to workers and other nodes; the next one may come after the answer.
    pub(super) fn route_all(
        &self,
        messages: &[Arc<Message>],
        versions: &Versions,
        parts: &mut [Parts],
        line: &mut Option<Line>,
    ) -> Option<Part> {
        let beyond = &self.targets.beyond;
        let tables = beyond.tables.load();
        let far = if tables.is_alone() {
            None
        } else {
            beyond.relay.spread(&tables, messages, versions, parts, line)
        };
        let near = self.route(messages, versions);
        match far {
            None => near,
            Some(far) => join(near.into_iter().chain([far]).collect()),
        }
    }

    /// Sends every worker those messages for which it may have live subscribers.
    fn route(&self, messages: &[Arc<Message>], versions: &Versions) -> Option<Part> {
        let targets = &self.targets;
        let wanted: SmallVec<[u64; 8]> = messages
            .iter()
            .map(|message| targets.interests.workers(message.app, &message.topic))
            .collect();
        let mut workers = wanted.iter().fold(0, |all, each| all | each);
        let mut parts = Parts::new();
        while workers != 0 {
            let worker = workers.trailing_zeros() as usize;
            workers &= workers - 1;
            let Some(router) = targets.routers.get(worker) else { continue };
            let mut publish = topic_router::Publish::default();
            for (at, (message, wanted)) in messages.iter().zip(&wanted).enumerate() {
                if *wanted & (1 << worker) != 0 {
                    publish.push(Arc::clone(message), versions.of(at));
                }
            }
            let sent = router.send(publish);
            parts.push(Box::pin(async move { sent.await.map_err(|_| Reason::ServerShuttingDown) }));
        }
        join(parts)
    }
}

fn answer() -> (oneshot::Sender<Accepted>, Part) {
    let (answer, outcome) = oneshot::channel();
    let outcome = async move { outcome.await.unwrap_or(Err(Reason::ServerShuttingDown)) };
    (answer, Box::pin(outcome))
}

/// Refuses what must not be published without a lease, and what comes behind it; leaves the rest.
fn without_reliable(
    messages: Vec<Arc<Message>>,
    versions: &Versions,
    answers: Answers,
    line: &Line,
) -> (Vec<Arc<Message>>, Versions, Answers) {
    line.cut(SubmitError::Unavailable);
    let (mut left, mut left_versions, mut left_answers) =
        (Vec::new(), Versions::default(), Vec::new());
    for (place, (message, answer)) in messages.into_iter().zip(answers).enumerate() {
        if message.qos == Qos::AtMostOnce {
            left_versions.push(left.len(), versions.of(place));
            left.push(message);
            left_answers.push(answer);
        } else if let Some(answer) = answer {
            // Nobody waits any more where the connection has ended.
            let _ = answer.send(Err(NO_LEASE));
        }
    }
    (left, left_versions, left_answers)
}

/// Gives outcomes to those who wait for them.
fn pass_on(outcomes: Vec<Outcome>, answers: Answers) {
    for (outcome, answer) in outcomes.into_iter().zip(answers) {
        let Some(answer) = answer else { continue };
        match outcome {
            Outcome::Done(accepted) => {
                let _ = answer.send(accepted);
            }
            Outcome::Pending(part) => {
                actix_rt::spawn(async move {
                    let _ = answer.send(part.await);
                });
            }
        }
    }
}
