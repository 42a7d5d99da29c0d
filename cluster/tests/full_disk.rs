//! A real disk that is really full: a small tmpfs. Needs the right to mount; says so without it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use hongqiao_cluster::{DiskState, Options, ProposeError};
use support::{SHARD, block_on, note, options, start, wait_until};

/// A mounted tmpfs; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, megabytes: u32) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let size = format!("size={megabytes}m");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        mount.is_ok_and(|mount| mount.status.success()).then(|| Self(at.into()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn node_when_the_disk_is_full_then_refuses_keeps_all_and_recovers_by_itself() {
    let temp = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&temp.path().join("disk"), 48) else {
        println!("skipped: this user may not mount a tmpfs");
        return;
    };
    // A reserve that is too small on purpose: the log and sled themselves meet the end of the disk.
    let options =
        Options { disk_reserve_bytes: 1 << 16, reserve_file_bytes: 1 << 18, ..options(&disk.0) };
    let node = start(&options);
    let handle = node.handle();
    let filler = disk.0.join("filler");
    let mut acknowledged = 0_u64;
    for round in 0..3 {
        for _ in 0..20 {
            block_on(handle.propose(SHARD, note(&[1; 1_000]))).unwrap();
            acknowledged += 1;
        }
        // Somebody else takes the rest, to the last byte.
        let _ = fs::write(&filler, vec![0; 48 << 20]);
        let mut unknown = 0;
        let refused =
            (0..2_000).any(|_| match block_on(handle.propose(SHARD, note(&[2; 50_000]))) {
                Ok(_) => {
                    acknowledged += 1;
                    false
                }
                Err(ProposeError::Unknown) => {
                    unknown += 1;
                    unknown > 3
                }
                Err(ProposeError::DiskFull) => true,
                Err(other) => panic!("{other}"),
            });
        assert!(refused, "round {round}: {unknown} unknown");
        assert_ne!(handle.disk_state(), DiskState::Ready);
        fs::remove_file(&filler).unwrap();
        wait_until("the disk has space", || handle.disk_state() == DiskState::Ready);
    }
    block_on(handle.propose(SHARD, note(b"after"))).unwrap();
    acknowledged += 1;
    let kept = block_on(handle.read(SHARD, |notes, _| notes.next)).unwrap();
    assert!(kept >= acknowledged, "{kept} of {acknowledged}");
    node.shutdown();
    let node = start(&options);
    let next =
        block_on(node.handle().read(SHARD, |notes, store| (notes.next, support::count(store))));
    assert_eq!(next.unwrap(), (kept, kept));
}
