//! The running client: its state, its connections, its account, and what keeps its tasks out of each other's way.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
};

use bytes::Bytes;
use rusqlite::Connection;
use tokio::{
    sync::{Notify, OwnedMutexGuard, mpsc},
    task::AbortHandle,
};

use super::{
    account::Account,
    connector::Isolation,
    error::ClientError,
    event::Event,
    network::{Network, Sender},
    record,
    state::{
        Database,
        chats::{self, Chat},
        outbox::Pending,
    },
    trust::{Doubt, Trust},
};
use crate::{
    base::{AliasId, Day, Domain, GroupId},
    crypto::signature::SigningKey,
    wire::{
        Decode, Method, SenderId,
        credential::{ClientCredential, SignaturePublicKey},
        delivery::GetDeliveryKeys,
        envelope::LeafId,
        method::{ProofKind, call},
        queuing::{GetQueuingKeys, QueuingHpkeKey},
    },
};

/// Events that wait for their reader.
pub const MAX_EVENTS: usize = 256;

/// Attempts at something that another member may get ahead of.
pub const ATTEMPTS: u32 = 12;

/// A running client.
pub struct Core {
    pub(super) database: Database,
    pub(super) network: Network,
    account: RwLock<Arc<Account>>,
    domain: Domain,
    pub(super) trust: Arc<Trust>,
    /// Told when there are chores.
    pub(super) chores: Notify,
    /// Told when an alias comes or goes.
    pub(super) aliases_changed: Notify,
    pub(super) events: Mutex<Option<mpsc::Sender<Event>>>,
    /// The tasks that listen, of which there is one set at a time.
    pub(super) listeners: Mutex<Vec<AbortHandle>>,
    lanes: Mutex<HashMap<Vec<u8>, Weak<tokio::sync::Mutex<()>>>>,
    queuing_key: tokio::sync::Mutex<Option<(QueuingHpkeKey, Day)>>,
    delivery_keys: tokio::sync::Mutex<HashMap<Domain, SignaturePublicKey>>,
}

impl Core {
    /// A client on what was opened.
    pub fn new(database: Database, network: Network, account: Account, trust: Trust) -> Self {
        Self {
            database,
            network,
            domain: account.domain().clone(),
            account: RwLock::new(Arc::new(account)),
            trust: Arc::new(trust),
            chores: Notify::new(),
            aliases_changed: Notify::new(),
            events: Mutex::default(),
            listeners: Mutex::default(),
            lanes: Mutex::default(),
            queuing_key: tokio::sync::Mutex::default(),
            delivery_keys: tokio::sync::Mutex::default(),
        }
    }

    /// The account as it is now. What was begun with it may go on with it: an identity key that has been renewed stays
    /// valid for a while.
    pub fn account(&self) -> Arc<Account> {
        self.account.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The account has changed in the state.
    pub async fn reload_account(&self) -> Result<(), ClientError> {
        let account = self.database.run(Account::load).await?;
        *self.account.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(account);
        Ok(())
    }

    /// The home domain.
    pub const fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Waits until nobody else sends in the lane of a group (or in the common one).
    pub async fn lane(&self, lane: &[u8]) -> OwnedMutexGuard<()> {
        let lock = {
            let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            lanes.retain(|_, lock| lock.strong_count() > 0);
            let lock = lanes.get(lane).and_then(Weak::upgrade).unwrap_or_default();
            lanes.insert(lane.to_vec(), Arc::downgrade(&lock));
            lock
        };
        lock.lock_owned().await
    }

    /// Tells whoever reads events.
    pub async fn publish(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let sender = self.events.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(sender) = sender {
            for event in events {
                // A reader that has gone is not told.
                let _ = sender.send(event).await;
            }
        }
    }

    /// In which role the DS of a group is spoken to.
    pub fn delivery(&self, group: &GroupId) -> Isolation {
        if group.domain == self.domain { Isolation::Delivery } else { Isolation::RemoteDelivery(group.clone()) }
    }

    /// The key that the own QS wants queue configs sealed to, asked for once a day.
    pub async fn queuing_key(&self) -> Result<QueuingHpkeKey, ClientError> {
        let (mut known, today) = (self.queuing_key.lock().await, self.trust.now().day());
        if let Some((key, _)) = known.as_ref().filter(|(_, day)| *day == today) {
            return Ok(key.clone());
        }
        let domain = &self.domain;
        let request = GetQueuingKeys {};
        let keys = self.network.call::<call::QsGetKeys>(domain, Isolation::Anonymous, Sender::Nobody, &request).await?;
        let key = keys.hpke_keys.into_iter().next().ok_or_else(|| ClientError::untrusted("the QS has no key"))?;
        let sealed_to = key.clone();
        self.database.run(move |connection| record::seal_to(connection, &sealed_to, today)).await?;
        *known = Some((key.clone(), today));
        Ok(key)
    }

    /// The key of the DS of a domain.
    pub async fn delivery_key(&self, domain: &Domain) -> Result<SignaturePublicKey, ClientError> {
        let mut known = self.delivery_keys.lock().await;
        if let Some(key) = known.get(domain) {
            return Ok(key.clone());
        }
        let request = GetDeliveryKeys {};
        let keys = self.network.call::<call::DsGetKeys>(domain, Isolation::Anonymous, Sender::Nobody, &request).await?;
        known.insert(domain.clone(), keys.verifying_key.clone());
        Ok(keys.verifying_key)
    }

    /// Verifies a client credential, fetching what that needs.
    pub async fn verify_client(
        &self,
        credential: &ClientCredential,
    ) -> Result<crate::crypto::credential::VerifiedClient, ClientError> {
        if let Err(Doubt::Missing(domain)) = self.trust.client(credential) {
            self.fetch_authority(&domain).await?;
        }
        self.trust.client(credential).map_err(super::register::doubted)
    }

    /// Sends a request of the outbox, proven as its method wants it.
    pub async fn transmit(&self, pending: &Pending, chat: Option<Chat>) -> Result<Bytes, ClientError> {
        let Pending { method, domain, body, .. } = pending;
        let body = Bytes::copy_from_slice(body);
        let account = self.account();
        let keys = &account.keys;
        match (method.proof(), chat) {
            (ProofKind::AsClient, _) => {
                let sender = Sender::Bound(account.identity(), &keys.identity);
                self.network.send(domain, Isolation::Identity, *method, sender, body).await
            }
            (ProofKind::QsClient, _) => {
                let sender = Sender::Bound(account.queuing_client(), &keys.queuing_client);
                self.network.send(domain, Isolation::Pseudonym, *method, sender, body).await
            }
            (ProofKind::AsAlias, _) => {
                let alias = AliasId(pending.extra[..].try_into().map_err(ClientError::storage)?);
                let key = self.alias_key(alias).await?;
                let sender = Sender::Bound(SenderId::AsAlias(alias), &key);
                self.network.send(domain, Isolation::Alias(alias), *method, sender, body).await
            }
            (proof @ (ProofKind::Leaf | ProofKind::FirstLeaf), Some(chat)) => {
                let key = SigningKey::from_seed(chat.leaf_seed)?;
                let isolation = self.delivery(&chat.group);
                let sender = SenderId::DsLeaf(LeafId { group: chat.group, leaf: chat.leaf });
                let sender = match proof {
                    ProofKind::FirstLeaf => Sender::Signed(sender, &key),
                    _ => Sender::Bound(sender, &key),
                };
                self.network.send(domain, isolation, *method, sender, body).await
            }
            (ProofKind::EarKey, Some(chat)) => {
                self.network.send(domain, self.delivery(&chat.group), *method, Sender::Nobody, body).await
            }
            _ => self.network.send(domain, Isolation::Anonymous, *method, Sender::Nobody, body).await,
        }
    }

    /// The chat that a request is proven by, if it is, as it is now.
    pub async fn proving_chat(&self, pending: &Pending) -> Result<Option<Chat>, ClientError> {
        if !matches!(pending.method.proof(), ProofKind::Leaf | ProofKind::FirstLeaf | ProofKind::EarKey) {
            return Ok(None);
        }
        let lane = pending.lane.clone();
        let find = move |connection: &Connection| chats::require(connection, &GroupId::from_slice(&lane)?);
        self.database.run(find).await.map(Some)
    }

    /// The method that fetches from a queue and the one that listens to it.
    pub const fn queue_methods(queue: super::state::queues::Queue) -> (Method, Method) {
        match queue {
            super::state::queues::Queue::Direct => (Method::AsDequeue, Method::AsListen),
            super::state::queues::Queue::Client => (Method::QsDequeue, Method::QsListen),
            super::state::queues::Queue::Alias(_) => (Method::AsDequeueAlias, Method::AsListenAlias),
        }
    }
}
