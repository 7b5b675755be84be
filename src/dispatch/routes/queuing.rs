//! The routes of the Queuing Service.

use std::sync::Arc;

use super::{Answer, Call};
use crate::{
    base::{QsClientId, QsUserId, Refusal},
    dispatch::{Dispatcher, run::Scope},
    queuing::{
        self,
        records::{self, ClientRecord},
    },
    service::{
        Context, Outcome, QueueId, Verified,
        proof::{self, QueuingSender},
    },
    store::Batch,
    transport::Reply,
    wire::{self, Encode, server::Done},
};

impl Call<'_> {
    /// Proves a QS user by its record's key.
    async fn qs_user(&self, context: &Context<'_>) -> Result<Verified<QsUserId>, Refusal> {
        let presented = self.presented();
        let user = presented.qs_user()?;
        let record = records::user(context, user).await?.ok_or_else(proof::unproven)?;
        let proven = presented.prove(user, &record.auth_key[..].into())?;
        self.charge()?;
        Ok(proven)
    }

    /// Proves a QS client by its record's key.
    async fn qs_client(&self, context: &Context<'_>) -> Result<Verified<QsClientId>, Refusal> {
        self.active_client(context).await.map(|(proven, _)| proven)
    }

    /// Proves a QS client, and gives its record.
    async fn active_client(&self, context: &Context<'_>) -> Result<(Verified<QsClientId>, ClientRecord), Refusal> {
        let presented = self.presented();
        let client = presented.qs_client()?;
        let record = records::client(context, client).await?.ok_or_else(proof::unproven)?;
        let proven = presented.prove(client, &record.auth_key())?;
        self.charge()?;
        Ok((proven, record))
    }

    /// Proves a QS client or a QS user.
    async fn qs_either(&self, context: &Context<'_>) -> Result<Verified<QueuingSender>, Refusal> {
        let presented = self.presented();
        let sender = presented.qs_either()?;
        let key = match sender {
            QueuingSender::Client(client) => records::client(context, client).await?.map(|record| record.auth_key),
            QueuingSender::User(user) => records::user(context, user).await?.map(|record| record.auth_key),
        };
        let proven = presented.prove(sender, &key.ok_or_else(proof::unproven)?[..].into())?;
        self.charge()?;
        Ok(proven)
    }
}

impl Dispatcher {
    /// For a request that changes a user, or any of its clients.
    async fn locked_user(&self, user: QsUserId) -> Scope<'_> {
        self.locked(("queue user", user.0)).await
    }

    /// The same, for the user whose client this is.
    pub(in crate::dispatch) async fn locked_client(&self, client: QsClientId) -> Result<Scope<'_>, Refusal> {
        // A client has the same user for as long as there is one.
        let record = records::client(&self.unlocked().context(), client).await?;
        Ok(self.locked_user(QsUserId(record.map_or(client.0, |record| record.user))).await)
    }

    /// Notes that a client has done something today, once a day.
    async fn note_activity(&self, client: QsClientId, record: &ClientRecord) -> Result<(), Refusal> {
        let today = self.parts.clock.now().day();
        if record.active >= today.0 {
            return Ok(());
        }
        let mut scope = self.locked_user(QsUserId(record.user)).await;
        let mut batch = Batch::new();
        if let Some(mut record) = records::client(&scope.context(), client).await? {
            record.touch(today);
            records::put_client(&mut batch, client, &record)?;
        }
        scope.commit(Outcome::write(batch, Done {})).await.map(drop)
    }

    pub(super) async fn create_queuing_user(&self, call: &Call<'_>) -> Answer {
        let request: wire::queuing::CreateQueuingUser = call.anonymous()?;
        let mut scope = self.locked(("token", request.friendship_token.expose())).await;
        let outcome = queuing::create_user::handle(&mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn update_queuing_user(&self, call: &Call<'_>) -> Answer {
        let request: wire::queuing::UpdateQueuingUser = call.body()?;
        let user = call.presented().qs_user()?;
        let mut scope = self.locked_both(("queue user", user.0), ("token", request.friendship_token.expose())).await;
        let sender = call.qs_user(&scope.context()).await?;
        let outcome = queuing::update_user::handle(&mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn get_queuing_user(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.locked_user(call.presented().qs_user()?).await;
        let sender = call.qs_user(&scope.context()).await?;
        let outcome = queuing::get_user::handle(&scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn delete_queuing_user(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.locked_user(call.presented().qs_user()?).await;
        let sender = call.qs_user(&scope.context()).await?;
        let outcome = queuing::delete_user::handle(&scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn create_queuing_client(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.locked_user(call.presented().qs_user()?).await;
        let sender = call.qs_user(&scope.context()).await?;
        let outcome = queuing::create_client::handle(&mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn update_queuing_client(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let client = call.presented().qs_client()?;
        let mut scope = self.locked_client(client).await?;
        let sender = call.qs_client(&scope.context()).await?;
        let outcome = queuing::update_client::handle(&scope.context(), sender, request).await?;
        let reply = scope.commit(outcome).await?;
        self.queuing.forget(QueueId::client(client));
        Ok(reply)
    }

    pub(super) async fn delete_queuing_client(&self, call: &Call<'_>) -> Answer {
        let request: wire::queuing::DeleteQueuingClient = call.body()?;
        let mut scope = self.locked_client(request.client).await?;
        let sender = call.qs_either(&scope.context()).await?;
        let outcome = queuing::delete_client::handle(&scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn update_blocklist(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.unlocked();
        let sender = call.qs_client(&scope.context()).await?;
        let outcome = queuing::update_blocklist::handle(&sender, request)?;
        scope.commit(outcome).await
    }

    pub(super) async fn publish_key_packages(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.locked_client(call.presented().qs_client()?).await?;
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
        let (client, record) = call.active_client(&scope.context()).await?;
        self.note_activity(*client.get(), &record).await?;
        let id = QueueId::client(*client.get());
        let store = &self.parts.store;
        self.queues.dequeue(id, &request, store, &mut scope.context()).await.map(|found| found.to_vec())
    }

    pub(super) async fn listen_queue(self: Arc<Self>, call: &Call<'_>) -> Result<Reply, Refusal> {
        let request = call.body()?;
        let (client, record) = call.active_client(&self.unlocked().context()).await?;
        self.note_activity(*client.get(), &record).await?;
        self.start_listening(QueueId::client(*client.get()), &request).await
    }
}
