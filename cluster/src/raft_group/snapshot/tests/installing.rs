//! A snapshot takes the place of a state at once or never, whatever the disk does meanwhile.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{GROUP, Ground, INSTALL, content, id};
use crate::{
    error::StartError,
    raft_group::snapshot::install,
    storage::{
        log::Log,
        shelf::Shelf,
        state::{blocks::META, kv::Kv as _},
        twin::{KvTwin, Power, ShelfTwin},
    },
};

async fn redo(kv: &KvTwin, shelf: &ShelfTwin, log: &Arc<Log>) -> Result<(), StartError> {
    let shelf: Arc<dyn Shelf> = Arc::new(shelf.clone());
    install::redo(&shelf, kv, log, 2, Path::new("folder")).await
}

#[tokio::test]
async fn install_when_the_node_dies_at_any_write_then_the_next_start_has_the_old_or_the_new_state()
{
    let source = Ground::empty().filled(40, 400, 3_000);
    let old = Ground::empty().filled(7, 250, 3_000);
    let (old_content, new_content) = (old.content(), source.content());
    let (mut olds, mut news) = (0, 0);
    for writes in 0.. {
        for keep_all in [false, true] {
            let power = Arc::new(Power::default());
            let kv = old.kv.after_crash_with(power.clone(), &mut |n| n - 1);
            let shelf = old.shelf.after_crash_with(power.clone());
            power.cut_after(writes);
            let node = Ground::new(kv, shelf);
            node.make_install(&source).await;
            node.install().await.unwrap();
            node.shelf.remove(INSTALL).unwrap();
            let done = !power.is_cut();
            // Again, with the power going while it is done again.
            for again in 0..2 {
                let power = Arc::new(Power::default());
                let kept = |n: usize| if keep_all { n - 1 } else { n / 2 };
                let mut kept = kept;
                let kv = node.kv.after_crash_with(power.clone(), &mut kept);
                let shelf = node.shelf.after_crash_with(power.clone());
                power.cut_after(again * 4);
                redo(&kv, &shelf, &node.log).await.unwrap();
                let (mut all, calm) = (|n: usize| n - 1, Arc::new(Power::default()));
                let kv = kv.after_crash_with(calm.clone(), &mut all);
                let shelf = shelf.after_crash_with(calm);
                redo(&kv, &shelf, &node.log).await.unwrap();
                let content = content(&kv);
                match content == old_content {
                    true => olds += 1,
                    false => news += usize::from(content == new_content),
                }
                assert!(content == old_content || content == new_content, "at write {writes}");
                assert_eq!(shelf.count(), 0, "the install file stays");
            }
            if done && keep_all {
                assert!(olds > 0 && news > 10, "{olds} old, {news} new");
                return;
            }
        }
    }
}

#[tokio::test]
async fn install_when_the_disk_fails_for_a_while_then_it_is_done_afterwards() {
    let source = Ground::empty().filled(40, 500, 2_000);
    let node = Ground::empty().filled(7, 300, 100);
    node.make_install(&source).await;
    node.kv.0.fail.store(true, Ordering::SeqCst);
    let kv = node.kv.clone();
    let heals = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(60)).await;
        kv.0.fail.store(false, Ordering::SeqCst);
    });
    assert_eq!(node.install().await.unwrap().last_log_id, Some(id(40)));
    heals.await.unwrap();
    assert_eq!(node.content(), source.content());
}

#[tokio::test]
async fn install_file_older_than_the_state_then_a_start_removes_it() {
    let source = Ground::empty().filled(40, 10, 10);
    let node = Ground::empty().filled(41, 10, 10);
    let before = node.content();
    node.make_install(&source).await;
    redo(&node.kv, &node.shelf, &node.log).await.unwrap();
    assert_eq!(node.content(), before);
    assert_eq!(node.shelf.count(), 0);
}

#[tokio::test]
async fn damaged_install_file_then_thrown_away_if_the_state_is_whole_and_a_refusal_if_not() {
    let source = Ground::empty().filled(40, 50, 100);
    let node = Ground::empty().filled(7, 50, 100);
    let before = node.content();
    node.make_install(&source).await;
    node.shelf.damage(INSTALL, 1_000);
    redo(&node.kv, &node.shelf, &node.log).await.unwrap();
    assert_eq!((node.content(), node.shelf.count()), (before, 0));

    // The log goes on behind the snapshot only: the old state is of no use.
    node.make_install(&source).await;
    node.shelf.damage(INSTALL, 1_000);
    node.log.purge(GROUP, id(40));
    let refused = redo(&node.kv, &node.shelf, &node.log).await;
    assert!(matches!(refused, Err(StartError::StateHalf { shard: GROUP, .. })));

    // Half a state, with or without its file.
    let node = Ground::empty().filled(7, 50, 100);
    node.make_install(&source).await;
    node.shelf.damage(INSTALL, 1_000);
    node.kv.apply(GROUP, vec![(META.to_vec(), None)]).unwrap();
    let refused = redo(&node.kv, &node.shelf, &node.log).await;
    assert!(matches!(refused, Err(StartError::StateHalf { shard: GROUP, .. })));
    node.shelf.remove(INSTALL).unwrap();
    let refused = redo(&node.kv, &node.shelf, &node.log).await;
    assert!(matches!(&refused, Err(StartError::StateHalf { .. })));
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("half replaced") && text.contains("restore the folder"), "{text}");
}
