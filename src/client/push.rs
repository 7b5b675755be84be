//! Where this client is woken when it does not listen (`wire-spec/queuing.md`, "Push").

use rusqlite::Connection;

use super::{
    Client,
    account::Account,
    connector::Isolation,
    error::ClientError,
    network::Sender,
    state::{
        meta,
        outbox::{self, Kind, New},
    },
};
use crate::{
    base::Secret,
    crypto::{Rng, aead, push::seal_token, system_rng},
    wire::{
        Encode, Method,
        label::KeyLabel,
        method::call,
        queuing::{
            GetQueuingKeys, MAX_PUSH_ENDPOINT, P256PublicKey, PushToken, QueuingClient, UpdateQueuingClient,
            WebPushSubscription,
        },
    },
};

/// The token, if there is one.
const TOKEN: &str = "push token";

impl Client {
    /// The key to which a subscription at a push service is to be restricted (`applicationServerKey` of the Push API, RFC 8292
    /// section 4); none if the homeserver does not push.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub async fn push_key(&self) -> Result<Option<P256PublicKey>, ClientError> {
        let (core, request) = (&self.0, GetQueuingKeys {});
        let isolation = Isolation::Anonymous;
        let keys = core.network.call::<call::QsGetKeys>(core.domain(), isolation, Sender::Nobody, &request).await?;
        Ok(keys.push_key)
    }

    /// From now on this client is woken through a push service when it does not listen, or not any more. An application says so
    /// again at each start: the homeserver forgets a subscription that has ended, and tells nobody.
    ///
    /// # Errors
    /// [`Local::Invalid`](super::Local::Invalid) for an endpoint that is no `https` URL of at most 512 bytes;
    /// [`ClientError::Unreachable`], after which it is done next time.
    pub async fn set_push(&self, subscription: Option<WebPushSubscription>) -> Result<(), ClientError> {
        if subscription.as_ref().is_some_and(|of| !is_endpoint(of.endpoint.as_slice())) {
            return Err(ClientError::invalid("an endpoint is an https URL of at most 512 bytes"));
        }
        let core = self.0.clone();
        let account = core.account();
        core.database
            .run(move |connection| {
                match subscription.map(PushToken::WebPush) {
                    Some(token) => meta::put(connection, TOKEN, &token)?,
                    None => meta::remove(connection, TOKEN)?,
                }
                let client = queuing_client(connection, &account, &mut system_rng())?;
                let new = New {
                    group: None,
                    kind: Kind::Simple,
                    method: Method::QsUpdateClient,
                    domain: account.domain().clone(),
                    body: UpdateQueuingClient { client }.to_vec(),
                    extra: Vec::new(),
                };
                outbox::insert(connection, new)
            })
            .await?;
        let _turn = core.lane(&[]).await;
        core.send_lane(&[], None).await.map(drop)
    }
}

/// Opens the push token. Every queue config carries it, so that those who are given one now can wake a client that wants that
/// only later; it is derived from another secret of the configs, which the QS does not store either.
pub fn token_key(account: &Account) -> Secret {
    aead::derive(&account.keys.blocklist, &[], KeyLabel::PushToken)
}

/// This client as the QS is to know it.
pub fn queuing_client(
    connection: &Connection,
    account: &Account,
    rng: &mut dyn Rng,
) -> Result<QueuingClient, ClientError> {
    let token = meta::get::<PushToken>(connection, TOKEN)?;
    let seal = |token| seal_token(&token_key(account), account.pseudonym, &token, rng).into();
    Ok(QueuingClient {
        auth_key: account.keys.queuing_client.verifying_key(),
        queue_key: account.keys.client_queue.public_key(),
        push_token: token.map(seal),
    })
}

fn is_endpoint(url: &[u8]) -> bool {
    url.len() <= MAX_PUSH_ENDPOINT && url.starts_with(b"https://") && url.is_ascii()
}
