//! Packet ids under way: QoS 2 out and in.
//!
//! - Bound: one small record for each packet id, at most 65,535 in each direction.
//! - Source: MQTT 5.0 section 4.3.3; design rule "in flight" in ARCHITECTURE.md.

use super::Entry;
use crate::{
    model::id::{MessageId, Position, SessionKey},
    shard::{
        command::{OutState, Reply},
        key,
        record::{InRecord, OutRecord, Record as _},
    },
};

pub(super) fn out_publish(
    entry: &mut Entry<'_>,
    session: SessionKey,
    ids: &[(u16, Position)],
) -> Reply {
    for &(packet_id, position) in ids {
        let record = OutRecord { position, state: OutState::Published };
        entry.store.put(key::packet(session, key::OUT, packet_id), record.to_bytes());
    }
    Reply::Done
}

pub(super) fn out_received(entry: &mut Entry<'_>, session: SessionKey, packet_id: u16) -> Reply {
    let stored = key::packet(session, key::OUT, packet_id);
    if let Some(mut record) = super::read::<OutRecord>(&*entry.store, &stored) {
        record.state = OutState::Received;
        entry.store.put(stored, record.to_bytes());
    }
    Reply::Done
}

/// Forgets a packet id; returns which message it carried. That message is acknowledged in the same
/// step (ONCE): the cursor follows later, and a crash in between must not send it again.
pub(super) fn out_completed(
    entry: &mut Entry<'_>,
    session: SessionKey,
    packet_id: u16,
) -> Option<Position> {
    let stored = key::packet(session, key::OUT, packet_id);
    let record = super::read::<OutRecord>(&*entry.store, &stored)?;
    entry.store.delete(&stored);
    Some(record.position)
}

pub(super) fn in_begin(
    entry: &mut Entry<'_>,
    session: SessionKey,
    packet_id: u16,
    id: MessageId,
) -> Reply {
    let stored = key::packet(session, key::INCOMING, packet_id);
    if let Some(InRecord(known)) = super::read(&*entry.store, &stored) {
        return Reply::InBegun { known: Some(known) };
    }
    entry.store.put(stored, InRecord(id).to_bytes());
    Reply::InBegun { known: None }
}

pub(super) fn in_end(entry: &mut Entry<'_>, session: SessionKey, packet_id: u16) -> Reply {
    let stored = key::packet(session, key::INCOMING, packet_id);
    let known = entry.store.get(&stored).is_some();
    entry.store.delete(&stored);
    Reply::InEnded(known)
}
