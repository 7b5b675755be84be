//! A homeserver is backed up while people talk, its machine is lost, and it is restored: what was in the backup is there, once; what
//! came after it is lost, and each client says so; nobody is stuck.

mod support;

use std::{fs, path::Path, process::Output};

use bennu::{
    base::GroupId,
    client::{Client, ClientError},
};
use support::{Server, command, connect, group, text, within};

/// Runs the program to its end.
async fn run(arguments: &[&str], paths: &[&Path]) -> Output {
    within(arguments, command().args(arguments).args(paths).output()).await.unwrap()
}

fn said(output: &Output) -> (bool, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

async fn back_up(server: &Server, set: &Path) -> String {
    let config = server.config();
    let arguments = ["admin", "--json", "--config", config.to_str().unwrap(), "backup"];
    let (done, out, error) = said(&run(&arguments, &[set]).await);
    assert!(done, "{error}");
    let taken: serde_json::Value = serde_json::from_str(&out).unwrap();
    taken["backup"].as_str().unwrap().to_owned()
}

async fn restore(server: &Server, set: &Path) -> (bool, String, String) {
    let config = server.config();
    said(&run(&["restore", "--json", "--config", config.to_str().unwrap()], &[set]).await)
}

/// What a client has received since the last time, in order.
async fn heard(client: &Client) -> Vec<String> {
    within("a sync", client.sync()).await.unwrap();
    let unread = client.unread(10_000).await.unwrap();
    client.mark_read(&unread.iter().map(|message| message.id).collect::<Vec<_>>()).await.unwrap();
    let text = |message: bennu::client::Message| match message.content {
        bennu::wire::content::Content::Text(text) => text.0,
        other => panic!("{other:?}"),
    };
    unread.into_iter().map(text).collect()
}

async fn problems(client: &Client) -> String {
    client.problems().await.unwrap().into_iter().map(|(_, text)| text + "\n").collect()
}

async fn say(from: &Client, chat: &GroupId, what: &str) -> Result<(), ClientError> {
    within("sending", from.send(chat, text(what))).await.map(drop)
}

fn data(server: &Server) -> std::path::PathBuf {
    server.config().parent().unwrap().join("data")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_is_destroyed_is_restored_and_people_go_on() {
    let mut server = Server::start().await;
    let set = server.path("backups");
    let [alice, bob, carol] =
        [server.register("Alice").await, server.register("Bob").await, server.register("Carol").await];
    connect(&alice, &bob).await;
    connect(&alice, &carol).await;
    let chat = group(&[&alice, &bob, &carol]).await;
    for client in [&bob, &carol] {
        within("a sync", client.sync()).await.unwrap();
    }

    // Bob is away from here on. Alice talks, also while the backup is taken.
    let mut sent = Vec::new();
    for number in 0..20 {
        sent.push(format!("before {number}"));
        say(&alice, &chat, sent.last().unwrap()).await.unwrap();
    }
    let talking = async {
        let mut during = Vec::new();
        for number in 0..30 {
            during.push(format!("meanwhile {number}"));
            say(&alice, &chat, during.last().unwrap()).await.unwrap();
        }
        during
    };
    let (first, during) = tokio::join!(back_up(&server, &set), talking);
    // The second is what changed since; it is the one that is restored.
    for number in 0..5 {
        sent.push(format!("between {number}"));
        say(&alice, &chat, sent.last().unwrap()).await.unwrap();
    }
    // Reason: backups are called by the second in which they are taken.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let second = back_up(&server, &set).await;
    assert_ne!(first, second);
    let (good, listed, _) = said(&run(&["backup", "verify", "--all"], &[&set]).await);
    assert!(good && listed.contains(&first) && listed.contains(&second), "{listed}");

    // After the backup: lost.
    say(&alice, &chat, "after").await.unwrap();
    within("removing", alice.remove(&chat, &[carol.whoami().0])).await.unwrap();
    within("a sync", carol.sync()).await.unwrap();
    let dave = server.register("Dave").await;
    server.kill().await;
    fs::remove_dir_all(data(&server)).unwrap();
    let (restored, out, error) = restore(&server, &set).await;
    assert!(restored, "{error}");
    let restored: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(restored["backup"], second.as_str());
    assert!(restored["key_packages_withdrawn"].as_u64().unwrap() >= 40, "{restored}");
    server.restart().await;

    let expected: Vec<_> = sent[..20].iter().chain(&during).chain(&sent[20..]).cloned().collect();
    assert_eq!(heard(&bob).await, expected);
    for _ in 0..3 {
        for client in [&alice, &bob, &carol] {
            within("a sync", client.sync()).await.unwrap();
        }
    }
    for client in [&alice, &bob, &carol] {
        let told = problems(client).await;
        assert!(told.contains("restored from a backup"), "{told}");
    }
    // Dave's account was made after the backup.
    let error = within("a sync", dave.sync()).await.unwrap_err();
    assert_eq!(error.status(), "unauthenticated", "{error}");
    // Carol was removed after it: she does not hear what is said now.
    for (from, to) in [(&alice, &bob), (&bob, &alice)] {
        heard(to).await;
        say(from, &chat, "can you hear me?").await.unwrap();
        assert_eq!(heard(to).await, ["can you hear me?"]);
    }
    assert!(!heard(&carol).await.contains(&"can you hear me?".to_owned()));
    let erin = server.register("Erin").await;
    connect(&erin, &bob).await;

    // The next backup goes into the same directory, and takes nothing of the earlier life for its own.
    back_up(&server, &set).await;
    let (good, _, error) = said(&run(&["backup", "verify", "--all"], &[&set]).await);
    assert!(good, "{error}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_told_and_changes_nothing() {
    let mut server = Server::start().await;
    let set = server.path("backups");
    let name = back_up(&server, &set).await;
    let config = server.config();
    let config = config.to_str().unwrap();

    // It runs.
    let (done, _, error) = restore(&server, &set).await;
    assert!(!done && error.contains("the homeserver runs: stop it first"), "{error}");
    // Files that were held are let go, also of a backup that was killed.
    let mut killed = command().args(["admin", "--config", config, "backup"]).arg(&set).spawn().unwrap();
    killed.start_kill().unwrap();
    killed.wait().await.unwrap();
    let gone = async {
        while data(&server).join("snapshot").exists() {
            // Reason: nothing tells that another process has deleted a directory.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("the end of the snapshot", gone).await;
    // A directory of something else; a file; no such directory.
    let other = server.path("photos");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("photo.jpg"), "somebody's").unwrap();
    for (path, what) in [
        (other.clone(), "holds something else than backups"),
        (other.join("photo.jpg"), "Not a directory"),
        (server.path("not/there"), "No such file or directory"),
        (data(&server).join("backups"), "is in the data directory"),
    ] {
        let (done, _, error) = said(&run(&["admin", "--config", config, "backup"], &[&path]).await);
        assert!(!done && error.contains(what), "{error}");
        let (done, _, error) = said(&run(&["backup", "verify"], &[&path]).await);
        assert!(!done && error.starts_with("error: "), "{error}");
    }
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);

    server.stop().await;
    // It does not run.
    let (done, _, error) = said(&run(&["admin", "--config", config, "backup"], &[&set]).await);
    assert!(!done && error.contains("no homeserver answers"), "{error}");
    // There is a database.
    let (done, _, error) = restore(&server, &set).await;
    assert!(!done && error.contains("holds a database already, which stays as it is"), "{error}");
    // A disk that gets full: the program is not let write files as long as it has to.
    fs::rename(data(&server), server.path("moved away")).unwrap();
    for blocks in [1, 2, 4, 8, 16] {
        let script = format!("ulimit -f {blocks}; exec \"$0\" restore --config \"$1\" \"$2\"");
        let mut shell = tokio::process::Command::new("bash");
        let shell = shell.args(["-c", &script, support::BENNU, config]).arg(&set).output();
        let output = within("a restore without room", shell).await.unwrap();
        assert!(!output.status.success(), "{blocks} KiB: {output:?}");
        assert!(!data(&server).join("CURRENT").exists());
    }
    // Serving says what is the matter.
    let (done, _, error) = said(&run(&["serve", "--config", config], &[]).await);
    assert!(!done && error.contains("was interrupted: run it again"), "{error}");
    let (done, out, error) = restore(&server, &set).await;
    assert!(done && out.contains(&name), "{error}");
    // And a full disk below a backup: an earlier one stays good.
    server.restart().await;
    let script = "ulimit -f 1; exec \"$0\" admin --config \"$1\" backup \"$2\"";
    let mut shell = tokio::process::Command::new("bash");
    let shell = shell.args(["-c", script, support::BENNU, config]).arg(&set).output();
    let output = within("a backup without room", shell).await.unwrap();
    assert!(!output.status.success(), "{output:?}");
    let (good, _, error) = said(&run(&["backup", "verify", "--all"], &[&set]).await);
    assert!(good, "{error}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_moves_to_another_machine_and_address_by_a_backup() {
    let mut server = Server::start().await;
    let set = server.path("backups");
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = connect(&alice, &bob).await;
    say(&alice, &chat, "on the way").await.unwrap();
    // Nobody new is taken in, and what is taken in by those who are there is in the backup.
    let config = server.config();
    let (drained, _, error) = said(&run(&["admin", "--config", config.to_str().unwrap(), "drain"], &[]).await);
    assert!(drained, "{error}");
    back_up(&server, &set).await;
    server.stop().await;
    drop((alice, bob));

    // What the documents say to keep elsewhere comes along; the data is restored.
    let (old, new) = (config.parent().unwrap(), server.path("new machine"));
    for name in ["keys", "certs"] {
        fs::create_dir_all(new.join(name)).unwrap();
        for entry in fs::read_dir(old.join(name)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), new.join(name).join(entry.file_name())).unwrap();
        }
    }
    let listen = format!("listen = \"{}\"", server.address());
    let moved = fs::read_to_string(&config).unwrap().replacen(&listen, "listen = \"127.0.0.1:0\"", 1);
    fs::write(new.join("bennu.toml"), moved).unwrap();
    let new_config = new.join("bennu.toml");
    let (restored, _, error) = said(&run(&["restore", "--config", new_config.to_str().unwrap()], &[&set]).await);
    assert!(restored, "{error}");
    let mut process = command()
        .args(["serve", "--config"])
        .arg(&new_config)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(process.stdout.take().unwrap()));
    let line = within("the line that says ready", lines.next_line()).await.unwrap().unwrap();
    let place = line.strip_prefix("a.test is ready on ").unwrap().to_owned();
    assert_ne!(place, server.address().to_string());
    // What an SRV record says to others.
    for name in ["Alice", "Bob"] {
        let domain = server.domain().parse().unwrap();
        Client::set_place(&server.path(name), domain, Some(place.clone())).await.unwrap();
    }
    let (alice, bob) = (server.open("Alice").await, server.open("Bob").await);
    assert_eq!(heard(&bob).await, ["on the way"]);
    within("a sync", alice.sync()).await.unwrap();
    for (from, to) in [(&alice, &bob), (&bob, &alice)] {
        say(from, &chat, "is it you?").await.unwrap();
        assert_eq!(heard(to).await, ["is it you?"]);
    }
    support::terminate(&process).await;
    assert!(within("the end of the homeserver", process.wait()).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_killed_keeps_nothing_from_the_next_one_and_nobody_deletes_what_runs() {
    let mut server = Server::start().await;
    let config = server.config();
    let config = config.to_str().unwrap();
    let snapshot = data(&server).join("snapshot");
    for round in 0..12 {
        let set = server.path(&format!("backups {round}"));
        let mut killed = command().args(["admin", "--config", config, "backup"]).arg(&set).spawn().unwrap();
        let is_there = || match round % 3 {
            0 => snapshot.with_extension("tmp").exists() || snapshot.exists(),
            1 => snapshot.exists(),
            _ => set.exists(),
        };
        while !is_there() && killed.try_wait().unwrap().is_none() {
            std::hint::spin_loop();
        }
        killed.start_kill().unwrap();
        killed.wait().await.unwrap();
        let again = async {
            loop {
                let (done, _, error) = said(&run(&["admin", "--config", config, "backup"], &[&set]).await);
                if done {
                    break;
                }
                // What the one before has begun is being let go, or it was done in this very second.
                let is_busy = error.contains("another backup is under way") || error.contains("this very second");
                assert!(is_busy, "round {round}: {error}");
            }
        };
        within("the next backup", again).await;
        assert!(!snapshot.with_extension("tmp").exists());
    }
    // Nor does somebody delete it who looks for its socket elsewhere.
    fs::remove_file(Path::new(config).with_file_name("admin.sock")).unwrap();
    let wipe = ["admin", "--config", config, "wipe", "--delete-everything-of", support::DOMAIN];
    let (done, _, error) = said(&run(&wipe, &[]).await);
    assert!(!done && error.contains("in use by another bennu process"), "{error}");
    assert!(data(&server).join("CURRENT").exists());
    server.stop().await;
}
