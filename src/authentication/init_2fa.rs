//! Init2fa: starts an OPAQUE login of the sender's user, the second factor of what follows, and evaluates a new password
//! if there is to be one. Stores nothing.

use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use super::{Authentication, records};
use crate::{
    base::{ClientId, Refusal},
    crypto::random,
    service::{Context, Outcome, Verified},
    wire::authentication::{Init2fa, SecondFactorChallenge},
};

/// Answers KE1 with KE2. A user without a password gets an answer like any other.
///
/// # Errors
/// `malformed` for an invalid OPAQUE message, `overloaded`.
pub async fn handle(
    service: &Authentication,
    context: &mut Context<'_>,
    sender: Verified<ClientId>,
    request: Init2fa,
) -> Result<Outcome<SecondFactorChallenge>, Refusal> {
    let client = sender.get();
    let record = records::user(context, &client.user).await?.map(|user| user.password);
    let (opaque, user) = (service.opaque.clone(), client.user.clone());
    let mut rng = ChaCha20Rng::from_seed(random(context.rng));
    let compute = move || {
        let (login, answer) = opaque.start_login(&user, record.as_deref(), request.login.as_slice(), &mut rng)?;
        let new = request.new_password.map(|request| opaque.start_registration(&user, request.as_slice()));
        Ok((login, answer, new.transpose()?))
    };
    let malformed = |_: crate::crypto::CryptoError| Refusal::malformed("an OPAQUE message is not valid");
    let (login, answer, new_password) = context.workers.run(compute).await?.map_err(malformed)?;
    let session = random(context.rng);
    service.logins.start(client, session, login, context.now)?;
    Ok(Outcome::unchanged(SecondFactorChallenge { session, login: answer, new_password }))
}
