//! What the AS stores of aliases, under names that say nothing without the storage key: neither the alias nor its owner,
//! and nothing that two aliases of one owner, or an alias and a user, would have in common.

use serde::{Deserialize, Serialize};

use super::packages;
use crate::{
    base::{AliasId, Refusal},
    crypto::mac,
    service::{Context, QueueId, damaged},
    store::{Batch, Key, Table, record},
    wire::{
        Encode, authentication::RegisterAlias, connection::AliasPackage, credential::SignaturePublicKey,
        label::KeyLabel,
    },
};

const VERSION: u8 = 1;

/// What stands for an alias in the database.
#[derive(Clone, Copy)]
pub struct Name([u8; 32]);

impl Name {
    /// The name of an alias.
    pub fn of(context: &Context<'_>, alias: &AliasId) -> Self {
        let key = context.storage_key.derive(KeyLabel::AliasName);
        Self(mac(&key, KeyLabel::AliasName, &alias.0))
    }

    /// The alias's queue.
    pub fn queue(&self) -> QueueId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.0[..16]);
        QueueId::alias(id)
    }

    /// Where its record is, and in a table of their own its packages.
    pub fn key(&self) -> Key {
        Key::new().bytes(self.0)
    }
}

/// An alias.
#[derive(Serialize, Deserialize)]
pub struct AliasRecord {
    /// Proves the alias.
    pub verifying_key: Vec<u8>,
    /// Stands for the request that registered it, by which the same request again is known. Made with a key: the alias is
    /// in that request, and could be guessed from a plain hash.
    pub request: [u8; 32],
}

impl AliasRecord {
    /// The record of an alias that is registered by this request.
    pub fn new(context: &Context<'_>, request: &RegisterAlias) -> Self {
        let key = context.storage_key.derive(KeyLabel::AliasName);
        let name = mac(&key, KeyLabel::AliasName, &request.to_vec());
        Self { verifying_key: request.key.as_slice().to_vec(), request: name }
    }
}

/// The record of an alias, if it is registered.
///
/// # Errors
/// `internal` if the store fails.
pub async fn alias(context: &Context<'_>, name: &Name) -> Result<Option<AliasRecord>, Refusal> {
    context.record(Table::AsAliases, &name.key(), VERSION).await
}

/// The key that proves an alias, if it is registered.
///
/// # Errors
/// `internal` if the store fails.
pub async fn verifying_key(context: &Context<'_>, id: &AliasId) -> Result<Option<SignaturePublicKey>, Refusal> {
    let record = alias(context, &Name::of(context, id)).await?;
    Ok(record.map(|record| record.verifying_key.as_slice().into()))
}

/// Adds an alias to the batch, which fails if it is registered.
///
/// # Errors
/// `internal` if it cannot be encoded.
pub fn insert(batch: &mut Batch, name: &Name, record: &AliasRecord) -> Result<(), Refusal> {
    batch.require_absent(Table::AsAliases, name.key());
    batch.put(Table::AsAliases, name.key(), record::encode(VERSION, record).map_err(damaged)?);
    Ok(())
}

/// Adds the end of an alias and its packages to the batch. Its queue is not among it.
pub fn remove(batch: &mut Batch, name: &Name) {
    batch.delete(Table::AsAliases, name.key());
    packages::remove(batch, Table::AsAliasPackages, &name.key());
}

/// Checks packages of an alias and adds them to the batch, in place of all earlier ones.
///
/// # Errors
/// `malformed` for none, too many, or one that is not valid today.
pub fn replace_packages(
    context: &Context<'_>,
    batch: &mut Batch,
    name: &Name,
    alias_packages: &[AliasPackage],
) -> Result<(), Refusal> {
    let passes = |package: &AliasPackage| {
        packages::is_usable(package.ciphersuite, &package.encryption_key) && package.validity.covers(context.now.day())
    };
    packages::replace(batch, Table::AsAliasPackages, &name.key(), alias_packages, passes)
}
