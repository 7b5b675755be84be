//! A homeserver that is watched: over HTTP, as programs and browsers do.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;
use crate::{
    base::{Clock, SystemClock},
    node::{
        Config, Node,
        setup::{Setup, create},
    },
    store::MemoryEngine,
};

/// A homeserver in memory, with its files in a directory.
async fn watched(change: impl FnOnce(&mut Config)) -> (tempfile::TempDir, Node, SocketAddr) {
    let directory = tempfile::tempdir().unwrap();
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let setup = Setup { watch: Some(loopback), ..Setup::new("a.test".parse().unwrap(), loopback) };
    let created = create(directory.path(), &setup).unwrap();
    let mut config = Config::load(&created.config).unwrap();
    change(&mut config);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let node = Node::start_on(&config, MemoryEngine::new(), clock).await.unwrap();
    let address = node.watch_addr().unwrap();
    (directory, node, address)
}

/// Sends a request as it stands; the status, the head and the body of the answer.
async fn ask(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn a_homeserver_says_that_it_is_well_and_what_it_has_done() {
    let (_directory, node, address) = watched(|_| {}).await;
    assert_eq!(get(address, "/healthz").await.0, 200);
    assert_eq!(get(address, "/readyz").await, get(address, "/readyz").await);
    assert_eq!(get(address, "/readyz").await.2, "ready\n");
    let (status, head, text) = get(address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/openmetrics-text"), "{head}");
    for metric in [
        "bennu_connections 0",
        "bennu_store_batches_total ",
        "bennu_store_write_seconds_bucket{le=",
        "bennu_queues{entries=\"0\"}",
        "bennu_memory_bytes ",
        "bennu_handshakes_total{outcome=\"accepted\"} 0",
        "bennu_rate_limited_total{rate=\"logins_per_account\"} 0",
    ] {
        assert!(text.contains(metric), "{metric}: {text}");
    }
    assert!(text.ends_with("# EOF\n"));
    let (status, _, figures) = get(address, "/figures").await;
    let figures: Value = serde_json::from_str(&figures).unwrap();
    assert_eq!((status, &figures["domain"], &figures["condition"]), (200, &"a.test".into(), &"ready".into()));
    node.run(async {}).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "it ends with the homeserver");
}

#[tokio::test]
async fn the_page_uses_nothing_from_elsewhere() {
    let (_directory, _node, address) = watched(|_| {}).await;
    for (path, content_type) in [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")] {
        let (status, head, body) = get(address, path).await;
        assert_eq!(status, 200, "{path}");
        assert!(head.contains(&format!("content-type: {content_type}; charset=utf-8")), "{head}");
        assert!(head.contains("content-security-policy: default-src 'none'; script-src 'self'"), "{head}");
        // The name of a namespace is no address.
        let body = body.replace("http://www.w3.org/2000/svg", "");
        assert!(!body.contains("//") || !body.contains("http"), "{path} names an address");
    }
}

#[tokio::test]
async fn only_reading_is_possible_and_only_by_address() {
    let (_directory, _node, address) = watched(|_| {}).await;
    assert_eq!(get(address, "/../../etc/passwd").await.0, 404);
    assert_eq!(get(address, "/admin").await.0, 404);
    let with = |method: &str, host: &str| format!("{method} / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        assert_eq!(ask(address, &with(method, "localhost")).await.0, 405, "{method}");
    }
    for (host, status) in
        [("localhost:9420", 200), ("[::1]:9420", 200), ("[::1]", 200), ("evil.example", 421), ("evil.example:80", 421)]
    {
        assert_eq!(ask(address, &with("GET", host)).await.0, status, "{host}");
    }
    let (status, _, body) = ask(address, &with("HEAD", "127.0.0.1")).await;
    assert_eq!((status, body.as_str()), (200, ""));
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
    assert_eq!(ask(address, &long).await.0, 431);
}

#[tokio::test]
async fn below_the_reserve_of_the_disk_it_is_not_ready_and_says_why() {
    let condition = Condition::starting(u64::MAX);
    assert_eq!(condition.ready(), Err("starting".into()));
    let watch = Watch::bind("127.0.0.1:0".parse().unwrap(), condition.clone()).await.unwrap();
    let address = watch.local_addr().unwrap();
    let serving = tokio::spawn(watch.serve());
    for path in ["/readyz", "/metrics", "/figures"] {
        assert_eq!(get(address, path).await.0, 503, "{path}");
    }
    assert_eq!(get(address, "/healthz").await.0, 200);
    serving.abort();

    let (_directory, _node, address) = watched(|config| config.limits.disk_reserve = u64::MAX).await;
    let (status, _, why) = get(address, "/readyz").await;
    assert_eq!(status, 503);
    assert!(why.contains("MiB are free on the disk, less than the reserve"), "{why}");
    let figures: Value = serde_json::from_str(&get(address, "/figures").await.2).unwrap();
    assert!(figures["condition"].as_str().unwrap().contains("reserve"), "{figures}");
}
