//! PublishConnectionPackages: replaces the keys to which offers to connect are encrypted, and, for a client that has lost its
//! ratchet, the one to which the secrets of its direct queue are.

use super::{packages, records};
use crate::{
    base::{ClientId, Refusal},
    crypto::signature::verify,
    service::{Context, Outcome, QueueChange, QueueId, Verified, damaged},
    store::{Batch, Table},
    wire::{
        authentication::PublishConnectionPackages, connection::ConnectionPackage, credential::SignaturePublicKey,
        label::SignatureLabel, server::Done,
    },
};

/// Stores the packages in place of all earlier ones.
///
/// # Errors
/// `malformed` for none, too many, or one that is not the sender's, not valid now or not signed by it, and for a queue key that
/// is none; `quota_exceeded` for another queue key if the queue is full.
pub async fn handle(
    context: &mut Context<'_>,
    sender: Verified<ClientId>,
    request: PublishConnectionPackages,
) -> Result<Outcome<Done>, Refusal> {
    let client = sender.get();
    let credential = records::client(context, client).await?.ok_or_else(|| damaged("a proven client is gone"))?;
    let mut batch = Batch::new();
    let key = &credential.request.payload.verifying_key;
    replace_packages(context, &mut batch, client, key, &request.packages)?;
    let restart = (QueueId::direct(client), QueueChange::Restart(request.queue_key));
    Ok(Outcome::write(batch, Done {}).changing(vec![restart]))
}

/// Checks packages and adds them to the batch.
///
/// # Errors
/// As [`handle`].
pub(super) fn replace_packages(
    context: &Context<'_>,
    batch: &mut Batch,
    client: &ClientId,
    key: &SignaturePublicKey,
    connection_packages: &[ConnectionPackage],
) -> Result<(), Refusal> {
    let passes = |ConnectionPackage { content, signature }: &ConnectionPackage| {
        content.client == *client
            && packages::is_usable(content.ciphersuite, &content.encryption_key)
            && content.validity.covers(context.now)
            && verify(key, SignatureLabel::ConnectionPackage, content, signature).is_ok()
    };
    let prefix = records::client_packages(client);
    packages::replace(batch, Table::AsPackages, &prefix, connection_packages, passes)
}
