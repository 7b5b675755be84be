//! Every message of the protocol: round trip, truncation, flipped bits, golden bytes.

use arbitrary::{Arbitrary, Unstructured};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use super::{method::call, *};

fn check_type<T>(name: &str)
where
    T: Encode + Decode + PartialEq + std::fmt::Debug + for<'a> Arbitrary<'a>,
{
    let seed = u64::from_le_bytes(name.bytes().chain(*b"bennubennu").take(8).collect::<Vec<_>>().try_into().unwrap());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    check_golden::<T>(name, &mut rng);
    for round in 0..32 {
        let mut random = vec![0; 64 << (round % 6)];
        rng.fill_bytes(&mut random);
        let value = T::arbitrary(&mut Unstructured::new(&random)).unwrap();
        let bytes = value.to_vec();
        assert_eq!(bytes.len(), value.encoded_len(), "{name}: announced length");
        assert_eq!(T::from_slice(&bytes).as_ref(), Ok(&value), "{name}: round trip");

        let cuts = (0..bytes.len().min(64)).chain((bytes.len() > 64).then(|| bytes.len() - 1));
        for cut in cuts {
            assert!(T::from_slice(&bytes[..cut]).is_err(), "{name}: accepted when cut to {cut} of {}", bytes.len());
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(T::from_slice(&longer), Err(DecodeError::Trailing), "{name}: trailing byte");

        for _ in 0..64.min(bytes.len() * 8) {
            let mut flipped = bytes.clone();
            let bit = rng.next_u32() as usize % (bytes.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = T::from_slice(&flipped) {
                assert_eq!(other.to_vec(), flipped, "{name}: two encodings of one value");
                assert_ne!(other, value, "{name}: a flipped bit that means nothing");
            }
        }
    }
}

/// One encoding of every type as it was when the type was declared, with what it means: `name<TAB>hex<TAB>value`. A type
/// that is missing is printed as a line to add.
const GOLDEN: &str = include_str!("../../tests/golden/messages.txt");

fn check_golden<T>(name: &str, rng: &mut ChaCha8Rng)
where
    T: Encode + Decode + PartialEq + std::fmt::Debug + for<'a> Arbitrary<'a>,
{
    let line = GOLDEN.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
    let Some((hex, meaning)) = line.and_then(|line| line.split_once('\t')) else {
        let mut random = [0; 96];
        rng.fill_bytes(&mut random);
        let value = T::arbitrary(&mut Unstructured::new(&random)).unwrap();
        let hex: String = value.to_vec().iter().map(|byte| format!("{byte:02x}")).collect();
        println!("GOLDEN {name}\t{hex}\t{value:?}");
        if std::env::var_os("BENNU_BLESS").is_some() {
            return;
        }
        panic!(
            "{name} is not in tests/golden/messages.txt: run with BENNU_BLESS=1 and add the lines that begin with GOLDEN"
        );
    };
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    let value = T::from_slice(&bytes).unwrap_or_else(|error| panic!("{name}: the golden bytes: {error}"));
    assert_eq!(format!("{value:?}"), meaning, "{name}: the golden bytes mean something else");
    assert_eq!(value.to_vec(), bytes, "{name}: the golden value is encoded differently");
}

macro_rules! check_types {
    ($($test:ident: $($type:ty),* $(,)?;)*) => {$(
        #[test]
        fn $test() {
            $(check_type::<$type>(stringify!($type));)*
        }
    )*};
}

check_types! {
    envelopes_are_strict: Request, Response, ErrorDetail, Authentication, Token, SenderId, Proof,
        envelope::RequestTbs, envelope::BindTbs;
    credentials_are_strict: credential::AsCredential, credential::AsIntermediateCredential,
        credential::ClientCredential, credential::LeafCredential, credential::LeafTbs, credential::LeafSignature,
        credential::LeafChain, credential::HpkeCiphertext;
    contents_are_strict: content::ApplicationMessage, content::UserProfile, content::GroupData,
        connection::ConnectionOffer, connection::ConnectionDecline, connection::WelcomeAttribution,
        connection::FriendshipPackage, connection::DirectMessage, connection::ConnectionPackage;
    queue_items_are_strict: queue::QueueMessage, queue::EntryAad, queue::Acknowledge, queue::QueueEntry,
        queue::FanOut, federation::QsToQsFrame, federation::Forward, queuing::QueueConfig, queuing::ClientQueueConfig, queuing::PushToken;
    group_items_are_strict: mls::WelcomeMessage, mls::PrivateMessage, delivery::CommitAad, delivery::Roles, delivery::CurrentEpoch, delivery::WelcomeBundle;
}

macro_rules! check_methods {
    ($($name:ident),* $(,)?) => {
        const CHECKED: &[Method] = &[$(Method::$name),*];

        #[test]
        fn requests_and_responses_of_every_method_are_strict() {
            assert_eq!(CHECKED, Method::ALL, "a method is missing here");
            $(
                check_type::<<call::$name as Call>::Request>(concat!(stringify!($name), " request"));
                check_type::<<call::$name as Call>::Response>(concat!(stringify!($name), " response"));
            )*
        }
    };
}

check_methods! {
    ServerInfo, Bind,
    AsGetCredentials, AsInitRegistration, AsFinishRegistration, AsRenewCredential, AsInit2fa, AsChangePassword,
    AsDeleteUser, AsUpdateUserProfile, AsGetUserProfile, AsPublishConnectionPackages, AsGetConnectionPackage, AsEnqueue,
    AsDequeue, AsListen, AsRegisterAlias, AsDeleteAlias, AsPublishAliasPackages, AsGetAliasPackage, AsEnqueueAlias,
    AsDequeueAlias, AsListenAlias, AsIssueTokens,
    QsGetKeys, QsCreateUser, QsUpdateUser, QsGetUser, QsDeleteUser, QsCreateClient, QsUpdateClient, QsDeleteClient,
    QsUpdateBlocklist, QsPublishKeyPackages, QsGetAddPackages, QsGetBody, QsDequeue, QsListen,
    DsRequestGroupId, DsCreateGroup, DsSendMessage, DsAddUsers, DsRemoveUsers, DsUpdateClient,
    DsUpdateGroupContext, DsUpdateProfileKey, DsUpdateQueueInfo, DsJoinConnectionGroup, DsResync, DsSelfRemove,
    DsDeleteGroup, DsWelcomeInfo, DsExternalCommitInfo, DsGetKeys,
    FedDeliver,
}

#[test]
fn vector_lengths_have_one_encoding() {
    for length in [0, 1, 63, 64, 16_383, 16_384, (1 << 30) - 1] {
        let mut bytes = Vec::new();
        encode_varint(length, &mut bytes);
        assert_eq!(decode_varint(&bytes), Length::Known(length, bytes.len()));
        assert!(matches!(decode_varint(&bytes[..bytes.len() - 1]), Length::Needs(_)));
    }
    for bad in [&[0x40, 0x3f][..], &[0x80, 0, 0x3f, 0xff], &[0xc0, 0, 0, 0, 0, 0, 0, 1]] {
        assert_eq!(decode_varint(bad), Length::Invalid);
    }
}

#[test]
fn an_announced_length_allocates_nothing() {
    // One gigabyte announced, two bytes there.
    let bytes = [0xbf, 0xff, 0xff, 0xff, 1, 2];
    assert_eq!(Opaque::from_slice(&bytes), Err(DecodeError::Truncated));
    assert_eq!(Vec::<Opaque>::from_slice(&bytes), Err(DecodeError::Truncated));
}

#[test]
fn golden_request() {
    let request = Request {
        version: VERSION,
        method: Method::QsDequeue as u16,
        auth: vec![Authentication {
            sender: SenderId::QsClient(crate::base::QsClientId([0x11; 16])),
            proof: Proof::Bound,
        }],
        token: None,
        body: queue::Dequeue { incarnation: [0x22; 16], start: 5, max: 100 }.to_vec().into(),
    };
    let golden = [
        &[0x00, 0x01][..],         // version
        &[0x02, 0x0d],             // method QsDequeue
        &[18],                     // auth<V>: one Authentication
        &[4],                      //   SenderId: QsClient
        &[0x11; 16],               //   its id
        &[2],                      //   Proof: Bound
        &[0],                      // no token
        &[28],                     // body<V>
        &[0x22; 16],               //   incarnation
        &[0, 0, 0, 0, 0, 0, 0, 5], //   start
        &[0, 0, 0, 100],           //   max
    ]
    .concat();
    assert_eq!(request.to_vec(), golden);
    assert_eq!(Request::from_slice(&golden), Ok(request));
}

#[test]
fn golden_refusal() {
    let refusal = crate::base::Refusal::malformed("no").with_retry_after(std::time::Duration::from_millis(258));
    let golden = [
        0x00, 0x01, // status malformed
        9,    // body<V>
        2, b'n', b'o', // message<V>
        1, 0, 0, 1, 2, // retry_after_ms
        0, // detail<V>
    ];
    assert_eq!(Response::refused(&refusal).to_vec(), golden);
    assert_eq!(Response::from_slice(&golden).unwrap().into_result(), Err(refusal));
}
