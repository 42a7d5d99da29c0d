//! The integration tests: one binary, against a real server process or a foreign broker.
//!
//! `tests/README.md` says which folder takes which kind of test and how to run them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a helper that fails is a test that fails"
)]
#![allow(dead_code, reason = "helpers stand ready for tests to come")]

mod support;
mod mqtt;
mod delivery;
mod cluster;
mod bad_input;
mod clients;
mod cli;
mod operation;
mod chaos;
mod tidy;
