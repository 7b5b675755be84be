//! What the operator does to the Authentication Service while it runs. The requests come over the node's admin socket;
//! every change is made durable in the one way in which requests change anything.

use super::{Dispatcher, run::Scope};
use crate::{
    authentication::{
        alias_records, delete_alias,
        delete_user::{self, Removal},
        invitations::{self, Invitation},
        keyring::Keyring,
        records,
        revocations::{By, Changes},
    },
    base::{Day, Refusal, Timestamp, UserId},
    crypto::alias::Alias,
    service::{Context, Outcome, QueueChange, QueueId, policy::Policy, store_failure},
    store::{Batch, Key, KeyRange, Limit, Table},
    wire::{
        authentication::{
            IssuerKey, Revocation,
            RevocationReason::{OnHold, Revoked},
        },
        credential::Fingerprint,
        queuing::HpkeKeyId,
        server::Done,
    },
};

/// Whoever changes invitation codes holds this lock.
pub(super) const INVITATIONS: &str = "invitations";

/// Rows looked at in one go.
const PAGE: usize = 1_000;

/// A user as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserEntry {
    /// Who.
    pub user: UserId,
    /// Whether it is disabled.
    pub disabled: bool,
    /// Last second in which its credential is valid.
    pub valid_until: u64,
}

impl Dispatcher {
    /// What an operator has decided is something else from now on. How clients are woken stays as it was at the start.
    pub fn change_policy(&self, policy: Policy) {
        self.parts.policy.change(|current| *current = policy);
    }

    /// Writes the end of a user, and lets it take effect.
    ///
    /// # Errors
    /// What the store refuses.
    pub(super) async fn remove_user(&self, scope: Scope<'_>, removal: Removal) -> Result<Vec<u8>, Refusal> {
        let Removal { batch, revoked, queues } = removal;
        let closed = queues.into_iter().map(|queue| (queue, QueueChange::Close)).collect();
        let reply = scope.commit(Outcome::write(batch, Done {}).changing(closed)).await?;
        self.authentication.revocations.apply(revoked);
        Ok(reply)
    }

    /// Users in the order of their ids, those after `after`, a page of them.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn users(&self, after: Option<&UserId>) -> Result<Vec<UserEntry>, Refusal> {
        let from = match after {
            // After all rows of that user.
            Some(user) => Key::new().bytes(user.uuid).prefix().to,
            None => Some(Key::new()),
        };
        let Some(from) = from else { return Ok(Vec::new()) };
        let view = self.parts.store.durable();
        let rows = view.scan(Table::AsClients, KeyRange::from(from..), Limit::rows(PAGE)).await;
        let entry = |row: crate::store::Row| {
            let client = records::Client::from_row(&row.value)?;
            let payload = client.credential.request.payload;
            let (user, valid_until) = (payload.client.user, payload.validity.not_after);
            Ok(UserEntry { user, disabled: client.disabled, valid_until })
        };
        rows.map_err(store_failure)?.into_iter().map(entry).collect()
    }

    /// Takes a user out of use, or back in. Its credential stops to work at once and everywhere, and is listed as revoked
    /// and on hold; nothing of it is deleted.
    ///
    /// # Errors
    /// `not_found` if there is no such user, `quota_exceeded` if no more can be listed.
    pub async fn set_disabled(&self, user: &UserId, disabled: bool) -> Result<(), Refusal> {
        let mut scope = self.locked(("user", user.uuid)).await;
        let clients = records::clients(&scope.context(), user).await?;
        let (mut batch, mut changes, mut queues) = (Batch::new(), Changes::default(), Vec::new());
        for client in clients {
            let payload = &client.credential.request.payload;
            queues.push(QueueId::direct(&payload.client));
            for revocation in client.names() {
                if disabled {
                    self.authentication.revocations.add(revocation, OnHold, By::Operator, &mut batch, &mut changes)?;
                } else {
                    self.authentication.revocations.lift(revocation.0, &mut batch, &mut changes);
                }
            }
            records::put_client(&mut batch, &records::Client { disabled, ..client })?;
        }
        scope.commit(Outcome::write(batch, Done {})).await?;
        self.authentication.revocations.apply(changes);
        if disabled {
            queues.into_iter().for_each(|queue| self.queues.end_listening(queue));
        }
        Ok(())
    }

    /// Deletes a user and everything that belongs to it.
    ///
    /// # Errors
    /// `not_found` if there is no such user.
    pub async fn delete_user_by_operator(&self, user: &UserId) -> Result<(), Refusal> {
        let mut scope = self.locked(("user", user.uuid)).await;
        let removal = delete_user::remove(&self.authentication, &scope.context(), user, By::Operator).await?;
        self.remove_user(scope, removal).await.map(drop)
    }

    /// Deletes an alias, its packages and its queue.
    ///
    /// # Errors
    /// `not_found` if it is not registered.
    pub async fn delete_alias_by_operator(&self, alias: &Alias) -> Result<(), Refusal> {
        let id = alias.id(&self.parts.domain);
        let mut scope = self.locked(("alias", id)).await;
        if alias_records::verifying_key(&scope.context(), &id).await?.is_none() {
            return Err(Refusal::not_found("there is no such alias here"));
        }
        let (outcome, queue) = delete_alias::remove(&scope.context(), &id);
        self.queues.end_listening(queue);
        scope.commit(outcome).await.map(drop)
    }

    /// Makes an invitation code for so many registrations.
    ///
    /// # Errors
    /// `quota_exceeded` if there are too many.
    pub async fn create_invitation(
        &self,
        uses: u32,
        expires: Timestamp,
        note: String,
    ) -> Result<(String, Invitation), Refusal> {
        let mut scope = self.locked(INVITATIONS).await;
        let mut batch = Batch::new();
        let made = invitations::create(&mut scope.context(), &mut batch, uses, expires, note).await?;
        scope.commit(Outcome::write(batch, Done {})).await?;
        Ok(made)
    }

    /// All invitation codes.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn invitations(&self) -> Result<Vec<Invitation>, Refusal> {
        invitations::list(&self.unlocked().context()).await
    }

    /// Takes an invitation code back.
    ///
    /// # Errors
    /// `not_found` if there is none of this name.
    pub async fn revoke_invitation(&self, id: &str) -> Result<(), Refusal> {
        let mut scope = self.locked(INVITATIONS).await;
        let mut batch = Batch::new();
        invitations::revoke(&scope.context(), &mut batch, id).await?;
        scope.commit(Outcome::write(batch, Done {})).await.map(drop)
    }

    /// The AS's own credentials.
    pub fn keyring(&self) -> std::sync::Arc<Keyring> {
        self.authentication.keyring()
    }

    /// The keys that issue tokens, or whose tokens are redeemed, the newest first.
    pub fn issuer_keys(&self) -> Vec<IssuerKey> {
        self.authentication.issuers.public()
    }

    /// The keys that open queue configs, the preferred one first, and the last day of each.
    pub fn config_keys(&self) -> Vec<(HpkeKeyId, Day)> {
        self.queuing.config_keys.all()
    }

    /// The list of revoked credentials.
    pub fn revoked(&self) -> Vec<Revocation> {
        self.authentication.revocations.list()
    }

    /// Changes the AS's own credentials; what `change` gives is given when the change is durable and in effect.
    ///
    /// # Errors
    /// What `change` refuses.
    pub async fn change_keyring<T>(
        &self,
        change: impl FnOnce(&mut Keyring, &mut Context<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut scope = self.locked("keyring").await;
        let mut keyring = Keyring::clone(&self.authentication.keyring());
        let changed = change(&mut keyring, &mut scope.context())?;
        self.install_keyring(scope, keyring, Batch::new(), Changes::default()).await?;
        Ok(changed)
    }

    /// Revokes one of the AS's own credentials, and with it whatever it signed. Clients that have not
    /// looked since a root was rotated are shut out when it is revoked.
    ///
    /// # Errors
    /// `not_found` if there is none of this fingerprint, `forbidden` for one that signs now, and for a root unless the
    /// operator is `sure`.
    pub async fn revoke_signer(&self, name: Fingerprint, sure: bool) -> Result<(), Refusal> {
        let scope = self.locked("keyring").await;
        let mut keyring = Keyring::clone(&self.authentication.keyring());
        let (mut batch, mut changes) = (Batch::new(), Changes::default());
        for revocation in keyring.remove(&name, sure)? {
            self.authentication.revocations.add(revocation, Revoked, By::Operator, &mut batch, &mut changes)?;
        }
        self.install_keyring(scope, keyring, batch, changes).await
    }

    async fn install_keyring(
        &self,
        mut scope: Scope<'_>,
        keyring: Keyring,
        mut batch: Batch,
        changes: Changes,
    ) -> Result<(), Refusal> {
        keyring.save(&mut scope.context(), &mut batch)?;
        scope.commit(Outcome::write(batch, Done {})).await?;
        self.authentication.revocations.apply(changes);
        self.authentication.install(keyring);
        // Keys that are gone from it are to be gone from the disk.
        self.parts.store.purge(Table::AsKeys).await.map_err(store_failure)
    }

    /// What is due every hour: a root or intermediate that expires before what it would sign is replaced, if the root's
    /// key is here, and revocations and invitation codes that have expired go.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn maintain_credentials(&self) -> Result<(), Refusal> {
        let now = self.parts.clock.now();
        let keyring = self.authentication.keyring();
        let rotated = if keyring.is_root_due(now) {
            self.change_keyring(|keyring, context| keyring.rotate_root(context.domain, now, context.rng)).await
        } else if keyring.is_due(now) {
            self.change_keyring(|keyring, context| keyring.rotate_intermediate(now, context.rng)).await
        } else {
            Ok(())
        };
        if let Err(refusal) = rotated {
            tracing::warn!(reason = %refusal.message, "a credential of the AS expires soon and is not replaced");
        }
        let mut scope = self.locked(INVITATIONS).await;
        let mut batch = Batch::new();
        invitations::expire(&scope.context(), &mut batch).await?;
        let changes = self.authentication.revocations.expire(now, &mut batch);
        scope.commit(Outcome::write(batch, Done {})).await?;
        self.authentication.revocations.apply(changes);
        Ok(())
    }

    /// How many rows a table has.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn count(&self, table: Table) -> Result<u64, Refusal> {
        let view = self.parts.store.durable();
        let (mut range, mut count) = (KeyRange::from(Key::new()..), 0);
        loop {
            let rows = view.scan(table, range, Limit::rows(PAGE)).await.map_err(store_failure)?;
            let Some(last) = rows.last() else { return Ok(count) };
            count += rows.len() as u64;
            range = KeyRange::from(last.key.successor()..);
        }
    }
}
