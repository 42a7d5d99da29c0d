//! Threads of the generator: each has one epoll, one scratch buffer, and its share of the connections.
//!
//! - Owns: threads, their histograms, and the counters that all share.
//! - Takes: a job that spawns the tasks of one thread. Gives: counts while it runs, latencies at the end.
//! - Bound: one scratch buffer per thread; one failure ends the run.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use hdrhistogram::Histogram;
use tokio::{
    runtime,
    sync::{Semaphore, mpsc, watch},
    task::{JoinSet, LocalSet},
};

use super::args::Common;
use crate::clock;

/// Bytes of a read, at least.
const READ_BYTES_MIN: usize = 128 * 1024;

/// Longest wait for CONNACK or SUBACK.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest latency told apart; longer ones count as this.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// What the tasks of a run wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Open,
    Load,
    Stop,
}

/// Counts of the whole run.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Connections that are ready, or cycles that are done.
    pub(super) ready: AtomicU64,
    pub(super) published: AtomicU64,
    pub(super) acknowledged: AtomicU64,
    /// Publishes that the server answered with an error.
    pub(super) refused: AtomicU64,
    pub(super) delivered: AtomicU64,
    /// Deliveries of messages that had been delivered.
    pub(super) doubled: AtomicU64,
    /// Deliveries that did not come in time.
    pub(super) lost: AtomicU64,
    /// Tasks that have done all they had to do.
    pub(super) finished: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) ready: u64,
    pub(super) published: u64,
    pub(super) acknowledged: u64,
    pub(super) refused: u64,
    pub(super) delivered: u64,
    pub(super) doubled: u64,
    pub(super) lost: u64,
    pub(super) finished: u64,
}

impl Counters {
    pub(super) fn read(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            ready: get(&self.ready),
            published: get(&self.published),
            acknowledged: get(&self.acknowledged),
            refused: get(&self.refused),
            delivered: get(&self.delivered),
            doubled: get(&self.doubled),
            lost: get(&self.lost),
            finished: get(&self.finished),
        }
    }
}

/// Adds to a counter, if there is something to add.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    if count > 0 {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// What all threads of a run share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) counters: Counters,
    pub(super) measuring: AtomicBool,
    epoch: Instant,
}

impl Shared {
    /// Nanoseconds since the run began.
    pub(super) fn now_ns(&self) -> u64 {
        u64::try_from((clock::now() - self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// One thread's view; lives on it.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) index: u32,
    pub(super) common: Arc<Common>,
    /// Never empty.
    servers: Arc<[SocketAddr]>,
    pub(super) shared: Arc<Shared>,
    pub(super) scratch: RefCell<Vec<u8>>,
    pub(super) read_bytes_min: usize,
    pub(super) patience: Duration,
    /// Connections being opened.
    pub(super) opening: Semaphore,
    pub(super) latencies: RefCell<Latencies>,
    phase: watch::Receiver<Phase>,
}

/// Nanoseconds, by what was waited for.
#[derive(Debug)]
pub(super) struct Latencies {
    /// From publish to delivery.
    pub(super) delivery: Histogram<u64>,
    /// From publish to its acknowledgement, or from TCP connect to CONNACK.
    pub(super) answer: Histogram<u64>,
}

impl Latencies {
    fn new() -> anyhow::Result<Self> {
        let histogram = || {
            Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
                .map_err(|error| anyhow!("histogram: {error:?}"))
        };
        Ok(Self { delivery: histogram()?, answer: histogram()? })
    }
}

impl Worker {
    /// Nanoseconds since the run began.
    pub(super) fn now_ns(&self) -> u64 {
        self.shared.now_ns()
    }

    pub(super) fn is_measuring(&self) -> bool {
        self.shared.measuring.load(Ordering::Relaxed)
    }

    /// The server of the `turn`th client.
    pub(super) fn server(&self, turn: u32) -> SocketAddr {
        let turn = usize::try_from(turn).unwrap_or(0);
        self.servers[turn % self.servers.len()]
    }

    /// Waits until the run has come to `phase`.
    pub(super) async fn until(&self, phase: Phase) {
        let mut watch = self.phase.clone();
        // The sender outlives the threads; if it does not, the run is over.
        let _ = watch.wait_for(|now| *now >= phase).await;
    }

    /// The numbers of `total` that fall to this thread.
    pub(super) fn share_of(&self, total: u32) -> impl Iterator<Item = u32> + use<> {
        (self.index..total).step_by(usize::from(self.common.threads))
    }
}

/// The tasks of one thread.
pub(super) type Tasks = JoinSet<anyhow::Result<()>>;

/// All threads of a run.
#[derive(Debug)]
pub(super) struct Crew {
    pub(super) shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<anyhow::Result<Latencies>>>,
    phase: watch::Sender<Phase>,
    failures: mpsc::Receiver<anyhow::Error>,
}

impl Crew {
    /// Starts the threads; `job` spawns the tasks of each.
    pub(super) fn start(
        common: &Common,
        job: impl Fn(&Rc<Worker>, &mut Tasks) + Clone + Send + 'static,
    ) -> anyhow::Result<Self> {
        let servers: Arc<[SocketAddr]> = common.addresses()?.into();
        let shared = Arc::new(Shared {
            counters: Counters::default(),
            measuring: AtomicBool::new(false),
            epoch: clock::now(),
        });
        let (phase, watch) = watch::channel(Phase::Open);
        let (failed, failures) = mpsc::channel(1);
        let common = Arc::new(common.clone());
        let mut threads = Vec::new();
        for index in 0..u32::from(common.threads) {
            let (common, shared, job) = (Arc::clone(&common), Arc::clone(&shared), job.clone());
            let (failed, phase, servers) = (failed.clone(), watch.clone(), Arc::clone(&servers));
            let build = move || {
                anyhow::Ok(Worker {
                    index,
                    opening: Semaphore::new(usize::from(common.concurrency)),
                    common,
                    servers,
                    shared,
                    scratch: RefCell::new(vec![0; READ_BYTES_MIN]),
                    read_bytes_min: READ_BYTES_MIN,
                    patience: PATIENCE,
                    latencies: RefCell::new(Latencies::new()?),
                    phase,
                })
            };
            let name = format!("bench-{index}");
            let body = move || work(build()?, job, &failed);
            threads.push(thread::Builder::new().name(name).spawn(body)?);
        }
        Ok(Self { shared, threads, phase, failures })
    }

    /// Lets all tasks go on to `phase`.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// What ended a task, if something did.
    pub(super) fn failure(&mut self) -> Option<anyhow::Error> {
        self.failures.try_recv().ok()
    }

    /// Stops all tasks and gathers their latencies.
    pub(super) fn finish(self) -> anyhow::Result<Latencies> {
        self.enter(Phase::Stop);
        let mut all = Latencies::new()?;
        for thread in self.threads {
            let one = thread.join().map_err(|_| anyhow!("a thread of the generator broke"))??;
            all.delivery.add(&one.delivery).map_err(|error| anyhow!("{error:?}"))?;
            all.answer.add(&one.answer).map_err(|error| anyhow!("{error:?}"))?;
        }
        Ok(all)
    }
}

fn work(
    worker: Worker,
    job: impl Fn(&Rc<Worker>, &mut Tasks),
    failed: &mpsc::Sender<anyhow::Error>,
) -> anyhow::Result<Latencies> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let worker = Rc::new(worker);
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        let mut set = JoinSet::new();
        job(&worker, &mut set);
        loop {
            let ended = tokio::select! {
                () = worker.until(Phase::Stop) => break,
                Some(ended) = set.join_next() => ended,
            };
            if let Ok(Err(error)) = ended {
                // One failure is enough to end the run; later ones find the channel full.
                let _ = failed.try_send(error);
            }
        }
        set.shutdown().await;
    });
    drop(tasks);
    let latencies = worker.latencies.replace(Latencies::new()?);
    Ok(latencies)
}
