//! The page of a scrape: every metric of the table as OpenMetrics text.
//!
//! - Owns: nothing but the numbers of one scrape. Takes: the encoder of the page. Gives: its lines.
//! - Source: OpenMetrics 1.0.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder},
    metrics::MetricType,
    registry::Unit,
};

use super::{
    Kind::{self, Counter, Gauge, Histogram},
    Latencies, METRICS, Metric, Sample, Snapshot,
};

#[derive(Debug)]
pub(super) struct Page(pub(super) Snapshot);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in &METRICS {
            match metric.kind {
                Counter(read) | Gauge(read) => {
                    write_samples(&mut encoder, metric, &read(&self.0))?;
                }
                Histogram(read) => write_histogram(&mut encoder, metric, read(&self.0))?,
            }
        }
        Ok(())
    }
}

fn write_samples(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &Metric,
    samples: &[Sample],
) -> fmt::Result {
    let unit = unit_of(metric);
    let kind = match metric.kind {
        Counter(_) => MetricType::Counter,
        Gauge(_) | Histogram(_) => MetricType::Gauge,
    };
    let mut family = encoder.encode_descriptor(metric.stem, metric.help, unit.as_ref(), kind)?;
    for (values, number) in samples {
        debug_assert_eq!(values.len(), metric.labels.len(), "{}", metric.stem);
        let labels: Vec<(&str, &str)> =
            metric.labels.iter().copied().zip(values.iter().copied()).collect();
        if labels.is_empty() {
            write_number(&mut family, metric.kind, *number)?;
        } else {
            write_number(&mut family.encode_family(&labels.as_slice())?, metric.kind, *number)?;
        }
    }
    Ok(())
}

fn write_number(encoder: &mut MetricEncoder<'_>, kind: Kind, number: f64) -> fmt::Result {
    match kind {
        Counter(_) => encoder.encode_counter::<[(&str, &str); 0], _, f64>(&number, None),
        Gauge(_) | Histogram(_) => encoder.encode_gauge(&number),
    }
}

fn write_histogram(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &Metric,
    latencies: &Latencies,
) -> fmt::Result {
    let unit = unit_of(metric);
    let mut family = encoder.encode_descriptor(
        metric.stem,
        metric.help,
        unit.as_ref(),
        MetricType::Histogram,
    )?;
    // The encoder writes its greatest number as +Inf.
    let buckets: Vec<(f64, u64)> =
        latencies.buckets.iter().map(|(bound, count)| (bound.min(f64::MAX), *count)).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    family.encode_histogram::<[(&str, &str); 0]>(latencies.sum_secs, count, &buckets, None)
}

fn unit_of(metric: &Metric) -> Option<Unit> {
    match metric.unit {
        "" => None,
        "bytes" => Some(Unit::Bytes),
        "seconds" => Some(Unit::Seconds),
        other => Some(Unit::Other(other.to_owned())),
    }
}
