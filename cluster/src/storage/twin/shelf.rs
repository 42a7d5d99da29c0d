//! A folder of snapshots in memory; a crash forgets what was not synced.
//!
//! - Owns: files, and how much of each is synced. Takes: the calls of a shelf, a share of the node's power.
//! - Gives: the folder as a crash leaves it: only install files, which were synced before they had their
//!   name. Without power it says yes and does nothing, as the twin of the store does.
//! - Bound: tests only.
//! - Source: own design.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::power::{Power, Write};
use crate::storage::shelf::{Item, Kind, Shelf};

/// A folder in memory.
#[derive(Clone, Default)]
pub(crate) struct ShelfTwin(Arc<ShelfState>);

#[derive(Default)]
struct ShelfState {
    files: Mutex<BTreeMap<Item, Vec<u8>>>,
    /// What a crash leaves.
    durable: Mutex<BTreeMap<Item, Vec<u8>>>,
    full: AtomicBool,
    power: Arc<Power>,
}

impl ShelfTwin {
    /// Returns the folder after a crash.
    pub(crate) fn after_crash_with(&self, power: Arc<Power>) -> Self {
        let durable = self.0.durable.lock().clone();
        let state = ShelfState {
            files: Mutex::new(durable.clone()),
            durable: Mutex::new(durable),
            full: AtomicBool::new(false),
            power,
        };
        Self(Arc::new(state))
    }

    /// Takes nothing more until told otherwise.
    pub(crate) fn set_full(&self, full: bool) {
        self.0.full.store(full, Ordering::SeqCst);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.files.lock().len()
    }

    /// Turns a bit of a file over.
    pub(crate) fn damage(&self, item: Item, at: usize) {
        for files in [&self.0.files, &self.0.durable] {
            if let Some(file) = files.lock().get_mut(&item) {
                file[at] ^= 1;
            }
        }
    }

    fn has_power(&self) -> bool {
        self.0.power.write() == Write::Whole
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Shelf for ShelfTwin {
    fn installs(&self) -> io::Result<Vec<u16>> {
        let files = self.0.files.lock();
        Ok(files.keys().filter(|item| item.kind == Kind::Install).map(|item| item.group).collect())
    }

    fn create(&self, item: Item) -> io::Result<()> {
        self.0.files.lock().insert(item, Vec::new());
        Ok(())
    }

    fn write(&self, item: Item, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.0.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut files = self.0.files.lock();
        let file = files.get_mut(&item).ok_or_else(missing)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        file.resize(file.len().max(offset + bytes.len()), 0);
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, item: Item, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
        let files = self.0.files.lock();
        let file = files.get(&item).ok_or_else(missing)?;
        let from = usize::try_from(offset).map_err(io::Error::other)?.min(file.len());
        let to = (from + bytes_max).min(file.len());
        Ok(Bytes::copy_from_slice(&file[from..to]))
    }

    fn promote(&self, group: u16) -> io::Result<()> {
        let (staging, install) =
            (Item { kind: Kind::Staging, group }, Item { kind: Kind::Install, group });
        let file = self.0.files.lock().remove(&staging).ok_or_else(missing)?;
        if self.has_power() {
            self.0.durable.lock().insert(install, file.clone());
        }
        self.0.files.lock().insert(install, file);
        Ok(())
    }

    fn remove(&self, item: Item) -> io::Result<()> {
        self.0.files.lock().remove(&item);
        if self.0.durable.lock().contains_key(&item) && self.has_power() {
            self.0.durable.lock().remove(&item);
        }
        Ok(())
    }

    fn path(&self, item: Item) -> PathBuf {
        format!("twin/{item:?}").into()
    }
}
