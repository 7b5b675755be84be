//! InitRegistration: the first half of OPAQUE registration. Stores nothing.

use super::{Authentication, records};
use crate::{
    base::Refusal,
    service::{Context, Outcome},
    wire::authentication::{InitRegistration, InitRegistrationResponse},
};

/// Evaluates the blinded password under the user's OPRF key.
///
/// # Errors
/// `forbidden` for another domain, `already_exists` for a user id in use, `malformed` for an invalid OPAQUE message.
pub async fn handle(
    service: &Authentication,
    context: &mut Context<'_>,
    request: InitRegistration,
) -> Result<Outcome<InitRegistrationResponse>, Refusal> {
    if request.user.domain != *context.domain {
        return Err(Refusal::forbidden("users register with the homeserver of their own domain"));
    }
    if records::user(context, &request.user).await?.is_some() {
        return Err(Refusal::already_exists("the user id is taken"));
    }
    let response = service
        .opaque
        .start_registration(&request.user, request.request.as_slice())
        .map_err(|_| Refusal::malformed("the OPAQUE registration request is not valid"))?;
    Ok(Outcome::unchanged(InitRegistrationResponse { response }))
}
