//! Carries what was proposed here to the leader of the group, wherever it is.
//!
//! ```text
//! who leads ──▶ queue ──▶ requests, several behind each other ──▶ link ──▶ desk of the leader
//!                 ◀────────────────── verdicts ◀──────────────────┘
//! ```
//!
//! - Owns: one task per group, and its requests under way.
//! - Takes: who leads, from the group itself, or from hints of its replicas if none is here.
//! - Bound: `STREAM_REQUESTS_MAX` requests. While this node leads, the group's proposer takes from the
//!   queue itself; then a task looks after those that wait for too long, and none at all without links.
//! - Source: own design.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::watch;

use super::{
    queue::Queue,
    run::{Refusal, Verdict},
    seek::{Seek, Way},
    wire,
};
use crate::{
    error::ProposeError,
    id::{NodeId, ShardId},
    limits::{PROPOSE_TIMEOUT, STREAM_RETRY},
    raft_group::lead::Lead,
    transport::{Class, Desk, LinkError},
};

/// How often a leader looks for commands of its own that have waited for too long.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How often somebody to ask is looked for.
const LOST_INTERVAL: Duration = Duration::from_millis(50);

/// Follows who leads a group, from now on, and carries commands there.
pub(crate) fn start(
    node: NodeId,
    group: ShardId,
    queue: &Arc<Queue>,
    lead: watch::Receiver<Lead>,
    way: Option<Way>,
) {
    let seek = Seek::new(node, group);
    let mut driver = Driver { group, queue: queue.clone(), lead, seek };
    driver.follow(way.as_ref());
    tokio::spawn(async move {
        match way {
            Some(way) => driver.run(way).await,
            None => driver.watch().await,
        }
    });
}

struct Driver {
    group: ShardId,
    queue: Arc<Queue>,
    lead: watch::Receiver<Lead>,
    seek: Seek,
}

type UnderWay = FuturesUnordered<BoxFuture<'static, (u64, NodeId, Result<Bytes, LinkError>)>>;

impl Driver {
    /// Only takes over who leads.
    async fn watch(mut self) {
        while self.lead.changed().await.is_ok() {
            self.follow(None);
        }
    }

    async fn run(mut self, way: Way) {
        let mut under_way = UnderWay::new();
        let mut look_at = None;
        loop {
            let now = crate::clock::now();
            let is_lost = self.queue.is_lost();
            let pause = match look_at {
                _ if is_lost => LOST_INTERVAL,
                Some(at) => self.queue.instant(at).saturating_duration_since(now),
                None => LOOK_INTERVAL,
            };
            tokio::select! {
                biased;
                changed = self.lead.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow(Some(&way));
                }
                Some((request, to, answer)) = under_way.next(), if !under_way.is_empty() => {
                    self.settle(request, to, answer, &way);
                }
                () = self.queue.woken() => {}
                () = tokio::time::sleep(pause), if is_lost || look_at.is_some() || self.looks() => {}
            }
            if is_lost {
                self.follow(Some(&way));
            }
            let expires = self.queue.expire();
            let next = self.send(&way, &under_way);
            look_at = [expires, next].into_iter().flatten().min();
        }
    }

    /// Returns whether nobody wakes this task when a command comes.
    fn looks(&self) -> bool {
        self.lead.borrow().here
    }

    /// Takes over who leads.
    fn follow(&mut self, way: Option<&Way>) {
        let lead = *self.lead.borrow_and_update();
        self.queue.lead(self.seek.target(lead, way));
    }

    /// Sends what may go out now; returns when there may be more.
    fn send(&self, way: &Way, under_way: &UnderWay) -> Option<Duration> {
        loop {
            match self.queue.next() {
                Ok((to, sending)) => {
                    let (to, request) = (NodeId(to), sending.request);
                    let body = wire::request(self.group, &sending);
                    let answer = way.network.request(
                        to,
                        Class::Consensus,
                        Desk::Propose,
                        body,
                        PROPOSE_TIMEOUT,
                    );
                    under_way.push(answer.map(move |answer| (request, to, answer)).boxed());
                }
                Err(at) => return at,
            }
        }
    }

    fn settle(&mut self, request: u64, to: NodeId, answer: Result<Bytes, LinkError>, way: &Way) {
        let verdict = match answer {
            Ok(body) => wire::answered(body).unwrap_or_else(|| {
                tracing::warn!(peer = to.0, "a peer answers what cannot be read");
                Verdict::Doubtful
            }),
            Err(LinkError::Unreachable | LinkError::NoCluster | LinkError::Full) => {
                Verdict::Refused(Refusal::Unsent)
            }
            // No later try would fare better.
            Err(LinkError::TooLong) => Verdict::Refused(Refusal::Told(ProposeError::Overloaded)),
            Err(LinkError::Lost | LinkError::TimedOut) => Verdict::Doubtful,
            // Nobody is at that desk, or he cannot read this release's requests.
            Err(LinkError::Refused(_) | LinkError::Denied(_)) => {
                Verdict::Refused(Refusal::NotLeader(None))
            }
        };
        let wrong = match &verdict {
            Verdict::Refused(Refusal::NotLeader(hint)) => Some(hint.map(NodeId)),
            Verdict::Refused(Refusal::Unsent) | Verdict::Doubtful => Some(None),
            _ => None,
        };
        self.queue.settle(request, verdict);
        if let Some(hint) = wrong {
            self.seek.guess_again(to, hint, way);
            self.follow(Some(way));
        }
    }
}

const _: () = assert!(STREAM_RETRY.as_millis() < LOOK_INTERVAL.as_millis());
