//! What earlier programs have stored is opened, brought to the current format and gone on with: homeservers and clients of every
//! format that there was (`tests/fixtures/make`).

use std::{fs, path::Path, sync::atomic::AtomicU64};

use super::{tokens::Hands, *};
use crate::store::{KeyRange, Limit, Read, RocksEngine, RocksOptions};

/// The rows of a homeserver's database of an earlier format, in the current one.
fn opened(directory: &Path) -> MemoryEngine {
    let from = RocksEngine::open(directory, &RocksOptions::default()).unwrap();
    let to = MemoryEngine::new();
    for table in Table::ALL {
        let mut range = KeyRange::from(Key::new()..);
        loop {
            let Read::Ready(Some(page)) = from.scan(*table, range, Limit::rows(30)) else {
                panic!("it is a short scan")
            };
            let rows = page.unwrap().into_rows();
            let Some(last) = rows.last() else { break };
            range = KeyRange::from(last.key.successor()..);
            let put =
                |row: crate::store::Row| Operation { table: *table, key: row.key, change: Change::Put(row.value) };
            to.write(&rows.into_iter().map(put).collect::<Vec<_>>()).unwrap();
        }
    }
    to
}

fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

async fn resume(world: &Arc<World>, fixture: &Path, name: &str, clock: &Arc<Hands>) -> Arc<Homeserver> {
    let data = copy(&fixture.join(name));
    // A database that was brought to the current format is one like any other the next time.
    drop(opened(data.path()));
    let engine = opened(data.path());
    let store = Store::open(engine.snapshot(), StoreOptions::new(|_| ())).unwrap();
    let (domain, incarnation) = life::identity(&store).await.unwrap().unwrap();
    assert_eq!(domain.as_str(), format!("{name}.test"));
    world.resume(&domain, engine, incarnation, clock.clone()).await
}

async fn reopen(server: &Arc<Homeserver>, fixture: &Path, name: &str) -> User {
    let home = copy(&fixture.join(name));
    let client = Client::open_over(home.path(), server.connector(), server.options()).await.unwrap();
    User { home, client, server: server.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn homeservers_and_clients_of_every_earlier_format_go_on() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut seen = Vec::new();
    for entry in fs::read_dir(&fixtures).unwrap() {
        let fixture = entry.unwrap().path();
        if !fixture.is_dir() {
            continue;
        }
        println!("{}", fixture.display());
        seen.push(fixture.file_name().unwrap().to_string_lossy().into_owned());
        let made: u64 = fs::read_to_string(fixture.join("made")).unwrap().trim().parse().unwrap();
        let clock = Arc::new(Hands(AtomicU64::new((made + 60) * 1_000)));
        let world = World::of_many();
        let (a, b) = (resume(&world, &fixture, "a", &clock).await, resume(&world, &fixture, "b", &clock).await);
        let (alice, bob) = (reopen(&a, &fixture, "alice").await, reopen(&b, &fixture, "bob").await);
        a.delivered().await;
        let mut heard = bob.hear().await;
        heard.sort();
        assert_eq!(heard, [said("Alice", "in the outbox"), said("Alice", "in the queue")]);
        alice.client.sync().await.unwrap();
        for chat in alice.client.chats().await.unwrap() {
            for (from, to, server, name) in [(&alice, &bob, &a, "Alice"), (&bob, &alice, &b, "Bob")] {
                from.say(&chat.chat, "can you hear me?").await;
                server.delivered().await;
                a.delivered().await;
                assert_eq!(to.hear().await, [said(name, "can you hear me?")]);
            }
        }
        let (carol, dave) = (a.register("Carol").await, b.register("Dave").await);
        befriend(&carol, &alice).await;
        befriend(&dave, &alice).await;
        for user in [&alice, &bob, &carol, &dave] {
            user.no_problems().await;
        }
    }
    seen.sort();
    // One for each format before the current one that is still understood.
    assert_eq!(seen, ["format-2"]);
}
