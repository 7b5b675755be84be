//! Aliases: found by them, connected through them, and linked to nobody by anything that the homeserver stores.

use std::collections::HashSet;

use super::*;
use crate::{
    base::{AliasId, Status},
    crypto::{alias::Alias, mac, sha256},
    store::{Batch, Key, KeyRange, Limit, Table},
    wire::label::KeyLabel,
};

impl User {
    /// Connects to whoever is behind an alias, who accepts; returns the chat.
    async fn reach(&self, alias: &str, owner: &User) -> GroupId {
        let chat = self.client.connect_alias(alias, &domain()).await.unwrap();
        owner.client.sync().await.unwrap();
        let requests = owner.client.requests().await.unwrap();
        let request = requests.iter().find(|request| request.from == self.id()).unwrap();
        assert_eq!(owner.client.accept(&request.id).await.unwrap(), chat);
        self.client.sync().await.unwrap();
        assert_eq!((self.state(&chat).await, owner.state(&chat).await), (ChatState::Active, ChatState::Active));
        chat
    }
}

fn domain() -> Domain {
    "a.test".parse().unwrap()
}

fn id(alias: &str) -> AliasId {
    Alias::parse(alias).unwrap().id(&domain())
}

async fn next_of(events: &mut Events, wanted: impl Fn(&Event) -> bool) -> Event {
    loop {
        let event = events.next().await.unwrap();
        if wanted(&event) {
            return event;
        }
    }
}

fn refused_with(outcome: Result<impl std::fmt::Debug, ClientError>, status: Status) {
    let error = outcome.unwrap_err();
    assert!(matches!(&error, ClientError::Refused(refusal) if refusal.status == status), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_connect_through_an_alias_and_talk() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    assert_eq!(bob.client.register_alias("Bobby").await.unwrap(), "bobby");
    assert_eq!(bob.client.register_alias("bobby").await.unwrap(), "bobby", "again");
    let listed = bob.client.aliases().await.unwrap();
    assert_eq!(listed, [AliasView { alias: "bobby".into(), state: AliasState::Active }]);

    let chat = alice.client.connect_alias("BOBBY", &domain()).await.unwrap();
    assert_eq!(alice.client.connect_alias("bobby", &domain()).await.unwrap(), chat, "no second offer");
    let views = alice.client.chats().await.unwrap();
    assert_eq!((views[0].name.as_str(), views[0].members.len()), ("bobby@a.test", 1));
    bob.client.sync().await.unwrap();
    let requests = bob.client.requests().await.unwrap();
    assert_eq!((requests.len(), &requests[0].from), (1, &alice.id()));
    bob.client.accept(&requests[0].id).await.unwrap();
    alice.client.sync().await.unwrap();
    assert_eq!(alice.client.contacts().await.unwrap()[0].user, bob.id());
    let bob = bob.reopen().await;
    alice.say(&chat, "hello").await;
    bob.say(&chat, "hi").await;
    assert_eq!(bob.hear().await, [said("Alice", "hello")]);
    assert_eq!(alice.hear().await, [said("Bob", "hi")]);
    assert_eq!(alice.client.chats().await.unwrap()[0].name, "Bob");
    assert_eq!(alice.client.connect_alias("bobby", &domain()).await.unwrap(), chat);
    assert_eq!(bob.client.connect_alias("bobby", &domain()).await.unwrap_err().status(), "invalid", "an own alias");
    assert_eq!(bob.client.connect_alias("b", &domain()).await.unwrap_err().status(), "invalid", "no alias");
    alice.no_problems().await;
    bob.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_through_an_alias_is_declined() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    bob.client.register_alias("bobby").await.unwrap();
    let chat = alice.client.connect_alias("bobby", &domain()).await.unwrap();
    bob.client.sync().await.unwrap();
    let request = bob.client.requests().await.unwrap().remove(0);
    bob.client.decline(&request.id).await.unwrap();
    let mut events = alice.client.events();
    let declined = next_of(&mut events, |event| matches!(event, Event::Declined { .. })).await;
    assert_eq!(declined, Event::Declined { user: None, chat: chat.clone() });
    assert_eq!(alice.state(&chat).await, ChatState::Declined);
    assert_ne!(alice.client.connect_alias("bobby", &domain()).await.unwrap(), chat, "a new offer");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_is_taken_with_all_that_look_like_it_until_it_is_deleted() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    bob.client.register_alias("modern").await.unwrap();
    refused_with(alice.client.register_alias("modern").await, Status::AlreadyExists);
    refused_with(alice.client.register_alias("modem").await, Status::AlreadyExists);
    assert_eq!(bob.client.register_alias("modem").await.unwrap_err().status(), "invalid");
    assert!(alice.client.aliases().await.unwrap().is_empty(), "what was refused leaves nothing");
    assert_eq!(alice.client.register_alias("a b").await.unwrap_err().status(), "invalid");
    assert_eq!(alice.client.delete_alias("modern").await.unwrap_err().status(), "not_found");

    let mut events = bob.client.events();
    next_of(&mut events, |event| *event == Event::Listening(Queue::Alias(id("modern")))).await;
    server.lose(Method::AsDeleteAlias, 1);
    bob.client.delete_alias("modern").await.unwrap();
    assert!(server.lost_all());
    assert!(bob.client.aliases().await.unwrap().is_empty());
    refused_with(alice.client.connect_alias("modern", &domain()).await, Status::NotFound);
    alice.client.register_alias("modern").await.unwrap();
    bob.reach("modern", &alice).await;
    alice.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_registered_later_is_listened_to() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let mut events = bob.client.events();
    next_of(&mut events, |event| *event == Event::Listening(Queue::Direct)).await;
    bob.client.register_alias("bobby").await.unwrap();
    next_of(&mut events, |event| *event == Event::Listening(Queue::Alias(id("bobby")))).await;
    alice.client.connect_alias("bobby", &domain()).await.unwrap();
    let Event::Request { from, .. } = next_of(&mut events, |event| matches!(event, Event::Request { .. })).await else {
        unreachable!()
    };
    assert_eq!(from, alice.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_stopped_anywhere_goes_on_with_its_alias() {
    let server = Homeserver::start().await;
    let alice = server.register("Alice").await;
    let mut bob = server.register("Bob").await;
    for carried_out in [false, true] {
        for after in 0..6 {
            let hang = Hang { after, carried_out };
            let (found, _) =
                bob.stopped(hang, |client| async move { drop(client.register_alias("bobby").await) }).await;
            found.client.sync().await.unwrap();
            found.client.register_alias("bobby").await.unwrap();
            let (found, _) =
                found.stopped(hang, |client| async move { drop(client.delete_alias("bobby").await) }).await;
            found.client.sync().await.unwrap();
            let _ = found.client.delete_alias("bobby").await;
            assert!(found.client.aliases().await.unwrap().is_empty());
            bob = found;
        }
    }
    bob.client.register_alias("bobby").await.unwrap();
    alice.reach("bobby", &bob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_package_is_kept_and_used_ones_are_replaced() {
    let server = Homeserver::start().await;
    let bob = server.register("Bob").await;
    bob.client.register_alias("bobby").await.unwrap();
    let waiting = async || {
        let all = KeyRange::from(Key::new()..);
        server.store().durable().scan(Table::AsAliasPackages, all, Limit::rows(1_000)).await.unwrap().len()
    };
    assert_eq!(waiting().await, 10);
    let mut left = 10;
    for number in 0..12 {
        let alice = server.register(&format!("Alice {number}")).await;
        alice.client.connect_alias("bobby", &domain()).await.unwrap();
        left = (left - 1).max(1);
        assert_eq!(waiting().await, left);
    }
    bob.client.sync().await.unwrap();
    assert_eq!(bob.client.requests().await.unwrap().len(), 12);
    bob.no_problems().await;
    assert_eq!(waiting().await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_aliases_is_rate_limited() {
    let mut policy = Policy::default();
    policy.rates.alias_lookups_per_address = 3;
    let server = Homeserver::start_under(QueueLimits::default(), policy, Arc::new(SystemClock)).await;
    let alice = server.register("Alice").await;
    for guess in ["bob", "bobby", "robert"] {
        refused_with(alice.client.connect_alias(guess, &domain()).await, Status::NotFound);
    }
    refused_with(alice.client.connect_alias("rob", &domain()).await, Status::RateLimited);
    refused_with(alice.client.register_alias("rob").await, Status::RateLimited);
}

/// A row of the database.
type Stored = (Table, Vec<u8>, Vec<u8>);

async fn dump(server: &Homeserver) -> Vec<Stored> {
    let mut rows = Vec::new();
    for table in Table::ALL {
        let all = KeyRange::from(Key::new()..);
        let found = server.store().durable().scan(*table, all, Limit::rows(100_000)).await.unwrap();
        rows.extend(found.into_iter().map(|row| (*table, row.key.as_bytes().to_vec(), row.value.to_vec())));
    }
    rows
}

/// Tables, and how the keys of the rows that are meant begin.
type Places = Vec<(Table, Vec<u8>)>;

fn name_of(alias: &str) -> [u8; 32] {
    let key = StorageKey::new(Secret::new([7; 32])).derive(KeyLabel::AliasName);
    mac(&key, KeyLabel::AliasName, &id(alias).0)
}

fn alias_places(alias: &str) -> Places {
    let name = name_of(alias);
    let queue = [&[3], &name[..16]].concat();
    let places = [
        (Table::AsAliases, name.to_vec()),
        (Table::AsAliasPackages, name.to_vec()),
        (Table::Queues, queue.clone()),
        (Table::QueueEntries, queue),
    ];
    places.into()
}

async fn user_places(user: &User) -> Places {
    let account = user.client.0.account();
    let pseudonym: crate::base::QsUserId = {
        let database = &user.client.0.database;
        database.run(|connection| meta::require(connection, "pseudonymous user")).await.unwrap()
    };
    let uuid = account.client.user.uuid.to_vec();
    let (direct, client) = ([&[1], &account.client.client[..]].concat(), [&[2], &account.pseudonym.0[..]].concat());
    let token = sha256(account.keys.friendship.friendship_token.expose()).to_vec();
    let mut places: Places = [Table::AsUsers, Table::AsClients, Table::AsPackages, Table::AsAllowances]
        .map(|table| (table, uuid.clone()))
        .into();
    for queue in [direct, client] {
        places.extend([Table::Queues, Table::QueueEntries].map(|table| (table, queue.clone())));
    }
    places.extend([
        (Table::QsUsers, pseudonym.0.to_vec()),
        (Table::QsClients, account.pseudonym.0.to_vec()),
        (Table::QsKeyPackages, account.pseudonym.0.to_vec()),
        (Table::QsTokens, token),
    ]);
    places
}

/// Every `N` bytes in a row in the keys and values of these places, each of which must have rows.
fn windows<const N: usize>(rows: &[Stored], places: &Places) -> HashSet<[u8; N]> {
    let mut found = HashSet::new();
    for (table, prefix) in places {
        let there: Vec<_> = rows.iter().filter(|(of, key, _)| of == table && key.starts_with(prefix)).collect();
        assert!(!there.is_empty(), "nothing in {table:?}");
        for bytes in there.into_iter().flat_map(|(_, key, value)| [key, value]) {
            found.extend(bytes.windows(N).map(|window| <[u8; N]>::try_from(window).unwrap()));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stored_links_an_alias_to_its_owner_or_to_another_alias() {
    let server = Homeserver::start().await;
    let (owner, stranger) = (server.register("U").await, server.register("V").await);
    let visitor = server.register("W").await;
    let mut chats = Vec::new();
    // The strangers do the same, so that numbers and lengths occur with them as well.
    for (user, aliases) in [(&owner, ["xavier", "zoe.z"]), (&stranger, ["yvonne", "yasmin"])] {
        let chat = befriend(&visitor, user).await;
        visitor.say(&chat, "hello").await;
        for alias in aliases {
            user.client.register_alias(alias).await.unwrap();
            let chat = visitor.reach(alias, user).await;
            visitor.say(&chat, "hello").await;
            user.say(&chat, "hi").await;
            assert_eq!(visitor.hear().await.len(), 1);
        }
        assert_eq!(user.hear().await.len(), 3);
        chats.push(chat);
    }
    // Something waits in every queue.
    for chat in &chats {
        visitor.say(chat, "later").await;
    }
    let late = server.register("L").await;
    for alias in ["xavier", "zoe.z", "yvonne", "yasmin"] {
        late.client.connect_alias(alias, &domain()).await.unwrap();
    }
    for user in [&owner, &stranger] {
        late.client.connect(&user.id()).await.unwrap();
    }

    let links = async || {
        let rows = dump(&server).await;
        let mut elsewhere = windows(&rows, &user_places(&owner).await);
        elsewhere.extend(windows(&rows, &alias_places("zoe.z")));
        // What is constant occurs with the strangers as well. So does all but a few bytes of a window at the edge of
        // something constant, where the few are the same by chance now and then.
        let mut strangers = windows::<5>(&rows, &user_places(&stranger).await);
        strangers.extend(windows(&rows, &alias_places("yvonne")));
        strangers.extend(windows(&rows, &alias_places("yasmin")));
        let alias = windows::<8>(&rows, &alias_places("xavier"));
        let is_common = |window: &[u8; 8]| window.windows(5).any(|part| strangers.contains(part));
        alias.into_iter().filter(|window| elsewhere.contains(window) && !is_common(window)).collect::<Vec<_>>()
    };
    assert_eq!(links().await, Vec::<[u8; 8]>::new());

    // It would be found.
    let user = owner.client.0.account();
    for planted in [user.client.user.uuid.to_vec(), user.pseudonym.0.to_vec(), name_of("zoe.z")[8..16].to_vec()] {
        let key = Key::new().bytes(name_of("xavier")).u8(1);
        let mut batch = Batch::new();
        batch.put(Table::AsAliases, key.clone(), planted);
        server.store().submit(batch).unwrap().await.unwrap();
        assert!(!links().await.is_empty());
        let mut batch = Batch::new();
        batch.delete(Table::AsAliases, key);
        server.store().submit(batch).unwrap().await.unwrap();
        assert!(links().await.is_empty());
    }
}
