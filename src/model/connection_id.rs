//! The node's own name for one connection.
//!
//! - Owns: nothing; a plain value of eight bytes, held instead of an actor address (110 B).
//! - Gives: worker thread, slot in its table, and a generation so that a reused slot is told apart.

use serde::{Deserialize, Serialize};

/// Worker thread (8 bits, of which two stay zero), generation (24 bits), slot (32 bits).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// Puts the three parts together; `generation` is cut to 24 bits.
    #[must_use]
    pub fn new(worker: u8, generation: u32, slot: u32) -> Self {
        Self(u64::from(worker) << 56 | u64::from(generation & 0x00ff_ffff) << 32 | u64::from(slot))
    }

    /// Returns the number as sent to a shard (`Holder::connection`).
    #[must_use]
    pub fn to_u64(self) -> u64 {
        self.0
    }

    /// Reads the number back.
    #[must_use]
    pub fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// Which worker thread.
    #[must_use]
    pub fn worker(self) -> usize {
        usize::from(self.0.to_be_bytes()[0])
    }

    /// Which start of its slot.
    #[must_use]
    pub fn generation(self) -> u32 {
        u32::try_from(self.0 >> 32 & 0x00ff_ffff).unwrap_or(0)
    }

    /// Which place in its worker's table.
    #[must_use]
    pub fn slot(self) -> u32 {
        u32::try_from(self.0 & 0xffff_ffff).unwrap_or(0)
    }
}

impl std::fmt::Debug for ConnectionId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "c{}.{}.{}", self.worker(), self.slot(), self.generation())
    }
}
