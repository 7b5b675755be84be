//! Every message of the protocol, as the crate has it and as `wire-spec/` has it: round trip, truncation, flipped bits, test
//! vectors.

use std::{
    collections::{BTreeSet, HashSet},
    sync::LazyLock,
};

use arbitrary::{Arbitrary, Unstructured};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use self::presentation::{Grammar, Value};
use super::{method::call, *};

#[path = "../../tests/presentation/mod.rs"]
#[allow(dead_code, reason = "declarations themselves are for other tests")]
mod presentation;

static GRAMMAR: LazyLock<Grammar> = LazyLock::new(Grammar::of_the_specification);

/// The name that a type has in `wire-spec/`.
fn specified<T>() -> &'static str {
    every::last(std::any::type_name::<T>())
}

/// Both decoders accept what the other does: the crate's, and what the specification says.
fn check_both<T: Encode + Decode>(name: &str, bytes: &[u8]) {
    let (implemented, by_the_text) = (T::from_slice(bytes), GRAMMAR.decode(specified::<T>(), bytes));
    match (&implemented, &by_the_text) {
        (Ok(value), Ok(fields)) => {
            assert_eq!(value.to_vec(), bytes, "{name}: two encodings of one value");
            assert_eq!(
                GRAMMAR.encode(specified::<T>(), fields),
                bytes,
                "{name}: encoded otherwise by the specification"
            );
        }
        (Err(_), Err(_)) => {}
        _ => panic!(
            "{name}: the code says {:?}, the specification {by_the_text:?}, to {}",
            implemented.map(drop),
            presentation::hex(bytes)
        ),
    }
}

/// What is made from the specification alone is what the crate encodes, and the other way round.
fn check_specified<T: Encode + Decode>(name: &str, rng: &mut ChaCha8Rng) {
    for _ in 0..32 {
        let value = GRAMMAR.random(specified::<T>(), &mut || rng.next_u64());
        let bytes = GRAMMAR.encode(specified::<T>(), &value);
        assert_eq!(GRAMMAR.decode(specified::<T>(), &bytes).as_ref(), Ok(&value), "{name}: the specification alone");
        assert!(T::from_slice(&bytes).is_ok(), "{name}: refused, {value:?}");
        check_both::<T>(name, &bytes);
    }
}

fn check_type<T>(name: &str)
where
    T: Encode + Decode + PartialEq + std::fmt::Debug + for<'a> Arbitrary<'a>,
{
    let seed = u64::from_le_bytes(name.bytes().chain(*b"bennubennu").take(8).collect::<Vec<_>>().try_into().unwrap());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    check_vectors::<T>(name);
    check_specified::<T>(name, &mut rng);
    for round in 0..32 {
        let mut random = vec![0; 64 << (round % 6)];
        rng.fill_bytes(&mut random);
        let value = T::arbitrary(&mut Unstructured::new(&random)).unwrap();
        let bytes = value.to_vec();
        assert_eq!(bytes.len(), value.encoded_len(), "{name}: announced length");
        assert_eq!(T::from_slice(&bytes).as_ref(), Ok(&value), "{name}: round trip");
        check_both::<T>(name, &bytes);

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
            check_both::<T>(name, &flipped);
            if let Ok(other) = T::from_slice(&flipped) {
                assert_ne!(other, value, "{name}: a flipped bit that means nothing");
            }
        }
    }
}

/// Some values of every type with their encodings, for whoever writes another implementation.
const VECTORS: &str = "wire-spec/vectors/messages.json";

/// Of each type at least; and more, until there is one for each absent `optional` and each code that a field can have.
const VECTORS_OF_EACH: usize = 3;

/// Values that are drawn to find those.
const DRAWN: usize = 300;

/// Absent fields and codes in a value: where, and what.
fn choices(at: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Code(code) => _ = found.insert(format!("{at}: {code}")),
        Value::Optional(None) => _ = found.insert(format!("{at}: absent")),
        Value::Optional(Some(value)) => choices(at, value, found),
        Value::Vector(values) => values.iter().for_each(|value| choices(at, value, found)),
        // What is further inside is for the vectors of the types that are inside.
        Value::Struct(fields) if at.matches('.').count() < 2 => {
            fields.iter().for_each(|(name, value)| choices(&format!("{at}.{name}"), value, found));
        }
        _ => {}
    }
}

/// Vectors are made from the specification alone, so they change if and only if it does.
fn vectors(of: &str, rng: &mut ChaCha8Rng) -> Vec<String> {
    let one = |rng: &mut ChaCha8Rng| {
        // The longest of a few that a person can still read: it has the most in it.
        let values = (0..8).map(|_| GRAMMAR.random(of, &mut || rng.next_u64()));
        let (octets, value) = values
            .map(|value| (GRAMMAR.encode(of, &value), value))
            .min_by_key(|(octets, _)| if octets.len() > 500 { octets.len() } else { 500 - octets.len() })
            .expect("there are eight");
        (octets, value)
    };
    let mut vectors: Vec<_> = (0..VECTORS_OF_EACH).map(|_| one(rng)).collect();
    let mut shown = BTreeSet::new();
    vectors.iter().for_each(|(_, value)| choices(of, value, &mut shown));
    let mut others: Vec<_> = (0..DRAWN).map(|_| GRAMMAR.random(of, &mut || rng.next_u64())).collect();
    others.sort_by_cached_key(|value| GRAMMAR.encode(of, value).len());
    for value in others {
        let before = shown.len();
        choices(of, &value, &mut shown);
        if shown.len() > before {
            vectors.push((GRAMMAR.encode(of, &value), value));
        }
    }
    let line = |(octets, value): (Vec<u8>, Value)| {
        format!(r#"{{"type": "{of}", "octets": "{}", "value": {}}}"#, presentation::hex(&octets), value.to_json())
    };
    vectors.into_iter().map(line).collect()
}

#[test]
fn vectors_of_messages_are_those_of_the_specification() {
    let lines: Vec<_> = GRAMMAR
        .names()
        .filter(|name| !BY_OTHER_MEANS.contains(name))
        .flat_map(|name| {
            let seed = name.bytes().fold(0, |seed: u64, byte| seed.wrapping_mul(257) + u64::from(byte));
            vectors(name, &mut ChaCha8Rng::seed_from_u64(seed))
        })
        .collect();
    compare_vectors(VECTORS, &lines);
}

/// Test vectors, one a line or more, are those in a file; with `BENNU_BLESS` they are written there.
pub(crate) fn compare_vectors(file: &str, vectors: &[String]) {
    let text = format!("[\n{}\n]\n", vectors.join(",\n"));
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("BENNU_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap();
    let changed = text.lines().zip(there.lines()).find(|(new, old)| new != old);
    assert!(there == text, "{file} is not what it should be; run `make vectors`. The first change: {changed:?}");
}

/// Octets in hexadecimal, as vectors have them.
pub(crate) fn hex(octets: &[u8]) -> String {
    presentation::hex(octets)
}

/// The vectors of a type are encodings of it to the crate, too.
fn check_vectors<T: Encode + Decode>(name: &str) {
    let begin = format!(r#"{{"type": "{}", "octets": ""#, specified::<T>());
    let there = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(VECTORS)).unwrap();
    let of_type: Vec<_> = there.lines().filter_map(|line| line.strip_prefix(&begin)?.split('"').next()).collect();
    assert!(of_type.len() >= VECTORS_OF_EACH, "{name}: run `make vectors`");
    for hex in of_type {
        let octets: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let value = T::from_slice(&octets).unwrap_or_else(|error| panic!("{name}: {hex}: {error}"));
        assert_eq!(value.to_vec(), octets, "{name}: encoded differently");
    }
}

macro_rules! check_types {
    ($($group:ident: $($type:ty),* $(,)?;)*) => {
        mod strict {
            use super::*;

            $(#[test]
            fn $group() {
                $(check_type::<$type>(stringify!($type));)*
            })*
        }
    };
}

with_every_type!(check_types);

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

/// Types that the crate has no type for: they are written where they are used, and checked with that.
const BY_OTHER_MEANS: &[&str] = &["Frame", "HpkeInfo", "Padded", "Preamble", "Sealed", "SignContent"];

/// Types that are only ever inside others are checked with those.
#[test]
fn every_type_of_the_specification_is_checked() {
    let mut unchecked: HashSet<&str> = GRAMMAR.names().collect();
    let bodies = Method::ALL.iter().map(|method| method.structs()).flat_map(|(request, response)| [request, response]);
    for checked in every::types().iter().map(|checked| checked.name).chain(bodies) {
        for part in GRAMMAR.parts_of(checked) {
            unchecked.remove(part);
        }
    }
    assert_eq!(unchecked, BY_OTHER_MEANS.iter().copied().collect());
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
