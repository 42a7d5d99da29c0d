//! Snapshots arrive whole over links that break, from disks and at disks that fail.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use parking_lot::Mutex;

use super::{GROUP, Ground, id};
use crate::{
    id::NodeId,
    machine::Store as _,
    raft_group::{
        snapshot::{
            file::{Meta, PIECE_BYTES},
            receive::{Member, Receiver},
            send::{Follower, SendError},
            wire::{Answer, Offer, Question},
        },
        types::Vote,
    },
    storage::{
        shelf::{Item, Kind, Shelf},
        state::shard_state::ShardState,
    },
    transport::{
        Class, Desk, LinkError, Network, PeerService as _, Served, Service,
        memory::{Hub, MemoryNetwork},
    },
};

const LEADER: NodeId = NodeId(1);
const FOLLOWER: NodeId = NodeId(2);
const OTHER: NodeId = NodeId(3);

/// A follower whose openraft takes what it gets.
struct TakesAll {
    ground: Ground,
    vote: Mutex<Option<Vote>>,
    takes: AtomicUsize,
    /// Its disk takes no writes.
    is_stuck: AtomicBool,
}

impl Member for Arc<TakesAll> {
    fn vote(&self) -> Option<Vote> {
        *self.vote.lock()
    }

    fn take(&self, vote: Vote, meta: Meta) -> BoxFuture<'static, Option<Vote>> {
        let this = self.clone();
        async move {
            this.takes.fetch_add(1, Ordering::SeqCst);
            // As long as a large state takes: the sender asks again and again.
            tokio::time::sleep(Duration::from_secs(70)).await;
            while this.is_stuck.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            assert_eq!(this.ground.install().await.unwrap().last_log_id, meta.last_log_id);
            Some(vote)
        }
        .boxed()
    }
}

/// A group that is not there.
struct Ended;

impl Member for Ended {
    fn vote(&self) -> Option<Vote> {
        None
    }

    fn take(&self, _vote: Vote, _meta: Meta) -> BoxFuture<'static, Option<Vote>> {
        async { None }.boxed()
    }
}

type Trouble = Box<dyn Fn(&mut Vec<u8>) -> bool + Send + Sync>;

/// The desk of snapshots, with trouble on the way to it.
struct Door {
    receiver: Receiver,
    /// Sees each piece before it is received; says whether the link breaks over it.
    trouble: Mutex<Option<Trouble>>,
    pieces: AtomicUsize,
}

impl Service for Door {
    fn serve(&self, from: NodeId, class: Class, desk: Desk, body: Bytes) -> Served {
        assert_eq!((class, desk), (Class::Control, Desk::Snapshot));
        let mut bytes = body.to_vec();
        if bytes[1] == 2 {
            self.pieces.fetch_add(1, Ordering::SeqCst);
            if self.trouble.lock().as_ref().is_some_and(|trouble| trouble(&mut bytes)) {
                return std::future::pending().boxed();
            }
        }
        self.receiver.serve(from, class, bytes.into())
    }
}

impl TakesAll {
    /// A follower with an old state, and its desk.
    fn join(hub: &Hub, node: NodeId, address: &str) -> (Arc<Self>, Arc<Door>) {
        let ground = Ground::empty().filled(7, 30, 100);
        let vote = Mutex::new(Some(Vote::new(1, 1)));
        let (takes, is_stuck) = (AtomicUsize::new(0), AtomicBool::new(false));
        let follower = Arc::new(Self { ground, vote, takes, is_stuck });
        let groups: Vec<Arc<dyn Member>> = vec![Arc::new(Ended), Arc::new(follower.clone())];
        let shelf: Arc<dyn Shelf> = Arc::new(follower.ground.shelf.clone());
        let health = follower.ground.store.base.health.clone();
        let receiver = Receiver::new(groups, shelf, health);
        let door = Door { receiver, trouble: Mutex::default(), pieces: AtomicUsize::new(0) };
        let door = Arc::new(door);
        let network = join(hub, node, address);
        network.set_service(door.clone());
        // Lives as long as the test.
        std::mem::forget(network);
        (follower, door)
    }
}

fn join(hub: &Hub, node: NodeId, address: &str) -> Arc<MemoryNetwork> {
    let network = hub.join(node, address);
    network.set_cluster([1; 16]);
    let all = [(LEADER, "one"), (FOLLOWER, "two"), (OTHER, "three")];
    network.set_peers(BTreeMap::from(all.map(|(node, address)| (node, address.into()))));
    network
}

struct World {
    hub: Hub,
    network: Arc<dyn Network>,
    leader: Ground,
    follower: Arc<TakesAll>,
    door: Arc<Door>,
    other: Arc<TakesAll>,
}

const PAIRS: usize = 1_800;

impl World {
    /// A leader with about 5 MiB of state, and followers with an old one.
    fn new() -> Self {
        let hub = Hub::new(1);
        let leader = Ground::empty().filled(40, PAIRS, 3_000);
        let network = join(&hub, LEADER, "one");
        let (follower, door) = TakesAll::join(&hub, FOLLOWER, "two");
        let (other, _) = TakesAll::join(&hub, OTHER, "three");
        Self { hub, network, leader, follower, door, other }
    }

    async fn send(&self) -> Result<Vote, SendError> {
        self.send_to(FOLLOWER).await
    }

    async fn send_to(&self, node: NodeId) -> Result<Vote, SendError> {
        let to = Follower { network: &self.network, node, group: GROUP };
        let (store, vote) = (&self.leader.store, Vote::new_committed(3, 1));
        self.leader.snapshots.send(&to, store, vote, Some(id(40))).await
    }

    /// As openraft does: again after each error.
    async fn send_until_done(&self) -> usize {
        for tries in 1..50 {
            match self.send().await {
                Ok(vote) => {
                    assert_eq!(vote, Vote::new_committed(3, 1));
                    return tries;
                }
                Err(_) => tokio::time::sleep(Duration::from_secs(2)).await,
            }
        }
        panic!("never done");
    }

    fn check(&self) {
        assert_eq!(self.follower.ground.content(), self.leader.content());
        assert_eq!(self.follower.ground.shelf.count(), 0, "files stay on the follower");
        assert_eq!(self.leader.shelf.count(), 0, "files stay on the leader");
    }

    fn whole_pieces(&self) -> usize {
        let pairs = self.leader.content();
        let bytes: usize = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
        bytes.div_ceil(PIECE_BYTES)
    }
}

#[tokio::test(start_paused = true)]
async fn snapshot_over_a_good_link_then_arrives_and_is_installed_once() {
    let world = World::new();
    assert_eq!(world.send_until_done().await, 1);
    world.check();
    assert_eq!(world.follower.takes.load(Ordering::SeqCst), 1);
    let pieces = world.door.pieces.load(Ordering::SeqCst);
    assert!((world.whole_pieces()..=world.whole_pieces() + 1).contains(&pieces), "{pieces}");
    let state = ShardState::open(GROUP, world.follower.ground.store.base.clone()).unwrap();
    assert_eq!(state.applied.last, Some(id(40)));
    assert_eq!(state.get(b"index").unwrap(), 40_u64.to_be_bytes()[..]);
}

#[tokio::test(start_paused = true)]
async fn snapshot_when_the_link_breaks_at_each_piece_then_goes_on_where_it_was() {
    let world = World::new();
    let (calls, hub) = (AtomicUsize::new(0), Arc::new(Mutex::new(0_usize)));
    let breaks = hub.clone();
    *world.door.trouble.lock() = Some(Box::new(move |_| {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        // Every third piece is lost with its link.
        let lost = call % 3 == 2;
        *breaks.lock() += usize::from(lost);
        lost
    }));
    let tries = world.send_until_done().await;
    world.check();
    assert!(tries > 1 && *hub.lock() > 1, "{tries} tries");
    // Each break costs what was under way, and nothing that had arrived.
    let pieces = world.door.pieces.load(Ordering::SeqCst);
    let most = world.whole_pieces() + 1 + 2 * *hub.lock();
    assert!(pieces <= most, "{pieces} pieces for {tries} tries");
}

#[tokio::test(start_paused = true)]
async fn snapshot_when_the_network_resets_at_random_then_arrives() {
    let world = World::new();
    world.hub.set_delay(Duration::from_millis(1)..=Duration::from_millis(30));
    world.hub.set_resets(100_000);
    world.send_until_done().await;
    world.check();
}

#[tokio::test(start_paused = true)]
async fn piece_that_comes_damaged_then_refused_and_the_rest_follows() {
    let world = World::new();
    let calls = AtomicUsize::new(0);
    *world.door.trouble.lock() = Some(Box::new(move |bytes| {
        if calls.fetch_add(1, Ordering::SeqCst) == 2 {
            bytes[500] ^= 1;
        }
        false
    }));
    assert_eq!(world.send_until_done().await, 2);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn staged_file_that_is_damaged_on_disk_then_thrown_away_and_asked_for_again() {
    let world = World::new();
    let (calls, shelf) = (AtomicUsize::new(0), world.follower.ground.shelf.clone());
    let staging = Item { kind: Kind::Staging, group: GROUP };
    *world.door.trouble.lock() = Some(Box::new(move |_| {
        if calls.fetch_add(1, Ordering::SeqCst) == 3 {
            shelf.damage(staging, 700_000);
        }
        false
    }));
    assert_eq!(world.send_until_done().await, 1);
    world.check();
    let pieces = world.door.pieces.load(Ordering::SeqCst);
    assert!(pieces >= 2 * world.whole_pieces(), "{pieces} pieces");
    assert_eq!(world.follower.takes.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn copy_that_is_damaged_on_the_leaders_disk_then_made_again() {
    let world = World::new();
    let (calls, shelf) = (AtomicUsize::new(0), world.leader.shelf.clone());
    let spool = Item { kind: Kind::Spool, group: GROUP };
    *world.door.trouble.lock() = Some(Box::new(move |_| {
        if calls.fetch_add(1, Ordering::SeqCst) == 0 {
            shelf.damage(spool, 3 << 20);
        }
        false
    }));
    assert_eq!(world.send_until_done().await, 1);
    world.check();
}

#[tokio::test(start_paused = true)]
async fn disk_of_the_follower_that_is_full_then_its_space_is_given_back_and_later_it_goes_on() {
    let world = World::new();
    let (calls, shelf) = (AtomicUsize::new(0), world.follower.ground.shelf.clone());
    *world.door.trouble.lock() = Some(Box::new(move |_| {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        shelf.set_full((3..5).contains(&call));
        false
    }));
    let failed = world.send().await.unwrap_err();
    assert!(matches!(failed, SendError::Link(LinkError::Refused(_))), "{failed}");
    assert_eq!(world.follower.ground.shelf.count(), 0);
    world.send_until_done().await;
    world.check();
}

#[tokio::test(start_paused = true)]
async fn second_snapshot_meanwhile_then_busy_until_the_first_stops_coming() {
    let world = World::new();
    let ask = |question: Question, group| {
        let receiver = world.door.receiver.clone();
        async move {
            let body = question.encode(group);
            let answer = receiver.serve(NodeId(9), Class::Control, body).await;
            Answer::decode(&answer.unwrap()).unwrap()
        }
    };
    let offer = |number| Offer {
        vote: Vote::new_committed(4, 9),
        meta: Meta { last_log_id: Some(id(50)), ..Meta::default() },
        number,
        bytes: 10 << 20,
        digest: [number.to_le_bytes()[0]; 32],
    };
    assert_eq!(ask(Question::Offer(offer(1)), GROUP).await, Answer::Have { bytes: 0 });
    let bytes = Bytes::from(vec![1; 100]);
    let piece = Question::Piece { number: 1, offset: 0, bytes };
    assert_eq!(ask(piece.clone(), GROUP).await, Answer::Have { bytes: 100 });
    assert_eq!(ask(piece, GROUP).await, Answer::Have { bytes: 100 }, "twice is once");
    assert_eq!(ask(Question::Offer(offer(1)), GROUP).await, Answer::Have { bytes: 100 });
    assert_eq!(ask(Question::Finish { number: 1 }, GROUP).await, Answer::Have { bytes: 100 });
    assert_eq!(ask(Question::Finish { number: 5 }, GROUP).await, Answer::Unknown);
    // Another copy of the same group is newer; that of another one waits.
    assert_eq!(ask(Question::Offer(offer(2)), GROUP).await, Answer::Have { bytes: 0 });
    let old = Offer { vote: Vote::new(0, 9), ..offer(3) };
    let settled = ask(Question::Offer(old), GROUP).await;
    assert_eq!(settled, Answer::Settled { vote: Vote::new(1, 1) });
    tokio::time::sleep(Duration::from_secs(16)).await;
    world.send_until_done().await;
    world.check();
}

/// HEAL: what one follower cannot install is no reason to keep another without its state.
#[tokio::test(start_paused = true)]
async fn follower_that_cannot_install_then_others_are_sent_theirs_meanwhile() {
    let world = World::new();
    world.follower.is_stuck.store(true, Ordering::SeqCst);
    let waits = world.send();
    tokio::pin!(waits);
    let others = async {
        while world.follower.takes.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let sent = tokio::time::timeout(Duration::from_secs(600), world.send_to(OTHER)).await;
        assert_eq!(sent.expect("it waits for the other").unwrap(), Vote::new_committed(3, 1));
        assert_eq!(world.other.ground.content(), world.leader.content());
        assert_eq!(world.leader.shelf.count(), 0, "files stay on the leader");
        // Nothing is copied again and again for who takes nothing.
        assert!(matches!(world.send().await, Err(SendError::Busy)));
        assert_eq!(world.leader.shelf.count(), 0, "a copy that nobody takes");
    };
    tokio::select! {
        sent = &mut waits => panic!("{sent:?} without a disk"),
        () = others => {}
    }
    world.follower.is_stuck.store(false, Ordering::SeqCst);
    assert_eq!(waits.await.unwrap(), Vote::new_committed(3, 1));
    world.check();
    assert_eq!(world.follower.takes.load(Ordering::SeqCst), 1);
}
