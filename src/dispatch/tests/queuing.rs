//! The records of the QS: what their owners do with them, and where queue configs lead after that.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::{
    base::{Clock, Day, GroupId, QsClientId, QsUserId, Timestamp, limits::MAX_QUEUING_CLIENTS},
    crypto::{
        aead::blocked_group,
        hpke::{self, HpkePrivateKey},
        proof::RequestContext,
        ratchet::{Ratchet, entry_aad},
    },
    queuing::{fan_out::Delivery, records},
    service::{Appended, Class, Outcome, Reply},
    store::{Batch, Key, Limit, Table},
    transport::Frames,
    wire::{
        SenderId,
        label::{HpkeLabel, SignatureLabel},
        padding::{MESSAGE_FLOOR, pad_value},
        queue::{Dequeue, EntryKind, FanOut, FanOutContent, Incarnation, Listen, QueueEntries},
        queuing::{
            ClientQueueConfig, CreateQueuingClient, DeleteQueuingClient, DeleteQueuingUser, GetQueuingKeys,
            GetQueuingUser, QueueConfig, QueueConfigContent, UpdateBlocklist, UpdateQueuingClient, UpdateQueuingUser,
        },
        server::Done,
    },
};

/// A clock that the test sets, by days.
#[derive(Clone)]
pub struct Days(Arc<AtomicU64>);

pub const START: u64 = 20_000;

impl Days {
    pub fn at(day: u64) -> Self {
        Self(Arc::new(AtomicU64::new(day)))
    }

    pub fn pass(&self, days: u32) {
        self.0.fetch_add(u64::from(days), Ordering::SeqCst);
    }

    fn today(&self) -> Day {
        self.now().day()
    }
}

impl Clock for Days {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst) * 86_400_000)
    }
}

pub(crate) struct World {
    pub engine: MemoryEngine,
    pub clock: Days,
    pub dispatcher: Arc<Dispatcher>,
    pub connection: Connection,
}

impl World {
    pub async fn start() -> Self {
        Self::over(MemoryEngine::new(), Days::at(START), [1; 16]).await
    }

    /// One whose writes can be held up.
    pub async fn with_faults(faults: &Faults) -> Self {
        let (engine, clock) = (MemoryEngine::new(), Days::at(START));
        let store = Store::open(faults.around(engine.clone()), Options::new(|error| panic!("{error}"))).unwrap();
        Self::on(store, engine, clock, [1; 16]).await
    }

    async fn over(engine: MemoryEngine, clock: Days, incarnation: Incarnation) -> Self {
        let store = Store::open(engine.clone(), Options::new(|error| panic!("{error}"))).unwrap();
        Self::on(store, engine, clock, incarnation).await
    }

    async fn on(store: Store, engine: MemoryEngine, clock: Days, incarnation: Incarnation) -> Self {
        Self::of(Parts { clock: Arc::new(clock.clone()), incarnation, ..parts(store) }, engine, clock).await
    }

    pub async fn of(parts: Parts, engine: MemoryEngine, clock: Days) -> Self {
        let dispatcher = Dispatcher::start(parts).await.unwrap();
        let connection = memory::connect(Arc::new(Service(dispatcher.clone())));
        Self { engine, clock, dispatcher, connection }
    }

    /// The same store in another life, as after a restored backup.
    async fn restored(self) -> Self {
        self.dispatcher.parts.store.barrier().await.unwrap();
        Self::over(self.engine, self.clock, [2; 16]).await
    }

    pub async fn ask<C: Call>(
        &self,
        by: (SenderId, &SigningKey),
        request: &C::Request,
    ) -> Result<C::Response, Refusal> {
        ask_by::<C>(&self.connection, Some(by), request).await
    }

    pub async fn create(&self) -> Owner {
        let (key, queue_key) = (signing_key(), queue_key());
        let token = random_secret(&mut system_rng());
        let mut owner = Owner { key, queue_key, token, user: QsUserId([0; 16]), client: QsClientId([0; 16]) };
        let created = ask::<call::QsCreateUser>(&self.connection, &owner.creation()).await.unwrap();
        (owner.user, owner.client) = (created.user, created.client);
        owner
    }

    pub async fn seal(&self, owner: &Owner) -> ClientQueueConfig {
        self.seal_with(owner, None).await
    }

    /// The same, with a key for its push token.
    pub async fn seal_with(&self, owner: &Owner, push_token_key: Option<Secret>) -> ClientQueueConfig {
        let keys = ask::<call::QsGetKeys>(&self.connection, &GetQueuingKeys {}).await.unwrap();
        let content = QueueConfigContent {
            client: owner.client,
            blocklist_key: Secret::new([5; 32]),
            push_token_key,
            salt: [6; 16],
        };
        let signature = owner.key.sign(SignatureLabel::QueueConfig, &content);
        let (domain, to) = (self.dispatcher.parts.domain.clone(), &keys.hpke_keys[0]);
        let padded = pad_value(&QueueConfig { content, signature }, MESSAGE_FLOOR);
        let aad = domain.to_vec();
        let sealed = hpke::seal(&to.public_key, HpkeLabel::QueueConfig, &[], &aad, &padded, &mut system_rng()).unwrap();
        ClientQueueConfig { domain, key_id: to.key_id, kem_output: sealed.kem_output, ciphertext: sealed.ciphertext }
    }

    /// Sends a message of a group to who is behind a config; how many did not get it.
    pub async fn send(&self, config: &ClientQueueConfig, group: &GroupId) -> u32 {
        let content = FanOutContent::Application(b"hello".to_vec().into());
        self.tell(config, FanOut { group: group.clone(), content }, false).await
    }

    /// Sends whatever a DS sends.
    pub async fn tell(&self, config: &ClientQueueConfig, message: FanOut, no_push: bool) -> u32 {
        self.tell_all(std::slice::from_ref(config), message, no_push).await
    }

    /// Sends one message to many.
    pub async fn tell_all(&self, configs: &[ClientQueueConfig], message: FanOut, no_push: bool) -> u32 {
        let mut scope = self.dispatcher.unlocked();
        let (mut batch, mut delivery) = (Batch::new(), Delivery { no_push, ..Delivery::default() });
        let service = &self.dispatcher.queuing;
        let context = &mut scope.context();
        let configs: Vec<_> = configs.iter().map(|config| config.to_vec().into()).collect();
        delivery.add(service, context, &mut batch, message, &configs, Class::Application).await.unwrap();
        let unreachable = delivery.unreachable;
        let Delivery { appends, forwards, .. } = delivery;
        let (told, refused) = tokio::sync::oneshot::channel();
        let finish = move |appended: Appended, _: &mut Batch| {
            told.send(appended.refused).unwrap();
            Ok(Done {})
        };
        let outcome =
            Outcome { batch, appends, forwards, changes: Vec::new(), reply: Reply::AfterAppends(Box::new(finish)) };
        scope.commit(outcome).await.unwrap();
        unreachable + refused.await.unwrap()
    }

    /// Whether the queue behind a config is known to be no more.
    async fn is_gone(&self, config: &ClientQueueConfig) -> bool {
        let mut scope = self.dispatcher.unlocked();
        let (mut batch, mut delivery) = (Batch::new(), Delivery::default());
        let message = FanOut { group: group(1), content: FanOutContent::Application(Vec::new().into()) };
        let (service, configs) = (&self.dispatcher.queuing, [config.to_vec().into()]);
        let context = &mut scope.context();
        let gone = delivery.add(service, context, &mut batch, message, &configs, Class::Application).await.unwrap();
        gone == [0]
    }

    pub async fn entries(&self, owner: &Owner, incarnation: Incarnation, start: u64) -> QueueEntries {
        let dequeue = Dequeue { incarnation, start, max: 100 };
        self.ask::<call::QsDequeue>(owner.as_client(), &dequeue).await.unwrap()
    }

    /// Listens to the owner's queue, from the entry `start` on.
    pub async fn listen(&self, owner: &Owner, start: u64) -> Box<dyn Frames> {
        let listen = Listen { incarnation: self.dispatcher.parts.incarnation, start }.to_vec();
        let exchange = self.connection.open().await.unwrap();
        let binding = self.connection.binding();
        let method = call::QsListen::METHOD as u16;
        let context = RequestContext { method, token: None, body: &listen, binding, stream: exchange.id() };
        let auth = vec![context.sign(owner.as_client().0, &owner.key)];
        let request = Request { version: VERSION, method, auth, token: None, body: listen.into() };
        exchange.streaming(request.to_vec().into(), 1 << 20).await.unwrap().1
    }

    async fn is_client(&self, owner: &Owner) -> bool {
        let dequeue = Dequeue { incarnation: [0; 16], start: 0, max: 1 };
        match self.ask::<call::QsDequeue>(owner.as_client(), &dequeue).await {
            Ok(_) => true,
            Err(refusal) => {
                assert_eq!(refusal.status, Status::Unauthenticated);
                false
            }
        }
    }

    async fn rows(&self, table: Table) -> usize {
        self.dispatcher.parts.store.barrier().await.unwrap();
        self.dispatcher.parts.store.durable().scan(table, Key::new().., Limit::rows(1_000)).await.unwrap().len()
    }
}

/// A user of the QS with one client; one key proves both.
pub(crate) struct Owner {
    key: SigningKey,
    queue_key: HpkePrivateKey,
    token: Secret,
    user: QsUserId,
    pub client: QsClientId,
}

impl Owner {
    pub fn as_user(&self) -> (SenderId, &SigningKey) {
        (SenderId::QsUser(self.user), &self.key)
    }

    pub fn as_client(&self) -> (SenderId, &SigningKey) {
        (SenderId::QsClient(self.client), &self.key)
    }

    pub fn queuing_client(&self) -> QueuingClient {
        let (auth_key, queue_key) = (self.key.verifying_key(), self.queue_key.public_key());
        QueuingClient { auth_key, queue_key, push_token: None }
    }

    fn creation(&self) -> CreateQueuingUser {
        let (auth_key, friendship_token) = (self.key.verifying_key(), self.token.clone());
        CreateQueuingUser { auth_key, friendship_token, client: self.queuing_client() }
    }
}

fn signing_key() -> SigningKey {
    SigningKey::generate(&mut system_rng()).unwrap()
}

fn queue_key() -> HpkePrivateKey {
    HpkePrivateKey::generate(&mut system_rng()).unwrap()
}

pub(super) fn group(number: u8) -> GroupId {
    GroupId { uuid: [number; 16], domain: "a.test".parse().unwrap() }
}

/// What the owner of a key reads from a secret entry on: how many messages open. Everything after it must.
fn readable(key: &HpkePrivateKey, found: &QueueEntries, from: usize) -> usize {
    let aad = |at: usize| entry_aad(found.incarnation, found.entries[at].sequence, found.entries[at].kind.clone());
    let mut ratchet = Ratchet::accept(key, &aad(from), &found.entries[from].ciphertext).expect("a secret for this key");
    for at in from + 1..found.entries.len() {
        ratchet = ratchet.open(&aad(at), &found.entries[at].ciphertext).expect("an entry under this secret").0;
    }
    found.entries.len() - from - 1
}

/// The contents of the messages that the owner of a queue finds in it, which was not changed since it was made.
pub(super) fn contents(owner: &Owner, found: &QueueEntries) -> Vec<bytes::Bytes> {
    let aad = |at: usize| entry_aad(found.incarnation, found.entries[at].sequence, found.entries[at].kind.clone());
    let mut ratchet = Ratchet::accept(&owner.queue_key, &aad(0), &found.entries[0].ciphertext).unwrap();
    let mut contents = Vec::new();
    for at in 1..found.entries.len() {
        let (next, content) = ratchet.open(&aad(at), &found.entries[at].ciphertext).unwrap();
        (ratchet, contents) = (next, [contents, vec![content]].concat());
    }
    contents
}

fn kinds(found: &QueueEntries) -> Vec<EntryKind> {
    found.entries.iter().map(|entry| entry.kind.clone()).collect()
}

#[tokio::test]
async fn a_creation_whose_reply_was_lost_is_repeated_and_gives_the_same_record() {
    let world = World::start().await;
    let owner = world.create().await;
    let again = ask::<call::QsCreateUser>(&world.connection, &owner.creation()).await.unwrap();
    assert_eq!((again.user, again.client), (owner.user, owner.client));
    let other = CreateQueuingUser { auth_key: signing_key().verifying_key(), ..owner.creation() };
    let refused = ask::<call::QsCreateUser>(&world.connection, &other).await.unwrap_err();
    assert_eq!(refused.status, Status::AlreadyExists, "the token of another");

    let create =
        CreateQueuingClient { client: QueuingClient { queue_key: queue_key().public_key(), ..owner.queuing_client() } };
    let second = world.ask::<call::QsCreateClient>(owner.as_user(), &create).await.unwrap();
    let repeated = world.ask::<call::QsCreateClient>(owner.as_user(), &create).await.unwrap();
    assert_eq!(second.client, repeated.client);
    let record = world.ask::<call::QsGetUser>(owner.as_user(), &GetQueuingUser {}).await.unwrap();
    let mut listed: Vec<_> = record.clients.iter().map(|client| client.client).collect();
    listed.sort_unstable();
    let mut wanted = vec![owner.client, second.client];
    wanted.sort_unstable();
    assert_eq!(listed, wanted);
    let of_owner = record.clients.into_iter().find(|client| client.client == owner.client).unwrap();
    assert_eq!((of_owner.active, of_owner.push, of_owner.key_packages), (world.clock.today().0, false, 0));
    assert_eq!(of_owner.auth_key, owner.key.verifying_key());
}

#[tokio::test]
async fn a_user_has_ten_clients_and_goes_with_the_last() {
    let world = World::start().await;
    let (owner, other) = (world.create().await, world.create().await);
    let mut clients = vec![owner.client];
    let create = || CreateQueuingClient {
        client: QueuingClient { queue_key: queue_key().public_key(), ..owner.queuing_client() },
    };
    while clients.len() < MAX_QUEUING_CLIENTS {
        clients.push(world.ask::<call::QsCreateClient>(owner.as_user(), &create()).await.unwrap().client);
    }
    let refused = world.ask::<call::QsCreateClient>(owner.as_user(), &create()).await.unwrap_err();
    assert_eq!(refused.status, Status::QuotaExceeded);

    let delete = DeleteQueuingClient { client: owner.client };
    for stranger in [other.as_user(), other.as_client()] {
        let refused = world.ask::<call::QsDeleteClient>(stranger, &delete).await.unwrap_err();
        assert_eq!(refused.status, Status::NotFound, "another's client");
    }
    let sibling = (SenderId::QsClient(clients[1]), &owner.key);
    let refused = world.ask::<call::QsDeleteClient>(sibling, &delete).await.unwrap_err();
    assert_eq!(refused.status, Status::NotFound, "a client deletes itself, not another");
    for client in clients {
        let itself = (SenderId::QsClient(client), &owner.key);
        world.ask::<call::QsDeleteClient>(itself, &DeleteQueuingClient { client }).await.unwrap();
    }
    let refused = world.ask::<call::QsGetUser>(owner.as_user(), &GetQueuingUser {}).await.unwrap_err();
    assert_eq!(refused.status, Status::Unauthenticated);
    // The token is free, and nothing is left but what is the other's.
    assert_eq!([world.rows(Table::QsUsers).await, world.rows(Table::QsTokens).await], [1, 1]);
    assert_eq!([world.rows(Table::QsClients).await, world.rows(Table::QueueEntries).await], [1, 1]);
    ask::<call::QsCreateUser>(&world.connection, &owner.creation()).await.unwrap();
}

#[tokio::test]
async fn a_deleted_user_is_gone_with_its_queue_and_who_listens_is_told() {
    let world = World::start().await;
    let (owner, other) = (world.create().await, world.create().await);
    let config = world.seal(&owner).await;
    assert_eq!(world.send(&config, &group(1)).await, 0);
    let mut frames = world.listen(&owner, 2).await;

    world.ask::<call::QsDeleteUser>(owner.as_user(), &DeleteQueuingUser {}).await.unwrap();
    assert!(frames.next().await.is_ok_and(|frame| frame.is_none()), "the stream ends");
    assert!(!world.is_client(&owner).await);
    assert!(world.is_gone(&config).await, "the opened config is not remembered");
    assert!(world.is_client(&other).await);
    assert_eq!([world.rows(Table::QsUsers).await, world.rows(Table::QsTokens).await], [1, 1]);
    assert_eq!([world.rows(Table::QsClients).await, world.rows(Table::QueueEntries).await], [1, 1]);
}

#[tokio::test]
async fn a_new_friendship_token_takes_the_place_of_the_old_one() {
    let world = World::start().await;
    let (owner, other) = (world.create().await, world.create().await);
    let (next, key) = (random_secret(&mut system_rng()), signing_key());
    let update = |token: &Secret, key: &SigningKey| UpdateQueuingUser {
        auth_key: key.verifying_key(),
        friendship_token: token.clone(),
    };
    let taken = world.ask::<call::QsUpdateUser>(owner.as_user(), &update(&other.token, &key)).await.unwrap_err();
    assert_eq!(taken.status, Status::AlreadyExists);
    world.ask::<call::QsUpdateUser>(owner.as_user(), &update(&next, &key)).await.unwrap();
    let refused = world.ask::<call::QsUpdateUser>(owner.as_user(), &update(&next, &key)).await.unwrap_err();
    assert_eq!(refused.status, Status::Unauthenticated, "the old key");
    let user = (SenderId::QsUser(owner.user), &key);
    world.ask::<call::QsUpdateUser>(user, &update(&next, &key)).await.unwrap();
    assert_eq!(world.rows(Table::QsTokens).await, 2, "one for each user");
    // Whoever has the old token finds nobody: it can be another's.
    let newcomer = CreateQueuingUser { friendship_token: owner.token.clone(), ..world.create().await.creation() };
    ask::<call::QsCreateUser>(&world.connection, &newcomer).await.unwrap();
}

#[tokio::test]
async fn another_queue_key_starts_the_ratchet_anew() {
    let world = World::start().await;
    let mut owner = world.create().await;
    let config = world.seal(&owner).await;
    assert_eq!(world.send(&config, &group(1)).await, 0);
    let lost = std::mem::replace(&mut owner.queue_key, queue_key());
    let update = UpdateQueuingClient { client: owner.queuing_client() };
    world.ask::<call::QsUpdateClient>(owner.as_client(), &update).await.unwrap();
    // A repeat changes nothing.
    world.ask::<call::QsUpdateClient>(owner.as_client(), &update).await.unwrap();
    assert_eq!(world.send(&config, &group(1)).await, 0);
    assert_eq!(world.send(&config, &group(1)).await, 0);
    let found = world.entries(&owner, [1; 16], 0).await;
    use EntryKind::{Message, Secret as Start};
    assert_eq!(kinds(&found), [Start, Message, Start, Message, Message]);
    assert_eq!(readable(&owner.queue_key, &found, 2), 2);
    let before = QueueEntries { entries: found.entries[..2].to_vec(), ..found.clone() };
    assert_eq!(readable(&lost, &before, 0), 1, "what was there stays as it was");
    // A key that is none changes nothing.
    let mut unusable = update.clone();
    unusable.client.queue_key = vec![0; 32][..].into();
    let refused = world.ask::<call::QsUpdateClient>(owner.as_client(), &unusable).await.unwrap_err();
    assert_eq!(refused.status, Status::Malformed);
    assert_eq!(world.entries(&owner, [1; 16], 0).await, found);
}

#[tokio::test]
async fn configs_lead_to_their_queue_for_270_days_after_a_key_was_replaced() {
    let world = World::start().await;
    let mut owner = world.create().await;
    let by_old_record_key = world.seal(&owner).await;
    assert_eq!(world.send(&by_old_record_key, &group(1)).await, 0);
    let old = std::mem::replace(&mut owner.key, signing_key());
    let update = UpdateQueuingClient { client: owner.queuing_client() };
    let before = (SenderId::QsClient(owner.client), &old);
    world.ask::<call::QsUpdateClient>(before.clone(), &update).await.unwrap();
    let refused = world.ask::<call::QsUpdateClient>(before, &update).await.unwrap_err();
    assert_eq!(refused.status, Status::Unauthenticated, "the old key proves nothing any more");
    let to_old_qs_key = world.seal(&owner).await;
    world.dispatcher.rotate_config_key().await.unwrap();
    let current = world.seal(&owner).await;
    assert_ne!(current.key_id, to_old_qs_key.key_id);
    for (days, reached) in [(0, true), (records::REPLACED_KEY_DAYS, true), (1, false)] {
        world.clock.pass(days);
        for config in [&by_old_record_key, &to_old_qs_key] {
            assert_eq!(world.send(config, &group(1)).await == 0, reached, "day {}", world.clock.today().0);
        }
        assert_eq!(world.send(&current, &group(1)).await, 0);
    }
    // And so it is when nothing is remembered, and after the keys that are over were dropped.
    world.dispatcher.maintain_config_keys().await.unwrap();
    let world = World::over(world.engine, world.clock, [1; 16]).await;
    assert_eq!(world.send(&by_old_record_key, &group(1)).await, 1);
    assert_eq!(world.send(&to_old_qs_key, &group(1)).await, 1);
    assert_eq!(world.send(&current, &group(1)).await, 0, "the key before the current one is 271 days old");
    let renewed = world.seal(&owner).await;
    assert_ne!(renewed.key_id, current.key_id, "the preferred key was due");
}

#[tokio::test]
async fn of_the_keys_for_configs_sixteen_open_at_a_time_and_another_is_made_when_one_is_over() {
    let world = World::start().await;
    let owner = world.create().await;
    let first = world.seal(&owner).await;
    for _ in 1..16 {
        world.dispatcher.rotate_config_key().await.unwrap();
    }
    let (keys, last) = (world.dispatcher.queuing.config_keys.all(), world.seal(&owner).await);
    assert_eq!(keys.len(), 16);
    for days in [0, records::REPLACED_KEY_DAYS] {
        world.clock.pass(days);
        let refused = world.dispatcher.rotate_config_key().await.unwrap_err();
        assert_eq!(refused.status, Status::QuotaExceeded, "day {}", world.clock.today().0);
        // Nor is one made because it is due.
        world.dispatcher.maintain_config_keys().await.unwrap();
        assert_eq!(world.dispatcher.queuing.config_keys.all(), keys, "refused means unchanged");
        for config in [&first, &last] {
            assert_eq!(world.send(config, &group(1)).await, 0);
        }
    }
    world.clock.pass(1);
    world.dispatcher.rotate_config_key().await.unwrap();
    let left = world.dispatcher.queuing.config_keys.all();
    assert_eq!((left.len(), left[1].0), (2, keys[0].0), "those that were replaced 271 days ago are gone");
    let renewed = world.seal(&owner).await;
    assert_eq!(renewed.key_id, left[0].0);
    for (config, unreached) in [(&first, 1), (&last, 0), (&renewed, 0)] {
        assert_eq!(world.send(config, &group(1)).await, unreached);
    }
}

#[tokio::test]
async fn a_record_key_can_be_replaced_sixteen_times_in_that_time() {
    let world = World::start().await;
    let mut owner = world.create().await;
    let mut replace = async |world: &World| {
        let next = signing_key();
        let mut client = owner.queuing_client();
        client.auth_key = next.verifying_key();
        let answer = world.ask::<call::QsUpdateClient>(owner.as_client(), &UpdateQueuingClient { client }).await;
        answer.map(|Done {}| owner.key = next)
    };
    for _ in 0..16 {
        replace(&world).await.unwrap();
    }
    assert_eq!(replace(&world).await.unwrap_err().status, Status::QuotaExceeded);
    world.clock.pass(records::REPLACED_KEY_DAYS + 1);
    replace(&world).await.unwrap();
}

#[tokio::test]
async fn what_comes_from_a_blocked_group_is_dropped_and_nobody_is_told() {
    let world = World::start().await;
    let owner = world.create().await;
    let config = world.seal(&owner).await;
    let name = |number| blocked_group(&Secret::new([5; 32]), &group(number).to_vec());
    let mut blocked = vec![name(1), name(2)];
    blocked.sort_unstable();
    world
        .ask::<call::QsUpdateBlocklist>(owner.as_client(), &UpdateBlocklist { blocked: blocked.clone() })
        .await
        .unwrap();
    for (number, next) in [(1, 1), (2, 1), (3, 2)] {
        assert_eq!(world.send(&config, &group(number)).await, 0, "the sender sees no difference");
        assert_eq!(world.entries(&owner, [1; 16], 0).await.head, next);
    }
    // It holds when nothing is remembered, and until it is replaced.
    let world = World::over(world.engine, world.clock, [1; 16]).await;
    assert_eq!(world.send(&config, &group(1)).await, 0);
    assert_eq!(world.entries(&owner, [1; 16], 0).await.head, 2);
    let update = |blocked| UpdateBlocklist { blocked };
    blocked.reverse();
    for (list, status) in [
        (blocked, Status::Malformed),
        (vec![name(1), name(1)], Status::Malformed),
        (
            (0..1_001_u16).map(|at| [&at.to_be_bytes()[..], &[0; 30]].concat().try_into().unwrap()).collect(),
            Status::QuotaExceeded,
        ),
    ] {
        let refused = world.ask::<call::QsUpdateBlocklist>(owner.as_client(), &update(list)).await.unwrap_err();
        assert_eq!(refused.status, status);
    }
    world.ask::<call::QsUpdateBlocklist>(owner.as_client(), &update(vec![name(2)])).await.unwrap();
    assert_eq!(world.send(&config, &group(1)).await, 0);
    assert_eq!(world.entries(&owner, [1; 16], 0).await.head, 3);
}

#[tokio::test]
async fn a_queue_of_a_restored_store_begins_with_a_new_secret_and_no_number_is_used_twice() {
    let world = World::start().await;
    let owner = world.create().await;
    let config = world.seal(&owner).await;
    for _ in 0..3 {
        assert_eq!(world.send(&config, &group(1)).await, 0);
    }
    let world = world.restored().await;
    // What was in it is there under the incarnation in which it came, in parts too.
    let before = world.entries(&owner, [1; 16], 0).await;
    assert_eq!((before.incarnation, before.first, before.head, before.entries.len()), ([1; 16], 0, 4, 4));
    assert_eq!(readable(&owner.queue_key, &before, 0), 3);
    let rest = world.entries(&owner, [1; 16], 2).await;
    assert_eq!((rest.first, rest.head, rest.entries.len()), (2, 4, 2));
    // Whoever asks for the old life is told of the new one, whether or not something has come since.
    let overview = world.entries(&owner, [1; 16], 4).await;
    assert_eq!((overview.incarnation, overview.first, overview.head), ([2; 16], 4, 5));
    assert!(overview.entries.is_empty());
    assert_eq!(world.send(&config, &group(1)).await, 0);
    let found = world.entries(&owner, [2; 16], overview.first).await;
    assert_eq!(kinds(&found), [EntryKind::Secret, EntryKind::Message]);
    assert_eq!(found.entries[0].sequence, 4);
    assert_eq!(readable(&owner.queue_key, &found, 0), 1);
}

#[tokio::test]
async fn a_client_that_is_silent_for_ninety_days_goes_unless_it_listens() {
    let world = World::start().await;
    let (silent, active, listens) = (world.create().await, world.create().await, world.create().await);
    let listener = world.dispatcher.queues.listen(crate::service::QueueId::client(listens.client));
    world.clock.pass(90);
    assert!(world.is_client(&active).await);
    assert_eq!(world.dispatcher.expire_queues().await.unwrap(), 0, "the ninetieth day");
    world.clock.pass(1);
    assert_eq!(world.dispatcher.expire_queues().await.unwrap(), 1);
    assert!(!world.is_client(&silent).await);
    assert!(world.is_client(&active).await && world.is_client(&listens).await);
    assert_eq!([world.rows(Table::QsUsers).await, world.rows(Table::QsTokens).await], [2, 2]);
    drop(listener);
}

#[tokio::test]
async fn without_room_on_the_disk_a_queue_can_be_emptied_and_nothing_is_added_to_it() {
    let world = World::start().await;
    let owner = world.create().await;
    world.dispatcher.room().set_short(true);
    let update = UpdateBlocklist { blocked: Vec::new() };
    let refused = world.ask::<call::QsUpdateBlocklist>(owner.as_client(), &update).await.unwrap_err();
    assert_eq!((refused.status, refused.retry_after.is_some()), (Status::Overloaded, true));
    assert_eq!(world.entries(&owner, [1; 16], 0).await.entries.len(), 1);
    assert_eq!(world.entries(&owner, [1; 16], 1).await.first, 1);
    world.dispatcher.room().set_short(false);
    world.ask::<call::QsUpdateBlocklist>(owner.as_client(), &update).await.unwrap();
}
