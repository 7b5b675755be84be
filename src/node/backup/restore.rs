//! Restoring a backup: a database is put together beside where it will be, begins another life there, and is moved into place,
//! with the file that makes it a database last. Whatever interrupts that, there is no half database, and it can be done again.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{List, Lock, NodeError, Progress, Set, Tell, copy, make_directory, sync, wrong};
use crate::{
    crypto::at_rest::StorageKey,
    node::{
        Config,
        life::{self, Withdrawn},
        read_storage_key,
        watch::Disk,
    },
    store::{Options, RESTORING, RocksEngine, RocksOptions, Store},
};

/// The file without which no directory holds a database.
const CURRENT: &str = "CURRENT";

/// Locked while a restore is under way.
pub const LOCK: &str = "restore.lock";

/// Room that is to be left beside the backup, in bytes: what opening the database writes.
const MARGIN: u64 = 64 << 20;

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Which backup.
    pub name: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// What was in it and may have been given out since.
    pub withdrawn: Withdrawn,
}

/// Restores a backup, the one of this name or the newest, into the data directory of a configuration, which must be empty or
/// missing.
///
/// # Errors
/// [`NodeError`] if the backup is damaged or of another domain, the storage key is not its, there is a database already, another
/// restore is under way, or something cannot be written. Nothing that was there before is changed.
pub async fn restore(config: &Config, set: &Set, name: Option<&str>, tell: Tell<'_>) -> Result<Restored, NodeError> {
    if set.domain != config.domain {
        return Err(NodeError::Config(format!("these are backups of {}, not of {}", set.domain, config.domain)));
    }
    let list = set.list(name)?;
    let storage_key = read_storage_key(&config.storage_key)?;
    let data = &config.data;
    if !data.exists() {
        make_directory(data)?;
    }
    refuse_if_taken(data)?;
    let _lock = Lock::take(&data.join(LOCK), "another restore into this data directory")?;
    // Again, as whoever held the lock before may have got there.
    refuse_if_taken(data)?;
    clear(data)?;
    let free = Disk::of(data).map_or(u64::MAX, |disk| disk.free);
    // Sizes in a list may be anything.
    let needed = list.size().saturating_add(MARGIN);
    if free < needed {
        return Err(wrong(data, format!("has room for {free} bytes, and {needed} are needed")));
    }
    let staging = data.join(RESTORING);
    make_directory(&staging)?;
    copy_all(set, &list, &staging, tell)?;
    let withdrawn = begin(config, &staging, &storage_key).await?;
    move_into_place(&staging, data)?;
    Ok(Restored { bytes: list.size(), name: list.name, withdrawn })
}

/// Only what an interrupted restore has left may be there.
fn refuse_if_taken(data: &Path) -> Result<(), NodeError> {
    if data.join(CURRENT).exists() {
        return Err(wrong(data, "holds a database already, which stays as it is: move it away first, or delete it"));
    }
    let is_begun = data.join(RESTORING).exists();
    for entry in entries(data)? {
        if !is_begun && entry.file_name().is_some_and(|name| name != LOCK) {
            return Err(wrong(data, format!("is not empty ({} is in it): choose an empty directory", entry.display())));
        }
    }
    Ok(())
}

/// Takes away what an interrupted restore has left.
fn clear(data: &Path) -> Result<(), NodeError> {
    let mut left = entries(data)?;
    // As long as it is there, the rest is known to be of a restore.
    left.sort_by_key(|path| path.ends_with(RESTORING));
    for path in left.into_iter().filter(|path| !path.ends_with(LOCK)) {
        let deleted = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        deleted.map_err(|error| NodeError::File { path, error })?;
    }
    sync(data)
}

fn copy_all(set: &Set, list: &List, to: &Path, tell: Tell<'_>) -> Result<(), NodeError> {
    let mut progress = Progress { done: 0, of: list.size() };
    for entry in &list.files {
        let (from, to) = (set.file(entry), to.join(&entry.name));
        let (hash, size) = copy(&from, &to, entry.size, &mut progress, tell)?;
        entry.check(hash, size).map_err(|what| wrong(&from, what))?;
    }
    sync(to)
}

/// Opens what was copied, and begins another life of it.
async fn begin(config: &Config, staging: &Path, storage_key: &StorageKey) -> Result<Withdrawn, NodeError> {
    let path = staging.to_owned();
    let opened = tokio::task::spawn_blocking(move || RocksEngine::open(path, &RocksOptions::default())).await;
    let engine = opened.map_err(|error| NodeError::Config(format!("the database was not opened: {error}")))??;
    // A failed write is told to whoever waits for it.
    let store = Store::open(engine, Options::new(|error| tracing::error!(%error, "a write failed")))?;
    let begun = async {
        life::check_storage_key(&store, storage_key).await?;
        life::incarnation(&store, config).await?;
        life::begin_another(&store).await
    };
    let begun = begun.await;
    store.close().await?;
    drop(store);
    begun
}

/// Moves the files of a database that is closed. Whoever restores as root leaves them to the owner of the directory.
fn move_into_place(staging: &Path, data: &Path) -> Result<(), NodeError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| NodeError::File { path, error }
    };
    let owner = fs::metadata(data).map_err(failed(data))?;
    let of = fs::metadata(data.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")));
    // A data directory that was just made is root's; the directory around it is not.
    let owner = of.ok().filter(|_| owner.uid() == 0).unwrap_or(owner);
    let give = |path: &Path| match rustix::process::geteuid().is_root() {
        true => std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).map_err(failed(path)),
        false => Ok(()),
    };
    let mut files = entries(staging)?;
    // Without it there is no database; the rest is of no use to anybody but this one.
    files.retain(|path| {
        path.file_name().is_some_and(|name| name != "LOCK" && !name.to_string_lossy().starts_with("LOG"))
    });
    files.sort_by_key(|path| path.ends_with(CURRENT));
    give(data)?;
    for file in files {
        give(&file)?;
        if file.ends_with(CURRENT) {
            sync(data)?;
        }
        let name = file.file_name().unwrap_or_default();
        fs::rename(&file, data.join(name)).map_err(failed(&file))?;
    }
    sync(data)?;
    fs::remove_dir_all(staging).map_err(failed(staging))?;
    fs::remove_file(data.join(LOCK)).map_err(failed(data))?;
    sync(data)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, NodeError> {
    let failed = |error: io::Error| NodeError::File { path: directory.to_owned(), error };
    let entries = fs::read_dir(directory).map_err(failed)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}
