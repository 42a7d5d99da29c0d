//! FLUSH-THEN-ACK as the kernel sees it: the order of system calls around an acknowledgement.

use std::process::Command;

use crate::support::{node::Node, packet::Publish, wait::let_pass};

/// Runs a node under the tracer, publishes marked messages one at a time for an absent durable
/// session, and returns the lines of the trace.
fn trace(durability: &str, calls: &str) -> Vec<String> {
    let installed = Command::new("strace").arg("-V").output().is_ok();
    assert!(installed, "strace is missing; get it with: apt-get install strace");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let out = folder.path().join("trace");
    let mut node = Node::start_under(
        &[
            "strace",
            "-f",
            "-s",
            "600",
            "-e",
            calls,
            "-e",
            "signal=none",
            "-o",
            out.to_str().unwrap(),
        ],
        &[("storage.durability", durability)],
    );
    let mut away = node.broker().v5("away").durable().connect();
    away.subscribe("m/#", 2);
    away.disconnect();
    let mut from = node.broker().v5("from").durable().connect();
    for n in 0..8 {
        // An id that shows in the trace: two letters.
        let id = 0x4141 + n;
        let qos = 1 + (n % 2) as u8;
        from.publish_with(Publish {
            id,
            ..crate::support::mqtt_client::message(&format!("m/MARK{n}"), "body", qos)
        });
        // Apart from each other, so that no flush serves two.
        let_pass(std::time::Duration::from_millis(60));
    }
    node.kill();
    let text = std::fs::read(&out).unwrap();
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}

/// Where message `n` was read, and where its PUBACK or PUBREC was written.
fn window(lines: &[String], n: usize) -> (usize, usize) {
    let read = ["read", "recv", "<... read", "<... recv"];
    let is_read = |line: &str| {
        let call = line.split_once(' ').map_or("", |(_, call)| call.trim_start());
        read.iter().any(|name| call.starts_with(name))
    };
    let mark = format!("m/MARK{n}");
    let from = lines
        .iter()
        .position(|line| is_read(line) && line.contains(&mark))
        .unwrap_or_else(|| panic!("no read of {mark} in {} lines", lines.len()));
    // PUBACK is "@", PUBREC is "P"; both are followed by length 2 and the id.
    let ack = format!("{}\\2A{}", ["@", "P"][n % 2], char::from(b'A' + n as u8));
    let to = lines[from..]
        .iter()
        .position(|line| !is_read(line) && line.contains(&ack))
        .unwrap_or_else(|| panic!("no write of {ack}"));
    (from, from + to)
}

#[test]
fn disk_mode_flushes_to_the_device_before_it_acknowledges() {
    let _turn = super::alone();
    if !crate::support::broker::broker().ours {
        return;
    }
    let calls = "trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,fdatasync,fsync";
    let lines = trace("disk", calls);
    for n in 0..8 {
        let (from, to) = window(&lines, n);
        // A call that was entered after the message was read, and has returned before the ack.
        let between = &lines[from..to];
        let synced = between.iter().enumerate().any(|(at, line)| {
            let whole = line.contains("sync(") && line.ends_with("= 0");
            let pid = line.split_whitespace().next().unwrap_or_default();
            let resumed = line.contains("sync resumed") && line.ends_with("= 0");
            let entered = between[..at].iter().any(|earlier| {
                earlier.starts_with(pid)
                    && earlier.contains("sync(")
                    && earlier.contains("unfinished")
            });
            whole || (resumed && entered)
        });
        assert!(synced, "message {n} was acknowledged before a flush:\n{}", between.join("\n"));
    }
}

#[test]
fn os_mode_hands_the_message_to_the_kernel_before_it_acknowledges() {
    let _turn = super::alone();
    if !crate::support::broker::broker().ours {
        return;
    }
    let calls = "trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64,pwritev,\
                 sync_file_range";
    let lines = trace("os", calls);
    for n in 0..8 {
        let (from, to) = window(&lines, n);
        let stored = lines[from..to].iter().any(|line| {
            line.contains("pwrite") || line.contains("sync_file_range") || line.contains("write(")
        });
        assert!(stored, "message {n} was acknowledged before a write to a file");
    }
}
