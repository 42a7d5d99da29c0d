//! A disk in memory that knows what was synced.
//!
//! - Owns: the bytes of segments, and what to take back of them when the power goes.
//! - Takes: the calls of the log. Gives: the disk as a crash leaves it: after `kill -9` all that was
//!   written; after a loss of power what was synced, and of the rest any sectors, and any number of the
//!   latest changes to the folder.
//! - Bound: tests only.
//! - Source: own design; torn sectors as in tigerbeetle `src/testing/storage.zig`.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{
    Dice, nothing,
    power::{Power, Write},
};
use crate::storage::disk::{Disk, SegmentFile};

/// What a disk writes at once or not at all.
const SECTOR_BYTES: usize = 512;

/// What was asked of a disk, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Write,
    Sync,
    /// Noted by a test, between the calls of the log.
    Done,
}

/// A segment.
#[derive(Default, Clone)]
pub(crate) struct FileTwin {
    pub(crate) bytes: Vec<u8>,
    /// What stood where bytes were written since the last sync, oldest first.
    unsynced: Vec<Before>,
}

#[derive(Clone)]
struct Before {
    offset: usize,
    written: usize,
    bytes: Vec<u8>,
    file_bytes: usize,
}

/// A change to the folder that is not synced.
#[derive(Clone)]
enum Change {
    Made(u64),
    Renamed { spare: u64, to: u64 },
    Retired(u64),
    Removed(u64, FileTwin),
}

#[derive(Default, Clone)]
struct Folder {
    spares: BTreeMap<u64, FileTwin>,
    unsynced: Vec<Change>,
}

/// A disk in memory.
#[derive(Clone, Default)]
pub(crate) struct DiskTwin(pub(crate) Arc<DiskState>);

#[derive(Default)]
pub(crate) struct DiskState {
    pub(crate) files: Mutex<BTreeMap<u64, FileTwin>>,
    folder: Mutex<Folder>,
    pub(crate) calls: Mutex<Vec<Call>>,
    pub(crate) fail_writes: AtomicBool,
    pub(crate) fail_syncs: AtomicBool,
    pub(crate) free_bytes: AtomicU64,
    power: Arc<Power>,
}

impl FileTwin {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let file_bytes = self.bytes.len();
        let end = offset + bytes.len();
        let before = self.bytes.get(offset..end.min(file_bytes)).unwrap_or_default().to_vec();
        self.unsynced.push(Before { offset, written: bytes.len(), bytes: before, file_bytes });
        self.bytes.resize(file_bytes.max(end), 0);
        self.bytes[offset..end].copy_from_slice(bytes);
    }

    /// Takes back what was not synced, but for the sectors that `dice` keeps.
    fn lose_power(&mut self, dice: Dice<'_>) {
        let newest = self.bytes.clone();
        let mut sectors: Vec<usize> = Vec::new();
        for before in self.unsynced.drain(..).rev() {
            self.bytes.truncate(before.file_bytes);
            let end = before.offset + before.bytes.len();
            if end > before.offset {
                self.bytes[before.offset..end].copy_from_slice(&before.bytes);
            }
            let last = before.offset + before.written.max(1) - 1;
            sectors.extend(before.offset / SECTOR_BYTES..=last / SECTOR_BYTES);
        }
        sectors.sort_unstable();
        sectors.dedup();
        for sector in sectors {
            if dice(2) == 1 {
                let from = sector * SECTOR_BYTES;
                let to = (from + SECTOR_BYTES).min(newest.len());
                self.bytes.resize(self.bytes.len().max(to), 0);
                self.bytes[from..to].copy_from_slice(&newest[from..to]);
            }
        }
    }
}

impl DiskTwin {
    pub(crate) fn new() -> Self {
        let disk = Self::default();
        disk.0.free_bytes.store(u64::MAX, Ordering::SeqCst);
        disk
    }

    /// Returns the disk as it is after the power was cut: without what was not synced.
    pub(crate) fn after_power_loss(&self) -> Self {
        self.after_power_loss_with(Arc::default(), &mut nothing)
    }

    /// Returns the disk after a loss of power that `dice` decides.
    pub(crate) fn after_power_loss_with(&self, power: Arc<Power>, dice: Dice<'_>) -> Self {
        let mut files = self.0.files.lock().clone();
        let mut folder = self.0.folder.lock().clone();
        // What changes names last, is lost first.
        let kept = dice(folder.unsynced.len() + 1);
        for change in folder.unsynced.drain(..).skip(kept).rev() {
            take_back(change, &mut files, &mut folder.spares);
        }
        for file in files.values_mut() {
            file.lose_power(dice);
        }
        Self::of(files, power)
    }

    /// Returns a copy of the disk as the operating system sees it: after `kill -9`.
    pub(crate) fn after_kill(&self) -> Self {
        self.after_kill_with(Arc::default())
    }

    pub(crate) fn after_kill_with(&self, power: Arc<Power>) -> Self {
        Self::of(self.0.files.lock().clone(), power)
    }

    /// Spare files are gone: a start removes them.
    fn of(files: BTreeMap<u64, FileTwin>, power: Arc<Power>) -> Self {
        let state = DiskState { power, files: Mutex::new(files), ..DiskState::default() };
        state.free_bytes.store(u64::MAX, Ordering::SeqCst);
        Self(Arc::new(state))
    }

    /// Counts a change to the folder; an error once the power is gone.
    fn change(&self) -> io::Result<()> {
        match self.0.power.write() {
            Write::Whole => Ok(()),
            Write::Torn | Write::Lost => Err(off()),
        }
    }
}

fn take_back(
    change: Change,
    files: &mut BTreeMap<u64, FileTwin>,
    spares: &mut BTreeMap<u64, FileTwin>,
) {
    match change {
        Change::Made(number) => drop(files.remove(&number)),
        Change::Renamed { spare, to } => spares.extend(files.remove(&to).map(|file| (spare, file))),
        Change::Retired(number) => {
            files.extend(spares.remove(&number).map(|file| (number, file)));
        }
        Change::Removed(number, file) => drop(files.insert(number, file)),
    }
}

fn full() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

fn off() -> io::Error {
    io::Error::other("the power is gone")
}

impl Disk for DiskTwin {
    fn segments(&self) -> io::Result<Vec<u64>> {
        Ok(self.0.files.lock().keys().copied().collect())
    }

    fn read(&self, segment: u64) -> io::Result<Vec<u8>> {
        Ok(self.0.files.lock().get(&segment).map(|file| file.bytes.clone()).unwrap_or_default())
    }

    fn create(&self, to: u64, from: Option<u64>) -> io::Result<Box<dyn SegmentFile>> {
        let (mut files, mut folder) = (self.0.files.lock(), self.0.folder.lock());
        // A file that is there can be opened however full the disk is.
        if self.0.fail_writes.load(Ordering::SeqCst) && !files.contains_key(&to) {
            return Err(full());
        }
        self.change()?;
        if let Some(spare) = from {
            let file = folder.spares.remove(&spare).ok_or(io::ErrorKind::NotFound)?;
            files.insert(to, file);
            folder.unsynced.push(Change::Renamed { spare, to });
        } else if let Entry::Vacant(place) = files.entry(to) {
            place.insert(FileTwin::default());
            folder.unsynced.push(Change::Made(to));
        }
        Ok(Box::new(OpenTwin { disk: self.clone(), segment: to }))
    }

    fn retire(&self, segment: u64) -> io::Result<()> {
        self.change()?;
        let (mut files, mut folder) = (self.0.files.lock(), self.0.folder.lock());
        let file = files.remove(&segment).ok_or(io::ErrorKind::NotFound)?;
        folder.spares.insert(segment, file);
        folder.unsynced.push(Change::Retired(segment));
        Ok(())
    }

    fn remove(&self, segment: u64) -> io::Result<()> {
        self.change()?;
        let (mut files, mut folder) = (self.0.files.lock(), self.0.folder.lock());
        let file = files.remove(&segment).ok_or(io::ErrorKind::NotFound)?;
        folder.unsynced.push(Change::Removed(segment, file));
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.change()?;
        self.0.folder.lock().unsynced.clear();
        Ok(())
    }

    fn release_reserve(&self) -> io::Result<()> {
        Ok(())
    }

    fn hold_reserve(&self) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.0.free_bytes.load(Ordering::SeqCst))
    }

    fn path(&self, segment: u64) -> PathBuf {
        format!("twin/{segment}.log").into()
    }
}

struct OpenTwin {
    disk: DiskTwin,
    segment: u64,
}

impl SegmentFile for OpenTwin {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let disk = &self.disk.0;
        disk.calls.lock().push(Call::Write);
        let power = disk.power.write();
        let fails = disk.fail_writes.load(Ordering::SeqCst);
        // A write that fails may leave a part of its bytes behind.
        let taken = match (power, fails) {
            (Write::Lost, _) => return Err(off()),
            (Write::Torn, _) | (_, true) => bytes.len() / 2,
            (Write::Whole, false) => bytes.len(),
        };
        let mut files = disk.files.lock();
        let file = files.entry(self.segment).or_default();
        file.write(&bytes[..taken], usize::try_from(offset).unwrap());
        match (power, fails) {
            (Write::Whole, false) => Ok(()),
            (Write::Whole, true) => Err(full()),
            _ => Err(off()),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.change()?;
        if self.disk.0.fail_syncs.load(Ordering::SeqCst) {
            return Err(io::Error::other("the twin does not sync"));
        }
        self.disk.0.calls.lock().push(Call::Sync);
        let mut files = self.disk.0.files.lock();
        files.entry(self.segment).or_default().unsynced.clear();
        Ok(())
    }
}
