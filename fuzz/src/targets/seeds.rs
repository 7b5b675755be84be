//! What the targets begin with: the test vectors of `wire-spec/`, and the values that select something as a dictionary. The
//! same every time.

use bennu::wire::{Encode, Method, Request, Response, VERSION, every};

/// The test vectors of all types.
const VECTORS: &str = include_str!("../../../wire-spec/vectors/messages.json");

/// The encodings of a type among the vectors, one a line.
fn vectors(name: &str) -> Vec<Vec<u8>> {
    let begin = format!(r#"{{"type": "{name}", "octets": ""#);
    let hex = VECTORS.lines().filter_map(|line| line.strip_prefix(&begin)?.split('"').next());
    hex.map(octets).collect()
}

fn octets(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).map_or(0, |digit| digit as u8);
    hex.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Every method with some bodies, and some envelopes with senders and tokens.
pub fn requests() -> Vec<Vec<u8>> {
    let mut seeds = vectors("Request");
    for method in Method::ALL {
        for body in vectors(method.structs().0) {
            let request =
                Request { version: VERSION, method: *method as u16, auth: Vec::new(), token: None, body: body.into() };
            seeds.push(request.to_vec());
        }
    }
    seeds
}

/// The same of responses, and refusals.
pub fn responses() -> Vec<Vec<u8>> {
    let answer = |code: u16, status, body: Vec<u8>| {
        let mut seed = code.to_be_bytes().to_vec();
        Response { status, body: body.into() }.encode(&mut seed);
        seed
    };
    let mut seeds = Vec::new();
    for method in Method::ALL {
        seeds.extend(vectors(method.structs().1).into_iter().map(|body| answer(*method as u16, 0, body)));
    }
    let details = vectors("ErrorDetail").into_iter().cycle();
    seeds.extend((0..32).zip(details).map(|(status, detail)| answer(1, status, detail)));
    seeds
}

/// A code and a body.
pub fn bodies() -> Vec<Vec<u8>> {
    let structs = |method: Method| <[&str; 2]>::from(method.structs());
    let body = |method: Method, body: Vec<u8>| [&(method as u16).to_be_bytes(), &body[..]].concat();
    let all = Method::ALL.iter().flat_map(|method| structs(*method).map(|name| (*method, name)));
    all.flat_map(|(method, name)| vectors(name).into_iter().map(move |octets| body(method, octets))).collect()
}

/// The number of a type in its group, and a value.
pub fn of_group(group: &str) -> Vec<Vec<u8>> {
    let types = every::types().into_iter().filter(|of| of.group == group);
    let select = |at: usize| u8::try_from(at).unwrap_or(u8::MAX);
    types
        .enumerate()
        .flat_map(|(at, of)| vectors(of.name).into_iter().map(move |octets| [&[select(at)], &octets[..]].concat()))
        .collect()
}

/// One entry a line, as libFuzzer reads them.
pub fn dictionary() -> String {
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

/// So many inputs of so many octets for targets that take decisions: splitmix64.
pub fn noise(inputs: u64, length: usize) -> Vec<Vec<u8>> {
    let octets = |seed: u64| {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        (0..length.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect()
    };
    (1..=inputs).map(octets).collect()
}
