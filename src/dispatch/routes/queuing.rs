//! The routes of the Queuing Service.

use std::sync::Arc;

use super::{Answer, Call};
use crate::{
    base::Refusal,
    dispatch::Dispatcher,
    queuing,
    service::QueueId,
    transport::Reply,
    wire::{self, Encode},
};

impl Dispatcher {
    pub(super) async fn create_queuing_user(&self, call: &Call<'_>) -> Answer {
        let request: wire::queuing::CreateQueuingUser = call.anonymous()?;
        let mut scope = self.locked(("token", request.friendship_token.expose())).await;
        let outcome = queuing::create_user::handle(&mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn publish_key_packages(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.locked(("queue client", call.presented().qs_client()?.0)).await;
        let sender = call.qs_client(&scope.context()).await?;
        let outcome = queuing::publish_key_packages::handle(&mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn get_add_packages(&self, call: &Call<'_>) -> Answer {
        let request: wire::queuing::GetAddPackages = call.anonymous()?;
        let mut scope = self.locked(("token", request.friendship_token.expose())).await;
        let outcome = queuing::get_add_packages::handle(&mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn get_body(&self, call: &Call<'_>) -> Answer {
        let request = call.anonymous()?;
        let mut scope = self.unlocked();
        let outcome = queuing::get_body::handle(&mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn dequeue(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.unlocked();
        let client = call.qs_client(&scope.context()).await?;
        let id = QueueId::client(*client.get());
        let store = &self.parts.store;
        self.queues.dequeue(id, &request, store, &scope.context()).await.map(|found| found.to_vec())
    }

    pub(super) async fn listen_queue(self: Arc<Self>, call: &Call<'_>) -> Result<Reply, Refusal> {
        let request = call.body()?;
        let client = call.qs_client(&self.unlocked().context()).await?;
        self.start_listening(QueueId::client(*client.get()), &request).await
    }
}
