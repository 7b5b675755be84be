//! The tables of the client's state, and opening the file that holds them.

use std::{fs::OpenOptions, path::Path};

use openmls_sqlite_storage::SqliteStorageProvider;
use rusqlite::Connection;

use super::meta;
use crate::{
    base::Domain,
    client::{error::ClientError, mls::Json},
};

/// Version of the tables below, in SQLite's `user_version`.
const VERSION: i64 = 6;

const TABLES: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
-- How far a queue has been processed, whether its ratchet is being started anew, and what opens its secrets.
CREATE TABLE queues (
    name TEXT PRIMARY KEY, incarnation BLOB NOT NULL, next INTEGER NOT NULL, ratchet BLOB,
    restarting INTEGER NOT NULL DEFAULT 0);
CREATE TABLE queue_keys (number INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, secret BLOB NOT NULL);
-- What verifies users of a domain, and the roots that were seen first.
CREATE TABLE authorities (domain TEXT PRIMARY KEY, credentials BLOB NOT NULL, fetched INTEGER NOT NULL);
CREATE TABLE pins (domain TEXT NOT NULL, root BLOB NOT NULL, PRIMARY KEY (domain, root)) WITHOUT ROWID;
-- Private halves of published packages.
CREATE TABLE connection_keys (
    key_hash BLOB PRIMARY KEY, package_hash BLOB NOT NULL, secret BLOB NOT NULL, not_after INTEGER NOT NULL,
    last INTEGER NOT NULL, used INTEGER NOT NULL DEFAULT 0, alias BLOB);
CREATE TABLE key_packages (
    reference BLOB PRIMARY KEY, leaf_seed BLOB NOT NULL, identity BLOB NOT NULL, last_resort INTEGER NOT NULL,
    not_after INTEGER NOT NULL, used INTEGER NOT NULL DEFAULT 0);
-- This client's own aliases; the request is kept until it is answered.
CREATE TABLE aliases (
    id BLOB PRIMARY KEY, alias TEXT NOT NULL, seed BLOB NOT NULL, state INTEGER NOT NULL, request BLOB NOT NULL);
-- Connecting.
CREATE TABLE offers (
    offer_id BLOB PRIMARY KEY, recipient BLOB NOT NULL, chat BLOB NOT NULL, reply_hash BLOB NOT NULL UNIQUE,
    reply_secret BLOB NOT NULL);
CREATE TABLE requests (
    id TEXT PRIMARY KEY, offer_id BLOB NOT NULL UNIQUE, offer BLOB, received INTEGER NOT NULL,
    expires INTEGER NOT NULL);
CREATE TABLE contacts (
    user BLOB PRIMARY KEY, credential BLOB NOT NULL, friendship BLOB NOT NULL, chat BLOB NOT NULL,
    earlier BLOB NOT NULL);
-- Users of whom nothing is wanted, and the groups of theirs whose messages the homeserver drops.
CREATE TABLE blocked (user BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE blocked_groups (chat BLOB PRIMARY KEY, user BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE profiles (user BLOB PRIMARY KEY, name TEXT NOT NULL, fetched INTEGER NOT NULL);
-- Chats; their MLS state is in the tables of OpenMLS.
CREATE TABLE chats (
    chat BLOB PRIMARY KEY, kind INTEGER NOT NULL, state INTEGER NOT NULL, name TEXT NOT NULL, peer BLOB,
    ear_key BLOB NOT NULL, credential_key BLOB NOT NULL, leaf INTEGER NOT NULL, leaf_seed BLOB NOT NULL,
    stale_leaf INTEGER NOT NULL, next_leaf BLOB, created INTEGER NOT NULL, renewed INTEGER NOT NULL, alias BLOB);
CREATE TABLE members (
    chat BLOB NOT NULL, leaf INTEGER NOT NULL, key BLOB NOT NULL, identity BLOB NOT NULL, user BLOB, profile_key BLOB,
    credential BLOB, signer BLOB, until INTEGER, quarantined INTEGER NOT NULL, claim BLOB,
    PRIMARY KEY (chat, leaf)) WITHOUT ROWID;
-- What this client's leaves were before, should a DS be restored that knows nothing newer; and who was removed since.
CREATE TABLE earlier_leaves (
    number INTEGER PRIMARY KEY AUTOINCREMENT, chat BLOB NOT NULL, leaf INTEGER NOT NULL, seed BLOB NOT NULL,
    identity BLOB NOT NULL, replaced INTEGER NOT NULL);
CREATE TABLE removed (chat BLOB NOT NULL, identity BLOB NOT NULL, PRIMARY KEY (chat, identity)) WITHOUT ROWID;
-- What was received; the content goes when it has been read, the rest stays a while so that repeats are noticed.
CREATE TABLE messages (
    number INTEGER PRIMARY KEY AUTOINCREMENT, chat BLOB NOT NULL, sender BLOB NOT NULL, id BLOB NOT NULL,
    content BLOB, sent INTEGER NOT NULL, received INTEGER NOT NULL, UNIQUE (chat, sender, id));
CREATE INDEX unread ON messages (number) WHERE content IS NOT NULL;
CREATE TABLE problems (number INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, text TEXT NOT NULL);
-- Privacy Pass tokens that were not used.
CREATE TABLE tokens (
    nonce BLOB PRIMARY KEY, domain TEXT NOT NULL, token BLOB NOT NULL, not_after INTEGER NOT NULL) WITHOUT ROWID;
-- What is being sent, and what is to be done when there is time.
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT, lane BLOB NOT NULL, kind INTEGER NOT NULL, method INTEGER NOT NULL,
    domain TEXT NOT NULL, body BLOB NOT NULL, extra BLOB NOT NULL);
CREATE INDEX lanes ON outbox (lane, number);
CREATE TABLE chores (number INTEGER PRIMARY KEY AUTOINCREMENT, kind INTEGER NOT NULL, argument BLOB NOT NULL,
    UNIQUE (kind, argument));
-- Homeservers that messages have named: when they were asked for their credentials, how often in vain, and whether something
-- waits for them. What does, by queue; of a group in its order.
CREATE TABLE strangers (
    domain TEXT PRIMARY KEY, asked INTEGER NOT NULL, failed INTEGER NOT NULL, wanted INTEGER NOT NULL);
CREATE TABLE aside (
    number INTEGER PRIMARY KEY AUTOINCREMENT, domain TEXT NOT NULL, queue TEXT NOT NULL, chat BLOB, content BLOB NOT NULL,
    received INTEGER NOT NULL);
";

/// From version 3: tokens are those of one of several homeservers.
const FROM_3: &str = "
ALTER TABLE tokens RENAME TO old_tokens;
CREATE TABLE tokens (
    nonce BLOB PRIMARY KEY, domain TEXT NOT NULL, token BLOB NOT NULL, not_after INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE strangers (
    domain TEXT PRIMARY KEY, asked INTEGER NOT NULL, failed INTEGER NOT NULL, wanted INTEGER NOT NULL);
CREATE TABLE aside (
    number INTEGER PRIMARY KEY AUTOINCREMENT, domain TEXT NOT NULL, queue TEXT NOT NULL, chat BLOB, content BLOB NOT NULL,
    received INTEGER NOT NULL);
";

/// From version 4: what was before is remembered.
const FROM_4: &str = "
CREATE TABLE earlier_leaves (
    number INTEGER PRIMARY KEY AUTOINCREMENT, chat BLOB NOT NULL, leaf INTEGER NOT NULL, seed BLOB NOT NULL,
    identity BLOB NOT NULL, replaced INTEGER NOT NULL);
CREATE TABLE removed (chat BLOB NOT NULL, identity BLOB NOT NULL, PRIMARY KEY (chat, identity)) WITHOUT ROWID;
";

/// From version 5: a contact's credentials before the one that is known now, of which there are none (an empty vector).
const FROM_5: &str = "ALTER TABLE contacts ADD COLUMN earlier BLOB NOT NULL DEFAULT x'00';";

/// Opens `home/client.db`, with its tables.
pub fn open(home: &Path) -> Result<Connection, ClientError> {
    let path = home.join("client.db");
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    super::private(&mut options);
    // SQLite gives its side files the mode of the main one.
    drop(options.open(&path)?);
    let mut connection = Connection::open(&path)?;
    prepare(&mut connection)?;
    Ok(connection)
}

/// Where OpenMLS's storage notes which of its migrations were made.
const OPENMLS_MIGRATIONS: &str = "openmls_sqlite_storage_migrations";

/// Of a state that was never complete: takes out what a process left that was killed while it made OpenMLS's tables. Those are noted
/// after they are made, not with them, so that it cannot be gone on with; and until the version is written, nothing is in them.
fn start_over(connection: &mut Connection) -> Result<(), ClientError> {
    let transaction = connection.transaction()?;
    let tables = super::all(
        &transaction,
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
        [],
        |row| Ok(row.get::<_, String>(0)?),
    )?;
    // A file of somebody else's is left alone.
    if tables.iter().any(|table| table == OPENMLS_MIGRATIONS) {
        for table in tables {
            transaction.execute_batch(&format!("DROP TABLE \"{table}\""))?;
        }
    }
    Ok(transaction.commit()?)
}

/// Sets a connection up, and makes the tables if there are none.
pub fn prepare(connection: &mut Connection) -> Result<(), ClientError> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "secure_delete", true)?;
    connection.set_prepared_statement_cache_capacity(128);
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version == 0 {
        start_over(connection)?;
    }
    SqliteStorageProvider::<Json, _>::new(&mut *connection).run_migrations().map_err(ClientError::storage)?;
    match version {
        VERSION => Ok(()),
        0 => {
            let transaction = connection.transaction()?;
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
            Ok(transaction.commit()?)
        }
        3..VERSION => {
            let transaction = connection.transaction()?;
            if version <= 3 {
                transaction.execute_batch(FROM_3)?;
                if let Some(home) = meta::get::<Domain>(&transaction, "domain")? {
                    let sql = "INSERT INTO tokens SELECT nonce, ?, token, not_after FROM old_tokens";
                    transaction.execute(sql, [home.as_str()])?;
                }
                transaction.execute_batch("DROP TABLE old_tokens")?;
            }
            if version <= 4 {
                transaction.execute_batch(FROM_4)?;
            }
            transaction.execute_batch(FROM_5)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
            Ok(transaction.commit()?)
        }
        newer if newer > VERSION => Err(ClientError::storage(format!("it was written by a newer version ({newer})"))),
        _ => Err(ClientError::storage("it was written by a development version: register anew in another directory")),
    }
}
