//! The servers' own long-lived secrets: made at first start, stored wrapped, loaded at every later start.

use bytes::Bytes;

use super::{Context, damaged};
use crate::{
    base::{Refusal, Secret},
    crypto::random_secret,
    store::{Batch, Key, Table},
};

/// Loads the secret `name` of a service, or makes it and adds it to the batch.
///
/// # Errors
/// `internal` if it cannot be read or unwrapped (another storage key, a damaged row).
pub async fn secret(context: &mut Context<'_>, batch: &mut Batch, table: Table, name: &str) -> Result<Secret, Refusal> {
    let fresh = random_secret(context.rng);
    let bytes = bytes(context, batch, table, name, fresh.expose()).await?;
    <[u8; 32]>::try_from(&bytes[..]).map(Secret::new).map_err(damaged)
}

/// Loads the secret bytes `name` of a service, or stores `fresh` as such.
///
/// # Errors
/// As [`secret`].
pub async fn bytes(
    context: &mut Context<'_>,
    batch: &mut Batch,
    table: Table,
    name: &str,
    fresh: &[u8],
) -> Result<Bytes, Refusal> {
    if let Some(wrapped) = context.get(table, &Key::new().bytes(name)).await? {
        return context.storage_key.unwrap(&place(table, name), &wrapped).map_err(damaged);
    }
    put(context, batch, table, name, fresh);
    Ok(Bytes::copy_from_slice(fresh))
}

/// Another secret takes the place of the one of this name.
pub fn replace(context: &mut Context<'_>, batch: &mut Batch, table: Table, name: &str) -> Secret {
    let fresh = random_secret(context.rng);
    put(context, batch, table, name, fresh.expose());
    fresh
}

fn put(context: &mut Context<'_>, batch: &mut Batch, table: Table, name: &str, secret: &[u8]) {
    let wrapped = context.storage_key.wrap(&place(table, name), secret, context.rng);
    batch.put(table, Key::new().bytes(name), wrapped);
}

/// What the wrapping of a secret is bound to.
fn place(table: Table, name: &str) -> Vec<u8> {
    [table.name().as_bytes(), b"/", name.as_bytes()].concat()
}
