//! Sends a snapshot to one follower, piece by piece.
//!
//! ```text
//! free? ─▶ offer ─▶ so much is here ─▶ pieces, each acknowledged ─▶ finish ─▶ installed
//!            ▲             link broken: offer again │                 without the turn
//!            └──────────────────────────────────────┘
//! ```
//!
//! - Owns: the turn to send of its node. Takes: a follower and a group. Gives: the follower's vote once it
//!   has what the snapshot holds.
//! - Bound: `PIECES_IN_FLIGHT` pieces; `PIECE_TIMEOUT` for each, then openraft tries later and goes on
//!   where this one ended. What has arrived whole needs nothing of this node: however long a follower takes to
//!   install it, for ever if its disk is full, others are sent theirs meanwhile.
//! - Source: own design.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{
    file::PIECE_BYTES,
    spool::{Snapshots, Spool, stopping},
    wire::{Answer, Offer, Question},
};
use crate::{
    clock,
    id::NodeId,
    raft_group::types::{LogId, Vote},
    runtime,
    storage::checkpoint::ShardStore,
    transport::{Class, Desk, LinkError, Network},
};

const PIECES_IN_FLIGHT: usize = 2;
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);

/// The follower is asked this long, and then again, whether it has installed the snapshot.
const FINISH_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause before it is asked again.
const INSTALL_POLL: Duration = Duration::from_millis(100);

/// How often a follower may find what it got damaged before the sender copies its state again.
const DAMAGED_MAX: usize = 2;

/// Why a snapshot was not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("cannot copy the state: {0}")]
    Copy(#[from] io::Error),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the follower is busy with another snapshot")]
    Busy,
    #[error("the follower found it damaged again and again")]
    Damaged,
    #[error("the follower's answer cannot be read")]
    Unreadable,
}

/// Names no snapshot: whoever is asked to finish it only says whether another is being installed.
const NONE: u64 = 0;

/// How an attempt went on.
enum Step {
    /// All of it has arrived, sent since then.
    Whole(Instant),
    Settled(Vote),
    /// The follower has thrown away what it had, or has never had any.
    Again {
        damaged: bool,
    },
}

/// The way to one follower.
pub(crate) struct Follower<'a> {
    pub(crate) network: &'a Arc<dyn Network>,
    pub(crate) node: NodeId,
    pub(crate) group: u16,
}

impl Follower<'_> {
    fn ask(
        &self,
        question: &Question,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let body = question.encode(self.group);
        self.network.request(self.node, Class::Control, Desk::Snapshot, body, time_out)
    }

    /// Asked before a state is copied: a follower that installs another snapshot may do so for long.
    async fn is_free(&self) -> Result<(), SendError> {
        match read(self.ask(&Question::Finish { number: NONE }, PIECE_TIMEOUT).await)? {
            Answer::Installing | Answer::Busy => Err(SendError::Busy),
            _ => Ok(()),
        }
    }

    /// Waits until what has arrived whole is installed.
    async fn finish(&self, number: u64) -> Result<Step, SendError> {
        loop {
            let answer = match self.ask(&Question::Finish { number }, FINISH_TIMEOUT).await {
                Err(LinkError::TimedOut) => Answer::Installing,
                answer => read(answer)?,
            };
            match answer {
                Answer::Settled { vote } => return Ok(Step::Settled(vote)),
                Answer::Installing | Answer::Busy => tokio::time::sleep(INSTALL_POLL).await,
                Answer::Damaged => return Ok(Step::Again { damaged: true }),
                Answer::Have { .. } | Answer::Unknown => {
                    return Ok(Step::Again { damaged: false });
                }
            }
        }
    }
}

fn read(answer: Result<Bytes, LinkError>) -> Result<Answer, SendError> {
    Answer::decode(&answer?).ok_or(SendError::Unreadable)
}

impl Snapshots {
    /// Sends the state of `store` to a follower; what it gets holds at least `least`.
    ///
    /// - Shape: the follower's vote, as openraft wants it.
    ///
    /// # Errors
    /// Whatever came in between: the next call goes on where this one ended, as long as it can.
    pub(crate) async fn send(
        self: &Arc<Self>,
        to: &Follower<'_>,
        store: &Arc<ShardStore>,
        vote: Vote,
        least: Option<LogId>,
    ) -> Result<Vote, SendError> {
        let sent = self.send_until_settled(to, store, vote, least).await;
        match &sent {
            Err(why @ (SendError::Copy(_) | SendError::Damaged | SendError::Unreadable)) => {
                tracing::warn!(group = to.group, peer = to.node.0, %why, "cannot send a snapshot");
            }
            // The link or the other side says what there is to say.
            Err(why) => {
                tracing::debug!(group = to.group, peer = to.node.0, %why, "no snapshot now");
            }
            Ok(_) => {}
        }
        sent
    }

    async fn send_until_settled(
        self: &Arc<Self>,
        to: &Follower<'_>,
        store: &Arc<ShardStore>,
        vote: Vote,
        least: Option<LogId>,
    ) -> Result<Vote, SendError> {
        let mut damaged_times = 0;
        loop {
            to.is_free().await?;
            let (spool, step) = self.send_in_turn(to, store, vote, least).await?;
            let step = match step {
                Step::Whole(since) => self.finish(to, &spool, since).await?,
                step => step,
            };
            match step {
                Step::Settled(vote) => {
                    self.remove_sent(spool.number).await;
                    return Ok(vote);
                }
                Step::Whole(_) | Step::Again { damaged: false } => {}
                Step::Again { damaged: true } => {
                    damaged_times += 1;
                    // The damage may be in the copy.
                    self.remove_sent(spool.number).await;
                    if damaged_times > DAMAGED_MAX {
                        return Err(SendError::Damaged);
                    }
                }
            }
        }
    }

    /// Offers a copy and sends what the follower lacks of it.
    async fn send_in_turn(
        &self,
        to: &Follower<'_>,
        store: &Arc<ShardStore>,
        vote: Vote,
        least: Option<LogId>,
    ) -> Result<(Spool, Step), SendError> {
        let _turn = self.turn.lock().await;
        let spool = self.copy(store, least).await?;
        let written = &spool.written;
        let offer = Question::Offer(Offer {
            vote,
            meta: written.meta.clone(),
            number: spool.number,
            bytes: written.bytes,
            digest: written.digest,
        });
        let have = match read(to.ask(&offer, PIECE_TIMEOUT).await)? {
            Answer::Have { bytes } => bytes.min(written.bytes),
            Answer::Settled { vote } => return Ok((spool, Step::Settled(vote))),
            Answer::Busy | Answer::Installing => return Err(SendError::Busy),
            Answer::Damaged => return Ok((spool, Step::Again { damaged: true })),
            Answer::Unknown => return Err(SendError::Unreadable),
        };
        let (since, peer) = (clock::now(), to.node.0);
        let last = written.meta.last_log_id.map(|id| id.index);
        let (group, bytes) = (to.group, written.bytes);
        tracing::debug!(group, peer, last, bytes, from = have, "sends a snapshot");
        let step = self.send_pieces(to, &spool, have).await?.unwrap_or(Step::Whole(since));
        Ok((spool, step))
    }

    /// Sends what follows the first `have` bytes; `None` once all of it has arrived.
    async fn send_pieces(
        &self,
        to: &Follower<'_>,
        spool: &Spool,
        have: u64,
    ) -> Result<Option<Step>, SendError> {
        let mut next = have;
        let mut waiting = VecDeque::new();
        loop {
            while waiting.len() < PIECES_IN_FLIGHT && next < spool.written.bytes {
                let bytes = self.read(spool, next).await?;
                let question = Question::Piece { number: spool.number, offset: next, bytes };
                let Question::Piece { bytes, .. } = &question else { break };
                next += bytes.len() as u64;
                waiting.push_back((next, to.ask(&question, PIECE_TIMEOUT)));
            }
            let Some((end, answer)) = waiting.pop_front() else { return Ok(None) };
            match read(answer.await)? {
                Answer::Have { bytes } if bytes == end => {}
                Answer::Unknown | Answer::Have { .. } => {
                    return Ok(Some(Step::Again { damaged: false }));
                }
                Answer::Damaged => return Ok(Some(Step::Again { damaged: true })),
                Answer::Settled { vote } => return Ok(Some(Step::Settled(vote))),
                Answer::Busy | Answer::Installing => return Err(SendError::Busy),
            }
        }
    }

    async fn read(&self, spool: &Spool, offset: u64) -> io::Result<Bytes> {
        let (shelf, item) = (self.shelf.clone(), spool.item);
        let read = runtime::aside(move || shelf.read(item, offset, PIECE_BYTES));
        let bytes = read.await.unwrap_or_else(|| Err(stopping()))?;
        if bytes.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the copy is cut off"));
        }
        Ok(bytes)
    }

    async fn finish(
        &self,
        to: &Follower<'_>,
        spool: &Spool,
        since: Instant,
    ) -> Result<Step, SendError> {
        let step = to.finish(spool.number).await?;
        let (group, peer) = (to.group, to.node.0);
        let last = spool.written.meta.last_log_id.map(|id| id.index);
        let took_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(group, peer, last, took_ms, "has sent a snapshot");
        Ok(step)
    }
}
