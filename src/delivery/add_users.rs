//! AddUsers: a commit of Add proposals, and for each joiner its own part of the Welcome.

use std::collections::HashMap;

use super::{Services, apply::Joined, commit::Changing, group::Group, idempotency::Answer};
use crate::{
    base::Refusal,
    queuing::forward::admit,
    service::{Context, Outcome, Verified, proof::Leaf, proof::unproven},
    store::Batch,
    wire::{
        Decode, Encode, Method, Opaque,
        delivery::{AddUsers, CommitAccepted, Joiner, WelcomeBundle},
        mls::{MLS10, WELCOME, WelcomeMessage},
        queue::FanOutContent,
        queuing::ClientQueueConfig,
    },
};

/// Adds the members and tells them.
///
/// # Errors
/// `forbidden` for a sender who is not an admin; what a commit can be refused for; `malformed` if the Welcome does not
/// fit the commit.
pub async fn handle(
    services: Services<'_>,
    context: &mut Context<'_>,
    sender: Verified<Leaf>,
    group: Group,
    request: AddUsers,
) -> Result<Outcome<CommitAccepted>, Refusal> {
    let Leaf(leaf) = *sender.get();
    let identity = group.member(leaf).ok_or_else(unproven)?.identity;
    let answer = Answer::to(&group, Method::DsAddUsers, &identity, &request.commit.idempotency_key);
    if let Some(first) = answer.find(context).await? {
        return Ok(Outcome::unchanged(first));
    }
    let mut changing = Changing::load(group, context).await?;
    let commit = changing.validate(&request.commit)?;
    commit.check_sender(leaf)?;
    if !changing.group.is_admin(leaf) {
        return Err(Refusal::forbidden("only an admin may add members"));
    }
    if !commit.own.only_adds() {
        return Err(Refusal::malformed("AddUsers takes a commit of Add proposals, and what is stored"));
    }
    super::commit::close_connection(&mut changing.group);
    let mut batch = Batch::new();
    let mut applied = changing.apply(commit, None, context, &mut batch)?;
    let joined = std::mem::take(&mut applied.joined);
    for joined in &joined {
        admit(context, &joined.queue_config).await?;
    }
    let bundles = split_welcome(&request.welcome, joined, request.joiners)?;
    applied.finish(services, context, changing, answer, batch, bundles).await
}

/// Makes of one Welcome a bundle for each joiner, with that joiner's secrets only.
fn split_welcome(
    welcome: &Opaque,
    joined: Vec<Joined>,
    joiners: Vec<Joiner>,
) -> Result<Vec<(ClientQueueConfig, FanOutContent)>, Refusal> {
    let unfit = || Refusal::malformed("the Welcome does not have exactly one entry for each added member");
    let welcome = WelcomeMessage::from_bytes(welcome.0.clone()).map_err(|_| unfit())?;
    if (welcome.version, welcome.wire_format) != (MLS10, WELCOME) {
        return Err(unfit());
    }
    if welcome.secrets.len() != joined.len() || joiners.len() != joined.len() {
        return Err(unfit());
    }
    let mut secrets: HashMap<_, _> = welcome.secrets.iter().map(|secrets| (&secrets.new_member, secrets)).collect();
    let mut bundles = Vec::with_capacity(joined.len());
    for (joined, joiner) in joined.into_iter().zip(joiners) {
        let own = WelcomeMessage {
            secrets: vec![secrets.remove(&joined.reference).ok_or_else(unfit)?.clone()],
            version: MLS10,
            wire_format: WELCOME,
            cipher_suite: welcome.cipher_suite,
            encrypted_group_info: welcome.encrypted_group_info.clone(),
        };
        let bundle = WelcomeBundle { welcome: own.to_vec().into(), joiner };
        bundles.push((joined.queue_config, FanOutContent::Welcome(bundle)));
    }
    Ok(bundles)
}
