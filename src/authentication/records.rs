//! What the AS stores: users and their clients. Nothing here names a QS or DS pseudonym.

use serde::{Deserialize, Serialize};

use crate::{
    base::{ClientId, Refusal, UserId},
    service::{Context, damaged},
    store::{Batch, Key, Table, record},
    wire::{Decode, Encode, credential::ClientCredential},
};

const USER_VERSION: u8 = 1;
const CLIENT_VERSION: u8 = 1;

/// A user: its OPAQUE registration record.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
pub struct UserRecord {
    /// RegistrationRecord (RFC 9807 section 5.1).
    pub password: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct ClientRecord {
    credential: Vec<u8>,
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

/// The credential of a client, if there is such a client here.
///
/// # Errors
/// `internal` if the store fails.
pub async fn client(context: &Context<'_>, client: &ClientId) -> Result<Option<ClientCredential>, Refusal> {
    if client.user.domain != *context.domain {
        return Ok(None);
    }
    let record = context.record::<ClientRecord>(Table::AsClients, &client_key(client), CLIENT_VERSION).await?;
    record.map(|record| ClientCredential::from_slice(&record.credential)).transpose().map_err(damaged)
}

/// Adds a user and its first client to the batch; the batch fails if either exists.
///
/// # Errors
/// `internal` if they cannot be encoded.
pub fn insert(batch: &mut Batch, user: &UserRecord, credential: &ClientCredential) -> Result<(), Refusal> {
    let client = &credential.request.payload.client;
    let record = ClientRecord { credential: credential.to_vec() };
    batch.require_absent(Table::AsUsers, user_key(&client.user));
    batch.put(Table::AsUsers, user_key(&client.user), record::encode(USER_VERSION, user).map_err(damaged)?);
    batch.put(Table::AsClients, client_key(client), record::encode(CLIENT_VERSION, &record).map_err(damaged)?);
    Ok(())
}
