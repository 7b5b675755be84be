//! Homeservers that this client hears of from others: by an offer to connect, or a member of a group
//! (`wire-spec/credentials.md`, "Which homeservers a client asks"). Whoever sends something chooses the domain in it, so no
//! stranger may have this client ask wherever and as often as he likes, or wait for a host that does not answer. Such a
//! homeserver is asked as nobody, for a moment, at growing intervals, and few new ones in a day; and what needs its answer is
//! put aside, for others to be taken in meanwhile.

use std::{sync::Arc, time::Duration};

use rusqlite::Connection;

use super::{
    core::Core,
    error::{ClientError, Local},
    state::{inbox, strangers},
};
use crate::base::Domain;

/// How long a queue waits for another homeserver.
pub const MOMENT: Duration = Duration::from_secs(5);

impl Core {
    /// Fetches the credentials of a homeserver that a message has named; `false` if they cannot be had now. Then they are
    /// asked for again when it is time.
    pub async fn look_up(&self, domain: &Domain) -> Result<bool, ClientError> {
        let (name, now) = (domain.clone(), self.trust.now());
        if !self.database.run(move |connection| strangers::ask(connection, &name, now)).await? {
            self.trust.excuse(domain);
            return Ok(false);
        }
        let fetched = self.fetch_authority_within(domain, Some(MOMENT)).await;
        match fetched {
            Ok(()) => {
                let name = domain.clone();
                self.database.run(move |connection| strangers::answered(connection, &name)).await?;
                Ok(true)
            }
            Err(error @ ClientError::Local(Local::Storage, _)) => Err(error),
            Err(_) => {
                self.trust.excuse(domain);
                Ok(false)
            }
        }
    }

    /// Asks homeservers again that something waits for, where it is time to.
    pub async fn look_up_again(self: &Arc<Self>) -> Result<(), ClientError> {
        let now = self.trust.now();
        let expire = move |connection: &Connection| {
            if strangers::expire_aside(connection, now)? > 0 {
                let text =
                    "an offer to connect was dropped: the homeserver of its sender could not be asked for a week";
                inbox::problem(connection, text, now)?;
            }
            strangers::wanted(connection)
        };
        for domain in self.database.run(expire).await? {
            if self.look_up(&domain).await? {
                self.take_up(&domain).await?;
            }
        }
        Ok(())
    }

    /// Processes what was put aside until a homeserver would have answered.
    async fn take_up(self: &Arc<Self>, domain: &Domain) -> Result<(), ClientError> {
        let name = domain.clone();
        for aside in self.database.run(move |connection| strangers::aside(connection, &name)).await? {
            self.process(move |work| work.take_up(&aside)).await?;
        }
        Ok(())
    }
}
