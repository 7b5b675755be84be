//! What services seal and sign for each other and for clients: shared bodies, push tokens, what homeservers forward.

use super::{
    super::{random, sha256},
    vectors::{Vector, chance, domain, group, hpke_sealed, key, private, seal_steps, sign_content},
};
use crate::{
    base::{Domain, QsClientId, Secret},
    wire::{
        Encode, Opaque,
        federation::{
            Forward, ForwardAad, ForwardedFanOut, QsToQsFrame, QsToQsMessage, QsToQsTbs, QueueGone, QueueGoneTbs,
            SealedForward,
        },
        label::{HpkeLabel, KeyLabel, SignatureLabel},
        padding::{MESSAGE_FLOOR, PUSH_TOKEN_FLOOR, pad_value},
        queue::{FanOut, FanOutContent, SharedBody},
        queuing::{ClientQueueConfig, PushToken, WebPushSubscription},
    },
};

pub fn all() -> Vec<Vector> {
    vec![shared_body(), push_token(), queue_gone(), forward()]
}

fn destination() -> Domain {
    "example.net".parse().unwrap()
}

/// Of a member there; nothing here looks inside.
fn client_queue_config() -> ClientQueueConfig {
    let (kem_output, ciphertext) = (vec![0x2a; 32].into(), vec![0x2b; 272].into());
    ClientQueueConfig { domain: destination(), key_id: [0x2c; 8], kem_output, ciphertext }
}

fn fan_out() -> FanOut {
    FanOut { group: group(), content: FanOutContent::Application(Opaque::from(&b"an MLSMessage"[..])) }
}

fn shared_body() -> Vector {
    let (id, body_key) = ([0x1d; 16], Secret::new([0x5b; 32]));
    let about = Vector::new("shared body", "queues.md, Shared bodies").encoded("value", &fan_out());
    let padded = pad_value(&fan_out(), MESSAGE_FLOOR);
    let (label, mut rng) = (KeyLabel::SharedBody, chance(41));
    let vector = seal_steps(about, &body_key, label, &id, &padded, &mut rng.clone());
    let sealed = super::super::aead::seal(&body_key, label, &id, &padded, &mut rng);
    vector.encoded("shared_body", &SharedBody { id, key: body_key, hash: sha256(&sealed) })
}

fn push_token() -> Vector {
    let mut public_key = [0x61; 65];
    // An uncompressed point; that it is one of the curve is for whoever pushes.
    public_key[0] = 4;
    let token = PushToken::WebPush(WebPushSubscription {
        endpoint: Opaque::from(&b"https://push.example.org/of/somebody"[..]),
        public_key,
        auth: Secret::new([0x62; 16]),
    });
    let (client, token_key) = (QsClientId([0x51; 16]), Secret::new([0x63; 32]));
    let about = Vector::new("push token", "queuing.md, Push").encoded("value", &token);
    let padded = pad_value(&token, PUSH_TOKEN_FLOOR);
    seal_steps(about, &token_key, KeyLabel::PushToken, &client.0, &padded, &mut chance(42))
}

fn queue_gone() -> Vector {
    let statement = QueueGoneTbs { group: group(), config: client_queue_config() };
    let signature = key(43).sign(SignatureLabel::QueueGone, &statement);
    Vector::new("queue gone", "federation.md, Queues that are gone")
        .octets("queuing_seed", [43; 32])
        .encoded("statement", &statement)
        .octets("sign_content", sign_content(SignatureLabel::QueueGone, &statement.to_vec()))
        .octets("signature", signature.as_slice())
        .encoded("queue_gone", &QueueGone { statement, signature })
}

fn forward() -> Vector {
    let recipients = vec![client_queue_config()];
    let forward = Forward::FanOut(ForwardedFanOut { message: fan_out(), no_push: false, recipients });
    let aad = ForwardAad { source: domain(), destination: destination() }.to_vec();
    let (to, padded) = (private(44), pad_value(&forward, MESSAGE_FLOOR));
    let about = Vector::new("forward", "federation.md, Forwarding and Delivery").encoded("value", &forward);
    let (vector, sealed) = hpke_sealed(about, &to, HpkeLabel::Forward, &[], &aad, &padded, &mut chance(45));
    let [a, b, c, d, e, f, g, h, ..] = sha256(to.public_key().as_slice());
    let key_id = [a, b, c, d, e, f, g, h];
    let message = QsToQsMessage {
        source: domain(),
        destination: destination(),
        incarnation: random(&mut chance(46)),
        sequence: 7,
        payload: SealedForward { key_id, kem_output: sealed.kem_output, ciphertext: sealed.ciphertext },
    };
    let tbs = QsToQsTbs { messages: vec![message] };
    let signature = key(47).sign(SignatureLabel::QsToQs, &tbs);
    vector
        .octets("queuing_seed", [47; 32])
        .octets("sign_content", sign_content(SignatureLabel::QsToQs, &tbs.to_vec()))
        .octets("signature", signature.as_slice())
        .encoded("frame", &QsToQsFrame { messages: tbs.messages, signature })
}
