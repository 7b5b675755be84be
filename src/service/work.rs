//! Heavy computations (OPAQUE, issuing tokens): done on threads of their own, a few at a time, so that a burst of them
//! does not keep other requests waiting. What finds no place in the line is refused.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use crate::base::Refusal;

/// Where heavy computations are done.
#[derive(Clone)]
pub struct Workers(Option<Arc<Line>>);

struct Line {
    /// One permit per computation that may run.
    running: Arc<Semaphore>,
    /// One permit per computation that may run or wait.
    places: Arc<Semaphore>,
}

/// Computations that may wait for each that runs. At a fifth of a millisecond each, the last waits for a moment only.
const WAITING: usize = 256;

impl Workers {
    /// On threads of their own, `threads` at a time.
    pub fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        Self(Some(Arc::new(Line {
            running: Arc::new(Semaphore::new(threads)),
            places: Arc::new(Semaphore::new(threads * (WAITING + 1))),
        })))
    }

    /// Half the machine's processors.
    pub fn for_this_machine() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, |count| count.get() / 2))
    }

    /// On the thread of whoever asks, for simulations on virtual time.
    pub const fn inline() -> Self {
        Self(None)
    }

    /// Runs a computation and waits for it. It runs to its end even if the caller goes away.
    ///
    /// # Errors
    /// `overloaded` if too many wait already.
    pub async fn run<T: Send + 'static>(&self, compute: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        let Some(line) = &self.0 else { return Ok(compute()) };
        let busy = || Refusal::overloaded("too many costly requests at once").with_retry_after(Duration::from_secs(1));
        let place = line.places.clone().try_acquire_owned().map_err(|_| busy())?;
        let turn = line.running.clone().acquire_owned().await.map_err(|_| busy())?;
        let run = move || {
            let _held = (place, turn);
            compute()
        };
        tokio::task::spawn_blocking(run).await.map_err(|error| {
            tracing::error!(%error, "a computation failed");
            Refusal::internal("a computation failed")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::base::Status;

    #[tokio::test]
    async fn what_finds_no_place_in_the_line_is_refused_and_the_rest_is_done() {
        let workers = Workers::new(1);
        let (release, blocked) = mpsc::channel::<()>();
        let (started, starts) = tokio::sync::oneshot::channel();
        let first = tokio::spawn({
            let workers = workers.clone();
            async move {
                let block = move || {
                    let _ = started.send(());
                    blocked.recv().is_ok()
                };
                workers.run(block).await
            }
        });
        starts.await.unwrap();
        let mut waiting: Vec<_> = (0..WAITING).map(|n| Box::pin(workers.run(move || n))).collect();
        for next in &mut waiting {
            assert!(futures_poll(next).is_none());
        }
        let refused = workers.run(|| ()).await.unwrap_err();
        assert_eq!(refused.status, Status::Overloaded);
        assert!(refused.retry_after.is_some());
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(true));
        for (n, next) in waiting.into_iter().enumerate() {
            assert_eq!(next.await, Ok(n));
        }
        assert_eq!(workers.run(|| 7).await, Ok(7));
    }

    fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
