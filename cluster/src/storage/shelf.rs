//! Where snapshots lie on their way: a folder of files, written from the front, read in pieces.
//!
//! ```text
//! spool    what this node sends, copied while its checkpoint is pinned
//! staging  what this node receives, as far as it has come
//! install  whole and checked: it replaces the state of its group, now or at the next start
//! ```
//!
//! - Owns: the folder. Takes: bytes at an offset. Gives: `io::Result`, nothing hidden.
//! - Bound: one file of each kind and group at most; what is no `install` is removed at a start.
//! - Source: own design; the twin is in `twin/shelf.rs`.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;

/// Names of files that outlive a start end so.
const INSTALL: &str = ".install";

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Spool,
    Staging,
    Install,
}

/// A file of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Item {
    pub(crate) kind: Kind,
    pub(crate) group: u16,
}

/// A folder of snapshots.
pub(crate) trait Shelf: Send + Sync + 'static {
    /// Returns the groups that have an install file, in order.
    fn installs(&self) -> io::Result<Vec<u16>>;
    /// Makes the file empty, and new if it is not there.
    fn create(&self, item: Item) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write(&self, item: Item, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Reads `bytes_max` bytes from `offset`, fewer only at the end.
    fn read(&self, item: Item, offset: u64, bytes_max: usize) -> io::Result<Bytes>;
    /// Turns a staging file into the install file of its group. Both the bytes and the name survive the
    /// loss of power when this returns.
    fn promote(&self, group: u16) -> io::Result<()>;
    /// Removes a file if it is there; it stays away when this has returned.
    fn remove(&self, item: Item) -> io::Result<()>;
    /// Returns where a file is, for messages to people.
    fn path(&self, item: Item) -> PathBuf;
}

/// A folder of the operating system.
#[derive(Debug)]
pub(crate) struct RealShelf {
    folder: PathBuf,
}

impl RealShelf {
    /// Opens the folder, and removes what the last start left half done.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        for item in fs::read_dir(folder)? {
            let path = item?.path();
            if !path.to_string_lossy().ends_with(INSTALL) {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { folder: folder.into() })
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

impl Shelf for RealShelf {
    fn installs(&self) -> io::Result<Vec<u16>> {
        let mut groups = Vec::new();
        for item in fs::read_dir(&self.folder)? {
            let name = item?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(INSTALL));
            groups.extend(name.and_then(|name| name.parse::<u16>().ok()));
        }
        groups.sort_unstable();
        Ok(groups)
    }

    fn create(&self, item: Item) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        options.open(self.path(item)).map(drop)
    }

    fn write(&self, item: Item, offset: u64, bytes: &[u8]) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.path(item))?.write_all_at(bytes, offset)
    }

    fn read(&self, item: Item, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
        let file = File::open(self.path(item))?;
        let mut bytes = vec![0; bytes_max];
        let mut read = 0;
        while read < bytes_max {
            match file.read_at(&mut bytes[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(read);
        Ok(bytes.into())
    }

    fn promote(&self, group: u16) -> io::Result<()> {
        let staging = self.path(Item { kind: Kind::Staging, group });
        File::open(&staging)?.sync_all()?;
        fs::rename(staging, self.path(Item { kind: Kind::Install, group }))?;
        self.sync_folder()
    }

    fn remove(&self, item: Item) -> io::Result<()> {
        match fs::remove_file(self.path(item)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed?,
        }
        self.sync_folder()
    }

    fn path(&self, item: Item) -> PathBuf {
        let ending = match item.kind {
            Kind::Spool => ".spool",
            Kind::Staging => ".staging",
            Kind::Install => INSTALL,
        };
        self.folder.join(format!("{:05}{ending}", item.group))
    }
}
