//! What requests cost (`wire-spec/tokens.md`): tokens of a homeserver, the own one or another, are obtained in batches as
//! the user, kept, and given away one at a time on its connections that have no credit left.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::Connection;

use super::{
    connector::Isolation,
    error::{ClientError, Local},
    network::{Network, Sender},
    resync,
    state::{Database, meta, tokens},
};
use crate::{
    base::{ClientId, Clock, Domain, Status, Timestamp},
    client::account::Keys,
    crypto::{privacy_pass::Request, sha256, signature::SigningKey},
    wire::{
        Method, SenderId, Token,
        authentication::{GetCredentials, IssueTokens, IssuerKey},
        credential::ClientCredential,
        method::{Credit, call},
        registry::TOKEN_TYPE,
        server::{GetServerInfo, TokenPolicy},
    },
};

/// Tokens asked for at a time. Where so many are not left, fewer are asked for.
pub const BATCH: usize = 50;

/// The same at another homeserver, which gives all clients of the own one together no more than it must.
pub const FOREIGN_BATCH: usize = 10;

/// With fewer than these more are obtained.
const FEW: u32 = 8;

/// The same of another homeserver.
const FOREIGN_FEW: u32 = 2;

/// What tokens cost and buy, and those that wait.
pub struct Tokens {
    database: Database,
    clock: Arc<dyn Clock>,
    policies: Mutex<HashMap<Domain, Arc<TokenPolicy>>>,
    issuers: Mutex<HashMap<Domain, Arc<NextPeriod>>>,
}

/// Held by whoever obtains tokens of a homeserver. When that has more for this client, if it has none now.
type NextPeriod = tokio::sync::Mutex<Option<Timestamp>>;

/// What a request costs, and what a token buys.
#[derive(Clone, Copy)]
pub struct Cost {
    /// Credit that the request takes.
    pub price: u32,
    /// Credit that a token gives.
    pub per_token: u32,
}

impl Tokens {
    /// Those in a client's state.
    pub fn new(database: Database, clock: Arc<dyn Clock>) -> Self {
        Self { database, clock, policies: Mutex::default(), issuers: Mutex::default() }
    }

    /// How many of a homeserver wait.
    pub async fn count(&self, domain: &Domain) -> Result<u32, ClientError> {
        let (now, domain) = (self.clock.now().seconds(), domain.clone());
        self.database.run(move |connection| tokens::count(connection, &domain, now)).await
    }

    /// What a request to a homeserver costs there, if it costs anything that this client has tokens for.
    pub async fn cost(&self, network: &Network, domain: &Domain, method: Method) -> Result<Option<Cost>, ClientError> {
        if method.credit() == Credit::Exempt {
            return Ok(None);
        }
        let policy = self.policy(network, domain).await?;
        let price = policy.prices.iter().find(|price| price.method == method as u16).map_or(0, |price| price.credit);
        let cost = Cost { price, per_token: policy.credit_per_token };
        Ok(Some(cost).filter(|_| policy.required && price > 0))
    }

    /// The homeserver wants another price than it used to: what it wants is asked for again.
    pub fn forget_policy(&self, domain: &Domain) {
        self.policies.lock().unwrap_or_else(PoisonError::into_inner).remove(domain);
    }

    async fn policy(&self, network: &Network, domain: &Domain) -> Result<Arc<TokenPolicy>, ClientError> {
        let known = self.policies.lock().unwrap_or_else(PoisonError::into_inner).get(domain).cloned();
        if let Some(policy) = known {
            return Ok(policy);
        }
        let (nobody, request) = (Sender::Nobody, GetServerInfo {});
        let info = network.call::<call::ServerInfo>(domain, Isolation::Anonymous, nobody, &request).await?;
        let policy = Arc::new(info.token_policy);
        self.policies.lock().unwrap_or_else(PoisonError::into_inner).insert(domain.clone(), policy.clone());
        Ok(policy)
    }

    /// Takes a token of a homeserver, which must not be used a second time whatever becomes of it.
    ///
    /// # Errors
    /// [`ClientError::UsedUp`] if there is none and the issuer gives no more now.
    pub async fn take(&self, network: &Network, domain: &Domain) -> Result<Token, ClientError> {
        let issuer =
            self.issuers.lock().unwrap_or_else(PoisonError::into_inner).entry(domain.clone()).or_default().clone();
        let mut next_period = issuer.lock().await;
        let (mut token, left) = self.take_stored(domain).await?;
        let whose = self.database.run(Identity::load).await?;
        let (few, batch) = if whose.is_of(domain) { (FEW, BATCH) } else { (FOREIGN_FEW, FOREIGN_BATCH) };
        if left < few {
            let obtained = self.obtain(network, domain, &whose, batch, &mut next_period).await;
            if token.is_none() {
                obtained?;
                token = self.take_stored(domain).await?.0;
            }
        }
        token.ok_or_else(|| ClientError::untrusted("the issuer's tokens have expired already"))
    }

    /// A token was spent before that this client has never sent: its state is an old copy, whose tokens the client that went on
    /// has used. None of them is tried any more, and nothing more is sent with keys that it may have used as well.
    ///
    /// Another homeserver is believed about its own tokens and groups alone: it may say so to whomever it likes.
    pub async fn forget_stored(&self, by: &Domain) -> Result<(), ClientError> {
        let by = by.clone();
        self.database
            .run(move |connection| {
                let only =
                    Some(&by).filter(|by| meta::require::<Domain>(connection, "domain").is_ok_and(|home| home != **by));
                tokens::forget(connection, only)?;
                resync::went_back(connection, only)
            })
            .await
    }

    /// A token was refused: those go whose key the homeserver has no more, because it ended all that it had.
    ///
    /// Boxed: what is asked for that is a request too. It costs nothing.
    pub fn drop_void<'a>(
        &'a self,
        network: &'a Network,
        domain: &'a Domain,
    ) -> Pin<Box<dyn Future<Output = Result<(), ClientError>> + Send + 'a>> {
        Box::pin(async move {
            let (nobody, request) = (Sender::Nobody, GetCredentials {});
            let now = network.call::<call::AsGetCredentials>(domain, Isolation::Anonymous, nobody, &request).await?;
            let live: Vec<_> = now.issuer_keys.iter().map(|key| sha256(key.public_key.as_slice())).collect();
            let domain = domain.clone();
            self.database.run(move |connection| tokens::retain(connection, &domain, &live)).await
        })
    }

    async fn take_stored(&self, domain: &Domain) -> Result<(Option<Token>, u32), ClientError> {
        let (now, domain) = (self.clock.now().seconds(), domain.clone());
        self.database.run(move |connection| tokens::take(connection, &domain, now)).await
    }

    async fn obtain(
        &self,
        network: &Network,
        domain: &Domain,
        whose: &Identity,
        mut batch: usize,
        next_period: &mut Option<Timestamp>,
    ) -> Result<(), ClientError> {
        let now = self.clock.now();
        if let Some(next) = next_period.filter(|next| *next > now) {
            return Err(ClientError::UsedUp(Duration::from_millis(next.0 - now.0)));
        }
        *next_period = None;
        loop {
            match self.obtain_batch(network, domain, whose, batch).await {
                Err(ClientError::Refused(refusal)) if refusal.status == Status::RateLimited => {
                    let wait = refusal.retry_after.unwrap_or(Duration::from_secs(60));
                    if batch == 1 {
                        *next_period = Some(now.after(wait));
                        return Err(ClientError::UsedUp(wait));
                    }
                    // What is left of the allowance may be less than a batch.
                    batch /= 2;
                }
                // It cannot ask the own homeserver who this is; that passes.
                Err(ClientError::Refused(refusal)) if refusal.status == Status::RemoteUnreachable => {
                    return Err(ClientError::Unreachable(refusal.message.into_owned()));
                }
                outcome => return outcome,
            }
        }
    }

    /// The key that issues now, which every client must be shown alike: tokens of a key that was shown to one client only would
    /// tell who spends them. So it is asked for twice, as nobody, on connections that nothing joins.
    async fn issuer(&self, network: &Network, domain: &Domain, is_foreign: bool) -> Result<IssuerKey, ClientError> {
        let untrusted = |what: &str| ClientError::Local(Local::Untrusted, what.into());
        // Keys change, so two answers may differ once.
        for _ in 0..2 {
            let (nobody, request) = (Sender::Nobody, GetCredentials {});
            let one = network.call::<call::AsGetCredentials>(domain, Isolation::Anonymous, nobody, &request).await?;
            let other = network.ask_apart::<call::AsGetCredentials>(domain, &request).await?;
            let now = self.clock.now().seconds();
            let [one, other] = [one, other].map(|credentials| newest(credentials.issuer_keys, is_foreign, now));
            if one == other {
                return one.ok_or_else(|| untrusted("the homeserver has no key to issue tokens with"));
            }
        }
        Err(untrusted(
            "the homeserver does not show all clients the same key to issue tokens with, which would tell who spends them",
        ))
    }

    /// Asks for tokens under the key that issues now.
    async fn obtain_batch(
        &self,
        network: &Network,
        domain: &Domain,
        whose: &Identity,
        batch: usize,
    ) -> Result<(), ClientError> {
        let is_foreign = !whose.is_of(domain);
        let issuer = self.issuer(network, domain, is_foreign).await?;
        let (request, state) = Request::new(issuer.public_key.as_slice(), domain, batch)?;
        let credential = if is_foreign { Some(whose.credential()?) } else { None };
        let request = IssueTokens { request: request.into(), credential };
        let sender = Sender::Bound(SenderId::AsClient(whose.client.clone()), &whose.key);
        let issued = network.call::<call::AsIssueTokens>(domain, Isolation::Identity, sender, &request).await?;
        let (issued, domain) = (state.finish(issued.response.as_slice())?, domain.clone());
        self.database.run(move |connection| tokens::insert(connection, &domain, &issued, issuer.not_after)).await
    }
}

/// To whom tokens are issued.
struct Identity {
    client: ClientId,
    key: SigningKey,
    /// Another homeserver has to be shown it. None before there is one.
    credential: Option<ClientCredential>,
}

impl Identity {
    fn load(connection: &Connection) -> Result<Self, ClientError> {
        Ok(Self {
            client: meta::require(connection, "client id")?,
            key: Keys::load(connection)?.identity,
            credential: meta::get(connection, "credential")?,
        })
    }

    fn is_of(&self, domain: &Domain) -> bool {
        self.client.user.domain == *domain
    }

    fn credential(&self) -> Result<ClientCredential, ClientError> {
        self.credential.clone().ok_or_else(|| ClientError::storage("there is no credential yet"))
    }
}

/// The key that issues now, to the homeserver's own users or to clients of others.
fn newest(keys: Vec<IssuerKey>, foreign: bool, now: u64) -> Option<IssuerKey> {
    let usable = |key: &IssuerKey| key.token_type == TOKEN_TYPE && key.foreign == foreign && key.not_after >= now;
    keys.into_iter().filter(usable).max_by_key(|key| key.issues_until)
}

/// A time to wait as a person says it: its two largest units, rounded up.
pub fn span(wait: Duration) -> String {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let minutes = seconds.div_ceil(60);
    match (minutes / 1_440, minutes / 60 % 24, minutes % 60) {
        _ if seconds < 60 => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_wait_are_told_in_two_units() {
        let said = |seconds| span(Duration::from_secs(seconds));
        assert_eq!(said(12), "12 s");
        assert_eq!(said(61), "2 min");
        assert_eq!(said(3 * 3_600 + 12 * 60), "3 h 12 min");
        assert_eq!(said(3 * 86_400 + 3_600), "3 d 1 h");
    }
}
