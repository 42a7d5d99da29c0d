//! Writes the output of a worker's links, gathered; and moves its clock.
//!
//! - Owns: nothing; drains the worker's dirty list.
//! - Takes: wakes. Runs after the tasks that were ready before it, so that everything they queued for
//!   a socket leaves in one write (a loopback write costs 8 to 10 µs whatever its size).
//! - Gives: bytes to sockets.
//! - Bound: `limits::FLUSH_LINKS_PER_POLL` links, then other tasks of the thread have their turn.

use std::{
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::worker::Worker;
use crate::{clock, limits};

/// Starts the flusher of a worker on the current arbiter.
pub(super) fn spawn(worker: Rc<Worker>) {
    let mut batch = Vec::new();
    actix::spawn(poll_fn(move |cx| poll(&worker, &mut batch, cx)));
}

/// Starts the clock of a worker: one timer for all its connections.
pub(super) fn spawn_clock(worker: Rc<Worker>) {
    actix::spawn(async move {
        let mut lived = Lived::from(clock::now());
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            std::future::poll_fn(|cx| Pin::new(&mut ticks).poll_tick(cx)).await;
            worker.tick(lived.until(clock::now()));
        }
    });
}

/// The time in which a thread has run. A process that was paused has heard nobody meanwhile, and taken
/// nothing from anybody: that time counts against no client.
struct Lived {
    last: Instant,
    time: Duration,
}

impl From<Instant> for Lived {
    fn from(start: Instant) -> Self {
        Self { last: start, time: Duration::ZERO }
    }
}

impl Lived {
    /// Returns the whole seconds until `now`; called about once a second.
    fn until(&mut self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.last);
        self.time += since.min(limits::WORKER_STEP_MAX);
        self.last = now;
        u32::try_from(self.time.as_secs()).unwrap_or(u32::MAX)
    }
}

/// Writes everything that is dirty now.
pub fn flush_all(worker: &Worker) {
    let mut batch = Vec::new();
    while flush_some(worker, &mut batch) {}
}

fn poll(worker: &Worker, batch: &mut Vec<u32>, cx: &mut Context<'_>) -> Poll<()> {
    if flush_some(worker, batch) {
        cx.waker().wake_by_ref();
        return Poll::Pending;
    }
    worker.flusher.set(Some(cx.waker().clone()));
    Poll::Pending
}

/// Writes a bounded number of links; `true` if there are more.
fn flush_some(worker: &Worker, batch: &mut Vec<u32>) -> bool {
    if batch.is_empty() {
        std::mem::swap(batch, &mut *worker.dirty.borrow_mut());
        // Oldest first, taken from the end.
        batch.reverse();
    }
    let rest = batch.len().saturating_sub(limits::FLUSH_LINKS_PER_POLL);
    for slot in batch.drain(rest..).rev() {
        let link = worker.table().get(slot).map(Rc::clone);
        if let Some(link) = link {
            link.flush(worker);
        }
    }
    !batch.is_empty() || !worker.dirty.borrow().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lived_when_the_process_was_paused_then_that_time_does_not_count() {
        let start = clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut lived = Lived::from(start);
        let steps = [(1_000, 1), (2_100, 2), (3_000, 3), (9_500, 5), (10_500, 6), (10_400, 6)];
        for (ms, secs) in steps {
            assert_eq!(lived.until(at(ms)), secs, "{ms}");
        }
    }
}
