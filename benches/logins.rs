//! Whether the time of a login's start tells who is registered: its median for a user with a record and for one without,
//! taken alternately (`cargo bench --bench logins`).

use std::{hint::black_box, time::Instant};

use bennu::{
    base::UserId,
    crypto::{
        opaque::{ClientLogin, OpaqueServer, Registration},
        system_rng,
    },
};

/// Logins of each kind in a run.
const LOGINS: usize = 4_000;

/// Runs: how far their ratios are apart tells what a ratio is worth.
const RUNS: usize = 5;

fn median(times: &mut [u128]) -> u128 {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    let mut rng = system_rng();
    let server = OpaqueServer::generate(&mut rng);
    let user: UserId = "00112233-4455-6677-8899-aabbccddeeff@bench.test".parse().unwrap();
    let (state, request) = Registration::start(user.clone(), "correct horse", &mut rng).unwrap();
    let response = server.start_registration(&user, request.as_slice()).unwrap();
    let record = state.finish("correct horse", response.as_slice(), &mut rng).unwrap();
    let (_, request) = ClientLogin::start(user.clone(), "correct horse", &mut rng).unwrap();
    println!("   known  unknown   (ns, medians of {LOGINS})   unknown/known");
    for _ in 0..RUNS {
        let (mut known, mut unknown) = (Vec::with_capacity(LOGINS), Vec::with_capacity(LOGINS));
        for turn in 0..2 * LOGINS {
            // Known, unknown, unknown, known: neither comes always after the other.
            let is_known = turn % 4 == 0 || turn % 4 == 3;
            let record = is_known.then_some(record.as_slice());
            let started = Instant::now();
            let answer = server.start_login(&user, record, request.as_slice(), &mut rng).unwrap();
            let time = started.elapsed().as_nanos();
            drop(black_box(answer));
            if is_known { &mut known } else { &mut unknown }.push(time);
        }
        let (known, unknown) = (median(&mut known), median(&mut unknown));
        println!("{known:>8} {unknown:>8} {:>37.4}", unknown as f64 / known as f64);
    }
}
