//! Method → handler: an exhaustive match. Each route decodes its body, finds the sender's current key, proves the sender,
//! and hands both to the one handler of the method.

mod aliases;
mod authentication;
mod delivery;
mod queuing;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use tracing::{Instrument as _, Span, field::Empty};

use super::{Dispatcher, Session, encode};
use crate::{
    authentication::records as users,
    base::{ClientId, Domain, Refusal, Status},
    crypto::proof::RequestContext,
    delivery::group::Group,
    service::{Context, QueueId, Verified, policy::Rate, proof},
    transport::Reply,
    wire::{
        self, Decode, Encode, Method, Request,
        authentication::GetCredentials,
        credential::ClientCredential,
        delivery::{GetDeliveryKeys, GroupAccess},
        queue::Listen,
        queuing::GetQueuingKeys,
        server,
    },
};

/// One decoded request with where it came from.
pub(super) struct Call<'a> {
    pub(super) session: &'a Session,
    stream: u64,
    pub(super) request: &'a Request,
    dispatcher: &'a Dispatcher,
    /// Whether its price was taken.
    charged: AtomicBool,
}

impl Call<'_> {
    fn presented(&self) -> proof::Presented<'_> {
        proof::Presented {
            context: RequestContext {
                method: self.request.method,
                token: self.request.token.as_ref(),
                body: self.request.body.as_slice(),
                binding: &self.session.binding,
                stream: self.stream,
            },
            auth: &self.request.auth,
            bound: &self.session.bound,
        }
    }

    /// Takes the price of the request, once it is decoded and proven: the last thing that can keep it from its handler.
    /// Of what does not prove a sender possession is the proof, and it is paid for when it is decoded.
    fn charge(&self) -> Result<(), Refusal> {
        let Some(method) = Method::from_code(self.request.method) else { return Ok(()) };
        // Once, however often the handler has to begin again.
        if !self.charged.load(Ordering::Relaxed) {
            self.session.credit.charge(method, self.dispatcher.parts.policy.get().tokens.price(method))?;
            self.charged.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The body of a method.
    pub(super) fn body<T: Decode>(&self) -> Result<T, Refusal> {
        T::from_bytes(self.request.body.0.clone()).map_err(malformed)
    }

    /// The body of a method that takes no sender.
    fn anonymous<T: Decode>(&self) -> Result<T, Refusal> {
        self.presented().nobody()?;
        let body = self.body()?;
        self.charge()?;
        Ok(body)
    }

    /// Proves a client by its current credential, which must be valid now.
    async fn client(&self, context: &Context<'_>) -> Result<Verified<ClientId>, Refusal> {
        let presented = self.presented();
        let client = presented.client()?;
        let stored = users::find(context, client).await?;
        let stored = stored.ok_or_else(|| presented.prove_nobody())?;
        let proven = presented.prove(client.clone(), &stored.credential.request.payload.verifying_key)?;
        self.dispatcher.authentication.check_client(&stored, context.now)?;
        self.charge()?;
        Ok(proven)
    }

    /// Proves a client of another homeserver by the credential that it sends along, which that homeserver's AS must vouch for.
    async fn foreign_client(&self, credential: Option<&ClientCredential>) -> Result<Verified<ClientId>, Refusal> {
        let (presented, dispatcher) = (self.presented(), self.dispatcher);
        let client = presented.client()?;
        dispatcher.foreign.rules().check(&client.user.domain)?;
        let missing = || Refusal::unauthenticated("a client of another homeserver sends its credential along");
        let credential = credential.ok_or_else(missing)?;
        let payload = &credential.request.payload;
        if payload.client != *client {
            return Err(Refusal::unauthenticated("the credential is not the sender's"));
        }
        // Nobody is asked about a key that is not even the sender's.
        let sender = presented.prove(client.clone(), &payload.verifying_key)?;
        let may_ask = || self.count_by_address(Rate::CredentialLookups);
        dispatcher.authorities.verify(&dispatcher.foreign, credential, may_ask).await?;
        self.charge()?;
        Ok(sender)
    }

    /// Counts one more of `rate` for the address that the connection comes from.
    fn count_by_address(&self, rate: Rate) -> Result<(), Refusal> {
        self.count(rate, self.session.origin)
    }

    /// Counts one more of `rate` for `subject`.
    fn count(&self, rate: Rate, subject: impl std::hash::Hash) -> Result<(), Refusal> {
        self.dispatcher.counters.count(rate, subject, self.dispatcher.parts.clock.now())
    }

    /// Opens a group and proves one of its leaves.
    async fn leaf(
        &self,
        context: &Context<'_>,
        access: &GroupAccess,
    ) -> Result<(Verified<proof::Leaf>, Group), Refusal> {
        let presented = self.presented();
        let leaf = presented.leaf(&access.group)?;
        let group = Group::open(context, access).await?;
        let key = group.leaf_key(leaf.0).ok_or_else(proof::unproven)?;
        let proven = presented.prove(leaf, &key)?;
        // Whoever cannot be answered cannot speak either.
        match group.home_of(proven.get().0)? {
            Some(home) if home != *context.domain => context.others.check(&home)?,
            _ => {}
        }
        self.charge()?;
        Ok((proven, group))
    }
}

fn malformed(error: wire::DecodeError) -> Refusal {
    Refusal::malformed(error.to_string())
}

type Answer = Result<Vec<u8>, Refusal>;

/// Homeservers that are learnt of because of one request.
const MAX_LEARNT: usize = 8;

/// Whether a method is one of the DS.
const fn is_for_groups(method: Method) -> bool {
    method as u16 >> 8 == 3
}

impl Dispatcher {
    /// What is logged of a request has its number, which says nothing about who made it. It costs something only where details are
    /// logged, or traces are collected.
    fn next_span(&self) -> (u64, Span) {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        (number, tracing::debug_span!("request", number, method = Empty, status = Empty))
    }

    /// Answers one request.
    pub(super) async fn answer(self: Arc<Self>, session: &Session, stream: u64, bytes: Bytes) -> Reply {
        let read = Instant::now();
        let (number, span) = self.next_span();
        let request = Request::from_bytes(bytes).map_err(malformed);
        let method = request.as_ref().ok().and_then(|request| Method::from_code(request.method));
        if let Some(method) = method {
            span.record("method", method.name());
        }
        let reply = match &request {
            Ok(request) => {
                let charged = AtomicBool::new(false);
                let call = Call { session, stream, request, dispatcher: &self, charged };
                // By reference: what answers has room for every method in it, and is not to be moved for each request.
                pin!(self.clone().route(&call)).instrument(span.clone()).await
            }
            Err(refusal) => Err(refusal.clone()),
        };
        let status = reply.as_ref().err().map_or(Status::Ok, |refusal| refusal.status);
        span.record("status", status.name());
        self.meters.answered(method, status, read.elapsed());
        if status == Status::Internal {
            tracing::error!(number, ?method, "a request has failed");
        }
        reply.unwrap_or_else(|refusal| {
            tracing::debug!(parent: &span, ?method, status = refusal.status.name(), reason = %refusal.message, "refused");
            Reply::Once(encode(Err(refusal)))
        })
    }

    async fn route(self: Arc<Self>, call: &Call<'_>) -> Result<Reply, Refusal> {
        let unknown = || Refusal::new(Status::UnknownMethod, "there is no such method here");
        let method = Method::from_code(call.request.method).ok_or_else(unknown)?;
        // Before a token is spent in vain.
        self.room.check(method)?;
        self.redeem(call.session, method, call.request.token.as_ref()).await?;
        let mut learnt = Vec::new();
        loop {
            match self.clone().answer_to(method, call).await {
                Err(refusal) if refusal.status == Status::RemoteUnreachable && is_for_groups(method) => {
                    // A homeserver has to be known before its users are members. What was decided up to here is forgotten.
                    let domain = Domain::from_slice(&refusal.detail).map_err(|_| refusal.clone())?;
                    if learnt.len() >= MAX_LEARNT || learnt.contains(&domain) {
                        return Err(refusal);
                    }
                    self.learn(&domain).await?;
                    learnt.push(domain);
                }
                answer => return answer,
            }
        }
    }

    /// Has the one handler of a method answer.
    async fn answer_to(self: Arc<Self>, method: Method, call: &Call<'_>) -> Result<Reply, Refusal> {
        let answer = match method {
            Method::ServerInfo => call.anonymous().map(|server::GetServerInfo {}| self.server_info().to_vec()),
            Method::Bind => call.anonymous().and_then(|request| call.session.bind(request)).map(|done| done.to_vec()),

            Method::AsGetCredentials => call
                .anonymous()
                .map(|GetCredentials {}| self.authentication.credentials(self.parts.incarnation).to_vec()),
            Method::AsInitRegistration => self.init_registration(call).await,
            Method::AsFinishRegistration => self.finish_registration(call).await,
            Method::AsUpdateUserProfile => self.update_user_profile(call).await,
            Method::AsGetUserProfile => self.get_user_profile(call).await,
            Method::AsPublishConnectionPackages => self.publish_connection_packages(call).await,
            Method::AsGetConnectionPackage => self.get_connection_package(call).await,
            Method::AsEnqueue => self.enqueue(call).await,
            Method::AsDequeue => self.dequeue_direct(call).await,
            Method::AsListen => return self.listen_direct(call).await,
            Method::AsIssueTokens => self.issue_tokens(call).await,

            Method::AsRenewCredential => self.renew_credential(call).await,
            Method::AsInit2fa => self.init_2fa(call).await,
            Method::AsChangePassword => self.change_password(call).await,
            Method::AsDeleteUser => self.delete_user(call).await,

            Method::AsRegisterAlias => self.register_alias(call).await,
            Method::AsDeleteAlias => self.delete_alias(call).await,
            Method::AsPublishAliasPackages => self.publish_alias_packages(call).await,
            Method::AsGetAliasPackage => self.get_alias_package(call).await,
            Method::AsEnqueueAlias => self.enqueue_alias(call).await,
            Method::AsDequeueAlias => self.dequeue_alias(call).await,
            Method::AsListenAlias => return self.listen_alias(call).await,

            Method::QsGetKeys => call.anonymous().map(|GetQueuingKeys {}| self.queuing.keys().to_vec()),
            Method::QsCreateUser => self.create_queuing_user(call).await,
            Method::QsUpdateUser => self.update_queuing_user(call).await,
            Method::QsGetUser => self.get_queuing_user(call).await,
            Method::QsDeleteUser => self.delete_queuing_user(call).await,
            Method::QsCreateClient => self.create_queuing_client(call).await,
            Method::QsUpdateClient => self.update_queuing_client(call).await,
            Method::QsDeleteClient => self.delete_queuing_client(call).await,
            Method::QsUpdateBlocklist => self.update_blocklist(call).await,
            Method::QsPublishKeyPackages => self.publish_key_packages(call).await,
            Method::QsGetAddPackages => self.get_add_packages(call).await,
            Method::QsGetBody => self.get_body(call).await,
            Method::QsDequeue => self.dequeue(call).await,
            Method::QsListen => return self.listen_queue(call).await,

            Method::DsRequestGroupId => self.request_group_id(call).await,
            Method::DsCreateGroup => self.create_group(call).await,
            Method::DsSendMessage => self.send_message(call).await,
            Method::DsAddUsers => self.add_users(call).await,
            Method::DsRemoveUsers => self.remove_users(call).await,
            Method::DsUpdateClient => self.update_client(call).await,
            Method::DsUpdateGroupContext => self.update_group_context(call).await,
            Method::DsUpdateProfileKey => self.update_profile_key(call).await,
            Method::DsUpdateQueueInfo => self.update_queue_info(call).await,
            Method::DsJoinConnectionGroup => self.join_connection_group(call).await,
            Method::DsResync => self.resync(call).await,
            Method::DsSelfRemove => self.self_remove(call).await,
            Method::DsDeleteGroup => self.delete_group(call).await,
            Method::DsWelcomeInfo => self.welcome_info(call).await,
            Method::DsExternalCommitInfo => self.external_commit_info(call).await,
            Method::DsGetKeys => call.anonymous().map(|GetDeliveryKeys {}| self.delivery.keys().to_vec()),

            Method::FedDeliver => return self.deliver(call).await,
        };
        answer.map(|body| Reply::Once(encode(Ok(body))))
    }

    /// Takes a queue over for a client that listens.
    async fn start_listening(self: Arc<Self>, id: QueueId, request: &Listen) -> Result<Reply, Refusal> {
        let (header, listening) = self.listen(id, request).await?;
        let header = encode(Ok(header.to_vec()));
        Ok(match listening {
            Some(listening) => Reply::Stream(header, Box::new(listening)),
            None => Reply::Once(header),
        })
    }
}
