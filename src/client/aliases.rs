//! The client's own aliases: registered and deleted under keys of their own, in isolation contexts of their own. What is
//! asked of the homeserver is stored first, so that a process killed anywhere finds it and asks again.

use std::sync::Arc;

use rusqlite::Connection;

use super::{
    Client,
    connector::Isolation,
    core::Core,
    error::{ClientError, Local},
    network::Sender,
    packages::{self, LOW_CONNECTION_PACKAGES},
    state::{
        aliases::{self, AliasState, OwnAlias},
        keys,
        outbox::{self, Chore, Kind, New},
        queues::{self, Cursor, Queue},
    },
};
use crate::{
    base::{AliasId, Refusal, Status, Timestamp},
    crypto::{alias::Alias, signature::SigningKey, system_rng},
    wire::{
        Decode, Encode, Method, SenderId, Text,
        authentication::{AliasRegistered, DeleteAlias, PublishAliasPackages, RegisterAlias},
        method::call,
    },
};

/// An alias of this client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasView {
    /// Its canonical form.
    pub alias: String,
    /// Where it stands.
    pub state: AliasState,
}

impl Client {
    /// Registers an alias, by which others can find this user without learning who it is; returns its canonical form.
    ///
    /// # Errors
    /// `already_exists` if it, or one that looks like it, is taken; [`Local::Invalid`] for what is
    /// no alias; [`ClientError::Unreachable`], after which the next [`Client::sync`] goes on.
    pub async fn register_alias(&self, alias: &str) -> Result<String, ClientError> {
        let core = &self.0;
        let alias = parse(alias)?;
        let (id, now) = (alias.id(core.domain()), core.trust.now());
        let own = core.database.run(move |connection| prepare(connection, id, alias.to_string(), now)).await?;
        core.settle_alias(own.id).await?;
        Ok(own.alias)
    }

    /// Deletes an alias: nobody can be found by it any more, and anybody may register it.
    ///
    /// # Errors
    /// [`Local::NotFound`] if this client has no such alias; [`ClientError::Unreachable`], after
    /// which the next [`Client::sync`] goes on.
    pub async fn delete_alias(&self, alias: &str) -> Result<(), ClientError> {
        let core = &self.0;
        let id = parse(alias)?.id(core.domain());
        let turn = core.lane(&id.0).await;
        let end = move |connection: &Connection| {
            aliases::require(connection, &id)?;
            aliases::set_state(connection, &id, AliasState::Deleting)
        };
        core.database.run(end).await?;
        drop(turn);
        core.aliases_changed.notify_one();
        core.settle_alias(id).await
    }

    /// This client's aliases, by name.
    ///
    /// # Errors
    /// [`Local::Storage`].
    pub async fn aliases(&self) -> Result<Vec<AliasView>, ClientError> {
        let aliases = self.0.database.run(aliases::all_aliases).await?;
        Ok(aliases.into_iter().map(|own| AliasView { alias: own.alias, state: own.state }).collect())
    }
}

impl Core {
    /// All queues of this client, in an order that says nothing of what they have to do with each other.
    pub async fn queues(&self) -> Result<Vec<Queue>, ClientError> {
        let mut queues = vec![Queue::Direct, Queue::Client];
        queues.extend(self.active_aliases().await?.into_iter().map(Queue::Alias));
        let mut rng = system_rng();
        for last in (1..queues.len()).rev() {
            let at = rand_core::RngCore::next_u64(&mut rng) as usize % (last + 1);
            queues.swap(last, at);
        }
        Ok(queues)
    }

    /// Fetches and processes everything that is in a queue now, where the homeserver still knows this client.
    pub async fn fetch(self: &Arc<Self>, queue: Queue) -> Result<(), ClientError> {
        match (queue, self.drain(queue).await) {
            // Who certified this client may have been revoked since it last looked.
            (Queue::Direct, Err(error)) if error.is_unproven() => {
                self.fetch_authority(self.domain()).await?;
                self.keep_credential().await?;
                // What it says is said once more when the queue is asked for.
                let _ = self.renew_again().await;
                let gone = "the homeserver does not take this client any more: its user was deleted or disabled, or was made after the \
                            backup that the homeserver was restored from";
                match self.drain(queue).await {
                    Err(error) if error.is_unproven() => Err(ClientError::Refused(Refusal::unauthenticated(gone))),
                    outcome => outcome,
                }
            }
            (Queue::Client, Err(error)) if error.is_unproven() => {
                self.renew_record().await?;
                self.drain(queue).await
            }
            (Queue::Alias(id), Err(error)) if error.is_unproven() => self.lose_alias(id).await,
            // Deleted in between.
            (Queue::Alias(_), Err(ClientError::Local(Local::NotFound, _))) => Ok(()),
            (_, outcome) => outcome,
        }
    }

    /// The homeserver does not know an alias any more: the operator has deleted it, or has lost it.
    pub async fn lose_alias(&self, id: AliasId) -> Result<(), ClientError> {
        let turn = self.lane(&id.0).await;
        let lost = self.database.run(move |connection| {
            let own = aliases::find(connection, &id)?.filter(|own| own.state == AliasState::Active);
            forget(connection, &id)?;
            Ok::<_, ClientError>(own)
        });
        let lost = lost.await?;
        drop(turn);
        self.aliases_changed.notify_one();
        match lost {
            Some(own) => self.note(format!("the alias {} is not yours any more", own.alias)).await,
            None => Ok(()),
        }
    }

    /// The aliases whose queues are to be fetched from.
    pub async fn active_aliases(&self) -> Result<Vec<AliasId>, ClientError> {
        let aliases = self.database.run(aliases::all_aliases).await?;
        Ok(aliases.into_iter().filter(|own| own.state == AliasState::Active).map(|own| own.id).collect())
    }

    /// The key that proves an alias.
    pub async fn alias_key(&self, id: AliasId) -> Result<SigningKey, ClientError> {
        let own = self.database.run(move |connection| aliases::require(connection, &id)).await?;
        Ok(SigningKey::from_seed(own.seed)?)
    }

    /// Asks again what was not answered, and sees to it that no alias runs out of packages.
    pub async fn settle_aliases(&self) -> Result<(), ClientError> {
        for own in self.database.run(aliases::all_aliases).await? {
            match self.settle_alias(own.id).await {
                Err(error) if error.is_passing() => return Err(error),
                Err(error) => self.note(format!("the alias {}: {error}", own.alias)).await?,
                Ok(()) => {}
            }
        }
        Ok(())
    }

    async fn settle_alias(&self, id: AliasId) -> Result<(), ClientError> {
        let _turn = self.lane(&id.0).await;
        let own = self.database.run(move |connection| aliases::find(connection, &id)).await?;
        match own {
            Some(own) if own.state == AliasState::Pending => self.send_registration(own).await,
            Some(own) if own.state == AliasState::Deleting => self.send_deletion(&own).await,
            Some(own) => {
                let soon = self.trust.now().seconds().saturating_add(packages::RENEWAL);
                self.database.run(move |connection| refill_if_low(connection, Some(&own.id), soon)).await
            }
            None => Ok(()),
        }
    }

    async fn send_registration(&self, own: OwnAlias) -> Result<(), ClientError> {
        let (id, key) = (own.id, SigningKey::from_seed(own.seed)?);
        let sender = Sender::Bound(SenderId::AsAlias(id), &key);
        let (method, body) = (Method::AsRegisterAlias, own.request.into());
        let answer = self.network.send(self.domain(), Isolation::Alias(id), method, sender, body).await;
        if let Err(ClientError::Refused(refusal)) = &answer {
            // Any other refusal leaves open whether an earlier attempt has succeeded.
            if matches!(refusal.status, Status::AlreadyExists | Status::Malformed | Status::Unauthenticated) {
                self.database.run(move |connection| forget(connection, &id)).await?;
            }
        }
        let AliasRegistered { incarnation } = AliasRegistered::from_bytes(answer?)?;
        let activate = move |connection: &Connection| {
            if aliases::require(connection, &id)?.state == AliasState::Pending {
                aliases::set_state(connection, &id, AliasState::Active)?;
                queues::store(connection, Queue::Alias(id), &Cursor::start(incarnation, 0))?;
            }
            Ok::<_, ClientError>(())
        };
        self.database.run(activate).await?;
        self.aliases_changed.notify_one();
        Ok(())
    }

    async fn send_deletion(&self, own: &OwnAlias) -> Result<(), ClientError> {
        let (id, key) = (own.id, SigningKey::from_seed(own.seed.clone())?);
        let sender = Sender::Bound(SenderId::AsAlias(id), &key);
        let (domain, request) = (self.domain(), DeleteAlias {});
        let answer = self.network.call::<call::AsDeleteAlias>(domain, Isolation::Alias(id), sender, &request).await;
        // To a homeserver that has carried it out before, the key is unknown.
        if !matches!(&answer, Err(error) if error.is_unproven()) {
            answer?;
        }
        self.database.run(move |connection| forget(connection, &id)).await
    }
}

fn parse(alias: &str) -> Result<Alias, ClientError> {
    Alias::parse(alias).map_err(|error| ClientError::invalid(error.to_string()))
}

/// The alias as it is here, or made and stored with the request that registers it.
fn prepare(connection: &Connection, id: AliasId, alias: String, now: Timestamp) -> Result<OwnAlias, ClientError> {
    match aliases::find(connection, &id)? {
        Some(own) if own.state == AliasState::Deleting => {
            return Err(ClientError::invalid("this alias is being deleted; try again when it is"));
        }
        Some(own) if own.alias != alias => {
            return Err(ClientError::invalid(format!("your alias {} looks the same", own.alias)));
        }
        Some(own) => return Ok(own),
        None => {}
    }
    let mut rng = system_rng();
    let key = SigningKey::generate(&mut rng)?;
    queues::new_key(connection, Queue::Alias(id), &mut rng)?;
    let request = RegisterAlias {
        alias: Text(alias.clone()),
        key: key.verifying_key(),
        queue_key: queues::current_key(connection, Queue::Alias(id))?,
        packages: packages::alias_packages(connection, id, now, &mut rng)?,
    };
    let own = OwnAlias { id, alias, seed: key.seed().clone(), state: AliasState::Pending, request: request.to_vec() };
    aliases::insert(connection, &own)?;
    Ok(own)
}

/// An alias is gone, and everything of it goes.
fn forget(connection: &Connection, id: &AliasId) -> Result<(), ClientError> {
    keys::remove_alias_keys(connection, id)?;
    queues::remove(connection, Queue::Alias(*id))?;
    outbox::remove_chore(connection, &Chore::AliasPackages(*id))?;
    aliases::remove(connection, id)
}

/// Adds the chore to publish fresh packages, of the user or of an alias, if few are left that are valid at `time`.
pub fn refill_if_low(connection: &Connection, alias: Option<&AliasId>, time: u64) -> Result<(), ClientError> {
    if keys::unused_connection_keys(connection, alias, time)? >= LOW_CONNECTION_PACKAGES {
        return Ok(());
    }
    outbox::add_chore(connection, &alias.map_or(Chore::ConnectionPackages, |id| Chore::AliasPackages(*id)))
}

/// Makes fresh packages of an alias, to be published when the outbox is next sent.
pub fn publish_packages(connection: &Connection, core: &Core, id: AliasId) -> Result<(), ClientError> {
    if aliases::find(connection, &id)?.is_none_or(|own| own.state != AliasState::Active) {
        return Ok(());
    }
    // Those published earlier are replaced; offers to them may still be on their way.
    keys::retire_connection_keys(connection, Some(&id))?;
    let packages = packages::alias_packages(connection, id, core.trust.now(), &mut system_rng())?;
    let queue_key = queues::current_key(connection, Queue::Alias(id))?;
    let new = New {
        group: None,
        kind: Kind::Simple,
        method: Method::AsPublishAliasPackages,
        domain: core.domain().clone(),
        body: PublishAliasPackages { packages, queue_key }.to_vec(),
        extra: id.0.to_vec(),
    };
    outbox::insert(connection, new).map(drop)
}
