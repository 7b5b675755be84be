//! `bennu demo`: the whole thing at work, as a transcript: two homeservers in processes of their own on loopback, people on
//! both, a crash and an outage in the middle, and at the end a count of what arrived.

mod people;
mod server;
mod tally;

use std::{path::Path, time::Duration};

use clap::Args;
use serde_json::json;
use tokio::time::timeout;

use super::output::{Failure, Output, print};
use crate::{
    base::GroupId,
    client::{ChatState, Client},
};
use people::Person;
use server::Server;
use tally::Tally;

/// Messages that are sent while the homeserver is killed and started again.
const THROUGH_THE_CRASH: usize = 30;

/// The whole demo takes seconds; if it takes this long something hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// How to show it.
#[derive(Args)]
pub struct Demo {
    /// Print the result as one JSON object, and the transcript to standard error
    #[arg(long)]
    pub json: bool,
}

/// What has happened so far, told as it happens.
pub struct Transcript {
    json: bool,
    step: u32,
}

impl Transcript {
    /// A new part begins.
    fn part(&mut self, title: &str) {
        self.step += 1;
        self.print(&format!("\n{}. {title}", self.step));
    }

    /// Something happened.
    fn say(&self, line: &str) {
        self.print(&format!("   {line}"));
    }

    fn print(&self, line: &str) {
        if self.json {
            eprintln!("{line}");
        } else {
            // Whether anybody reads it shows at the end.
            let _ = print(format!("{line}\n"));
        }
    }
}

impl Demo {
    /// Shows it all.
    ///
    /// # Errors
    /// If anything does not go as it must.
    pub async fn run(self) -> Result<(), Failure> {
        let mut transcript = Transcript { json: self.json, step: 0 };
        let shown = timeout(PATIENCE, show(&mut transcript)).await;
        let tally = shown.map_err(|_| Failure::new("timeout", "the demo did not end within 5 minutes"))??;
        let Tally { sent, received, lost, duplicated, .. } = tally;
        let output = Output::new(self.json);
        let ok = tally.is_perfect();
        transcript.say(&format!("{sent} messages sent, {received} copies received, {lost} lost, {duplicated} twice"));
        if !ok {
            return Err(Failure::new("demo", "messages were lost, doubled or out of order"));
        }
        let json = || json!({ "ok": ok, "sent": sent, "received": received, "lost": lost, "duplicated": duplicated });
        output.line(|| "\ndemo: ok".into(), json)
    }
}

async fn show(t: &mut Transcript) -> Result<Tally, Failure> {
    let directory = tempfile::tempdir()?;
    let mut tally = Tally::default();

    t.part("Two homeservers in processes of their own, with RocksDB in a temporary directory each");
    let mut servers = Server::start(directory.path(), &["a.test", "b.test"]).await?;
    for server in &servers {
        t.say(&format!("{} listens on {} (process {})", server.domain(), server.address(), server.pid()));
    }

    t.part("Three people register: OPAQUE, a certified key, pseudonymous queues, KeyPackages");
    let mut people = Vec::new();
    for (name, at) in [("Alice", 0), ("Bob", 1), ("Carol", 0)] {
        let person = Person::register(&servers, at, directory.path(), name).await?;
        t.say(&format!("{name} is {}", person.id));
        people.push(person);
    }
    let [alice, bob, carol] = &mut people[..] else { return Err(Failure::new("demo", "three people register")) };

    t.part("Alice connects with Bob and Carol");
    for other in [&*bob, &*carol] {
        let chat = connect(alice, other).await?;
        t.say(&format!("{} has accepted; they talk in {chat}", other.name));
        for (from, to, text) in [(&*alice, other, "Hello!"), (other, &*alice, "Hello yourself!")] {
            tally.send(from, &chat, text, &[to]).await?;
            show_inbox(t, &mut tally, to).await?;
        }
    }

    t.part(
        "Bob is found by an alias, by somebody who does not know who that is; one offer he declines, one he accepts",
    );
    alias(t, &servers, directory.path(), bob).await?;

    t.part("A group of three");
    let group = alice.client()?.create_group("Expedition").await?;
    alice.client()?.invite(&group, &[bob.id.clone(), carol.id.clone()]).await?;
    bob.joins(&group).await?;
    carol.joins(&group).await?;
    t.say(&format!("Alice has made the group \"Expedition\" ({group}) and added Bob and Carol"));
    let everybody = [&*alice, &*bob, &*carol];
    for (n, text) in ["When do we leave?", "On Monday.", "I bring the maps."].into_iter().enumerate() {
        let others: Vec<_> = everybody.into_iter().enumerate().filter(|(m, _)| *m != n).map(|(_, one)| one).collect();
        tally.send(everybody[n], &group, text, &others).await?;
    }
    for person in everybody {
        show_inbox(t, &mut tally, person).await?;
    }

    t.part("Carol goes offline; the others go on; she comes back and finds it all in her queue");
    carol.go_offline().await;
    for n in 1..=5 {
        tally.send(alice, &group, &format!("Packing list, part {n}"), &[bob, carol]).await?;
    }
    show_inbox(t, &mut tally, bob).await?;
    carol.come_back().await?;
    show_inbox(t, &mut tally, carol).await?;

    t.part("The group's homeserver is killed (SIGKILL) while messages are being sent, and started again");
    crash(t, &mut servers[0], &mut tally, alice, &group, &[bob, carol]).await?;

    t.part("Bob's homeserver goes down; the others go on; what is for him waits at theirs until his is back");
    outage(t, &mut servers[1], &mut tally, alice, &group, &[carol, bob]).await?;

    t.part("Carol is removed and cannot read on");
    alice.client()?.remove(&group, std::slice::from_ref(&carol.id)).await?;
    tally.send(alice, &group, "Now it is the two of us.", &[bob]).await?;
    tally.send(bob, &group, "Carol does not see this.", &[alice]).await?;
    for person in [&*alice, &*bob, &*carol] {
        show_inbox(t, &mut tally, person).await?;
    }
    refused_to_carol(t, carol.client()?, &group).await?;

    let paid = tokens(&people).await?;
    t.part("Everybody goes home");
    for person in &mut people {
        person.go_offline().await;
    }
    for server in &mut servers {
        server.stop().await?;
    }
    t.say("both homeservers have stopped in order");
    t.say(&paid);
    tally.settle();
    Ok(tally)
}

/// What the requests so far have cost.
async fn tokens(people: &[Person]) -> Result<String, Failure> {
    let mut left = Vec::new();
    for person in people {
        left.push(format!("{} has {}", person.name, person.client()?.tokens().await?));
    }
    Ok(format!("every request was paid with anonymous tokens, issued 50 at a time; left: {}", left.join(", ")))
}

async fn alias(t: &Transcript, servers: &[Server], directory: &Path, bob: &Person) -> Result<(), Failure> {
    let alias = bob.client()?.register_alias("The-Baker").await?;
    let domain = bob.id.domain.clone();
    t.say(&format!("Bob has registered {alias}@{domain} under a key of its own; nothing at the homeserver names him"));
    let mut dave = Person::register(servers, 0, directory, "Dave").await?;
    for accepts in [false, true] {
        let chat = dave.client()?.connect_alias("THE-BAKER", &domain).await?;
        bob.client()?.sync().await?;
        let requests = bob.client()?.requests().await?;
        let request = requests.iter().find(|request| request.from == dave.id);
        let request = request.ok_or_else(|| Failure::new("demo", "the request to connect did not arrive"))?;
        if accepts {
            bob.client()?.accept(&request.id).await?;
        } else {
            bob.client()?.decline(&request.id).await?;
        }
        dave.client()?.sync().await?;
        let chats = dave.client()?.chats().await?;
        let state = chats.iter().find(|view| view.chat == chat).map(|view| view.state);
        match (accepts, state) {
            (false, Some(ChatState::Declined)) => {
                t.say("Dave's first offer is declined: he is told that, and nothing more")
            }
            (true, Some(ChatState::Active)) => {
                t.say(&format!("his second is accepted, and he learns that it is {}", bob.id))
            }
            _ => return Err(Failure::new("demo", format!("an offer to an alias has become {state:?}"))),
        }
    }
    dave.go_offline().await;
    Ok(())
}

async fn connect(alice: &Person, other: &Person) -> Result<GroupId, Failure> {
    let offered = alice.client()?.connect(&other.id).await?;
    other.client()?.sync().await?;
    let requests = other.client()?.requests().await?;
    let request = requests.iter().find(|request| request.from == alice.id);
    let request = request.ok_or_else(|| Failure::new("demo", "the request to connect did not arrive"))?;
    let chat = other.client()?.accept(&request.id).await?;
    alice.client()?.sync().await?;
    if chat == offered { Ok(chat) } else { Err(Failure::new("demo", "the two sides have different chats")) }
}

/// Shows and counts what a person has received.
async fn show_inbox(t: &Transcript, tally: &mut Tally, person: &Person) -> Result<(), Failure> {
    for line in tally.receive(person).await? {
        t.say(&line);
    }
    Ok(())
}

async fn crash(
    t: &Transcript,
    server: &mut Server,
    tally: &mut Tally,
    alice: &Person,
    group: &GroupId,
    others: &[&Person],
) -> Result<(), Failure> {
    for n in 1..=THROUGH_THE_CRASH {
        if n == THROUGH_THE_CRASH / 2 {
            // The next message is on its way while the process dies.
            let text = format!("Through the storm, {n}");
            let sending = tally.send(alice, group, &text, others);
            let killing = async {
                let pid = server.kill().await?;
                t.say(&format!("kill -9 {pid} after {} of {THROUGH_THE_CRASH} messages", n - 1));
                server.restart().await?;
                t.say(&format!("a.test is back on {} (process {})", server.address(), server.pid()));
                Ok(())
            };
            let (sent, killed): (_, Result<(), Failure>) = tokio::join!(sending, killing);
            sent?;
            killed?;
        } else {
            tally.send(alice, group, &format!("Through the storm, {n}"), others).await?;
        }
    }
    for person in others {
        let received = tally.receive(person).await?.len();
        t.say(&format!("{} has received {received} of {THROUGH_THE_CRASH}, in order", person.name));
    }
    Ok(())
}

async fn outage(
    t: &Transcript,
    server: &mut Server,
    tally: &mut Tally,
    alice: &Person,
    group: &GroupId,
    others: &[&Person],
) -> Result<(), Failure> {
    let pid = server.kill().await?;
    t.say(&format!("kill -9 {pid}: {} is down", server.domain()));
    for n in 1..=THROUGH_THE_CRASH {
        tally.send(alice, group, &format!("Without b.test, {n}"), others).await?;
    }
    t.say(&format!("Alice has sent {THROUGH_THE_CRASH} messages, all acknowledged"));
    server.restart().await?;
    t.say(&format!("{} is back on {} (process {})", server.domain(), server.address(), server.pid()));
    for person in others {
        let received = tally.receive(person).await?.len();
        t.say(&format!("{} has received {received} of {THROUGH_THE_CRASH}, in order", person.name));
    }
    Ok(())
}

async fn refused_to_carol(t: &Transcript, carol: &Client, group: &GroupId) -> Result<(), Failure> {
    use crate::wire::{Text, content::Content};
    match carol.send(group, Content::Text(Text("Let me back in!".into()))).await {
        Ok(_) => Err(Failure::new("demo", "a removed member could send")),
        Err(error) => {
            t.say(&format!("Carol cannot send either: {error}"));
            Ok(())
        }
    }
}
