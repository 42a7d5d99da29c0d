//! A node without a replica proposes to one that leads, over links that break, stall and reorder nothing.
//!
//! - Owns: one leading node on twins, one stream of another node. Takes: faults. Gives: what breaks a promise.
//! - Bound: tests only. Promises: ORDER, at most once, true outcomes, BOUNDED.

mod cluster;

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use super::{
    desk::ProposeClerk,
    driver,
    queue::{Caller, Queue},
    run::{Origin, Refusal, Verdict},
    seek::Way,
    sender::{Leader, Room, Sender},
};
use crate::{
    clock,
    desks::Desks,
    error::ProposeError,
    id::{NodeId, ShardId},
    machine::{Machine, Store, StoreMut},
    options::{Durability, Options},
    raft_group::permits::Permits,
    raft_groups::{Groups, Others, Parts},
    storage::{
        disk::Disk,
        health::Health,
        log::Log,
        twin::{DiskTwin, KvTwin, ShelfTwin},
    },
    transport::{Class, Desk, Network, PeerService as _, memory::Hub},
};

const LEADER: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const GROUP: ShardId = ShardId(1);

/// Keeps each command under the next number, and replies with the command.
struct Lines;

impl Machine for Lines {
    fn load(&mut self, _store: &dyn Store) {}

    fn apply(&mut self, index: u64, command: &Bytes, store: &mut dyn StoreMut) -> Bytes {
        store.put(index.to_be_bytes().to_vec(), command.clone());
        command.clone()
    }
}

struct World {
    hub: Hub,
    groups: Groups<Lines>,
    queue: Arc<Queue>,
    permits: Arc<Permits>,
    lead: watch::Sender<crate::raft_group::lead::Lead>,
    flusher: Option<JoinHandle<()>>,
    checkpointer: Option<JoinHandle<()>>,
}

type Told = oneshot::Receiver<Result<Bytes, ProposeError>>;

impl World {
    async fn start(seed: u64, options: Options) -> Self {
        let hub = Hub::new(seed);
        let disk: Arc<dyn Disk> = Arc::new(DiskTwin::new());
        let health = Arc::new(Health::default());
        let durability = Durability::Disk;
        let (log, flusher) =
            Log::open(disk.clone(), options.groups(), durability, health.clone()).unwrap();
        let kv = Box::new(KvTwin::default());
        let shelf = Arc::new(ShelfTwin::default());
        let parts = Parts { disk, kv, shelf, log, health, incarnation: 1 };
        let groups =
            Groups::start(parts, &options, &|_| Lines, Arc::new(|_, _| {}), &Others::none())
                .await
                .unwrap();
        let purge = groups.purge_after_checkpoints(tokio::runtime::Handle::current());
        let worker = groups.checkpointer.clone();
        let checkpointer = std::thread::spawn(move || worker.run(&(Box::new(purge) as _)));
        let desks = Arc::new(Desks::default());
        let clerk = ProposeClerk {
            node: LEADER,
            groups: groups.groups.clone(),
            permits: groups.permits.clone(),
            health: groups.health.clone(),
        };
        desks.set(Desk::Propose, Arc::new(clerk));
        let there = hub.join(LEADER, "one:1");
        there.set_cluster([7; 16]);
        there.set_service(desks);
        there.set_peers([(OTHER, "two:1".to_owned())].into());
        let here = hub.join(OTHER, "two:1");
        here.set_cluster([7; 16]);
        here.set_service(Arc::new(Desks::default()));
        here.set_peers([(LEADER, "one:1".to_owned())].into());
        let queue = Queue::new(Origin { node: OTHER.0, incarnation: 1 });
        // The first of them is nobody: another has to be asked then.
        let replicas = Arc::new(|_| vec![NodeId(77), LEADER]);
        let way = Way { network: here, replicas };
        let lead = watch::Sender::default();
        driver::start(OTHER, GROUP, &queue, lead.subscribe(), Some(way));
        let permits = Permits::new(1 << 20, 1 << 30);
        let (flusher, checkpointer) = (Some(flusher), Some(checkpointer));
        Self { hub, groups, queue, permits, lead, flusher, checkpointer }
    }

    fn propose(&self, command: &str) -> Told {
        let (reply, told) = oneshot::channel();
        let caller = Caller { reply, _permit: self.permits.take(command.len()).unwrap() };
        let command = Bytes::copy_from_slice(command.as_bytes());
        if let Err(why) = self.queue.push(command, caller, None, None) {
            let (reply, told) = oneshot::channel();
            reply.send(Err(why)).unwrap();
            return told;
        }
        told
    }

    fn kept(&self) -> Vec<String> {
        let group = &self.groups.groups[usize::from(GROUP.0)];
        let found = group.store.state.lock().scan(&[0; 8], &[0xFF; 9], usize::MAX);
        found.into_iter().map(|(_, line)| String::from_utf8(line.to_vec()).unwrap()).collect()
    }

    async fn stop(mut self) {
        self.groups.stop().await;
        self.groups.checkpointer.stop();
        self.checkpointer.take().unwrap().join().unwrap();
        self.groups.log.stop();
        self.flusher.take().unwrap().join().unwrap();
    }
}

fn options() -> Options {
    Options { shards: 2, disk_reserve_bytes: 1_000, ..Options::new("twin") }
}

async fn outcome(told: Told) -> Result<Bytes, ProposeError> {
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("an outcome").expect("is told")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_when_the_leader_is_elsewhere_then_found_and_everything_applied_in_order() {
    let world = World::start(1, options()).await;
    let lines: Vec<String> = (0..3_000).map(|line| format!("line {line}")).collect();
    let told: Vec<_> = lines.iter().map(|line| world.propose(line)).collect();
    for (line, told) in lines.iter().zip(told) {
        assert_eq!(outcome(told).await, Ok(Bytes::copy_from_slice(line.as_bytes())));
    }
    assert_eq!(world.kept(), lines);
    assert_eq!(world.permits.taken(), (0, 0));
    assert_eq!(world.groups.permits.taken(), (0, 0));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_when_links_break_and_stall_then_each_command_is_applied_once_in_order() {
    let world = World::start(2, options()).await;
    world.hub.set_delay(Duration::ZERO..=Duration::from_millis(2));
    let (mut lines, mut told) = (Vec::new(), Vec::new());
    for round in 0..120 {
        for at in 0..25 {
            lines.push(format!("line {round}-{at}"));
            told.push(world.propose(&lines[lines.len() - 1]));
        }
        match round % 10 {
            3 | 7 => world.hub.reset(LEADER, OTHER),
            5 => world.hub.cut(LEADER, OTHER),
            6 => world.hub.heal_all(),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(6)).await;
    }
    world.hub.heal_all();
    let mut acknowledged = 0;
    for (line, told) in lines.iter().zip(told) {
        match outcome(told).await {
            Ok(reply) => {
                acknowledged += 1;
                assert_eq!(reply, line.as_bytes());
            }
            Err(why) => panic!("{line}: {why}"),
        }
    }
    // Nobody waited for five seconds, so everything had to pass.
    assert_eq!((acknowledged, world.kept()), (lines.len(), lines));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_when_the_leader_refuses_then_callers_are_told_and_the_numbers_are_used_again() {
    let world = World::start(3, Options { proposals_max: 10, ..options() }).await;
    let mut expected = Vec::new();
    for round in 0..40 {
        let burst = 1 + round * 7 % 30;
        let lines: Vec<String> = (0..burst).map(|line| format!("line {round}-{line}")).collect();
        let told: Vec<_> = lines.iter().map(|line| world.propose(line)).collect();
        for (line, told) in lines.into_iter().zip(told) {
            match outcome(told).await {
                Ok(_) => expected.push(line),
                Err(why) => assert_eq!(why, ProposeError::Overloaded),
            }
        }
    }
    assert!(expected.len() > 40 && expected.len() < 500, "{} taken", expected.len());
    assert_eq!(world.kept(), expected);
    assert_eq!(world.groups.permits.taken(), (0, 0));
    world.stop().await;
}

#[test]
fn stream_when_one_in_front_is_refused_then_those_behind_hear_the_same_reason() {
    let (now, mut told) = (Duration::from_secs(1), Vec::new());
    let why = ProposeError::Overloaded;
    let mut sender = Sender::new(Origin { node: OTHER.0, incarnation: 1 });
    sender.lead(Some(Leader { node: LEADER.0, term: 1 }), now, &mut told);
    // Two are on their way, each in a request of its own, and a third has not been sent.
    let room = Room { bytes: 100, commands: 1, requests: 2, grows: false, any_size: true };
    let order = sender.push(Bytes::from_static(b"refused"), 1, None, now).unwrap();
    let refused = sender.next(now, room).unwrap();
    sender.push(Bytes::from_static(b"behind"), 2, None, now).unwrap();
    let behind = sender.next(now, room).unwrap();
    sender.push(Bytes::from_static(b"not sent"), 3, None, now).unwrap();
    sender.settle(refused.request, Verdict::Refused(Refusal::Told(why)), now, &mut told);
    sender.settle(behind.request, Verdict::Refused(Refusal::Behind), now, &mut told);
    assert_eq!(told, [(1, Err(why)), (2, Err(why)), (3, Err(why))]);
    let late = sender.push(Bytes::from_static(b"late"), 4, Some(order), now);
    assert_eq!(late, Err((4, why)));
}

#[test]
fn stream_when_a_request_is_under_way_then_the_next_carries_no_less_than_it() {
    let (now, mut told) = (Duration::from_secs(1), Vec::new());
    let mut sender = Sender::new(Origin { node: OTHER.0, incarnation: 1 });
    sender.lead(Some(Leader { node: LEADER.0, term: 1 }), now, &mut told);
    let room = Room { bytes: 100, commands: 9, requests: 3, grows: true, any_size: true };
    let push = |sender: &mut Sender<u64>, bytes: usize| {
        sender.push(Bytes::from(vec![0; bytes]), 0, None, now).unwrap();
    };
    push(&mut sender, 10);
    let first = sender.next(now, room).unwrap();
    push(&mut sender, 9);
    assert!(sender.next(now, room).is_none(), "9 bytes behind 10");
    push(&mut sender, 1);
    let second = sender.next(now, room).unwrap();
    assert_eq!(second.commands.len(), 2);
    push(&mut sender, 19);
    assert!(sender.next(now, room).is_none(), "19 bytes behind 10 and 10");
    let refused = Verdict::Refused(Refusal::Unsent);
    sender.settle(first.request, refused.clone(), now, &mut told);
    sender.settle(second.request, refused, now, &mut told);
    let again =
        sender.next(now + crate::limits::STREAM_RETRY, Room { requests: 1, ..room }).unwrap();
    assert_eq!(again.commands.len(), 4, "nothing is under way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_when_nobody_answers_for_long_then_unknown_and_what_was_given_up_never_comes_late() {
    let world = World::start(4, options()).await;
    outcome(world.propose("first")).await.unwrap();
    // Requests arrive, answers do not.
    world.hub.cut(LEADER, OTHER);
    let started = clock::now();
    let lost = world.propose("lost");
    assert_eq!(outcome(lost).await, Err(ProposeError::Unknown));
    let waited = started.elapsed();
    assert!(waited >= Duration::from_secs(5) && waited < Duration::from_secs(7), "{waited:?}");
    let refused = world.propose("refused");
    assert_eq!(outcome(refused).await, Err(ProposeError::Unavailable));
    world.hub.heal_all();
    outcome(world.propose("last")).await.unwrap();
    assert_eq!(world.kept(), ["first", "lost", "last"]);
    // A replica comes to this node, which knows who leads; then it does not any more.
    world.lead.send_modify(|lead| (lead.leader, lead.term) = (Some(LEADER), 3));
    outcome(world.propose("told who leads")).await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn clerk_when_a_peer_sends_nonsense_then_it_is_refused() {
    let world = World::start(5, options()).await;
    let clerk = ProposeClerk {
        node: LEADER,
        groups: world.groups.groups.clone(),
        permits: world.groups.permits.clone(),
        health: world.groups.health.clone(),
    };
    let nonsense = [Bytes::new(), Bytes::from_static(&[1; 60]), Bytes::from(vec![0xFF; 1_000])];
    for body in nonsense {
        assert!(clerk.serve(OTHER, Class::Consensus, body).await.is_err());
    }
    assert!(world.kept().is_empty());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn queue_that_leads_when_the_leader_before_it_refuses_late_then_its_proposer_waits() {
    let queue = Queue::new(Origin { node: OTHER.0, incarnation: 1 });
    let permits = Permits::new(1 << 10, 1 << 20);
    queue.lead(Some(Leader { node: LEADER.0, term: 1 }));
    let (reply, _told) = oneshot::channel();
    let caller = Caller { reply, _permit: permits.take(1).unwrap() };
    queue.push(Bytes::from_static(b"a"), caller, None, None).unwrap();
    let (_, sent) = queue.next().unwrap();
    queue.lead(Some(Leader { node: OTHER.0, term: 2 }));
    queue.settle(sent.request, Verdict::Refused(Refusal::NotLeader(None)));
    let began = clock::now();
    assert!(queue.filled().await);
    assert!(clock::now() > began, "a proposer that found nothing would ask for ever");
    assert_eq!(queue.gather().runs.len(), 1);
}
