//! Offers that are not what they claim to be, to users and to aliases, and what the homeserver answers to whoever uses an
//! alias wrongly.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{tokens::Hands, *};
use crate::{
    base::{AliasId, ClientId, Status},
    crypto::{alias::Alias, hpke, hpke::HpkePrivateKey, random, random_secret, sha256, signature::SigningKey},
    wire::{
        Call, Encode, SenderId,
        authentication::{
            AliasPackageOf, ConnectionPackageOf, DeleteAlias, EnqueueAlias, EnqueueDirect, GetAliasPackage,
            GetConnectionPackage, PublishAliasPackages, RegisterAlias,
        },
        connection::{AliasPackage, ConnectionOffer, ConnectionOfferTbs, DirectMessage, FriendshipPackage, Recipient},
        content::UserProfile,
        credential::{CIPHERSUITE, DayValidity, HpkePublicKey},
        label::{HpkeLabel, SignatureLabel},
        method::call,
        padding::{OFFER_FLOOR, pad_value},
        queue::Dequeue,
    },
};

const DAY: u64 = 86_400_000;

fn domain() -> Domain {
    "a.test".parse().unwrap()
}

fn id(alias: &str) -> AliasId {
    Alias::parse(alias).unwrap().id(&domain())
}

impl User {
    async fn ask<C: Call>(
        &self,
        sender: Option<(AliasId, &SigningKey)>,
        request: &C::Request,
    ) -> Result<C::Response, ClientError> {
        let sender = match sender {
            Some((alias, key)) => network::Sender::Signed(SenderId::AsAlias(alias), key),
            None => network::Sender::Nobody,
        };
        self.client.0.network.call::<C>(&domain(), Isolation::Anonymous, sender, request).await
    }

    /// A package of a recipient, encoded, and its key.
    async fn package(&self, of: &Recipient) -> (Vec<u8>, HpkePublicKey) {
        match of {
            Recipient::User(user) => {
                let request = GetConnectionPackage { user: user.clone() };
                let ConnectionPackageOf { package, .. } =
                    self.ask::<call::AsGetConnectionPackage>(None, &request).await.unwrap();
                (package.to_vec(), package.content.encryption_key)
            }
            Recipient::Alias(alias) => {
                let request = GetAliasPackage { alias: *alias };
                let AliasPackageOf { package } = self.ask::<call::AsGetAliasPackage>(None, &request).await.unwrap();
                (package.to_vec(), package.encryption_key)
            }
        }
    }

    async fn put(&self, to: &Recipient, client: &ClientId, message: DirectMessage) {
        match to {
            Recipient::User(_) => {
                let request = EnqueueDirect { client: client.clone(), message };
                self.ask::<call::AsEnqueue>(None, &request).await.unwrap();
            }
            Recipient::Alias(alias) => {
                self.ask::<call::AsEnqueueAlias>(None, &EnqueueAlias { alias: *alias, message }).await.unwrap();
            }
        }
    }

    /// An offer of this user to a recipient by a package.
    fn content(&self, recipient: &Recipient, package: &[u8]) -> ConnectionOfferTbs {
        let mut rng = system_rng();
        ConnectionOfferTbs {
            credential: self.client.0.account().credential.clone(),
            recipient: recipient.clone(),
            package_hash: sha256(package),
            offer_id: random(&mut rng),
            reply_key: HpkePrivateKey::generate(&mut rng).unwrap().public_key(),
            group: GroupId { uuid: random(&mut rng), domain: domain() },
            ear_key: random_secret(&mut rng),
            credential_key: random_secret(&mut rng),
            profile: UserProfile { name: Text("A".into()), picture: None },
            friendship: FriendshipPackage {
                friendship_token: random_secret(&mut rng),
                friendship_encryption_key: random_secret(&mut rng),
                welcome_attribution_key: random_secret(&mut rng),
                user_profile_key: random_secret(&mut rng),
            },
        }
    }

    fn signed(&self, content: ConnectionOfferTbs) -> ConnectionOffer {
        let signature = self.client.0.account().keys.identity.sign(SignatureLabel::ConnectionOffer, &content);
        ConnectionOffer { content, signature }
    }
}

fn seal(offer: &ConnectionOffer, key: &HpkePublicKey, bound_to: &Recipient) -> DirectMessage {
    let padded = pad_value(offer, OFFER_FLOOR);
    let (info, bound_to) = (HpkeLabel::ConnectionOffer, bound_to.to_vec());
    let sealed = hpke::seal(key, info, &bound_to, &[], &padded, &mut system_rng()).unwrap();
    DirectMessage { key_hash: sha256(key.as_slice()), sealed }
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_that_are_not_what_they_claim_are_refused() {
    let server = Homeserver::start().await;
    let (alice, bob, eve) = (server.register("A").await, server.register("Bob").await, server.register("Eve").await);
    bob.client.register_alias("bobby").await.unwrap();
    bob.client.register_alias("robert").await.unwrap();
    let client = bob.client.0.account().client.clone();
    let (as_user, as_alias) = (Recipient::User(bob.id()), Recipient::Alias(id("bobby")));
    let mut refused = 0;
    for (to, other) in [
        (&as_user, Recipient::User(eve.id())),
        (&as_user, as_alias.clone()),
        (&as_alias, as_user.clone()),
        (&as_alias, Recipient::Alias(id("robert"))),
    ] {
        let (package, key) = alice.package(to).await;
        let content = || alice.content(to, &package);
        let mut forged = vec![
            // Signed by another key than that of the credential.
            seal(&eve.signed(content()), &key, to),
            // Made to somebody else, or encrypted for somebody else.
            seal(&alice.signed(alice.content(&other, &package)), &key, to),
            seal(&alice.signed(content()), &key, &other),
            // For another package.
            seal(&alice.signed(alice.content(to, b"another")), &key, to),
            // By the recipient itself.
            seal(&bob.signed(bob.content(to, &package)), &key, to),
        ];
        // With a credential of nobody.
        let mut changed = content();
        changed.credential.request.payload.client.user.uuid = [9; 16];
        forged.push(seal(&alice.signed(changed), &key, to));
        // To a key that is not there.
        let strange = HpkePrivateKey::generate(&mut system_rng()).unwrap().public_key();
        forged.push(seal(&alice.signed(content()), &strange, to));
        for message in forged {
            alice.put(to, &client, message).await;
            refused += 1;
        }
        // Through another queue than that of the package.
        alice.put(&other_queue(to, &as_user, &as_alias), &client, seal(&alice.signed(content()), &key, to)).await;
        refused += 1;
        bob.client.sync().await.unwrap();
        assert!(bob.client.requests().await.unwrap().is_empty());
        assert_eq!(bob.client.problems().await.unwrap().len(), refused, "{:?}", bob.client.problems().await);

        // The right one; the same again is the same; another to the same package is refused.
        let message = seal(&alice.signed(content()), &key, to);
        alice.put(to, &client, message.clone()).await;
        alice.put(to, &client, message).await;
        alice.put(to, &client, seal(&alice.signed(content()), &key, to)).await;
        refused += 1;
        bob.client.sync().await.unwrap();
        let requests = bob.client.requests().await.unwrap();
        assert_eq!(requests.len(), 1);
        assert_eq!(bob.client.problems().await.unwrap().len(), refused, "{:?}", bob.client.problems().await);
        bob.client.decline(&requests[0].id).await.unwrap();
    }
}

fn other_queue(to: &Recipient, as_user: &Recipient, as_alias: &Recipient) -> Recipient {
    if to == as_user { as_alias.clone() } else { as_user.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_offers_and_offers_to_expired_packages_cannot_be_accepted() {
    let clock = Arc::new(Hands(AtomicU64::new(SystemClock.now().0)));
    let server = Homeserver::start_under(QueueLimits::default(), Policy::default(), clock.clone()).await;
    let (alice, bob, carol) =
        (server.register("A").await, server.register("Bob").await, server.register("Carol").await);
    bob.client.register_alias("bobby").await.unwrap();
    alice.client.connect_alias("bobby", &domain()).await.unwrap();
    carol.client.connect(&bob.id()).await.unwrap();
    let client = bob.client.0.account().client.clone();
    let mut late = Vec::new();
    for to in [Recipient::User(bob.id()), Recipient::Alias(id("bobby"))] {
        let (package, key) = alice.package(&to).await;
        late.push((seal(&alice.signed(alice.content(&to, &package)), &key, &to), to));
    }
    bob.client.sync().await.unwrap();
    let requests = bob.client.requests().await.unwrap();
    assert_eq!(requests.len(), 2);
    clock.0.fetch_add(29 * DAY, Ordering::SeqCst);
    assert_eq!(bob.client.requests().await.unwrap().len(), 2);
    for (message, to) in late {
        alice.put(&to, &client, message).await;
    }
    clock.0.fetch_add(2 * DAY, Ordering::SeqCst);
    assert!(bob.client.requests().await.unwrap().is_empty());
    for request in requests {
        let error = bob.client.accept(&request.id).await.unwrap_err();
        assert!(error.status() == "invalid" && error.to_string().contains("has expired"), "{error}");
    }
    bob.client.drain_offers(&[Queue::Direct, Queue::Alias(id("bobby"))]).await;
    assert!(bob.client.requests().await.unwrap().is_empty());
    let problems = bob.client.problems().await.unwrap();
    assert_eq!(problems.iter().filter(|(_, text)| text.contains("expired connection package")).count(), 2);
}

impl Client {
    async fn drain_offers(&self, queues: &[Queue]) {
        for queue in queues {
            self.0.drain(*queue).await.unwrap();
        }
    }
}

fn alias_package(days: std::ops::RangeInclusive<u32>) -> AliasPackage {
    AliasPackage {
        ciphersuite: CIPHERSUITE,
        encryption_key: HpkePrivateKey::generate(&mut system_rng()).unwrap().public_key(),
        validity: DayValidity { not_before: *days.start(), not_after: *days.end() },
    }
}

fn status(outcome: Result<impl std::fmt::Debug, ClientError>) -> Status {
    match outcome {
        Err(ClientError::Refused(refusal)) => refusal.status,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_uses_an_alias_wrongly_is_told_so() {
    let limits = QueueLimits { direct_entries: 3, ..QueueLimits::default() };
    let server = Homeserver::start_with(limits).await;
    let alice = server.register("Alice").await;
    let today = SystemClock.now().day().0;
    let (key, other) =
        (SigningKey::generate(&mut system_rng()).unwrap(), SigningKey::generate(&mut system_rng()).unwrap());
    let request = |alias: &str, key: &SigningKey| RegisterAlias {
        alias: Text(alias.into()),
        key: key.verifying_key(),
        queue_key: HpkePrivateKey::generate(&mut system_rng()).unwrap().public_key(),
        packages: vec![alias_package(today..=today + 1)],
    };
    let bobby = id("bobby");
    let register = async |sender, request: RegisterAlias| alice.ask::<call::AsRegisterAlias>(sender, &request).await;

    let no_alias = register(Some((bobby, &key)), request("b--", &key)).await;
    assert!(no_alias.as_ref().unwrap_err().to_string().contains("a letter or a digit"));
    assert_eq!(status(no_alias), Status::Malformed);
    assert_eq!(status(register(Some((bobby, &key)), request("robert", &key)).await), Status::Unauthenticated);
    assert_eq!(status(register(Some((bobby, &other)), request("bobby", &key)).await), Status::Unauthenticated);
    assert_eq!(status(register(None, request("bobby", &key)).await), Status::Unauthenticated);
    let with = |packages| RegisterAlias { packages, ..request("bobby", &key) };
    let mut strange = alias_package(today..=today);
    strange.ciphersuite = 2;
    let mut short = alias_package(today..=today);
    short.encryption_key = vec![1; 31].as_slice().into();
    for packages in [
        Vec::new(),
        vec![alias_package(today..=today); 101],
        vec![alias_package(today + 1..=today + 2)],
        vec![alias_package(today - 3..=today - 2)],
        vec![strange],
        vec![short],
    ] {
        assert_eq!(status(register(Some((bobby, &key)), with(packages)).await), Status::Malformed);
    }
    let unusable = RegisterAlias { queue_key: vec![1; 3].as_slice().into(), ..request("bobby", &key) };
    assert_eq!(status(register(Some((bobby, &key)), unusable).await), Status::Malformed);

    let first = request("Bobby", &key);
    let queue_key = first.queue_key.clone();
    let registered = register(Some((bobby, &key)), first.clone()).await.unwrap();
    assert_eq!(register(Some((bobby, &key)), first).await.unwrap(), registered, "the same again");
    assert_eq!(status(register(Some((bobby, &key)), request("bobby", &key)).await), Status::AlreadyExists);
    assert_eq!(status(register(Some((bobby, &other)), request("bobby", &other)).await), Status::AlreadyExists);

    // A wrong key and an alias that is not there get the same answer.
    let dequeue = Dequeue { incarnation: registered.incarnation, start: 0, max: 10 };
    let wrong = alice.ask::<call::AsDequeueAlias>(Some((bobby, &other)), &dequeue).await.unwrap_err();
    let unknown = alice.ask::<call::AsDequeueAlias>(Some((id("robert"), &key)), &dequeue).await.unwrap_err();
    assert_eq!((format!("{wrong:?}"), wrong.status()), (format!("{unknown:?}"), "unauthenticated"));
    let publish = PublishAliasPackages { packages: vec![alias_package(today..=today)], queue_key };
    alice.ask::<call::AsPublishAliasPackages>(Some((bobby, &key)), &publish).await.unwrap();
    assert_eq!(
        status(alice.ask::<call::AsPublishAliasPackages>(Some((bobby, &other)), &publish).await),
        Status::Unauthenticated
    );
    let none = PublishAliasPackages { packages: Vec::new(), ..publish };
    assert_eq!(status(alice.ask::<call::AsPublishAliasPackages>(Some((bobby, &key)), &none).await), Status::Malformed);
    assert_eq!(status(alice.ask::<call::AsDeleteAlias>(None, &DeleteAlias {}).await), Status::Unauthenticated);

    // The secret is in the queue already.
    let message = seal(
        &alice.signed(alice.content(&Recipient::Alias(bobby), b"")),
        &publish.packages[0].encryption_key,
        &Recipient::Alias(bobby),
    );
    let enqueue = |alias| EnqueueAlias { alias, message: message.clone() };
    for _ in 0..2 {
        alice.ask::<call::AsEnqueueAlias>(None, &enqueue(bobby)).await.unwrap();
    }
    assert_eq!(status(alice.ask::<call::AsEnqueueAlias>(None, &enqueue(bobby)).await), Status::QuotaExceeded);
    assert_eq!(alice.ask::<call::AsDequeueAlias>(Some((bobby, &key)), &dequeue).await.unwrap().entries.len(), 3);
    assert_eq!(status(alice.ask::<call::AsEnqueueAlias>(None, &enqueue(id("robert"))).await), Status::NotFound);
    let get = |alias| GetAliasPackage { alias };
    assert_eq!(status(alice.ask::<call::AsGetAliasPackage>(None, &get(id("robert"))).await), Status::NotFound);

    alice.ask::<call::AsDeleteAlias>(Some((bobby, &key)), &DeleteAlias {}).await.unwrap();
    assert_eq!(status(alice.ask::<call::AsDequeueAlias>(Some((bobby, &key)), &dequeue).await), Status::Unauthenticated);
    assert_eq!(status(alice.ask::<call::AsGetAliasPackage>(None, &get(bobby)).await), Status::NotFound);
    assert_eq!(status(alice.ask::<call::AsEnqueueAlias>(None, &enqueue(bobby)).await), Status::NotFound);
    register(Some((bobby, &other)), request("bobby", &other)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_names_many_homeservers_has_few_of_them_asked() {
    let world = World::of_many();
    let [server] = world.start_all(["a.test"]).await;
    let (bob, eve, alice) = (server.register("Bob").await, server.register("Eve").await, server.register("A").await);
    let client = bob.client.0.account().client.clone();
    let to = Recipient::User(bob.id());
    let most = state::strangers::NEW_A_DAY as usize;
    world.dialled();
    for n in 0..most + 5 {
        let (package, key) = eve.package(&to).await;
        let mut content = eve.content(&to, &package);
        content.credential.request.payload.client.user.domain = format!("n{n}.test").parse().unwrap();
        eve.put(&to, &client, seal(&eve.signed(content), &key, &to)).await;
        if n % 10 == 9 {
            // More packages are published meanwhile.
            bob.client.sync().await.unwrap();
        }
    }
    alice.client.connect(&bob.id()).await.unwrap();
    bob.client.sync().await.unwrap();
    let requests = bob.client.requests().await.unwrap();
    assert_eq!(requests.iter().map(|request| request.from.clone()).collect::<Vec<_>>(), [alice.id()]);
    let mut asked: Vec<_> = world.dialled().into_iter().filter(|(to, _)| *to != domain()).collect();
    assert!(asked.iter().all(|(_, role)| *role == Isolation::Anonymous), "{asked:?}");
    asked.dedup();
    let asked: std::collections::HashSet<_> = asked.into_iter().map(|(to, _)| to).collect();
    assert_eq!(asked.len(), most);
}
