//! What a run has shown: a table for people, JSON for scripts.
//!
//! - Owns: rows in the order they were added. Takes: numbers. Gives: text on standard output, files.
//! - Bound: none needed; a few dozen rows.

use std::fs;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::{args::Common, phase::Span, plot};

/// Parts of a histogram that are told.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99)];

#[derive(Debug)]
pub(super) struct Report {
    title: String,
    rows: Vec<(String, String)>,
    json: Map<String, Value>,
    parameters: Map<String, Value>,
    results: Map<String, Value>,
    latencies: Vec<(String, Histogram<u64>)>,
}

impl Report {
    pub(super) fn new(key: &str, title: &str, common: &Common) -> Self {
        let mut json = Map::new();
        json.insert("scenario".to_owned(), key.into());
        json.insert("server".to_owned(), common.names().join(",").into());
        json.insert("generator".to_owned(), env!("CARGO_PKG_VERSION").into());
        let mut parameters = Map::new();
        parameters.insert("protocol".to_owned(), format!("{:?}", common.client()).into());
        parameters.insert("threads".to_owned(), common.threads.into());
        Self {
            title: title.to_owned(),
            rows: Vec::new(),
            json,
            parameters,
            results: Map::new(),
            latencies: Vec::new(),
        }
    }

    /// How the run was set up.
    pub(super) fn parameter(&mut self, key: &str, value: impl Into<Value>) {
        self.parameters.insert(key.to_owned(), value.into());
    }

    /// Something counted; zero is not shown to people.
    pub(super) fn count(&mut self, what: &str, count: u64) {
        if count > 0 {
            self.row(what, grouped(count));
        }
        self.result(what, count);
    }

    /// A single time.
    pub(super) fn millis(&mut self, what: &str, millis: f64) {
        self.row(&what.replace('_', " "), format!("{millis:.1} ms"));
        self.result(&format!("{what}_ms"), millis);
    }

    /// Something counted over a time.
    pub(super) fn rate(&mut self, what: &str, count: u64, seconds: f64) {
        let per_second = count as f64 / seconds.max(1e-9);
        self.row(what, format!("{} in {seconds:.2} s", grouped(count)));
        self.row(&format!("{what}/s"), grouped_float(per_second));
        self.result(what, count);
        self.result(&format!("{what}_per_second"), per_second);
        self.result(&format!("{what}_seconds"), seconds);
    }

    /// CPU and memory of server and generator, per million of what was done.
    pub(super) fn usage(&mut self, what: &str, count: u64, span: &Span) {
        let per_million = |seconds: f64| seconds / (count as f64 / 1e6);
        let row = |seconds: f64| {
            if count == 0 {
                return format!("{seconds:.2} s");
            }
            format!("{seconds:.2} s = {:.2} s per million {what}", per_million(seconds))
        };
        if let Some(server) = span.server {
            self.row("server CPU", row(server.cpu_seconds));
            self.row("server memory", format!("{:.1} MiB", mib(server.resident_bytes)));
            self.result(&format!("{what}_server_cpu_seconds"), server.cpu_seconds);
            self.result("server_resident_bytes", server.resident_bytes);
            if count > 0 {
                let key = format!("server_cpu_seconds_per_million_{what}");
                self.result(&key, per_million(server.cpu_seconds));
            }
        }
        self.row("generator CPU", row(span.own_cpu_seconds));
        self.result(&format!("{what}_generator_cpu_seconds"), span.own_cpu_seconds);
    }

    /// Memory of the server before and after `connections` more.
    pub(super) fn slope(&mut self, before: u64, after: u64, connections: u64) {
        let more = after as f64 - before as f64;
        let each = more / (connections.max(1) as f64);
        self.row("server memory", format!("{:.1} -> {:.1} MiB", mib(before), mib(after)));
        self.row("bytes per connection", grouped_float(each));
        self.result("server_resident_bytes_before", before);
        self.result("server_resident_bytes", after);
        self.result("bytes_per_connection", each);
    }

    /// A histogram of nanoseconds; an empty one is left out.
    pub(super) fn latency(&mut self, what: &str, histogram: &Histogram<u64>) {
        if histogram.is_empty() {
            return;
        }
        let ms = |nanoseconds: u64| nanoseconds as f64 / 1e6;
        let mut row = String::new();
        for (name, part) in PERCENTILES {
            let value = ms(histogram.value_at_percentile(part));
            row.push_str(&format!("{name} {value:.3}  "));
            self.result(&format!("{what}_latency_ms_{name}"), value);
        }
        row.push_str(&format!("max {:.3} ms", ms(histogram.max())));
        self.result(&format!("{what}_latency_ms_max"), ms(histogram.max()));
        self.result(&format!("{what}_latency_ms_mean"), histogram.mean() / 1e6);
        self.row(&format!("{what} latency"), row);
        self.latencies.push((what.to_owned(), histogram.clone()));
    }

    /// Prints the table and writes the files asked for.
    pub(super) fn publish(mut self, common: &Common) -> anyhow::Result<()> {
        println!("{}", self.title);
        let width = self.rows.iter().map(|row| row.0.len()).max().unwrap_or(0);
        for (what, value) in &self.rows {
            println!("  {what:<width$}  {value}");
        }
        if let Some(file) = &common.json {
            self.json.insert("parameters".to_owned(), Value::Object(self.parameters));
            self.json.insert("results".to_owned(), Value::Object(self.results));
            let text = serde_json::to_string_pretty(&json!(self.json))?;
            fs::write(file, text + "\n")
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        if let Some(file) = &common.svg {
            plot::draw(file, &self.title, &self.latencies)?;
        }
        Ok(())
    }

    fn row(&mut self, what: &str, value: String) {
        self.rows.push((what.replace('_', " "), value));
    }

    fn result(&mut self, key: &str, value: impl Into<Value>) {
        self.results.insert(key.replace(' ', "_"), value.into());
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A number with a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn grouped_float(number: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "abs, rounded")]
    let whole = number.abs().round() as u64;
    format!("{}{}", if number < 0.0 { "-" } else { "" }, grouped(whole))
}

#[cfg(test)]
mod tests {
    use super::{grouped, grouped_float};

    #[test]
    fn numbers_when_shown_then_in_groups_of_three() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped_float(-1_000.4), "-1,000");
    }
}
