//! The Queuing Service: knows clients by pseudonyms only, keeps their encrypted queues and their KeyPackages
//! (`wire-spec/queuing.md`). One file per endpoint; [`fan_out`] is what the Delivery Service calls.

pub mod config_keys;
pub mod create_client;
pub mod create_user;
pub mod delete_client;
pub mod delete_user;
pub mod fan_out;
pub mod forward;
pub mod get_add_packages;
pub mod get_body;
pub mod get_user;
pub mod publish_key_packages;
pub mod records;
pub mod update_blocklist;
pub mod update_client;
pub mod update_user;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use config_keys::{Change, ConfigKeys};
use fan_out::Opened;

use crate::{
    base::{Refusal, Secret},
    crypto::{
        push::VapidKey,
        signature::{CurrentKey, SigningKey},
    },
    service::{Context, QueueId, damaged, keys},
    store::{Batch, Table},
    wire::queuing::QueuingKeys,
};

/// Where the key is that signs what the QS says to others.
const SIGNING_KEY: &str = "signing key";

/// The service's keys, and the queue configs it has opened lately.
pub struct Queuing {
    /// To which configs are sealed.
    pub config_keys: ConfigKeys,
    /// Signs what the QS says to others.
    pub signing_key: CurrentKey,
    /// By which push services know it; none if it does not push.
    pub push_key: Option<Arc<VapidKey>>,
    opened: Mutex<Opened>,
}

impl Queuing {
    /// Loads the keys, or makes them and adds them to the batch.
    ///
    /// # Errors
    /// `internal` if they cannot be read.
    pub async fn start(context: &mut Context<'_>, batch: &mut Batch) -> Result<Self, Refusal> {
        let config_keys = ConfigKeys::start(context, batch).await?;
        let signing_key = keys::secret(context, batch, Table::QsKeys, SIGNING_KEY).await?;
        let signing_key = CurrentKey::new(SigningKey::from_seed(signing_key).map_err(damaged)?);
        let push_key = match context.policy.push.enabled {
            true => Some(Arc::new(push_key(context, batch).await?)),
            false => None,
        };
        Ok(Self { config_keys, signing_key, push_key, opened: Mutex::default() })
    }

    /// The endpoint GetKeys: the keys for sealing queue configs, the key that verifies what the QS signs, and the one by which
    /// push services know it.
    pub fn keys(&self) -> QueuingKeys {
        QueuingKeys {
            hpke_keys: self.config_keys.public(),
            verifying_key: self.signing_key.get().verifying_key(),
            push_key: self.push_key.as_ref().map(|key| *key.public_key()),
        }
    }

    /// A new key that signs what the QS says to others, to be put into use when the batch is durable. Others find that what is
    /// signed does not verify any more, and ask for it.
    ///
    /// # Errors
    /// `internal` if no key can be made.
    pub fn rotate_signing_key(&self, context: &mut Context<'_>, batch: &mut Batch) -> Result<SigningKey, Refusal> {
        SigningKey::from_seed(keys::replace(context, batch, Table::QsKeys, SIGNING_KEY)).map_err(damaged)
    }

    /// A change of the keys for queue configs is durable. What was opened before rests on keys whose last day was not known yet.
    pub fn apply(&self, change: Change) {
        if change.is_one() {
            self.opened().forget_all();
        }
        self.config_keys.apply(change);
    }

    /// The record of the client whose queue this is has changed, or is gone: its queue configs are opened and checked anew.
    pub fn forget(&self, queue: QueueId) {
        self.opened().forget(queue);
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        // The cache is whole between any two of its operations.
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Loads the key by which push services know the QS, or makes it.
async fn push_key(context: &mut Context<'_>, batch: &mut Batch) -> Result<VapidKey, Refusal> {
    let fresh = VapidKey::generate(context.rng).map_err(damaged)?;
    let stored = keys::bytes(context, batch, Table::QsKeys, "push key", fresh.secret().expose()).await?;
    let secret = stored[..].try_into().map(Secret::new).map_err(damaged)?;
    VapidKey::from_secret(secret).map_err(damaged)
}
