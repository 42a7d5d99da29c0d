//! What the fuzz target demands of topic names, filters and shares; also run by `tests/fuzz_corpus.rs`.
//!
//! - Takes: arbitrary bytes, `filter \\n name`. Gives: nothing; panics where a promise is broken.
//! - Promises: no panic; both ways to read a name agree; matching agrees with the words of MQTT 5.0
//!   section 4.7, and so does the trie.

use bytes::Bytes;
use hongqiao::model::{
    id::AppId,
    topic::{TopicError, TopicFilter, TopicName, parse_share},
    trie::{FilterTrie, FoundFilters},
};

const BYTES_MAX: usize = 200;
const LEVELS_MAX: usize = 12;

/// Feeds `data` to the parsers.
pub(crate) fn topics(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let filter = parts.next().unwrap_or_default();
    let name = name(parts.next().unwrap_or_default());
    let bytes = Bytes::copy_from_slice(filter);
    if let Ok(Some((share, rest))) = parse_share(&bytes) {
        assert_eq!([b"$share/", &share[..], b"/", &rest[..]].concat(), filter);
        assert!(!share.is_empty() && !rest.is_empty());
    }
    let Ok(text) = std::str::from_utf8(filter) else { return };
    let Ok(filter) = TopicFilter::parse(text) else { return };
    assert_eq!(filter.as_str(), text);
    let Some(name) = name else { return };
    let matches = filter.matches(&name);
    assert_eq!(matches, by_the_book(text, name.as_str()), "{text:?} {name:?}");
    let mut trie = FilterTrie::new();
    let (id, _) = trie.insert(AppId(1), &filter);
    let mut found = FoundFilters::new();
    trie.matches(AppId(1), &name, &mut found);
    assert_eq!(found.contains(&id), matches, "{text:?} {name:?}");
}

/// Reads a name in both ways.
fn name(data: &[u8]) -> Option<TopicName> {
    let strict = TopicName::from_bytes(Bytes::copy_from_slice(data), BYTES_MAX, LEVELS_MAX);
    let loose = std::str::from_utf8(data).ok().map(TopicName::parse);
    match (&strict, &loose) {
        (Ok(one), Some(Ok(other))) => assert_eq!(one, other),
        (Err(TopicError::TooLong { .. } | TopicError::TooDeep { .. }), Some(Ok(name))) => {
            let deep = name.as_str().split('/').count() > LEVELS_MAX;
            assert!(deep || data.len() > BYTES_MAX);
        }
        (Err(_), Some(Err(_))) => {}
        (Err(error), None) => assert!(matches!(error, TopicError::NotUtf8)),
        other => panic!("two ways to read a name differ: {other:?}"),
    }
    loose?.ok()
}

/// Matches as the specification says it, level by level.
fn by_the_book(filter: &str, name: &str) -> bool {
    let (filters, names): (Vec<_>, Vec<_>) =
        (filter.split('/').collect(), name.split('/').collect());
    if name.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return false;
    }
    let open = filters.last() == Some(&"#");
    let fixed = &filters[..filters.len() - usize::from(open)];
    let enough = if open { names.len() >= fixed.len() } else { names.len() == fixed.len() };
    enough && fixed.iter().zip(&names).all(|(filter, name)| *filter == "+" || filter == name)
}
