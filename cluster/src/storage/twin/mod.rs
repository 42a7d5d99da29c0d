//! Twins of the disk and of the store: they record calls, forget what was not synced, fail, or lose
//! power at a given write.
//!
//! - Owns: what a test would otherwise find on a disk. Takes: the same calls. Gives: what a test asks.
//! - Bound: none; tests only.
//! - Source: own design.

mod disk;
mod kv;
mod power;
mod shelf;

pub(crate) use disk::{Call, DiskTwin};
pub(crate) use kv::KvTwin;
pub(crate) use power::Power;
pub(crate) use shelf::ShelfTwin;

/// Decides what outlives a loss of power: a number below the one it is given.
///
/// Always 0 stands for the worst case in which nothing does that was not synced.
pub(crate) type Dice<'a> = &'a mut dyn FnMut(usize) -> usize;

/// Nothing outlives that was not synced.
pub(crate) fn nothing(_: usize) -> usize {
    0
}
