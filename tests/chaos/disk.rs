//! A small disk for one node, which can be filled and freed.
//!
//! - Owns: a tmpfs on the node's data folder. Takes: the folder. Gives: no space at all, and space again.
//! - Needs: root. Bound: `DISK_BYTES` of memory per node.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::undo::Undo;

/// Room for the longest queues of a run, above the reserve.
const DISK_BYTES: u64 = 384 * 1_024 * 1_024;
/// What the filler writes at once.
const CHUNK_BYTES: usize = 1_024 * 1_024;

pub(super) struct Disk {
    filler: PathBuf,
    _undo: Undo,
}

impl Disk {
    /// Mounts the disk on `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        // Processes that still have files open keep what they see.
        let undo = Undo::of(&[format!("umount -l '{}'", folder.display())]);
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("mode=0700,size={DISK_BYTES}"), "tmpfs"]);
        assert!(mount.arg(folder).status().unwrap().success(), "mount of a tmpfs");
        Self { filler: folder.join("filler"), _undo: undo }
    }

    /// Takes all space that is left.
    pub(super) fn fill(&self) {
        let mut filler = File::options().create(true).append(true).open(&self.filler).unwrap();
        let mut chunk = vec![0xFF; CHUNK_BYTES];
        while !chunk.is_empty() {
            // A part may be written: what does not fit is tried in ever smaller pieces.
            if filler.write_all(&chunk).is_err() {
                chunk.truncate(chunk.len() / 2);
            }
        }
    }

    pub(super) fn free(&self) {
        fs::remove_file(&self.filler).unwrap();
    }
}
