//! Keys and values of the meta group's state: one key per thing, so a checkpoint writes what changed.
//!
//! | key | value |
//! |---|---|
//! | `I` | index of the last command |
//! | `N`, node | `Member` |
//! | `F`, node | the id of its data folder |
//! | `X`, node | empty: the node was removed |
//! | `S`, shard | `ShardRecord` |
//! | `Q`, node | `Leaving`: the node is on its way out |
//! | `W`, shard | `Vec<NodeId>`: where the shard was wished to be |
//! | `P` | the highest id that was promised |
//! | `R`, route key | `Places` |
//! | `L`, command index, place in it | `LongRoute`: a route whose key is too long for a key of the store |
//! | `r`, room | `RoomRecord` |
//! | `m`, length of room, room, user | `RoomMember` |
//!
//! - Owns: those bytes. Gives: keys, ranges, and their parts back.
//! - Bound: `KEY_BYTES_MAX`. Numbers are big endian; each value begins with its version.
//! - Source: own design.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::command;
use crate::{
    directory::{Led, Places, RoomKind},
    id::{NodeId, ShardId},
    limits::META_RECORD_BYTES_MAX,
    machine::Store,
};

pub(super) const INDEX: u8 = b'I';
pub(super) const NODE: u8 = b'N';
pub(super) const FOLDER: u8 = b'F';
pub(super) const REMOVED: u8 = b'X';
pub(super) const SHARD: u8 = b'S';
pub(super) const LEAVING: u8 = b'Q';
pub(super) const WISH: u8 = b'W';
pub(super) const PROMISED: u8 = b'P';
pub(super) const ROUTE: u8 = b'R';
pub(super) const LONG_ROUTE: u8 = b'L';
pub(super) const ROOM: u8 = b'r';
pub(super) const MEMBER: u8 = b'm';

/// Pairs that are read at a time.
const PAGE: usize = 1_024;

/// What is kept of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ShardRecord {
    pub(super) replicas: Vec<NodeId>,
    pub(super) led: Option<Led>,
}

/// A route whose key does not fit into a key of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LongRoute {
    pub(super) key: Bytes,
    pub(super) places: Places,
}

/// What is kept of a room; how many members it has is counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RoomRecord {
    pub(super) kind: RoomKind,
    pub(super) owner: Bytes,
    pub(super) facts: Bytes,
    pub(super) created: u64,
}

/// Encodes a value.
pub(super) fn value<T: Serialize>(of: &T) -> Bytes {
    command::encode(of)
}

/// Decodes a value; says so in the log if it cannot.
pub(super) fn read<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Option<T> {
    let read = command::decode(value, META_RECORD_BYTES_MAX);
    if read.is_none() {
        let kind = std::any::type_name::<T>();
        tracing::error!(kind, tag = ?key.first(), "stored record is unreadable");
    }
    read
}

pub(super) fn index() -> Vec<u8> {
    vec![INDEX]
}

fn tagged(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(tag);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

pub(super) fn node(node: NodeId) -> Vec<u8> {
    tagged(NODE, &[&node.0.to_be_bytes()])
}

pub(super) fn folder(node: NodeId) -> Vec<u8> {
    tagged(FOLDER, &[&node.0.to_be_bytes()])
}

pub(super) fn removed(node: NodeId) -> Vec<u8> {
    tagged(REMOVED, &[&node.0.to_be_bytes()])
}

pub(super) fn leaving(node: NodeId) -> Vec<u8> {
    tagged(LEAVING, &[&node.0.to_be_bytes()])
}

pub(super) fn wish(shard: ShardId) -> Vec<u8> {
    tagged(WISH, &[&shard.0.to_be_bytes()])
}

pub(super) fn promised() -> Vec<u8> {
    vec![PROMISED]
}

pub(super) fn shard(shard: ShardId) -> Vec<u8> {
    tagged(SHARD, &[&shard.0.to_be_bytes()])
}

pub(super) fn route(key: &[u8]) -> Vec<u8> {
    tagged(ROUTE, &[key])
}

pub(super) fn long_route((index, place): (u64, u32)) -> Vec<u8> {
    tagged(LONG_ROUTE, &[&index.to_be_bytes(), &place.to_be_bytes()])
}

pub(super) fn room(room: &[u8]) -> Vec<u8> {
    tagged(ROOM, &[room])
}

pub(super) fn member(room: &[u8], user: &[u8]) -> Vec<u8> {
    let length = u16::try_from(room.len()).unwrap_or(u16::MAX);
    tagged(MEMBER, &[&length.to_be_bytes(), room, user])
}

/// Splits what follows the tag of a member's key into room and user.
pub(super) fn member_parts(rest: &Bytes) -> Option<(Bytes, Bytes)> {
    let (length, names) = rest.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    (length <= names.len()).then(|| (rest.slice(2..2 + length), rest.slice(2 + length..)))
}

/// Reads a number behind a tag.
pub(super) fn number(rest: &[u8]) -> Option<u64> {
    rest.try_into().ok().map(u64::from_be_bytes)
}

/// Reads the place of a long route behind its tag.
pub(super) fn long_route_parts(rest: &[u8]) -> Option<(u64, u32)> {
    let (index, place) = rest.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*index), u32::from_be_bytes(place.try_into().ok()?)))
}

/// Calls `take` with every pair of a kind, in key order; the key comes without its tag.
pub(super) fn each(store: &dyn Store, tag: u8, mut take: impl FnMut(Bytes, Bytes)) {
    let mut from = vec![tag];
    loop {
        let page = store.scan(&from, &[tag + 1], PAGE);
        let Some((last, _)) = page.last() else { return };
        from.clear();
        from.extend_from_slice(last);
        from.push(0);
        for (key, value) in page {
            take(key.slice(1..), value);
        }
    }
}
