//! What packages of users and packages of aliases have in common: each is given out once, but the last is kept.

use crate::{
    base::{Refusal, limits::MAX_CONNECTION_PACKAGES},
    crypto::hpke,
    service::{Context, damaged, store_failure},
    store::{Batch, Key, KeyRange, Limit, Store, StoreError, Table},
    wire::{
        Decode, Encode,
        credential::{CIPHERSUITE, HpkePublicKey},
    },
};

/// Rows looked at in one go.
const PAGE: usize = 1_000;

/// Adds packages that pass a check to the batch, in place of all earlier ones under `prefix`.
///
/// # Errors
/// `malformed` for none or too many, or if one does not pass.
pub fn replace<P: Encode>(
    batch: &mut Batch,
    table: Table,
    prefix: &Key,
    packages: &[P],
    passes: impl Fn(&P) -> bool,
) -> Result<(), Refusal> {
    if packages.is_empty() || packages.len() > MAX_CONNECTION_PACKAGES {
        return Err(Refusal::malformed("between 1 and 100 packages are needed"));
    }
    remove(batch, table, prefix);
    for (number, package) in (0..).zip(packages) {
        if !passes(package) {
            return Err(Refusal::malformed("a package is not the sender's, not valid now or badly signed"));
        }
        batch.put(table, prefix.clone().u64(number), package.to_vec());
    }
    Ok(())
}

/// Adds the end of all packages under `prefix` to the batch.
pub fn remove(batch: &mut Batch, table: Table, prefix: &Key) {
    let range = prefix.clone().prefix();
    batch.delete_range(table, range.from, range.to.unwrap_or_default());
}

/// Takes the first package under `prefix` that is valid now; adds its end to the batch, unless it is the last, and the end
/// of those that have expired. `None` if there is none.
///
/// # Errors
/// `internal` if they cannot be read.
pub async fn take<P: Decode>(
    context: &Context<'_>,
    batch: &mut Batch,
    table: Table,
    prefix: &Key,
    is_valid: impl Fn(&P) -> bool,
) -> Result<Option<P>, Refusal> {
    let range = prefix.clone().prefix();
    let rows = context.view.scan(table, range, Limit::rows(MAX_CONNECTION_PACKAGES)).await.map_err(store_failure)?;
    let mut valid = Vec::new();
    for row in rows {
        let package = P::from_bytes(row.value).map_err(damaged)?;
        if is_valid(&package) {
            valid.push((row.key, package));
        } else {
            batch.delete(table, row.key);
        }
    }
    let last = valid.len() == 1;
    let Some((key, package)) = valid.into_iter().next() else { return Ok(None) };
    if !last {
        batch.delete(table, key);
    }
    Ok(Some(package))
}

/// Deletes all packages of a store but the last of each user and alias, which may be given out more than once; how many.
///
/// # Errors
/// [`StoreError`] if the store fails.
pub async fn withdraw(store: &Store) -> Result<u64, StoreError> {
    let mut withdrawn = 0;
    for table in [Table::AsPackages, Table::AsAliasPackages] {
        let (mut range, mut last): (_, Option<Key>) = (KeyRange::from(Key::new()..), None);
        loop {
            let rows = store.pending().scan(table, range, Limit::rows(PAGE)).await?;
            let Some(end) = rows.last() else { break };
            range = KeyRange::from(end.key.successor()..);
            let mut batch = Batch::new();
            for row in rows {
                // A row that is of the same owner as the one before shows that that was not the last.
                if let Some(before) = last.filter(|before| owner(before) == owner(&row.key)) {
                    batch.delete(table, before);
                    withdrawn += 1;
                }
                last = Some(row.key);
            }
            store.submit(batch)?.await?;
        }
    }
    Ok(withdrawn)
}

/// What comes before the number of a package.
fn owner(key: &Key) -> Option<&[u8]> {
    key.as_bytes().split_last_chunk::<8>().map(|(owner, _)| owner)
}

/// Whether offers can be encrypted to the key.
pub fn is_usable(ciphersuite: u16, key: &HpkePublicKey) -> bool {
    ciphersuite == CIPHERSUITE && hpke::is_usable(key)
}
