//! The marks of a data folder: which format, which cluster, which node, how often started.
//!
//! - Owns: `FORMAT` (written once), `node` (at each start), `lock`; `recovering` is `recover`'s.
//! - Takes: options. Gives: identity and incarnation, or why the folder cannot be opened.
//! - Bound: small text files, replaced atomically.
//! - Source: own design. Format 1 is the first; format 2 has one Raft group more, the meta group.
//!   `MIGRATIONS` names what brings an older one up.

use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{error::StartError, id::NodeId, options::Options};

/// The newest format, written by this release.
pub(crate) const FORMAT: u32 = 2;

/// A recovery has begun and not ended; says which cluster it makes.
pub(crate) const RECOVERING: &str = "recovering";

/// Brings a folder of format `from` to `from + 1`; called before anything in it is opened, and again
/// if it was interrupted.
pub(crate) struct Migration {
    pub(crate) from: u32,
    pub(crate) run: fn(&Path) -> io::Result<()>,
}

/// Every migration, oldest first.
pub(crate) const MIGRATIONS: &[Migration] = &[
    // The meta group comes behind the shards: it has no record yet and makes its own.
    Migration { from: 1, run: |_| Ok(()) },
];

/// What `FORMAT` says of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) number: u32,
    pub(crate) cluster: [u8; 16],
    pub(crate) hash_key: [u8; 16],
    pub(crate) shards: u16,
    /// The node came to a cluster that was there; its groups are made by others.
    pub(crate) joined: bool,
}

/// A node's incarnation, and where it is written down.
#[derive(Debug)]
pub(crate) struct Incarnation {
    /// 0 until the cluster has given one.
    node: AtomicU64,
    now: AtomicU64,
    removed: AtomicBool,
    /// `None` for a node without a folder.
    path: Option<PathBuf>,
}

impl Incarnation {
    /// Of a node without a folder.
    #[cfg(test)]
    pub(crate) fn in_memory(node: NodeId, now: u64) -> Arc<Self> {
        let removed = AtomicBool::default();
        Arc::new(Self { node: node.0.into(), now: now.into(), removed, path: None })
    }

    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    pub(crate) fn node(&self) -> NodeId {
        NodeId(self.node.load(Ordering::SeqCst))
    }

    /// Writes down which node it is of; who knew that before needs no second time.
    fn name(&self, node: NodeId) -> io::Result<()> {
        if self.node() == node {
            return Ok(());
        }
        self.node.store(node.0, Ordering::SeqCst);
        self.write(self.now())
    }

    /// Marks the folder: its node was removed from the cluster, and never starts on it again.
    pub(crate) fn set_removed(&self) -> io::Result<()> {
        self.removed.store(true, Ordering::SeqCst);
        self.write(self.now())
    }

    /// Takes the one behind `latest`, or a higher one, and writes it down before anybody sees it.
    pub(crate) fn take_behind(&self, latest: u64) -> io::Result<u64> {
        let next = latest.max(self.now()).checked_add(1);
        let next = next.ok_or_else(|| io::Error::other("there are no more incarnations"))?;
        self.write(next)?;
        self.now.store(next, Ordering::SeqCst);
        Ok(next)
    }

    fn write(&self, now: u64) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let removed = if self.removed.load(Ordering::SeqCst) { REMOVED } else { "" };
        replace(path, &(node_text(self.node().0, now) + removed))
    }
}

/// An open data folder.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) format: Format,
    pub(crate) incarnation: Arc<Incarnation>,
    /// Held while the process lives; the kernel gives it back however that ends.
    _lock: File,
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let path = path.to_path_buf();
    move |source| StartError::Io { what, path, source }
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
    /// Of its last start.
    pub(crate) incarnation: u64,
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
    let (node, incarnation) = parse_node(&file, &text)?;
    Ok(Found { format, node: NodeId(node), incarnation, _lock: lock })
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

fn migrate(
    folder: &Path,
    mut format: Format,
    migrations: &[Migration],
) -> Result<Format, StartError> {
    let path = folder.join("FORMAT");
    let known = migrations.last().map_or(FORMAT, |last| FORMAT.max(last.from + 1));
    if format.number > known {
        return Err(StartError::FormatNewer { path, found: format.number, known });
    }
    for migration in migrations {
        if migration.from == format.number {
            (migration.run)(folder).map_err(io("migrate", folder))?;
            format.number += 1;
            write(&path, &format)?;
            tracing::info!(format = format.number, "data folder migrated");
        }
    }
    if format.number < known {
        return Err(StartError::FormatDamaged { path, reason: "no migration from this format" });
    }
    Ok(format)
}

fn secrets() -> io::Result<[[u8; 16]; 2]> {
    let mut secrets = [[0; 16]; 2];
    let mut random = File::open("/dev/urandom")?;
    for secret in &mut secrets {
        random.read_exact(secret)?;
    }
    Ok(secrets)
}

/// Returns a new cluster's id.
pub(crate) fn random_id() -> Result<[u8; 16], StartError> {
    let secret = io("read random bytes from", Path::new("/dev/urandom"));
    secrets().map_err(secret).map(|[id, _]| id)
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

fn hex(bytes: &[u8; 16]) -> String {
    bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Writes `FORMAT`.
pub(crate) fn write(path: &Path, format: &Format) -> Result<(), StartError> {
    replace(path, &text(format)).map_err(io("write", path))
}

/// Returns the text of `FORMAT`.
pub(crate) fn text(format: &Format) -> String {
    format!(
        "hongqiao data folder\nformat = {}\ncluster = {}\nhash_key = {}\nshards = {}\n{}",
        format.number,
        hex(&format.cluster),
        hex(&format.hash_key),
        format.shards,
        if format.joined { "joined = yes\n" } else { "" }
    )
}

fn read(path: &Path) -> Result<Option<Format>, StartError> {
    match fs::read_to_string(path) {
        Ok(text) => parse(path, &text).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("read", path)(error)),
    }
}

/// Reads the text of `FORMAT`; `path` is for errors.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Format, StartError> {
    let damaged = |reason| StartError::FormatDamaged { path: path.into(), reason };
    let number = field(text, "format").ok_or_else(|| damaged("no format number"))?;
    let number = number.parse().map_err(|_| damaged("the format is not a number"))?;
    if number > FORMAT {
        // Its other fields may mean something else.
        let (cluster, hash_key) = ([0; 16], [0; 16]);
        return Ok(Format { number, cluster, hash_key, shards: 0, joined: false });
    }
    let secret = |name| field(text, name).and_then(unhex);
    Ok(Format {
        number,
        cluster: secret("cluster").ok_or_else(|| damaged("no cluster id"))?,
        hash_key: secret("hash_key").ok_or_else(|| damaged("no hash key"))?,
        shards: field(text, "shards")
            .and_then(|shards| shards.parse().ok())
            .ok_or_else(|| damaged("no number of shards"))?,
        joined: field(text, "joined").is_some_and(|joined| joined == "yes"),
    })
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='))
        .map(str::trim)
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
    Some(number.to_be_bytes())
}

fn same(path: &Path, field: &'static str, found: u64, configured: u64) -> Result<(), StartError> {
    if found == configured {
        return Ok(());
    }
    Err(StartError::Mismatch { path: path.into(), field, found, configured })
}

/// Checks whose folder it is, and counts this start.
fn start(folder: &Path, options: &Options) -> Result<Arc<Incarnation>, StartError> {
    let path = folder.join("node");
    let (node, before) = match fs::read_to_string(&path) {
        Ok(text) => {
            let (node, incarnation) = parse_node(&path, &text)?;
            if field(&text, "removed").is_some_and(|removed| removed == "yes") {
                return Err(StartError::Removed { path: folder.into(), node });
            }
            if options.node != NodeId::NONE {
                same(&path, "node", node, options.node.0)?;
            }
            (NodeId(node), incarnation)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (options.node, 0),
        Err(error) => return Err(io("read", &path)(error)),
    };
    let incarnation = Incarnation {
        node: node.0.into(),
        now: before.into(),
        removed: AtomicBool::default(),
        path: Some(path.clone()),
    };
    if node == NodeId::NONE {
        // Nothing to write down before the cluster has said who it is.
        incarnation.now.store(before + 1, Ordering::SeqCst);
    } else {
        incarnation.take_behind(before).map_err(io("write", &path))?;
    }
    Ok(Arc::new(incarnation))
}

/// Who makes a cluster and has no other id.
const FIRST: NodeId = NodeId(1);

/// Stands in `node` of a folder whose node was removed from its cluster.
const REMOVED: &str = "removed = yes\n";

/// Reads the text of `node`: id, and how often started; `path` is for errors.
pub(crate) fn parse_node(path: &Path, text: &str) -> Result<(u64, u64), StartError> {
    let number = |name| field(text, name).and_then(|value| value.parse().ok());
    // One more start must fit: what an old incarnation left behind is told apart by the number.
    let starts = number("incarnation").filter(|starts| *starts < u64::MAX);
    number("node").zip(starts).ok_or_else(|| StartError::FormatDamaged {
        path: path.into(),
        reason: "no node id or incarnation",
    })
}

/// Returns the text of `node`.
pub(crate) fn node_text(node: u64, incarnation: u64) -> String {
    format!("node = {node}\nincarnation = {incarnation}\n")
}

/// Replaces a file so that after a crash either the old or the new one is there.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;

    #[test]
    fn folder_when_opened_again_then_same_secrets_and_next_incarnation() {
        let temp = tempfile::tempdir().unwrap();
        let options = Options::new(temp.path().join("data"));
        let first = Folder::open(&options).unwrap();
        let format = first.format.clone();
        assert!(matches!(Folder::open(&options), Err(StartError::Locked { .. })));
        assert_eq!(first.incarnation.now(), 1);
        // Declared down while it ran, and again after others had seen a later start.
        assert_eq!(first.incarnation.take_behind(1).unwrap(), 2);
        assert_eq!(first.incarnation.take_behind(5).unwrap(), 6);
        drop(first);
        let again = Folder::open(&options).unwrap();
        assert_eq!((again.format.clone(), again.incarnation.now()), (format, 7));
        let mode = fs::metadata(&options.data_dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn folder_when_joined_then_of_that_cluster_and_known_as_such() {
        let temp = tempfile::tempdir().unwrap();
        let options = Options::new(temp.path().join("data"));
        let shards = options.shards;
        let format =
            Format { number: 1, cluster: [7; 16], hash_key: [8; 16], shards, joined: false };
        let few = Format { shards: 3, ..format.clone() };
        let entered = Folder::enter(&options).unwrap();
        let refused = entered.join(options.node, &few, &options);
        assert!(matches!(refused, Err(StartError::Mismatch { .. })));
        let joined = Format { number: FORMAT, joined: true, ..format.clone() };
        let entered = Folder::enter(&options).unwrap();
        assert!(entered.is_new());
        assert_eq!(entered.join(options.node, &format, &options).unwrap().format, joined);
        let again = Folder::enter(&options).unwrap();
        assert!(!again.is_new());
        assert_eq!(again.open().unwrap().format, joined);
    }

    #[test]
    fn folder_when_its_node_has_no_id_then_the_one_that_it_is_given_stays() {
        let temp = tempfile::tempdir().unwrap();
        let options = Options { node: NodeId::NONE, ..Options::new(temp.path()) };
        let shards = options.shards;
        let format =
            Format { number: FORMAT, cluster: [7; 16], hash_key: [8; 16], shards, joined: true };
        // A start that was let in by nobody leaves no trace.
        drop(Folder::enter(&options).unwrap());
        let entered = Folder::enter(&options).unwrap();
        assert_eq!((entered.node(), entered.incarnation.now()), (NodeId::NONE, 1));
        drop(entered.join(NodeId(4), &format, &options).unwrap());
        let again = Folder::enter(&options).unwrap();
        assert_eq!((again.node(), again.incarnation.now()), (NodeId(4), 2));
        again.incarnation.set_removed().unwrap();
        // What counts on by itself meanwhile takes no mark away.
        again.incarnation.take_behind(7).unwrap();
        drop(again);
        assert!(matches!(Folder::enter(&options), Err(StartError::Removed { node: 4, .. })));
    }

    #[test]
    fn founder_when_it_has_no_id_then_node_1() {
        let temp = tempfile::tempdir().unwrap();
        let options = Options { node: NodeId::NONE, ..Options::new(temp.path()) };
        assert_eq!(Folder::open(&options).unwrap().incarnation.node(), NodeId(1));
    }

    #[test]
    fn folder_when_not_ours_then_refused() {
        let temp = tempfile::tempdir().unwrap();
        let options = Options::new(temp.path());
        drop(Folder::open(&options).unwrap());
        let other = Options { shards: 8, ..options.clone() };
        assert!(matches!(Folder::open(&other), Err(StartError::Mismatch { field: "shards", .. })));
        let other = Options { node: NodeId(2), ..options.clone() };
        assert!(matches!(Folder::open(&other), Err(StartError::Mismatch { field: "node", .. })));
        let node = temp.path().join("node");
        fs::write(&node, node_text(options.node.0, u64::MAX)).unwrap();
        assert!(matches!(Folder::open(&options), Err(StartError::FormatDamaged { .. })));
        fs::create_dir(temp.path().join("state")).unwrap();
        fs::remove_file(temp.path().join("FORMAT")).unwrap();
        assert!(matches!(Folder::open(&options), Err(StartError::FormatDamaged { .. })));
        fs::write(temp.path().join("FORMAT"), "format = 99\n").unwrap();
        let newer = Folder::open(&options);
        assert!(matches!(newer, Err(StartError::FormatNewer { found: 99, known: FORMAT, .. })));
    }

    #[test]
    fn folder_when_older_then_each_migration_runs_once() {
        let temp = tempfile::tempdir().unwrap();
        let options = Options::new(temp.path());
        drop(Folder::open(&options).unwrap());
        let count = |folder: &Path| {
            let path = folder.join("migrated");
            let before = fs::read_to_string(&path).unwrap_or_default();
            fs::write(path, before + "x")
        };
        let migrations = [Migration { from: FORMAT, run: count }];
        for _ in 0..2 {
            // Reading stops at the number of this release, so the second pass is simulated.
            let format = read(&temp.path().join("FORMAT")).unwrap().unwrap();
            let format = migrate(temp.path(), format, &migrations).unwrap();
            assert_eq!(format.number, FORMAT + 1);
        }
        assert_eq!(fs::read_to_string(temp.path().join("migrated")).unwrap(), "x");
    }
}
