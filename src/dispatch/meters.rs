//! What is measured of requests: by method and outcome, and never by who made them.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::{Registry, Unit},
};

use crate::{base::Status, store::Timed, wire::Method};

/// Figures of a dispatcher, since it was started.
#[derive(Debug)]
pub struct Meters {
    answered: Family<Answered, Counter>,
    seconds: Family<Of, Timed, fn() -> Timed>,
    redeemed: Counter,
    /// How many requests took up to each of [`LATENCIES`] and no less than the one before, and longer than any: a histogram does not
    /// tell that.
    spread: [AtomicU64; LATENCIES.len() + 1],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    method: &'static str,
}

/// Bounds by which requests are told apart, in seconds: from a quarter of a millisecond to two seconds.
pub const LATENCIES: [f64; 14] = {
    let mut bounds = [0.000_25; 14];
    let mut at = 1;
    while at < bounds.len() {
        bounds[at] = bounds[at - 1] * 2.0;
        at += 1;
    }
    bounds
};

fn latency() -> Timed {
    Timed::new(LATENCIES)
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            answered: Family::default(),
            seconds: Family::new_with_constructor(latency),
            redeemed: Counter::default(),
            spread: Default::default(),
        }
    }
}

/// What stands for the method of a request that was not read.
const UNREAD: &str = "unread";

impl Meters {
    /// Shows them to whoever collects.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Requests answered, by method and status", self.answered.clone());
        registry.register_with_unit(
            "request_duration",
            "From when a request was read to its answer, which is written after that",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register("tokens_redeemed", "Privacy Pass tokens taken in", self.redeemed.clone());
    }

    /// A request was answered; of what nobody knows here the method is none.
    pub(super) fn answered(&self, method: Option<Method>, status: Status, took: Duration) {
        let method = method.map_or("unknown", Method::name);
        self.answered.get_or_create(&Answered { method, status: status.name() }).inc();
        let seconds = took.as_secs_f64();
        self.seconds.get_or_create(&Of { method }).observe(took);
        self.spread[LATENCIES.partition_point(|bound| *bound < seconds)].fetch_add(1, Ordering::Relaxed);
    }

    /// A request was refused before it was read.
    pub(super) fn refused(&self, status: Status) {
        self.answered.get_or_create(&Answered { method: UNREAD, status: status.name() }).inc();
    }

    /// A token was taken in.
    pub(super) fn redeemed(&self) {
        self.redeemed.inc();
    }

    /// Requests with this status, of this method or of all.
    pub fn requests(&self, method: Option<Method>, status: Status) -> u64 {
        let of = |method: &'static str| {
            self.answered.get(&Answered { method, status: status.name() }).map_or(0, |counter| counter.get())
        };
        match method {
            Some(method) => of(method.name()),
            None => ["unknown", UNREAD].into_iter().chain(Method::ALL.iter().map(|method| method.name())).map(of).sum(),
        }
    }

    /// Requests to a method that were read, and the seconds that answering them took together.
    pub fn time(&self, method: Method) -> (u64, f64) {
        let of = self.seconds.get(&Of { method: method.name() });
        of.map_or((0, 0.0), |seconds| seconds.totals())
    }

    /// How many requests took up to each of [`LATENCIES`] and no less than the one before; the last ones took longer.
    pub fn spread(&self) -> [u64; LATENCIES.len() + 1] {
        std::array::from_fn(|at| self.spread[at].load(Ordering::Relaxed))
    }
}
