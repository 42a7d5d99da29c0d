//! Anything a socket can send, at any speed, in any order, cut anywhere: bounded, and others served.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::support::{
    broker::Broker,
    wait::{let_pass, now},
};

mod idle;
mod memory;
mod noise;

/// A client that comes, publishes, receives and goes, over and over, while something bad happens.
pub(crate) struct Healthy {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

/// Half of all round trips are within this on a loaded machine, unless each is held up.
const USUAL: Duration = Duration::from_secs(1);

/// A publish that waits for longer is refused, so who is served has not waited for anybody's time-out.
const WORST: Duration = Duration::from_secs(5);

impl Healthy {
    pub(crate) fn start(broker: Broker) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut trips = Vec::new();
            while !seen.load(Ordering::Relaxed) || trips.is_empty() {
                let start = now();
                let mut client = broker.v5("healthy").connect();
                client.subscribe("healthy", 1);
                client.publish("healthy", "x", 1);
                client.expect_publish();
                client.disconnect();
                trips.push(start.elapsed());
                let_pass(Duration::from_millis(50));
            }
            trips
        });
        Self { stop, thread }
    }

    /// No round trip may have been held up.
    pub(crate) fn check(self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut trips = self.thread.join().unwrap();
        trips.sort_unstable();
        let (usual, worst) = (trips[trips.len() / 2], trips[trips.len() - 1]);
        let told =
            format!("of {} round trips the median {usual:?}, the worst {worst:?}", trips.len());
        assert!(usual < USUAL && worst < WORST, "{told}");
    }
}

/// Raises this process's limit of open files, which children inherit.
pub(crate) fn allow_open_files(count: usize) {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft: usize = line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX);
    if soft >= count {
        return;
    }
    let status = std::process::Command::new("prlimit")
        .arg("--pid")
        .arg(std::process::id().to_string())
        .arg(format!("--nofile={count}:"))
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "this test opens {count} files; raise the limit (ulimit -n {count})"
    );
}
