//! The marks of a data folder: which format, which cluster, which node, how often started.
//!
//! - Owns: `lock`, `format` and `incarnation`; the file `recovering` is `recover`'s.
//! - Takes: options. Gives: identity and incarnation, or why the folder cannot be opened.
//! - Bound: small text files, replaced atomically.

pub(crate) mod format;
pub(crate) mod incarnation;
pub(crate) mod marks;
pub(crate) mod record;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use self::{
    format::{FORMAT, Format, MIGRATIONS, migrate, read, secrets, write},
    incarnation::{Incarnation, start},
    marks::{field, hex, io, same, unhex},
    record::NodeRecord,
};
use crate::{error::StartError, id::NodeId, options::Options};

/// A recovery has begun and not ended; says which cluster it makes.
pub(crate) const RECOVERING: &str = "recovering";

/// Who makes a cluster and has no other id.
const FIRST: NodeId = NodeId(1);

/// An open data folder.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) format: Format,
    pub(crate) incarnation: Arc<Incarnation>,
    /// Held while the process lives; the kernel gives it back however that ends.
    _lock: File,
}

/// A data folder that is locked, and may be new.
pub(crate) struct Entered {
    path: PathBuf,
    format: Option<Format>,
    /// The number of this start.
    pub(crate) incarnation: Arc<Incarnation>,
    lock: File,
}

impl Folder {
    /// Locks the data folder, or makes it, and counts this start.
    pub(crate) fn enter(options: &Options) -> Result<Entered, StartError> {
        let path = options.data_dir.clone();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(io("make", &path))?;
        fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(io("protect", &path))?;
        let lock = lock(&path)?;
        let file = path.join("FORMAT");
        let mark = path.join(RECOVERING);
        if mark.try_exists().map_err(io("look for", &mark))? {
            return Err(StartError::Recovering { path: mark });
        }
        let format = match read(&file)? {
            Some(format) => Some(migrate(&path, format, MIGRATIONS)?),
            None if path.join("state").exists() || path.join("log").exists() => {
                // New secrets would make the old data unreachable.
                let reason = "it is missing, but the folder holds data";
                return Err(StartError::FormatDamaged { path: file, reason });
            }
            None => None,
        };
        if let Some(format) = &format {
            same(&file, "shards", u64::from(format.shards), u64::from(options.shards))?;
        }
        let incarnation = start(&path, options)?;
        Ok(Entered { path, format, incarnation, lock })
    }

    /// Opens the data folder, or makes it for a new cluster.
    #[cfg(test)]
    pub(crate) fn open(options: &Options) -> Result<Self, StartError> {
        let entered = Self::enter(options)?;
        if entered.is_new() { entered.found(options) } else { entered.open() }
    }
}

impl Entered {
    /// Returns whether the folder belongs to no cluster yet.
    pub(crate) fn is_new(&self) -> bool {
        self.format.is_none()
    }

    /// Returns whose folder it is, or `NONE`.
    pub(crate) fn node(&self) -> NodeId {
        self.incarnation.node()
    }

    /// Returns which cluster it belongs to.
    pub(crate) fn cluster(&self) -> Option<[u8; 16]> {
        self.format.as_ref().map(|format| format.cluster)
    }

    fn name(&self, node: NodeId) -> Result<(), StartError> {
        self.incarnation.name(node).map_err(io("write", &self.path.join("node")))
    }

    /// Makes a new cluster in a new folder.
    pub(crate) fn found(self, options: &Options) -> Result<Folder, StartError> {
        let secret = io("read random bytes from", Path::new("/dev/urandom"));
        let [cluster, hash_key] = secrets().map_err(secret)?;
        let node = if self.node() == NodeId::NONE { FIRST } else { self.node() };
        self.name(node)?;
        let shards = options.shards;
        let format = Format { number: FORMAT, cluster, hash_key, shards, joined: false };
        self.write(format)
    }

    /// Makes a new folder that of a member `node` of `format`'s cluster.
    pub(crate) fn join(
        self,
        node: NodeId,
        format: &Format,
        options: &Options,
    ) -> Result<Folder, StartError> {
        let file = self.path.join("FORMAT");
        same(&file, "shards", u64::from(format.shards), u64::from(options.shards))?;
        self.name(node)?;
        self.write(Format { number: FORMAT, joined: true, ..format.clone() })
    }

    fn write(mut self, format: Format) -> Result<Folder, StartError> {
        write(&self.path.join("FORMAT"), &format)?;
        self.format = Some(format);
        self.open()
    }

    /// Opens a folder that belongs to a cluster.
    pub(crate) fn open(self) -> Result<Folder, StartError> {
        let Self { path, format, incarnation, lock } = self;
        let reason = "it is missing";
        let damaged = || StartError::FormatDamaged { path: path.join("FORMAT"), reason };
        Ok(Folder { format: format.ok_or_else(damaged)?, incarnation, _lock: lock })
    }
}

/// A folder that is locked and looked at, and not started.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) format: Format,
    pub(crate) node: NodeId,
    /// What its `node` says.
    pub(crate) record: NodeRecord,
    _lock: File,
}

/// Locks the folder of a node that does not run, and reads whose it is.
pub(crate) fn look(path: &Path) -> Result<Found, StartError> {
    let file = path.join("FORMAT");
    let missing = |path: &Path| StartError::FormatDamaged {
        path: path.into(),
        reason: "it is missing: this is no data folder",
    };
    let format = read(&file)?.ok_or_else(|| missing(&file))?;
    let lock = lock(path)?;
    let format = migrate(path, format, MIGRATIONS)?;
    let file = path.join("node");
    let text = match fs::read_to_string(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing(&file)),
        text => text.map_err(io("read", &file))?,
    };
    let record = NodeRecord::parse(&file, &text)?;
    Ok(Found { format, node: NodeId(record.node), record, _lock: lock })
}

fn lock(folder: &Path) -> Result<File, StartError> {
    let path = folder.join("lock");
    let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = open.map_err(io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked { path: folder.into() }),
        Err(TryLockError::Error(error)) => Err(io("lock", &path)(error)),
    }
}

/// Returns the text of `recovering`.
pub(crate) fn cluster_text(cluster: &[u8; 16]) -> String {
    format!("cluster = {}\n", hex(cluster))
}

/// Reads the text of `recovering`; `path` is for errors.
pub(crate) fn cluster_of(path: &Path, text: &str) -> Result<[u8; 16], StartError> {
    let damaged = || StartError::FormatDamaged { path: path.into(), reason: "no cluster id" };
    field(text, "cluster").and_then(unhex).ok_or_else(damaged)
}
