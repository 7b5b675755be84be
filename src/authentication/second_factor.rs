//! The password as a second factor: OPAQUE logins under way, in memory. Each is for one use by the client that started it,
//! and for a minute; a client has one at a time.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    base::{ClientId, Refusal, Timestamp},
    crypto::opaque::Login,
    wire::authentication::SecondFactor,
};

/// How long a login may take.
const LIFE: Duration = Duration::from_secs(60);

/// Most logins under way.
const MAX_LOGINS: usize = 10_000;

struct Pending {
    session: [u8; 16],
    login: Login,
    expires: Timestamp,
}

/// Logins that wait for their KE3.
#[derive(Default)]
pub struct Logins(Mutex<HashMap<ClientId, Pending>>);

impl Logins {
    /// Remembers a login in place of an earlier one of the same client.
    ///
    /// # Errors
    /// `overloaded` if too many are under way.
    pub fn start(&self, client: &ClientId, session: [u8; 16], login: Login, now: Timestamp) -> Result<(), Refusal> {
        let mut logins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if logins.len() >= MAX_LOGINS {
            logins.retain(|_, pending| pending.expires > now);
        }
        if logins.len() >= MAX_LOGINS && !logins.contains_key(client) {
            return Err(Refusal::overloaded("too many logins are under way").with_retry_after(LIFE));
        }
        logins.insert(client.clone(), Pending { session, login, expires: now.after(LIFE) });
        Ok(())
    }

    /// Checks the second factor of a client. The login is used up, whatever the outcome.
    ///
    /// # Errors
    /// `unauthenticated` if there is no such login, or the password was wrong: nobody learns which.
    pub fn finish(&self, client: &ClientId, factor: &SecondFactor, now: Timestamp) -> Result<(), Refusal> {
        let wrong = || Refusal::unauthenticated("the password is wrong, or the login was not started or has expired");
        let pending = {
            let mut logins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match logins.get(client) {
                // Another client's attempt at this session's number ends nothing.
                Some(pending) if pending.session == factor.session => logins.remove(client),
                _ => None,
            }
        };
        let pending = pending.filter(|pending| pending.expires > now).ok_or_else(wrong)?;
        pending.login.finish(&client.user, factor.login.as_slice()).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{Status, UserId},
        crypto::{
            opaque::{ClientLogin, OpaqueServer},
            system_rng,
        },
    };

    #[test]
    fn so_many_logins_are_under_way_and_no_more_until_they_have_expired() {
        let (logins, mut rng, now) = (Logins::default(), system_rng(), Timestamp(1_790_000_000_000));
        let user = UserId { uuid: [1; 16], domain: "a.test".parse().unwrap() };
        let (_, request) = ClientLogin::start(user.clone(), "password", &mut rng).unwrap();
        let server = OpaqueServer::generate(&mut rng);
        let (login, _) = server.start_login(&user, None, request.as_slice(), &mut rng).unwrap();
        let client = |number: usize| {
            let mut client = [0; 16];
            client[..8].copy_from_slice(&number.to_be_bytes());
            ClientId { user: user.clone(), client }
        };
        let start = |number: usize, now| logins.start(&client(number), [2; 16], login.clone(), now);
        for number in 0..MAX_LOGINS {
            start(number, now).unwrap();
        }
        let refused = start(MAX_LOGINS, now).unwrap_err();
        assert_eq!((refused.status, refused.retry_after), (Status::Overloaded, Some(LIFE)));
        start(0, now).unwrap();
        start(MAX_LOGINS, now.after(LIFE)).unwrap();
        assert_eq!(logins.0.lock().unwrap().len(), 1, "those that have expired are gone");
    }
}
