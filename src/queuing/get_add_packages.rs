//! GetAddPackages: what it takes to add a user to a group, for whoever holds the user's friendship token.

use super::records;
use crate::{
    base::{QsClientId, Refusal, limits::MAX_KEY_PACKAGES},
    service::{Context, Outcome, damaged, store_failure},
    store::{Batch, KeyRange, Limit, Row, Table},
    wire::{
        Decode, Reader,
        queuing::{AddPackage, AddPackages, GetAddPackages},
    },
};

/// Gives out one package per client of the user, and deletes it unless it is a last resort.
///
/// # Errors
/// `not_found` if nobody has this token, or no client of the user has a package.
pub async fn handle(context: &mut Context<'_>, request: GetAddPackages) -> Result<Outcome<AddPackages>, Refusal> {
    let not_found = || Refusal::not_found("nobody with this friendship token can be added");
    let (_, user) = records::user_by_token(context, &request.friendship_token).await?.ok_or_else(not_found)?;
    let mut batch = Batch::new();
    let mut packages = Vec::new();
    for client in user.clients {
        for last_resort in [false, true] {
            let range = records::package_prefix(QsClientId(client), last_resort).prefix();
            if let Some(package) = take(context, range, last_resort, &mut batch).await? {
                packages.push(package);
                break;
            }
        }
    }
    if packages.is_empty() {
        return Err(not_found());
    }
    Ok(Outcome::write(batch, AddPackages { packages }))
}

/// The first package of a range that is valid today, and its deletion where it is given out once. Expired ones before it
/// are deleted.
async fn take(
    context: &Context<'_>,
    range: KeyRange,
    last_resort: bool,
    batch: &mut Batch,
) -> Result<Option<AddPackage>, Refusal> {
    let rows =
        context.view.scan(Table::QsKeyPackages, range, Limit::rows(MAX_KEY_PACKAGES)).await.map_err(store_failure)?;
    for Row { key, value } in rows {
        let mut reader = Reader::new(value);
        let last_day = u32::decode(&mut reader).map_err(damaged)?;
        let valid = last_day >= context.now.day().0;
        if !(valid && last_resort) {
            batch.delete(Table::QsKeyPackages, key);
        }
        if valid {
            return AddPackage::decode(&mut reader).map(Some).map_err(damaged);
        }
    }
    Ok(None)
}
