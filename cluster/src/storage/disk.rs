//! The few things the log asks of a disk, and the real one.
//!
//! - Owns: open files. Takes: bytes at an offset, a wish to sync. Gives: `io::Result`, nothing hidden.
//! - Bound: none; the log bounds what it asks for.
//! - Source: own design; twins that record calls or forget what was not synced are in `twin.rs`.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// A folder of numbered log segments.
pub(crate) trait Disk: Send + Sync + 'static {
    /// Returns the numbers of the segments that exist, in order.
    fn segments(&self) -> io::Result<Vec<u64>>;
    /// Returns all bytes of a segment.
    fn read(&self, segment: u64) -> io::Result<Vec<u8>>;
    /// Opens segment `to` for writing: a new file, or the spare one that was segment `from`.
    fn create(&self, to: u64, from: Option<u64>) -> io::Result<Box<dyn SegmentFile>>;
    /// Takes a segment out of the log and keeps its file as a spare one.
    fn retire(&self, segment: u64) -> io::Result<()>;
    /// Removes a segment.
    fn remove(&self, segment: u64) -> io::Result<()>;
    /// Makes creations, renames and removals survive the loss of power.
    fn sync_folder(&self) -> io::Result<()>;
    /// Gives up the space held for the log, so that a full disk takes what was already accepted.
    fn release_reserve(&self) -> io::Result<()>;
    /// Holds that space again.
    fn hold_reserve(&self) -> io::Result<()>;
    /// Returns how many bytes the disk can still take.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Returns where a segment is, for messages to people.
    fn path(&self, segment: u64) -> PathBuf;
}

/// One open segment.
pub(crate) trait SegmentFile: Send {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Returns when all that was written survives the loss of power.
    fn sync(&mut self) -> io::Result<()>;
}

/// A folder of the operating system.
pub(crate) struct RealDisk {
    folder: PathBuf,
    reserve: PathBuf,
    reserve_bytes: u64,
}

impl RealDisk {
    pub(crate) fn open(folder: &Path, reserve_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        for item in fs::read_dir(folder)? {
            let path = item?.path();
            if path.extension().is_some_and(|extension| extension == "spare") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { folder: folder.into(), reserve: folder.join("reserve"), reserve_bytes })
    }
}

impl RealDisk {
    fn spare(&self, segment: u64) -> PathBuf {
        self.folder.join(format!("{segment:020}.spare"))
    }
}

impl Disk for RealDisk {
    fn segments(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for item in fs::read_dir(&self.folder)? {
            let name = item?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(number) = name.strip_suffix(".log").and_then(|n| n.parse().ok()) {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn read(&self, segment: u64) -> io::Result<Vec<u8>> {
        fs::read(self.path(segment))
    }

    fn create(&self, to: u64, from: Option<u64>) -> io::Result<Box<dyn SegmentFile>> {
        if let Some(from) = from {
            fs::rename(self.spare(from), self.path(to))?;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.path(to))?;
        Ok(Box::new(file))
    }

    fn retire(&self, segment: u64) -> io::Result<()> {
        fs::rename(self.path(segment), self.spare(segment))
    }

    fn remove(&self, segment: u64) -> io::Result<()> {
        fs::remove_file(self.path(segment))
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn release_reserve(&self) -> io::Result<()> {
        match fs::remove_file(&self.reserve) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn hold_reserve(&self) -> io::Result<()> {
        if self.reserve_bytes == 0 || self.reserve.exists() {
            return Ok(());
        }
        let file =
            OpenOptions::new().create_new(true).write(true).mode(0o600).open(&self.reserve)?;
        let held = fs2::FileExt::allocate(&file, self.reserve_bytes);
        if held.is_err() {
            // Half a reserve would pass for a whole one.
            self.release_reserve()?;
        }
        held
    }

    fn free_bytes(&self) -> io::Result<u64> {
        fs2::available_space(&self.folder)
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.folder.join(format!("{segment:020}.log"))
    }
}

impl SegmentFile for File {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Tells a full disk from other errors.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
