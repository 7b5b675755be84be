//! Private halves of published packages, and which of them were used.

use rusqlite::Connection;

use super::{all, array, execute, first};
use crate::{
    base::{AliasId, Secret},
    client::error::ClientError,
};

/// The private half of a connection package, or of a package of an alias.
pub struct ConnectionKey {
    /// SHA-256 of the encoded package.
    pub package_hash: [u8; 32],
    /// The HPKE private key.
    pub secret: Secret,
    /// Last second in which it may be used.
    pub not_after: u64,
    /// Whether the AS keeps handing it out when it has no other.
    pub last: bool,
    /// How often it was used.
    pub used: u32,
    /// Of which alias it is; none if it is the user's.
    pub alias: Option<AliasId>,
}

/// Remembers a connection package's key under the hash of its public half.
pub fn insert_connection_key(
    connection: &Connection,
    key_hash: &[u8; 32],
    key: &ConnectionKey,
) -> Result<(), ClientError> {
    let sql = "INSERT INTO connection_keys (key_hash, package_hash, secret, not_after, last, alias)
        VALUES (?, ?, ?, ?, ?, ?)";
    let alias = key.alias.map(|id| id.0);
    let row = (key_hash, key.package_hash, key.secret.expose(), key.not_after.cast_signed(), key.last, alias);
    execute(connection, sql, row).map(drop)
}

/// The key of a connection package.
pub fn connection_key(connection: &Connection, key_hash: &[u8; 32]) -> Result<Option<ConnectionKey>, ClientError> {
    let sql = "SELECT package_hash, secret, not_after, last, used, alias FROM connection_keys WHERE key_hash = ?";
    first(connection, sql, [key_hash], |row| {
        Ok(ConnectionKey {
            package_hash: array(&row.get::<_, Vec<u8>>(0)?)?,
            secret: Secret::new(array(&row.get::<_, Vec<u8>>(1)?)?),
            not_after: row.get::<_, i64>(2)?.cast_unsigned(),
            last: row.get(3)?,
            used: row.get(4)?,
            alias: row.get::<_, Option<Vec<u8>>>(5)?.map(|id| array(&id).map(AliasId)).transpose()?,
        })
    })
}

/// Counts a use of a connection package.
pub fn use_connection_key(connection: &Connection, key_hash: &[u8; 32]) -> Result<(), ClientError> {
    execute(connection, "UPDATE connection_keys SET used = used + 1 WHERE key_hash = ?", [key_hash]).map(drop)
}

/// How many packages of the user or of an alias wait unused, the last one not counted.
pub fn unused_connection_keys(connection: &Connection, alias: Option<&AliasId>, now: u64) -> Result<u32, ClientError> {
    let sql = "SELECT COUNT(*) FROM connection_keys WHERE used = 0 AND last = 0 AND alias IS ? AND not_after >= ?";
    Ok(connection.query_row(sql, (alias.map(|id| id.0), now.cast_signed()), |row| row.get(0))?)
}

/// The packages of the user or of an alias are replaced by others: they no longer count as waiting.
pub fn retire_connection_keys(connection: &Connection, alias: Option<&AliasId>) -> Result<(), ClientError> {
    let sql = "UPDATE connection_keys SET last = 1 WHERE used = 0 AND alias IS ?";
    execute(connection, sql, [alias.map(|id| id.0)]).map(drop)
}

/// Forgets the keys of an alias that is no more.
pub fn remove_alias_keys(connection: &Connection, alias: &AliasId) -> Result<(), ClientError> {
    execute(connection, "DELETE FROM connection_keys WHERE alias = ?", [alias.0]).map(drop)
}

/// The private half of a KeyPackage that OpenMLS does not keep.
pub struct PackageKey {
    /// Seed of the leaf's signature key.
    pub leaf_seed: Secret,
    /// The leaf's identity.
    pub identity: [u8; 32],
    /// Whether it may be used more than once.
    pub last_resort: bool,
}

/// Remembers a KeyPackage's key.
pub fn insert_package_key(
    connection: &Connection,
    reference: &[u8],
    key: &PackageKey,
    not_after: u64,
) -> Result<(), ClientError> {
    let sql =
        "INSERT INTO key_packages (reference, leaf_seed, identity, last_resort, not_after) VALUES (?, ?, ?, ?, ?)";
    let row = (reference, key.leaf_seed.expose(), key.identity, key.last_resort, not_after.cast_signed());
    execute(connection, sql, row).map(drop)
}

/// The key of a KeyPackage of this client.
pub fn package_key(connection: &Connection, reference: &[u8]) -> Result<Option<PackageKey>, ClientError> {
    let sql = "SELECT leaf_seed, identity, last_resort FROM key_packages WHERE reference = ?";
    first(connection, sql, [reference], |row| {
        Ok(PackageKey {
            leaf_seed: Secret::new(array(&row.get::<_, Vec<u8>>(0)?)?),
            identity: array(&row.get::<_, Vec<u8>>(1)?)?,
            last_resort: row.get(2)?,
        })
    })
}

/// Counts a use of a KeyPackage.
pub fn use_package_key(connection: &Connection, reference: &[u8]) -> Result<(), ClientError> {
    execute(connection, "UPDATE key_packages SET used = used + 1 WHERE reference = ?", [reference]).map(drop)
}

/// How many KeyPackages wait unused, last-resort ones not counted.
pub fn unused_package_keys(connection: &Connection) -> Result<u32, ClientError> {
    let sql = "SELECT COUNT(*) FROM key_packages WHERE used = 0 AND last_resort = 0";
    Ok(connection.query_row(sql, [], |row| row.get(0))?)
}

/// Forgets the keys of packages that nobody may use any more; the references of the KeyPackages among them.
pub fn forget_expired(connection: &Connection, now: u64) -> Result<Vec<Vec<u8>>, ClientError> {
    // A Welcome may have been waiting in the queue for as long as the queue keeps it.
    const RETENTION: u64 = 90 * 86_400;
    let before = now.saturating_sub(RETENTION).cast_signed();
    execute(connection, "DELETE FROM connection_keys WHERE not_after < ?", [before])?;
    let references =
        all(connection, "SELECT reference FROM key_packages WHERE not_after < ?", [before], |row| Ok(row.get(0)?))?;
    execute(connection, "DELETE FROM key_packages WHERE not_after < ?", [before])?;
    Ok(references)
}
