//! SIGHUP: what an operator decides takes effect in a running homeserver, and nobody's connection ends.

mod support;

use std::fs;

use support::{PATIENCE, Server, connect, fetch, text, within};

/// Registers people until one is refused, or not refused any more.
async fn until_registration(server: &Server, refused: bool, name: &str) {
    let found = async {
        for number in 0.. {
            let name = format!("{name}{number}");
            let options = server.registration(&name);
            let registered = bennu::client::Client::register(&server.path(&name), options).await;
            let error = registered.err().map(|error| error.status().to_owned());
            if refused && error.is_some() || !refused && error.is_none() {
                return error;
            }
        }
        None
    };
    let error = within("the change", found).await;
    assert!(!refused || error.as_deref() == Some("forbidden"), "{error:?}");
}

/// Waits until the log has this in it so many times.
async fn until_logged(server: &Server, what: &str, times: usize) {
    let logged = async {
        while server.read_log().matches(what).count() < times {
            // Reason: nothing tells that another process has written to a file.
            tokio::time::sleep(PATIENCE / 5_000).await;
        }
    };
    within(what, logged).await;
}

#[tokio::test]
async fn what_an_operator_decides_takes_effect_and_connections_stay() {
    let mut server = Server::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = connect(&alice, &bob).await;
    let open = fs::read_to_string(server.config()).unwrap();
    let closed = open.replacen("# policy = \"open\"\n", "policy = \"closed\"\n", 1);
    assert_ne!(open, closed);

    fs::write(server.config(), &closed).unwrap();
    server.hang_up().await;
    until_registration(&server, true, "late").await;
    within("sending", alice.send(&chat, text("still here"))).await.unwrap();

    // One that is not usable changes nothing, and is told with its line.
    let broken = closed.clone() + "\n[limits]\nmax_streams = 0\n";
    fs::write(server.config(), broken.replacen("[limits]", "[limits_before]", 1)).unwrap();
    server.hang_up().await;
    until_logged(&server, "the configuration in use stays", 1).await;
    until_registration(&server, true, "later").await;

    // What it stands on takes a new start.
    let moved = open.replacen("# shutdown_grace = ", "shutdown_grace = 7 # ", 1);
    assert_ne!(moved, open);
    fs::write(server.config(), &moved).unwrap();
    server.hang_up().await;
    until_logged(&server, "these settings take effect at the next start", 1).await;
    until_registration(&server, false, "welcome").await;
    // As long as it is so, it is said: it is held against what runs.
    server.hang_up().await;
    until_logged(&server, "these settings take effect at the next start", 2).await;
    assert_eq!(fetch(&bob).await, ["still here"]);
    assert!(!server.read_log().contains("panicked"));
    server.stop().await;
}
