//! What all clients of another homeserver together are issued: little as long as nothing is known of it, and a fifth more
//! with every period in which they make use of it (`wire-spec/tokens.md`, "Clients of other homeservers").

use serde::{Deserialize, Serialize};

use crate::{
    base::{Domain, Refusal, Status},
    service::{Context, damaged, policy},
    store::{Batch, Key, Row, Table, record},
};

const VERSION: u8 = 1;

/// Most homeservers that are remembered.
const MAX_DOMAINS: u32 = 100_000;

/// Periods without a request after which a homeserver is forgotten.
const REMEMBERED: u64 = 60;

/// What a homeserver's clients may be issued, and were.
#[derive(Serialize, Deserialize)]
struct DomainAllowance {
    /// Which period this is about.
    period: u64,
    /// How many tokens in it.
    issued: u32,
    /// Of how many.
    allowance: u32,
}

/// Homeservers that are remembered, as one row.
#[derive(Default, Serialize, Deserialize)]
struct Remembered {
    /// Which period this is about.
    period: u64,
    /// How many came in it.
    new: u32,
    /// How many there are.
    all: u32,
}

/// Where a homeserver's allowance is.
pub fn key(domain: &Domain) -> Key {
    Key::new().u8(1).bytes(domain.as_str())
}

/// Where it says how many there are.
fn remembered_key() -> Key {
    Key::new().u8(0)
}

async fn remembered(context: &Context<'_>) -> Result<Remembered, Refusal> {
    Ok(context.record(Table::AsDomainAllowances, &remembered_key(), VERSION).await?.unwrap_or_default())
}

/// Adds to the batch that so many tokens are issued to clients of a homeserver. Whoever calls this holds the lock of the
/// domain and, if it is new, that of what is remembered.
///
/// # Errors
/// `rate_limited` for more than is left in this period, or if too many homeservers are new in it.
pub async fn charge(context: &Context<'_>, domain: &Domain, wanted: u32, batch: &mut Batch) -> Result<(), Refusal> {
    let (policy, now) = (&context.policy.tokens, context.now);
    let period = policy.period_of(now);
    let rate_limited =
        |why: String| Refusal::new(Status::RateLimited, why).with_retry_after(policy.until_next_period(now));
    let stored = context.record::<DomainAllowance>(Table::AsDomainAllowances, &key(domain), VERSION).await?;
    let mut allowance = match stored {
        Some(stored) => stored.in_period(period, policy),
        None => {
            let mut remembered = remembered(context).await?;
            if remembered.period != period {
                (remembered.period, remembered.new) = (period, 0);
            }
            if remembered.new >= policy.foreign_new_domains || remembered.all >= MAX_DOMAINS {
                return Err(rate_limited("too many homeservers are new here in this period".into()));
            }
            (remembered.new, remembered.all) = (remembered.new + 1, remembered.all + 1);
            let row = record::encode(VERSION, &remembered).map_err(damaged)?;
            batch.put(Table::AsDomainAllowances, remembered_key(), row);
            DomainAllowance { period, issued: 0, allowance: policy.foreign_domain_allowance }
        }
    };
    let left = allowance.allowance.saturating_sub(allowance.issued);
    if wanted > left {
        let all = allowance.allowance;
        return Err(rate_limited(format!("{left} of {all} tokens are left to clients of {domain} in this period")));
    }
    allowance.issued += wanted;
    batch.put(Table::AsDomainAllowances, key(domain), record::encode(VERSION, &allowance).map_err(damaged)?);
    Ok(())
}

impl DomainAllowance {
    /// What it is in a period: it has grown if the half of it was used in the one before.
    fn in_period(self, period: u64, policy: &policy::Tokens) -> Self {
        if self.period == period {
            return self;
        }
        let fifth = if self.issued >= self.allowance.div_ceil(2) { (self.allowance / 5).max(1) } else { 0 };
        let allowance = self.allowance.saturating_add(fifth);
        // The operator may have changed his mind.
        let allowance = allowance.max(policy.foreign_domain_allowance).min(policy.foreign_domain_max);
        Self { period, issued: 0, allowance }
    }
}

/// Adds to the batch that those of these rows go that are of homeservers whose clients have not asked for long. Whoever calls
/// this holds the lock of what is remembered.
///
/// # Errors
/// `internal` if one is damaged.
pub async fn forget(context: &Context<'_>, rows: Vec<Row>, batch: &mut Batch) -> Result<(), Refusal> {
    let oldest = context.policy.tokens.period_of(context.now).saturating_sub(REMEMBERED);
    let mut gone = 0;
    for Row { key, value } in rows.into_iter().filter(|row| row.key != remembered_key()) {
        let allowance: DomainAllowance = record::decode(VERSION, &value).map_err(damaged)?;
        if allowance.period < oldest {
            // Unless one of its clients has just asked.
            batch.require_value(Table::AsDomainAllowances, key.clone(), value);
            batch.delete(Table::AsDomainAllowances, key);
            gone += 1;
        }
    }
    if gone > 0 {
        let mut remembered = remembered(context).await?;
        remembered.all = remembered.all.saturating_sub(gone);
        let row = record::encode(VERSION, &remembered).map_err(damaged)?;
        batch.put(Table::AsDomainAllowances, remembered_key(), row);
    }
    Ok(())
}
