//! Any bytes as a request: the envelope, then the body by its method's type. Whatever is accepted encodes to the bytes it
//! came from; nothing panics; nothing is accepted twice in two shapes.
#![no_main]

use bennu::wire::{Decode, Encode, Method, Request};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    let Ok(request) = Request::from_bytes(bytes) else { return };
    assert_eq!(request.encoded_len(), data.len());
    assert_eq!(request.to_vec(), data);
    let Some(method) = Method::from_code(request.method) else { return };
    let body = request.body.0;
    if let Ok(again) = method.recode_request(body.clone()) {
        assert_eq!(again, body, "{}", method.name());
    }
});
