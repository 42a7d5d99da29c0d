//! Doors to the decoders of what is on disk and on the wire, for `tests/fuzz` alone; nothing of a node
//! comes through.
//!
//! - Owns: nothing. Takes: arbitrary bytes. Gives: nothing; panics where a promise is broken.
//! - Bound: no decoder reserves more than its bytes can hold.
//! - Promise: damaged bytes are refused or cut, and what was read reads the same after being written.

use std::{io, path::PathBuf};

use bytes::{Bytes, BytesMut};

use crate::{
    id::NodeId,
    raft_group::wire as raft,
    storage::{
        disk::{Disk, SegmentFile},
        folder::{format, record::NodeRecord},
        log::{
            frame::{self, Record},
            recovered_entries,
        },
        state::block,
    },
    stream::{
        sender::Sending,
        wire::{self, Asked},
    },
    transport::tcp::{
        frame::{Frame, HEAD_BYTES},
        hello::{self, Message, PREFIX_BYTES},
    },
};

/// Groups of the log that is read.
const GROUPS: u16 = 4;

/// Starts on a log whose one segment holds `bytes`: as they are, and as the body of a batch whose
/// checksums are right.
pub fn log_segment(bytes: &[u8]) {
    let _ = recovered_entries(&OneSegment(bytes.to_vec()), GROUPS);
    let mut batch = vec![0; frame::HEAD_BYTES];
    frame::put(&mut batch, 0, &Record::Start { segment: 1 });
    batch.extend_from_slice(bytes);
    frame::seal(&mut batch, 1, 0);
    let found = recovered_entries(&OneSegment(batch.clone()), GROUPS);
    let readable = written_again(&Bytes::copy_from_slice(bytes)).is_some();
    assert!(readable || found.is_err(), "a batch was replayed that cannot be read");
    // With a torn tail nothing of it counts.
    batch.pop();
    assert_eq!(recovered_entries(&OneSegment(batch), GROUPS).unwrap_or(0), 0);
}

/// Reads every record of a batch's body, writes them, and checks that they read the same.
fn written_again(body: &Bytes) -> Option<()> {
    let mut written = Vec::new();
    let mut rest = body.clone();
    while let Some((group, record)) = frame::take(&mut rest).ok()? {
        frame::put(&mut written, group, &record);
    }
    let (mut again, mut rest) = (Vec::new(), Bytes::from(written.clone()));
    while let Ok(Some((group, record))) = frame::take(&mut rest) {
        frame::put(&mut again, group, &record);
    }
    assert!(rest.is_empty() && again == written, "a record reads another after being written");
    Some(())
}

/// Reads `bytes` as a block of the state.
pub fn state_block(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let pairs = block::decode(&bytes);
    for (key, _) in &pairs {
        let found = block::find(&bytes, key);
        let first = pairs.iter().find(|(other, _)| other == key);
        assert_eq!(found.as_ref(), first.map(|(_, value)| value));
    }
    assert_eq!(block::decode_from(&bytes, &[], pairs.len()), pairs);
    if pairs.is_sorted_by(|(one, _), (other, _)| one < other) {
        let written = Bytes::from(block::encode(&pairs));
        assert_eq!(block::decode(&written), pairs, "a block reads another after being written");
    }
}

/// Reads `text` as the marks of a data folder or a backup.
pub fn folder_marks(text: &str) {
    let path = PathBuf::from("FORMAT");
    if let Ok(format) = format::parse(&path, text)
        && format.number <= format::FORMAT
    {
        let again = format::parse(&path, &format::text(&format));
        assert_eq!(again.ok(), Some(format), "marks read otherwise after being written");
    }
    if let Ok(record) = NodeRecord::parse(&path, text) {
        let again = NodeRecord::parse(&path, &record.text());
        assert_eq!(again.ok(), Some(record));
    }
}

/// Applies `bytes` to the machine of the meta group, and reads them as words about leases.
pub fn meta_batch(bytes: &[u8]) {
    crate::meta::meta_batch(bytes);
}

/// Reads `bytes` as frames of a connection: at once, and as they would trickle in.
pub fn link_frames(bytes: &[u8]) {
    let take_all = |buffer: &mut BytesMut, found: &mut Vec<Frame>| {
        loop {
            match Frame::take(buffer) {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    };
    let (mut at_once, mut trickled) = (Vec::new(), Vec::new());
    let mut buffer = BytesMut::from(bytes);
    let end = take_all(&mut buffer, &mut at_once);
    if end.is_ok() {
        assert!(Frame::lacks_bytes(&buffer) > 0, "a whole frame was not taken");
    }
    let mut buffer = BytesMut::new();
    let trickled_end = bytes.chunks(7).try_for_each(|chunk| {
        buffer.extend_from_slice(chunk);
        take_all(&mut buffer, &mut trickled)
    });
    assert_eq!((at_once.as_slice(), end), (trickled.as_slice(), trickled_end));
    let mut written = BytesMut::new();
    for frame in &at_once {
        frame.put_head(&mut written);
        written.extend_from_slice(&frame.body);
    }
    assert!(bytes.starts_with(&written), "a frame reads another after being written");
    assert!(written.len() >= at_once.len() * HEAD_BYTES);
}

/// Reads `bytes` as a proposal to a leader, and as its answer.
pub fn stream_bodies(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    if let Some(Asked { group, request, run, commands }) = wire::asked(NodeId(1), body.clone()) {
        assert_eq!(wire::request(group, &Sending { request, run, commands }), body);
    }
    if let Some(verdict) = wire::answered(body) {
        let again = wire::answered(wire::answer(&verdict));
        assert_eq!(again, Some(verdict), "an answer reads another after being written");
    }
}

/// Reads `bytes` as what is said about snapshots, and as the file of one.
pub fn snapshots(bytes: &[u8]) {
    crate::raft_group::snapshot::door::snapshot(bytes);
}

/// Reads `bytes` as what members of a group ask each other, and as what a node says to come in.
pub fn raft_bodies(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    if let Some((group, raft::Request::Append(request))) = raft::request(&body) {
        let written = raft::append(group, &request);
        let again = match raft::request(&written) {
            Some((of, raft::Request::Append(again))) if of == group => raft::append(group, &again),
            _ => Bytes::new(),
        };
        assert_eq!(again, written, "entries read otherwise after being written");
    }
    crate::join::read(bytes);
    crate::membership::orders::read(bytes);
}

/// Reads `bytes` as a message of the handshake.
pub fn link_hello(bytes: &[u8]) {
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_BYTES>() else { return };
    let Ok(length) = hello::rest_bytes(prefix) else { return };
    let Some(rest) = rest.get(..length) else { return };
    let Ok(message) = Message::decode(rest) else { return };
    let written = message.encode();
    assert!(written.len() <= hello::MESSAGE_BYTES_MAX);
    assert_eq!(Message::decode(&written[PREFIX_BYTES..]), Ok(message));
}

/// A disk with segment 1, to be read.
struct OneSegment(Vec<u8>);

impl Disk for OneSegment {
    fn segments(&self) -> io::Result<Vec<u64>> {
        Ok(vec![1])
    }

    fn read(&self, _segment: u64) -> io::Result<Vec<u8>> {
        Ok(self.0.clone())
    }

    fn create(&self, _to: u64, _from: Option<u64>) -> io::Result<Box<dyn SegmentFile>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn retire(&self, _segment: u64) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _segment: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        Ok(())
    }

    fn release_reserve(&self) -> io::Result<()> {
        Ok(())
    }

    fn hold_reserve(&self) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn path(&self, segment: u64) -> PathBuf {
        segment.to_string().into()
    }
}
