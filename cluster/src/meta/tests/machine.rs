//! The machine against the plain model, against itself on another replica, and after a start.
//!
//! - Owns: random commands about few things, so that they meet. Takes: nothing. Gives: failures.
//! - Bound: tests only.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::{collection::vec, option, prelude::*};

use super::model::{Model, ROOM_MEMBERS_MAX, ROUTES_MAX, SHARDS};
use crate::{
    directory::{Directory, Places, Role, RoomKind},
    id::{NodeId, ShardId},
    machine::Machine,
    meta::{
        MetaChange, MetaCommand, MetaReply, Place, Refusal, RoomCommand, RoomReply, command,
        door::MemoryStore,
        machine::{MetaMachine, Published},
    },
};

/// A machine, its store, and what its sink has made of the changes.
struct Replica {
    machine: MetaMachine,
    store: MemoryStore,
    published: Arc<Published>,
    seen: Arc<Mutex<Seen>>,
}

/// Kept up by changes alone.
#[derive(Default, Debug, PartialEq)]
struct Seen {
    index: u64,
    routes: imbl::HashMap<Bytes, Places>,
    reloads: usize,
}

impl Replica {
    fn new(store: MemoryStore) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let told = seen.clone();
        let published = Published::new(Arc::new(move |directory: &Directory, changes| {
            let mut seen = told.lock();
            seen.index = directory.index;
            for change in changes {
                match change {
                    MetaChange::Route { key, places } if places.is_empty() => {
                        seen.routes.remove(key);
                    }
                    MetaChange::Route { key, places } => {
                        seen.routes.insert(key.clone(), places.clone());
                    }
                    MetaChange::Reloaded => {
                        seen.routes = directory.routes.clone();
                        seen.reloads += 1;
                    }
                    _ => {}
                }
            }
        }));
        let mut machine = MetaMachine::new(SHARDS, published.clone());
        machine.limits.room_members = u32::try_from(ROOM_MEMBERS_MAX).unwrap();
        machine.limits.routes = ROUTES_MAX;
        machine.load(&store);
        Self { machine, store, published, seen }
    }

    fn apply(&mut self, index: u64, commands: &[MetaCommand]) -> Vec<MetaReply> {
        let batch = command::encode(&commands);
        let reply = self.machine.apply(index, &batch, &mut self.store);
        let (told, replies): (u64, _) = command::decode(&reply, 1 << 20).unwrap();
        assert_eq!(told, index);
        replies
    }

    fn publish(&mut self) -> Arc<Directory> {
        self.machine.applied();
        let directory = self.published.directory();
        let seen = self.seen.lock();
        assert_eq!(*self.published.announced().borrow(), directory.index);
        assert_eq!((seen.index, &seen.routes), (directory.index, &directory.routes));
        directory
    }
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn key() -> impl Strategy<Value = Bytes> {
    let long = |name: u8| Bytes::from([&[name], &[b'x'; 1_100][..]].concat());
    prop_oneof![
        8 => (b'a'..b'f').prop_map(|name| Bytes::from(vec![name])),
        4 => (b'a'..b'c').prop_map(long),
        1 => Just(Bytes::new()),
    ]
}

fn node() -> impl Strategy<Value = NodeId> {
    (1..4_u64).prop_map(NodeId)
}

fn start() -> impl Strategy<Value = (NodeId, u64)> {
    (node(), 1..4_u64)
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        start().prop_map(|(node, incarnation)| Place::Node { node, incarnation }),
        (0..SHARDS + 1, 1..3_u64)
            .prop_map(|(shard, term)| Place::Shard { shard: ShardId(shard), term }),
    ]
}

fn room_command() -> impl Strategy<Value = RoomCommand> {
    let room = || prop_oneof![Just(bytes("r1")), Just(bytes("r")), Just(bytes("g"))];
    let user =
        || prop_oneof![Just(bytes("1u")), Just(bytes("u")), Just(bytes("v")), Just(bytes("w"))];
    let kind = |room: &Bytes| if room == "g" { RoomKind::Group } else { RoomKind::Room };
    let role = prop_oneof![Just(Role::Member), Just(Role::Admin), Just(Role::Owner)];
    prop_oneof![
        2 => (room(), user()).prop_map(move |(room, owner)| {
            RoomCommand::Create { kind: kind(&room), room, owner, facts: Bytes::new() }
        }),
        1 => (room(), option::of(user()))
            .prop_map(|(room, owner)| RoomCommand::Change { room, owner, facts: None }),
        1 => room().prop_map(|room| RoomCommand::Destroy { room }),
        12 => (room(), user(), role, option::weighted(0.9, start()))
            .prop_map(|(room, user, role, from)| RoomCommand::Join { room, user, role, from }),
        4 => (room(), user(), option::of(start()))
            .prop_map(|(room, user, from)| RoomCommand::Leave { room, user, from }),
    ]
}

fn any_command() -> impl Strategy<Value = MetaCommand> {
    let up = (start(), 1..3_u16).prop_map(|((node, incarnation), port)| MetaCommand::NodeUp {
        node,
        incarnation,
        cluster_addr: format!("h:{port}"),
        client_addr: String::new(),
        version: "1".into(),
    });
    let up_from =
        (start(), 1..3_u8).prop_map(|((node, incarnation), folder)| MetaCommand::NodeUpFrom {
            node,
            incarnation,
            cluster_addr: "h:1".into(),
            client_addr: String::new(),
            version: "1".into(),
            folder: [folder; 16],
        });
    prop_oneof![
        6 => up,
        6 => up_from,
        2 => start().prop_map(|(node, incarnation)| MetaCommand::NodeDown { node, incarnation }),
        1 => node().prop_map(|node| MetaCommand::RemoveNode { node }),
        1 => start()
            .prop_map(|(node, incarnation)| MetaCommand::RoutesComplete { node, incarnation }),
        10 => (place(), vec(key(), 0..4))
            .prop_map(|(place, keys)| MetaCommand::AddRoutes { place, keys }),
        6 => (place(), vec(key(), 0..4))
            .prop_map(|(place, keys)| MetaCommand::RemoveRoutes { place, keys }),
        3 => (0..SHARDS + 1, node(), 1..4_u64).prop_map(|(shard, node, term)| {
            MetaCommand::ShardLed { shard: ShardId(shard), node, term }
        }),
        2 => (0..SHARDS + 1, vec(node(), 0..4)).prop_map(|(shard, replicas)| {
            MetaCommand::SetReplicas { shard: ShardId(shard), replicas }
        }),
        14 => room_command().prop_map(MetaCommand::Room),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// FENCED, PURE-CORE: replies and directory are those of the model, on two replicas that publish
    /// at different times, and on one that starts again from the store after each batch.
    #[test]
    fn machine_when_any_commands_then_as_the_model_says_on_every_replica(
        batches in vec((vec(any_command(), 1..4), any::<bool>()), 1..40)
    ) {
        let mut model = Model::default();
        let mut first = Replica::new(MemoryStore::default());
        let mut second = Replica::new(MemoryStore::default());
        for (at, (commands, publishes)) in batches.iter().enumerate() {
            let index = 10 * (at as u64 + 1);
            let expected: Vec<_> =
                commands.iter().map(|command| model.apply(index, command)).collect();
            prop_assert_eq!(&first.apply(index, commands), &expected);
            prop_assert_eq!(&second.apply(index, commands), &expected);
            let directory = model.directory(index);
            prop_assert_eq!(&*first.publish(), &directory);
            if *publishes {
                prop_assert_eq!(&*second.publish(), &directory);
            }
            let mut again = Replica::new(first.store.clone());
            prop_assert_eq!(again.seen.lock().reloads, 1);
            prop_assert_eq!(&*again.publish(), &directory);
            prop_assert_eq!(&again.machine.routes_of, &first.machine.routes_of);
            prop_assert_eq!(&again.machine.joined_from, &first.machine.joined_from);
            prop_assert_eq!(&again.machine.long_routes, &first.machine.long_routes);
            if at % 5 == 4 {
                // It goes on as the others do.
                again.machine.changes = Default::default();
                second = again;
            }
        }
        second.publish();
        prop_assert_eq!(&first.store.pairs, &second.store.pairs);
    }

    /// Rubbish is refused by every replica alike and changes nothing but the index.
    #[test]
    fn machine_when_bytes_are_no_commands_then_refused(bytes in vec(any::<u8>(), 0..200)) {
        let mut replica = Replica::new(MemoryStore::default());
        let batch = Bytes::from(bytes);
        prop_assume!(command::decode::<Vec<MetaCommand>>(&batch, 1 << 20).is_none());
        let reply = replica.machine.apply(7, &batch, &mut replica.store);
        let (index, replies): (u64, Vec<MetaReply>) = command::decode(&reply, 1 << 20).unwrap();
        prop_assert_eq!((index, replies), (7, vec![MetaReply::Refused(Refusal::Unreadable)]));
        prop_assert_eq!(replica.publish().index, 7);
        prop_assert_eq!(replica.store.pairs.len(), 1);
    }
}

fn up(node: u64, incarnation: u64) -> MetaCommand {
    MetaCommand::NodeUp {
        node: NodeId(node),
        incarnation,
        cluster_addr: "h:1".into(),
        client_addr: String::new(),
        version: String::new(),
    }
}

fn join(room: &'static str, user: Vec<u8>, node: u64) -> MetaCommand {
    let from = Some((NodeId(node), 1));
    let (room, user) = (bytes(room), Bytes::from(user));
    MetaCommand::Room(RoomCommand::Join { room, user, role: Role::Member, from })
}

fn create(room: Bytes, kind: RoomKind) -> MetaCommand {
    let (owner, facts) = (bytes("o"), bytes("facts"));
    MetaCommand::Room(RoomCommand::Create { room, kind, owner, facts })
}

#[test]
fn machine_when_one_thing_changes_then_only_that_is_written() {
    let mut replica = Replica::new(MemoryStore::default());
    replica.machine.limits.room_members = 10_000;
    replica.machine.limits.routes = 10_000;
    replica.apply(1, &[up(1, 1), create(bytes("r"), RoomKind::Room)]);
    let joins: Vec<_> = (0..2_000_u32).map(|n| join("r", n.to_be_bytes().to_vec(), 1)).collect();
    replica.apply(2, &joins);
    let place = Place::Node { node: NodeId(1), incarnation: 1 };
    let keys: Vec<_> = (0..2_000_u32).map(|n| Bytes::from(n.to_be_bytes().to_vec())).collect();
    replica.apply(3, &[MetaCommand::AddRoutes { place, keys: keys.clone() }]);
    for (index, command, writes) in [
        (4, join("r", b"new".to_vec(), 1), 1),
        (5, join("r", b"new".to_vec(), 1), 0),
        (6, MetaCommand::AddRoutes { place, keys: vec![keys[7].clone()] }, 0),
        (7, MetaCommand::RemoveRoutes { place, keys: vec![keys[7].clone()] }, 1),
    ] {
        replica.store.writes = 0;
        replica.apply(index, &[command]);
        // And the index.
        assert_eq!(replica.store.writes, writes + 1, "command {index}");
    }
    let (rooms, r) = (&replica.publish().rooms, bytes("r"));
    assert_eq!(rooms.get(&r).unwrap().members, 2_001);
    let page: Vec<_> = rooms.members(&r, None).take(3).map(|(user, _)| user.clone()).collect();
    let next = rooms.members(&r, Some(&page[2])).next().unwrap();
    assert_eq!(next.0.as_ref(), 3_u32.to_be_bytes());
    assert_eq!(rooms.of_user(&bytes("new"), None).collect::<Vec<_>>(), [&r]);
}

#[test]
fn machine_when_a_node_comes_with_another_folder_then_refused_whatever_its_number_is() {
    let mut replica = Replica::new(MemoryStore::default());
    let from = |incarnation, folder: u8| MetaCommand::NodeUpFrom {
        node: NodeId(2),
        incarnation,
        cluster_addr: format!("h:{folder}"),
        client_addr: String::new(),
        version: String::new(),
        folder: [folder; 16],
    };
    let refused = MetaReply::Refused(Refusal::OtherFolder);
    let mut index = 0;
    let mut expect = |replica: &mut Replica, command, reply| {
        index += 1;
        assert_eq!(replica.apply(index, &[command]), [reply]);
    };
    // Of a release that did not say it; then the first that does is the one.
    expect(&mut replica, up(2, 1), MetaReply::Done);
    expect(&mut replica, from(2, 7), MetaReply::Done);
    expect(&mut replica, from(2, 8), refused.clone());
    expect(&mut replica, from(9, 8), refused.clone());
    assert_eq!(replica.publish().nodes[&NodeId(2)].cluster_addr, "h:7");
    let down = MetaCommand::NodeDown { node: NodeId(2), incarnation: 2 };
    expect(&mut replica, down, MetaReply::Done);
    expect(&mut replica, from(10, 8), refused.clone());
    expect(&mut replica, from(2, 7), MetaReply::Fenced);
    // The same after a restart.
    let mut replica = Replica::new(replica.store);
    replica.machine.load(&replica.store);
    expect(&mut replica, from(11, 8), refused);
    expect(&mut replica, from(3, 7), MetaReply::Done);
    // Back at the older release it is not known any more, and the next one makes another.
    expect(&mut replica, up(2, 4), MetaReply::Done);
    expect(&mut replica, from(5, 9), MetaReply::Done);
}

/// BOUNDED: each limit is refused with its name, and nothing of such a command is kept.
#[test]
fn machine_when_a_limit_is_broken_then_refused_and_unchanged() {
    let mut replica = Replica::new(MemoryStore::default());
    replica.machine.limits.nodes = 2;
    replica.machine.limits.rooms = 2;
    replica.machine.limits.memberships = 2;
    replica.machine.limits.rooms_of_user = 1;
    let (g, h) = (bytes("g"), bytes("h"));
    let group = |room: &Bytes| create(room.clone(), RoomKind::Group);
    let made = replica.apply(1, &[up(1, 1), up(2, 1), group(&g), group(&h)]);
    assert_eq!(made[0], MetaReply::Done);
    let joined = |room: &'static str, user: &str| join(room, user.as_bytes().to_vec(), 1);
    replica.apply(2, &[joined("g", "u"), joined("h", "v")]);
    let before = replica.publish();
    let place = Place::Node { node: NodeId(1), incarnation: 1 };
    let long = |bytes: usize| Bytes::from(vec![b'x'; bytes]);
    let MetaCommand::NodeUp { node, incarnation, cluster_addr, version, .. } = up(2, 2) else {
        unreachable!()
    };
    let client_addr = "x".repeat(513);
    let wordy = MetaCommand::NodeUp { node, incarnation, cluster_addr, client_addr, version };
    let room = |command| MetaCommand::Room(command);
    let cases = [
        (up(3, 1), Refusal::Full),
        (wordy, Refusal::Limit),
        (MetaCommand::AddRoutes { place, keys: vec![bytes("k"), long(66_561)] }, Refusal::Limit),
        (MetaCommand::AddRoutes { place, keys: vec![bytes("k"); 4_097] }, Refusal::Limit),
        (
            MetaCommand::AddRoutes {
                place,
                keys: (0..=ROUTES_MAX)
                    .map(|n| Bytes::from(vec![u8::try_from(n).unwrap()]))
                    .collect(),
            },
            Refusal::Full,
        ),
        (create(bytes("i"), RoomKind::Group), Refusal::Full),
        (create(long(257), RoomKind::Group), Refusal::Limit),
        (create(Bytes::new(), RoomKind::Group), Refusal::Limit),
        (joined("g", "w"), Refusal::Full),
        (joined("g", ""), Refusal::Limit),
        (joined("g", &"x".repeat(641)), Refusal::Limit),
        (
            room(RoomCommand::Change { room: g.clone(), owner: None, facts: Some(long(4_097)) }),
            Refusal::Limit,
        ),
        (
            room(RoomCommand::Change { room: g.clone(), owner: Some(long(641)), facts: None }),
            Refusal::Limit,
        ),
        (
            MetaCommand::SetReplicas { shard: ShardId(0), replicas: (1..9).map(NodeId).collect() },
            Refusal::Limit,
        ),
    ];
    for (index, (command, why)) in (3..).zip(cases) {
        let replies = replica.apply(index, std::slice::from_ref(&command));
        assert_eq!(replies, [MetaReply::Refused(why)], "{command:?}");
        let after = replica.publish();
        assert_eq!(Directory { index: before.index, ..(*after).clone() }, *before);
    }
    // The bound of a user's rooms alone.
    replica.machine.limits.memberships = 3;
    assert_eq!(replica.apply(90, &[joined("g", "v")]), [MetaReply::Refused(Refusal::Full)]);
    let new = MetaReply::Room(RoomReply::Joined { new: true, members: 2 });
    assert_eq!(replica.apply(91, &[joined("g", "w")]), [new]);
}

/// Maps with several levels: pages and counts stay those of plain sets.
#[test]
fn rooms_when_there_are_thousands_of_members_then_pages_are_those_of_a_set() {
    let mut replica = Replica::new(MemoryStore::default());
    replica.machine.limits.room_members = 100_000;
    let names: Vec<_> = (0..7_u8).map(|room| Bytes::from(vec![b'r', room])).collect();
    let create = |room: &Bytes| create(room.clone(), RoomKind::Group);
    replica.apply(1, &[&[up(1, 1)][..], &names.iter().map(create).collect::<Vec<_>>()].concat());
    let mut members = std::collections::BTreeSet::new();
    let mut random = 1_u64;
    for index in 2..200 {
        let commands: Vec<_> = (0..64)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(index);
                let room = names[usize::try_from((random >> 33) % 7).unwrap()].clone();
                let user = Bytes::from(((random >> 40) % 1_500).to_be_bytes().to_vec());
                let pair = (room.clone(), user.clone());
                // More joins first, more leaves later.
                if (random >> 20) % 200 >= index {
                    members.insert(pair);
                    let role = Role::Member;
                    MetaCommand::Room(RoomCommand::Join { room, user, role, from: None })
                } else {
                    members.remove(&pair);
                    MetaCommand::Room(RoomCommand::Leave { room, user, from: None })
                }
            })
            .collect();
        replica.apply(index, &commands);
        let directory = replica.publish();
        if index % 20 == 0 {
            let rooms = &directory.rooms;
            for room in &names {
                let expected = members.iter().filter(|(of, _)| of == room);
                let expected: Vec<_> = expected.map(|(_, user)| user.clone()).collect();
                assert_eq!(rooms.get(room).unwrap().members as usize, expected.len());
                let mut found: Vec<Bytes> = Vec::new();
                loop {
                    let page = rooms.members(room, found.last()).take(50);
                    let page: Vec<_> = page.map(|(user, _)| user.clone()).collect();
                    let is_last = page.len() < 50;
                    found.extend(page);
                    if is_last {
                        break;
                    }
                }
                assert_eq!(found, expected);
            }
            let user = Bytes::from((index % 1_500).to_be_bytes().to_vec());
            let of_user = members.iter().filter(|(_, of)| *of == user).map(|(room, _)| room);
            assert!(rooms.of_user(&user, None).eq(of_user));
        }
    }
    assert_eq!(*replica.publish(), *Replica::new(replica.store.clone()).publish());
}
