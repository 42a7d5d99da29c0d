//! Where should the Raft logs live: in sled, or in an append-only file shared by all groups?
//!
//! - Owns: a temporary folder. Takes: nothing. Gives: a table of rates and ratios on stdout.
//! - Shape: 16 groups; each round appends one entry of 64 messages x 256 B per group, then flushes once.
//! - Bound: each row stops after `ROUNDS` rounds.
//! - Source: design of the write-ahead log; figures in ARCHITECTURE.md.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    missing_docs
)]

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

const GROUPS: usize = 16;
const MESSAGES: usize = 64;
const MESSAGE_BYTES: usize = 256;
const CHUNK_BYTES: usize = 4_000;
const ROUNDS: usize = 150;

fn main() {
    let folder =
        tempfile::tempdir_in(std::env::var("SPIKE_DIR").unwrap_or_else(|_| ".".into())).unwrap();
    let entry: Vec<u8> =
        (0..MESSAGES * MESSAGE_BYTES).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    println!("{GROUPS} groups, entries of {MESSAGES} x {MESSAGE_BYTES} B, {ROUNDS} rounds");
    let mut baseline = [0.0; 2];
    for disk in [true, false] {
        let name = if disk { "disk" } else { "os" };
        let raw = raw_append(folder.path(), &entry, disk, false);
        baseline[usize::from(disk)] = raw;
        print("segment file, growing", name, raw, raw);
        let zeroed = raw_append(folder.path(), &entry, disk, true);
        print("segment file, zero-filled before", name, zeroed, raw);
        let sled = sled_append(folder.path(), &entry, disk);
        print("sled, chunks of at most 4 KiB", name, sled, raw);
    }
    for pairs_per_block in [1, 4, 7, 14] {
        checkpoint(folder.path(), pairs_per_block);
    }
}

fn print(what: &str, durability: &str, rate: f64, baseline: f64) {
    println!("{durability:>4}  {what:34} {rate:>12.0} messages/s  {:>6.2} x", rate / baseline);
}

/// One write and at most one fdatasync for the entries of all groups.
fn raw_append(folder: &Path, entry: &[u8], disk: bool, zeroed: bool) -> f64 {
    let path = folder.join("segment");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).unwrap();
    if zeroed {
        for _ in 0..ROUNDS {
            file.write_all(&vec![0; GROUPS * (entry.len() + 64)]).unwrap();
        }
        file.sync_all().unwrap();
    }
    let mut batch = Vec::new();
    let mut offset = 0;
    let started = Instant::now();
    for _ in 0..ROUNDS {
        batch.clear();
        for _ in 0..GROUPS {
            batch.extend_from_slice(&[0; 40]);
            batch.extend_from_slice(entry);
        }
        let crc = crc32fast::hash(&batch);
        batch[..4].copy_from_slice(&crc.to_le_bytes());
        file.write_all_at(&batch, offset).unwrap();
        offset += batch.len() as u64;
        if disk {
            file.sync_data().unwrap();
        }
    }
    rate(started.elapsed(), ROUNDS * GROUPS * MESSAGES)
}

/// The same entries as sled values, one `flush` (and fdatasync) for all groups.
fn sled_append(folder: &Path, entry: &[u8], disk: bool) -> f64 {
    let path = folder.join("sled-log");
    let _ = std::fs::remove_dir_all(&path);
    let db = sled::Config::new()
        .path(&path)
        .cache_capacity(64 << 20)
        .flush_every_ms(None)
        .open()
        .unwrap();
    let trees: Vec<_> = (0..GROUPS).map(|g| db.open_tree(format!("log{g}")).unwrap()).collect();
    let file = File::open(path.join("db")).unwrap();
    let started = Instant::now();
    for round in 0..ROUNDS as u64 {
        for tree in &trees {
            let mut batch = sled::Batch::default();
            for (piece, chunk) in entry.chunks(CHUNK_BYTES).enumerate() {
                let mut key = [0; 9];
                key[..8].copy_from_slice(&round.to_be_bytes());
                key[8] = piece as u8;
                batch.insert(&key, chunk);
            }
            tree.apply_batch(batch).unwrap();
        }
        db.flush().unwrap();
        if disk {
            file.sync_data().unwrap();
        }
    }
    rate(started.elapsed(), ROUNDS * GROUPS * MESSAGES)
}

/// What one message costs a checkpoint, alone or in a block of about 4 KiB.
fn checkpoint(folder: &Path, pairs_per_block: usize) {
    let path = folder.join(format!("sled-state-{pairs_per_block}"));
    let db = sled::Config::new()
        .path(&path)
        .cache_capacity(64 << 20)
        .flush_every_ms(None)
        .open()
        .unwrap();
    let tree = db.open_tree("state").unwrap();
    let messages = 140_000 / pairs_per_block * pairs_per_block;
    let value = vec![7; pairs_per_block * (MESSAGE_BYTES + 24)];
    let started = Instant::now();
    let mut position = 0_u64;
    for _ in 0..4 {
        let mut batch = sled::Batch::default();
        for _ in 0..messages / pairs_per_block / 4 {
            position += pairs_per_block as u64;
            batch.insert(&position.to_be_bytes(), &value[..]);
        }
        tree.apply_batch(batch).unwrap();
        db.flush().unwrap();
    }
    let elapsed = started.elapsed();
    let bytes = db.size_on_disk().unwrap() as f64 / (messages * MESSAGE_BYTES) as f64;
    println!(
        "      checkpoint, {pairs_per_block:2} messages per sled key       {:>6.2} us per message, {bytes:.1} bytes stored per byte",
        elapsed.as_secs_f64() * 1e6 / messages as f64
    );
}

fn rate(elapsed: Duration, count: usize) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}
