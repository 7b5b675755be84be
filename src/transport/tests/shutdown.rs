//! Shutdown: what is in flight finishes, what streams is told, and everybody gets the code.

use std::time::Duration;

use super::*;
use crate::transport::Closed;

over_both! {
    async fn exchanges_in_flight_finish_and_streams_are_told(pair = Settings::default()) {
        let Pair { connection, host, mut steered } = pair;
        let (_, mut frames) =
            connection.open().await.unwrap().streaming(request(STREAM, b""), MAX_RESPONSE).await.unwrap();
        let stalled = tokio::spawn({
            let connection = connection.clone();
            async move { call(&connection, request(STALL, b"late")).await }
        });
        steered.started.recv().await.unwrap();
        let shutdown = tokio::spawn(async move { host.shutdown().await });
        assert_eq!(frames.next().await, Err(StreamError::Reset(codes::SHUTTING_DOWN)));
        assert_eq!(steered.ended.recv().await, Some(Err(StreamError::ShuttingDown)));
        steered.release.add_permits(1);
        assert_eq!(stalled.await.unwrap().unwrap(), request(STALL, b"late"));
        assert_eq!(connection.closed().await, Closed::Peer(codes::SHUTDOWN));
        shutdown.await.unwrap();
        assert!(call(&connection, request(ECHO, b"")).await.is_err());
    }

    async fn an_exchange_that_does_not_finish_is_cut_off(pair = Settings {
        shutdown_grace: Duration::from_millis(100),
        ..Settings::default()
    }) {
        let Pair { connection, host, mut steered } = pair;
        let stalled = tokio::spawn({
            let connection = connection.clone();
            async move { call(&connection, request(STALL, b"")).await }
        });
        steered.started.recv().await.unwrap();
        host.shutdown().await;
        assert_eq!(stalled.await.unwrap(), Err(StreamError::Closed(Closed::Peer(codes::SHUTDOWN))));
    }
}

#[tokio::test]
async fn nobody_gets_in_after_a_shutdown() {
    let server = server(Settings::default(), None);
    let connection = server.connect().await;
    server.endpoint.shutdown().await;
    assert_eq!(connection.closed().await, Closed::Peer(codes::SHUTDOWN));
    let settings = Settings { handshake_deadline: Duration::from_millis(300), ..Settings::default() };
    let context = Context::new(server.roots.clone(), settings).unwrap();
    assert!(context.connect(&"a.test".parse().unwrap(), &server.route).await.is_err());
}
