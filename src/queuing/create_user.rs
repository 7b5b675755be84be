//! CreateUser: a user record with its first client and the client's queue, under fresh random pseudonyms.

use super::records::{self, ClientRecord, UserRecord};
use crate::{
    base::{QsClientId, QsUserId, Refusal},
    crypto::{random, sha256},
    service::{Context, Outcome, QueueId, queue::Queue},
    store::Batch,
    wire::queuing::{CreateQueuingUser, QueuingUserCreated},
};

/// Creates the records.
///
/// # Errors
/// `malformed` for keys that are none, `already_exists` for a friendship token in use.
pub async fn handle(
    context: &mut Context<'_>,
    request: CreateQueuingUser,
) -> Result<Outcome<QueuingUserCreated>, Refusal> {
    if [&request.auth_key, &request.client.auth_key].iter().any(|key| key.as_slice().len() != 32) {
        return Err(Refusal::malformed("an authentication key is not an Ed25519 key"));
    }
    if records::user_by_token(context, &request.friendship_token).await?.is_some() {
        return Err(Refusal::already_exists("the friendship token is in use"));
    }
    let user = QsUserId(random(context.rng));
    let client = QsClientId(random(context.rng));
    let mut batch = Batch::new();
    let user_record = UserRecord {
        auth_key: request.auth_key.as_slice().to_vec(),
        token_hash: sha256(request.friendship_token.expose()),
        clients: vec![client.0],
    };
    records::insert_user(&mut batch, user, &user_record)?;
    let client_record = ClientRecord {
        user: user.0,
        auth_key: request.client.auth_key.as_slice().to_vec(),
        push_token: request.client.push_token.map(|token| token.as_slice().to_vec()),
        active: context.now.day().0,
        next_package: 0,
    };
    records::put_client(&mut batch, client, &client_record)?;
    Queue::create(QueueId::client(client), &request.client.queue_key, context, &mut batch)?;
    Ok(Outcome::write(batch, QueuingUserCreated { user, client, incarnation: context.incarnation }))
}
