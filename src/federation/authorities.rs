//! Who vouches for clients of other homeservers: the credentials of their Authentication Services, asked for when they are
//! needed and kept for an hour (`wire-spec/tokens.md`, "Clients of other homeservers").
//!
//! Roots are not pinned, as clients do: nothing that was believed once is believed for long, and what a homeserver's AS says
//! decides about no more than what its own clients are issued.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use super::{Foreign, foreign::unreachable};
use crate::{
    base::{Cache, Domain, Refusal, Status, Timestamp},
    crypto::{
        CryptoError,
        credential::{Authority, VerifiedClient},
    },
    wire::{Encode, authentication::GetCredentials, credential::ClientCredential, method::call},
};

/// How long credentials are believed without asking again.
const KEPT: Duration = Duration::from_secs(3_600);

/// A homeserver is asked again so soon only after this, whatever its clients show.
const PAUSE: Duration = Duration::from_secs(60);

/// Homeservers whose credentials are kept: so many to twice as many,
const DOMAINS: usize = 512;

/// and no more than these bytes of them, encoded.
const BYTES: usize = 64 << 20;

/// Homeservers of whom it is known when they were asked.
const ASKED: usize = 4_096;

/// The credentials of other homeservers.
pub struct Authorities {
    kept: Mutex<Kept>,
    /// Held by whoever asks a homeserver; others wait for what he brings. There are no more than requests under way.
    asking: Mutex<HashMap<Domain, Weak<tokio::sync::Mutex<()>>>>,
}

struct Kept {
    known: Cache<Domain, Known>,
    /// Of all that was put in since it was last emptied: what has gone counts as well.
    bytes: usize,
    asked: Cache<Domain, Timestamp>,
}

#[derive(Clone)]
struct Known {
    authority: Arc<Authority>,
    fetched: Timestamp,
}

impl Default for Authorities {
    fn default() -> Self {
        let kept = Kept { known: Cache::new(DOMAINS), bytes: 0, asked: Cache::new(ASKED) };
        Self { kept: Mutex::new(kept), asking: Mutex::default() }
    }
}

impl Authorities {
    /// Verifies a credential of a client of another homeserver up to that one's AS, which is asked for its credentials if they
    /// are not at hand, or a signer is not among them. `may_ask` is asked before.
    ///
    /// # Errors
    /// `unauthenticated` says what is the matter with the credential; what [`Foreign::ask`] refuses, and `may_ask`;
    /// `remote_unreachable` if the AS has answered with what is of no use.
    pub async fn verify(
        &self,
        foreign: &Foreign,
        credential: &ClientCredential,
        may_ask: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<VerifiedClient, Refusal> {
        let domain = &credential.request.payload.client.user.domain;
        if let Some(verdict) = self.verdict(credential, foreign.now()) {
            return verdict;
        }
        may_ask()?;
        let turn = self.turn(domain);
        let _turn = turn.lock().await;
        // Whoever had the turn before has asked the same.
        if let Some(verdict) = self.verdict(credential, foreign.now()) {
            return verdict;
        }
        self.fetch(foreign, domain).await?;
        self.verdict(credential, foreign.now()).unwrap_or_else(|| Err(of_no_use(domain)))
    }

    /// What is known about a credential; nothing, if its AS should be asked.
    fn verdict(&self, credential: &ClientCredential, now: Timestamp) -> Option<Result<VerifiedClient, Refusal>> {
        let domain = &credential.request.payload.client.user.domain;
        let (known, was_asked) = {
            let mut kept = self.kept();
            let known = kept.known.get(domain).filter(|known| known.fetched.after(KEPT) > now).cloned();
            (known, kept.asked.get(domain).is_some_and(|asked| asked.after(PAUSE) > now))
        };
        let Some(Known { authority, .. }) = known else { return was_asked.then(|| Err(of_no_use(domain))) };
        match authority.verify_client(credential, now) {
            // It may be newer than what is known.
            Err(CryptoError::UnknownSigner) if !was_asked => None,
            verified => Some(verified.map_err(|error| {
                Refusal::unauthenticated(format!("the client credential or what it rests on {error}"))
            })),
        }
    }

    async fn fetch(&self, foreign: &Foreign, domain: &Domain) -> Result<(), Refusal> {
        let answer = foreign.ask::<call::AsGetCredentials>(domain, &GetCredentials {}).await;
        if !matches!(&answer, Err(refusal) if refusal.status == Status::Overloaded) {
            self.kept().asked.insert(domain.clone(), foreign.now());
        }
        let credentials = answer?;
        let (now, bytes) = (foreign.now(), credentials.encoded_len());
        let authority = Authority::verify(domain.clone(), &credentials, &[], now).map_err(|error| {
            tracing::debug!(peer = %domain, %error, "the credentials of another homeserver do not verify");
            of_no_use(domain)
        })?;
        let mut kept = self.kept();
        kept.bytes += bytes;
        if kept.bytes > BYTES {
            (kept.known, kept.bytes) = (Cache::new(DOMAINS), bytes);
        }
        kept.known.insert(domain.clone(), Known { authority: Arc::new(authority), fetched: now });
        Ok(())
    }

    fn turn(&self, domain: &Domain) -> Arc<tokio::sync::Mutex<()>> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        asking.retain(|_, turn| turn.strong_count() > 0);
        let turn = asking.get(domain).and_then(Weak::upgrade).unwrap_or_default();
        asking.insert(domain.clone(), Arc::downgrade(&turn));
        turn
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // What is kept is whole between any two operations on it.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of_no_use(domain: &Domain) -> Refusal {
    unreachable(domain, "it has given no credentials that can be used")
}
