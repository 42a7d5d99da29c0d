//! The state on sled: one tree per shard.
//!
//! - Owns: the sled database. Takes: batches of small values. Gives: `io::Result`; after an error of
//!   the disk sled refuses everything, so it is opened again.
//! - Bound: cache as configured; no background flush; values small enough that sled never writes to
//!   its `blobs/` folder, which it does not sync.
//! - Source: sled 0.34.7; `flush` there is `sync_file_range`, hence the `fdatasync` here. Its threads let go of
//!   a written buffer, and with it of the locked file, after whoever waits for the write goes on; so after its
//!   last handle sled may still hold its file for a moment, and this waits until it is free.

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::RwLock;

use super::kv::{Batch, Kv, Pair};
use crate::{clock, limits::PIECE_BYTES_MAX};

/// How long sled may hold its file after its last handle; it takes the time of one thread switch.
const LET_GO_TIMEOUT: Duration = Duration::from_secs(5);

/// How often to look whether it still does.
const LET_GO_INTERVAL: Duration = Duration::from_millis(1);

/// How often a key is looked at after it was written. sled looks for pages to drop only once a 256th of them
/// has been looked at 64 times. Pages that are written and left alone would stay, 60 MiB and more beyond the cache.
const LOOKS_PER_WRITE: usize = 2;

/// A sled database with one tree per shard.
pub(crate) struct SledKv {
    path: PathBuf,
    shards: u16,
    cache_bytes: u64,
    open: RwLock<Option<Open>>,
    generation: AtomicU64,
    closed: AtomicBool,
}

/// Dropped in this order: the file is waited for when sled's handles are gone.
struct Open {
    trees: Vec<sled::Tree>,
    db: sled::Db,
    file: SledFile,
}

/// The file that sled writes, to sync what its `flush` only hands to the kernel. Dropped once sled's lock on
/// it is gone, so that it can be opened again.
struct SledFile(File);

impl Drop for SledFile {
    fn drop(&mut self) {
        let deadline = clock::now() + LET_GO_TIMEOUT;
        while fs2::FileExt::try_lock_exclusive(&self.0).is_err() {
            if clock::now() >= deadline {
                tracing::warn!("sled does not let go of its file");
                return;
            }
            clock::rest(LET_GO_INTERVAL);
        }
    }
}

impl SledKv {
    pub(crate) fn open(path: &Path, shards: u16, cache_bytes: u64) -> io::Result<Self> {
        let kv = Self {
            path: path.into(),
            shards,
            cache_bytes,
            open: RwLock::new(None),
            generation: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        };
        *kv.open.write() = Some(unpanicked(|| kv.open_once())?);
        Ok(kv)
    }

    fn open_once(&self) -> io::Result<Open> {
        remove_half_snapshots(&self.path)?;
        let db = sled::Config::new()
            .path(&self.path)
            .cache_capacity(self.cache_bytes)
            .flush_every_ms(None)
            .open()
            .map_err(plain)?;
        let trees = (0..self.shards)
            .map(|shard| db.open_tree(format!("shard-{shard:05}")).map_err(plain))
            .collect::<Result<_, _>>()?;
        let file = SledFile(File::open(self.path.join("db"))?);
        Ok(Open { trees, db, file })
    }

    /// Keeps sled open beyond `close`.
    #[cfg(test)]
    pub(crate) fn handle(&self) -> Option<sled::Tree> {
        self.open.read().as_ref()?.trees.first().cloned()
    }

    fn with<R>(
        &self,
        shard: u16,
        ask: impl FnOnce(&sled::Tree) -> sled::Result<R>,
    ) -> io::Result<R> {
        let open = self.open.read();
        let tree = open.as_ref().and_then(|open| open.trees.get(usize::from(shard)));
        let tree = tree.ok_or_else(not_open)?;
        unpanicked(|| ask(tree).map_err(plain))
    }
}

/// Asks sled, which panics where its file holds what it never wrote: that is damage, not a reason to panic.
fn unpanicked<R>(ask: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
    let damaged = |_| io::Error::new(io::ErrorKind::InvalidData, "sled cannot read its file");
    catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|panic| Err(damaged(panic)))
}

fn not_open() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the state is not open")
}

/// Removes snapshots that sled had not finished when the process died or the disk was full. They were
/// never in force, but sled takes them for its newest and then refuses to open.
fn remove_half_snapshots(folder: &Path) -> io::Result<()> {
    let items = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        items => items?,
    };
    for item in items {
        let path = item?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            tracing::warn!(path = %path.display(), "an unfinished snapshot of the state is removed");
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Turns an error of sled into one of the standard library, with its kind.
fn plain(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        damage @ sled::Error::Corruption { .. } => {
            io::Error::new(io::ErrorKind::InvalidData, damage)
        }
        other => io::Error::other(other),
    }
}

fn pair((key, value): (sled::IVec, sled::IVec)) -> Pair {
    (Bytes::from_owner(key), Bytes::from_owner(value))
}

impl Kv for SledKv {
    fn get(&self, shard: u16, key: &[u8]) -> io::Result<Option<Bytes>> {
        Ok(self.with(shard, |tree| tree.get(key))?.map(Bytes::from_owner))
    }

    fn floor(&self, shard: u16, key: &[u8]) -> io::Result<Option<Pair>> {
        self.with(shard, |tree| tree.range(..=key).next_back().transpose()).map(|p| p.map(pair))
    }

    fn above(&self, shard: u16, key: &[u8]) -> io::Result<Option<Pair>> {
        self.with(shard, |tree| tree.get_gt(key)).map(|p| p.map(pair))
    }

    fn apply(&self, shard: u16, batch: Batch) -> io::Result<()> {
        let mut changes = sled::Batch::default();
        let mut written = Vec::with_capacity(batch.len());
        for (key, value) in batch {
            match value {
                Some(value) => {
                    debug_assert!(value.len() <= PIECE_BYTES_MAX);
                    let key = sled::IVec::from(key);
                    written.push(key.clone());
                    changes.insert(key, value);
                }
                None => changes.remove(key),
            }
        }
        self.with(shard, |tree| {
            tree.apply_batch(changes)?;
            for key in written {
                for _ in 0..LOOKS_PER_WRITE {
                    tree.get(&key)?;
                }
            }
            Ok(())
        })
    }

    fn flush(&self) -> io::Result<()> {
        let open = self.open.read();
        let open = open.as_ref().ok_or_else(not_open)?;
        open.db.flush().map_err(plain)?;
        open.file.0.sync_data()
    }

    fn reopen(&self) -> io::Result<()> {
        let mut open = self.open.write();
        if self.closed.load(Ordering::SeqCst) {
            return Err(io::Error::other("the state is closed"));
        }
        // sled holds a lock on its file.
        *open = None;
        *open = Some(unpanicked(|| self.open_once())?);
        self.generation.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn close(&self) {
        let mut open = self.open.write();
        self.closed.store(true, Ordering::SeqCst);
        *open = None;
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    fn disk_bytes(&self) -> u64 {
        fs::metadata(self.path.join("db")).map_or(0, |file| file.len())
    }
}
