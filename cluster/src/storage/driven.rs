//! Storage without threads: what the flusher and the checkpointer do, as tasks of a simulation.
//!
//! ```text
//! server      thread: Writer::run     thread: Checkpointer::run     spawn_blocking
//! simulation  task:   Writer::drive   task:   Checkpointer::drive   at once (runtime::aside)
//! ```
//!
//! - Owns: nothing. Takes: how long each operation of the disk takes, in virtual time.
//! - Gives: the same log and the same checkpointer; only who calls them differs.
//! - Bound: simulations only.
//! - Source: own design; ARCHITECTURE.md, "Simulation".

use std::{sync::Arc, time::Duration};

/// How long the next operation of the disk takes.
pub(crate) type Delay = Arc<dyn Fn() -> Duration + Send + Sync>;
