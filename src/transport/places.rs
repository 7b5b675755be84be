//! Places for whatever waits for others: so many begin at a time, and what takes long makes room for the next, so that
//! those who never answer keep nobody waiting.

use std::{future::Future, pin::pin, time::Duration};

use tokio::{sync::Semaphore, time::sleep};

/// So many places, each of which is held for so long at most.
pub struct Places {
    places: Semaphore,
    hold: Duration,
}

impl Places {
    /// All are free. At most `places` begin within `hold`.
    pub fn new(places: usize, hold: Duration) -> Self {
        Self { places: Semaphore::new(places), hold }
    }

    /// Begins the work when there is a place, and sees it through.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        // Never closed.
        let place = self.places.acquire().await;
        let mut work = pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = sleep(self.hold) => drop(place),
        }
        work.await
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc};

    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_makes_room_and_what_does_not_makes_it_at_once() {
        let hold = Duration::from_secs(1);
        let (places, started) = (Arc::new(Places::new(2, hold)), Instant::now());
        for _ in 0..5 {
            let places = places.clone();
            tokio::spawn(async move { places.run(pending::<()>()).await });
        }
        tokio::task::yield_now().await;
        assert_eq!(places.run(async { 7 }).await, 7);
        assert_eq!(started.elapsed().as_secs(), 2, "two, two, and one beside this");
        let quick = async {
            for _ in 0..1_000 {
                places.run(async {}).await;
            }
        };
        timeout(hold / 2, quick).await.unwrap();
        assert_eq!(
            places
                .run(async {
                    // Reason: virtual time, in which this is the work that takes long.
                    sleep(hold * 9).await;
                    8
                })
                .await,
            8,
            "it is seen through"
        );
    }
}
