//! Real processes, real sockets, real faults; the whole history is checked at the end.
//!
//! - Promises: NO-LOSS, ORDER, ONCE, SESSION-TRUE, HEAL over `kill -9`, pauses, restarts, partitions, slow and
//!   broken links and full disks of any node; retained messages and wills among them.
//! - Takes: `HONGQIAO_CHAOS_SECONDS` (default 12; `make chaos` runs minutes), `CHAOS_SEED`;
//!   `HONGQIAO_CHAOS_WHOLE`: fail where the machine does not allow everything.
//! - Bound: the faults end after that time; everything must be there `load::SETTLE` later.

mod client;
mod disk;
mod full_disk;
mod history;
mod kept;
mod load;
mod minority;
mod nemesis;
mod net;
mod proxy;
mod pulse;
mod undo;
mod victims;
mod wills;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use self::{
    client::World,
    history::{Kind, Seen, Sent, verdict},
    kept::{Kept, SharedKept},
    load::SharedSeen,
    nemesis::{Deeds, Nemesis},
    victims::Victims,
};
use crate::support::{
    node::signal,
    wait::{let_pass, now},
};

/// Publishers by number: the first ones with QoS 1, then those with QoS 2, then clients that die.
const AT_LEAST_ONCE: usize = 6;
const EXACTLY_ONCE: usize = 3;
const DYING: usize = 2;
const SUBSCRIBERS: usize = 6;
/// Between two messages of a publisher.
const PAUSE: Duration = Duration::from_millis(3);

/// Longer than a publish may wait for its outcome, and than a silent node counts as up.
const SLEEP: Duration = Duration::from_millis(6_500);

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// What happened in a run.
struct History {
    sent: Vec<Sent>,
    seen: Vec<Seen>,
    kept: SharedKept,
    deeds: Deeds,
    longest: Duration,
}

fn spawn<T: Send + 'static>(
    world: &World,
    work: impl FnOnce(&World) -> T + Send + 'static,
) -> JoinHandle<T> {
    let world = world.clone();
    std::thread::spawn(move || work(&world))
}

fn publishers(world: &World, seed: u64, dying: usize) -> Vec<JoinHandle<Sent>> {
    let all = 0..AT_LEAST_ONCE + EXACTLY_ONCE + dying;
    all.map(|number| {
        let seed = seed.wrapping_add(number as u64);
        let kind = if number < AT_LEAST_ONCE { Kind::AtLeastOnce } else { Kind::ExactlyOnce };
        spawn(world, move |world| {
            if number < AT_LEAST_ONCE + EXACTLY_ONCE {
                load::publish(world, number, kind, seed, PAUSE)
            } else {
                wills::die(world, number, seed)
            }
        })
    })
    .collect()
}

/// Ends what clients do when a test ends in the middle, before its network goes.
struct Leash<'a>(&'a World);

impl Drop for Leash<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Runs the load, so many dying clients in it, while `work` goes on, and returns the history.
fn run(world: &World, seed: u64, dying: usize, work: impl FnOnce(&World) -> Deeds) -> History {
    let _leash = Leash(world);
    (0..SUBSCRIBERS).for_each(|number| load::open(world, number));
    let publishers = publishers(world, seed, dying);
    let kept = SharedKept::default();
    let (keeper, reader) = (kept.clone(), kept.clone());
    let keepers = [
        spawn(world, move |world| keeper.keep(world, seed)),
        spawn(world, move |world| reader.read(world, seed)),
    ];
    let ended = Arc::new(AtomicBool::new(false));
    let mut subscribers = Vec::new();
    for number in 0..SUBSCRIBERS {
        let (ended, seen) = (Arc::clone(&ended), SharedSeen::default());
        let (shared, seed) = (Arc::clone(&seen), seed.wrapping_add(100 + number as u64));
        let thread = spawn(world, move |world| {
            load::receive(world, number, seed, &shared, &|| ended.load(Ordering::Relaxed));
        });
        subscribers.push((seen, thread));
    }
    let deeds = work(world);
    world.pulse().beat(now());
    let longest = world.pulse().longest();
    world.stop();
    let sent: Vec<Sent> = publishers.into_iter().map(|thread| thread.join().unwrap()).collect();
    keepers.into_iter().for_each(|thread| thread.join().unwrap());
    kept.read_last(world);
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
    History { sent, seen: seen.collect(), kept, deeds, longest }
}

fn judge(history: &History, panics: Vec<String>) {
    let History { sent, seen, kept, deeds, longest } = history;
    let kept = kept.lock();
    let mut wrong = verdict(sent, seen);
    wrong.extend(kept.wrong.iter().cloned());
    wrong.extend(panics);
    let of = |kind| {
        let of_kind: Vec<_> = sent.iter().filter(|sent| sent.kind == kind).collect();
        let all: u64 = of_kind.iter().map(|sent| sent.sent).sum();
        let acked: usize = of_kind.iter().map(|sent| sent.acked.len()).sum();
        let refused: u64 = of_kind.iter().map(|sent| sent.refused).sum();
        (all, acked, refused)
    };
    eprintln!("               published  acknowledged  refused  unknown");
    for (name, kind) in
        [("QoS 1", Kind::AtLeastOnce), ("QoS 2", Kind::ExactlyOnce), ("wills", Kind::Will)]
    {
        let (all, acked, refused) = of(kind);
        let unknown = all.saturating_sub(acked as u64 + refused);
        eprintln!("{name:<13}  {all:>9}  {acked:>12}  {refused:>7}  {unknown:>7}");
    }
    let (received, doubled) =
        seen.iter().fold((0, 0), |sum, seen| (sum.0 + seen.received(), sum.1 + seen.doubled()));
    eprintln!("delivered to {} subscribers: {received}, duplicates {doubled}", seen.len());
    let Kept { reads, late, completed, .. } = &*kept;
    eprintln!("retained topics read {reads} times, {late} late, of which {completed} completed");
    eprintln!("deeds: {deeds}");
    eprintln!("longest time without an acknowledgement while a majority was healthy: {longest:?}");
    eprintln!("broken promises: {}", wrong.len());
    assert!(wrong.is_empty(), "{:#?}", &wrong[..wrong.len().min(20)]);
    let acked = of(Kind::AtLeastOnce).1;
    assert!(acked > 100, "hardly any load: {acked} acknowledged");
}

/// Three nodes on hosts of their own; `None` where the machine does not allow it and need not.
fn three_hosts() -> Option<Victims> {
    let Some(missing) = net::missing() else { return Some(Victims::three_hosts()) };
    assert!(std::env::var_os("HONGQIAO_CHAOS_WHOLE").is_none(), "{missing}");
    eprintln!("not run: {missing}");
    None
}

fn torment(mut victims: Victims) {
    let seed = setting("CHAOS_SEED").unwrap_or_else(rand::random);
    eprintln!("CHAOS_SEED={seed}");
    let time = Duration::from_secs(setting("HONGQIAO_CHAOS_SECONDS").unwrap_or(12));
    let world = World::new(victims.addresses(), victims.user());
    let history = run(&world, seed, DYING, |world| {
        let deeds = Nemesis::new(&mut victims, world, seed).torment(time);
        eprintln!("faults are over");
        deeds
    });
    judge(&history, victims.panics());
}

/// Does `work` while clients of nodes at these addresses are busy, and judges what they have seen.
pub(crate) fn under_load(addresses: Vec<SocketAddr>, work: impl FnOnce()) {
    let world = World::new(addresses, None);
    let history = run(&world, rand::random(), DYING, |_| {
        work();
        Deeds::default()
    });
    judge(&history, Vec::new());
}

#[test]
fn chaos_on_one_node_when_it_is_killed_and_paused_then_nothing_is_lost() {
    let _turn = crate::delivery::alone();
    torment(Victims::alone());
}

#[test]
fn chaos_on_three_nodes_when_any_is_killed_paused_and_cut_off_then_nothing_is_lost() {
    let _turn = crate::delivery::alone();
    torment(Victims::three());
}

/// When it wakes, everything on it has waited for too long at once: its proposals, its lease, its publishers.
#[test]
fn chaos_on_three_nodes_when_one_sleeps_past_all_deadlines_then_order_is_kept() {
    let _turn = crate::delivery::alone();
    let victims = Victims::three();
    let all = victims.addresses();
    // Most clients are on the one that sleeps.
    let world = World::new([vec![all[0]; 3], all].concat(), victims.user());
    let history = run(&world, rand::random(), DYING, |_| {
        for _ in 0..2 {
            let_pass(Duration::from_secs(2));
            let pid = victims.nodes[0].pid();
            signal(pid, "STOP");
            let_pass(SLEEP);
            signal(pid, "CONT");
            let_pass(Duration::from_secs(2));
        }
        Deeds::default()
    });
    judge(&history, victims.panics());
}

#[test]
fn chaos_on_three_hosts_when_anything_is_done_to_them_then_nothing_is_lost() {
    let _turn = crate::delivery::alone();
    if let Some(victims) = three_hosts() {
        torment(victims);
    }
}
