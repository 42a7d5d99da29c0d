//! What the kernel says of this process.
//!
//! - Takes: `/proc/self`. Gives: memory, processor time, threads, descriptors; zeros where the system
//!   has no `/proc`.
//! - Blocks: some microseconds for four reads; `/proc` is no disk. Counting descriptors takes about
//!   a millisecond for 10,000 of them, so a scrape asks the size of `/proc/self/fd` where the kernel
//!   tells it (Linux 6.2).

use std::{fs, os::unix::fs::MetadataExt as _};

use crate::clock;

/// Clock ticks of `/proc/self/stat` in a second; Linux shows 100 to programs on every machine.
const TICKS_PER_SEC: f64 = 100.0;

/// The resources that the process holds or has used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessUsage {
    /// Resident memory.
    pub resident_bytes: u64,
    /// User and system time.
    pub cpu_secs: f64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Their limit.
    pub max_fds: u64,
    /// Start, seconds since 1970.
    pub start_time_secs: f64,
}

impl ProcessUsage {
    /// Reads the usage now.
    #[must_use]
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let status = text("/proc/self/status");
        let stat = text("/proc/self/stat");
        // The name of the process may hold blanks; the numbers begin after its last parenthesis.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let field =
            |at: usize| -> f64 { fields.get(at).and_then(|f| f.parse().ok()).unwrap_or(0.0) };
        Self {
            resident_bytes: number_after(&status, "VmRSS:").saturating_mul(1_024),
            cpu_secs: (field(11) + field(12)) / TICKS_PER_SEC,
            threads: number_after(&status, "Threads:"),
            open_fds: open_fds(),
            max_fds: number_after(&text("/proc/self/limits"), "Max open files"),
            start_time_secs: start_time_secs(field(19) / TICKS_PER_SEC, &text("/proc/uptime")),
        }
    }
}

/// Finds the first number after `label`.
fn number_after(text: &str, label: &str) -> u64 {
    let rest = text.split_once(label).map_or("", |(_, rest)| rest);
    rest.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn open_fds() -> u64 {
    let told = fs::metadata("/proc/self/fd").map_or(0, |data| data.size());
    if told > 0 {
        return told;
    }
    let count = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// `/proc` counts from the start of the machine.
fn start_time_secs(after_boot_secs: f64, uptime: &str) -> f64 {
    let uptime_secs: f64 =
        uptime.split_whitespace().next().and_then(|secs| secs.parse().ok()).unwrap_or(0.0);
    #[expect(clippy::cast_precision_loss, reason = "a wall clock in milliseconds is below 2^53")]
    let now_secs = clock::wall_ms() as f64 / 1_000.0;
    now_secs - uptime_secs + after_boot_secs
}
