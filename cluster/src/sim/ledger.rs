//! The machine of a simulated shard: a list of numbered commands, with a digest over all of it; a guest's machine
//! may be inside.
//!
//! - Owns: the digest. Takes: commands of clients. Gives: each its place; tells the oracle what it applies.
//! - Not idempotent on purpose: a command that is applied twice, left out, or applied elsewhere changes
//!   the digest of everything behind it.
//! - What follows a command's name is for the machine inside; its replies go into the digest.
//! - Bound: keeps the last `KEPT` commands; older ones are in the digest alone.
//! - Source: own design.

use std::sync::Arc;

use bytes::Bytes;

use super::oracle::Oracle;
use crate::{
    id::{NodeId, ShardId},
    machine::{Machine, Store, StoreMut},
};

/// Commands that stay in the store, so that tables, blocks and deletions are all in use.
const KEPT: u64 = 40;

/// Bytes of a command's name.
const NAME_BYTES: usize = 12;

/// Bytes of an encoded summary.
pub(super) const SUMMARY_BYTES: usize = 24;

/// What a client proposes: who, its how many-th, and some bytes to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Command {
    pub(super) client: u32,
    pub(super) number: u64,
}

impl Command {
    pub(super) fn encode(self, body: &[u8]) -> Bytes {
        let mut bytes = Vec::with_capacity(NAME_BYTES + body.len());
        bytes.extend_from_slice(&self.client.to_be_bytes());
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(body);
        Bytes::from(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Self {
        let client = u32::from_be_bytes(bytes[..4].try_into().unwrap());
        Self { client, number: u64_at(bytes, 4) }
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// How far a ledger is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Summary {
    /// Index of the last command.
    pub(super) index: u64,
    pub(super) count: u64,
    pub(super) digest: u64,
}

impl Summary {
    fn with(self, index: u64, command: &[u8], reply: &[u8]) -> Self {
        let parts = [&self.digest.to_be_bytes()[..], &index.to_be_bytes(), command, reply];
        Self { index, count: self.count + 1, digest: digest(&parts) }
    }

    pub(super) fn encode(self) -> Bytes {
        let numbers = [self.index, self.count, self.digest];
        Bytes::from(numbers.map(u64::to_be_bytes).concat())
    }

    pub(super) fn decode(bytes: &[u8]) -> Self {
        Self { index: u64_at(bytes, 0), count: u64_at(bytes, 8), digest: u64_at(bytes, 16) }
    }
}

/// FNV-1a, 64 bits.
pub(super) fn digest(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |digest, byte| {
        (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// One replica of a shard.
pub(super) struct Ledger {
    node: NodeId,
    shard: ShardId,
    oracle: Arc<Oracle>,
    inner: Option<Box<dyn Machine>>,
    pub(super) summary: Summary,
}

impl Ledger {
    pub(super) fn new(
        node: NodeId,
        shard: ShardId,
        oracle: Arc<Oracle>,
        inner: Option<Box<dyn Machine>>,
    ) -> Self {
        Self { node, shard, oracle, inner, summary: Summary::default() }
    }
}

const SUMMARY: &[u8] = b"s";

fn key(count: u64) -> Vec<u8> {
    [b"c", &count.to_be_bytes()[..]].concat()
}

impl Machine for Ledger {
    fn load(&mut self, store: &dyn Store) {
        let stored = store.get(SUMMARY);
        self.summary = stored.map_or(Summary::default(), |stored| Summary::decode(&stored));
        self.oracle.loaded(self.node, self.shard, self.summary);
        if let Some(inner) = &mut self.inner {
            inner.load(store);
        }
    }

    fn apply(&mut self, index: u64, command: &Bytes, store: &mut dyn StoreMut) -> Bytes {
        let before = self.summary;
        let body = command.slice(NAME_BYTES..);
        let reply = match &mut self.inner {
            Some(inner) if !body.is_empty() => inner.apply(index, &body, store),
            _ => Bytes::new(),
        };
        self.summary = before.with(index, command, &reply);
        self.oracle.applied(self.node, self.shard, before, self.summary, command);
        store.put_new(key(self.summary.count), command.clone());
        if let Some(old) = self.summary.count.checked_sub(KEPT) {
            store.delete(&key(old));
        }
        store.put(SUMMARY.to_vec(), self.summary.encode());
        Bytes::from([self.summary.encode(), reply].concat())
    }

    fn applied(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.applied();
        }
    }

    fn query(&self, question: &Bytes, store: &dyn Store) -> Bytes {
        // From the store, not from memory: what a reader sees has gone through tables and blocks.
        let summary = store.get(SUMMARY).unwrap_or_else(|| Summary::default().encode());
        match &self.inner {
            Some(inner) if !question.is_empty() => {
                Bytes::from([summary, inner.query(question, store)].concat())
            }
            _ => summary,
        }
    }
}
