//! How things were in the last hour, for charts: a bounded ring of moments, shown as what happened between them.

use std::{collections::VecDeque, time::Duration};

use serde_json::{Value, json};

/// Time between two moments.
pub const PERIOD: Duration = Duration::from_secs(5);

/// An hour's.
const MOMENTS: usize = 721;

/// How things stand at one moment; counters count since the start.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    /// Since the epoch.
    pub seconds: u64,
    /// Requests that were carried out.
    pub requests: u64,
    /// Refused because there was too much to do.
    pub overloaded: u64,
    /// Refused because there were too many of their kind.
    pub limited: u64,
    /// That the homeserver has failed at.
    pub internal: u64,
    /// Messages to groups that were accepted.
    pub messages: u64,
    /// Requests by how long they took (see [`Spread`]).
    pub spread: Spread,
    /// Open connections.
    pub connections: u64,
    /// Exchanges under way.
    pub exchanges: u64,
    /// Batches written.
    pub batches: u64,
    /// Synced writes.
    pub writes: u64,
    /// The seconds they took.
    pub write_seconds: f64,
    /// Entries in queues.
    pub queued: u64,
    /// Messages that wait for other homeservers.
    pub relayed: u64,
    /// Memory in bytes.
    pub memory: u64,
    /// Processor time in seconds.
    pub cpu: f64,
    /// Bytes free on the disk.
    pub disk_free: u64,
}

/// How many requests took up to each of [`BOUNDS`] seconds and no less than the bound before; the last ones took longer.
pub type Spread = [u64; BOUNDS.len() + 1];

/// Bounds of latencies, in seconds.
pub const BOUNDS: [f64; 14] = crate::dispatch::LATENCIES;

/// The ring.
pub struct History(VecDeque<Moment>);

/// What the rows of [`History::json`] hold, in their order.
const FIELDS: [&str; 18] = [
    "time",
    "requests",
    "messages",
    "overloaded",
    "limited",
    "internal",
    "p50",
    "p99",
    "connections",
    "exchanges",
    "writes",
    "batches_per_write",
    "write_ms",
    "queued",
    "relayed",
    "memory",
    "cpu",
    "disk_free",
];

impl History {
    /// Nothing was seen yet.
    pub fn new() -> Self {
        Self(VecDeque::with_capacity(MOMENTS))
    }

    /// Adds a moment; one that is too long ago goes.
    pub fn push(&mut self, moment: Moment) {
        if self.0.len() == MOMENTS {
            self.0.pop_front();
        }
        self.0.push_back(moment);
    }

    /// A row for each time between two moments: rates are for a second, `p50` and `p99` are in milliseconds, `cpu` is in processors.
    pub fn json(&self) -> Value {
        let rows = self.0.iter().zip(self.0.iter().skip(1)).map(|(before, after)| row(before, after));
        json!({ "fields": FIELDS, "rows": rows.collect::<Vec<_>>() })
    }
}

fn row(before: &Moment, after: &Moment) -> Value {
    let seconds = after.seconds.saturating_sub(before.seconds).max(1) as f64;
    let rate = |of: fn(&Moment) -> u64| round(of(after).saturating_sub(of(before)) as f64 / seconds);
    let spread = std::array::from_fn(|at| after.spread[at].saturating_sub(before.spread[at]));
    let writes = after.writes.saturating_sub(before.writes) as f64;
    let each_write = |sum: f64| if writes > 0.0 { round(sum / writes) } else { 0.0 };
    json!([
        after.seconds,
        rate(|moment| moment.requests),
        rate(|moment| moment.messages),
        rate(|moment| moment.overloaded),
        rate(|moment| moment.limited),
        rate(|moment| moment.internal),
        percentile(&spread, 0.5),
        percentile(&spread, 0.99),
        after.connections,
        after.exchanges,
        rate(|moment| moment.writes),
        each_write(after.batches.saturating_sub(before.batches) as f64),
        each_write((after.write_seconds - before.write_seconds) * 1e3),
        after.queued,
        after.relayed,
        after.memory,
        round((after.cpu - before.cpu) / seconds),
        after.disk_free,
    ])
}

/// As exactly as anybody looks.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// The bound, in milliseconds, below which this share of the requests was; none without requests.
fn percentile(spread: &Spread, share: f64) -> Option<f64> {
    let all: u64 = spread.iter().sum();
    let wanted = (all as f64 * share).ceil() as u64;
    let mut seen = 0;
    let at = spread.iter().position(|count| {
        seen += count;
        seen >= wanted
    })?;
    // What took longer than any bound took at least as long as the last.
    (all > 0).then(|| BOUNDS[at.min(BOUNDS.len() - 1)] * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(seconds: u64) -> Moment {
        Moment { seconds, requests: seconds * 10, writes: seconds, batches: seconds * 4, ..Moment::default() }
    }

    #[test]
    fn an_hour_is_kept_and_shown_as_rates() {
        let mut history = History::new();
        for at in 0..1_000 {
            history.push(moment(at * 5));
        }
        let shown = history.json();
        let rows = shown["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 720);
        let last = rows.last().unwrap().as_array().unwrap();
        let field = |name: &str| last[FIELDS.iter().position(|field| *field == name).unwrap()].clone();
        assert_eq!((field("time"), field("requests")), (json!(4_995), json!(10.0)));
        assert_eq!((field("batches_per_write"), field("p99")), (json!(4.0), Value::Null));
        assert_eq!(last.len(), FIELDS.len());
    }

    #[test]
    fn percentiles_are_the_bounds_that_hold_them() {
        let mut spread = Spread::default();
        assert_eq!(percentile(&spread, 0.5), None);
        (spread[0], spread[3], spread[BOUNDS.len()]) = (98, 1, 1);
        assert_eq!(percentile(&spread, 0.5), Some(BOUNDS[0] * 1e3));
        assert_eq!(percentile(&spread, 0.99), Some(BOUNDS[3] * 1e3));
        assert_eq!(percentile(&spread, 1.0), Some(BOUNDS[BOUNDS.len() - 1] * 1e3));
    }
}
