//! Homeservers that this client hears of from others: by an offer to connect, or a member of a group
//! (`wire-spec/credentials.md`, "Which homeservers a client asks"). Whoever sends something chooses the domain in it, so no
//! stranger may have this client ask wherever and as often as he likes, or wait for a host that does not answer. Such a
//! homeserver is asked as nobody, for a moment, at growing intervals, and few new ones in a day; and what needs its answer is
//! put aside, for others to be taken in meanwhile.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rusqlite::Connection;

use super::{
    core::Core,
    error::{ClientError, Local},
    queue::{Stop, Work},
    state::{
        chats, inbox,
        queues::Queue,
        strangers::{self, Aside},
    },
};
use crate::{
    base::{Domain, GroupId},
    wire::{Decode, Encode, queue::QueueMessage},
};

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
        let (now, old) = (self.trust.now(), self.trust.old(self.domain()));
        let expire = move |connection: &Connection| {
            if strangers::expire_aside(connection, now)? > 0 {
                let text =
                    "an offer to connect was dropped: the homeserver of its sender could not be asked for a month";
                inbox::problem(connection, text, now)?;
            }
            // What was revoked is to be known of members, wherever they are.
            if !old.is_empty() {
                let users = chats::users(connection)?;
                for domain in old.iter().filter(|domain| users.iter().any(|user| user.domain == **domain)) {
                    strangers::want(connection, domain)?;
                }
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

impl Work<'_> {
    /// What cannot be used now is kept if it may be later; a leaf that cannot be verified is not among it, which is in
    /// quarantine until it can.
    pub fn put_aside(&mut self, queue: Queue, content: &Bytes, why: &str) -> Result<(), Stop> {
        let Some(domain) = &self.supplies.later else { return Err(Stop::bad(why)) };
        let group = group_of(content);
        let now = self.trust.now();
        if strangers::put_aside(self.connection, domain, queue, group.as_ref(), content, now)? {
            return Ok(());
        }
        Err(Stop::bad(format!("{why}, and too much waits for that already")))
    }

    /// Takes something in after what came before it in its group, if that waits.
    pub fn in_turn(&mut self, queue: Queue, content: Bytes) -> Result<(), Stop> {
        let content = self.whole(content)?;
        if let Some(group) = group_of(&content)
            && let Some(domain) = strangers::waits_for(self.connection, &group)?
        {
            let now = self.trust.now();
            if strangers::put_aside(self.connection, &domain, queue, Some(&group), &content, now)? {
                return Ok(());
            }
            return Err(Stop::bad("too much of its group waits already"));
        }
        self.handle(queue, content)
    }

    /// A message that is stored apart does not say of which group it is. Where something waits it is fetched first.
    fn whole(&self, content: Bytes) -> Result<Bytes, Stop> {
        if !strangers::is_any_aside(self.connection)? {
            return Ok(content);
        }
        match QueueMessage::from_bytes(content.clone()) {
            Ok(QueueMessage::Shared(shared)) => Ok(QueueMessage::FanOut(self.shared(shared)?).to_vec().into()),
            _ => Ok(content),
        }
    }

    /// Processes what was put aside, unless it has to wait again.
    pub fn take_up(&mut self, aside: &Aside) -> Result<(), Stop> {
        let outcome = match &self.supplies.give_up {
            Some(_) if self.supplies.later.is_some() => return Ok(()),
            Some(why) => Err(Stop::bad(why)),
            None => self.within_savepoint(|work| work.handle(aside.queue, aside.content.clone().into())),
        };
        if !matches!(outcome, Err(Stop::Need(_) | Stop::Failed(_))) {
            strangers::remove_aside(self.connection, aside.number)?;
        }
        match outcome {
            Err(Stop::Bad(why)) => {
                self.events.clear();
                self.problem(format!("an entry of the {} queue that was put aside: {why}", aside.queue.name()))
            }
            outcome => outcome,
        }
    }
}

/// The group that a message is about, unless it is stored apart.
fn group_of(content: &Bytes) -> Option<GroupId> {
    match QueueMessage::from_bytes(content.clone()) {
        Ok(QueueMessage::FanOut(message)) => Some(message.group),
        _ => None,
    }
}
