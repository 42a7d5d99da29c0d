//! The index against `TopicFilter::matches`, one filter at a time.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse(text).expect("legal filter")
}

fn topic(text: &str) -> TopicName {
    TopicName::parse(text).expect("legal topic")
}

fn found(trie: &FilterTrie, app: AppId, name: &str) -> Vec<String> {
    let mut found = FoundFilters::new();
    trie.matches(app, &topic(name), &mut found);
    let mut texts: Vec<String> =
        found.iter().map(|&id| trie.filter(id).expect("in use").1.to_owned()).collect();
    texts.sort();
    texts
}

#[test]
fn match_when_topic_given_then_as_section_4_7() {
    let all = [
        "#", "+", "/+", "+/+", "$SYS/#", "$SYS/+", "+/b", "a", "a/#", "a/+", "a/+/#", "a/b",
        "a//c", "/",
    ];
    let mut trie = FilterTrie::new();
    for text in all {
        assert!(trie.insert(AppId(1), &filter(text)).1);
        assert!(!trie.insert(AppId(1), &filter(text)).1);
    }
    let table: [(&str, &[&str]); 7] = [
        ("a", &["#", "+", "a", "a/#"]),
        ("a/b", &["#", "+/+", "+/b", "a/#", "a/+", "a/+/#", "a/b"]),
        ("a//c", &["#", "a/#", "a/+/#", "a//c"]),
        ("/", &["#", "+/+", "/", "/+"]),
        ("$SYS", &["$SYS/#"]),
        ("$SYS/b", &["$SYS/#", "$SYS/+"]),
        ("x/y/z", &["#"]),
    ];
    for (name, want) in table {
        let mut want: Vec<String> = want.iter().map(|&text| text.to_owned()).collect();
        want.sort();
        assert_eq!(found(&trie, AppId(1), name), want, "topic {name}");
        assert!(found(&trie, AppId(2), name).is_empty());
    }
}

#[test]
fn remove_when_last_of_a_path_then_nodes_and_numbers_are_reused() {
    let mut trie = FilterTrie::new();
    let (long, _) = trie.insert(AppId(1), &filter("a/+/c/d/#"));
    let (short, _) = trie.insert(AppId(1), &filter("a/+"));
    trie.remove(long);
    trie.remove(long);
    assert_eq!(trie.len(), 1);
    assert_eq!(found(&trie, AppId(1), "a/b/c/d"), Vec::<String>::new());
    assert_eq!(found(&trie, AppId(1), "a/b"), ["a/+"]);
    trie.remove(short);
    assert!(trie.is_empty());
    assert_eq!(trie.levels.live_nodes(), 0);
    assert_eq!(trie.insert(AppId(2), &filter("x")).0, short);
    assert_eq!(trie.filter(short), Some((AppId(2), "x")));
}

#[test]
fn match_when_filters_are_hostile_then_nodes_visited_stay_within_the_filters_levels() {
    // Every combination of `+` and `a` over twelve levels, ended by `#`: each node is walked once.
    let mut trie = FilterTrie::new();
    for bits in 0..1u32 << 12 {
        let levels: Vec<&str> = (0..12).map(|at| ["+", "a"][(bits >> at & 1) as usize]).collect();
        trie.insert(AppId(1), &filter(&format!("{}/#", levels.join("/"))));
    }
    let mut hits = FoundFilters::new();
    trie.matches(AppId(1), &topic(&["a"; 60].join("/")), &mut hits);
    assert_eq!(hits.len(), 1 << 12);
    hits.clear();
    trie.matches(AppId(1), &topic(&"/".repeat(60_000)), &mut hits);
    assert_eq!(hits.len(), 1);
}

#[test]
fn exact_filters_when_many_then_all_are_found_and_tables_shrink() {
    let mut trie = FilterTrie::new();
    let ids: Vec<FilterId> =
        (0..20_000).map(|n| trie.insert(AppId(n % 3), &filter(&format!("device/{n}"))).0).collect();
    for (n, &id) in (0u32..).zip(&ids) {
        assert_eq!(trie.get(AppId(n % 3), &filter(&format!("device/{n}"))), Some(id));
    }
    for &id in &ids {
        trie.remove(id);
    }
    assert!(trie.is_empty());
    let capacity: usize = trie.exact.iter().map(HashTable::capacity).sum();
    assert!(capacity <= TABLES * 64, "{capacity}");
}

fn a_filter() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec!["a", "b", "", "$s", "+", "long level name"]),
        1..6,
    )
    .prop_flat_map(|levels| {
        let text = levels.join("/");
        prop_oneof![Just(text.clone()), Just(format!("{text}/#")), Just("#".to_owned())]
    })
    .prop_filter("not empty", |text| !text.is_empty())
}

fn a_topic() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "", "$s", "long level name"]), 1..7)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("not empty", |text| !text.is_empty())
}

proptest! {
    #[test]
    fn matches_after_any_history_then_equal_the_linear_scan(
        steps in prop::collection::vec((any::<bool>(), 0u32..2, a_filter()), 1..80),
        topics in prop::collection::vec((0u32..2, a_topic()), 1..20),
    ) {
        let mut trie = FilterTrie::new();
        let mut model = BTreeMap::new();
        for (add, app, text) in steps {
            let (app, filter) = (AppId(app), filter(&text));
            if add {
                let (id, new) = trie.insert(app, &filter);
                prop_assert_eq!(new, model.insert((app, filter), id).is_none());
            } else if let Some(id) = model.remove(&(app, filter.clone())) {
                trie.remove(id);
                prop_assert_eq!(trie.get(app, &filter), None);
            }
        }
        prop_assert_eq!(trie.len(), model.len());
        prop_assert_eq!(model.values().collect::<BTreeSet<_>>().len(), model.len());
        for ((app, filter), id) in &model {
            prop_assert_eq!(trie.get(*app, filter), Some(*id));
            prop_assert_eq!(trie.filter(*id), Some((*app, filter.as_str())));
        }
        for (app, text) in topics {
            let topic = topic(&text);
            let mut have = FoundFilters::new();
            trie.matches(AppId(app), &topic, &mut have);
            have.sort();
            let mut want: Vec<FilterId> = model
                .iter()
                .filter(|((of, filter), _)| *of == AppId(app) && filter.matches(&topic))
                .map(|(_, id)| *id)
                .collect();
            want.sort();
            prop_assert_eq!(&have[..], &want[..]);
        }
    }
}
