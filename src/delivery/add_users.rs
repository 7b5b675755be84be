//! AddUsers: a commit of Add proposals, and for each joiner its own part of the Welcome.

use super::{
    Services,
    commit::{Changing, Joined},
    group::Group,
    idempotency::Answer,
};
use crate::{
    base::Refusal,
    service::{Context, Outcome, Verified, proof::Leaf, proof::unproven},
    store::Batch,
    wire::{
        Decode, DecodeError, Encode, Opaque, Reader,
        credential::HpkeCiphertext,
        delivery::{AddUsers, CommitAccepted, Joiner, WelcomeBundle},
        queue::FanOutContent,
        queuing::ClientQueueConfig,
    },
};

/// MLSMessage: mls10, mls_welcome (RFC 9420 section 6).
const WELCOME: [u8; 4] = [0, 1, 0, 3];

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
    let answer = Answer::to(&group, &identity, &request.commit.idempotency_key);
    if let Some(first) = answer.find(context).await? {
        return Ok(Outcome::unchanged(first));
    }
    let mut changing = Changing::load(group, context).await?;
    let commit = changing.validate(&request.commit)?;
    if !changing.group.is_admin(leaf) {
        return Err(Refusal::forbidden("only an admin may add members"));
    }
    if commit.signer != leaf || !commit.by_member {
        return Err(Refusal::forbidden("the commit is by another member than the sender"));
    }
    if commit.added.is_empty() || !commit.removed.is_empty() || commit.others {
        return Err(Refusal::malformed("AddUsers takes a commit of Add proposals only"));
    }
    super::commit::close_connection(&mut changing.group);
    let mut batch = Batch::new();
    let mut applied = changing.apply(commit, None, context, &mut batch)?;
    let joined = std::mem::take(&mut applied.joined);
    let bundles = split_welcome(&request.welcome, joined, request.joiners)?;
    applied.finish(services, context, changing, answer, batch, bundles).await
}

wire_structs! {
    /// RFC 9420 section 12.4.3.1.
    pub struct EncryptedGroupSecrets {
        /// KeyPackageRef.
        pub new_member: Opaque,
        /// Opaque here.
        pub encrypted_group_secrets: HpkeCiphertext,
    }

    /// RFC 9420 section 12.4.3.1.
    pub struct Welcome {
        /// CipherSuite.
        pub cipher_suite: u16,
        /// One per joiner.
        pub secrets: Vec<EncryptedGroupSecrets>,
        /// Opaque here.
        pub encrypted_group_info: Opaque,
    }
}

/// Makes of one Welcome a bundle for each joiner, with that joiner's secrets only.
fn split_welcome(
    welcome: &Opaque,
    joined: Vec<Joined>,
    joiners: Vec<Joiner>,
) -> Result<Vec<(ClientQueueConfig, FanOutContent)>, Refusal> {
    let unfit = || Refusal::malformed("the Welcome does not have exactly one entry for each added member");
    let welcome = decode_welcome(welcome).map_err(|_| Refusal::malformed("the message is not a Welcome"))?;
    if welcome.secrets.len() != joined.len() || joiners.len() != joined.len() {
        return Err(unfit());
    }
    let mut secrets: std::collections::HashMap<Opaque, EncryptedGroupSecrets> =
        welcome.secrets.into_iter().map(|secrets| (secrets.new_member.clone(), secrets)).collect();
    let mut bundles = Vec::with_capacity(joined.len());
    for (joined, joiner) in joined.into_iter().zip(joiners) {
        let own = Welcome {
            cipher_suite: welcome.cipher_suite,
            secrets: vec![secrets.remove(&joined.reference).ok_or_else(unfit)?],
            encrypted_group_info: welcome.encrypted_group_info.clone(),
        };
        let mut message = WELCOME.to_vec();
        own.encode(&mut message);
        let bundle = WelcomeBundle { welcome: message.into(), joiner };
        bundles.push((joined.queue_config, FanOutContent::Welcome(bundle)));
    }
    Ok(bundles)
}

fn decode_welcome(message: &Opaque) -> Result<Welcome, DecodeError> {
    let mut reader = Reader::new(message.0.clone());
    if reader.array()? != WELCOME {
        return Err(DecodeError::Value("Welcome"));
    }
    let welcome = Welcome::decode(&mut reader)?;
    reader.finish()?;
    Ok(welcome)
}
