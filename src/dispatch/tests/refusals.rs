//! Makes `wire-spec/vectors/refusals.json`: requests that any homeserver refuses, and the status that it refuses them with. They
//! rest on nothing that was done before.

use super::*;
use crate::{
    base::{AliasId, ClientId, GroupId, QsClientId, QsUserId, UserId},
    wire::{
        Authentication, Encode, Method, Proof, Token,
        authentication::{GetAliasPackage, GetUserProfile, InitRegistration},
        credential::Signature,
        delivery::{GetExternalCommitInfo, GroupAccess, SendMessage},
        envelope::LeafId,
        queue::Dequeue,
        queuing::GetBody,
        tests::{compare_vectors, hex},
    },
};

const FILE: &str = "wire-spec/vectors/refusals.json";

/// What is wrong with a request.
struct Case {
    about: &'static str,
    request: Vec<u8>,
    status: Status,
}

fn plain(method: Method, body: &impl Encode) -> Request {
    Request { version: VERSION, method: method as u16, auth: Vec::new(), token: None, body: body.to_vec().into() }
}

fn by(request: Request, senders: &[SenderId]) -> Request {
    let auth = senders.iter().map(|sender| Authentication { sender: sender.clone(), proof: Proof::Bound });
    Request { auth: auth.collect(), ..request }
}

fn user(number: u8) -> UserId {
    UserId { uuid: [number; 16], domain: "a.test".parse().unwrap() }
}

fn info() -> Vec<u8> {
    plain(Method::ServerInfo, &crate::wire::server::GetServerInfo {}).to_vec()
}

/// The request with its parts after the method replaced.
fn after_method(rest: &[u8]) -> Vec<u8> {
    [&info()[..4], rest].concat()
}

fn body_of(method: Method, body: &[u8]) -> Vec<u8> {
    let request = plain(method, &crate::wire::server::Done {});
    Request { body: body.into(), ..request }.to_vec()
}

fn envelopes() -> Vec<Case> {
    let malformed = |about, request| Case { about, request, status: Status::Malformed };
    let sender = [&[4][..], &[0x11; 16], &[2]].concat();
    let with_auth = |auth: &[u8]| after_method(&[&[auth.len() as u8][..], auth, &[0, 0]].concat());
    let mut proof_of_no_kind = sender.clone();
    proof_of_no_kind[17] = 9;
    let mut cases = vec![
        malformed("nothing", Vec::new()),
        malformed("half a method", info()[..3].to_vec()),
        malformed("nothing after the method", info()[..4].to_vec()),
        malformed("octets after the request", [&info()[..], &[0]].concat()),
        malformed("auth<V>: a length in two octets that fits one", after_method(&[0x40, 0, 0, 0])),
        malformed("body<V>: a length in four octets that fits one", after_method(&[0, 0, 0x80, 0, 0, 0])),
        malformed("body<V>: a length in eight octets", after_method(&[0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0])),
        malformed("body<V>: cut off", after_method(&[0, 0, 5, 1, 2])),
        malformed("token: an optional of 2", after_method(&[0, 2, 0])),
        malformed("token: cut off", after_method(&[0, 1, 0, 5, 1, 2])),
        malformed("auth<V>: an element that is cut off", with_auth(&sender[..9])),
        malformed("SenderId: no such type", with_auth(&[&[99][..], &sender[1..]].concat())),
        malformed("Proof: no such type", with_auth(&proof_of_no_kind)),
        malformed("ServerInfo: a body with something in it", body_of(Method::ServerInfo, &[0])),
    ];
    let version = |about, version: u16, rest: &[u8]| Case {
        about,
        request: [&version.to_be_bytes()[..], rest].concat(),
        status: Status::UnsupportedVersion,
    };
    cases.push(version("version 2", 2, &info()[2..]));
    cases.push(version("version 0, and what follows is nothing", 0, &[0xff, 0xff, 1, 2, 3]));
    for (about, code) in [("method 0", 0_u16), ("a method of no service", 0x0501), ("a private method", 0xf000)] {
        let request = Request { method: code, ..plain(Method::ServerInfo, &crate::wire::server::Done {}) }.to_vec();
        cases.push(Case { about, request, status: Status::UnknownMethod });
    }
    let long = vec![0; Method::ServerInfo.max_request() + 1];
    let request = [&info()[..4], &long[..]].concat();
    cases.push(Case { about: "more than the method takes", request, status: Status::TooLarge });
    cases
}

fn bodies() -> Vec<Case> {
    let malformed =
        |about, method, body: &[u8]| Case { about, request: body_of(method, body), status: Status::Malformed };
    let named = |domain: &[u8]| [&[0x11; 16][..], &[domain.len() as u8], domain].concat();
    let mut cases = Vec::new();
    for (about, domain) in [
        ("a domain in upper case", &b"A.test"[..]),
        ("a domain of one label", b"test"),
        ("a domain with an empty label", b"a..test"),
        ("a domain that ends with a dot", b"a.test."),
        ("a domain with a label that begins with a hyphen", b"-a.test"),
        ("a domain whose last label is a number", b"a.1"),
        ("a domain that is no ASCII", "\u{e4}.test".as_bytes()),
    ] {
        cases.push(malformed(about, Method::AsGetUserProfile, &named(domain)));
    }
    let alias = [&[2, 0xff, 0xfe, 32][..], &[1; 32], &[32], &[2; 32], &[0]].concat();
    cases.push(malformed("a text that is no UTF-8", Method::AsRegisterAlias, &alias));
    cases.push(malformed("a body that is cut off", Method::QsGetBody, &[1; 15]));
    cases.push(malformed("a body with octets after it", Method::QsGetBody, &[1; 17]));
    cases.push(malformed("a bool of 2", Method::DsCreateGroup, &create_group_with_a_bool_of_2()));
    cases
}

fn create_group_with_a_bool_of_2() -> Vec<u8> {
    let group = GroupId { uuid: [0x11; 16], domain: "a.test".parse().unwrap() };
    let ticket = crate::wire::delivery::GroupTicket { group, expires: 0, mac: [0; 32] }.to_vec();
    [&ticket[..], &[7; 32], &[2]].concat()
}

fn senders() -> Vec<Case> {
    let unproven = |about, request: Request| Case { about, request: request.to_vec(), status: Status::Unauthenticated };
    let client = SenderId::QsClient(QsClientId([0x11; 16]));
    let dequeue = || plain(Method::QsDequeue, &Dequeue { incarnation: [0; 16], start: 0, max: 1 });
    let leaf = LeafId { group: GroupId { uuid: [0x11; 16], domain: "a.test".parse().unwrap() }, leaf: 0 };
    let signed = Authentication { sender: client.clone(), proof: Proof::Signature(Signature::from(&[0; 64][..])) };
    vec![
        unproven("no sender where one is needed", dequeue()),
        unproven("a key that is not bound to the connection", by(dequeue(), std::slice::from_ref(&client))),
        unproven("a signature that is none", Request { auth: vec![signed], ..dequeue() }),
        unproven("two senders where one is taken", by(dequeue(), &[client.clone(), client.clone()])),
        unproven("a sender of another kind", by(dequeue(), &[SenderId::QsUser(QsUserId([0x11; 16]))])),
        unproven("a sender of another service", by(dequeue(), &[SenderId::DsLeaf(leaf)])),
        unproven(
            "a sender where none is taken",
            by(plain(Method::ServerInfo, &crate::wire::server::GetServerInfo {}), &[client]),
        ),
    ]
}

fn services() -> Vec<Case> {
    let group = GroupId { uuid: [0x11; 16], domain: "a.test".parse().unwrap() };
    let access = || GroupAccess { group: group.clone(), ear_key: Secret::new([0x11; 32]) };
    let member = SenderId::DsLeaf(LeafId { group: group.clone(), leaf: 0 });
    let of_another = UserId { domain: "b.test".parse().unwrap(), ..user(0x11) };
    let registration = InitRegistration { user: of_another, request: vec![0; 32].into(), invitation: None };
    let message = SendMessage {
        access: access(),
        idempotency_key: [0; 16],
        message: vec![1].into(),
        context_hash: [0; 8],
        no_push: false,
    };
    let case = |about, request: Request, status| Case { about, request: request.to_vec(), status };
    let token = GetAddPackages { friendship_token: Secret::new([0x11; 32]) };
    let mut cases = vec![
        case("a body that is not there", plain(Method::QsGetBody, &GetBody { id: [0x11; 16] }), Status::NotFound),
        case("a friendship token of nobody", plain(Method::QsGetAddPackages, &token), Status::NotFound),
        case(
            "an alias of nobody",
            plain(Method::AsGetAliasPackage, &GetAliasPackage { alias: AliasId([0x11; 32]) }),
            Status::NotFound,
        ),
        case(
            "a user that does not exist",
            plain(Method::AsGetUserProfile, &GetUserProfile { user: user(0x11) }),
            Status::NotFound,
        ),
        case(
            "a group that does not exist",
            plain(Method::DsExternalCommitInfo, &GetExternalCommitInfo { access: access() }),
            Status::NotFound,
        ),
        case(
            "a member of a group that does not exist",
            by(plain(Method::DsSendMessage, &message), &[member]),
            Status::NotFound,
        ),
        case("a user of another domain", plain(Method::AsInitRegistration, &registration), Status::Forbidden),
    ];
    let stranger = SenderId::AsClient(ClientId { user: user(0x11), client: [0x22; 16] });
    let dequeue = Dequeue { incarnation: [0; 16], start: 0, max: 1 };
    cases.push(case(
        "a client that does not exist",
        by(plain(Method::AsDequeue, &dequeue), &[stranger]),
        Status::Unauthenticated,
    ));
    cases
}

/// What a homeserver refuses that wants tokens.
fn unpaid() -> Vec<Case> {
    let request = || plain(Method::AsGetAliasPackage, &GetAliasPackage { alias: AliasId([0x11; 32]) });
    let token = Token {
        token_type: 5,
        nonce: [1; 32],
        challenge_digest: [2; 32],
        token_key_id: [3; 32],
        authenticator: [4; 64],
    };
    let with = Request { token: Some(token), ..request() };
    vec![
        Case { about: "no token", request: request().to_vec(), status: Status::TokenRequired },
        Case { about: "a token of no key", request: with.to_vec(), status: Status::Unauthenticated },
    ]
}

async fn status(connection: &Connection, request: &[u8]) -> Status {
    let exchange = connection.open().await.unwrap();
    let answer = exchange.request(request.to_vec().into(), 1 << 20).await.unwrap();
    Response::from_bytes(answer).unwrap().into_result().unwrap_err().status
}

#[tokio::test]
async fn vectors_of_refusals_are_refused_with_their_status() {
    let store = || Store::open(MemoryEngine::new(), Options::new(|_| ())).unwrap();
    let free = Dispatcher::start(parts(store())).await.unwrap();
    let paid = Dispatcher::start(Parts { policy: Policy::default().into(), ..parts(store()) }).await.unwrap();
    let free = memory::connect(Arc::new(Service(free)));
    let paid = memory::connect(Arc::new(Service(paid)));
    let mut lines = Vec::new();
    let anywhere = [envelopes(), bodies(), senders(), services()].into_iter().flatten().map(|case| (case, false));
    for (Case { about, request, status: expected }, is_paid) in
        anywhere.chain(unpaid().into_iter().map(|case| (case, true)))
    {
        let found = status(if is_paid { &paid } else { &free }, &request).await;
        assert_eq!(found, expected, "{about}");
        let hex = hex(&request);
        let tokens = if is_paid { r#", "tokens": true"# } else { "" };
        lines.push(format!(r#"{{"about": "{about}", "request": "{hex}", "status": "{}"{tokens}}}"#, expected.name()));
    }
    compare_vectors(FILE, &lines);
}
