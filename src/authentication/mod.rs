//! The Authentication Service: knows users by their real identity, certifies their keys, and lets them find each other
//! (`wire-spec/authentication.md`). One file per endpoint around a few that they share.

pub mod alias_records;
pub mod change_password;
pub mod delete_alias;
pub mod delete_user;
pub mod domain_allowances;
pub mod enqueue;
pub mod enqueue_alias;
pub mod finish_registration;
pub mod get_alias_package;
pub mod get_connection_package;
pub mod get_user_profile;
pub mod init_2fa;
pub mod init_registration;
pub mod invitations;
pub mod issue_tokens;
pub mod issuers;
pub mod keyring;
pub mod packages;
pub mod publish_alias_packages;
pub mod publish_connection_packages;
pub mod records;
pub mod register_alias;
pub mod renew_credential;
pub mod revocations;
mod second_factor;
pub mod update_user_profile;

use std::sync::{Arc, PoisonError, RwLock};

use crate::{
    base::{Refusal, Timestamp},
    crypto::{credential::fingerprint, opaque::OpaqueServer},
    service::{Context, damaged, keys},
    store::{Batch, Key, Table},
    wire::{authentication::Credentials, credential::AsIntermediateCredential, queue::Incarnation},
};

use keyring::Keyring;
use revocations::Revocations;
use second_factor::Logins;

/// The service's keys, and what it keeps in memory.
pub struct Authentication {
    keyring: RwLock<Arc<Keyring>>,
    /// Credentials that are not to be believed.
    pub revocations: Revocations,
    opaque: Arc<OpaqueServer>,
    logins: Logins,
    /// Keys that tokens are issued and redeemed with.
    pub issuers: issuers::Issuers,
}

impl Authentication {
    /// Loads the keys and credentials, or makes them and adds them to the batch.
    ///
    /// # Errors
    /// `internal` if they cannot be read.
    pub async fn start(context: &mut Context<'_>, batch: &mut Batch) -> Result<Self, Refusal> {
        if context.get(Table::AsKeys, &Key::new().bytes("root key")).await?.is_some() {
            return Err(Refusal::internal("the database is of a development version: set the homeserver up anew"));
        }
        let keyring = match Keyring::load(context).await? {
            Some(keyring) => keyring,
            None => {
                let keyring = Keyring::create(context.domain, context.now, context.rng)?;
                keyring.save(context, batch)?;
                keyring
            }
        };
        let fresh = OpaqueServer::generate(context.rng).to_bytes();
        let opaque = keys::bytes(context, batch, Table::AsKeys, "opaque", &fresh).await?;
        Ok(Self {
            keyring: RwLock::new(Arc::new(keyring)),
            revocations: Revocations::load(context).await?,
            opaque: Arc::new(OpaqueServer::from_bytes(&opaque).map_err(damaged)?),
            logins: Logins::default(),
            issuers: issuers::Issuers::start(context, batch).await?,
        })
    }

    /// The endpoint GetCredentials: everything it takes to verify a user of this domain, in this life of the store.
    pub fn credentials(&self, incarnation: Incarnation) -> Credentials {
        let keyring = self.keyring();
        Credentials {
            roots: keyring.roots().iter().map(|root| root.credential.clone()).collect(),
            successions: keyring.successions().to_vec(),
            intermediates: keyring.intermediates().cloned().collect(),
            revoked: self.revocations.list(),
            issuer_keys: self.issuers.public(),
            incarnation,
        }
    }

    /// The AS's own credentials as they are now.
    pub fn keyring(&self) -> Arc<Keyring> {
        self.keyring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A changed keyring is durable: it takes effect.
    pub fn install(&self, keyring: Keyring) {
        *self.keyring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keyring);
    }

    /// Whether the credential of a client that is stored here proves anything now: the client is in use, the credential
    /// valid and not revoked, and neither is who signed it.
    ///
    /// # Errors
    /// `unauthenticated` says what is the matter with it.
    pub fn check_client(&self, client: &records::Client, now: Timestamp) -> Result<(), Refusal> {
        self.check_own(client, now)?;
        let signed_by = |of: &AsIntermediateCredential| fingerprint(of) == client.credential.request.payload.signer;
        if !self.keyring().intermediates().any(signed_by) {
            return Err(Refusal::unauthenticated("the signer of the client credential is revoked: renew it"));
        }
        Ok(())
    }

    /// The same, whoever signed it: what it takes to renew it.
    ///
    /// # Errors
    /// As [`Self::check_client`].
    pub fn check_own(&self, client: &records::Client, now: Timestamp) -> Result<(), Refusal> {
        let credential = &client.credential;
        if client.disabled {
            return Err(Refusal::unauthenticated("the user was disabled by the operator of the homeserver"));
        }
        if !credential.request.payload.validity.covers(now) {
            return Err(Refusal::unauthenticated("the client credential is not valid now"));
        }
        if self.revocations.contains(&fingerprint(credential)) {
            return Err(Refusal::unauthenticated("the client credential is revoked"));
        }
        Ok(())
    }
}
