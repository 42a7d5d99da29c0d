//! The threads that check passwords, and the bounded queue in front of them.
//!
//! - Owns: `limits::PASSWORD_THREADS` threads, and a memory of checks that succeeded.
//! - Takes: a password and a hash. Gives: whether they match; no answer when the queue is full.
//! - Bound: `limits::PASSWORD_CHECKS_WAITING_MAX` waiting, then `None`; the memory holds at most
//!   `limits::PASSWORD_MEMORY_ENTRIES` digests.
//! - Blocks: never the caller. Threads end when the last handle is gone.
//!
//! A reconnect storm shows the same passwords again. A digest of (hash, password), keyed by a secret of
//! this process, remembers what was verified, so only the first check of a pair costs an argon2. It
//! forgets by itself when a user's hash changes, because the hash is part of the digest.

use std::{
    collections::HashSet,
    hash::Hasher as _,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use bytes::Bytes;
use parking_lot::Mutex;
use siphasher::sip128::{Hasher128 as _, SipHasher24};
use tokio::sync::oneshot;

use super::password::{DECOY, verify_password};
use crate::limits;

struct Check {
    password: Bytes,
    /// `None`: the user does not exist, and the check must take its time all the same.
    hash: Option<String>,
    reply: oneshot::Sender<bool>,
}

/// Checks passwords away from the arbiters. Clones share threads and memory.
#[derive(Clone)]
pub struct Verifier {
    queue: SyncSender<Check>,
    memory: Arc<Memory>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Verifier")
    }
}

impl Verifier {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start() -> io::Result<Self> {
        let (queue, checks) = sync_channel(limits::PASSWORD_CHECKS_WAITING_MAX);
        let checks = Arc::new(Mutex::new(checks));
        let memory = Arc::new(Memory::new());
        for number in 0..limits::PASSWORD_THREADS {
            let (checks, memory) = (Arc::clone(&checks), Arc::clone(&memory));
            thread::Builder::new()
                .name(format!("password-{number}"))
                .spawn(move || run(&checks, &memory))?;
        }
        Ok(Self { queue, memory })
    }

    /// Checks a password; `None` when too many checks wait.
    pub(super) async fn verify(&self, password: Bytes, hash: Option<String>) -> Option<bool> {
        if password.len() > limits::PASSWORD_BYTES_MAX {
            return Some(false);
        }
        if hash.as_ref().is_some_and(|hash| self.memory.contains(&password, hash)) {
            return Some(true);
        }
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Check { password, hash, reply }).ok()?;
        answer.await.ok()
    }
}

fn run(checks: &Mutex<Receiver<Check>>, memory: &Memory) {
    loop {
        // The lock is held while waiting for one check and free while it runs.
        let Ok(check) = checks.lock().recv() else { return };
        if check.reply.is_closed() {
            // The client has gone; nobody needs the answer.
            continue;
        }
        let matches = match &check.hash {
            Some(hash) => verify_password(&check.password, hash),
            None => {
                verify_password(&check.password, DECOY);
                false
            }
        };
        if let Some(hash) = check.hash.as_ref().filter(|_| matches) {
            memory.insert(&check.password, hash);
        }
        // An error means the client has gone meanwhile.
        let _ = check.reply.send(matches);
    }
}

/// Digests of pairs that matched: two halves, so that the older one can be forgotten at once.
struct Memory {
    key: [u8; 16],
    halves: Mutex<[HashSet<u128>; 2]>,
}

impl Memory {
    fn new() -> Self {
        Self { key: rand::random(), halves: Mutex::default() }
    }

    fn digest(&self, password: &[u8], hash: &str) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write_usize(hash.len());
        hasher.write(hash.as_bytes());
        hasher.write(password);
        hasher.finish128().as_u128()
    }

    fn contains(&self, password: &[u8], hash: &str) -> bool {
        let digest = self.digest(password, hash);
        self.halves.lock().iter().any(|half| half.contains(&digest))
    }

    fn insert(&self, password: &[u8], hash: &str) {
        let digest = self.digest(password, hash);
        let mut halves = self.halves.lock();
        if halves[0].len() >= limits::PASSWORD_MEMORY_ENTRIES / 2 {
            halves.swap(0, 1);
            halves[0].clear();
        }
        halves[0].insert(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::hash_password;

    #[tokio::test]
    async fn verify_answers_right_wrong_and_unknown() {
        let verifier = Verifier::start().unwrap();
        let hash = hash_password(b"right").unwrap();
        let right = Bytes::from_static(b"right");
        let wrong = Bytes::from_static(b"wrong");
        assert_eq!(verifier.verify(wrong.clone(), Some(hash.clone())).await, Some(false));
        assert_eq!(verifier.verify(right.clone(), Some(hash.clone())).await, Some(true));
        assert_eq!(verifier.verify(right.clone(), None).await, Some(false));
        assert!(verifier.memory.contains(&right, &hash));
        assert!(!verifier.memory.contains(&wrong, &hash));
        assert_eq!(verifier.verify(right, Some(hash)).await, Some(true));
    }

    #[tokio::test]
    async fn verify_when_queue_is_full_gives_no_answer() {
        let (queue, _checks) = sync_channel(1);
        let verifier = Verifier { queue, memory: Arc::new(Memory::new()) };
        let password = Bytes::from_static(b"x");
        let (reply, _answer) = oneshot::channel();
        let check = Check { password: password.clone(), hash: None, reply };
        verifier.queue.try_send(check).map_err(|_| "full").unwrap();
        assert_eq!(verifier.verify(password, None).await, None);
    }

    #[test]
    fn memory_when_full_forgets_the_older_half() {
        let memory = Memory::new();
        memory.insert(b"first", "hash");
        for number in 0..limits::PASSWORD_MEMORY_ENTRIES {
            memory.insert(&number.to_be_bytes(), "hash");
        }
        assert!(!memory.contains(b"first", "hash"));
        let newest = limits::PASSWORD_MEMORY_ENTRIES - 1;
        assert!(memory.contains(&newest.to_be_bytes(), "hash"));
        let held: usize = memory.halves.lock().iter().map(HashSet::len).sum();
        assert!(held <= limits::PASSWORD_MEMORY_ENTRIES);
    }
}
