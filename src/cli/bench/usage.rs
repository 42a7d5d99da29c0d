//! What a process has used: CPU time and memory, from `/proc`.
//!
//! - Takes: a process id. Gives: [`Usage`]. Blocks: for a read of a file in memory.
//! - Bound: CPU time comes in ticks of 10 ms. Source: proc(5), fields 14 and 15 of `stat`, `VmRSS`.

use std::fs;

use anyhow::Context as _;

/// Ticks per second of `/proc/PID/stat`; 100 on every Linux that we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process as it stands now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    /// User and system time since it began, all threads, ended ones too.
    pub(super) cpu_seconds: f64,
    /// Resident memory.
    pub(super) resident_bytes: u64,
}

impl Usage {
    /// Reads a process.
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{pid}/{file}"))
                .with_context(|| format!("cannot read the usage of process {pid}"))
        };
        let parsed = Self::parse(&read("stat")?, &read("status")?);
        parsed.with_context(|| format!("/proc/{pid} has a form that is not known"))
    }

    /// Reads several processes; the sum of them, `None` of none.
    pub(super) fn of_all(pids: &[u32]) -> anyhow::Result<Option<Self>> {
        let mut sum = None;
        for pid in pids {
            let one = Self::of(*pid)?;
            let sum: &mut Self = sum.get_or_insert_default();
            sum.cpu_seconds += one.cpu_seconds;
            sum.resident_bytes += one.resident_bytes;
        }
        Ok(sum)
    }

    /// Reads ourselves.
    pub(super) fn of_self() -> anyhow::Result<Self> {
        Self::of(std::process::id())
    }

    fn parse(stat: &str, status: &str) -> Option<Self> {
        // The second field is a name in parentheses that may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = resident.split_whitespace().next()?.parse().ok()?;
        Some(Self {
            cpu_seconds: (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND,
            resident_bytes: kib * 1024,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Usage;

    #[test]
    fn stat_with_a_strange_name_when_parsed_then_right_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4 1 0 0 0 150 50 0 0 20 0 1 0 1 1 1";
        let usage = Usage::parse(stat, "Name:\ta\nVmRSS:\t  12 kB\n").unwrap();
        assert_eq!(usage, Usage { cpu_seconds: 2.0, resident_bytes: 12_288 });
    }

    #[test]
    fn processes_when_several_then_summed() {
        assert_eq!(Usage::of_all(&[]).unwrap(), None);
        let own = std::process::id();
        let (one, two) = (Usage::of_all(&[own]).unwrap(), Usage::of_all(&[own, own]).unwrap());
        assert!(two.unwrap().resident_bytes > one.unwrap().resident_bytes * 3 / 2);
        assert!(Usage::of_all(&[own, u32::MAX]).is_err());
    }

    #[test]
    fn own_process_when_read_then_uses_memory() {
        assert!(Usage::of_self().unwrap().resident_bytes > 0);
    }
}
