//! GetAddPackages: what it takes to add a user to a group, for whoever holds the user's friendship token.

use super::records;
use crate::{
    base::{QsClientId, Refusal},
    service::{Context, Outcome, damaged, store_failure},
    store::{Batch, Limit, Table},
    wire::{
        Decode,
        queuing::{AddPackage, AddPackages, GetAddPackages},
    },
};

/// Gives out one package per client of the user, and deletes it unless it is a last resort.
///
/// # Errors
/// `not_found` if nobody has this token, or no client of the user has a package.
pub async fn handle(context: &mut Context<'_>, request: GetAddPackages) -> Result<Outcome<AddPackages>, Refusal> {
    let not_found = || Refusal::not_found("nobody with this friendship token can be added");
    let user = records::user_by_token(context, &request.friendship_token).await?.ok_or_else(not_found)?;
    let mut batch = Batch::new();
    let mut packages = Vec::new();
    for client in user.clients {
        for last_resort in [false, true] {
            let range = records::package_prefix(QsClientId(client), last_resort).prefix();
            let rows = context.view.scan(Table::QsKeyPackages, range, Limit::rows(1)).await.map_err(store_failure)?;
            let Some(row) = rows.into_iter().next() else { continue };
            packages.push(AddPackage::from_bytes(row.value).map_err(damaged)?);
            if !last_resort {
                batch.delete(Table::QsKeyPackages, row.key);
            }
            break;
        }
    }
    if packages.is_empty() {
        return Err(not_found());
    }
    Ok(Outcome::write(batch, AddPackages { packages }))
}
