//! `FORMAT`: which format a folder has, and which cluster it belongs to.
//!
//! - Owns: the file, written once and by migrations. Gives: what it says, or why it is refused.
//! - Bound: one small text file.
//! - Source: own design. Format 1 is the first; format 2 has one Raft group more, the meta group.
//!   `MIGRATIONS` names what brings an older one up.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use super::marks::{field, hex, io, replace, unhex};
use crate::error::StartError;

/// The newest format, written by this release.
pub(crate) const FORMAT: u32 = 2;

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

pub(super) fn migrate(
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

pub(super) fn read(path: &Path) -> Result<Option<Format>, StartError> {
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

/// Returns a new id and a new key for hashes.
pub(super) fn secrets() -> io::Result<[[u8; 16]; 2]> {
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
