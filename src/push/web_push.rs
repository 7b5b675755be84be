//! Web Push: one POST to a push resource (RFC 8030) that says who sends it (RFC 8292) and nothing else: what is encrypted in
//! it (RFC 8291) is always the same. The resource comes from outside, and so does all that it answers.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, StatusCode, Uri,
    client::conn::http1,
    header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, RETRY_AFTER},
};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use web_push_native::{Auth, WebPushBuilder, p256};

use super::{PushError, PushService};
use crate::{
    base::{Clock, address::is_public},
    crypto::push::VapidKey,
    transport::{TlsError, tls},
    wire::queuing::{MAX_PUSH_ENDPOINT, PushToken, WebPushSubscription},
};

/// All that is encrypted in a push.
pub const CONTENT: &[u8] = &[1];

/// Of several pushes that wait at a push service the last is left (RFC 8030 section 5.4).
const TOPIC: &str = "m";

/// The record size in the header of the encrypted content (RFC 8188 section 2.1), and where it stands.
const RECORD_SIZE: u32 = 4_096;
const RECORD_SIZE_AT: std::ops::Range<usize> = 16..20;

/// How long a signature is good for, at most a day (RFC 8292 section 2).
const SIGNATURE_SECONDS: u64 = 12 * 3_600;

/// Addresses of a push service that are tried.
const ADDRESSES: usize = 4;

/// Bytes of the head of an answer. Nothing else of it is read.
const ANSWER: usize = 16 << 10;

/// What may be different from one homeserver to another.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For how long a push service keeps a push for a device that it cannot reach.
    pub ttl: Duration,
    /// Where the operator is found: a `mailto:` or `https:` URL.
    pub contact: String,
    /// Whether a push service may have an address that is not of the public internet.
    pub allow_private_addresses: bool,
    /// How long a push may take, from the look-up of the address to the answer.
    pub timeout: Duration,
}

/// Most look-ups of hosts under way.
const LOOKUPS: usize = 16;

/// Sends pushes to whatever push service a subscription is of.
pub struct WebPush {
    settings: Settings,
    key: Arc<VapidKey>,
    clock: Arc<dyn Clock>,
    tls: TlsConnector,
    lookups: Arc<Semaphore>,
}

/// Where a subscription leads.
struct Endpoint {
    uri: Uri,
    host: String,
    port: u16,
}

impl WebPush {
    /// Sends pushes in the name of `key`, to push services that show a certificate of `roots`.
    ///
    /// # Errors
    /// [`TlsError`] if the roots are not usable.
    pub fn new(
        settings: Settings,
        key: Arc<VapidKey>,
        clock: Arc<dyn Clock>,
        roots: Arc<RootCertStore>,
    ) -> Result<Self, TlsError> {
        let mut config = tls::client_config(roots, None)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let lookups = Arc::new(Semaphore::new(LOOKUPS));
        Ok(Self { settings, key, clock, tls: TlsConnector::from(Arc::new(config)), lookups })
    }

    /// The request for a subscription.
    fn request(&self, endpoint: &Endpoint, to: &WebPushSubscription) -> Option<Request<Full<Bytes>>> {
        let public_key = p256::PublicKey::from_sec1_bytes(&to.public_key).ok()?;
        let builder = WebPushBuilder::new(endpoint.uri.clone(), public_key, Auth::from(*to.auth.expose()));
        let request = builder.with_valid_duration(self.settings.ttl).build(CONTENT).ok()?;
        let (mut head, mut body) = request.into_parts();
        // The crate's record is exactly as long as it says; RFC 8291 section 4 wants it to be shorter.
        body.get_mut(RECORD_SIZE_AT)?.copy_from_slice(&RECORD_SIZE.to_be_bytes());
        let authority = endpoint.uri.authority()?.as_str();
        head.headers.insert(HOST, authority.parse().ok()?);
        head.headers.insert("urgency", HeaderValue::from_static("high"));
        head.headers.insert("topic", HeaderValue::from_static(TOPIC));
        head.headers.insert(AUTHORIZATION, self.authorization(endpoint)?);
        let path = endpoint.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = path.parse().ok()?;
        Some(Request::from_parts(head, Full::new(body.into())))
    }

    /// Says who pushes (RFC 8292 section 3).
    fn authorization(&self, endpoint: &Endpoint) -> Option<HeaderValue> {
        let port = Some(endpoint.port).filter(|port| *port != 443);
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let claims = serde_json::json!({
            "aud": format!("https://{}{port}", endpoint.uri.host()?),
            "exp": self.clock.now().seconds() + SIGNATURE_SECONDS,
            "sub": self.settings.contact,
        });
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let signed = [encode(br#"{"typ":"JWT","alg":"ES256"}"#), encode(claims.to_string().as_bytes())].join(".");
        let signature = encode(&self.key.sign(signed.as_bytes()).ok()?);
        let key = encode(self.key.public_key());
        let mut value: HeaderValue = format!("vapid t={signed}.{signature}, k={key}").parse().ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Connects, sends, and reads the head of the answer.
    async fn send(&self, endpoint: Endpoint, request: Request<Full<Bytes>>) -> Result<StatusAndHeaders, PushError> {
        let later = PushError::RetryLater(None);
        let stream = self.connect(&endpoint).await?;
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(ANSWER).handshake(TokioIo::new(stream)).await.map_err(|_| later)?;
        let mut answer = pin!(sender.send_request(request));
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer,
            // The other side has closed: the answer is there, or never comes.
            _ = connection => answer.await,
        };
        let (head, _) = answer.map_err(|_| later)?.into_parts();
        Ok((head.status, head.headers))
    }

    /// The addresses of an endpoint's host. A look-up cannot be broken off: few at a time are under way, so that those that hang
    /// leave the threads to others.
    async fn look_up(&self, endpoint: &Endpoint) -> Option<Vec<SocketAddr>> {
        let permit = self.lookups.clone().acquire_owned().await.ok()?;
        let (host, port) = (endpoint.host.clone(), endpoint.port);
        let look_up = move || {
            let found = (host.as_str(), port).to_socket_addrs().ok().map(|found| found.take(ADDRESSES).collect());
            drop(permit);
            found
        };
        tokio::task::spawn_blocking(look_up).await.ok()?
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<TlsStream<TcpStream>, PushError> {
        let later = PushError::RetryLater(None);
        let name = ServerName::try_from(endpoint.host.clone()).map_err(|_| PushError::Rejected)?;
        let found = self.look_up(endpoint).await.ok_or(later)?;
        let may = |address: &SocketAddr| self.settings.allow_private_addresses || is_public(address.ip());
        // What was checked is what is connected to: the name is not looked up again.
        let checked: Vec<SocketAddr> = found.iter().copied().filter(may).collect();
        if checked.is_empty() && !found.is_empty() {
            return Err(PushError::Rejected);
        }
        for address in checked {
            if let Ok(stream) = TcpStream::connect(address).await {
                return self.tls.connect(name, stream).await.map_err(|_| later);
            }
        }
        Err(later)
    }

    /// What an answer means (RFC 8030 sections 5, 7.3 and 8.4).
    fn outcome(&self, status: StatusCode, headers: &HeaderMap) -> Result<(), PushError> {
        match status {
            _ if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(PushError::Gone),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(self.later(headers)),
            _ if status.is_server_error() => Err(self.later(headers)),
            _ => Err(PushError::Rejected),
        }
    }

    /// When to try again: in so many seconds, or at a date (RFC 9110 section 10.2.3).
    fn later(&self, headers: &HeaderMap) -> PushError {
        let wanted = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let seconds = wanted.and_then(|text| {
            let date = || httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok();
            let until = || date().map(|date| date.as_secs().saturating_sub(self.clock.now().seconds()));
            text.parse::<u32>().ok().map(u64::from).or_else(until)
        });
        PushError::RetryLater(seconds.map(Duration::from_secs))
    }
}

type StatusAndHeaders = (StatusCode, HeaderMap);

#[async_trait]
impl PushService for WebPush {
    async fn push(&self, token: &PushToken) -> Result<(), PushError> {
        let PushToken::WebPush(subscription) = token;
        let endpoint = Endpoint::parse(subscription.endpoint.as_slice()).ok_or(PushError::Rejected)?;
        let request = self.request(&endpoint, subscription).ok_or(PushError::Rejected)?;
        let answer = timeout(self.settings.timeout, self.send(endpoint, request)).await;
        let (status, headers) = answer.unwrap_or(Err(PushError::RetryLater(None)))?;
        self.outcome(status, &headers)
    }
}

impl Endpoint {
    /// An `https` URL without user information and fragment.
    fn parse(endpoint: &[u8]) -> Option<Self> {
        if endpoint.len() > MAX_PUSH_ENDPOINT || !endpoint.is_ascii() || endpoint.contains(&b'#') {
            return None;
        }
        let uri = Uri::try_from(endpoint).ok()?;
        let authority = uri.authority()?;
        if uri.scheme_str() != Some("https") || authority.as_str().contains('@') {
            return None;
        }
        let port = authority.port_u16().unwrap_or(443);
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Some(Self { host, port, uri })
    }
}
