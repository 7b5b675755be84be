//! Peers that send what is not the protocol: as sources nothing of it is taken, as destinations nothing is lost to them.

use super::*;

/// A homeserver that waits for the rest of a frame for a moment only, with a queue; and one that delivers to it.
async fn receiver() -> (Land, World, Arc<Peer>, Owner) {
    let land = Land::default();
    let b = World::of_land(&land, "b.test").await;
    let settings = Settings { request_deadline: Duration::from_millis(500), ..Settings::default() };
    land.host_with("b.test", Arc::new(Service(b.dispatcher.clone())), settings);
    let peer = Peer::new();
    land.host("c.test", peer.clone());
    let owner = b.create().await;
    (land, b, peer, owner)
}

/// Nothing was taken so far, and a good frame is.
async fn takes_the_first(land: &Land, b: &World, peer: &Peer, owner: &Owner) {
    let config = b.seal(owner).await;
    assert_eq!(b.found(owner).await, Vec::<u32>::new());
    let (next, mut frames) = open_delivery(&land.connect("b.test", &["c.test"]), "c.test").await.unwrap();
    assert_eq!(next, 0);
    let good = message(b, "c.test", 0, numbered(&"c.test".parse().unwrap(), 1), &config).await;
    frames.send(peer.frame(vec![good])).await.unwrap();
    assert_eq!(acknowledged(&mut frames).await, Ok(1));
    assert_eq!(b.found(owner).await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_too_long_ends_the_delivery_and_nothing_of_it_is_taken() {
    let (land, b, peer, owner) = receiver().await;
    let (_, mut frames) = open_delivery(&land.connect("b.test", &["c.test"]), "c.test").await.unwrap();
    let longest = method::max_request(call::FedDeliver::METHOD as u16);
    // It is told before it has sent all of it.
    assert_eq!(frames.send(vec![0; longest + 1].into()).await, Err(StreamError::Stopped(codes::TOO_LARGE)));
    assert_eq!(acknowledged(&mut frames).await, Err(StreamError::Reset(codes::TOO_LARGE)));
    takes_the_first(&land, &b, &peer, &owner).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_without_end_is_refused_each_time_and_keeps_nothing_from_being_taken_after_it() {
    let (land, b, peer, owner) = receiver().await;
    let connection = land.connect("b.test", &["c.test"]);
    for round in 0..100_usize {
        let (next, mut frames) = open_delivery(&connection, "c.test").await.unwrap();
        assert_eq!(next, 0);
        let garbage: Vec<u8> = (0..round * round * 8).map(|at| (at * 31 + round * 17) as u8).collect();
        frames.send(garbage.into()).await.unwrap();
        assert_eq!(acknowledged(&mut frames).await, Err(StreamError::Reset(codes::MALFORMED)), "{round}");
    }
    takes_the_first(&land, &b, &peer, &owner).await;
}

// With one thread nothing is read while a frame is begun, which has no room as a whole.
#[tokio::test]
async fn a_frame_that_goes_on_no_more_ends_the_delivery() {
    let (land, b, peer, owner) = receiver().await;
    let (_, mut frames) = open_delivery(&land.connect("b.test", &["c.test"]), "c.test").await.unwrap();
    tokio::select! {
        biased;
        _ = frames.send(vec![0; 1 << 20].into()) => panic!("it is sent as a whole"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(acknowledged(&mut frames).await, Err(StreamError::Reset(codes::DEADLINE)));
    takes_the_first(&land, &b, &peer, &owner).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_peer_that_answers_wrongly_is_kept_the_reason_shown_and_others_are_delivered_to() {
    for (manner, because, left) in [
        (Manner::Garbage, "its acknowledgement does not decode", 2),
        (Manner::TakesBack, "takes an acknowledgement back", 1),
        (Manner::Refuses, "not today", 2),
        (Manner::Keyless, "not today", 2),
    ] {
        let land = Land::default();
        let (a, b) = (World::of_land(&land, "a.test").await, World::of_land(&land, "b.test").await);
        let (owner, peer) = (b.create().await, Peer::new());
        let config = b.seal(&owner).await;
        land.host("c.test", peer.clone());
        a.learns("b.test").await;
        a.learns("c.test").await;
        *peer.manner.lock().unwrap() = manner;
        for number in 0..2 {
            assert_eq!(a.number(&config_at("c.test"), number).await, 0);
            assert_eq!(a.number(&config, number).await, 0);
        }
        assert_eq!(b.numbers(&owner, 2).await, [0, 1]);
        let failing =
            |state: &State| matches!(state, State::Failing { failures: 2.., why, .. } if why.contains(because));
        a.state_of("c.test", failing).await;
        let waiting = async || a.dispatcher.outbox.head(&"c.test".parse().unwrap()).await.unwrap().waiting();
        assert_eq!(waiting().await, left);
        // And it gets them when it comes to its senses.
        (*peer.says.lock().unwrap(), *peer.manner.lock().unwrap()) = (2, Manner::Acknowledges);
        assert_eq!(a.delivered("c.test").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_in_on_one_stream_is_not_told_on_another_before_it_is_durable() {
    let (land, engine, faults) = (Land::default(), MemoryEngine::new(), Faults::new());
    let store = Store::open(faults.around(engine.clone()), Options::new(|_| ())).unwrap();
    let b = World::of_land_made(&land, "b.test", engine, Days::at(START), |parts| parts.store = store).await;
    let peer = Peer::new();
    land.host("c.test", peer.clone());
    let owner = b.create().await;
    let config = b.seal(&owner).await;
    let connection = land.connect("b.test", &["c.test"]);
    let (_, mut frames) = open_delivery(&connection, "c.test").await.unwrap();
    let message = message(&b, "c.test", 0, numbered(&"c.test".parse().unwrap(), 1), &config).await;
    let frame = peer.frame(vec![message]);
    faults.hold();
    frames.send(frame.clone()).await.unwrap();
    faults.wait_until_held().await;
    // The sender has lost the first stream, and tries again on another.
    let mut again = Box::pin(open_delivery(&connection, "c.test"));
    // Others are answered meanwhile, again and again.
    for _ in 0..200 {
        tokio::select! {
            biased;
            told = &mut again => panic!("it is told {:?}", told.map(|(next, _)| next)),
            keys = ask::<call::QsGetKeys>(&b.connection, &GetQueuingKeys {}) => drop(keys.unwrap()),
        }
    }
    faults.release();
    assert_eq!(again.await.unwrap().0, 1);
    assert_eq!(acknowledged(&mut frames).await, Ok(1));
    assert_eq!(b.found(&owner).await, [1]);
}
