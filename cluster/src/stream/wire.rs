//! Bytes of a request to the leader of a group, and of its answer.
//!
//! ```text
//! request = version u8 · group u16 · incarnation u64 · request u64 · epoch u64 · first u64
//!           · commands u32 · (length u32 · bytes)*
//! answer  = version u8 · kind u8 · fields
//! ```
//!
//! - Owns: nothing. Takes: runs and verdicts. Gives: bytes, and them back; commands share memory with the body.
//! - Bound: `ENTRY_COMMANDS_MAX` commands; an answer that would not fit a frame forgets its last replies.
//! - Source: own design. Integers are little endian; whose stream it is, the link says.

use bytes::{Buf, BufMut, Bytes};

use super::{
    run::{Origin, Outcome, Refusal, Run, Verdict},
    sender::Sending,
};
use crate::{
    error::ProposeError,
    id::{NodeId, ShardId},
    limits::{ENTRY_COMMANDS_MAX, FRAME_BYTES_MAX},
};

/// Version of requests and answers.
const VERSION: u8 = 1;

/// Replies take at most this much of an answer.
const REPLIES_BYTES_MAX: usize = FRAME_BYTES_MAX - (64 << 10);

/// A request as the leader gets it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) group: ShardId,
    pub(crate) request: u64,
    pub(crate) run: Run,
    pub(crate) commands: Vec<Bytes>,
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(length(bytes.len()));
    out.extend_from_slice(bytes);
}

/// Encodes a request.
pub(crate) fn request(group: ShardId, sending: &Sending) -> Bytes {
    let bytes: usize = sending.commands.iter().map(|command| command.len() + 4).sum();
    let mut out = Vec::with_capacity(bytes + 48);
    out.put_u8(VERSION);
    out.put_u16_le(group.0);
    out.put_u64_le(sending.run.origin.incarnation);
    out.put_u64_le(sending.request);
    out.put_u64_le(sending.run.epoch);
    out.put_u64_le(sending.run.first);
    out.put_u32_le(length(sending.commands.len()));
    for command in &sending.commands {
        put(&mut out, command);
    }
    out.into()
}

/// Decodes a request of `from`; `None` if the bytes mean nothing.
pub(crate) fn asked(from: NodeId, mut body: Bytes) -> Option<Asked> {
    if body.try_get_u8().ok()? != VERSION {
        return None;
    }
    let group = ShardId(body.try_get_u16_le().ok()?);
    let origin = Origin { node: from.0, incarnation: body.try_get_u64_le().ok()? };
    let request = body.try_get_u64_le().ok()?;
    let (epoch, first) = (body.try_get_u64_le().ok()?, body.try_get_u64_le().ok()?);
    let count = body.try_get_u32_le().ok()?;
    let places = usize::try_from(count).ok().filter(|count| *count <= ENTRY_COMMANDS_MAX)?;
    let mut commands = Vec::with_capacity(places.min(body.len() / 4));
    for _ in 0..places {
        commands.push(take(&mut body)?);
    }
    // No stream gets that far, and everybody may count on a number behind each.
    let counts = first.checked_add(u64::from(count)).is_some() && epoch < u64::MAX;
    let run = Run { origin, epoch, first, count };
    (counts && body.is_empty()).then_some(Asked { group, request, run, commands })
}

fn take(body: &mut Bytes) -> Option<Bytes> {
    let bytes = usize::try_from(body.try_get_u32_le().ok()?).ok()?;
    (bytes <= body.len()).then(|| body.split_to(bytes))
}

/// Encodes an answer.
pub(crate) fn answer(verdict: &Verdict) -> Bytes {
    let mut out = vec![VERSION];
    match verdict {
        Verdict::Doubtful => out.put_u8(0),
        Verdict::Done(Outcome::Applied(replies)) => {
            out.put_u8(1);
            out.put_u32_le(length(replies.len()));
            for reply in replies {
                let kept =
                    reply.as_ref().filter(|reply| out.len() + reply.len() < REPLIES_BYTES_MAX);
                out.put_u8(u8::from(kept.is_some()));
                if let Some(reply) = kept {
                    put(&mut out, reply);
                }
            }
        }
        Verdict::Done(Outcome::Opened { last, replies }) => {
            out.put_u8(2);
            out.put_u64_le(*last);
            for (seq, reply) in replies {
                if out.len() + reply.len() < REPLIES_BYTES_MAX {
                    out.put_u64_le(*seq);
                    put(&mut out, reply);
                }
            }
        }
        Verdict::Done(Outcome::Gap) => out.put_u8(3),
        Verdict::Done(Outcome::Superseded { incarnation, epoch }) => {
            out.put_u8(4);
            out.put_u64_le(*incarnation);
            out.put_u64_le(*epoch);
        }
        Verdict::Refused(why) => {
            out.put_u8(5);
            put_refusal(&mut out, *why);
        }
    }
    out.into()
}

fn put_refusal(out: &mut Vec<u8>, why: Refusal) {
    match why {
        Refusal::NotLeader(None) | Refusal::Unsent => out.put_u8(0),
        Refusal::NotLeader(Some(leader)) => {
            out.put_u8(1);
            out.put_u64_le(leader);
        }
        Refusal::Behind => out.put_u8(2),
        Refusal::Told(ProposeError::Overloaded) => out.put_u8(3),
        Refusal::Told(ProposeError::DiskFull) => out.put_u8(4),
        Refusal::Told(ProposeError::DiskFailing) => out.put_u8(5),
        // The sender itself refuses what is too large.
        Refusal::Told(
            ProposeError::Unavailable | ProposeError::Unknown | ProposeError::TooLarge,
        ) => out.put_u8(6),
    }
}

/// Decodes an answer; `None` if the bytes mean nothing.
pub(crate) fn answered(mut body: Bytes) -> Option<Verdict> {
    if body.try_get_u8().ok()? != VERSION {
        return None;
    }
    let verdict = match body.try_get_u8().ok()? {
        0 => Verdict::Doubtful,
        1 => {
            let count = usize::try_from(body.try_get_u32_le().ok()?).ok()?;
            if count > ENTRY_COMMANDS_MAX {
                return None;
            }
            let reply = |body: &mut Bytes| match body.try_get_u8().ok()? {
                0 => Some(None),
                _ => take(body).map(Some),
            };
            let replies: Option<Vec<_>> = (0..count).map(|_| reply(&mut body)).collect();
            Verdict::Done(Outcome::Applied(replies?))
        }
        2 => {
            let last = body.try_get_u64_le().ok()?;
            let mut replies = Vec::new();
            while !body.is_empty() {
                replies.push((body.try_get_u64_le().ok()?, take(&mut body)?));
            }
            Verdict::Done(Outcome::Opened { last, replies })
        }
        3 => Verdict::Done(Outcome::Gap),
        4 => {
            let (incarnation, epoch) = (body.try_get_u64_le().ok()?, body.try_get_u64_le().ok()?);
            Verdict::Done(Outcome::Superseded { incarnation, epoch })
        }
        5 => Verdict::Refused(match body.try_get_u8().ok()? {
            0 => Refusal::NotLeader(None),
            1 => Refusal::NotLeader(Some(body.try_get_u64_le().ok()?)),
            2 => Refusal::Behind,
            3 => Refusal::Told(ProposeError::Overloaded),
            4 => Refusal::Told(ProposeError::DiskFull),
            5 => Refusal::Told(ProposeError::DiskFailing),
            6 => Refusal::Told(ProposeError::Unavailable),
            _ => return None,
        }),
        _ => return None,
    };
    body.is_empty().then_some(verdict)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        let told = [
            ProposeError::Overloaded,
            ProposeError::DiskFull,
            ProposeError::DiskFailing,
            ProposeError::Unavailable,
        ];
        prop_oneof![
            Just(Verdict::Doubtful),
            Just(Verdict::Done(Outcome::Gap)),
            prop::collection::vec(prop::option::of(bytes()), 0..9)
                .prop_map(|replies| Verdict::Done(Outcome::Applied(replies))),
            (any::<u64>(), prop::collection::vec((any::<u64>(), bytes()), 0..9))
                .prop_map(|(last, replies)| Verdict::Done(Outcome::Opened { last, replies })),
            (any::<u64>(), any::<u64>()).prop_map(|(incarnation, epoch)| {
                Verdict::Done(Outcome::Superseded { incarnation, epoch })
            }),
            prop::option::of(any::<u64>())
                .prop_map(|hint| Verdict::Refused(Refusal::NotLeader(hint))),
            Just(Verdict::Refused(Refusal::Behind)),
            prop::sample::select(told.to_vec())
                .prop_map(|why| Verdict::Refused(Refusal::Told(why))),
        ]
    }

    proptest! {
        #[test]
        fn request_when_decoded_then_as_encoded_and_no_part_of_it_means_anything(
            commands in prop::collection::vec(bytes(), 0..9),
            numbers in any::<[u32; 4]>(),
            group in any::<u16>(),
        ) {
            let [incarnation, request, epoch, first] = numbers.map(u64::from);
            let origin = Origin { node: 5, incarnation };
            let count = u32::try_from(commands.len()).unwrap();
            let run = Run { origin, epoch, first, count };
            let body = super::request(ShardId(group), &Sending { request, run, commands: commands.clone() });
            let found = asked(NodeId(5), body.clone()).unwrap();
            prop_assert_eq!((found.group, found.request, found.run), (ShardId(group), request, run));
            prop_assert_eq!(found.commands, commands);
            for end in 0..body.len() {
                prop_assert!(asked(NodeId(5), body.slice(..end)).is_none());
            }
        }

        #[test]
        fn answer_when_decoded_then_as_encoded(verdict in verdict()) {
            prop_assert_eq!(answered(answer(&verdict)), Some(verdict));
        }

        #[test]
        fn request_and_answer_when_bytes_are_random_then_decoding_ends(
            mut body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Some(version) = body.first_mut() {
                *version = VERSION;
            }
            let _ = (asked(NodeId(1), body.clone().into()), answered(body.into()));
        }
    }

    #[test]
    fn answer_when_replies_do_not_fit_a_frame_then_the_last_are_forgotten() {
        let reply = Some(Bytes::from(vec![1; 3 << 20]));
        let body = answer(&Verdict::Done(Outcome::Applied(vec![reply.clone(); 3])));
        assert!(body.len() <= FRAME_BYTES_MAX);
        let expected = Verdict::Done(Outcome::Applied(vec![reply.clone(), reply, None]));
        assert!(answered(body) == Some(expected));
    }
}
