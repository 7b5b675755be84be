//! The routes of the Authentication Service.

use std::sync::Arc;

use super::{Answer, Call};
use crate::{
    authentication as auth,
    base::{ClientId, Refusal},
    dispatch::{Dispatcher, admin::INVITATIONS, credit::DOMAINS, run::Scope},
    service::{QueueId, policy::Rate, proof},
    store::Table,
    transport::Reply,
    wire::{self, Encode, server::RegistrationPolicy},
};

impl Dispatcher {
    pub(super) async fn init_registration(&self, call: &Call<'_>) -> Answer {
        let request = call.anonymous()?;
        call.count(Rate::Registrations, (call.session.origin, call.request.method))?;
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
        call.count(Rate::Registrations, (call.session.origin, call.request.method))?;
        let user = ("user", sender.get().user.uuid);
        let mut scope = loop {
            let registration = self.parts.policy.get().registration.clone();
            let mut scope = match registration {
                RegistrationPolicy::Invitation => self.locked_both(user, INVITATIONS).await,
                RegistrationPolicy::Open | RegistrationPolicy::Closed => self.locked(user).await,
            };
            // It may have been changed in between, and a code is counted under its lock.
            if scope.context().policy.registration == registration {
                break scope;
            }
        };
        let service = &self.authentication;
        let outcome = auth::finish_registration::handle(service, &mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn renew_credential(&self, call: &Call<'_>) -> Answer {
        let request: wire::authentication::RenewCredential = call.body()?;
        let presented = call.presented();
        let client = presented.renewing_client()?;
        let mut scope = self.locked(("user", client.user.uuid)).await;
        let stored = auth::records::find(&scope.context(), client).await?.ok_or_else(proof::unproven)?;
        let old = &stored.credential;
        if request.request.payload.client != *client {
            return Err(Refusal::unauthenticated("the sender is not whom the credential request names"));
        }
        let current = auth::renew_credential::forgotten(old, &request.history)?.last().unwrap_or(old);
        // After a lost reply the new key is the one that is stored, and the old one is not known any more.
        let old_key = Some(&current.request.payload.verifying_key).filter(|_| old.request != request.request);
        let new_key = &request.request.payload.verifying_key;
        let sender = presented.prove_renewing(client.clone(), old_key, new_key)?;
        self.authentication.check_own(&stored, self.parts.clock.now())?;
        call.charge()?;
        let service = &self.authentication;
        let outcome = auth::renew_credential::handle(service, &mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn init_2fa(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.unlocked();
        let sender = call.client(&scope.context()).await?;
        // Whoever does not have the client's key cannot use its attempts up.
        call.count_by_address(Rate::AddressLogins)?;
        call.count(Rate::AccountLogins, &sender.get().user)?;
        let outcome = auth::init_2fa::handle(&self.authentication, &mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn change_password(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.locked(("user", call.presented().client()?.user.uuid)).await;
        let sender = call.client(&scope.context()).await?;
        let service = &self.authentication;
        let outcome = auth::change_password::handle(service, &mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn delete_user(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.locked(("user", call.presented().client()?.user.uuid)).await;
        let sender = call.client(&scope.context()).await?;
        let service = &self.authentication;
        let removal = auth::delete_user::handle(service, &mut scope.context(), sender, request).await?;
        self.remove_user(scope, removal).await
    }

    pub(super) async fn update_user_profile(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.locked(("user", call.presented().client()?.user.uuid)).await;
        let sender = call.client(&scope.context()).await?;
        let outcome = auth::update_user_profile::handle(&mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn get_user_profile(&self, call: &Call<'_>) -> Answer {
        let request = call.anonymous()?;
        call.count_by_address(Rate::ProfileLookups)?;
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
        call.count_by_address(Rate::PackageLookups)?;
        call.count(Rate::UserPackages, &request.user)?;
        let mut scope = self.locked(("user", request.user.uuid)).await;
        let outcome = auth::get_connection_package::handle(&mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn enqueue(&self, call: &Call<'_>) -> Answer {
        let request: wire::authentication::EnqueueDirect = call.anonymous()?;
        call.count_by_address(Rate::AddressOffers)?;
        call.count(Rate::QueueOffers, &request.client)?;
        let mut scope = self.unlocked();
        let outcome = auth::enqueue::handle(&mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn issue_tokens(&self, call: &Call<'_>) -> Answer {
        let request: wire::authentication::IssueTokens = call.body()?;
        let presented = call.presented();
        let client = presented.client()?;
        let (mut scope, sender) = if client.user.domain == self.parts.domain {
            if request.credential.is_some() {
                return Err(Refusal::malformed("the credentials of this homeserver's own clients are known to it"));
            }
            let mut scope = self.locked(("allowance", client)).await;
            let sender = call.client(&scope.context()).await?;
            (scope, sender)
        } else {
            // Whoever has to be asked is asked before anything is locked.
            let sender = call.foreign_client(request.credential.as_ref()).await?;
            (self.locked_allowances(sender.get()).await?, sender)
        };
        let issuers = &self.authentication.issuers;
        let outcome = auth::issue_tokens::handle(issuers, &mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    /// For a request that changes the allowance of another homeserver's client.
    async fn locked_allowances(&self, client: &ClientId) -> Result<Scope<'_>, Refusal> {
        let domain = &client.user.domain;
        let key = auth::domain_allowances::key(domain);
        let is_known = self.unlocked().context().get(Table::AsDomainAllowances, &key).await?.is_some();
        let mut names = vec![self.locks.name(("allowance", client)), self.locks.name(("domain allowance", domain))];
        if !is_known {
            names.push(self.locks.name(DOMAINS));
        }
        Ok(self.locked_all(&names).await)
    }

    pub(super) async fn dequeue_direct(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.unlocked();
        let client = call.client(&scope.context()).await?;
        let id = QueueId::direct(client.get());
        let store = &self.parts.store;
        self.queues.dequeue(id, &request, store, &mut scope.context()).await.map(|found| found.to_vec())
    }

    pub(super) async fn listen_direct(self: Arc<Self>, call: &Call<'_>) -> Result<Reply, Refusal> {
        let request = call.body()?;
        let client = call.client(&self.unlocked().context()).await?;
        let (queue, dispatcher) = (QueueId::direct(client.get()), self.clone());
        let listening = self.start_listening(queue, &request).await?;
        // Whoever was disabled in between is not told by the one who has disabled it.
        if auth::records::client(&dispatcher.unlocked().context(), client.get()).await?.is_none() {
            dispatcher.queues.end_listening(queue);
            return Err(proof::unproven());
        }
        Ok(listening)
    }
}
