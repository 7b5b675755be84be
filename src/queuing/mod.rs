//! The Queuing Service: knows clients by pseudonyms only, keeps their encrypted queues and their KeyPackages
//! (`wire-spec/queuing.md`). One file per endpoint; [`fan_out`] is what the Delivery Service calls.

pub mod create_user;
pub mod fan_out;
pub mod get_add_packages;
pub mod get_body;
pub mod publish_key_packages;
pub mod records;

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{
    base::{Cache, Refusal},
    crypto::{hpke::HpkePrivateKey, sha256, signature::SigningKey},
    service::{Context, QueueId, damaged, keys},
    store::{Batch, Table},
    wire::{
        credential::SignaturePublicKey,
        queuing::{HpkeKeyId, QueuingHpkeKey, QueuingKeys},
    },
};

/// Opened queue configs that are remembered.
const OPENED_CONFIGS: usize = 100_000;

/// The service's keys, and the queue configs it has opened lately.
pub struct Queuing {
    config_key: HpkePrivateKey,
    key_id: HpkeKeyId,
    verifying_key: SignaturePublicKey,
    /// By the hash of the sealed config. In memory only.
    opened: Mutex<Cache<[u8; 32], QueueId>>,
}

impl Queuing {
    /// Loads the keys, or makes them and adds them to the batch.
    ///
    /// # Errors
    /// `internal` if they cannot be read.
    pub async fn start(context: &mut Context<'_>, batch: &mut Batch) -> Result<Self, Refusal> {
        let config_key = keys::secret(context, batch, Table::QsKeys, "config key").await?;
        let config_key = HpkePrivateKey::from_secret(config_key).map_err(damaged)?;
        let signing_key = keys::secret(context, batch, Table::QsKeys, "signing key").await?;
        let verifying_key = SigningKey::from_seed(signing_key).map_err(damaged)?.verifying_key();
        let key_id = key_id(config_key.public_key().as_slice());
        Ok(Self { config_key, key_id, verifying_key, opened: Mutex::new(Cache::new(OPENED_CONFIGS)) })
    }

    /// The endpoint GetKeys: the keys for sealing queue configs, and the key that verifies what the QS signs.
    pub fn keys(&self) -> QueuingKeys {
        QueuingKeys {
            hpke_keys: vec![QueuingHpkeKey { key_id: self.key_id, public_key: self.config_key.public_key() }],
            verifying_key: self.verifying_key.clone(),
        }
    }

    fn opened(&self) -> MutexGuard<'_, Cache<[u8; 32], QueueId>> {
        // The cache is whole between any two of its operations.
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of an HPKE key.
fn key_id(public_key: &[u8]) -> HpkeKeyId {
    let mut id = HpkeKeyId::default();
    id.copy_from_slice(&sha256(public_key)[..8]);
    id
}
