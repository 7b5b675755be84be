//! Turns: so many requests that change groups compute at a time, the others wait in line. Without one, every request that has begun
//! would share the threads with all others, packets among them, and nobody would know how long the line is.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use crate::{
    base::Refusal,
    transport::{Congestion, RETRY_AFTER},
};

/// Requests that compute at a time for each processor. More than one, because one may wait for a lock or a read.
const FOR_EACH_PROCESSOR: usize = 2;

/// Turns whose times count for how long one is expected to take, the last ones most.
const REMEMBERED: u32 = 8;

/// Who may compute.
pub struct Turns {
    free: Semaphore,
    congestion: Congestion,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    /// Since when those wait who have no turn.
    since: VecDeque<Instant>,
    /// When the last one of them got one.
    moved: Option<Instant>,
    /// The time between two of them lately.
    pace: Duration,
}

impl Line {
    /// The first one has got a turn.
    fn moves(&mut self, now: Instant) {
        // Only from one of the same line to the next.
        if let Some(moved) = self.moved {
            self.pace = (self.pace * (REMEMBERED - 1) + (now - moved)) / REMEMBERED;
        }
        self.moved = (self.since.len() > 1).then_some(now);
    }

    /// How long who comes now has to wait: as long as the first has waited, or longer if the line has grown since.
    fn wait(&self) -> Duration {
        let Some(first) = self.since.front() else { return Duration::ZERO };
        let length = u32::try_from(self.since.len()).unwrap_or(u32::MAX);
        first.elapsed().max(self.pace.saturating_mul(length))
    }
}

/// A place in the line, which who is first leaves first.
struct Place<'a>(&'a Turns);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.line().since.pop_front();
    }
}

impl Turns {
    /// For this machine; who has waited longer than `max_wait` is refused, if that does not pass.
    pub fn new(max_wait: Duration) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            free: Semaphore::new(processors * FOR_EACH_PROCESSOR),
            congestion: Congestion::new(max_wait),
            line: Mutex::default(),
        }
    }

    /// How long who asks for a turn now has to wait for it.
    pub fn wait(&self) -> Duration {
        self.line().wait()
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // It is whole between any two changes, and no longer than there are requests.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn, which ends when what is given is dropped. Who has one waits for no other.
    ///
    /// # Errors
    /// `overloaded` if there is more to do than this machine can.
    pub async fn take(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        if let Ok(turn) = self.free.try_acquire() {
            return Ok(turn);
        }
        let asked = Instant::now();
        self.line().since.push_back(asked);
        let place = Place(self);
        // It is never closed.
        let turn = self.free.acquire().await.map_err(|_| Refusal::internal("there are no turns"))?;
        let now = Instant::now();
        self.line().moves(now);
        drop(place);
        if self.congestion.refuses(now - asked, now) {
            return Err(too_much());
        }
        Ok(turn)
    }
}

/// The refusal of what is more than this machine can do.
pub fn too_much() -> Refusal {
    Refusal::overloaded("there is too much to do").with_retry_after(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::base::Status;

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_turn_waits_for_one_and_is_refused_after_too_long_a_wait() {
        let turns = Turns::new(Duration::from_millis(10));
        let mut taken = Vec::new();
        while turns.free.available_permits() > 0 {
            taken.push(turns.take().await.unwrap());
        }
        for (wait, is_refused) in [(10, false), (41, true), (10, false)] {
            let wait = Duration::from_millis(wait);
            let ends = async {
                advance(wait).await;
                assert!(turns.wait() >= wait);
                drop(taken.pop());
            };
            let (taken_or_not, ()) = tokio::join!(turns.take(), ends);
            assert!(turns.wait().is_zero());
            match taken_or_not {
                Ok(turn) => {
                    assert!(!is_refused, "after {wait:?}");
                    taken.push(turn);
                }
                Err(refusal) => {
                    assert!(is_refused, "after {wait:?}");
                    assert_eq!((refusal.status, refusal.retry_after), (Status::Overloaded, Some(RETRY_AFTER)));
                    taken.push(turns.take().await.unwrap());
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_longer_the_line_and_the_slower_it_moves_the_longer_is_the_wait() {
        let turns = Turns::new(Duration::MAX);
        let mut taken = Vec::new();
        while turns.free.available_permits() > 0 {
            taken.push(turns.take().await.unwrap());
        }
        let (step, mut waiting) = (Duration::from_millis(8), Vec::new());
        for _ in 0..40 {
            waiting.push(Box::pin(turns.take()));
        }
        for place in &mut waiting {
            assert!(
                std::future::poll_fn(|context| std::task::Poll::Ready(place.as_mut().poll(context))).await.is_pending()
            );
        }
        assert!(turns.wait().is_zero(), "nothing is known yet");
        for place in waiting.drain(..30) {
            advance(step).await;
            drop(taken.pop());
            taken.push(place.await.unwrap());
        }
        // Ten are left, of whom the first has waited for 240 ms: that is more.
        assert_eq!(turns.wait(), step * 30);
        let pace = turns.line().pace;
        assert!(pace > step * 9 / 10 && pace <= step, "{pace:?}");
        drop(waiting);
        assert!(turns.wait().is_zero());
    }
}
