//! UpdateUser: another key and another friendship token in place of a user's. Whoever has only the old token cannot fetch
//! AddPackages any more.

use super::records;
use crate::{
    base::{QsUserId, Refusal},
    crypto::sha256,
    service::{Context, Outcome, Verified},
    store::Batch,
    wire::{queuing::UpdateQueuingUser, server::Done},
};

/// Replaces them.
///
/// # Errors
/// `malformed` for a key that is none, `already_exists` for a friendship token of another user.
pub async fn handle(
    context: &mut Context<'_>,
    sender: Verified<QsUserId>,
    request: UpdateQueuingUser,
) -> Result<Outcome<Done>, Refusal> {
    let id = *sender.get();
    records::check_auth_key(&request.auth_key)?;
    let mut user = records::proven_user(context, id).await?;
    let mut batch = Batch::new();
    match records::user_by_token(context, &request.friendship_token).await? {
        Some((owner, _)) if owner != id => return Err(Refusal::already_exists("the friendship token is in use")),
        Some(_) => {}
        None => {
            records::remove_token(&mut batch, user.token_hash);
            user.token_hash = sha256(request.friendship_token.expose());
            records::insert_token(&mut batch, id, user.token_hash);
        }
    }
    user.auth_key = request.auth_key.as_slice().to_vec();
    records::put_user(&mut batch, id, &user)?;
    Ok(Outcome::write(batch, Done {}))
}
