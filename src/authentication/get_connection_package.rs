//! GetConnectionPackage: a key to encrypt an offer to, with the credential that signed it.

use super::{publish_connection_packages::MAX_PACKAGES, records};
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

/// Gives out a package that is valid now and deletes it, unless it is the last.
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
    let range = records::user_packages(&request.user).prefix();
    let rows = context.view.scan(Table::AsPackages, range, Limit::rows(MAX_PACKAGES)).await.map_err(store_failure)?;
    let mut batch = Batch::new();
    let mut valid = Vec::new();
    for row in rows {
        let package = ConnectionPackage::from_bytes(row.value).map_err(damaged)?;
        if package.content.validity.covers(context.now) {
            valid.push((row.key, package));
        } else {
            batch.delete(Table::AsPackages, row.key);
        }
    }
    let last = valid.len() == 1;
    let (key, package) = valid.into_iter().next().ok_or_else(not_found)?;
    let credential = records::client(context, &package.content.client).await?.ok_or_else(not_found)?;
    if !last {
        batch.delete(Table::AsPackages, key);
    }
    Ok(Outcome::write(batch, ConnectionPackageOf { package, credential }))
}
