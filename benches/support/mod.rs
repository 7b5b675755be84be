//! What the benches of groups have in common: requests as they are on the wire, queues, and a group with the member that
//! changes it.

use std::{sync::Arc, time::Instant};

use bennu::{
    base::{Clock as _, Day, Domain, QsClientId, Refusal, Secret, SystemClock, limits::MAX_RESPONSE},
    crypto::{
        at_rest::StorageKey,
        hpke::{self, HpkePrivateKey},
        mls as protocol,
        proof::{self, RequestContext},
        random, random_secret,
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
    store::{Engine, Options, Store},
    transport::{Connection, Frames, Settings, memory::Host},
    wire::{
        Authentication, Call, Decode, Encode, Opaque, Proof, Request, Response, SenderId, VERSION,
        credential::{CIPHERSUITE, DayValidity, HpkeCiphertext, LeafCredential, Signature},
        delivery::{
            AddUsers, CommitAad, CommitBundle, CreateGroup, GetDeliveryKeys, GroupAccess, GroupInfoUpdate, Joiner,
            MemberInfo, RequestGroupId, Roles, SendMessage,
        },
        envelope::LeafId,
        label::{HpkeLabel, SignatureLabel},
        method::call,
        padding::{MESSAGE_FLOOR, pad_value},
        queue::{Acknowledge, Dequeue, EntryKind, Listen, QueueEntries},
        queuing::{
            ClientQueueConfig, CreateQueuingUser, GetQueuingKeys, QueueConfig, QueueConfigContent, QueuingClient,
        },
        registry::{GROUP_DATA_EXTENSION, QUEUE_CONFIG_EXTENSION, ROLES_EXTENSION},
        server::Bind,
    },
};
use openmls::prelude::{
    CommitMessageBundle, CredentialWithKey, Extension, Extensions, KeyPackage, LeafNodeIndex, Lifetime,
    MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, MlsGroup, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use tls_codec::{Deserialize as _, Serialize as _};
use tokio::time::sleep;

/// A homeserver in this process, of which nothing is special but that it takes no tokens, and its store.
#[allow(dead_code, reason = "some are processes of their own")]
pub async fn homeserver(domain: Domain, engine: impl Engine) -> (Host<Service>, Store) {
    let store = Store::open(engine, Options::new(|error| panic!("{error}"))).unwrap();
    (homeserver_on(domain, store.clone()).await, store)
}

/// The same on a store that is open.
#[allow(dead_code, reason = "some are processes of their own")]
pub async fn homeserver_on(domain: Domain, store: Store) -> Host<Service> {
    let dispatcher = Dispatcher::start(Parts {
        domain,
        store,
        storage_key: StorageKey::new(Secret::new([7; 32])),
        incarnation: [1; 16],
        clock: Arc::new(SystemClock),
        entropy: system_entropy(),
        queue_limits: QueueLimits::default(),
        policy: Policy { tokens: Tokens { required: false, ..Tokens::default() }, ..Policy::default() }.into(),
        workers: Workers::for_this_machine(),
        max_wait: std::time::Duration::MAX,
        connection_limits: connection_limits(&Settings::default()),
        federation: Federation::none(),
        outbox_limits: Default::default(),
        peer_settings: Default::default(),
    });
    Host::new(Arc::new(Service(dispatcher.await.unwrap())), Settings::default())
}

/// A group, and the member that changes it.
pub struct Group {
    pub connection: Connection,
    pub state: MlsGroup,
    pub access: GroupAccess,
    provider: OpenMlsRustCrypto,
    key: SigningKey,
    today: Day,
}

/// A queue, and the key of its client.
pub struct Queue {
    pub config: ClientQueueConfig,
    connection: Connection,
    client: QsClientId,
    key: SigningKey,
}

/// Who listens to a queue.
pub struct Listener(Box<dyn Frames>);

/// What has come out of a queue.
#[derive(Default)]
pub struct Taken {
    /// Messages, and no other entries.
    pub messages: usize,
    /// Of all frames.
    pub octets: usize,
}

/// What is sent for an exchange.
async fn signed<C: Call>(
    connection: &Connection,
    stream: u64,
    sender: Option<(SenderId, &SigningKey)>,
    request: &C::Request,
) -> bytes::Bytes {
    let (body, binding) = (request.to_vec(), connection.binding());
    let context = RequestContext { method: C::METHOD as u16, token: None, body: &body, binding, stream };
    let auth = sender.map(|(sender, key)| context.sign(sender, key)).into_iter().collect();
    Request { version: VERSION, method: C::METHOD as u16, auth, token: None, body: body.into() }.to_vec().into()
}

/// Waits for as long as the homeserver wants whoever asked to, if that is all it has against the request.
async fn put_off(refusal: Refusal) {
    let time = refusal.retry_after.unwrap_or_else(|| panic!("{refusal}"));
    // Reason: the homeserver has said for how long.
    sleep(time).await;
}

/// The answer to a request, and how long it took in microseconds, when it was not put off.
pub async fn ask<C: Call>(
    connection: &Connection,
    sender: Option<(SenderId, &SigningKey)>,
    request: &C::Request,
) -> (C::Response, u128) {
    loop {
        let exchange = connection.open().await.unwrap();
        let bytes = signed::<C>(connection, exchange.id(), sender.clone(), request).await;
        let started = Instant::now();
        let response = exchange.request(bytes, MAX_RESPONSE).await.unwrap();
        let time = started.elapsed().as_micros();
        match Response::from_bytes(response).unwrap().into_result() {
            Ok(body) => return (C::Response::from_bytes(body).unwrap(), time),
            Err(refusal) => put_off(refusal).await,
        }
    }
}

/// A leaf of somebody who is not looked at any closer.
fn leaf(key: &SigningKey, today: Day) -> (LeafCredential, CredentialWithKey) {
    let leaf = LeafCredential {
        identity: random(&mut system_rng()),
        validity: DayValidity { not_before: today.minus(1).0, not_after: today.plus(30).0 },
        ciphersuite: CIPHERSUITE,
        verifying_key: key.verifying_key(),
        sealed_signature: vec![7; 160].into(),
    };
    let with_key = CredentialWithKey {
        credential: protocol::credential(&leaf),
        signature_key: key.verifying_key().as_slice().into(),
    };
    (leaf, with_key)
}

fn lifetime(today: Day) -> Lifetime {
    Lifetime::init(today.minus(1).start().seconds(), today.plus(90).start().seconds())
}

fn info() -> MemberInfo {
    MemberInfo { sealed_chain: vec![7; 600].into(), sealed_profile_key: vec![7; 76].into() }
}

/// The KeyPackage of somebody new with this queue.
pub fn stranger(config: &ClientQueueConfig, today: Day) -> KeyPackage {
    let (provider, key) = (OpenMlsRustCrypto::default(), SigningKey::generate(&mut system_rng()).unwrap());
    KeyPackage::builder()
        .key_package_lifetime(lifetime(today))
        .key_package_extensions(
            Extensions::single(protocol::extension(QUEUE_CONFIG_EXTENSION, config.to_vec())).unwrap(),
        )
        .leaf_node_capabilities(protocol::capabilities())
        .build(protocol::CIPHERSUITE, &provider, &key, leaf(&key, today).1)
        .unwrap()
        .into_key_package()
}

impl Queue {
    /// Of somebody new at the homeserver of `domain`.
    pub async fn create(connection: &Connection, domain: &Domain) -> Self {
        let mut rng = system_rng();
        let (keys, _) = ask::<call::QsGetKeys>(connection, None, &GetQueuingKeys {}).await;
        let to = &keys.hpke_keys[0];
        let (key, queue_key) = (SigningKey::generate(&mut rng).unwrap(), HpkePrivateKey::generate(&mut rng).unwrap());
        let auth_key = key.verifying_key();
        let client = QueuingClient { auth_key: auth_key.clone(), queue_key: queue_key.public_key(), push_token: None };
        let create = CreateQueuingUser { auth_key, friendship_token: random_secret(&mut rng), client };
        let (created, _) = ask::<call::QsCreateUser>(connection, None, &create).await;
        let (blocklist_key, salt) = (random_secret(&mut rng), random(&mut rng));
        let content = QueueConfigContent { client: created.client, blocklist_key, push_token_key: None, salt };
        let signature = key.sign(SignatureLabel::QueueConfig, &content);
        let padded = pad_value(&QueueConfig { content, signature }, MESSAGE_FLOOR);
        let sealed =
            hpke::seal(&to.public_key, HpkeLabel::QueueConfig, &[], &domain.to_vec(), &padded, &mut rng).unwrap();
        let (kem_output, ciphertext) = (sealed.kem_output, sealed.ciphertext);
        let config = ClientQueueConfig { domain: domain.clone(), key_id: to.key_id, kem_output, ciphertext };
        Self { config, connection: connection.clone(), client: created.client, key }
    }

    /// Listens to it, from the entry with the number `start` on.
    #[allow(dead_code, reason = "not every bench listens")]
    pub async fn listen(&self, start: u64) -> Listener {
        let request = Listen { incarnation: self.look().await.incarnation, start };
        loop {
            let exchange = self.connection.open().await.unwrap();
            let request = signed::<call::QsListen>(&self.connection, exchange.id(), self.sender(), &request).await;
            let (response, frames) = exchange.streaming(request, MAX_RESPONSE).await.unwrap();
            match Response::from_bytes(response).unwrap().into_result() {
                Ok(_) => return Listener(frames),
                Err(refusal) => put_off(refusal).await,
            }
        }
    }

    /// The number of its next entry.
    #[allow(dead_code, reason = "not every bench asks")]
    pub async fn head(&self) -> u64 {
        self.look().await.head
    }

    async fn look(&self) -> QueueEntries {
        let look = Dequeue { incarnation: [0; 16], start: 0, max: 0 };
        ask::<call::QsDequeue>(&self.connection, self.sender(), &look).await.0
    }

    fn sender(&self) -> Option<(SenderId, &SigningKey)> {
        Some((SenderId::QsClient(self.client), &self.key))
    }
}

#[allow(dead_code, reason = "not every bench listens")]
impl Listener {
    /// Takes the next frame in.
    pub async fn take(&mut self) -> Taken {
        let mut taken = Taken::default();
        self.take_into(&mut taken).await;
        taken
    }

    /// Takes everything up to the entry with this number in.
    pub async fn reach(&mut self, number: u64) -> Taken {
        let mut taken = Taken::default();
        while self.take_into(&mut taken).await < number {}
        taken
    }

    /// Takes the next frame in: the number of its last entry.
    async fn take_into(&mut self, taken: &mut Taken) -> u64 {
        let frame = self.0.next().await.unwrap().expect("it goes on");
        taken.octets += frame.len();
        let entries = QueueEntries::from_bytes(frame).unwrap().entries;
        taken.messages += entries.iter().filter(|entry| entry.kind == EntryKind::Message).count();
        let last = entries.last().unwrap().sequence;
        self.0.send(Acknowledge { next: last + 1 }.to_vec().into()).await.unwrap();
        last
    }
}

impl Group {
    /// One with its creator in it, at the homeserver at the other end of a connection.
    pub async fn create(connection: Connection) -> Self {
        let mut rng = system_rng();
        let (provider, today) = (OpenMlsRustCrypto::default(), SystemClock.now().day());
        let (delivery, _) = ask::<call::DsGetKeys>(&connection, None, &GetDeliveryKeys {}).await;
        let (ticket, _) = ask::<call::DsRequestGroupId>(&connection, None, &RequestGroupId {}).await;
        let key = SigningKey::generate(&mut rng).unwrap();
        let (credential, with_key) = leaf(&key, today);
        let roles = Roles { admins: vec![credential.identity] };
        let extensions = Extensions::from_vec(vec![
            Extension::RequiredCapabilities(protocol::required_capabilities()),
            Extension::ExternalSenders(vec![protocol::external_sender(&delivery.verifying_key)]),
            protocol::extension(ROLES_EXTENSION, roles.to_vec()),
            protocol::extension(GROUP_DATA_EXTENSION, vec![7; 284]),
        ]);
        let access = GroupAccess { group: ticket.group.clone(), ear_key: random_secret(&mut rng) };
        let state = MlsGroup::builder()
            .with_group_id(protocol::group_id(&access.group))
            .ciphersuite(protocol::CIPHERSUITE)
            .with_wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .use_ratchet_tree_extension(false)
            .lifetime(lifetime(today))
            .with_capabilities(protocol::capabilities())
            .with_group_context_extensions(extensions.unwrap())
            .build(&provider, &key, with_key)
            .unwrap();
        let own = Queue::create(&connection, &access.group.domain).await;
        let group = Self { connection, provider, key, access, state, today };
        let (group_info, ratchet_tree) = group.public();
        let request = CreateGroup {
            ticket,
            ear_key: group.access.ear_key.clone(),
            connection: false,
            group_info,
            ratchet_tree,
            member: info(),
            queue_config: own.config,
        };
        group.ask::<call::DsCreateGroup>(&request).await;
        group
    }

    /// Its GroupInfo, by the member with the leaf 0, and its tree.
    pub fn public(&self) -> (Opaque, Opaque) {
        let group_info = self.state.export_group_info(self.provider.crypto(), &self.key, false).unwrap();
        let tree = self.state.export_ratchet_tree().tls_serialize_detached().unwrap();
        (group_info.to_bytes().unwrap().into(), tree.into())
    }

    /// Asks as the member with the leaf 0.
    pub async fn ask<C: Call>(&self, request: &C::Request) -> (C::Response, u128) {
        let sender = SenderId::DsLeaf(LeafId { group: self.access.group.clone(), leaf: 0 });
        ask::<C>(&self.connection, Some((sender, &self.key)), request).await
    }

    /// Commits these changes, with an update path if that is wanted.
    pub fn commit(
        &mut self,
        adds: Vec<KeyPackage>,
        removes: Vec<u32>,
        update: bool,
    ) -> (CommitBundle, CommitMessageBundle) {
        let aad = CommitAad { added: adds.iter().map(|_| info()).collect(), own: None, friendship_package: None };
        self.state.set_aad(aad.to_vec());
        let bundle = self
            .state
            .commit_builder()
            .force_self_update(update)
            .propose_adds(adds)
            .propose_removals(removes.into_iter().map(LeafNodeIndex::new))
            .load_psks(self.provider.storage())
            .unwrap()
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(self.provider.rand(), self.provider.crypto(), &self.key, |_| true)
            .unwrap()
            .stage_commit(&self.provider)
            .unwrap();
        let group_info = bundle.group_info().unwrap();
        let signature = group_info.signature().tls_serialize_detached().unwrap();
        let commit = CommitBundle {
            access: self.access.clone(),
            idempotency_key: random(&mut system_rng()),
            commit: bundle.commit().to_bytes().unwrap().into(),
            group_info: GroupInfoUpdate {
                extensions: group_info.extensions().tls_serialize_detached().unwrap().into(),
                signature: Signature::from_slice(&signature).unwrap(),
            },
        };
        (commit, bundle)
    }

    /// The proof of the member with the leaf 0.
    #[allow(dead_code, reason = "benches have it in `ask`")]
    pub fn proof(&self, context: &RequestContext<'_>) -> Authentication {
        let sender = SenderId::DsLeaf(LeafId { group: self.access.group.clone(), leaf: 0 });
        context.sign(sender, &self.key)
    }

    /// Binds the key of this member to its connection.
    #[allow(dead_code, reason = "most sign")]
    pub async fn bind(&self) {
        let keys = vec![proof::bind(&self.key, self.connection.binding())];
        ask::<call::Bind>(&self.connection, None, &Bind { keys }).await;
    }

    /// A request of this member, whose key is bound.
    #[allow(dead_code, reason = "most sign")]
    pub fn bound<C: Call>(&self, request: &C::Request) -> bytes::Bytes {
        let sender = SenderId::DsLeaf(LeafId { group: self.access.group.clone(), leaf: 0 });
        let auth = vec![Authentication { sender, proof: Proof::Bound }];
        let (method, body) = (C::METHOD as u16, request.to_vec().into());
        Request { version: VERSION, method, auth, token: None, body }.to_vec().into()
    }

    /// The answer to a request of this member, whose key is bound.
    #[allow(dead_code, reason = "most sign")]
    pub async fn ask_bound<C: Call>(&self, request: &C::Request) -> C::Response {
        let request = self.bound::<C>(request);
        let exchange = self.connection.open().await.unwrap();
        let response = exchange.request(request, MAX_RESPONSE).await.unwrap();
        C::Response::from_bytes(Response::from_bytes(response).unwrap().into_result().unwrap()).unwrap()
    }

    /// The commit was not accepted.
    #[allow(dead_code, reason = "those of benches are")]
    pub fn drop_commit(&mut self) {
        self.state.clear_pending_commit(self.provider.storage()).unwrap();
    }

    /// The commit was accepted.
    pub fn merge(&mut self) {
        self.state.merge_pending_commit(&self.provider).unwrap();
    }

    /// A commit that adds somebody new behind each of these queues.
    pub fn adding(&mut self, configs: &[ClientQueueConfig]) -> AddUsers {
        let (adds, count) = (configs.iter().map(|config| stranger(config, self.today)).collect(), configs.len());
        let (commit, bundle) = self.commit(adds, Vec::new(), false);
        let ear_key = || HpkeCiphertext { kem_output: vec![7; 32].into(), ciphertext: vec![7; 48].into() };
        AddUsers {
            commit,
            welcome: bundle.to_welcome_msg().unwrap().tls_serialize_detached().unwrap().into(),
            joiners: (0..count).map(|_| Joiner { attribution: vec![7; 500].into(), ear_key: ear_key() }).collect(),
        }
    }

    /// Adds somebody new behind each of these queues.
    pub async fn add(&mut self, configs: &[ClientQueueConfig]) -> u128 {
        let request = self.adding(configs);
        let (accepted, time) = self.ask::<call::DsAddUsers>(&request).await;
        assert_eq!(accepted.unreached, 0);
        self.merge();
        time
    }

    /// A message that is ready to be sent.
    pub fn prepare(&mut self) -> SendMessage {
        self.prepare_of(256)
    }

    /// The same with so many octets in it.
    pub fn prepare_of(&mut self, length: usize) -> SendMessage {
        let message = self.state.create_message(&self.provider, &self.key, &vec![7; length]).unwrap();
        let (access, idempotency_key) = (self.access.clone(), random(&mut system_rng()));
        let context_hash = protocol::context_hash(self.state.public_group().group_context()).unwrap();
        SendMessage {
            access,
            idempotency_key,
            message: message.to_bytes().unwrap().into(),
            context_hash,
            no_push: false,
        }
    }

    /// Sends a message; how long it takes until it is acknowledged.
    pub async fn send(&self, message: &SendMessage) -> u128 {
        let (sent, time) = self.ask::<call::DsSendMessage>(message).await;
        assert_eq!(sent.unreached, 0);
        time
    }
}

/// The epoch of an encoded GroupInfo.
#[allow(dead_code, reason = "benches know it")]
pub fn epoch_of(group_info: &[u8]) -> u64 {
    let message = MlsMessageIn::tls_deserialize_exact(group_info).unwrap();
    match message.extract() {
        MlsMessageBodyIn::GroupInfo(info) => info.epoch().as_u64(),
        _ => panic!("no GroupInfo"),
    }
}

/// The value in the middle.
pub fn median(mut times: Vec<u128>) -> u128 {
    times.sort_unstable();
    times[times.len() / 2]
}
