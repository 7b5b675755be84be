//! What can be seen of a running homeserver from outside, metrics, page and log, says how it does, and nothing of who does what in it.

mod support;

use std::{collections::BTreeSet, net::SocketAddr, path::Path};

use serde_json::Value;
use support::{
    BENNU, Server, connect,
    known::{contains, names, remembered},
    text, within,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};

/// What `GET` of a path gives.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(path, stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
    body.to_owned()
}

async fn admin(server: &Server, arguments: &[&str]) -> String {
    let mut command = Command::new(BENNU);
    command.args(["admin", "--json", "--config"]).arg(server.config()).args(arguments);
    let output = within(arguments, command.output()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn nothing_that_can_be_watched_names_anybody_whom_the_clients_know() {
    let mut server = Server::start_watched().await;
    let figures = server.figures().expect("it is watched");
    admin(&server, &["log", "bennu=trace"]).await;
    let (alice, bob, carol) =
        (server.register("Alice").await, server.register("Bob").await, server.register("Carol").await);
    let direct = connect(&alice, &bob).await;
    connect(&alice, &carol).await;
    let group = within("a group", alice.create_group("the name of the group")).await.unwrap();
    for other in [&bob, &carol] {
        within("inviting", alice.invite(&group, &[support::user(other)])).await.unwrap();
    }
    for client in [&bob, &carol] {
        within("syncing", client.sync()).await.unwrap();
    }
    for chat in [&direct, &group] {
        within("sending", alice.send(chat, text("a secret word"))).await.unwrap();
    }
    within("syncing", bob.sync()).await.unwrap();
    let nobody = within("nobody", alice.connect_alias("nobody-of-this-name", &server.domain().parse().unwrap())).await;
    assert!(nobody.is_err(), "a request is refused");
    within("removing", alice.remove(&group, &[support::user(&carol)])).await.unwrap();

    let mut seen = String::new();
    for path in ["/metrics", "/figures", "/"] {
        seen += &get(figures, path).await;
    }
    for arguments in [&["top"][..], &["stats"], &["log"]] {
        seen += &admin(&server, arguments).await;
    }
    let metrics = get(figures, "/metrics").await;
    for metric in [
        "bennu_requests_total{method=\"DsSendMessage\",status=\"ok\"} ",
        "bennu_request_duration_seconds_bucket{le=\"0.00025\",method=\"AsFinishRegistration\"}",
        "bennu_tokens_redeemed_total ",
        "bennu_engine_table_rows_estimate{table=\"ds_heads\"}",
        "bennu_engine_block_cache_bytes ",
    ] {
        assert!(metrics.contains(metric), "{metric}: {metrics}");
    }
    drop((alice, bob, carol));
    server.stop().await;
    let log = server.read_log();
    let refused = log.lines().find(|line| line.contains("\"DEBUG\"") && line.contains("refused"));
    let refused: Value = serde_json::from_str(refused.expect("more is logged than by default")).unwrap();
    assert!(refused["span"]["number"].is_u64(), "requests have numbers: {refused}");
    seen += &log;

    let known: Vec<_> = ["Alice", "Bob", "Carol"].into_iter().flat_map(|name| remembered(&server.path(name))).collect();
    assert!(known.len() > 50, "the clients remember something");
    // The test can fail: what a client knows is found where it is printed.
    let id = known.iter().find(|value| value.len() == 16).expect("an id");
    let printed = names(&format!("id={} {id:?}", bennu::base::hex::encode(id)));
    assert_eq!(printed, BTreeSet::from([id.clone()]));
    for name in names(&seen) {
        let named = known.iter().any(|value| contains(value, &name));
        assert!(!named, "{} can be seen from outside", bennu::base::hex::encode(&name));
    }
    for word in ["a secret word", "the name of the group", "Alice", "Bob", "Carol"] {
        assert!(!seen.contains(word), "{word} can be seen from outside");
    }
}

#[tokio::test]
async fn what_is_logged_can_be_changed_while_the_homeserver_runs() {
    let mut server = Server::start_watched().await;
    admin(&server, &["log", "bennu=error"]).await;
    let said: Value = serde_json::from_str(&admin(&server, &["log"]).await).unwrap();
    assert_eq!(said["log"], "bennu=error");
    let before = server.read_log().lines().count();
    admin(&server, &["keys", "rotate", "tokens"]).await;
    let alice = server.register("Alice").await;
    drop(alice);
    server.stop().await;
    assert_eq!(
        server.read_log().lines().count(),
        before,
        "nothing of what happened is an error: {}",
        server.read_log()
    );
}

#[tokio::test]
async fn dashboard_and_alerts_use_metrics_that_there_are() {
    let server = Server::start_watched().await;
    drop(server.register("Alice").await);
    let metrics = get(server.figures().unwrap(), "/metrics").await;
    for file in ["packaging/grafana.json", "packaging/alerts.yml"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let names: BTreeSet<_> = words.filter(|word| word.starts_with("bennu_")).collect();
        assert!(names.len() > 5, "{file} names metrics");
        for name in names {
            // Suffixes are not described.
            let family = ["_total", "_bucket", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let described = format!("# TYPE {} ", family.unwrap_or(name));
            // There is no other homeserver here.
            let is_there = metrics.contains(&described) || name.starts_with("bennu_peer_");
            assert!(is_there, "{file}: {name} is no metric");
        }
    }
    drop(server);
}
