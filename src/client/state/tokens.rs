//! Privacy Pass tokens that wait to be used. One is deleted before it is sent, so that none is ever sent twice.

use rusqlite::Connection;

use super::{decoded, execute, first};
use crate::{
    client::error::ClientError,
    wire::{Encode, Token},
};

/// Keeps tokens that their issuer redeems until `not_after`.
pub fn insert(connection: &Connection, tokens: &[Token], not_after: u64) -> Result<(), ClientError> {
    let sql = "INSERT INTO tokens (nonce, token, not_after) VALUES (?, ?, ?)";
    for token in tokens {
        execute(connection, sql, (token.nonce, token.to_vec(), not_after.cast_signed()))?;
    }
    Ok(())
}

/// Takes a token out for good, and says how many are left. Those that nobody redeems any more go.
pub fn take(connection: &Connection, now: u64) -> Result<(Option<Token>, u32), ClientError> {
    execute(connection, "DELETE FROM tokens WHERE not_after < ?", [now.cast_signed()])?;
    // The nonce is random: tokens are not used in the order in which they were issued.
    let sql = "SELECT token FROM tokens ORDER BY not_after, nonce LIMIT 1";
    let token =
        first(connection, sql, [], |row| decoded::<Token>(row.get_ref(0)?.as_blob().map_err(ClientError::storage)?))?;
    if let Some(token) = &token {
        execute(connection, "DELETE FROM tokens WHERE nonce = ?", [token.nonce])?;
    }
    Ok((token, count(connection, now)?))
}

/// All go: they may have been used.
pub fn forget(connection: &Connection) -> Result<(), ClientError> {
    execute(connection, "DELETE FROM tokens", ()).map(drop)
}

/// How many wait.
pub fn count(connection: &Connection, now: u64) -> Result<u32, ClientError> {
    let sql = "SELECT COUNT(*) FROM tokens WHERE not_after >= ?";
    Ok(connection.query_row(sql, [now.cast_signed()], |row| row.get(0))?)
}
