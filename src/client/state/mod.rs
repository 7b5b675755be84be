//! The client's state: one SQLite file that one process uses at a time. Everything is read and written in transactions
//! on a blocking thread, so that a process killed anywhere finds a state it can go on from.

pub mod aliases;
pub mod blocked;
pub mod chats;
pub mod contacts;
pub mod history;
pub mod inbox;
pub mod keys;
pub mod meta;
pub mod outbox;
pub mod queues;
mod schema;
pub mod strangers;
pub mod tokens;

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::time::{Instant, sleep};

use super::error::{ClientError, Local};
use crate::wire::Decode;

/// So long another process is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// The file lock offers no event to await.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// The open state. Clones are handles to the same.
#[derive(Clone)]
pub struct Database(Arc<Shared>);

struct Shared {
    connection: Mutex<Connection>,
    /// Held as long as the state is open.
    _lock: File,
}

impl Database {
    /// Opens the state in `home`, or starts an empty one.
    pub async fn open(home: &Path) -> Result<Self, ClientError> {
        let home = home.to_path_buf();
        let lock = lock(&home).await?;
        let connection = blocking(move || schema::open(&home)).await?;
        Ok(Self(Arc::new(Shared { connection: Mutex::new(connection), _lock: lock })))
    }

    /// Runs `f` in one transaction, which is durable when this returns `Ok` and never happened if it does not. It runs to
    /// its end even if the caller goes away.
    pub async fn run<T, E, F>(&self, f: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<ClientError> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        let shared = self.0.clone();
        let run = move || {
            let mut connection = shared.connection.lock().unwrap_or_else(PoisonError::into_inner);
            let transaction = Transaction::new(&mut connection, TransactionBehavior::Immediate);
            let transaction = transaction.map_err(ClientError::from)?;
            let outcome = f(&transaction)?;
            transaction.commit().map_err(ClientError::from)?;
            Ok(outcome)
        };
        match tokio::task::spawn_blocking(run).await {
            Ok(outcome) => outcome,
            Err(error) => Err(ClientError::storage(error).into()),
        }
    }
}

/// Runs `f` on a blocking thread.
pub async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, ClientError> + Send + 'static,
) -> Result<T, ClientError> {
    tokio::task::spawn_blocking(f).await.unwrap_or_else(|error| Err(ClientError::storage(error)))
}

async fn lock(home: &Path) -> Result<File, ClientError> {
    make_directory(home)?;
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    private(&mut options);
    let file = options.open(home.join("client.lock"))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error.into()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(LOCK_INTERVAL).await,
            Err(TryLockError::WouldBlock) => {
                let message = format!("another bennu client is using {}", home.display());
                return Err(ClientError::Local(Local::Busy, message));
            }
        }
    }
}

#[cfg(unix)]
fn make_directory(home: &Path) -> Result<(), ClientError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(home)?;
    // Only a home of this program's own is made private: one with other files in it may be anything.
    if std::fs::read_dir(home)?.next().is_none() {
        std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn make_directory(home: &Path) -> Result<(), ClientError> {
    Ok(std::fs::create_dir_all(home)?)
}

#[cfg(unix)]
fn private(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600);
}

#[cfg(not(unix))]
fn private(_: &mut OpenOptions) {}

/// Decodes a stored value.
fn decoded<T: Decode>(bytes: &[u8]) -> Result<T, ClientError> {
    T::from_slice(bytes).map_err(ClientError::storage)
}

/// An array of a stored value.
fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], ClientError> {
    bytes.try_into().map_err(|_| ClientError::storage("a stored value has the wrong length"))
}

/// The first row of a query, if there is one.
fn first<T>(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
    row: impl FnOnce(&rusqlite::Row<'_>) -> Result<T, ClientError>,
) -> Result<Option<T>, ClientError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    rows.next()?.map(row).transpose()
}

/// All rows of a query.
fn all<T>(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
    mut row: impl FnMut(&rusqlite::Row<'_>) -> Result<T, ClientError>,
) -> Result<Vec<T>, ClientError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut found = Vec::new();
    while let Some(next) = rows.next()? {
        found.push(row(next)?);
    }
    Ok(found)
}

/// Forgets everything: nobody is registered here any more.
pub fn wipe(connection: &Connection) -> Result<(), ClientError> {
    let sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE '%migrations'";
    let tables = all(connection, sql, [], |row| Ok(row.get::<_, String>(0)?))?;
    for table in tables {
        connection.execute(&format!("DELETE FROM \"{table}\""), [])?;
    }
    Ok(())
}

/// Runs a statement.
fn execute(connection: &Connection, sql: &str, parameters: impl rusqlite::Params) -> Result<usize, ClientError> {
    Ok(connection.prepare_cached(sql)?.execute(parameters)?)
}

#[cfg(test)]
pub mod tests;
