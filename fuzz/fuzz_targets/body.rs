//! A method code, then any bytes as the body of a request and of a response: like the other targets without the
//! envelope, whose lengths a fuzzer seldom gets right after changing something inside.
#![no_main]

use bennu::wire::Method;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((code, body)) = data.split_first_chunk::<2>() else { return };
    let Some(method) = Method::from_code(u16::from_be_bytes(*code)) else { return };
    let body = Bytes::copy_from_slice(body);
    for again in [method.recode_request(body.clone()), method.recode_response(body.clone())].into_iter().flatten() {
        assert_eq!(again, body, "{}", method.name());
    }
});
