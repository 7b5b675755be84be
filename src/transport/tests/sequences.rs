//! A client that is not ours, on the raw QUIC layer: streams in any order, cut, split and reset anywhere, packets that are none,
//! another address; whatever it does, well-formed exchanges get their answers.

use std::{collections::BTreeMap, net::SocketAddr, time::SystemTime};

use quinn::{RecvStream, SendStream, VarInt};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use tokio::net::UdpSocket;

use super::*;

/// A client, and its endpoint.
async fn client(server: &Server) -> (quinn::Endpoint, quinn::Connection) {
    let config = tls::client_config(server.roots.clone(), None).unwrap();
    let config = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
    let endpoint = quinn::Endpoint::client(loopback()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(config));
    let connection = endpoint.connect_with(config, address(server), "a.test").unwrap().await.unwrap();
    (endpoint, connection)
}

fn address(server: &Server) -> SocketAddr {
    server.route.addresses[0]
}

async fn answer(receiver: &mut RecvStream) -> Vec<u8> {
    receiver.read_to_end(MAX_RESPONSE).await.unwrap()
}

async fn is_well(connection: &quinn::Connection) {
    let (mut sender, mut receiver) = connection.open_bi().await.unwrap();
    sender.write_all(&request(ECHO, b"still there")).await.unwrap();
    sender.finish().unwrap();
    assert_eq!(answer(&mut receiver).await, request(ECHO, b"still there"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_may_be_split_at_every_octet_and_is_malformed_or_other_if_it_ends_there() {
    let server = server(Settings::default(), None);
    let (_endpoint, connection) = client(&server).await;
    let whole = request(ECHO, b"one, two, three");
    for at in 0..=whole.len() {
        let (mut sender, mut receiver) = connection.open_bi().await.unwrap();
        sender.write_all(&whole[..at]).await.unwrap();
        // So that the halves travel apart.
        is_well(&connection).await;
        sender.write_all(&whole[at..]).await.unwrap();
        sender.finish().unwrap();
        assert_eq!(answer(&mut receiver).await, whole, "split at {at}");

        let (mut sender, mut receiver) = connection.open_bi().await.unwrap();
        sender.write_all(&whole[..at]).await.unwrap();
        sender.finish().unwrap();
        let expected = if at < 4 { b"malformed" } else { &whole[..at] };
        assert_eq!(answer(&mut receiver).await, expected, "cut at {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_is_answered_at_once_and_unframed_whatever_it_is_of() {
    let server = server(Settings::default(), None);
    let (_endpoint, connection) = client(&server).await;
    for method in [ECHO, STALL, STREAM, u16::MAX] {
        let (mut sender, mut receiver) = connection.open_bi().await.unwrap();
        sender.write_all(&[UNSUPPORTED.to_be_bytes(), method.to_be_bytes()].concat()).await.unwrap();
        // The request goes on, and nobody waits for its end.
        assert_eq!(answer(&mut receiver).await, b"unsupported");
        assert_eq!(sender.stopped().await.unwrap(), Some(codes::DONE.0.into()));
    }
    is_well(&connection).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_may_be_reset_at_every_octet() {
    let mut server = server(Settings::default(), None);
    let (_endpoint, connection) = client(&server).await;
    for method in [ECHO, STALL, STREAM] {
        let whole = [&request(method, b"")[..], &[6], &request(method, b"12")].concat();
        for at in 0..=whole.len() {
            let (mut sender, receiver) = connection.open_bi().await.unwrap();
            sender.write_all(&whole[..at]).await.unwrap();
            if at % 2 == 0 {
                is_well(&connection).await;
            }
            sender.reset(codes::ABANDONED.0.into()).unwrap();
            let mut receiver = receiver;
            receiver.stop(codes::ABANDONED.0.into()).unwrap();
        }
        is_well(&connection).await;
    }
    // Nothing of it was taken for a request: none that stalls has begun.
    assert!(server.steered.started.try_recv().is_err());
    assert_eq!(server.steered.handler.active.load(Ordering::SeqCst), 0);
}

/// A stream on which a client has begun something.
struct Open {
    sender: SendStream,
    receiver: RecvStream,
    whole: Bytes,
    sent: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_streams_in_any_order_get_their_own_answers_whatever_becomes_of_the_others() {
    const STREAMS: usize = 4_000;
    let seed = match std::env::var("BENNU_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into(),
    };
    println!("to repeat this order, set BENNU_SEED={seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut below = |end: usize| rng.next_u32() as usize % end;
    let server = server(Settings { max_streams: 28, ..Settings::default() }, None);
    let (_endpoint, connection) = client(&server).await;
    let (mut open, mut begun, mut answered) = (Vec::<Open>::new(), 0, 0);
    let mut ended = BTreeMap::<&str, usize>::new();
    while begun < STREAMS || !open.is_empty() {
        if begun < STREAMS && open.len() < 20 {
            let (sender, receiver) = connection.open_bi().await.unwrap();
            let body: Vec<u8> = (0..below(300)).map(|at| (at + begun) as u8).collect();
            open.push(Open { sender, receiver, whole: request(ECHO, &body), sent: 0 });
            begun += 1;
        }
        let at = below(open.len());
        match below(8) {
            // The rest, and the answer: in another order than they were begun.
            0 | 1 => {
                let Open { mut sender, mut receiver, whole, sent } = open.swap_remove(at);
                sender.write_all(&whole[sent..]).await.unwrap();
                sender.finish().unwrap();
                assert_eq!(answer(&mut receiver).await, whole);
                answered += 1;
            }
            2 => {
                let Open { mut sender, .. } = open.swap_remove(at);
                sender.reset(VarInt::from_u32(below(100) as u32)).unwrap();
                *ended.entry("reset").or_default() += 1;
            }
            3 => {
                let Open { mut sender, mut receiver, whole, sent } = open.swap_remove(at);
                // Nobody waits for the answer.
                receiver.stop(codes::ABANDONED.0.into()).unwrap();
                let _ = sender.write_all(&whole[sent..]).await;
                let _ = sender.finish();
                *ended.entry("stopped").or_default() += 1;
            }
            4 => {
                let Open { mut sender, mut receiver, whole, sent } = open.swap_remove(at);
                sender.finish().unwrap();
                let expected = if sent < 4 { Bytes::from_static(b"malformed") } else { whole.slice(..sent) };
                assert_eq!(answer(&mut receiver).await, expected);
                *ended.entry("cut").or_default() += 1;
            }
            _ => {
                let open = &mut open[at];
                let more = below(40).min(open.whole.len() - open.sent);
                open.sender.write_all(&open.whole[open.sent..open.sent + more]).await.unwrap();
                open.sent += more;
            }
        }
    }
    assert!(answered > STREAMS / 4 && ended.values().all(|count| *count > STREAMS / 20), "{answered} {ended:?}");
    is_well(&connection).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_has_its_streams_ended_and_keeps_nobody_waiting() {
    let deadline = Duration::from_millis(300);
    let server = server(Settings { response_deadline: deadline, ..Settings::default() }, None);
    let (_endpoint, connection) = client(&server).await;
    let mut unread = Vec::new();
    for _ in 0..20 {
        let (mut sender, receiver) = connection.open_bi().await.unwrap();
        sender.write_all(&request(LARGE, b"")).await.unwrap();
        sender.finish().unwrap();
        unread.push(receiver);
    }
    let (_other, fine) = client(&server).await;
    is_well(&fine).await;
    for mut receiver in unread {
        assert_eq!(receiver.received_reset().await, Ok(Some(codes::DEADLINE.0.into())));
    }
    is_well(&connection).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_unidirectional_streams_and_no_datagrams_and_the_server_opens_nothing() {
    let server = server(Settings::default(), None);
    let (_endpoint, connection) = client(&server).await;
    assert_eq!(connection.max_datagram_size(), None);
    assert_eq!(
        connection.send_datagram(Bytes::from_static(b"hello")),
        Err(quinn::SendDatagramError::UnsupportedByPeer)
    );
    let nothing = async {
        tokio::select! {
            opened = connection.open_uni() => panic!("{:?}", opened.map(|_| ())),
            _ = connection.accept_uni() => panic!("the server has opened a stream"),
            _ = connection.accept_bi() => panic!("the server has opened a stream"),
        }
    };
    tokio::select! {
        () = nothing => {}
        () = async { for _ in 0..50 { is_well(&connection).await } } => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_address_changes_goes_on_in_the_middle_of_a_request() {
    let server = server(Settings::default(), None);
    let (endpoint, connection) = client(&server).await;
    for round in 0..5 {
        let (mut sender, mut receiver) = connection.open_bi().await.unwrap();
        let whole = request(ECHO, &[round; 5_000]);
        sender.write_all(&whole[..1_000]).await.unwrap();
        let before = endpoint.local_addr().unwrap();
        endpoint.rebind(std::net::UdpSocket::bind(loopback()).unwrap()).unwrap();
        assert_ne!(endpoint.local_addr().unwrap(), before);
        sender.write_all(&whole[1_000..]).await.unwrap();
        sender.finish().unwrap();
        assert_eq!(answer(&mut receiver).await, whole);
    }
}

/// A packet with a long header (RFC 9000 section 17.2) that begins a connection, as far as can be seen without its keys.
fn long_header(version: u32, length: usize) -> Vec<u8> {
    let mut packet = vec![0xc0];
    packet.extend(version.to_be_bytes());
    packet.extend([&[8][..], b"destinat", &[8], b"sourceid"].concat());
    packet.resize(length, 0);
    packet
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_version_is_answered_with_those_that_are_spoken_and_a_short_packet_with_nothing() {
    let server = server(Settings::default(), None);
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    socket.connect(address(&server)).await.unwrap();
    // Below 1,200 octets a server must not answer (RFC 9000 section 14.1): the answer that comes is to the second.
    socket.send(&long_header(0x1a2a_3a4a, 600)).await.unwrap();
    socket.send(&long_header(0x5a6a_7a8a, 1_200)).await.unwrap();
    let mut answer = [0; 2_000];
    let length = socket.recv(&mut answer).await.unwrap();
    let (head, versions) = answer[..length].split_at(5 + 18);
    assert!(head[0] & 0x80 != 0 && head[1..5] == [0; 4], "Version Negotiation: {head:?}");
    assert_eq!(head[5..], [&[8][..], b"sourceid", &[8], b"destinat"].concat());
    assert!(versions.chunks(4).any(|version| version == [0, 0, 0, 1]), "{versions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_that_are_none_do_no_harm() {
    let server = server(Settings::default(), None);
    let (_endpoint, connection) = client(&server).await;
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for round in 0..2_000 {
        let mut packet = vec![0; rng.next_u32() as usize % 1_400];
        rng.fill_bytes(&mut packet);
        if round % 3 == 0 {
            // As if it were of version 1.
            let begin = long_header(1, 23);
            let length = packet.len().min(begin.len());
            packet[..length].copy_from_slice(&begin[..length]);
        }
        socket.send_to(&packet, address(&server)).await.unwrap();
        if round % 100 == 0 {
            is_well(&connection).await;
        }
    }
    let (_other, fine) = client(&server).await;
    is_well(&fine).await;
}
