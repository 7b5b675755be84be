//! GetConnectionPackage: a key to encrypt an offer to, with the credential that signed it.

use super::records;
use crate::{
    base::Refusal,
    service::{Context, Outcome, damaged, store_failure},
    store::{Batch, Limit, Table},
    wire::{
        Decode,
        authentication::{ConnectionPackageOf, GetConnectionPackage},
        connection::ConnectionPackage,
    },
};

/// Gives out a package and deletes it, unless it is the last.
///
/// # Errors
/// `not_found` if there is no such user, or none of its packages is left.
pub async fn handle(
    context: &mut Context<'_>,
    request: GetConnectionPackage,
) -> Result<Outcome<ConnectionPackageOf>, Refusal> {
    let not_found = || Refusal::not_found("there is no such user here, or it takes no offers");
    if records::user(context, &request.user).await?.is_none() {
        return Err(not_found());
    }
    let range = records::package_prefix(&request.user).prefix();
    let rows = context.view.scan(Table::AsPackages, range, Limit::rows(2)).await.map_err(store_failure)?;
    let first = rows.first().ok_or_else(not_found)?;
    let package = ConnectionPackage::from_slice(&first.value).map_err(damaged)?;
    let credential = records::client(context, &package.content.client).await?.ok_or_else(not_found)?;
    let mut batch = Batch::new();
    if rows.len() > 1 {
        batch.delete(Table::AsPackages, first.key.clone());
    }
    Ok(Outcome::write(batch, ConnectionPackageOf { package, credential }))
}
