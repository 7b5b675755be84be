//! GetAliasPackage: a key to encrypt an offer to, of whoever is behind an alias.

use super::{alias_records::Name, packages};
use crate::{
    base::Refusal,
    service::{Context, Outcome},
    store::{Batch, Table},
    wire::{
        authentication::{AliasPackageOf, GetAliasPackage},
        connection::AliasPackage,
    },
};

/// Gives out a package that is valid today and deletes it, unless it is the last.
///
/// # Errors
/// `not_found` if there is no such alias, or none of its packages is left.
pub async fn handle(context: &Context<'_>, request: GetAliasPackage) -> Result<Outcome<AliasPackageOf>, Refusal> {
    let mut batch = Batch::new();
    let is_valid = |package: &AliasPackage| package.validity.covers(context.now.day());
    let prefix = Name::of(context, &request.alias).key();
    let package = packages::take(context, &mut batch, Table::AsAliasPackages, &prefix, is_valid).await?;
    let package = package.ok_or_else(|| Refusal::not_found("there is no such alias here, or it takes no offers"))?;
    Ok(Outcome::write(batch, AliasPackageOf { package }))
}
