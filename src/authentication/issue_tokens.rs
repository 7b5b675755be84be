//! IssueTokens: Privacy Pass tokens for a client, against its allowance (`wire-spec/tokens.md`, "Issuance"). What is
//! remembered is how many it was given, and nothing about which.

use serde::{Deserialize, Serialize};

use super::{
    domain_allowances,
    issuers::{Issuers, Kind},
    records,
};
use crate::{
    base::{ClientId, Refusal, Status},
    crypto::{mac, privacy_pass::TokenRequest, random_secret, sha256},
    service::{Context, Outcome, Verified, damaged},
    store::{Batch, Key, Row, Table, record},
    wire::{
        Encode,
        authentication::{IssueTokens, TokensIssued},
        label::KeyLabel,
    },
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

/// Where a client's allowance is: of one of another homeserver under a name that does not say who it is.
fn place(context: &Context<'_>, client: &ClientId, kind: Kind) -> (Table, Key) {
    match kind {
        Kind::Own => (Table::AsAllowances, records::client_key(client)),
        Kind::Foreign => {
            let key = context.storage_key.derive(KeyLabel::ForeignClientName);
            let name = mac(&key, KeyLabel::ForeignClientName, &client.to_vec());
            (Table::AsForeignAllowances, Key::new().bytes(name))
        }
    }
}

/// Issues as many tokens as the request asks for, if so many are left: to the client, and if it is another homeserver's, to
/// all of that together. Who that is, its credential has shown. The last request is answered again without being
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
    let domain = &sender.get().user.domain;
    let kind = if domain == context.domain { Kind::Own } else { Kind::Foreign };
    let (policy, now) = (&context.policy.tokens, context.now);
    let most = if kind == Kind::Own { policy.allowance } else { policy.foreign_allowance };
    let (period, last) = (policy.period_of(now), sha256(request.request.as_slice()));
    let (table, key) = place(context, sender.get(), kind);
    let stored = context.record::<Allowance>(table, &key, VERSION).await?;
    let before = stored.filter(|allowance| allowance.period == period);
    let is_repeat = before.as_ref().is_some_and(|allowance| allowance.last == last);
    // What was issued once may be asked for again although another key issues by now.
    let issuer = if is_repeat {
        issuers.named(kind, asked.truncated_key_id(), now)
    } else {
        issuers.issuing(kind, now).filter(|issuer| issuer.key.truncated_id() == asked.truncated_key_id())
    };
    let issuer = issuer.ok_or_else(|| Refusal::new(Status::NotFound, "no such key issues tokens now"))?;

    let mut batch = Batch::new();
    if !is_repeat {
        let issued = before.map_or(0, |allowance| allowance.issued);
        let left = most.saturating_sub(issued);
        let wanted = u32::try_from(asked.tokens()).unwrap_or(u32::MAX);
        if wanted > left {
            let message = format!("{left} of {most} tokens are left in this period");
            return Err(Refusal::new(Status::RateLimited, message).with_retry_after(policy.until_next_period(now)));
        }
        let allowance = Allowance { period, issued: issued + wanted, last };
        batch.put(table, key, record::encode(VERSION, &allowance).map_err(damaged)?);
        if kind == Kind::Foreign {
            domain_allowances::charge(context, domain, wanted, &mut batch).await?;
        }
    }
    let randomness = random_secret(context.rng);
    let response = context.workers.run(move || issuer.key.issue(&asked, randomness)).await?;
    let response = response.map_err(|_| Refusal::malformed("an element of the request is none"))?;
    Ok(Outcome::write(batch, TokensIssued { response: response.into() }))
}

/// The tables of allowances of clients.
pub const ALLOWANCES: [Table; 2] = [Table::AsAllowances, Table::AsForeignAllowances];

/// Adds to the batch that those of these allowances go that are of an earlier period.
///
/// # Errors
/// `internal` if one is damaged.
pub fn forget(context: &Context<'_>, table: Table, rows: Vec<Row>, batch: &mut Batch) -> Result<(), Refusal> {
    let period = context.policy.tokens.period_of(context.now);
    for Row { key, value } in rows {
        let allowance: Allowance = record::decode(VERSION, &value).map_err(damaged)?;
        if allowance.period < period {
            // Unless its client has just asked for more.
            batch.require_value(table, key.clone(), value);
            batch.delete(table, key);
        }
    }
    Ok(())
}
