//! One task for each client whose turn it is: it pushes, backs off, and waits until the client may be pushed again.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::sleep,
};

use super::{PushError, PushService, Recipients, Shared, count};
use crate::{base::QsClientId, crypto::push::open_token, service::Push};

/// What all tasks have.
struct Worker {
    shared: Arc<Shared>,
    service: Arc<dyn PushService>,
    recipients: Arc<dyn Recipients>,
    in_flight: Semaphore,
}

/// Serves those whose turn begins, until it is dropped; the tasks end with it.
pub async fn run(
    shared: Arc<Shared>,
    mut beginning: mpsc::Receiver<QsClientId>,
    service: Arc<dyn PushService>,
    recipients: Arc<dyn Recipients>,
) {
    let in_flight = Semaphore::new(shared.limits.in_flight);
    let worker = Arc::new(Worker { shared, service, recipients, in_flight });
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            client = beginning.recv() => match client {
                Some(client) => _ = tasks.spawn(worker.clone().serve(client)),
                None => return,
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// Ends a client's turn, also if its task panics.
struct End<'a>(&'a Shared, QsClientId);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.turns().remove(&self.1);
    }
}

impl Worker {
    /// Pushes a client for as long as it is to be pushed.
    async fn serve(self: Arc<Self>, client: QsClientId) {
        let end = End(&self.shared, client);
        while !self.ends(client) {
            if self.push(client).await {
                sleep(self.shared.limits.min_interval).await;
            }
        }
        // It has ended already, and the next one may have begun.
        std::mem::forget(end);
    }

    /// Ends the turn, unless the client is to be pushed.
    fn ends(&self, client: QsClientId) -> bool {
        let mut turns = self.shared.turns();
        let is_over = turns.get(&client).is_none_or(|turn| !turn.wanted);
        if is_over {
            turns.remove(&client);
        }
        is_over
    }

    /// All that has come up to now is one push.
    fn take(&self, client: QsClientId) -> Option<Push> {
        let mut turns = self.shared.turns();
        let turn = turns.get_mut(&client)?;
        turn.wanted = false;
        Some(Push { client, token_key: turn.token_key.clone() })
    }

    /// Pushes a client, several times if it fails; whether it was tried at all.
    async fn push(&self, client: QsClientId) -> bool {
        let (counts, limits) = (&self.shared.counts, &self.shared.limits);
        let mut retry = limits.first_retry;
        for attempt in 1..=limits.attempts {
            let asked_for = match self.attempt(client).await {
                None => return attempt > 1,
                Some(Ok(())) => {
                    count(&counts.sent);
                    return true;
                }
                Some(Err(PushError::Gone)) => {
                    count(&counts.gone);
                    return true;
                }
                Some(Err(PushError::Rejected)) => break,
                Some(Err(PushError::RetryLater(after))) => after.unwrap_or(Duration::ZERO),
            };
            if attempt < limits.attempts {
                sleep(retry.max(asked_for).min(limits.longest_retry)).await;
                retry *= 2;
            }
        }
        count(&counts.failed);
        true
    }

    /// Pushes a client once, if there is still a reason to. A place is taken for as long as the push is under way.
    async fn attempt(&self, client: QsClientId) -> Option<Result<(), PushError>> {
        let _place = self.in_flight.acquire().await.ok()?;
        let push = self.take(client)?;
        if self.recipients.is_listening(&push) {
            return None;
        }
        let sealed = self.recipients.token(client).await?;
        let token = open_token(&push.token_key, client, &sealed).ok()?;
        let result = self.service.push(&token).await;
        if result == Err(PushError::Gone) {
            self.recipients.forget_token(client, &sealed).await;
        }
        Some(result)
    }
}
