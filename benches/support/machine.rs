//! Where numbers come from: a number without its machine and commit says nothing.
//!
//! - Takes: `/proc`, git. Gives: one line of text; what cannot be read is "unknown".

use std::{fs, process::Command};

/// Names processor, kernel, load and commit.
pub(crate) fn line() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        processors.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let model = model.unwrap_or("unknown processor");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown");
    let described = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let commit = described.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    let commit = commit.as_deref().map(str::trim).filter(|text| !text.is_empty());
    let commit = commit.unwrap_or("unknown");
    format!("{cores} x {model}, Linux {}, load {load}, commit {commit}", kernel.trim())
}
