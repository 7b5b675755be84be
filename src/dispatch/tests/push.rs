//! Pushing, from a message of a DS to the push service: against one on this machine.

use std::time::Duration;

use tokio::{task::JoinHandle, time::timeout};

use super::{
    queuing::{Owner, World, group},
    *,
};
use crate::{
    base::GroupId,
    crypto::{aead::blocked_group, push::seal_token},
    push::{
        Recipients as _, WebPush,
        tests::endpoint::{Answer, Endpoint, Subscriber, status},
        web_push,
    },
    service::QueueId,
    wire::{
        credential::HpkeCiphertext,
        delivery::{Joiner, WelcomeBundle},
        queue::{Acknowledge, FanOut, FanOutContent, QueueEntries},
        queuing::{
            ClientQueueConfig, GetQueuingKeys, GetQueuingUser, SEALED_PUSH_TOKEN, UpdateBlocklist, UpdateQueuingClient,
        },
    },
};

const TOKEN_KEY: Secret = Secret::new([8; 32]);

/// A homeserver that pushes, and a push service.
struct Pushing {
    world: World,
    endpoint: Endpoint,
    running: JoinHandle<()>,
}

impl Drop for Pushing {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Pushing {
    async fn start(world: World, answers: Vec<Answer>) -> Self {
        let endpoint = Endpoint::start(answers).await;
        let settings = web_push::Settings {
            ttl: Duration::from_secs(3_600),
            contact: "https://a.test".into(),
            allow_private_addresses: true,
            timeout: Duration::from_secs(60),
        };
        let key = world.dispatcher.push_key().expect("it pushes by default");
        let service = WebPush::new(settings, key, Arc::new(SystemClock), endpoint.roots.clone()).unwrap();
        let running = tokio::spawn(world.dispatcher.clone().run_pushes(Arc::new(service)));
        Self { world, endpoint, running }
    }

    /// A client with a push token, and a config that has the key of it.
    async fn create(&self, path: &str) -> (Owner, ClientQueueConfig) {
        let owner = self.world.create().await;
        self.set_token(&owner, Some(self.token(&owner, path))).await.unwrap();
        let config = self.world.seal_with(&owner, Some(TOKEN_KEY)).await;
        (owner, config)
    }

    fn token(&self, owner: &Owner, path: &str) -> Vec<u8> {
        let token = Subscriber::new().token(&self.endpoint.url(path));
        seal_token(&TOKEN_KEY, owner.client, &token, &mut system_rng())
    }

    async fn set_token(&self, owner: &Owner, token: Option<Vec<u8>>) -> Result<(), Refusal> {
        let client = QueuingClient { push_token: token.map(Into::into), ..owner.queuing_client() };
        let update = UpdateQueuingClient { client };
        self.world.ask::<call::QsUpdateClient>(owner.as_client(), &update).await.map(drop)
    }

    async fn has_token(&self, owner: &Owner) -> bool {
        let user = self.world.ask::<call::QsGetUser>(owner.as_user(), &GetQueuingUser {}).await.unwrap();
        user.clients[0].push
    }

    /// The resource of the next push.
    async fn next(&mut self) -> String {
        let request = self.endpoint.received.recv().await.unwrap();
        request.line.split(' ').nth(1).unwrap().to_owned()
    }

    /// How many clients are to be pushed, or were a moment ago.
    fn waiting(&self) -> usize {
        self.world.dispatcher.pushes.waiting()
    }

    async fn is_listened_to(&self, owner: &Owner, wanted: bool) {
        let changed = async {
            while self.world.dispatcher.queues.is_listened_to(QueueId::client(owner.client)) != wanted {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), changed).await.expect("the listening begins or ends");
    }
}

fn message(content: FanOutContent) -> FanOut {
    FanOut { group: group(1), content }
}

fn application() -> FanOut {
    message(FanOutContent::Application(b"hello".to_vec().into()))
}

#[tokio::test]
async fn a_message_is_pushed_when_it_is_durable_and_not_before() {
    let faults = Faults::new();
    let mut pushing = Pushing::start(World::with_faults(&faults).await, vec![status("201 Created")]).await;
    let (_, config) = pushing.create("/one").await;
    faults.hold();
    let mut sent = Box::pin(pushing.world.tell(&config, application(), false));
    tokio::select! {
        biased;
        _ = &mut sent => panic!("sent before it was durable"),
        () = faults.wait_until_held() => {}
    }
    assert_eq!((pushing.waiting(), pushing.endpoint.connections()), (0, 0));
    faults.release();
    assert_eq!(sent.await, 0);
    assert_eq!(pushing.next().await, "/one");
}

#[tokio::test]
async fn what_nobody_is_to_be_woken_for_does_not_push() {
    let mut pushing = Pushing::start(World::start().await, vec![status("201 Created")]).await;
    let (owner, config) = pushing.create("/owner").await;
    let bytes = || b"opaque".to_vec().into();
    for content in
        [FanOutContent::Commit(bytes()), FanOutContent::Proposal(bytes()), FanOutContent::GroupDeleted(bytes())]
    {
        assert_eq!(pushing.world.tell(&config, message(content), false).await, 0);
        assert_eq!(pushing.waiting(), 0);
    }
    assert_eq!(pushing.world.tell(&config, application(), true).await, 0);
    assert_eq!(pushing.waiting(), 0, "the sender did not want it");

    let without_key = pushing.world.seal(&owner).await;
    assert_eq!(pushing.world.tell(&without_key, application(), false).await, 0);
    assert_eq!(pushing.waiting(), 0, "nobody can open the token");

    let without_token = pushing.world.create().await;
    let its_config = pushing.world.seal_with(&without_token, Some(TOKEN_KEY)).await;
    assert_eq!(pushing.world.tell(&its_config, application(), false).await, 0);
    assert_eq!(pushing.waiting(), 0, "it has no token");

    let blocked = vec![blocked_group(&Secret::new([5; 32]), &group(1).to_vec())];
    pushing.world.ask::<call::QsUpdateBlocklist>(owner.as_client(), &UpdateBlocklist { blocked }).await.unwrap();
    assert_eq!(pushing.world.tell(&config, application(), false).await, 0);
    assert_eq!(pushing.waiting(), 0, "its owner has blocked the group");
    let other = FanOut { group: GroupId { uuid: [2; 16], ..group(1) }, ..application() };
    assert_eq!(pushing.world.tell(&config, other, false).await, 0);
    assert_eq!(pushing.next().await, "/owner");

    let (_, invited) = pushing.create("/invited").await;
    let ear_key = HpkeCiphertext { kem_output: bytes(), ciphertext: bytes() };
    let welcome = WelcomeBundle { welcome: bytes(), joiner: Joiner { attribution: bytes(), ear_key } };
    assert_eq!(pushing.world.tell(&invited, message(FanOutContent::Welcome(welcome)), false).await, 0);
    assert_eq!(pushing.next().await, "/invited");
}

#[tokio::test]
async fn whoever_listens_is_pushed_only_when_it_has_gone_and_left_something() {
    let mut pushing = Pushing::start(World::start().await, vec![status("201 Created")]).await;
    let (owner, config) = pushing.create("/owner").await;
    let start = pushing.world.entries(&owner, [1; 16], 0).await.head;
    let mut frames = pushing.world.listen(&owner, start).await;
    assert_eq!(pushing.world.tell(&config, application(), false).await, 0);
    assert_eq!(pushing.waiting(), 0);
    let frame = QueueEntries::from_bytes(frames.next().await.unwrap().unwrap()).unwrap();
    let next = frame.entries.last().unwrap().sequence + 1;
    frames.send(Acknowledge { next }.to_vec().into()).await.unwrap();
    let deleted = async { while pushing.world.entries(&owner, [1; 16], 0).await.first < next {} };
    timeout(Duration::from_secs(60), deleted).await.expect("it is deleted");
    drop(frames);
    pushing.is_listened_to(&owner, false).await;
    // It is looked whether there is something, and there is not.
    let over = async {
        while pushing.waiting() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(60), over).await.expect("its turn ends");
    assert_eq!(pushing.endpoint.connections(), 0);

    let frames = pushing.world.listen(&owner, next).await;
    assert_eq!(pushing.world.tell(&config, application(), false).await, 0);
    assert_eq!(pushing.waiting(), 0);
    drop(frames);
    assert_eq!(pushing.next().await, "/owner");
}

#[tokio::test]
async fn an_endpoint_that_is_gone_costs_its_client_the_token_and_a_newer_one_stays() {
    let mut pushing = Pushing::start(World::start().await, vec![status("410 Gone"), status("201 Created")]).await;
    let (owner, config) = pushing.create("/gone").await;
    assert!(pushing.has_token(&owner).await);
    assert_eq!(pushing.world.tell(&config, application(), false).await, 0);
    assert_eq!(pushing.next().await, "/gone");
    let removed = async { while pushing.has_token(&owner).await {} };
    timeout(Duration::from_secs(60), removed).await.expect("the token is removed");
    let counts = pushing.world.dispatcher.push_counts();
    assert_eq!((counts.gone(), counts.sent()), (1, 0));

    // Another token is not what was gone, and takes effect at once though the config was opened before.
    let (other, its_config) = pushing.create("/other").await;
    let old = pushing.token(&other, "/older");
    pushing.world.dispatcher.forget_token(other.client, &old).await;
    assert!(pushing.has_token(&other).await);
    assert_eq!(pushing.world.tell(&its_config, application(), false).await, 0);
    assert_eq!(pushing.next().await, "/other");
}

#[tokio::test]
async fn a_token_that_is_set_or_taken_back_counts_from_the_next_message_on() {
    let mut pushing = Pushing::start(World::start().await, vec![status("201 Created")]).await;
    let owner = pushing.world.create().await;
    let config = pushing.world.seal_with(&owner, Some(TOKEN_KEY)).await;
    assert_eq!(pushing.world.tell(&config, application(), false).await, 0);
    assert_eq!(pushing.waiting(), 0);
    for length in [0, SEALED_PUSH_TOKEN - 1, SEALED_PUSH_TOKEN + 1] {
        let refused = pushing.set_token(&owner, Some(vec![0; length])).await.unwrap_err();
        assert_eq!(refused.status, Status::Malformed);
    }
    pushing.set_token(&owner, Some(pushing.token(&owner, "/set"))).await.unwrap();
    assert_eq!(pushing.world.tell(&config, application(), false).await, 0);
    assert_eq!(pushing.next().await, "/set");

    let (other, its_config) = pushing.create("/never").await;
    pushing.set_token(&other, None).await.unwrap();
    let before = pushing.waiting();
    assert_eq!(pushing.world.tell(&its_config, application(), false).await, 0);
    assert_eq!(pushing.waiting(), before);
}

#[tokio::test]
async fn the_key_by_which_push_services_know_the_qs_stays_and_is_only_told_if_it_pushes() {
    let engine = MemoryEngine::new();
    let start = async |push: bool| {
        let store = Store::open(engine.clone(), Options::new(|error| panic!("{error}"))).unwrap();
        let parts = parts(store);
        parts.policy.change(|policy| policy.push.enabled = push);
        let dispatcher = Dispatcher::start(parts).await.unwrap();
        let connection = memory::connect(Arc::new(Service(dispatcher)));
        ask::<call::QsGetKeys>(&connection, &GetQueuingKeys {}).await.unwrap().push_key
    };
    let key = start(true).await;
    assert!(key.is_some());
    assert_eq!(start(false).await, None);
    assert_eq!(start(true).await, key);
}
