//! Counts what happens too often: for each address, account or queue a budget that refills over an hour (the generic cell
//! rate algorithm: one number each). What is counted is kept in memory only, under hashes with a key of this process.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::{
    base::{Cache, Refusal, Status, Timestamp},
    service::policy::{InForce, Rate},
};

const SHARDS: usize = 16;

/// Subjects remembered per shard, at least; whoever was seen least recently gets a fresh budget.
const SUBJECTS_PER_SHARD: usize = 16 << 10;

const HOUR: u64 = 3_600_000;

/// The counters of a node.
pub struct Counters {
    policy: InForce,
    hasher: RandomState,
    /// When the budget of a subject is full again, in milliseconds since the epoch.
    shards: Vec<Mutex<Cache<(Rate, u64), u64>>>,
    /// How often there were too many.
    limited: Family<Limited, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Limited {
    rate: &'static str,
}

/// Whom an address stands for: itself, or the network of a household or host (RFC 6177), which has many of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Origin {
    /// An IPv4 address.
    V4([u8; 4]),
    /// The first 64 bits of an IPv6 address.
    V6([u8; 8]),
}

impl From<SocketAddr> for Origin {
    fn from(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

impl Counters {
    /// Nothing has happened yet.
    pub fn new(policy: InForce) -> Self {
        let shard = |_| Mutex::new(Cache::new(SUBJECTS_PER_SHARD));
        let limited = Family::<Limited, Counter>::default();
        // What has not happened is nought, and not unknown.
        for rate in Rate::ALL {
            drop(limited.get_or_create(&Limited { rate: rate.name() }));
        }
        Self { policy, hasher: RandomState::new(), shards: (0..SHARDS).map(shard).collect(), limited }
    }

    /// Shows how often there were too many to whoever collects.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("rate_limited", "What was done too often, by the rate", self.limited.clone());
    }

    /// Counts one more of `rate` for `subject`.
    ///
    /// # Errors
    /// `rate_limited`, with the time after which one more is allowed, if there were too many; then it is not counted.
    pub fn count(&self, rate: Rate, subject: impl Hash, now: Timestamp) -> Result<(), Refusal> {
        let key = (rate, self.hasher.hash_one(subject));
        let step = HOUR / u64::from(self.policy.get().rates.per_hour(rate).max(1));
        let mut shard = self.shards[key.1 as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back must not lock anybody out for longer than an hour.
        let full = shard.get(&key).map_or(now.0, |full| (*full).clamp(now.0, now.0 + HOUR));
        let next = full + step;
        if next > now.0 + HOUR {
            self.limited.get_or_create(&Limited { rate: rate.name() }).inc();
            let wait = Duration::from_millis(next - now.0 - HOUR);
            let refusal = Refusal::new(Status::RateLimited, format!("too many {}", rate.what()));
            return Err(refusal.with_retry_after(wait));
        }
        shard.insert(key, next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::policy::{Policy, Rates};

    #[test]
    fn a_budget_is_spent_at_once_or_as_it_refills_and_is_one_of_a_subject() {
        let rates = Rates { logins_per_account: 4, ..Rates::default() };
        let counters = Counters::new(Policy { rates, ..Policy::default() }.into());
        let start = 1_000 * HOUR;
        let count = |subject: &str, at: u64| counters.count(Rate::AccountLogins, subject, Timestamp(start + at));
        for _ in 0..4 {
            count("a", 0).unwrap();
        }
        let refused = count("a", 0).unwrap_err();
        assert_eq!((refused.status, refused.retry_after), (Status::RateLimited, Some(Duration::from_secs(900))));
        count("b", 0).unwrap();
        count("a", HOUR / 4).unwrap();
        count("a", HOUR / 4).unwrap_err();
        for _ in 0..4 {
            count("a", 2 * HOUR).unwrap();
        }
        count("a", 2 * HOUR).unwrap_err();
        // The clock is set back by a day.
        counters.count(Rate::AccountLogins, "a", Timestamp(start - 24 * HOUR)).unwrap_err();
        count("a", 4 * HOUR).unwrap();
    }

    #[test]
    fn an_origin_is_an_address_or_a_network() {
        let origin = |text: &str| Origin::from(SocketAddr::new(text.parse().unwrap(), 1));
        assert_eq!(origin("::ffff:10.0.0.1"), origin("10.0.0.1"));
        assert_ne!(origin("10.0.0.1"), origin("10.0.0.2"));
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::2"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
    }
}
