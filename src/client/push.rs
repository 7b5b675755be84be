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
        outbox::{self, Chore},
    },
};
use crate::{
    base::Secret,
    crypto::{aead, push::seal_token, system_rng},
    wire::{
        Opaque,
        label::KeyLabel,
        method::call,
        queuing::{GetQueuingKeys, MAX_PUSH_ENDPOINT, P256PublicKey, PushToken, WebPushSubscription},
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
        let core = &self.0;
        core.database
            .run(move |connection| {
                match subscription.map(PushToken::WebPush) {
                    Some(token) => meta::put(connection, TOKEN, &token)?,
                    None => meta::remove(connection, TOKEN)?,
                }
                outbox::add_chore(connection, &Chore::Record)
            })
            .await?;
        core.renew_record().await
    }
}

/// Opens the push token. Every queue config carries it, so that those who are given one now can wake a client that wants that
/// only later; it is derived from another secret of the configs, which the QS does not store either.
pub fn token_key(account: &Account) -> Secret {
    aead::derive(&account.keys.blocklist, &[], KeyLabel::PushToken)
}

/// Where the client is to be woken, as the QS keeps it; none if it is not.
pub fn sealed_token(connection: &Connection, account: &Account) -> Result<Option<Opaque>, ClientError> {
    let seal = |token| seal_token(&token_key(account), account.pseudonym, &token, &mut system_rng()).into();
    Ok(meta::get::<PushToken>(connection, TOKEN)?.map(seal))
}

fn is_endpoint(url: &[u8]) -> bool {
    url.len() <= MAX_PUSH_ENDPOINT && url.starts_with(b"https://") && url.is_ascii()
}
