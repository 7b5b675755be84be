//! Users of whom nothing is wanted, and the groups of theirs whose messages the homeserver drops.

use rusqlite::Connection;

use super::{all, decoded, execute, first};
use crate::{
    base::{GroupId, UserId},
    client::error::ClientError,
    wire::Encode,
};

/// Blocks a user; `false` if it is blocked already.
pub fn insert(connection: &Connection, user: &UserId) -> Result<bool, ClientError> {
    Ok(execute(connection, "INSERT OR IGNORE INTO blocked (user) VALUES (?)", [user.to_vec()])? > 0)
}

/// Whether a user is blocked.
pub fn contains(connection: &Connection, user: &UserId) -> Result<bool, ClientError> {
    Ok(first(connection, "SELECT 1 FROM blocked WHERE user = ?", [user.to_vec()], |_| Ok(()))?.is_some())
}

/// Unblocks a user; `false` if it is not blocked. Its groups are not among it.
pub fn remove(connection: &Connection, user: &UserId) -> Result<bool, ClientError> {
    Ok(execute(connection, "DELETE FROM blocked WHERE user = ?", [user.to_vec()])? > 0)
}

/// All blocked users.
pub fn all_users(connection: &Connection) -> Result<Vec<UserId>, ClientError> {
    all(connection, "SELECT user FROM blocked ORDER BY user", [], |row| decoded(&row.get::<_, Vec<u8>>(0)?))
}

/// Blocks a group because of a user.
pub fn insert_group(connection: &Connection, group: &GroupId, user: &UserId) -> Result<(), ClientError> {
    let sql = "INSERT OR REPLACE INTO blocked_groups (chat, user) VALUES (?, ?)";
    execute(connection, sql, (group.to_vec(), user.to_vec())).map(drop)
}

/// Unblocks the groups that are blocked because of a user: which.
pub fn remove_groups(connection: &Connection, user: &UserId) -> Result<Vec<GroupId>, ClientError> {
    let sql = "DELETE FROM blocked_groups WHERE user = ? RETURNING chat";
    all(connection, sql, [user.to_vec()], |row| decoded(&row.get::<_, Vec<u8>>(0)?))
}

/// All blocked groups.
pub fn all_groups(connection: &Connection) -> Result<Vec<GroupId>, ClientError> {
    all(connection, "SELECT chat FROM blocked_groups", [], |row| decoded(&row.get::<_, Vec<u8>>(0)?))
}
