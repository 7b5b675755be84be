//! A method code, then any bytes as a response: the envelope, then the body by the method's type or as an ErrorDetail.
//! Whatever is accepted encodes to the bytes it came from.
#![no_main]

use bennu::{
    base::Status,
    wire::{Decode, Encode, ErrorDetail, Method, Response},
};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((code, data)) = data.split_first_chunk::<2>() else { return };
    let Ok(response) = Response::from_bytes(Bytes::copy_from_slice(data)) else { return };
    assert_eq!(response.encoded_len(), data.len());
    assert_eq!(response.to_vec(), data);
    let body = response.body.0.clone();
    if response.status == Status::Ok as u16 {
        let Some(method) = Method::from_code(u16::from_be_bytes(*code)) else { return };
        if let Ok(again) = method.recode_response(body.clone()) {
            assert_eq!(again, body, "{}", method.name());
        }
    } else {
        if let Ok(detail) = ErrorDetail::from_bytes(body.clone()) {
            assert_eq!(detail.to_vec(), body);
        }
        assert!(response.into_result().is_err());
    }
});
