//! What the AS stores: users and their clients. Nothing here names a QS or DS pseudonym.

use serde::{Deserialize, Serialize};

use crate::{
    base::{ClientId, Refusal, Timestamp, UserId, limits::MAX_RENEWED_CREDENTIALS},
    crypto::credential::fingerprint,
    service::{Context, damaged, store_failure},
    store::{Batch, Key, Limit, Table, record},
    wire::{
        Decode, Encode,
        credential::{ClientCredential, Fingerprint},
    },
};

/// Most clients of a user: what deleting the user can do at once.
const MAX_CLIENTS: usize = 100;

const USER_VERSION: u8 = 1;
const CLIENT_VERSION: u8 = 2;

/// A user: its OPAQUE registration record.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
pub struct UserRecord {
    /// RegistrationRecord (RFC 9807 section 5.1).
    pub password: Vec<u8>,
}

/// A client of a user.
pub struct Client {
    /// What the AS certified.
    pub credential: ClientCredential,
    /// Those that it took the place of: their fingerprints, and the last second in which each is valid.
    pub earlier: Vec<(Fingerprint, u64)>,
    /// Whether the operator has taken it out of use.
    pub disabled: bool,
}

#[derive(Serialize, Deserialize)]
struct ClientRecord {
    credential: Vec<u8>,
    earlier: Vec<(Fingerprint, u64)>,
    disabled: bool,
}

/// Where a user's record is.
pub fn user_key(user: &UserId) -> Key {
    Key::new().bytes(user.uuid).u8(0)
}

/// Where a user's sealed profile is.
pub fn profile_key(user: &UserId) -> Key {
    Key::new().bytes(user.uuid).u8(1)
}

/// Where a client's record is.
pub fn client_key(client: &ClientId) -> Key {
    Key::new().bytes(client.user.uuid).bytes(client.client)
}

/// Where the connection packages of a user's clients are: by client, then by number.
pub fn user_packages(user: &UserId) -> Key {
    Key::new().bytes(user.uuid)
}

/// Where a client's connection packages are.
pub fn client_packages(client: &ClientId) -> Key {
    client_key(client)
}

/// The user's record, if there is such a user here.
///
/// # Errors
/// `internal` if the store fails.
pub async fn user(context: &Context<'_>, user: &UserId) -> Result<Option<UserRecord>, Refusal> {
    if user.domain != *context.domain {
        return Ok(None);
    }
    context.record(Table::AsUsers, &user_key(user), USER_VERSION).await
}

/// A client, if there is such a client here, in use or not.
///
/// # Errors
/// `internal` if the store fails.
pub async fn find(context: &Context<'_>, client: &ClientId) -> Result<Option<Client>, Refusal> {
    if client.user.domain != *context.domain {
        return Ok(None);
    }
    let record = context.record::<ClientRecord>(Table::AsClients, &client_key(client), CLIENT_VERSION).await?;
    record.map(Client::decode).transpose()
}

/// The credential of a client, if there is such a client here and it is in use.
///
/// # Errors
/// `internal` if the store fails.
pub async fn client(context: &Context<'_>, client: &ClientId) -> Result<Option<ClientCredential>, Refusal> {
    let client = find(context, client).await?;
    Ok(client.filter(|client| !client.disabled).map(|client| client.credential))
}

/// Whether a user of this id was deleted here.
///
/// # Errors
/// `internal` if the store fails.
pub async fn is_departed(context: &Context<'_>, user: &UserId) -> Result<bool, Refusal> {
    Ok(context.get(Table::AsDeparted, &Key::new().bytes(user.uuid)).await?.is_some())
}

/// All clients of a user, in use or not.
///
/// # Errors
/// `not_found` if there is no such user.
pub async fn clients(context: &Context<'_>, user: &UserId) -> Result<Vec<Client>, Refusal> {
    if self::user(context, user).await?.is_none() {
        return Err(Refusal::not_found("there is no such user here"));
    }
    let range = Key::new().bytes(user.uuid).prefix();
    let rows = context.view.scan(Table::AsClients, range, Limit::rows(MAX_CLIENTS)).await.map_err(store_failure)?;
    rows.iter().map(|row| Client::from_row(&row.value)).collect()
}

impl Client {
    /// Fingerprints of its credential and of those before that may be valid still, each with the last second in which it is.
    pub fn names(&self) -> impl Iterator<Item = (Fingerprint, u64)> {
        std::iter::once(name(&self.credential)).chain(self.earlier.iter().copied())
    }

    /// The client with a new credential in place of this one, and of those `between` that this homeserver had forgotten.
    ///
    /// # Errors
    /// `quota_exceeded` if too many were renewed that are still valid.
    pub fn renewed(
        self,
        credential: ClientCredential,
        between: &[ClientCredential],
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let between = between.iter().filter(|of| of.request != credential.request).map(name);
        let earlier: Vec<_> = self.names().chain(between).filter(|(_, until)| *until >= now.seconds()).collect();
        if earlier.len() > MAX_RENEWED_CREDENTIALS {
            return Err(Refusal::quota_exceeded("this credential was renewed too often"));
        }
        Ok(Self { credential, earlier, disabled: self.disabled })
    }

    /// A stored client.
    ///
    /// # Errors
    /// `internal` if it is damaged.
    pub fn from_row(row: &[u8]) -> Result<Self, Refusal> {
        record::decode(CLIENT_VERSION, row).map_err(damaged).and_then(Self::decode)
    }

    fn decode(record: ClientRecord) -> Result<Self, Refusal> {
        let credential = ClientCredential::from_slice(&record.credential).map_err(damaged)?;
        Ok(Self { credential, earlier: record.earlier, disabled: record.disabled })
    }
}

fn name(credential: &ClientCredential) -> (Fingerprint, u64) {
    (fingerprint(credential), credential.request.payload.validity.not_after)
}

/// Adds a user and its first client to the batch; the batch fails if the user exists, or did once.
///
/// # Errors
/// `internal` if they cannot be encoded.
pub fn insert(batch: &mut Batch, user: &UserRecord, client: &Client) -> Result<(), Refusal> {
    let id = &client.credential.request.payload.client;
    batch.require_absent(Table::AsUsers, user_key(&id.user));
    batch.require_absent(Table::AsDeparted, Key::new().bytes(id.user.uuid));
    put_user(batch, &id.user, user)?;
    put_client(batch, client)
}

/// Adds a user's record to the batch.
///
/// # Errors
/// `internal` if it cannot be encoded.
pub fn put_user(batch: &mut Batch, id: &UserId, user: &UserRecord) -> Result<(), Refusal> {
    batch.put(Table::AsUsers, user_key(id), record::encode(USER_VERSION, user).map_err(damaged)?);
    Ok(())
}

/// Adds a client's record to the batch.
///
/// # Errors
/// `internal` if it cannot be encoded.
pub fn put_client(batch: &mut Batch, client: &Client) -> Result<(), Refusal> {
    let key = client_key(&client.credential.request.payload.client);
    let (credential, earlier) = (client.credential.to_vec(), client.earlier.clone());
    let record = ClientRecord { credential, earlier, disabled: client.disabled };
    batch.put(Table::AsClients, key, record::encode(CLIENT_VERSION, &record).map_err(damaged)?);
    Ok(())
}

/// Adds the end of a user to the batch: its record and profile, its clients, their packages and allowances. Queues are
/// not among it. The id stays taken: who had the user as a contact would take whoever is given it for the same.
pub fn remove(batch: &mut Batch, user: &UserId) {
    for table in [Table::AsUsers, Table::AsClients, Table::AsPackages, Table::AsAllowances] {
        let rows = Key::new().bytes(user.uuid).prefix();
        batch.delete_range(table, rows.from, rows.to.unwrap_or_default());
    }
    batch.put(Table::AsDeparted, Key::new().bytes(user.uuid), Vec::new());
}
