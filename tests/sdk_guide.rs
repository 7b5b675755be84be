//! The SDK's guide and its example: the example is a client that works, and the guide shows parts of it.

mod support;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use support::{Server, fetch, text, within};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

/// The example as it was built beside the tests.
fn example() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let example = tests.parent().and_then(Path::parent).unwrap().join("examples/echo");
    assert!(example.exists(), "`cargo test` builds it; for this test alone, `cargo build --example echo` does");
    example
}

#[tokio::test]
async fn the_example_accepts_whoever_connects_and_says_what_it_is_told() {
    let server = Server::start().await;
    let start = || {
        Command::new(example())
            .arg(server.path("echo"))
            .args([server.domain(), &server.address().to_string()])
            .arg(server.ca())
            .env("BENNU_PASSWORD", "a password for the example")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    };
    let mut echo = start();
    let mut lines = BufReader::new(echo.stdout.take().unwrap()).lines();
    let line = within("its name", lines.next_line()).await.unwrap().expect("it says who it is");
    let name = line.strip_prefix("I am ").unwrap().parse().unwrap();

    let alice = server.register("Alice").await;
    let mut events = alice.events();
    let chat = within("connecting", alice.connect(&name)).await.unwrap();
    support::until("the connection", &mut events, |event| {
        matches!(event, bennu::client::Event::Connected { .. }).then_some(())
    })
    .await;
    for said in ["once", "and again, after it was killed"] {
        within("sending", alice.send(&chat, text(said))).await.unwrap();
        // One that was killed may have answered before it remembered that.
        let mut answers = Vec::new();
        while answers.last().map(String::as_str) != Some(said) {
            support::until("the answer", &mut events, |event| {
                matches!(event, bennu::client::Event::Message { .. }).then_some(())
            })
            .await;
            answers.extend(fetch(&alice).await);
        }
        assert!(answers.iter().all(|answer| answer == said || answer == "once"), "{answers:?}");
        within("its end", echo.kill()).await.unwrap();
        echo = start();
    }
}

#[test]
fn what_the_guide_shows_is_in_the_example() {
    let read = |path: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let (guide, example) = (read("docs/sdk.md"), read("docs/examples/echo.rs"));
    let shown: Vec<_> = guide.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(shown.len() >= 2);
    for part in shown {
        assert!(example.contains(part), "not in the example:\n{part}");
    }
}
