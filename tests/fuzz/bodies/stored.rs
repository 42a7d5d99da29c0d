//! What the fuzz targets demand of stored encodings and of those between nodes; also run by `tests/fuzz_corpus.rs` on the seeds.
//!
//! - Takes: arbitrary bytes. Gives: nothing; panics where a promise is broken.
//! - Promises: no panic; bytes are refused, or read as values that read the same after being written
//!   again. What only the crates can see is demanded behind their `doors`.

use bytes::Bytes;
use hongqiao::shard::{
    command::{decode_batch, decode_replies, encode_batch, encode_replies},
    doors,
};

/// Feeds `data` to the decoders of commands and of replies.
pub(crate) fn shard_batch(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(commands) = decode_batch(&bytes) {
        assert_eq!(decode_batch(&encode_batch(&commands)), Ok(commands));
    }
    if let Ok(replies) = decode_replies(&bytes) {
        assert_eq!(decode_replies(&encode_replies(&replies)), Ok(replies));
    }
}

/// Feeds `data` to the decoder of the kind of record that its first byte names.
pub(crate) fn shard_record(data: &[u8]) {
    doors::stored(data);
}

/// Starts a log on `data`.
pub(crate) fn log_segment(data: &[u8]) {
    hongqiao_cluster::doors::log_segment(data);
}

/// Feeds `data` to the decoder of blocks of the state.
pub(crate) fn state_block(data: &[u8]) {
    hongqiao_cluster::doors::state_block(data);
}

/// Feeds `data` to the readers of `FORMAT` and `node`, of a data folder or a backup.
pub(crate) fn folder_marks(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        hongqiao_cluster::doors::folder_marks(text);
    }
}

/// Applies `data` to the machine of the meta group.
pub(crate) fn meta_batch(data: &[u8]) {
    hongqiao_cluster::doors::meta_batch(data);
}

/// Feeds `data` to the decoder of frames between nodes.
pub(crate) fn link_frames(data: &[u8]) {
    hongqiao_cluster::doors::link_frames(data);
}

/// Feeds `data` to the decoder of the handshake between nodes.
pub(crate) fn link_hello(data: &[u8]) {
    hongqiao_cluster::doors::link_hello(data);
}

/// Feeds `data` to the decoders of what nodes propose to a leader, and of its answers.
pub(crate) fn stream_bodies(data: &[u8]) {
    hongqiao_cluster::doors::stream_bodies(data);
}

/// Feeds `data` to the decoders of snapshots.
pub(crate) fn snapshots(data: &[u8]) {
    hongqiao_cluster::doors::snapshots(data);
}

/// Feeds `data` to the decoders of what members of a group ask each other, and of joining.
pub(crate) fn raft_bodies(data: &[u8]) {
    hongqiao_cluster::doors::raft_bodies(data);
}

/// Feeds `data` to the decoders of what the servers of one cluster ask and send each other.
pub(crate) fn peer_bodies(data: &[u8]) {
    hongqiao::actors::doors::peer_body(data);
}
