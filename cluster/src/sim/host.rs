//! One machine of a world: its disk, its clock, and the node that lives on it.
//!
//! ```text
//! start ─▶ life: one runtime with its own paused clock ─ crash ─▶ what the disk kept ─▶ start …
//! ```
//!
//! - Owns: the twins below a node, which outlive it; the runtime, which is dropped whole at a crash, so that
//!   nothing of the old life runs on.
//! - Takes: ticks of the world's time, which its own clock may follow late or early. Gives: a handle.
//! - Bound: one thread. Everything inside is the product's code, but for the twins.
//! - Source: own design; hosts as in turmoil.

use std::{
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use tokio::runtime::{EnterGuard, Runtime};

use super::{
    boot,
    guest::MakeMachine,
    ledger::Ledger,
    links::{self, Links},
    oracle::Oracle,
    shape::Shape,
};
use crate::{
    error::StartError,
    handle::ClusterHandle,
    id::NodeId,
    storage::{
        driven::Delay,
        folder::{format::Format, incarnation::Incarnation},
        twin::{DiskTwin, KvTwin, Power, ShelfTwin},
    },
    transport::Network,
};

/// How a node dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// What was written stays, synced or not.
    Kill,
    /// What was not synced may be gone, in part or whole.
    PowerLoss,
}

/// What a node finds when it starts.
pub(super) struct Ground {
    pub(super) node: NodeId,
    pub(super) incarnation: Arc<Incarnation>,
    pub(super) disk: DiskTwin,
    pub(super) kv: KvTwin,
    pub(super) shelf: ShelfTwin,
    pub(super) delay: Delay,
    /// What would be its file `FORMAT`.
    pub(super) folder: Arc<Mutex<Option<Format>>>,
    /// `None`: the world has one node.
    pub(super) network: Option<Arc<dyn Network>>,
    pub(super) shape: Shape,
    pub(super) oracle: Arc<Oracle>,
    /// `None`: the ledger is all there is.
    pub(super) machines: Option<MakeMachine>,
}

/// What came of a start.
pub(super) type Started = Arc<OnceLock<Result<ClusterHandle<Ledger>, StartError>>>;

/// The world inside a node.
pub(super) struct Visit<'a> {
    pub(super) handle: &'a ClusterHandle<Ledger>,
    pub(super) runtime: &'a Runtime,
    _inside: EnterGuard<'a>,
}

struct Life {
    started: Started,
    runtime: Runtime,
}

/// What a machine is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing yet.
    Unused,
    Member,
    /// It was removed, or is lost with its disk.
    Gone,
}

pub(super) struct Host {
    pub(super) node: NodeId,
    pub(super) place: Place,
    /// Of the last start; a node that is declared down while it runs counts on by itself.
    pub(super) incarnation: u64,
    written: Arc<Incarnation>,
    pub(super) disk: DiskTwin,
    kv: KvTwin,
    shelf: ShelfTwin,
    folder: Arc<Mutex<Option<Format>>>,
    pub(super) power: Arc<Power>,
    life: Option<Life>,
    /// The longest that the disk takes, in milliseconds.
    pub(super) disk_ms_max: Arc<AtomicU64>,
    random: Arc<Mutex<StdRng>>,
    /// What its clock does in a thousand milliseconds of the world.
    pub(super) clock_rate: u64,
    /// Thousandths of a millisecond that its clock owes.
    owed: u64,
    /// Stands still until then, as a process does that gets no processor.
    pub(super) paused_until: u64,
    missed_ms: u64,
}

impl Host {
    pub(super) fn new(node: NodeId, random: &mut StdRng) -> Self {
        let mut host = Self {
            node,
            place: Place::Member,
            incarnation: 0,
            written: Incarnation::in_memory(node, 0),
            disk: DiskTwin::new(),
            kv: KvTwin::default(),
            shelf: ShelfTwin::default(),
            folder: Arc::default(),
            power: Arc::default(),
            life: None,
            disk_ms_max: Arc::new(AtomicU64::new(1)),
            random: Arc::new(Mutex::new(StdRng::seed_from_u64(random.next_u64()))),
            clock_rate: 1_000,
            owed: 0,
            paused_until: 0,
            missed_ms: 0,
        };
        // The first life has twins that share its power, as later ones do.
        host.lose(Death::Kill);
        host
    }

    pub(super) fn is_alive(&self) -> bool {
        self.life.is_some()
    }

    /// Enters a node that has started and does not stand still: until the visit ends, the time is its own.
    pub(super) fn visit(&self) -> Option<Visit<'_>> {
        // Its clock knows of a pause only once it has run again.
        let is_awake = self.paused_until == 0 && self.missed_ms == 0;
        let life = self.life.as_ref().filter(|_| is_awake)?;
        let handle = life.started.get()?.as_ref().ok()?;
        Some(Visit { handle, runtime: &life.runtime, _inside: life.runtime.enter() })
    }

    /// Returns the handle of a node that has started.
    pub(super) fn handle(&self) -> Option<&ClusterHandle<Ledger>> {
        self.life.as_ref()?.started.get()?.as_ref().ok()
    }

    /// Returns why a node did not start; one whose power goes meanwhile has no reason to.
    pub(super) fn start_error(&self) -> Option<&StartError> {
        if self.power.is_cut() {
            return None;
        }
        self.life.as_ref()?.started.get()?.as_ref().err()
    }

    pub(super) fn start(
        &mut self,
        shape: &Shape,
        links: &Links,
        oracle: &Arc<Oracle>,
        machines: Option<&MakeMachine>,
    ) {
        self.incarnation = self.written.now() + 1;
        self.written = Incarnation::in_memory(self.node, self.incarnation);
        let runtime = links::runtime(self.random.lock().next_u64());
        let network = (shape.nodes > 1).then(|| {
            let _home = runtime.enter();
            links.join(self.node)
        });
        let (slow, random) = (self.disk_ms_max.clone(), self.random.clone());
        let delay = move || {
            let slowest = slow.load(Ordering::Relaxed);
            Duration::from_millis(random.lock().gen_range(0..=slowest))
        };
        let ground = Ground {
            node: self.node,
            incarnation: self.written.clone(),
            disk: self.disk.clone(),
            kv: self.kv.clone(),
            shelf: self.shelf.clone(),
            delay: Arc::new(delay),
            folder: self.folder.clone(),
            network,
            shape: shape.clone(),
            oracle: oracle.clone(),
            machines: machines.cloned(),
        };
        let started = Started::default();
        let told = started.clone();
        runtime.spawn(async move {
            let outcome = boot::boot(ground).await;
            let _ = told.set(outcome);
        });
        (self.owed, self.missed_ms, self.paused_until) = (0, 0, 0);
        self.life = Some(Life { started, runtime });
    }

    /// Lets a millisecond of the world pass.
    pub(super) fn tick(&mut self, now_ms: u64) {
        let Some(life) = &self.life else { return };
        self.owed += self.clock_rate;
        let (passed, owed) = (self.owed / 1_000, self.owed % 1_000);
        self.owed = owed;
        if now_ms < self.paused_until {
            self.missed_ms += passed;
            return;
        }
        if passed > 0 {
            life.runtime
                .block_on(async { tokio::time::sleep(Duration::from_millis(passed)).await });
        }
    }

    /// Sets the clock of a node that does not stand still any more, before anything reaches it: the clock went on without the
    /// node, and all that is overdue is due at once.
    pub(super) fn wake(&mut self, now_ms: u64) {
        let Some(life) = self.life.as_ref().filter(|_| now_ms >= self.paused_until) else { return };
        let missed = std::mem::take(&mut self.missed_ms);
        if missed > 0 {
            life.runtime.block_on(async {
                let mut jump = pin!(tokio::time::advance(Duration::from_millis(missed)));
                // Polled once, which sets the clock; what is due runs in the node's next turn.
                let _ = futures_util::poll!(&mut jump);
            });
        }
    }

    /// Ends the life at once; `false` if there was none.
    pub(super) fn crash(&mut self, death: Death, links: &Links) -> bool {
        let Some(life) = self.life.take() else { return false };
        links.leave(self.node);
        drop(life);
        self.lose(death);
        true
    }

    fn lose(&mut self, death: Death) {
        self.power = Arc::default();
        let random = &mut *self.random.lock();
        // Often the worst case, in which nothing outlives that was not synced.
        let worst = random.gen_bool(0.4);
        let mut dice = |sides: usize| if worst { 0 } else { random.gen_range(0..sides) };
        self.kv = self.kv.after_crash_with(self.power.clone(), &mut dice);
        self.shelf = self.shelf.after_crash_with(self.power.clone());
        self.disk = match death {
            Death::Kill => self.disk.after_kill_with(self.power.clone()),
            Death::PowerLoss => self.disk.after_power_loss_with(self.power.clone(), &mut dice),
        };
    }
}
