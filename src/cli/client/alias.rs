//! `bennu client alias`.

use clap::Subcommand;
use serde_json::json;

use crate::{
    cli::output::{Failure, Output},
    client::Client,
};

/// What to do with aliases.
#[derive(Subcommand)]
pub enum Alias {
    /// Register an alias, by which others find this user without learning who it is
    Add {
        /// The alias
        name: String,
    },
    /// Delete an alias: anybody may register it then
    Remove {
        /// The alias
        name: String,
    },
    /// List aliases
    List,
}

impl Alias {
    /// Does it.
    ///
    /// # Errors
    /// What the homeserver refused.
    pub async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let domain = client.whoami().0.domain;
        match self {
            Self::Add { name } => {
                let alias = client.register_alias(&name).await?;
                let human = || format!("registered; others find you as {alias}@{domain}");
                output.line(human, || json!({ "alias": alias, "domain": domain.as_str() }))?;
            }
            Self::Remove { name } => {
                client.delete_alias(&name).await?;
                output.line(|| "deleted".into(), || json!({ "alias": name, "deleted": true }))?;
            }
            Self::List => {
                for own in client.aliases().await? {
                    let state = own.state.name();
                    let json = || json!({ "alias": own.alias, "domain": domain.as_str(), "state": state });
                    output.line(|| format!("{}@{domain}  {state}", own.alias), json)?;
                }
            }
        }
        Ok(())
    }
}
