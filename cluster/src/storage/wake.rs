//! Wakes the one worker of a queue: a thread or, in a simulation, a task.
//!
//! - Owns: a condition variable, and beside it in builds of the simulation a `Notify`.
//! - Takes: news that the queue has changed. Gives: the worker another look at it.
//! - Bound: one worker; a wake that finds nobody waiting is kept for a task, and needs no keeping for a
//!   thread, which looks before it waits.
//! - Source: own design.

use std::time::Instant;

use parking_lot::{Condvar, MutexGuard};

/// Where one worker waits.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    thread: Condvar,
    #[cfg(feature = "sim")]
    task: tokio::sync::Notify,
}

impl Wake {
    /// Lets the worker look again.
    pub(crate) fn notify(&self) {
        self.thread.notify_one();
        #[cfg(feature = "sim")]
        self.task.notify_one();
    }

    /// Waits on a thread for the next wake.
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.thread.wait(guard);
    }

    /// Waits on a thread for the next wake, `false` if none came before `deadline`.
    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> bool {
        !self.thread.wait_until(guard, deadline).timed_out()
    }

    /// Waits in a task until `is_due`, looking again at each wake.
    #[cfg(feature = "sim")]
    pub(crate) async fn until(&self, is_due: impl Fn() -> bool) {
        while !is_due() {
            self.task.notified().await;
        }
    }
}
