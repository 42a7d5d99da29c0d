//! Promises over time: replay, exactly once, slow readers, restarts and crashes.
//!
//! Tests here start their own nodes, and those that measure take turns ([`alone`]).

use std::sync::{Mutex, MutexGuard, PoisonError};

mod load;
mod offline;
mod slow;
mod quotas;
mod shares;
mod restart;
mod crash;
mod flush_order;

/// One heavy test at a time: they measure memory and time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
