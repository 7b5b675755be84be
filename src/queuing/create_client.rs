//! CreateClient: another client of a user, with a queue of its own.

use super::{
    create_user::{add_client, find_client},
    records,
};
use crate::{
    base::{QsUserId, Refusal, limits::MAX_QUEUING_CLIENTS},
    service::{Context, Outcome, Verified},
    store::Batch,
    wire::queuing::{CreateQueuingClient, QueuingClientCreated},
};

/// Creates the record. A repeat, after a reply that got lost, is answered with the one that there is.
///
/// # Errors
/// `malformed` for keys that are none, `quota_exceeded` if the user has ten clients.
pub async fn handle(
    context: &mut Context<'_>,
    sender: Verified<QsUserId>,
    request: CreateQueuingClient,
) -> Result<Outcome<QueuingClientCreated>, Refusal> {
    let mut user = records::proven_user(context, *sender.get()).await?;
    let incarnation = context.incarnation;
    if let Some(client) = find_client(context, &user, &request.client).await? {
        return Ok(Outcome::unchanged(QueuingClientCreated { client, incarnation }));
    }
    if user.clients.len() >= MAX_QUEUING_CLIENTS {
        return Err(Refusal::quota_exceeded("a user has at most 10 clients"));
    }
    let mut batch = Batch::new();
    let client = add_client(context, *sender.get(), &request.client, &mut batch)?;
    user.clients.push(client.0);
    records::put_user(&mut batch, *sender.get(), &user)?;
    Ok(Outcome::write(batch, QueuingClientCreated { client, incarnation }))
}
