//! The codec against the specification: what one accepts, so does the other; whatever is accepted encodes to the octets that
//! it came from.

use std::sync::LazyLock;

use bennu::{
    base::Status,
    wire::{
        Decode, DecodeError, Encode, Length, Method, Request, Response, decode_varint,
        every::{self, Named},
    },
};
use bytes::Bytes;

use super::{bytes_in_use, presentation::Grammar};

static GRAMMAR: LazyLock<Grammar> = LazyLock::new(Grammar::of_the_specification);

static TYPES: LazyLock<Vec<Named>> = LazyLock::new(every::types);

/// Most octets of the heap for each octet that is decoded and encoded again: an empty `opaque<V>` is one octet, and a `Bytes`.
const FACTOR: usize = 128;

/// What the crate makes of some octets, which takes no more of the heap than they are worth, whatever lengths they announce.
fn bounded<T>(octets: &[u8], decode: impl FnOnce() -> T) -> T {
    let mut decoded = None;
    let used = bytes_in_use(|| decoded = Some(decode()));
    assert!(used <= 1_024 + FACTOR * octets.len(), "{used} octets of the heap in use for {}", octets.len());
    decoded.expect("it has run")
}

/// Both decoders at once: the crate's, and the interpreter of `wire-spec/`.
fn same(name: &str, octets: &[u8], implemented: Result<Vec<u8>, DecodeError>) {
    match (implemented, GRAMMAR.decode(name, octets)) {
        (Ok(again), Ok(value)) => {
            assert_eq!(again, octets, "{name}: the code encodes it differently");
            assert_eq!(GRAMMAR.encode(name, &value), octets, "{name}: the specification encodes it differently");
        }
        (Err(_), Err(_)) => {}
        (Ok(_), Err(why)) => panic!("{name}: taken by the code, refused by the specification: {why:?}"),
        (Err(why), Ok(value)) => panic!("{name}: refused by the code: {why}; to the specification it is {value:?}"),
    }
}

/// The octet selects one of a group's types; the rest is to be a value of it.
fn of_group(group: &str, data: &[u8]) {
    let Some((select, octets)) = data.split_first() else { return };
    let Some(of) = TYPES.iter().filter(|of| of.group == group).nth(usize::from(*select)) else { return };
    same(of.name, octets, bounded(octets, || of.recode(Bytes::copy_from_slice(octets))));
}

/// Any octets as a request: the envelope, then the body by its method.
pub fn request(data: &[u8]) {
    let decoded = bounded(data, || Request::from_slice(data));
    same("Request", data, decoded.as_ref().map(Encode::to_vec).map_err(|error| *error));
    let Ok(request) = decoded else { return };
    assert_eq!(request.encoded_len(), data.len());
    let Some(method) = Method::from_code(request.method) else { return };
    let body = request.body.as_slice();
    same(method.structs().0, body, bounded(body, || method.recode_request(request.body.0.clone())));
}

/// A method's code, then any octets as its response: the envelope, then the body, or why there is none.
pub fn response(data: &[u8]) {
    let Some((code, data)) = data.split_first_chunk::<2>() else { return };
    let decoded = bounded(data, || Response::from_slice(data));
    same("Response", data, decoded.as_ref().map(Encode::to_vec).map_err(|error| *error));
    let Ok(response) = decoded else { return };
    let body = response.body.0.clone();
    if response.status != Status::Ok as u16 {
        assert!(response.into_result().is_err());
    } else if let Some(method) = Method::from_code(u16::from_be_bytes(*code)) {
        same(method.structs().1, &body, bounded(&body, || method.recode_response(body.clone())));
    }
}

/// A method's code, then any octets as the body of a request and of a response: without the envelope, whose lengths a fuzzer
/// seldom gets right after it has changed something inside.
pub fn body(data: &[u8]) {
    let Some((code, body)) = data.split_first_chunk::<2>() else { return };
    let Some(method) = Method::from_code(u16::from_be_bytes(*code)) else { return };
    let (request, response) = method.structs();
    same(request, body, bounded(body, || method.recode_request(Bytes::copy_from_slice(body))));
    same(response, body, bounded(body, || method.recode_response(Bytes::copy_from_slice(body))));
}

/// A type, then any octets as a stream of frames with values of it.
pub fn frames(data: &[u8]) {
    let Some((select, mut rest)) = data.split_first() else { return };
    while let Length::Known(length, used) = decode_varint(rest) {
        let Some(frame) = rest.get(used..used + length) else { return };
        of_group("frames", &[&[*select], frame].concat());
        rest = &rest[used + length..];
    }
    of_group("frames", data);
}

/// Credentials and what MLS carries for us.
pub fn credentials(data: &[u8]) {
    of_group("credentials", data);
}

/// What only clients read.
pub fn contents(data: &[u8]) {
    of_group("contents", data);
}

/// Queues and what is in them.
pub fn queues(data: &[u8]) {
    of_group("queues", data);
}

/// What homeservers tell each other.
pub fn federation(data: &[u8]) {
    of_group("federation", data);
}
