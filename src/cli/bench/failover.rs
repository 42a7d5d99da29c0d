//! What a cluster's clients feel when one of its nodes is killed.
//!
//! ```text
//! durable sessions over all servers, one topic each ◄── publishers on the servers that stay, one message
//!        │ kill -9 of the first server                  under way each, all topics in turn
//!        └─► connect to the next server ─► session present? ─► first message published after the kill
//! ```
//!
//! - Takes: arguments. Gives: a report: when the last session was back and had a new message, how long a publish
//!   waited at most, deliveries that never came.
//! - Bound: one message under way per publisher. What is under way when the last session has been served is waited
//!   for, too. Gives up after `--patience`.
//! - Source: own design.

use std::{
    process,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{bail, ensure};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    args::FailoverArgs,
    connection::{Connection, Identity},
    phase::Controller,
    receiver::acknowledge,
    report::Report,
    template::{Template, read_stamp, topic_of},
    worker::{Crew, Phase, Tasks, Worker, add},
};
use crate::{
    clock,
    front::mqtt::client::Skimmed,
    model::{message::Qos, wire::AckKind},
};

/// Wait before a server is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// A server that does not answer for this long is given up for the next.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// What all tasks write down; times in nanoseconds since the run began, 0 for not yet.
struct Board {
    killed_ns: AtomicU64,
    /// When each session had its first message that was published after the kill.
    delivered_ns: Vec<AtomicU64>,
    /// The last one of those that lost their connection and have one again.
    back_ns: AtomicU64,
    back: AtomicU64,
    /// Sessions that the next server did not know.
    forgotten: AtomicU64,
    /// Longest wait of a publish that was under way at the kill or came after it.
    waited_ns: AtomicU64,
    /// All sessions are served: publishers begin nothing more.
    served: AtomicBool,
    /// Publishers that wait for an acknowledgement.
    waiting: AtomicU64,
}

impl Board {
    fn killed(&self) -> Option<u64> {
        Some(self.killed_ns.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    fn since_kill_ms(&self, at_ns: u64) -> f64 {
        at_ns.saturating_sub(self.killed_ns.load(Ordering::Relaxed)) as f64 / 1e6
    }
}

/// Runs the load, kills the first server, and waits until everything works again.
pub(super) fn run(args: &FailoverArgs) -> anyhow::Result<()> {
    let common = &args.common;
    let servers = u32::try_from(common.names().len())?;
    ensure!(servers > 1, "name all members of the cluster with --server");
    let sessions = args.sessions;
    let never = || AtomicU64::new(0);
    let board = Arc::new(Board {
        killed_ns: never(),
        delivered_ns: (0..sessions).map(|_| never()).collect(),
        back_ns: never(),
        back: never(),
        forgotten: never(),
        waited_ns: never(),
        served: AtomicBool::new(false),
        waiting: never(),
    });
    let controller = Controller::new(&common.server_pids)?;
    let (tasks, shared) = (args.clone(), Arc::clone(&board));
    let mut crew = Crew::start(common, move |worker, set| {
        spawn(worker, set, &tasks, servers, &shared);
    })?;
    let connections = u64::from(sessions) + u64::from(args.publishers);
    controller.wait_for(&mut crew, "connecting", connections, |c| c.ready, |_| false)?;
    crew.enter(Phase::Load);
    controller.sleep(&mut crew, "warm-up", args.warm_up)?;
    board.killed_ns.store(crew.shared.now_ns(), Ordering::Relaxed);
    kill(args.kill)?;
    let start = clock::now();
    let patience = Duration::from_secs(u64::from(args.patience));
    controller.wait_for(
        &mut crew,
        "recovering",
        u64::from(sessions),
        |c| c.finished,
        |_| start.elapsed() > patience,
    )?;
    let recovered = crew.shared.counters.read().finished;
    board.served.store(true, Ordering::Relaxed);
    let (start, publishers) = (clock::now(), u64::from(args.publishers));
    controller.wait_for(
        &mut crew,
        "finishing",
        publishers,
        |_| publishers - board.waiting.load(Ordering::Relaxed),
        |_| start.elapsed() > patience,
    )?;
    let acknowledged = crew.shared.counters.read().acknowledged;
    crew.finish()?;
    drop(controller);
    report(args, &board, acknowledged, recovered).publish(common)
}

fn report(args: &FailoverArgs, board: &Board, acknowledged: u64, recovered: u64) -> Report {
    let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
    let title = format!("failover {} sessions", args.sessions);
    let mut report = Report::new("failover", &title, &args.common);
    report.parameter("sessions", args.sessions);
    report.parameter("publishers", args.publishers);
    report.parameter("rate", args.rate);
    report.count("acknowledged", acknowledged);
    report.count("not_acknowledged", read(&board.waiting));
    report.count("sessions_moved", read(&board.back));
    report.count("sessions_forgotten", read(&board.forgotten));
    report.count("sessions_not_recovered", u64::from(args.sessions) - recovered);
    report.millis("longest_wait_for_acknowledgement", read(&board.waited_ns) as f64 / 1e6);
    report.millis("last_session_back", board.since_kill_ms(read(&board.back_ns)));
    let last = board.delivered_ns.iter().map(read).max().unwrap_or(0);
    report.millis("last_session_served", board.since_kill_ms(last));
    report
}

/// Ends a process at once, as a power cut would.
fn kill(pid: u32) -> anyhow::Result<()> {
    let status = process::Command::new("kill").args(["-KILL", &pid.to_string()]).status()?;
    ensure!(status.success(), "process {pid} cannot be killed");
    Ok(())
}

fn spawn(
    worker: &Rc<Worker>,
    set: &mut Tasks,
    args: &FailoverArgs,
    servers: u32,
    board: &Arc<Board>,
) {
    for index in worker.share_of(args.sessions) {
        set.spawn_local(attend(Rc::clone(worker), index, Arc::clone(board)));
    }
    for index in worker.share_of(args.publishers) {
        let feed = Feed {
            worker: Rc::clone(worker),
            board: Arc::clone(board),
            identity: Identity {
                index: args.sessions + index,
                // Never the first one, which is killed.
                server: 1 + index % (servers - 1),
                client_id: format!("{}-p{index}", worker.common.prefix),
                durable: false,
                clean_start: true,
            },
            topics: (index..args.sessions).step_by(args.publishers as usize).collect(),
            interval: Duration::from_secs_f64(
                f64::from(args.publishers) / f64::from(args.rate.max(1)),
            ),
            template: Template::new(
                worker.common.client(),
                &worker.common.prefix,
                Qos::AtLeastOnce,
                args.payload,
            ),
        };
        set.spawn_local(feed.run());
    }
}

/// Keeps one durable session connected to some server.
async fn attend(worker: Rc<Worker>, index: u32, board: Arc<Board>) -> anyhow::Result<()> {
    let client_id = format!("{}-f{index}", worker.common.prefix);
    let mut identity =
        Identity { index, server: index, client_id, durable: true, clean_start: true };
    let take = |skimmed: Skimmed<'_>, out: &mut Vec<u8>| {
        acknowledge(skimmed, out);
        let Skimmed::Publish { payload, .. } = skimmed else { return };
        add(&worker.shared.counters.delivered, 1);
        let Some(killed) = board.killed() else { return };
        let cell =
            board.delivered_ns.get(index as usize).filter(|at| at.load(Ordering::Relaxed) == 0);
        if let Some(cell) = cell
            && read_stamp(payload).is_some_and(|(stamp, _)| stamp > killed)
        {
            cell.store(worker.now_ns(), Ordering::Relaxed);
            add(&worker.shared.counters.finished, 1);
        }
    };
    let mut connection = {
        let _permit = worker.opening.acquire().await?;
        let mut connection = Connection::open(&worker, &identity, take).await?;
        let topic = topic_of(&worker.common.prefix, index);
        connection.subscribe(&worker, &topic, Qos::AtLeastOnce).await?;
        connection
    };
    identity.clean_start = false;
    add(&worker.shared.counters.ready, 1);
    loop {
        while connection.progress(&worker, take).await.is_ok() {}
        let Some(again) = reopen(&worker, &mut identity, take).await else {
            bail!("no server takes {} back", identity.client_id);
        };
        connection = again;
        add(&board.back, 1);
        add(&board.forgotten, u64::from(!connection.session_present));
        board.back_ns.fetch_max(worker.now_ns(), Ordering::Relaxed);
    }
}

/// Connects to the next server that answers; `None` once the run is over.
async fn reopen(
    worker: &Worker,
    identity: &mut Identity,
    mut take: impl FnMut(Skimmed<'_>, &mut Vec<u8>),
) -> Option<Connection> {
    loop {
        let _permit = worker.opening.acquire().await.ok()?;
        identity.server += 1;
        let opened = timeout(ANSWER_PATIENCE, Connection::open(worker, identity, &mut take));
        if let Ok(Ok(connection)) = opened.await {
            return Some(connection);
        }
        sleep(RETRY).await;
    }
}

/// One publisher with its topics.
struct Feed {
    worker: Rc<Worker>,
    board: Arc<Board>,
    identity: Identity,
    topics: Vec<u32>,
    interval: Duration,
    template: Template,
}

impl Feed {
    async fn run(mut self) -> anyhow::Result<()> {
        let worker = Rc::clone(&self.worker);
        let mut connection = {
            let _permit = worker.opening.acquire().await?;
            Connection::open(&worker, &self.identity, |_, _| {}).await?
        };
        add(&worker.shared.counters.ready, 1);
        worker.until(Phase::Load).await;
        let mut due = Instant::from_std(clock::now());
        for (number, topic) in (0_u64..).zip(self.topics.clone().into_iter().cycle()) {
            sleep_until(due).await;
            if self.board.served.load(Ordering::Relaxed) {
                break;
            }
            due = (due + self.interval).max(Instant::from_std(clock::now()));
            self.template.set_receiver(topic);
            let stamp_ns = worker.now_ns();
            add(&self.board.waiting, 1);
            // As a client does: until it is acknowledged, over as many connections as that takes.
            while let Err(_broken) = self.publish(&mut connection, stamp_ns, number).await {
                let Some(again) = reopen(&worker, &mut self.identity, |_, _| {}).await else {
                    bail!("no server takes {} back", self.identity.client_id);
                };
                connection = again;
            }
            let now_ns = worker.now_ns();
            if self.board.killed().is_some_and(|killed| killed < now_ns) {
                self.board.waited_ns.fetch_max(now_ns - stamp_ns, Ordering::Relaxed);
            }
            add(&worker.shared.counters.acknowledged, 1);
            self.board.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn publish(
        &self,
        connection: &mut Connection,
        stamp_ns: u64,
        number: u64,
    ) -> anyhow::Result<()> {
        self.template.append(connection.out(), 1, stamp_ns, number);
        connection.flush()?;
        let mut answer = None;
        while answer.is_none() {
            connection
                .progress(&self.worker, |skimmed, _| {
                    if let Skimmed::Ack { kind: AckKind::Puback, code, .. } = skimmed {
                        answer = Some(code);
                    }
                })
                .await?;
        }
        ensure!(answer.is_some_and(|code| code < 0x80), "refused");
        Ok(())
    }
}
