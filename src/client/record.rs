//! What this client is to the QS: its record there. The record's keys are replaced from time to time; where the QS does not have
//! it any more, because the client was silent for too long or the homeserver was restored, it is made anew.

use std::sync::Arc;

use rusqlite::Connection;

use super::{
    account::{Keys, PSEUDONYM, QUEUING_CLIENT_KEY, QUEUING_USER},
    blocking,
    connector::Isolation,
    core::Core,
    error::ClientError,
    network::Sender,
    outgoing::lane_of,
    packages, push,
    state::{
        chats, inbox, meta,
        outbox::{self, Chore, Kind, New},
        queues::{self, Cursor, Queue},
    },
};
use crate::{
    base::{Day, GroupId, Secret, Status, Timestamp},
    crypto::{random_secret, signature::SigningKey, system_rng},
    wire::{
        Encode, Method, Opaque,
        delivery::{GroupAccess, UpdateQueueInfo},
        method::call,
        queuing::{
            CreateQueuingClient, CreateQueuingUser, DeleteQueuingClient, GetQueuingUser, QueuingClient,
            QueuingClientCreated, QueuingClientRecord, QueuingHpkeKey, QueuingUserCreated, UpdateQueuingClient,
        },
    },
};

/// One change of the record at a time.
const LANE: &[u8] = b"queuing record";

/// Where the key is that takes the place of the record's, until the QS has it.
const NEXT_KEY: &str = "next queuing client key";

/// When the record's keys were made, in milliseconds.
const MADE: &str = "queuing record made";

/// The key that queue configs are sealed to, and the day on which it was asked for.
const QUEUING_KEY: &str = "queuing key";
const QUEUING_KEY_DAY: &str = "queuing key day";

/// The record as the QS is to have it. A push token is for one that it has.
pub fn queuing_client(
    connection: &Connection,
    key: &SigningKey,
    push_token: Option<Opaque>,
) -> Result<QueuingClient, ClientError> {
    let queue_key = queues::current_key(connection, Queue::Client)?;
    Ok(QueuingClient { auth_key: key.verifying_key(), queue_key, push_token })
}

/// The request that makes a user with this client.
pub fn creation(keys: &Keys, client: QueuingClient) -> CreateQueuingUser {
    let (auth_key, friendship_token) = (keys.queuing_user.verifying_key(), keys.friendship.friendship_token.clone());
    CreateQueuingUser { auth_key, friendship_token, client }
}

/// The QS has the record.
pub fn created(connection: &Connection, created: &QueuingUserCreated, now: Timestamp) -> Result<(), ClientError> {
    meta::put(connection, PSEUDONYM, &created.client)?;
    meta::put(connection, QUEUING_USER, &created.user)?;
    meta::put(connection, MADE, &now.0)?;
    queues::store(connection, Queue::Client, &Cursor::start(created.incarnation, 0))
}

/// Has the record's keys replaced if they were made before `time`, in milliseconds.
pub fn renew_before(connection: &Connection, time: u64) -> Result<(), ClientError> {
    if meta::get::<u64>(connection, MADE)?.unwrap_or_default() >= time
        || meta::get::<Secret>(connection, NEXT_KEY)?.is_some()
    {
        return Ok(());
    }
    meta::put(connection, NEXT_KEY, &random_secret(&mut system_rng()))?;
    queues::new_key(connection, Queue::Client, &mut system_rng())?;
    outbox::add_chore(connection, &Chore::Record)
}

/// Has the key that queue configs are sealed to asked for at the next occasion.
pub fn look_again(connection: &Connection) -> Result<(), ClientError> {
    meta::remove(connection, QUEUING_KEY_DAY)
}

/// Whether it is time to ask for the key that queue configs are sealed to.
pub fn is_due(connection: &Connection, today: Day) -> Result<bool, ClientError> {
    Ok(meta::get::<u32>(connection, QUEUING_KEY_DAY)? != Some(today.0))
}

/// Remembers the key that queue configs are sealed to. If it is another than before, those that are out there are replaced.
pub fn seal_to(connection: &Connection, key: &QueuingHpkeKey, today: Day) -> Result<(), ClientError> {
    let before = meta::get::<QueuingHpkeKey>(connection, QUEUING_KEY)?;
    meta::put(connection, QUEUING_KEY, key)?;
    meta::put(connection, QUEUING_KEY_DAY, &today.0)?;
    if before.is_some_and(|before| before.key_id != key.key_id) { seal_anew(connection) } else { Ok(()) }
}

/// Has all queue configs replaced: those in KeyPackages, and those that the DSs have.
fn seal_anew(connection: &Connection) -> Result<(), ClientError> {
    outbox::add_chore(connection, &Chore::KeyPackages)?;
    for chat in chats::all_chats(connection)?.into_iter().filter(|chat| chat.state.is_live()) {
        outbox::add_chore(connection, &Chore::QueueConfig(chat.group))?;
    }
    Ok(())
}

impl Core {
    /// Has the QS replace the record's keys by those that are stored for that.
    pub async fn renew_record(self: &Arc<Self>) -> Result<(), ClientError> {
        let _turn = self.lane(LANE).await;
        let outcome = match self.try_to_renew_record().await {
            // A push token is sealed for the record that there is now.
            Ok(true) => self.try_to_renew_record().await,
            outcome => outcome,
        };
        if let Err(ClientError::Refused(_)) = &outcome {
            // What waits for the queue to begin anew asks for that again.
            self.database.run(|connection| queues::set_restarting(connection, Queue::Client, false)).await?;
        }
        outcome.map(drop)
    }

    /// Whether there is another record now, which is to be given a push token. The caller holds the lane.
    async fn try_to_renew_record(self: &Arc<Self>) -> Result<bool, ClientError> {
        let (account, prepare) = (self.account(), self.account());
        let prepared = self.database.run(move |connection| {
            let current = prepare.keys.queuing_client.seed().clone();
            let seed = meta::get::<Secret>(connection, NEXT_KEY)?.unwrap_or(current);
            let next = SigningKey::from_seed(seed)?;
            let push_token = push::sealed_token(connection, &prepare)?;
            Ok::<_, ClientError>((UpdateQueuingClient { client: queuing_client(connection, &next, push_token)? }, next))
        });
        let (request, next) = prepared.await?;
        // An earlier attempt may have been carried out.
        for (key, is_current) in [(&account.keys.queuing_client, true), (&next, false)] {
            let sender = Sender::Signed(account.queuing_client(), key);
            let update =
                self.network.call::<call::QsUpdateClient>(self.domain(), Isolation::Pseudonym, sender, &request);
            match update.await {
                Err(error) if error.is_unproven() => {}
                Err(error @ ClientError::Refused(_)) if is_current && !error.is_busy() => {
                    // The QS takes the current key, so it has not taken the next one, and will not.
                    let now = self.trust.now();
                    self.database.run(move |connection| stay(connection, now)).await?;
                    return Err(error);
                }
                outcome => {
                    outcome?;
                    let (seed, now) = (next.seed().clone(), self.trust.now());
                    self.database.run(move |connection| promote(connection, &seed, now)).await?;
                    self.reload_account().await?;
                    self.drain(Queue::Client).await?;
                    return Ok(false);
                }
            }
        }
        self.make_record(request.client, next).await
    }

    /// The QS does not take the record's keys. If it has the record no more, or with a key that is lost, this makes another, and
    /// has everybody told where messages go now.
    async fn make_record(self: &Arc<Self>, client: QueuingClient, key: SigningKey) -> Result<bool, ClientError> {
        let account = self.account();
        let (domain, user) = (self.domain(), || Sender::Signed(account.queuing_user(), &account.keys.queuing_user));
        let had_token = client.push_token.is_some();
        let client = QueuingClient { push_token: None, ..client };
        let asked = self.network.call::<call::QsGetUser>(domain, Isolation::Pseudonym, user(), &GetQueuingUser {});
        let made = match asked.await {
            Err(error) if error.is_unproven() => self.make_user(client).await?,
            record => {
                let record = record?.clients.into_iter().find(|record| record.client == account.pseudonym);
                let is_ours = |of: &QueuingClientRecord| {
                    [&account.keys.queuing_client, &key].iter().any(|key| of.auth_key == key.verifying_key())
                };
                if record.as_ref().is_some_and(is_ours) {
                    // Whatever the matter was, it is over.
                    return Err(ClientError::Unreachable("the homeserver does not take a key that it has".into()));
                }
                let create = CreateQueuingClient { client };
                let created = self.network.call::<call::QsCreateClient>(domain, Isolation::Pseudonym, user(), &create);
                let QueuingClientCreated { client, incarnation } = created.await?;
                if record.is_some() {
                    let delete = DeleteQueuingClient { client: account.pseudonym };
                    let deleted =
                        self.network.call::<call::QsDeleteClient>(domain, Isolation::Pseudonym, user(), &delete);
                    deleted.await?;
                }
                QueuingUserCreated { user: account.queuing_user, client, incarnation }
            }
        };
        let now = self.trust.now();
        self.database.run(move |connection| made_anew(connection, &made, &key, now)).await?;
        self.reload_account().await?;
        Ok(had_token)
    }

    /// Makes a user at the QS, with this client. Whoever was given the friendship token could take it while there was none.
    async fn make_user(&self, client: QueuingClient) -> Result<QueuingUserCreated, ClientError> {
        let request = creation(&self.account().keys, client);
        let (domain, isolation) = (self.domain(), Isolation::Pseudonym);
        let made = self.network.call::<call::QsCreateUser>(domain, isolation.clone(), Sender::Nobody, &request).await;
        if !matches!(&made, Err(error) if error.status() == Status::AlreadyExists.name()) {
            return made;
        }
        let token = random_secret(&mut system_rng());
        let (stored, now) = (token.clone(), self.trust.now());
        self.database.run(move |connection| blocking::replace_token(connection, &stored, now)).await?;
        self.reload_account().await?;
        let request = CreateQueuingUser { friendship_token: token, ..request };
        self.network.call::<call::QsCreateUser>(domain, isolation, Sender::Nobody, &request).await
    }

    /// Tells the DS of a group where this client's messages go.
    pub async fn seal_queue_config(self: &Arc<Self>, group: &GroupId) -> Result<(), ClientError> {
        let (key, lane) = (self.queuing_key().await?, lane_of(group));
        let _turn = self.lane(&lane).await;
        let (core, group) = (self.clone(), group.clone());
        let prepare = move |connection: &Connection| {
            let chore = Chore::QueueConfig(group.clone());
            outbox::remove_chore(connection, &chore)?;
            let Some(chat) = chats::find(connection, &group)?.filter(|chat| chat.state.is_live()) else {
                return Ok(());
            };
            let queue_config = packages::queue_config(&core.account(), &key, &mut system_rng())?;
            let access = GroupAccess { group: group.clone(), ear_key: chat.ear_key };
            let new = New {
                domain: group.domain.clone(),
                group: Some(group),
                kind: Kind::Simple,
                method: Method::DsUpdateQueueInfo,
                body: UpdateQueueInfo { access, queue_config }.to_vec(),
                extra: Vec::new(),
            };
            outbox::insert(connection, new).map(drop)
        };
        self.database.run(prepare).await?;
        self.send_lane(&lane, None).await.map(drop)
    }
}

/// The QS has the record with this key.
fn promote(connection: &Connection, seed: &Secret, now: Timestamp) -> Result<(), ClientError> {
    meta::put(connection, QUEUING_CLIENT_KEY, seed)?;
    meta::remove(connection, NEXT_KEY)?;
    meta::put(connection, MADE, &now.0)
}

/// The QS does not take another key: the record stays as it is for another while.
fn stay(connection: &Connection, now: Timestamp) -> Result<(), ClientError> {
    meta::remove(connection, NEXT_KEY)?;
    meta::put(connection, MADE, &now.0)
}

/// The QS has another record than before, with this key.
fn made_anew(
    connection: &Connection,
    made: &QueuingUserCreated,
    key: &SigningKey,
    now: Timestamp,
) -> Result<(), ClientError> {
    promote(connection, key.seed(), now)?;
    created(connection, made, now)?;
    for chat in chats::all_chats(connection)?.into_iter().filter(|chat| chat.state.is_live()) {
        outbox::add_chore(connection, &Chore::Compare(chat.group))?;
    }
    seal_anew(connection)?;
    outbox::add_chore(connection, &Chore::Blocklist)?;
    let text = "the homeserver does not have this client's queue any more, nor what was in it: it has a new one";
    inbox::problem(connection, text, now)
}
