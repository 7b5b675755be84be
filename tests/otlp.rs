//! Traces by OTLP, with the feature `otlp`: a collector is told of every request, and nothing of who made it; one that does not take
//! them holds nothing up. `cargo test --no-default-features --features client,otlp --test otlp` needs no RocksDB.

#[path = "support/known.rs"]
mod known;

use std::{
    collections::{BTreeSet, HashSet},
    convert::Infallible,
    fs,
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bennu::{
    base::{SystemClock, UserId},
    client::{Client, RegisterOptions},
    node::{
        Config, Node, NodeError, logging,
        setup::{Setup, create},
        traces::{FINISHING, Traces},
    },
    store::MemoryEngine,
    wire::{Text, content::Content},
};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, Uri, body::Incoming, header::CONTENT_TYPE, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message as _;
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Nothing that a test waits for takes this long, unless it will never happen.
const PATIENCE: Duration = Duration::from_secs(120);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

fn at(address: SocketAddr) -> Uri {
    format!("http://{address}").parse().unwrap()
}

/// Takes traces on a port of its own, and hands on what comes, as it comes.
async fn collector() -> (Uri, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (bodies, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let bodies = bodies.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                let bodies = bodies.clone();
                async move {
                    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
                    assert_eq!(request.headers()[CONTENT_TYPE], "application/x-protobuf");
                    bodies.send(request.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
                    Ok::<_, Infallible>(Response::new(Full::<&[u8]>::default()))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    (at(address), received)
}

/// A homeserver in this process.
struct Home {
    config: Config,
    directory: TempDir,
    authority: Vec<u8>,
}

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let setup = Setup::new("a.test".parse().unwrap(), "127.0.0.1:0".parse().unwrap());
        let created = create(&directory.path().join("home"), &setup).unwrap();
        let mut config = Config::load(&created.config).unwrap();
        config.file = None;
        config.log = "bennu=error".into();
        config.limits.shutdown_grace = 1;
        let authority = fs::read(created.authority.unwrap()).unwrap();
        Self { config, directory, authority }
    }

    async fn start(&self) -> Running {
        let node = Node::start_on(&self.config, MemoryEngine::new(), Arc::new(SystemClock)).await.unwrap();
        let address = node.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        Running { address, stop, running: tokio::spawn(node.run(async { drop(stopped.await) })) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn register(&self, at: &Running, name: &str) -> Client {
        let options = RegisterOptions {
            domain: self.config.domain.clone(),
            at: Some(at.address.to_string()),
            places: Vec::new(),
            ca: Some(self.authority.clone()),
            name: name.to_owned(),
            password: format!("the password of {name}"),
            invitation: None,
        };
        within("registration", Client::register(&self.path(name), options)).await.unwrap()
    }
}

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), NodeError>>,
}

impl Running {
    async fn stop(self) {
        self.stop.send(()).unwrap();
        within("the end", self.running).await.unwrap().unwrap();
    }
}

fn user(client: &Client) -> UserId {
    client.whoami().0
}

/// What attributes say, by name.
fn said(attributes: &[KeyValue]) -> BTreeSet<(&str, String)> {
    let value = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.as_str(), value(attribute))).collect()
}

fn of<'a>(said: &'a BTreeSet<(&str, String)>, name: &str) -> Option<&'a str> {
    said.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
}

/// As many octets as an id has.
const ID: usize = 16;

/// Whether what is seen has an id in it that is known: as it is, as digits, or as a list of octets.
fn names_somebody(seen: &[u8], known: &[Vec<u8>]) -> bool {
    let ids: HashSet<&[u8]> = known.iter().flat_map(|value| value.windows(ID)).collect();
    let words = known::names(&String::from_utf8_lossy(seen));
    seen.windows(ID).any(|window| ids.contains(window))
        || words.iter().any(|word| known.iter().any(|value| known::contains(value, word)))
}

#[tokio::test]
async fn every_request_is_told_and_nobody_who_made_one() {
    let (collector, mut received) = collector().await;
    let mut home = Home::new();
    home.config.otlp = Some(collector);
    let log = logging::start(&home.config).unwrap();
    let homeserver = home.start().await;
    let (alice, bob) = (home.register(&homeserver, "Alice").await, home.register(&homeserver, "Bob").await);
    let chat = within("connecting", alice.connect(&user(&bob))).await.unwrap();
    within("syncing", bob.sync()).await.unwrap();
    let request = within("requests", bob.requests()).await.unwrap().remove(0).id;
    within("accepting", bob.accept(&request)).await.unwrap();
    within("syncing", alice.sync()).await.unwrap();
    let group = within("a group", alice.create_group("the name of the group")).await.unwrap();
    within("inviting", alice.invite(&group, &[user(&bob)])).await.unwrap();
    within("syncing", bob.sync()).await.unwrap();
    for chat in [&chat, &group] {
        within("sending", alice.send(chat, Content::Text(Text("a secret word".into())))).await.unwrap();
    }
    within("syncing", bob.sync()).await.unwrap();
    let nobody = within("nobody", alice.connect_alias("nobody-of-this-name", &home.config.domain)).await;
    assert!(nobody.is_err(), "a request is refused");
    // The first come without being asked for.
    let mut bodies = vec![within("traces", received.recv()).await.unwrap()];
    drop((alice, bob));
    homeserver.stop().await;
    log.finish().await;
    while let Ok(body) = received.try_recv() {
        bodies.push(body);
    }

    let mut spans: Vec<Span> = Vec::new();
    for body in &bodies {
        for of_resource in ExportTraceServiceRequest::decode(&body[..]).unwrap().resource_spans {
            let resource = of_resource.resource.unwrap().attributes;
            let expected = [
                ("service.instance.id", "a.test"),
                ("service.name", "bennu"),
                ("service.version", env!("CARGO_PKG_VERSION")),
            ];
            assert_eq!(said(&resource), expected.map(|(name, value)| (name, value.to_owned())).into());
            spans.extend(of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans));
        }
    }
    let (mut numbers, mut outcomes) = (BTreeSet::new(), BTreeSet::new());
    for span in &spans {
        let said = said(&span.attributes);
        assert!(said.iter().all(|(name, _)| ["method", "number", "status"].contains(name)), "{said:?}");
        assert_eq!(span.name, of(&said, "method").unwrap());
        assert_eq!(span.kind(), SpanKind::Server);
        assert!(span.end_time_unix_nano > span.start_time_unix_nano, "a request takes time");
        assert!(span.events.is_empty() && span.links.is_empty() && span.parent_span_id.is_empty());
        assert_eq!(span.status.clone().unwrap().code(), StatusCode::Unset, "nothing failed");
        numbers.insert(of(&said, "number").unwrap().parse::<usize>().unwrap());
        outcomes.insert((span.name.clone(), of(&said, "status").unwrap().to_owned()));
    }
    assert_eq!(numbers, (0..spans.len()).collect(), "each request has a span, and nothing else has");
    for (method, status) in
        [("AsFinishRegistration", "ok"), ("DsSendMessage", "ok"), ("AsGetAliasPackage", "not_found")]
    {
        assert!(outcomes.contains(&(method.to_owned(), status.to_owned())), "{method} {status}: {outcomes:?}");
    }

    let known: Vec<_> = ["Alice", "Bob"].into_iter().flat_map(|name| known::remembered(&home.path(name))).collect();
    assert!(known.len() > 50, "the clients remember something");
    // The test can fail: what a client knows is found, however it is written.
    let id = known.iter().find(|value| value.len() == ID).expect("an id");
    let digits = bennu::base::hex::encode(id);
    for written in
        [id.clone(), digits.clone().into_bytes(), digits.to_uppercase().into_bytes(), format!("{id:?}").into()]
    {
        assert!(names_somebody(&[b"id=", &written[..], b" "].concat(), &known), "{written:?}");
    }
    for body in &bodies {
        assert!(!names_somebody(body, &known), "somebody is named to the collector: {}", body.escape_ascii());
        for word in ["a secret word", "the name of the group", "Alice", "Bob"] {
            assert!(!known::contains(body, word.as_bytes()), "{word} is told to the collector");
        }
    }
}

#[tokio::test]
async fn a_collector_that_takes_nothing_holds_nothing_up() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = nobody.local_addr().unwrap();
    drop(nobody);
    // Connections are made, and nothing is ever answered.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for collector in [closed, silent.local_addr().unwrap()] {
        let home = Home::new();
        let (layer, traces) = Traces::start(&at(collector), &home.config.domain);
        // Everything but what blocks is done on this thread.
        let subscriber = tracing_subscriber::registry().with(layer).set_default();
        let homeserver = home.start().await;
        drop(home.register(&homeserver, "Alice").await);
        // Requests as fast as they come: more than there is room for.
        let many = 10_000;
        for number in 0..many {
            tracing::debug_span!(target: "bennu", "request", number);
        }
        homeserver.stop().await;
        drop(subscriber);
        // That the worker is given up is what is held: it would try for longer.
        let finished = timeout(2 * FINISHING, traces.finish()).await;
        assert!(finished.expect("the end does not wait for the collector") > many, "what is lost is counted");
    }
}
