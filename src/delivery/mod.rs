//! The Delivery Service: knows members by per-group pseudonyms only, orders and validates handshake messages against the
//! group's public state, and keeps that state encrypted under a key that comes with every request and is forgotten after
//! it (`wire-spec/delivery.md`). One file per endpoint around a few that they share.

pub mod add_users;
mod apply;
mod commit;
pub mod create_group;
pub mod delete_group;
mod ending;
pub mod expire;
pub mod external_commit_info;
pub mod group;
mod idempotency;
pub mod join_connection_group;
mod member_infos;
pub mod remove_users;
pub mod reports;
pub mod request_group_id;
pub mod resync;
pub mod self_remove;
pub mod send_message;
mod tree;
pub mod update_client;
pub mod update_group_context;
pub mod update_profile_key;
pub mod update_queue_info;
mod waiting;
pub mod welcome_info;

use crate::{
    base::{Refusal, Secret},
    crypto::signature::SigningKey,
    queuing::Queuing,
    service::{Context, damaged, keys},
    store::{Batch, Table},
    wire::{credential::SignaturePublicKey, delivery::DeliveryKeys},
};

/// The service's keys.
pub struct Delivery {
    /// Signs what the DS proposes.
    signing_key: SigningKey,
    verifying_key: SignaturePublicKey,
    ticket_key: Secret,
}

impl Delivery {
    /// Loads the keys, or makes them and adds them to the batch.
    ///
    /// # Errors
    /// `internal` if they cannot be read.
    pub async fn start(context: &mut Context<'_>, batch: &mut Batch) -> Result<Self, Refusal> {
        let signing_key = keys::secret(context, batch, Table::DsKeys, "signing key").await?;
        let signing_key = SigningKey::from_seed(signing_key).map_err(damaged)?;
        let ticket_key = keys::secret(context, batch, Table::DsKeys, "ticket key").await?;
        Ok(Self { verifying_key: signing_key.verifying_key(), signing_key, ticket_key })
    }

    /// The endpoint GetKeys: the key that every group lists as its external sender.
    pub fn keys(&self) -> DeliveryKeys {
        DeliveryKeys { verifying_key: self.verifying_key.clone() }
    }
}

/// The services that a delivery needs: itself, and the QS of its homeserver.
#[derive(Clone, Copy)]
pub struct Services<'a> {
    /// This service.
    pub delivery: &'a Delivery,
    /// Takes what is sent to the members' queues.
    pub queuing: &'a Queuing,
}
