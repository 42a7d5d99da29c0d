//! The filter index beside a linear scan, and what a filter costs in memory.
//!
//! - Prints: nanoseconds per match, the ratio to `TopicFilter::matches` over all filters, and bytes per
//!   filter as the growth of resident memory.

#[path = "support/ratio.rs"]
mod ratio;

use std::fs;

use hongqiao::model::{
    id::AppId,
    topic::{TopicFilter, TopicName},
    trie::{FilterTrie, FoundFilters},
};
use ratio::compare;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const APP: AppId = AppId(1);
/// Filters of the comparison; a linear scan over more would take all day.
const FILTERS: u32 = 1_000;
const MATCHES: u32 = 1_000;
/// Filters of the memory figure.
const FILTERS_MANY: u32 = 1_000_000;
const PAGE_BYTES: u64 = 4_096;

fn main() {
    for (title, text) in [
        ("match one of 1,000 exact filters", exact as fn(u32) -> String),
        ("match among 1,000 filters with one wildcard", |n| format!("site/{}/+/{n}", n % 10)),
        ("match among 1,000 filters with #", |n| format!("site/{}/{n}/#", n % 10)),
    ] {
        speed(title, text);
    }
    memory("exact, 20 bytes", exact);
    memory("wildcard, 20 bytes", |n| format!("device/{n:010}/+/x"));
}

/// Exactly 20 bytes.
fn exact(n: u32) -> String {
    format!("device/{n:010}/up")
}

fn speed(title: &str, text: fn(u32) -> String) {
    let parsed = |n| TopicFilter::parse(text(n)).ok();
    let filters: Vec<TopicFilter> = (0..FILTERS).filter_map(parsed).collect();
    let mut trie = FilterTrie::new();
    for filter in &filters {
        trie.insert(APP, filter);
    }
    let name = |n: u32| text(n * 7 % FILTERS).replace('+', "x").replace('#', "y/z");
    let topics: Vec<TopicName> =
        (0..MATCHES).filter_map(|n| TopicName::parse(name(n)).ok()).collect();
    let by_trie = || {
        let mut found = FoundFilters::new();
        let mut hits = 0;
        for topic in &topics {
            found.clear();
            trie.matches(APP, topic, &mut found);
            hits += found.len() as u64;
        }
        hits
    };
    let by_scan = || {
        let hits =
            |topic: &TopicName| filters.iter().filter(|filter| filter.matches(topic)).count();
        topics.iter().map(|topic| hits(topic) as u64).sum()
    };
    compare(title, MATCHES, vec![("trie", Box::new(by_trie)), ("linear scan", Box::new(by_scan))]);
}

#[expect(clippy::print_stdout, reason = "a bench talks to a person")]
fn memory(title: &str, text: fn(u32) -> String) {
    let mut trie = FilterTrie::new();
    let before = resident_bytes();
    for n in 0..FILTERS_MANY {
        if let Ok(filter) = TopicFilter::parse(text(n)) {
            trie.insert(APP, &filter);
        }
    }
    let grown = resident_bytes().saturating_sub(before);
    println!(
        "{title}: {} bytes per filter ({} filters)",
        grown / u64::from(FILTERS_MANY),
        trie.len()
    );
}

/// Resident memory of this process (Linux).
fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}
