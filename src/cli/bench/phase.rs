//! The controller of a run: waits for the threads, measures a span of time, shows progress.
//!
//! - Owns: the progress bar. Takes: a crew. Gives: [`Span`], what happened between two moments.
//! - Blocks: its own thread, which has nothing else to do. Bound: polls every 100 ms.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime;

use super::{
    args::Time,
    usage::Usage,
    worker::{Counts, Crew, Phase},
};
use crate::clock;

const POLL: Duration = Duration::from_millis(100);

/// What happened between two moments.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    pub(super) seconds: f64,
    pub(super) counts: Counts,
    /// CPU seconds of the server, and its memory at the end.
    pub(super) server: Option<Usage>,
    /// CPU seconds of the generator.
    pub(super) own_cpu_seconds: f64,
}

/// A moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    at: Instant,
    counts: Counts,
    server: Option<Usage>,
    own: Usage,
}

/// Shows the run on a terminal and reads the clocks.
#[derive(Debug)]
pub(super) struct Controller {
    runtime: runtime::Runtime,
    bar: ProgressBar,
    server_pids: Vec<u32>,
}

impl Controller {
    /// The bar hides itself where standard error is no terminal.
    pub(super) fn new(server_pids: &[u32]) -> anyhow::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_time().build()?;
        let style = "{prefix:>10} [{bar:30}] {pos}/{len} {msg}";
        let bar = ProgressBar::new(0)
            .with_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
        Ok(Self { runtime, bar, server_pids: server_pids.to_vec() })
    }

    /// Reads all counters.
    pub(super) fn moment(&self, crew: &Crew) -> anyhow::Result<Moment> {
        Ok(Moment {
            at: clock::now(),
            counts: crew.shared.counters.read(),
            server: Usage::of_all(&self.server_pids)?,
            own: Usage::of_self()?,
        })
    }

    /// Says what happened since `start`.
    pub(super) fn since(&self, start: Moment, crew: &Crew) -> anyhow::Result<Span> {
        let end = self.moment(crew)?;
        let (before, after) = (start.counts, end.counts);
        let server = end.server.zip(start.server).map(|(end, start)| Usage {
            cpu_seconds: end.cpu_seconds - start.cpu_seconds,
            resident_bytes: end.resident_bytes,
        });
        Ok(Span {
            seconds: (end.at - start.at).as_secs_f64(),
            counts: Counts {
                ready: after.ready - before.ready,
                published: after.published - before.published,
                acknowledged: after.acknowledged - before.acknowledged,
                refused: after.refused - before.refused,
                delivered: after.delivered - before.delivered,
                doubled: after.doubled - before.doubled,
                lost: after.lost - before.lost,
                finished: after.finished - before.finished,
            },
            server,
            own_cpu_seconds: end.own.cpu_seconds - start.own.cpu_seconds,
        })
    }

    /// Waits until `done` of `total` are counted, as long as `give_up` lets it.
    pub(super) fn wait_for(
        &self,
        crew: &mut Crew,
        what: &'static str,
        total: u64,
        done: impl Fn(&Counts) -> u64,
        mut give_up: impl FnMut(u64) -> bool,
    ) -> anyhow::Result<()> {
        self.begin(what, total);
        loop {
            let counts = crew.shared.counters.read();
            let now = done(&counts);
            self.bar.set_position(now.min(total));
            if now >= total || give_up(now) {
                return Ok(());
            }
            self.pause(crew)?;
        }
    }

    /// Starts the load, lets it warm up, and measures.
    pub(super) fn measure(&self, crew: &mut Crew, time: Time) -> anyhow::Result<Span> {
        crew.enter(Phase::Load);
        self.sleep(crew, "warm-up", time.warm_up)?;
        crew.shared.measuring.store(true, Ordering::Relaxed);
        let start = self.moment(crew)?;
        self.sleep(crew, "measuring", time.seconds)?;
        let span = self.since(start, crew)?;
        crew.shared.measuring.store(false, Ordering::Relaxed);
        self.bar.finish_and_clear();
        Ok(span)
    }

    /// Waits a while and shows how many deliveries, answers or cycles a second bring.
    pub(super) fn sleep(
        &self,
        crew: &mut Crew,
        what: &'static str,
        seconds: u32,
    ) -> anyhow::Result<()> {
        self.begin(what, u64::from(seconds));
        let start = clock::now();
        let mut shown = (start, crew.shared.counters.read());
        while start.elapsed() < Duration::from_secs(u64::from(seconds)) {
            self.pause(crew)?;
            self.bar.set_position(start.elapsed().as_secs());
            let elapsed = shown.0.elapsed();
            if elapsed >= Duration::from_secs(1) {
                let counts = crew.shared.counters.read();
                let count = |of: &Counts| of.delivered.max(of.acknowledged).max(of.ready);
                let per_second = (count(&counts) - count(&shown.1)) as f64 / elapsed.as_secs_f64();
                self.bar.set_message(format!("{per_second:.0}/s"));
                shown = (clock::now(), counts);
            }
        }
        Ok(())
    }

    fn begin(&self, what: &'static str, total: u64) {
        self.bar.reset();
        self.bar.set_length(total);
        self.bar.set_prefix(what);
        self.bar.set_message("");
    }

    fn pause(&self, crew: &mut Crew) -> anyhow::Result<()> {
        self.runtime.block_on(async { tokio::time::sleep(POLL).await });
        match crew.failure() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
