//! The operator's commands, against a homeserver in a process of its own: users, invitations, and keys that are kept
//! elsewhere.
#![cfg(feature = "cli")]

mod support;

use std::{
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
};

use bennu::client::{Client, ClientError, RegisterOptions};
use serde_json::Value;
use support::{Server, command, user, within};

/// What a command of the operator has printed, or the status of its failure.
async fn admin(server: &Server, arguments: &[&str]) -> Result<Vec<Value>, String> {
    let mut command = command();
    command.args(["admin", "--json", "--config"]).arg(server.config()).args(arguments);
    let output = within(arguments, command.output()).await.unwrap();
    let lines = |bytes: &[u8]| -> Vec<Value> {
        String::from_utf8_lossy(bytes).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    if output.status.success() {
        return Ok(lines(&output.stdout));
    }
    let failure = lines(&output.stderr).pop().expect("a failure says why");
    Err(failure["error"]["status"].as_str().unwrap().to_owned())
}

async fn synchronised(client: &Client) -> &'static str {
    within("synchronising", client.sync()).await.map_or_else(|error| error.status(), |()| "ok")
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_listed_disabled_enabled_and_deleted() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let (alice_id, bob_id) = (user(&alice).to_string(), user(&bob).to_string());
    let listed = admin(&server, &["user", "list"]).await.unwrap();
    assert_eq!(listed.len(), 2);
    let entry = |listed: &[Value], id: &str| listed.iter().find(|entry| entry["user_id"] == id).cloned();
    assert_eq!(entry(&listed, &bob_id).unwrap()["disabled"], false);

    // Bob listens while he is disabled, and again when he is back.
    admin(&server, &["user", "disable", &bob_id]).await.unwrap();
    assert_eq!(synchronised(&bob).await, "unauthenticated");
    assert_eq!(synchronised(&alice).await, "ok");
    let listed = admin(&server, &["user", "list"]).await.unwrap();
    assert_eq!(entry(&listed, &bob_id).unwrap()["disabled"], true);
    admin(&server, &["user", "enable", &bob_id]).await.unwrap();
    assert_eq!(synchronised(&bob).await, "ok");

    admin(&server, &["user", "delete", &alice_id]).await.unwrap();
    assert_eq!(synchronised(&alice).await, "unauthenticated");
    assert_eq!(admin(&server, &["user", "delete", &alice_id]).await, Err("not_found".into()));
    assert_eq!(admin(&server, &["user", "disable", "nobody"]).await, Err("malformed".into()));
    // Bob loses an alias that the operator does not like, and nothing else.
    within("an alias", bob.register_alias("The.Mayor")).await.unwrap();
    admin(&server, &["alias", "delete", "the.mayor"]).await.unwrap();
    assert_eq!(admin(&server, &["alias", "delete", "the.mayor"]).await, Err("not_found".into()));
    assert_eq!(admin(&server, &["alias", "delete", "no alias"]).await, Err("malformed".into()));
    assert_eq!(synchronised(&bob).await, "ok");
    assert!(bob.aliases().await.unwrap().is_empty());
    let stats = admin(&server, &["stats"]).await.unwrap();
    assert_eq!((&stats[0]["users"], &stats[0]["revoked_credentials"]), (&1.into(), &1.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_for_the_operator_alone_and_lives_as_long_as_the_homeserver() {
    let mut server = Server::start().await;
    let socket = server.config().parent().unwrap().join("admin.sock");
    let metadata = fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    // Rubbish is answered, and does no harm.
    let mut stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
    let mut answer = String::new();
    {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        stream.write_all(b"{\"command\":\"user-list\",\"surprise\":1}\n").await.unwrap();
        within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    }
    assert!(answer.contains("malformed"), "{answer}");
    // What a killed homeserver leaves is not in the way of the next.
    server.kill().await;
    server.restart().await;
    assert_eq!(admin(&server, &["user", "list"]).await, Ok(Vec::new()));
    server.stop().await;
    assert!(!socket.exists());
    assert_eq!(admin(&server, &["stats"]).await, Err("node".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn invitation_codes_admit_whom_the_operator_invites() {
    let server = Server::start_with("[registration]\npolicy = \"invitation\"\n").await;
    let register = async |name: &str, invitation: Option<String>| -> Result<(), ClientError> {
        let options = RegisterOptions { invitation, ..server.registration(name) };
        within("registration", Client::register(&server.path(name), options)).await.map(drop)
    };
    assert_eq!(register("Alice", None).await.unwrap_err().status(), "forbidden");
    let made = admin(&server, &["invite", "create", "--uses", "1", "--note", "for Alice"]).await.unwrap();
    let (code, id) = (made[0]["code"].as_str().unwrap(), made[0]["id"].as_str().unwrap());
    let listed = admin(&server, &["invite", "list"]).await.unwrap();
    assert_eq!((&listed[0]["id"], &listed[0]["note"]), (&id.into(), &"for Alice".into()));
    assert!(!listed[0].to_string().contains(code), "the code itself is not kept");
    register("Alice", Some(code.to_owned())).await.unwrap();
    assert_eq!(register("Bob", Some(code.to_owned())).await.unwrap_err().status(), "forbidden");
    let made = admin(&server, &["invite", "create"]).await.unwrap();
    let (code, id) = (made[0]["code"].as_str().unwrap(), made[0]["id"].as_str().unwrap());
    admin(&server, &["invite", "revoke", id]).await.unwrap();
    assert_eq!(register("Bob", Some(code.to_owned())).await.unwrap_err().status(), "forbidden");
    assert_eq!(admin(&server, &["invite", "revoke", id]).await, Err("not_found".into()));
    assert_eq!(admin(&server, &["invite", "create", "--days", "0"]).await, Err("malformed".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_key_is_kept_elsewhere_and_intermediates_are_signed_there() {
    let mut server = Server::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = support::connect(&alice, &bob).await;
    let path = |name: &str| server.path(name).to_str().unwrap().to_owned();
    let (root, request, signed) = (path("root.key"), path("request"), path("signed"));
    admin(&server, &["keys", "export-root", "--out", &root]).await.unwrap();
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(admin(&server, &["keys", "rotate", "intermediate"]).await, Err("forbidden".into()));
    assert_eq!(admin(&server, &["keys", "export-root", "--out", &path("again")]).await, Err("forbidden".into()));

    admin(&server, &["keys", "request", "--out", &request]).await.unwrap();
    // Whoever signs is told what, and a key that is not the root's signs nothing.
    let other = path("other.key");
    fs::write(&other, "07".repeat(32)).unwrap();
    let refused = admin(&server, &["keys", "sign", "--root", &other, &request, "--out", &signed]).await;
    assert_eq!((refused, fs::exists(&signed).unwrap()), (Err("invalid".into()), false));
    let told = admin(&server, &["keys", "sign", "--root", &root, &request, "--out", &signed]).await.unwrap();
    let keys = admin(&server, &["keys", "list"]).await.unwrap();
    let known = keys.iter().find(|key| key["kind"] == "root").unwrap();
    assert_eq!((&told[0]["domain"], &told[0]["signer"]), (&"a.test".into(), &known["fingerprint"]));
    assert!(told[0]["valid_until"].as_u64() <= known["valid_until"].as_u64(), "{told:?} {known:?}");
    assert_eq!(admin(&server, &["keys", "import", &request]).await, Err("malformed".into()));
    admin(&server, &["keys", "import", &signed]).await.unwrap();
    assert_eq!(admin(&server, &["keys", "import", &signed]).await, Err("not_found".into()), "used up");

    let keys = admin(&server, &["keys", "list"]).await.unwrap();
    let of = |kind: &str| keys.iter().filter(|key| key["kind"] == kind).cloned().collect::<Vec<_>>();
    assert_eq!(of("root")[0]["key"], "elsewhere");
    let intermediates = of("intermediate");
    assert_eq!((intermediates.len(), &intermediates[0]["preferred"]), (2, &true.into()));
    assert_eq!(intermediates[0]["fingerprint"], told[0]["fingerprint"]);
    // The old one is revoked; whoever was certified by it renews by itself, and nobody has to do anything.
    let old = intermediates[1]["fingerprint"].as_str().unwrap();
    admin(&server, &["keys", "revoke", old]).await.unwrap();
    let preferred = intermediates[0]["fingerprint"].as_str().unwrap();
    assert_eq!(admin(&server, &["keys", "revoke", preferred]).await, Err("forbidden".into()));
    for client in [&alice, &bob] {
        assert_eq!(synchronised(client).await, "ok");
    }
    let carol = server.register("Carol").await;
    support::connect(&carol, &alice).await;

    // All of it is still so after the homeserver was killed.
    server.kill().await;
    server.restart().await;
    let keys = admin(&server, &["keys", "list"]).await.unwrap();
    assert!(keys.iter().any(|key| key["kind"] == "revoked" && key["fingerprint"] == old), "{keys:?}");
    admin(&server, &["keys", "import-root", &root]).await.unwrap();
    for key in ["root", "tokens", "foreign-tokens", "intermediate"] {
        admin(&server, &["keys", "rotate", key]).await.unwrap();
    }
    let dave = server.register("Dave").await;
    support::connect(&dave, &bob).await;
    within("sending", alice.send(&chat, support::text("all is well"))).await.unwrap();
}
