//! InitRegistration: the first half of OPAQUE registration. Stores nothing.

use super::{Authentication, invitations, records};
use crate::{
    base::Refusal,
    service::{Context, Outcome},
    wire::authentication::{InitRegistration, InitRegistrationResponse},
};

/// Evaluates the blinded password under the user's OPRF key.
///
/// # Errors
/// `forbidden` for another domain or where the policy does not admit it, `already_exists` for a user id
/// that is or was in use, `malformed` for an invalid OPAQUE message.
pub async fn handle(
    service: &Authentication,
    context: &mut Context<'_>,
    request: InitRegistration,
) -> Result<Outcome<InitRegistrationResponse>, Refusal> {
    if request.user.domain != *context.domain {
        return Err(Refusal::forbidden("users register with the homeserver of their own domain"));
    }
    if records::user(context, &request.user).await?.is_some() || records::is_departed(context, &request.user).await? {
        return Err(Refusal::already_exists("the user id is taken"));
    }
    // Looked at now, so that nothing is computed for whoever may not register, and used up at the end.
    invitations::admit(context, request.invitation.as_ref()).await?;
    let opaque = service.opaque.clone();
    let compute = move || opaque.start_registration(&request.user, request.request.as_slice());
    let response = context.workers.run(compute).await?;
    let response = response.map_err(|_| Refusal::malformed("the OPAQUE registration request is not valid"))?;
    Ok(Outcome::unchanged(InitRegistrationResponse { response }))
}
