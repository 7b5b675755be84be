//! The lives of a store: which domain it is of, which storage key it needs, and under which incarnation it is now. When it is
//! restored from a backup another life begins, in which nothing is used that may have been used before.

use bytes::Bytes;

use super::{Config, NodeError};
use crate::{
    authentication,
    base::Domain,
    crypto::{at_rest::StorageKey, random, system_rng},
    federation::{Outbox, outbox},
    queuing,
    store::{Batch, Key, Store, Table},
    wire::queue::Incarnation,
};

/// What the wrapped row for checking the storage key holds nothing of, but is bound to.
const KEY_CHECK: &[u8] = b"storage key check";

fn row(name: &str) -> Key {
    Key::new().bytes(name)
}

/// The key must be the one that wrapped what is in the database; a new database remembers it.
///
/// # Errors
/// [`NodeError::Config`] if it is another.
pub async fn check_storage_key(store: &Store, key: &StorageKey) -> Result<(), NodeError> {
    let row = Key::new().bytes(KEY_CHECK);
    if let Some(wrapped) = store.durable().get(Table::Meta, &row).await? {
        return opens(key, &wrapped);
    }
    let mut batch = Batch::new();
    batch.put(Table::Meta, row, key.wrap(KEY_CHECK, &[], &mut system_rng()));
    Ok(store.submit(batch)?.await?)
}

/// The domain and the incarnation of a store; none of one that is new.
///
/// # Errors
/// [`NodeError::Config`] if they are damaged.
pub async fn identity(store: &Store) -> Result<Option<(Domain, Incarnation)>, NodeError> {
    let view = store.durable();
    decoded(view.get(Table::Meta, &row("domain")).await?, view.get(Table::Meta, &row("incarnation")).await?)
}

fn opens(key: &StorageKey, wrapped: &[u8]) -> Result<(), NodeError> {
    let wrong = |_| NodeError::Config("the storage key is not the one of this database".into());
    key.unwrap(KEY_CHECK, wrapped).map(drop).map_err(wrong)
}

fn decoded(domain: Option<Bytes>, incarnation: Option<Bytes>) -> Result<Option<(Domain, Incarnation)>, NodeError> {
    let damaged = || NodeError::Config("the database does not say whose it is".into());
    match (domain, incarnation) {
        (None, None) => Ok(None),
        (Some(domain), Some(incarnation)) => {
            let domain =
                std::str::from_utf8(&domain).ok().and_then(|domain| domain.parse().ok()).ok_or_else(damaged)?;
            Ok(Some((domain, Incarnation::try_from(&incarnation[..]).map_err(|_| damaged())?)))
        }
        _ => Err(damaged()),
    }
}

fn other(config: &Config, domain: &Domain) -> NodeError {
    let (data, own) = (config.data.display(), &config.domain);
    NodeError::Config(format!("the database in {data} belongs to another domain than {own}: to {domain}"))
}

/// Whether a database that nobody has open is the one of a configuration, and its storage key the one that is configured. Nothing is
/// written.
///
/// # Errors
/// [`NodeError`] if not, or if it cannot be read.
#[cfg(feature = "rocksdb")]
pub fn look_at(config: &Config) -> Result<(), NodeError> {
    use crate::store::{Engine as _, RocksEngine, StoreError};

    let engine = RocksEngine::open_read_only(&config.data)?;
    let get = |key: Key| engine.get_now(Table::Meta, key.as_bytes()).map_err(StoreError::from);
    if let Some((domain, _)) = decoded(get(row("domain"))?, get(row("incarnation"))?)?
        && domain != config.domain
    {
        return Err(other(config, &domain));
    }
    match get(Key::new().bytes(KEY_CHECK))? {
        Some(wrapped) => opens(&super::read_storage_key(&config.storage_key)?, &wrapped),
        None => Ok(()),
    }
}

/// The store's incarnation, drawn at first start.
///
/// # Errors
/// [`NodeError::Config`] for a database of another domain.
pub async fn incarnation(store: &Store, config: &Config) -> Result<Incarnation, NodeError> {
    match identity(store).await? {
        Some((domain, incarnation)) if domain == config.domain => Ok(incarnation),
        Some((domain, _)) => Err(other(config, &domain)),
        None => {
            let incarnation: Incarnation = random(&mut system_rng());
            let mut batch = Batch::new();
            batch.put(Table::Meta, row("domain"), config.domain.as_str().as_bytes().to_vec());
            batch.put(Table::Meta, row("incarnation"), incarnation.to_vec());
            store.submit(batch)?.await?;
            Ok(incarnation)
        }
    }
}

/// What was not taken over from one life of a store to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Withdrawn {
    /// KeyPackages, of clients at the QS.
    pub key_packages: u64,
    /// Connection packages, of users and of aliases.
    pub connection_packages: u64,
}

/// Begins another life of a store that was restored from a backup and is not in use yet. Whatever is given out once may have been
/// given out since the backup and goes, but for what is kept when all else is used up; the keys that tokens were issued under go,
/// so that none is redeemed twice; what waits for other homeservers goes out as what it was, so that they know it again. The new
/// incarnation comes last: this can be done again if it is interrupted.
///
/// # Errors
/// [`NodeError`] if the store fails, or is none of a homeserver.
pub async fn begin_another(store: &Store) -> Result<Withdrawn, NodeError> {
    let (_, before) =
        identity(store).await?.ok_or_else(|| NodeError::Config("the database is of no homeserver".into()))?;
    let withdrawn = Withdrawn {
        key_packages: queuing::records::withdraw_packages(store).await?,
        connection_packages: authentication::packages::withdraw(store).await?,
    };
    authentication::issuers::end_all(store).await?;
    Outbox::new(store.clone(), outbox::Limits::default()).end_life(before).await?;
    let incarnation: Incarnation = random(&mut system_rng());
    let mut batch = Batch::new();
    batch.put(Table::Meta, row("incarnation"), incarnation.to_vec());
    store.submit(batch)?.await?;
    Ok(withdrawn)
}
