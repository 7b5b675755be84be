//! What this homeserver asks others for itself: their keys and credentials. Each answer is asked for once at a time; who does
//! not answer is left alone for a while.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::timeout};

use super::{Federation, Rules, ask};
use crate::{
    base::{Cache, Clock, Domain, Refusal, Status, Timestamp},
    wire::{Call, Encode},
};

/// Questions that are under way at a time. Who asks for more is told to come again.
const QUESTIONS: usize = 64;

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
    questions: Semaphore,
    /// Who has not answered, and when to ask again.
    silent: Mutex<Cache<Domain, Timestamp>>,
}

impl Foreign {
    /// For the homeserver of `home`.
    pub fn new(home: Domain, federation: Federation, clock: Arc<dyn Clock>) -> Self {
        let silent = Mutex::new(Cache::new(SILENT));
        Self { home, federation, clock, questions: Semaphore::new(QUESTIONS), silent }
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
        let overloaded =
            || Refusal::overloaded("too much is being asked of other homeservers").with_retry_after(PATIENCE);
        let _place = self.questions.try_acquire().map_err(|_| overloaded())?;
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

    async fn exchange<C: Call>(&self, domain: &Domain, request: &C::Request) -> Result<C::Response, String> {
        let connection = self.federation.dial.dial(domain).await.map_err(|error| error.to_string())?;
        ask::<C>(&connection, request).await
    }

    fn silent(&self) -> MutexGuard<'_, Cache<Domain, Timestamp>> {
        // The cache is whole between any two of its operations.
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Another homeserver is needed and cannot be had. The detail of the refusal names it.
pub fn unreachable(domain: &Domain, why: impl std::fmt::Display) -> Refusal {
    let message = format!("the homeserver of {domain} cannot be reached: {why}");
    Refusal::new(Status::RemoteUnreachable, message).with_detail(domain.to_vec())
}
