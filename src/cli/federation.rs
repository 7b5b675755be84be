//! `bennu admin federation`: with whom the homeserver deals, and how it gets on with others.

use clap::Subcommand;
use serde_json::Value;

use super::{
    output::{time, word},
    typed::lower,
};
use crate::node::admin::Command as Ask;

/// What is asked about other homeservers.
#[derive(Subcommand)]
pub enum Federation {
    /// List the decisions about homeservers; the first line is the policy, which holds for all others
    List,
    /// Deal with a homeserver, whatever holds for others
    Allow {
        /// Its home domain
        domain: String,
    },
    /// Deal with a homeserver no more; connections with it end at once, and what waits for it stays
    Block {
        /// Its home domain
        domain: String,
    },
    /// Take a decision about a homeserver back
    Forget {
        /// Its home domain
        domain: String,
    },
    /// List the homeservers that something was sent to: how they are reached, and what waits for them
    Peers,
}

impl Federation {
    /// What to ask the homeserver for.
    pub fn ask(self) -> Ask {
        match self {
            Self::List => Ask::FederationList {},
            Self::Allow { domain } => Ask::FederationAllow { domain: lower(&domain) },
            Self::Block { domain } => Ask::FederationBlock { domain: lower(&domain) },
            Self::Forget { domain } => Ask::FederationForget { domain: lower(&domain) },
            Self::Peers => Ask::FederationPeers {},
        }
    }
}

/// A decision, or how a homeserver is reached, as a person reads it.
pub fn line(found: &Value) -> String {
    if found.get("state").is_none() {
        return match found["domain"].as_str() {
            Some(domain) => format!("{:<8} {domain}", word(found, "rule")),
            None => format!("policy: {}", word(found, "policy")),
        };
    }
    let mut line = format!(
        "{}  {}  {} waiting ({} bytes), {} delivered",
        word(found, "domain"),
        word(found, "state"),
        found["waiting"],
        found["waiting_bytes"],
        found["delivered"],
    );
    if !found["oldest"].is_null() {
        line += &format!(", the oldest since {}", time(found, "oldest"));
    }
    if found["expired"] != 0 {
        line += &format!(", {} dropped", found["expired"]);
    }
    if let Some(why) = found["why"].as_str() {
        let (failures, next) = (&found["failures"], time(found, "next_attempt"));
        line += &format!("\n  {failures} failures in a row, next attempt {next}: {why}");
    }
    line
}
