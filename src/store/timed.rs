//! Times, for whoever collects metrics and for whoever wants their mean.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, TypedMetric, histogram::Histogram},
};

/// A histogram of seconds that can say how many there were, and how long all took: that of the library tells nobody but whoever
/// collects. Clones count together.
#[derive(Clone, Debug)]
pub struct Timed {
    histogram: Histogram,
    count: Arc<AtomicU64>,
    micros: Arc<AtomicU64>,
}

impl Timed {
    /// With these bounds, in seconds.
    pub fn new(bounds: impl IntoIterator<Item = f64>) -> Self {
        Self { histogram: Histogram::new(bounds), count: Arc::default(), micros: Arc::default() }
    }

    /// Something took so long.
    pub fn observe(&self, took: Duration) {
        self.histogram.observe(took.as_secs_f64());
        self.count.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How often something was observed, and the seconds that all took together.
    pub fn totals(&self) -> (u64, f64) {
        (self.count.load(Ordering::Relaxed), self.micros.load(Ordering::Relaxed) as f64 / 1e6)
    }
}

impl TypedMetric for Timed {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Timed {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.histogram.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}
