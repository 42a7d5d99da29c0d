//! Real processes, real sockets, real faults; the whole history is checked at the end.
//!
//! - Promises: NO-LOSS, ORDER, SESSION-TRUE over `kill -9`, pauses and partitions of any node.
//! - Takes: `HONGQIAO_CHAOS_SECONDS` (default 12; `make chaos` runs minutes), `CHAOS_SEED`.
//! - Bound: the faults end after that time; everything must be there `load::SETTLE` later.

mod client;
mod history;
mod load;
mod net;
mod nemesis;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use self::{
    client::World,
    history::{Seen, Sent, verdict},
    load::SharedSeen,
    nemesis::Victims,
};
use crate::support::wait::{let_pass, now};

const PUBLISHERS: usize = 6;
const SUBSCRIBERS: usize = 6;
/// Between two messages of a publisher.
const PAUSE: Duration = Duration::from_millis(3);

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs load and faults, and returns the history.
fn run(mut victims: Victims, seed: u64) -> (Vec<Sent>, Vec<Seen>) {
    let time = Duration::from_secs(setting("HONGQIAO_CHAOS_SECONDS").unwrap_or(12));
    let world = World::new(victims.addresses(), victims.user());
    (0..SUBSCRIBERS).for_each(|number| load::open(&world, number));
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|number| {
            let world = world.clone();
            let seed = seed.wrapping_add(number as u64);
            std::thread::spawn(move || load::publish(&world, number, seed, PAUSE))
        })
        .collect();
    let ended = Arc::new(AtomicBool::new(false));
    let mut subscribers = Vec::new();
    for number in 0..SUBSCRIBERS {
        let (world, ended, seen) = (world.clone(), Arc::clone(&ended), SharedSeen::default());
        let (shared, seed) = (Arc::clone(&seen), seed.wrapping_add(100 + number as u64));
        let thread = std::thread::spawn(move || {
            load::receive(&world, number, seed, &shared, &|| ended.load(Ordering::Relaxed));
        });
        subscribers.push((seen, thread));
    }
    victims.torment(&world, time, seed);
    eprintln!("faults are over");
    world.stop();
    let sent: Vec<Sent> = publishers.into_iter().map(|thread| thread.join().unwrap()).collect();
    let healed = now();
    let complete = || {
        let each = subscribers.iter();
        each.map(|(seen, _)| load::lock(seen)).all(|seen| {
            sent.iter().enumerate().all(|(publisher, sent)| seen.has_all(publisher, sent))
        })
    };
    while !complete() && healed.elapsed() < load::SETTLE {
        let_pass(Duration::from_millis(100));
    }
    eprintln!("settled in {:?}", healed.elapsed());
    ended.store(true, Ordering::Relaxed);
    let seen = subscribers.into_iter().map(|(seen, thread)| {
        thread.join().unwrap();
        std::mem::take(&mut *load::lock(&seen))
    });
    (sent, seen.collect())
}

fn judge(sent: &[Sent], seen: &[Seen]) {
    let acked: usize = sent.iter().map(|sent| sent.acked.len()).sum();
    let all: u64 = sent.iter().map(|sent| sent.sent).sum();
    let refused: u64 = sent.iter().map(|sent| sent.refused).sum();
    let doubles: u64 = seen.iter().map(|seen| seen.doubles).sum();
    let wrong = verdict(sent, seen);
    eprintln!(
        "sent {all}, acknowledged {acked}, refused {refused}, doubles {doubles}, wrong {}",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{:#?}", &wrong[..wrong.len().min(20)]);
    assert!(acked > 100, "hardly any load: {acked} acknowledged");
}

fn torment(victims: Victims) {
    let seed = setting("CHAOS_SEED").unwrap_or_else(rand::random);
    eprintln!("CHAOS_SEED={seed}");
    let (sent, seen) = run(victims, seed);
    judge(&sent, &seen);
}

#[test]
fn chaos_on_one_node_when_it_is_killed_and_paused_then_nothing_is_lost() {
    let _turn = crate::delivery::alone();
    torment(Victims::alone());
}

#[test]
fn chaos_on_three_nodes_when_any_is_killed_and_paused_then_nothing_is_lost() {
    let _turn = crate::delivery::alone();
    torment(Victims::three());
}

#[test]
fn chaos_on_three_hosts_when_any_is_killed_paused_and_cut_off_then_nothing_is_lost() {
    let _turn = crate::delivery::alone();
    if let Some(missing) = net::Net::missing() {
        eprintln!("not run: {missing}");
        return;
    }
    torment(Victims::three_hosts());
}
