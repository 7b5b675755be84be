//! Whether clients and other homeservers will take the certificate: its name, its chain, its key, and for how long.

use std::time::Duration;

use super::Finding;
use crate::{
    base::{Clock, Timestamp},
    node::{Config, renewal::Files},
    transport::TlsError,
};

const SUBJECT: &str = "certificate";

const DAY: Duration = Duration::from_secs(86_400);

/// With fewer days left it should have been renewed.
const RENEWED: u64 = 14;

/// No authority issues certificates for longer.
const LONGEST: u64 = 825;

pub fn look(config: &Config, clock: &dyn Clock) -> Vec<Finding> {
    let loaded = match Files::of(config).load() {
        Ok(loaded) => loaded,
        Err(error) => {
            let advice = format!("the certificate must be for {}, with the key that belongs to it", config.domain);
            return vec![Finding::failure(SUBJECT, error.to_string(), advice)];
        }
    };
    let now = clock.now();
    let good = |days: u64| -> Result<(), TlsError> {
        loaded.identity.check_chain(&loaded.roots, Timestamp(now.0 + (DAY * days as u32).as_millis() as u64))
    };
    let finding = match good(0) {
        Err(error) => Finding::failure(
            SUBJECT,
            format!("{} is not valid: {error}", config.certificate.display()),
            "renew it, and have the file hold the whole chain, the homeserver's own certificate first; an authority of your own \
             is named in `[tls] authority`, and clients have to trust it",
        ),
        Ok(()) => valid(good),
    };
    let development = config.authority.as_ref().filter(|_| finding.advice.is_none()).map(|authority| {
        Finding::warning(
            "authority",
            format!("{} is trusted beside the public ones", authority.display()),
            "fine to try things out; for the public, use a certificate of a public authority and take `authority` out",
        )
    });
    [Some(finding), development].into_iter().flatten().collect()
}

/// For how many days it is good: found by halving.
fn valid(good: impl Fn(u64) -> Result<(), TlsError>) -> Finding {
    let (mut is_good, mut is_not) = (0, LONGEST);
    while is_not - is_good > 1 {
        let middle = u64::midpoint(is_good, is_not);
        if good(middle).is_ok() {
            is_good = middle;
        } else {
            is_not = middle;
        }
    }
    let found = format!("it is for this domain, its chain is complete, and it is valid for {is_good} days");
    if is_good < RENEWED {
        let advice = "renew it: the files are looked at every few seconds, and no connection is dropped";
        return Finding::warning(SUBJECT, found, advice);
    }
    Finding::ok(SUBJECT, found)
}
