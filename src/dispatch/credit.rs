//! What requests cost (`wire-spec/tokens.md`, "Redemption"): a token is redeemed into credit of the connection it came on,
//! by a durable write of its own that happens once for each token; then requests are paid from that credit.

use std::sync::{Mutex, PoisonError};

use super::{Dispatcher, Session};
use crate::{
    authentication::{domain_allowances, issue_tokens, issuers::Kind},
    base::{Refusal, Status},
    service::{Outcome, damaged, store_failure},
    store::{Batch, Key, KeyRange, Limit, StoreError, Table},
    wire::{Method, Token, server::Done},
};

/// Most credit of one kind that a connection can have; what is beyond it is lost.
const MAX_CREDIT: u32 = 1_000_000;

/// Allowances looked at in one go.
const PAGE: usize = 1_000;

/// Locks the number of homeservers whose allowances are remembered.
pub(super) const DOMAINS: &str = "domains with allowances";

/// The credit of a connection, by the kind of the tokens that it was bought with.
#[derive(Default)]
pub struct Credit(Mutex<Amounts>);

#[derive(Clone, Copy, Default)]
struct Amounts {
    own: u32,
    foreign: u32,
}

impl Credit {
    fn add(&self, kind: Kind, amount: u32) {
        let mut amounts = self.lock();
        let of_kind = match kind {
            Kind::Own => &mut amounts.own,
            Kind::Foreign => &mut amounts.foreign,
        };
        *of_kind = of_kind.saturating_add(amount).min(MAX_CREDIT);
    }

    /// Takes the price of a request to `method`, or nothing.
    ///
    /// # Errors
    /// `token_required` if there is not enough of the right kind.
    pub fn charge(&self, method: Method, price: u32) -> Result<(), Refusal> {
        let mut amounts = self.lock();
        let foreign = if makes_groups(method) { 0 } else { amounts.foreign.min(price) };
        let own = price - foreign;
        if own > amounts.own {
            return Err(Refusal::new(Status::TokenRequired, "the connection has not enough credit for this request"));
        }
        amounts.foreign -= foreign;
        amounts.own -= own;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Amounts> {
        // Nothing can panic between the two subtractions.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether only the homeserver's own users can pay for it.
const fn makes_groups(method: Method) -> bool {
    matches!(method, Method::DsRequestGroupId | Method::DsCreateGroup)
}

impl Dispatcher {
    /// Redeems the token of a request that has a price. Any other token is left alone.
    ///
    /// # Errors
    /// `unauthenticated` for a token that is not good here and now, `token_spent` for one that was redeemed before.
    pub(super) async fn redeem(&self, session: &Session, method: Method, token: Option<&Token>) -> Result<(), Refusal> {
        let Some(token) = token.filter(|_| self.parts.policy.get().tokens.price(method) > 0) else { return Ok(()) };
        let issuer = self.authentication.issuers.verify(token, self.parts.clock.now())?;
        let mut batch = Batch::new();
        let spent = Key::new().u32(issuer.number).bytes(token.nonce);
        batch.require_absent(Table::AsSpentTokens, spent.clone()).put(Table::AsSpentTokens, spent, Vec::new());
        let commit = self.parts.store.submit(batch).map_err(|error| match error {
            StoreError::Conflict => Refusal::new(Status::TokenSpent, "the token was redeemed before"),
            error => store_failure(error),
        })?;
        commit.await.map_err(store_failure)?;
        self.meters.redeemed();
        session.credit.add(issuer.kind, self.parts.policy.get().tokens.credit_per_token);
        Ok(())
    }

    /// What is due every hour: issuer keys are made and dropped, the latter with the record of their spent tokens, and
    /// allowances of earlier periods go.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn maintain_tokens(&self) -> Result<(), Refusal> {
        let mut scope = self.locked("issuer keys").await;
        let mut batch = Batch::new();
        let change = self.authentication.issuers.maintain(&mut scope.context(), &mut batch)?;
        scope.commit(Outcome::write(batch, Done {})).await?;
        self.authentication.issuers.apply(change);

        for table in issue_tokens::ALLOWANCES.into_iter().chain([Table::AsDomainAllowances]) {
            self.forget_allowances(table).await?;
        }
        Ok(())
    }

    async fn forget_allowances(&self, table: Table) -> Result<(), Refusal> {
        let mut range = KeyRange::from(Key::new()..);
        loop {
            let view = self.parts.store.durable();
            let rows = view.scan(table, range.clone(), Limit::rows(PAGE)).await.map_err(store_failure)?;
            let Some(last) = rows.last() else { return Ok(()) };
            range = KeyRange::from(last.key.successor()..);
            let mut batch = Batch::new();
            let mut scope = self.locked(DOMAINS).await;
            match table {
                Table::AsDomainAllowances => domain_allowances::forget(&scope.context(), rows, &mut batch).await?,
                _ => issue_tokens::forget(&scope.context(), table, rows, &mut batch)?,
            }
            let submitted = self.parts.store.submit(batch);
            drop(scope);
            match submitted {
                Ok(commit) => commit.await.map_err(store_failure)?,
                // One of them has changed in between; the next hour takes the others.
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(store_failure(error)),
            }
        }
    }

    /// A new issuer key of a kind takes over at once; tokens of the earlier ones are redeemed as before. Gives the number
    /// of the new key.
    ///
    /// # Errors
    /// `quota_exceeded` if there are too many keys whose tokens are still redeemed.
    pub async fn rotate_issuer(&self, kind: Kind) -> Result<u32, Refusal> {
        let issuers = &self.authentication.issuers;
        let mut scope = self.locked("issuer keys").await;
        let mut batch = Batch::new();
        let change = issuers.rotate(kind, &mut scope.context(), &mut batch)?;
        scope.commit(Outcome::write(batch, Done {})).await?;
        issuers.apply(change);
        let newest = issuers.issuing(kind, self.parts.clock.now());
        newest.map(|issuer| issuer.number).ok_or_else(|| damaged("there is no issuer key"))
    }
}

// They need a client.
#[cfg(all(test, feature = "client"))]
mod tests;
