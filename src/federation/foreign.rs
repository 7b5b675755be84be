//! What this homeserver asks others for itself: their keys and credentials. Few questions are under way at a time, and fewer
//! to one homeserver; who does not answer is left alone for a while.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::timeout;

use super::{Federation, Rules, ask, shares::Shares};
use crate::{
    base::{Cache, Clock, Domain, Refusal, Status, Timestamp},
    wire::{Call, Encode},
};

/// Questions that are under way at a time, and to the homeservers of one registrable domain. Who asks for more is told to come
/// again.
const QUESTIONS: usize = 64;
const QUESTIONS_TO_ONE: usize = 4;

/// How long a question may take, connection included.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a homeserver that does not answer is left alone.
const REST: Duration = Duration::from_secs(30);

/// Homeservers that are remembered for not answering.
const SILENT: usize = 1_024;

/// Asks other homeservers.
pub struct Foreign {
    home: Domain,
    federation: Federation,
    clock: Arc<dyn Clock>,
    /// Those that are under way.
    questions: Mutex<Shares>,
    /// Who has not answered, and when to ask again.
    silent: Mutex<Cache<Domain, Timestamp>>,
}

impl Foreign {
    /// For the homeserver of `home`.
    pub fn new(home: Domain, federation: Federation, clock: Arc<dyn Clock>) -> Self {
        let silent = Mutex::new(Cache::new(SILENT));
        Self { home, federation, clock, questions: Mutex::default(), silent }
    }

    /// With whom this homeserver deals.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.federation.rules
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Asks the homeserver of `domain` something that needs no proof and no credit.
    ///
    /// # Errors
    /// `federation_denied` for one that this homeserver does not deal with, `overloaded` if too much is being asked,
    /// `remote_unreachable` if there is no answer that can be used; its detail is the domain.
    pub async fn ask<C: Call>(&self, domain: &Domain, request: &C::Request) -> Result<C::Response, Refusal> {
        self.federation.rules.check(domain)?;
        if *domain == self.home {
            return Err(unreachable(domain, "it is this homeserver itself"));
        }
        let now = self.now();
        if self.silent().get(domain).is_some_and(|until| *until > now) {
            return Err(unreachable(domain, "it has not answered lately"));
        }
        let _question = self.begin(domain)?;
        let answer = timeout(PATIENCE, self.exchange::<C>(domain, request)).await;
        match answer.unwrap_or_else(|_| Err("it does not answer".into())) {
            Ok(answer) => {
                self.silent().remove(domain);
                Ok(answer)
            }
            Err(why) => {
                tracing::debug!(peer = %domain, %why, "another homeserver could not be asked");
                self.silent().insert(domain.clone(), now.after(REST));
                Err(unreachable(domain, why))
            }
        }
    }

    fn begin(&self, domain: &Domain) -> Result<Question<'_>, Refusal> {
        let mut questions = self.questions();
        if questions.of(domain) >= QUESTIONS_TO_ONE || questions.all() >= QUESTIONS {
            let refusal = Refusal::overloaded("too much is being asked of other homeservers");
            return Err(refusal.with_retry_after(PATIENCE));
        }
        questions.add(domain);
        Ok(Question { foreign: self, domain: domain.clone() })
    }

    fn questions(&self) -> MutexGuard<'_, Shares> {
        // The map is whole between any two of its operations.
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn exchange<C: Call>(&self, domain: &Domain, request: &C::Request) -> Result<C::Response, String> {
        let connection = self.federation.dial.dial(domain).await.map_err(|error| error.to_string())?;
        ask::<C>(&connection, request).await
    }

    fn silent(&self) -> MutexGuard<'_, Cache<Domain, Timestamp>> {
        // The cache is whole between any two of its operations.
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question that is under way, until it is dropped.
struct Question<'a> {
    foreign: &'a Foreign,
    domain: Domain,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.foreign.questions().remove(&self.domain);
    }
}

/// Another homeserver is needed and cannot be had. The detail of the refusal names it.
pub fn unreachable(domain: &Domain, why: impl std::fmt::Display) -> Refusal {
    let message = format!("the homeserver of {domain} cannot be reached: {why}");
    Refusal::new(Status::RemoteUnreachable, message).with_detail(domain.to_vec())
}
