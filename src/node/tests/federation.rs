//! Homeservers that deliver to each other over QUIC, each from the one endpoint that it listens on: with restarts, new
//! certificates, wrong ones, and operators who want it no more. What there is to delivery itself is tested in memory, with
//! the dispatcher.

use std::{fs, net::UdpSocket, sync::Arc, time::Duration};

use rustls::RootCertStore;
use tempfile::TempDir;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

use crate::{
    base::{Domain, Secret, Status, SystemClock},
    crypto::{push::seal_token, system_rng},
    dispatch::{
        Service,
        tests::{
            federation::{config_at, numbered},
            queuing::{Days, Owner, START, World},
        },
    },
    federation::{Mode, Rule, peers::State},
    node::{
        Config, Node, NodeError,
        admin::{Command, Operator, Snapshots},
        certificates,
        setup::{Setup, create},
        watch::Condition,
    },
    push::tests::endpoint::{Endpoint, Subscriber, status},
    store::{MemoryEngine, Options, Store},
    transport::{Context, Route, Settings, memory, tls},
    wire::{
        method::call,
        queuing::{ClientQueueConfig, QueuingClient, UpdateQueuingClient},
    },
};

/// How a homeserver is stopped, and how it ends.
type Running = (oneshot::Sender<()>, JoinHandle<Result<(), NodeError>>);

/// A homeserver that may be running.
struct Home {
    config: Config,
    authority: String,
    engine: MemoryEngine,
    /// Keeps the port until it is used.
    reserved: Option<UdpSocket>,
    running: Option<Running>,
    _directory: TempDir,
}

impl Home {
    fn new(domain: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let reserved = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (domain, listen) = (domain.parse().unwrap(), reserved.local_addr().unwrap());
        let created = create(directory.path(), &Setup::new(domain, listen)).unwrap();
        let mut config = Config::load(&created.config).unwrap();
        // What is changed here is not in the file, which is not to be read again.
        config.file = None;
        config.policy.tokens.required = false;
        // The port is to be free soon when it has stopped.
        (config.limits.idle_timeout, config.limits.shutdown_grace) = (5, 1);
        config.policy.push.allow_private_addresses = true;
        config.federation.settings.first_pause = Duration::from_millis(50);
        config.federation.settings.longest_pause = Duration::from_millis(200);
        let authority = fs::read_to_string(created.authority.unwrap()).unwrap();
        let (engine, reserved) = (MemoryEngine::new(), Some(reserved));
        Self { config, authority, engine, reserved, running: None, _directory: directory }
    }

    fn domain(&self) -> &Domain {
        &self.config.domain
    }

    /// Trusts these authorities, and no others than the public ones.
    fn trust(&self, authorities: &[&str]) {
        fs::write(self.config.authority.as_ref().unwrap(), authorities.concat()).unwrap();
    }

    /// Looks for the homeserver of a domain at the place of another.
    fn finds(&mut self, domain: &str, at: &Self) {
        let place = at.config.listen.to_string().parse().unwrap();
        self.config.federation.peers.insert(domain.parse().unwrap(), place);
    }

    async fn start(&mut self) -> World {
        self.reserved = None;
        let start = async {
            loop {
                match Node::start_on(&self.config, self.engine.clone(), Arc::new(SystemClock)).await {
                    Ok(node) => return node,
                    // The last task of the one before has not ended yet.
                    Err(NodeError::Listen { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let node = timeout(Duration::from_secs(60), start).await.unwrap();
        let dispatcher = node.dispatcher.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        self.running = Some((stop, tokio::spawn(node.run(async { drop(stopped.await) }))));
        let connection = memory::connect(Arc::new(Service(dispatcher.clone())));
        World { engine: self.engine.clone(), clock: Days::at(START), dispatcher, connection }
    }

    async fn stop(&mut self, world: World) {
        drop(world);
        let (stop, running) = self.running.take().unwrap();
        stop.send(()).unwrap();
        running.await.unwrap().unwrap();
    }

    async fn restart(&mut self, world: World) -> World {
        self.stop(world).await;
        self.start().await
    }
}

/// Two homeservers that trust each other and know where the other is.
fn pair() -> (Home, Home) {
    let (mut a, mut b) = (Home::new("a.test"), Home::new("b.test"));
    for home in [&a, &b] {
        home.trust(&[&a.authority, &b.authority]);
    }
    a.finds("b.test", &b);
    b.finds("a.test", &a);
    (a, b)
}

/// Somebody there, whom another homeserver can send to.
async fn recipient(at: &World, from: &World, domain: &str) -> (Owner, ClientQueueConfig) {
    let owner = at.create().await;
    let config = at.seal(&owner).await;
    from.learns(domain).await;
    (owner, config)
}

fn failing(because: &'static str) -> impl Fn(&State) -> bool {
    move |state| matches!(state, State::Failing { why, .. } if why.contains(because))
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_both_ways_and_over_restarts() {
    let (mut home_a, mut home_b) = pair();
    let (mut a, mut b) = (home_a.start().await, home_b.start().await);
    let (at_b, to_b) = recipient(&b, &a, "b.test").await;
    let (at_a, to_a) = recipient(&a, &b, "a.test").await;
    for number in 0..20 {
        assert_eq!((a.number(&to_b, number).await, b.number(&to_a, number).await), (0, 0));
        match number {
            5 => b = home_b.restart(b).await,
            10 => a = home_a.restart(a).await,
            15 => (a, b) = (home_a.restart(a).await, home_b.restart(b).await),
            _ => {}
        }
    }
    let all: Vec<_> = (0..20).collect();
    assert_eq!((b.numbers(&at_b, 20).await, a.numbers(&at_a, 20).await), (all.clone(), all));
    assert_eq!((a.delivered("b.test").await, b.delivered("a.test").await), (0, 0));
    a.state_of("b.test", |state| *state == State::Connected).await;
    home_a.stop(a).await;
    home_b.stop(b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_while_messages_go() {
    // From here on it does not end the process.
    let _heard = signal(SignalKind::hangup()).unwrap();
    let (mut home_a, mut home_b) = pair();
    let (a, mut b) = (home_a.start().await, home_b.start().await);
    let (at_b, to_b) = recipient(&b, &a, "b.test").await;
    let mut number = 0;
    assert_eq!(a.number(&to_b, number).await, 0);
    assert_eq!(b.numbers(&at_b, 1).await, [0]);

    // By another authority, so that it cannot be taken for the old one.
    let new = certificates::generate(home_a.domain(), std::time::SystemTime::now()).unwrap();
    fs::write(&home_a.config.certificate, &new.server_chain).unwrap();
    fs::write(&home_a.config.certificate_key, new.server_key.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(tls::certificates(new.authority.as_bytes()).unwrap().remove(0)).unwrap();
    let context = Context::new(Arc::new(roots), Settings::default()).unwrap();
    let route = Route::from(home_a.config.listen);
    let renewed = async {
        while context.connect(home_a.domain(), &route).await.is_err() {
            number += 1;
            assert_eq!(a.number(&to_b, number).await, 0);
            let sent = std::process::Command::new("kill").args(["-HUP", &std::process::id().to_string()]).status();
            assert!(sent.unwrap().success());
        }
    };
    timeout(Duration::from_secs(60), renewed).await.unwrap();
    number += 1;
    assert_eq!(a.number(&to_b, number).await, 0);
    let all: Vec<_> = (0..=number).collect();
    assert_eq!(b.numbers(&at_b, all.len()).await, all, "over the connection that there was");

    // Whoever trusts the old one only refuses it, and takes everything once it trusts the new one.
    b = home_b.restart(b).await;
    assert_eq!(a.number(&to_b, number + 1).await, 0);
    a.state_of("b.test", failing("certificate")).await;
    home_b.trust(&[&new.authority, &home_b.authority]);
    b = home_b.restart(b).await;
    assert_eq!(b.numbers(&at_b, all.len() + 1).await.last(), Some(&(number + 1)));
    home_a.stop(a).await;
    home_b.stop(b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_cannot_prove_its_domain_is_refused_and_the_operator_sees_why() {
    let (mut home_a, mut home_b) = pair();
    home_a.finds("c.test", &home_b);
    home_a.trust(&[&home_a.authority]);
    let (a, b) = (home_a.start().await, home_b.start().await);
    // Of an authority that is not trusted, and for another domain.
    for domain in ["b.test", "c.test"] {
        a.knows(domain).await;
        assert_eq!(a.number(&config_at(domain), 1).await, 0);
        a.state_of(domain, failing("certificate is not to be trusted")).await;
    }
    // The other way round: the one that dials is not trusted.
    b.knows("a.test").await;
    home_b.trust(&[&home_b.authority, &home_a.authority]);
    assert_eq!(b.number(&config_at("a.test"), 1).await, 0);
    b.state_of("a.test", |state| matches!(state, State::Failing { .. })).await;
    home_a.trust(&[&home_a.authority, &home_b.authority]);
    let a = home_a.restart(a).await;
    a.delivered("b.test").await;
    // What is sealed to keys that it does not have is acknowledged, and nothing else.
    a.state_of("b.test", |state| *state == State::Connected).await;
    a.state_of("c.test", failing("certificate is not to be trusted: ")).await;
    home_a.stop(a).await;
    home_b.stop(b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocking_ends_what_is_under_way_on_either_side_and_unblocking_resumes_it() {
    let (mut home_a, mut home_b) = pair();
    let (a, b) = (home_a.start().await, home_b.start().await);
    let (at_b, to_b) = recipient(&b, &a, "b.test").await;
    assert_eq!(a.number(&to_b, 0).await, 0);
    assert_eq!(b.numbers(&at_b, 1).await, [0]);
    // The receiver wants no more.
    let decide = async |world: &World, about: &Home, rule| {
        world.dispatcher.set_federation_rule(about.domain().clone(), rule).await.unwrap();
    };
    decide(&b, &home_a, Some(Rule::Blocked)).await;
    a.state_of("b.test", failing("denied")).await;
    assert_eq!(a.number(&to_b, 1).await, 0);
    a.state_of("b.test", failing("does not deal with")).await;
    assert_eq!(b.found(&at_b).await, [0]);
    decide(&b, &home_a, None).await;
    assert_eq!(b.numbers(&at_b, 2).await, [0, 1]);
    // The sender does not want to.
    decide(&a, &home_b, Some(Rule::Blocked)).await;
    a.state_of("b.test", |state| *state == State::Denied).await;
    assert_eq!(a.number(&to_b, 2).await, 1, "it is told at once");
    decide(&a, &home_b, Some(Rule::Allowed)).await;
    assert_eq!(a.number(&to_b, 3).await, 0);
    assert_eq!(b.numbers(&at_b, 3).await, [0, 1, 3]);
    // A decision outlives the process.
    decide(&b, &home_a, Some(Rule::Blocked)).await;
    let b = home_b.restart(b).await;
    assert_eq!(a.number(&to_b, 4).await, 0);
    a.state_of("b.test", failing("does not deal with")).await;
    let refused = b.dispatcher.set_federation_rule(home_b.domain().clone(), None).await.unwrap_err();
    assert_eq!(refused.status, Status::Malformed, "about itself");
    home_a.stop(a).await;
    home_b.stop(b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_whose_certificate_names_two_domains_is_the_one_that_it_is_set_up_for() {
    let (mut home_a, mut home_b) = pair();
    let both = rcgen::generate_simple_self_signed(["b.test", "c.test"].map(String::from)).unwrap();
    fs::write(&home_b.config.certificate, both.cert.pem()).unwrap();
    fs::write(&home_b.config.certificate_key, both.signing_key.serialize_pem()).unwrap();
    home_a.trust(&[&both.cert.pem(), &home_a.authority]);
    home_a.finds("c.test", &home_b);
    let (a, b) = (home_a.start().await, home_b.start().await);
    let (at_b, to_b) = recipient(&b, &a, "b.test").await;
    let (at_a, to_a) = recipient(&a, &b, "a.test").await;
    assert_eq!((a.number(&to_b, 1).await, b.number(&to_a, 2).await), (0, 0));
    assert_eq!((b.numbers(&at_b, 1).await, a.numbers(&at_a, 1).await), (vec![1], vec![2]));
    // It takes nothing that is for the other domain.
    a.knows("c.test").await;
    assert_eq!(a.number(&config_at("c.test"), 3).await, 0);
    a.state_of("c.test", failing("the homeserver of another domain")).await;
    assert_eq!(b.found(&at_b).await, [1]);
    home_a.stop(a).await;
    home_b.stop(b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_another_homeserver_wakes_a_device_unless_its_sender_did_not_want_that() {
    const TOKEN_KEY: Secret = Secret::new([8; 32]);
    let (mut home_a, mut home_b) = pair();
    let mut endpoint = Endpoint::start(vec![status("201 Created")]).await;
    home_b.trust(&[&home_a.authority, &home_b.authority, &endpoint.certificate]);
    let (a, b) = (home_a.start().await, home_b.start().await);
    a.learns("b.test").await;
    let device = async |path: &str| {
        let owner = b.create().await;
        let token = Subscriber::new().token(&endpoint.url(path));
        let sealed = seal_token(&TOKEN_KEY, owner.client, &token, &mut system_rng());
        let client = QueuingClient { push_token: Some(sealed.into()), ..owner.queuing_client() };
        b.ask::<call::QsUpdateClient>(owner.as_client(), &UpdateQueuingClient { client }).await.unwrap();
        let config = b.seal_with(&owner, Some(TOKEN_KEY)).await;
        (owner, config)
    };
    let (woken, left_alone, last) = (device("/woken").await, device("/left-alone").await, device("/last").await);
    let pushed = async |endpoint: &mut Endpoint| {
        let request = timeout(Duration::from_secs(60), endpoint.received.recv()).await.expect("a push").unwrap();
        request.line.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(a.number(&woken.1, 1).await, 0);
    assert_eq!(pushed(&mut endpoint).await, "/woken");
    assert_eq!(a.tell(&left_alone.1, numbered(home_a.domain(), 2), true).await, 0);
    a.delivered("b.test").await;
    assert_eq!(b.found(&left_alone.0).await, [2]);
    assert_eq!(a.number(&last.1, 3).await, 0);
    assert_eq!(pushed(&mut endpoint).await, "/last");
    assert_eq!((endpoint.connections(), b.dispatcher.push_counts().gone()), (2, 0));
    home_a.stop(a).await;
    home_b.stop(b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_is_told_how_much_waits_for_others_and_what_holds_for_all_of_them() {
    let (mut home, _b) = pair();
    home.config.federation.mode = Mode::Open;
    let a = home.start().await;
    let (domain, clock) = (home.domain().clone(), Arc::new(SystemClock));
    let condition = Condition::starting(0);
    let snapshots =
        Snapshots::of(Store::open(MemoryEngine::new(), Options::new(|_| ())).unwrap(), home.config.data.clone());
    let operator = Operator { dispatcher: a.dispatcher.clone(), domain, clock, condition, snapshots };
    let counts = async || {
        let stats = operator.carry_out(Command::Stats {}).await.unwrap().remove(0);
        ["peers_waited_for", "peer_messages_waiting", "peer_messages_dropped"].map(|key| stats[key].as_u64().unwrap())
    };
    assert_eq!(counts().await, [0, 0, 0]);
    for name in ["b.test", "c.test"] {
        a.knows(name).await;
        assert_eq!((a.number(&config_at(name), 1).await, a.number(&config_at(name), 2).await), (0, 0));
    }
    assert_eq!(counts().await, [2, 4, 0]);
    let listed = operator.carry_out(Command::FederationList {}).await.unwrap();
    assert_eq!((listed.len(), &listed[0]["rule"], &listed[0]["policy"]), (1, &"allowed".into(), &"open".into()));
    drop(operator);
    home.stop(a).await;
}
