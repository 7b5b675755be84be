//! Looks again and again whether the disk has the room that the operator wants to be left.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use super::watch::Disk;
use crate::dispatch::Dispatcher;

/// How often. What one homeserver can take in until then is far less than the reserve.
const PERIOD: Duration = Duration::from_secs(2);

/// Tells the dispatcher, until it is dropped. A disk that does not say how full it is counts as one that has room.
pub async fn keep(data: PathBuf, reserve: u64, dispatcher: Arc<Dispatcher>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let free = Disk::of(&data).map_or(u64::MAX, |disk| disk.free);
        let is_short = free < reserve;
        if dispatcher.room().set_short(is_short) {
            if is_short {
                tracing::error!(free, reserve, "the disk is nearly full: nothing is taken in that needs room");
            } else {
                tracing::info!(free, reserve, "the disk has room again");
            }
        }
    }
}
