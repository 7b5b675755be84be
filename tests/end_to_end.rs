//! Everything that a user does, over the command line: a homeserver and every command in a process of its own, real QUIC
//! between them, one JSON object per line.
#![cfg(feature = "cli")]

mod support;

use std::process::Stdio;

use serde_json::{Value, json};
use support::{Cli, DOMAIN, Server, command, within};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::Child,
};

/// The names of an object's fields, sorted.
fn fields(value: &Value) -> Vec<&str> {
    let mut fields: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    fields
}

fn texts(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["text"].as_str().unwrap_or_else(|| panic!("{line}"))).collect()
}

/// The members that a client sees in a group: user ids, sorted.
async fn members(client: &Cli, chat: &str) -> Vec<String> {
    let said = client.run(&["group", "members", chat]).await;
    let mut members: Vec<_> = said.all().iter().map(|line| line["user_id"].as_str().unwrap().to_owned()).collect();
    members.sort();
    members
}

fn sorted<const N: usize>(ids: [&String; N]) -> Vec<String> {
    let mut ids = ids.map(String::clone).to_vec();
    ids.sort();
    ids
}

/// What a chat's line says of its state.
async fn state_of(client: &Cli, chat: &str) -> String {
    let said = client.run(&["chats"]).await;
    let line = said.all().iter().find(|line| line["chat"] == *chat).unwrap_or_else(|| panic!("{chat}: {said:?}"));
    line["state"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_register_connect_and_talk() {
    let server = Server::start().await;
    let (alice, bob) = (server.cli("Alice"), server.cli("Bob"));
    let (alice_id, bob_id) = (alice.register().await, bob.register().await);
    let (uuid, domain) = alice_id.split_once('@').unwrap();
    assert_eq!((uuid.len(), domain), (36, DOMAIN));
    assert_eq!(*alice.run(&["whoami"]).await.one(), json!({ "user_id": alice_id, "name": "Alice" }));

    let chat = alice.run(&["connect", &bob_id]).await.one()["chat"].as_str().unwrap().to_owned();
    assert_eq!(alice.run(&["send", &chat, "too early"]).await.failure(), "invalid");
    assert!(alice.run(&["contacts"]).await.all().is_empty());
    let said = bob.run(&["requests"]).await;
    assert_eq!(fields(said.one()), ["from", "name", "request"]);
    assert_eq!((&said.one()["from"], &said.one()["name"]), (&json!(alice_id), &json!("Alice")));
    let request = said.one()["request"].as_str().unwrap();
    assert_eq!(*bob.run(&["accept", request]).await.one(), json!({ "chat": chat }));
    assert!(bob.run(&["requests"]).await.all().is_empty());

    for (client, other_id, name) in [(&alice, &bob_id, "Bob"), (&bob, &alice_id, "Alice")] {
        let contact = json!({ "user_id": other_id, "name": name, "chat": chat });
        assert_eq!(*client.run(&["contacts"]).await.one(), contact);
        let said = client.run(&["chats"]).await;
        assert_eq!(fields(said.one()), ["chat", "kind", "members", "name", "state"]);
        let line = said.one();
        let seen = (&line["chat"], &line["kind"], &line["name"], &line["state"]);
        assert_eq!(seen, (&json!(chat), &json!("connection"), &json!(name), &json!("active")));
    }

    assert_eq!(*alice.run(&["send", &chat, "hello"]).await.one(), json!({ "sent": true, "unreached": 0 }));
    let said = bob.run(&["receive"]).await;
    let line = said.one();
    assert_eq!(fields(line), ["chat", "from", "name", "text", "time"]);
    let seen = (&line["chat"], &line["from"], &line["name"], &line["text"]);
    assert_eq!(seen, (&json!(chat), &json!(alice_id), &json!("Alice"), &json!("hello")));
    assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    assert!(bob.run(&["receive"]).await.all().is_empty(), "a message is received once");

    let file = server.path("picture.bin");
    std::fs::write(&file, [0, 159, 146, 150]).unwrap();
    bob.run(&["send", &chat, "--file", file.to_str().unwrap()]).await.one();
    bob.run_with(&["send", &chat], "from a pipe\n".as_bytes()).await.one();
    bob.run_with(&["send", &chat], &[255, 254]).await.one();
    let said = alice.run(&["receive"]).await;
    let [first, second, third] = said.all() else { panic!("{said:?}") };
    assert_eq!(fields(first), ["base64", "chat", "file", "from", "name", "time"]);
    assert_eq!((&first["base64"], &first["file"]), (&json!("AJ+Slg=="), &json!("picture.bin")));
    assert_eq!(second["text"], "from a pipe\n");
    assert_eq!(third["base64"], "//4=");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_declined_is_told_and_has_no_contact() {
    let server = Server::start().await;
    let (alice, bob) = (server.cli("Alice"), server.cli("Bob"));
    let (alice_id, bob_id) = (alice.register().await, bob.register().await);
    let chat = alice.run(&["connect", &bob_id]).await.one()["chat"].as_str().unwrap().to_owned();
    assert_eq!(state_of(&alice, &chat).await, "waiting");
    let request = bob.run(&["requests"]).await.one()["request"].as_str().unwrap().to_owned();
    bob.run(&["decline", &request]).await.one();
    assert!(bob.run(&["requests"]).await.all().is_empty());
    assert_eq!(bob.run(&["accept", &request]).await.failure(), "not_found");
    assert_eq!(state_of(&alice, &chat).await, "declined");
    assert!(alice.run(&["contacts"]).await.all().is_empty());
    assert_eq!(alice.run(&["send", &chat, "please"]).await.failure(), "invalid");
    // Nothing stands in the way of another attempt, by either.
    let again = bob.connect(&alice, &alice_id).await;
    assert_ne!(again, chat);
    bob.run(&["send", &again, "sorry"]).await.one();
    assert_eq!(texts(alice.run(&["receive"]).await.all()), ["sorry"]);
}

/// Alice with Bob and Carol as her contacts, and their ids.
async fn three(server: &Server) -> ([Cli; 3], [String; 3]) {
    let clients = ["Alice", "Bob", "Carol"].map(|name| server.cli(name));
    let [alice, bob, carol] = &clients;
    let ids = [alice.register().await, bob.register().await, carol.register().await];
    alice.connect(bob, &ids[1]).await;
    alice.connect(carol, &ids[2]).await;
    (clients, ids)
}

async fn create_group(client: &Cli, name: &str) -> String {
    client.run(&["group", "create", name]).await.one()["chat"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_lives_from_its_creation_to_its_deletion() {
    let server = Server::start().await;
    let ([alice, bob, carol], [alice_id, bob_id, carol_id]) = three(&server).await;
    let chat = create_group(&alice, "Book club").await;
    assert_eq!(members(&alice, &chat).await, sorted([&alice_id]));
    alice.run(&["group", "invite", &chat, &bob_id, &carol_id]).await.one();

    let said = bob.run(&["chats"]).await;
    let line = said.all().iter().find(|line| line["chat"] == *chat).expect("Bob sees the group");
    assert_eq!((&line["kind"], &line["name"]), (&json!("group"), &json!("Book club")));
    for client in [&alice, &bob, &carol] {
        assert_eq!(members(client, &chat).await, sorted([&alice_id, &bob_id, &carol_id]));
        let said = client.run(&["group", "members", &chat]).await;
        for line in said.all() {
            assert_eq!(fields(line), ["admin", "name", "quarantined", "user_id"]);
            assert_eq!(line["admin"], line["user_id"] == *alice_id, "the creator is the only admin: {line}");
            assert_eq!(line["quarantined"], false);
        }
        let named = |id: &String| said.all().iter().find(|line| line["user_id"] == **id).unwrap()["name"].clone();
        assert_eq!([named(&alice_id), named(&bob_id), named(&carol_id)], ["Alice", "Bob", "Carol"]);
    }

    alice.run(&["send", &chat, "one"]).await.one();
    bob.run(&["send", &chat, "two"]).await.one();
    carol.run(&["send", &chat, "three"]).await.one();
    for (client, expected) in [(&alice, ["two", "three"]), (&bob, ["one", "three"]), (&carol, ["one", "two"])] {
        assert_eq!(texts(client.run(&["receive"]).await.all()), expected);
    }

    // Only the admin changes the group.
    assert_eq!(bob.run(&["group", "remove", &chat, &carol_id]).await.failure(), "forbidden");
    assert_eq!(bob.run(&["group", "delete", &chat]).await.failure(), "forbidden");
    assert_eq!(members(&carol, &chat).await, sorted([&alice_id, &bob_id, &carol_id]));

    alice.run(&["group", "remove", &chat, &carol_id]).await.one();
    bob.run(&["send", &chat, "without Carol"]).await.one();
    assert_eq!(carol.run(&["send", &chat, "am I still here?"]).await.failure(), "invalid");
    assert!(carol.run(&["receive"]).await.all().is_empty(), "who was removed reads nothing more");
    assert_eq!(state_of(&carol, &chat).await, "removed");
    assert_eq!(members(&bob, &chat).await, sorted([&alice_id, &bob_id]));
    assert_eq!(texts(alice.run(&["receive"]).await.all()), ["without Carol"]);

    // And may come back.
    alice.run(&["group", "invite", &chat, &carol_id]).await.one();
    bob.run(&["send", &chat, "welcome back"]).await.one();
    assert_eq!(texts(carol.run(&["receive"]).await.all()), ["welcome back"]);

    alice.run(&["group", "delete", &chat]).await.one();
    assert_eq!(state_of(&bob, &chat).await, "deleted");
    for client in [&alice, &bob, &carol] {
        assert_eq!(client.run(&["send", &chat, "anybody?"]).await.failure(), "invalid");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_away_catches_up() {
    let mut server = Server::start().await;
    let ([alice, bob, carol], [alice_id, bob_id, carol_id]) = three(&server).await;
    let dora = server.cli("Dora");
    let dora_id = dora.register().await;
    let with_dora = alice.connect(&dora, &dora_id).await;

    // All of this happens while Carol is away: her Welcome, commits, messages of four epochs.
    let chat = create_group(&alice, "Long story").await;
    alice.run(&["group", "invite", &chat, &bob_id]).await.one();
    alice.run(&["send", &chat, "before Carol"]).await.one();
    alice.run(&["group", "invite", &chat, &carol_id]).await.one();
    bob.run(&["send", &chat, "1"]).await.one();
    alice.run(&["group", "invite", &chat, &dora_id]).await.one();
    dora.run(&["send", &chat, "2"]).await.one();
    server.stop().await;
    server.restart().await;
    alice.run(&["group", "remove", &chat, &bob_id]).await.one();
    dora.run(&["send", &chat, "3"]).await.one();
    alice.run(&["send", &chat, "4"]).await.one();

    let said = carol.run(&["receive"]).await;
    assert_eq!(texts(said.all()), ["1", "2", "3", "4"]);
    let from: Vec<_> = said.all().iter().map(|line| line["from"].as_str().unwrap()).collect();
    assert_eq!(from, [&bob_id, &dora_id, &dora_id, &alice_id]);
    assert_eq!(members(&carol, &chat).await, sorted([&alice_id, &carol_id, &dora_id]));
    carol.run(&["send", &chat, "5"]).await.one();
    assert_eq!(texts(dora.run(&["receive"]).await.all()), ["4", "5"]);
    assert_eq!(texts(bob.run(&["receive"]).await.all()), ["before Carol", "2"]);

    // One who was removed and added again while away.
    alice.run(&["group", "remove", &chat, &carol_id]).await.one();
    dora.run(&["send", &chat, "not for Carol"]).await.one();
    alice.run(&["group", "invite", &chat, &carol_id]).await.one();
    dora.run(&["send", &chat, "for Carol"]).await.one();
    alice.run(&["send", &with_dora, "for Dora"]).await.one();
    assert_eq!(texts(carol.run(&["receive"]).await.all()), ["for Carol"]);
    assert_eq!(texts(dora.run(&["receive"]).await.all()), ["for Dora"]);
}

/// `receive --wait`, and the lines that it prints.
fn receiving(client: &Cli, arguments: &[&str]) -> (Child, tokio::io::Lines<BufReader<tokio::process::ChildStdout>>) {
    let arguments = [&["receive"], arguments].concat();
    let mut process = client.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    (process, lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn receive_waits_for_messages_and_stops_at_the_most_wanted() {
    let server = Server::start().await;
    let (alice, bob) = (server.cli("Alice"), server.cli("Bob"));
    let (_, bob_id) = (alice.register().await, bob.register().await);
    let chat = alice.connect(&bob, &bob_id).await;
    for text in ["1", "2"] {
        alice.run(&["send", &chat, text]).await.one();
    }
    let (mut process, mut lines) = receiving(&bob, &["--wait", "100", "--max", "4"]);
    for expected in ["1", "2", "3", "4"] {
        if expected > "2" {
            alice.run(&["send", &chat, expected]).await.one();
        }
        let line = within("a line", lines.next_line()).await.unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["text"], expected);
    }
    assert!(within("the end", process.wait()).await.unwrap().success());
    alice.run(&["send", &chat, "5"]).await.one();
    alice.run(&["send", &chat, "6"]).await.one();
    // Whoever reads no more, as in a pipeline, ends it without a word, and nothing counts as read.
    let (unread, out) = std::io::pipe().unwrap();
    drop(unread);
    let process = bob.command(["receive"]).stdout(out).stderr(Stdio::piped()).spawn().unwrap();
    let said = within("the end", process.wait_with_output()).await.unwrap();
    assert_eq!((said.status.code(), String::from_utf8(said.stderr).unwrap().as_str()), (Some(141), ""));
    assert_eq!(texts(bob.run(&["receive", "--max", "1"]).await.all()), ["5"]);
    assert_eq!(texts(bob.run(&["receive", "--wait", "1"]).await.all()), ["6"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_session_sends_lines_and_shows_what_comes() {
    let server = Server::start().await;
    let (alice, bob) = (server.cli("Alice"), server.cli("Bob"));
    let (_, bob_id) = (alice.register().await, bob.register().await);
    let chat = alice.connect(&bob, &bob_id).await;
    let session = |client: &Cli| {
        let mut process = client.command(["chat", &chat]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        (process.stdin.take().unwrap(), lines, process)
    };
    let (mut alice_in, mut alice_out, mut alice_process) = session(&alice);
    let (mut bob_in, mut bob_out, mut bob_process) = session(&bob);
    alice_in.write_all(b"hello Bob\n").await.unwrap();
    let line = within("a line", bob_out.next_line()).await.unwrap().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["text"], "hello Bob");
    bob_in.write_all(b"hello Alice\n").await.unwrap();
    let line = within("a line", alice_out.next_line()).await.unwrap().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["text"], "hello Alice");
    drop((alice_in, bob_in));
    assert!(within("the end", alice_process.wait()).await.unwrap().success());
    assert!(within("the end", bob_process.wait()).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_shows_what_happens_to_the_group_while_others_change_it() {
    let server = Server::start().await;
    let ([alice, bob, carol], [alice_id, bob_id, carol_id]) = three(&server).await;
    let chat = create_group(&alice, "Book club").await;
    alice.run(&["group", "invite", &chat, &bob_id]).await.one();
    // An admin is somebody who has made a commit of its own: its leaf is no one else's word.
    bob.run(&["name", "Robert"]).await.one();
    let mut process = bob.command(["chat", &chat]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdin = process.stdin.take().unwrap();
    let mut notices = BufReader::new(process.stderr.take().unwrap()).lines();
    let mut told = async |what: &str| {
        while !within(what, notices.next_line()).await.unwrap().expect("the session goes on").contains(what) {}
    };
    alice.run(&["group", "invite", &chat, &carol_id]).await.one();
    told(&format!("{carol_id} is a member now")).await;
    alice.run(&["group", "rename", &chat, "Reading club"]).await.one();
    told("the group is called Reading club now").await;
    alice.run(&["group", "admin", "add", &chat, &bob_id]).await.one();
    told("the group has other admins now").await;
    assert_eq!(carol.run(&["group", "rename", &chat, "Mine"]).await.failure(), "forbidden");
    carol.run(&["group", "leave", &chat]).await.one();
    told(&format!("{carol_id} leaves")).await;
    told(&format!("{carol_id} is no member any more")).await;
    assert_eq!(state_of(&carol, &chat).await, "left");
    drop(stdin);
    assert!(within("the end", process.wait()).await.unwrap().success());
    // Bob is an admin now, and goes on without who made him one.
    bob.run(&["group", "admin", "remove", &chat, &alice_id]).await.one();
    assert_eq!(alice.run(&["group", "rename", &chat, "Mine"]).await.failure(), "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_user_is_not_heard_until_it_is_unblocked() {
    let server = Server::start().await;
    let (alice, bob) = (server.cli("Alice"), server.cli("Bob"));
    let (alice_id, bob_id) = (alice.register().await, bob.register().await);
    let chat = alice.connect(&bob, &bob_id).await;
    assert_eq!(alice.run(&["unblock", &bob_id]).await.failure(), "not_found");
    assert_eq!(alice.run(&["block", &alice_id]).await.failure(), "invalid");
    let said = alice.run(&["block", &bob_id]).await;
    assert_eq!((fields(said.one()), &said.one()["blocked"]), (vec!["blocked", "user_id"], &json!(true)));
    assert_eq!(alice.run(&["blocked"]).await.one()["user_id"], *bob_id);
    assert_eq!(state_of(&alice, &chat).await, "blocked");
    bob.run(&["send", &chat, "hello?"]).await.one();
    assert!(alice.run(&["receive"]).await.all().is_empty());
    assert_eq!(alice.run(&["send", &chat, "?"]).await.failure(), "invalid");
    alice.run(&["unblock", &bob_id]).await.one();
    assert!(alice.run(&["blocked"]).await.all().is_empty());
    bob.run(&["send", &chat, "at last"]).await.one();
    assert_eq!(texts(alice.run(&["receive"]).await.all()), ["at last"]);
    assert!(alice.run(&["problems"]).await.all().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_one_json_object_and_exit_code_1_and_wrong_usage_is_2() {
    let mut server = Server::start().await;
    let (alice, nobody) = (server.cli("Alice"), server.cli("Nobody"));
    assert_eq!(nobody.run(&["whoami"]).await.failure(), "not_registered");
    assert!(!server.path("Nobody").exists(), "a wrong path leaves nothing behind");
    let alice_id = alice.register().await;
    let registration = alice.registration();
    let registration: Vec<_> = registration.iter().map(String::as_str).collect();
    assert_eq!(alice.run(&registration).await.failure(), "already_registered");

    let stranger = format!("00000000-0000-4000-8000-000000000000@{DOMAIN}");
    assert_eq!(alice.run(&["connect", &stranger]).await.failure(), "not_found");
    assert_eq!(alice.run(&["connect", &alice_id]).await.failure(), "invalid");
    assert_eq!(alice.run(&["send", &stranger, "hello"]).await.failure(), "not_found");
    assert_eq!(alice.run(&["group", "members", &stranger]).await.failure(), "not_found");
    assert_eq!(alice.run(&["accept", "0"]).await.failure(), "not_found");
    assert_eq!(alice.run(&["decline", "0"]).await.failure(), "not_found");
    assert_eq!(alice.run(&["group", "create", " "]).await.failure(), "invalid");
    let chat = create_group(&alice, "Alone").await;
    assert_eq!(alice.run(&["group", "invite", &chat, &stranger]).await.failure(), "not_found");
    assert_eq!(alice.run(&["group", "remove", &chat, &stranger]).await.failure(), "not_found");
    assert_eq!(alice.run(&["send", &chat, "--file", "/no/such/file"]).await.failure(), "io");
    let too_much = vec![b'x'; bennu::client::MAX_CONTENT + 1];
    assert_eq!(alice.run_with(&["send", &chat], &too_much).await.failure(), "invalid");

    for arguments in [
        &["no-such-command"][..],
        &["connect"],
        &["connect", "not a user id"],
        &["group", "invite", &chat],
        &["send", &chat, "text", "--file", "and a file"],
        &["receive", "--wait", "soon"],
    ] {
        let said = alice.run(arguments).await;
        assert_eq!(said.status.code(), Some(2), "{said:?}");
        assert_eq!(said.error(), "usage");
    }

    // One process at a time has the client.
    let (mut process, mut lines) = receiving(&alice, &["--wait", "100"]);
    let bob = server.cli("Bob");
    let bob_id = bob.register().await;
    let _ = bob.run(&["connect", &alice_id]).await.one();
    assert_eq!(alice.run(&["whoami"]).await.failure(), "busy");
    process.kill().await.unwrap();
    assert_eq!(within("the end of the lines", lines.next_line()).await.unwrap(), None);
    assert_eq!(alice.run(&["requests"]).await.one()["from"], *bob_id);

    // What needs no homeserver goes on without one.
    server.stop().await;
    assert_eq!(alice.run(&["whoami"]).await.one()["name"], "Alice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_is_set_up_once_and_its_data_belongs_to_one_process() {
    let mut server = Server::start().await;
    let alice = server.cli("Alice");
    alice.register().await;
    let run = async |arguments: &[&str]| {
        let output = within(arguments, command().args(arguments).output()).await.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let directory = server.path("server");
    let config = std::fs::read(server.config()).unwrap();
    let (code, why) = run(&["init", "--domain", DOMAIN, "--dir", directory.to_str().unwrap()]).await;
    assert_eq!(code, Some(1), "{why}");
    assert_eq!(std::fs::read(server.config()).unwrap(), config, "nothing is overwritten");
    for name in ["localhost", "a_b.test", "192.0.2.1", "a..test"] {
        let (code, why) = run(&["init", "--domain", name, "--dir", server.path("other").to_str().unwrap()]).await;
        assert_eq!(code, Some(2), "{name}: {why}");
    }
    assert!(!server.path("other").exists());

    let (code, why) = run(&["serve", "--config", server.config().to_str().unwrap()]).await;
    assert_eq!(code, Some(1));
    assert!(why.contains("process") || why.contains("in use"), "it says what is in the way: {why}");
    server.stop().await;
    server.restart().await;
    assert!(alice.run(&["receive", "--max", "0"]).await.all().is_empty());
    let (code, _) = run(&["serve", "--config", server.path("none.toml").to_str().unwrap()]).await;
    assert_eq!(code, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_homeserver_is_away_people_see_what_is_known_and_are_told_what_they_wait_for() {
    let mut server = Server::start().await;
    let (alice, bob) = (server.cli("Alice"), server.cli("Bob"));
    let (_, bob_id) = (alice.register().await, bob.register().await);
    let chat = alice.run(&["connect", &bob_id]).await.one()["chat"].as_str().unwrap().to_owned();
    server.stop().await;
    let (shown, refused) = within("a homeserver that is away", async {
        tokio::join!(alice.command_for_people(["chats"]).output(), bob.run(&["chats"]))
    })
    .await;
    // A program is not told what may be old.
    assert_eq!(refused.failure(), "unreachable");
    let shown = shown.unwrap();
    let said = String::from_utf8(shown.stderr).unwrap();
    assert!(shown.status.success(), "{said}");
    assert!(String::from_utf8(shown.stdout).unwrap().contains(&chat));
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].contains("has not answered yet") && lines[1].starts_with("as it was known before: "), "{said}");
}
