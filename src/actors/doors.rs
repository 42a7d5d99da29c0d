//! Doors to the decoders of what servers send each other, for `tests/fuzz` alone; nothing else comes through.
//!
//! - Owns: nothing. Takes: arbitrary bytes. Gives: nothing; panics where a promise is broken.
//! - Bound: no decoder reserves more than its bytes can hold.
//! - Promise: bytes are refused, or read as a value that reads the same after being written again.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    peer::{self, PeerReply, PeerRequest},
    relay,
};

/// Reads `data` as what its first byte names: a question, an answer, a batch of messages, its answer.
pub fn peer_body(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    let body = Bytes::copy_from_slice(body);
    let same = match kind % 3 {
        0 => reads_again::<PeerRequest>(&body),
        1 => reads_again::<PeerReply>(&body),
        _ => relay::reads_again(&body),
    };
    assert!(same, "a message between servers reads another after being written");
}

fn reads_again<T: Serialize + DeserializeOwned + PartialEq>(body: &Bytes) -> bool {
    let Ok(value) = peer::decode::<T>(body) else { return true };
    peer::encode(&value).is_ok_and(|written| peer::decode(&written) == Ok(value))
}
