//! Ordinary and streaming exchanges, as they should go.

use tokio::task::JoinSet;

use super::*;

over_both! {
    async fn a_request_gets_its_response(Pair { connection, .. } = Settings::default()) {
        for size in [0, 1, 1000, MAX_REQUEST - 4] {
            let request = request(ECHO, &vec![9; size]);
            assert_eq!(call(&connection, request.clone()).await.unwrap(), request);
        }
    }

    async fn stream_ids_are_known_before_the_request_and_equal_on_both_sides(pair = Settings::default()) {
        let Pair { connection, mut steered, .. } = pair;
        steered.release.add_permits(3);
        for expected in [0, 4, 8] {
            let exchange = connection.open().await.unwrap();
            assert_eq!(exchange.id(), expected);
            exchange.request(request(STALL, b""), MAX_RESPONSE).await.unwrap();
            assert_eq!(steered.started.recv().await, Some(expected));
        }
    }

    async fn many_exchanges_go_on_while_one_stalls(pair = Settings::default()) {
        let Pair { connection, mut steered, .. } = pair;
        let stalled = tokio::spawn({
            let connection = connection.clone();
            async move { call(&connection, request(STALL, b"late")).await }
        });
        steered.started.recv().await.unwrap();
        let mut tasks = JoinSet::new();
        for number in 0..500u32 {
            let connection = connection.clone();
            tasks.spawn(async move {
                let request = request(ECHO, &number.to_be_bytes().repeat(100));
                assert_eq!(call(&connection, request.clone()).await.unwrap(), request);
            });
        }
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
        steered.release.add_permits(1);
        assert_eq!(stalled.await.unwrap().unwrap(), request(STALL, b"late"));
    }

    async fn frames_go_both_ways_until_the_caller_finishes(pair = Settings::default()) {
        let Pair { connection, mut steered, .. } = pair;
        let exchange = connection.open().await.unwrap();
        let (response, mut frames) = exchange.streaming(request(STREAM, b"go"), MAX_RESPONSE).await.unwrap();
        assert_eq!(response, "yes");
        for size in [0, 1, 63, 64, 16383, 16384, MAX_REQUEST] {
            let frame = Bytes::from(vec![5; size]);
            frames.send(frame.clone()).await.unwrap();
            assert_eq!(frames.next().await, Ok(Some(frame)));
        }
        // Sent together, they are still two.
        frames.send("one".into()).await.unwrap();
        frames.send("two".into()).await.unwrap();
        frames.finish().await.unwrap();
        assert_eq!(frames.next().await, Ok(Some("one".into())));
        assert_eq!(frames.next().await, Ok(Some("two".into())));
        assert_eq!(frames.next().await, Ok(None));
        assert_eq!(steered.ended.recv().await, Some(Ok(())));
    }

    async fn waiting_for_a_frame_can_be_cancelled_at_any_point(pair = Settings::default()) {
        let Pair { connection, .. } = pair;
        let exchange = connection.open().await.unwrap();
        let (_, mut frames) = exchange.streaming(request(STREAM, b""), MAX_RESPONSE).await.unwrap();
        let frame = Bytes::from((0..MAX_REQUEST).map(|i| i as u8).collect::<Vec<_>>());
        frames.send(frame.clone()).await.unwrap();
        let echoed = loop {
            tokio::select! {
                biased;
                frame = frames.next() => break frame,
                () = tokio::task::yield_now() => {}
            }
        };
        assert_eq!(echoed, Ok(Some(frame)));
    }

    async fn a_service_ends_a_stream_with_its_code(pair = Settings::default()) {
        let Pair { connection, .. } = pair;
        let exchange = connection.open().await.unwrap();
        let (_, mut frames) = exchange.streaming(request(REPLACED, b""), MAX_RESPONSE).await.unwrap();
        frames.send("first".into()).await.unwrap();
        // What was sent before a reset need not arrive.
        let end = match frames.next().await {
            Ok(Some(_)) => frames.next().await,
            end => end,
        };
        assert_eq!(end, Err(StreamError::Reset(codes::REPLACED_BY_NEWER_LISTEN)));
    }

    async fn a_streaming_method_can_be_refused(pair = Settings::default()) {
        let Pair { connection, .. } = pair;
        let exchange = connection.open().await.unwrap();
        let (response, mut frames) = exchange.streaming(request(REFUSE, b""), MAX_RESPONSE).await.unwrap();
        assert_eq!(response, "no");
        assert_eq!(frames.next().await, Ok(None));
    }

    async fn dropping_the_frames_ends_the_exchange_for_the_service(pair = Settings::default()) {
        let Pair { connection, mut steered, .. } = pair;
        let exchange = connection.open().await.unwrap();
        let (_, frames) = exchange.streaming(request(STREAM, b""), MAX_RESPONSE).await.unwrap();
        drop(frames);
        assert_eq!(steered.ended.recv().await, Some(Err(StreamError::Reset(codes::ABANDONED))));
    }

    async fn dropping_the_connection_ends_the_exchange_for_the_service(pair = Settings::default()) {
        let Pair { connection, mut steered, .. } = pair;
        let exchange = connection.open().await.unwrap();
        let (_, _frames) = exchange.streaming(request(STREAM, b""), MAX_RESPONSE).await.unwrap();
        connection.close();
        assert!(matches!(steered.ended.recv().await, Some(Err(StreamError::Closed(_)))));
        assert!(connection.open().await.is_err());
    }

    async fn a_panic_in_a_handler_ends_its_exchange_only(pair = Settings { max_streams: 1, ..Settings::default() }) {
        let Pair { connection, .. } = pair;
        for _ in 0..3 {
            let end = call(&connection, request(PANIC, b"")).await;
            assert_eq!(end, Err(StreamError::Reset(codes::INTERNAL)));
        }
        assert!(call(&connection, request(ECHO, b"still there")).await.is_ok());
    }
}
