//! What the store measures of itself: how much it writes at once, and how long that takes.

use std::time::Duration;

use prometheus_client::{
    metrics::{
        counter::Counter,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::Timed;

/// Figures of a store, since it was opened.
#[derive(Debug)]
pub struct Meters {
    batches: Counter,
    bytes: Counter,
    /// Batches in a write.
    merged: Histogram,
    /// Synced writes.
    seconds: Timed,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            batches: Counter::default(),
            bytes: Counter::default(),
            merged: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            seconds: Timed::new(exponential_buckets(0.000_125, 2.0, 14)),
        }
    }
}

impl Meters {
    /// Shows them to whoever collects.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("batches", "Batches written", self.batches.clone());
        registry.register_with_unit("written", "Size of the batches written", Unit::Bytes, self.bytes.clone());
        registry.register("batches_per_write", "Batches that one synced write had in it", self.merged.clone());
        registry.register_with_unit("write", "How long synced writes took", Unit::Seconds, self.seconds.clone());
    }

    /// So many batches of so many bytes were written, in one synced write that took so long.
    pub(super) fn wrote(&self, batches: usize, bytes: usize, took: Duration) {
        self.batches.inc_by(batches as u64);
        self.bytes.inc_by(bytes as u64);
        self.merged.observe(batches as f64);
        self.seconds.observe(took);
    }

    /// Batches written.
    pub fn batches(&self) -> u64 {
        self.batches.get()
    }

    /// Synced writes, and the seconds they took together.
    pub fn writes(&self) -> (u64, f64) {
        self.seconds.totals()
    }
}
