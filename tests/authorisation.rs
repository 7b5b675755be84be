//! Who may do what: every method with every wrong proof, and what bad input gets. The same tests run over QUIC, against
//! a homeserver in a process of its own, and over memory, where all that is stored is compared before and after.
#![cfg(feature = "cli")]

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use bennu::{
    base::{
        AliasId, ClientId, Clock as _, Domain, GroupId, Secret, Status, SystemClock, UserId,
        limits::MAX_RENEWED_CREDENTIALS,
    },
    client::{Client, ClientError, Connector, Isolation, Options, QuicConnector, RegisterOptions},
    crypto::{
        alias::Alias,
        at_rest::StorageKey,
        credential::request_client,
        hpke::HpkePrivateKey,
        opaque::{ClientLogin, Registration},
        privacy_pass, proof, random, random_secret,
        signature::SigningKey,
        system_rng,
    },
    dispatch::{Dispatcher, Parts, Service, connection_limits},
    federation::Federation,
    node::system_entropy,
    service::{
        policy::{Policy, Tokens},
        queue::QueueLimits,
        work::Workers,
    },
    store::{Key, Limit, MemoryEngine, Options as StoreOptions, Row, Store, Table},
    transport::{Connection, Settings, memory::Host},
    wire::{
        Authentication, Decode, Encode, Method, Opaque, Request, SenderId, Token, VERSION,
        authentication::{
            ChangePassword, DeleteAlias, DeleteUser, EnqueueAlias, EnqueueDirect, FinishRegistration, GetAliasPackage,
            GetConnectionPackage, GetCredentials, GetUserProfile, Init2fa, InitRegistration, IssueTokens,
            PublishAliasPackages, PublishConnectionPackages, RegisterAlias, RenewCredential, SecondFactor,
            SecondFactorChallenge, UpdateUserProfile,
        },
        connection::{AliasPackage, ConnectionPackage, ConnectionPackageTbs, DirectMessage},
        credential::{
            CIPHERSUITE, ClientCredential, DayValidity, HpkeCiphertext, HpkePublicKey, SignaturePublicKey, Validity,
        },
        delivery::{
            AddUsers, CommitBundle, GetExternalCommitInfo, GetWelcomeInfo, GroupAccess, GroupInfoUpdate,
            JoinConnectionGroup, RemoveUsers, Resync, SendMessage, UpdateClient, UpdateProfileKey, UpdateQueueInfo,
        },
        envelope::{KeyPackageId, LeafId},
        label::SignatureLabel,
        method::{Credit, ProofKind, call},
        queue::{Dequeue, Listen},
        queuing::{
            AddPackage, ClientQueueConfig, CreateQueuingClient, CreateQueuingUser, DeleteQueuingClient,
            DeleteQueuingUser, GetAddPackages, GetBody, GetQueuingUser, PublishKeyPackages, QueuingClient,
            QueuingUserCreated, UpdateBlocklist, UpdateQueuingClient, UpdateQueuingUser,
        },
        server::Bind,
    },
};
use rand_chacha::rand_core::RngCore as _;
use support::{
    DOMAIN, Server, below,
    raw::{self, Chat, State, ask, bound, call, exchange, open, request, sign},
    rng, user, within,
};
use tempfile::TempDir;

/// A homeserver, reached in one way or another.
struct World {
    connector: Arc<dyn Connector>,
    homes: TempDir,
    /// What it stores, where that can be seen.
    store: Option<Store>,
    _server: Option<Server>,
}

struct Memory(Host<Service>);

#[async_trait]
impl Connector for Memory {
    async fn connect(&self, _: &Domain, _: &Isolation) -> Result<Connection, ClientError> {
        Ok(self.0.connect())
    }
}

/// Keeps a client from the Delivery Service, so that what it wants to send stays in its outbox.
struct Gate(Arc<dyn Connector>, AtomicBool);

#[async_trait]
impl Connector for Gate {
    async fn connect(&self, domain: &Domain, isolation: &Isolation) -> Result<Connection, ClientError> {
        if *isolation == Isolation::Delivery && self.1.load(Ordering::SeqCst) {
            return Err(ClientError::Unreachable("the gate is closed".into()));
        }
        self.0.connect(domain, isolation).await
    }
}

fn domain() -> Domain {
    DOMAIN.parse().unwrap()
}

impl World {
    async fn over_quic() -> Self {
        let server = Server::start_with("[tokens]\nrequired = false\n").await;
        let ca = std::fs::read(server.ca()).unwrap();
        let connector = QuicConnector::new(domain(), Some(server.address().to_string()), Some(&ca)).unwrap();
        let homes = tempfile::tempdir().unwrap();
        Self { connector: Arc::new(connector), homes, store: None, _server: Some(server) }
    }

    async fn in_memory() -> Self {
        Self::with_tokens(Tokens { required: false, ..Tokens::default() }).await
    }

    async fn with_tokens(tokens: Tokens) -> Self {
        let store = Store::open(MemoryEngine::new(), StoreOptions::new(|error| panic!("{error}"))).unwrap();
        let dispatcher = Dispatcher::start(Parts {
            domain: domain(),
            store: store.clone(),
            storage_key: StorageKey::new(Secret::new([7; 32])),
            incarnation: [1; 16],
            clock: Arc::new(SystemClock),
            entropy: system_entropy(),
            queue_limits: QueueLimits::default(),
            policy: Policy { tokens, ..Policy::default() }.into(),
            workers: Workers::for_this_machine(),
            max_wait: std::time::Duration::MAX,
            connection_limits: connection_limits(&Settings::default()),
            federation: Federation::none(),
            outbox_limits: Default::default(),
            peer_settings: Default::default(),
        })
        .await
        .unwrap();
        let host = Host::new(Arc::new(Service(dispatcher)), Settings::default());
        let homes = tempfile::tempdir().unwrap();
        Self { connector: Arc::new(Memory(host)), homes, store: Some(store), _server: None }
    }

    async fn connection(&self) -> Connection {
        self.connector.connect(&domain(), &Isolation::Anonymous).await.unwrap()
    }

    async fn register(&self, name: &str) -> Client {
        let registration = RegisterOptions {
            domain: domain(),
            at: None,
            places: Vec::new(),
            ca: None,
            name: name.into(),
            password: format!("the password of {name}"),
            invitation: None,
        };
        let home = self.homes.path().join(name);
        let options = Options::default();
        within("registration", Client::register_over(&home, registration, self.connector.clone(), options))
            .await
            .unwrap()
    }

    async fn open(&self, name: &str) -> Client {
        let home = self.homes.path().join(name);
        Client::open_over(&home, self.connector.clone(), Options::default()).await.unwrap()
    }

    fn state(&self, name: &str) -> State {
        State::of(&self.homes.path().join(name))
    }

    /// The body of the one request to `method` that a client makes and cannot send.
    async fn body_of<T>(&self, name: &str, method: Method, make: impl AsyncFnOnce(&Client) -> T) -> Vec<u8> {
        let gate = Arc::new(Gate(self.connector.clone(), AtomicBool::new(true)));
        let options = Options { patience: std::time::Duration::ZERO, ..Options::default() };
        let client = Client::open_over(&self.homes.path().join(name), gate, options).await.unwrap();
        within(method, make(&client)).await;
        drop(client);
        let outbox = self.state(name).outbox();
        let found = outbox.into_iter().rev().find(|(of, _)| *of == method);
        found.unwrap_or_else(|| panic!("{name} has no {method:?} to send")).1
    }
}

/// Everything that the matrix is about.
struct Fixture {
    alice: ClientId,
    alice_key: SigningKey,
    /// The key that her direct queue has.
    alice_direct_key: HpkePublicKey,
    alice_queue: SenderId,
    alice_queue_key: SigningKey,
    bob: ClientId,
    bob_key: SigningKey,
    cursors: [(bennu::wire::queue::Incarnation, u64); 2],
    /// A group of Alice and Bob.
    chat: Chat,
    bob_chat: Chat,
    joined_by: Vec<u8>,
    newcomer_key: SigningKey,
    /// About to change its password.
    dora: (ClientId, SigningKey, Vec<u8>),
    /// About to delete itself.
    erin: (ClientId, SigningKey, Vec<u8>),
    finish: Vec<u8>,
    newcomer: ClientId,
    /// Requests that wait in the outboxes, each for a group of its own.
    create: (GroupId, SigningKey, Vec<u8>),
    send: (Chat, Vec<u8>),
    add: (Chat, Vec<u8>),
    remove: (Chat, Vec<u8>),
    update: (Chat, Vec<u8>),
    delete: (Chat, Vec<u8>),
    rename: (Chat, Vec<u8>),
    leave: (Chat, Vec<u8>),
    friendship_token: Secret,
    issue: Vec<u8>,
    /// Users of the QS of nobody in particular: one that stays, and one that goes. All their keys are the same.
    queuing: [QueuingUserCreated; 2],
    queuing_key: SigningKey,
    /// Of aliases of nobody in particular.
    alias_key: SigningKey,
}

async fn fixture(world: &World) -> Fixture {
    let (alice, bob) = (world.register("Alice").await, world.register("Bob").await);
    support::connect(&alice, &bob).await;
    let mut groups = Vec::new();
    for others in [&[][..], &[&bob], &[&bob], &[&bob], &[&bob], &[&bob], &[], &[&bob]] {
        groups.push(support::group(&[&[&alice][..], others].concat()).await);
    }
    let [add, send, remove, update, delete, chat, rename, leave] = <[GroupId; 8]>::try_from(groups).unwrap();
    let bob_user = user(&bob);
    within("synchronising", alice.sync()).await.unwrap();
    drop((alice, bob));
    let chat_of = |name: &str, group: &GroupId| world.state(name).chat(group);

    let users = [bob_user];
    let method = Method::DsSendMessage;
    let send = (chat_of("Alice", &send), {
        let group = send.clone();
        world.body_of("Alice", method, async |alice| alice.send(&group, support::text("hello")).await).await
    });
    let add_body = world.body_of("Alice", Method::DsAddUsers, async |alice| alice.invite(&add, &users).await).await;
    let remove_body =
        world.body_of("Alice", Method::DsRemoveUsers, async |alice| alice.remove(&remove, &users).await).await;
    let delete_body =
        world.body_of("Alice", Method::DsDeleteGroup, async |alice| alice.delete_group(&delete).await).await;
    let rename_body =
        world.body_of("Alice", Method::DsUpdateGroupContext, async |alice| alice.rename(&rename, "other").await).await;
    let create_body =
        world.body_of("Alice", Method::DsCreateGroup, async |alice| alice.create_group("new").await).await;
    world.state("Bob").want_new_leaf(&update);
    let update_chat = chat_of("Bob", &update);
    let update_body = world.body_of("Bob", Method::DsUpdateClient, async |bob| bob.sync().await).await;
    let leave_chat = chat_of("Bob", &leave);
    let leave_body = world.body_of("Bob", Method::DsSelfRemove, async |bob| bob.leave(&leave).await).await;
    let created = {
        use bennu::wire::delivery::CreateGroup;
        CreateGroup::from_slice(&create_body).unwrap().ticket.group
    };

    let (dora, erin) = (user_with_password(world).await, user_with_password(world).await);
    let dora = with_factor(world, dora, |factor, record| ChangePassword { factor, record }.to_vec()).await;
    let erin = with_factor(world, erin, |factor, _| DeleteUser { factor }.to_vec()).await;
    let (newcomer, newcomer_key, finish) = newcomer(world).await;
    let (alice, bob) = (world.state("Alice"), world.state("Bob"));
    let bob_chat = bob.chat(&chat);
    let (issue, _) = issue_request(&world.connection().await, 1).await;
    let (alias_key, queuing_key) =
        (SigningKey::generate(&mut system_rng()).unwrap(), SigningKey::generate(&mut system_rng()).unwrap());
    let connection = world.connection().await;
    let (request, tokens) = issue_request(&connection, 4).await;
    let alice_key = alice.identity();
    let sender = Some((SenderId::AsClient(alice.client()), &alice_key));
    let issued = call::<call::AsIssueTokens>(&connection, sender, &request).await.unwrap();
    let tokens = tokens.finish(issued.response.as_slice()).unwrap();
    let mut queuing = Vec::new();
    for token in &tokens[2..] {
        let body = create_queuing_user(&queuing_key.verifying_key()).to_vec();
        let case = Case { body, sender: None, right: Status::Ok };
        let created = paid(&connection, Method::QsCreateUser, &case, Some(token)).await.unwrap();
        queuing.push(QueuingUserCreated::from_bytes(created).unwrap());
    }
    for (name, token) in ["leaver", "resident"].into_iter().zip(&tokens) {
        let sender = Some((SenderId::AsAlias(alias_id(name)), &alias_key));
        let case = Case { body: alias_request(name, &alias_key), sender, right: Status::Ok };
        assert_eq!(send_case(&connection, Method::AsRegisterAlias, &case, Some(token)).await, Status::Ok);
    }
    Fixture {
        alice: alice.client(),
        alice_key: alice.identity(),
        alice_direct_key: alice.queue_key("direct"),
        alice_queue: SenderId::QsClient(alice.pseudonym()),
        alice_queue_key: alice.queuing_client(),
        bob: bob.client(),
        bob_key: bob.identity(),
        cursors: [alice.cursor("direct"), alice.cursor("client")],
        chat: alice.chat(&chat),
        joined_by: bob.joined_by(&bob_chat).expect("Bob was added by a KeyPackage"),
        bob_chat,
        newcomer_key,
        dora,
        erin,
        finish,
        newcomer,
        create: (created.clone(), alice.chat(&created).key, create_body),
        send,
        add: (alice.chat(&add), add_body),
        remove: (alice.chat(&remove), remove_body),
        update: (update_chat, update_body),
        delete: (alice.chat(&delete), delete_body),
        rename: (alice.chat(&rename), rename_body),
        leave: (leave_chat, leave_body),
        friendship_token: bob.secret("friendship token"),
        issue: issue.to_vec(),
        queuing: queuing.try_into().unwrap(),
        queuing_key,
        alias_key,
    }
}

/// A request for tokens, and what its answer is unblinded with.
async fn issue_request(connection: &Connection, count: usize) -> (IssueTokens, privacy_pass::Request) {
    let credentials = call::<call::AsGetCredentials>(connection, None, &GetCredentials {}).await.unwrap();
    let issuer = credentials.issuer_keys.iter().find(|key| !key.foreign).expect("a key issues");
    let (request, state) = privacy_pass::Request::new(issuer.public_key.as_slice(), &domain(), count).unwrap();
    (IssueTokens { request: request.into(), credential: None }, state)
}

/// All methods but renewal, which has two senders, and delivery by another homeserver, whose proof is its certificate: both
/// have tests of their own.
fn methods() -> impl Iterator<Item = Method> {
    let apart = [Method::AsRenewCredential, Method::FedDeliver];
    Method::ALL.iter().copied().filter(move |method| !apart.contains(method))
}

fn connection_package(client: &ClientId, key: &SigningKey) -> ConnectionPackage {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let content = ConnectionPackageTbs {
        client: client.clone(),
        ciphersuite: CIPHERSUITE,
        encryption_key: HpkePrivateKey::generate(&mut system_rng()).unwrap().public_key(),
        validity: Validity { not_before: now - 60, not_after: now + 86_400 },
    };
    let signature = key.sign(SignatureLabel::ConnectionPackage, &content);
    ConnectionPackage { content, signature }
}

fn new_queue_key() -> HpkePublicKey {
    HpkePrivateKey::generate(&mut system_rng()).unwrap().public_key()
}

/// A client of the QS with a fresh queue key.
fn queuing_client(auth_key: &SignaturePublicKey) -> QueuingClient {
    QueuingClient { auth_key: auth_key.clone(), queue_key: new_queue_key(), push_token: None }
}

fn create_queuing_user(auth_key: &SignaturePublicKey) -> CreateQueuingUser {
    let (client, friendship_token) = (queuing_client(auth_key), random_secret(&mut system_rng()));
    CreateQueuingUser { auth_key: auth_key.clone(), friendship_token, client }
}

fn alias_id(name: &str) -> AliasId {
    Alias::parse(name).unwrap().id(&domain())
}

fn alias_package() -> AliasPackage {
    let today = SystemClock.now().day();
    AliasPackage {
        ciphersuite: CIPHERSUITE,
        encryption_key: bennu::crypto::hpke::HpkePrivateKey::generate(&mut system_rng()).unwrap().public_key(),
        validity: DayValidity { not_before: today.minus(1).0, not_after: today.plus(30).0 },
    }
}

fn alias_request(name: &str, key: &SigningKey) -> Vec<u8> {
    let (key, packages) = (key.verifying_key(), vec![alias_package()]);
    let queue_key = packages[0].encryption_key.clone();
    RegisterAlias { alias: name.into(), key, queue_key, packages }.to_vec()
}

/// Somebody who is about to register, and the request that does it.
async fn newcomer(world: &World) -> (ClientId, SigningKey, Vec<u8>) {
    let connection = world.connection().await;
    let credentials = call::<call::AsGetCredentials>(&connection, None, &GetCredentials {}).await.unwrap();
    let user = UserId { uuid: random(&mut system_rng()), domain: domain() };
    let client = ClientId { user: user.clone(), client: random(&mut system_rng()) };
    let key = SigningKey::generate(&mut system_rng()).unwrap();
    let (registration, start) = Registration::start(user.clone(), "password", &mut system_rng()).unwrap();
    let init = InitRegistration { user, request: start, invitation: None };
    let answer = call::<call::AsInitRegistration>(&connection, None, &init).await.unwrap();
    let record = registration.finish("password", answer.response.as_slice(), &mut system_rng()).unwrap();
    let signer = &credentials.intermediates[0];
    let package = connection_package(&client, &key);
    let finish = FinishRegistration {
        request: request_client(client.clone(), package.content.validity.clone(), signer, &key, None),
        record,
        queue_key: package.content.encryption_key.clone(),
        packages: vec![package],
        profile: vec![0; 64].into(),
        invitation: None,
    };
    (client, key, finish.to_vec())
}

/// A user that was registered by hand, with its key.
async fn user_with_password(world: &World) -> (ClientId, SigningKey) {
    let (client, key, finish) = newcomer(world).await;
    let sender = Some((SenderId::AsClient(client.clone()), &key));
    ask(&world.connection().await, Method::AsFinishRegistration, sender, &finish).await.unwrap();
    (client, key)
}

/// A request that needs the password, which the user has just proven.
async fn with_factor(
    world: &World,
    (client, key): (ClientId, SigningKey),
    request: impl FnOnce(SecondFactor, Opaque) -> Vec<u8>,
) -> (ClientId, SigningKey, Vec<u8>) {
    let (login, ke1) = ClientLogin::start(client.user.clone(), "password", &mut system_rng()).unwrap();
    let (registration, start) = Registration::start(client.user.clone(), "another", &mut system_rng()).unwrap();
    let init = Init2fa { login: ke1, new_password: Some(start) };
    let sender = Some((SenderId::AsClient(client.clone()), &key));
    let connection = world.connection().await;
    let (request_tokens, state) = issue_request(&connection, 1).await;
    let issued = call::<call::AsIssueTokens>(&connection, sender.clone(), &request_tokens).await.unwrap();
    let tokens = state.finish(issued.response.as_slice()).unwrap();
    let case = Case { body: init.to_vec(), sender, right: Status::Ok };
    let challenge = paid(&connection, Method::AsInit2fa, &case, tokens.first()).await.unwrap();
    let challenge = SecondFactorChallenge::from_bytes(challenge).unwrap();
    let login = login.finish("password", challenge.login.as_slice(), &mut system_rng()).unwrap();
    let new = challenge.new_password.unwrap();
    let record = registration.finish("another", new.as_slice(), &mut system_rng()).unwrap();
    let body = request(SecondFactor { session: challenge.session, login }, record);
    (client, key, body)
}

/// A method with a request to it, who sends that, and what comes of it with the right proof.
struct Case<'a> {
    body: Vec<u8>,
    sender: Option<(SenderId, &'a SigningKey)>,
    right: Status,
}

/// A commit that is none.
fn no_commit(access: &GroupAccess) -> CommitBundle {
    CommitBundle {
        access: access.clone(),
        idempotency_key: [3; 16],
        commit: vec![1, 2, 3].into(),
        group_info: GroupInfoUpdate { extensions: Opaque::default(), signature: vec![0; 64][..].into() },
    }
}

fn no_config() -> ClientQueueConfig {
    ClientQueueConfig {
        domain: domain(),
        key_id: [0; 8],
        kem_output: vec![0; 32].into(),
        ciphertext: vec![0; 64].into(),
    }
}

/// The table. A method without a line here does not compile.
fn case(method: Method, f: &Fixture) -> Case<'_> {
    let nobody = |body: Vec<u8>, right| Case { body, sender: None, right };
    let alice = |body: Vec<u8>| Case {
        body,
        sender: Some((SenderId::AsClient(f.alice.clone()), &f.alice_key)),
        right: Status::Ok,
    };
    let queue = |body: Vec<u8>, right| Case { body, sender: Some((f.alice_queue.clone(), &f.alice_queue_key)), right };
    let queuing_user = |number: usize, body: Vec<u8>| Case {
        body,
        sender: Some((SenderId::QsUser(f.queuing[number].user), &f.queuing_key)),
        right: Status::Ok,
    };
    let alias = |name: &str, body: Vec<u8>| Case {
        body,
        sender: Some((SenderId::AsAlias(alias_id(name)), &f.alias_key)),
        right: Status::Ok,
    };
    fn waiting((chat, body): &(Chat, Vec<u8>)) -> Case<'_> {
        Case { body: body.clone(), sender: Some((chat.sender(), &chat.key)), right: Status::Ok }
    }
    fn by((client, key, body): &(ClientId, SigningKey, Vec<u8>)) -> Case<'_> {
        Case { body: body.clone(), sender: Some((SenderId::AsClient(client.clone()), key)), right: Status::Ok }
    }
    let member = |body: Vec<u8>, right| Case { body, sender: Some((f.chat.sender(), &f.chat.key)), right };
    let dequeue = |(incarnation, start)| Dequeue { incarnation, start, max: 10 }.to_vec();
    let listen = |(incarnation, start)| Listen { incarnation, start }.to_vec();
    let alice_user = || f.alice.user.clone();
    match method {
        Method::ServerInfo
        | Method::AsGetCredentials
        | Method::QsGetKeys
        | Method::DsGetKeys
        | Method::DsRequestGroupId => nobody(Vec::new(), Status::Ok),
        Method::Bind => nobody(Bind { keys: Vec::new() }.to_vec(), Status::Ok),
        Method::AsInitRegistration => {
            let (_, start) = Registration::start(alice_user(), "password", &mut system_rng()).unwrap();
            nobody(
                InitRegistration { user: alice_user(), request: start, invitation: None }.to_vec(),
                Status::AlreadyExists,
            )
        }
        Method::AsFinishRegistration => Case {
            body: f.finish.clone(),
            sender: Some((SenderId::AsClient(f.newcomer.clone()), &f.newcomer_key)),
            right: Status::Ok,
        },
        Method::AsUpdateUserProfile => alice(UpdateUserProfile { profile: vec![9; 64].into() }.to_vec()),
        Method::AsGetUserProfile => nobody(GetUserProfile { user: alice_user() }.to_vec(), Status::Ok),
        Method::AsPublishConnectionPackages => {
            let packages = vec![connection_package(&f.alice, &f.alice_key)];
            alice(PublishConnectionPackages { packages, queue_key: f.alice_direct_key.clone() }.to_vec())
        }
        Method::AsGetConnectionPackage => nobody(GetConnectionPackage { user: alice_user() }.to_vec(), Status::Ok),
        Method::AsEnqueue => {
            let sealed = HpkeCiphertext { kem_output: vec![0; 32].into(), ciphertext: vec![0; 64].into() };
            let message = DirectMessage { key_hash: [0; 32], sealed };
            nobody(EnqueueDirect { client: f.alice.clone(), message }.to_vec(), Status::Ok)
        }
        Method::AsIssueTokens => alice(f.issue.clone()),
        Method::AsInit2fa => {
            let (_, login) = ClientLogin::start(alice_user(), "password", &mut system_rng()).unwrap();
            alice(Init2fa { login, new_password: None }.to_vec())
        }
        // Their logins are for one use: a wrong proof must not use them up.
        Method::AsChangePassword => by(&f.dora),
        Method::AsDeleteUser => by(&f.erin),
        Method::AsRegisterAlias => alias("newcomer", alias_request("newcomer", &f.alias_key)),
        Method::AsDeleteAlias => alias("leaver", DeleteAlias {}.to_vec()),
        Method::AsPublishAliasPackages => {
            let (packages, queue_key) = (vec![alias_package()], new_queue_key());
            alias("resident", PublishAliasPackages { packages, queue_key }.to_vec())
        }
        Method::AsGetAliasPackage => nobody(GetAliasPackage { alias: alias_id("resident") }.to_vec(), Status::Ok),
        Method::AsEnqueueAlias => {
            let sealed = HpkeCiphertext { kem_output: vec![0; 32].into(), ciphertext: vec![0; 64].into() };
            let message = DirectMessage { key_hash: [0; 32], sealed };
            nobody(EnqueueAlias { alias: alias_id("resident"), message }.to_vec(), Status::Ok)
        }
        Method::AsDequeueAlias => alias("resident", dequeue((f.cursors[0].0, 0))),
        Method::AsListenAlias => alias("resident", listen((f.cursors[0].0, 0))),
        // It has two senders, and a test of its own.
        Method::AsRenewCredential | Method::FedDeliver => nobody(Vec::new(), Status::Unauthenticated),
        Method::AsDequeue => alice(dequeue(f.cursors[0])),
        Method::AsListen => alice(listen(f.cursors[0])),
        Method::QsCreateUser => nobody(create_queuing_user(&f.newcomer_key.verifying_key()).to_vec(), Status::Ok),
        Method::QsUpdateUser => {
            let CreateQueuingUser { auth_key, friendship_token, .. } =
                create_queuing_user(&f.queuing_key.verifying_key());
            queuing_user(0, UpdateQueuingUser { auth_key, friendship_token }.to_vec())
        }
        Method::QsGetUser => queuing_user(0, GetQueuingUser {}.to_vec()),
        Method::QsDeleteUser => queuing_user(1, DeleteQueuingUser {}.to_vec()),
        Method::QsCreateClient => {
            let client = queuing_client(&f.queuing_key.verifying_key());
            queuing_user(0, CreateQueuingClient { client }.to_vec())
        }
        Method::QsUpdateClient => {
            let client = queuing_client(&f.queuing_key.verifying_key());
            let sender = Some((SenderId::QsClient(f.queuing[0].client), &f.queuing_key));
            Case { body: UpdateQueuingClient { client }.to_vec(), sender, right: Status::Ok }
        }
        Method::QsDeleteClient => queuing_user(0, DeleteQueuingClient { client: f.queuing[0].client }.to_vec()),
        Method::QsUpdateBlocklist => queue(UpdateBlocklist { blocked: vec![[1; 32]] }.to_vec(), Status::Ok),
        // Without one of last resort they are refused, but not for the proof.
        Method::QsPublishKeyPackages => queue(PublishKeyPackages { packages: Vec::new() }.to_vec(), Status::Malformed),
        Method::QsGetAddPackages => {
            nobody(GetAddPackages { friendship_token: f.friendship_token.clone() }.to_vec(), Status::Ok)
        }
        Method::QsGetBody => nobody(GetBody { id: [0; 16] }.to_vec(), Status::NotFound),
        Method::QsDequeue => queue(dequeue(f.cursors[1]), Status::Ok),
        Method::QsListen => queue(listen(f.cursors[1]), Status::Ok),
        Method::DsCreateGroup => {
            let (group, key, body) = &f.create;
            let sender = SenderId::DsLeaf(LeafId { group: group.clone(), leaf: 0 });
            Case { body: body.clone(), sender: Some((sender, key)), right: Status::Ok }
        }
        Method::DsSendMessage => waiting(&f.send),
        Method::DsAddUsers => waiting(&f.add),
        Method::DsRemoveUsers => waiting(&f.remove),
        Method::DsUpdateClient => waiting(&f.update),
        Method::DsDeleteGroup => waiting(&f.delete),
        Method::DsUpdateGroupContext => waiting(&f.rename),
        Method::DsSelfRemove => waiting(&f.leave),
        Method::DsUpdateProfileKey => {
            let access = f.chat.access.clone();
            member(UpdateProfileKey { access, sealed_profile_key: vec![7; 60].into() }.to_vec(), Status::Ok)
        }
        Method::DsUpdateQueueInfo => {
            let access = f.chat.access.clone();
            member(UpdateQueueInfo { access, queue_config: no_config() }.to_vec(), Status::Ok)
        }
        Method::DsResync => {
            let body = Resync { commit: no_commit(&f.chat.access), queue_config: no_config() };
            member(body.to_vec(), Status::Malformed)
        }
        // Of a group that is no connection group.
        Method::DsJoinConnectionGroup => {
            let body = JoinConnectionGroup { commit: no_commit(&f.chat.access), queue_config: no_config() };
            nobody(body.to_vec(), Status::Forbidden)
        }
        Method::DsWelcomeInfo => {
            let reference = f.joined_by[..].into();
            let sender = SenderId::DsKeyPackage(KeyPackageId { group: f.bob_chat.access.group.clone(), reference });
            let body = GetWelcomeInfo { access: f.bob_chat.access.clone(), epoch: 1 }.to_vec();
            Case { body, sender: Some((sender, &f.bob_chat.key)), right: Status::Ok }
        }
        Method::DsExternalCommitInfo => {
            let body = GetExternalCommitInfo { access: f.chat.access.clone() }.to_vec();
            Case { body, sender: Some((f.chat.sender(), &f.chat.key)), right: Status::Ok }
        }
    }
}

/// What the homeserver holds, as far as it can be seen: all of it in memory; else what requests tell.
async fn snapshot(world: &World, f: &Fixture) -> (Vec<Vec<Row>>, Vec<Vec<u8>>) {
    let mut rows = Vec::new();
    if let Some(store) = &world.store {
        store.barrier().await.unwrap();
        for table in Table::ALL {
            rows.push(store.durable().scan(*table, Key::new().., Limit::rows(usize::MAX)).await.unwrap());
        }
    }
    let connection = world.connection().await;
    let mut seen = Vec::new();
    let ask = async |method, sender: Option<(SenderId, &SigningKey)>, body: Vec<u8>| match ask(
        &connection,
        method,
        sender,
        &body,
    )
    .await
    {
        Ok(answer) => answer.to_vec(),
        Err(refusal) => refusal.status.name().into(),
    };
    // With another incarnation than the queue's nothing is deleted, and its bounds are told.
    let overview = Dequeue { incarnation: [0; 16], start: 0, max: 0 }.to_vec();
    for (client, key) in [(&f.alice, &f.alice_key), (&f.bob, &f.bob_key)] {
        seen.push(ask(Method::AsDequeue, Some((SenderId::AsClient(client.clone()), key)), overview.clone()).await);
        let profile = GetUserProfile { user: client.user.clone() }.to_vec();
        seen.push(ask(Method::AsGetUserProfile, None, profile).await);
    }
    let newcomer = GetUserProfile { user: f.newcomer.user.clone() }.to_vec();
    seen.push(ask(Method::AsGetUserProfile, None, newcomer).await);
    let queue = Some((f.alice_queue.clone(), &f.alice_queue_key));
    seen.push(ask(Method::QsDequeue, queue, overview).await);
    for chat in [&f.chat, &f.send.0, &f.add.0, &f.remove.0, &f.update.0, &f.delete.0] {
        let info = GetExternalCommitInfo { access: chat.access.clone() }.to_vec();
        seen.push(ask(Method::DsExternalCommitInfo, Some((chat.sender(), &chat.key)), info).await);
    }
    (rows, seen)
}

/// Sends a body with these proofs on a stream of a connection; what came of it.
async fn attempt(connection: &Connection, method: Method, auth: Vec<Authentication>, body: &[u8]) -> Status {
    let stream = open(connection).await;
    status(exchange(stream, method as u16, request(method, auth, body)).await)
}

fn status<T>(outcome: Result<T, bennu::base::Refusal>) -> Status {
    outcome.map_or_else(|refusal| refusal.status, |_| Status::Ok)
}

/// Every wrong proof of a request whose sender has to be proven: what it is, and what came of it.
async fn wrong_proofs(world: &World, f: &Fixture, method: Method, case: &Case<'_>) -> Vec<(&'static str, Status)> {
    let Case { body, sender, .. } = case;
    let (sender, key) = sender.clone().unwrap();
    let stranger = SigningKey::generate(&mut system_rng()).unwrap();
    let others = [SenderId::AsClient(f.bob.clone()), f.alice_queue.clone(), f.bob_chat.sender()];
    let connection = world.connection().await;
    let mut outcomes = Vec::new();

    // A stream whose proof is made for it by somebody, and claims to be of somebody.
    let claim = async |claimed: SenderId, signed: SenderId, by: &SigningKey| {
        let stream = open(&connection).await;
        let proof = sign(&connection, stream.id(), method, body, signed, by).proof;
        let auth = vec![Authentication { sender: claimed, proof }];
        status(exchange(stream, method as u16, request(method, auth, body)).await)
    };
    outcomes.push(("a signature by a key that nobody has", claim(sender.clone(), sender.clone(), &stranger).await));
    outcomes.push(("a signature by another client", claim(sender.clone(), sender.clone(), &f.bob_key).await));
    let bob = SenderId::AsClient(f.bob.clone());
    outcomes.push(("the proof of another client", claim(sender.clone(), bob, &f.bob_key).await));
    for other in others {
        if std::mem::discriminant(&other) != std::mem::discriminant(&sender) {
            outcomes.push(("a sender of another kind", claim(other.clone(), other, key).await));
        }
    }
    if let SenderId::DsLeaf(LeafId { group, leaf }) = &sender {
        let other = SenderId::DsLeaf(LeafId { group: group.clone(), leaf: leaf ^ 1 });
        outcomes.push(("another leaf", claim(other.clone(), other, key).await));
        let none = SenderId::DsLeaf(LeafId { group: group.clone(), leaf: 1_000_000 });
        outcomes.push(("a leaf that is not there", claim(none.clone(), none, key).await));
        let elsewhere = LeafId { group: GroupId { uuid: [5; 16], domain: domain() }, leaf: *leaf };
        let elsewhere = SenderId::DsLeaf(elsewhere);
        outcomes.push(("a leaf of another group", claim(elsewhere.clone(), elsewhere, key).await));
    }

    // Of another connection, with the same stream.
    let (one, other) = (world.connection().await, world.connection().await);
    let (there, here) = (open(&one).await, open(&other).await);
    assert_eq!(there.id(), here.id());
    let captured = request(method, vec![sign(&one, there.id(), method, body, sender.clone(), key)], body);
    outcomes.push(("captured on another connection", status(exchange(here, method as u16, captured).await)));
    // Of another stream of the same connection.
    let (first, second) = (open(&one).await, open(&one).await);
    let captured = request(method, vec![sign(&one, first.id(), method, body, sender.clone(), key)], body);
    outcomes.push(("captured on another stream", status(exchange(second, method as u16, captured).await)));
    // For another method or body.
    let stream = open(&one).await;
    let of_another = sign(&one, stream.id(), Method::ServerInfo, body, sender.clone(), key);
    outcomes.push((
        "for another method",
        status(exchange(stream, method as u16, request(method, vec![of_another], body)).await),
    ));
    let stream = open(&one).await;
    let of_another = sign(&one, stream.id(), method, b"another body", sender.clone(), key);
    outcomes.push((
        "for another body",
        status(exchange(stream, method as u16, request(method, vec![of_another], body)).await),
    ));
    let stream = open(&one).await;
    let right = sign(&one, stream.id(), method, body, sender.clone(), key);
    let twice = request(method, vec![right.clone(), right], body);
    outcomes.push(("twice", status(exchange(stream, method as u16, twice).await)));

    outcomes.push(("bound, but never proven", attempt(&other, method, vec![bound(sender.clone())], body).await));
    raw::bind(&one, key).await;
    outcomes.push(("bound on another connection", attempt(&other, method, vec![bound(sender.clone())], body).await));
    raw::bind(&other, &f.bob_key).await;
    outcomes.push(("another key bound", attempt(&other, method, vec![bound(sender.clone())], body).await));
    let forged = proof::bind(key, one.binding());
    let forged = Bind { keys: vec![forged] }.to_vec();
    assert_eq!(attempt(&other, Method::Bind, Vec::new(), &forged).await, Status::Unauthenticated);
    outcomes
        .push(("bound by a proof for another connection", attempt(&other, method, vec![bound(sender)], body).await));
    outcomes
}

async fn every_wrong_proof_is_refused_and_changes_nothing(world: World) {
    let f = fixture(&world).await;
    let before = snapshot(&world, &f).await;
    let mut tried = 0;
    for method in methods() {
        let case = case(method, &f);
        let connection = world.connection().await;
        if case.sender.is_none() {
            // No sender is proven here; one that claims to be is not believed, however well it proves it.
            assert!(matches!(method.proof(), ProofKind::None | ProofKind::EarKey | ProofKind::FriendshipToken));
            let alice = SenderId::AsClient(f.alice.clone());
            let outcome = ask(&connection, method, Some((alice.clone(), &f.alice_key)), &case.body).await;
            assert_eq!(status(outcome), Status::Unauthenticated, "{method:?} with a proof that it does not take");
            let outcome = attempt(&connection, method, vec![bound(alice)], &case.body).await;
            assert_eq!(outcome, Status::Unauthenticated, "{method:?} with a bound key");
            tried += 2;
            continue;
        }
        // Whoever has the EAR key is told of an open connection group only.
        let without = if method == Method::DsExternalCommitInfo { Status::Forbidden } else { Status::Unauthenticated };
        assert_eq!(attempt(&connection, method, Vec::new(), &case.body).await, without, "{method:?} with no proof");
        for (what, outcome) in wrong_proofs(&world, &f, method, &case).await {
            assert_eq!(outcome, Status::Unauthenticated, "{method:?} with a proof that is {what}");
            tried += 1;
        }
    }
    // A group's requests without its EAR key: for whoever has it not, the group is not there.
    let connection = world.connection().await;
    let wrong = GroupAccess { group: f.chat.access.group.clone(), ear_key: random_secret(&mut system_rng()) };
    let info = GetExternalCommitInfo { access: wrong.clone() }.to_vec();
    for sender in [None, Some((f.chat.sender(), &f.chat.key))] {
        let outcome = ask(&connection, Method::DsExternalCommitInfo, sender, &info).await;
        assert_eq!(status(outcome), Status::NotFound);
    }
    let join = JoinConnectionGroup { commit: no_commit(&wrong), queue_config: no_config() }.to_vec();
    assert_eq!(status(ask(&connection, Method::DsJoinConnectionGroup, None, &join).await), Status::NotFound);
    let token = GetAddPackages { friendship_token: random_secret(&mut system_rng()) }.to_vec();
    assert_eq!(status(ask(&connection, Method::QsGetAddPackages, None, &token).await), Status::NotFound);

    assert!(before == snapshot(&world, &f).await, "a refused request has changed something");

    // Each of them would have been carried out, had the proof been right.
    for method in methods() {
        let case = case(method, &f);
        let connection = world.connection().await;
        let outcome = status(ask(&connection, method, case.sender.clone(), &case.body).await);
        assert_eq!(outcome, case.right, "{method:?} with the right proof");
    }
    assert!(before != snapshot(&world, &f).await);
    println!("authorisation: {} methods, {tried} wrong proofs", Method::ALL.len());

    // And the clients, which have these requests in their outboxes still, go on as if they had sent them themselves.
    for name in ["Alice", "Bob"] {
        let client = within("opening", world.open(name)).await;
        within("synchronising", client.sync()).await.unwrap();
    }
}

/// The credential that the homeserver has of a client.
async fn known(connection: &Connection, client: &ClientId) -> ClientCredential {
    let package = GetConnectionPackage { user: client.user.clone() };
    call::<call::AsGetConnectionPackage>(connection, None, &package).await.unwrap().credential
}

/// A renewal is proven by the old key and by the new one, both of the client that it is for.
async fn a_renewal_needs_both_keys_and_the_word_of_the_old_one(world: World) {
    let (client, old) = user_with_password(&world).await;
    let (_, other) = user_with_password(&world).await;
    let connection = world.connection().await;
    let credentials = call::<call::AsGetCredentials>(&connection, None, &GetCredentials {}).await.unwrap();
    let credential = known(&connection, &client).await;
    let signer = &credentials.intermediates[0];
    let validity = credential.request.payload.validity.clone();
    let new = SigningKey::generate(&mut system_rng()).unwrap();
    let sender = SenderId::AsClient(client.clone());
    let renew = |client: ClientId, validity: Validity, by: &SigningKey| RenewCredential {
        request: request_client(client, validity, signer, &new, Some((&credential, by))),
        history: Vec::new(),
    };
    let send = async |request: &RenewCredential, keys: &[&SigningKey]| {
        let (stream, body) = (open(&connection).await, request.to_vec());
        let method = Method::AsRenewCredential;
        let signed = |key: &&SigningKey| sign(&connection, stream.id(), method, &body, sender.clone(), key);
        let auth = keys.iter().map(signed).collect();
        status(exchange(stream, method as u16, raw::request(method, auth, &body)).await)
    };
    let right = renew(client.clone(), validity.clone(), &old);
    for (what, keys) in [
        ("no proof", &[][..]),
        ("the old key alone", &[&old]),
        ("the new key alone", &[&new]),
        ("the old key twice", &[&old, &old]),
        ("the wrong order", &[&new, &old]),
        ("another's key for the old one", &[&other, &new]),
        ("another's key for the new one", &[&old, &other]),
        ("three proofs", &[&old, &new, &new]),
    ] {
        assert_eq!(send(&right, keys).await, Status::Unauthenticated, "{what}");
    }
    let both = &[&old, &new][..];
    let of_another = ClientId { client: [9; 16], ..client.clone() };
    assert_eq!(send(&renew(of_another, validity.clone(), &old), both).await, Status::Unauthenticated);
    assert_eq!(send(&renew(client.clone(), validity.clone(), &other), both).await, Status::Malformed);
    let forever = Validity { not_after: u64::MAX, ..validity.clone() };
    assert_eq!(send(&renew(client.clone(), forever, &old), both).await, Status::Forbidden, "longer than the signer's");
    let mut unsigned = right.clone();
    unsigned.request.predecessor_signature = None;
    assert_eq!(send(&unsigned, both).await, Status::Malformed);
    let mut unknown = right.clone();
    unknown.request.payload.signer = [7; 32];
    assert_eq!(send(&unknown, both).await, Status::Malformed, "the old key has not signed that");

    // What this homeserver does not know, as if it had granted it and had been restored from a backup since: whoever signed it.
    let granted = |RenewCredential { request, .. }: &RenewCredential| ClientCredential {
        request: request.clone(),
        signature: (&[7; 64][..]).into(),
    };
    let [third, fourth] = [(); 2].map(|()| SigningKey::generate(&mut system_rng()).unwrap());
    let next = |before: &RenewCredential, by: &SigningKey, key: &SigningKey| {
        let before = granted(before);
        let renews = Some((&before, by));
        RenewCredential {
            request: request_client(client.clone(), validity.clone(), signer, key, renews),
            history: vec![credential.clone(), before.clone()],
        }
    };
    let second = next(&right, &new, &third);
    let mut last = next(&second, &third, &fourth);
    last.history = vec![granted(&right), granted(&second)];
    for (what, keys) in [("a key that is not the last of the history", [&old, &fourth]), ("as well", [&new, &fourth])] {
        assert_eq!(send(&last, &keys).await, Status::Unauthenticated, "{what}");
    }
    let keys = &[&third, &fourth][..];
    let mut gap = last.clone();
    gap.history.remove(0);
    assert_eq!(send(&gap, keys).await, Status::Unauthenticated, "nothing that is known is in the history");
    let mut forged = last.clone();
    forged.history[0] = granted(&renew(client.clone(), validity.clone(), &other));
    assert_eq!(send(&forged, keys).await, Status::Unauthenticated, "the known key has not signed for the history");
    let mut forged = last.clone();
    forged.history[1] = granted(&next(&right, &other, &third));
    assert_eq!(send(&forged, keys).await, Status::Unauthenticated, "nor has one in the history for the next");
    let mut long = last.clone();
    long.history = vec![credential.clone(); MAX_RENEWED_CREDENTIALS + 1];
    assert_eq!(send(&long, keys).await, Status::Malformed, "a history without end");
    let by_another = RenewCredential { request: next(&second, &other, &fourth).request, ..last.clone() };
    assert_eq!(send(&by_another, keys).await, Status::Malformed, "the last key of the history has not signed");
    let mut again = second.clone();
    again.history.push(granted(&second));
    assert_eq!(send(&again, &[&third, &third]).await, Status::Ok, "granted before and forgotten: granted once more");
    assert_eq!(send(&again, &[&new, &third]).await, Status::Ok, "a repeat, after a lost reply");
    // And what the homeserver knows now is the end of the history.
    assert_eq!(send(&right, both).await, Status::Unauthenticated, "of a key that was replaced");
    last.history = vec![credential.clone(), granted(&right), known(&connection, &client).await];
    assert_eq!(send(&next(&second, &third, &fourth), keys).await, Status::Malformed, "made after another credential");
    last.request = request_client(client.clone(), validity.clone(), signer, &fourth, Some((&last.history[2], &third)));
    assert_eq!(send(&last, keys).await, Status::Ok, "the next one");
    assert_eq!(send(&last, keys).await, Status::Ok, "a repeat, after a lost reply");
    let profile = UpdateUserProfile { profile: vec![9; 64].into() }.to_vec();
    let outcomes = [(&old, Status::Unauthenticated), (&third, Status::Unauthenticated), (&fourth, Status::Ok)];
    for (key, wanted) in outcomes {
        let outcome = ask(&connection, Method::AsUpdateUserProfile, Some((sender.clone(), key)), &profile).await;
        assert_eq!(status(outcome), wanted, "the new key has taken the place of the old one");
    }
}

/// The password is the second factor: what is wrong with it gets its status, and a login is for one use.
async fn a_wrong_password_opens_nothing(world: World) {
    let user = user_with_password(&world).await;
    let (client, key, right) =
        with_factor(&world, user, |factor, record| ChangePassword { factor, record }.to_vec()).await;
    let connection = world.connection().await;
    let sender = || Some((SenderId::AsClient(client.clone()), &key));
    let change = async |request: &ChangePassword| {
        status(ask(&connection, Method::AsChangePassword, sender(), &request.to_vec()).await)
    };
    let right = ChangePassword::from_slice(&right).unwrap();
    for length in [0, 95, 97] {
        let init = Init2fa { login: vec![1; length].into(), new_password: None }.to_vec();
        assert_eq!(status(ask(&connection, Method::AsInit2fa, sender(), &init).await), Status::Malformed, "{length}");
    }
    for element in [[0; 32], [0xff; 32]] {
        let (_, login) = ClientLogin::start(client.user.clone(), "password", &mut system_rng()).unwrap();
        let init = Init2fa { login, new_password: Some(element[..].into()) }.to_vec();
        assert_eq!(status(ask(&connection, Method::AsInit2fa, sender(), &init).await), Status::Malformed);
    }
    // None of this has used the login up.
    let mut malformed = right.clone();
    malformed.record = vec![1; 192].into();
    assert_eq!(change(&malformed).await, Status::Malformed, "no record");
    let mut elsewhere = right.clone();
    elsewhere.factor.session[0] ^= 1;
    assert_eq!(change(&elsewhere).await, Status::Unauthenticated, "another session");
    assert_eq!(change(&right).await, Status::Ok);
    assert_eq!(change(&right).await, Status::Unauthenticated, "a login is for one use");
    // The password is another now; a wrong KE3 uses its login up as well.
    let (login, ke1) = ClientLogin::start(client.user.clone(), "another", &mut system_rng()).unwrap();
    let init = Init2fa { login: ke1, new_password: None };
    let challenge = call::<call::AsInit2fa>(&connection, sender(), &init).await.unwrap();
    let ke3 = login.finish("another", challenge.login.as_slice(), &mut system_rng()).unwrap();
    let mut flipped = ke3.as_slice().to_vec();
    flipped[10] ^= 1;
    for login in [Opaque::from(flipped), ke3] {
        let request =
            ChangePassword { factor: SecondFactor { session: challenge.session, login }, record: right.record.clone() };
        assert_eq!(change(&request).await, Status::Unauthenticated);
    }
}

async fn a_bound_key_proves_its_owner_for_the_rest_of_the_connection(world: World) {
    let alice = within("registration", world.register("Alice")).await;
    drop(alice);
    let state = world.state("Alice");
    let (sender, key) = (SenderId::AsClient(state.client()), state.identity());
    let connection = world.connection().await;
    raw::bind(&connection, &key).await;
    for start in [0, 0] {
        let body = Dequeue { incarnation: state.cursor("direct").0, start, max: 1 }.to_vec();
        assert_eq!(attempt(&connection, Method::AsDequeue, vec![bound(sender.clone())], &body).await, Status::Ok);
    }
    let second = world.connection().await;
    let body = Dequeue { incarnation: state.cursor("direct").0, start: 0, max: 1 }.to_vec();
    let outcome = attempt(&second, Method::AsDequeue, vec![bound(sender)], &body).await;
    assert_eq!(outcome, Status::Unauthenticated);
}

async fn bad_input_gets_its_status_and_the_connection_lives_on(world: World) {
    let mut rng = rng("bad input");
    let f = fixture(&world).await;
    let before = snapshot(&world, &f).await;
    let connection = world.connection().await;
    // Another stream, which is to live through all of this.
    let (incarnation, start) = f.cursors[0];
    let listen = Listen { incarnation, start }.to_vec();
    let sender = SenderId::AsClient(f.alice.clone());
    let (_, mut frames) = raw::stream(&connection, Method::AsListen, sender, &f.alice_key, &listen).await;

    for method in methods() {
        let case = case(method, &f);
        let streaming = bennu::wire::method::is_streaming(method as u16);
        // Whole, but for the body: cut off, or with something after it.
        for body in [case.body.get(..case.body.len().saturating_sub(1)), Some(&[&case.body[..], &[0]].concat()[..])] {
            let body = body.unwrap_or_default();
            if body == case.body {
                continue;
            }
            let outcome = ask(&connection, method, case.sender.clone(), body).await;
            assert_eq!(status(outcome), Status::Malformed, "{method:?} with {} of {}", body.len(), case.body.len());
        }
        let whole = request(method, Vec::new(), &case.body);
        for length in [4, 5, whole.len() / 2, whole.len() - 1] {
            if length < whole.len() {
                let cut = whole.slice(..length);
                let outcome = exchange(open(&connection).await, method as u16, cut).await;
                assert_eq!(status(outcome), Status::Malformed, "{method:?}, {length} bytes of {}", whole.len());
            }
        }
        let trailing = [&whole[..], &[0]].concat();
        let outcome = exchange(open(&connection).await, method as u16, trailing.into()).await;
        assert_eq!(status(outcome), Status::Malformed, "{method:?} with a trailing byte");
        let mut another_version = whole.to_vec();
        another_version[..2].copy_from_slice(&2u16.to_be_bytes());
        // Which is not framed: what it would be in another version is not known.
        let outcome = exchange(open(&connection).await, Method::ServerInfo as u16, another_version.into()).await;
        assert_eq!(status(outcome), Status::UnsupportedVersion, "{method:?} of another version");
        let mut too_large = whole[..4].to_vec();
        too_large.resize(method.max_request() + 1, 0);
        let outcome = exchange(open(&connection).await, method as u16, too_large.into()).await;
        assert_eq!(status(outcome), Status::TooLarge, "{method:?}, streaming {streaming}");
        for _ in 0..8 {
            let mut random = whole[..4].to_vec();
            random.resize(4 + below(&mut rng, 200) as usize, 0);
            rng.fill_bytes(&mut random[4..]);
            let outcome = status(exchange(open(&connection).await, method as u16, random.into()).await);
            assert!(matches!(outcome, Status::Malformed | Status::Unauthenticated), "{method:?}: {outcome}");
        }
    }
    for code in [0, 0x0003, 0x01ff, 0xffff] {
        let unknown =
            bennu::wire::Request { version: 1, method: code, auth: Vec::new(), token: None, body: Opaque::default() };
        let outcome = exchange(open(&connection).await, code, unknown.to_vec().into()).await;
        assert_eq!(status(outcome), Status::UnknownMethod, "{code:#06x}");
    }

    // The other stream still tells what comes, and nothing was changed.
    assert!(before == snapshot(&world, &f).await, "bad input has changed something");
    let sealed = HpkeCiphertext { kem_output: vec![0; 32].into(), ciphertext: vec![0; 64].into() };
    let message = DirectMessage { key_hash: [0; 32], sealed };
    let enqueue = EnqueueDirect { client: f.alice.clone(), message };
    call::<call::AsEnqueue>(&connection, None, &enqueue).await.unwrap();
    within("an entry on the other stream", frames.next()).await.unwrap().unwrap();
}

/// Every byte of a commit but the membership tag, which only members can check, is covered by something that the server
/// checks.
const MEMBERSHIP_TAG: usize = 33;

async fn a_hostile_member_changes_nothing_that_it_may_not(world: World) {
    let f = fixture(&world).await;
    let connection = world.connection().await;
    let send = async |method, chat: &Chat, body: &[u8]| {
        status(ask(&connection, method, Some((chat.sender(), &chat.key)), body).await)
    };
    let before = snapshot(&world, &f).await;
    let (alice, body) = &f.remove;
    let original = RemoveUsers::from_slice(body).unwrap();

    let commit = original.commit.commit.as_slice();
    for at in (0..commit.len() - MEMBERSHIP_TAG).step_by(5) {
        let mut forged = original.clone();
        let mut bytes = commit.to_vec();
        bytes[at] ^= 1 << (at % 8);
        forged.commit.commit = bytes.into();
        let got = send(Method::DsRemoveUsers, alice, &forged.to_vec()).await;
        let refused = [Status::Malformed, Status::WrongEpoch, Status::Forbidden, Status::InvalidMlsMessage];
        assert!(refused.contains(&got), "byte {at} of {}: {got}", commit.len());
    }
    let mut forged = original.clone();
    let mut signature = forged.commit.group_info.signature.as_slice().to_vec();
    signature[7] ^= 1;
    forged.commit.group_info.signature = signature[..].into();
    assert_eq!(send(Method::DsRemoveUsers, alice, &forged.to_vec()).await, Status::InvalidMlsMessage);
    let mut forged = original.clone();
    forged.commit.access.ear_key = Secret::new([3; 32]);
    assert_eq!(send(Method::DsRemoveUsers, alice, &forged.to_vec()).await, Status::NotFound, "wrong EAR key");
    let mut forged = original.clone();
    forged.commit.access = f.chat.access.clone();
    assert_eq!(send(Method::DsRemoveUsers, alice, &forged.to_vec()).await, Status::Unauthenticated, "another group");
    assert_eq!(send(Method::DsRemoveUsers, &f.chat, &forged.to_vec()).await, Status::Malformed, "another group's");

    // The right commit at the wrong endpoint, or by the wrong member.
    let update = UpdateClient { commit: original.commit.clone(), queue_config: None };
    assert_eq!(send(Method::DsUpdateClient, alice, &update.to_vec()).await, Status::Malformed);
    let bob = world.state("Bob").chat(&alice.access.group);
    assert_eq!(send(Method::DsRemoveUsers, &bob, body).await, Status::Forbidden, "somebody else's commit");
    let (adder, add) = &f.add;
    let add = AddUsers::from_slice(add).unwrap();
    let without = AddUsers { joiners: Vec::new(), ..add.clone() };
    assert_eq!(send(Method::DsAddUsers, adder, &without.to_vec()).await, Status::Malformed, "a joiner left out");
    let without = AddUsers { welcome: add.commit.commit.clone(), ..add };
    assert_eq!(send(Method::DsAddUsers, adder, &without.to_vec()).await, Status::Malformed, "no Welcome");
    let packages = vec![AddPackage { key_package: vec![1; 300].into(), sealed_chain: vec![2; 300].into() }];
    let publish = PublishKeyPackages { packages }.to_vec();
    let queue = Some((f.alice_queue.clone(), &f.alice_queue_key));
    let got = status(ask(&connection, Method::QsPublishKeyPackages, queue, &publish).await);
    assert_eq!(got, Status::InvalidMlsMessage);
    assert!(snapshot(&world, &f).await == before, "something has changed");

    // Carried out once: a repeat gets the first answer, a replay under another key comes too late.
    let sender = || Some((alice.sender(), &alice.key));
    let first = ask(&connection, Method::DsRemoveUsers, sender(), body).await.unwrap();
    let carried_out = snapshot(&world, &f).await;
    assert_eq!(ask(&connection, Method::DsRemoveUsers, sender(), body).await.unwrap(), first, "the first answer");
    let mut replay = original.clone();
    replay.commit.idempotency_key = [9; 16];
    assert_eq!(send(Method::DsRemoveUsers, alice, &replay.to_vec()).await, Status::WrongEpoch);

    // Bob was removed; the EAR key and his old leaf are of no use to him.
    let message = SendMessage {
        access: bob.access.clone(),
        idempotency_key: [8; 16],
        message: vec![0].into(),
        context_hash: [0; 8],
        no_push: false,
    };
    assert_eq!(send(Method::DsSendMessage, &bob, &message.to_vec()).await, Status::Unauthenticated);
    let info = GetExternalCommitInfo { access: bob.access.clone() }.to_vec();
    assert_eq!(send(Method::DsExternalCommitInfo, &bob, &info).await, Status::Unauthenticated);
    assert_eq!(status(ask(&connection, Method::DsExternalCommitInfo, None, &info).await), Status::Forbidden);
    let join = JoinConnectionGroup { commit: replay.commit, queue_config: no_config() };
    assert_eq!(status(ask(&connection, Method::DsJoinConnectionGroup, None, &join.to_vec()).await), Status::Forbidden);
    assert!(snapshot(&world, &f).await == carried_out, "something has changed");
}

/// Sends a case, properly proven, with a token or without; what came of it.
async fn send_case(connection: &Connection, method: Method, case: &Case<'_>, token: Option<&Token>) -> Status {
    status(paid(connection, method, case, token).await)
}

async fn paid(
    connection: &Connection,
    method: Method,
    case: &Case<'_>,
    token: Option<&Token>,
) -> Result<bytes::Bytes, bennu::base::Refusal> {
    let stream = open(connection).await;
    let (code, body, binding) = (method as u16, &case.body[..], connection.binding());
    let context = proof::RequestContext { method: code, token, body, binding, stream: stream.id() };
    let auth = case.sender.clone().map(|(sender, key)| context.sign(sender, key));
    let body = Opaque(bytes::Bytes::copy_from_slice(body));
    let auth = auth.into_iter().collect();
    let request = Request { version: VERSION, method: code, auth, token: token.cloned(), body };
    exchange(stream, code, request.to_vec().into()).await
}

/// With tokens that buy one request each: every charged method is refused without, and takes exactly one; the others
/// need none.
#[tokio::test(flavor = "multi_thread")]
async fn every_charged_method_is_charged_once_and_no_other() {
    let world = World::with_tokens(Tokens { credit_per_token: 1, ..Tokens::default() }).await;
    let f = fixture(&world).await;
    let (charged, exempt): (Vec<_>, Vec<_>) = methods().partition(|method| method.credit() == Credit::Charged);
    assert!(charged.len() > 15 && exempt.len() > 10);
    let before = snapshot(&world, &f).await;
    for &method in &charged {
        let connection = world.connection().await;
        let outcome = send_case(&connection, method, &case(method, &f), None).await;
        assert_eq!(outcome, Status::TokenRequired, "{method:?} without credit");
    }
    assert!(snapshot(&world, &f).await == before, "something has changed");

    let connection = world.connection().await;
    let (request, state) = issue_request(&connection, charged.len()).await;
    let alice = Some((SenderId::AsClient(f.alice.clone()), &f.alice_key));
    let issued = call::<call::AsIssueTokens>(&connection, alice, &request).await.unwrap();
    let tokens = state.finish(issued.response.as_slice()).unwrap();
    let probe = case(Method::DsRequestGroupId, &f);
    for (&method, token) in charged.iter().zip(&tokens) {
        let (connection, case) = (world.connection().await, case(method, &f));
        assert_eq!(send_case(&connection, method, &case, Some(token)).await, case.right, "{method:?} with a token");
        let more = send_case(&connection, Method::DsRequestGroupId, &probe, None).await;
        assert_eq!(more, Status::TokenRequired, "{method:?} has taken what the token bought");
    }
    for &method in &exempt {
        let (connection, case) = (world.connection().await, case(method, &f));
        assert_eq!(send_case(&connection, method, &case, None).await, case.right, "{method:?} costs nothing");
    }
    println!("credit: {} methods charged once, {} never", charged.len(), exempt.len());
}

macro_rules! over_quic_and_memory {
    ($($test:ident),* $(,)?) => {
        mod over_quic {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(super::World::over_quic().await).await;
            })*
        }

        mod over_memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(super::World::in_memory().await).await;
            })*
        }
    };
}

over_quic_and_memory! {
    every_wrong_proof_is_refused_and_changes_nothing,
    a_bound_key_proves_its_owner_for_the_rest_of_the_connection,
    bad_input_gets_its_status_and_the_connection_lives_on,
    a_hostile_member_changes_nothing_that_it_may_not,
    a_renewal_needs_both_keys_and_the_word_of_the_old_one,
    a_wrong_password_opens_nothing,
}
