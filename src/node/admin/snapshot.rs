//! Files of the database as of one moment, held for whoever makes a backup of them: it copies them with its own rights, at its own
//! pace, and the homeserver lets them go when it has gone, however it went.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{Asking, Command};
use crate::{
    base::{Domain, Refusal, Status, hex},
    node::{NodeError, life},
    service::store_failure,
    store::Store,
    wire::queue::Incarnation,
};

/// Directory inside the data directory that holds them.
const DIRECTORY: &str = "snapshot";

/// Makes them, one at a time.
#[derive(Clone)]
pub struct Snapshots {
    store: Store,
    directory: PathBuf,
    one: Arc<Mutex<()>>,
}

/// The files, until this is ended.
pub(super) struct Held {
    directory: PathBuf,
    of: (Domain, Incarnation),
    _one: OwnedMutexGuard<()>,
}

impl Snapshots {
    /// Of a database in this data directory. What is left of an earlier process goes.
    pub fn of(store: Store, data: PathBuf) -> Self {
        // Whoever is told where they are may stand elsewhere.
        let directory = std::path::absolute(&data).unwrap_or(data).join(DIRECTORY);
        remove(&directory);
        Self { store, directory, one: Arc::default() }
    }

    pub(super) async fn hold(&self) -> Result<Held, Refusal> {
        let busy = |_| Refusal::new(Status::Overloaded, "another backup is under way");
        let one = self.one.clone().try_lock_owned().map_err(busy)?;
        let identity = life::identity(&self.store).await.map_err(|error| Refusal::internal(error.to_string()))?;
        let of = identity.ok_or_else(|| Refusal::internal("the store is of nobody"))?;
        let held = Held { directory: self.directory.clone(), of, _one: one };
        let (store, directory) = (self.store.clone(), self.directory.clone());
        // Once begun it goes on although nobody waits for it any more; then what it has made goes at its end.
        let making = tokio::spawn(async move { (store.snapshot(directory).await, held) });
        match making.await {
            Ok((Ok(()), held)) => Ok(held),
            Ok((Err(error), held)) => {
                held.end().await;
                Err(store_failure(error))
            }
            Err(error) => Err(Refusal::internal(error.to_string())),
        }
    }
}

impl Held {
    pub(super) fn described(&self) -> Value {
        let (domain, incarnation) = &self.of;
        let files = self.directory.to_string_lossy();
        json!({ "files": files, "domain": domain.as_str(), "incarnation": hex::encode(incarnation) })
    }

    pub(super) async fn end(self) {
        // Many files may be theirs alone by now.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        remove(&self.directory);
    }
}

fn remove(directory: &Path) {
    // What RocksDB had only begun has another name.
    for path in [directory.to_owned(), directory.with_extension("tmp")] {
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %path.display(), "files that were held for a backup are still there");
            }
            _ => {}
        }
    }
}

/// Files of a running homeserver, held until this is dropped.
pub struct Snapshot {
    /// Where they are.
    pub files: PathBuf,
    /// The home domain.
    pub domain: Domain,
    /// The life of the store.
    pub incarnation: Incarnation,
    _held: Asking,
}

impl Snapshot {
    /// Asks a running homeserver for them.
    ///
    /// # Errors
    /// As [`ask`](super::ask).
    pub async fn ask(socket: &Path) -> Result<Self, NodeError> {
        let mut held = Asking::begin(socket, &Command::Snapshot {}).await?;
        let strange = || NodeError::Config("the homeserver's answer is not understood".into());
        let found = held.next().await?.ok_or_else(strange)?;
        let text = |name: &str| found[name].as_str();
        let files = text("files").map(PathBuf::from).ok_or_else(strange)?;
        let domain = text("domain").and_then(|domain| domain.parse().ok()).ok_or_else(strange)?;
        let incarnation = text("incarnation").and_then(hex::decode).and_then(|of| of.try_into().ok());
        Ok(Self { files, domain, incarnation: incarnation.ok_or_else(strange)?, _held: held })
    }
}
