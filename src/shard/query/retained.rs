//! Retained messages that match a filter, paged.
//!
//! - Takes: a filter and where to go on. Gives: messages in the order of their topics.
//! - Bound: the limits of the page (at least one message), and `LOOKED_AT_MAX` topics looked at in one
//!   call. Only topics that begin as the filter does before its first wildcard are looked at, and the
//!   larger they are the fewer are read at once.
//! - Source: MQTT 5.0 sections 3.3.1.3 and 4.7.

use std::sync::Arc;

use hongqiao_cluster::machine::Store;

use super::PageLimits;
use crate::{
    limits,
    model::{
        id::AppId,
        topic::{TopicFilter, TopicName},
    },
    shard::{command::RetainedPage, key, state::read_retained},
};

/// Topics looked at in one call.
const LOOKED_AT_MAX: usize = 1_024;
/// Topics read at once, at most.
const TOPICS_PER_SCAN_MAX: usize = 64;
/// Topics read at once before anybody knows how large they are.
const TOPICS_PER_SCAN_FIRST: usize = 4;

/// Reads retained messages of `app` that match `filter` and stand after the topic `after`.
///
/// - Shape: `next` says where to go on, even if there are no messages in this page. The page ends with the
///   message that reaches a limit.
/// - Left out: what has expired at `now_ms`.
#[must_use]
pub fn retained(
    store: &dyn Store,
    app: AppId,
    filter: &TopicFilter,
    after: Option<&TopicName>,
    limits: PageLimits,
    now_ms: u64,
) -> RetainedPage {
    let mut page = RetainedPage { messages: Vec::new(), next: None };
    if !filter.has_wildcard() {
        let found = store.get(&key::retained(app, filter.as_bytes()));
        let found = found.as_ref().and_then(read_retained);
        let live = found.filter(|(_, message)| after.is_none() && !message.is_expired(now_ms));
        page.messages.extend(live.map(|(version, message)| (version, Arc::new(message))));
        return page;
    }
    let (mut from, to) = range(app, filter);
    if let Some(topic) = after {
        from = from.max(key::after(&key::retained(app, topic.as_bytes())));
    }
    let (mut looked_at, mut bytes) = (0, 0);
    let mut per_scan = TOPICS_PER_SCAN_FIRST;
    loop {
        let found = store.scan(&from, &to, per_scan);
        for (key, value) in &found {
            let Ok(topic) = TopicName::from_utf8_bytes(key::retained_topic(key)) else { continue };
            looked_at += 1;
            if filter.matches(&topic)
                && let Some((version, message)) = read_retained(value)
                && !message.is_expired(now_ms)
            {
                bytes += value.len();
                page.messages.push((version, Arc::new(message)));
            }
            let full = page.messages.len() >= limits.messages || bytes >= limits.bytes;
            if full || looked_at >= LOOKED_AT_MAX {
                page.next = Some(topic);
                return page;
            }
        }
        match found.last() {
            Some((last, _)) if found.len() == per_scan => from = key::after(last),
            _ => return page,
        }
        let scanned: usize = found.iter().map(|(_, value)| value.len()).sum();
        let fit = limits::PAGE_BYTES_MAX * per_scan / scanned.max(1);
        per_scan = fit.clamp(1, per_scan * 2).min(TOPICS_PER_SCAN_MAX);
    }
}

/// Returns the keys of all topics that begin as the filter does.
fn range(app: AppId, filter: &TopicFilter) -> (Vec<u8>, Vec<u8>) {
    let text = filter.as_bytes();
    let wildcard = text.iter().position(|byte| matches!(byte, b'+' | b'#')).unwrap_or(text.len());
    // `a/#` matches `a` as well, so its prefix ends before the slash.
    let end = if text.get(wildcard) == Some(&b'#') { wildcard.saturating_sub(1) } else { wildcard };
    let from = key::retained(app, &text[..end]);
    // UTF-8 has no byte 0xFF.
    let mut to = from.clone();
    to.push(0xff);
    (from, to)
}
