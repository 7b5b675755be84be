//! Groups that nobody uses any more are dropped: the month of last use is in clear, and is all that it takes to tell.

use super::group::{META_VERSION, Meta, delete_rows};
use crate::{
    base::{Day, Refusal},
    service::{Context, damaged},
    store::{Batch, Key, Table, record},
};

/// Whether a group's clear row says that it was last used so long ago that it is dropped.
///
/// # Errors
/// `internal` if the row is damaged.
pub fn is_over(row: &[u8], today: Day, unused_months: u32) -> Result<bool, Refusal> {
    let Meta { month, .. } = record::decode(META_VERSION, row).map_err(damaged)?;
    Ok(month.saturating_add(unused_months) < today.month())
}

/// Drops a group if it is still over; the caller holds its lock.
///
/// # Errors
/// `internal` if the store fails.
pub async fn handle(context: &Context<'_>, group: [u8; 16]) -> Result<Batch, Refusal> {
    let mut batch = Batch::new();
    let row = context.get(Table::DsMeta, &Key::new().bytes(group)).await?;
    if let Some(row) = row
        && is_over(&row, context.now.day(), context.policy.groups.unused_months)?
    {
        delete_rows(group, &mut batch);
    }
    Ok(batch)
}
