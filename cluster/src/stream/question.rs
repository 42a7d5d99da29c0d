//! Questions to the machine of a group, wherever its leader is.
//!
//! - Owns: turns to read on the cluster's threads. Takes: an encoded question for a group.
//! - Gives: the leader's answer; it sees every command that was acknowledged before the call.
//! - Bound: `READS_MAX` answers are computed at a time; a question is asked for `PROPOSE_TIMEOUT` in all.
//! - Source: own design.

use std::{future::ready, sync::Arc};

use bytes::{Buf, BufMut, Bytes};
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    time::{timeout, timeout_at},
};

use super::seek::{Seek, Way};
use crate::{
    clock,
    error::ReadError,
    id::{NodeId, ShardId},
    limits::{PROPOSE_TIMEOUT, READS_MAX, STREAM_RETRY},
    raft_group::group::Group,
    transport::{Class, Desk, PeerService, Served},
};

/// Version of questions and answers.
const VERSION: u8 = 1;

/// Where answers are computed.
pub(crate) struct Readers {
    turns: Arc<Semaphore>,
    work: Handle,
}

impl Readers {
    pub(crate) fn new(work: Handle) -> Self {
        Self { turns: Arc::new(Semaphore::new(READS_MAX)), work }
    }

    /// Computes an answer on the cluster's threads. It counts if this node still leads after it.
    pub(crate) async fn answer<R: Send + 'static>(
        &self,
        group: &Arc<Group>,
        answer: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, ReadError> {
        if !(group.is_open() && group.lead.may_read()) {
            return Err(ReadError::Unavailable);
        }
        let turn = self.turns.clone().acquire_owned().await;
        let turn = turn.map_err(|_| ReadError::Unavailable)?;
        let group = group.clone();
        let answer = self.work.spawn(async move {
            let _turn = turn;
            let answer = answer();
            group.lead.may_read().then_some(answer)
        });
        answer.await.ok().flatten().ok_or(ReadError::Unavailable)
    }
}

/// Asks the machines of all groups, and answers for those that this node leads.
pub(crate) struct Questions {
    pub(crate) node: NodeId,
    pub(crate) groups: Vec<Arc<Group>>,
    pub(crate) readers: Arc<Readers>,
    pub(crate) way: Option<Way>,
}

impl Questions {
    fn group(&self, group: ShardId) -> Result<&Arc<Group>, ReadError> {
        self.groups.get(usize::from(group.0)).ok_or(ReadError::Unavailable)
    }

    /// Answers if this node leads the group.
    async fn answer_here(&self, group: ShardId, question: Bytes) -> Result<Bytes, ReadError> {
        let group = self.group(group)?;
        let replica = group.replica.clone();
        self.readers.answer(group, move || replica.query(&question)).await
    }

    /// Asks whoever leads, here or elsewhere.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        group: ShardId,
        question: Bytes,
    ) -> Result<Bytes, ReadError> {
        let here = self.answer_here(group, question.clone()).await;
        let Some(way) = self.way.clone().filter(|_| here.is_err()) else { return here };
        self.group(group)?;
        let this = self.clone();
        // Callers need not have a clock.
        let asked = self.readers.work.spawn(async move { this.seek(group, question, &way).await });
        asked.await.unwrap_or(Err(ReadError::Unavailable))
    }

    async fn seek(&self, group: ShardId, question: Bytes, way: &Way) -> Result<Bytes, ReadError> {
        let deadline = clock::now() + PROPOSE_TIMEOUT;
        let mut lead = self.group(group)?.lead.watch();
        let mut seek = Seek::new(self.node, group);
        while clock::now() < deadline {
            let now = *lead.borrow_and_update();
            match seek.target(now, Some(way)).map(|leader| NodeId(leader.node)) {
                Some(leader) if leader == self.node => {
                    if let Ok(answer) = self.answer_here(group, question.clone()).await {
                        return Ok(answer);
                    }
                }
                Some(leader) => {
                    let body = encode(group, &question);
                    let left = deadline.saturating_duration_since(clock::now());
                    let answer =
                        way.network.request(leader, Class::Control, Desk::Query, body, left).await;
                    let (answer, hint) = answer.map(answered).unwrap_or_default();
                    if let Some(answer) = answer {
                        return Ok(answer);
                    }
                    seek.guess_again(leader, hint, way);
                }
                None => {}
            }
            let pause = timeout(STREAM_RETRY, lead.changed());
            let _ = timeout_at(deadline.into(), pause).await;
        }
        Err(ReadError::Unavailable)
    }

    /// Returns who leads a group that this node does not lead.
    fn hint(&self, group: ShardId) -> Option<NodeId> {
        let lead = self.group(group).ok()?.lead.now();
        lead.leader.filter(|leader| *leader != self.node)
    }
}

/// ```text
/// question = version u8 · group u16 · question
/// ```
fn encode(group: ShardId, question: &Bytes) -> Bytes {
    let mut out = Vec::with_capacity(3 + question.len());
    out.put_u8(VERSION);
    out.put_u16_le(group.0);
    out.extend_from_slice(question);
    out.into()
}

fn decode(mut body: Bytes) -> Option<(ShardId, Bytes)> {
    (body.try_get_u8().ok()? == VERSION).then_some(())?;
    Some((ShardId(body.try_get_u16_le().ok()?), body))
}

/// ```text
/// answer = version u8 · 1 · answer | version u8 · 0 · leader u64, or nothing
/// ```
fn encode_answer(answer: Result<Bytes, Option<NodeId>>) -> Bytes {
    let mut out = vec![VERSION, u8::from(answer.is_ok())];
    match answer {
        Ok(answer) => out.extend_from_slice(&answer),
        Err(Some(leader)) => out.put_u64_le(leader.0),
        Err(None) => {}
    }
    out.into()
}

/// Returns the answer, or else who may know it.
fn answered(mut body: Bytes) -> (Option<Bytes>, Option<NodeId>) {
    match (body.try_get_u8(), body.try_get_u8()) {
        (Ok(VERSION), Ok(1)) => (Some(body), None),
        (Ok(VERSION), Ok(0)) => (None, body.try_get_u64_le().ok().map(NodeId)),
        _ => (None, None),
    }
}

/// Serves [`Desk::Query`].
pub(crate) struct QueryClerk(pub(crate) Arc<Questions>);

impl PeerService for QueryClerk {
    fn serve(&self, from: NodeId, _class: Class, body: Bytes) -> Served {
        let Some((group, question)) = decode(body) else {
            tracing::warn!(peer = from.0, "a peer asks what cannot be read");
            return Box::pin(ready(Err("the question cannot be read".to_owned())));
        };
        let questions = self.0.clone();
        Box::pin(async move {
            let answer = questions.answer_here(group, question).await;
            Ok(encode_answer(answer.map_err(|_| questions.hint(group))))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_and_answer_when_decoded_then_as_encoded_and_nonsense_is_neither() {
        let text = Bytes::from_static(b"text");
        assert_eq!(decode(encode(ShardId(7), &text)), Some((ShardId(7), text.clone())));
        assert_eq!(decode(Bytes::from_static(&[2, 0, 0])), None);
        assert_eq!(decode(Bytes::from_static(&[1, 0])), None);
        assert_eq!(answered(encode_answer(Ok(text.clone()))), (Some(text), None));
        assert_eq!(answered(encode_answer(Err(Some(NodeId(3))))), (None, Some(NodeId(3))));
        assert_eq!(answered(encode_answer(Err(None))), (None, None));
        assert_eq!(answered(Bytes::from_static(&[1])), (None, None));
    }
}
