//! GetConnectionPackage: a key to encrypt an offer to, with the credential that signed it.

use super::{packages, records};
use crate::{
    base::Refusal,
    service::{Context, Outcome},
    store::{Batch, Table},
    wire::{
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
    let mut batch = Batch::new();
    let is_valid = |package: &ConnectionPackage| package.content.validity.covers(context.now);
    let prefix = records::user_packages(&request.user);
    let package = packages::take(context, &mut batch, Table::AsPackages, &prefix, is_valid).await?;
    let package = package.ok_or_else(not_found)?;
    let credential = records::client(context, &package.content.client).await?.ok_or_else(not_found)?;
    Ok(Outcome::write(batch, ConnectionPackageOf { package, credential }))
}
