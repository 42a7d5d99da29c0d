//! Who gets the share of a QoS 2 message in a group whose members are on several nodes.
//!
//! - Owns: for each slot of share ids (an exchange of a publisher and a group) the newest share and its owner.
//! - Takes: `Assign`. Gives: the owner that was written down first; another only instead of that one.
//! - Bound: `ASSIGNED_MAX` slots, about 150 bytes each; with more the oldest are forgotten, and a message
//!   that is sent again after that is a new one.
//! - ONCE: whoever deals a message asks here first, so two nodes that deal it at a time, or one after the other,
//!   give it to the same owner, whose shard knows its id.

use std::collections::BTreeMap;

use hongqiao_cluster::machine::Store;

use super::{Entry, State};
use crate::{
    limits::ASSIGNED_MAX,
    model::id::MessageId,
    shard::{
        command::{Reply, ShareOwner},
        key,
        record::{AssignedRecord, Record as _},
    },
};

#[derive(Default)]
pub(super) struct Assigned {
    /// By slot, with the number under which it is stored.
    by_slot: BTreeMap<u64, (AssignedRecord, u64)>,
    /// Slots by number: in the order of writing.
    by_number: BTreeMap<u64, u64>,
}

impl Assigned {
    fn owner(&self, id: MessageId) -> Option<ShareOwner> {
        let (record, _) = self.by_slot.get(&id.slot())?;
        (record.id == id).then_some(record.owner)
    }

    fn set(&mut self, entry: &mut Entry<'_>, record: AssignedRecord) {
        // From what is stored alone, so that every replica counts alike.
        let number = self.by_number.last_key_value().map_or(0, |(last, _)| last + 1);
        entry.store.put(key::assigned(number), record.to_bytes());
        self.by_number.insert(number, record.id.slot());
        if let Some((_, old)) = self.by_slot.insert(record.id.slot(), (record, number)) {
            self.by_number.remove(&old);
            entry.store.delete(&key::assigned(old));
        }
        while self.by_number.len() > ASSIGNED_MAX {
            let Some((oldest, slot)) = self.by_number.pop_first() else { return };
            self.by_slot.remove(&slot);
            entry.store.delete(&key::assigned(oldest));
        }
    }

    pub(super) fn load(store: &dyn Store) -> Self {
        let mut assigned = Self::default();
        super::load::scan_all(store, key::all(b'M'), |key, value| {
            let Some(record) = AssignedRecord::from_bytes(value) else { return };
            let (number, slot) = (key::number_of(key), record.id.slot());
            assigned.by_number.insert(number, slot);
            assigned.by_slot.insert(slot, (record, number));
        });
        assigned
    }
}

impl State {
    /// Writes down who gets a share, unless somebody else than `instead` is to have it.
    pub(super) fn assign(
        &mut self,
        entry: &mut Entry<'_>,
        id: MessageId,
        owner: ShareOwner,
        instead: Option<ShareOwner>,
    ) -> Reply {
        match self.assigned.owner(id) {
            Some(known) if instead != Some(known) => Reply::Assigned(known),
            _ => {
                self.assigned.set(entry, AssignedRecord { id, owner });
                Reply::Assigned(owner)
            }
        }
    }
}
