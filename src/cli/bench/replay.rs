//! Durable messages: publishes to clients that are away, then lets them come back and drain.
//!
//! - Takes: arguments. Gives: acknowledged publishes per second, messages drained per second, and which
//!   numbers were lost or came twice.
//! - Bound: the window; one bit per message for what came.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use super::{
    args::{Common, Part, ReplayArgs},
    connection::{Connection, Identity},
    phase::{Controller, Span},
    publisher::{Plan, Supply, publish},
    receiver::acknowledge,
    report::Report,
    template::{Template, read_stamp, topic_of},
    worker::{Counts, Crew, Latencies, Phase, Tasks, Worker, add},
};
use crate::{clock, front::mqtt::client::Skimmed, model::message::Qos};

/// How long a refused connection is tried again.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);

/// Runs the parts asked for.
pub(super) fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let mut report =
        Report::new("replay", &format!("replay {} clients", args.clients), &args.common);
    report.parameter("clients", args.clients);
    report.parameter("publishers", args.publishers);
    report.parameter("window", args.window);
    report.parameter("messages", args.messages);
    report.parameter("payload_bytes", args.payload);
    if args.part != Part::Drain {
        visit(args, true)?;
        let (span, latencies) = fill(args)?;
        report.rate("acknowledged", span.counts.acknowledged, span.seconds);
        report.count("refused", span.counts.refused);
        report.usage("publishes", span.counts.acknowledged, &span);
        report.latency("acknowledgement", &latencies.answer);
    }
    if args.part != Part::Publish {
        let drained = drain(args)?;
        let counts = drained.span.counts;
        report.rate("drained", counts.delivered, drained.seconds);
        report.count("missing", drained.missing);
        report.count("doubled", counts.doubled);
        report.count("sessions_missing", u64::from(args.clients) - counts.finished);
        report.usage("drained", counts.delivered, &drained.span);
        visit(args, false)?;
    }
    report.publish(&args.common)
}

fn identity(common: &Common, index: u32, durable: bool, clean_start: bool) -> Identity {
    let client_id = format!("{}-d{index}", common.prefix);
    Identity { index, server: index, client_id, durable, clean_start }
}

/// Creates the durable sessions with a subscription each, or removes them; then disconnects.
fn visit(args: &ReplayArgs, create: bool) -> anyhow::Result<()> {
    let clients = args.clients;
    let controller = Controller::new(&[])?;
    let mut crew = Crew::start(&args.common, move |worker, set| {
        for index in worker.share_of(clients) {
            set.spawn_local(visit_one(Rc::clone(worker), index, create));
        }
    })?;
    let what = if create { "subscribing" } else { "removing" };
    controller.wait_for(&mut crew, what, u64::from(clients), |c| c.ready, |_| false)?;
    crew.finish().map(drop)
}

async fn visit_one(worker: Rc<Worker>, index: u32, create: bool) -> anyhow::Result<()> {
    let _permit = worker.opening.acquire().await?;
    // What was left by an earlier run is removed first.
    let clean = identity(&worker.common, index, false, true);
    open_patiently(&worker, &clean, |_, _| {}).await?.disconnect().await?;
    if create {
        let identity = identity(&worker.common, index, true, false);
        let mut connection = open_patiently(&worker, &identity, |_, _| {}).await?;
        let topic = topic_of(&worker.common.prefix, index);
        connection.subscribe(&worker, &topic, Qos::AtLeastOnce).await?;
        connection.disconnect().await?;
    }
    add(&worker.shared.counters.ready, 1);
    Ok(())
}

/// Opens a connection of a durable session. A server that has just started may still load what it keeps,
/// and one that has just lost the client may not have noticed; it gets ten seconds.
async fn open_patiently(
    worker: &Worker,
    identity: &Identity,
    mut early: impl FnMut(Skimmed<'_>, &mut Vec<u8>),
) -> anyhow::Result<Connection> {
    let started = clock::now();
    loop {
        match Connection::open(worker, identity, &mut early).await {
            Err(_) if started.elapsed() < OPEN_PATIENCE => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            opened => return opened,
        }
    }
}

/// Publishes all messages and waits for every acknowledgement.
fn fill(args: &ReplayArgs) -> anyhow::Result<(Span, Latencies)> {
    let common = &args.common;
    let controller = Controller::new(&common.server_pids)?;
    let messages = u64::from(args.messages);
    let supply = Arc::new(Supply { messages, receivers: args.clients, next: AtomicU64::new(0) });
    let tasks = args.clone();
    let mut crew =
        Crew::start(common, move |worker, set| spawn_publishers(worker, set, &tasks, &supply))?;
    let publishers = u64::from(args.publishers);
    controller.wait_for(&mut crew, "connecting", publishers, |c| c.ready, |_| false)?;
    crew.shared.measuring.store(true, std::sync::atomic::Ordering::Relaxed);
    let start = controller.moment(&crew)?;
    crew.enter(Phase::Load);
    let done = |counts: &Counts| counts.acknowledged + counts.refused;
    controller.wait_for(&mut crew, "publishing", messages, done, |_| false)?;
    let span = controller.since(start, &crew)?;
    Ok((span, crew.finish()?))
}

fn spawn_publishers(worker: &Rc<Worker>, set: &mut Tasks, args: &ReplayArgs, supply: &Arc<Supply>) {
    let common = &worker.common;
    let each = u32::from(args.window).div_ceil(args.publishers);
    for index in worker.share_of(args.publishers) {
        let qos = Qos::AtLeastOnce;
        let plan = Plan {
            identity: Identity {
                index,
                server: index + 1,
                client_id: format!("{}-p{index}", common.prefix),
                durable: false,
                clean_start: true,
            },
            template: Template::new(common.client(), &common.prefix, qos, args.payload),
            qos,
            window: u16::try_from(each).unwrap_or(u16::MAX),
            credit: None,
            receivers_per_message: 1,
            topics: 1,
            rate: None,
            offset: 0.0,
            supply: Some(Arc::clone(supply)),
        };
        set.spawn_local(publish(Rc::clone(worker), plan));
    }
}

/// What a drain has shown.
struct Drained {
    span: Span,
    /// Until the last message came; waiting for more that never came is left out.
    seconds: f64,
    missing: u64,
}

/// One bit per message.
#[derive(Debug)]
struct Seen(Vec<u64>);

impl Seen {
    /// Tells whether `number` is new.
    fn insert(&mut self, number: u64) -> bool {
        let word = usize::try_from(number / 64).ok().and_then(|index| self.0.get_mut(index));
        let bit = 1 << (number % 64);
        word.is_some_and(|word| {
            let new = *word & bit == 0;
            *word |= bit;
            new
        })
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

fn drain(args: &ReplayArgs) -> anyhow::Result<Drained> {
    let common = &args.common;
    let controller = Controller::new(&common.server_pids)?;
    let messages = u64::from(args.messages);
    let words = usize::try_from(messages.div_ceil(64))?;
    let seen = Arc::new(Mutex::new(Seen(vec![0; words])));
    let (clients, shared) = (args.clients, Arc::clone(&seen));
    let mut crew = Crew::start(common, move |worker, set| {
        for index in worker.share_of(clients) {
            set.spawn_local(drain_one(Rc::clone(worker), index, Arc::clone(&shared)));
        }
    })?;
    let start = controller.moment(&crew)?;
    crew.enter(Phase::Load);
    let patience = Duration::from_secs(u64::from(args.patience));
    let (began, mut last) = (clock::now(), (clock::now(), 0));
    let give_up = |now: u64| {
        if now > last.1 {
            last = (clock::now(), now);
        }
        last.0.elapsed() > patience
    };
    controller.wait_for(&mut crew, "draining", messages, |c| c.delivered, give_up)?;
    let span = controller.since(start, &crew)?;
    let complete = span.counts.delivered >= messages;
    let seconds = if complete { span.seconds } else { (last.0 - began).as_secs_f64() };
    crew.finish()?;
    let arrived = seen.lock().unwrap_or_else(PoisonError::into_inner).count();
    Ok(Drained { span, seconds, missing: messages - arrived })
}

async fn drain_one(worker: Rc<Worker>, index: u32, seen: Arc<Mutex<Seen>>) -> anyhow::Result<()> {
    worker.until(Phase::Load).await;
    let counters = &worker.shared.counters;
    let delivered = RefCell::new((0_u64, 0_u64));
    let take = |skimmed: Skimmed<'_>, out: &mut Vec<u8>| {
        acknowledge(skimmed, out);
        let Skimmed::Publish { payload, .. } = skimmed else { return };
        let Some((_, number)) = read_stamp(payload) else { return };
        let mut counts = delivered.borrow_mut();
        if seen.lock().unwrap_or_else(PoisonError::into_inner).insert(number) {
            counts.0 += 1;
        } else {
            counts.1 += 1;
        }
    };
    let identity = identity(&worker.common, index, true, false);
    let mut connection = {
        let _permit = worker.opening.acquire().await?;
        open_patiently(&worker, &identity, take).await?
    };
    add(&counters.ready, 1);
    add(&counters.finished, u64::from(connection.session_present));
    loop {
        let (new, doubled) = delivered.take();
        add(&counters.delivered, new);
        add(&counters.doubled, doubled);
        connection.progress(&worker, take).await?;
    }
}
