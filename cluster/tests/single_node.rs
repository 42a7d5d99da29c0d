//! One node from outside: propose, read, restart, back up.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]

mod support;

use std::collections::BTreeSet;

use bytes::Bytes;
use hongqiao_cluster::{
    Cluster, MetaCommand, MetaReply, Place, ProposeError, ReadError, Role, RoomCommand, RoomKind,
    StartError, Store, id::ShardId, recover::Survivor,
};
use support::{
    Notes, SHARD, block_on, delete, note, note_key, options, position, put, start, wait_until,
};

#[test]
fn node_when_a_command_is_proposed_then_replied_and_readable() {
    let temp = tempfile::tempdir().unwrap();
    let node = start(&options(temp.path()));
    let handle = node.handle();
    block_on(async {
        assert!(handle.is_ready());
        handle.propose(SHARD, put("a", b"1")).await.unwrap();
        let reply = handle.propose(SHARD, note(b"x")).await.unwrap();
        assert_eq!(reply.as_ref(), 0_u64.to_be_bytes());
        let value = handle.read(SHARD, |_, store| store.get(b"a")).await.unwrap();
        assert_eq!(value, Some(Bytes::from_static(b"1")));
        let other = handle.read(ShardId(2), |_, store| store.get(b"a")).await.unwrap();
        assert_eq!(other, None);
        let none = handle.propose(ShardId(4), note(b"")).await;
        assert_eq!(none, Err(ProposeError::Unavailable));
        let large = handle.propose(SHARD, put("large", &vec![0; (4 << 20) + 1])).await;
        assert_eq!(large, Err(ProposeError::TooLarge));
        assert_eq!(handle.read(ShardId(9), |_, _| ()).await, Err(ReadError::Unavailable));
    });
    node.shutdown();
    block_on(async {
        assert_eq!(handle.propose(SHARD, note(b"")).await, Err(ProposeError::Unavailable));
        assert!(!handle.is_ready());
    });
}

#[test]
fn node_when_restarted_then_everything_is_there_and_the_incarnation_grew() {
    let temp = tempfile::tempdir().unwrap();
    let options = options(temp.path());
    let key = {
        let node = start(&options);
        let handle = node.handle();
        block_on(async {
            for round in 0..100_u32 {
                handle.propose(SHARD, note(&round.to_be_bytes())).await.unwrap();
            }
            handle.propose(SHARD, put("gone", b"x")).await.unwrap();
            handle.propose(SHARD, delete("gone")).await.unwrap();
        });
        assert_eq!(handle.incarnation(), 1);
        handle.hash_key()
    };
    for start_number in 2..4 {
        let node = start(&options);
        let handle = node.handle();
        assert_eq!((handle.incarnation(), handle.hash_key()), (start_number, key));
        block_on(async {
            let ask = |notes: &Notes, store: &dyn Store| {
                (notes.next, store.scan(&note_key(0), b"o", 1_000), store.get(b"gone"))
            };
            let (next, notes, gone) = handle.read(SHARD, ask).await.unwrap();
            assert_eq!((next, notes.len(), gone), (100, 100, None));
            assert!(notes.iter().enumerate().all(|(at, (key, _))| position(key) == at as u64));
        });
        node.shutdown();
    }
}

#[test]
fn node_when_proposals_come_from_many_threads_then_each_keeps_its_order() {
    let temp = tempfile::tempdir().unwrap();
    let node = start(&options(temp.path()));
    let handle = node.handle();
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let handle = handle.clone();
            scope.spawn(move || {
                // All are enqueued before the first is polled, and awaited backwards.
                let value = |number: u32| [&[thread][..], &number.to_be_bytes()].concat();
                let mut proposed: Vec<_> =
                    (0..500).map(|number| handle.propose(SHARD, note(&value(number)))).collect();
                block_on(async {
                    let mut after = u64::MAX;
                    while let Some(reply) = proposed.pop() {
                        let at = u64::from_be_bytes(reply.await.unwrap()[..].try_into().unwrap());
                        assert!(at < after);
                        after = at;
                    }
                });
            });
        }
    });
    let count = block_on(handle.read(SHARD, |notes, _| notes.next)).unwrap();
    assert_eq!(count, 8 * 500);
}

#[test]
fn node_when_values_are_large_then_kept_in_pieces_and_blobs_stay_empty() {
    let temp = tempfile::tempdir().unwrap();
    let options = options(temp.path());
    let large = |seed: u8, bytes: u32| {
        (0..bytes).map(|at| (at.wrapping_mul(31) >> 3) as u8 ^ seed).collect::<Vec<_>>()
    };
    let sizes = [1_u32 << 20, 4_096, 4_097, 1_536, 1_537, 0, 300_000];
    let node = start(&options);
    let handle = node.handle();
    block_on(async {
        for (seed, bytes) in (0..).zip(sizes) {
            let key = format!("large-{seed}");
            handle.propose(SHARD, put(&key, &large(!seed, 2_000_000))).await.unwrap();
            wait_until_stored(&handle);
            handle.propose(SHARD, put(&key, &large(seed, bytes))).await.unwrap();
        }
    });
    node.shutdown();
    let node = start(&options);
    let handle = node.handle();
    block_on(async {
        let found = handle.read(SHARD, |_, store| store.scan(b"l", b"m", 100)).await.unwrap();
        assert_eq!(found.len(), sizes.len());
        for (seed, bytes) in (0..).zip(sizes) {
            let value =
                handle.read(SHARD, move |_, store| store.get(format!("large-{seed}").as_bytes()));
            assert!(value.await.unwrap().unwrap() == large(seed, bytes), "value {seed}");
        }
    });
    let blobs = std::fs::read_dir(options.data_dir.join("state/blobs"));
    assert_eq!(blobs.map_or(0, Iterator::count), 0, "sled does not sync blobs");
}

fn wait_until_stored(handle: &hongqiao_cluster::ClusterHandle<Notes>) {
    let handle = handle.clone();
    std::thread::spawn(move || {
        wait_until("a checkpoint", || handle.stats().checkpoint_lag_entries == 0);
    })
    .join()
    .unwrap();
}

#[test]
fn node_when_checkpoints_pass_then_the_log_is_purged_and_segments_go() {
    let temp = tempfile::tempdir().unwrap();
    let options = options(temp.path());
    let node = start(&options);
    let handle = node.handle();
    let value = vec![7; 1 << 20];
    block_on(async {
        for round in 0..100 {
            let key = format!("key-{}", round % 3);
            handle.propose(ShardId(round % 4), put(&key, &value)).await.unwrap();
        }
    });
    wait_until("the log is short", || {
        let _ = block_on(handle.propose(SHARD, put("tick", b"")));
        handle.stats().log_bytes < 40 << 20
    });
    assert!(handle.stats().log_written_bytes > 100 << 20);
    drop(node);
    let node = start(&options);
    let handle = node.handle();
    let found = block_on(handle.read(SHARD, |_, store| store.scan(b"k", b"l", 10))).unwrap();
    assert_eq!(found.len(), 3);
    // The segments of the first life count, and count no more when they go.
    block_on(async {
        for round in 0..80 {
            handle.propose(ShardId(round % 4), put("key-0", &value)).await.unwrap();
        }
    });
    wait_until("the log is short again", || {
        let _ = block_on(handle.propose(SHARD, put("tick", b"")));
        (1..40 << 20).contains(&handle.stats().log_bytes)
    });
}

#[test]
fn backup_when_written_while_running_then_restored_and_a_node_starts_on_it() {
    let temp = tempfile::tempdir().unwrap();
    let options = options(temp.path());
    let node = start(&options);
    let handle = node.handle();
    let target = temp.path().join("backup");
    block_on(async {
        for round in 0..200_u32 {
            handle.propose(ShardId((round % 4) as u16), note(&[5; 700])).await.unwrap();
        }
        handle.backup(&target).await.unwrap();
        handle.propose(SHARD, note(b"later")).await.unwrap();
        assert!(handle.backup(&target).await.is_err(), "a backup never overwrites");
    });
    let copy = hongqiao_cluster::Options { data_dir: target, ..options };
    // As it is, it would be a second node of the same cluster.
    let refused =
        Cluster::start(copy.clone(), |_| Notes::default(), std::sync::Arc::new(|_, _| {}));
    assert!(matches!(refused.err(), Some(StartError::Backup { .. })));
    let survivor = Survivor::open(&copy.data_dir).unwrap();
    survivor.found(&BTreeSet::new()).unwrap();
    for round in 0..2 {
        let restored: Cluster<Notes> = start(&copy);
        let restored_handle = restored.handle();
        assert_eq!(restored_handle.hash_key(), handle.hash_key());
        assert!(restored_handle.incarnation() > handle.incarnation());
        block_on(async {
            let next = restored_handle.read(SHARD, |notes, _| notes.next).await.unwrap();
            assert_eq!(next, 50 + round);
            restored_handle.propose(SHARD, note(b"new")).await.unwrap();
        });
    }
}

#[test]
fn node_when_more_is_proposed_than_permitted_then_overloaded_and_nothing_written() {
    let temp = tempfile::tempdir().unwrap();
    let options = hongqiao_cluster::Options { proposals_max: 10, ..options(temp.path()) };
    let node = start(&options);
    let handle = node.handle();
    wait_until("the start owes nobody a reply", || handle.stats().proposals_waiting == 0);
    let proposed: Vec<_> = (0..1_000).map(|_| handle.propose(SHARD, note(b"x"))).collect();
    block_on(async {
        let mut taken = 0;
        let mut refused = 0;
        for reply in proposed {
            match reply.await {
                Ok(_) => taken += 1,
                Err(ProposeError::Overloaded) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(taken >= 10 && refused > 0, "{taken} {refused}");
        let next = handle.read(SHARD, |notes, _| notes.next).await.unwrap();
        assert_eq!(next, taken);
        handle.propose(SHARD, note(b"y")).await.unwrap();
    });
}

#[test]
fn directory_when_restarted_then_rooms_are_there_and_what_was_live_is_gone() {
    let temp = tempfile::tempdir().unwrap();
    let options = options(temp.path());
    let (node, room) = (options.node, Bytes::from_static(b"room"));
    let (live, durable) = (Bytes::from_static(b"live"), Bytes::from_static(b"durable"));
    let cluster = start(&options);
    let meta = cluster.handle().meta().clone();
    assert!(meta.directory().is_alone(node) && meta.has_lease());
    assert!(meta.directory().is_up(node, 1));
    assert_eq!(meta.directory().replicas(SHARD), [node]);
    let done = |command| {
        let (reply, index) = block_on(meta.propose(command)).unwrap();
        assert!(matches!(reply, MetaReply::Done | MetaReply::Room(_)), "{reply:?}");
        // It is in the directory when the reply is there.
        assert!(meta.directory().index >= index);
    };
    let place = Place::Node { node, incarnation: 1 };
    done(MetaCommand::AddRoutes { place, keys: vec![live.clone()] });
    done(MetaCommand::ShardLed { shard: SHARD, node, term: 1 });
    let place = Place::Shard { shard: SHARD, term: 1 };
    done(MetaCommand::AddRoutes { place, keys: vec![live, durable.clone()] });
    let (kind, owner, facts) = (RoomKind::Group, Bytes::new(), Bytes::new());
    done(MetaCommand::Room(RoomCommand::Create { room: room.clone(), kind, owner, facts }));
    let (user, role) = (Bytes::from_static(b"user"), Role::Owner);
    done(MetaCommand::Room(RoomCommand::Join { room, user, role, from: None }));
    let before = meta.directory();
    cluster.shutdown();
    let cluster = start(&options);
    let after = cluster.handle().meta().directory();
    assert!(after.is_up(node, 2) && after.index > before.index);
    assert_eq!(after.rooms, before.rooms);
    assert_eq!(after.routes.len(), 2);
    assert!(after.routes.values().all(|places| places.nodes.is_empty()));
    assert!(after.routes[&durable].has_shard(SHARD));
}
