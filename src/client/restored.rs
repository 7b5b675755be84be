//! What a client does about a homeserver that was restored from a backup: what the homeserver has may be older than what this
//! client knows. It is told again what this client had told it, packages and tokens are replaced, and every group is compared
//! with its DS, so that nobody goes on in a state that the others do not have.

use rusqlite::Connection;

use super::{
    account::Account,
    account_changes, blocking,
    error::ClientError,
    event::Event,
    record,
    state::{
        chats::{self, ChatState},
        inbox, meta,
        outbox::{self, Chore},
        queues::Queue,
        tokens,
    },
};
use crate::base::{Domain, GroupId, Timestamp};

/// For how long a homeserver counts as lately restored, in milliseconds: nothing that happened before is on its way any more.
const LATELY: u64 = 30 * 86_400_000;

/// A queue of the own homeserver goes on in another life of its store.
pub fn queue_goes_on(
    connection: &Connection,
    account: &Account,
    queue: Queue,
    now: Timestamp,
) -> Result<Vec<Event>, ClientError> {
    match queue {
        Queue::Client => {
            note_time(connection, account.domain(), now)?;
            compare_all(connection, |_| true)?;
            outbox::add_chore(connection, &Chore::Record)?;
            outbox::add_chore(connection, &Chore::Blocklist)?;
            blocking::tell_token_again(connection)?;
            record::look_again(connection)?;
        }
        Queue::Direct => {
            tokens::forget(connection, Some(account.domain()))?;
            account_changes::tell_name_again(connection, account)?;
        }
        Queue::Alias(_) => {}
    }
    republish(connection, queue)?;
    let text = format!(
        "the homeserver was restored from a backup: what came to the {} queue after the backup and was not fetched is lost",
        queue.name()
    );
    inbox::problem(connection, &text, now)?;
    Ok(vec![Event::Gap(queue), Event::Problem(text)])
}

/// A homeserver was restored, the own one or another: its tokens are void, and its groups may have gone back in time.
pub fn homeserver(connection: &Connection, domain: &Domain, now: Timestamp) -> Result<Vec<Event>, ClientError> {
    note_time(connection, domain, now)?;
    tokens::forget(connection, Some(domain))?;
    compare_all(connection, |group| group.domain == *domain)?;
    let text = format!("{domain} was restored from a backup: its groups are compared with it");
    inbox::problem(connection, &text, now)?;
    Ok(vec![Event::Problem(text)])
}

/// Whether a homeserver was restored not long ago, so that nothing it had forgotten will come.
pub fn was_lately(connection: &Connection, domain: &Domain, now: Timestamp) -> Result<bool, ClientError> {
    let noticed = meta::get::<u64>(connection, &row(domain))?;
    Ok(noticed.is_some_and(|noticed| noticed.saturating_add(LATELY) > now.0))
}

fn note_time(connection: &Connection, domain: &Domain, now: Timestamp) -> Result<(), ClientError> {
    meta::put(connection, &row(domain), &now.0)
}

fn row(domain: &Domain) -> String {
    format!("restored {domain}")
}

/// If commits are among what is missing, they are noticed by comparing.
pub fn compare_all(connection: &Connection, concerns: impl Fn(&GroupId) -> bool) -> Result<(), ClientError> {
    for chat in chats::all_chats(connection)? {
        if chat.state == ChatState::Active && concerns(&chat.group) {
            outbox::add_chore(connection, &Chore::Compare(chat.group))?;
        }
    }
    Ok(())
}

/// What was published with a queue may be of another time than this client's state: it is replaced.
pub fn republish(connection: &Connection, queue: Queue) -> Result<(), ClientError> {
    let chore = match queue {
        Queue::Direct => Chore::ConnectionPackages,
        Queue::Client => Chore::KeyPackages,
        Queue::Alias(id) => Chore::AliasPackages(id),
    };
    outbox::add_chore(connection, &chore)
}
