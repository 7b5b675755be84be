//! Requests and their answers: a connection per homeserver and isolation context, made when it is needed and made again
//! when it breaks; keys bound once per connection; retries with growing, jittered pauses.
//!
//! Every request of this client may be repeated: those that change something for others carry an idempotency key or are
//! recognised by their content, and the rest change nothing that a repeat would change again.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rand_core::RngCore;
use tokio::time::{Instant, sleep, timeout};

use super::{
    connector::{Connector, Isolation},
    error::ClientError,
};
use crate::{
    base::{Domain, Refusal, Status, limits::MAX_RESPONSE},
    crypto::{
        proof::{self, RequestContext},
        signature::SigningKey,
        system_rng,
    },
    transport::{Connection, Exchange, Frames, StreamError},
    wire::{
        Authentication, Call, Decode, Encode, Method, Proof, Request, Response, SenderId, VERSION,
        server::{Bind, Done},
    },
};

/// Shortest and longest pause before another attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// How long one attempt may take; the connection is then made anew.
const ATTEMPT: Duration = Duration::from_secs(15);

/// Who sends a request.
pub enum Sender<'a> {
    /// Nobody: the request needs no proof, or has it in its body.
    Nobody,
    /// Proven by a key bound to the connection.
    Bound(SenderId, &'a SigningKey),
    /// Proven by a signature over the request.
    Signed(SenderId, &'a SigningKey),
}

/// The way to homeservers.
pub struct Network {
    connector: Arc<dyn Connector>,
    patience: Duration,
    sessions: Mutex<HashMap<(Domain, Isolation), Arc<Session>>>,
}

#[derive(Default)]
struct Session(tokio::sync::Mutex<Option<Arc<Live>>>);

struct Live {
    connection: Connection,
    bound: tokio::sync::Mutex<HashSet<Vec<u8>>>,
}

impl Network {
    /// Connects with `connector`, and tries for as long as `patience` before giving up.
    pub fn new(connector: Arc<dyn Connector>, patience: Duration) -> Self {
        Self { connector, patience, sessions: Mutex::default() }
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.connector.close().await;
    }

    /// Sends a request and returns its answer.
    pub async fn call<C: Call>(
        &self,
        domain: &Domain,
        isolation: Isolation,
        sender: Sender<'_>,
        request: &C::Request,
    ) -> Result<C::Response, ClientError> {
        let answer = self.send(domain, isolation, C::METHOD, sender, request.to_vec().into()).await?;
        Ok(C::Response::from_bytes(answer)?)
    }

    /// Sends an encoded request and returns the encoded answer.
    pub async fn send(
        &self,
        domain: &Domain,
        isolation: Isolation,
        method: Method,
        sender: Sender<'_>,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        let session = self.session(domain, isolation.clone());
        let mut retries = Retries::new(self.patience);
        loop {
            let attempt = self.attempt(&session, domain, &isolation, method, &sender, &body);
            let outcome = match timeout(ATTEMPT, attempt).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    // Whatever the matter is, a new connection may help.
                    session.reset();
                    Err(ClientError::Unreachable("no answer in time".into()))
                }
            };
            let (error, pause) = match outcome {
                Ok(answer) => return Ok(answer),
                Err(ClientError::Refused(refusal)) if is_passing(&refusal) => {
                    let pause = refusal.retry_after;
                    (ClientError::Refused(refusal), pause)
                }
                Err(error @ ClientError::Unreachable(_)) => (error, None),
                Err(error) => return Err(error),
            };
            if !retries.pause(pause).await {
                return Err(error);
            }
        }
    }

    async fn attempt(
        &self,
        session: &Session,
        domain: &Domain,
        isolation: &Isolation,
        method: Method,
        sender: &Sender<'_>,
        body: &Bytes,
    ) -> Result<Bytes, ClientError> {
        for rebind in [false, true] {
            let live = self.live(session, domain, isolation).await?;
            let outcome = async {
                let (exchange, request) = live.prepare(method, sender, body, rebind).await?;
                let response = exchange.request(request, MAX_RESPONSE).await?;
                answer(response)
            };
            match outcome.await {
                Err(ClientError::Refused(refusal)) if !rebind && is_unbound(&refusal, sender) => {}
                Err(error @ ClientError::Unreachable(_)) => {
                    session.discard(&live).await;
                    return Err(error);
                }
                outcome => return outcome,
            }
        }
        Err(ClientError::Unreachable("the connection lost its keys".into()))
    }

    /// Starts a streaming exchange: its first answer, and the frames that follow. Does not retry.
    pub async fn listen(
        &self,
        domain: &Domain,
        isolation: Isolation,
        method: Method,
        sender: Sender<'_>,
        body: Bytes,
    ) -> Result<(Bytes, Box<dyn Frames>), ClientError> {
        let session = self.session(domain, isolation.clone());
        let live = self.live(&session, domain, &isolation).await?;
        let outcome = async {
            let (exchange, request) = live.prepare(method, &sender, &body, false).await?;
            let (response, frames) = exchange.streaming(request, MAX_RESPONSE).await?;
            Ok((answer(response)?, frames))
        };
        let outcome = outcome.await;
        if let Err(ClientError::Unreachable(_) | ClientError::Refused(_)) = &outcome {
            session.discard(&live).await;
        }
        outcome
    }

    fn session(&self, domain: &Domain, isolation: Isolation) -> Arc<Session> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.entry((domain.clone(), isolation)).or_default().clone()
    }

    async fn live(&self, session: &Session, domain: &Domain, isolation: &Isolation) -> Result<Arc<Live>, ClientError> {
        let mut live = session.0.lock().await;
        if let Some(live) = &*live {
            return Ok(live.clone());
        }
        let connection = self.connector.connect(domain, isolation).await?;
        let fresh = Arc::new(Live { connection, bound: tokio::sync::Mutex::default() });
        *live = Some(fresh.clone());
        Ok(fresh)
    }
}

impl Session {
    /// Nobody knows what is wrong with the connection: forgets it, unless somebody is about to make a new one.
    fn reset(&self) {
        if let Ok(mut live) = self.0.try_lock() {
            *live = None;
        }
    }

    /// The connection is of no further use.
    async fn discard(&self, broken: &Arc<Live>) {
        let mut live = self.0.lock().await;
        if live.as_ref().is_some_and(|live| Arc::ptr_eq(live, broken)) {
            *live = None;
        }
    }
}

impl Live {
    /// A stream, and the request to send on it.
    async fn prepare(
        &self,
        method: Method,
        sender: &Sender<'_>,
        body: &Bytes,
        rebind: bool,
    ) -> Result<(Exchange, Bytes), ClientError> {
        if let Sender::Bound(_, key) = sender {
            self.bind(key, rebind).await?;
        }
        let exchange = self.connection.open().await?;
        let auth = match sender {
            Sender::Nobody => Vec::new(),
            Sender::Bound(sender, _) => vec![Authentication { sender: sender.clone(), proof: Proof::Bound }],
            Sender::Signed(sender, key) => {
                let context = RequestContext {
                    method: method as u16,
                    token: None,
                    body,
                    binding: self.connection.binding(),
                    stream: exchange.id(),
                };
                vec![context.sign(sender.clone(), key)]
            }
        };
        Ok((exchange, envelope(method, auth, body.clone())))
    }

    /// Proves possession of a key for the rest of the connection, once.
    async fn bind(&self, key: &SigningKey, again: bool) -> Result<(), ClientError> {
        let name = key.verifying_key().as_slice().to_vec();
        let mut bound = self.bound.lock().await;
        if bound.contains(&name) && !again {
            return Ok(());
        }
        let body = Bind { keys: vec![proof::bind(key, self.connection.binding())] }.to_vec();
        let request = envelope(Method::Bind, Vec::new(), body.into());
        let response = self.connection.open().await?.request(request, MAX_RESPONSE).await?;
        Done::from_bytes(answer(response)?)?;
        bound.insert(name);
        Ok(())
    }
}

fn envelope(method: Method, auth: Vec<Authentication>, body: Bytes) -> Bytes {
    Request { version: VERSION, method: method as u16, auth, token: None, body: crate::wire::Opaque(body) }
        .to_vec()
        .into()
}

fn answer(response: Bytes) -> Result<Bytes, ClientError> {
    let response = Response::from_bytes(response).map_err(|_| ClientError::from(StreamError::Malformed))?;
    response.into_result().map_err(ClientError::Refused)
}

/// Whether the refusal may be gone after a while.
fn is_passing(refusal: &Refusal) -> bool {
    matches!(refusal.status, Status::Overloaded | Status::RateLimited)
}

/// Whether the homeserver may have forgotten that the key is bound.
fn is_unbound(refusal: &Refusal, sender: &Sender<'_>) -> bool {
    refusal.status == Status::Unauthenticated && matches!(sender, Sender::Bound(..))
}

/// Pauses between attempts: growing, jittered, and bounded in all.
pub struct Retries {
    /// None: there is always another attempt.
    deadline: Option<Instant>,
    next: Duration,
}

impl Retries {
    /// Attempts for as long as `patience`.
    pub fn new(patience: Duration) -> Self {
        Self { deadline: Instant::now().checked_add(patience), next: FIRST_PAUSE }
    }

    /// Attempts without end.
    pub const fn endless() -> Self {
        Self { deadline: None, next: FIRST_PAUSE }
    }

    /// Waits before the next attempt, at least `wanted`; `false` if there is to be none.
    pub async fn pause(&mut self, wanted: Option<Duration>) -> bool {
        let pause = jittered(self.next).max(wanted.unwrap_or_default());
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        if self.deadline.is_some_and(|deadline| Instant::now() + pause > deadline) {
            return false;
        }
        sleep(pause).await;
        true
    }

    /// All is well again: the next pause is a short one.
    pub fn reset(&mut self) {
        self.next = FIRST_PAUSE;
    }
}

/// Between half of `pause` and all of it.
pub fn jittered(pause: Duration) -> Duration {
    pause / 2 + (pause / 2).mul_f64(f64::from(system_rng().next_u32()) / f64::from(u32::MAX))
}
