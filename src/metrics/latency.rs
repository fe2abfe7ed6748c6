//! A histogram of times that counts without a lock: prometheus-client's own takes a mutex for each observation.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

use super::Nanos;

const MICRO: Nanos = 1_000;
const MILLI: Nanos = 1_000_000;
const SECOND: Nanos = 1_000_000_000;

/// Upper bounds of the buckets: from less than a proxied request takes to more than any time-out allows.
const BOUNDS: [Nanos; 19] = [
    50 * MICRO,
    100 * MICRO,
    250 * MICRO,
    500 * MICRO,
    MILLI,
    2_500 * MICRO,
    5 * MILLI,
    10 * MILLI,
    25 * MILLI,
    50 * MILLI,
    100 * MILLI,
    250 * MILLI,
    500 * MILLI,
    SECOND,
    2_500 * MILLI,
    5 * SECOND,
    10 * SECOND,
    30 * SECOND,
    60 * SECOND,
];

/// Clones count into the same buckets.
#[derive(Clone, Debug, Default)]
pub struct Latency(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The last one is for what took longer than any bound.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl Latency {
    pub fn observe(&self, took: Nanos) {
        let at = BOUNDS.partition_point(|bound| *bound < took);
        self.0.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.0.nanos.fetch_add(took, Ordering::Relaxed);
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Latency {
    /// The total is the sum of the buckets, so that the two always agree, also while others count.
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let seconds = |nanos: Nanos| nanos as f64 / SECOND as f64;
        let bounds = BOUNDS.iter().map(|bound| seconds(*bound));
        let counts = self.0.buckets.iter().map(|it| it.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = seconds(self.0.nanos.load(Ordering::Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    #[test]
    fn a_time_falls_into_the_first_bucket_that_holds_it() {
        let (latency, mut registry) = (Latency::default(), Registry::default());
        registry.register("t", "Times", latency.clone());
        for took in [0, 50_000, 50_001, 2_500_000_000, 61 * SECOND] {
            latency.observe(took);
        }
        let mut text = String::new();
        encode(&mut text, &registry).expect("a String can be written to");
        let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
        let bucket = |bound: &str| line(&format!("t_bucket{{le=\"{bound}\"}} "));
        assert_eq!(bucket("0.00005"), Some("2"), "{text}");
        assert_eq!(bucket("0.0001"), Some("3"));
        assert_eq!(bucket("1.0"), Some("3"));
        assert_eq!(bucket("2.5"), Some("4"));
        assert_eq!(bucket("60.0"), Some("4"));
        assert_eq!(bucket("+Inf"), Some("5"));
        assert_eq!(
            (line("t_count "), line("t_sum ")),
            (Some("5"), Some("63.500100001"))
        );
    }
}
