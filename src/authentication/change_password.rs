//! ChangePassword: a new OPAQUE record, for whoever has the client's key and knows the old password.

use super::{Authentication, records};
use crate::{
    base::{ClientId, Refusal},
    crypto::opaque,
    service::{Context, Outcome, Verified},
    store::Batch,
    wire::{authentication::ChangePassword, server::Done},
};

/// Stores the new record in place of the old one.
///
/// # Errors
/// `malformed` for an invalid record, `unauthenticated` for a wrong password.
pub async fn handle(
    service: &Authentication,
    context: &mut Context<'_>,
    sender: Verified<ClientId>,
    request: ChangePassword,
) -> Result<Outcome<Done>, Refusal> {
    let client = sender.get();
    let password = request.record.as_slice().to_vec();
    opaque::check_record(&password).map_err(|_| Refusal::malformed("the OPAQUE record is not valid"))?;
    service.logins.finish(client, &request.factor, context.now)?;
    let mut batch = Batch::new();
    records::put_user(&mut batch, &client.user, &records::UserRecord { password })?;
    Ok(Outcome::write(batch, Done {}))
}
