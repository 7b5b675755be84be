//! PublishConnectionPackages: replaces the keys to which offers to connect are encrypted.

use super::records;
use crate::{
    base::{ClientId, Refusal},
    crypto::signature::verify,
    service::{Context, Outcome, Verified, damaged},
    store::{Batch, Table},
    wire::{
        Encode,
        authentication::PublishConnectionPackages,
        connection::ConnectionPackage,
        credential::{CIPHERSUITE, SignaturePublicKey},
        label::SignatureLabel,
        server::Done,
    },
};

/// Most connection packages a client can have waiting.
pub const MAX_PACKAGES: usize = 100;

/// Stores the packages in place of all earlier ones.
///
/// # Errors
/// `malformed` for none, too many, or one that is not the sender's, not valid now or not signed by it.
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
    Ok(Outcome::write(batch, Done {}))
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
    packages: &[ConnectionPackage],
) -> Result<(), Refusal> {
    if packages.is_empty() || packages.len() > MAX_PACKAGES {
        return Err(Refusal::malformed("between 1 and 100 connection packages are needed"));
    }
    let prefix = records::client_packages(client);
    let range = prefix.clone().prefix();
    batch.delete_range(Table::AsPackages, range.from, range.to.unwrap_or_default());
    for (number, package) in (0..).zip(packages) {
        let ConnectionPackage { content, signature } = package;
        let fits = content.client == *client
            && content.ciphersuite == CIPHERSUITE
            && content.encryption_key.as_slice().len() == 32
            && content.validity.covers(context.now);
        if !fits || verify(key, SignatureLabel::ConnectionPackage, content, signature).is_err() {
            return Err(Refusal::malformed("a connection package is not the sender's, not valid now or badly signed"));
        }
        batch.put(Table::AsPackages, prefix.clone().u64(number), package.to_vec());
    }
    Ok(())
}
