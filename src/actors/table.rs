//! The links of one worker thread, by slot.
//!
//! - Owns: one `Rc` of each link, 24 bytes per slot, and the free slots.
//! - Takes: `reserve`, `fill`, `remove`, `release`. Gives: links by slot or by [`ConnectionId`].
//! - Bound: the configured number of connections; slots are used again, told apart by generation.
//!
//! A slot is free again when its link is gone *and* the router has forgotten its subscriptions, so that
//! a delivery meant for the old connection never reaches the new one.

use std::rc::Rc;

use super::link::AnyLink;
use crate::model::connection_id::ConnectionId;

/// One place.
#[derive(Debug)]
struct Entry {
    link: Option<Rc<AnyLink>>,
    generation: u32,
    /// Nobody may take the place: it was handed out, or the router still knows it.
    held: Held,
}

/// Who keeps a place from being used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    by_link: bool,
    by_router: bool,
}

/// All places of a worker.
#[derive(Debug, Default)]
pub struct Table {
    entries: Vec<Entry>,
    free: Vec<u32>,
    worker: u8,
}

impl Table {
    /// Creates the table of worker `worker`.
    #[must_use]
    pub fn new(worker: u8) -> Self {
        Self { entries: Vec::new(), free: Vec::new(), worker }
    }

    /// Takes a free slot for a link that is about to be made.
    pub fn reserve(&mut self) -> u32 {
        let held = Held { by_link: true, by_router: false };
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.entries[slot as usize];
            entry.generation = entry.generation.wrapping_add(1) & 0x00ff_ffff;
            entry.held = held;
            return slot;
        }
        let slot = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.entries.push(Entry { link: None, generation: 0, held });
        slot
    }

    /// Puts the link into its slot.
    pub fn fill(&mut self, slot: u32, link: Rc<AnyLink>) {
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            debug_assert!(entry.held.by_link && entry.link.is_none());
            entry.link = Some(link);
        }
    }

    /// Returns the link in `slot`.
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<&Rc<AnyLink>> {
        self.entries.get(slot as usize)?.link.as_ref()
    }

    /// Returns how many slots there are, free ones too.
    #[must_use]
    pub fn slots(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    /// Returns the link of `id`, unless it is gone.
    #[must_use]
    pub fn find(&self, id: ConnectionId) -> Option<&Rc<AnyLink>> {
        let entry = self.entries.get(id.slot() as usize)?;
        let same = id.worker() == usize::from(self.worker) && entry.generation == id.generation();
        entry.link.as_ref().filter(|_| same)
    }

    /// Returns the name of what is in `slot`.
    #[must_use]
    pub fn id(&self, slot: u32) -> ConnectionId {
        let generation = self.entries.get(slot as usize).map_or(0, |entry| entry.generation);
        ConnectionId::new(self.worker, generation, slot)
    }

    /// The router knows this slot from now on.
    pub fn hold_for_router(&mut self, slot: u32) {
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            entry.held.by_router = true;
        }
    }

    /// The router has forgotten this slot.
    pub fn release_by_router(&mut self, slot: u32) {
        let Some(entry) = self.entries.get_mut(slot as usize) else { return };
        entry.held.by_router = false;
        self.free_if_unheld(slot);
    }

    /// Takes the link out; the caller drops it outside the borrow of the table.
    pub fn remove(&mut self, slot: u32) -> Option<Rc<AnyLink>> {
        let entry = self.entries.get_mut(slot as usize)?;
        if !entry.held.by_link {
            return None;
        }
        let link = entry.link.take();
        entry.held.by_link = false;
        self.free_if_unheld(slot);
        link
    }

    /// Returns the links that are there now.
    pub fn links(&self) -> impl Iterator<Item = &Rc<AnyLink>> {
        self.entries.iter().filter_map(|entry| entry.link.as_ref())
    }

    fn free_if_unheld(&mut self, slot: u32) {
        if self.entries[slot as usize].held == Held::default() {
            self.free.push(slot);
        }
    }
}

const _: () = assert!(size_of::<Entry>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_is_used_again_with_another_generation() {
        let mut table = Table::new(3);
        let slot = table.reserve();
        let old = table.id(slot);
        table.remove(slot);
        assert_eq!(table.reserve(), slot);
        assert_ne!(table.id(slot), old);
        assert_eq!(table.id(slot).worker(), 3);
    }

    #[test]
    fn slot_known_to_the_router_is_not_used_again_until_released() {
        let mut table = Table::new(0);
        let slot = table.reserve();
        table.hold_for_router(slot);
        table.remove(slot);
        assert_ne!(table.reserve(), slot);
        table.release_by_router(slot);
        assert_eq!(table.reserve(), slot);
    }

    #[test]
    fn slot_released_by_the_router_first_waits_for_its_link() {
        let mut table = Table::new(0);
        let slot = table.reserve();
        table.hold_for_router(slot);
        table.release_by_router(slot);
        assert_ne!(table.reserve(), slot);
        table.remove(slot);
        table.remove(slot);
        assert_eq!(table.reserve(), slot);
        assert_ne!(table.reserve(), slot);
    }
}
