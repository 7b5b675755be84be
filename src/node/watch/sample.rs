//! What is looked at only when somebody asks, as metrics: a list that is made anew each time.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// One metric, with all its values.
#[derive(Clone, Debug)]
pub struct Metric {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    values: Vec<(Labels, f64)>,
}

/// What tells the values of a metric apart.
type Labels = Vec<(&'static str, String)>;

impl Metric {
    /// Something that goes up and down.
    pub fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, kind: MetricType::Gauge, values: vec![(Vec::new(), value)] }
    }

    /// Something that only grows, since the start.
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { kind: MetricType::Counter, ..Self::gauge(name, help, value as f64) }
    }

    /// The same with a value for each name that `label` can have.
    pub fn of_each(self, label: &'static str, values: impl IntoIterator<Item = (String, f64)>) -> Self {
        let values = values.into_iter().map(|(name, value)| (vec![(label, name)], value)).collect();
        Self { values, ..self }
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, self.kind)?;
        for (labels, value) in &self.values {
            let encoder = metric.encode_family(labels)?;
            match self.kind {
                MetricType::Counter => ConstCounter::new(*value).encode(encoder)?,
                _ => ConstGauge::new(*value).encode(encoder)?,
            }
        }
        Ok(())
    }
}

/// Shows the list that was made last. Clones are handles to the same.
#[derive(Clone, Debug, Default)]
pub struct Latest(Arc<Mutex<Vec<Metric>>>);

impl Latest {
    /// Replaces the list.
    pub fn replace(&self, metrics: Vec<Metric>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = metrics;
    }
}

impl Collector for Latest {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        metrics.iter().filter(|metric| !metric.values.is_empty()).try_for_each(|metric| metric.encode(&mut encoder))
    }
}
