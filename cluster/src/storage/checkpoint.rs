//! Moves memory tables to disk, so that the log behind them can go.
//!
//! ```text
//! freeze table → merge with blocks → apply batch (one per shard) → one flush for all → thaw → purge
//! ```
//!
//! - Owns: one thread. Takes: a tick, or a kick when the tables hold `checkpoint_bytes`.
//! - Gives: `stored` of each shard; news of it to whoever purges the log.
//! - Bound: `apply` and reads wait only while one shard's batch is put into sled's memory.
//! - An error is tried again until it works (HEAL). After sled was opened again everything that was
//!   not flushed is written again: frozen tables stay until then.
//! - Source: own design.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedMutexGuard};

use super::{
    disk::Disk,
    health::{DiskState, Health},
    log::Log,
    state::shard_state::{Base, ShardState, checkpoint_batch},
    wake::Wake,
};
use crate::{
    clock,
    limits::{RETRY_MAX, RETRY_MIN},
    options::Options,
    raft_group::types::LogId,
};

/// Keeps a shard's state on disk as it is.
pub(crate) type Pin = OwnedMutexGuard<()>;

/// One shard's state, and who may change it on disk.
pub(crate) struct ShardStore {
    pub(crate) shard: u16,
    pub(crate) base: Arc<Base>,
    pub(crate) state: Mutex<ShardState>,
    /// Held by a checkpoint, a backup, or a snapshot that is being sent.
    pub(crate) pin: Arc<tokio::sync::Mutex<()>>,
    /// A checkpoint was written that no snapshot has named yet.
    pub(crate) unnamed: AtomicBool,
    /// Index of the last entry in the newest snapshot that openraft has heard of.
    pub(crate) named: AtomicU64,
    pub(crate) fill: Arc<Fill>,
}

/// Log entries in memory call for a checkpoint at this many times `checkpoint_bytes` ...
const LOG_KICK: usize = 2;
/// ... and hold proposals back at this many times.
const LOG_MAX: usize = 3;

/// How full the memory tables of a node are, and the log behind them.
#[derive(Debug)]
pub(crate) struct Fill {
    active: AtomicUsize,
    frozen: AtomicUsize,
    /// Signalled after each checkpoint.
    room: Notify,
    kick: Mutex<Kick>,
    wake: Wake,
    kick_bytes: usize,
    health: Arc<Health>,
    /// The log in memory has called for the next checkpoint.
    log_kicked: AtomicBool,
}

#[derive(Debug, Default)]
struct Kick {
    due: bool,
    stopped: bool,
}

impl Fill {
    pub(crate) fn new(kick_bytes: usize, health: Arc<Health>) -> Self {
        Self {
            active: AtomicUsize::default(),
            frozen: AtomicUsize::default(),
            room: Notify::default(),
            kick: Mutex::default(),
            wake: Wake::default(),
            kick_bytes,
            health,
            log_kicked: AtomicBool::default(),
        }
    }

    fn kick(&self) {
        self.kick.lock().due = true;
        self.wake.notify();
    }

    /// Asked by whoever has waited for room for a while: what holds it up may have been called off.
    pub(crate) fn nudge(&self) {
        if self.is_full() {
            self.kick();
        }
    }

    /// Calls for a checkpoint when the log in memory is large although the tables are not: entries
    /// whose messages are gone again leave nothing in a table, and stay until they are purged.
    fn look_at_log(&self) {
        let large = self.health.memory.bytes() >= self.kick_bytes.saturating_mul(LOG_KICK);
        if large && !self.log_kicked.swap(true, Ordering::Relaxed) {
            self.kick();
        }
    }

    /// Counts what an `apply` changed; calls for a checkpoint when there is enough.
    pub(crate) fn changed(&self, before: usize, after: usize) {
        if after < before {
            self.active.fetch_sub(before - after, Ordering::Relaxed);
        } else {
            let was = self.active.fetch_add(after - before, Ordering::Relaxed);
            let all = was < self.kick_bytes && was + (after - before) >= self.kick_bytes;
            // One shard's batch holds up its reads while it is applied: it must not be all of that.
            let one_max = self.kick_bytes / 4;
            if all || (before < one_max && after >= one_max) {
                self.kick();
            }
        }
        self.look_at_log();
    }

    fn froze(&self, bytes: usize) {
        self.active.fetch_sub(bytes, Ordering::Relaxed);
        self.frozen.fetch_add(bytes, Ordering::Relaxed);
    }

    fn thawed(&self, bytes: usize) {
        self.frozen.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.active.load(Ordering::Relaxed) + self.frozen.load(Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        self.bytes() >= self.kick_bytes.saturating_mul(2)
            || self.health.memory.bytes() >= self.kick_bytes.saturating_mul(LOG_MAX)
    }

    /// Waits until the tables and the log have room for more, or `own` says that there is some kept for it.
    pub(crate) async fn room_or(&self, own: impl Fn() -> bool) {
        while self.is_full() && !own() {
            let (room, freed) = (self.room.notified(), self.health.memory.freed.notified());
            // Registered before the look, so that nothing is missed between it and the wait.
            tokio::pin!(room, freed);
            room.as_mut().enable();
            freed.as_mut().enable();
            if !self.is_full() || own() {
                return;
            }
            self.kick();
            tokio::select! {
                () = room => {}
                () = freed => {}
            }
        }
    }

    fn wait(&self, time: Duration) -> bool {
        let mut kick = self.kick.lock();
        let deadline = clock::now() + time;
        while !kick.due && !kick.stopped && self.wake.wait_until(&mut kick, deadline) {}
        kick.due = false;
        kick.stopped
    }

    #[cfg(feature = "sim")]
    async fn wait_driven(&self, time: Duration) -> bool {
        let due = || {
            let kick = self.kick.lock();
            kick.due || kick.stopped
        };
        let _ = tokio::time::timeout(time, self.wake.until(due)).await;
        let mut kick = self.kick.lock();
        kick.due = false;
        kick.stopped
    }

    fn stop(&self) {
        self.kick.lock().stopped = true;
        self.wake.notify();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.kick.lock().stopped
    }
}

impl ShardStore {
    pub(crate) fn new(
        state: ShardState,
        shard: u16,
        base: Arc<Base>,
        fill: Arc<Fill>,
    ) -> Arc<Self> {
        // openraft asks at each start.
        let named = AtomicU64::new(state.stored.last.map_or(0, |id| id.index));
        let (state, unnamed) = (Mutex::new(state), AtomicBool::new(false));
        Arc::new(Self { shard, base, state, pin: Arc::default(), unnamed, named, fill })
    }

    /// Notes that openraft hears of a snapshot.
    pub(crate) fn name(&self, last: Option<LogId>) {
        self.named.fetch_max(last.map_or(0, |id| id.index), Ordering::SeqCst);
    }

    /// Puts the changes of a frozen table into the store, not flushed yet.
    fn write(&self) -> io::Result<()> {
        let frozen = {
            let mut state = self.state.lock();
            let before = state.active_bytes();
            let frozen = state.freeze();
            self.fill.froze(before - state.active_bytes());
            frozen
        };
        let Some(frozen) = frozen else { return Ok(()) };
        let batch = checkpoint_batch(&*self.base.kv, self.shard, &frozen)?;
        let gate = self.state.lock().gate.clone();
        let _gate = gate.write();
        self.base.kv.apply(self.shard, batch)
    }

    fn thaw(&self) {
        self.fill.thawed(self.state.lock().thaw());
        self.unnamed.store(true, Ordering::SeqCst);
    }
}

/// The thread that writes checkpoints, and what it needs.
pub(crate) struct Checkpointer {
    pub(crate) stores: Vec<Arc<ShardStore>>,
    pub(crate) base: Arc<Base>,
    pub(crate) fill: Arc<Fill>,
    pub(crate) health: Arc<Health>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) log: Arc<Log>,
    interval: Duration,
    reserve_bytes: u64,
    running: Mutex<()>,
}

/// Told which shards have a new checkpoint.
pub(crate) type News = Box<dyn Fn(&[u16]) + Send>;

impl Checkpointer {
    pub(crate) fn new(
        stores: Vec<Arc<ShardStore>>,
        base: Arc<Base>,
        fill: Arc<Fill>,
        disk: Arc<dyn Disk>,
        log: Arc<Log>,
        options: &Options,
    ) -> Arc<Self> {
        Arc::new(Self {
            stores,
            health: base.health.clone(),
            base,
            fill,
            disk,
            log,
            interval: options.checkpoint_interval,
            reserve_bytes: options.disk_reserve_bytes,
            running: Mutex::default(),
        })
    }

    /// Runs until stopped; then writes a last checkpoint if the disk lets it.
    pub(crate) fn run(&self, news: &News) {
        loop {
            let stopped = self.fill.wait(self.interval);
            self.round(news);
            if stopped {
                return;
            }
        }
    }

    /// Writes what has changed, and tells whose log may go.
    fn round(&self, news: &News) {
        self.fill.log_kicked.store(false, Ordering::Relaxed);
        self.look_at_disk();
        // Marks of the last round's purges; removes segments that are behind.
        self.log.nudge();
        let (stores, pins) = self.dirty();
        if !stores.is_empty() {
            self.write(&stores);
        }
        drop(pins);
        // Also those of earlier rounds: news that comes while a group names a snapshot is lost on it,
        // and its log would stay until its next checkpoint.
        // All of them where the log holds up everything: what fills it may lie behind checkpoints that were
        // named long ago, by an earlier start or before memory was short, and nothing new will come then.
        let full = self.fill.is_full();
        let due = |store: &&Arc<ShardStore>| full || store.unnamed.load(Ordering::SeqCst);
        let due: Vec<u16> = self.stores.iter().filter(due).map(|store| store.shard).collect();
        if !due.is_empty() {
            news(&due);
        }
    }

    /// Does what `run` does as a task of a simulation, each round `delay` after it is due.
    #[cfg(feature = "sim")]
    pub(crate) async fn drive(&self, news: News, delay: super::driven::Delay) {
        loop {
            let stopped = self.fill.wait_driven(self.interval).await;
            tokio::time::sleep(delay()).await;
            self.round(&news);
            if stopped {
                return;
            }
        }
    }

    pub(crate) fn stop(&self) {
        self.fill.stop();
    }

    /// Compares free space with the reserve; looked at before the first proposal, then at each tick.
    pub(crate) fn look_at_disk(&self) {
        match self.disk.free_bytes() {
            Ok(free) => self.health.note_free(free, self.reserve_bytes),
            Err(error) => tracing::warn!(%error, "cannot ask the disk for its free space"),
        }
        if self.health.state() == DiskState::Ready
            && let Err(error) = self.disk.hold_reserve()
        {
            tracing::warn!(%error, "cannot hold space for the log");
        }
    }

    /// Returns the shards with changes that nobody pins, pinned.
    fn dirty(&self) -> (Vec<&ShardStore>, Vec<Pin>) {
        let pinned = |store: &ShardStore| store.pin.clone().try_lock_owned().ok();
        let dirty = self.stores.iter().filter(|store| store.state.lock().is_dirty());
        dirty.filter_map(|store| Some((&**store, pinned(store)?))).unzip()
    }

    /// Writes the tables of `stores`, whose pins the caller holds; `false` if the node stopped first.
    pub(crate) fn write(&self, stores: &[&ShardStore]) -> bool {
        let _running = self.running.lock();
        let started = clock::now();
        let mut wait = RETRY_MIN;
        loop {
            let generation = self.base.kv.generation();
            let written = stores
                .iter()
                .try_for_each(|store| store.write())
                .and_then(|()| self.base.kv.flush());
            match written {
                // Opened again by a reader meanwhile: what was not flushed then is gone.
                Ok(()) if self.base.kv.generation() != generation => continue,
                Ok(()) => break,
                Err(error) => self.health.note_state(Some(&error)),
            }
            if self.fill.is_stopped() && wait >= RETRY_MAX {
                return false;
            }
            clock::rest(wait);
            wait = (wait * 2).min(RETRY_MAX);
            if self.base.kv.generation() == generation
                && let Err(error) = self.base.kv.reopen()
            {
                self.health.note_state(Some(&error));
            }
        }
        self.health.note_state(None);
        for store in stores {
            store.thaw();
        }
        self.fill.room.notify_waiters();
        let us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.health.checkpoints.fetch_add(1, Ordering::Relaxed);
        self.health.checkpoint_us.fetch_add(us, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        options::Durability,
        storage::{
            state::shard_state::ShardState,
            twin::{DiskTwin, KvTwin},
        },
    };

    /// A member that starts with a full log takes nothing that could make a checkpoint come.
    #[test]
    fn round_when_the_log_is_full_and_nothing_is_new_then_all_groups_are_to_purge() {
        let options = Options { checkpoint_bytes: 1_000, ..Options::new("twin") };
        let disk: Arc<dyn Disk> = Arc::new(DiskTwin::new());
        let health = Arc::new(Health::default());
        let (log, _) = Log::open(disk.clone(), 2, Durability::Disk, health.clone()).unwrap();
        let base = Arc::new(Base { kv: Box::new(KvTwin::default()), health: health.clone() });
        let fill = Arc::new(Fill::new(options.checkpoint_bytes, health.clone()));
        let store = |group| {
            let state = ShardState::open(group, base.clone()).unwrap();
            ShardStore::new(state, group, base.clone(), fill.clone())
        };
        let stores = vec![store(0), store(1)];
        let checkpointer =
            Checkpointer::new(stores, base.clone(), fill.clone(), disk, log.clone(), &options);
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        let news: News = Box::new(move |groups| tell.lock().push(groups.to_vec()));
        checkpointer.round(&news);
        health.memory.changed(0, options.checkpoint_bytes * LOG_MAX);
        checkpointer.round(&news);
        health.memory.changed(1, 0);
        checkpointer.round(&news);
        assert_eq!(*told.lock(), [[0, 1]]);
        log.stop();
    }
}
