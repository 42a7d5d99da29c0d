//! Answers what other members of this node's groups ask.
//!
//! - Owns: the groups it answers for. Takes: requests from the links. Gives: the answers of openraft.
//! - Bound: entries wait for room in memory (`room.rs`), `ROOM_TIMEOUT` at most; then only their heartbeat
//!   counts, and the leader sends them again. So a follower that lags never holds more than it may.
//! - Bound: openraft's queue has none, and while the disk stands still openraft takes nothing out of it. So it is
//!   given one append of a group at a time (`Turns`); others wait in their requests, and go with them.
//! - Source: Raft §5, §9.6 (asking before an election).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};

use super::{
    group::{Group, to_its_end},
    types::{Entry, LogId, Types},
    wire::{self, Request},
};
use crate::{
    id::NodeId,
    transport::{Class, PeerService, Served},
};

/// Entries wait this long for room.
const ROOM_TIMEOUT: Duration = Duration::from_millis(100);

/// A lead that was moved by somebody's wish stays for this long.
const PIN: Duration = Duration::from_secs(600);

/// See the head of the file.
pub(crate) struct RaftClerk {
    pub(crate) groups: Vec<Arc<Group>>,
}

impl PeerService for RaftClerk {
    fn serve(&self, from: NodeId, _class: Class, body: Bytes) -> Served {
        let found = wire::request(&body).and_then(|(group, request)| {
            let group = self.groups.get(usize::from(group))?;
            Some((group.clone(), request))
        });
        Box::pin(async move {
            let Some((group, request)) = found else {
                tracing::warn!(from = from.0, "a request of consensus cannot be read");
                return Err("the request cannot be read".to_owned());
            };
            if !group.is_open() {
                return Err("the group has ended".to_owned());
            }
            group.answer(from, request).await.ok_or_else(|| "the group ends".to_owned())
        })
    }
}

impl Group {
    async fn answer(&self, from: NodeId, request: Request) -> Option<Bytes> {
        match request {
            Request::Append(request) => Some(wire::answer(&self.append(request).await?)),
            Request::Vote(request) => self.vote(request).await,
            Request::Ask { last } => Some(wire::answer(&self.would_vote(last))),
            Request::Elect { serial, pinned } => {
                // Nothing waits in openraft: what holds now holds when it acts.
                self.raft.with_raft_state(|_| ()).await.ok()?;
                if !self.take_pledge(from, serial) || !self.would_lead() {
                    return None;
                }
                tracing::debug!(from = from.0, group = self.number, "asked to take over the lead");
                self.pin(pinned.then_some(PIN));
                self.elect().await?;
                Some(wire::answer(&()))
            }
            Request::Willing => Some(wire::answer(&self.would_lead())),
            Request::Pledge { serial } => {
                self.pledge(from, serial);
                Some(wire::answer(&()))
            }
        }
    }

    /// Takes entries of a leader, or its heartbeat.
    pub(crate) async fn append(
        &self,
        mut request: AppendEntriesRequest<Types>,
    ) -> Option<AppendEntriesResponse<u64>> {
        // Counts from its arrival: a slow disk here is no reason for another leader.
        if request.vote.committed && request.vote.leader_id.term >= self.lead.now().term {
            self.leader_heard();
        }
        // A leader sends one at a time, so there is a wait only behind one whose answer it did not wait for.
        let turn = self.turns.append.clone().lock_owned().await;
        let mut held_back = false;
        let mut kept = request.prev_log_id;
        if !request.entries.is_empty() && kept.is_some() && !self.has_room().await {
            // What is here already takes no room; it may be what takes it all, and waits for its answer.
            let known = self.known(&request.entries);
            held_back = known < request.entries.len();
            request.entries.truncate(known);
            kept = request.entries.last().map(|entry| entry.log_id).or(kept);
        }
        let raft = self.raft.clone();
        let append = async move { raft.append_entries(request).await.ok() };
        Some(match to_its_end(turn, append).await?? {
            AppendEntriesResponse::Success if held_back => {
                AppendEntriesResponse::PartialSuccess(kept)
            }
            other => other,
        })
    }

    async fn has_room(&self) -> bool {
        tokio::time::timeout(ROOM_TIMEOUT, self.room.to_follow()).await.is_ok()
    }

    /// Returns how many of the first entries are in the log here.
    fn known(&self, entries: &[Entry]) -> usize {
        let log = self.log.group(self.number);
        let has = |entry: &&Entry| log.as_ref().is_some_and(|log| log.has(entry.log_id));
        entries.iter().take_while(has).count()
    }

    /// Votes once in a term: openraft would let a candidate with a higher id lead in the term of another,
    /// but what a leader does is fenced by its term alone.
    async fn vote(&self, request: VoteRequest<u64>) -> Option<Bytes> {
        let turn = self.turns.vote.clone().lock_owned().await;
        let voted = self.log.group(self.number).and_then(|log| log.vote);
        let asked = request.vote.leader_id;
        if let Some(vote) = voted
            && vote.leader_id.term == asked.term
            && vote.leader_id.node_id != asked.node_id
        {
            let last_log_id = self.raft.data_metrics().borrow().last_log;
            let refused = VoteResponse { vote, vote_granted: false, last_log_id };
            return Some(wire::answer(&refused));
        }
        // What is read here must not be older than what the candidate may commit in a moment.
        let asked = self.lead.doubt();
        let raft = self.raft.clone();
        let vote = async move {
            let answer = raft.vote(request).await.ok()?;
            asked.settle(answer.vote_granted);
            Some(answer)
        };
        Some(wire::answer(&to_its_end(turn, vote).await??))
    }

    /// Returns whether a candidate with this log would get a vote: nobody leads, and his log is not behind.
    fn would_vote(&self, last: Option<LogId>) -> bool {
        let mine = self.raft.data_metrics().borrow().last_log;
        last >= mine && self.is_leaderless()
    }
}
