//! What the QS stores of its users and clients: keys and pseudonyms. Nothing here names a user of the AS.

use serde::{Deserialize, Serialize};

use crate::{
    base::{Day, QsClientId, QsUserId, Refusal, Secret},
    crypto::sha256,
    service::{Context, damaged},
    store::{Batch, Key, Table, record},
    wire::credential::SignaturePublicKey,
};

const USER_VERSION: u8 = 1;
const CLIENT_VERSION: u8 = 1;

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
    /// Where to push, under a key that the server does not keep.
    pub push_token: Option<Vec<u8>>,
    /// When it last did something.
    pub active: u32,
    /// Number of its next KeyPackage: numbers are not used twice.
    pub next_package: u64,
}

impl ClientRecord {
    /// The key that proves the client.
    pub fn auth_key(&self) -> SignaturePublicKey {
        self.auth_key[..].into()
    }

    /// Notes that the client did something today.
    pub const fn touch(&mut self, today: Day) {
        self.active = today.0;
    }
}

fn client_key(client: QsClientId) -> Key {
    Key::new().bytes(client.0)
}

/// Where a client's KeyPackages are: those given out once, or the last-resort ones.
pub fn package_prefix(client: QsClientId, last_resort: bool) -> Key {
    Key::new().bytes(client.0).u8(u8::from(last_resort))
}

/// The record of a client, if there is such a client.
///
/// # Errors
/// `internal` if the store fails.
pub async fn client(context: &Context<'_>, client: QsClientId) -> Result<Option<ClientRecord>, Refusal> {
    context.record(Table::QsClients, &client_key(client), CLIENT_VERSION).await
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

/// The user whose friendship token this is, if there is one.
///
/// # Errors
/// `internal` if the store fails.
pub async fn user_by_token(context: &Context<'_>, token: &Secret) -> Result<Option<UserRecord>, Refusal> {
    let row = context.get(Table::QsTokens, &Key::new().bytes(sha256(token.expose()))).await?;
    let Some(user) = row else { return Ok(None) };
    context.record(Table::QsUsers, &Key::new().bytes(&user), USER_VERSION).await
}

/// Adds a user with its token to the batch; the batch fails if either exists.
///
/// # Errors
/// `internal` if it cannot be encoded.
pub fn insert_user(batch: &mut Batch, user: QsUserId, user_record: &UserRecord) -> Result<(), Refusal> {
    let key = Key::new().bytes(user.0);
    let token = Key::new().bytes(user_record.token_hash);
    batch.require_absent(Table::QsUsers, key.clone());
    batch.require_absent(Table::QsTokens, token.clone());
    batch.put(Table::QsUsers, key, record::encode(USER_VERSION, user_record).map_err(damaged)?);
    batch.put(Table::QsTokens, token, user.0.to_vec());
    Ok(())
}
