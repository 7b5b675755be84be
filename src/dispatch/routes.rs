//! Method → handler: an exhaustive match. Each route decodes its body, finds the sender's current key, proves the sender,
//! and hands both to the one handler of the method.

use std::sync::Arc;

use bytes::Bytes;

use super::{Dispatcher, Session, encode, run::Scope};
use crate::{
    authentication as auth,
    base::{ClientId, QsClientId, Refusal, Status},
    crypto::proof::RequestContext,
    delivery::{self, Services, group::Group},
    queuing,
    service::{Context, QueueId, Verified, proof},
    transport::Reply,
    wire::{
        self, Decode, Encode, Method, Request, VERSION,
        authentication::GetCredentials,
        delivery::{CreateGroup, GetDeliveryKeys, GroupAccess},
        queue::Listen,
        queuing::GetQueuingKeys,
        server,
    },
};

/// One decoded request with where it came from.
struct Call<'a> {
    session: &'a Session,
    stream: u64,
    request: &'a Request,
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

    /// The body of a method.
    fn body<T: Decode>(&self) -> Result<T, Refusal> {
        T::from_bytes(self.request.body.0.clone()).map_err(malformed)
    }

    /// The body of a method that takes no sender.
    fn anonymous<T: Decode>(&self) -> Result<T, Refusal> {
        self.presented().nobody()?;
        self.body()
    }

    /// Proves a client by its current credential, which must be valid now.
    async fn client(&self, context: &Context<'_>) -> Result<Verified<ClientId>, Refusal> {
        let presented = self.presented();
        let client = presented.client()?;
        let credential = auth::records::client(context, client).await?.ok_or_else(proof::unproven)?;
        let payload = credential.request.payload;
        let proven = presented.prove(client.clone(), &payload.verifying_key)?;
        if !payload.validity.covers(context.now) {
            return Err(Refusal::unauthenticated("the client credential is not valid now"));
        }
        Ok(proven)
    }

    /// Proves a QS client by its record's key.
    async fn qs_client(&self, context: &Context<'_>) -> Result<Verified<QsClientId>, Refusal> {
        let presented = self.presented();
        let client = presented.qs_client()?;
        let record = queuing::records::client(context, client).await?.ok_or_else(proof::unproven)?;
        presented.prove(client, &record.auth_key())
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
        Ok((presented.prove(leaf, &key)?, group))
    }
}

fn malformed(error: wire::DecodeError) -> Refusal {
    Refusal::malformed(error.to_string())
}

/// The version comes first, because everything after it may be different in another one.
fn check_version(request: &[u8]) -> Result<(), Refusal> {
    match request.first_chunk() {
        Some(version) if u16::from_be_bytes(*version) == VERSION => Ok(()),
        Some(_) => Err(Refusal::new(Status::UnsupportedVersion, "this server speaks version 1 of the protocol")),
        None => Err(malformed(wire::DecodeError::Truncated)),
    }
}

type Answer = Result<Vec<u8>, Refusal>;

impl Dispatcher {
    /// Answers one request.
    pub(super) async fn answer(self: Arc<Self>, session: &Session, stream: u64, bytes: Bytes) -> Reply {
        let request = check_version(&bytes).and_then(|()| Request::from_bytes(bytes).map_err(malformed));
        let reply = match &request {
            Ok(request) => self.route(&Call { session, stream, request }).await,
            Err(refusal) => Err(refusal.clone()),
        };
        reply.unwrap_or_else(|refusal| {
            tracing::debug!(status = refusal.status.name(), reason = %refusal.message, "refused");
            Reply::Once(encode(Err(refusal)))
        })
    }

    async fn route(self: Arc<Self>, call: &Call<'_>) -> Result<Reply, Refusal> {
        let unknown = || Refusal::new(Status::UnknownMethod, "there is no such method here");
        let answer = match Method::from_code(call.request.method).ok_or_else(unknown)? {
            Method::ServerInfo => call.anonymous().map(|server::GetServerInfo {}| self.server_info().to_vec()),
            Method::Bind => call.anonymous().and_then(|request| call.session.bind(request)).map(|done| done.to_vec()),

            Method::AsGetCredentials => {
                call.anonymous().map(|GetCredentials {}| self.authentication.credentials().to_vec())
            }
            Method::AsInitRegistration => self.init_registration(call).await,
            Method::AsFinishRegistration => self.finish_registration(call).await,
            Method::AsUpdateUserProfile => self.update_user_profile(call).await,
            Method::AsGetUserProfile => self.get_user_profile(call).await,
            Method::AsPublishConnectionPackages => self.publish_connection_packages(call).await,
            Method::AsGetConnectionPackage => self.get_connection_package(call).await,
            Method::AsEnqueue => self.enqueue(call).await,
            Method::AsDequeue => self.dequeue_direct(call).await,
            Method::AsListen => return self.listen_direct(call).await,

            Method::QsGetKeys => call.anonymous().map(|GetQueuingKeys {}| self.queuing.keys().to_vec()),
            Method::QsCreateUser => self.create_queuing_user(call).await,
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
            Method::DsJoinConnectionGroup => self.join_connection_group(call).await,
            Method::DsDeleteGroup => self.delete_group(call).await,
            Method::DsWelcomeInfo => self.welcome_info(call).await,
            Method::DsExternalCommitInfo => self.external_commit_info(call).await,
            Method::DsGetKeys => call.anonymous().map(|GetDeliveryKeys {}| self.delivery.keys().to_vec()),
        };
        answer.map(|body| Reply::Once(encode(Ok(body))))
    }
}

/// The Authentication Service.
impl Dispatcher {
    async fn init_registration(&self, call: &Call<'_>) -> Answer {
        let request = call.anonymous()?;
        let mut scope = self.unlocked();
        let outcome = auth::init_registration::handle(&self.authentication, &mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    async fn finish_registration(&self, call: &Call<'_>) -> Answer {
        let request: wire::authentication::FinishRegistration = call.body()?;
        let payload = &request.request.payload;
        let presented = call.presented();
        if *presented.client()? != payload.client {
            return Err(Refusal::unauthenticated("the sender is not whom the credential request names"));
        }
        let sender = presented.prove(payload.client.clone(), &payload.verifying_key)?;
        let mut scope = self.locked(("user", sender.get().user.uuid)).await;
        let service = &self.authentication;
        let outcome = auth::finish_registration::handle(service, &mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    async fn update_user_profile(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.unlocked();
        let sender = call.client(&scope.context()).await?;
        let outcome = auth::update_user_profile::handle(&mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    async fn get_user_profile(&self, call: &Call<'_>) -> Answer {
        let request = call.anonymous()?;
        let mut scope = self.unlocked();
        let outcome = auth::get_user_profile::handle(&mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    async fn publish_connection_packages(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.locked(("user", call.presented().client()?.user.uuid)).await;
        let sender = call.client(&scope.context()).await?;
        let outcome = auth::publish_connection_packages::handle(&mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    async fn get_connection_package(&self, call: &Call<'_>) -> Answer {
        let request: wire::authentication::GetConnectionPackage = call.anonymous()?;
        let mut scope = self.locked(("user", request.user.uuid)).await;
        let outcome = auth::get_connection_package::handle(&mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    async fn enqueue(&self, call: &Call<'_>) -> Answer {
        let request = call.anonymous()?;
        let mut scope = self.unlocked();
        let outcome = auth::enqueue::handle(&mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    async fn dequeue_direct(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.unlocked();
        let client = call.client(&scope.context()).await?;
        let id = QueueId::direct(client.get());
        let store = &self.parts.store;
        self.queues.dequeue(id, &request, store, &scope.context()).await.map(|found| found.to_vec())
    }

    async fn listen_direct(self: Arc<Self>, call: &Call<'_>) -> Result<Reply, Refusal> {
        let request = call.body()?;
        let client = call.client(&self.unlocked().context()).await?;
        self.start_listening(QueueId::direct(client.get()), &request).await
    }

    async fn start_listening(self: Arc<Self>, id: QueueId, request: &Listen) -> Result<Reply, Refusal> {
        let (header, listening) = self.listen(id, request).await?;
        let header = encode(Ok(header.to_vec()));
        Ok(match listening {
            Some(listening) => Reply::Stream(header, Box::new(listening)),
            None => Reply::Once(header),
        })
    }
}

/// The Queuing Service.
impl Dispatcher {
    async fn create_queuing_user(&self, call: &Call<'_>) -> Answer {
        let request: wire::queuing::CreateQueuingUser = call.anonymous()?;
        let mut scope = self.locked(("token", request.friendship_token.expose())).await;
        let outcome = queuing::create_user::handle(&mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    async fn publish_key_packages(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.locked(("queue client", call.presented().qs_client()?.0)).await;
        let sender = call.qs_client(&scope.context()).await?;
        let outcome = queuing::publish_key_packages::handle(&mut scope.context(), sender, request).await?;
        scope.commit(outcome).await
    }

    async fn get_add_packages(&self, call: &Call<'_>) -> Answer {
        let request: wire::queuing::GetAddPackages = call.anonymous()?;
        let mut scope = self.locked(("token", request.friendship_token.expose())).await;
        let outcome = queuing::get_add_packages::handle(&mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    async fn get_body(&self, call: &Call<'_>) -> Answer {
        let request = call.anonymous()?;
        let mut scope = self.unlocked();
        let outcome = queuing::get_body::handle(&mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    async fn dequeue(&self, call: &Call<'_>) -> Answer {
        let request = call.body()?;
        let mut scope = self.unlocked();
        let client = call.qs_client(&scope.context()).await?;
        let id = QueueId::client(*client.get());
        let store = &self.parts.store;
        self.queues.dequeue(id, &request, store, &scope.context()).await.map(|found| found.to_vec())
    }

    async fn listen_queue(self: Arc<Self>, call: &Call<'_>) -> Result<Reply, Refusal> {
        let request = call.body()?;
        let client = call.qs_client(&self.unlocked().context()).await?;
        self.start_listening(QueueId::client(*client.get()), &request).await
    }
}

/// The Delivery Service.
impl Dispatcher {
    const fn services(&self) -> Services<'_> {
        Services { delivery: &self.delivery, queuing: &self.queuing }
    }

    async fn group(&self, access: &GroupAccess) -> Scope<'_> {
        self.locked(("group", access.group.uuid)).await
    }

    async fn request_group_id(&self, call: &Call<'_>) -> Answer {
        let request = call.anonymous()?;
        let mut scope = self.unlocked();
        let outcome = delivery::request_group_id::handle(&self.delivery, &mut scope.context(), request).await?;
        scope.commit(outcome).await
    }

    async fn create_group(&self, call: &Call<'_>) -> Answer {
        let request: CreateGroup = call.body()?;
        let presented = call.presented();
        let leaf = presented.leaf(&request.ticket.group)?;
        if leaf != proof::Leaf(0) {
            return Err(Refusal::unauthenticated("the creator of a group is its leaf 0"));
        }
        let mut scope = self.locked(("group", request.ticket.group.uuid)).await;
        let group = delivery::create_group::validate(&self.delivery, &scope.context(), request)?;
        let sender = presented.prove(leaf, group.leaf_key())?;
        let outcome = delivery::create_group::handle(&mut scope.context(), sender, group).await?;
        scope.commit(outcome).await
    }

    async fn send_message(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::SendMessage = call.body()?;
        let mut scope = self.group(&request.access).await;
        let (sender, group) = call.leaf(&scope.context(), &request.access).await?;
        let context = &mut scope.context();
        let outcome = delivery::send_message::handle(self.services(), context, sender, group, request).await?;
        scope.commit(outcome).await
    }

    async fn add_users(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::AddUsers = call.body()?;
        let mut scope = self.group(&request.commit.access).await;
        let (sender, group) = call.leaf(&scope.context(), &request.commit.access).await?;
        let context = &mut scope.context();
        let outcome = delivery::add_users::handle(self.services(), context, sender, group, request).await?;
        scope.commit(outcome).await
    }

    async fn remove_users(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::RemoveUsers = call.body()?;
        let mut scope = self.group(&request.commit.access).await;
        let (sender, group) = call.leaf(&scope.context(), &request.commit.access).await?;
        let context = &mut scope.context();
        let outcome = delivery::remove_users::handle(self.services(), context, sender, group, request).await?;
        scope.commit(outcome).await
    }

    async fn update_client(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::UpdateClient = call.body()?;
        let mut scope = self.group(&request.commit.access).await;
        let (sender, group) = call.leaf(&scope.context(), &request.commit.access).await?;
        let context = &mut scope.context();
        let outcome = delivery::update_client::handle(self.services(), context, sender, group, request).await?;
        scope.commit(outcome).await
    }

    async fn join_connection_group(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::JoinConnectionGroup = call.anonymous()?;
        let mut scope = self.group(&request.commit.access).await;
        let group = Group::open(&scope.context(), &request.commit.access).await?;
        let context = &mut scope.context();
        let outcome = delivery::join_connection_group::handle(self.services(), context, group, request).await?;
        scope.commit(outcome).await
    }

    async fn delete_group(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::DeleteGroup = call.body()?;
        let mut scope = self.group(&request.commit.access).await;
        let (sender, group) = call.leaf(&scope.context(), &request.commit.access).await?;
        let context = &mut scope.context();
        let outcome = delivery::delete_group::handle(self.services(), context, sender, group, request).await?;
        scope.commit(outcome).await
    }

    async fn welcome_info(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::GetWelcomeInfo = call.body()?;
        let presented = call.presented();
        let joiner = presented.joiner(&request.access.group)?;
        let mut scope = self.group(&request.access).await;
        let group = Group::open(&scope.context(), &request.access).await?;
        let today = scope.context().now.day();
        let key = group.joiner(&joiner.0, today).map(|joiner| joiner.key[..].into()).ok_or_else(proof::unproven)?;
        let sender = presented.prove(joiner, &key)?;
        let outcome = delivery::welcome_info::handle(&mut scope.context(), sender, group, request).await?;
        scope.commit(outcome).await
    }

    async fn external_commit_info(&self, call: &Call<'_>) -> Answer {
        let request: wire::delivery::GetExternalCommitInfo = call.body()?;
        let mut scope = self.group(&request.access).await;
        let (sender, group) = if call.request.auth.is_empty() {
            (None, Group::open(&scope.context(), &request.access).await?)
        } else {
            let (sender, group) = call.leaf(&scope.context(), &request.access).await?;
            (Some(sender), group)
        };
        let outcome = delivery::external_commit_info::handle(&mut scope.context(), sender, group).await?;
        scope.commit(outcome).await
    }
}
