//! Single values by name: the account's keys and settings.

use rusqlite::Connection;

use super::{decoded, execute, first};
use crate::{
    client::error::ClientError,
    wire::{Decode, Encode},
};

/// The value of a name, if it has one.
pub fn get<T: Decode>(connection: &Connection, name: &str) -> Result<Option<T>, ClientError> {
    first(connection, "SELECT value FROM meta WHERE name = ?", [name], |row| {
        decoded(row.get_ref(0)?.as_blob().map_err(ClientError::storage)?)
    })
}

/// The value that a name must have.
pub fn require<T: Decode>(connection: &Connection, name: &str) -> Result<T, ClientError> {
    get(connection, name)?.ok_or_else(|| ClientError::storage(format!("{name} is missing")))
}

/// Gives a name a value.
pub fn put(connection: &Connection, name: &str, value: &impl Encode) -> Result<(), ClientError> {
    execute(connection, "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value.to_vec())).map(drop)
}

/// Takes a name's value away.
pub fn remove(connection: &Connection, name: &str) -> Result<(), ClientError> {
    execute(connection, "DELETE FROM meta WHERE name = ?", [name]).map(drop)
}
