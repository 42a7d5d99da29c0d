//! Watches a cluster until an order is carried out, and shows how far it is.
//!
//! - Takes: reports of a node. Gives: a line that is written over on a terminal; elsewhere a line per news.
//! - Bound: a report per `INTERVAL`; an order may take as long as shards need to move. A node that cannot be asked
//!   for `SILENCE_MAX` ends it.

use std::{
    fmt::Write as _,
    io::{IsTerminal as _, stderr},
    sync::mpsc,
    time::Duration,
};

use indicatif::ProgressBar;
use serde_json::Value;

use super::super::{
    admin_client::AdminClient,
    table::{rows, text_of},
};
use crate::clock;

const INTERVAL: Duration = Duration::from_millis(300);

/// A node that cannot be asked for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// What a report shows of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It goes on.
    Moving,
    /// The node that is asked has nothing left to do and may stop at any time.
    MayStop,
    /// It is carried out.
    Done,
}

/// Asks until `look` sees the end. A node that may stop, and then cannot be asked, has come to its end.
///
/// # Errors
/// The node cannot be asked any more.
pub(super) fn watch(
    node: &AdminClient,
    quiet: bool,
    look: impl Fn(&Value) -> Seen,
) -> anyhow::Result<Seen> {
    let mut shown = Line::new(quiet);
    let (mut seen, mut heard) = (Seen::Moving, clock::now());
    loop {
        match node.get("cluster") {
            Ok(report) => {
                heard = clock::now();
                seen = look(&report);
                if seen == Seen::Done {
                    shown.end();
                    return Ok(seen);
                }
                shown.show(&line(&report));
            }
            Err(_) if seen == Seen::MayStop => {
                shown.end();
                return Ok(seen);
            }
            Err(why) if heard.elapsed() > SILENCE_MAX => {
                shown.end();
                return Err(why.context("what was ordered goes on by itself; ask another node"));
            }
            Err(_) => {}
        }
        rest(INTERVAL);
    }
}

/// Waits; a command has nothing else to do.
fn rest(time: Duration) {
    let (_tell, told) = mpsc::sync_channel::<()>(1);
    let _ = told.recv_timeout(time);
}

/// One line on what is on the move.
fn line(report: &Value) -> String {
    let mut text = String::new();
    for member in rows(&report["members_moving"]) {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "node {}: {} to get, {} to give; ",
            member["node"], member["to_get"], member["to_give"]
        );
    }
    for moving in rows(&report["groups_moving"]) {
        let _ = write!(
            text,
            "group {}: {} -> {}",
            moving["group"],
            text_of(&moving["now"]),
            text_of(&moving["to"])
        );
        for behind in rows(&moving["behind"]) {
            let _ = write!(text, ", node {} lacks {}", behind["node"], behind["entries"]);
        }
        if let Some([sent, all]) = moving["snapshot_bytes"].as_array().map(Vec::as_slice) {
            let mib = |bytes: &Value| bytes.as_u64().unwrap_or(0) >> 20;
            let _ = write!(text, ", snapshot {} of {} MiB", mib(sent), mib(all));
        }
        text += if moving["stuck"] == true { ", stuck; " } else { "; " };
    }
    let text = text.trim_end_matches("; ");
    if text.is_empty() { "waiting for the others".to_owned() } else { text.to_owned() }
}

/// A line that changes.
enum Line {
    Quiet,
    Terminal(ProgressBar),
    /// The last line that was written.
    Plain(String),
}

impl Line {
    fn new(quiet: bool) -> Self {
        if quiet {
            return Self::Quiet;
        }
        if stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(INTERVAL);
            return Self::Terminal(bar);
        }
        Self::Plain(String::new())
    }

    fn show(&mut self, text: &str) {
        match self {
            Self::Quiet => {}
            Self::Terminal(bar) => bar.set_message(text.to_owned()),
            Self::Plain(last) if last == text => {}
            Self::Plain(last) => {
                eprintln!("{text}");
                text.clone_into(last);
            }
        }
    }

    fn end(&self) {
        if let Self::Terminal(bar) = self {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_tells_who_moves_what_and_how_far() {
        let report = serde_json::json!({
            "members_moving": [{ "node": 4, "to_get": 0, "to_give": 3 }],
            "groups_moving": [{ "group": 2, "now": [1, 4], "to": [1, 5], "stuck": true,
                "behind": [{ "node": 5, "entries": 70 }], "snapshot_bytes": [3 << 20, 9 << 20] }],
        });
        assert_eq!(
            line(&report),
            "node 4: 0 to get, 3 to give; group 2: 1 4 -> 1 5, node 5 lacks 70, snapshot 3 of 9 MiB, stuck"
        );
        assert_eq!(line(&serde_json::json!({})), "waiting for the others");
    }
}
