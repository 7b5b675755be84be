//! What the AS refuses, over the wire: each limit of requests in time, requests to certify what it does not, packages that are
//! not what they should be, queues that are full. Nothing that was refused has changed anything.

use super::{
    queuing::{Days, START},
    *,
};
use crate::{
    base::{AliasId, ClientId, Clock, UserId},
    crypto::{
        alias::Alias,
        credential::request_client,
        hpke::HpkePrivateKey,
        opaque::{ClientLogin, Registration},
        random,
    },
    service::policy::Rates,
    store::{Key, Limit, Row, Table},
    wire::{
        Opaque, SenderId,
        authentication::{
            ChangePassword, Credentials, EnqueueDirect, FinishRegistration, GetAliasPackage, GetConnectionPackage,
            GetCredentials, GetUserProfile, Init2fa, InitRegistration, PublishConnectionPackages, RegisterAlias,
            SecondFactor, UpdateUserProfile,
        },
        connection::{AliasPackage, ConnectionPackage, ConnectionPackageTbs, DirectMessage},
        credential::{CIPHERSUITE, DayValidity, HpkeCiphertext, HpkePublicKey, Validity},
        label::SignatureLabel,
    },
};

struct World {
    store: Store,
    clock: Days,
    connection: Connection,
    credentials: Credentials,
}

/// A user that is registered, or about to be.
struct Person {
    client: ClientId,
    key: SigningKey,
}

impl Person {
    fn new() -> Self {
        let user = UserId { uuid: random(&mut system_rng()), domain: "a.test".parse().unwrap() };
        let client = ClientId { user, client: random(&mut system_rng()) };
        Self { client, key: SigningKey::generate(&mut system_rng()).unwrap() }
    }

    fn sender(&self) -> Option<(SenderId, &SigningKey)> {
        Some((SenderId::AsClient(self.client.clone()), &self.key))
    }
}

impl World {
    async fn start(rates: Rates) -> Self {
        let clock = Days::at(START);
        let store = Store::open(MemoryEngine::new(), Options::new(|error| panic!("{error}"))).unwrap();
        let parts = Parts { clock: Arc::new(clock.clone()), ..parts(store.clone()) };
        parts.policy.change(|policy| policy.rates = rates);
        let dispatcher = Dispatcher::start(parts).await.unwrap();
        let connection = memory::connect(Arc::new(Service(dispatcher)));
        let credentials = super::ask::<call::AsGetCredentials>(&connection, &GetCredentials {}).await.unwrap();
        Self { store, clock, connection, credentials }
    }

    async fn ask<C: Call>(
        &self,
        by: Option<(SenderId, &SigningKey)>,
        request: &C::Request,
    ) -> Result<C::Response, Refusal> {
        ask_by::<C>(&self.connection, by, request).await
    }

    fn validity(&self) -> Validity {
        let now = self.clock.now().seconds();
        Validity { not_before: now - 60, not_after: now + 30 * 86_400 }
    }

    fn package(&self, of: &Person) -> ConnectionPackage {
        let (client, encryption_key, validity) = (of.client.clone(), queue_key(), self.validity());
        let content = ConnectionPackageTbs { client, ciphersuite: CIPHERSUITE, encryption_key, validity };
        let signature = of.key.sign(SignatureLabel::ConnectionPackage, &content);
        ConnectionPackage { content, signature }
    }

    async fn init(&self, user: &UserId) -> Result<Opaque, Refusal> {
        let (registration, request) = Registration::start(user.clone(), "password", &mut system_rng()).unwrap();
        let init = InitRegistration { user: user.clone(), request, invitation: None };
        let answer = self.ask::<call::AsInitRegistration>(None, &init).await?;
        Ok(registration.finish("password", answer.response.as_slice(), &mut system_rng()).unwrap())
    }

    /// The second half of a registration.
    async fn prepared(&self, of: &Person) -> FinishRegistration {
        let signer = &self.credentials.intermediates[0];
        FinishRegistration {
            record: self.init(&of.client.user).await.unwrap(),
            request: request_client(of.client.clone(), self.validity(), signer, &of.key, None),
            queue_key: queue_key(),
            packages: vec![self.package(of)],
            profile: vec![0; 64].into(),
            invitation: None,
        }
    }

    async fn register(&self) -> Person {
        let person = Person::new();
        let finish = self.prepared(&person).await;
        self.ask::<call::AsFinishRegistration>(person.sender(), &finish).await.unwrap();
        person
    }

    async fn log_in(&self, person: &Person) -> Result<(), Refusal> {
        let (_, login) = ClientLogin::start(person.client.user.clone(), "password", &mut system_rng()).unwrap();
        self.ask::<call::AsInit2fa>(person.sender(), &Init2fa { login, new_password: None }).await.map(drop)
    }

    async fn enqueue(&self, to: &ClientId) -> Result<(), Refusal> {
        let sealed = HpkeCiphertext { kem_output: vec![0; 32].into(), ciphertext: vec![0; 64].into() };
        let request = EnqueueDirect { client: to.clone(), message: DirectMessage { key_hash: [0; 32], sealed } };
        self.ask::<call::AsEnqueue>(None, &request).await.map(drop)
    }

    async fn register_alias(&self, name: &str) -> Result<AliasId, Refusal> {
        let (id, key) = (alias(name), SigningKey::generate(&mut system_rng()).unwrap());
        let today = self.clock.now().day();
        let validity = DayValidity { not_before: today.0, not_after: today.plus(30).0 };
        let package = AliasPackage { ciphersuite: CIPHERSUITE, encryption_key: queue_key(), validity };
        let (queue_key, packages) = (queue_key(), vec![package]);
        let request = RegisterAlias { alias: name.into(), key: key.verifying_key(), queue_key, packages };
        self.ask::<call::AsRegisterAlias>(Some((SenderId::AsAlias(id), &key)), &request).await.map(|_| id)
    }

    async fn everything(&self) -> Vec<Vec<Row>> {
        self.store.barrier().await.unwrap();
        let mut tables = Vec::new();
        for table in Table::ALL {
            tables.push(self.store.durable().scan(*table, Key::new().., Limit::rows(100_000)).await.unwrap());
        }
        tables
    }
}

fn queue_key() -> HpkePublicKey {
    HpkePrivateKey::generate(&mut system_rng()).unwrap().public_key()
}

fn alias(name: &str) -> AliasId {
    Alias::parse(name).unwrap().id(&"a.test".parse().unwrap())
}

/// Twice is once too often, and for how long is said.
fn limited(first: Result<(), Refusal>, second: Result<(), Refusal>) {
    first.unwrap();
    let refused = second.unwrap_err();
    assert_eq!(refused.status, Status::RateLimited, "{refused:?}");
    let wait = refused.retry_after.expect("when to try again");
    assert!(!wait.is_zero() && wait <= std::time::Duration::from_secs(3_600), "{wait:?}");
}

#[tokio::test]
async fn each_rate_is_kept_by_its_own_count() {
    let rates = Rates::default;
    let world = World::start(Rates { registrations_per_address: 1, ..rates() }).await;
    let init = async || world.init(&Person::new().client.user).await.map(drop);
    limited(init().await, init().await);

    let world = World::start(Rates { logins_per_account: 1, ..rates() }).await;
    let (one, other) = (world.register().await, world.register().await);
    limited(world.log_in(&one).await, world.log_in(&one).await);
    world.log_in(&other).await.unwrap();

    let world = World::start(Rates { logins_per_address: 1, ..rates() }).await;
    let (one, other) = (world.register().await, world.register().await);
    limited(world.log_in(&one).await, world.log_in(&other).await);

    let package = async |world: &World, of: &Person| {
        let request = GetConnectionPackage { user: of.client.user.clone() };
        world.ask::<call::AsGetConnectionPackage>(None, &request).await.map(drop)
    };
    let world = World::start(Rates { package_lookups_per_address: 1, ..rates() }).await;
    let (one, other) = (world.register().await, world.register().await);
    limited(package(&world, &one).await, package(&world, &other).await);
    let world = World::start(Rates { package_lookups_per_user: 1, ..rates() }).await;
    let (one, other) = (world.register().await, world.register().await);
    limited(package(&world, &one).await, package(&world, &one).await);
    package(&world, &other).await.unwrap();

    let world = World::start(Rates { profile_lookups_per_address: 1, ..rates() }).await;
    let one = world.register().await;
    let profile = async || {
        let request = GetUserProfile { user: one.client.user.clone() };
        world.ask::<call::AsGetUserProfile>(None, &request).await.map(drop)
    };
    limited(profile().await, profile().await);

    let world = World::start(Rates { alias_registrations_per_address: 1, ..rates() }).await;
    limited(world.register_alias("robert").await.map(drop), world.register_alias("william").await.map(drop));

    let find = async |world: &World, name: &str| {
        let found = world.ask::<call::AsGetAliasPackage>(None, &GetAliasPackage { alias: alias(name) }).await;
        found.map(drop)
    };
    let world = World::start(Rates { alias_lookups_per_address: 2, ..rates() }).await;
    world.register_alias("robert").await.unwrap();
    limited(find(&world, "robert").await, find(&world, "william").await);
    let world = World::start(Rates { alias_lookups_per_alias: 1, ..rates() }).await;
    world.register_alias("robert").await.unwrap();
    limited(find(&world, "robert").await, find(&world, "robert").await);

    let world = World::start(Rates { offers_per_address: 1, ..rates() }).await;
    let (one, other) = (world.register().await, world.register().await);
    limited(world.enqueue(&one.client).await, world.enqueue(&other.client).await);
    let world = World::start(Rates { offers_per_queue: 1, ..rates() }).await;
    let (one, other) = (world.register().await, world.register().await);
    limited(world.enqueue(&one.client).await, world.enqueue(&one.client).await);
    world.enqueue(&other.client).await.unwrap();
}

#[tokio::test]
async fn only_what_is_the_sender_own_and_no_longer_than_the_signer_is_certified() {
    let world = World::start(Rates::default()).await;
    let (person, other) = (Person::new(), Person::new());
    let signer = &world.credentials.intermediates[0];
    let right = world.prepared(&person).await;
    let before = world.everything().await;
    let certify = |client: ClientId, validity: Validity, key: &SigningKey| FinishRegistration {
        request: request_client(client, validity, signer, key, None),
        ..right.clone()
    };
    let elsewhere = UserId { domain: "b.test".parse().unwrap(), ..person.client.user.clone() };
    let elsewhere = Person {
        client: ClientId { user: elsewhere, ..person.client.clone() },
        key: SigningKey::from_seed(person.key.seed().clone()).unwrap(),
    };
    let of_signer = signer.request.payload.validity.not_after;
    let longer = Validity { not_after: of_signer + 1, ..world.validity() };
    let over = Validity { not_after: world.clock.now().seconds() - 1, ..world.validity() };
    let mut of_nobody = right.clone();
    of_nobody.request.payload.signer[0] ^= 1;
    let mut by_another = right.clone();
    by_another.request.self_signature = other.key.sign(SignatureLabel::ClientRequest, &right.request.payload);
    let packages = |packages| FinishRegistration { packages, ..right.clone() };
    use Status::{Forbidden, Malformed, TooLarge};
    let zero = HpkePublicKey::from(&[0; 32][..]);
    for (what, by, request, wanted) in [
        (
            "another domain",
            &elsewhere,
            certify(elsewhere.client.clone(), world.validity(), &person.key),
            vec![Forbidden],
        ),
        ("longer than the signer", &person, certify(person.client.clone(), longer, &person.key), vec![Forbidden]),
        ("over already", &person, certify(person.client.clone(), over, &person.key), vec![Forbidden]),
        ("an unknown signer", &person, of_nobody, vec![Forbidden]),
        ("signed by another key", &person, by_another, vec![Malformed]),
        ("no package", &person, packages(Vec::new()), vec![Malformed]),
        ("a package of another", &person, packages(vec![world.package(&other)]), vec![Malformed]),
        ("a queue key of low order", &person, FinishRegistration { queue_key: zero, ..right.clone() }, vec![Malformed]),
        ("no record", &person, FinishRegistration { record: vec![1; 191].into(), ..right.clone() }, vec![Malformed]),
        (
            "a huge profile",
            &person,
            FinishRegistration { profile: vec![0; 32_769].into(), ..right.clone() },
            vec![TooLarge],
        ),
    ] {
        let refused = world.ask::<call::AsFinishRegistration>(by.sender(), &request).await.unwrap_err();
        assert!(wanted.contains(&refused.status), "{what}: {refused:?}");
    }
    // The user is another than whose key proves the request.
    let refused = world.ask::<call::AsFinishRegistration>(other.sender(), &right).await.unwrap_err();
    assert_eq!(refused.status, Status::Unauthenticated);
    assert!(world.everything().await == before, "refused means unchanged");
    world.ask::<call::AsFinishRegistration>(person.sender(), &right).await.unwrap();
}

#[tokio::test]
async fn packages_that_nobody_could_use_are_not_published() {
    let world = World::start(Rates::default()).await;
    let (person, other) = (world.register().await, world.register().await);
    let before = world.everything().await;
    let publish = async |packages: Vec<ConnectionPackage>| {
        let request = PublishConnectionPackages { packages, queue_key: queue_key() };
        world.ask::<call::AsPublishConnectionPackages>(person.sender(), &request).await.unwrap_err().status
    };
    let changed = |change: &dyn Fn(&mut ConnectionPackageTbs)| {
        let mut content = world.package(&person).content;
        change(&mut content);
        let signature = person.key.sign(SignatureLabel::ConnectionPackage, &content);
        vec![ConnectionPackage { content, signature }]
    };
    let mut forged = world.package(&person);
    forged.signature = world.package(&person).signature;
    let now = world.clock.now().seconds();
    for (what, packages) in [
        ("none", Vec::new()),
        ("too many", (0..101).map(|_| world.package(&person)).collect()),
        ("another's", vec![world.package(&other)]),
        ("with another's signature", vec![forged]),
        ("for another client", changed(&|content| content.client = other.client.clone())),
        ("expired", changed(&|content| content.validity.not_after = now - 1)),
        ("not valid yet", changed(&|content| content.validity.not_before = now + 60)),
        ("of another ciphersuite", changed(&|content| content.ciphersuite = 2)),
        ("with half a key", changed(&|content| content.encryption_key = vec![1; 16][..].into())),
        ("with a key of low order", changed(&|content| content.encryption_key = vec![0; 32][..].into())),
        ("one good and one bad", [vec![world.package(&person)], vec![world.package(&other)]].concat()),
    ] {
        assert_eq!(publish(packages).await, Status::Malformed, "{what}");
    }
    assert!(world.everything().await == before, "refused means unchanged");
}

#[tokio::test]
async fn a_direct_queue_takes_so_much_and_is_somebodys() {
    let rates = Rates { offers_per_address: 10_000, offers_per_queue: 10_000, ..Rates::default() };
    let world = World::start(rates).await;
    let person = world.register().await;
    let nobody = world.enqueue(&Person::new().client).await.unwrap_err();
    assert_eq!(nobody.status, Status::NotFound);
    let another = ClientId { client: [9; 16], ..person.client.clone() };
    assert_eq!(world.enqueue(&another).await.unwrap_err().status, Status::NotFound);
    // The secret is in it.
    for _ in 1..QueueLimits::default().direct_entries {
        world.enqueue(&person.client).await.unwrap();
    }
    let before = world.everything().await;
    let full = world.enqueue(&person.client).await.unwrap_err();
    assert_eq!(full.status, Status::QuotaExceeded);
    assert!(world.everything().await == before, "refused means unchanged");
}

#[tokio::test]
async fn a_profile_has_a_size_and_a_login_has_its_time() {
    let world = World::start(Rates::default()).await;
    let person = world.register().await;
    let profile = async |size| {
        let request = UpdateUserProfile { profile: vec![1; size].into() };
        world.ask::<call::AsUpdateUserProfile>(person.sender(), &request).await.map(drop)
    };
    profile(32 << 10).await.unwrap();
    assert_eq!(profile((32 << 10) + 1).await.unwrap_err().status, Status::TooLarge);

    let user = person.client.user.clone();
    let (login, ke1) = ClientLogin::start(user.clone(), "password", &mut system_rng()).unwrap();
    let (registration, request) = Registration::start(user, "another", &mut system_rng()).unwrap();
    let init = Init2fa { login: ke1, new_password: Some(request) };
    let challenge = world.ask::<call::AsInit2fa>(person.sender(), &init).await.unwrap();
    let login = login.finish("password", challenge.login.as_slice(), &mut system_rng()).unwrap();
    let new = challenge.new_password.unwrap();
    let record = registration.finish("another", new.as_slice(), &mut system_rng()).unwrap();
    world.clock.pass(1);
    let change = ChangePassword { factor: SecondFactor { session: challenge.session, login }, record };
    let late = world.ask::<call::AsChangePassword>(person.sender(), &change).await.unwrap_err();
    assert_eq!(late.status, Status::Unauthenticated);
    world.log_in(&person).await.unwrap();
}
