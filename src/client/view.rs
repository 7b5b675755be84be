//! What is shown to people: requests, contacts, chats, members and messages, with names.

use std::sync::Arc;

use super::{
    Client,
    connector::Isolation,
    core::Core,
    direct::tidy,
    error::ClientError,
    network::Sender,
    state::{
        chats::{self, ChatKind, ChatState},
        contacts, inbox,
    },
    strangers::MOMENT,
};
use crate::{
    base::{GroupId, Timestamp, UserId},
    crypto::{CryptoError, aead, mls as protocol},
    wire::{
        Encode,
        authentication::GetUserProfile,
        content::{Content, UserProfile},
        label::KeyLabel,
        method::call,
        padding::{MESSAGE_FLOOR, unpad_value},
    },
};

/// A request to connect that waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestView {
    /// Names it, for `accept` and `decline`.
    pub id: String,
    /// Who wants to connect.
    pub from: UserId,
    /// What it calls itself.
    pub name: String,
}

/// A connected user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactView {
    /// Who.
    pub user: UserId,
    /// What it is called.
    pub name: String,
    /// The chat with it.
    pub chat: GroupId,
}

/// A chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatView {
    /// Names it.
    pub chat: GroupId,
    /// What it is for.
    pub kind: ChatKind,
    /// What it is called.
    pub name: String,
    /// Who is in it.
    pub members: Vec<UserId>,
    /// Where it stands.
    pub state: ChatState,
}

/// A member of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Who; none if that could never be verified.
    pub user: Option<UserId>,
    /// What it is called.
    pub name: String,
    /// Whether it may change the group.
    pub admin: bool,
    /// Whether that cannot be verified now: nothing from it is shown, and nothing is sent while it is there.
    pub quarantined: bool,
}

/// A message that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Names it here, for `mark_read`.
    pub id: i64,
    /// Where.
    pub chat: GroupId,
    /// By whom.
    pub from: UserId,
    /// What the sender is called.
    pub name: String,
    /// What.
    pub content: Content,
    /// When it was sent, by the sender's clock.
    pub sent: Timestamp,
}

impl Client {
    /// Requests to connect that wait for an answer.
    ///
    /// # Errors
    /// [`Local::Storage`](super::Local::Storage).
    pub async fn requests(&self) -> Result<Vec<RequestView>, ClientError> {
        let now = self.0.trust.now().seconds();
        let requests = self.0.database.run(move |connection| contacts::requests(connection, now)).await?;
        let view = |(id, offer): (String, crate::wire::connection::ConnectionOfferTbs)| RequestView {
            id,
            from: offer.credential.request.payload.client.user,
            name: tidy(&offer.profile.name.0),
        };
        Ok(requests.into_iter().map(view).collect())
    }

    /// Connected users.
    ///
    /// # Errors
    /// [`Local::Storage`](super::Local::Storage).
    pub async fn contacts(&self) -> Result<Vec<ContactView>, ClientError> {
        let mut views = Vec::new();
        for contact in self.0.database.run(contacts::contacts).await? {
            let user = contact.credential.request.payload.client.user;
            let name = self.0.name(&user).await?;
            views.push(ContactView { user, name, chat: contact.chat });
        }
        Ok(views)
    }

    /// All chats.
    ///
    /// # Errors
    /// [`Local::Storage`](super::Local::Storage).
    pub async fn chats(&self) -> Result<Vec<ChatView>, ClientError> {
        let mut views = Vec::new();
        for chat in self.0.database.run(chats::all_chats).await? {
            let name = match &chat.peer {
                Some(peer) => self.0.name(peer).await?,
                None => chat.name,
            };
            let group = chat.group.clone();
            let members = self.0.database.run(move |connection| chats::members(connection, &group)).await?;
            let members = members.iter().filter_map(|member| member.trusted().cloned()).collect();
            views.push(ChatView { chat: chat.group, kind: chat.kind, name, members, state: chat.state });
        }
        Ok(views)
    }

    /// The members of a chat.
    ///
    /// # Errors
    /// [`Local::NotFound`](super::Local::NotFound) if there is no such chat.
    pub async fn members(&self, chat: &GroupId) -> Result<Vec<MemberView>, ClientError> {
        let group = chat.clone();
        let (members, admins) = self
            .0
            .database
            .run(move |connection| {
                let chat = chats::require(connection, &group)?;
                let state = super::mls::find(&super::mls::Provider::new(connection), &group)?;
                let admins = match state.filter(|_| chat.state.is_live()) {
                    Some(state) => protocol::roles(state.extensions().iter())?.admins,
                    None => Vec::new(),
                };
                Ok::<_, ClientError>((chats::members(connection, &group)?, admins))
            })
            .await?;
        // If no admin is left, every member counts as one.
        let nobody = !members.iter().any(|member| admins.contains(&member.identity));
        let mut views = Vec::new();
        for member in members {
            let admin = nobody || admins.contains(&member.identity);
            let name = match &member.user {
                Some(user) => self.0.name(user).await?,
                None => String::new(),
            };
            views.push(MemberView { quarantined: member.quarantined, user: member.user, name, admin });
        }
        Ok(views)
    }

    /// Messages that have not been read, the oldest first, at most `max`.
    ///
    /// # Errors
    /// [`Local::Storage`](super::Local::Storage).
    pub async fn unread(&self, max: u32) -> Result<Vec<Message>, ClientError> {
        let stored = self.0.database.run(move |connection| inbox::unread(connection, max)).await?;
        let mut messages = Vec::new();
        for message in stored {
            let inbox::Stored { number, chat, sender, content, sent, .. } = message;
            let name = self.0.name(&sender).await?;
            messages.push(Message { id: number, chat, from: sender, name, content, sent });
        }
        Ok(messages)
    }
}

impl Core {
    /// What a user is called: its profile's name, fetched once; else its id.
    async fn name(self: &Arc<Self>, user: &UserId) -> Result<String, ClientError> {
        let account = self.account();
        if *user == account.client.user {
            return Ok(account.name.clone());
        }
        let who = user.clone();
        let (known, keys) = self
            .database
            .run(move |connection| {
                let known = contacts::name(connection, &who)?;
                let contact = contacts::contact(connection, &who)?;
                let mut keys = chats::profile_keys(connection, &who)?;
                keys.extend(contact.map(|contact| contact.friendship.user_profile_key));
                Ok::<_, ClientError>((known, keys))
            })
            .await?;
        if let Some(name) = known {
            return Ok(name);
        }
        if keys.is_empty() {
            return Ok(user.to_string());
        }
        // A name that cannot be had now is asked for again another time.
        let Ok(name) = self.fetch_name(user, &keys).await else { return Ok(user.to_string()) };
        let (who, stored, now) = (user.clone(), name.clone(), self.trust.now().seconds());
        self.database.run(move |connection| contacts::put_name(connection, &who, &stored, now)).await?;
        Ok(name)
    }

    async fn fetch_name(&self, user: &UserId, keys: &[crate::base::Secret]) -> Result<String, ClientError> {
        let request = GetUserProfile { user: user.clone() };
        let (domain, isolation, nobody) = (&user.domain, Isolation::Anonymous, Sender::Nobody);
        let answer =
            self.network.call_within::<call::AsGetUserProfile>(MOMENT, domain, isolation, nobody, &request).await?;
        let open = |key| aead::open(key, KeyLabel::UserProfile, &user.to_vec(), answer.profile.as_slice()).ok();
        let opened = keys.iter().find_map(open).ok_or(CryptoError::Invalid)?;
        Ok(tidy(&unpad_value::<UserProfile>(opened, MESSAGE_FLOOR)?.name.0))
    }

    /// Checks that a chat is a group that this client is in.
    pub(super) async fn require_group(&self, chat: &GroupId) -> Result<(), ClientError> {
        let group = chat.clone();
        let chat = self.database.run(move |connection| chats::require_active(connection, &group)).await?;
        match chat.kind {
            ChatKind::Group => Ok(()),
            ChatKind::Connection => Err(ClientError::invalid("a chat with a contact is between two")),
        }
    }

    /// Checks that users are members of a group that this client is in.
    pub(super) async fn require_members(&self, chat: &GroupId, users: &[UserId]) -> Result<(), ClientError> {
        self.require_group(chat).await?;
        let group = chat.clone();
        let members = self.database.run(move |connection| chats::members(connection, &group)).await?;
        for user in users {
            if !members.iter().any(|member| member.is(user)) {
                return Err(ClientError::not_found(format!("{user} is not a member of this group")));
            }
        }
        Ok(())
    }
}
