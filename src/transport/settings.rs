//! The limits and deadlines of connections. All of them are an operator's choice; the defaults suit a homeserver.

use std::{sync::Arc, time::Duration};

use crate::base::Secret;

/// Limits and deadlines of an endpoint and its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Exchanges one connection may have open at a time. QUIC keeps an entry for each, so a number just under 7/8 of a
    /// power of two costs least memory.
    pub max_streams: u32,
    /// Unread bytes one stream may have in flight.
    pub stream_window: u32,
    /// Unread bytes all streams of a connection may have in flight, and unacknowledged ones it may have sent.
    pub connection_window: u32,
    /// A connection without a packet for so long is dropped.
    pub idle_timeout: Duration,
    /// The side that dialled sends a packet after so much silence.
    pub keep_alive: Duration,
    /// A handshake must be complete within this.
    pub handshake_deadline: Duration,
    /// A request, or a frame that has begun, must be complete within this.
    pub request_deadline: Duration,
    /// A response or frame must be taken by the peer within this; a caller waits this long for its response.
    pub response_deadline: Duration,
    /// Where exchanges wait longer than this until there is time for them, and that does not pass, they are refused. By default
    /// they wait.
    pub max_wait: Duration,
    /// Exchanges in flight at shutdown get this long.
    pub shutdown_grace: Duration,
    /// Connections accepted at a time; above it, attempts are refused.
    pub max_connections: u32,
    /// Handshakes under way at a time; above it, attempts are ignored and peers try again.
    pub max_handshakes: u32,
    /// From this many handshakes under way on, a peer must first prove that it has the address it sends from.
    pub retry_handshakes: u32,
    /// The same at every start, it lets a homeserver that was killed tell its peers at once that their connections are
    /// gone (RFC 9000 section 10.3); without one they find out by the idle time-out.
    pub reset_key: Option<Secret>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_streams: 28,
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            idle_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(25),
            handshake_deadline: Duration::from_secs(10),
            request_deadline: Duration::from_secs(30),
            response_deadline: Duration::from_secs(60),
            max_wait: Duration::MAX,
            shutdown_grace: Duration::from_secs(10),
            max_connections: 100_000,
            max_handshakes: 1_000,
            retry_handshakes: 100,
            reset_key: None,
        }
    }
}

impl Settings {
    /// Of an endpoint.
    pub(super) fn endpoint(&self) -> quinn::EndpointConfig {
        let Some(key) = &self.reset_key else { return quinn::EndpointConfig::default() };
        let hmac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key.expose());
        let mut config = quinn::EndpointConfig::new(Arc::new(hmac));
        // Connection ids of an earlier process must be recognised as this homeserver's own, or they are ignored.
        let [a, b, c, d, e, f, g, h, ..] = *key.expose();
        let id_key = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        config.cid_generator(move || Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(id_key)));
        config
    }
}

/// Packets that a peer may receive before it acknowledges them without waiting for something to send
/// (draft-ietf-quic-ack-frequency).
const ACKNOWLEDGED_AT_ONCE: u32 = 8;

/// What every connection has in common, whichever side opened it.
fn transport(settings: &Settings) -> quinn::TransportConfig {
    let mut config = quinn::TransportConfig::default();
    // A longer time-out than QUIC can express means none.
    let idle = quinn::IdleTimeout::try_from(settings.idle_timeout).ok();
    config.max_idle_timeout(idle).max_concurrent_uni_streams(0u32.into()).datagram_receive_buffer_size(None);
    // A request takes a packet or two, and so does what comes back soon after, with the acknowledgement in it: one of its own
    // costs as much as either. Peers that do not know the extension acknowledge every other packet.
    let mut acknowledgements = quinn::AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(ACKNOWLEDGED_AT_ONCE.into());
    config.ack_frequency_config(Some(acknowledgements));
    config
}

impl Settings {
    pub(super) fn accepting(&self) -> quinn::TransportConfig {
        let mut config = transport(self);
        config
            .max_concurrent_bidi_streams(self.max_streams.into())
            .stream_receive_window(self.stream_window.into())
            .receive_window(self.connection_window.into())
            .send_window(self.connection_window.into());
        config
    }

    pub(super) fn dialling(&self) -> quinn::TransportConfig {
        let mut config = transport(self);
        config.max_concurrent_bidi_streams(0u32.into()).keep_alive_interval(Some(self.keep_alive));
        config
    }
}
