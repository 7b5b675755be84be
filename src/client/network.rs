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
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, sleep, timeout},
};

use super::{
    connector::{Connector, Isolation},
    error::ClientError,
    tokens::{Cost, Tokens},
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
        Authentication, Call, Decode, Encode, Method, Proof, Request, Response, SenderId, Token, VERSION,
        server::{Bind, Done},
    },
};

/// Shortest and longest pause before another attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// How long one attempt may take; the connection is then made anew.
const ATTEMPT: Duration = Duration::from_secs(15);

/// Tokens that one attempt gives away at most beside the first.
const MAX_TOKENS: u32 = 3;

/// Connections that are kept to remote groups, and as nobody; with more, those go that nothing is sent on at the moment.
const MAX_OCCASIONAL: usize = 64;

type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// Who sends a request.
pub enum Sender<'a> {
    /// Nobody: the request needs no proof, or has it in its body.
    Nobody,
    /// Proven by a key bound to the connection.
    Bound(SenderId, &'a SigningKey),
    /// Proven by a signature over the request.
    Signed(SenderId, &'a SigningKey),
    /// Proven by two signatures, with the key that is there and the one that is to take its place.
    Renewing(SenderId, &'a SigningKey, &'a SigningKey),
}

/// The way to homeservers.
pub struct Network {
    connector: Arc<dyn Connector>,
    patience: Duration,
    sessions: Mutex<HashMap<(Domain, Isolation), Arc<Session>>>,
    tokens: Tokens,
}

#[derive(Default)]
struct Session(tokio::sync::Mutex<Option<Arc<Live>>>);

struct Live {
    connection: Connection,
    bound: tokio::sync::Mutex<HashSet<Vec<u8>>>,
    /// Credit that is left there. Held while a token is under way, whose credit others wait for instead of sending
    /// tokens of their own.
    credit: Arc<tokio::sync::Mutex<u32>>,
}

/// How a request is paid for.
enum Payment {
    /// It costs nothing, or the connection has the credit.
    Nothing,
    /// By a token, that buys more than the request costs. The homeserver's answer shows that it has.
    Token(Box<Token>, OwnedMutexGuard<u32>, Cost),
}

/// Why an attempt failed.
struct Failure {
    error: ClientError,
    /// Whether there may be another.
    again: bool,
}

impl Network {
    /// Connects with `connector`, and tries for as long as `patience` before giving up.
    pub fn new(connector: Arc<dyn Connector>, patience: Duration, tokens: Tokens) -> Self {
        Self { connector, patience, sessions: Mutex::default(), tokens }
    }

    /// What requests are paid with.
    pub const fn tokens(&self) -> &Tokens {
        &self.tokens
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

    /// Asks something as nobody, on a connection that carries nothing else: whoever answers cannot know who asks by anything
    /// that this client has asked before.
    pub async fn ask_apart<C: Call>(&self, domain: &Domain, request: &C::Request) -> Result<C::Response, ClientError> {
        // Before as well: whoever asked may have gone away.
        self.forget_apart(domain);
        let outcome = self.call::<C>(domain, Isolation::Apart, Sender::Nobody, request).await;
        self.forget_apart(domain);
        outcome
    }

    fn forget_apart(&self, domain: &Domain) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.remove(&(domain.clone(), Isolation::Apart));
    }

    /// The same as [`Self::call`] where nobody is to wait long: it must be answered so soon, and is not tried again but on a new connection.
    pub async fn call_within<C: Call>(
        &self,
        limit: Duration,
        domain: &Domain,
        isolation: Isolation,
        sender: Sender<'_>,
        request: &C::Request,
    ) -> Result<C::Response, ClientError> {
        let session = self.session(domain, isolation.clone());
        let body = request.to_vec().into();
        let attempts = async {
            match self.attempt(&session, domain, &isolation, C::METHOD, &sender, &body).await {
                // The connection may have been an old one.
                Err(Failure { error: ClientError::Unreachable(_), .. }) => {
                    self.attempt(&session, domain, &isolation, C::METHOD, &sender, &body).await
                }
                outcome => outcome,
            }
        };
        match timeout(limit, attempts).await {
            Ok(outcome) => Ok(C::Response::from_bytes(outcome.map_err(|failure| failure.error)?)?),
            Err(_) => {
                session.reset();
                Err(ClientError::Unreachable(format!("{domain} does not answer soon enough")))
            }
        }
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
            // Boxed, here and elsewhere where one step holds the next: the stack must have room for all of them.
            let attempt = Box::pin(self.attempt(&session, domain, &isolation, method, &sender, &body));
            let outcome = match timeout(ATTEMPT, attempt).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    // Whatever the matter is, a new connection may help.
                    session.reset();
                    Err(Failure { error: ClientError::Unreachable("no answer in time".into()), again: true })
                }
            };
            let Failure { error, again } = match outcome {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let pause = if let ClientError::Refused(refusal) = &error { refusal.retry_after } else { None };
            if !again || !retries.pause(pause).await {
                return Err(match error {
                    ClientError::Unreachable(why) => ClientError::Unreachable(format!("{domain}: {why}")),
                    error => error,
                });
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
    ) -> Result<Bytes, Failure> {
        let (mut rebind, mut tokens, mut spent) = (false, 0, false);
        loop {
            let live = self.live(session, domain, isolation).await?;
            let mut payment = self.pay(&live, domain, method).await?;
            let outcome = async {
                let (exchange, request) = live.prepare(method, sender, body, rebind, payment.token()).await?;
                let response = exchange.request(request, MAX_RESPONSE).await?;
                answer(response)
            };
            let outcome = outcome.await;
            let had_token = payment.token().is_some();
            payment.settle(outcome.as_ref().err());
            let error = match outcome {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match &error {
                ClientError::Refused(refusal) if had_token && !spent && refusal.status == Status::TokenSpent => {
                    spent = true;
                    self.tokens.forget_stored(domain).await?;
                    // It was encrypted by the old copy of this client's state.
                    if method == Method::DsSendMessage {
                        return Err(Failure { error, again: false });
                    }
                }
                ClientError::Refused(refusal) if tokens < MAX_TOKENS && wants_token(refusal, had_token) => {
                    // Where the refusal may be about the sender, another token helps once or not at all.
                    tokens = if refusal.status == Status::Unauthenticated { MAX_TOKENS } else { tokens + 1 };
                    rebind |= is_unbound(refusal, sender);
                    if refusal.status == Status::Unauthenticated {
                        self.tokens.drop_void(self, domain).await?;
                    }
                    if refusal.status == Status::TokenRequired {
                        live.broke(had_token).await;
                        self.tokens.forget_policy(domain);
                    }
                }
                ClientError::Refused(refusal) if !rebind && is_unbound(refusal, sender) => rebind = true,
                ClientError::Refused(refusal) => {
                    // An allowance comes back in hours: its user is told, and does not wait.
                    let again = is_passing(refusal) && method != Method::AsIssueTokens;
                    return Err(Failure { error, again });
                }
                ClientError::Unreachable(_) => {
                    session.discard(&live).await;
                    return Err(Failure { error, again: true });
                }
                _ => return Err(Failure { error, again: false }),
            }
        }
    }

    /// Takes the price of a request from the credit of a connection, or a token where that is not enough.
    ///
    /// Boxed: what is asked to know the price, and to get tokens, are requests too. They cost nothing.
    fn pay<'a>(&'a self, live: &'a Live, domain: &'a Domain, method: Method) -> BoxFuture<'a, Payment> {
        Box::pin(async move {
            let Some(cost) = self.tokens.cost(self, domain, method).await? else { return Ok(Payment::Nothing) };
            let mut credit = live.credit.clone().lock_owned().await;
            if let Some(left) = credit.checked_sub(cost.price) {
                *credit = left;
                return Ok(Payment::Nothing);
            }
            Ok(Payment::Token(Box::new(self.tokens.take(self, domain).await?), credit, cost))
        })
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
            let (exchange, request) = live.prepare(method, &sender, &body, false, None).await?;
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
        let is_occasional = |of: &Isolation| matches!(of, Isolation::RemoteDelivery(_) | Isolation::Anonymous);
        if sessions.keys().filter(|(_, isolation)| is_occasional(isolation)).count() >= MAX_OCCASIONAL {
            sessions.retain(|(_, isolation), session| !is_occasional(isolation) || Arc::strong_count(session) > 1);
        }
        sessions.entry((domain.clone(), isolation)).or_default().clone()
    }

    async fn live(&self, session: &Session, domain: &Domain, isolation: &Isolation) -> Result<Arc<Live>, ClientError> {
        let mut live = session.0.lock().await;
        if let Some(live) = &*live {
            return Ok(live.clone());
        }
        let connection = self.connector.connect(domain, isolation).await?;
        let fresh = Arc::new(Live { connection, bound: tokio::sync::Mutex::default(), credit: Arc::default() });
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

impl Payment {
    fn token(&self) -> Option<&Token> {
        match self {
            Self::Nothing => None,
            Self::Token(token, ..) => Some(token),
        }
    }

    /// The request was answered, or will not be: what is left of the token's credit is there for others. Where it is
    /// not certain that a token was redeemed, it counts as lost.
    fn settle(&mut self, error: Option<&ClientError>) {
        if let Self::Token(_, credit, cost) = self {
            let redeemed = match error {
                None => true,
                Some(ClientError::Refused(refusal)) => !wants_token(refusal, true),
                Some(_) => false,
            };
            if redeemed {
                **credit = credit.saturating_add(cost.per_token).saturating_sub(cost.price);
            }
        }
        *self = Self::Nothing;
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self { again: matches!(error, ClientError::Unreachable(_)), error }
    }
}

impl Live {
    /// The homeserver knows of less credit than was counted here.
    async fn broke(&self, had_token: bool) {
        if !had_token {
            *self.credit.lock().await = 0;
        }
    }

    /// A stream, and the request to send on it.
    async fn prepare(
        &self,
        method: Method,
        sender: &Sender<'_>,
        body: &Bytes,
        rebind: bool,
        token: Option<&Token>,
    ) -> Result<(Exchange, Bytes), ClientError> {
        if let Sender::Bound(_, key) = sender {
            self.bind(key, rebind).await?;
        }
        let exchange = self.connection.open().await?;
        let auth = match sender {
            Sender::Nobody => Vec::new(),
            Sender::Bound(sender, _) => vec![Authentication { sender: sender.clone(), proof: Proof::Bound }],
            Sender::Signed(..) | Sender::Renewing(..) => {
                let context = RequestContext {
                    method: method as u16,
                    token,
                    body,
                    binding: self.connection.binding(),
                    stream: exchange.id(),
                };
                match sender {
                    Sender::Signed(sender, key) => vec![context.sign(sender.clone(), key)],
                    Sender::Renewing(sender, old, new) => {
                        vec![context.sign(sender.clone(), old), context.sign(sender.clone(), new)]
                    }
                    Sender::Nobody | Sender::Bound(..) => Vec::new(),
                }
            }
        };
        Ok((exchange, envelope(method, auth, token.cloned(), body.clone())))
    }

    /// Proves possession of a key for the rest of the connection, once.
    async fn bind(&self, key: &SigningKey, again: bool) -> Result<(), ClientError> {
        let name = key.verifying_key().as_slice().to_vec();
        let mut bound = self.bound.lock().await;
        if bound.contains(&name) && !again {
            return Ok(());
        }
        let body = Bind { keys: vec![proof::bind(key, self.connection.binding())] }.to_vec();
        let request = envelope(Method::Bind, Vec::new(), None, body.into());
        let response = self.connection.open().await?.request(request, MAX_RESPONSE).await?;
        Done::from_bytes(answer(response)?)?;
        bound.insert(name);
        Ok(())
    }
}

fn envelope(method: Method, auth: Vec<Authentication>, token: Option<Token>, body: Bytes) -> Bytes {
    Request { version: VERSION, method: method as u16, auth, token, body: crate::wire::Opaque(body) }.to_vec().into()
}

fn answer(response: Bytes) -> Result<Bytes, ClientError> {
    let response = Response::from_bytes(response).map_err(|_| ClientError::from(StreamError::Malformed))?;
    response.into_result().map_err(ClientError::Refused)
}

/// Whether another token may help.
fn wants_token(refusal: &Refusal, had_one: bool) -> bool {
    match refusal.status {
        Status::TokenRequired => true,
        Status::TokenSpent | Status::Unauthenticated => had_one,
        _ => false,
    }
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
    crate::base::time::jittered(pause, system_rng().next_u32())
}
