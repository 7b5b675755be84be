//! The routes of the Authentication Service.

use std::sync::Arc;

use super::{Answer, Call};
use crate::{
    authentication as auth,
    base::{Refusal, Status},
    dispatch::Dispatcher,
    service::QueueId,
    transport::Reply,
    wire::{self, Encode},
};

impl Dispatcher {
    pub(super) async fn init_registration(&self, call: &Call<'_>) -> Answer {
        let request = call.anonymous()?;
        let mut scope = self.unlocked();
        let outcome = auth::init_registration::handle(&self.authentication, &mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn finish_registration(&self, call: &Call<'_>) -> Answer {
        let request: wire::authentication::FinishRegistration = call.body()?;
        let payload = &request.request.payload;
        let presented = call.presented();
        if *presented.client()? != payload.client {
            return Err(Refusal::unauthenticated("the sender is not whom the credential request names"));
        }
        let sender = presented.prove(payload.client.clone(), &payload.verifying_key)?;
        let mut scope = self.locked(("user", sender.get().user.uuid)).await;
        let service = &self.authentication;
        let outcome = auth::finish_registration::handle(service, &mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn update_user_profile(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.unlocked();
        let sender = call.client(&scope.context()).await?;
        let outcome = auth::update_user_profile::handle(&mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn get_user_profile(&self, call: &Call<'_>) -> Answer {
        let request = call.anonymous()?;
        let mut scope = self.unlocked();
        let outcome = auth::get_user_profile::handle(&mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn publish_connection_packages(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.locked(("user", call.presented().client()?.user.uuid)).await;
        let sender = call.client(&scope.context()).await?;
        let outcome = auth::publish_connection_packages::handle(&mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn get_connection_package(&self, call: &Call<'_>) -> Answer {
        let request: wire::authentication::GetConnectionPackage = call.anonymous()?;
        let mut scope = self.locked(("user", request.user.uuid)).await;
        let outcome = auth::get_connection_package::handle(&mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn enqueue(&self, call: &Call<'_>) -> Answer {
        let request = call.anonymous()?;
        let mut scope = self.unlocked();
        let outcome = auth::enqueue::handle(&mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn issue_tokens(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let presented = call.presented();
        let client = presented.client()?;
        if client.user.domain != self.parts.domain {
            return Err(Refusal::new(Status::FederationDenied, "this homeserver does not federate yet"));
        }
        let mut scope = self.locked(("allowance", client)).await;
        let sender = call.client(&scope.context()).await?;
        let issuers = &self.authentication.issuers;
        let outcome = auth::issue_tokens::handle(issuers, &mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn dequeue_direct(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.unlocked();
        let client = call.client(&scope.context()).await?;
        let id = QueueId::direct(client.get());
        let store = &self.parts.store;
        self.queues.dequeue(id, &request, store, &scope.context()).await.map(|found| found.to_vec())
    }

    pub(super) async fn listen_direct(self: Arc<Self>, call: &Call<'_>) -> Result<Reply, Refusal> {
        let request = call.body()?;
        let client = call.client(&self.unlocked().context()).await?;
        self.start_listening(QueueId::direct(client.get()), &request).await
    }
}
