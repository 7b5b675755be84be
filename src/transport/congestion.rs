//! Too much to do at once: exchanges wait for their turn on a thread, and for a disk. A wait that passes is a burst, and everybody is served; one
//! that stays is more than this machine can do, and who has waited too long is refused, so that the others need not wait as
//! long as well (the idea of CoDel, RFC 8289, for requests in place of packets).

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How much longer than [`Settings::max_wait`](super::Settings::max_wait) a burst may make exchanges wait, and how many times as
/// long as that a wait has to be seen again and again to be no burst any more.
const BURST: u32 = 4;

/// When whoever is refused may ask again.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long something has waited lately.
pub struct Congestion {
    max_wait: Duration,
    /// Waits above `max_wait`, none long after the other: when the first and when the last was seen.
    standing: Mutex<Option<(Instant, Instant)>>,
}

impl Congestion {
    /// Of what may wait for so long, and four times as long for a while.
    pub const fn new(max_wait: Duration) -> Self {
        Self { max_wait, standing: Mutex::new(None) }
    }

    /// Whether something is refused that has `waited` so long, or will have.
    pub fn refuses(&self, waited: Duration, now: Instant) -> bool {
        // It is whole between any two changes.
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if waited <= self.max_wait {
            // Only where nearly nobody waits it is over: those who are let in while others are refused wait, too.
            *standing = standing.filter(|_| waited > self.max_wait / BURST);
            return false;
        }
        let burst = self.max_wait.saturating_mul(BURST);
        let began = standing.filter(|(_, last)| now.duration_since(*last) < burst).map_or(now, |(began, _)| began);
        *standing = Some((began, now));
        waited > burst || now.duration_since(began) >= burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_WAIT: Duration = Duration::from_millis(10);

    /// Whether exchanges are refused whose turns come after these times, each with how long it has waited, in milliseconds.
    fn refused(turns: &[(u64, u64)]) -> Vec<bool> {
        let (congestion, start) = (Congestion::new(MAX_WAIT), Instant::now());
        let millis = Duration::from_millis;
        turns.iter().map(|(at, waited)| congestion.refuses(millis(*waited), start + millis(*at))).collect()
    }

    #[test]
    fn a_burst_is_served_and_what_stays_is_refused_until_it_is_over() {
        let turns = [(0, 10), (5, 30), (20, 40), (44, 11), (45, 11), (46, 10), (60, 12), (99, 11), (139, 11)];
        assert_eq!(refused(&turns), [false, false, false, false, true, false, true, true, false]);
    }

    #[test]
    fn bursts_that_are_over_in_between_are_served() {
        let bursts: Vec<_> =
            (0..20).flat_map(|burst| [(burst * 20, 12), (burst * 20 + 5, 30), (burst * 20 + 10, 2)]).collect();
        assert!(!refused(&bursts).contains(&true));
    }

    #[test]
    fn nobody_waits_longer_than_a_burst_and_long_ago_is_forgotten() {
        assert_eq!(
            refused(&[(0, 40), (1, 41), (39, 20), (79, 40), (200, 40), (239, 40)]),
            [false, true, false, false, false, false]
        );
    }
}
