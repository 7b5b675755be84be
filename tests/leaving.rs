//! A homeserver that is to be stopped takes nobody new in, and one that is not wanted any more is deleted.

mod support;

use bennu::client::{Connector as _, Isolation, QuicConnector};
use serde_json::Value;
use support::{BENNU, Server, connect, fetch, text, within};
use tokio::process::Command;

async fn admin(server: &Server, arguments: &[&str]) -> (Option<i32>, Value) {
    let mut command = Command::new(BENNU);
    command.args(["admin", "--json", "--config"]).arg(server.config()).args(arguments);
    let output = within(arguments, command.output()).await.unwrap();
    let said = if output.status.success() { &output.stdout } else { &output.stderr };
    (output.status.code(), serde_json::from_slice(said).unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

#[tokio::test]
async fn a_homeserver_that_drains_refuses_who_is_new_and_serves_who_is_there() {
    let mut server = Server::start_watched().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = connect(&alice, &bob).await;
    let (code, left) = admin(&server, &["drain", "--wait"]).await;
    assert_eq!((code, &left["draining"], &left["messages_waiting"]), (Some(0), &true.into(), &0.into()));
    assert!(left["connections"].as_u64().unwrap() > 0, "{left}");

    let domain = server.domain().parse().unwrap();
    let ca = std::fs::read(server.ca()).unwrap();
    let newcomer = QuicConnector::new(domain, Some(server.address().to_string()), Some(&ca)).unwrap();
    let domain = server.domain().parse().unwrap();
    let connect = async || within("an answer", newcomer.connect(&domain, &Isolation::Anonymous)).await;
    assert!(connect().await.is_err(), "nobody new is taken in");
    within("sending", alice.send(&chat, text("still here"))).await.unwrap();

    let (_, back) = admin(&server, &["drain", "--undo"]).await;
    assert_eq!(back["draining"], false);
    assert!(connect().await.is_ok(), "everybody is");
    assert_eq!(fetch(&bob).await, ["still here"]);
    server.stop().await;
}

#[tokio::test]
async fn a_homeserver_is_deleted_by_whoever_types_its_name_and_only_when_it_has_stopped() {
    let mut server = Server::start().await;
    drop(server.register("Alice").await);
    let everything = ["wipe", "--delete-everything-of", "a.test"];
    let (code, why) = admin(&server, &everything).await;
    assert_eq!(code, Some(1));
    assert!(why["error"]["message"].as_str().unwrap().contains("stop it first"), "{why}");
    server.stop().await;
    for arguments in [&["wipe"][..], &["wipe", "--delete-everything-of", "b.test"]] {
        assert_eq!(admin(&server, arguments).await.0, Some(1), "{arguments:?}");
        assert!(server.config().exists());
    }
    let home = server.config().parent().unwrap().to_owned();
    let (code, said) = admin(&server, &everything).await;
    assert_eq!(code, Some(0));
    assert!(said["deleted"].as_array().unwrap()[0].as_str().unwrap().ends_with("storage.key"), "{said}");
    assert!(!home.exists(), "nothing is left");
}
