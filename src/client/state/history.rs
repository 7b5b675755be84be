//! What was in a group before: this client's leaves, by which a DS knows it that was restored from a backup, and who was removed
//! since. Kept for as long as anybody would restore a backup of.

use rusqlite::Connection;

use super::{all, array, execute};
use crate::{
    base::{GroupId, Secret},
    client::error::ClientError,
    wire::Encode,
};

/// How long a leaf is remembered that was replaced, in milliseconds.
const KEPT: u64 = 30 * 86_400_000;

/// Leaves of one group that are remembered.
const LEAVES: u32 = 4;

/// Removed members of one group that are remembered.
const REMOVED: u32 = 10_000;

/// What this client's leaf in a group was.
pub struct EarlierLeaf {
    /// Its index.
    pub leaf: u32,
    /// Seed of its signature key.
    pub seed: Secret,
    /// Its identity.
    pub identity: [u8; 32],
}

/// Remembers the leaf of a group as it is now: it is about to be replaced.
pub fn keep_leaf(connection: &Connection, group: &GroupId, now: u64) -> Result<(), ClientError> {
    let group = group.to_vec();
    let sql = "INSERT INTO earlier_leaves (chat, leaf, seed, identity, replaced)
        SELECT chats.chat, chats.leaf, leaf_seed, identity, ? FROM chats
        JOIN members ON members.chat = chats.chat AND members.leaf = chats.leaf WHERE chats.chat = ?";
    execute(connection, sql, (now.cast_signed(), &group))?;
    execute(connection, "DELETE FROM earlier_leaves WHERE replaced < ?", [now.saturating_sub(KEPT).cast_signed()])?;
    let sql = "DELETE FROM earlier_leaves WHERE chat = ?1 AND number NOT IN
        (SELECT number FROM earlier_leaves WHERE chat = ?1 ORDER BY number DESC LIMIT ?2)";
    execute(connection, sql, (&group, LEAVES)).map(drop)
}

/// This client's earlier leaves in a group, the last one first.
pub fn earlier_leaves(connection: &Connection, group: &GroupId) -> Result<Vec<EarlierLeaf>, ClientError> {
    let sql = "SELECT leaf, seed, identity FROM earlier_leaves WHERE chat = ? ORDER BY number DESC";
    all(connection, sql, [group.to_vec()], |row| {
        let (seed, identity) = (array(&row.get::<_, Vec<u8>>(1)?)?, array(&row.get::<_, Vec<u8>>(2)?)?);
        Ok(EarlierLeaf { leaf: row.get(0)?, seed: Secret::new(seed), identity })
    })
}

/// A member removed another, by the identity of its leaf.
pub fn note_removed(connection: &Connection, group: &GroupId, identity: &[u8; 32]) -> Result<(), ClientError> {
    let sql = "INSERT OR IGNORE INTO removed (chat, identity)
        SELECT ?1, ?2 WHERE (SELECT COUNT(*) FROM removed WHERE chat = ?1) < ?3";
    execute(connection, sql, (group.to_vec(), identity, REMOVED)).map(drop)
}

/// The identities of members who were removed from a group.
pub fn removed(connection: &Connection, group: &GroupId) -> Result<Vec<[u8; 32]>, ClientError> {
    all(connection, "SELECT identity FROM removed WHERE chat = ?", [group.to_vec()], |row| {
        array(&row.get::<_, Vec<u8>>(0)?)
    })
}

/// A member was added by a commit that this client has merged.
pub fn note_added(connection: &Connection, group: &GroupId, identity: &[u8; 32]) -> Result<(), ClientError> {
    execute(connection, "DELETE FROM removed WHERE chat = ? AND identity = ?", (group.to_vec(), identity)).map(drop)
}

/// Forgets a group.
pub fn forget(connection: &Connection, group: &GroupId) -> Result<(), ClientError> {
    execute(connection, "DELETE FROM earlier_leaves WHERE chat = ?", [group.to_vec()])?;
    execute(connection, "DELETE FROM removed WHERE chat = ?", [group.to_vec()]).map(drop)
}
