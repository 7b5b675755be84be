//! Privacy Pass tokens that wait to be used, each at one homeserver. One is deleted before it is sent, so that none is ever
//! sent twice.

use rusqlite::Connection;

use super::{all, decoded, execute, first};
use crate::{
    base::Domain,
    client::error::ClientError,
    wire::{Encode, Token},
};

/// Keeps tokens that the homeserver of `domain` has issued, and redeems until `not_after`.
pub fn insert(connection: &Connection, domain: &Domain, tokens: &[Token], not_after: u64) -> Result<(), ClientError> {
    let sql = "INSERT INTO tokens (nonce, domain, token, not_after) VALUES (?, ?, ?, ?)";
    for token in tokens {
        execute(connection, sql, (token.nonce, domain.as_str(), token.to_vec(), not_after.cast_signed()))?;
    }
    Ok(())
}

/// Takes a token of a homeserver out for good, and says how many are left. Those that nobody redeems any more go.
pub fn take(connection: &Connection, domain: &Domain, now: u64) -> Result<(Option<Token>, u32), ClientError> {
    execute(connection, "DELETE FROM tokens WHERE not_after < ?", [now.cast_signed()])?;
    // The nonce is random: tokens are not used in the order in which they were issued.
    let sql = "SELECT token FROM tokens WHERE domain = ? ORDER BY not_after, nonce LIMIT 1";
    let token = first(connection, sql, [domain.as_str()], |row| {
        decoded::<Token>(row.get_ref(0)?.as_blob().map_err(ClientError::storage)?)
    })?;
    if let Some(token) = &token {
        execute(connection, "DELETE FROM tokens WHERE nonce = ?", [token.nonce])?;
    }
    Ok((token, count(connection, domain, now)?))
}

/// All go, or those of one homeserver: they may have been used.
pub fn forget(connection: &Connection, only: Option<&Domain>) -> Result<(), ClientError> {
    execute(connection, "DELETE FROM tokens WHERE ?1 IS NULL OR domain = ?1", [only.map(Domain::as_str)]).map(drop)
}

/// Only those of a homeserver stay that were issued under one of these keys.
pub fn retain(connection: &Connection, domain: &Domain, keys: &[[u8; 32]]) -> Result<(), ClientError> {
    let sql = "SELECT token FROM tokens WHERE domain = ?";
    let stored = all(connection, sql, [domain.as_str()], |row| {
        decoded::<Token>(row.get_ref(0)?.as_blob().map_err(ClientError::storage)?)
    })?;
    for token in stored.iter().filter(|token| !keys.contains(&token.token_key_id)) {
        execute(connection, "DELETE FROM tokens WHERE nonce = ?", [token.nonce])?;
    }
    Ok(())
}

/// How many of a homeserver wait.
pub fn count(connection: &Connection, domain: &Domain, now: u64) -> Result<u32, ClientError> {
    let sql = "SELECT COUNT(*) FROM tokens WHERE domain = ? AND not_after >= ?";
    Ok(connection.query_row(sql, (domain.as_str(), now.cast_signed()), |row| row.get(0))?)
}
