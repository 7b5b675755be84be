//! What the QS stores of its users and clients: keys and pseudonyms. Nothing here names a user of the AS.

use serde::{Deserialize, Serialize};

use crate::{
    base::{
        Day, QsClientId, QsUserId, Refusal, Secret,
        limits::{MAX_KEY_PACKAGE_DAYS, MAX_REPLACED_KEYS},
    },
    crypto::sha256,
    service::{Context, QueueChange, QueueId, damaged},
    store::{Batch, Key, KeyRange, Limit, Store, StoreError, Table, record},
    wire::{
        credential::SignaturePublicKey,
        queuing::{QueuingClient, SEALED_PUSH_TOKEN},
    },
};

const USER_VERSION: u8 = 1;
const CLIENT_VERSION: u8 = 2;

/// Days for which a replaced key verifies queue configs: as long as a KeyPackage with such a config may be used, and as long
/// again as a client may be silent before its DS takes it for lost.
pub const REPLACED_KEY_DAYS: u32 = MAX_KEY_PACKAGE_DAYS + 90;

/// A user record.
#[derive(Serialize, Deserialize)]
pub struct UserRecord {
    /// Proves the user.
    pub auth_key: Vec<u8>,
    /// SHA-256 of the friendship token.
    pub token_hash: [u8; 32],
    /// Its clients.
    pub clients: Vec<[u8; 16]>,
}

/// A client record.
#[derive(Serialize, Deserialize)]
pub struct ClientRecord {
    /// Whose client.
    pub user: [u8; 16],
    /// Proves the client, and signs its queue configs.
    pub auth_key: Vec<u8>,
    /// Keys that it had before, and the last day on which each verifies its queue configs.
    pub replaced: Vec<(Vec<u8>, u32)>,
    /// The key that its queue's secrets are sent to, by which a repeated request is known.
    pub queue_key: Vec<u8>,
    /// Where to push, sealed under a key that the server does not keep (`wire-spec/queuing.md`, "Push").
    pub push_token: Option<Vec<u8>>,
    /// When it last did something.
    pub active: u32,
    /// Number of its next KeyPackage: numbers are not used twice.
    pub next_package: u64,
}

impl ClientRecord {
    /// The record of a client as its owner gives it.
    ///
    /// # Errors
    /// `malformed` for an authentication key or a push token that is none.
    pub fn new(user: QsUserId, client: &QueuingClient, today: Day) -> Result<Self, Refusal> {
        let (auth_key, queue_key, push_token) = owned(client)?;
        let replaced = Vec::new();
        Ok(Self { user: user.0, auth_key, replaced, queue_key, push_token, active: today.0, next_package: 0 })
    }

    /// Takes over what its owner gives in its place.
    ///
    /// # Errors
    /// `malformed` for an authentication key or a push token that is none, `quota_exceeded` if too many keys were replaced lately.
    pub fn replace(&mut self, client: &QueuingClient, today: Day) -> Result<(), Refusal> {
        let (auth_key, queue_key, push_token) = owned(client)?;
        self.replaced.retain(|(key, until)| *until >= today.0 && *key != auth_key);
        if auth_key != self.auth_key {
            if self.replaced.len() >= MAX_REPLACED_KEYS {
                return Err(Refusal::quota_exceeded("this client has replaced its key too often"));
            }
            let replaced = std::mem::replace(&mut self.auth_key, auth_key);
            self.replaced.push((replaced, today.plus(REPLACED_KEY_DAYS).0));
        }
        (self.queue_key, self.push_token) = (queue_key, push_token);
        Ok(())
    }

    /// Whether this record is what its owner gave in a request, which is then a repeat.
    pub fn is_of(&self, client: &QueuingClient) -> bool {
        self.auth_key == client.auth_key.as_slice() && self.queue_key == client.queue_key.as_slice()
    }

    /// The key that proves the client.
    pub fn auth_key(&self) -> SignaturePublicKey {
        self.auth_key[..].into()
    }

    /// The keys that verify its queue configs today, and the last day of each.
    pub fn config_keys(&self, today: Day) -> impl Iterator<Item = (SignaturePublicKey, Day)> + '_ {
        let replaced = self.replaced.iter().map(|(key, until)| (SignaturePublicKey::from(&key[..]), Day(*until)));
        let current = std::iter::once((self.auth_key(), Day(u32::MAX)));
        current.chain(replaced).filter(move |(_, until)| *until >= today)
    }

    /// Notes that the client did something today.
    pub const fn touch(&mut self, today: Day) {
        self.active = today.0;
    }
}

/// What the owner of a client gives: its keys and its push token.
type Owned = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

/// The same, checked.
fn owned(client: &QueuingClient) -> Result<Owned, Refusal> {
    check_auth_key(&client.auth_key)?;
    let push_token = client.push_token.as_ref().map(|token| token.as_slice().to_vec());
    if push_token.as_ref().is_some_and(|token| token.len() != SEALED_PUSH_TOKEN) {
        return Err(Refusal::malformed("a sealed push token has 1,056 octets"));
    }
    Ok((client.auth_key.as_slice().to_vec(), client.queue_key.as_slice().to_vec(), push_token))
}

/// Checks the form of a key that is to prove somebody.
///
/// # Errors
/// `malformed` if it is no Ed25519 key.
pub fn check_auth_key(key: &SignaturePublicKey) -> Result<(), Refusal> {
    match key.as_slice().len() {
        32 => Ok(()),
        _ => Err(Refusal::malformed("an authentication key is not an Ed25519 key")),
    }
}

fn client_key(client: QsClientId) -> Key {
    Key::new().bytes(client.0)
}

/// Where a client's KeyPackages are: those given out once, or the last-resort ones.
pub fn package_prefix(client: QsClientId, last_resort: bool) -> Key {
    Key::new().bytes(client.0).u8(u8::from(last_resort))
}

/// Deletes all KeyPackages of a store but those of last resort; how many.
///
/// # Errors
/// [`StoreError`] if the store fails.
pub async fn withdraw_packages(store: &Store) -> Result<u64, StoreError> {
    let (mut range, mut withdrawn) = (KeyRange::from(Key::new()..), 0);
    loop {
        let rows = store.pending().scan(Table::QsKeyPackages, range, Limit::rows(1_000)).await?;
        let Some(last) = rows.last() else { return Ok(withdrawn) };
        range = KeyRange::from(last.key.successor()..);
        let mut batch = Batch::new();
        for row in rows.into_iter().filter(|row| row.key.as_bytes().get(size_of::<QsClientId>()) == Some(&0)) {
            batch.delete(Table::QsKeyPackages, row.key);
            withdrawn += 1;
        }
        store.submit(batch)?.await?;
    }
}

/// The last day of a stored KeyPackage, which comes first, so that it is known without decoding.
pub fn package_last_day(row: &[u8]) -> Option<Day> {
    row.first_chunk().map(|day| Day(u32::from_be_bytes(*day)))
}

/// The record of a client, if there is such a client.
///
/// # Errors
/// `internal` if the store fails.
pub async fn client(context: &Context<'_>, client: QsClientId) -> Result<Option<ClientRecord>, Refusal> {
    context.record(Table::QsClients, &client_key(client), CLIENT_VERSION).await
}

/// The record in a row of [`Table::QsClients`].
///
/// # Errors
/// `internal` if it is damaged.
pub fn decode_client(row: &[u8]) -> Result<ClientRecord, Refusal> {
    record::decode(CLIENT_VERSION, row).map_err(damaged)
}

/// Puts a client record into the batch.
///
/// # Errors
/// `internal` if it cannot be encoded.
pub fn put_client(batch: &mut Batch, client: QsClientId, client_record: &ClientRecord) -> Result<(), Refusal> {
    let record = record::encode(CLIENT_VERSION, client_record).map_err(damaged)?;
    batch.put(Table::QsClients, client_key(client), record);
    Ok(())
}

/// The record of a user, if there is such a user.
///
/// # Errors
/// `internal` if the store fails.
pub async fn user(context: &Context<'_>, user: QsUserId) -> Result<Option<UserRecord>, Refusal> {
    context.record(Table::QsUsers, &user_key(user), USER_VERSION).await
}

/// The record of a user that was proven to exist.
///
/// # Errors
/// `internal` if it does not.
pub async fn proven_user(context: &Context<'_>, id: QsUserId) -> Result<UserRecord, Refusal> {
    user(context, id).await?.ok_or_else(|| damaged("a proven user is gone"))
}

/// The record of a client that was proven to exist.
///
/// # Errors
/// `internal` if it does not.
pub async fn proven_client(context: &Context<'_>, id: QsClientId) -> Result<ClientRecord, Refusal> {
    client(context, id).await?.ok_or_else(|| damaged("a proven client is gone"))
}

/// The user whose friendship token this is, if there is one.
///
/// # Errors
/// `internal` if the store fails.
pub async fn user_by_token(context: &Context<'_>, token: &Secret) -> Result<Option<(QsUserId, UserRecord)>, Refusal> {
    let row = context.get(Table::QsTokens, &token_key(sha256(token.expose()))).await?;
    let Some(row) = row else { return Ok(None) };
    let id = QsUserId(row[..].try_into().map_err(damaged)?);
    Ok(user(context, id).await?.map(|record| (id, record)))
}

fn user_key(user: QsUserId) -> Key {
    Key::new().bytes(user.0)
}

fn token_key(hash: [u8; 32]) -> Key {
    Key::new().bytes(hash)
}

/// Adds a user with its token to the batch; the batch fails if either exists.
///
/// # Errors
/// `internal` if it cannot be encoded.
pub fn insert_user(batch: &mut Batch, user: QsUserId, record: &UserRecord) -> Result<(), Refusal> {
    batch.require_absent(Table::QsUsers, user_key(user));
    insert_token(batch, user, record.token_hash);
    put_user(batch, user, record)
}

/// Gives a user's token to the batch; the batch fails if somebody has it.
pub fn insert_token(batch: &mut Batch, user: QsUserId, hash: [u8; 32]) {
    batch.require_absent(Table::QsTokens, token_key(hash));
    batch.put(Table::QsTokens, token_key(hash), user.0.to_vec());
}

/// Takes a token from its user.
pub fn remove_token(batch: &mut Batch, hash: [u8; 32]) {
    batch.delete(Table::QsTokens, token_key(hash));
}

/// Puts a user record into the batch.
///
/// # Errors
/// `internal` if it cannot be encoded.
pub fn put_user(batch: &mut Batch, user: QsUserId, record: &UserRecord) -> Result<(), Refusal> {
    batch.put(Table::QsUsers, user_key(user), record::encode(USER_VERSION, record).map_err(damaged)?);
    Ok(())
}

/// The end of a user without clients.
pub fn remove_user(batch: &mut Batch, user: QsUserId, record: &UserRecord) {
    batch.delete(Table::QsUsers, user_key(user));
    remove_token(batch, record.token_hash);
}

/// The end of a client: its record and its KeyPackages go. Its queue goes with them, as what is returned says.
pub fn remove_client(batch: &mut Batch, client: QsClientId) -> (QueueId, QueueChange) {
    batch.delete(Table::QsClients, client_key(client));
    remove_packages(batch, client);
    (QueueId::client(client), QueueChange::Close)
}

/// All KeyPackages of a client go.
pub fn remove_packages(batch: &mut Batch, client: QsClientId) {
    for last_resort in [false, true] {
        let range = package_prefix(client, last_resort).prefix();
        batch.delete_range(Table::QsKeyPackages, range.from, range.to.unwrap_or_default());
    }
}
