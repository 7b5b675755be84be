//! Writes what the fuzz targets begin with: for every method some requests and some responses, refusals, and a dictionary
//! of the values that select something. The same every time.

use std::{fs, io, path::Path};

use arbitrary::{Arbitrary, Unstructured};
use bennu::wire::{Authentication, Encode, ErrorDetail, Method, Request, Response, VERSION};

/// Samples of each method.
const SAMPLES: u64 = 6;

/// Random bytes that one sample is made of.
const LENGTH: usize = 2_048;

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let [requests, responses, bodies] = ["request", "response", "body"].map(|target| corpus.join(target));
    for directory in [&requests, &responses, &bodies] {
        fs::create_dir_all(directory)?;
    }
    for &method in Method::ALL {
        let code = method as u16;
        for sample in 0..SAMPLES {
            let bytes = noise(u64::from(code) << 8 | sample);
            let mut random = Unstructured::new(&bytes);
            let Ok((request, response)) = method.sample(&mut random) else { continue };
            for (kind, body) in [("request", &request), ("response", &response)] {
                let seed = [&code.to_be_bytes(), &body[..]].concat();
                fs::write(bodies.join(format!("seed-{}-{kind}-{sample}", method.name())), seed)?;
            }
            // Some with a sender and a token, some without.
            let auth: Vec<Authentication> = (0..sample % 3).filter_map(|_| random.arbitrary().ok()).collect();
            let token = if sample % 2 == 1 { Arbitrary::arbitrary(&mut random).ok() } else { None };
            let request = Request { version: VERSION, method: code, auth, token, body: request.into() };
            fs::write(requests.join(format!("seed-{}-{sample}", method.name())), request.to_vec())?;
            let mut answer = code.to_be_bytes().to_vec();
            Response { status: 0, body: response.into() }.encode(&mut answer);
            fs::write(responses.join(format!("seed-{}-{sample}", method.name())), answer)?;
        }
    }
    for status in 0..32u16 {
        let bytes = noise(u64::from(status));
        let Ok(detail) = ErrorDetail::arbitrary(&mut Unstructured::new(&bytes)) else { continue };
        let mut answer = vec![1, 1];
        Response { status, body: detail.to_vec().into() }.encode(&mut answer);
        fs::write(responses.join(format!("seed-status-{status}")), answer)?;
    }
    fs::write(corpus.join("wire.dict"), dictionary())
}

/// One entry per line, as libFuzzer reads them.
fn dictionary() -> String {
    let mut entries: Vec<Vec<u8>> = Vec::new();
    for method in Method::ALL {
        // A method code alone, and after the version.
        entries.push((*method as u16).to_be_bytes().to_vec());
        entries.push([VERSION.to_be_bytes(), (*method as u16).to_be_bytes()].concat());
    }
    // Lengths where their encoding changes, and two that are not minimal.
    for length in [0, 63, 64, 16_383, 16_384, (1 << 30) - 1] {
        let mut encoded = Vec::new();
        bennu::wire::encode_varint(length, &mut encoded);
        entries.push(encoded);
    }
    entries.push(vec![0x40, 0x3f]);
    entries.push(vec![0x80, 0, 0, 1]);
    entries.push(b"\x06a.test".to_vec());
    entries.push(b"\x0bexample.org".to_vec());
    let hex = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    entries.iter().map(|entry| format!("\"{}\"\n", hex(entry))).collect()
}

/// Bytes that look random: splitmix64.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..LENGTH / 8).flat_map(|_| next().to_le_bytes()).collect()
}
