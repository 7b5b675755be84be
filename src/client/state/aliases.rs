//! The client's own aliases, each with keys of its own.

use rusqlite::Connection;

use super::{all, array, execute, first};
use crate::{
    base::{AliasId, Secret},
    client::error::ClientError,
};

/// Where an alias stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AliasState {
    /// Being registered: the homeserver has not answered yet.
    Pending = 1,
    /// In use.
    Active = 2,
    /// Being deleted: the homeserver has not answered yet.
    Deleting = 3,
}

impl AliasState {
    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Deleting => "deleting",
        }
    }
}

/// An alias of this client.
#[derive(Clone)]
pub struct OwnAlias {
    /// What it is called on the wire.
    pub id: AliasId,
    /// Its canonical form.
    pub alias: String,
    /// Seed of the key that proves it.
    pub seed: Secret,
    /// Where it stands.
    pub state: AliasState,
    /// The request that registers it, until it is answered.
    pub request: Vec<u8>,
}

const COLUMNS: &str = "id, alias, seed, state, request";

fn alias_of(row: &rusqlite::Row<'_>) -> Result<OwnAlias, ClientError> {
    Ok(OwnAlias {
        id: AliasId(array(&row.get::<_, Vec<u8>>(0)?)?),
        alias: row.get(1)?,
        seed: Secret::new(array(&row.get::<_, Vec<u8>>(2)?)?),
        state: match row.get::<_, i64>(3)? {
            1 => AliasState::Pending,
            2 => AliasState::Active,
            3 => AliasState::Deleting,
            _ => return Err(ClientError::storage("an alias in an unknown state")),
        },
        request: row.get(4)?,
    })
}

/// Adds an alias.
pub fn insert(connection: &Connection, alias: &OwnAlias) -> Result<(), ClientError> {
    let sql = format!("INSERT INTO aliases ({COLUMNS}) VALUES (?, ?, ?, ?, ?)");
    let OwnAlias { id, alias, seed, state, request } = alias;
    let row = (id.0, alias, seed.expose(), *state as i64, request);
    execute(connection, &sql, row).map(drop)
}

/// An alias of this client.
pub fn find(connection: &Connection, id: &AliasId) -> Result<Option<OwnAlias>, ClientError> {
    first(connection, &format!("SELECT {COLUMNS} FROM aliases WHERE id = ?"), [id.0], alias_of)
}

/// An alias that this client must have.
pub fn require(connection: &Connection, id: &AliasId) -> Result<OwnAlias, ClientError> {
    find(connection, id)?.ok_or_else(|| ClientError::not_found("you have no such alias"))
}

/// All aliases, by name.
pub fn all_aliases(connection: &Connection) -> Result<Vec<OwnAlias>, ClientError> {
    all(connection, &format!("SELECT {COLUMNS} FROM aliases ORDER BY alias"), [], alias_of)
}

/// Changes where an alias stands; the request that registered it is not needed any more.
pub fn set_state(connection: &Connection, id: &AliasId, state: AliasState) -> Result<(), ClientError> {
    let sql = "UPDATE aliases SET state = ?, request = x'' WHERE id = ?";
    execute(connection, sql, (state as i64, id.0)).map(drop)
}

/// Forgets an alias. Its queue's cursor and its packages' keys are not among it.
pub fn remove(connection: &Connection, id: &AliasId) -> Result<(), ClientError> {
    execute(connection, "DELETE FROM aliases WHERE id = ?", [id.0]).map(drop)
}
