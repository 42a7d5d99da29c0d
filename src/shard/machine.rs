//! The shard as the cluster sees it: bytes of a committed entry in, bytes of replies out.
//!
//! - Owns: the pure state, and where facts go.
//! - Takes: entries in log order. Gives: replies; facts before the reply returns.
//! - Facts are told again while entries are replayed at start, and for every filter after `load`; who takes
//!   them ignores what he knows.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use hongqiao_cluster::machine::{Machine, Store, StoreMut};
use tracing::error;

use super::{
    ask,
    command::Fact,
    encoding::{decode_batch, encode_replies},
    state::State,
};

/// Where facts go; called while an entry is applied, so it must not block.
pub type FactSink = Arc<dyn Fn(Fact) + Send + Sync>;

/// The state machine of one shard.
pub struct ShardMachine {
    pub(super) state: State,
    sink: FactSink,
}

impl ShardMachine {
    /// Makes a machine without state; the cluster calls `load` before anything else.
    #[must_use]
    pub fn new(sink: FactSink) -> Self {
        Self { state: State::default(), sink }
    }
}

impl Machine for ShardMachine {
    fn load(&mut self, store: &dyn Store) {
        self.state = State::load(store, &*self.sink);
    }

    fn apply(&mut self, index: u64, command: &Bytes, store: &mut dyn StoreMut) -> Bytes {
        match decode_batch(command) {
            Ok(commands) => encode_replies(&self.state.apply(index, commands, store, &*self.sink)),
            Err(cause) => {
                // Every replica of this version does the same: nothing, and says so.
                error!(index, %cause, "committed entry is unreadable");
                encode_replies(&[])
            }
        }
    }

    fn query(&self, question: &Bytes, store: &dyn Store) -> Bytes {
        ask::answer(question, self, store)
    }
}

impl fmt::Debug for ShardMachine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sessions = self.state.sessions.len();
        formatter.debug_struct("ShardMachine").field("sessions", &sessions).finish_non_exhaustive()
    }
}
