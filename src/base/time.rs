//! Time as the protocol uses it: milliseconds where two sides must agree, days and months where a finer value would
//! say more about a user than is needed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MILLIS_PER_DAY: u64 = 24 * 60 * 60 * 1000;

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The UTC day this instant lies in.
    pub const fn day(self) -> Day {
        Day((self.0 / MILLIS_PER_DAY) as u32)
    }

    /// Seconds since the Unix epoch, rounded down.
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// This instant plus `duration`, saturating.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Days since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Day(pub u32);

impl Day {
    /// The day `days` later, saturating.
    pub const fn plus(self, days: u32) -> Self {
        Self(self.0.saturating_add(days))
    }

    /// The day `days` earlier, saturating at the epoch.
    pub const fn minus(self, days: u32) -> Self {
        Self(self.0.saturating_sub(days))
    }

    /// The first instant of this day.
    pub const fn start(self) -> Timestamp {
        Timestamp(self.0 as u64 * MILLIS_PER_DAY)
    }

    /// Months since January 1970 (proleptic Gregorian), the granularity at which groups record their last use.
    pub const fn month(self) -> u32 {
        // Civil-from-days (H. Hinnant): exact for every day representable here.
        let z = self.0 as u64 + 719_468;
        let era = z / 146_097;
        let day_of_era = z - era * 146_097;
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = (shifted_month + 2) % 12;
        let year = year_of_era + era * 400 + if shifted_month >= 10 { 1 } else { 0 };
        ((year - 1970) * 12 + month) as u32
    }
}

/// Where the time comes from: the system in production, a script in tests and simulations.
pub trait Clock: Send + Sync + 'static {
    /// The current time.
    fn now(&self) -> Timestamp;
}

/// Between half of `pause` and all of it, as `random` wants it.
pub fn jittered(pause: Duration, random: u32) -> Duration {
    pause / 2 + (pause / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_the_calendar() {
        for (day, month) in
            [(0, 0), (30, 0), (31, 1), (58, 1), (59, 2), (364, 11), (365, 12), (19_782, 649), (19_783, 650)]
        {
            assert_eq!(Day(day).month(), month, "day {day}");
        }
    }
}
