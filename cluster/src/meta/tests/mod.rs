//! The meta group's machine and handle: rules, replicas that agree, what is left after a start.
//!
//! - Owns: machines on a store in memory. Takes: nothing. Gives: failures that name the promise they break.
//! - Bound: tests only. Promises: FENCED, BOUNDED, PURE-CORE.

mod handle;
mod keeper;
mod leaving;
mod lease;
mod machine;
mod model;
