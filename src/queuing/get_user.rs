//! GetUser: what the QS knows of a user, for its owner.

use super::records;
use crate::{
    base::{QsClientId, QsUserId, Refusal, limits::MAX_KEY_PACKAGES},
    service::{Context, Outcome, Verified, store_failure},
    store::{Limit, Table},
    wire::queuing::{GetQueuingUser, QueuingClientRecord, QueuingUserRecord},
};

/// Reads the records.
///
/// # Errors
/// `internal` if the store fails.
pub async fn handle(
    context: &Context<'_>,
    sender: Verified<QsUserId>,
    GetQueuingUser {}: GetQueuingUser,
) -> Result<Outcome<QueuingUserRecord>, Refusal> {
    let user = records::proven_user(context, *sender.get()).await?;
    let mut clients = Vec::with_capacity(user.clients.len());
    for client in user.clients.into_iter().map(QsClientId) {
        let record = records::proven_client(context, client).await?;
        let range = records::package_prefix(client, false).prefix();
        let packages = context.view.scan(Table::QsKeyPackages, range, Limit::rows(MAX_KEY_PACKAGES)).await;
        let (today, packages) = (context.now.day(), packages.map_err(store_failure)?);
        let waiting =
            packages.iter().filter(|row| records::package_last_day(&row.value).is_some_and(|day| day >= today));
        clients.push(QueuingClientRecord {
            client,
            auth_key: record.auth_key(),
            active: record.active,
            push: record.push_token.is_some(),
            key_packages: waiting.count() as u32,
        });
    }
    Ok(Outcome::unchanged(QueuingUserRecord { clients }))
}
