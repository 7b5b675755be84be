//! What goes over a limit: sizes, framing, deadlines, numbers of connections and handshakes.

use std::time::Duration;

use super::{super::pipe::Stream, *};
use crate::transport::DialError;

fn hurried() -> Settings {
    Settings { request_deadline: Duration::from_millis(100), ..Settings::default() }
}

/// A stream on which a test can send what no caller would.
async fn raw(connection: &Connection) -> Stream {
    connection.link.open().await.unwrap()
}

async fn read_all(stream: &mut Stream) -> Result<Vec<u8>, StreamError> {
    let mut all = Vec::new();
    while let Some(chunk) = stream.receiver.read(usize::MAX).await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

/// Takes the response of a streaming exchange.
async fn read_yes(stream: &mut Stream) {
    let mut all = Vec::new();
    while all.len() < 4 {
        all.extend_from_slice(&stream.receiver.read(4 - all.len()).await.unwrap().unwrap());
    }
    assert_eq!(all, b"\x03yes");
}

over_both! {
    async fn a_request_over_its_size_is_refused_and_the_connection_lives_on(pair = Settings::default()) {
        let Pair { connection, .. } = pair;
        let refusal = format!("too large for {ECHO}: {MAX_REQUEST}");
        for excess in [1, 20 << 20] {
            let request = request(ECHO, &vec![1; MAX_REQUEST - 4 + excess]);
            assert_eq!(call(&connection, request).await.unwrap(), refusal);
        }
        assert!(call(&connection, request(ECHO, b"still there")).await.is_ok());
    }

    async fn a_caller_that_sends_too_much_is_told_to_stop(pair = Settings::default()) {
        let Pair { connection, .. } = pair;
        let mut stream = raw(&connection).await;
        stream.sender.write([request(ECHO, b"")]).await.unwrap();
        let error = loop {
            if let Err(error) = stream.sender.write([Bytes::from_static(&[0; 4096])]).await {
                break error;
            }
        };
        assert_eq!(error, StreamError::Stopped(codes::TOO_LARGE));
        assert!(read_all(&mut stream).await.unwrap().starts_with(b"too large"));
    }

    async fn a_response_over_the_callers_limit_is_not_buffered(pair = Settings::default()) {
        let Pair { connection, .. } = pair;
        let exchange = connection.open().await.unwrap();
        assert_eq!(exchange.request(request(LARGE, b""), 1000).await, Err(StreamError::TooLarge(1000)));
        let exchange = connection.open().await.unwrap();
        assert_eq!(exchange.request(request(LARGE, b""), LARGE_RESPONSE).await.unwrap().len(), LARGE_RESPONSE);
    }

    async fn a_stream_that_ends_before_its_header_is_malformed(pair = Settings::default()) {
        let Pair { connection, .. } = pair;
        for header in [&[][..], &[0], &[0, 1, 0]] {
            let mut stream = raw(&connection).await;
            stream.sender.write([Bytes::from_static(header)]).await.unwrap();
            stream.sender.finish().unwrap();
            assert_eq!(read_all(&mut stream).await.unwrap(), b"malformed");
        }
    }

    async fn a_streaming_request_must_match_its_preamble_and_its_framing(pair = Settings::default()) {
        let Pair { connection, .. } = pair;
        for first in [&[4, 0, 1, 0, 4][..], &[3, 0, 1, 0], &[0x40, 4, 0, 1, 0, 3], &[0xc0], &[4, 0, 1], &[]] {
            let mut stream = raw(&connection).await;
            let first = Bytes::from_static(first);
            stream.sender.write([request(STREAM, b""), first.clone()]).await.unwrap();
            stream.sender.finish().unwrap();
            assert_eq!(read_all(&mut stream).await.unwrap(), b"\x09malformed", "{first:x?}");
        }
        let mut stream = raw(&connection).await;
        stream.sender.write([request(STREAM, b""), Bytes::from_static(&[0xbf, 0xff, 0xff, 0xff])]).await.unwrap();
        assert!(read_all(&mut stream).await.unwrap()[1..].starts_with(b"too large"));
    }

    async fn a_frame_over_the_size_ends_the_exchange_before_it_is_read(pair = Settings::default()) {
        let Pair { connection, mut steered, .. } = pair;
        let exchange = connection.open().await.unwrap();
        let (_, mut frames) = exchange.streaming(request(STREAM, b""), MAX_RESPONSE).await.unwrap();
        let sent = frames.send(vec![0; MAX_REQUEST + 1].into()).await;
        assert!(matches!(sent, Ok(()) | Err(StreamError::Stopped(_))), "{sent:?}");
        assert_eq!(steered.ended.recv().await, Some(Err(StreamError::TooLarge(MAX_REQUEST))));
        assert!(matches!(frames.next().await, Err(StreamError::Reset(_))));
        assert!(call(&connection, request(ECHO, b"still there")).await.is_ok());
    }

    async fn a_frame_from_the_homeserver_over_the_callers_limit_is_an_error(pair = Settings::default()) {
        let Pair { connection, .. } = pair;
        let exchange = connection.open().await.unwrap();
        let (_, mut frames) = exchange.streaming(request(STREAM, b""), 10).await.unwrap();
        frames.send(vec![0; 11].into()).await.unwrap();
        assert_eq!(frames.next().await, Err(StreamError::TooLarge(10)));
    }

    async fn a_stream_that_ends_or_is_reset_inside_a_frame_gives_no_frame(pair = Settings::default()) {
        let Pair { connection, mut steered, .. } = pair;
        for reset in [false, true] {
            let mut stream = raw(&connection).await;
            let opening = request(STREAM, b"");
            stream.sender.write([opening.clone(), Bytes::from_static(&[4]), opening]).await.unwrap();
            read_yes(&mut stream).await;
            stream.sender.write([Bytes::from_static(&[5, 1, 2])]).await.unwrap();
            if reset {
                stream.sender.reset(codes::ABANDONED);
            } else {
                stream.sender.finish().unwrap();
            }
            let expected = if reset { StreamError::Reset(codes::ABANDONED) } else { StreamError::Truncated };
            assert_eq!(steered.ended.recv().await, Some(Err(expected)));
        }
    }

    async fn a_half_open_stream_meets_its_deadline(pair = hurried()) {
        let Pair { connection, .. } = pair;
        for start in [&[0][..], &[0, 1, 0, 1], &[0, 1, 0, 1, 9, 9], &[0, 1, 0, 3], &[0, 1, 0, 3, 40, 0]] {
            let mut stream = raw(&connection).await;
            stream.sender.write([Bytes::copy_from_slice(start)]).await.unwrap();
            assert_eq!(read_all(&mut stream).await, Err(StreamError::Reset(codes::DEADLINE)));
            assert_eq!(stream.sender.received().await, Err(StreamError::Stopped(codes::DEADLINE)));
        }
        assert!(call(&connection, request(ECHO, b"still there")).await.is_ok());
    }

    async fn a_frame_that_has_begun_meets_its_deadline(pair = hurried()) {
        let Pair { connection, mut steered, .. } = pair;
        let mut stream = raw(&connection).await;
        let opening = request(STREAM, b"");
        stream.sender.write([opening.clone(), Bytes::from_static(&[4]), opening]).await.unwrap();
        read_yes(&mut stream).await;
        stream.sender.write([Bytes::from_static(&[5, 1])]).await.unwrap();
        assert_eq!(steered.ended.recv().await, Some(Err(StreamError::Deadline)));
    }

    async fn a_response_that_nobody_reads_meets_its_deadline(pair = Settings {
        response_deadline: Duration::from_millis(50),
        request_deadline: Duration::from_millis(500),
        ..Settings::default()
    }) {
        let Pair { connection, .. } = pair;
        let mut unread = raw(&connection).await;
        unread.sender.write([request(LARGE, b"")]).await.unwrap();
        unread.sender.finish().unwrap();
        let mut later = raw(&connection).await;
        later.sender.write([Bytes::from_static(&[0])]).await.unwrap();
        assert_eq!(read_all(&mut later).await, Err(StreamError::Reset(codes::DEADLINE)));
        assert_eq!(read_all(&mut unread).await, Err(StreamError::Reset(codes::DEADLINE)));
    }

    async fn exchanges_beyond_the_limit_wait_for_their_turn(pair = Settings { max_streams: 4, ..Settings::default() }) {
        let Pair { connection, mut steered, .. } = pair;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let connection = connection.clone();
            tasks.spawn(async move { call(&connection, request(STALL, b"")).await.unwrap() });
        }
        for _ in 0..20 {
            steered.started.recv().await.unwrap();
            assert!(steered.handler.active.load(Ordering::SeqCst) <= 4);
            steered.release.add_permits(1);
        }
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_until_one_ends() {
    let server = server(Settings { max_connections: 1, ..Settings::default() }, None);
    let domain = "a.test".parse().unwrap();
    let first = server.connect().await;
    let context = server.context();
    assert!(matches!(context.connect(&domain, &server.route).await, Err(DialError::Handshake(_))));
    assert!(call(&first, request(ECHO, b"")).await.is_ok());
    first.close();
    // The place is free when the server has seen the close.
    while context.connect(&domain, &server.route).await.is_err() {}
}

#[tokio::test]
async fn under_load_a_peer_proves_its_address_first_and_gets_in() {
    let server = server(Settings { retry_handshakes: 0, ..Settings::default() }, None);
    let connection = server.connect().await;
    assert!(call(&connection, request(ECHO, b"")).await.is_ok());
}

#[tokio::test]
async fn who_has_waited_too_long_for_its_turn_is_told_when_to_come_again() {
    // That long everybody waits.
    let mut server = server(Settings { max_wait: Duration::ZERO, ..Settings::default() }, None);
    let connection = server.connect().await;
    let refusal = "overloaded";
    assert_eq!(call(&connection, request(ECHO, b"")).await.unwrap(), refusal);
    let exchange = connection.open().await.unwrap();
    let (response, mut frames) = exchange.streaming(request(STREAM, b""), MAX_RESPONSE).await.unwrap();
    assert_eq!(response, refusal);
    assert_eq!(frames.next().await, Ok(None));
    assert!(server.steered.started.try_recv().is_err(), "nothing has reached the service");
}
