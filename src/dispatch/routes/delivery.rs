//! The routes of the Delivery Service.

use super::{Answer, Call};
use crate::{
    base::Refusal,
    delivery::{self, Services, group::Group},
    dispatch::{Dispatcher, run::Scope},
    service::proof,
    wire::{
        self,
        delivery::{CreateGroup, GroupAccess},
    },
};

impl Dispatcher {
    const fn services(&self) -> Services<'_> {
        Services { delivery: &self.delivery, queuing: &self.queuing }
    }

    async fn group(&self, access: &GroupAccess) -> Result<Scope<'_>, Refusal> {
        self.locked_in_turn(("group", access.group.uuid)).await
    }

    pub(super) async fn request_group_id(&self, call: &Call<'_>) -> Answer {
        let request = call.anonymous()?;
        let mut scope = self.unlocked();
        let outcome = delivery::request_group_id::handle(&self.delivery, &mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn create_group(&self, call: &Call<'_>) -> Answer {
        let request: CreateGroup = call.body()?;
        let presented = call.presented();
        let leaf = presented.leaf(&request.ticket.group)?;
        if leaf != proof::Leaf(0) {
            return Err(Refusal::unauthenticated("the creator of a group is its leaf 0"));
        }
        let mut scope = self.locked_in_turn(("group", request.ticket.group.uuid)).await?;
        let group = delivery::create_group::validate(&self.delivery, &scope.context(), request)?;
        let sender = presented.prove(leaf, group.leaf_key())?;
        call.charge()?;
        let outcome = delivery::create_group::handle(&mut scope.context(), sender, group).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn send_message(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::SendMessage = call.body()?;
        let mut scope = self.group(&request.access).await?;
        let (sender, group) = call.leaf(&scope.context(), &request.access).await?;
        let context = &mut scope.context();
        let outcome = delivery::send_message::handle(self.services(), context, sender, group, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn add_users(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::AddUsers = call.body()?;
        let mut scope = self.group(&request.commit.access).await?;
        let (sender, group) = call.leaf(&scope.context(), &request.commit.access).await?;
        let context = &mut scope.context();
        let outcome = delivery::add_users::handle(self.services(), context, sender, group, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn remove_users(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::RemoveUsers = call.body()?;
        let mut scope = self.group(&request.commit.access).await?;
        let (sender, group) = call.leaf(&scope.context(), &request.commit.access).await?;
        let context = &mut scope.context();
        let outcome = delivery::remove_users::handle(self.services(), context, sender, group, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn update_client(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::UpdateClient = call.body()?;
        let mut scope = self.group(&request.commit.access).await?;
        let (sender, group) = call.leaf(&scope.context(), &request.commit.access).await?;
        let context = &mut scope.context();
        let outcome = delivery::update_client::handle(self.services(), context, sender, group, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn update_group_context(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::UpdateGroupContext = call.body()?;
        let mut scope = self.group(&request.commit.access).await?;
        let (sender, group) = call.leaf(&scope.context(), &request.commit.access).await?;
        let context = &mut scope.context();
        let outcome = delivery::update_group_context::handle(self.services(), context, sender, group, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn update_profile_key(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::UpdateProfileKey = call.body()?;
        let mut scope = self.group(&request.access).await?;
        let (sender, group) = call.leaf(&scope.context(), &request.access).await?;
        let outcome = delivery::update_profile_key::handle(&mut scope.context(), sender, group, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn update_queue_info(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::UpdateQueueInfo = call.body()?;
        let mut scope = self.group(&request.access).await?;
        let (sender, group) = call.leaf(&scope.context(), &request.access).await?;
        let outcome = delivery::update_queue_info::handle(&mut scope.context(), sender, group, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn resync(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::Resync = call.body()?;
        let mut scope = self.group(&request.commit.access).await?;
        let (sender, group) = call.leaf(&scope.context(), &request.commit.access).await?;
        let context = &mut scope.context();
        let outcome = delivery::resync::handle(self.services(), context, sender, group, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn self_remove(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::SelfRemove = call.body()?;
        let mut scope = self.group(&request.access).await?;
        let (sender, group) = call.leaf(&scope.context(), &request.access).await?;
        let context = &mut scope.context();
        let outcome = delivery::self_remove::handle(self.services(), context, sender, group, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn join_connection_group(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::JoinConnectionGroup = call.anonymous()?;
        let mut scope = self.group(&request.commit.access).await?;
        let group = Group::open(&scope.context(), &request.commit.access).await?;
        let context = &mut scope.context();
        let outcome = delivery::join_connection_group::handle(self.services(), context, group, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn delete_group(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::DeleteGroup = call.body()?;
        let mut scope = self.group(&request.commit.access).await?;
        let (sender, group) = call.leaf(&scope.context(), &request.commit.access).await?;
        let context = &mut scope.context();
        let outcome = delivery::delete_group::handle(self.services(), context, sender, group, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn welcome_info(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::GetWelcomeInfo = call.body()?;
        let presented = call.presented();
        let joiner = presented.joiner(&request.access.group)?;
        let mut scope = self.group(&request.access).await?;
        let group = Group::open(&scope.context(), &request.access).await?;
        let today = scope.context().now.day();
        let key = group.joiner(&joiner.0, today).map(|joiner| joiner.key[..].into()).ok_or_else(proof::unproven)?;
        let sender = presented.prove(joiner, &key)?;
        call.charge()?;
        let outcome = delivery::welcome_info::handle(&mut scope.context(), sender, group, request).await?;
        scope.commit(outcome).await
    }

    pub(super) async fn external_commit_info(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::GetExternalCommitInfo = call.body()?;
        let mut scope = self.group(&request.access).await?;
        let (sender, group) = if call.request.auth.is_empty() {
            let group = Group::open(&scope.context(), &request.access).await?;
            call.charge()?;
            (None, group)
        } else {
            let (sender, group) = call.leaf(&scope.context(), &request.access).await?;
            (Some(sender), group)
        };
        let outcome = delivery::external_commit_info::handle(&mut scope.context(), sender, group).await?;
        scope.commit(outcome).await
    }
}
