//! The end of a commit: everybody is told, what the DS proposes for the new epoch is stored, and the new state is written,
//! all in one batch.

use bytes::Bytes;

use super::{
    Services, apply::Joined, commit::Changing, group::Group, idempotency::Answer, reports,
    request_group_id::tombstone_until,
};
use crate::{
    base::Refusal,
    queuing::fan_out::Delivery,
    service::{Class, Context, Outcome, Reply},
    store::Batch,
    wire::{
        Encode, Opaque,
        delivery::CommitAccepted,
        queue::{FanOut, FanOutContent, Incarnation},
        queuing::ClientQueueConfig,
    },
};

/// A commit that has been merged in memory.
pub struct Applied {
    pub(super) epoch: u64,
    pub(super) signer: u32,
    pub(super) message: Opaque,
    /// Encoded [`ClientQueueConfig`]s.
    pub(super) recipients: Vec<Bytes>,
    /// Who was added, in the order of the proposals.
    pub joined: Vec<Joined>,
}

impl Applied {
    /// Adds a recipient that was no member before, or may be reached elsewhere than before: who has joined by external
    /// commit gets its own commit back.
    pub fn also_to(&mut self, config: &ClientQueueConfig) {
        self.recipients.push(config.to_vec().into());
    }

    /// Sends the commit to everybody who was a member before it, its sender and those it removes included, and `more` to
    /// one each; writes the new state.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn finish(
        self,
        services: Services<'_>,
        context: &mut Context<'_>,
        changing: Changing,
        answer: Answer,
        mut batch: Batch,
        more: Vec<(ClientQueueConfig, FanOutContent)>,
    ) -> Result<Outcome<CommitAccepted>, Refusal> {
        let Changing { mut group, tree, mut waiting } = changing;
        let mut telling = Telling { services, delivery: Delivery::default() };
        let commit = FanOutContent::Commit(self.message);
        telling.tell(&mut group, context, &mut batch, commit, &self.recipients).await?;
        for (one, content) in more {
            telling.tell(&mut group, context, &mut batch, content, &[one.to_vec().into()]).await?;
        }
        reports::take(&mut group, context, &mut batch).await?;
        let proposed = services.delivery.propose_removals(&mut group, &tree, &mut waiting, self.signer, context)?;
        let members = if proposed.is_empty() { Vec::new() } else { group.queue_configs(|_| false) };
        for proposal in proposed {
            let content = FanOutContent::Proposal(proposal);
            telling.tell(&mut group, context, &mut batch, content, &members).await?;
        }
        waiting.save(&mut group, context, &mut batch)?;
        group.save(context, &mut batch)?;
        Ok(accepted(self.epoch, telling.delivery, Some(answer), batch, context))
    }

    /// Sends the commit as the end of the group and deletes the group's state.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn finish_group(
        self,
        services: Services<'_>,
        context: &mut Context<'_>,
        mut group: Group,
    ) -> Result<Outcome<CommitAccepted>, Refusal> {
        let mut batch = Batch::new();
        let mut telling = Telling { services, delivery: Delivery::default() };
        let content = FanOutContent::GroupDeleted(self.message);
        telling.tell(&mut group, context, &mut batch, content, &self.recipients).await?;
        group.delete(tombstone_until(context.now), &mut batch);
        // Without the group nobody could prove to have sent the request that is repeated.
        Ok(accepted(self.epoch, telling.delivery, None, batch, context))
    }
}

/// Tells members, and notes whose queue is gone.
pub struct Telling<'a> {
    /// The services.
    pub services: Services<'a>,
    /// What is told.
    pub delivery: Delivery,
}

impl Telling<'_> {
    /// Tells whoever is behind `configs` (encoded [`ClientQueueConfig`]s) something, and before that, if it is the first since the
    /// store was restored, that it was; whether the group's head has changed.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn tell(
        &mut self,
        group: &mut Group,
        context: &mut Context<'_>,
        batch: &mut Batch,
        content: FanOutContent,
        configs: &[Bytes],
    ) -> Result<bool, Refusal> {
        let before = std::mem::replace(&mut group.head.incarnation, context.incarnation);
        let news = before != context.incarnation;
        if news && before != Incarnation::default() {
            // Members may have gone on before the store was restored: they compare what they have with what there is here.
            self.give(group, context, batch, FanOutContent::Restored(context.incarnation), configs).await?;
        }
        Ok(self.give(group, context, batch, content, configs).await? || news)
    }

    async fn give(
        &mut self,
        group: &mut Group,
        context: &mut Context<'_>,
        batch: &mut Batch,
        content: FanOutContent,
        configs: &[Bytes],
    ) -> Result<bool, Refusal> {
        let class = match content {
            FanOutContent::Application(_) => Class::Application,
            _ => Class::Handshake,
        };
        let message = FanOut { group: group.id.clone(), content };
        let gone = self.delivery.add(self.services.queuing, context, batch, message, configs, class).await?;
        let mut news = false;
        for config in gone.into_iter().filter_map(|at| configs.get(at)) {
            news |= group.mark_gone(config);
        }
        Ok(news)
    }
}

fn accepted(
    epoch: u64,
    delivery: Delivery,
    answer: Option<Answer>,
    batch: Batch,
    context: &mut Context<'_>,
) -> Outcome<CommitAccepted> {
    let answer = answer.map(|answer| answer.prepare(context));
    let Delivery { appends, forwards, unreachable, .. } = delivery;
    let reply = Reply::AfterAppends(Box::new(move |appended, batch| {
        let accepted = CommitAccepted { epoch, unreached: unreachable + appended.refused };
        if let Some(answer) = answer {
            answer.store(&accepted, batch);
        }
        Ok(accepted)
    }));
    Outcome { batch, appends, forwards, changes: Vec::new(), reply }
}
