//! A machine for tests: puts, deletes, counts, and remembers the order of what it applied.
//!
//! - Owns: a counter in memory, rebuilt by `load`. Takes: textual commands. Gives: short replies.
//! - Bound: tests only.
#![allow(missing_docs, dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::{path::Path, time::Duration};

use bytes::Bytes;
use hongqiao_cluster::{
    Cluster, Durability, Machine, Options, Store, StoreMut,
    id::{NodeId, ShardId},
};

/// Commands: `p` key-length key value: put; `d` key: delete; `n` value: next position.
#[derive(Default)]
pub struct Notes {
    pub next: u64,
    pub loaded: u64,
    pub applied: u64,
}

impl Machine for Notes {
    fn load(&mut self, store: &dyn Store) {
        let last = store.last(b"n", b"o");
        self.next = last.map_or(0, |(key, _)| position(&key) + 1);
        self.loaded = self.next;
    }

    fn apply(&mut self, _index: u64, command: &Bytes, store: &mut dyn StoreMut) -> Bytes {
        self.applied += 1;
        match command[0] {
            b'p' => {
                let key = usize::from(command[1]);
                store.put(command[2..2 + key].to_vec(), command.slice(2 + key..));
            }
            b'd' => store.delete(&command[1..]),
            _ => {
                store.put_new(note_key(self.next), command.slice(1..));
                self.next += 1;
                return Bytes::copy_from_slice(&(self.next - 1).to_be_bytes());
            }
        }
        Bytes::new()
    }
}

pub fn note_key(position: u64) -> Vec<u8> {
    [b"n", &position.to_be_bytes()[..]].concat()
}

pub fn position(key: &[u8]) -> u64 {
    u64::from_be_bytes(key[1..9].try_into().unwrap())
}

pub fn put(key: &str, value: &[u8]) -> Bytes {
    [b"p", &[u8::try_from(key.len()).unwrap()][..], key.as_bytes(), value].concat().into()
}

pub fn delete(key: &str) -> Bytes {
    [b"d", key.as_bytes()].concat().into()
}

pub fn note(value: &[u8]) -> Bytes {
    [b"n", value].concat().into()
}

pub fn options(folder: &Path) -> Options {
    Options {
        shards: 4,
        durability: Durability::Os,
        node: NodeId(7),
        checkpoint_interval: Duration::from_millis(50),
        disk_reserve_bytes: 1 << 20,
        reserve_file_bytes: 1 << 20,
        cache_bytes: 8 << 20,
        ..Options::new(folder.join("data"))
    }
}

pub fn start(options: &Options) -> Cluster<Notes> {
    Cluster::start(options.clone(), |_| Notes::default(), std::sync::Arc::new(|_, _| {})).unwrap()
}

pub const SHARD: ShardId = ShardId(1);

pub fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), future).await.expect("took over a minute")
    })
}

/// Waits until `is_so`, or fails after 20 seconds.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let (_never, wait) = std::sync::mpsc::channel::<()>();
    for _ in 0..2_000 {
        if is_so() {
            return;
        }
        let _ = wait.recv_timeout(Duration::from_millis(10));
    }
    panic!("still not so: {what}");
}

/// Counts the notes that the store has.
pub fn count(store: &dyn Store) -> u64 {
    store.scan(b"n", b"o", usize::MAX).len() as u64
}
