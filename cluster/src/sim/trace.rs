//! What happened in a world, line by line: the same for the same seed, byte for byte.
//!
//! - Owns: text. Takes: lines with their time. Gives: all of it; while a world is shown also at once, between
//!   what the nodes log.
//! - Bound: one world.
//! - Source: own design.

use std::{
    cell::Cell,
    fmt::{Display, Write},
};

#[cfg(test)]
use tracing_subscriber::{
    filter::Targets,
    fmt::{format::Writer, time::FormatTime},
    layer::SubscriberExt as _,
};

thread_local! {
    static SHOWN: Cell<bool> = const { Cell::new(false) };
    static NOW_MS: Cell<u64> = const { Cell::new(0) };
}

#[derive(Default)]
pub(super) struct Trace(String);

impl Trace {
    pub(super) fn line(&mut self, now_ms: u64, what: impl Display) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{now_ms:>6} ms  {what}");
        if SHOWN.get() {
            println!("{now_ms:>6} ms  {what}");
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

/// Tells what is logged when it happens.
pub(super) fn set_time(now_ms: u64) {
    NOW_MS.set(now_ms);
}

/// Shows the worlds that `run` runs as they pass.
pub fn show<R>(run: impl FnOnce() -> R) -> R {
    SHOWN.set(true);
    let shown = run();
    SHOWN.set(false);
    shown
}

/// The time of the world, in logs.
#[cfg(test)]
struct WorldTime;

#[cfg(test)]
impl FormatTime for WorldTime {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        write!(w, "{:>6} ms ", NOW_MS.get())
    }
}

/// Shows the worlds that `run` runs as they pass, with the logs of `levels`, such as `openraft=debug`.
#[cfg(test)]
pub(super) fn shown<R>(levels: &str, run: impl FnOnce() -> R) -> R {
    let levels: Targets = levels.parse().expect("levels such as hongqiao_cluster=debug");
    let layer = tracing_subscriber::fmt::layer().with_timer(WorldTime).with_ansi(false);
    let subscriber = tracing_subscriber::registry().with(layer).with(levels);
    tracing::subscriber::with_default(subscriber, || show(run))
}
