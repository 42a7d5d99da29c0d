//! Doors to the decoders of stored bytes, for `tests/fuzz` alone; nothing of the server comes through.
//!
//! - Owns: nothing. Takes: arbitrary bytes. Gives: nothing; panics where a promise is broken.
//! - Bound: no decoder reserves more than its bytes can hold.
//! - Promise: bytes are refused, or read as a value that reads the same after being written again.

use bytes::Bytes;

use super::{
    ask,
    body::{self, ChunkWriter},
    index, key,
    record::{
        AppRecord, DrainRecord, EntryRecord, InRecord, InflightRecord, LogRecord, LogStateRecord,
        NumbersRecord, OutRecord, ProgressRecord, RecentRecord, Record, SessionRecord,
        SubscriptionRecord, UsageRecord, UserRecord, WillRecord,
    },
};

/// Every kind of stored record.
const RECORDS: [fn(&[u8]); 16] = [
    record::<SessionRecord>,
    record::<ProgressRecord>,
    record::<SubscriptionRecord>,
    record::<DrainRecord>,
    record::<OutRecord>,
    record::<InflightRecord>,
    record::<InRecord>,
    record::<WillRecord>,
    record::<UserRecord>,
    record::<AppRecord>,
    record::<UsageRecord>,
    record::<EntryRecord>,
    record::<LogRecord>,
    record::<LogStateRecord>,
    record::<NumbersRecord>,
    record::<RecentRecord>,
];

/// Reads `data` as the kind of stored value that its first byte names.
pub fn stored(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    match RECORDS.get(usize::from(kind)) {
        Some(record) => record(bytes),
        None if kind % 2 == 0 => body_chunk(&Bytes::copy_from_slice(bytes)),
        None => index_chunk(bytes),
    }
}

/// Reads `data` as what the leader of a shard answers.
pub fn answer(data: &[u8]) {
    let readable = ask::read_again(&Bytes::copy_from_slice(data));
    assert!(readable, "an answer reads another after being written");
}

fn record<T: Record>(bytes: &[u8]) {
    let Some(record) = T::from_bytes(bytes) else { return };
    let written = record.to_bytes();
    let again = T::from_bytes(&written).map(|again| again.to_bytes());
    assert_eq!(again, Some(written), "a record reads another after being written");
}

fn body_chunk(chunk: &Bytes) {
    for offset in [0, 1, 7, u32::MAX] {
        let Some(message) = body::find_in_chunk(chunk, offset) else { continue };
        let mut writer = ChunkWriter::new(&message);
        writer.push(offset, &message);
        let again = body::find_in_chunk(&writer.finish(), offset);
        assert_eq!(again, Some(message), "a message reads another after being written");
    }
}

fn index_chunk(bytes: &[u8]) {
    let chunk = Bytes::copy_from_slice(bytes);
    let items: Vec<_> = index::items(&chunk).collect();
    let mut written = index::begin_chunk(super::record::Amount::default(), items.len());
    for item in &items {
        let _ = item.is_expired(u64::MAX);
        index::push_item(&mut written, item);
    }
    let written = Bytes::from(written);
    assert!(index::items(&written).eq(items), "an index reads another after being written");
    let _ = key::deadline_parts(bytes);
    let _ = key::session_parts(bytes);
    let _ = key::retained_topic(&chunk);
    let _ = key::number_of(bytes);
}
