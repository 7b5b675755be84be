//! Web Push against a push service on this machine.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    super::{web_push::*, *},
    endpoint::{Answer, Endpoint, Subscriber, status},
};
use crate::{
    base::{Clock, Timestamp},
    crypto::{push::VapidKey, system_rng},
    wire::queuing::WebPushSubscription,
};

/// Thursday, 3 October 2024, 17:46:40 UTC.
const NOW: u64 = 1_727_977_600;

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp(NOW * 1_000)
    }
}

fn settings() -> Settings {
    Settings {
        ttl: Duration::from_secs(3_600),
        contact: "mailto:operator@a.test".into(),
        allow_private_addresses: true,
        timeout: Duration::from_secs(60),
    }
}

fn service(settings: Settings, endpoint: &Endpoint) -> (WebPush, Arc<VapidKey>) {
    let key = Arc::new(VapidKey::generate(&mut system_rng()).unwrap());
    (WebPush::new(settings, key.clone(), Arc::new(Fixed), endpoint.roots.clone()).unwrap(), key)
}

fn decode(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

#[tokio::test]
async fn a_push_is_a_signed_post_whose_content_only_the_device_reads_and_which_is_always_the_same() {
    let mut endpoint = Endpoint::start(vec![status("201 Created")]).await;
    let (service, key) = service(settings(), &endpoint);
    let mut bodies = Vec::new();
    for path in ["/push/some-token?v=2", "/other/and-a-longer-token"] {
        let device = Subscriber::new();
        service.push(&device.token(&endpoint.url(path))).await.unwrap();
        let request = endpoint.received.recv().await.unwrap();
        assert_eq!(request.line, format!("POST {path} HTTP/1.1"));
        assert_eq!(format!("https://{}", request.header("host")), endpoint.origin());
        assert_eq!(request.header("ttl"), "3600");
        assert_eq!(request.header("urgency"), "high");
        assert_eq!(request.header("topic"), "m");
        assert_eq!(request.header("content-encoding"), "aes128gcm");
        assert_eq!(device.open(&request.body), CONTENT);
        // RFC 8188 section 2.1 and RFC 8291 section 4: one record, shorter than the record size, by a key of this push alone.
        let (record_size, key_length) = (&request.body[16..20], usize::from(request.body[20]));
        let record = request.body.len() - 21 - key_length;
        assert!(u32::from_be_bytes(record_size.try_into().unwrap()) as usize > record);
        assert_eq!((key_length, record), (65, CONTENT.len() + 17));

        // RFC 8292 sections 2 and 3.
        let (token, public) = request.header("authorization").split_once(", k=").unwrap();
        assert_eq!(decode(public), key.public_key());
        let (signed, signature) = token.strip_prefix("vapid t=").unwrap().rsplit_once('.').unwrap();
        let verified = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key());
        verified.verify(signed.as_bytes(), &decode(signature)).unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let [header, claims]: [serde_json::Value; 2] =
            [header, claims].map(|part| serde_json::from_slice(&decode(part)).unwrap());
        assert_eq!(header, serde_json::json!({ "typ": "JWT", "alg": "ES256" }));
        let wanted =
            serde_json::json!({ "aud": endpoint.origin(), "exp": NOW + 43_200, "sub": "mailto:operator@a.test" });
        assert_eq!(claims, wanted);
        let known = ["host", "ttl", "urgency", "topic", "content-encoding", "content-type", "content-length"];
        for (name, _) in &request.headers {
            assert!(known.contains(&name.as_str()) || name == "authorization", "{name} says more than it has to");
        }
        bodies.push(request.body);
    }
    assert_eq!(bodies[0].len(), bodies[1].len());
    assert_ne!(bodies[0], bodies[1]);
}

#[tokio::test]
async fn what_a_push_service_answers_is_heeded() {
    let later = |seconds: Option<u64>| Err(PushError::RetryLater(seconds.map(Duration::from_secs)));
    let mut elsewhere = Endpoint::start(vec![status("201 Created")]).await;
    let endless =
        [b"HTTP/1.1 201 Created\r\nContent-Length: 1000000000\r\n\r\n".to_vec(), vec![b'x'; 100_000]].concat();
    let long = [b"HTTP/1.1 201 Created\r\nX: ".to_vec(), vec![b'x'; 1 << 20]].concat();
    let cases = [
        (status("200 OK"), Ok(())),
        (status("202 Accepted"), Ok(())),
        (Answer::Bytes(endless), Ok(())),
        (status("404 Not Found"), Err(PushError::Gone)),
        (status("410 Gone"), Err(PushError::Gone)),
        (status("400 Bad Request"), Err(PushError::Rejected)),
        (status("403 Forbidden"), Err(PushError::Rejected)),
        (status("413 Content Too Large"), Err(PushError::Rejected)),
        (status(&format!("307 Temporary Redirect\r\nLocation: {}", elsewhere.url("/"))), Err(PushError::Rejected)),
        (status(&format!("301 Moved Permanently\r\nLocation: {}", elsewhere.url("/"))), Err(PushError::Rejected)),
        (status("429 Too Many Requests\r\nRetry-After: 17"), later(Some(17))),
        (status("503 Service Unavailable\r\nRetry-After: Thu, 03 Oct 2024 17:47:00 GMT"), later(Some(20))),
        (status("503 Service Unavailable\r\nRetry-After: Tue, 03 Oct 2023 17:47:00 GMT"), later(Some(0))),
        (status("503 Service Unavailable\r\nRetry-After: soon"), later(None)),
        (status("500 Internal Server Error"), later(None)),
        (Answer::Bytes(long), later(None)),
        (Answer::Bytes(b"220 mail.a.test ESMTP\r\n".to_vec()), later(None)),
    ];
    let mut endpoint = Endpoint::start(cases.iter().map(|(answer, _)| answer.clone()).collect()).await;
    let (service, _) = service(settings(), &endpoint);
    let device = Subscriber::new();
    for (number, (_, wanted)) in cases.iter().enumerate() {
        assert_eq!(service.push(&device.token(&endpoint.url("/"))).await, *wanted, "answer {number}");
        assert!(endpoint.received.recv().await.is_some());
    }
    assert_eq!(elsewhere.connections(), 0, "no redirect is followed");
    assert!(elsewhere.received.try_recv().is_err());
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_left_after_a_while() {
    let mut endpoint = Endpoint::start(vec![Answer::Nothing]).await;
    let impatient = Settings { timeout: Duration::from_secs(3), ..settings() };
    let (service, _) = service(impatient, &endpoint);
    let token = Subscriber::new().token(&endpoint.url("/"));
    let (answer, request) = tokio::join!(service.push(&token), endpoint.received.recv());
    assert!(request.is_some(), "it got the request");
    assert_eq!(answer, Err(PushError::RetryLater(None)));
}

#[tokio::test]
async fn addresses_that_are_not_of_the_public_internet_are_not_connected_to() {
    let endpoint = Endpoint::start(vec![status("201 Created")]).await;
    let (service, _) = service(Settings { allow_private_addresses: false, ..settings() }, &endpoint);
    let device = Subscriber::new();
    let port = endpoint.origin().rsplit_once(':').unwrap().1.to_owned();
    for host in ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0.0.0.0"] {
        let answer = service.push(&device.token(&format!("https://{host}:{port}/"))).await;
        assert!(matches!(answer, Err(PushError::Rejected)), "{host}: {answer:?}");
    }
    assert_eq!(endpoint.connections(), 0);
}

#[tokio::test]
async fn only_https_urls_and_points_of_the_curve_are_used() {
    let endpoint = Endpoint::start(vec![status("201 Created")]).await;
    let (service, _) = service(settings(), &endpoint);
    let device = Subscriber::new();
    let url = endpoint.url("/");
    let address = url.strip_prefix("https://").unwrap();
    for endpoint in [
        String::new(),
        address.to_owned(),
        "/".to_owned(),
        format!("http://{address}"),
        format!("ftp://{address}"),
        format!("https://user@{address}"),
        format!("https://user:password@{address}"),
        format!("{url}#fragment"),
        format!("{url}\r\nX: y"),
        format!("{url}ä"),
        format!("{url}{}", "x".repeat(512)),
        "https://".to_owned(),
        "https://:443/".to_owned(),
    ] {
        assert_eq!(service.push(&device.token(&endpoint)).await, Err(PushError::Rejected), "{endpoint}");
    }
    let PushToken::WebPush(subscription) = device.token(&url);
    for public_key in [[0; 65], [4; 65]] {
        let token = PushToken::WebPush(WebPushSubscription { public_key, ..subscription.clone() });
        assert_eq!(service.push(&token).await, Err(PushError::Rejected));
    }
    assert_eq!(endpoint.connections(), 0);
}

#[tokio::test]
async fn a_push_service_without_a_good_certificate_is_told_nothing() {
    let (mut endpoint, other) =
        (Endpoint::start(vec![status("201 Created")]).await, Endpoint::start(vec![status("201 Created")]).await);
    let (service, _) = service(settings(), &other);
    let answer = service.push(&Subscriber::new().token(&endpoint.url("/"))).await;
    assert_eq!(answer, Err(PushError::RetryLater(None)));
    assert_eq!(endpoint.connections(), 1);
    assert!(endpoint.received.try_recv().is_err());
}
