//! systemd, if it has started the homeserver (`sd_notify(3)`): it is told when that is ready, that it is well, and when it ends. Where
//! nobody asked to be told, nothing is done.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use crate::store::Store;

#[cfg(feature = "rocksdb")]
/// By how much the time that starting may take is extended.
const STARTING: Duration = Duration::from_secs(60);

/// Tells that the homeserver answers.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Does something before it is ready that may take long, and tells as long as it does that there is more to be done: bringing a database
/// to another format takes the time that it takes.
#[cfg(feature = "rocksdb")]
pub async fn while_starting<T>(work: impl Future<Output = T>) -> T {
    let (mut ticks, mut work) = (interval(STARTING / 3), std::pin::pin!(work));
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => {
                let micros = u32::try_from(STARTING.as_micros()).unwrap_or(u32::MAX);
                tell(&[NotifyState::ExtendTimeoutUsec(micros)]);
            }
        }
    }
}

/// Tells that it ends, which may take that long.
pub fn stopping(grace: Duration) {
    let micros = u32::try_from(grace.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros)]);
}

/// Tells again and again that it is well, for as long as what is submitted becomes durable, until it is dropped. When that stops, so
/// does the telling, and systemd starts the homeserver anew.
pub async fn watch(store: Store) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = interval(limit / 3);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if store.backlog() < limit {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd is not told how the homeserver is");
    }
}
