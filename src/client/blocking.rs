//! Blocking a user: the homeserver drops what comes from the connection with it, nothing it says elsewhere is shown, its offers
//! and invitations are ignored, and a new friendship token, which every other contact is given, keeps it from fetching
//! KeyPackages. It is not told.

use std::sync::Arc;

use rusqlite::Connection;

use super::{
    Client,
    account::FRIENDSHIP_TOKEN,
    connector::Isolation,
    core::Core,
    error::{ClientError, Local},
    network::Sender,
    outgoing::{forget_commit, lane_of},
    state::{
        blocked,
        chats::{self, ChatKind, ChatState},
        contacts, meta,
        outbox::{self, Chore},
    },
};
use crate::{
    base::{GroupId, Secret, Timestamp, UserId, limits::MAX_BLOCKED_GROUPS},
    crypto::{aead::blocked_group, random_secret, system_rng},
    wire::{
        Encode,
        content::Content,
        method::call,
        queuing::{UpdateBlocklist, UpdateQueuingUser},
    },
};

/// When the current friendship token was made, if it is not the first, in milliseconds.
const TOKEN_MADE: &str = "friendship token made";

/// Where the friendship token is that takes the place of the current one, until the QS has it.
const NEXT_TOKEN: &str = "next friendship token";

impl Client {
    /// Blocks a user, contact or not. The chat with it is silent until it is unblocked; what it says meanwhile is lost.
    ///
    /// # Errors
    /// [`Local::Invalid`] for oneself; [`ClientError::Unreachable`], after which what was not done is done next time.
    pub async fn block(&self, user: &UserId) -> Result<(), ClientError> {
        let core = &self.0;
        if *user == core.account().client.user {
            return Err(ClientError::invalid("you cannot block yourself"));
        }
        // Nothing is on its way in the chat while it falls silent.
        let lane = core.chat_with(user).await?.map(|chat| lane_of(&chat)).unwrap_or_default();
        let turn = core.lane(&lane).await;
        let user = user.clone();
        core.database.run(move |connection| block(connection, &user)).await?;
        drop(turn);
        core.do_chores().await
    }

    /// Unblocks a user: the chat with it goes on from where it is now.
    ///
    /// # Errors
    /// [`Local::NotFound`] for a user that is not blocked; [`ClientError::Unreachable`], after which what was not done is done
    /// next time.
    pub async fn unblock(&self, user: &UserId) -> Result<(), ClientError> {
        let user = user.clone();
        self.0.database.run(move |connection| unblock(connection, &user)).await?;
        self.0.do_chores().await
    }

    /// The users that are blocked.
    ///
    /// # Errors
    /// [`Local::Storage`].
    pub async fn blocked(&self) -> Result<Vec<UserId>, ClientError> {
        self.0.database.run(blocked::all_users).await
    }
}

fn block(connection: &Connection, user: &UserId) -> Result<(), ClientError> {
    if !blocked::insert(connection, user)? {
        return Ok(());
    }
    let with = |chat: &chats::Chat| chat.kind == ChatKind::Connection && chat.peer.as_ref() == Some(user);
    let mut knows_token = contacts::contact(connection, user)?.is_some();
    for chat in chats::all_chats(connection)?.into_iter().filter(with) {
        knows_token |= chat.state.is_live();
        match chat.state {
            ChatState::Active => {
                outbox::clear(connection, &lane_of(&chat.group))?;
                forget_commit(connection, &chat.group)?;
                chats::set_state(connection, &chat.group, ChatState::Blocked)?;
                blocked::insert_group(connection, &chat.group, user)?;
            }
            // An offer to it, which has the token in it.
            ChatState::Waiting | ChatState::Starting => {
                contacts::remove_offer(connection, &chat.group)?;
                chats::set_state(connection, &chat.group, ChatState::Declined)?;
                outbox::add_chore(connection, &Chore::Delete(chat.group))?;
            }
            _ => {}
        }
    }
    contacts::forget_requests_of(connection, user)?;
    outbox::add_chore(connection, &Chore::Blocklist)?;
    if knows_token {
        renew_token(connection)?;
    }
    Ok(())
}

/// Another friendship token is to take the place of the current one.
pub fn renew_token(connection: &Connection) -> Result<(), ClientError> {
    if meta::get::<Secret>(connection, NEXT_TOKEN)?.is_none() {
        meta::put(connection, NEXT_TOKEN, &random_secret(&mut system_rng()))?;
    }
    outbox::add_chore(connection, &Chore::FriendshipToken)
}

/// The QS may not have the current friendship token any more.
pub fn tell_token_again(connection: &Connection) -> Result<(), ClientError> {
    if meta::get::<Secret>(connection, NEXT_TOKEN)?.is_none()
        && let Some(current) = meta::get::<Secret>(connection, FRIENDSHIP_TOKEN)?
    {
        meta::put(connection, NEXT_TOKEN, &current)?;
    }
    outbox::add_chore(connection, &Chore::FriendshipToken)
}

fn unblock(connection: &Connection, user: &UserId) -> Result<(), ClientError> {
    if !blocked::remove(connection, user)? {
        return Err(ClientError::Local(Local::NotFound, format!("{user} is not blocked")));
    }
    outbox::add_chore(connection, &Chore::Blocklist)?;
    for group in blocked::remove_groups(connection, user)? {
        if chats::find(connection, &group)?.is_some_and(|chat| chat.state == ChatState::Blocked) {
            chats::set_state(connection, &group, ChatState::Active)?;
            outbox::add_chore(connection, &Chore::Compare(group.clone()))?;
            outbox::add_chore(connection, &Chore::GiveToken(group))?;
        }
    }
    Ok(())
}

/// Goes on with a new friendship token that was refused.
pub fn resume_token(connection: &Connection) -> Result<(), ClientError> {
    match meta::get::<Secret>(connection, NEXT_TOKEN)? {
        Some(_) => outbox::add_chore(connection, &Chore::FriendshipToken),
        None => Ok(()),
    }
}

/// The QS has this friendship token, which every contact is to be given if it is another than before.
pub fn replace_token(connection: &Connection, token: &Secret, now: Timestamp) -> Result<(), ClientError> {
    if meta::get::<Secret>(connection, FRIENDSHIP_TOKEN)?.as_ref() == Some(token) {
        return meta::remove(connection, NEXT_TOKEN);
    }
    meta::put(connection, FRIENDSHIP_TOKEN, token)?;
    meta::put(connection, TOKEN_MADE, &now.0)?;
    meta::remove(connection, NEXT_TOKEN)?;
    give_token_to_all(connection)
}

/// Somebody is a contact now: if the friendship token in the offer was replaced since, it is given the new one.
pub fn connected(connection: &Connection, chat: &GroupId) -> Result<(), ClientError> {
    let made = meta::get::<u64>(connection, TOKEN_MADE)?;
    if made.is_some_and(|made| chats::created(connection, chat).is_ok_and(|created| created <= made)) {
        return outbox::add_chore(connection, &Chore::GiveToken(chat.clone()));
    }
    Ok(())
}

/// Has every contact given the friendship token.
fn give_token_to_all(connection: &Connection) -> Result<(), ClientError> {
    for contact in contacts::contacts(connection)? {
        if chats::find(connection, &contact.chat)?.is_some_and(|chat| chat.state == ChatState::Active) {
            outbox::add_chore(connection, &Chore::GiveToken(contact.chat))?;
        }
    }
    Ok(())
}

impl Core {
    /// The chat with a user, if it is a contact.
    async fn chat_with(&self, user: &UserId) -> Result<Option<GroupId>, ClientError> {
        let user = user.clone();
        let contact = self.database.run(move |connection| contacts::contact(connection, &user)).await?;
        Ok(contact.map(|contact| contact.chat))
    }

    /// Tells the QS which groups are blocked.
    pub async fn send_blocklist(self: &Arc<Self>) -> Result<(), ClientError> {
        let account = self.account();
        let groups = self.database.run(blocked::all_groups).await?;
        let name = |group: &GroupId| blocked_group(&account.keys.blocklist, &group.to_vec());
        let mut names: Vec<_> = groups.iter().map(name).collect();
        names.truncate(MAX_BLOCKED_GROUPS);
        names.sort_unstable();
        let sender = Sender::Bound(account.queuing_client(), &account.keys.queuing_client);
        let update = UpdateBlocklist { blocked: names };
        let network = &self.network;
        network.call::<call::QsUpdateBlocklist>(self.domain(), Isolation::Pseudonym, sender, &update).await.map(drop)
    }

    /// Has the QS replace the friendship token.
    pub async fn renew_token(self: &Arc<Self>) -> Result<(), ClientError> {
        let Some(token) = self.database.run(|connection| meta::get::<Secret>(connection, NEXT_TOKEN)).await? else {
            return Ok(());
        };
        let account = self.account();
        let user = &account.keys.queuing_user;
        let request = UpdateQueuingUser { auth_key: user.verifying_key(), friendship_token: token.clone() };
        let sender = Sender::Signed(account.queuing_user(), user);
        let network = &self.network;
        network.call::<call::QsUpdateUser>(self.domain(), Isolation::Pseudonym, sender, &request).await?;
        let now = self.trust.now();
        self.database.run(move |connection| replace_token(connection, &token, now)).await?;
        self.reload_account().await
    }

    /// Gives the other side of a connection what a contact has to know of this client.
    pub async fn give_token(self: &Arc<Self>, chat: &GroupId) -> Result<(), ClientError> {
        let of = chat.clone();
        let found = self.database.run(move |connection| chats::find(connection, &of)).await?;
        if found.is_none_or(|chat| chat.state != ChatState::Active) {
            return Ok(());
        }
        let friendship = self.account().keys.friendship.clone();
        self.send(chat, Content::Friendship(friendship)).await.map(drop)
    }
}
