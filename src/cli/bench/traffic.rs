//! Scenarios with live messages: fan-out and pairs.
//!
//! - Takes: arguments. Gives: a report: messages per second, latency, CPU for a million deliveries.
//! - Bound: the window of each publisher.

use std::{rc::Rc, sync::Arc};

use anyhow::ensure;

use super::{
    args::{Common, FanoutArgs, Messages, P2pArgs, Time},
    connection::Identity,
    credit::Credit,
    phase::{Controller, Span},
    publisher::{Plan, publish},
    receiver::receive,
    report::Report,
    template::{Template, topic_of},
    worker::{Crew, Latencies, Tasks, Worker},
};
use crate::model::message::Qos;

/// Who talks to whom.
#[derive(Clone, Debug)]
struct Load {
    messages: Messages,
    publishers: u32,
    subscribers: u32,
    /// Subscriber n listens to topic n modulo this.
    topics: u32,
    /// Publisher n publishes to topic n only, instead of to all in turn.
    pairs: bool,
    /// One for all, or one for each pair.
    credits: Vec<Option<Arc<Credit>>>,
}

/// One topic, many subscribers.
pub(super) fn run_fanout(args: &FanoutArgs) -> anyhow::Result<()> {
    let each = args.subscribers / args.topics;
    ensure!(each * args.topics == args.subscribers, "--subscribers is no multiple of --topics");
    let window = u64::from(args.traffic.messages.window);
    let limit = window * u64::from(args.publishers) * u64::from(each);
    let load = Load {
        messages: args.traffic.messages,
        publishers: args.publishers,
        subscribers: args.subscribers,
        topics: args.topics,
        pairs: false,
        credits: vec![credit(args.traffic.messages, limit)],
    };
    let title = format!("fan-out {} -> {}", args.publishers, args.subscribers);
    run("fanout", &title, &args.traffic.common, args.traffic.time, &load)
}

/// Pairs, each with a topic of its own.
pub(super) fn run_p2p(args: &P2pArgs) -> anyhow::Result<()> {
    let window = u64::from(args.traffic.messages.window);
    let load = Load {
        messages: args.traffic.messages,
        publishers: args.pairs,
        subscribers: args.pairs,
        topics: args.pairs,
        pairs: true,
        credits: (0..args.pairs).map(|_| credit(args.traffic.messages, window)).collect(),
    };
    run("p2p", &format!("p2p {} pairs", args.pairs), &args.traffic.common, args.traffic.time, &load)
}

/// At QoS 0 the window counts deliveries; with a fixed rate there is none.
fn credit(messages: Messages, limit: u64) -> Option<Arc<Credit>> {
    let counted = messages.qos == Qos::AtMostOnce && limit > 0 && messages.rate.is_none();
    counted.then(|| Arc::new(Credit::new(limit)))
}

fn run(key: &str, title: &str, common: &Common, time: Time, load: &Load) -> anyhow::Result<()> {
    let controller = Controller::new(&common.server_pids)?;
    let connections = u64::from(load.publishers) + u64::from(load.subscribers);
    let tasks = load.clone();
    let mut crew = Crew::start(common, move |worker, set| spawn(worker, set, &tasks))?;
    controller.wait_for(&mut crew, "connecting", connections, |c| c.ready, |_| false)?;
    let span = controller.measure(&mut crew, time)?;
    let latencies = crew.finish()?;
    report(key, title, common, load, &span, &latencies).publish(common)
}

fn spawn(worker: &Rc<Worker>, set: &mut Tasks, load: &Load) {
    let common = &worker.common;
    let credit_of = |index: u32| {
        let index = usize::try_from(index).unwrap_or(0);
        load.credits[index % load.credits.len()].clone()
    };
    for index in worker.share_of(load.subscribers) {
        let identity = identity(common, "s", index, index, index);
        let topic = topic_of(&common.prefix, index % load.topics);
        let qos = load.messages.qos;
        set.spawn_local(receive(Rc::clone(worker), identity, topic, qos, credit_of(index)));
    }
    let publishers = f64::from(load.publishers);
    for index in worker.share_of(load.publishers) {
        let Messages { qos, payload, rate, window } = load.messages;
        let mut template = Template::new(common.client(), &common.prefix, qos, payload);
        template.set_receiver(if load.pairs { index } else { 0 });
        let plan = Plan {
            // With several servers not that of the subscriber of the same number.
            identity: identity(common, "p", load.subscribers + index, index, index + 1),
            template,
            qos,
            window,
            credit: credit_of(index),
            receivers_per_message: u64::from(load.subscribers / load.topics),
            topics: if load.pairs { 1 } else { load.topics },
            rate: rate.map(|rate| f64::from(rate) / publishers),
            offset: f64::from(index) / publishers,
            supply: None,
        };
        set.spawn_local(publish(Rc::clone(worker), plan));
    }
}

fn identity(common: &Common, role: &str, connection: u32, index: u32, server: u32) -> Identity {
    Identity {
        index: connection,
        server,
        client_id: format!("{}-{role}{index}", common.prefix),
        durable: false,
        clean_start: true,
    }
}

fn report(
    key: &str,
    title: &str,
    common: &Common,
    load: &Load,
    span: &Span,
    latencies: &Latencies,
) -> Report {
    let Messages { qos, payload, rate, window } = load.messages;
    let mut report = Report::new(key, title, common);
    report.parameter("qos", qos as u8);
    report.parameter("payload_bytes", payload);
    report.parameter("publishers", load.publishers);
    report.parameter("subscribers", load.subscribers);
    report.parameter("topics", load.topics);
    report.parameter("window", window);
    report.parameter("rate", rate.map_or("max".to_owned(), |rate| rate.to_string()));
    report.rate("published", span.counts.published, span.seconds);
    report.rate("delivered", span.counts.delivered, span.seconds);
    report.count("refused", span.counts.refused);
    report.count("lost", span.counts.lost);
    report.count("resent", span.counts.doubled);
    report.usage("deliveries", span.counts.delivered, span);
    report.latency("delivery", &latencies.delivery);
    report.latency("acknowledgement", &latencies.answer);
    report
}
