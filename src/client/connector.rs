//! Where connections come from, and the isolation contexts that keep them apart (`wire-spec/authentication.md`).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    base::{AliasId, Domain, GroupId},
    client::error::ClientError,
    transport::{Connection, Context, InvalidPlace, PrivateAddresses, Routes, Settings, tls},
};

/// In which of its roles the client speaks. Connections of different roles share nothing that a homeserver could link
/// them by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// As the user that the AS knows.
    Identity,
    /// As one of the user's aliases, each by itself.
    Alias(AliasId),
    /// As the pseudonym that the QS knows.
    Pseudonym,
    /// As a member of groups on its own homeserver's DS.
    Delivery,
    /// As a member of one group on the DS of another homeserver.
    RemoteDelivery(GroupId),
    /// As nobody.
    Anonymous,
    /// As nobody, to ask one thing on a connection, from a socket, that carry nothing else and are not kept.
    Apart,
}

/// Gives connections: over QUIC, or over whatever a test wants.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// A new connection to the homeserver of `domain`, from the context of `isolation`.
    async fn connect(&self, domain: &Domain, isolation: &Isolation) -> Result<Connection, ClientError>;

    /// Closes all connections, and returns when the homeservers know or a moment has passed.
    async fn close(&self) {}
}

/// How long closing waits for homeservers that do not answer.
const CLOSING: Duration = Duration::from_millis(500);

/// Sockets that are kept for groups of other homeservers; with more, those go that have no connection.
const MAX_REMOTE: usize = 64;

/// Connects over QUIC: a socket, TLS sessions and address-validation tokens per isolation context.
pub struct QuicConnector {
    roots: Arc<rustls::RootCertStore>,
    routes: Routes,
    contexts: Mutex<HashMap<Isolation, Context>>,
}

impl QuicConnector {
    /// Trusts the public certification authorities and those in `ca` (PEM). `at` is where the homeserver of `domain`, which
    /// is the client's own, is, if that is not what DNS says. DNS may give it an address that is not of the public internet,
    /// and no other domain one.
    ///
    /// # Errors
    /// [`ClientError::Local`] if `ca` holds no certificate, or `at` is no place.
    pub fn new(domain: Domain, at: Option<String>, ca: Option<&[u8]>) -> Result<Self, ClientError> {
        let configured = ca.map(tls::certificates).transpose()?.unwrap_or_default();
        let routes = Routes::new().private_addresses(PrivateAddresses::Of(domain.clone()));
        let connector = Self { roots: tls::roots(&configured)?, routes, contexts: Mutex::default() };
        match at {
            Some(at) => connector.with_place(domain, &at),
            None => Ok(connector),
        }
    }

    /// With the homeserver of one more domain at `at`, whatever DNS says.
    ///
    /// # Errors
    /// [`ClientError::Local`] if `at` is no place.
    pub fn with_place(mut self, domain: Domain, at: &str) -> Result<Self, ClientError> {
        let place = at.parse().map_err(|error: InvalidPlace| ClientError::invalid(error.to_string()))?;
        self.routes.insert(domain, place);
        Ok(self)
    }

    fn context(&self, isolation: &Isolation) -> Result<Context, ClientError> {
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = contexts.get(isolation) {
            return Ok(context.clone());
        }
        let is_remote = |isolation: &Isolation| matches!(isolation, Isolation::RemoteDelivery(_));
        if contexts.keys().filter(|isolation| is_remote(isolation)).count() >= MAX_REMOTE {
            contexts.retain(|isolation, context| !is_remote(isolation) || !context.is_idle());
        }
        let context = Context::new(self.roots.clone(), Settings::default())?;
        if *isolation != Isolation::Apart {
            contexts.insert(isolation.clone(), context.clone());
        }
        Ok(context)
    }
}

#[async_trait]
impl Connector for QuicConnector {
    async fn connect(&self, domain: &Domain, isolation: &Isolation) -> Result<Connection, ClientError> {
        let context = self.context(isolation)?;
        let route = self.routes.find(domain).await?;
        Ok(context.connect(domain, &route).await?)
    }

    async fn close(&self) {
        let contexts = std::mem::take(&mut *self.contexts.lock().unwrap_or_else(PoisonError::into_inner));
        let mut closing = JoinSet::new();
        for context in contexts.into_values() {
            closing.spawn(async move { context.close().await });
        }
        let _ = timeout(CLOSING, closing.join_all()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[tokio::test]
    async fn sockets_of_remote_groups_that_nobody_uses_are_not_kept() {
        let domain: Domain = "a.test".parse().unwrap();
        let connector = QuicConnector::new(domain.clone(), None, None).unwrap();
        connector.context(&Isolation::Identity).unwrap();
        let port = |context: &Context| context.local_addr().unwrap().port();
        let identity = port(&connector.context(&Isolation::Identity).unwrap());
        for group in 0..MAX_REMOTE + 10 {
            let uuid = [u8::try_from(group).unwrap(); 16];
            connector.context(&Isolation::RemoteDelivery(GroupId { uuid, domain: domain.clone() })).unwrap();
            assert!(connector.contexts.lock().unwrap().len() <= MAX_REMOTE + 1);
        }
        assert_eq!(port(&connector.context(&Isolation::Identity).unwrap()), identity);
    }

    #[tokio::test]
    async fn every_role_has_a_context_of_its_own_and_keeps_it() {
        let domain: Domain = "a.test".parse().unwrap();
        let connector = QuicConnector::new(domain.clone(), None, None).unwrap();
        let roles = [
            Isolation::Identity,
            Isolation::Alias(AliasId([1; 32])),
            Isolation::Alias(AliasId([2; 32])),
            Isolation::Pseudonym,
            Isolation::Delivery,
            Isolation::RemoteDelivery(GroupId { uuid: [1; 16], domain }),
            Isolation::Anonymous,
        ];
        let port = |role| connector.context(role).unwrap().local_addr().unwrap().port();
        let ports: HashSet<u16> = roles.iter().map(port).collect();
        assert_eq!(ports.len(), roles.len());
        assert!(roles.iter().all(|role| ports.contains(&port(role))));

        let (once, again) =
            (connector.context(&Isolation::Apart).unwrap(), connector.context(&Isolation::Apart).unwrap());
        let [once, again] = [once, again].map(|context| context.local_addr().unwrap().port());
        assert!(
            once != again && !ports.contains(&once) && !ports.contains(&again),
            "what is asked apart is kept apart"
        );
    }
}
