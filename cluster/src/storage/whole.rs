//! Whether a folder still has its log: who has lost that has forgotten votes and entries, and must not count as
//! the member that gave them.
//!
//! - Owns: nothing. Takes: a log that was read, the states, the mark of the folder. Gives: why not to start.
//! - Bound: one look-up per group.
//! - A vote precedes every entry and an entry every state, and the folder is marked before any group starts: so no
//!   folder is refused that was cut off on its first steps.
//! - Source: own design.

use std::path::Path;

use super::{
    log::Log,
    state::{blocks::META, kv::Kv},
};
use crate::error::StartError;

/// Refuses a folder whose log is gone; `was_begun`: it is marked as having one.
///
/// # Errors
/// `LogMissing`. Nothing was written.
pub(crate) fn check(
    log: &Log,
    kv: &dyn Kv,
    groups: u16,
    was_begun: bool,
    folder: &Path,
) -> Result<(), StartError> {
    if !log.was_empty {
        return Ok(());
    }
    let missing = || Err(StartError::LogMissing { path: folder.join("log") });
    if was_begun {
        return missing();
    }
    let unreadable = StartError::of_state("read the state in", &folder.join("state"));
    for group in 0..groups {
        if kv.get(group, META).map_err(&unreadable)?.is_some() {
            return missing();
        }
    }
    Ok(())
}
