//! Every metric of a node, declared once: name, unit, labels, help.
//!
//! - Owns: the table [`METRICS`] and the text form. Takes: a [`Snapshot`], gathered at the scrape.
//! - Gives: OpenMetrics text.
//! - Bound: a fixed number of lines; no label takes its value from a client.
//! - Source: OpenMetrics 1.0. A plain sum at the scrape costs the threads that count nothing.

mod process;
mod snapshot;
mod page;

use prometheus_client::{encoding::text, registry::Registry};

use page::Page;

pub use self::{
    process::ProcessUsage,
    snapshot::{Latencies, Snapshot},
};

/// Media type of [`Snapshot::to_text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One number and its label values, in the order of its metric's labels.
pub type Sample = (Vec<&'static str>, f64);

use Kind::{Counter, Gauge, Histogram};

/// What a metric counts, and where its numbers come from.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter(fn(&Snapshot) -> Vec<Sample>),
    Gauge(fn(&Snapshot) -> Vec<Sample>),
    Histogram(fn(&Snapshot) -> &Latencies),
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name without unit and without `_total`.
    stem: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    kind: Kind,
}

impl Metric {
    /// Returns the name under which samples are found.
    #[must_use]
    pub fn name(&self) -> String {
        let mut name = self.stem.to_owned();
        if !self.unit.is_empty() {
            name.push('_');
            name.push_str(self.unit);
        }
        if matches!(self.kind, Counter(_)) {
            name.push_str("_total");
        }
        name
    }
}

const fn metric(
    stem: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    kind: Kind,
) -> Metric {
    Metric { stem, unit, labels, help, kind }
}

/// All metrics, in the order of the page.
pub const METRICS: [Metric; 38] = [
    metric(
        "hongqiao_build",
        "",
        &["version"],
        "Always 1; tells the version",
        Gauge(|_| vec![(vec![env!("CARGO_PKG_VERSION")], 1.0)]),
    ),
    metric("hongqiao_connections", "", &[], "Connections open now", Gauge(|s| one(s.connections))),
    metric(
        "hongqiao_connections_opened",
        "",
        &[],
        "Connections opened since the start",
        Counter(|s| one(s.connections_opened)),
    ),
    metric(
        "hongqiao_connections_refused",
        "",
        &[],
        "Connections closed at once because their listener had its limit",
        Counter(|s| one(s.connections_refused)),
    ),
    metric(
        "hongqiao_messages",
        "",
        &["direction", "qos"],
        "Published messages from clients (in) and to clients (out)",
        Counter(Snapshot::messages),
    ),
    metric(
        "hongqiao_network",
        "bytes",
        &["direction"],
        "Bytes read from clients (in) and written to clients (out)",
        Counter(Snapshot::bytes),
    ),
    metric(
        "hongqiao_messages_dropped",
        "",
        &["cause"],
        "Messages that did not reach one receiver, counted once for each receiver",
        Counter(|s| causes(&s.dropped)),
    ),
    metric(
        "hongqiao_socket_writes",
        "",
        &[],
        "System calls that wrote to clients",
        Counter(|s| one(s.socket_writes)),
    ),
    metric(
        "hongqiao_handler_panics",
        "",
        &[],
        "Handlers that panicked; each ended its own connection alone",
        Counter(|s| one(s.panics)),
    ),
    metric(
        "hongqiao_subscriptions",
        "",
        &[],
        "Subscriptions of connected clients",
        Gauge(|s| one(s.subscriptions)),
    ),
    metric(
        "hongqiao_routes",
        "",
        &[],
        "Filters with connected subscribers that other nodes know of, or are being told of",
        Gauge(|s| one(s.routes)),
    ),
    metric(
        "hongqiao_relay",
        "bytes",
        &[],
        "Bytes of messages that wait for other nodes, or for them to say that they have them",
        Gauge(|s| one(s.relay_bytes)),
    ),
    metric(
        "hongqiao_groups_led",
        "",
        &[],
        "Groups, that of the metadata included, that this node leads",
        Gauge(|s| one(s.groups_led)),
    ),
    metric(
        "hongqiao_groups_leaderless",
        "",
        &[],
        "Groups without a leader, as far as this node knows",
        Gauge(|s| one(s.groups_leaderless)),
    ),
    metric(
        "hongqiao_follower_lag",
        "entries",
        &[],
        "Entries that the slowest follower is behind, of the groups that this node leads",
        Gauge(|s| one(s.follower_lag_entries)),
    ),
    metric(
        "hongqiao_links",
        "",
        &["class", "state"],
        "Links to other nodes",
        Gauge(Snapshot::links),
    ),
    metric(
        "hongqiao_sessions",
        "",
        &[],
        "Durable sessions, connected or not",
        Gauge(|s| one(s.sessions)),
    ),
    metric(
        "hongqiao_retained_messages",
        "",
        &[],
        "Retained messages",
        Gauge(|s| one(s.retained_messages)),
    ),
    metric(
        "hongqiao_queue_messages",
        "",
        &[],
        "Messages stored for durable sessions, each once however many wait for it",
        Gauge(|s| one(s.queue_messages)),
    ),
    metric(
        "hongqiao_queue",
        "bytes",
        &[],
        "Bytes of the messages stored for durable sessions",
        Gauge(|s| one(s.queue_bytes)),
    ),
    metric(
        "hongqiao_commands_waiting",
        "",
        &[],
        "Durable commands that wait for their commit",
        Gauge(|s| one(s.commands_waiting)),
    ),
    metric(
        "hongqiao_writes_refused",
        "",
        &["cause"],
        "Durable writes that were refused",
        Counter(|s| causes(&s.writes_refused)),
    ),
    metric(
        "hongqiao_flush_duration",
        "seconds",
        &[],
        "Time of one flush of the write-ahead log",
        Histogram(|s| &s.flush),
    ),
    metric(
        "hongqiao_log_written",
        "bytes",
        &[],
        "Bytes written to the write-ahead log",
        Counter(|s| one(s.log_written_bytes)),
    ),
    metric(
        "hongqiao_log",
        "bytes",
        &[],
        "Bytes that the write-ahead log takes on disk",
        Gauge(|s| one(s.log_bytes)),
    ),
    metric(
        "hongqiao_log_memory",
        "bytes",
        &[],
        "Bytes of the write-ahead log held in memory until a checkpoint covers them",
        Gauge(|s| one(s.log_memory_bytes)),
    ),
    metric(
        "hongqiao_table",
        "bytes",
        &[],
        "Bytes applied but not in a checkpoint yet",
        Gauge(|s| one(s.table_bytes)),
    ),
    metric(
        "hongqiao_state",
        "bytes",
        &[],
        "Bytes that the state takes on disk",
        Gauge(|s| one(s.state_bytes)),
    ),
    metric(
        "hongqiao_checkpoints",
        "",
        &[],
        "Checkpoints of the state",
        Counter(|s| one(s.checkpoints)),
    ),
    metric(
        "hongqiao_checkpoint",
        "seconds",
        &[],
        "Time that checkpoints took together",
        Counter(|s| vec![(Vec::new(), s.checkpoint_secs)]),
    ),
    metric(
        "hongqiao_disk_retries",
        "",
        &[],
        "Times that a failing disk was tried again",
        Counter(|s| one(s.disk_retries)),
    ),
    metric(
        "hongqiao_disk_writable",
        "",
        &[],
        "1 while the disk takes durable writes, else 0",
        Gauge(|s| one(s.disk_writable.into())),
    ),
    metric(
        "process_resident_memory",
        "bytes",
        &[],
        "Resident memory of the process",
        Gauge(|s| one(s.process.resident_bytes)),
    ),
    metric(
        "process_cpu",
        "seconds",
        &[],
        "User and system time of the process",
        Counter(|s| vec![(Vec::new(), s.process.cpu_secs)]),
    ),
    metric("process_threads", "", &[], "Threads of the process", Gauge(|s| one(s.process.threads))),
    metric(
        "process_open_fds",
        "",
        &[],
        "Open file descriptors",
        Gauge(|s| one(s.process.open_fds)),
    ),
    metric(
        "process_max_fds",
        "",
        &[],
        "Limit of open file descriptors",
        Gauge(|s| one(s.process.max_fds)),
    ),
    metric(
        "process_start_time",
        "seconds",
        &[],
        "When the process started, since 1970",
        Gauge(|s| vec![(Vec::new(), s.process.start_time_secs)]),
    ),
];

impl Snapshot {
    /// Writes the page that a scrape gets.
    #[must_use]
    pub fn to_text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Page(self)));
        let mut page = String::with_capacity(8 * 1_024);
        // Writing to a string does not fail.
        let _ = text::encode(&mut page, &registry);
        page
    }

    fn messages(&self) -> Vec<Sample> {
        let of = |direction, counts: &[u64; 3]| {
            let pairs = ["0", "1", "2"].into_iter().zip(*counts);
            pairs.map(move |(qos, count)| (vec![direction, qos], float(count))).collect::<Vec<_>>()
        };
        let mut samples = of("in", &self.messages_in);
        samples.extend(of("out", &self.messages_out));
        samples
    }

    fn links(&self) -> Vec<Sample> {
        let links = self.links.iter();
        links.map(|(class, state, count)| (vec![*class, *state], float(*count))).collect()
    }

    fn bytes(&self) -> Vec<Sample> {
        vec![(vec!["in"], float(self.bytes_in)), (vec!["out"], float(self.bytes_out))]
    }
}

fn one(number: u64) -> Vec<Sample> {
    vec![(Vec::new(), float(number))]
}

fn causes(counts: &[(&'static str, u64)]) -> Vec<Sample> {
    counts.iter().map(|(cause, count)| (vec![*cause], float(*count))).collect()
}

/// Counters beyond 2^53 lose their last digits; at a million a second that is after 285 years.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> String {
        let buckets = vec![(0.0001, 0), (0.0002, 3), (5.0, 0), (f64::INFINITY, 1)];
        let snapshot = Snapshot {
            connections: 7,
            messages_in: [1, 2, 3],
            messages_out: [4, 5, 6],
            bytes_out: 1_000,
            dropped: vec![("slow", 9)],
            writes_refused: vec![("disk_full", 2)],
            links: vec![("control", "broken", 2)],
            flush: Latencies { buckets, sum_secs: 6.5 },
            process: ProcessUsage::read(),
            ..Snapshot::default()
        };
        snapshot.to_text()
    }

    #[test]
    fn page_has_each_number_in_its_place() {
        let page = page();
        for line in [
            "hongqiao_connections 7.0",
            "hongqiao_messages_total{direction=\"in\",qos=\"2\"} 3.0",
            "hongqiao_messages_total{direction=\"out\",qos=\"0\"} 4.0",
            "hongqiao_network_bytes_total{direction=\"out\"} 1000.0",
            "hongqiao_messages_dropped_total{cause=\"slow\"} 9.0",
            "hongqiao_writes_refused_total{cause=\"disk_full\"} 2.0",
            "hongqiao_links{class=\"control\",state=\"broken\"} 2.0",
            "hongqiao_flush_duration_seconds_count 4",
            "hongqiao_flush_duration_seconds_bucket{le=\"0.0002\"} 3",
            "hongqiao_flush_duration_seconds_bucket{le=\"5.0\"} 3",
            "hongqiao_flush_duration_seconds_bucket{le=\"+Inf\"} 4",
            "# TYPE hongqiao_network_bytes counter",
            "# UNIT hongqiao_network_bytes bytes",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn every_metric_without_cause_label_has_a_sample() {
        let page = page();
        for metric in &METRICS {
            let name = metric.name();
            assert!(page.lines().any(|line| line.starts_with(&name)), "{name}\n{page}");
        }
    }

    #[test]
    fn process_usage_of_this_process_is_plausible() {
        let usage = ProcessUsage::read();
        assert!(usage.resident_bytes > 1 << 20, "{usage:?}");
        assert!(usage.threads >= 1 && usage.open_fds >= 3, "{usage:?}");
        assert!(usage.max_fds >= usage.open_fds, "{usage:?}");
        assert!(usage.start_time_secs > 1.6e9, "{usage:?}");
    }
}
