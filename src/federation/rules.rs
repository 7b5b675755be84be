//! With which homeservers this one deals: all but those that are blocked, or only those that are allowed. It holds in both
//! directions, and changes while the homeserver runs.

use std::{
    collections::BTreeMap,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::watch;

use super::known::damaged;
use crate::{
    base::{Domain, Refusal, Status},
    store::{Batch, Key, KeyRange, Limit, Store, StoreError, Table},
};

/// Most decisions.
pub const MAX_RULES: usize = 100_000;

/// Decisions looked at in one go.
const PAGE: usize = 1_000;

/// Whom the operator has decided nothing about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Dealt with.
    #[default]
    Open,
    /// Not dealt with.
    Allowlist,
}

/// What the operator has decided about a homeserver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It is dealt with, whatever the mode.
    Allowed,
    /// It is not.
    Blocked,
}

/// The operator's decisions.
pub struct Rules {
    /// Whether it is [`Mode::Open`].
    mode: AtomicBool,
    rules: RwLock<BTreeMap<Domain, Rule>>,
    changed: watch::Sender<()>,
}

impl Rule {
    const fn code(self) -> u8 {
        match self {
            Self::Allowed => 1,
            Self::Blocked => 2,
        }
    }
}

impl Rules {
    /// Takes up the decisions that are in a store.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn load(&self, store: &Store) -> Result<(), StoreError> {
        let mut range = KeyRange::from(Key::new()..);
        loop {
            let rows = store.durable().scan(Table::FedRules, range, Limit::rows(PAGE)).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            range = KeyRange::from(last.key.successor()..);
            for row in rows {
                let domain = std::str::from_utf8(row.key.as_bytes()).ok().and_then(|domain| domain.parse().ok());
                let rule = [Rule::Allowed, Rule::Blocked].into_iter().find(|rule| row.value[..] == [rule.code()]);
                let (Some(domain), Some(rule)) = (domain, rule) else {
                    return Err(damaged("a decision about a homeserver is none"));
                };
                self.set(domain, Some(rule));
            }
        }
    }

    /// Decides about a homeserver, or takes a decision back: durable when this returns, and in effect.
    ///
    /// # Errors
    /// `not_found` where there is nothing to take back; `quota_exceeded` for too many decisions; `internal` if the store fails.
    pub async fn decide(&self, store: &Store, domain: Domain, rule: Option<Rule>) -> Result<(), Refusal> {
        if rule.is_none() && !self.has(&domain) {
            return Err(Refusal::not_found("nothing is decided about this homeserver"));
        }
        if rule.is_some() && !self.has_room_for(&domain) {
            return Err(Refusal::quota_exceeded("there are 100,000 decisions about homeservers already"));
        }
        let (mut batch, key) = (Batch::new(), Key::new().bytes(domain.as_str()));
        match rule {
            Some(rule) => batch.put(Table::FedRules, key, vec![rule.code()]),
            None => batch.delete(Table::FedRules, key),
        };
        let failed = |error: StoreError| {
            tracing::error!(%error, "the store failed");
            Refusal::internal("the store failed")
        };
        store.submit(batch).map_err(failed)?.await.map_err(failed)?;
        self.set(domain, rule);
        Ok(())
    }

    fn has(&self, domain: &Domain) -> bool {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).contains_key(domain)
    }

    fn has_room_for(&self, domain: &Domain) -> bool {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.len() < MAX_RULES || rules.contains_key(domain)
    }

    /// No decision about anybody yet.
    pub fn new(mode: Mode) -> Self {
        Self { mode: AtomicBool::new(mode == Mode::Open), rules: RwLock::default(), changed: watch::Sender::default() }
    }

    /// What becomes of those about whom there is no rule.
    pub fn mode(&self) -> Mode {
        if self.mode.load(Ordering::Relaxed) { Mode::Open } else { Mode::Allowlist }
    }

    /// From now on it is that; what goes on with others and is not permitted any more ends.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.store(mode == Mode::Open, Ordering::Relaxed);
        self.changed.send_replace(());
    }

    /// Whether there is anything to do with a homeserver.
    ///
    /// # Errors
    /// `federation_denied` if not.
    pub fn check(&self, domain: &Domain) -> Result<(), Refusal> {
        let denied = || Refusal::new(Status::FederationDenied, "this homeserver does not deal with that one");
        if self.permits(domain) { Ok(()) } else { Err(denied()) }
    }

    /// The same as a question.
    pub fn permits(&self, domain: &Domain) -> bool {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        match rules.get(domain) {
            Some(rule) => *rule == Rule::Allowed,
            None => self.mode() == Mode::Open,
        }
    }

    /// Whether the operator has named a homeserver as one to deal with.
    pub fn is_named(&self, domain: &Domain) -> bool {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.get(domain) == Some(&Rule::Allowed)
    }

    /// Decides about a homeserver, or takes a decision back.
    pub fn set(&self, domain: Domain, rule: Option<Rule>) {
        {
            let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
            match rule {
                Some(rule) => _ = rules.insert(domain, rule),
                None => _ = rules.remove(&domain),
            }
        }
        self.changed.send_replace(());
    }

    /// All decisions.
    pub fn all(&self) -> Vec<(Domain, Rule)> {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.iter().map(|(domain, rule)| (domain.clone(), *rule)).collect()
    }

    /// Told of every decision.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_goes_before_the_mode_and_can_be_taken_back() {
        let (known, other): (Domain, Domain) = ("a.test".parse().unwrap(), "b.test".parse().unwrap());
        for mode in [Mode::Open, Mode::Allowlist] {
            let rules = Rules::new(mode);
            let open = mode == Mode::Open;
            assert_eq!(rules.permits(&known), open);
            let mut watch = rules.watch();
            rules.set(known.clone(), Some(Rule::Blocked));
            assert!(watch.has_changed().unwrap());
            watch.mark_unchanged();
            assert_eq!(rules.check(&known).unwrap_err().status, Status::FederationDenied);
            assert_eq!(rules.permits(&other), open);
            rules.set(known.clone(), Some(Rule::Allowed));
            assert!(rules.permits(&known));
            assert_eq!(rules.all(), [(known.clone(), Rule::Allowed)]);
            rules.set(known.clone(), None);
            assert_eq!((rules.permits(&known), rules.all()), (open, Vec::new()));
        }
    }
}
