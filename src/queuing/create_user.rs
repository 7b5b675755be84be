//! CreateUser: a user record with its first client and the client's queue, under fresh random pseudonyms.

use super::records::{self, ClientRecord, UserRecord};
use crate::{
    base::{QsClientId, QsUserId, Refusal},
    crypto::{random, sha256},
    service::{Context, Outcome, QueueId, queue::Queue},
    store::Batch,
    wire::queuing::{CreateQueuingUser, QueuingClient, QueuingUserCreated},
};

/// Creates the records. A repeat, after a reply that got lost, is answered with those that there are.
///
/// # Errors
/// `malformed` for keys that are none, `already_exists` for a friendship token in use.
pub async fn handle(
    context: &mut Context<'_>,
    request: CreateQueuingUser,
) -> Result<Outcome<QueuingUserCreated>, Refusal> {
    records::check_auth_key(&request.auth_key)?;
    if let Some((user, record)) = records::user_by_token(context, &request.friendship_token).await? {
        let in_use = || Refusal::already_exists("the friendship token is in use");
        if record.auth_key != request.auth_key.as_slice() {
            return Err(in_use());
        }
        let client = find_client(context, &record, &request.client).await?.ok_or_else(in_use)?;
        return Ok(Outcome::unchanged(QueuingUserCreated { user, client, incarnation: context.incarnation }));
    }
    let user = QsUserId(random(context.rng));
    let mut batch = Batch::new();
    let client = add_client(context, user, &request.client, &mut batch)?;
    let record = UserRecord {
        auth_key: request.auth_key.as_slice().to_vec(),
        token_hash: sha256(request.friendship_token.expose()),
        clients: vec![client.0],
    };
    records::insert_user(&mut batch, user, &record)?;
    Ok(Outcome::write(batch, QueuingUserCreated { user, client, incarnation: context.incarnation }))
}

/// A client of the user that was made of the same request.
///
/// # Errors
/// `internal` if the store fails.
pub async fn find_client(
    context: &Context<'_>,
    user: &UserRecord,
    wanted: &QueuingClient,
) -> Result<Option<QsClientId>, Refusal> {
    for client in user.clients.iter().copied().map(QsClientId) {
        if records::client(context, client).await?.is_some_and(|record| record.is_of(wanted)) {
            return Ok(Some(client));
        }
    }
    Ok(None)
}

/// Adds a client with its queue to the batch.
///
/// # Errors
/// `malformed` for keys that are none.
pub fn add_client(
    context: &mut Context<'_>,
    user: QsUserId,
    client: &QueuingClient,
    batch: &mut Batch,
) -> Result<QsClientId, Refusal> {
    let id = QsClientId(random(context.rng));
    records::put_client(batch, id, &ClientRecord::new(user, client, context.now.day())?)?;
    Queue::create(QueueId::client(id), &client.queue_key, context, batch)?;
    Ok(id)
}
