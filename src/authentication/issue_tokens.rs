//! IssueTokens: Privacy Pass tokens for a client, against its allowance (`wire-spec/tokens.md`, "Issuance"). What is
//! remembered is how many it was given, and nothing about which.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    issuers::{Issuers, Kind},
    records,
};
use crate::{
    base::{ClientId, Refusal, Status, Timestamp},
    crypto::{privacy_pass::TokenRequest, random_secret, sha256},
    service::{Context, Outcome, Verified, damaged, policy},
    store::{Batch, Key, Row, Table, record},
    wire::authentication::{IssueTokens, TokensIssued},
};

const VERSION: u8 = 1;

/// What a client was issued.
#[derive(Serialize, Deserialize)]
struct Allowance {
    /// Which period this is about.
    period: u64,
    /// How many tokens in it.
    issued: u32,
    /// SHA-256 of the last request, which may come again because its answer was lost.
    last: [u8; 32],
}

/// Where a client's allowance is.
pub fn allowance_key(client: &ClientId) -> Key {
    records::client_key(client)
}

/// Issues as many tokens as the request asks for, if so many are left. The last request is answered again without being
/// counted: with the same key it gives the same tokens.
///
/// # Errors
/// `malformed` for a request that is none, `not_found` if it names a key that does not issue, `rate_limited` for more
/// than is left in this period.
pub async fn handle(
    issuers: &Issuers,
    context: &mut Context<'_>,
    sender: Verified<ClientId>,
    request: IssueTokens,
) -> Result<Outcome<TokensIssued>, Refusal> {
    let asked = TokenRequest::decode(request.request.as_slice())
        .map_err(|_| Refusal::malformed("this is no request for 1 to 100 tokens of type 0x0005"))?;
    let (policy, now) = (&context.policy.tokens, context.now);
    let (period, last) = (period(policy, now), sha256(request.request.as_slice()));
    let key = allowance_key(sender.get());
    let stored = context.record::<Allowance>(Table::AsAllowances, &key, VERSION).await?;
    let before = stored.filter(|allowance| allowance.period == period);
    let is_repeat = before.as_ref().is_some_and(|allowance| allowance.last == last);
    // What was issued once may be asked for again although another key issues by now.
    let issuer = if is_repeat {
        issuers.named(Kind::Own, asked.truncated_key_id(), now)
    } else {
        issuers.issuing(Kind::Own, now).filter(|issuer| issuer.key.truncated_id() == asked.truncated_key_id())
    };
    let issuer = issuer.ok_or_else(|| Refusal::new(Status::NotFound, "no such key issues tokens now"))?;

    let mut batch = Batch::new();
    if !is_repeat {
        let issued = before.map_or(0, |allowance| allowance.issued);
        let left = policy.allowance.saturating_sub(issued);
        let wanted = u32::try_from(asked.tokens()).unwrap_or(u32::MAX);
        if wanted > left {
            let message = format!("{left} of {} tokens are left in this period", policy.allowance);
            return Err(Refusal::new(Status::RateLimited, message).with_retry_after(until_next(policy, now)));
        }
        let allowance = Allowance { period, issued: issued + wanted, last };
        batch.put(Table::AsAllowances, key, record::encode(VERSION, &allowance).map_err(damaged)?);
    }
    let randomness = random_secret(context.rng);
    let response = context.workers.run(move || issuer.key.issue(&asked, randomness)).await?;
    let response = response.map_err(|_| Refusal::malformed("an element of the request is none"))?;
    Ok(Outcome::write(batch, TokensIssued { response: response.into() }))
}

/// Adds to the batch that those of these allowances go that are of an earlier period.
///
/// # Errors
/// `internal` if one is damaged.
pub fn forget(rows: Vec<Row>, policy: &policy::Tokens, now: Timestamp, batch: &mut Batch) -> Result<(), Refusal> {
    for Row { key, value } in rows {
        let allowance: Allowance = record::decode(VERSION, &value).map_err(damaged)?;
        if allowance.period < period(policy, now) {
            // Unless its client has just asked for more.
            batch.require_value(Table::AsAllowances, key.clone(), value);
            batch.delete(Table::AsAllowances, key);
        }
    }
    Ok(())
}

fn seconds(policy: &policy::Tokens) -> u64 {
    policy.period.as_secs().max(1)
}

fn period(policy: &policy::Tokens, now: Timestamp) -> u64 {
    now.seconds() / seconds(policy)
}

fn until_next(policy: &policy::Tokens, now: Timestamp) -> Duration {
    let next = (period(policy, now) + 1).saturating_mul(seconds(policy)).saturating_mul(1_000);
    Duration::from_millis(next.saturating_sub(now.0).max(1))
}
