//! The text of filters under dense numbers.
//!
//! - Owns: one boxed slice for each filter: its app (four bytes), then its text.
//! - Bound: pages of `PAGE_SLOTS`, so that growth never copies what is there. Pages are kept.

use crate::model::id::AppId;

/// Slots in a page, 16 KiB.
const PAGE_SLOTS: usize = 1_024;

/// Bytes of the app in front of the text.
const APP_BYTES: usize = 4;

#[derive(Default)]
pub(super) struct Slots {
    pages: Vec<Vec<Option<Box<[u8]>>>>,
    /// Numbers to give again, the last removed first.
    free: Vec<u32>,
    /// Numbers ever given.
    given: u32,
}

impl Slots {
    /// Returns the number that the next `insert` will give.
    pub(super) fn next_id(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.given)
    }

    pub(super) fn insert(&mut self, app: AppId, text: &[u8]) -> u32 {
        let mut bytes = Vec::with_capacity(APP_BYTES + text.len());
        bytes.extend_from_slice(&app.0.to_le_bytes());
        bytes.extend_from_slice(text);
        let bytes = Some(bytes.into_boxed_slice());
        if let Some(id) = self.free.pop() {
            if let Some(slot) = self.slot_mut(id) {
                *slot = bytes;
            }
            return id;
        }
        let id = self.given;
        self.given += 1;
        match self.pages.last_mut() {
            Some(page) if page.len() < PAGE_SLOTS => page.push(bytes),
            _ => {
                // Only the first page grows in steps: a small index stays small.
                let first = self.pages.is_empty();
                let mut page = Vec::with_capacity(if first { 4 } else { PAGE_SLOTS });
                page.push(bytes);
                self.pages.push(page);
            }
        }
        id
    }

    pub(super) fn remove(&mut self, id: u32) {
        if let Some(slot) = self.slot_mut(id)
            && slot.take().is_some()
        {
            self.free.push(id);
        }
    }

    pub(super) fn get(&self, id: u32) -> Option<(AppId, &[u8])> {
        let (page, slot) = place(id);
        let bytes = self.pages.get(page)?.get(slot)?.as_deref()?;
        let (app, text) = bytes.split_first_chunk::<APP_BYTES>()?;
        Some((AppId(u32::from_le_bytes(*app)), text))
    }

    pub(super) fn is(&self, id: u32, app: AppId, text: &[u8]) -> bool {
        self.get(id) == Some((app, text))
    }

    pub(super) fn len(&self) -> usize {
        usize::try_from(self.given).unwrap_or(usize::MAX).saturating_sub(self.free.len())
    }

    fn slot_mut(&mut self, id: u32) -> Option<&mut Option<Box<[u8]>>> {
        let (page, slot) = place(id);
        self.pages.get_mut(page)?.get_mut(slot)
    }
}

fn place(id: u32) -> (usize, usize) {
    let id = usize::try_from(id).unwrap_or(usize::MAX);
    (id / PAGE_SLOTS, id % PAGE_SLOTS)
}
