//! What a token costs: nanoseconds to issue and to redeem, in batches of 1, 10 and 100 (`cargo bench --bench tokens`).

use std::time::{Duration, Instant};

use bennu::{
    base::Domain,
    crypto::{
        privacy_pass::{IssuerKey, Request, TokenRequest, challenge_digest},
        random_secret, system_rng,
    },
};

/// How long each figure is measured.
const TIME: Duration = Duration::from_millis(800);

fn per_token(tokens: usize, mut work: impl FnMut()) -> u128 {
    let (started, mut rounds) = (Instant::now(), 0);
    while started.elapsed() < TIME {
        work();
        rounds += 1;
    }
    started.elapsed().as_nanos() / (rounds * tokens as u128)
}

fn main() {
    let mut rng = system_rng();
    let domain: Domain = "bench.test".parse().unwrap();
    let key = IssuerKey::from_seed(random_secret(&mut rng)).unwrap();
    let digest = challenge_digest(&domain).unwrap();
    println!("batch   request   issue  finish  redeem   (ns per token)");
    for batch in [1, 10, 100] {
        let ask = || Request::new(key.public_key(), &domain, batch).unwrap();
        let request = per_token(batch, || drop(ask()));
        let (encoded, state) = ask();
        let decoded = TokenRequest::decode(&encoded).unwrap();
        let issue = per_token(batch, || drop(key.issue(&decoded, random_secret(&mut rng)).unwrap()));
        let response = key.issue(&decoded, random_secret(&mut rng)).unwrap();
        // Making the request is measured with it, and taken away again.
        let both = per_token(batch, || {
            let (encoded, state) = ask();
            let decoded = TokenRequest::decode(&encoded).unwrap();
            let response = key.issue(&decoded, random_secret(&mut system_rng())).unwrap();
            drop(state.finish(&response).unwrap());
        });
        let tokens = state.finish(&response).unwrap();
        let redeem = per_token(batch, || assert!(tokens.iter().all(|token| key.verify(token, &digest))));
        println!("{batch:>5} {request:>9} {issue:>7} {:>7} {redeem:>7}", both.saturating_sub(request + issue));
    }
}
