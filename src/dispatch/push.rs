//! Pushing clients that do not listen: what the pushing side must know of queues and client records, and the end of tokens
//! that lead nowhere.

use std::sync::Arc;

use async_trait::async_trait;

use super::Dispatcher;
use crate::{
    base::{QsClientId, Refusal},
    crypto::push::VapidKey,
    push::{Counts, PushService, Recipients},
    queuing::records,
    service::{Outcome, Push, QueueId, queue::Overview},
    store::Batch,
    wire::server::Done,
};

impl Dispatcher {
    /// By which push services know this homeserver's QS; none if it does not push.
    pub fn push_key(&self) -> Option<Arc<VapidKey>> {
        self.queuing.push_key.clone()
    }

    /// Pushes clients that do not listen, until it is dropped. Can be called once.
    pub async fn run_pushes(self: Arc<Self>, service: Arc<dyn PushService>) {
        self.pushes.run(service, self.clone()).await;
    }

    /// What became of pushes.
    pub fn push_counts(&self) -> &Counts {
        self.pushes.counts()
    }

    async fn sealed_push_token(&self, client: QsClientId) -> Result<Option<Vec<u8>>, Refusal> {
        // What was fetched and acknowledged in the meantime needs no push.
        let queue = Overview::of(QueueId::client(client), &self.parts.store.durable()).await?;
        if queue.is_none_or(|queue| queue.is_empty()) {
            return Ok(None);
        }
        let record = records::client(&self.unlocked().context(), client).await?;
        Ok(record.and_then(|record| record.push_token))
    }

    async fn remove_push_token(&self, client: QsClientId, sealed: &[u8]) -> Result<(), Refusal> {
        let mut scope = self.locked_client(client).await?;
        let Some(mut record) = records::client(&scope.context(), client).await? else { return Ok(()) };
        if record.push_token.as_deref() != Some(sealed) {
            return Ok(());
        }
        record.push_token = None;
        let mut batch = Batch::new();
        records::put_client(&mut batch, client, &record)?;
        scope.commit(Outcome::write(batch, Done {})).await?;
        self.queuing.forget(QueueId::client(client));
        Ok(())
    }
}

#[async_trait]
impl Recipients for Dispatcher {
    fn is_listening(&self, push: &Push) -> bool {
        self.queues.leave_to_listener(push)
    }

    async fn token(&self, client: QsClientId) -> Option<Vec<u8>> {
        self.sealed_push_token(client).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "a push token was not read");
            None
        })
    }

    async fn forget_token(&self, client: QsClientId, sealed: &[u8]) {
        if let Err(error) = self.remove_push_token(client, sealed).await {
            tracing::warn!(%error, "a push token that leads nowhere was not removed");
        }
    }
}
