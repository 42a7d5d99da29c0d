//! Scenarios without messages: opening, holding and churning connections.
//!
//! - Takes: arguments. Gives: a report: connections per second, latency, memory and CPU for each.
//! - Bound: `--concurrency` connections being opened per thread.

use std::{rc::Rc, time::Duration};

use super::{
    args::{ChurnArgs, ConnectArgs, IdleArgs},
    connection::{Connection, Identity},
    phase::Controller,
    report::Report,
    template::topic_of,
    usage::Usage,
    worker::{Crew, Phase, Worker, add},
};
use crate::model::message::Qos;

/// Cycles of one client that may fail in a row.
const CHURN_FAILURES_MAX: u32 = 20;

/// Opens connections and closes them again.
pub(super) fn run_connect(args: &ConnectArgs) -> anyhow::Result<()> {
    let common = &args.common;
    let controller = Controller::new(&common.server_pids)?;
    let connections = args.connections;
    let mut crew = Crew::start(common, move |worker, set| {
        for index in worker.share_of(connections) {
            set.spawn_local(hold(Rc::clone(worker), index, None, Phase::Load));
        }
    })?;
    let memory_before = Usage::of_all(&common.server_pids)?;
    let start = controller.moment(&crew)?;
    crew.enter(Phase::Load);
    let total = u64::from(connections);
    controller.wait_for(&mut crew, "connecting", total, |c| c.ready, |_| false)?;
    let span = controller.since(start, &crew)?;
    let latencies = crew.finish()?;
    let mut report = Report::new("connect", &format!("connect {connections}"), common);
    report.parameter("connections", connections);
    report.parameter("concurrency", common.concurrency);
    report.rate("connections", span.counts.ready, span.seconds);
    report.usage("connections", span.counts.ready, &span);
    if let (Some(before), Some(after)) = (memory_before, span.server) {
        report.slope(before.resident_bytes, after.resident_bytes, total);
    }
    report.latency("connect", &latencies.answer);
    drop(controller);
    report.publish(common)
}

/// Holds connections, and reads the server's memory at two numbers of them.
pub(super) fn run_idle(args: &IdleArgs) -> anyhow::Result<()> {
    let common = &args.common;
    let controller = Controller::new(&common.server_pids)?;
    let IdleArgs { connections, subscribe, settle, .. } = *args;
    let first = args.first.min(connections);
    let prefix = common.prefix.clone();
    let mut crew = Crew::start(common, move |worker, set| {
        for index in worker.share_of(connections) {
            let filter = subscribe.then(|| twenty_bytes(&prefix, index));
            let phase = if index < first { Phase::Open } else { Phase::Load };
            set.spawn_local(hold(Rc::clone(worker), index, filter, phase));
        }
    })?;
    let settle = u32::from(settle);
    controller.wait_for(&mut crew, "connecting", u64::from(first), |c| c.ready, |_| false)?;
    controller.sleep(&mut crew, "settling", settle)?;
    let start = controller.moment(&crew)?;
    let before = Usage::of_all(&common.server_pids)?;
    crew.enter(Phase::Load);
    controller.wait_for(&mut crew, "connecting", u64::from(connections), |c| c.ready, |_| false)?;
    controller.sleep(&mut crew, "settling", settle)?;
    let span = controller.since(start, &crew)?;
    crew.finish()?;
    let mut report = Report::new("idle", &format!("idle {connections}"), common);
    report.parameter("connections", connections);
    report.parameter("first", first);
    report.parameter("subscribe", subscribe);
    report.count("held", u64::from(connections));
    if let (Some(before), Some(after)) = (before, span.server) {
        let more = u64::from(connections - first);
        report.slope(before.resident_bytes, after.resident_bytes, more);
    }
    drop(controller);
    report.publish(common)
}

/// A filter of 20 bytes that no other client has.
fn twenty_bytes(prefix: &str, index: u32) -> String {
    let topic = topic_of(prefix, index);
    // No other sign: some servers refuse a dot or a space.
    format!("{topic:_<20.20}")
}

/// Connects and disconnects in a loop.
pub(super) fn run_churn(args: &ChurnArgs) -> anyhow::Result<()> {
    let common = &args.common;
    let controller = Controller::new(&common.server_pids)?;
    let clients = args.clients;
    let mut crew = Crew::start(common, move |worker, set| {
        for index in worker.share_of(clients) {
            set.spawn_local(churn(Rc::clone(worker), index));
        }
    })?;
    let span = controller.measure(&mut crew, args.time)?;
    let latencies = crew.finish()?;
    let mut report = Report::new("churn", &format!("churn {clients} clients"), common);
    report.parameter("clients", clients);
    report.rate("cycles", span.counts.ready, span.seconds);
    report.count("failed", span.counts.refused);
    report.usage("cycles", span.counts.ready, &span);
    report.latency("connect", &latencies.answer);
    drop(controller);
    report.publish(common)
}

async fn hold(
    worker: Rc<Worker>,
    index: u32,
    filter: Option<String>,
    phase: Phase,
) -> anyhow::Result<()> {
    worker.until(phase).await;
    let mut connection = {
        let _permit = worker.opening.acquire().await?;
        let client_id = format!("{}-c{index}", worker.common.prefix);
        let mut connection = open(&worker, index, client_id, true).await?;
        if let Some(filter) = filter {
            connection.subscribe(&worker, &filter, Qos::AtMostOnce).await?;
        }
        connection
    };
    add(&worker.shared.counters.ready, 1);
    let keep_alive = Duration::from_secs(u64::from(worker.common.keep_alive));
    loop {
        let progress = connection.progress(&worker, |_, _| {});
        if keep_alive.is_zero() {
            progress.await?;
        } else if let Ok(done) = tokio::time::timeout(keep_alive.mul_f32(0.8), progress).await {
            done?;
        } else {
            connection.ping()?;
        }
    }
}

/// Each cycle is another client: with one id, servers would measure takeover, and some refuse it.
async fn churn(worker: Rc<Worker>, index: u32) -> anyhow::Result<()> {
    worker.until(Phase::Load).await;
    let mut failures = 0;
    for cycle in 0_u64.. {
        let client_id = format!("{}-c{index}-{cycle}", worker.common.prefix);
        match cycle_once(&worker, index, client_id).await {
            Ok(()) => {
                failures = 0;
                add(&worker.shared.counters.ready, 1);
            }
            Err(error) if failures == CHURN_FAILURES_MAX => return Err(error),
            Err(_) => {
                failures += 1;
                add(&worker.shared.counters.refused, 1);
            }
        }
    }
    Ok(())
}

async fn cycle_once(worker: &Worker, index: u32, client_id: String) -> anyhow::Result<()> {
    open(worker, index, client_id, worker.is_measuring()).await?.disconnect().await
}

async fn open(
    worker: &Worker,
    index: u32,
    client_id: String,
    measure: bool,
) -> anyhow::Result<Connection> {
    let identity = Identity { index, server: index, client_id, durable: false, clean_start: true };
    let start_ns = worker.now_ns();
    let connection = Connection::open(worker, &identity, |_, _| {}).await?;
    if measure {
        let waited_ns = worker.now_ns() - start_ns;
        worker.latencies.borrow_mut().answer.saturating_record(waited_ns);
    }
    Ok(connection)
}
