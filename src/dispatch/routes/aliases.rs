//! The routes of aliases.

use std::sync::Arc;

use super::{Answer, Call};
use crate::{
    authentication::{self as auth, alias_records},
    base::{AliasId, Refusal},
    crypto::alias::Alias,
    dispatch::Dispatcher,
    service::{Context, Verified, policy::Rate},
    transport::Reply,
    wire::{self, Encode},
};

impl Call<'_> {
    /// Proves an alias by its record's key.
    async fn alias(&self, context: &Context<'_>) -> Result<Verified<AliasId>, Refusal> {
        let presented = self.presented();
        let alias = presented.alias()?;
        let key = alias_records::verifying_key(context, &alias).await?;
        let proven = presented.prove(alias, &key.ok_or_else(|| presented.prove_nobody())?)?;
        self.charge()?;
        Ok(proven)
    }
}

impl Dispatcher {
    pub(super) async fn register_alias(&self, call: &Call<'_>) -> Answer {
        let request: wire::authentication::RegisterAlias = call.body()?;
        let presented = call.presented();
        let claimed = presented.alias()?;
        let alias = Alias::parse(&request.alias.0).map_err(|error| Refusal::malformed(error.to_string()))?;
        if alias.id(&self.parts.domain) != claimed {
            return Err(Refusal::unauthenticated("the sender is not the alias that the request names"));
        }
        let sender = presented.prove(claimed, &request.key)?;
        call.charge()?;
        call.count_by_address(Rate::AliasRegistrations)?;
        // That an alias is taken can be learned here as well as by looking it up.
        call.count_by_address(Rate::AliasLookups)?;
        let mut scope = self.locked(("alias", claimed)).await;
        let outcome = auth::register_alias::handle(&mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn delete_alias(&self, call: &Call<'_>) -> Answer {
        let wire::authentication::DeleteAlias {} = call.body()?;
        let mut scope = self.locked(("alias", call.presented().alias()?)).await;
        let sender = call.alias(&scope.context()).await?;
        let (outcome, queue) = auth::delete_alias::handle(&scope.context(), &sender);
        // Whoever registers the alias next has a queue of the same name: nobody is left who listens to it.
        self.queues.end_listening(queue);
        scope.commit(outcome).await
    }

    pub(super) async fn publish_alias_packages(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.locked(("alias", call.presented().alias()?)).await;
        let sender = call.alias(&scope.context()).await?;
        let outcome = auth::publish_alias_packages::handle(&scope.context(), &sender, request)?;
        scope.commit(outcome).await
    }

    pub(super) async fn get_alias_package(&self, call: &Call<'_>) -> Answer {
        let request: wire::authentication::GetAliasPackage = call.anonymous()?;
        call.count_by_address(Rate::AliasLookups)?;
        call.count(Rate::AliasPackages, request.alias)?;
        let mut scope = self.locked(("alias", request.alias)).await;
        let outcome = auth::get_alias_package::handle(&scope.context(), request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn enqueue_alias(&self, call: &Call<'_>) -> Answer {
        let request: wire::authentication::EnqueueAlias = call.anonymous()?;
        call.count_by_address(Rate::AliasLookups)?;
        call.count_by_address(Rate::AddressOffers)?;
        call.count(Rate::QueueOffers, request.alias)?;
        let mut scope = self.unlocked();
        let outcome = auth::enqueue_alias::handle(&scope.context(), request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn dequeue_alias(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        // Locked, so that nobody who was proven reads or deletes what is in the queue of the alias's next owner.
        let mut scope = self.locked(("alias", call.presented().alias()?)).await;
        let alias = call.alias(&scope.context()).await?;
        let id = alias_records::Name::of(&scope.context(), alias.get()).queue();
        let store = &self.parts.store;
        self.queues.dequeue(id, &request, store, &mut scope.context()).await.map(|found| found.to_vec())
    }

    pub(super) async fn listen_alias(self: Arc<Self>, call: &Call<'_>) -> Result<Reply, Refusal> {
        let request = call.body()?;
        let mut scope = self.locked(("alias", call.presented().alias()?)).await;
        let alias = call.alias(&scope.context()).await?;
        let id = alias_records::Name::of(&scope.context(), alias.get()).queue();
        self.clone().start_listening(id, &request).await
    }
}
