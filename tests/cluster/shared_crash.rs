//! The end of a node under load, seen by a shared group: nothing acknowledged is lost, little comes twice. NO-LOSS.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{
    alone,
    load::{PUBLISHERS, Seen, Sent, WINDOW, lost, publish, read},
};
use crate::support::{broker::Broker, cluster::Cluster, wait::let_pass};

/// Reads as a member of a shared group, on whatever node there is, until told to stop and nothing comes any more.
fn member_of_group(brokers: Vec<Broker>, first: usize, stop: Arc<AtomicBool>) -> JoinHandle<Seen> {
    read(brokers, first, "member", move |_, silence| {
        let quiet = silence.since_message.min(silence.since_connect) > Duration::from_secs(8);
        stop.load(Ordering::Relaxed) && quiet
    })
}

#[test]
fn node_killed_under_load_takes_nothing_from_a_shared_group() {
    let _turn = alone();
    let mut cluster = Cluster::start(3);
    for victim in [1, 3] {
        let brokers: Vec<Broker> = cluster.numbers().map(|number| cluster.broker(number)).collect();
        for (name, broker) in brokers.iter().enumerate() {
            let mut to = broker.v5(&format!("member{name}")).durable().connect();
            to.subscribe("$share/g/c/+", 1);
            to.disconnect();
        }
        let (stop, ended) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let members: Vec<_> =
            (0..3).map(|name| member_of_group(brokers.clone(), name, Arc::clone(&ended))).collect();
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| publish(brokers.clone(), publisher, Arc::clone(&stop)))
            .collect();
        let_pass(Duration::from_secs(2));
        cluster.kill(victim);
        let_pass(Duration::from_secs(8));
        stop.store(true, Ordering::Relaxed);
        let sent: Vec<Sent> = publishers.into_iter().map(|handle| handle.join().unwrap()).collect();
        ended.store(true, Ordering::Relaxed);
        let parts: Vec<_> = members.into_iter().map(|handle| handle.join().unwrap()).collect();
        assert!(parts.iter().all(|part| !part.is_empty()), "one member starves");
        let mut seen = Seen::new();
        for (publisher, numbers) in parts.into_iter().flatten() {
            seen.entry(publisher).or_default().extend(numbers);
        }
        let acked: usize = sent.iter().map(|known| known.acked.len()).sum();
        let lost = lost(&sent, &seen);
        assert!(
            lost.is_empty(),
            "victim {victim}: {} of {acked} are lost: {:?}",
            lost.len(),
            &lost[..1]
        );
        assert!(acked > 100, "victim {victim}: only {acked} were acknowledged");
        // Twice came at most what was under way: to or from the node that died.
        let came: usize = seen.values().map(Vec::len).sum();
        let unique: usize = seen.values().map(|n| n.iter().collect::<HashSet<_>>().len()).sum();
        let twice_max = 4 * PUBLISHERS * WINDOW;
        assert!(came - unique <= twice_max, "{} of {came} came twice", came - unique);
        cluster.restart(victim);
        cluster.wait_ready();
    }
}
