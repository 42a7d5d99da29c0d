//! What the log says of one peer: a line when it is out of reach, a line when it is back.
//!
//! ```text
//! a link ends ──▶ nothing yet ──▶ next try fails ──▶ "out of reach" and why, once for all classes
//!                            └──▶ next try works ──▶ nothing
//! every class connected, and it was not before ──▶ "in reach"
//! ```
//!
//! - Owns: which classes of a peer are connected, what was said of it. Takes: what its links meet.
//! - Gives: lines. Bound: `TOLD_MAX` reasons, each said again after `SAY_AGAIN` at the earliest.
//! - Source: own design.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::super::Class;
use crate::{clock, id::NodeId};

/// Trouble that lasts is said again after this time.
const SAY_AGAIN: Duration = Duration::from_secs(10 * 60);

/// Reasons that are remembered as said.
const TOLD_MAX: usize = 8;

/// What is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Nothing,
    Gone,
    Back,
}

#[derive(Default)]
struct State {
    connected: [bool; 3],
    in_reach: bool,
    told: Vec<(String, Instant)>,
}

/// See the head of the file.
pub(super) struct News {
    peer: NodeId,
    state: Mutex<State>,
}

impl News {
    pub(super) fn of(peer: NodeId) -> Self {
        Self { peer, state: Mutex::default() }
    }

    /// A link was made.
    pub(super) fn connected(&self, class: Class, address: &str, version: u16) {
        if self.state.lock().connected(class) == Line::Back {
            tracing::info!(peer = self.peer.0, address, version, "node in reach");
        }
    }

    /// A link ended, or could not be made; `is_rubbish` if the peer sent what no node sends.
    pub(super) fn failed(&self, class: Class, address: &str, why: &str, is_rubbish: bool) {
        if self.state.lock().failed(class, why, is_rubbish, clock::now()) == Line::Gone {
            tracing::warn!(peer = self.peer.0, %class, address, why, "node out of reach");
        } else {
            tracing::debug!(peer = self.peer.0, %class, address, why, "no link");
        }
    }
}

impl State {
    fn connected(&mut self, class: Class) -> Line {
        self.connected[class as usize - 1] = true;
        if self.in_reach || self.connected != [true; 3] {
            return Line::Nothing;
        }
        self.in_reach = true;
        self.told.clear();
        Line::Back
    }

    fn failed(&mut self, class: Class, why: &str, is_rubbish: bool, now: Instant) -> Line {
        let was = std::mem::take(&mut self.connected[class as usize - 1]);
        // The next try tells whether the peer is gone, or only this connection was.
        if was && !is_rubbish {
            return Line::Nothing;
        }
        self.told.retain(|(_, at)| now - *at < SAY_AGAIN);
        if self.told.len() >= TOLD_MAX || self.told.iter().any(|(told, _)| told == why) {
            return Line::Nothing;
        }
        self.in_reach = false;
        self.told.push((why.to_owned(), now));
        Line::Gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_when_it_goes_and_comes_back_then_one_line_each() {
        let (mut state, now) = (State::default(), clock::now());
        let come = |state: &mut State| Class::ALL.map(|class| state.connected(class));
        let fail = |state: &mut State, why, at| {
            Class::ALL.map(|class| state.failed(class, why, false, at))
        };
        assert_eq!(come(&mut state), [Line::Nothing, Line::Nothing, Line::Back]);
        assert_eq!(fail(&mut state, "closed", now), [Line::Nothing; 3]);
        assert_eq!(come(&mut state), [Line::Nothing; 3], "it was not gone");
        fail(&mut state, "closed", now);
        let gone = [Line::Gone, Line::Nothing, Line::Nothing];
        assert_eq!(fail(&mut state, "refused", now), gone);
        assert_eq!(fail(&mut state, "refused", now + SAY_AGAIN / 2), [Line::Nothing; 3]);
        assert_eq!(fail(&mut state, "no route", now + SAY_AGAIN / 2), gone);
        assert_eq!(fail(&mut state, "refused", now + SAY_AGAIN), gone);
        assert_eq!(come(&mut state)[2], Line::Back);
    }

    #[test]
    fn peer_when_it_sends_rubbish_then_said_at_once() {
        let (mut state, now) = (State::default(), clock::now());
        state.connected(Class::Control);
        assert_eq!(state.failed(Class::Control, "rubbish", true, now), Line::Gone);
        state.connected(Class::Control);
        assert_eq!(state.failed(Class::Control, "rubbish", true, now), Line::Nothing);
    }

    #[test]
    fn peer_when_its_reasons_never_end_then_few_are_said() {
        let (mut state, now) = (State::default(), clock::now());
        let lines = (0..100).map(|n| state.failed(Class::Control, &n.to_string(), false, now));
        assert_eq!(lines.filter(|line| *line == Line::Gone).count(), TOLD_MAX);
    }
}
