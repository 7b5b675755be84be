//! One connection, seen from the side that accepted it: a task that takes in streams and gives each a task of its own, so
//! that no stream waits for another. The number of exchanges is bounded here as well as by QUIC, because a peer that
//! resets a stream is allowed a new one at once while the work it asked for goes on.

use std::sync::Arc;

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{
    Handler, codes,
    exchange::{self, Shared},
    pipe::Link,
};

/// Serves a connection until it ends, or until the endpoint shuts down and its exchanges have finished.
pub(super) async fn serve<H: Handler>(shared: Arc<Shared<H>>, session: Arc<H::Session>, link: Link) {
    let mut draining = shared.draining.clone();
    let slots = Arc::new(Semaphore::new(shared.settings.max_streams as usize));
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await.ok()?;
            Some((slot, link.accept().await.ok()?))
        };
        let (slot, stream) = tokio::select! {
            biased;
            // A host that is dropped without shutting down leaves its connections alone.
            Ok(_) = draining.wait_for(|draining| *draining) => break,
            next = next => match next {
                Some(next) => next,
                None => return,
            },
        };
        let (shared, session) = (shared.clone(), session.clone());
        let taken_in = Instant::now();
        tokio::spawn(async move {
            exchange::serve(&*shared, &session, stream, taken_in).await;
            drop(slot);
        });
    }
    // Those that do not finish in time are cut off.
    let _ = timeout(shared.settings.shutdown_grace, slots.acquire_many(shared.settings.max_streams)).await;
    link.close(codes::SHUTDOWN);
}
