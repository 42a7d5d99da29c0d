//! Folders that are new, known, foreign, newer, older, removed or damaged.

use super::{format::Migration, *};

#[test]
fn folder_when_opened_again_then_same_secrets_and_next_incarnation() {
    let temp = tempfile::tempdir().unwrap();
    let options = Options::new(temp.path().join("data"));
    let first = Folder::open(&options).unwrap();
    let format = first.format.clone();
    assert!(matches!(Folder::open(&options), Err(StartError::Locked { .. })));
    assert_eq!(first.incarnation.now(), 1);
    // Declared down while it ran, and again after others had seen a later start.
    assert_eq!(first.incarnation.take_behind(1).unwrap(), 2);
    assert_eq!(first.incarnation.take_behind(5).unwrap(), 6);
    drop(first);
    let again = Folder::open(&options).unwrap();
    assert_eq!((again.format.clone(), again.incarnation.now()), (format, 7));
    let mode = fs::metadata(&options.data_dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn folder_when_joined_then_of_that_cluster_and_known_as_such() {
    let temp = tempfile::tempdir().unwrap();
    let options = Options::new(temp.path().join("data"));
    let shards = options.shards;
    let format = Format { number: 1, cluster: [7; 16], hash_key: [8; 16], shards, joined: false };
    let few = Format { shards: 3, ..format.clone() };
    let entered = Folder::enter(&options).unwrap();
    let refused = entered.join(options.node, &few, &options);
    assert!(matches!(refused, Err(StartError::Mismatch { .. })));
    let joined = Format { number: FORMAT, joined: true, ..format.clone() };
    let entered = Folder::enter(&options).unwrap();
    assert!(entered.is_new());
    assert_eq!(entered.join(options.node, &format, &options).unwrap().format, joined);
    let again = Folder::enter(&options).unwrap();
    assert!(!again.is_new());
    assert_eq!(again.open().unwrap().format, joined);
}

#[test]
fn folder_when_its_node_has_no_id_then_the_one_that_it_is_given_stays() {
    let temp = tempfile::tempdir().unwrap();
    let options = Options { node: NodeId::NONE, ..Options::new(temp.path()) };
    let shards = options.shards;
    let format =
        Format { number: FORMAT, cluster: [7; 16], hash_key: [8; 16], shards, joined: true };
    // A start that was let in by nobody leaves no trace.
    drop(Folder::enter(&options).unwrap());
    let entered = Folder::enter(&options).unwrap();
    assert_eq!((entered.node(), entered.incarnation.now()), (NodeId::NONE, 1));
    drop(entered.join(NodeId(4), &format, &options).unwrap());
    let again = Folder::enter(&options).unwrap();
    assert_eq!((again.node(), again.incarnation.now()), (NodeId(4), 2));
    again.incarnation.set_removed().unwrap();
    // What counts on by itself meanwhile takes no mark away.
    again.incarnation.take_behind(7).unwrap();
    drop(again);
    assert!(matches!(Folder::enter(&options), Err(StartError::Removed { node: 4, .. })));
}

#[test]
fn founder_when_it_has_no_id_then_node_1() {
    let temp = tempfile::tempdir().unwrap();
    let options = Options { node: NodeId::NONE, ..Options::new(temp.path()) };
    assert_eq!(Folder::open(&options).unwrap().incarnation.node(), NodeId(1));
}

#[test]
fn folder_when_not_ours_then_refused() {
    let temp = tempfile::tempdir().unwrap();
    let options = Options::new(temp.path());
    drop(Folder::open(&options).unwrap());
    let other = Options { shards: 8, ..options.clone() };
    assert!(matches!(Folder::open(&other), Err(StartError::Mismatch { field: "shards", .. })));
    let other = Options { node: NodeId(2), ..options.clone() };
    assert!(matches!(Folder::open(&other), Err(StartError::Mismatch { field: "node", .. })));
    let node = temp.path().join("node");
    let used_up = NodeRecord { node: options.node.0, incarnation: u64::MAX, ..Default::default() };
    fs::write(&node, used_up.text()).unwrap();
    assert!(matches!(Folder::open(&options), Err(StartError::FormatDamaged { .. })));
    fs::create_dir(temp.path().join("state")).unwrap();
    fs::remove_file(temp.path().join("FORMAT")).unwrap();
    assert!(matches!(Folder::open(&options), Err(StartError::FormatDamaged { .. })));
    fs::write(temp.path().join("FORMAT"), "format = 99\n").unwrap();
    let newer = Folder::open(&options);
    assert!(matches!(newer, Err(StartError::FormatNewer { found: 99, known: FORMAT, .. })));
}

#[test]
fn folder_when_older_then_each_migration_runs_once() {
    let temp = tempfile::tempdir().unwrap();
    let options = Options::new(temp.path());
    drop(Folder::open(&options).unwrap());
    let count = |folder: &Path| {
        let path = folder.join("migrated");
        let before = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, before + "x")
    };
    let migrations = [Migration { from: FORMAT, run: count }];
    for _ in 0..2 {
        // Reading stops at the number of this release, so the second pass is simulated.
        let format = read(&temp.path().join("FORMAT")).unwrap().unwrap();
        let format = migrate(temp.path(), format, &migrations).unwrap();
        assert_eq!(format.number, FORMAT + 1);
    }
    assert_eq!(fs::read_to_string(temp.path().join("migrated")).unwrap(), "x");
}
