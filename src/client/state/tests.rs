//! The state alone: transactions, the lock, and the small tables.

use std::time::Duration;

use openmls_sqlite_storage::SqliteStorageProvider;
use rusqlite::Connection;

use super::{
    Database,
    contacts::{self, Contact},
    inbox, meta,
    outbox::{self, Chore, Kind, New},
    queues::{self, Cursor, Queue},
    schema, strangers, tokens,
};
use crate::{
    base::{ClientId, Domain, GroupId, Secret, Timestamp, UserId},
    client::{
        error::{ClientError, Local},
        mls::Json,
    },
    crypto::{
        credential::{issue_client, issue_intermediate, issue_root, request_client, request_intermediate},
        ratchet::Ratchet,
        signature::SigningKey,
    },
    wire::{
        Encode, Method,
        connection::FriendshipPackage,
        content::{ApplicationMessage, Content},
        credential::{ClientCredential, Validity},
    },
};

fn group() -> GroupId {
    GroupId { uuid: [1; 16], domain: "a.test".parse().unwrap() }
}

fn user() -> UserId {
    UserId { uuid: [2; 16], domain: "a.test".parse().unwrap() }
}

#[tokio::test]
async fn a_transaction_that_fails_leaves_nothing_and_the_rest_survives_reopening() {
    let home = tempfile::tempdir().unwrap();
    let database = Database::open(home.path()).await.unwrap();
    let cursor = Cursor { incarnation: [3; 16], next: 7, ratchet: Some(Ratchet::from_secret(Secret::new([4; 32]))) };
    let stored = cursor.clone();
    database.run(move |connection| queues::store(connection, Queue::Client, &stored)).await.unwrap();
    let failed: Result<(), ClientError> = database
        .run(|connection| {
            queues::store(connection, Queue::Client, &Cursor::start([5; 16], 9))?;
            Err(ClientError::invalid("on purpose"))
        })
        .await;
    assert!(failed.is_err());
    drop(database);
    let database = Database::open(home.path()).await.unwrap();
    let found = database.run(|connection| queues::load(connection, Queue::Client)).await.unwrap();
    assert_eq!((found.incarnation, found.next), ([3; 16], 7));
    assert!(found.ratchet == cursor.ratchet);
    let other = database.run(|connection| queues::load(connection, Queue::Direct)).await.unwrap();
    assert_eq!((other.incarnation, other.next), ([0; 16], 0));
}

#[tokio::test]
async fn a_home_is_used_by_one_at_a_time_and_is_private() {
    let home = tempfile::tempdir().unwrap();
    let inside = home.path().join("client");
    let database = Database::open(&inside).await.unwrap();
    let Err(ClientError::Local(Local::Busy, message)) = Database::open(&inside).await else { panic!() };
    assert!(message.starts_with("another bennu client is using "), "{message}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&inside), mode(&inside.join("client.db"))), (0o700, 0o600));
    }
    let waiting = tokio::spawn({
        let inside = inside.clone();
        async move { Database::open(&inside).await.is_ok() }
    });
    // Reason: the waiting task polls a file lock, which gives no event.
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(database);
    assert!(waiting.await.unwrap(), "whoever waits gets it");
}

#[test]
fn a_state_whose_making_was_cut_short_anywhere_is_made_anew_and_other_files_are_left_alone() {
    let rows = "SELECT count(*) FROM openmls_sqlite_storage_migrations";
    let mut whole = Connection::open_in_memory().unwrap();
    schema::prepare(&mut whole).unwrap();
    let migrations: i64 = whole.query_row(rows, [], |row| row.get(0)).unwrap();
    assert!(migrations > 1);
    for noted in 0..migrations {
        // Killed after a migration was made and before it was noted.
        let mut connection = Connection::open_in_memory().unwrap();
        SqliteStorageProvider::<Json, _>::new(&mut connection).run_migrations().unwrap();
        let last = "DELETE FROM openmls_sqlite_storage_migrations WHERE version NOT IN \
                    (SELECT version FROM openmls_sqlite_storage_migrations ORDER BY version LIMIT ?)";
        connection.execute(last, [noted]).unwrap();
        schema::prepare(&mut connection).unwrap();
        assert_eq!(connection.query_row(rows, [], |row| row.get::<_, i64>(0)), Ok(migrations), "after {noted}");
    }
    let mut other = Connection::open_in_memory().unwrap();
    other.execute_batch("CREATE TABLE theirs (number INTEGER); INSERT INTO theirs VALUES (7)").unwrap();
    schema::prepare(&mut other).unwrap();
    assert_eq!(other.query_row("SELECT number FROM theirs", [], |row| row.get::<_, i64>(0)), Ok(7));
}

#[tokio::test]
async fn requests_of_a_lane_keep_their_order_and_their_bytes() {
    let home = tempfile::tempdir().unwrap();
    let database = Database::open(home.path()).await.unwrap();
    database
        .run(|connection| {
            let new = |group: Option<GroupId>, body: u8| New {
                group,
                kind: Kind::Message,
                method: Method::DsSendMessage,
                domain: "a.test".parse().unwrap(),
                body: vec![body],
                extra: vec![body, body],
            };
            let first = outbox::insert(connection, new(Some(group()), 1))?;
            outbox::insert(connection, new(None, 2))?;
            outbox::insert(connection, new(Some(group()), 3))?;
            let lanes = outbox::lanes(connection)?.into_iter().map(|(lane, _)| lane);
            assert_eq!(lanes.collect::<Vec<_>>(), [first.lane.clone(), Vec::new()]);
            let next = outbox::next(connection, &first.lane)?.unwrap();
            assert_eq!((next.number, next.body, next.extra), (first.number, vec![1], vec![1, 1]));
            assert!(outbox::remove(connection, first.number)?);
            assert!(!outbox::remove(connection, first.number)?, "gone already");
            assert_eq!(outbox::next(connection, &first.lane)?.unwrap().body, [3]);
            outbox::clear(connection, &first.lane)?;
            assert_eq!(outbox::lanes(connection)?, [(Vec::new(), "a.test".parse().unwrap())]);

            let waiting = |connection: &rusqlite::Connection| -> Result<Vec<Chore>, ClientError> {
                Ok(outbox::chores(connection)?.into_iter().map(|(_, chore)| chore).collect())
            };
            let expel = Chore::Expel(group(), (&[9; 32][..]).into());
            for chore in [&expel, &Chore::KeyPackages, &expel] {
                outbox::add_chore(connection, chore)?;
            }
            assert_eq!(waiting(connection)?, [Chore::KeyPackages, expel.clone()]);
            outbox::remove_chore(connection, &expel)?;
            assert_eq!(waiting(connection)?, [Chore::KeyPackages]);
            Ok::<_, ClientError>(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_message_is_kept_until_it_is_read_and_never_taken_twice() {
    let home = tempfile::tempdir().unwrap();
    let database = Database::open(home.path()).await.unwrap();
    database
        .run(|connection| {
            let message = ApplicationMessage { id: [1; 16], sent: 5, content: Content::Text("hello".into()) };
            let number = inbox::insert(connection, &group(), &user(), &message, Timestamp(6))?.unwrap();
            assert_eq!(inbox::insert(connection, &group(), &user(), &message, Timestamp(7))?, None);
            let unread = inbox::unread(connection, 10)?;
            assert_eq!((unread.len(), &unread[0].content, unread[0].sent), (1, &message.content, Timestamp(5)));
            inbox::mark_read(connection, &[number])?;
            assert!(inbox::unread(connection, 10)?.is_empty());
            assert_eq!(inbox::insert(connection, &group(), &user(), &message, Timestamp(8))?, None);
            for n in 0..1_100 {
                inbox::problem(connection, &n.to_string(), Timestamp(n))?;
            }
            let problems = inbox::problems(connection)?;
            assert_eq!((problems.len(), problems[0].1.as_str()), (1_000, "100"));
            Ok::<_, ClientError>(())
        })
        .await
        .unwrap();
}

#[test]
fn strangers_are_asked_at_growing_intervals_and_few_of_them_in_a_day() {
    let mut connection = Connection::open_in_memory().unwrap();
    schema::prepare(&mut connection).unwrap();
    let connection = &connection;
    let (minute, day) = (60_000, 86_400_000);
    let domain = |n: u64| -> Domain { format!("n{n}.test").parse().unwrap() };
    let ask = |n, at| strangers::ask(connection, &domain(n), Timestamp(at)).unwrap();
    let start = 100 * day;
    assert!(ask(0, start));
    for (at, may) in [(1, false), (2, true), (5, false), (6, true), (13, false), (14, true)] {
        assert_eq!(ask(0, start + at * minute), may, "after {at} minutes");
    }
    strangers::answered(connection, &domain(0)).unwrap();
    assert!(strangers::wanted(connection).unwrap().is_empty());
    assert!(!ask(0, start + 14 * minute) && ask(0, start + 15 * minute), "it has answered");
    // A clock that was set back.
    assert!(ask(0, start - day));
    strangers::answered(connection, &domain(0)).unwrap();
    let start = 200 * day;
    for n in 1..=u64::from(strangers::NEW_A_DAY) {
        assert!(ask(n, start));
    }
    assert!(!ask(1_000, start) && !ask(0, start), "nothing is known of either");
    connection.execute("INSERT INTO authorities VALUES (?, x'00', 0)", [domain(0).as_str()]).unwrap();
    assert!(ask(0, start), "it is known");
    assert!(!ask(1_000, start + day - 1) && ask(1_000, start + day + 1));
    // There is an end to what is remembered.
    for n in 2_000..3_000 {
        strangers::want(connection, &domain(n)).unwrap();
    }
    assert!(strangers::wanted(connection).unwrap().len() <= 500);
}

#[test]
fn what_is_put_aside_is_bounded_for_each_homeserver_and_for_all() {
    let mut connection = Connection::open_in_memory().unwrap();
    schema::prepare(&mut connection).unwrap();
    let connection = &connection;
    let domain = |n: u64| -> Domain { format!("n{n}.test").parse().unwrap() };
    let alias = Queue::Alias(crate::base::AliasId([0xa1; 32]));
    let put = |n, queue, group: Option<&GroupId>| {
        strangers::put_aside(connection, &domain(n), queue, group, &[1, 2], Timestamp(1_000)).unwrap()
    };
    assert!(put(0, alias, None) && put(0, Queue::Client, Some(&group())));
    assert_eq!(strangers::waits_for(connection, &group()).unwrap(), Some(domain(0)));
    let waits = strangers::aside(connection, &domain(0)).unwrap();
    assert_eq!(waits.iter().map(|aside| aside.queue).collect::<Vec<_>>(), [alias, Queue::Client]);
    assert_eq!(waits[1].content, [1, 2]);
    assert_eq!((0..60).filter(|_| put(0, Queue::Direct, None)).count(), 49);
    assert_eq!((1..20).map(|n| (0..50).filter(|_| put(n, Queue::Direct, None)).count()).sum::<usize>(), 450);
    // Messages of groups have room of their own.
    assert_eq!((0..5_010).filter(|_| put(0, Queue::Client, Some(&group()))).count(), 4_999);
    let long = vec![0; 32 << 20];
    let put_long = || {
        strangers::put_aside(connection, &domain(1), Queue::Client, Some(&group()), &long, Timestamp(1_000)).unwrap()
    };
    assert_eq!((0..4).filter(|_| put_long()).count(), 2);
    for aside in [domain(0), domain(1)].iter().flat_map(|domain| strangers::aside(connection, domain).unwrap()) {
        if aside.queue == Queue::Client {
            strangers::remove_aside(connection, aside.number).unwrap();
        }
    }
    assert_eq!(strangers::waits_for(connection, &group()).unwrap(), None);
    assert_eq!(strangers::expire_aside(connection, Timestamp(1_000 + 30 * 86_400_000)).unwrap(), 0);
    assert_eq!(strangers::expire_aside(connection, Timestamp(1_001 + 30 * 86_400_000)).unwrap(), 500);
}

#[test]
fn a_state_of_version_3_keeps_its_tokens() {
    let mut connection = Connection::open_in_memory().unwrap();
    schema::prepare(&mut connection).unwrap();
    let home: Domain = "a.test".parse().unwrap();
    meta::put(&connection, "domain", &home).unwrap();
    let old = "DROP TABLE tokens; DROP TABLE strangers; DROP TABLE aside; PRAGMA user_version = 3;
        DROP TABLE earlier_leaves; DROP TABLE removed; ALTER TABLE contacts DROP COLUMN earlier;
        CREATE TABLE tokens (nonce BLOB PRIMARY KEY, token BLOB NOT NULL, not_after INTEGER NOT NULL) WITHOUT ROWID;";
    connection.execute_batch(old).unwrap();
    let token = crate::wire::Token {
        token_type: 5,
        nonce: [1; 32],
        challenge_digest: [0; 32],
        token_key_id: [0; 32],
        authenticator: [0; 64],
    };
    connection.execute("INSERT INTO tokens VALUES (?, ?, 100)", (token.nonce, token.to_vec())).unwrap();
    schema::prepare(&mut connection).unwrap();
    assert_eq!(tokens::take(&connection, &home, 1).unwrap(), (Some(token), 0));
    assert!(strangers::wanted(&connection).unwrap().is_empty());
    schema::prepare(&mut connection).unwrap();
}

#[test]
fn a_state_of_version_5_keeps_its_contacts_and_what_they_were_certified_as_before_is_remembered_from_then_on() {
    let mut connection = Connection::open_in_memory().unwrap();
    schema::prepare(&mut connection).unwrap();
    let (user, domain) = (UserId { uuid: [1; 16], domain: "a.test".parse().unwrap() }, "a.test".parse().unwrap());
    let client = ClientId { user: user.clone(), client: [2; 16] };
    let [root_key, key] = [[3; 32], [4; 32]].map(|seed| SigningKey::from_seed(Secret::new(seed)).unwrap());
    let validity = Validity { not_before: 0, not_after: 100 };
    let root = issue_root(domain, validity.clone(), &root_key);
    let request = request_intermediate(root.payload.domain.clone(), validity.clone(), &root, &root_key);
    let signer = issue_intermediate(request, &root_key);
    let certified = |renews: Option<(&ClientCredential, &SigningKey)>| {
        issue_client(request_client(client.clone(), validity.clone(), &signer, &key, renews), &root_key)
    };
    let secret = || Secret::new([5; 32]);
    let friendship = FriendshipPackage {
        friendship_token: secret(),
        friendship_encryption_key: secret(),
        welcome_attribution_key: secret(),
        user_profile_key: secret(),
    };
    let mut renewed = vec![certified(None)];
    contacts::insert_contact(&connection, &Contact::new(renewed[0].clone(), friendship, group())).unwrap();
    connection.execute_batch("ALTER TABLE contacts DROP COLUMN earlier; PRAGMA user_version = 5;").unwrap();
    schema::prepare(&mut connection).unwrap();

    let found = || contacts::contact(&connection, &user).unwrap().unwrap();
    assert!(found().credential == renewed[0] && found().earlier.is_empty());
    for _ in 0..12 {
        let next = certified(renewed.last().map(|before| (before, &key)));
        let mut contact = found();
        assert!(!contact.had(&next));
        assert!(contact.take(next.clone()));
        contacts::insert_contact(&connection, &contact).unwrap();
        renewed.push(next);
    }
    let (last, earlier) = renewed.split_last().unwrap();
    assert_eq!(found().credential, *last);
    assert_eq!(earlier.iter().map(|credential| found().had(credential)).collect::<Vec<_>>(), {
        let mut remembered = vec![true; 12];
        remembered[..4].fill(false);
        remembered
    });
    // Somebody else under the same name has no past.
    let mut contact = found();
    assert!(!contact.take(certified(None)));
    assert!(contact.earlier.is_empty());
}
