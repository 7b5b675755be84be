//! The client's credential, renewed before it expires or when its signer is revoked. The old key signs for the new one;
//! then every leaf, KeyPackage and connection package is made anew, so that nothing rests on the old credential.

use std::sync::Arc;

use rusqlite::Connection;

use super::{
    connector::Isolation,
    core::Core,
    error::ClientError,
    network::Sender,
    register::{doubted, validity},
    state::{
        chats, meta,
        outbox::{self, Chore},
    },
};
use crate::{
    base::{Secret, Status, limits::MAX_RENEWED_CREDENTIALS},
    crypto::{credential::request_client, random_secret, signature::SigningKey, system_rng},
    wire::{
        authentication::{CredentialRenewed, RenewCredential},
        credential::{ClientCredential, ClientRequest},
        method::call,
    },
};

/// A credential with less than this left is renewed, in seconds: a month.
const RESERVE: u64 = 30 * 86_400;

/// One renewal at a time.
const LANE: &[u8] = b"renewal";

/// Where the new key is until it is certified.
const NEXT_KEY: &str = "next identity key";

/// Where the request for it is.
const REQUEST: &str = "renewal";

/// Where the credentials before the current one are, oldest first: the homeserver may have one of them only, once it was
/// restored from a backup.
const EARLIER: &str = "earlier credentials";

impl Core {
    /// Learns what was revoked, and renews the own credential if it is time.
    pub async fn keep_credential(self: &Arc<Self>) -> Result<(), ClientError> {
        self.resume_renewal().await?;
        let account = self.account();
        let payload = &account.credential.request.payload;
        if self.trust.is_stale(self.domain()) {
            self.fetch_authority(self.domain()).await?;
        }
        let expires = payload.validity.not_after < self.trust.now().seconds().saturating_add(RESERVE);
        let authority = self.trust.authority(self.domain()).map_err(doubted)?;
        if expires || !authority.has_signer(&payload.signer) { self.renew_credential().await } else { Ok(()) }
    }

    /// Asks for a new credential; what was asked for is stored first.
    pub async fn renew_credential(self: &Arc<Self>) -> Result<(), ClientError> {
        let _turn = self.lane(LANE).await;
        // One that was asked for may have been granted: its key must not get lost.
        self.resume(false).await?;
        let (core, authority) = (self.clone(), self.trust.authority(self.domain()).map_err(doubted)?);
        self.database
            .run(move |connection| {
                let signer = authority.preferred().ok_or_else(|| ClientError::untrusted("the AS has no credential"))?;
                let (account, seed) = (core.account(), random_secret(&mut system_rng()));
                let key = SigningKey::from_seed(seed.clone())?;
                let old = (&account.credential, &account.keys.identity);
                let validity = validity(signer, core.trust.now());
                let request = request_client(account.client.clone(), validity, signer, &key, Some(old));
                meta::put(connection, NEXT_KEY, &seed)?;
                meta::put(connection, REQUEST, &request)
            })
            .await?;
        self.resume(true).await
    }

    /// The homeserver does not know the current credential: it was restored from a backup that is older. If it has one of those
    /// before, it grants the same renewal once more, which the key before has signed.
    pub async fn renew_again(self: &Arc<Self>) -> Result<(), ClientError> {
        let _turn = self.lane(LANE).await;
        let account = self.account();
        let request = account.credential.request.clone();
        if request.predecessor_signature.is_none() {
            return Ok(());
        }
        let key = &account.keys.identity;
        let sender = Sender::Renewing(account.identity(), key, key);
        let history = self.database.run(history).await?;
        let credential = self.ask_to_renew(sender, &RenewCredential { request, history }).await?;
        self.verify_client(&credential).await?;
        self.database.run(move |connection| meta::put(connection, "credential", &credential)).await?;
        self.reload_account().await
    }

    /// Goes on with a renewal that is stored.
    pub async fn resume_renewal(self: &Arc<Self>) -> Result<(), ClientError> {
        let _turn = self.lane(LANE).await;
        self.resume(true).await
    }

    /// The caller holds the lane. A refusal is an error, or else only the end of what was asked for.
    async fn resume(self: &Arc<Self>, must_succeed: bool) -> Result<(), ClientError> {
        let stored = self.database.run(|connection| {
            let Some(seed) = meta::get::<Secret>(connection, NEXT_KEY)? else { return Ok(None) };
            let Some(request) = meta::get::<ClientRequest>(connection, REQUEST)? else { return Ok(None) };
            Ok::<_, ClientError>(Some((seed, RenewCredential { request, history: history(connection)? })))
        });
        let Some((seed, renew)) = stored.await? else { return Ok(()) };
        let (account, new) = (self.account(), SigningKey::from_seed(seed.clone())?);
        let sender = Sender::Renewing(account.identity(), &account.keys.identity, &new);
        let answer = self.ask_to_renew(sender, &renew).await;
        if let Err(ClientError::Refused(refusal)) = &answer
            && matches!(refusal.status, Status::Malformed | Status::Forbidden)
        {
            // This one will never be granted, and was not before: any other refusal leaves that open.
            self.database.run(forget).await?;
            if !must_succeed {
                return Ok(());
            }
        }
        // What it takes to verify it is no answer to the request: its key is kept if that fails.
        let credential = answer?;
        self.verify_client(&credential).await?;
        self.database
            .run(move |connection| {
                let mut earlier = renew.history;
                let over = earlier.len().saturating_sub(MAX_RENEWED_CREDENTIALS - 1);
                meta::put(connection, EARLIER, &earlier.split_off(over))?;
                meta::put(connection, "identity key", &seed)?;
                meta::put(connection, "credential", &credential)?;
                forget(connection)?;
                outbox::add_chore(connection, &Chore::KeyPackages)?;
                outbox::add_chore(connection, &Chore::ConnectionPackages)?;
                renew_leaves(connection)
            })
            .await?;
        self.reload_account().await
    }

    async fn ask_to_renew(
        self: &Arc<Self>,
        sender: Sender<'_>,
        renew: &RenewCredential,
    ) -> Result<ClientCredential, ClientError> {
        let CredentialRenewed { credential } =
            self.network.call::<call::AsRenewCredential>(self.domain(), Isolation::Identity, sender, renew).await?;
        if credential.request != renew.request {
            return Err(ClientError::untrusted("the AS certified something else than was asked for"));
        }
        Ok(credential)
    }
}

/// The credentials up to the current one, oldest first.
fn history(connection: &Connection) -> Result<Vec<ClientCredential>, ClientError> {
    let mut history = meta::get::<Vec<ClientCredential>>(connection, EARLIER)?.unwrap_or_default();
    history.push(meta::require(connection, "credential")?);
    Ok(history)
}

fn forget(connection: &Connection) -> Result<(), ClientError> {
    meta::remove(connection, NEXT_KEY)?;
    meta::remove(connection, REQUEST)
}

/// Every leaf gets a fresh key, credential and profile key, with the connections first: who is added to a group by this
/// client must know its new key by then.
pub fn renew_leaves(connection: &Connection) -> Result<(), ClientError> {
    let mut chats = chats::all_chats(connection)?;
    chats.retain(|chat| chat.state == chats::ChatState::Active);
    chats.sort_by_key(|chat| chat.kind != chats::ChatKind::Connection);
    for chat in chats {
        chats::set_stale(connection, &chat.group)?;
        outbox::add_chore(connection, &Chore::RenewLeaf(chat.group))?;
    }
    Ok(())
}
